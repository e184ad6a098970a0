//! The transport of a connected stream socket.
//!
//! Three files hold what it does, by the direction in which bytes go: [`reading`], [`writing`] and, for its beginning and end,
//! [`lifecycle`]; [`class`] is its face to Python.
//!
//! What it promises its protocol, and in which order, is CPython's (`_SelectorSocketTransport` in
//! `asyncio/selector_events.py`); so are the messages of what it reports.

mod class;
mod lifecycle;
mod reading;
mod writing;

use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use whilst_engine::driver::{Key, Operation, Received};

use super::address::Address;
use super::flow_control::Marks;
use super::kind::TransportKind;
use super::outgoing::Outgoing;
use super::told::Told;
use crate::event_loop::metrics::Open;
use crate::event_loop::observing::Traced;
use crate::event_loop::{LoopCore, Work};
use crate::ffi::class::{Attributes, Object};
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::handle::ends_the_run;
use crate::transport::audience::{Audience, report_failure};
use crate::transport::tls::Tls;

pub(crate) use self::lifecycle::{Descriptor, WARN, is_buffered};
pub(crate) use self::reading::MOST;
pub(crate) use self::writing::SILENT_WRITES;

/// A stream transport: the class `whilst.StreamTransport`, an `asyncio.Transport`.
#[repr(C)]
pub(crate) struct Stream {
    /// First, where CPython looks for them.
    attributes: Attributes,
    pub(crate) state: Guarded<State>,
}

pub(crate) struct State {
    /// `None` once the connection is lost, so that no cycle keeps a dead transport alive.
    event_loop: Option<Py<LoopCore>>,
    protocol: Option<Py<PyAny>>,
    /// The protocol is an `asyncio.BufferedProtocol`.
    buffered: bool,
    /// What the protocol's callbacks run in: a copy of the context that the transport was made in.
    context: Option<Py<PyAny>>,
    server: Option<Py<PyAny>>,
    descriptor: Option<Descriptor>,
    key: Option<Key>,
    names: Names,
    /// Counts the transport, until the connection is lost.
    open: Option<Open>,
    extra: Option<Py<PyDict>>,

    /// `connection_made()` was called, so reading may start.
    connected: bool,
    /// `close()`, `abort()` or a failure: no more is read.
    closing: bool,
    /// How often somebody has written since `connection_lost()` was scheduled, plus one for that.
    lost: u32,

    /// `pause_reading()` was called.
    paused: bool,
    /// The end of what the peer sends was received.
    ended: bool,
    receive: Option<Operation>,
    /// The receive operation was told to stop; it says when it has.
    receive_stops: bool,
    /// What was received and is not delivered: bytes, and the end or a failure behind them.
    arrived: VecDeque<Received>,
    /// Something waits in the kernel, which the driver leaves to be read (`epoll`).
    waiting: bool,
    /// A delivery is queued.
    announced: bool,
    /// How many bytes the last read has brought.
    last_read: u32,
    /// Much comes in: the receive operation is one where the bytes are read here, whatever the driver.
    bulk: bool,
    /// How many reads in succession were small ones.
    small_reads: u8,

    outgoing: Outgoing,
    /// How many bytes were sent at once since the stream had its last turn.
    sent_at_once: usize,
    /// In the loop's list of streams that have something to send.
    listed: bool,
    /// A send has failed, and the protocol is about to hear of it.
    send_failed: bool,
    /// The watch for room, while the kernel has none.
    room: Option<Operation>,
    /// `write_eof()` was called.
    eof: bool,
    /// The peer was told of that.
    shut_down: bool,
    /// `pause_writing()` was called on the protocol.
    protocol_paused: bool,
    marks: Marks,
    /// What `sendfile()` waits on: resolved once everything is sent.
    empty_waiter: Option<Py<PyAny>>,
}

/// The addresses of both ends, as they were when the transport was made. Those of most connections are small enough to need no memory
/// of their own.
enum Names {
    V4 { local: SocketAddrV4, peer: SocketAddrV4 },
    Others(Box<(Address, Address)>),
}

impl Names {
    fn of(fd: BorrowedFd<'_>) -> Self {
        match (Address::local(fd), Address::peer(fd)) {
            (Address::V4(local), Address::V4(peer)) => Self::V4 { local, peer },
            others => Self::Others(Box::new(others)),
        }
    }

    /// What the connection is over.
    fn kind(&self) -> TransportKind {
        match self {
            Self::V4 { .. } => TransportKind::Tcp,
            Self::Others(others) => TransportKind::of(&others.0, TransportKind::Tcp),
        }
    }

    fn local(&self) -> Address {
        match self {
            Self::V4 { local, .. } => Address::V4(*local),
            Self::Others(others) => others.0.clone(),
        }
    }

    fn peer(&self) -> Address {
        match self {
            Self::V4 { peer, .. } => Address::V4(*peer),
            Self::Others(others) => others.1.clone(),
        }
    }
}

/// What a stream transport has to do of its own, in the loop's order.
pub(crate) enum StreamWork {
    /// Call `connection_made()` and wake who waits for the connection.
    Connect(Option<Py<PyAny>>),
    /// Start reading and wake who waits for the connection: what follows `connection_made()`.
    Connected(Option<Py<PyAny>>),
    /// Hand over what has arrived.
    Deliver,
    /// There is room in the kernel again.
    Writable,
    /// Everything or enough was sent: go on with what waited for that.
    Drained,
    /// A send failed.
    SendFailed(std::io::Error),
    /// Call `connection_lost()` with this exception.
    Lost(Option<Py<PyAny>>),
}

