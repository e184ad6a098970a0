//! A stream transport's beginning and end.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use pyo3::exceptions::{PyConnectionError, PyResourceWarning, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use whilst_engine::driver::{Interest, Operation};

use super::{Names, State, Stream, StreamWork};
use crate::event_loop::LoopCore;
use crate::event_loop::metrics::Open;
use crate::event_loop::registry::Source;
use crate::ffi::call::{call_method, copy_context};
use crate::ffi::class::{Attributes, Object};
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::handle::ends_the_run;
use crate::transport::audience::resolve;
use crate::transport::flow_control::Marks;
use crate::transport::outgoing::Outgoing;
use crate::transport::socket::{into_python, set_nodelay};

/// Who owns the socket's descriptor.
pub(crate) enum Descriptor {
    /// The transport.
    Owned(OwnedFd),
    /// A `socket.socket`, which the transport closes.
    Python(Py<PyAny>, RawFd),
}

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Owned(fd) => fd.as_fd(),
            Self::Python(_, fd) => crate::ffi::descriptor::borrow(*fd),
        }
    }
}

impl Descriptor {
    /// That of a connected `socket.socket`. Raises `ValueError` if it is closed.
    pub(crate) fn of_socket(socket: &Bound<'_, PyAny>) -> PyResult<Self> {
        let fd = crate::event_loop::readiness::descriptor(socket)?;
        if fd < 0 {
            return Err(PyValueError::new_err("the socket is closed"));
        }
        Ok(Self::Python(socket.clone().unbind(), fd))
    }

    /// The Python object that owns the descriptor, made if there is none yet.
    pub(super) fn socket<'py>(
        place: &mut Option<Self>,
        py: Python<'py>,
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match place.take() {
            None => Ok(None),
            Some(Self::Python(socket, fd)) => {
                let bound = socket.bind(py).clone();
                *place = Some(Self::Python(socket, fd));
                Ok(Some(bound))
            }
            Some(Self::Owned(owned)) => {
                let fd = owned.as_raw_fd();
                let socket = into_python(py, owned)?;
                *place = Some(Self::Python(socket.clone().unbind(), fd));
                Ok(Some(socket))
            }
        }
    }

    /// Closes the socket.
    fn close(self, py: Python<'_>) -> PyResult<()> {
        match self {
            Self::Owned(fd) => {
                drop(fd);
                Ok(())
            }
            Self::Python(socket, _) => socket.call_method0(py, intern!(py, "close")).map(drop),
        }
    }
}

/// Looked up before there is a transport, since nothing can be when the interpreter shuts down.
pub(crate) static WARN: Import = Import::new("warnings", "warn");

impl Stream {
    /// A transport over a connected, non-blocking socket, known to the loop and to its server, if it has one. Its protocol is called in
    /// `context`. What follows is [`Stream::connect`].
    pub(crate) fn new(
        event_loop: &Bound<'_, LoopCore>,
        descriptor: Descriptor,
        protocol: Py<PyAny>,
        extra: Option<Py<PyDict>>,
        server: Option<Py<PyAny>>,
        context: Py<PyAny>,
    ) -> PyResult<Object<Self>> {
        let py = event_loop.py();
        let core = event_loop.get();
        let fd = descriptor.as_fd();
        let names = Names::of(fd);
        if names.local().is_internet() {
            set_nodelay(fd);
        }
        let number = fd.as_raw_fd();
        // Watches of this number are of a file that was closed without their removal, or are replaced by the transport's own.
        for interest in [Interest::Readable, Interest::Writable] {
            LoopCore::unwatch(event_loop, number, interest)?;
        }
        let buffered = is_buffered(protocol.bind(py))?;
        let stream = Object::new(
            py,
            Self {
                attributes: Attributes::new(),
                state: Guarded::new(State {
                    event_loop: Some(event_loop.clone().unbind()),
                    protocol: Some(protocol),
                    buffered,
                    context: Some(context),
                    server: None,
                    descriptor: Some(descriptor),
                    key: None,
                    names,
                    open: None,
                    extra,
                    connected: false,
                    closing: false,
                    lost: 0,
                    paused: false,
                    ended: false,
                    receive: None,
                    receive_stops: false,
                    arrived: VecDeque::new(),
                    waiting: false,
                    announced: false,
                    last_read: 0,
                    bulk: false,
                    small_reads: 0,
                    sent_at_once: 0,
                    outgoing: Outgoing::default(),
                    listed: false,
                    send_failed: false,
                    room: None,
                    eof: false,
                    shut_down: false,
                    protocol_paused: false,
                    marks: Marks::default(),
                    empty_waiter: None,
                }),
            },
        )?;
        if let Some(server) = server {
            if let Err(error) = attach(py, server.bind(py), &stream) {
                // The server is closed. Nobody was told of the connection, so nobody need be warned of its end.
                drop(stream.get().state.with(py, |state| state.descriptor.take()));
                return Err(error);
            }
            stream.get().state.with(py, |state| state.server = Some(server));
        }
        let key = core.state.with(py, |state| {
            let key = state.registry.insert(Source::Stream(stream.clone_ref(py)));
            state.transports.insert(number, key);
            key
        });
        stream.get().state.with(py, |state| {
            state.key = Some(key);
            state.open = Some(Open::new(core, state.names.kind()));
        });
        Ok(stream)
    }

