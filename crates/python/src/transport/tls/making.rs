//! How TLS connections are made: of a socket, over a transport that there is, and for a server.

use std::sync::Arc;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::engine::Engine;
use super::libssl::{LibsslEngine, Made};
use super::memory_bio::MemoryBioEngine;
use super::ssl_object::SslObject;
use super::{Backlog, INCOMING_KIB, OUTGOING_KIB, Phase, State, Tls, TlsTransport, Told, Waiter, marks};
use crate::event_loop::LoopCore;
use crate::event_loop::metrics::Open;
use crate::ffi::call::in_given_context;
use crate::ffi::class::{Attributes, Object};
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::{Import, LateImport};
use crate::ffi::memory_bio::MemoryBio;
use crate::transport::kind::TransportKind;
use crate::transport::stream::{Descriptor, Stream, is_buffered};

/// How a server of TLS meets its connections.
pub(crate) struct Server {
    pub(crate) context: Py<PyAny>,
    pub(crate) handshake_timeout: Option<Py<PyAny>>,
    pub(crate) shutdown_timeout: Option<Py<PyAny>>,
}

impl Server {
    /// The protocol between the socket of an accepted connection and the program's protocol.
    pub(crate) fn wrap(&self, event_loop: &Bound<'_, LoopCore>, protocol: Py<PyAny>) -> PyResult<Py<PyAny>> {
        let py = event_loop.py();
        let end = End {
            context: self.context.clone_ref(py),
            server_side: true,
            server_hostname: None,
            handshake_timeout: self.handshake_timeout.as_ref().map(|it| it.clone_ref(py)),
            shutdown_timeout: self.shutdown_timeout.as_ref().map(|it| it.clone_ref(py)),
        };
        Tls::new(event_loop, end, protocol, Waiter::Server, true).map(Object::into_any)
    }
}

/// What a program says about its end of a connection.
struct End {
    /// An `ssl.SSLContext`.
    context: Py<PyAny>,
    server_side: bool,
    server_hostname: Option<Py<PyAny>>,
    /// In seconds; `None`: CPython's default.
    handshake_timeout: Option<Py<PyAny>>,
    shutdown_timeout: Option<Py<PyAny>>,
}

impl Tls {
    /// One end of a connection that is not begun: [`Tls::start_handshake`] begins it. `tell_connected`: the program's protocol is to be
    /// told when the handshake is done; it knows otherwise (`start_tls`).
    ///
    /// Raises `ValueError` for a limit of time that is not positive, and what the context's `wrap_bio()` raises.
    fn new(
        event_loop: &Bound<'_, LoopCore>,
        end: End,
        protocol: Py<PyAny>,
        waiter: Waiter,
        tell_connected: bool,
    ) -> PyResult<Object<Self>> {
        static HANDSHAKE: LateImport = LateImport::new("asyncio.constants", "SSL_HANDSHAKE_TIMEOUT");
        static SHUTDOWN: LateImport = LateImport::new("asyncio.constants", "SSL_SHUTDOWN_TIMEOUT");
        static DEFAULT_CONTEXT: Import = Import::new("asyncio.sslproto", "_create_transport_context");
        let py = event_loop.py();
        let handshake_timeout = timeout(py, end.handshake_timeout, "ssl_handshake_timeout", &HANDSHAKE)?;
        let shutdown_timeout = timeout(py, end.shutdown_timeout, "ssl_shutdown_timeout", &SHUTDOWN)?;
        let hostname = end.server_hostname.map(|hostname| hostname.into_bound(py));
        let context = end.context.into_bound(py);
        let context = if context.is_truthy()? {
            context
        } else {
            // `ssl=True` of a client.
            DEFAULT_CONTEXT.get(py)?.call1((end.server_side, &hostname))?
        };
        // A server's is not looked at, nor an empty one.
        let hostname = match hostname {
            Some(hostname) if !end.server_side && hostname.is_truthy()? => Some(hostname),
            _ => None,
        };
        let extra = PyDict::new(py);
        extra.set_item(intern!(py, "sslcontext"), &context)?;
        let engine = make_engine(&context, end.server_side, hostname.as_ref())?;
        let buffered = is_buffered(protocol.bind(py))?;
        let tls = Object::new(
            py,
            Self {
                attributes: Attributes::new(),
                state: Guarded::new(State {
                    event_loop: Some(event_loop.clone().unbind()),
                    app_protocol: Some(protocol),
                    buffered,
                    app_transport: None,
                    open: Some(Open::new(event_loop.get(), TransportKind::Tls)),
                    lower: None,
                    engine: Some(engine),
                    extra: Some(extra.unbind()),
                    waiter,
                    phase: Phase::Unwrapped,
                    told: if tell_connected { Told::Nothing } else { Told::Connected },
                    ended: false,
                    lost: 0,
                    handshake_timeout,
                    shutdown_timeout,
                    handshake_timer: None,
                    shutdown_timer: None,
                    handshake_start: None,
                    backlog: Backlog::default(),
                    outgoing: marks(None, None, OUTGOING_KIB)?,
                    app_writing_paused: false,
                    lower_writing_paused: false,
                    incoming: marks(None, None, INCOMING_KIB)?,
                    app_reading_paused: false,
                    lower_reading_paused: false,
                    buffer: None,
                }),
            },
        )?;
        let transport = TlsTransport::new(py, &tls)?;
        tls.get().state.with(py, |state| state.app_transport = Some(transport));
        Ok(tls)
    }
}

