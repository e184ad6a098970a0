//! The marks between which a transport tells its protocol to pause and to resume writing.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::ffi::arguments::Arguments;

/// Flow control starts when more bytes than this wait to be sent, in bytes, as in asyncio (`FLOW_CONTROL_HIGH_WATER`).
pub(crate) const HIGH_WATER: usize = 64 * 1024;

/// The high-water and the low-water mark, in bytes, that follow from the arguments of `set_write_buffer_limits(high=None,
/// low=None)` (`_FlowControlMixin._set_write_buffer_limits` in CPython's `asyncio/transports.py`).
///
/// Raises `ValueError` for a mark below 0 and for a low one above the high one.
pub(crate) fn from_arguments(arguments: Arguments<'_, '_>) -> PyResult<(usize, usize)> {
    let given = arguments.take("set_write_buffer_limits", ["high", "low"], 0)?;
    let [high, low] =
        given.map(|limit| limit.filter(|limit| !limit.is_none()).map(|limit| limit.extract::<i64>()));
    let (high, low) = (high.transpose()?, low.transpose()?);
    let high =
        high.unwrap_or_else(|| low.map_or(HIGH_WATER.cast_signed() as i64, |low| low.saturating_mul(4)));
    let low = low.unwrap_or(high.div_euclid(4));
    usize::try_from(high)
        .ok()
        .zip(usize::try_from(low).ok())
        .filter(|(high, low)| high >= low)
        .ok_or_else(|| PyValueError::new_err(format!("high ({high}) must be >= low ({low}) must be >= 0")))
}
