//! The transports of pipes: one end each, for reading or for writing.
//!
//! A "pipe" is what asyncio calls so: a pipe, a FIFO, a socket of which one direction is used, a terminal or another character
//! device. All of them are waited for ([`Driver::watch`](whilst_engine::driver::Driver::watch)) and read or written by the system
//! call itself, at once where it is possible: what a program has written has left when `write()` returns, unless there is no room.
//!
//! [`reading`] and [`writing`] are the two ends, [`lifecycle`] is what they have in common, [`class`] their face to Python. What is
//! promised, in which order, and the words of what is reported are CPython's (`_UnixReadPipeTransport` and `_UnixWritePipeTransport`
//! in `asyncio/unix_events.py`). The loop refers to a transport while it watches for it and while it has something to do for it, and
//! not otherwise: one that is paused or idle and that nobody refers to is collected, with a warning.

mod capacity;
mod class;
mod lifecycle;
mod reading;
mod writing;

use std::os::fd::{BorrowedFd, RawFd};

use pyo3::prelude::*;
use pyo3::types::PyDict;
use whilst_engine::driver::{Interest, Key};

use self::class::Face;
use self::lifecycle::Kind;
use crate::event_loop::metrics::Open;
use crate::event_loop::observing::Traced;
use crate::event_loop::{LoopCore, Work};
use crate::ffi::class::{Attributes, Class, Object};
use crate::ffi::guarded::Guarded;
use crate::transport::audience::Audience;
use crate::transport::kind::TransportKind;
use crate::transport::told::Told;

pub(crate) use self::reading::Reading;
pub(crate) use self::writing::Writing;

/// The transport of one end of a pipe.
#[repr(C)]
pub(crate) struct Pipe<S> {
    /// First, where CPython looks for them.
    attributes: Attributes,
    state: Guarded<State<S>>,
}

/// The class `whilst.ReadPipeTransport`, an `asyncio.ReadTransport`.
pub(crate) type ReadPipe = Pipe<Reading>;

/// The class `whilst.WritePipeTransport`, an `asyncio.WriteTransport`.
pub(crate) type WritePipe = Pipe<Writing>;

pub(crate) struct State<S> {
    /// `None` once the connection is lost, so that no cycle keeps a dead transport alive.
    event_loop: Option<Py<LoopCore>>,
    protocol: Option<Py<PyAny>>,
    /// What the protocol's callbacks run in: a copy of the context that the transport was made in.
    context: Option<Py<PyAny>>,
    /// The object that owns the descriptor, until the transport has closed it.
    pipe: Option<Py<PyAny>>,
    fd: RawFd,
    extra: Option<Py<PyDict>>,
    /// Counts the transport, until the connection is lost.
    open: Option<Open>,
    /// No more is read, or taken to be written.
    closing: bool,
    /// The call of `connection_lost()` is queued, or has been.
    losing: bool,
    /// The watch for being readable: for bytes or, of the writing end, for the reader's hang-up.
    reader: Option<Key>,
    /// What only one of the two ends has.
    side: S,
}

/// One of the two ends.
pub(crate) trait Side: Face + Sized + Send + 'static {
    /// The name of the class, without its module.
    const NAME: &'static str;
    /// What CPython says of a descriptor that is none of the kinds above.
    const REFUSAL: &'static str;

    /// Where the class is kept.
    fn class() -> &'static Class;
    /// What is there at first.
    fn new(kind: Kind) -> Self;
    /// The watch for room, if there is one; it is the caller's to end.
    fn take_writer(&mut self) -> Option<Key>;
    /// Drops what is not written.
    fn drop_unwritten(&mut self);
    /// What `repr()` says of a transport that is open.
    fn describe(state: &State<Self>) -> String;
    /// The work of a transport, for the loop's queue.
    fn work(this: Object<Pipe<Self>>, work: PipeWork) -> Work;
    /// Begins to wait for what the transport is for. The protocol knows that it is connected.
    fn begin(this: &Object<Pipe<Self>>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()>;
    /// Which callback of the protocol is called when the descriptor is ready.
    fn told_when_ready(interest: Interest) -> &'static str;
    /// The descriptor is ready.
    fn ready(this: &Object<Pipe<Self>>, event_loop: &Bound<'_, LoopCore>, interest: Interest)
    -> PyResult<()>;
}

/// What a pipe's transport has to do of its own, in the loop's order.
pub(crate) enum PipeWork {
    /// Call `connection_made()`, then what [`PipeWork::Connected`] says.
    Connect(Option<Py<PyAny>>),
    /// Begin to wait, and wake who waits for the connection.
    Connected(Option<Py<PyAny>>),
    /// The descriptor is ready.
    Ready(Interest),
    /// Call `eof_received()`.
    Ended,
    /// Call `connection_lost()` with this exception.
    Lost(Option<Py<PyAny>>),
}

impl PipeWork {
    /// Shows the garbage collector what the work refers to.
    pub(crate) fn traverse(&self, visit: &mut impl FnMut(&Py<PyAny>)) {
        match self {
            Self::Connect(object) | Self::Connected(object) | Self::Lost(object) => {
                object.iter().for_each(visit)
            }
            Self::Ready(_) | Self::Ended => {}
        }
    }
}

impl<S> State<S> {
    fn audience(&self, py: Python<'_>) -> Option<Audience> {
        Audience::of(py, self.protocol.as_ref(), self.context.as_ref())
    }

    /// The descriptor, for one system call.
    fn borrow(&self) -> BorrowedFd<'_> {
        crate::ffi::descriptor::borrow(self.fd)
    }
}

impl<S: Side> Traced for Pipe<S> {
    fn introduce(&self, _py: Python<'_>) -> (TransportKind, String) {
        (TransportKind::Pipe, String::new())
    }
}

impl<S: Side> Pipe<S> {
    /// Does what the loop's queue held for it.
    pub(crate) fn perform(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        work: PipeWork,
    ) -> PyResult<()> {
        match work {
            PipeWork::Connect(waiter) => Self::connect(this, event_loop, waiter),
            PipeWork::Connected(waiter) => Self::connected(this, event_loop, waiter),
            PipeWork::Ready(interest) => S::ready(this, event_loop, interest),
            PipeWork::Ended => Self::ended(this, event_loop),
            PipeWork::Lost(exception) => Self::connection_lost(this, event_loop, exception),
        }
    }

    /// What the protocol is told by some work, for debug mode.
    #[cold]
    pub(crate) fn told<'py>(this: &Object<Self>, py: Python<'py>, work: &PipeWork) -> Told<'py> {
        let name = match work {
            PipeWork::Connect(_) | PipeWork::Connected(_) => "connection_made",
            PipeWork::Ready(interest) => S::told_when_ready(*interest),
            PipeWork::Ended => "eof_received",
            PipeWork::Lost(_) => "connection_lost",
        };
        let protocol =
            this.get().state.with(py, |state| state.protocol.as_ref().map(|it| it.bind(py).clone()));
        Told { transport: this.bind(py).clone().into_any(), protocol, name }
    }

    /// The loop, until the connection is lost.
    fn event_loop(&self, py: Python<'_>) -> Option<Py<LoopCore>> {
        self.state.with(py, |state| state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py)))
    }

    /// Queues work of the transport's. Raises `RuntimeError` if the loop is closed.
    fn queue(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>, work: PipeWork) -> PyResult<()> {
        let core = event_loop.get();
        core.check_open()?;
        let py = event_loop.py();
        core.push(py, S::work(this.clone_ref(py), work));
        Ok(())
    }
}
