//! The `io_uring` backend: multishot accepts and receives, and one system call an iteration.
//!
//! Some facts about io_uring, as seen on Linux 6.18 (6.1 is the first to have all that is used here):
//!
//! * With `SINGLE_ISSUER | DEFER_TASKRUN` only the thread that made a ring may submit to it or wait on it
//!   (others get EEXIST), and only while it does so with `GETEVENTS` are completions put together. Between
//!   two waits nothing of the ring moves: the socket's data stays in the socket. With `TASKRUN_FLAG` a flag
//!   in shared memory says that there is something to put together.
//! * A send with MSG_DONTWAIT is made by the very call that submits it: it completes with what the socket
//!   took or with EAGAIN, never later. With MSG_WAITALL taking less than all counts as a failure, though one
//!   whose result is the count. (No manual says so, therefore the probe tries it out.)
//! * With `CQE_SKIP_SUCCESS` an operation says something only when it fails. A wait for one completion that
//!   submits such sends therefore ends with the next event from elsewhere, or with a send that needs
//!   attention.
//! * An operation under way holds its open file. Closing the descriptor does not end the operation: a
//!   listening socket goes on listening, and the peer of a connection sees no end, until the operation is
//!   cancelled.
//! * Cancelling is a request too. A cancelled operation ends with a completion of its own, its last words,
//!   which may be bytes or a connection rather than ECANCELED.
//! * A poll that fires once and is submitted again finds what is still ready: it is level-triggered. An epoll
//!   instance can be polled like anything else, and holds none of the files that are registered with it.
//! * When the table of completions is full, the kernel keeps more in a list, which entering the ring brings
//!   in.
//! * Closing a ring's descriptor cancels its operations later (milliseconds, as seen on 6.18), in a kernel
//!   thread, which has no access to this process's memory. The end of the thread that made the ring does
//!   nothing to either.
//! * How many descriptors the process may have is noted when an accept is submitted, not when a connection
//!   comes.
//! * Rings are shared with a forked child: its memory is the same, and so would be what the child takes out
//!   of it.
//!
//! What follows from them:
//!
//! * [`Books`] hold what is to be done, wherever the ring is; a wait fills the submission queue from them,
//!   enters the ring once, and books what comes out. A poll enters it only when the flag says that this will
//!   bring something.
//! * Sends are submitted with the wait that blocks. No send is ever in flight while the caller runs, so that
//!   their memory is safe without further ado and a payload can be dropped when the wait is over.
//! * A wait returns after one blocking entry, whatever came out, also when that was only a cancelled
//!   operation's last word: after an entry that both submitted and slept, the kernel does not say whether a
//!   signal ended the sleep, and a Ctrl-C must not be slept over.
//! * An operation's number is free again only after its last completion, so no completion can meet a
//!   stranger.
//! * Watches are of descriptors that others own, and may close without a word: so they are registered with an
//!   epoll instance ([`Readiness`]), which the ring polls. Where there is nothing but watches the wait is on that
//!   instance, without the ring.
//! * In another thread than the ring's, its completions are read (which shared memory allows) and kept, the
//!   ring is closed and another made here, to which everything that has not ended is submitted. Nothing can
//!   be lost between: what the old ring had not put together when its thread last left it, it never will,
//!   and sends are not in flight. The buffers' addresses stay reserved, for nobody can wait until the old
//!   ring is gone. (The thread that takes an old ring apart must not accept a connection for it, which would
//!   be lost. 6.18 does not; older kernels were not tried. [`Uring::detach`] leaves it nothing to do.)
//! * In a forked child not even the old completions are read.
//! * Dropping the driver first cancels all operations and sees them end, then closes the ring, and then only
//!   lets go of the buffers.

mod books;
mod files;
mod probe;
mod ring;

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::time::{Duration, Instant};

use io_uring::squeue::{self, Flags};
use io_uring::{opcode, types};

use self::books::{Books, CANCELLATION, SEND, SIGNALS, WAKER, WATCHES};
pub(super) use self::probe::{available, truncates};
use self::ring::{ATTEMPTS, BUFFER_GROUP, Entered, Ring};
use super::files::FileOperation;
use super::operations::Table;
use super::origin::Origin;
use super::readiness::Readiness;
use super::{Completion, Key, Operation, Payload, Purpose, Waiting, sys};
use crate::inbox::Waker;

