//! The transport of a datagram socket.
//!
//! Three files hold what it does: [`receiving`], [`sending`] and, for its beginning and end, [`lifecycle`]; [`class`] is its face to
//! Python.
//!
//! What it promises its protocol, and in which order, is CPython's (`_SelectorDatagramTransport` in `asyncio/selector_events.py`); so
//! are the messages of what it reports.
//!
//! Which system calls it makes itself: those on sockets of the internet's families and on Unix sockets, with addresses that need no
//! look-up. Everything else is asked of the socket object: other families and kinds of sockets, objects that override `recvfrom()`,
//! `send()` or `sendto()` (a proxy's, a test's), and addresses that are host names, paths or wrong.

mod class;
mod lifecycle;
mod receiving;
mod sending;

use std::collections::VecDeque;
use std::os::fd::RawFd;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use whilst_engine::driver::{Interest, Key, Operation};

use super::address::Address;
use super::flow_control::Marks;
use super::kind::TransportKind;
use super::told::Told;
use crate::event_loop::metrics::Open;
use crate::event_loop::observing::Traced;
use crate::event_loop::{LoopCore, Work};
use crate::ffi::class::{Attributes, Object};
use crate::ffi::descriptor;
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::handle::ends_the_run;
use crate::transport::audience::{Audience, report_failure};

/// A datagram transport: the class `whilst.DatagramTransport`, an `asyncio.DatagramTransport`.
#[repr(C)]
pub(crate) struct Datagram {
    /// First, where CPython looks for them.
    attributes: Attributes,
    pub(crate) state: Guarded<State>,
}

pub(crate) struct State {
    /// `None` once the connection is lost, so that no cycle keeps a dead transport alive.
    event_loop: Option<Py<LoopCore>>,
    protocol: Option<Py<PyAny>>,
    /// What the protocol's callbacks run in: a copy of the context that the transport was made in.
    context: Option<Py<PyAny>>,
    /// The `socket.socket`, until it is closed.
    socket: Option<Py<PyAny>>,
    /// Its descriptor's number, also after it is closed.
    fd: RawFd,
    /// The family (`AF_INET` and so on) of a socket whose system calls are made here.
    native: Option<i32>,
    keys: Option<Keys>,
    /// Counts the transport, until it is closed.
    open: Option<Open>,
    extra: Option<Py<PyDict>>,
    /// The address that the transport was made for (`remote_addr`).
    remote: Option<Py<PyAny>>,
    peer: Peer,

    /// `connection_made()` was called, so reading may start.
    connected: bool,
    /// `close()`, `abort()` or a failure: no more is read.
    closing: bool,
    /// How often somebody has sent since `connection_lost()` was scheduled, plus one for that.
    lost: u32,

    /// `pause_reading()` was called.
    paused: bool,
    reading: Option<Operation>,
    /// A delivery is queued. The driver may say at two waits that there is something before the first is over: when a run has
    /// ended between them.
    announced: bool,
    /// Whether to look for a second datagram.
    probe: Probe,
    /// Whom the last datagram was from, and the Python object for that: the next is often from the same, and the answer to it goes
    /// there.
    sender: Option<(Address, Py<PyAny>)>,

    outgoing: VecDeque<(Py<PyBytes>, Target)>,
    /// What [`State::outgoing`] counts for in flow control, in bytes.
    outgoing_size: usize,
    /// The watch for room, while the kernel has none.
    room: Option<Operation>,
    /// `pause_writing()` was called on the protocol.
    protocol_paused: bool,
    marks: Marks,
}

/// The loop's names for the two watches.
#[derive(Clone, Copy)]
struct Keys {
    reader: Key,
    writer: Key,
}

/// Whom the socket is connected to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Peer {
    Nobody,
    /// A Unix socket without a name.
    Unnamed,
    Named,
}

/// Whom a datagram is for.
enum Target {
    /// The socket's peer.
    Peer,
    Address(Address),
    /// An address as `sendto()` of the socket object takes it.
    Python(Py<PyAny>),
}

/// Whether to look for another datagram where one was found. Looking in vain is a system call for nothing, which is what it comes
/// to where question and answer alternate; where datagrams come in floods it spares a wait for each. So after each look in vain the next
/// twice as many wake-ups go without.
#[derive(Default)]
struct Probe {
    skip: u8,
    pause: u8,
}

/// What a datagram transport has to do of its own, in the loop's order.
pub(crate) enum DatagramWork {
    /// Call `connection_made()`, start reading and wake who waits for the endpoint.
    Connect(Option<Py<PyAny>>),
    /// What follows `connection_made()`.
    Connected(Option<Py<PyAny>>),
    /// There is something to be received.
    Readable,
    /// There is room in the kernel again.
    Writable,
    /// Begin the watches that another thread has asked for while the loop waited.
    Watch,
    /// Call `connection_lost()` with this exception.
    Lost(Option<Py<PyAny>>),
}

