//! A lock that the thread which has it may take again.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use pyo3::prelude::*;

use crate::event_loop::this_thread;

/// As `threading.RLock`: one thread at a time holds it, as often as it wants.
pub(crate) struct Reentrant {
    holder: Mutex<Holder>,
    released: Condvar,
}

/// Packed, since each handle that another thread sends has one.
#[repr(C, packed(4))]
struct Holder {
    thread: u64,
    times: u16,
    /// How many wait: telling nobody would be a system call, too.
    waiting: u16,
}

const _: () = assert!(size_of::<Reentrant>() <= 24);

/// The lock is held until this is dropped.
pub(crate) struct Held<'a>(&'a Reentrant);

impl Reentrant {
    pub(crate) const fn new() -> Self {
        Self { holder: Mutex::new(Holder { thread: 0, times: 0, waiting: 0 }), released: Condvar::new() }
    }

    /// Takes the lock, and waits for it without holding up others: with the GIL let go.
    pub(crate) fn hold(&self, py: Python<'_>) -> Held<'_> {
        let thread = this_thread();
        let mut holder = self.lock();
        if holder.times == 0 || holder.thread == thread {
            holder.thread = thread;
            holder.times += 1;
            return Held(self);
        }
        drop(holder);
        py.detach(|| {
            let mut holder = self.lock();
            holder.waiting += 1;
            while holder.times > 0 {
                holder = self.released.wait(holder).unwrap_or_else(PoisonError::into_inner);
            }
            *holder = Holder { thread, times: 1, waiting: holder.waiting - 1 };
        });
        Held(self)
    }

    fn lock(&self) -> MutexGuard<'_, Holder> {
        // Nothing is left half done by a panic in one of the short sections here.
        self.holder.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        let mut holder = self.0.lock();
        holder.times -= 1;
        if holder.times == 0 && holder.waiting > 0 {
            self.0.released.notify_one();
        }
    }
}
