//! Operations in, completions out.
//!
//! One interface, [`Driver`], over two backends, a file each: `uring` and `epoll`. The caller names each operation
//! by a [`Key`] of its own, which every completion of the operation carries, and gets an [`Operation`] back by
//! which it can cancel.

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

use crate::inbox::Waker;

/// The caller's name for an operation; carried by each of its completions. The driver does not interpret it, nor
/// does it ask that keys be unique: a caller that reuses slots puts a generation into the key and drops
/// completions whose key is out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

/// The driver's name for an operation under way, by which it is cancelled. Never reused within a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operation(u64);

/// What a [`Driver::watch`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Interest {
    /// The descriptor can be read, was hung up or failed.
    Readable,
    /// The descriptor can be written, was hung up or failed.
    Writable,
}

/// Memory that a send operation owns until its completion arrives.
///
/// # Safety
///
/// The memory that `slices` names must stay valid and unchanged, also when `self` is moved, for as long as
/// `self` lives.
pub unsafe trait Payload {
    /// Appends the addresses and lengths of what is to be sent, in order.
    fn slices(&self, into: &mut Vec<libc::iovec>);
}

/// Received bytes in a buffer of the driver's; dropping it gives the buffer back.
#[derive(Debug)]
pub struct Chunk {}

/// What a [`Driver::receive`] has to say.
#[derive(Debug)]
pub enum Received {
    /// Bytes, already out of the kernel (`io_uring`). Never empty.
    Data(Chunk),
    /// There is something to be read, and the caller reads it, without blocking: bytes, the end of the stream or
    /// an error (`epoll`). Said again at the next wait for as long as something is left.
    Waiting,
    /// The peer has shut down its sending side. The operation is over.
    End,
    /// The receive failed. The operation is over.
    Failed(io::Error),
    /// The operation was cancelled and nothing more will come. Only after [`Driver::cancel`].
    Stopped,
}

/// What happened.
#[derive(Debug)]
pub enum Event<P> {
    /// A watched descriptor is ready. Level-triggered: said again at the next wait for as long as it stays so and
    /// the watch is not cancelled.
    Ready,
    /// A receive operation's progress.
    Received(Received),
    /// A connection was accepted (non-blocking and close-on-exec), or accepting failed. After a failure the operation
    /// goes on, and fails again at the next wait if its cause lasts: pausing is up to the caller.
    Accepted(io::Result<OwnedFd>),
    /// A send is done: how many bytes the kernel took (maybe fewer than all), or why none (`WouldBlock` if there
    /// was no room). The payload comes back either way.
    Sent {
        /// What was to be sent.
        payload: P,
        /// Bytes taken.
        result: io::Result<usize>,
    },
}

/// An event and the key of the operation that it belongs to.
#[derive(Debug)]
pub struct Completion<P> {
    /// The key that the operation was started with.
    pub key: Key,
    /// What happened.
    pub event: Event<P>,
}

/// Which backend to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Choice {
    /// `io_uring` where the kernel gives a ring with all that is needed, else `epoll`, silently.
    #[default]
    Automatic,
    /// `epoll` only.
    Epoll,
    /// `io_uring` or an error.
    Uring,
}

/// Submits operations to the kernel and collects their completions.
pub struct Driver<P> {
    _waker: Arc<Waker>,
    _payload: std::marker::PhantomData<P>,
}

impl<P: Payload> Driver<P> {
    /// A driver that is woken through `waker`. Makes no system call but, for [`Choice::Uring`], the probe (once a
    /// process) whether rings are to be had: the backend itself is made when the first operation asks for it.
    pub fn new(_choice: Choice, _waker: Arc<Waker>) -> io::Result<Self> {
        todo!()
    }

    /// The backend's name as `WHILST_DRIVER` spells it: `"io_uring"` or `"epoll"`.
    pub fn name(&self) -> &'static str {
        todo!()
    }

    /// Receives from a stream socket, on and on, until the end of the stream, a failure or [`Driver::cancel`].
    pub fn receive(&mut self, _fd: RawFd, _key: Key) -> io::Result<Operation> {
        todo!()
    }

    /// Accepts connections, on and on, at most `burst` of them a wait where the backend can bound it.
    pub fn accept(&mut self, _fd: RawFd, _burst: usize, _key: Key) -> io::Result<Operation> {
        todo!()
    }

    /// Says [`Event::Ready`] at every wait at which `fd` is ready, until cancelled.
    pub fn watch(&mut self, _fd: RawFd, _interest: Interest, _key: Key) -> io::Result<Operation> {
        todo!()
    }

    /// Sends to a socket, once, without waiting for room. With `epoll` the send happens now and the event (always
    /// [`Event::Sent`]) is returned; with `io_uring` it is submitted by the next [`Driver::wait`], which also
    /// returns its completion: it never outlives that wait.
    pub fn send(&mut self, _fd: RawFd, _key: Key, _payload: P) -> Option<Event<P>> {
        todo!()
    }

    /// Asks for the end of an operation. Call it before closing the descriptor. Completions of the operation may
    /// still arrive until the next wait has returned and, for a receive, until [`Received::Stopped`] (what the
    /// kernel had received is handed over before it). Unknown and finished operations are ignored.
    pub fn cancel(&mut self, _operation: Operation) {
        todo!()
    }

    /// As [`Driver::cancel`], and when it returns the kernel has let go of the descriptor: once it is closed its
    /// port can be bound again and its peer sees the end.
    pub fn cancel_now(&mut self, _operation: Operation) -> io::Result<()> {
        todo!()
    }

    /// Submits what is outstanding and appends what completed. Blocks up to `timeout` (`None`: without end) when
    /// nothing is there yet; returns early when woken ([`Waker`]) or interrupted by a signal, then maybe with
    /// nothing.
    pub fn wait(&mut self, _timeout: Option<Duration>, _completions: &mut Vec<Completion<P>>) -> io::Result<()> {
        todo!()
    }
}
