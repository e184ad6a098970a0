//! Python's end of a connection: an `ssl.SSLObject`.
//!
//! The object is whatever the context's `wrap_bio()` returns, so a subclass of `ssl.SSLContext` or of `ssl.SSLObject`
//! (`sslobject_class`) has its say. If it is an `ssl.SSLObject` and no subclass, whose methods do nothing but call the C object of
//! the same interface behind it (`_sslobj`), that one is called without the detour.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};

use super::engine::Progress;
use crate::ffi::call::call_method;
use crate::ffi::class::Visitor;
use crate::ffi::imports::Import;
use crate::ffi::memory_bio::MemoryBio;

pub(super) struct SslObject {
    object: Py<PyAny>,
    /// The C object behind it, if nothing would be missed by calling that one.
    behind: Option<Py<PyAny>>,
}

impl SslObject {
    /// One end of a connection under `context`, an `ssl.SSLContext`, that reads `incoming` and writes `outgoing`.
    pub(super) fn new(
        context: &Bound<'_, PyAny>,
        incoming: &MemoryBio,
        outgoing: &MemoryBio,
        server_side: bool,
        server_hostname: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        static SSL_OBJECT: Import = Import::new("ssl", "SSLObject");
        let py = context.py();
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "server_side"), server_side)?;
        keywords.set_item(intern!(py, "server_hostname"), server_hostname)?;
        let object = context.call_method(
            intern!(py, "wrap_bio"),
            (incoming.object(), outgoing.object()),
            Some(&keywords),
        )?;
        let behind = if object.get_type().is(SSL_OBJECT.get(py)?) {
            object.getattr(intern!(py, "_sslobj")).ok().map(Bound::unbind)
        } else {
            None
        };
        Ok(Self { object: object.unbind(), behind })
    }

    pub(super) fn bind<'py>(&self, py: Python<'py>) -> &Bound<'py, PyAny> {
        self.object.bind(py)
    }

    /// The C object, unless the Python object is of somebody else's class.
    pub(super) fn behind<'py>(&self, py: Python<'py>) -> Option<&Bound<'py, PyAny>> {
        self.behind.as_ref().map(|behind| behind.bind(py))
    }

    /// Calls a method that both objects have. `None`: it needs more from the peer.
    pub(super) fn call<'py, const N: usize>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyString>,
        arguments: [&Bound<'py, PyAny>; N],
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        let target = self.behind(py).unwrap_or_else(|| self.bind(py));
        match call_method(target, name, arguments) {
            Ok(result) => Ok(Some(result)),
            Err(error) if is_again(py, &error)? => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Goes on with the handshake.
    pub(super) fn handshake(&self, py: Python<'_>) -> PyResult<Progress> {
        Ok(progress(self.call(py, intern!(py, "do_handshake"), [])?))
    }

    /// Says `close_notify` and waits for the peer's.
    pub(super) fn shut_down(&self, py: Python<'_>) -> PyResult<Progress> {
        let name = if self.behind.is_some() { intern!(py, "shutdown") } else { intern!(py, "unwrap") };
        Ok(progress(self.call(py, name, [])?))
    }

    pub(super) fn traverse(&self, visitor: &mut Visitor) {
        visitor.visit(&self.object);
        visitor.visit_option(self.behind.as_ref());
    }
}

fn progress<T>(result: Option<T>) -> Progress {
    if result.is_some() { Progress::Done } else { Progress::Again }
}

/// True if the exception only says that more is wanted from the peer (`SSLAgainErrors` in CPython's `asyncio/sslproto.py`).
fn is_again(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    static WANT_READ: Import = Import::new("ssl", "SSLWantReadError");
    static SYSTEM_CALL: Import = Import::new("ssl", "SSLSyscallError");
    Ok(error.is_instance(py, WANT_READ.get(py)?) || error.is_instance(py, SYSTEM_CALL.get(py)?))
}
