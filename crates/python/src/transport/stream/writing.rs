//! Bytes from the protocol to the peer.
//!
//! What is written during an iteration is gathered and leaves as one vectored send when the iteration ends, in the system call that
//! waits. Only what goes past the high-water mark is sent at once, so that `pause_writing()` means that the kernel is full and not
//! that the iteration is not over.
//!
//! With either driver a send takes what the kernel has room for and no more, so no send is under way while Python code runs; when
//! there is no room, the socket is watched until there is.

use std::io;
use std::os::fd::AsFd;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::net::Shutdown;
use whilst_engine::driver::{Event, Interest, Received, send_now};

use super::lifecycle::cancel;
use super::{State, Stream, StreamWork};
use crate::errors::os_error;
use crate::event_loop::{LoopCore, Work};
use crate::ffi::buffer::snapshot;
use crate::ffi::call::call_method;
use crate::ffi::class::Object;
use crate::ffi::imports::Import;
use crate::transport::outgoing::{Outgoing, STREAM_BYTES, check_bytes};

/// How many writes to a lost connection are taken silently, as in CPython (`LOG_THRESHOLD_FOR_CONNLOST_WRITES`).
pub(crate) const SILENT_WRITES: u32 = 5;

/// So many bytes are sent at once: they are in the processor's cache now, and may not be any more when the iteration ends. To gather
/// them with others would save less.
const LARGE: usize = 32 * 1024;

/// So many bytes a stream sends at once, or more by one write; then it is the others' turn. Kernels take megabytes, and a peer in the same process, or on
/// the same core, finds what it reads in the processor's cache if it reads before there are so many. And a protocol that writes until
/// it is told to pause would not let anybody else run as long as its peer keeps up.
const MOST_AT_ONCE: usize = 256 * 1024;

/// Why nothing is written.
enum Refusal {
    /// After `write_eof()`.
    Ended,
    /// A file is being sent.
    Sendfile,
}

impl Refusal {
    /// Raises `RuntimeError`, in CPython's words.
    #[cold]
    fn raise(self, function: &str) -> PyResult<()> {
        Err(PyRuntimeError::new_err(match self {
            Self::Ended => format!("Cannot call {function}() after write_eof()"),
            Self::Sendfile => format!("unable to {function}; sendfile is in progress"),
        }))
    }
}

/// What follows from a write.
enum Written {
    /// Nothing more.
    Done,
    /// An exception.
    Refused(Refusal),
    /// The loop must list the stream as one with something to send.
    List,
    /// The same, and there is more than the high-water mark.
    ListAndPause,
    /// There is more than the high-water mark, which waits for room.
    Pause,
    /// There is more than the high-water mark: try to send it now.
    Send,
    /// The connection is lost, and so are the bytes; somebody should hear of it.
    Warn,
}

impl Stream {
    /// `write()`.
    pub(super) fn write(this: &Object<Self>, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        if let Ok(piece) = data.cast_exact::<PyBytes>() {
            return Self::write_bytes(this, py, piece.clone());
        }
        check_bytes(data, STREAM_BYTES)?;
        this.get()
            .state
            .with(py, |state| state.refusal())
            .map_or(Ok(()), |refusal| refusal.raise("write"))?;
        Self::write_bytes(this, py, snapshot(data)?)
    }

    /// `writelines()`.
    pub(super) fn write_lines(this: &Object<Self>, py: Python<'_>, lines: &Bound<'_, PyAny>) -> PyResult<()> {
        let name = "writelines";
        this.get().state.with(py, |state| state.refusal()).map_or(Ok(()), |refusal| refusal.raise(name))?;
        let mut pieces = Vec::new();
        for line in lines.try_iter()? {
            let line = line?;
            check_bytes(&line, STREAM_BYTES)?;
            let piece = snapshot(&line)?;
            if !piece.as_bytes().is_empty() {
                pieces.push(piece);
            }
        }
        if pieces.is_empty() { Ok(()) } else { Self::write_pieces(this, py, name, pieces) }
    }

    /// `write()` of bytes.
    pub(crate) fn write_bytes(this: &Object<Self>, py: Python<'_>, data: Bound<'_, PyBytes>) -> PyResult<()> {
        Self::write_pieces(this, py, "write", Some(data))
    }

