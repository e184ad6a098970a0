//! The transport below.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::ffi::call::call_method;
use crate::ffi::class::Object;
use crate::transport::stream::Stream;

/// The transport that carries the encrypted bytes.
pub(super) enum Lower {
    /// One of ours, which is called without Python in between where that is often.
    Stream(Object<Stream>),
    /// Any other: another TLS transport (TLS in TLS), or whatever says that it is compatible (`_start_tls_compatible`).
    Other(Py<PyAny>),
}

impl Lower {
    pub(super) fn new(transport: &Bound<'_, PyAny>) -> Self {
        match Object::from_any(transport) {
            Some(stream) => Self::Stream(stream),
            None => Self::Other(transport.clone().unbind()),
        }
    }

    pub(super) fn object(&self) -> &Py<PyAny> {
        match self {
            Self::Stream(stream) => stream.as_py(),
            Self::Other(transport) => transport,
        }
    }

    pub(super) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Stream(stream) => Self::Stream(stream.clone_ref(py)),
            Self::Other(transport) => Self::Other(transport.clone_ref(py)),
        }
    }

    /// Sends bytes.
    pub(super) fn write(&self, py: Python<'_>, data: Bound<'_, PyBytes>) -> PyResult<()> {
        match self {
            Self::Stream(stream) => Stream::write_bytes(stream, py, data),
            Self::Other(transport) => {
                call_method(transport.bind(py), intern!(py, "write"), [data.as_any()]).map(drop)
            }
        }
    }

    pub(super) fn pause_reading(&self, py: Python<'_>) -> PyResult<()> {
        call_method(self.object().bind(py), intern!(py, "pause_reading"), []).map(drop)
    }

    pub(super) fn resume_reading(&self, py: Python<'_>) -> PyResult<()> {
        call_method(self.object().bind(py), intern!(py, "resume_reading"), []).map(drop)
    }

    pub(super) fn close(&self, py: Python<'_>) -> PyResult<()> {
        call_method(self.object().bind(py), intern!(py, "close"), []).map(drop)
    }

    pub(super) fn is_closing(&self, py: Python<'_>) -> PyResult<bool> {
        match self {
            Self::Stream(stream) => Ok(stream.get().is_closing(py)),
            Self::Other(transport) => {
                call_method(transport.bind(py), intern!(py, "is_closing"), [])?.is_truthy()
            }
        }
    }

    /// Drops what is not sent and loses the connection, with the exception for `connection_lost()`. What has no `_force_close()`, the
    /// private method of asyncio's own transports, is aborted.
    pub(super) fn force_close(&self, py: Python<'_>, exception: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
        let transport = self.object().bind(py);
        if let Some(force_close) = transport.getattr_opt(intern!(py, "_force_close"))? {
            return force_close.call1((exception,)).map(drop);
        }
        call_method(transport, intern!(py, "abort"), []).map(drop)
    }
}
