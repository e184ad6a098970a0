//! The contents of `bytes` objects without a token.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// The contents of a `bytes` object. They never change, so no token is needed to look at them.
pub(crate) fn contents(bytes: &Py<PyBytes>) -> &[u8] {
    // SAFETY: a live `bytes` object; its size and place are fixed from its making on.
    unsafe {
        let length = ffi::Py_SIZE(bytes.as_ptr()).cast_unsigned();
        std::slice::from_raw_parts(ffi::PyBytes_AS_STRING(bytes.as_ptr()).cast::<u8>(), length)
    }
}
