//! Flow control: from how much unsent on a protocol is paused, and down to how much it is resumed.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::ffi::arguments::Arguments;

/// Flow control starts when this many bytes wait to be sent, in bytes, as in asyncio (`FLOW_CONTROL_HIGH_WATER`).
pub(crate) const HIGH_WATER: usize = 64 * 1024;

/// The marks of a transport, in bytes.
#[derive(Clone, Copy)]
pub(crate) struct Marks {
    pub(crate) high: usize,
    pub(crate) low: usize,
}

impl Default for Marks {
    fn default() -> Self {
        Self { high: HIGH_WATER, low: HIGH_WATER / 4 }
    }
}

impl Marks {
    /// The marks that follow from what `set_write_buffer_limits()` was given (`_FlowControlMixin._set_write_buffer_limits` in
    /// CPython's `asyncio/transports.py`). Raises `ValueError` for a mark below 0 and for a low one above the high one.
    pub(crate) fn of(arguments: Arguments<'_, '_>) -> PyResult<Self> {
        let given = arguments.take("set_write_buffer_limits", ["high", "low"], 0)?;
        let [high, low] =
            given.map(|limit| limit.filter(|limit| !limit.is_none()).map(|limit| limit.extract::<i64>()));
        let (high, low) = (high.transpose()?, low.transpose()?);
        let high =
            high.unwrap_or_else(|| low.map_or(HIGH_WATER.cast_signed() as i64, |low| low.saturating_mul(4)));
        let low = low.unwrap_or(high.div_euclid(4));
        let marks =
            usize::try_from(high).ok().zip(usize::try_from(low).ok()).filter(|(high, low)| high >= low);
        let Some((high, low)) = marks else {
            return Err(PyValueError::new_err(format!("high ({high}) must be >= low ({low}) must be >= 0")));
        };
        Ok(Self { high, low })
    }
}
