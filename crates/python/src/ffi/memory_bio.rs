//! CPython's `ssl.MemoryBIO`: the memory that OpenSSL reads what the peer has sent from, and writes what goes to the peer to.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::call::call_method;
use super::imports::Import;

/// An `ssl.MemoryBIO` of our own. Its class is C's, cannot be subclassed into what it is not, and is made here; so its methods are
/// known to do what CPython's source says (`Modules/_ssl.c`).
pub(crate) struct MemoryBio(Py<PyAny>);

impl MemoryBio {
    /// An empty one.
    pub(crate) fn new(py: Python<'_>) -> PyResult<Self> {
        // From the C module, where nobody replaces it.
        static CLASS: Import = Import::new("_ssl", "MemoryBIO");
        Ok(Self(CLASS.get(py)?.call0()?.unbind()))
    }

    /// The Python object.
    pub(crate) fn object(&self) -> &Py<PyAny> {
        &self.0
    }

    /// How many bytes there are to be read.
    #[inline]
    pub(crate) fn pending(&self, py: Python<'_>) -> PyResult<usize> {
        self.0.bind(py).getattr(intern!(py, "pending"))?.extract()
    }

    /// Appends `bytes`, which are copied once. Raises `ssl.SSLError` or `MemoryError` if that cannot be done.
    pub(crate) fn write(&self, py: Python<'_>, bytes: &[u8]) -> PyResult<()> {
        if bytes.is_empty() {
            return Ok(());
        }
        // SAFETY: a view of memory that is readable and does not move during this call. The view does not outlive it: the one
        // who is given it is `MemoryBIO.write`, which asks for its buffer, copies, and lets go (`_ssl_MemoryBIO_write_impl`), and no
        // Python code runs in between that could find it.
        let view = unsafe {
            let memory = bytes.as_ptr().cast_mut().cast();
            const READ: c_int = ffi::PyBUF_READ;
            let view = ffi::PyMemoryView_FromMemory(memory, bytes.len().cast_signed(), READ);
            Bound::from_owned_ptr_or_err(py, view)?
        };
        let mut written = 0;
        while written < bytes.len() {
            // It takes all, but for more than a C int can count.
            written += if written == 0 {
                call_method(self.0.bind(py), intern!(py, "write"), [&view])?
            } else {
                let rest = PyBytes::new(py, &bytes[written..]);
                call_method(self.0.bind(py), intern!(py, "write"), [rest.as_any()])?
            }
            .extract::<usize>()?;
        }
        Ok(())
    }

    /// Takes out all there is.
    pub(crate) fn read<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        Ok(call_method(self.0.bind(py), intern!(py, "read"), [])?.cast_into::<PyBytes>()?)
    }
}
