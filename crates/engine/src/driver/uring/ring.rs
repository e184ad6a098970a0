//! A ring: how it is made and how it is entered.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use io_uring::IoUring;
use io_uring::squeue::Entry;
use io_uring::types::{SubmitArgs, Timespec};

use super::super::buffers::{BUFFERS, Pool};
use super::super::origin::Origin;

/// Places for submissions. When they are used up the ring is entered to make room.
const SUBMISSIONS: u32 = 256;

/// Places for completions. Beyond them the kernel keeps a list, from which they are fetched by entering once
/// more.
const COMPLETIONS: u32 = 2048;

/// The number of the ring's one group of buffers.
pub(super) const BUFFER_GROUP: u16 = 0;

/// `IORING_ENTER_GETEVENTS`.
const GETEVENTS: u32 = 1;

/// A ring and where it was made, which is where it works.
pub(super) struct Ring {
    pub(super) io: IoUring,
    pub(super) origin: Origin,
    /// Made by the first receive.
    pub(super) pool: Option<Arc<Pool>>,
    /// Whether the kernel watches the waker's eventfd.
    pub(super) watches_waker: bool,
    /// Whether the kernel watches the pipe for signals.
    pub(super) watches_signals: bool,
    /// Whether it has said that there is something in it.
    pub(super) signals_seen: bool,
    /// Whether the kernel polls the instance that has the watches.
    pub(super) polls_watches: bool,
}

/// What entering a ring came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entered {
    /// What was asked for, or part of it.
    Done,
    /// The time is over.
    TimedOut,
    /// A signal came.
    Interrupted,
    /// The kernel is short of something for the moment.
    Busy,
}

pub(super) fn build(submissions: u32, completions: u32) -> io::Result<IoUring> {
    IoUring::builder()
        // Completions are put together in the thread that waits for them, when it waits, and nowhere else.
        .setup_single_issuer()
        .setup_defer_taskrun()
        // A flag in shared memory says whether there is anything to put together, which spares a poll the
        // system call.
        .setup_taskrun_flag()
        // A submission that is refused completes with its error instead of holding up those behind it.
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(completions)
        .build(submissions)
}

impl Ring {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self::of(build(SUBMISSIONS, COMPLETIONS)?))
    }

    /// A ring that was just built in this thread.
    pub(super) fn of(io: IoUring) -> Self {
        Self {
            io,
            origin: Origin::here(),
            pool: None,
            watches_waker: false,
            watches_signals: false,
            signals_seen: false,
            polls_watches: false,
        }
    }

    /// Makes the buffers, where there are none yet.
    pub(super) fn need_pool(&mut self) -> io::Result<()> {
        if self.pool.is_none() {
            let pool = Pool::new()?;
            // SAFETY: the table is page-aligned, as long as said, and outlives the ring, which holds the
            // pool.
            unsafe {
                self.io.submitter().register_buf_ring_with_flags(pool.table(), BUFFERS, BUFFER_GROUP, 0)?;
            }
            self.pool = Some(pool);
        }
        Ok(())
    }

    /// Queues a submission; enters the ring when there is no place.
    ///
    /// # Safety
    ///
    /// What the entry points to must stay valid until the ring has been entered and is empty
    /// ([`Ring::has_submissions`]), and longer where the operation needs it longer.
    pub(super) unsafe fn push(&mut self, entry: &Entry) -> io::Result<()> {
        for _ in 0..ATTEMPTS {
            // SAFETY: the caller vouches for it.
            if unsafe { self.io.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.submit()?;
        }
        Err(io::Error::from_raw_os_error(libc::EBUSY))
    }

    /// Hands the queued submissions to the kernel.
    fn submit(&mut self) -> io::Result<Entered> {
        entered(self.io.submit())
    }

    /// Hands the queued submissions to the kernel and lets it put completions together, without waiting for
    /// any.
    pub(super) fn poll(&mut self) -> io::Result<Entered> {
        let queued = self.io.submission().len();
        // SAFETY: there is no argument, and what is submitted was vouched for by whoever pushed it.
        entered(unsafe { self.io.submitter().enter::<libc::sigset_t>(queued as u32, 0, GETEVENTS, None) })
    }

    /// As [`Ring::poll`], and waits for one completion to be there.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<Entered> {
        match timeout {
            None => entered(self.io.submit_and_wait(1)),
            Some(timeout) => {
                // A longer time than the kernel can add to its clock would be a negative one.
                let seconds = timeout.as_secs().min(u64::from(u32::MAX));
                let timeout = Timespec::new().sec(seconds).nsec(timeout.subsec_nanos());
                let arguments = SubmitArgs::new().timespec(&timeout);
                entered(self.io.submitter().submit_with_args(1, &arguments))
            }
        }
    }

    pub(super) fn has_submissions(&mut self) -> bool {
        !self.io.submission().is_empty()
    }

    /// Whether completions overflowed into the kernel's own list.
    pub(super) fn overflowed(&mut self) -> bool {
        self.io.submission().cq_overflow()
    }

    /// Whether entering the ring would bring completions.
    pub(super) fn has_work(&mut self) -> bool {
        let queue = self.io.submission();
        queue.taskrun() || queue.cq_overflow()
    }
}

/// So often a kernel that is short of something is asked again.
pub(super) const ATTEMPTS: usize = 64;

fn entered(result: io::Result<usize>) -> io::Result<Entered> {
    let Err(error) = result else { return Ok(Entered::Done) };
    match error.raw_os_error() {
        Some(libc::ETIME) => Ok(Entered::TimedOut),
        Some(libc::EINTR) => Ok(Entered::Interrupted),
        Some(libc::EAGAIN | libc::EBUSY) => Ok(Entered::Busy),
        _ => Err(error),
    }
}
