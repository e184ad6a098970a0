//! Where a backend was made: in which thread of which process.
//!
//! A ring works only for the thread that made it, and neither a ring nor an epoll instance is a forked
//! child's to use: both are shared with the parent, who would miss what the child takes. So a backend
//! remembers its origin, and compares before it touches the kernel. Both halves are counters instead of what
//! the system calls them, because a thread's or process's number needs a system call (or is reused, as a
//! thread's address is).

use std::cell::Cell;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// A thread of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    /// How many forks lie between the first process that counted and this one.
    pub(super) process: u32,
    thread: u64,
}

static FORKS: AtomicU32 = AtomicU32::new(0);

extern "C" fn count_fork() {
    FORKS.fetch_add(1, Ordering::Relaxed);
}

impl Origin {
    /// The calling thread.
    #[inline]
    pub(super) fn here() -> Self {
        static THREADS: AtomicU64 = AtomicU64::new(1);
        thread_local! {
            static THREAD: Cell<u64> = const { Cell::new(0) };
        }
        let thread = THREAD.with(|thread| {
            if thread.get() == 0 {
                thread.set(THREADS.fetch_add(1, Ordering::Relaxed));
            }
            thread.get()
        });
        Self { process: Self::process_here(), thread }
    }

    /// The calling process.
    #[inline]
    pub(super) fn process_here() -> u32 {
        FORKS.load(Ordering::Relaxed)
    }

    /// Starts counting forks; before the first backend is made.
    pub(super) fn watch_forks() {
        static WATCHED: Once = Once::new();
        WATCHED.call_once(|| {
            // SAFETY: the handler is a plain function that lives as long as the program and only counts,
            // which is allowed between fork and exec. It fails for want of memory only; then a forked child
            // is not noticed.
            unsafe { libc::pthread_atfork(None, None, Some(count_fork)) };
        });
    }
}
