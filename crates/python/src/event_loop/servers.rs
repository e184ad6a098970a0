//! Listening sockets: what `asyncio.Server` calls to have connections accepted.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use whilst_engine::driver::{Key, Operation};

use super::LoopCore;
use super::readiness::descriptor;
use super::registry::Source;
use crate::errors::os_error;
use crate::ffi::call::{call, copy_context, copy_of_context, in_context};
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::handle::ends_the_run;
use crate::transport::stream::{Descriptor, Stream, StreamWork};
use crate::transport::tls;

/// How long accepting pauses when the process or the system has no descriptors or memory left, in seconds (CPython's
/// `ACCEPT_RETRY_DELAY`).
const ACCEPT_RETRY_DELAY: f64 = 1.0;

/// A listening socket and what becomes of its connections.
pub(crate) struct Acceptor {
    /// The listening `socket.socket`.
    socket: Py<PyAny>,
    fd: RawFd,
    factory: Py<PyAny>,
    server: Option<Py<PyAny>>,
    /// What stands between a connection and its protocol, for a server of TLS.
    tls: Option<tls::Server>,
    backlog: usize,
    /// The context that the server was started in; each connection runs in a copy.
    context: Py<PyAny>,
    /// `None` while accepting pauses.
    operation: Guarded<Option<Operation>>,
}

impl Acceptor {
    pub(crate) fn traverse(&self, visit: &mut impl FnMut(&Py<PyAny>)) {
        visit(&self.socket);
        visit(&self.factory);
        visit(&self.context);
        self.server.iter().for_each(&mut *visit);
        self.tls.iter().for_each(|tls| visit(&tls.context));
    }
}

impl Acceptor {
    /// The protocol of a connection that was accepted: the program's, or TLS in front of it.
    fn make_protocol(&self, event_loop: &Bound<'_, LoopCore>) -> PyResult<Py<PyAny>> {
        let protocol = call(self.factory.bind(event_loop.py()), [])?.unbind();
        match &self.tls {
            Some(tls) => tls.wrap(event_loop, protocol),
            None => Ok(protocol),
        }
    }
}

#[pymethods]
impl LoopCore {
    /// Accept connections on a listening socket; the protocol of each is made by protocol_factory. With an SSL context it
    /// is told once the handshake is done.
    #[pyo3(signature = (
        protocol_factory, sock, server = None, backlog = 100, sslcontext = None, ssl_handshake_timeout = None,
        ssl_shutdown_timeout = None
    ))]
    #[expect(clippy::too_many_arguments, reason = "CPython's own")]
    fn _accept_connections(
        this: &Bound<'_, Self>,
        protocol_factory: Py<PyAny>,
        sock: &Bound<'_, PyAny>,
        server: Option<Py<PyAny>>,
        backlog: usize,
        sslcontext: Option<Py<PyAny>>,
        ssl_handshake_timeout: Option<Py<PyAny>>,
        ssl_shutdown_timeout: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = this.py();
        let core = this.get();
        core.check_open()?;
        let fd = descriptor(sock)?;
        let tls = sslcontext.map(|context| tls::Server {
            context,
            handshake_timeout: ssl_handshake_timeout,
            shutdown_timeout: ssl_shutdown_timeout,
        });
        let acceptor = Arc::new(Acceptor {
            socket: sock.clone().unbind(),
            fd,
            factory: protocol_factory,
            server,
            tls,
            backlog: backlog.max(1),
            context: copy_context(py)?.unbind(),
            operation: Guarded::new(None),
        });
        let key = core.state.with(py, |state| state.registry.insert(Source::Acceptor(Arc::clone(&acceptor))));
        if let Err(error) = Self::accept(this, key, &acceptor) {
            drop(core.state.with(py, |state| state.registry.remove(key)));
            return Err(error);
        }
        let before = core.state.with(py, |state| state.acceptors.insert(fd, key));
        debug_assert!(before.is_none(), "a socket is listened to once");
        Ok(())
    }

    /// Stop accepting connections on a listening socket and close it.
    fn _stop_accepting(this: &Bound<'_, Self>, sock: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = this.py();
        let core = this.get();
        let fd = descriptor(sock)?;
        let acceptor = core.state.with(py, |state| {
            let key = state.acceptors.remove(&fd)?;
            state.registry.remove(key)
        });
        if let Some(Source::Acceptor(acceptor)) = acceptor
            && let Some(operation) = acceptor.operation.with(py, Option::take)
        {
            // The port must be free when this returns.
            core.with_driver(py, |driver| driver.cancel_now(operation))?
                .map_err(|error| os_error(py, &error))?;
        }
        sock.call_method0("close").map(drop)
    }

    /// Accept again after a pause.
    fn _resume_accepting(this: &Bound<'_, Self>, fd: RawFd) -> PyResult<()> {
        let found = this.get().state.with(this.py(), |state| {
            let key = *state.acceptors.get(&fd)?;
            match state.registry.get(key) {
                // The number may be another server's by now, which does accept.
                Some(Source::Acceptor(acceptor)) if acceptor.operation.with(this.py(), |it| it.is_none()) => {
                    Some((key, Arc::clone(acceptor)))
                }
                _ => None,
            }
        });
        match found {
            Some((key, acceptor)) => Self::accept(this, key, &acceptor),
            None => Ok(()),
        }
    }
}

