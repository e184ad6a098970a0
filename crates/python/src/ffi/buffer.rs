//! The memory behind objects that support the buffer protocol, as plain bytes.
//!
//! PyO3's `PyBuffer` asks for items of one type; here any contiguous memory is bytes, as for `socket.recv_into`.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// A buffer that can be written to, held until dropped.
pub(crate) struct WritableBuffer(View);

/// A buffer that is only read, held until dropped.
pub(crate) struct ReadableBuffer(View);

/// A held buffer. In a box, since exporters may rely on where it is.
struct View(Box<ffi::Py_buffer>);

impl View {
    fn of(object: &Bound<'_, PyAny>, flags: std::ffi::c_int) -> PyResult<Self> {
        let mut view = Box::new(ffi::Py_buffer::new());
        // SAFETY: the thread is attached; the view is filled, or an exception is set.
        if unsafe { ffi::PyObject_GetBuffer(object.as_ptr(), &raw mut *view, flags) } < 0 {
            return Err(PyErr::fetch(object.py()));
        }
        Ok(Self(view))
    }

    fn length(&self) -> usize {
        self.0.len.cast_unsigned()
    }
}

impl Drop for View {
    fn drop(&mut self) {
        Python::attach(|_py| {
            // SAFETY: filled by PyObject_GetBuffer, released once, with the thread attached.
            unsafe { ffi::PyBuffer_Release(&raw mut *self.0) }
        });
    }
}

impl WritableBuffer {
    /// The memory behind `object`. Raises `BufferError` if it cannot be written to or is not contiguous, `TypeError` if there is
    /// none.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        View::of(object, ffi::PyBUF_WRITABLE).map(Self)
    }

    /// How many bytes there are.
    pub(crate) fn length(&self) -> usize {
        self.0.length()
    }

    /// The memory, for whoever fills it without Rust looking on, and how many bytes it is. It stays for as long as `self` lives.
    pub(super) fn memory(&mut self) -> (*mut u8, usize) {
        (self.0.0.buf.cast(), self.0.length())
    }

    /// The bytes.
    pub(crate) fn bytes<'a>(&'a mut self, _py: Python<'a>) -> &'a mut [u8] {
        if self.0.length() == 0 {
            return &mut [];
        }
        // SAFETY: contiguous writable memory of that length, held for as long as `self` lives. No Python code runs while the slice
        // lives; what other threads do to it at the same time, on builds without a GIL, is what they do to `recv_into`'s.
        unsafe { std::slice::from_raw_parts_mut(self.0.0.buf.cast::<u8>(), self.0.length()) }
    }
}

impl ReadableBuffer {
    /// The memory behind `object`. Raises `BufferError` if it is not contiguous, `TypeError` if there is none.
    pub(crate) fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        View::of(object, ffi::PyBUF_SIMPLE).map(Self)
    }

    /// The bytes.
    pub(crate) fn bytes<'a>(&'a self, _py: Python<'a>) -> &'a [u8] {
        if self.0.length() == 0 {
            return &[];
        }
        // SAFETY: contiguous memory of that length, held for as long as `self` lives. No Python code runs while the slice lives; what
        // other threads do to it at the same time, on builds without a GIL, is what they do to `send`'s.
        unsafe { std::slice::from_raw_parts(self.0.0.buf.cast::<u8>(), self.0.length()) }
    }
}

/// A copy of the bytes behind `object`, or `object` itself if it is `bytes` and so cannot change. Raises as
/// [`WritableBuffer::of`] does, but for memory that is read-only.
pub(crate) fn snapshot<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if let Ok(bytes) = object.cast_exact::<PyBytes>() {
        return Ok(bytes.clone());
    }
    // SAFETY: the thread is attached; CPython copies what supports the buffer protocol, contiguous or not.
    unsafe {
        let bytes = ffi::PyBytes_FromObject(object.as_ptr());
        Ok(Bound::from_owned_ptr_or_err(object.py(), bytes)?.cast_into_unchecked())
    }
}

/// `view[start:]` of a sequence that is sliced like a `memoryview`. (PyO3's `PySlice::new` never lets go of the numbers it makes.)
pub(crate) fn rest<'py>(view: &Bound<'py, PyAny>, start: usize) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the thread is attached; the result is a new reference or NULL with an exception set.
    unsafe {
        let rest = ffi::PySequence_GetSlice(view.as_ptr(), start.cast_signed(), ffi::Py_ssize_t::MAX);
        Bound::from_owned_ptr_or_err(view.py(), rest)
    }
}
