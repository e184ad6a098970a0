//! The contents of `bytes` objects, and `bytes` that are made in place.

use std::ffi::c_int;
use std::io;
use std::mem::MaybeUninit;

use pyo3::exceptions::PyOverflowError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes};

unsafe extern "C" {
    /// <https://docs.python.org/3/c-api/bytes.html#c._PyBytes_Resize>, which PyO3 leaves out.
    fn _PyBytes_Resize(object: *mut *mut ffi::PyObject, length: ffi::Py_ssize_t) -> c_int;
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

/// Appends all the parts to a `bytearray`, as its `extend()` does. Raises `BufferError` if somebody looks at its memory.
#[inline]
pub(crate) fn append(
    object: &Bound<'_, PyByteArray>,
    parts: &[impl std::ops::Deref<Target = [u8]>],
) -> PyResult<()> {
    let length = object.len();
    let whole = parts.iter().fold(length, |sum, part| sum + part.len());
    object.resize(whole)?;
    // SAFETY: the object has `whole` bytes since just now, and no Python code runs until the new ones are filled.
    unsafe {
        let mut place = object.data().add(length);
        for part in parts {
            std::ptr::copy_nonoverlapping(part.as_ptr(), place, part.len());
            place = place.add(part.len());
        }
    }
    Ok(())
}

/// A `bytes` object that is being filled and that nobody else has seen yet.
pub(crate) struct Unfinished(pub(super) Py<PyBytes>);

impl Unfinished {
    /// One with room for `length` bytes.
    pub(crate) fn new(py: Python<'_>, length: usize) -> PyResult<Self> {
        let length = isize::try_from(length)
            .map_err(|_| PyOverflowError::new_err("cannot fit 'int' into an index-sized integer"))?;
        // SAFETY: the thread is attached; a new object whose contents are not looked at before they are written, or NULL with an
        // exception set.
        unsafe {
            let object = ffi::PyBytes_FromStringAndSize(std::ptr::null(), length);
            Ok(Self(Bound::from_owned_ptr_or_err(py, object)?.cast_into_unchecked().unbind()))
        }
    }

    /// The memory to be filled, and how many bytes it is. It is the object's for as long as that is unfinished.
    pub(super) fn memory(&mut self) -> (*mut u8, usize) {
        // SAFETY: a live `bytes` object.
        let memory = unsafe { ffi::PyBytes_AS_STRING(self.0.as_ptr()) };
        (memory.cast::<u8>().cast_mut(), contents(&self.0).len())
    }

    /// The object, of the first `length` bytes, which were filled.
    pub(crate) fn finish(self, py: Python<'_>, length: usize) -> PyResult<Bound<'_, PyBytes>> {
        let room = contents(&self.0).len();
        assert!(length <= room, "the kernel fills no more than there is");
        if length == room {
            return Ok(self.0.into_bound(py));
        }
        let mut object = self.0.into_ptr();
        // SAFETY: the only reference to the object, which nobody has seen; on failure it is NULL, and an exception set.
        unsafe {
            _PyBytes_Resize(&raw mut object, length.cast_signed());
            Ok(Bound::from_owned_ptr_or_err(py, object)?.cast_into_unchecked())
        }
    }
}

/// A `bytes` object of what `fill` has put into the beginning of its memory, which is of `capacity` bytes, above 0.
pub(crate) fn filled(
    py: Python<'_>,
    capacity: usize,
    fill: impl for<'a> FnOnce(&'a mut [MaybeUninit<u8>]) -> io::Result<&'a mut [u8]>,
) -> io::Result<Bound<'_, PyBytes>> {
    let object = Unfinished::new(py, capacity).map_err(out_of_memory)?;
    // SAFETY: the bytes of an object that nobody else has seen, lent out as memory that is not initialized.
    let count = unsafe {
        let memory = ffi::PyBytes_AS_STRING(object.0.as_ptr()).cast::<MaybeUninit<u8>>().cast_mut();
        let filled = fill(std::slice::from_raw_parts_mut(memory, capacity))?;
        assert!(filled.as_ptr() == memory.cast() && filled.len() <= capacity, "the memory that was given");
        filled.len()
    };
    object.finish(py, count).map_err(out_of_memory)
}

/// The error in the place of the exception for want of memory.
#[cold]
fn out_of_memory(_error: PyErr) -> io::Error {
    io::ErrorKind::OutOfMemory.into()
}
