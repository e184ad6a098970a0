//! Operations in, completions out.
//!
//! One interface, [`Driver`], over two backends, a file each: `uring` and `epoll`. The caller names each
//! operation by a [`Key`] of its own, which every completion of the operation carries, and gets an
//! [`Operation`] back by which it can cancel.

mod buffers;
mod epoll;
mod files;
mod operations;
mod origin;
mod readiness;
mod sys;
mod uring;

use std::io;
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use self::buffers::Chunk;
use self::epoll::Epoll;
use self::files::pool::{POOL, Pool};
pub use self::files::{File, FileEvent, FileOperation, Memory, Opened, Status, status};
use self::origin::Origin;
use self::uring::Uring;
use crate::inbox::Waker;

/// The caller's name for an operation; carried by each of its completions. The driver does not interpret it,
/// nor does it ask that keys be unique: a caller that reuses slots puts a generation into the key and drops
/// completions whose key is out of date.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

/// The driver's name for an operation under way, by which it is cancelled. Never reused within a driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operation(NonZeroU64);

impl Operation {
    /// The operation of this number; `None` for 0, which is no operation's.
    fn new(number: u64) -> Option<Self> {
        NonZeroU64::new(number).map(Self)
    }

    fn number(self) -> u64 {
        self.0.get()
    }

    /// The number with these bits set.
    fn with(self, bits: u64) -> Self {
        Self(self.0 | bits)
    }

    /// The operation whose number, with these bits set, this one has.
    fn without(self, bits: u64) -> Option<Self> {
        Self::new(self.number() & !bits)
    }
}

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

    /// Whether somebody waits for this send to be done: a writer that was paused, a close that is due after
    /// it.
    ///
    /// It decides what a [`Driver::wait`] does that submits the send and would block. `true`, the safe
    /// answer: the wait returns as soon as the send is done. `false`: it goes on waiting, in the same system
    /// call, for something else to happen, and says [`Event::Sent`] then. That is what saves a system call
    /// for each answer of a server; a send that fails or comes out short ends the wait in either case.
    fn awaited(&self) -> bool {
        true
    }
}

/// What a [`Driver::receive`] has to say.
#[derive(Debug)]
pub enum Received {
    /// Bytes, already out of the kernel (`io_uring`). Never empty.
    Data(Chunk),
    /// There is something to be read, and the caller reads it, without blocking: bytes, the end of the
    /// stream or an error (`epoll`, [`Driver::receive_directly`]). Said again at the next wait for as long as something is left.
    Waiting,
    /// The peer has shut down its sending side. The operation is over.
    End,
    /// The receive failed. The operation is over.
    Failed(io::Error),
    /// The operation was cancelled and nothing more will come. Only after [`Driver::cancel`], and only where
    /// neither [`Received::End`] nor [`Received::Failed`] came first.
    Stopped,
}

/// What happened.
#[derive(Debug)]
pub enum Event<P> {
    /// A watched descriptor is ready. Level-triggered: said again at the next wait for as long as it stays
    /// so and the watch is not cancelled; but once only of a [`Driver::watch_once`].
    Ready,
    /// A receive operation's progress.
    Received(Received),
    /// A connection was accepted (non-blocking and close-on-exec), or accepting failed. After a failure the
    /// operation goes on, and fails again at the next wait if its cause lasts: pausing is up to the caller.
    Accepted(io::Result<OwnedFd>),
    /// A send is done: how many bytes the kernel took (maybe fewer than all), or why none (`WouldBlock` if
    /// there was no room). The payload comes back either way.
    Sent {
        /// What was to be sent.
        payload: P,
        /// Bytes taken.
        result: io::Result<usize>,
    },
    /// A file operation is done. Each has exactly one such event.
    File(FileEvent),
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

/// What an operation waits for.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    fd: RawFd,
    key: Key,
    purpose: Purpose,
}

/// What is done when the descriptor is ready.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Watch(Interest),
    /// As a watch, and over once it has been said.
    WatchOnce(Interest),
    /// `direct`: it is only said that there is something, and the caller reads it.
    Receive {
        direct: bool,
    },
    Accept {
        burst: u32,
        pace: Pace,
    },
}

/// Whether to look for another connection behind the one that there is. A look in vain is not cheap: the kernel makes the socket
/// first.
#[derive(Clone, Copy, Debug, Default)]
struct Pace {
    /// The wait that last found a connection.
    wait: u32,
    /// That one was alone.
    alone: bool,
}

impl Purpose {
    /// Whether the operation is over when it has been said that the descriptor is ready.
    fn once(self) -> bool {
        matches!(self, Self::WatchOnce(_))
    }

