//! `bytes` as the memory of file operations: read into, or written.

use std::ptr::NonNull;

use pyo3::exceptions::PyOverflowError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use whilst_engine::driver::Memory;

use super::bytes::{_PyBytes_Resize, contents};

/// A `bytes` object that is being filled, by the kernel, and that nobody else has seen yet.
pub(crate) struct Unfinished(Py<PyBytes>);

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

// SAFETY: the object is kept alive, does not move, and nobody else has it: its bytes are the kernel's to write. Of no bytes it is
// shared, and nothing is written.
unsafe impl Memory for Unfinished {
    fn span(&mut self) -> (NonNull<u8>, usize) {
        span(&self.0)
    }
}

/// A `bytes` object that is being written to a file.
pub(crate) struct Finished(pub(crate) Py<PyBytes>);

// SAFETY: the object is kept alive, does not move, and never changes.
unsafe impl Memory for Finished {
    fn span(&mut self) -> (NonNull<u8>, usize) {
        span(&self.0)
    }
}

fn span(bytes: &Py<PyBytes>) -> (NonNull<u8>, usize) {
    // SAFETY: a live `bytes` object; its size and place are fixed from its making on.
    unsafe {
        let address = ffi::PyBytes_AS_STRING(bytes.as_ptr()).cast::<u8>().cast_mut();
        (NonNull::new(address).expect("it lies in the object"), ffi::Py_SIZE(bytes.as_ptr()).cast_unsigned())
    }
}