/// The engine of one end of a connection under `context`, an `ssl.SSLContext`: the one over libssl where that can be had, and unless
/// `WHILST_TLS_ENGINE` in the environment asks for the other.
///
/// Raises what the context's `wrap_bio()` raises, and `ValueError` if there is no engine of that name.
fn make_engine(
    context: &Bound<'_, PyAny>,
    server_side: bool,
    server_hostname: Option<&Bound<'_, PyAny>>,
) -> PyResult<Arc<dyn Engine>> {
    let py = context.py();
    let choice = std::env::var_os("WHILST_TLS_ENGINE").unwrap_or_default();
    let made = match choice.to_str() {
        Some("" | "libssl") => LibsslEngine::make(context, server_side, server_hostname)?,
        Some("memory_bio") => {
            let (incoming, outgoing) = (MemoryBio::new(py)?, MemoryBio::new(py)?);
            let object = SslObject::new(context, &incoming, &outgoing, server_side, server_hostname)?;
            Made::Other(object, incoming, outgoing)
        }
        _ => {
            let name = choice.to_string_lossy();
            return Err(PyValueError::new_err(format!(
                "WHILST_TLS_ENGINE: there is no engine '{name}': it is 'libssl' or 'memory_bio'"
            )));
        }
    };
    Ok(match made {
        Made::Libssl(engine) => Arc::new(engine),
        Made::Other(object, incoming, outgoing) => Arc::new(MemoryBioEngine::new(object, incoming, outgoing)),
    })
}

/// A limit of time, in seconds. Raises `ValueError` if it is not positive.
fn timeout(
    py: Python<'_>,
    given: Option<Py<PyAny>>,
    name: &str,
    default: &LateImport,
) -> PyResult<Py<PyAny>> {
    let Some(given) = given else { return Ok(default.get(py)?.unbind()) };
    let given = given.into_bound(py);
    if given.le(0)? {
        return Err(PyValueError::new_err(format!(
            "{name} should be a positive number, got {}",
            given.str()?
        )));
    }
    Ok(given.unbind())
}

#[pymethods]
impl LoopCore {
    /// Make a TLS transport over a connected, non-blocking socket; `waiter` is resolved after the handshake.
    #[pyo3(signature = (
        rawsock, protocol, sslcontext, waiter = None, *, server_side = false, server_hostname = None, extra = None,
        server = None, ssl_handshake_timeout = None, ssl_shutdown_timeout = None, context = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "CPython's own")]
    fn _make_ssl_transport(
        this: &Bound<'_, Self>,
        rawsock: &Bound<'_, PyAny>,
        protocol: Py<PyAny>,
        sslcontext: Py<PyAny>,
        waiter: Option<Py<PyAny>>,
        server_side: bool,
        server_hostname: Option<Py<PyAny>>,
        extra: Option<Py<PyDict>>,
        server: Option<Py<PyAny>>,
        ssl_handshake_timeout: Option<Py<PyAny>>,
        ssl_shutdown_timeout: Option<Py<PyAny>>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let py = this.py();
        this.get().check_open()?;
        let end = End {
            context: sslcontext,
            server_side,
            server_hostname,
            handshake_timeout: ssl_handshake_timeout,
            shutdown_timeout: ssl_shutdown_timeout,
        };
        let waiter = waiter.map_or(Waiter::Nobody, Waiter::Future);
        let tls = Tls::new(this, end, protocol, waiter, true)?;
        let transport = tls.get().app_transport(py).expect("made just now");
        let descriptor = Descriptor::of_socket(rawsock)?;
        let make = || Stream::make(this, descriptor, tls.into_any(), None, extra, server);
        in_given_context(context, make).inspect_err(|_| {
            // It never was open, so nobody need be warned.
            transport.get().set_closed();
        })?;
        Ok(transport.into_any())
    }

    /// Make the protocol that start_tls() gives to a transport; its `_app_transport` is what the program is given.
    #[pyo3(signature = (
        protocol, sslcontext, waiter, server_side, server_hostname, ssl_handshake_timeout, ssl_shutdown_timeout
    ))]
    #[expect(clippy::too_many_arguments, reason = "CPython's own")]
    fn _make_tls_protocol(
        this: &Bound<'_, Self>,
        protocol: Py<PyAny>,
        sslcontext: Py<PyAny>,
        waiter: Py<PyAny>,
        server_side: bool,
        server_hostname: Option<Py<PyAny>>,
        ssl_handshake_timeout: Option<Py<PyAny>>,
        ssl_shutdown_timeout: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let end = End {
            context: sslcontext,
            server_side,
            server_hostname,
            handshake_timeout: ssl_handshake_timeout,
            shutdown_timeout: ssl_shutdown_timeout,
        };
        Tls::new(this, end, protocol, Waiter::Future(waiter), false).map(Object::into_any)
    }
}
