//! The contents of `bytes` objects, and `bytes` of several parts.

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

/// A `bytes` object of all the parts, one after the other.
pub(crate) fn concat<'py>(
    py: Python<'py>,
    parts: &[impl std::ops::Deref<Target = [u8]>],
) -> PyResult<Bound<'py, PyBytes>> {
    let length: usize = parts.iter().map(|part| part.len()).sum();
    // SAFETY: a new object of `length` bytes, which nobody else has seen yet, is filled to its end: the parts lie one behind the
    // other, and `length` is their sum.
    unsafe {
        let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), length.cast_signed());
        let object = Bound::from_owned_ptr_or_err(py, object)?;
        let mut place = ffi::PyBytes_AS_STRING(object.as_ptr()).cast::<u8>().cast_mut();
        for part in parts {
            std::ptr::copy_nonoverlapping(part.as_ptr(), place, part.len());
            place = place.add(part.len());
        }
        Ok(object.cast_into_unchecked())
    }
}
