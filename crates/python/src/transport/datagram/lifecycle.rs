//! A datagram transport's beginning and end.

use std::collections::VecDeque;

use pyo3::exceptions::{PyOSError, PyResourceWarning, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use whilst_engine::driver::{Interest, Operation};

use super::{Datagram, DatagramWork, Keys, Peer, Probe, State};
use crate::event_loop::LoopCore;
use crate::event_loop::metrics::Open;
use crate::event_loop::readiness::descriptor;
use crate::event_loop::registry::Source;
use crate::ffi::call::{call_method, copy_context};
use crate::ffi::class::{Attributes, Object};
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::handle::ends_the_run;
use crate::transport::address::Address;
use crate::transport::audience::resolve;
use crate::transport::flow_control::Marks;
use crate::transport::kind::TransportKind;
use crate::transport::stream::WARN;

impl Datagram {
    /// A transport over a non-blocking socket, known to the loop. What follows is [`Datagram::connect`].
    pub(super) fn new(
        event_loop: &Bound<'_, LoopCore>,
        socket: &Bound<'_, PyAny>,
        protocol: Py<PyAny>,
        address: Option<Bound<'_, PyAny>>,
        extra: Option<Py<PyDict>>,
    ) -> PyResult<Object<Self>> {
        let py = event_loop.py();
        let core = event_loop.get();
        let fd = descriptor(socket)?;
        if fd < 0 {
            return Err(PyValueError::new_err("the socket is closed"));
        }
        let (extra, peer) = extra_of(socket, extra)?;
        let native = native_family(socket)?;
        let remote = match address {
            Some(address) if address.is_truthy()? => Some(address.unbind()),
            _ => None,
        };
        // Watches of this number are of a file that was closed without their removal, or are replaced by the transport's own.
        for interest in [Interest::Readable, Interest::Writable] {
            LoopCore::unwatch(event_loop, fd, interest)?;
        }
        let transport = Object::new(
            py,
            Self {
                attributes: Attributes::new(),
                state: Guarded::new(State {
                    event_loop: Some(event_loop.clone().unbind()),
                    protocol: Some(protocol),
                    context: Some(copy_context(py)?.unbind()),
                    socket: Some(socket.clone().unbind()),
                    fd,
                    native,
                    keys: None,
                    open: None,
                    extra: Some(extra.unbind()),
                    remote,
                    peer,
                    connected: false,
                    closing: false,
                    lost: 0,
                    paused: false,
                    reading: None,
                    announced: false,
                    probe: Probe::default(),
                    sender: None,
                    outgoing: VecDeque::new(),
                    outgoing_size: 0,
                    room: None,
                    protocol_paused: false,
                    marks: Marks::default(),
                }),
            },
        )?;
        let keys = core.state.with(py, |state| {
            let keys = Keys {
                reader: state.registry.insert(Source::Datagram(transport.clone_ref(py), Interest::Readable)),
                writer: state.registry.insert(Source::Datagram(transport.clone_ref(py), Interest::Writable)),
            };
            state.transports.insert(fd, keys.reader);
            keys
        });
        let kind = match native {
            Some(libc::AF_UNIX) => TransportKind::Unix,
            Some(_) => TransportKind::Udp,
            None => {
                TransportKind::of(&Address::local(crate::ffi::descriptor::borrow(fd)), TransportKind::Udp)
            }
        };
        transport.get().state.with(py, |state| {
            state.keys = Some(keys);
            state.open = Some(Open::new(core, kind));
        });
        Ok(transport)
    }

    /// Tells the protocol that the endpoint is there, starts reading and wakes who waits for it.
    pub(super) fn connect(
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
                    // The loop may run again, and the endpoint is there.
                    Self::queue(this, event_loop, DatagramWork::Connected(waiter))?;
                    return Err(error);
                }
                audience.report(event_loop, "connection_made", error)?;
            }
        }
        Self::connected(this, event_loop, waiter)
    }

    /// What follows `connection_made()`: starts reading and wakes who waits for the endpoint.
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

    /// `close()`: receives no more, sends what waits to be sent, then ends.
    pub(super) fn close(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let (event_loop, operation, lost) = this.get().state.with(py, |state| {
            if state.closing {
                return (None, None, false);
            }
            state.closing = true;
            let lost = state.outgoing.is_empty();
            state.lost += u32::from(lost);
            (state.event_loop.as_ref().map(|it| it.clone_ref(py)), state.reading.take(), lost)
        });
        let Some(event_loop) = event_loop else { return Ok(()) };
        let event_loop = event_loop.bind(py);
        cancel(event_loop, operation);
        if lost { Self::queue(this, event_loop, DatagramWork::Lost(None)) } else { Ok(()) }
    }

    /// `abort()`, or a failure: drops what is not sent and ends.
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
            Some((state.take_outgoing(), state.room.take(), state.reading.take()))
        });
        let Some((unsent, room, reading)) = taken else { return Ok(()) };
        drop(unsent);
        cancel(event_loop, room);
        cancel(event_loop, reading);
        Self::queue(this, event_loop, DatagramWork::Lost(exception))
    }

    /// Tells the protocol that this is the end, closes the socket and lets go of everything.
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
            told = audience
                .tell(py, |protocol| call_method(protocol, name, [exception.bind(py)]).map(drop))
                .or_else(|error| audience.report(event_loop, "connection_lost", error));
        }
        let released = Self::release(this, event_loop);
        told.and(released)
    }

    /// Closes the socket and lets go of everything.
    fn release(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let core = event_loop.get();
        core.trace_ended(py, this);
        let (socket, keys, fd, operations, references) = this.get().state.with(py, |state| {
            (
                state.socket.take(),
                state.keys.take(),
                state.fd,
                [state.room.take(), state.reading.take()],
                (
                    state.protocol.take(),
                    state.context.take(),
                    state.event_loop.take(),
                    state.sender.take(),
                    state.take_outgoing(),
                    state.open.take(),
                ),
            )
        });
        for operation in operations {
            cancel_now(event_loop, operation);
        }
        let sources = core.state.with(py, |state| {
            let keys = keys?;
            if state.transports.get(&fd).copied() == Some(keys.reader) {
                state.transports.remove(&fd);
            }
            Some((state.registry.remove(keys.reader), state.registry.remove(keys.writer)))
        });
        let closed = socket.map_or(Ok(()), |socket| socket.call_method0(py, intern!(py, "close")).map(drop));
        drop((sources, references));
        closed
    }

    /// `__del__`: an open transport that nobody refers to any more is closed, with a warning.
    pub(super) fn abandon(this: &Object<Self>, py: Python<'_>) {
        if this.get().state.with(py, |state| state.socket.is_none()) {
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

/// Ends a watch, if there is one, before the socket is closed, so that its address is free then.
fn cancel_now(event_loop: &Bound<'_, LoopCore>, operation: Option<Operation>) {
    let Some(operation) = operation else { return };
    match event_loop.get().with_driver(event_loop.py(), |driver| driver.cancel_now(operation)) {
        // Where it fails the driver has left its ring, and with it all that was under way.
        Ok(_) => {}
        // The loop waits, so this is another thread (the garbage collector's), or it is closed.
        Err(_no_driver) => cancel(event_loop, Some(operation)),
    }
}

/// Ends a watch, if there is one; the kernel lets go of the socket at the next wait.
pub(super) fn cancel(event_loop: &Bound<'_, LoopCore>, operation: Option<Operation>) {
    if let Some(operation) = operation {
        event_loop.get().cancel(event_loop.py(), operation);
    }
}

/// What `get_extra_info()` finds, and whom the socket is connected to.
fn extra_of<'py>(
    socket: &Bound<'py, PyAny>,
    given: Option<Py<PyDict>>,
) -> PyResult<(Bound<'py, PyDict>, Peer)> {
    static TRANSPORT_SOCKET: Import = Import::new("asyncio.trsock", "TransportSocket");
    let py = socket.py();
    let extra = match given {
        Some(given) => given.bind(py).copy()?,
        None => PyDict::new(py),
    };
    let ask = |name: &Bound<'py, pyo3::types::PyString>| match socket.call_method0(name) {
        Ok(name) => Ok(Some(name)),
        Err(error) if error.is_instance_of::<PyOSError>(py) => Ok(None),
        Err(error) => Err(error),
    };
    extra.set_item(intern!(py, "socket"), TRANSPORT_SOCKET.get(py)?.call1((socket,))?)?;
    extra.set_item(intern!(py, "sockname"), ask(intern!(py, "getsockname"))?)?;
    let name = intern!(py, "peername");
    let peer = match extra.get_item(name)? {
        Some(peer) => Some(peer).filter(|peer| !peer.is_none()),
        None => {
            let peer = ask(intern!(py, "getpeername"))?;
            extra.set_item(name, &peer)?;
            peer
        }
    };
    let peer = match peer {
        None => Peer::Nobody,
        Some(peer) if peer.is_truthy()? => Peer::Named,
        Some(_) => Peer::Unnamed,
    };
    Ok((extra, peer))
}

/// The family of a datagram socket of the internet's families, or of a Unix one, that does what Python's own do.
fn native_family(socket: &Bound<'_, PyAny>) -> PyResult<Option<i32>> {
    static SOCKET: Import = Import::new("_socket", "socket");
    let py = socket.py();
    let class = SOCKET.get(py)?;
    // By its type: a mock claims to be a socket.
    if !socket.get_type().is_subclass(class)? {
        return Ok(None);
    }
    for name in ["recvfrom", "send", "sendto"] {
        // Methods of one object are equal if they are the same function.
        let own = class.getattr(name)?.call_method1("__get__", (socket,))?;
        if !socket.getattr(name)?.eq(own)? {
            return Ok(None);
        }
    }
    let number = |name| socket.getattr(name)?.extract::<i32>();
    let (family, kind) = (number("family")?, number("type")?);
    let known = [libc::AF_INET, libc::AF_INET6, libc::AF_UNIX].contains(&family);
    Ok((known && kind == libc::SOCK_DGRAM).then_some(family))
}
