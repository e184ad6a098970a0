//! `sock_sendfile`: a file to a socket by sendfile(2), its bytes never entering this process.
//!
//! A [`Sendfile`] sends until the socket has no room, waits for some as a writer of the loop's would, and goes on. What it promises
//! is CPython's (`_UnixSelectorEventLoop._sock_sendfile_native_impl` in `asyncio/unix_events.py`), in these points more:
//!
//! * The file's position is set however the transfer ends, also when it is cancelled or its loop closed.
//! * One turn sends no more than [`TURN`], so that a peer as fast as the disk does not keep the loop to itself.
//! * A transfer whose socket is closed or taken from under it fails, where CPython's future stays pending for good.

use std::io;
use std::os::fd::RawFd;

use pyo3::exceptions::{PyConnectionError, PyRuntimeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use rustix::fs::{SeekFrom, seek, sendfile};
use rustix::io::Errno;
use whilst_engine::driver::{Interest, Key};

use super::LoopCore;
use super::readiness::descriptor;
use super::registry::Source;
use crate::errors::os_error;
use crate::ffi::call::call_method;
use crate::ffi::descriptor::borrow;
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;

/// The most that one turn sends, in bytes.
const TURN: u64 = 1 << 20;

/// A file on its way to a socket. Called (as a callback of its future), it stops if the future was cancelled.
#[pyclass(frozen, module = "whilst._whilst")]
pub(crate) struct Sendfile(Guarded<Option<Transfer>>);

/// What is left to be done; gone once it is.
struct Transfer {
    event_loop: Py<LoopCore>,
    future: Py<PyAny>,
    /// The `socket.socket`, and the descriptor that it had at first.
    socket: Py<PyAny>,
    fd: RawFd,
    file: RawFd,
    progress: Progress,
    /// The watch for room, from the first time that there was none.
    key: Option<Key>,
}

#[derive(Clone, Copy)]
struct Progress {
    /// Where in the file the next byte is.
    offset: u64,
    /// How many bytes are still wanted, `None` for all that the file has.
    wanted: Option<u64>,
    sent: u64,
    /// The file's position is set even if nothing was sent, but for a transfer that was cancelled.
    moves_always: bool,
}

/// How a turn ended.
enum Turn {
    /// The socket has no room, or others are to have a turn.
    GoesOn,
    /// Everything was sent.
    Done,
    Failed(Errno),
}

impl Progress {
    /// Sends until there is no room, no more to send, or enough for one turn.
    fn turn(&mut self, fd: RawFd, file: RawFd) -> Turn {
        let mut room = TURN;
        while room > 0 {
            let length = self.wanted.map_or(room, |wanted| wanted.min(room));
            if length == 0 {
                return Turn::Done;
            }
            match sendfile(borrow(fd), borrow(file), Some(&mut self.offset), length as usize) {
                Ok(0) => return Turn::Done,
                Ok(count) => {
                    let count = count as u64;
                    self.sent += count;
                    self.wanted = self.wanted.map(|wanted| wanted - count);
                    room = room.saturating_sub(count);
                }
                // A signal's handler has its turn in the loop's next iteration.
                Err(Errno::AGAIN | Errno::INTR) => return Turn::GoesOn,
                Err(error) => return Turn::Failed(error),
            }
        }
        if self.wanted == Some(0) { Turn::Done } else { Turn::GoesOn }
    }

    /// Moves the file's position behind what was sent. `given_up`: the transfer was cancelled, or its loop closed.
    fn update_position(self, file: RawFd, given_up: bool) -> io::Result<()> {
        if self.sent > 0 || (self.moves_always && !given_up) {
            seek(borrow(file), SeekFrom::Start(self.offset))?;
        }
        Ok(())
    }
}

#[pymethods]
impl LoopCore {
    /// Send a file from an offset on to a socket, by sendfile(2); `count` bytes of it, or all if None. The future's result is how
    /// many bytes were sent. The file's position is set to the end of what was sent, and only if `moves_always` where nothing was.
    ///
    /// Raises RuntimeError if the socket belongs to a transport.
    fn _begin_sendfile(
        this: &Bound<'_, Self>,
        future: Py<PyAny>,
        sock: &Bound<'_, PyAny>,
        file: RawFd,
        offset: i64,
        count: Option<i64>,
        moves_always: bool,
    ) -> PyResult<()> {
        let fd = Self::free_descriptor(this, sock)?;
        let sendfile = Sendfile(Guarded::new(Some(Transfer {
            event_loop: this.clone().unbind(),
            future,
            socket: sock.clone().unbind(),
            fd,
            file,
            progress: Progress {
                offset: offset.max(0) as u64,
                wanted: count.map(|count| count.max(0) as u64),
                sent: 0,
                moves_always,
            },
            key: None,
        })));
        Sendfile::turn(&Bound::new(this.py(), sendfile)?)
    }
}

impl LoopCore {
    /// Fails the transfer that waits for room in a descriptor, if there is one: the descriptor is about to be closed.
    pub(crate) fn stop_sendfile(
        this: &Bound<'_, Self>,
        fd: RawFd,
        error: impl FnOnce() -> PyErr,
    ) -> PyResult<()> {
        let py = this.py();
        let sendfile = this.get().state.with(py, |state| {
            let key = state.watches.get(&fd)?.key(Interest::Writable)?;
            match state.registry.get(key) {
                Some(Source::Sendfile(sendfile)) => Some(sendfile.clone_ref(py)),
                _ => None,
            }
        });
        sendfile.map_or(Ok(()), |sendfile| Sendfile::end(sendfile.bind(py), Some(Err(error()))))
    }
}

#[pymethods]
impl Sendfile {
    fn __call__(this: &Bound<'_, Self>, future: &Bound<'_, PyAny>) -> PyResult<()> {
        let cancelled = future.call_method0(intern!(this.py(), "cancelled"))?.is_truthy()?;
        if cancelled { Self::end(this, None) } else { Ok(()) }
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        let visited = self.0.try_with(|transfer| {
            let Some(transfer) = transfer else { return Ok(()) };
            visit.call(&transfer.event_loop)?;
            visit.call(&transfer.future)?;
            visit.call(&transfer.socket)
        });
        visited.unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        drop(self.0.with(py, Option::take));
    }
}

impl Sendfile {
    /// Sends what there is room for. Called by the loop whenever there is some.
    pub(super) fn turn(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let taken = this.get().0.with(py, |transfer| {
            let transfer = transfer.as_ref()?;
            let (future, socket) = (transfer.future.clone_ref(py), transfer.socket.clone_ref(py));
            let event_loop = transfer.event_loop.clone_ref(py);
            Some((future, socket, transfer.fd, transfer.file, transfer.progress, event_loop))
        });
        let Some((future, socket, fd, file, mut progress, event_loop)) = taken else { return Ok(()) };
        let before = progress.sent;
        if future.call_method0(py, intern!(py, "cancelled"))?.is_truthy(py)? {
            return Self::end(this, None);
        }
        // The socket may have been closed since, and the number be another file's.
        let turn = match descriptor(socket.bind(py)) {
            // The GIL is let go, since sendfile(2) reads from the disk what the page cache has not.
            Ok(now) if now == fd && fd >= 0 && file >= 0 => py.detach(|| progress.turn(fd, file)),
            _ => Turn::Failed(Errno::BADF),
        };
        event_loop.get().sent((progress.sent - before) as usize);
        let waits = this.get().0.with(py, |transfer| {
            let transfer = transfer.as_mut()?;
            transfer.progress = progress;
            Some(transfer.key.is_some())
        });
        // Another thread has ended it meanwhile.
        let Some(waits) = waits else {
            return progress.update_position(file, true).map_err(|error| os_error(py, &error));
        };
        match turn {
            Turn::Done => Self::end(this, Some(Ok(progress.sent))),
            Turn::Failed(error) => Self::end(this, Some(Err(failure(py, error, progress.sent > 0, waits)))),
            Turn::GoesOn if waits => Ok(()),
            Turn::GoesOn => Self::wait(this, &future).inspect_err(|_| {
                // The caller hears of it; nobody waits for the future.
                let _ = Self::end(this, None);
            }),
        }
    }

    /// Has the loop watch for room, and the future say if it is cancelled.
    fn wait(this: &Bound<'_, Self>, future: &Py<PyAny>) -> PyResult<()> {
        let py = this.py();
        let event_loop = this.get().0.with(py, |transfer| {
            transfer.as_ref().map(|transfer| (transfer.event_loop.clone_ref(py), transfer.fd))
        });
        let Some((event_loop, fd)) = event_loop else { return Ok(()) };
        let event_loop = event_loop.bind(py);
        let key =
            LoopCore::watch_for(event_loop, fd, Interest::Writable, Source::Sendfile(this.clone().unbind()))?;
        this.get().0.with(py, |transfer| {
            if let Some(transfer) = transfer {
                transfer.key = Some(key);
            }
        });
        call_method(future.bind(py), intern!(py, "add_done_callback"), [this.as_any()]).map(drop)
    }

    /// Ends the transfer: nothing is watched any more, the file's position is what was sent, and the future has its result (none
    /// if it was cancelled).
    fn end(this: &Bound<'_, Self>, result: Option<PyResult<u64>>) -> PyResult<()> {
        let py = this.py();
        let Some(transfer) = this.get().0.with(py, Option::take) else { return Ok(()) };
        if let Some(key) = transfer.key {
            LoopCore::end_watch(transfer.event_loop.bind(py), transfer.fd, Interest::Writable, key, true);
        }
        let moved = transfer.progress.update_position(transfer.file, result.is_none());
        let moved = moved.map_err(|error| os_error(py, &error));
        let future = transfer.future.bind(py);
        let Some(result) = result else { return moved };
        if future.call_method0(intern!(py, "done"))?.is_truthy()? {
            return moved;
        }
        match result.and_then(|sent| moved.map(|()| sent)) {
            Ok(sent) => future.call_method1(intern!(py, "set_result"), (sent,)),
            Err(error) => future.call_method1(intern!(py, "set_exception"), (error,)),
        }
        .map(drop)
    }

    /// The watch was taken away: somebody has removed the socket's writer, or put another in its place.
    pub(super) fn lost_watch(this: &Bound<'_, Self>) -> PyResult<()> {
        let message = "the socket's writer was removed or replaced while sendfile waited for it";
        Self::end(this, Some(Err(PyRuntimeError::new_err(message))))
    }

    /// The loop is closed: nobody will hear, but the file's position is right.
    pub(super) fn abandon(&self, py: Python<'_>) {
        let transfer = self.0.with(py, Option::take);
        if let Some(transfer) = transfer {
            // The file may be closed, too.
            let _ = transfer.progress.update_position(transfer.file, true);
        }
    }
}

/// What a failed sendfile(2) is to the caller. If nothing was sent, it is that the call cannot be used for this file or this
/// socket, and reading and writing may do.
fn failure(py: Python<'_>, error: Errno, some_sent: bool, waited: bool) -> PyErr {
    static NOT_AVAILABLE: Import = Import::new("asyncio.exceptions", "SendfileNotAvailableError");
    let cause = os_error(py, &error.into());
    if !some_sent {
        return NOT_AVAILABLE
            .get(py)
            .and_then(|class| class.call1(("os.sendfile call failed",)))
            .map_or_else(|error| error, PyErr::from_value);
    }
    if waited && error == Errno::NOTCONN {
        // As on every other system (CPython's words and order of arguments).
        let error = PyConnectionError::new_err(("socket is not connected", libc::ENOTCONN));
        error.set_cause(py, Some(cause));
        return error;
    }
    cause
}