    /// A transport whose protocol is told in the next iteration, when `waiter` is resolved, too. `extra` is copied.
    pub(crate) fn make(
        event_loop: &Bound<'_, LoopCore>,
        descriptor: Descriptor,
        protocol: Py<PyAny>,
        waiter: Option<Py<PyAny>>,
        extra: Option<Py<PyDict>>,
        server: Option<Py<PyAny>>,
    ) -> PyResult<Object<Self>> {
        let py = event_loop.py();
        event_loop.get().check_open()?;
        let extra = extra.map(|extra| extra.bind(py).copy().map(Bound::unbind)).transpose()?;
        let stream = Self::new(event_loop, descriptor, protocol, extra, server, copy_context(py)?.unbind())?;
        Self::queue(&stream, event_loop, StreamWork::Connect(waiter))?;
        Ok(stream)
    }

    /// Tells the protocol that it is connected, starts reading and wakes who waits for the connection.
    pub(crate) fn connect(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        waiter: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let audience = this.get().state.with(py, |state| state.audience(py));
        if let Some(audience) = audience {
            let name = intern!(py, "connection_made");
            let told = audience.tell(py, |protocol| call_method(protocol, name, [this.bind(py)]).map(drop));
            if let Err(error) = told {
                if ends_the_run(py, &error) {
                    // The loop may run again, and the connection is made.
                    Self::queue(this, event_loop, StreamWork::Connected(waiter))?;
                    return Err(error);
                }
                audience.report(event_loop, "connection_made", error)?;
            }
        }
        Self::connected(this, event_loop, waiter)
    }

    /// What follows `connection_made()`: starts reading and wakes who waits for the connection.
    pub(super) fn connected(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        waiter: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        this.get().state.with(py, |state| state.connected = true);
        Self::start_reading(this, event_loop)?;
        resolve(py, waiter)
    }

    /// `close()`: reads no more, sends what is written, then loses the connection.
    pub(super) fn close(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let (event_loop, operation, lost) = this.get().state.with(py, |state| {
            if state.closing {
                return (None, None, false);
            }
            state.closing = true;
            // A send that has failed ends the connection by itself, and says why. And a protocol that is about to be told that it may
            // go on writing still may: what it then writes is sent before the end.
            let lost = state.outgoing.is_empty() && !state.send_failed && !state.wants_resume();
            if lost {
                state.lost += 1;
            }
            state.outgoing.awaited = true;
            (state.event_loop.as_ref().map(|it| it.clone_ref(py)), state.stop_receiving(), lost)
        });
        let Some(event_loop) = event_loop else { return Ok(()) };
        let event_loop = event_loop.bind(py);
        cancel(event_loop, operation);
        if lost { Self::queue(this, event_loop, StreamWork::Lost(None)) } else { Ok(()) }
    }

    /// `abort()`, or a failure: drops what is not sent and loses the connection.
    pub(crate) fn force_close(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        exception: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let taken = this.get().state.with(py, |state| {
            if state.lost > 0 {
                return None;
            }
            state.lost += 1;
            state.closing = true;
            let unsent = std::mem::take(&mut state.outgoing);
            Some((unsent, state.room.take(), state.stop_receiving()))
        });
        let Some((unsent, room, operation)) = taken else { return Ok(()) };
        drop(unsent);
        cancel(event_loop, room);
        cancel(event_loop, operation);
        Self::queue(this, event_loop, StreamWork::Lost(exception))
    }

    /// Tells the protocol that the connection is lost, closes the socket and lets go of everything.
    pub(super) fn connection_lost(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        exception: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let audience = this.get().state.with(py, |state| state.audience(py));
        let mut told = Ok(());
        if let Some(audience) = audience {
            let name = intern!(py, "connection_lost");
            let exception = exception.unwrap_or_else(|| py.None());
            told = audience.tell(py, |protocol| call_method(protocol, name, [exception.bind(py)]).map(drop));
            if let Err(error) = told {
                told = audience.report(event_loop, "connection_lost", error);
            }
        }
        let released = Self::release(this, event_loop);
        told.and(released)
    }

