//! `bytes` as the memory of file operations: read into, or written.

use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use whilst_engine::driver::Memory;

use super::bytes::Unfinished;

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