    fn interest(self) -> Interest {
        match self {
            Self::Watch(interest) | Self::WatchOnce(interest) => interest,
            Self::Receive { .. } | Self::Accept { .. } => Interest::Readable,
        }
    }
}

/// A waker that nobody wakes through: for the polls of [`Driver::spin`], which would take note of a wake and say nothing of it.
static NOBODYS: Waker = Waker::new();

/// The drivers that this machine has, by the names that `WHILST_DRIVER` takes, the preferred one first.
pub fn available() -> Vec<&'static str> {
    match uring::available() {
        Ok(()) => vec!["io_uring", "epoll"],
        Err(_) => vec!["epoll"],
    }
}

/// How many forks lie between the first process that counted and this one: another number is another process.
pub(crate) fn process() -> u32 {
    Origin::process_here()
}

/// Makes `descriptor` refer to the open file of `other`, close-on-exec.
pub(crate) fn replace_descriptor(descriptor: &OwnedFd, other: &OwnedFd) -> io::Result<()> {
    // SAFETY: both numbers are open and owned by who passed them; the first stays owned by its owner.
    match unsafe { libc::dup3(other.as_raw_fd(), descriptor.as_raw_fd(), libc::O_CLOEXEC) } {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

impl Choice {
    /// What `WHILST_DRIVER` means by `name`: a driver, or automatic where it is empty.
    ///
    /// # Errors
    ///
    /// An unknown name; the message says which ones this machine has.
    pub fn from_name(name: &str) -> io::Result<Self> {
        match name {
            "" => Ok(Self::Automatic),
            "epoll" => Ok(Self::Epoll),
            "io_uring" => Ok(Self::Uring),
            _ => Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("unknown driver {name:?}; available here: {}", available().join(", ")),
            )),
        }
    }
}

/// Submits operations to the kernel and collects their completions.
pub struct Driver<P> {
    waker: Arc<Waker>,
    choice: Choice,
    backend: Backend<P>,
    /// Where the driver was made or last waited.
    origin: Origin,
    /// Descriptors of the payload that is being sent.
    slices: Vec<libc::iovec>,
    /// The threads for file operations that the backend has no way of its own for.
    pool: Option<Pool>,
    /// Set for the length of a [`Driver::spin`].
    spins: bool,
}

enum Backend<P> {
    /// No operation has asked for one.
    Unmade,
    Epoll(Epoll),
    Uring(Box<Uring<P>>),
}

// SAFETY: what is not `Send` of itself are addresses: of the slices of payloads that the driver owns and
// that move with it, and of message headers, used within one call.
unsafe impl<P: Send> Send for Driver<P> {}

impl<P> std::fmt::Debug for Driver<P> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Driver").field("choice", &self.choice).finish_non_exhaustive()
    }
}

/// Sends to a socket now, past any driver: how many bytes the kernel took, or `WouldBlock` if it has no room. Only for a
/// descriptor that has no send under way ([`Driver::send`]).
pub fn send_now(fd: RawFd, payload: &impl Payload) -> io::Result<usize> {
    let mut slices = Vec::new();
    payload.slices(&mut slices);
    // SAFETY: a payload's slices name readable memory for as long as it lives.
    unsafe { sys::send(fd, &slices) }
}

impl<P: Payload> Driver<P> {
    /// A driver that is woken through `waker`. Makes no system call but, for [`Choice::Uring`], the probe
    /// (once a process) whether rings are to be had: the backend itself is made when the first operation
    /// asks for it.
    pub fn new(choice: Choice, waker: Arc<Waker>) -> io::Result<Self> {
        Origin::watch_forks();
        if choice == Choice::Uring {
            uring::available().map_err(|reason| {
                let message =
                    format!("the driver \"io_uring\" is not available: {reason}; available here: epoll");
                io::Error::new(io::ErrorKind::Unsupported, message)
            })?;
        }
        Ok(Self {
            waker,
            choice,
            backend: Backend::Unmade,
            origin: Origin::here(),
            slices: Vec::new(),
            pool: None,
            spins: false,
        })
    }