    /// Closes the socket and lets go of everything.
    fn release(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let core = event_loop.get();
        core.trace_ended(py, this);
        let (descriptor, key, server, waiter, operations, references) = this.get().state.with(py, |state| {
            (
                state.descriptor.take(),
                state.key.take(),
                state.server.take(),
                state.empty_waiter.take(),
                [state.room.take(), state.stop_receiving()],
                (
                    state.protocol.take(),
                    state.context.take(),
                    state.event_loop.take(),
                    std::mem::take(&mut state.arrived),
                    std::mem::take(&mut state.outgoing),
                    state.open.take(),
                ),
            )
        });
        for operation in operations {
            cancel(event_loop, operation);
        }
        let source = core.state.with(py, |state| {
            if let Some(fd) = descriptor.as_ref().map(|descriptor| descriptor.as_fd().as_raw_fd())
                && state.transports.get(&fd).copied() == key
            {
                state.transports.remove(&fd);
            }
            key.and_then(|key| state.registry.remove(key))
        });
        let stopped = match &descriptor {
            Some(descriptor) => {
                // Lent to a sendfile() that is under way, maybe.
                let error = || PyConnectionError::new_err("Connection is closed by peer");
                LoopCore::stop_sendfile(event_loop, descriptor.as_fd().as_raw_fd(), error)
            }
            None => Ok(()),
        };
        let closed = descriptor.map_or(Ok(()), |descriptor| descriptor.close(py));
        drop((source, references));
        let detached = server.map_or(Ok(()), |server| detach(py, server.bind(py), this));
        if let Some(waiter) = waiter
            && !waiter.call_method0(py, intern!(py, "done"))?.is_truthy(py)?
        {
            let error = PyConnectionError::new_err("Connection is closed by peer");
            waiter.call_method1(py, intern!(py, "set_exception"), (error,))?;
        }
        stopped.and(closed).and(detached)
    }

    /// `__del__`: an open transport that nobody refers to any more is closed, with a warning.
    pub(super) fn abandon(this: &Object<Self>, py: Python<'_>) {
        let descriptor = this.get().state.with(py, |state| state.descriptor.is_some());
        if !descriptor {
            return;
        }
        let warned = this.bind(py).repr().and_then(|repr| {
            let keywords = PyDict::new(py);
            keywords.set_item("source", this.bind(py))?;
            let message = format!("unclosed transport {repr}");
            WARN.get(py)?.call((message, py.get_type::<PyResourceWarning>()), Some(&keywords))
        });
        if let Err(error) = warned {
            error.write_unraisable(py, Some(this.bind(py)));
        }
        let event_loop = this.get().event_loop(py);
        if let Some(event_loop) = event_loop
            && let Err(error) = Self::release(this, event_loop.bind(py))
        {
            error.write_unraisable(py, Some(this.bind(py)));
        }
    }
}

impl State {
    /// Takes the receive operation to be cancelled, if it has not been yet.
    pub(super) fn stop_receiving(&mut self) -> Option<Operation> {
        if self.receive_stops {
            return None;
        }
        self.receive_stops = self.receive.is_some();
        self.receive
    }
}

/// Cancels an operation, if there is one.
pub(super) fn cancel(event_loop: &Bound<'_, LoopCore>, operation: Option<Operation>) {
    if let Some(operation) = operation {
        event_loop.get().cancel(event_loop.py(), operation);
    }
}

/// True for an `asyncio.BufferedProtocol`.
pub(crate) fn is_buffered(protocol: &Bound<'_, PyAny>) -> PyResult<bool> {
    static BUFFERED_PROTOCOL: Import = Import::new("asyncio.protocols", "BufferedProtocol");
    protocol.is_instance(BUFFERED_PROTOCOL.get(protocol.py())?)
}

/// Tells an `asyncio.Server` of a connection of its.
fn attach(py: Python<'_>, server: &Bound<'_, PyAny>, stream: &Object<Stream>) -> PyResult<()> {
    let name = intern!(py, "_attach");
    // Since 3.13 (`Server.close_clients`) it wants to know which one.
    if cfg!(Py_3_13) {
        call_method(server, name, [stream.bind(py)]).map(drop)
    } else {
        call_method(server, name, []).map(drop)
    }
}

/// Tells an `asyncio.Server` of the end of a connection of its.
fn detach(py: Python<'_>, server: &Bound<'_, PyAny>, stream: &Object<Stream>) -> PyResult<()> {
    let name = intern!(py, "_detach");
    if cfg!(Py_3_13) {
        call_method(server, name, [stream.bind(py)]).map(drop)
    } else {
        call_method(server, name, []).map(drop)
    }
}