    /// Adds pieces to what is to be sent. `function` is what the program has called.
    fn write_pieces<'py>(
        this: &Object<Self>,
        py: Python<'py>,
        function: &str,
        pieces: impl IntoIterator<Item = Bound<'py, PyBytes>>,
    ) -> PyResult<()> {
        static WARN: Import = Import::new("whilst._loop.errors", "warn_of_lost_write");
        let mut pieces = Some(pieces);
        let (written, event_loop) = this.get().state.with(py, |state| {
            let written = state.write(&mut pieces);
            let event_loop = match written {
                Written::Done | Written::Refused(_) | Written::Warn => None,
                _ => state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py)),
            };
            (written, event_loop)
        });
        match written {
            Written::Refused(refusal) => return refusal.raise(function),
            Written::Warn => return WARN.get(py)?.call0().map(drop),
            _ => {}
        }
        let Some(event_loop) = event_loop else { return Ok(()) };
        let bound = event_loop.bind(py);
        let told = match written {
            Written::List => {
                LoopCore::list_unsent(bound, this);
                Ok(())
            }
            Written::ListAndPause => {
                LoopCore::list_unsent(bound, this);
                Self::maybe_pause_protocol(this, bound)
            }
            Written::Pause => Self::maybe_pause_protocol(this, bound),
            Written::Send => {
                Self::send_now(this, bound);
                Self::maybe_pause_protocol(this, bound)
            }
            Written::Done | Written::Refused(_) | Written::Warn => Ok(()),
        };
        event_loop.drop_ref(py);
        told
    }

    /// `write_eof()`: no more is written; the peer is told once all is sent.
    pub(super) fn write_eof(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let now = this.get().state.with(py, |state| {
            if state.closing || state.eof {
                return false;
            }
            state.eof = true;
            state.outgoing.awaited = true;
            state.outgoing.is_empty()
        });
        if now { this.get().shut_down(py) } else { Ok(()) }
    }

    /// Tells the peer that no more comes, once: when both ends have said so the socket is no connection any more, and to shut it
    /// down again is an error.
    fn shut_down(&self, py: Python<'_>) -> PyResult<()> {
        let result = self.state.with(py, |state| {
            if std::mem::replace(&mut state.shut_down, true) {
                return None;
            }
            let descriptor = state.descriptor.as_ref()?;
            Some(rustix::net::shutdown(descriptor.as_fd(), Shutdown::Write))
        });
        match result {
            Some(Err(error)) => Err(os_error(py, &error.into())),
            Some(Ok(())) | None => Ok(()),
        }
    }

    /// Hands what was written to the driver, at the end of an iteration.
    pub(crate) fn submit(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let taken = this.get().state.with(py, |state| {
            state.listed = false;
            state.sent_at_once = 0;
            if state.lost > 0 || state.outgoing.is_empty() {
                return None;
            }
            let (fd, key) = state.fd().zip(state.key)?;
            Some((fd, key, state.take_outgoing()))
        });
        let Some((fd, key, outgoing)) = taken else { return Ok(()) };
        let event = event_loop.get().with_driver(py, |driver| driver.send(fd, key, outgoing))?;
        if let Some(Event::Sent { payload, result }) = event {
            Self::sent(this, event_loop, payload, result);
        }
        Ok(())
    }

    /// As [`Stream::send_now`], of a stream that was taken out of the loop's list.
    pub(crate) fn send_listed_now(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) {
        this.get().state.with(event_loop.py(), |state| state.listed = false);
        Self::send_now(this, event_loop);
    }

    /// Sends what was written, past the driver, as far as it goes.
    pub(crate) fn send_now(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) {
        let py = event_loop.py();
        let taken = this.get().state.with(py, |state| {
            if state.lost > 0 || state.outgoing.is_empty() {
                return None;
            }
            Some((state.fd()?, state.take_outgoing()))
        });
        if let Some((fd, outgoing)) = taken {
            let result = send_now(fd, &outgoing);
            Self::sent(this, event_loop, outgoing, result);
        }
    }

    /// Takes note of a send that is done. Runs no Python code: what the protocol must be told of is queued.
    pub(crate) fn sent(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        mut outgoing: Outgoing,
        result: io::Result<usize>,
    ) {
        let py = event_loop.py();
        let count = match result {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => {
                drop(outgoing);
                let room = this.get().state.with(py, |state| {
                    state.forget_end_by(&error);
                    state.send_failed = true;
                    state.room.take()
                });
                cancel(event_loop, room);
                event_loop.get().push(py, Work::Stream(this.clone_ref(py), StreamWork::SendFailed(error)));
                return;
            }
        };
        event_loop.get().sent(count);
        event_loop.get().trace_sent(py, this, count);
        if count == outgoing.len() {
            let all = this.get().state.with(py, |state| {
                let simple = state.outgoing.is_empty() && state.room.is_none();
                simple.then(|| state.waits_for_empty() || state.wants_resume())
            });
            if let Some(told) = all {
                outgoing.release(py);
                if told {
                    event_loop.get().push(py, Work::Stream(this.clone_ref(py), StreamWork::Drained));
                }
                return;
            }
        }
        let done = outgoing.advance(py, count);
        let (wanted, room, told) = this.get().state.with(py, |state| {
            // What was written since comes behind.
            outgoing.awaited |= state.outgoing.awaited;
            let since = std::mem::replace(&mut state.outgoing, outgoing);
            state.outgoing.append(since);
            if state.outgoing.is_empty() {
                (None, state.room.take(), state.waits_for_empty() || state.wants_resume())
            } else {
                let wanted = if state.room.is_none() { state.fd().zip(state.key) } else { None };
                (wanted, None, state.wants_resume())
            }
        });
        done.release(py);
        cancel(event_loop, room);
        if told {
            event_loop.get().push(py, Work::Stream(this.clone_ref(py), StreamWork::Drained));
        }
        if let Some((fd, key)) = wanted {
            let watched =
                event_loop.get().with_driver(py, |driver| driver.watch(fd, Interest::Writable, key));
            match watched {
                Ok(Ok(operation)) => this.get().state.with(py, |state| state.room = Some(operation)),
                Ok(Err(error)) => {
                    event_loop
                        .get()
                        .push(py, Work::Stream(this.clone_ref(py), StreamWork::SendFailed(error)));
                }
                // No driver: the loop is being closed, and what could not be sent now is lost.
                Err(_closing) => {}
            }
        }
    }

    /// There is room in the kernel again: more is sent at the end of this iteration.
    pub(super) fn writable(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let list = this.get().state.with(py, |state| {
            state.room.is_some() && !state.outgoing.is_empty() && !std::mem::replace(&mut state.listed, true)
        });
        if list {
            event_loop.get().state.with(py, |state| state.unsent.push(this.clone_ref(py)));
        }
        Ok(())
    }

    /// Goes on with what waited for bytes to be sent: the protocol's writing, and what comes after everything is sent.
    pub(super) fn drained(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let audience = this.get().state.with(py, |state| {
            if !state.wants_resume() {
                return None;
            }
            state.protocol_paused = false;
            state.sent_at_once = 0;
            state.outgoing.awaited = state.waits_for_empty();
            state.audience(py)
        });
        if let Some(audience) = audience {
            let name = intern!(py, "resume_writing");
            if let Err(error) = audience.tell(py, |protocol| call_method(protocol, name, []).map(drop)) {
                Self::report(this, event_loop, error, "protocol.resume_writing() failed")?;
            }
        }
        // The protocol may have written more.
        let (waiter, lost, end) = this.get().state.with(py, |state| {
            if !state.outgoing.is_empty() || state.lost > 0 {
                return (None, false, false);
            }
            let waiter = state.empty_waiter.as_ref().map(|waiter| waiter.clone_ref(py));
            if state.closing {
                state.lost += 1;
            }
            (waiter, state.closing, state.eof && !state.closing)
        });
        if let Some(waiter) = waiter
            && !waiter.call_method0(py, intern!(py, "done"))?.is_truthy(py)?
        {
            waiter.call_method1(py, intern!(py, "set_result"), (py.None(),))?;
        }
        if lost {
            return Self::connection_lost(this, event_loop, None);
        }
        if end { this.get().shut_down(py) } else { Ok(()) }
    }

    /// A send has failed: the connection is lost.
    pub(super) fn send_failed(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        error: &io::Error,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let (waiter, cause) =
            this.get().state.with(py, |state| (state.empty_waiter.take(), state.take_failure()));
        // A reset is said once: if a receive operation has heard of it, a send only hears that the pipe is broken.
        let error = os_error(py, cause.as_ref().unwrap_or(error));
        if let Some(waiter) = waiter
            && !waiter.call_method0(py, intern!(py, "done"))?.is_truthy(py)?
        {
            waiter.call_method1(py, intern!(py, "set_exception"), (error.clone_ref(py),))?;
        }
        Self::fatal_error(this, event_loop, error, "Fatal write error on socket transport")
    }

    /// Tells the protocol to pause if more than the high-water mark waits to be sent.
    pub(super) fn maybe_pause_protocol(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let protocol = this.get().state.with(py, |state| {
            if state.protocol_paused || state.outgoing.len() <= state.marks.high {
                return None;
            }
            state.protocol_paused = true;
            state.outgoing.awaited = true;
            state.protocol.as_ref().map(|protocol| protocol.clone_ref(py))
        });
        let Some(protocol) = protocol else { return Ok(()) };
        match call_method(protocol.bind(py), intern!(py, "pause_writing"), []) {
            Ok(_) => Ok(()),
            Err(error) => Self::report(this, event_loop, error, "protocol.pause_writing() failed"),
        }
    }
}

