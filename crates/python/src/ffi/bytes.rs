//! The contents of `bytes` objects, and `bytes` that are made in place.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

unsafe extern "C" {
    /// <https://docs.python.org/3/c-api/bytes.html#c._PyBytes_Resize>, which PyO3 leaves out.
    pub(super) fn _PyBytes_Resize(object: *mut *mut ffi::PyObject, length: ffi::Py_ssize_t) -> c_int;
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

/// A `bytes` object of what `fill` has put into the beginning of its memory, which is of `capacity` bytes, above 0.
pub(crate) fn filled(
    py: Python<'_>,
    capacity: usize,
    fill: impl for<'a> FnOnce(&'a mut [MaybeUninit<u8>]) -> io::Result<&'a mut [u8]>,
) -> io::Result<Bound<'_, PyBytes>> {
    // SAFETY: a new object of `capacity` bytes, which nobody else has seen yet, lent out as memory that is not initialized. What
    // comes back as initialized is its beginning, and the object is made as long as that while there is one reference to it, which
    // resizing consumes.
    unsafe {
        let mut object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), capacity.cast_signed());
        if object.is_null() {
            return Err(out_of_memory(py));
        }
        let memory = ffi::PyBytes_AS_STRING(object).cast::<MaybeUninit<u8>>().cast_mut();
        let filled = fill(std::slice::from_raw_parts_mut(memory, capacity)).map(|filled| {
            assert!(
                filled.as_ptr() == memory.cast() && filled.len() <= capacity,
                "the memory that was given"
            );
            filled.len()
        });
        match filled {
            Ok(count) => {
                if count < capacity && _PyBytes_Resize(&raw mut object, count.cast_signed()) < 0 {
                    return Err(out_of_memory(py));
                }
                Ok(Bound::from_owned_ptr(py, object).cast_into_unchecked())
            }
            Err(error) => {
                ffi::Py_DECREF(object);
                Err(error)
            }
        }
    }
}

/// The error in the place of the `MemoryError` that CPython has set.
#[cold]
fn out_of_memory(py: Python<'_>) -> io::Error {
    drop(PyErr::take(py));
    io::ErrorKind::OutOfMemory.into()
}
