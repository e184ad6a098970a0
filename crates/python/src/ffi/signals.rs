//! Signals, which CPython catches, and runs the handlers of when it comes to it.

use std::os::fd::RawFd;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::call::check;
use super::imports::Import;

/// Runs the Python handlers of signals that have arrived; the exception of one that raised (`KeyboardInterrupt`).
#[inline]
pub(crate) fn check_signals(py: Python<'_>) -> PyResult<()> {
    // SAFETY: the thread is attached.
    check(py, unsafe { ffi::PyErr_CheckSignals() })
}

/// Has a byte written to `fd` (non-blocking; -1: nothing) for each signal that is caught from now on, instead of to the descriptor that is
/// returned: `signal.set_wakeup_fd()`, without a warning where the descriptor takes no more. (The function of C is not there for
/// extensions before Python 3.13.)
///
/// Raises `ValueError` if `fd` is closed, and in another thread than the main thread.
pub(crate) fn set_wakeup_fd(py: Python<'_>, fd: RawFd) -> PyResult<RawFd> {
    // Not as an attribute of `signal`, which a program may replace.
    static SET_WAKEUP_FD: Import = Import::new("_signal", "set_wakeup_fd");
    let keywords = PyDict::new(py);
    keywords.set_item("warn_on_full_buffer", false)?;
    SET_WAKEUP_FD.get(py)?.call((fd,), Some(&keywords))?.extract()
}