impl State {
    /// Whether nothing can be written, and why.
    fn refusal(&self) -> Option<Refusal> {
        if self.eof {
            return Some(Refusal::Ended);
        }
        self.empty_waiter.is_some().then_some(Refusal::Sendfile)
    }

    /// Adds pieces to what is to be sent, if they are taken; says what follows.
    fn write<'py, I: IntoIterator<Item = Bound<'py, PyBytes>>>(&mut self, pieces: &mut Option<I>) -> Written {
        if let Some(refusal) = self.refusal() {
            return Written::Refused(refusal);
        }
        if self.lost > 0 {
            let warn = self.lost >= SILENT_WRITES;
            self.lost += 1;
            return if warn { Written::Warn } else { Written::Done };
        }
        let before = self.outgoing.len();
        let pieces = pieces.take().into_iter().flatten();
        pieces.filter(|piece| !piece.as_bytes().is_empty()).for_each(|piece| self.outgoing.push(piece));
        let length = self.outgoing.len();
        if length == before {
            return Written::Done;
        }
        let pause = length > self.marks.high && !self.protocol_paused;
        if self.room.is_some() {
            if pause { Written::Pause } else { Written::Done }
        } else if (length > self.marks.high || length >= LARGE) && self.sent_at_once < MOST_AT_ONCE {
            self.sent_at_once += length;
            Written::Send
        } else if std::mem::replace(&mut self.listed, true) {
            if pause { Written::Pause } else { Written::Done }
        } else if pause {
            Written::ListAndPause
        } else {
            Written::List
        }
    }