/// How sends are made: as elsewhere, and taking less than all is a failure, of which the ring speaks.
const SILENT_SEND_FLAGS: libc::c_int = sys::SEND_FLAGS | libc::MSG_WAITALL;

/// So long an operation may take to end after it was cancelled before something is thought to be wrong.
const PATIENCE: Duration = Duration::from_secs(1);

/// Operations and, once there is something to submit, the ring that has them.
pub(super) struct Uring<P> {
    books: Books<P>,
    ring: Option<Ring>,
    /// The watches' descriptors, once there was a watch.
    readiness: Option<Readiness>,
    /// The headers of sends with several slices, while these are submitted.
    messages: Vec<libc::msghdr>,
}

impl<P> Uring<P> {
    pub(super) const fn new() -> Self {
        Self { books: Books::new(), ring: None, readiness: None, messages: Vec::new() }
    }

    pub(super) fn start(&mut self, waiting: Waiting) -> io::Result<Operation> {
        if !matches!(waiting.purpose, Purpose::Watch(_) | Purpose::WatchOnce(_)) {
            sys::check_open(waiting.fd)?;
            return Ok(self.books.start(waiting));
        }
        let readiness = match &mut self.readiness {
            Some(readiness) => readiness,
            none => none.insert(Readiness::new()?),
        };
        let number = self.books.watch(waiting);
        let registered = readiness.register(number, waiting.fd, waiting.purpose);
        if registered.is_err() {
            self.books.unwatch(number);
        }
        registered.map(|()| number)
    }

    pub(super) fn send(&mut self, fd: RawFd, key: Key, payload: P)
    where
        P: Payload,
    {
        self.books.send(fd, key, payload);
    }

    pub(super) fn file(&mut self, operation: FileOperation, key: Key) -> Operation {
        self.books.files.start(operation, key)
    }

    /// Whether there are file operations that have not ended.
    pub(super) fn has_files(&self) -> bool {
        !self.books.files.is_empty()
    }

    /// Takes out the file operations, which no ring has.
    pub(super) fn dissolve_files(&mut self) -> Vec<(FileOperation, Key)> {
        self.books.files.dissolve()
    }

    pub(super) fn cancel(&mut self, number: Operation) {
        if !self.unwatch(number) {
            self.books.cancel(number);
        }
    }

    /// Ends a watch; `false` if the operation is none.
    fn unwatch(&mut self, number: Operation) -> bool {
        let Some(waiting) = self.books.unwatch(number) else { return false };
        if let Some(readiness) = &mut self.readiness {
            readiness.unregister(number, waiting.fd, waiting.purpose.interest());
        }
        true
    }

    pub(super) fn cancel_now(&mut self, number: Operation) -> io::Result<()> {
        if self.unwatch(number) {
            return Ok(());
        }
        self.books.cancel(number);
        self.leave_foreign_ring();
        let Self { books, ring: Some(ring), .. } = self else { return Ok(()) };
        let mut kept = std::mem::take(&mut books.kept);
        let result =
            Self::end_cancelled(books, ring, &mut kept, |books| books.operations.get(number).is_none());
        books.kept = kept;
        if result.is_err() {
            self.leave_ring();
        }
        result
    }

    /// The payloads of sends that no wait has submitted yet.
    pub(super) fn payloads(&self) -> impl Iterator<Item = &P> {
        self.books.sends.iter().map(|send| &send.payload)
    }

    /// Makes sure that there is a ring for this thread, if one is needed. On an error everything is as
    /// before, but for the ring of another thread, which is gone.
    pub(super) fn prepare(&mut self) -> io::Result<()> {
        self.leave_foreign_ring();
        let books = &self.books;
        let wanted = !books.to_arm.is_empty() || !books.sends.is_empty() || books.files.has_work();
        if wanted && self.ring.is_none() {
            let mut ring = Ring::new()?;
            if self.books.receives {
                ring.need_pool()?;
            }
            self.ring = Some(ring);
        }
        Ok(())
    }

