//! Errors of the system as Python's exceptions.

use std::io;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

/// The `OSError` of a system call that failed. Its class is the one that Python gives the error number
/// (`ConnectionResetError`, `PermissionError`, …), its message the C library's.
pub(crate) fn os_error(py: Python<'_>, error: &io::Error) -> PyErr {
    let Some(number) = error.raw_os_error() else { return PyOSError::new_err(error.to_string()) };
    let message = py.import("os").and_then(|os| os.call_method1("strerror", (number,)));
    match message {
        Ok(message) => PyOSError::new_err((number, message.unbind())),
        Err(error) => error,
    }
}
