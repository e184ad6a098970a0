//! What other threads want run, and how they wake a loop that sleeps.
//!
//! How no wake-up is lost: the loop empties its [`Inbox`] at the start of an iteration, and the wait that
//! may block later in that iteration first announces itself ([`Waker::announce_sleep`]). Whoever pushed in
//! between has left the waker notified, and a notified waker refuses the announcement, so that the wait does
//! not block. A wake stays noted until a wait has seen it, however early it came.
//!
//! How few system calls are made: `wake` writes to the eventfd only when it finds a loop that sleeps, so a
//! burst of pushes costs one write at most, and none at all while the loop runs. The eventfd is not even
//! made before the first wait that blocks.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use rustix::event::{EventfdFlags, eventfd};

use crate::driver;
use crate::signals::SignalPipe;

/// Nobody sleeps, nobody has called.
const AWAKE: u8 = 0;
/// The loop blocks, or is about to, and must be told through the eventfd.
const SLEEPING: u8 = 1;
/// Somebody has called since the last wait.
const NOTIFIED: u8 = 2;

/// Wakes a driver that blocks in its wait; shared between threads.
#[derive(Debug, Default)]
pub struct Waker {
    state: AtomicU8,
    /// Behind a lock, so that it is not closed while somebody writes to its number. Who wakes takes the lock
    /// only where there is a sleeper to be told.
    descriptor: Mutex<Option<Arc<OwnedFd>>>,
    /// The process that the eventfd was made in or for ([`driver::process`]).
    process: AtomicU32,
    /// How many wakes waits have taken note of.
    wakes: AtomicU64,
    signals: SignalPipe,
}

impl Waker {
    /// A waker without an eventfd yet.
    pub const fn new() -> Self {
        Self {
            state: AtomicU8::new(AWAKE),
            descriptor: Mutex::new(None),
            process: AtomicU32::new(0),
            wakes: AtomicU64::new(0),
            signals: SignalPipe::new(),
        }
    }

    /// Makes the driver's wait return: the one that blocks now, else the next one. From any thread.
    pub fn wake(&self) {
        // A read-modify-write, also when the state is NOTIFIED already: together with the sleeper's own it
        // orders what this thread did before against what the sleeper looks at after. A mere load would not.
        if self.state.swap(NOTIFIED, Ordering::AcqRel) == SLEEPING
            // In a forked child the sleeper is the parent's, and so is the eventfd.
            && self.process.load(Ordering::Relaxed) == driver::process()
            && let Some(place) = self.lock()
            && let Some(descriptor) = place.as_ref()
        {
            // It can only fail when the counter is full, and then the sleeper has been told often enough.
            let _ = rustix::io::write(descriptor, &1_u64.to_ne_bytes());
        }
    }

    /// Says that the caller is about to block on [`Waker::descriptor`]. `false`: it must not, somebody woke
    /// it since the last wait (the wake is consumed).
    pub fn announce_sleep(&self) -> bool {
        match self.state.compare_exchange(AWAKE, SLEEPING, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => true,
            Err(_) => {
                self.consume();
                false
            }
        }
    }

    /// Takes note of a wake, if there was one: a wait that returns for another reason, or does not block,
    /// has been woken too. Ends what [`Waker::announce_sleep`] began.
    pub fn consume(&self) -> bool {
        // The plain load spares a wait that does not block the locked instruction. It misses at most a wake
        // that is happening now, which the next wait then finds.
        let woken = self.state.load(Ordering::Relaxed) != AWAKE
            && self.state.swap(AWAKE, Ordering::AcqRel) == NOTIFIED;
        if woken {
            self.wakes.fetch_add(1, Ordering::Relaxed);
        }
        woken
    }

    /// How often a wait was woken, or did not begin because somebody had called. However many called meanwhile, it counts once.
    pub fn wakes(&self) -> u64 {
        self.wakes.load(Ordering::Relaxed)
    }

    /// Whether somebody has called since the last wait; takes no note of it.
    pub fn is_notified(&self) -> bool {
        self.state.load(Ordering::Acquire) == NOTIFIED
    }

    /// The eventfd (non-blocking, close-on-exec) that becomes readable when a sleeper is woken. Made by the
    /// first call.
    pub fn descriptor(&self) -> io::Result<Arc<OwnedFd>> {
        let mut place = self.lock().ok_or(io::ErrorKind::Deadlock)?;
        if let Some(descriptor) = place.as_ref() {
            return Ok(Arc::clone(descriptor));
        }
        self.process.store(driver::process(), Ordering::Relaxed);
        let made = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        *place = Some(Arc::clone(&made));
        Ok(made)
    }