    /// Whether there is nothing that a ring has or is to have, nothing to poll for and nothing to tell.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        let books = &self.books;
        books.armed == 0
            && books.watches == 0
            && books.to_arm.is_empty()
            && books.to_cancel.is_empty()
            && books.sends.is_empty()
            && books.kept.is_empty()
            && !books.files.has_work()
    }

    /// Whether a wait is one on the ring: where there is one, and not nothing but watches.
    pub(super) fn waits_on_ring(&self) -> bool {
        let books = &self.books;
        let other_work =
            books.armed > 0 || !books.to_arm.is_empty() || !books.sends.is_empty() || books.files.has_work();
        self.ring.is_some() && (other_work || books.watches == 0)
    }

    /// Hands everything over to a driver without rings: sends are made, and their completions and all others
    /// appended.
    pub(super) fn dissolve(&mut self, completions: &mut Vec<Completion<P>>) -> Table<Waiting> {
        self.leave_ring();
        completions.append(&mut self.books.kept);
        self.books.send_directly(completions);
        let operations = std::mem::replace(&mut self.books.operations, Table::new());
        operations.map(|operation| operation.waiting)
    }

    /// Waits on the ring. [`Uring::prepare`] has been called, and there is one.
    pub(super) fn wait(
        &mut self,
        timeout: Option<Duration>,
        waker: &Waker,
        completions: &mut Vec<Completion<P>>,
    ) -> io::Result<()> {
        let result = self.wait_on_ring(timeout, waker, completions);
        if result.is_err() {
            // Whatever is wrong with this ring, the next one may be better.
            self.leave_ring();
            self.books.fail_sends();
        }
        self.books.finish_sends(completions);
        result
    }

    /// Waits without a ring, for watches or the waker alone.
    pub(super) fn wait_without_ring(
        &mut self,
        timeout: Option<Duration>,
        waker: &Waker,
        completions: &mut Vec<Completion<P>>,
    ) -> io::Result<()> {
        let timeout = if self.books.kept.is_empty() { timeout } else { Some(Duration::ZERO) };
        completions.append(&mut self.books.kept);
        match &mut self.readiness {
            Some(readiness) if self.books.watches > 0 => {
                readiness.wait(timeout, waker, |number| self.books.watched(number, completions))
            }
            _ => sys::wait_for_waker(timeout, waker),
        }
    }

    /// Ends the sends without making them, because there is no ring to be had.
    pub(super) fn fail_sends(&mut self, completions: &mut Vec<Completion<P>>) {
        self.books.fail_sends();
        self.books.finish_sends(completions);
    }

    fn wait_on_ring(
        &mut self,
        timeout: Option<Duration>,
        waker: &Waker,
        completions: &mut Vec<Completion<P>>,
    ) -> io::Result<()> {
        let begin = completions.len();
        completions.append(&mut self.books.kept);
        self.books.must_return = false;
        self.fill()?;
        self.watch_watches()?;
        let Self { books, ring: Some(ring), messages, readiness } = self else { return Ok(()) };
        // Filling may have entered the ring to make room.
        Self::collect(books, ring, completions);
        let mut block = completions.len() == begin && !books.must_return && timeout != Some(Duration::ZERO);
        if block {
            Self::watch_waker(ring, waker)?;
            block = waker.announce_sleep();
        }
        if !block {
            waker.consume();
            if !ring.has_submissions() && !ring.has_work() {
                return Ok(());
            }
        }
        let mut result = if block { ring.wait(timeout) } else { ring.poll() };
        if block {
            waker.consume();
        }
        // One entry does it, unless the kernel was short of memory or its list of completions is long.
        for attempt in 0.. {
            Self::collect(books, ring, completions);
            let entered = result?;
            if !ring.has_submissions() && !ring.overflowed() {
                break;
            }
            if attempt >= ATTEMPTS && entered == Entered::Busy {
                return Err(io::Error::from_raw_os_error(libc::EBUSY));
            }
            result = ring.poll();
        }
        if std::mem::take(&mut ring.signals_seen) {
            waker.signals().note();
        }
        messages.clear();
        if std::mem::take(&mut books.watches_ready)
            && let Some(readiness) = readiness
        {
            readiness.poll(waker, |number| books.watched(number, completions))?;
        }
        Ok(())
    }

    /// Has the ring poll the instance that has the watches. The poll fires once and is then submitted again.
    fn watch_watches(&mut self) -> io::Result<()> {
        let Self { books, ring: Some(ring), readiness: Some(readiness), .. } = self else { return Ok(()) };
        if books.watches > 0 && !ring.polls_watches {
            // In a forked child it is replaced, before the ring takes it.
            readiness.settle()?;
            let fd = types::Fd(readiness.descriptor());
            let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
            // SAFETY: a poll points to no memory.
            unsafe { ring.push(&entry.user_data(WATCHES))? };
            ring.polls_watches = true;
        }
        Ok(())
    }

    /// Fills the submission queue with what the books say is to be done.
    fn fill(&mut self) -> io::Result<()> {
        let Self { books, ring: Some(ring), messages, .. } = self else { return Ok(()) };
        if books.receives {
            ring.need_pool()?;
            if let Some(pool) = &ring.pool {
                pool.starved(std::mem::take(&mut books.starved));
                pool.top_up();
            }
        }
        for number in books.to_cancel.drain(..) {
            Self::push_cancellation(ring, number)?;
        }
        for index in 0..books.to_arm.len() {
            let number = books.to_arm[index];
            if let Some(waiting) = books.arm(number) {
                let entry = submission(waiting).user_data(number.number());
                // SAFETY: these operations point to no memory: receives go to the pool, which the ring holds.
                unsafe { ring.push(&entry)? };
            }
        }
        books.to_arm.clear();
        for number in books.files.cancellations() {
            Self::push_cancellation(ring, number)?;
        }
        books.files.begin_arming();
        while let Some(entry) = books.files.arm() {
            books.armed += 1;
            // SAFETY: the books keep the operation, with what its entry points to, until its completion is booked, or for
            // ever.
            unsafe { ring.push(&entry)? };
        }
        // The headers must not move while the kernel may read them, so they are all put down first.
        messages.clear();
        messages.extend(
            books
                .sends
                .iter()
                .filter(|send| send.slices.len() != 1)
                .map(|send| sys::message(&books.slices[send.slices.clone()])),
        );
        let mut headers = messages.iter();
        for (place, send) in books.sends.iter().enumerate() {
            let fd = types::Fd(send.fd);
            let flags = SILENT_SEND_FLAGS;
            let entry = match &books.slices[send.slices.clone()] {
                [slice] => {
                    let length = slice.iov_len.min(send.length) as u32;
                    opcode::Send::new(fd, slice.iov_base.cast(), length).flags(flags).build()
                }
                _ => {
                    let header = headers.next().expect("as many as there are such sends");
                    opcode::SendMsg::new(fd, header).flags(flags as u32).build()
                }
            };
            let entry = entry.user_data(SEND | place as u64);
            let entry = if send.awaited { entry } else { entry.flags(Flags::SKIP_SUCCESS) };
            // SAFETY: the payload, its slices and the headers stay until the wait that this belongs to is
            // over, and that is not before the queue is empty, or the ring is gone, which means that it was
            // not submitted.
            unsafe { ring.push(&entry)? };
        }
        Ok(())
    }

    fn push_cancellation(ring: &mut Ring, number: Operation) -> io::Result<()> {
        let entry = opcode::AsyncCancel::new(number.number()).build().flags(Flags::SKIP_SUCCESS);
        // SAFETY: a cancellation points to no memory.
        unsafe { ring.push(&entry.user_data(CANCELLATION)) }
    }

    /// Has the kernel watch what ends a wait from outside, for every write to it, so that the eventfd need not be read: the waker, and the
    /// pipe for signals once there is one.
    fn watch_waker(ring: &mut Ring, waker: &Waker) -> io::Result<()> {
        if !ring.watches_waker {
            Self::poll_always(ring, waker.descriptor()?.as_raw_fd(), WAKER)?;
            ring.watches_waker = true;
        }
        if !ring.watches_signals
            && let Some(pipe) = waker.signals().reader()
        {
            Self::poll_always(ring, pipe.as_raw_fd(), SIGNALS)?;
            ring.watches_signals = true;
        }
        Ok(())
    }

    fn poll_always(ring: &mut Ring, fd: RawFd, data: u64) -> io::Result<()> {
        let fd = types::Fd(fd);
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).multi(true).build();
        // SAFETY: a poll points to no memory.
        unsafe { ring.push(&entry.user_data(data)) }
    }

    /// Books the completions that are there.
    fn collect(books: &mut Books<P>, ring: &mut Ring, completions: &mut Vec<Completion<P>>) {
        let Ring { io, pool, watches_waker, watches_signals, signals_seen, polls_watches, .. } = ring;
        for entry in io.completion() {
            match entry.user_data() {
                WAKER => {
                    *watches_waker = io_uring::cqueue::more(entry.flags());
                    books.must_return = true;
                }
                SIGNALS => {
                    *watches_signals = io_uring::cqueue::more(entry.flags());
                    *signals_seen = true;
                    books.must_return = true;
                }
                WATCHES => {
                    *polls_watches = false;
                    books.watches_ready = true;
                    books.must_return = true;
                }
                _ => books.complete(&entry, pool.as_ref(), completions),
            }
        }
    }

    /// Submits the cancellations that are due and lets time pass until `done`. Nothing else is submitted.
    fn end_cancelled(
        books: &mut Books<P>,
        ring: &mut Ring,
        completions: &mut Vec<Completion<P>>,
        done: impl Fn(&Books<P>) -> bool,
    ) -> io::Result<()> {
        for number in books.to_cancel.drain(..) {
            Self::push_cancellation(ring, number)?;
        }
        let begin = Instant::now();
        while !done(books) {
            let entered = ring.wait(Some(Duration::from_millis(10)));
            Self::collect(books, ring, completions);
            entered?;
            if begin.elapsed() > PATIENCE && !done(books) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
        Ok(())
    }

    /// Ends everything that the kernel has and closes the ring.
    pub(super) fn detach(&mut self) -> io::Result<()> {
        self.leave_foreign_ring();
        let Self { books, ring: Some(ring), .. } = self else { return Ok(()) };
        let mut kept = std::mem::take(&mut books.kept);
        let result = if books.armed > 0 {
            let all = opcode::AsyncCancel2::new(types::CancelBuilder::any()).build();
            let all = all.flags(Flags::SKIP_SUCCESS).user_data(CANCELLATION);
            // SAFETY: a cancellation points to no memory.
            unsafe { ring.push(&all) }
                .and_then(|()| Self::end_cancelled(books, ring, &mut kept, |books| books.armed == 0))
        } else {
            Ok(())
        };
        books.kept = kept;
        self.leave_ring();
        result
    }

    /// Empties the books and leaves the ring, which is the parent's.
    pub(super) fn forget(&mut self) {
        self.books.files.forget(&mut self.books.kept);
        self.leave_foreign_ring();
        self.books.forget();
        if let Some(readiness) = &mut self.readiness {
            readiness.forget();
        }
    }

    /// Leaves a ring that was made in another thread, or in the process that forked this one.
    fn leave_foreign_ring(&mut self) {
        if self.ring.as_ref().is_some_and(|ring| ring.origin != Origin::here()) {
            self.leave_ring();
        }
    }

    /// Closes the ring, if there is one. What it has completed is kept, what it had under way is to be
    /// submitted anew.
    #[cold]
    fn leave_ring(&mut self) {
        let Some(mut ring) = self.ring.take() else { return };
        let here = Origin::here();
        if ring.origin.process == here.process {
            let mut kept = std::mem::take(&mut self.books.kept);
            Self::collect(&mut self.books, &mut ring, &mut kept);
            self.books.kept = kept;
            if self.books.armed > 0
                && let Some(pool) = &ring.pool
            {
                pool.keep_addresses();
            }
        }
        let inherited = ring.origin.process != here.process;
        drop(ring);
        self.books.disarm_all(inherited);
    }
}

impl<P> Drop for Uring<P> {
    fn drop(&mut self) {
        // What does not end is left behind with the ring.
        let _ = self.detach();
    }
}

/// The submission for an operation.
fn submission(waiting: Waiting) -> squeue::Entry {
    let fd = types::Fd(waiting.fd);
    match waiting.purpose {
        Purpose::Receive { direct: false } => opcode::RecvMulti::new(fd, BUFFER_GROUP).build(),
        // It fires once and is then submitted again, which makes it level-triggered.
        Purpose::Receive { direct: true } => opcode::PollAdd::new(fd, libc::POLLIN as u32).build(),
        Purpose::Accept { .. } => {
            opcode::AcceptMulti::new(fd).flags(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC).build()
        }
        Purpose::Watch(_) | Purpose::WatchOnce(_) => unreachable!("watched by epoll"),
    }
}