impl LoopCore {
    fn accept(this: &Bound<'_, Self>, key: Key, acceptor: &Acceptor) -> PyResult<()> {
        let py = this.py();
        let operation = this
            .get()
            .with_driver(py, |driver| driver.accept(acceptor.fd, acceptor.backlog, key))?
            .map_err(|error| os_error(py, &error))?;
        acceptor.operation.with(py, |place| *place = Some(operation));
        Ok(())
    }

    /// Makes a transport of an accepted connection.
    pub(super) fn accepted(this: &Bound<'_, Self>, key: Key, accepted: io::Result<OwnedFd>) -> PyResult<()> {
        let py = this.py();
        let acceptor = this.get().state.with(py, |state| match state.registry.get(key) {
            Some(Source::Acceptor(acceptor)) => Some(Arc::clone(acceptor)),
            _ => None,
        });
        // A server that has closed meanwhile: the connection is closed, too.
        let Some(acceptor) = acceptor else { return Ok(()) };
        let connected = match accepted {
            Ok(fd) => Self::connected(this, &acceptor, fd),
            Err(error) => return Self::accept_failed(this, &acceptor, &error),
        };
        match connected {
            Ok(()) => Ok(()),
            Err(error) if ends_the_run(py, &error) => Err(error),
            // CPython is silent about these but in debug mode (`_accept_connection2`); the connection is closed.
            Err(error) if this.get().is_debug() => {
                Self::report(this, "Error on transport creation for incoming connection", error)
            }
            Err(_) => Ok(()),
        }
    }

    fn connected(this: &Bound<'_, Self>, acceptor: &Acceptor, fd: OwnedFd) -> PyResult<()> {
        let py = this.py();
        // What the protocol's factory does to its context is no other connection's business.
        let context = copy_of_context(acceptor.context.bind(py))?;
        if this.get().is_debug() {
            return in_context(&context, || Self::connected_watched(this, acceptor, fd));
        }
        let protocol = in_context(&context, || acceptor.make_protocol(this))?;
        let server = acceptor.server.as_ref().map(|server| server.clone_ref(py));
        let stream = Stream::new(this, Descriptor::Owned(fd), protocol, None, server, context.unbind())?;
        Stream::connect(&stream, this, None)
    }

    /// The same as debug mode wants it: the connection is logged, and who takes long is reported.
    #[cold]
    fn connected_watched(this: &Bound<'_, Self>, acceptor: &Acceptor, fd: OwnedFd) -> PyResult<()> {
        static LOG: Import = Import::new("whilst._loop.errors", "log_new_connection");
        static REPORT_SLOW: Import = Import::new("whilst._loop.errors", "report_slow_factory");
        let py = this.py();
        let report =
            |seconds| REPORT_SLOW.get(py)?.call1((&acceptor.factory, &acceptor.server, seconds)).map(drop);
        LOG.get(py)?.call1((&acceptor.server, fd.as_raw_fd()))?;
        let protocol = Self::timed(this, || acceptor.make_protocol(this), report)?;
        let server = acceptor.server.as_ref().map(|server| server.clone_ref(py));
        // A copy, so that it can be entered from here.
        let context = copy_context(py)?.unbind();
        let stream = Stream::new(this, Descriptor::Owned(fd), protocol, None, server, context)?;
        let told = Stream::told(&stream, py, &StreamWork::Connect(None));
        let body = || Stream::connect(&stream, this, None);
        Self::timed(this, body, |seconds| told.report_slow(py, seconds))
    }

    /// Out of descriptors or memory: pauses, says so once and tries again later. A listening socket that is none any more is
    /// given up. Any other failure is that of one connection, which is gone (accept(2): "treat them like EAGAIN").
    fn accept_failed(this: &Bound<'_, Self>, acceptor: &Acceptor, error: &io::Error) -> PyResult<()> {
        static TRANSPORT_SOCKET: Import = Import::new("asyncio.trsock", "TransportSocket");
        let py = this.py();
        let core = this.get();
        let message = match error.raw_os_error() {
            Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM) => {
                "socket.accept() out of system resource"
            }
            Some(libc::EBADF | libc::EINVAL | libc::ENOTSOCK | libc::EOPNOTSUPP) => {
                "socket.accept() failed, the server accepts no more connections"
            }
            _ => return Ok(()),
        };
        // Said once, however many accepts of a burst have failed.
        let Some(operation) = acceptor.operation.with(py, Option::take) else { return Ok(()) };
        core.with_driver(py, |driver| driver.cancel(operation))?;
        let context = PyDict::new(py);
        context.set_item("message", message)?;
        context.set_item("exception", os_error(py, error))?;
        context.set_item("socket", TRANSPORT_SOCKET.get(py)?.call1((&acceptor.socket,))?)?;
        this.call_method1("call_exception_handler", (context,))?;
        if message.ends_with("resource") {
            this.call_method1(
                "call_later",
                (ACCEPT_RETRY_DELAY, this.getattr("_resume_accepting")?, acceptor.fd),
            )?;
        }
        Ok(())
    }
}