    /// Takes what is to be sent for a send, leaving an empty one that is as awaited.
    fn take_outgoing(&mut self) -> Outgoing {
        self.outgoing.awaited = self.waits_for_empty() || self.protocol_paused;
        let awaited = self.outgoing.awaited;
        std::mem::replace(&mut self.outgoing, Outgoing::empty(awaited))
    }

    /// Takes the failure that a receive operation has met and the protocol was not told of.
    fn take_failure(&mut self) -> Option<io::Error> {
        match self.arrived.pop_back_if(|received| matches!(received, Received::Failed(_))) {
            Some(Received::Failed(error)) => Some(error),
            _ => None,
        }
    }

    /// Forgets an end of the stream that is only the other half of a failure which a send has met.
    ///
    /// The kernel says once that a connection was reset, here to the send, and then has a receive find the end of the stream. A
    /// protocol that was told of that one would take what it has for whole. (A peer that has ended the stream before it reset the
    /// connection makes a send fail with EPIPE instead: `tcp_reset()` in Linux's `net/ipv4/tcp_input.c`.)
    fn forget_end_by(&mut self, error: &io::Error) {
        if error.kind() == io::ErrorKind::ConnectionReset
            && self.arrived.pop_back_if(|received| matches!(received, Received::End)).is_some()
        {
            self.ended = true;
        }
    }

    /// Something is to happen once everything is sent.
    fn waits_for_empty(&self) -> bool {
        self.closing || self.eof || self.empty_waiter.is_some()
    }

    /// The protocol was told to pause, and may go on.
    pub(super) fn wants_resume(&self) -> bool {
        self.protocol_paused && self.outgoing.len() <= self.marks.low
    }
}