    /// The backend's name as `WHILST_DRIVER` spells it: `"io_uring"` or `"epoll"`.
    ///
    /// It may change once with [`Choice::Automatic`], when a ring cannot be made after all (no descriptor or
    /// memory is left): `epoll` then takes over what is under way.
    pub fn name(&self) -> &'static str {
        match &self.backend {
            Backend::Epoll(_) => "epoll",
            Backend::Uring(_) => "io_uring",
            Backend::Unmade if self.prefers_ring() => "io_uring",
            Backend::Unmade => "epoll",
        }
    }

    /// Receives from a stream socket, on and on, until the end of the stream, a failure or
    /// [`Driver::cancel`].
    pub fn receive(&mut self, fd: RawFd, key: Key) -> io::Result<Operation> {
        self.start(Waiting { fd, key, purpose: Purpose::Receive { direct: false } })
    }

    /// As [`Driver::receive`], but that it is always the caller who reads: what there is is announced by
    /// [`Received::Waiting`], and [`Received::Data`] and [`Received::End`] never come. With `epoll` there is no
    /// difference.
    ///
    /// For connections on which much comes in: the caller reads straight into the memory where it wants the
    /// bytes, which saves copying them out of a [`Chunk`], for one system call more each time.
    pub fn receive_directly(&mut self, fd: RawFd, key: Key) -> io::Result<Operation> {
        self.start(Waiting { fd, key, purpose: Purpose::Receive { direct: true } })
    }

    /// Accepts connections, on and on, at most `burst` of them a wait where the backend can bound it.
    pub fn accept(&mut self, fd: RawFd, burst: usize, key: Key) -> io::Result<Operation> {
        self.start(Waiting {
            fd,
            key,
            purpose: Purpose::Accept {
                burst: u32::try_from(burst).unwrap_or(u32::MAX),
                pace: Pace::default(),
            },
        })
    }

    /// Says [`Event::Ready`] at every wait at which `fd` is ready, until cancelled.
    ///
    /// # Errors
    ///
    /// EBADF: `fd` is no open descriptor. EPERM: a file that is always ready, which cannot be waited for (a
    /// regular file, a directory).
    pub fn watch(&mut self, fd: RawFd, interest: Interest, key: Key) -> io::Result<Operation> {
        self.start(Waiting { fd, key, purpose: Purpose::Watch(interest) })
    }

    /// Says [`Event::Ready`] at the next wait at which `fd` is ready, and is over then.
    ///
    /// For a descriptor that is waited for again and again: the kernel keeps the registration, silenced, so that the next such
    /// operation costs one system call instead of two, and the end of this one none. Errors as for [`Driver::watch`].
    pub fn watch_once(&mut self, fd: RawFd, interest: Interest, key: Key) -> io::Result<Operation> {
        self.start(Waiting { fd, key, purpose: Purpose::WatchOnce(interest) })
    }

    /// Sends to a socket, once, without waiting for room. With `epoll` the send happens now and the event
    /// (always [`Event::Sent`]) is returned; with `io_uring` it is submitted by the next [`Driver::wait`],
    /// which also returns its completion: it never outlives that wait.
    ///
    /// One send a descriptor at a time: a second one would go out behind a first that came out short. And
    /// the descriptor must stay open until the completion: the number of a closed one may be another file's
    /// by then.
    pub fn send(&mut self, fd: RawFd, key: Key, payload: P) -> Option<Event<P>> {
        if let Err(error) = self.make_backend() {
            return Some(Event::Sent { payload, result: Err(error) });
        }
        if let Backend::Uring(uring) = &mut self.backend {
            uring.send(fd, key, payload);
            return None;
        }
        self.slices.clear();
        payload.slices(&mut self.slices);
        // SAFETY: the payload vouches for its slices for as long as it lives, which is until it is returned.
        let result = unsafe { sys::send(fd, &self.slices) };
        Some(Event::Sent { payload, result })
    }

    /// Does something to a file: with `io_uring` as an operation of the ring, which the next wait submits; with
    /// `epoll`, and where the ring does not know the operation, in one of a few threads.
    ///
    /// A file that can be polled ([`Status::pollable`]) may keep a read or a write waiting without end, and is
    /// better waited for by [`Driver::watch`]. Operations on one file are not done in any order, but for those that
    /// wait for each other's completions. They may outlive waits, and where a driver changes threads without having
    /// been detached those of a ring may end with EIO, done or not: see [`Driver::has_files`].
    ///
    /// # Errors
    ///
    /// No descriptor or memory is left for a backend.
    pub fn file(&mut self, operation: FileOperation, key: Key) -> io::Result<Operation> {
        self.make_backend()?;
        if let Backend::Uring(uring) = &mut self.backend
            && (uring::truncates() || !matches!(operation, FileOperation::Truncate { .. }))
        {
            return Ok(uring.file(operation, key));
        }
        Ok(self.pool.get_or_insert_with(|| Pool::new(&self.waker)).submit(operation, key))
    }

    /// Whether file operations are under way that only this thread can see to their end: whoever will not run the driver
    /// again here should detach it ([`Driver::detach`]).
    pub fn has_files(&self) -> bool {
        matches!(&self.backend, Backend::Uring(uring) if uring.has_files())
    }

    /// The payloads that the driver owns: of sends that no wait has submitted yet.
    pub fn payloads(&self) -> impl Iterator<Item = &P> {
        let uring = match &self.backend {
            Backend::Uring(uring) => Some(uring),
            Backend::Unmade | Backend::Epoll(_) => None,
        };
        uring.into_iter().flat_map(|uring| uring.payloads())
    }

    /// Asks for the end of an operation. Call it before closing the descriptor. Completions of the operation
    /// may still arrive until the next wait has returned and, for a receive, until [`Received::Stopped`]
    /// (what the kernel had received is handed over before it). Unknown and finished operations are ignored.
    ///
    /// A file operation ends with ECANCELED if it has not begun, else with whatever it comes to.
    pub fn cancel(&mut self, operation: Operation) {
        if operation.number() & POOL != 0 {
            if let Some(pool) = &mut self.pool {
                pool.cancel(operation);
            }
            return;
        }
        match &mut self.backend {
            Backend::Unmade => {}
            Backend::Epoll(epoll) => epoll.cancel(operation),
            Backend::Uring(uring) => uring.cancel(operation),
        }
    }

    /// As [`Driver::cancel`], and when it returns the kernel has let go of the descriptor: once it is closed
    /// its port can be bound again and its peer sees the end.
    ///
    /// With `io_uring` and in another thread than the one that waited last, the kernel lets go some time
    /// after (it took milliseconds where it was measured), unless the driver was detached:
    /// [`Driver::detach`].
    ///
    /// Of a file operation nothing more is promised than by [`Driver::cancel`].
    pub fn cancel_now(&mut self, operation: Operation) -> io::Result<()> {
        if operation.number() & POOL != 0 {
            self.cancel(operation);
            return Ok(());
        }
        match &mut self.backend {
            Backend::Unmade => Ok(()),
            Backend::Epoll(epoll) => {
                epoll.cancel(operation);
                Ok(())
            }
            Backend::Uring(uring) => uring.cancel_now(operation),
        }
    }

    /// Makes the kernel let go of all operations, which go on at the next wait, in whichever thread that is.
    /// Nothing that comes in meanwhile is lost.
    ///
    /// For the end of a run in a thread that will not run the driver again, because a ring can be taken
    /// apart at once only in its own thread. A driver that changes threads without it works as well, but the
    /// kernel lets go of what the old ring had under way some time later. With `epoll` it does nothing.
    pub fn detach(&mut self) -> io::Result<()> {
        match &mut self.backend {
            Backend::Unmade | Backend::Epoll(_) => Ok(()),
            Backend::Uring(uring) => uring.detach(),
        }
    }

    /// Forgets all operations and sends, in a forked child whose driver was in use when it was forked: what they are about is the
    /// parent's. Nothing will be said of any of them, but that file operations were cancelled, and their numbers are not used again.
    /// The kernel is not asked for anything that the parent would notice.
    pub fn forget(&mut self) {
        match &mut self.backend {
            Backend::Unmade => {}
            Backend::Epoll(epoll) => epoll.forget(),
            Backend::Uring(uring) => uring.forget(),
        }
    }

    /// Submits what is outstanding and appends what completed. Blocks up to `timeout` (`None`: without end)
    /// when nothing is there yet; returns early when woken ([`Waker`]) or interrupted by a signal, then
    /// maybe with nothing.
    ///
    /// # Errors
    ///
    /// What the kernel refuses for want of memory or descriptors. Nothing that is under way is lost then,
    /// but for sends, which have failed.
    pub fn wait(
        &mut self,
        timeout: Option<Duration>,
        completions: &mut Vec<Completion<P>>,
    ) -> io::Result<()> {
        self.settle()?;
        let Some(pool) = &mut self.pool else { return self.wait_on_backend(timeout, completions) };
        let begin = completions.len();
        pool.collect(completions);
        let timeout = if completions.len() > begin { Some(Duration::ZERO) } else { timeout };
        let result = self.wait_on_backend(timeout, completions);
        if let Some(pool) = &mut self.pool {
            pool.collect(completions);
        }
        result
    }

    /// Whether a wait that must not block would find nothing and change nothing, so that it may be left out.
    #[inline]
    pub fn is_idle(&self) -> bool {
        self.pool.is_none()
            && match &self.backend {
                Backend::Unmade => true,
                Backend::Epoll(epoll) => epoll.is_idle(),
                Backend::Uring(uring) => uring.is_idle(),
            }
    }

    /// Whether a wait that must not block would find nothing but what has come since the last one, provided that what that one told of
    /// was read to its end; so that it costs a system call, and may be left out once. (`false` with `io_uring`, where a wait that finds
    /// nothing makes none.)
    ///
    /// An end of a stream that lies behind bytes, or a failure, is not left out.
    #[inline]
    pub fn told_all(&self) -> bool {
        self.pool.is_none() && matches!(&self.backend, Backend::Epoll(epoll) if epoll.told_all())
    }

    /// As [`Driver::wait`], and blocks for nothing: it asks the kernel again and again, for up to `longest`. Returns
    /// early when something completed and when woken, but not for a signal.
    ///
    /// # Errors
    ///
    /// As [`Driver::wait`].
    pub fn spin(&mut self, longest: Duration, completions: &mut Vec<Completion<P>>) -> io::Result<()> {
        self.settle()?;
        let begin = Instant::now();
        let count = completions.len();
        self.spins = true;
        let result = loop {
            let polled = self.wait(Some(Duration::ZERO), completions);
            let found = completions.len() > count || self.waker.is_notified();
            if found || polled.is_err() || begin.elapsed() >= longest {
                break polled;
            }
            std::hint::spin_loop();
        };
        self.spins = false;
        self.waker.consume();
        result
    }

    fn wait_on_backend(
        &mut self,
        timeout: Option<Duration>,
        completions: &mut Vec<Completion<P>>,
    ) -> io::Result<()> {
        let waker = if self.spins { &NOBODYS } else { &*self.waker };
        match &mut self.backend {
            Backend::Unmade => sys::wait_for_waker(timeout, waker),
            Backend::Epoll(epoll) => epoll.wait(timeout, waker, completions),
            Backend::Uring(uring) => match uring.prepare() {
                Ok(()) if uring.waits_on_ring() => uring.wait(timeout, waker, completions),
                Ok(()) => uring.wait_without_ring(timeout, waker, completions),
                Err(_) if self.choice == Choice::Automatic => self.fall_back(timeout, completions),
                Err(error) => {
                    uring.fail_sends(completions);
                    Err(error)
                }
            },
        }
    }

    /// Goes on with epoll, and waits there.
    #[cold]
    fn fall_back(
        &mut self,
        timeout: Option<Duration>,
        completions: &mut Vec<Completion<P>>,
    ) -> io::Result<()> {
        let Backend::Uring(uring) = &mut self.backend else { return Ok(()) };
        let mut epoll = match Epoll::new() {
            Ok(epoll) => epoll,
            Err(error) => {
                uring.fail_sends(completions);
                return Err(error);
            }
        };
        let begin = completions.len();
        epoll.adopt(uring.dissolve(completions));
        let files = uring.dissolve_files();
        if !files.is_empty() {
            let pool = self.pool.get_or_insert_with(|| Pool::new(&self.waker));
            for (operation, key) in files {
                pool.submit(operation, key);
            }
        }
        let timeout = if completions.len() > begin { Some(Duration::ZERO) } else { timeout };
        let waker = if self.spins { &NOBODYS } else { &*self.waker };
        let result = epoll.wait(timeout, waker, completions);
        self.backend = Backend::Epoll(epoll);
        result
    }

    fn start(&mut self, waiting: Waiting) -> io::Result<Operation> {
        self.make_backend()?;
        match &mut self.backend {
            Backend::Unmade => unreachable!("made above"),
            Backend::Epoll(epoll) => epoll.start(waiting),
            Backend::Uring(uring) => uring.start(waiting),
        }
    }

    fn make_backend(&mut self) -> io::Result<()> {
        if matches!(self.backend, Backend::Unmade) {
            self.backend = if self.prefers_ring() {
                Backend::Uring(Box::new(Uring::new()))
            } else {
                Backend::Epoll(Epoll::new()?)
            };
        }
        Ok(())
    }

    fn prefers_ring(&self) -> bool {
        match self.choice {
            Choice::Automatic => uring::available().is_ok(),
            Choice::Epoll => false,
            Choice::Uring => true,
        }
    }

    /// Gives a forked child an eventfd of its own: else it would take the parent's wakes, and the parent its.
    fn settle(&mut self) -> io::Result<()> {
        let here = Origin::here();
        if self.origin.process != here.process {
            self.waker.renew()?;
            self.origin = here;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
