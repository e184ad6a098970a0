//! The contents of `bytes` objects, and `bytes` that are made in place.

use std::io;
use std::mem::MaybeUninit;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

unsafe extern "C" {
    /// <https://docs.python.org/3/c-api/bytes.html#c._PyBytes_Resize>, which PyO3 leaves out.
    fn _PyBytes_Resize(bytes: *mut *mut ffi::PyObject, size: ffi::Py_ssize_t) -> std::ffi::c_int;
}

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

/// A `bytes` object of what `fill` puts into memory of `most` bytes: it says how many, from the first on. For much at a time,
/// which would take long to copy; what is left over is given back.
///
/// Raises `MemoryError`; the inner error is `fill`'s.
pub(crate) fn filled<'py>(
    py: Python<'py>,
    most: usize,
    fill: impl FnOnce(&mut [MaybeUninit<u8>]) -> io::Result<usize>,
) -> PyResult<io::Result<Bound<'py, PyBytes>>> {
    // SAFETY: a new object of `most` bytes, which nobody else has seen yet. `fill` vouches for the first `count` of them and the
    // others are cut off (or, where they are all, never looked at); resizing takes the reference and gives back one or none.
    unsafe {
        let mut object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), most.cast_signed());
        if object.is_null() {
            return Err(PyErr::fetch(py));
        }
        let place = ffi::PyBytes_AS_STRING(object).cast::<MaybeUninit<u8>>().cast_mut();
        match fill(std::slice::from_raw_parts_mut(place, most)) {
            Ok(count) if count < most => {
                if _PyBytes_Resize(&raw mut object, count.cast_signed()) < 0 {
                    return Err(PyErr::fetch(py));
                }
            }
            Ok(_all) => {}
            Err(error) => {
                ffi::Py_DECREF(object);
                return Ok(Err(error));
            }
        }
        Ok(Ok(Bound::from_owned_ptr(py, object).cast_into_unchecked()))
    }
}