impl DatagramWork {
    /// Shows the garbage collector what the work refers to.
    pub(crate) fn traverse(&self, visit: &mut impl FnMut(&Py<PyAny>)) {
        match self {
            Self::Connect(object) | Self::Connected(object) | Self::Lost(object) => {
                object.iter().for_each(visit)
            }
            Self::Readable | Self::Writable | Self::Watch => {}
        }
    }
}

impl Traced for Datagram {
    fn introduce(&self, py: Python<'_>) -> (TransportKind, String) {
        let (kind, fd) = self.state.with(py, |state| {
            let kind = state.open.as_ref().map_or(TransportKind::Udp, Open::kind);
            (kind, state.socket.is_some().then_some(state.fd))
        });
        let peer = fd.map(|fd| Address::peer(descriptor::borrow(fd)).describe());
        (kind, peer.unwrap_or_default())
    }
}

impl Datagram {
    /// Does what the loop's queue held for it.
    pub(crate) fn perform(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        work: DatagramWork,
    ) -> PyResult<()> {
        match work {
            DatagramWork::Readable => Self::readable(this, event_loop),
            DatagramWork::Writable => Self::writable(this, event_loop),
            DatagramWork::Connect(waiter) => Self::connect(this, event_loop, waiter),
            DatagramWork::Connected(waiter) => Self::connected(this, event_loop, waiter),
            DatagramWork::Watch => {
                Self::start_reading(this, event_loop)?;
                Self::wait_for_room(this, event_loop)
            }
            DatagramWork::Lost(exception) => Self::connection_lost(this, event_loop, exception),
        }
    }

    /// What the protocol is told by some work, for debug mode.
    #[cold]
    pub(crate) fn told<'py>(this: &Object<Self>, py: Python<'py>, work: &DatagramWork) -> Told<'py> {
        let name = match work {
            DatagramWork::Connect(_) | DatagramWork::Connected(_) => "connection_made",
            DatagramWork::Readable | DatagramWork::Watch => "datagram_received",
            DatagramWork::Writable => "resume_writing",
            DatagramWork::Lost(_) => "connection_lost",
        };
        let protocol = this.get().protocol(py).map(|it| it.into_bound(py));
        Told { transport: this.bind(py).clone().into_any(), protocol, name }
    }

    /// Takes note of a watch's event: what is to be queued.
    pub(crate) fn ready(&self, py: Python<'_>, interest: Interest) -> Option<DatagramWork> {
        match interest {
            Interest::Writable => Some(DatagramWork::Writable),
            Interest::Readable => {
                let announced = self.state.with(py, |state| std::mem::replace(&mut state.announced, true));
                (!announced).then_some(DatagramWork::Readable)
            }
        }
    }

    /// The loop, until the connection is lost.
    fn event_loop(&self, py: Python<'_>) -> Option<Py<LoopCore>> {
        self.state.with(py, |state| state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py)))
    }

    fn protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.protocol.as_ref().map(|protocol| protocol.clone_ref(py)))
    }

    /// True once the transport was closed or its connection lost.
    pub(crate) fn is_closing(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.closing)
    }

    /// Queues work of the transport's. Raises `RuntimeError` if the loop is closed.
    fn queue(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>, work: DatagramWork) -> PyResult<()> {
        let core = event_loop.get();
        core.check_open()?;
        let py = event_loop.py();
        core.push(py, Work::Datagram(this.clone_ref(py), work));
        Ok(())
    }

    /// Reports what went wrong and closes the transport at once (`_SelectorTransport._fatal_error`). What ends the run leaves.
    #[cold]
    fn fatal_error(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        error: PyErr,
        message: &str,
    ) -> PyResult<()> {
        static REPORT: Import = Import::new("whilst._loop.errors", "report_fatal_error");
        let py = event_loop.py();
        if ends_the_run(py, &error) {
            return Err(error);
        }
        let exception = error.into_value(py).into_any();
        let protocol = this.get().protocol(py);
        REPORT.get(py)?.call1((event_loop, this.bind(py), protocol, &exception, message))?;
        Self::force_close(this, event_loop, Some(exception))
    }

    /// Tells the loop's exception handler that flow control's call of the protocol has failed.
    #[cold]
    fn report(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        error: PyErr,
        message: &str,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let protocol = this.get().protocol(py);
        report_failure(event_loop, Some(this.clone_ref(py).into_any()), protocol, error, message)
    }
}

impl State {
    fn audience(&self, py: Python<'_>) -> Option<Audience> {
        Audience::of(py, self.protocol.as_ref(), self.context.as_ref())
    }

    /// The socket and its descriptor, until it is closed.
    fn open_socket(&self, py: Python<'_>) -> Option<(Py<PyAny>, RawFd)> {
        Some((self.socket.as_ref()?.clone_ref(py), self.fd))
    }

    /// True if reading is what the protocol wants.
    fn is_reading(&self) -> bool {
        !self.closing && !self.paused
    }
}
