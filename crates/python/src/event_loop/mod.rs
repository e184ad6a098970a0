//! `LoopCore`: the part of `whilst.Loop` that runs once a callback or once a packet, a file a group of methods.
//!
//! The class `whilst.Loop` is made in Python, of this one, of the methods that are coroutines by nature, and of
//! `asyncio.AbstractEventLoop`.

pub(crate) mod connecting;
pub(crate) mod contexts;
pub(crate) mod forking;
pub(crate) mod iteration;
pub(crate) mod lifecycle;
pub(crate) mod metrics;
pub(crate) mod observing;
pub(crate) mod readiness;
pub(crate) mod registry;
pub(crate) mod scheduling;
pub(crate) mod sendfile;
pub(crate) mod servers;
pub(crate) mod signals;
pub(crate) mod sockets;
pub(crate) mod tasks;
pub(crate) mod waiting;
pub(crate) mod watchdog;

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::os::fd::RawFd;
use std::sync::Arc;
#[cfg(Py_GIL_DISABLED)]
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, AtomicU64, Ordering};

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::PyDict;
use whilst_engine::driver::{Choice, Completion, Driver, FileEvent, Interest, Key, Operation};
use whilst_engine::inbox::{Inbox, Waker};
use whilst_engine::ready::ReadyQueue;
use whilst_engine::timers::{TimerKey, Timers};

use self::contexts::Contexts;
use self::metrics::{Clockwork, Counters, Counts};
use self::readiness::{Span, Watches};
use self::registry::{Registry, Source};
use self::scheduling::now;
use self::sendfile::Sendfile;
use self::sockets::SocketWait;
use self::waiting::Patience;
use self::watchdog::Guard;
use crate::ffi::bytes::Unfinished;
use crate::ffi::class::Object;
use crate::ffi::guarded::Guarded;
use crate::handle::{Handle, ThreadSafeHandle, TimerHandle, visit_queued};
use crate::trace;
use crate::transport::datagram::{Datagram, DatagramWork};
use crate::transport::outgoing::Outgoing;
use crate::transport::pipe::{PipeWork, ReadPipe, WritePipe};
use crate::transport::stream::{Stream, StreamWork};

/// Something for each of some descriptors.
pub(crate) type DescriptorMap<T> = HashMap<RawFd, T, BuildHasherDefault<DescriptorHasher>>;

/// Spreads descriptors, small numbers that the kernel chooses, over a table: no program can make them collide.
#[derive(Default)]
pub(crate) struct DescriptorHasher(u64);

