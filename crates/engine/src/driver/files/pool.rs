//! The threads that wait for disks where there is no ring.
//!
//! At most [`THREADS`], started when there is work that nobody is free for, ended when there was none for
//! [`IDLE`] or when the driver ends. What they have done they put down for the driver to collect, and wake it.
//!
//! A forked child has none of the threads, while its copy of what they share may be locked for ever: a child
//! leaves that alone, reports what was under way as cancelled, and starts threads of its own when it needs them.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::super::operations::Table;
use super::super::origin::Origin;
use super::super::{Completion, Event, Key, Operation};
use super::calls::perform;
use super::{FileEvent, FileOperation, Kind};
use crate::inbox::Waker;

/// So many threads at most. Disks have queues, but four waiting at once keep them busy, and a loop is not a
/// database.
const THREADS: usize = 4;

/// So long a thread waits for work before it ends.
const IDLE: Duration = Duration::from_secs(5);

/// So long the end of a driver waits for what its threads are at.
const PATIENCE: Duration = Duration::from_secs(1);

/// What a thread's stack needs, and some.
const STACK: usize = 256 * 1024;

/// Set in the numbers of the pool's operations, to tell them from a backend's.
pub(in super::super) const POOL: u64 = 1 << 63;

pub(in super::super) struct Pool {
    shared: Arc<Shared>,
    origin: Origin,
    /// What was submitted and has not been collected.
    under_way: Table<(Key, Kind)>,
    /// Completions that need no thread.
    finished: Vec<(Key, FileEvent)>,
    /// Kept for its memory.
    collected: Vec<(Operation, FileEvent)>,
}

struct Shared {
    waker: Arc<Waker>,
    state: Mutex<State>,
    /// Work has come, the end has come, or a thread has ended.
    changed: Condvar,
}

struct State {
    queue: VecDeque<(Operation, FileOperation)>,
    done: Vec<(Operation, FileEvent)>,
    threads: usize,
    /// Threads that wait for work and were not yet woken for any.
    free: usize,
    ended: bool,
}

impl Shared {
    fn new(waker: Arc<Waker>) -> Arc<Self> {
        let state = State { queue: VecDeque::new(), done: Vec::new(), threads: 0, free: 0, ended: false };
        Arc::new(Self { waker, state: Mutex::new(state), changed: Condvar::new() })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing is left half done under it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A thread's life.
    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some((number, operation)) = state.queue.pop_front() {
                drop(state);
                let event = perform(operation);
                state = self.lock();
                if state.ended {
                    // What it owns is let go of outside of the lock.
                    drop(state);
                    drop(event);
                    state = self.lock();
                    break;
                }
                state.done.push((number, event));
                self.waker.wake();
                continue;
            }
            if state.ended {
                break;
            }
            state.free += 1;
            let (woken, timeout) =
                self.changed.wait_timeout(state, IDLE).unwrap_or_else(PoisonError::into_inner);
            state = woken;
            state.free -= 1;
            if timeout.timed_out() && state.queue.is_empty() {
                break;
            }
        }
        state.threads -= 1;
        drop(state);
        self.changed.notify_all();
    }
}

impl Pool {
    pub(in super::super) fn new(waker: &Arc<Waker>) -> Self {
        Self {
            shared: Shared::new(Arc::clone(waker)),
            origin: Origin::here(),
            under_way: Table::new(),
            finished: Vec::new(),
            collected: Vec::new(),
        }
    }

    /// Hands an operation to a thread. What cannot be done for want of threads fails at the next collection.
    pub(in super::super) fn submit(&mut self, operation: FileOperation, key: Key) -> Operation {
        self.settle();
        let kind = operation.kind();
        let number = self.under_way.insert((key, kind));
        let mut state = self.shared.lock();
        state.queue.push_back((number, operation));
        if state.free < state.queue.len() && state.threads < THREADS {
            match spawn(&self.shared) {
                Ok(()) => state.threads += 1,
                Err(error) if state.threads == 0 => {
                    state.queue.pop_back();
                    drop(state);
                    self.under_way.remove(number);
                    self.finished.push((key, kind.failed(error)));
                    return number.with(POOL);
                }
                // The others will come to it.
                Err(_) => {}
            }
        }
        drop(state);
        self.shared.changed.notify_one();
        number.with(POOL)
    }

    /// Takes an operation back that no thread has begun. One that a thread is at goes on.
    pub(in super::super) fn cancel(&mut self, number: Operation) {
        self.settle();
        let Some(number) = number.without(POOL) else { return };
        let mut state = self.shared.lock();
        let Some(place) = state.queue.iter().position(|(queued, _)| *queued == number) else { return };
        let operation = state.queue.remove(place);
        drop(state);
        if let (Some((_, operation)), Some((key, _))) = (operation, self.under_way.remove(number)) {
            self.finished.push((key, operation.cancelled()));
        }
    }

    /// Appends what was done since.
    pub(in super::super) fn collect<P>(&mut self, completions: &mut Vec<Completion<P>>) {
        self.settle();
        if !self.under_way.is_empty() {
            std::mem::swap(&mut self.shared.lock().done, &mut self.collected);
            for (number, event) in self.collected.drain(..) {
                if let Some((key, _)) = self.under_way.remove(number) {
                    self.finished.push((key, event));
                }
            }
        }
        let finished = self.finished.drain(..);
        completions.extend(finished.map(|(key, event)| Completion { key, event: Event::File(event) }));
    }

    /// In a forked child: leaves behind what is shared with threads that are not here.
    fn settle(&mut self) {
        let here = Origin::here();
        if self.origin.process == here.process {
            return;
        }
        self.origin = here;
        let waker = Arc::clone(&self.shared.waker);
        std::mem::forget(std::mem::replace(&mut self.shared, Shared::new(waker)));
        for number in self.under_way.numbers() {
            if let Some((key, kind)) = self.under_way.remove(number) {
                let error = io::Error::from_raw_os_error(libc::ECANCELED);
                self.finished.push((key, kind.failed(error)));
            }
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.settle();
        let mut state = self.shared.lock();
        state.ended = true;
        // What was not begun is dropped, and what was to be closed is closed thereby.
        let queue = std::mem::take(&mut state.queue);
        drop(state);
        drop(queue);
        self.shared.changed.notify_all();
        // The threads need nothing of the caller's, but whoever counts threads or descriptors should find none of ours.
        let some_left = |state: &mut State| state.threads > 0;
        let left = self.shared.changed.wait_timeout_while(self.shared.lock(), PATIENCE, some_left);
        let (mut state, _) = left.unwrap_or_else(PoisonError::into_inner);
        // A thread may be the last to let go of what is shared, but not of the caller's memory.
        let done = std::mem::take(&mut state.done);
        drop(state);
        drop(done);
    }
}

/// Starts a thread, which takes no signals: they are for the threads that know of them.
fn spawn(shared: &Arc<Shared>) -> io::Result<()> {
    let shared = Arc::clone(shared);
    // SAFETY: sets of signals are plain numbers; both calls only look at what they are given, and a thread
    // inherits the mask of the one that starts it.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let spawned =
            thread::Builder::new().name("whilst-file".into()).stack_size(STACK).spawn(move || shared.work());
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        spawned.map(drop)
    }
}
