//! How a signal ends the wait of a loop, however early it came.
//!
//! A signal that comes while a thread waits in the kernel ends the wait with EINTR. One that comes a moment before does not, and what it was
//! to set off would stay undone for as long as nothing else happens. The cure is as old as signals (the "self-pipe trick"): what catches
//! them writes a byte to a pipe, which the wait watches.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

/// No descriptor, as CPython has it.
pub const NONE: RawFd = -1;

/// A pipe that signals are written to and that waits watch; made when it is first asked for.
#[derive(Debug)]
pub struct SignalPipe {
    /// The number of the end that is written to: spares whoever asks for it the lock.
    writer: AtomicI32,
    ends: Mutex<Option<Ends>>,
    /// A wait has seen that there is something in the pipe.
    seen: AtomicBool,
}

#[derive(Debug)]
struct Ends {
    reader: Arc<OwnedFd>,
    /// Kept open; its number is above.
    _writer: OwnedFd,
}

impl Default for SignalPipe {
    fn default() -> Self {
        Self::new()
    }
}

impl SignalPipe {
    /// No pipe yet.
    pub const fn new() -> Self {
        Self { writer: AtomicI32::new(NONE), ends: Mutex::new(None), seen: AtomicBool::new(false) }
    }

    /// The end to write to (non-blocking, close-on-exec), open until [`SignalPipe::close`]. Waits that begin from now on end when
    /// something is written to it, or was before they began.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    #[inline]
    pub fn writer(&self) -> io::Result<RawFd> {
        match self.writer.load(Ordering::Relaxed) {
            NONE => self.make(),
            writer => Ok(writer),
        }
    }

    #[cold]
    fn make(&self) -> io::Result<RawFd> {
        let mut ends = self.lock().ok_or(io::ErrorKind::Deadlock)?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        let number = writer.as_raw_fd();
        *ends = Some(Ends { reader: Arc::new(reader), _writer: writer });
        self.writer.store(number, Ordering::Relaxed);
        Ok(number)
    }

    /// Empties the pipe if a wait has seen that there is something in it: calls `each` for what was written, in pieces.
    #[inline]
    pub fn drain(&self, each: impl FnMut(&[u8])) {
        if self.seen.load(Ordering::Relaxed) {
            self.drain_seen(each);
        }
    }

    #[cold]
    fn drain_seen(&self, mut each: impl FnMut(&[u8])) {
        self.seen.store(false, Ordering::Relaxed);
        let Some(reader) = self.reader() else { return };
        let mut bytes = [0; 64];
        // To its end: what stays would not be said again.
        loop {
            match rustix::io::read(&*reader, &mut bytes) {
                Err(Errno::INTR) => {}
                Ok(count) if count > 0 => each(&bytes[..count]),
                _ => return,
            }
        }
    }

    /// Whether there is a pipe.
    #[inline]
    pub(crate) fn is_open(&self) -> bool {
        self.writer.load(Ordering::Relaxed) != NONE
    }

    /// The end that waits watch, if there is a pipe.
    #[inline]
    pub(crate) fn reader(&self) -> Option<Arc<OwnedFd>> {
        if !self.is_open() {
            return None;
        }
        self.lock()?.as_ref().map(|ends| Arc::clone(&ends.reader))
    }

    /// Takes note that the pipe can be read, which is said once for each time that something is written.
    pub(crate) fn note(&self) {
        self.seen.store(true, Ordering::Relaxed);
    }

    /// Closes the pipe: for a loop that will not wait any more, and for a forked child, which shares it with its parent, and whose driver
    /// begins anew.
    pub fn close(&self) {
        if let Some(mut ends) = self.lock() {
            self.writer.store(NONE, Ordering::Relaxed);
            self.seen.store(false, Ordering::Relaxed);
            *ends = None;
        }
    }

    /// `None` in a forked child where another thread of the parent had the lock: that thread is not here to let it go.
    fn lock(&self) -> Option<MutexGuard<'_, Option<Ends>>> {
        match self.ends.try_lock() {
            Ok(ends) => Some(ends),
            Err(TryLockError::Poisoned(ends)) => Some(ends.into_inner()),
            Err(TryLockError::WouldBlock) => None,
        }
    }
}