    /// What lets signals end the waits.
    pub fn signals(&self) -> &SignalPipe {
        &self.signals
    }

    /// Closes the eventfd and the pipe for signals, for when nobody will wait any more. Wakes are then noted and nothing else; a wait makes
    /// another eventfd.
    pub fn close(&self) {
        self.signals.close();
        if let Some(mut place) = self.lock() {
            *place = None;
        }
    }

    /// The eventfd's place. `None` in a forked child whose parent was in another thread about to sleep just then: the lock came over
    /// locked, and the thread that would unlock it did not come.
    fn lock(&self) -> Option<MutexGuard<'_, Option<Arc<OwnedFd>>>> {
        match self.descriptor.try_lock() {
            Ok(place) => Some(place),
            Err(TryLockError::Poisoned(place)) => Some(place.into_inner()),
            Err(TryLockError::WouldBlock) if self.process.load(Ordering::Relaxed) != driver::process() => {
                None
            }
            Err(TryLockError::WouldBlock) => {
                Some(self.descriptor.lock().unwrap_or_else(PoisonError::into_inner))
            }
        }
    }

    /// Puts another eventfd in the place of the present one, under the same number: in a forked child, which
    /// shares the present one with its parent.
    pub(crate) fn renew(&self) -> io::Result<()> {
        let place = self.lock().ok_or(io::ErrorKind::Deadlock)?;
        self.process.store(driver::process(), Ordering::Relaxed);
        let Some(descriptor) = place.as_ref() else { return Ok(()) };
        let other = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        driver::replace_descriptor(descriptor, &other)
    }
}

/// Work handed over by other threads.
#[derive(Debug)]
pub struct Inbox<T> {
    waker: Arc<Waker>,
    work: Mutex<Work<T>>,
    /// How many items there may be: spares each iteration the lock.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Work<T> {
    items: Vec<T>,
    closed: bool,
}

impl<T> Inbox<T> {
    /// An empty inbox whose pushes wake through `waker`.
    pub const fn new(waker: Arc<Waker>) -> Self {
        Self {
            waker,
            work: Mutex::new(Work { items: Vec::new(), closed: false }),
            count: AtomicUsize::new(0),
        }
    }

    /// Hands over an item and wakes the loop. Gives the item back if the inbox is closed.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut work = self.lock();
        if work.closed {
            return Err(item);
        }
        let first = work.items.is_empty();
        work.items.push(item);
        self.count.store(work.items.len(), Ordering::Release);
        if !first {
            // Whoever found it empty wakes the loop, or has done so, and it takes what is here then.
            return Ok(());
        }
        drop(work);
        self.waker.wake();
        Ok(())
    }

    /// Moves everything to the end of `into`, in the order in which it was pushed.
    pub fn drain_into(&self, into: &mut Vec<T>) {
        if self.is_empty() {
            return;
        }
        let mut work = self.lock();
        self.count.store(0, Ordering::Relaxed);
        if into.is_empty() {
            std::mem::swap(into, &mut work.items);
        } else {
            into.append(&mut work.items);
        }
    }

    /// Whether there is nothing to drain.
    #[inline]
    pub fn is_empty(&self) -> bool {
        // Whoever pushes wakes after this is set, so who saw the wake sees it set, and who did not will not
        // block.
        self.len() == 0
    }

    /// How many items there are to drain, as far as it is known without the lock.
    #[inline]
    pub fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Calls `visit` for each item, in order, under the lock: it must not push to this inbox.
    pub fn for_each(&self, mut visit: impl FnMut(&T)) {
        self.lock().items.iter().for_each(&mut visit);
    }

    /// Refuses further pushes and returns what was there.
    pub fn close(&self) -> Vec<T> {
        let mut work = self.lock();
        work.closed = true;
        self.count.store(0, Ordering::Relaxed);
        std::mem::take(&mut work.items)
    }

    /// The waker that pushes wake through.
    pub fn waker(&self) -> &Arc<Waker> {
        &self.waker
    }

    fn lock(&self) -> MutexGuard<'_, Work<T>> {
        // Nothing is left half done when a panic unwinds through one of the short sections above.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