impl StreamWork {
    /// Shows the garbage collector what the work refers to.
    pub(crate) fn traverse(&self, visit: &mut impl FnMut(&Py<PyAny>)) {
        match self {
            Self::Connect(object) | Self::Connected(object) | Self::Lost(object) => {
                object.iter().for_each(visit)
            }
            Self::Deliver | Self::Writable | Self::Drained | Self::SendFailed(_) => {}
        }
    }
}

impl Stream {
    /// Does what the loop's queue held for it.
    pub(crate) fn perform(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        work: StreamWork,
    ) -> PyResult<()> {
        match work {
            StreamWork::Connect(waiter) => Self::connect(this, event_loop, waiter),
            StreamWork::Connected(waiter) => Self::connected(this, event_loop, waiter),
            StreamWork::Deliver => Self::deliver(this, event_loop),
            StreamWork::Writable => Self::writable(this, event_loop),
            StreamWork::Drained => Self::drained(this, event_loop),
            StreamWork::SendFailed(error) => Self::send_failed(this, event_loop, &error),
            StreamWork::Lost(exception) => Self::connection_lost(this, event_loop, exception),
        }
    }

    /// What the protocol is told by some work, for debug mode.
    #[cold]
    pub(crate) fn told<'py>(this: &Object<Self>, py: Python<'py>, work: &StreamWork) -> Told<'py> {
        let (protocol, name) = this.get().state.with(py, |state| {
            let name = match work {
                StreamWork::Connect(_) | StreamWork::Connected(_) => "connection_made",
                StreamWork::Deliver if state.buffered => "buffer_updated",
                StreamWork::Deliver => "data_received",
                StreamWork::Writable | StreamWork::Drained => "resume_writing",
                StreamWork::SendFailed(_) | StreamWork::Lost(_) => "connection_lost",
            };
            (state.protocol.as_ref().map(|protocol| protocol.bind(py).clone()), name)
        });
        Told { transport: this.bind(py).clone().into_any(), protocol, name }
    }

    /// What the protocol was told, when the work is done: only reading tells whether there was anything to be read.
    #[cold]
    pub(crate) fn known<'py>(&self, py: Python<'py>, told: Told<'py>) -> Told<'py> {
        let delivered = matches!(told.name, "data_received" | "buffer_updated");
        let ended = delivered && self.state.with(py, |state| state.ended);
        Told { name: if ended { "eof_received" } else { told.name }, ..told }
    }

    /// The loop, until the connection is lost.
    fn event_loop(&self, py: Python<'_>) -> Option<Py<LoopCore>> {
        self.state.with(py, |state| state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py)))
    }

    /// True once the transport was closed or its connection lost.
    pub(crate) fn is_closing(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.closing)
    }

    /// Queues work of the stream's. Raises `RuntimeError` if the loop is closed.
    fn queue(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>, work: StreamWork) -> PyResult<()> {
        let core = event_loop.get();
        core.check_open()?;
        let py = event_loop.py();
        core.push(py, Work::Stream(this.clone_ref(py), work));
        Ok(())
    }

    /// Reports what the protocol did wrong, or what went wrong with the connection, and closes it at once
    /// (`_SelectorTransport._fatal_error`). What ends the run leaves.
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
        let protocol = this.get().state.with(py, |state| state.protocol.as_ref().map(|it| it.clone_ref(py)));
        let exception = error.into_value(py).into_any();
        REPORT.get(py)?.call1((event_loop, this.bind(py), protocol, &exception, message))?;
        Self::force_close(this, event_loop, Some(exception))
    }

    /// Tells the loop's exception handler of a failure that does not concern the connection.
    #[cold]
    fn report(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        error: PyErr,
        message: &str,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let protocol = this.get().state.with(py, |state| state.protocol.as_ref().map(|it| it.clone_ref(py)));
        report_failure(event_loop, Some(this.clone_ref(py).into_any()), protocol, error, message)
    }
}

impl Traced for Stream {
    fn introduce(&self, py: Python<'_>) -> (TransportKind, String) {
        let (protocol, kind, peer) = self.state.with(py, |state| {
            let protocol = state.protocol.as_ref().map(|protocol| protocol.clone_ref(py));
            (protocol, state.names.kind(), state.names.peer())
        });
        let is_tls = protocol.is_some_and(|protocol| Object::<Tls>::from_any(protocol.bind(py)).is_some());
        (if is_tls { TransportKind::Tls } else { kind }, peer.describe())
    }
}

impl State {
    fn audience(&self, py: Python<'_>) -> Option<Audience> {
        Audience::of(py, self.protocol.as_ref(), self.context.as_ref())
    }

    fn fd(&self) -> Option<RawFd> {
        self.descriptor.as_ref().map(|descriptor| descriptor.as_fd().as_raw_fd())
    }

    /// True if the protocol is still the one that `audience` was taken from.
    fn is_audience(&self, audience: &Audience) -> bool {
        self.protocol.as_ref().is_some_and(|protocol| protocol.is(&audience.protocol))
    }

    /// True if reading is what the protocol wants.
    fn is_reading(&self) -> bool {
        !self.closing && !self.paused
    }
}