impl Hasher for DescriptorHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = (self.0 << 8) ^ u64::from(*byte));
    }

    fn write_i32(&mut self, descriptor: i32) {
        // The golden ratio's bits (Fibonacci hashing), for the table looks at the upper ones, too.
        self.0 = u64::from(descriptor.cast_unsigned()).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

/// What one iteration runs.
pub(crate) enum Work {
    /// A callback.
    Handle(Object<Handle>),
    /// A callback that `call_soon_threadsafe` has sent, where that makes handles of another class.
    ThreadSafe(Object<ThreadSafeHandle>),
    /// A callback whose time has come.
    Timer(Object<TimerHandle>),
    /// A stream transport has something to do of its own.
    Stream(Object<Stream>, StreamWork),
    /// A datagram transport has something to do of its own.
    Datagram(Object<Datagram>, DatagramWork),
    /// A socket has room for more of a file.
    Sendfile(Py<Sendfile>),
    /// A socket that a task waits for is ready, as the watch with this key has said.
    Socket(Py<SocketWait>, Key),
    /// A connection was accepted, or accepting failed.
    Accepted(Key, std::io::Result<std::os::fd::OwnedFd>),
    /// The reading end of a pipe has something to do of its own.
    ReadPipe(Object<ReadPipe>, PipeWork),
    /// The writing end of a pipe has something to do of its own.
    WritePipe(Object<WritePipe>, PipeWork),
    /// A file operation is done.
    File(Key, Box<FileEvent>),
}

// A loop with many callbacks pending is as fast as its queue is small.
const _: () = assert!(size_of::<Work>() <= 32);

impl Work {
    fn traverse(&self, visit: &mut impl FnMut(&Py<PyAny>)) {
        match self {
            Self::Handle(handle) => visit_queued(handle, visit),
            Self::ThreadSafe(handle) => visit_queued(handle, visit),
            Self::Timer(handle) => visit_queued(handle, visit),
            Self::Stream(stream, work) => {
                visit(stream.as_py());
                work.traverse(visit);
            }
            Self::Datagram(transport, work) => {
                visit(transport.as_py());
                work.traverse(visit);
            }
            Self::ReadPipe(pipe, work) => {
                visit(pipe.as_py());
                work.traverse(visit);
            }
            Self::WritePipe(pipe, work) => {
                visit(pipe.as_py());
                work.traverse(visit);
            }
            Self::Sendfile(sendfile) => visit(sendfile.as_any()),
            Self::Socket(wait, _) => visit(wait.as_any()),
            Self::Accepted(..) | Self::File(..) => {}
        }
    }
}

/// What the loop's thread works on.
pub(crate) struct State {
    pub(crate) ready: ReadyQueue<Work>,
    pub(crate) timers: Timers<Object<TimerHandle>>,
    pub(crate) registry: Registry,
    /// Lent out while the loop waits: who finds none then is on another thread. In a box, since it is large and goes to and fro.
    pub(crate) driver: Option<Box<Driver<Outgoing>>>,
    /// The readers and writers by descriptor.
    pub(crate) watches: DescriptorMap<Watches>,
    /// The open transports by descriptor, so that `add_reader` cannot take their events away.
    pub(crate) transports: DescriptorMap<Key>,
    /// The listening sockets by descriptor.
    pub(crate) acceptors: DescriptorMap<Key>,
    /// The streams that have something to send when the iteration ends.
    pub(crate) unsent: Vec<Object<Stream>>,
    /// Where large reads go on their way to `bytes`, shared by all connections of the loop.
    pub(crate) scratch: Vec<u8>,
    /// Memory of a `sock_recv` that it was not needed for.
    spare_bytes: Option<Unfinished>,
    /// What other threads have asked to be watched while the driver was lent out.
    watched_meanwhile: Vec<(RawFd, Interest, Key, Span)>,
    /// What other threads have cancelled while the driver was lent out.
    cancelled_meanwhile: Vec<Operation>,
    contexts: Contexts,
    /// Kept between waits for its memory.
    completions: Vec<Completion<Outgoing>>,
    counts: Counts,
}

/// The core of `whilst.Loop`.
#[pyclass(subclass, frozen, module = "whilst._whilst")]
pub(crate) struct LoopCore {
    pub(crate) state: Guarded<State>,
    /// Callbacks, and nothing else.
    inbox: Inbox<Work>,
    patience: Guarded<Patience>,
    counters: Arc<Counters>,
    clockwork: Guarded<Clockwork>,
    /// The thread that runs the loop, 0 for none.
    thread: AtomicU64,
    /// Whether that is the main thread, whose waits end for signals.
    main_thread: AtomicBool,
    /// The descriptor that CPython wrote signals to when the last such wait began, if it was not the loop's.
    others_wakeup: AtomicI32,
    /// The same thread, as CPython knows it.
    #[cfg(Py_GIL_DISABLED)]
    thread_mark: AtomicUsize,
    /// Who looks on: bits of [`observing`].
    watchers: AtomicU8,
    guard: Guard,
    /// Pieces of work, counted while [`observing::SUSPECTED`].
    pieces: AtomicU32,
    /// Where the loop is in the [trace](crate::trace) that it was last in.
    pub(crate) lane: AtomicU64,
    closed: AtomicBool,
    stopping: AtomicBool,
    /// Since the last wait nothing was done but that `asyncio.StreamReader`s were fed with all that there was for them.
    untouched: AtomicBool,
    /// What `set_task_factory` was given.
    task_factory: Guarded<Option<Py<PyAny>>>,
    /// In debug mode, the handle that runs now.
    current_handle: Guarded<Option<Py<PyAny>>>,
    /// While the loop runs, `{"loop": self}`: the keywords that futures are made with.
    future_keywords: Guarded<Option<Py<PyDict>>>,
    pub(crate) driver_name: &'static str,
}

#[pymethods]
impl LoopCore {
    /// A loop over the driver that the environment variable `WHILST_DRIVER` names, or the best there is.
    ///
    /// Raises `ValueError` if there is no such driver here.
    #[new]
    #[pyo3(signature = (*_args, **_kwargs))]
    fn new(
        py: Python<'_>,
        _args: &Bound<'_, pyo3::types::PyTuple>,
        _kwargs: Option<&Bound<'_, pyo3::types::PyDict>>,
    ) -> PyResult<Self> {
        let _ = py;
        let choice = match std::env::var("WHILST_DRIVER") {
            Ok(name) => Choice::from_name(&name)
                .map_err(|error| PyValueError::new_err(format!("WHILST_DRIVER: {error}")))?,
            Err(_) => Choice::Automatic,
        };
        let waker = Arc::new(Waker::default());
        let driver = Driver::new(choice, Arc::clone(&waker))
            .map_err(|error| PyValueError::new_err(format!("WHILST_DRIVER: {error}")))?;
        let driver_name = driver.name();
        Ok(Self {
            state: Guarded::new(State {
                ready: ReadyQueue::new(),
                timers: Timers::new(),
                registry: Registry::default(),
                driver: Some(Box::new(driver)),
                watches: DescriptorMap::default(),
                transports: DescriptorMap::default(),
                acceptors: DescriptorMap::default(),
                unsent: Vec::new(),
                scratch: Vec::new(),
                spare_bytes: None,
                watched_meanwhile: Vec::new(),
                cancelled_meanwhile: Vec::new(),
                contexts: Contexts::default(),
                completions: Vec::new(),
                counts: Counts::default(),
            }),
            inbox: Inbox::new(waker),
            patience: Guarded::new(Patience::default()),
            counters: Arc::default(),
            clockwork: Guarded::new(Clockwork::default()),
            thread: AtomicU64::new(0),
            main_thread: AtomicBool::new(false),
            others_wakeup: AtomicI32::new(whilst_engine::signals::NONE),
            #[cfg(Py_GIL_DISABLED)]
            thread_mark: AtomicUsize::new(0),
            watchers: AtomicU8::new(if trace::is_on() { observing::TRACE } else { 0 }),
            guard: Guard::new()?,
            pieces: AtomicU32::new(0),
            lane: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            untouched: AtomicBool::new(false),
            task_factory: Guarded::new(None),
            current_handle: Guarded::new(None),
            future_keywords: Guarded::new(None),
            driver_name,
        })
    }

    /// The name of the driver underneath: `"io_uring"` or `"epoll"`.
    #[getter]
    fn driver(&self, py: Python<'_>) -> &'static str {
        // While the loop waits, or once it is closed, what it was at first: a fallback to epoll comes with the first operation.
        self.state
            .with(py, |state| state.driver.as_ref().map(|driver| driver.name()))
            .unwrap_or(self.driver_name)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        // A visit that fails ends the traversal; the closures below cannot return early, so they remember.
        let mut result = Ok(());
        let mut see = |object: &Py<PyAny>| {
            if result.is_ok() {
                result = visit.call(object);
            }
        };
        self.state.try_with(|state| {
            state.ready.iter().for_each(|work| work.traverse(&mut see));
            state.timers.iter().for_each(|timer| visit_queued(timer, &mut see));
            state.registry.traverse(&mut see);
            state.contexts.iter().for_each(&mut see);
            state.unsent.iter().for_each(|stream| see(stream.as_py()));
        });
        self.inbox.for_each(|work| work.traverse(&mut see));
        self.task_factory.try_with(|factory| factory.as_ref().map(&mut see));
        self.current_handle.try_with(|handle| handle.as_ref().map(&mut see));
        self.guard.traverse(&mut see);
        self.future_keywords.try_with(|keywords| keywords.as_ref().map(|it| see(it.as_any())));
        result
    }

    fn __clear__(&self, py: Python<'_>) {
        self.drop_contents(py);
        drop(self.task_factory.with(py, Option::take));
        drop(self.current_handle.with(py, Option::take));
        self.guard.clear(py);
        drop(self.future_keywords.with(py, Option::take));
    }
}

impl LoopCore {
    /// Raises `RuntimeError` if the loop is closed.
    #[inline]
    pub(crate) fn check_open(&self) -> PyResult<()> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(PyRuntimeError::new_err("Event loop is closed"));
        }
        Ok(())
    }

    /// Queues work for the next iteration, behind what other threads have sent before: callbacks run in the order in which they
    /// were scheduled, whoever did.
    #[inline]
    pub(crate) fn push(&self, py: Python<'_>, work: Work) {
        self.take_inbox(py);
        let waits = self.state.with(py, |state| {
            state.ready.push(work);
            state.driver.is_none()
        });
        // If so this is another thread, or the loop is closed. A wake that is noted already is for the wait that goes on now: what
        // came before this wait was seen under the same lock as the driver taken, and the next wait will see what is queued here.
        if waits && !self.inbox.waker().is_notified() {
            self.wake();
        }
    }

    /// Wakes the loop if it waits.
    pub(crate) fn wake(&self) {
        self.inbox.waker().wake();
    }

    /// True while the loop waits, which only another thread can see.
    pub(crate) fn is_waiting(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.driver.is_none()) && !self.closed.load(Ordering::Relaxed)
    }

    /// True if an iteration that began now would find nothing to run but what the wait brings.
    pub(crate) fn is_idle(&self, py: Python<'_>) -> bool {
        let is_idle = |state: &mut State| {
            state.ready.is_empty() && state.timers.next_deadline().is_none_or(|deadline| deadline > now())
        };
        !self.stopping.load(Ordering::Relaxed) && self.inbox.is_empty() && self.state.with(py, is_idle)
    }

    /// True if the loop is idle and has nothing to send either.
    #[inline]
    fn may_block(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.ready.is_empty() && state.unsent.is_empty()) && self.is_idle(py)
    }

    /// Looks into the driver. Raises `RuntimeError` while the loop waits, which only another thread can see.
    pub(crate) fn with_driver<R>(
        &self,
        py: Python<'_>,
        look: impl FnOnce(&mut Driver<Outgoing>) -> R,
    ) -> PyResult<R> {
        self.state
            .with(py, |state| state.driver.as_mut().map(|driver| look(driver)))
            .ok_or_else(|| PyRuntimeError::new_err(WRONG_THREAD))
    }

    /// Cancels an operation: now or, where the loop waits and so this is another thread (the garbage collector runs in any, and
    /// closes transports), as soon as it is awake. Then it is woken.
    pub(crate) fn cancel(&self, py: Python<'_>, operation: Operation) {
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        let waits = self.state.with(py, |state| match &mut state.driver {
            Some(driver) => {
                driver.cancel(operation);
                false
            }
            None => {
                state.cancelled_meanwhile.push(operation);
                true
            }
        });
        if waits {
            self.wake();
        }
    }

    /// Lists a stream as one with something to send. A loop that waits (so this is another thread) is woken for it; with one
    /// that is closed the stream sends now, as CPython's transports do.
    pub(crate) fn list_unsent(this: &Bound<'_, Self>, stream: &Object<Stream>) {
        let py = this.py();
        let core = this.get();
        if core.closed.load(Ordering::Relaxed) {
            Stream::send_now(stream, this);
            return;
        }
        let waits = core.state.with(py, |state| {
            state.unsent.push(stream.clone_ref(py));
            state.driver.is_none()
        });
        if waits {
            core.wake();
        }
    }

    /// Forgets a timer that was cancelled.
    pub(crate) fn forget_timer(&self, py: Python<'_>, key: TimerKey) {
        let timer = self.state.with(py, |state| state.timers.cancel(key));
        drop(timer);
    }

    /// Drops all that is queued, registered and under way.
    fn drop_contents(&self, py: Python<'_>) {
        let (ready, timers, others) = self.state.with(py, |state| {
            (
                std::mem::replace(&mut state.ready, ReadyQueue::new()),
                std::mem::replace(&mut state.timers, Timers::new()),
                (
                    state.registry.drain(),
                    std::mem::take(&mut state.watches),
                    std::mem::take(&mut state.transports),
                    std::mem::take(&mut state.acceptors),
                    std::mem::take(&mut state.unsent),
                    std::mem::take(&mut state.contexts),
                    state.driver.take(),
                ),
            )
        });
        let inbox = self.inbox.close();
        // Somebody may hold these, and from here on nobody shows the collector what they refer to but they themselves.
        for work in ready.iter().chain(&inbox) {
            match work {
                Work::Handle(handle) => handle.track(py),
                Work::ThreadSafe(handle) => handle.track(py),
                Work::Timer(timer) => timer.track(py),
                Work::Stream(..)
                | Work::Datagram(..)
                | Work::Sendfile(_)
                | Work::Socket(..)
                | Work::Accepted(..)
                | Work::File(..)
                | Work::ReadPipe(..)
                | Work::WritePipe(..) => {}
            }
        }
        for source in &others.0 {
            if let Source::Sendfile(sendfile) = source {
                sendfile.get().abandon(py);
            }
        }
        timers.iter().for_each(|timer| timer.track(py));
        drop((ready, timers, inbox, others));
        // A loop that is closed has no descriptor, although somebody may refer to it for long.
        self.inbox.waker().close();
    }
}

/// What CPython says in debug mode when a loop is used from another thread (`BaseEventLoop._check_thread`).
pub(crate) const WRONG_THREAD: &str =
    "Non-thread-safe operation invoked on an event loop other than the current one";

/// This thread's name: never 0, and no other thread's while this one lives.
#[inline]
pub(crate) fn this_thread() -> u64 {
    thread_local!(static MARK: u8 = const { 0 });
    MARK.with(|mark| std::ptr::from_ref(mark).addr() as u64)
}
