//! The writing end of a pipe.
//!
//! What is written is handed to the kernel at once; what it has no room for is kept, and written when there is. A program that
//! writes and then asks [`get_write_buffer_size()`](State::size), or looks at the other end, finds what it would find with CPython.

use std::io;

use pyo3::exceptions::PyBrokenPipeError;
use pyo3::intern;
use pyo3::prelude::*;
use rustix::io::{write, writev};
use whilst_engine::driver::{Interest, Key};

use super::capacity::enlarge;
use super::lifecycle::Kind;
use super::reading::log_closed_by_peer;
use super::{Pipe, PipeWork, Side, State};
use crate::errors::os_error;
use crate::event_loop::registry::Source;
use crate::event_loop::{LoopCore, Work};
use crate::ffi::buffer::snapshot;
use crate::ffi::call::call_method;
use crate::ffi::class::{Class, Object};
use crate::ffi::imports::Import;
use crate::transport::audience::report_failure;
use crate::transport::flow_control::Marks;
use crate::transport::outgoing::Outgoing;
use crate::transport::outgoing::{BYTES_LIKE, check_bytes};
use crate::transport::stream::SILENT_WRITES;

/// What only the writing end has.
pub(crate) struct Writing {
    /// What the kernel has had no room for.
    outgoing: Outgoing,
    /// The watch for room, while something is left.
    writer: Option<Key>,
    /// How many writes have failed, or came after the transport was closed.
    pub(super) lost: u32,
    /// `pause_writing()` was called on the protocol.
    pub(super) protocol_paused: bool,
    pub(super) marks: Marks,
    /// The reader's hang-up can be waited for.
    hangs_up: bool,
    /// A write has filled the pipe once more, after the reader had made room.
    was_full: bool,
}

/// What follows from a write.
enum Written {
    /// Nothing more.
    All,
    /// The kernel has no room for all of it.
    Part,
    /// It comes behind what waits already.
    Kept,
    /// The pipe is closed, and somebody should hear of it.
    Lost,
    Failed(io::Error),
}

impl Side for Writing {
    const NAME: &'static str = "WritePipeTransport";
    const REFUSAL: &'static str = "Pipe transport is only for pipes, sockets and character devices";

    fn class() -> &'static Class {
        static CLASS: Class = Class::new();
        &CLASS
    }

    fn new(kind: Kind) -> Self {
        Self {
            outgoing: Outgoing::default(),
            writer: None,
            lost: 0,
            protocol_paused: false,
            marks: Marks::default(),
            // What a terminal has to be read is its other end's typing, and no hang-up.
            hangs_up: kind != Kind::Device,
            was_full: false,
        }
    }

    fn take_writer(&mut self) -> Option<Key> {
        self.writer.take()
    }

    fn drop_unwritten(&mut self) {
        self.outgoing = Outgoing::default();
    }

    fn describe(state: &State<Self>) -> String {
        let polling = if state.side.writer.is_some() { "polling" } else { "idle" };
        format!("{polling} bufsize={}", state.size())
    }

    fn work(this: Object<Pipe<Self>>, work: PipeWork) -> Work {
        Work::WritePipe(this, work)
    }

    /// Waits for the reader's hang-up. A pipe's writing end is never readable but then, and a socket is also when the peer sends, which
    /// it should not.
    fn begin(this: &Object<Pipe<Self>>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let fd =
            this.get().state.with(py, |state| (state.side.hangs_up && !state.losing).then_some(state.fd));
        let Some(fd) = fd else { return Ok(()) };
        let source = Source::WritePipe(this.clone_ref(py), Interest::Readable);
        let key = LoopCore::watch_for(event_loop, fd, Interest::Readable, source)?;
        this.get().state.with(py, |state| state.reader = Some(key));
        Ok(())
    }

    fn told_when_ready(interest: Interest) -> &'static str {
        match interest {
            Interest::Readable => "connection_lost",
            Interest::Writable => "resume_writing",
        }
    }

    fn ready(
        this: &Object<Pipe<Self>>,
        event_loop: &Bound<'_, LoopCore>,
        interest: Interest,
    ) -> PyResult<()> {
        match interest {
            Interest::Readable => Pipe::hung_up(this, event_loop),
            Interest::Writable => Pipe::write_ready(this, event_loop),
        }
    }
}

impl State<Writing> {
    /// How many bytes are not written yet.
    pub(super) fn size(&self) -> usize {
        self.side.outgoing.len()
    }
}

impl Pipe<Writing> {
    /// `write()`.
    pub(super) fn write(this: &Object<Self>, py: Python<'_>, data: &Bound<'_, PyAny>) -> PyResult<()> {
        static WARN: Import = Import::new("whilst._loop.errors", "warn_of_lost_pipe_write");
        check_bytes(data, BYTES_LIKE)?;
        let piece = snapshot(data)?;
        let length = piece.as_bytes().len();
        if length == 0 {
            return Ok(());
        }
        let mut sent = 0;
        let (written, event_loop) = this.get().state.with(py, |state| {
            let event_loop = state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py));
            if state.side.lost > 0 || state.closing {
                let warn = state.side.lost >= SILENT_WRITES;
                state.side.lost += 1;
                return (if warn { Written::Lost } else { Written::All }, event_loop);
            }
            if !state.side.outgoing.is_empty() {
                state.side.outgoing.push(piece);
                return (Written::Kept, event_loop);
            }
            let count = match taken(write(state.borrow(), piece.as_bytes())) {
                Ok(count) => {
                    event_loop.iter().for_each(|event_loop| event_loop.get().sent(count));
                    sent = count;
                    count
                }
                Err(error) => {
                    state.side.lost += 1;
                    return (Written::Failed(error), event_loop);
                }
            };
            if count == length {
                return (Written::All, event_loop);
            }
            state.side.outgoing.push(piece);
            // Nothing is done with: it was not all.
            drop(state.side.outgoing.advance(py, count));
            (Written::Part, event_loop)
        });
        if let Written::Lost = written {
            return WARN.get(py)?.call0().map(drop);
        }
        let Some(event_loop) = event_loop else { return Ok(()) };
        let event_loop = event_loop.bind(py);
        event_loop.get().trace_sent(py, this, sent);
        match written {
            Written::All | Written::Lost => Ok(()),
            Written::Failed(error) => Self::write_failed(this, event_loop, &error),
            Written::Part => {
                Self::wait_for_room(this, event_loop)?;
                Self::maybe_pause_protocol(this, event_loop)
            }
            Written::Kept => Self::maybe_pause_protocol(this, event_loop),
        }
    }

    fn wait_for_room(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let fd = this.get().state.with(py, |state| state.fd);
        let source = Source::WritePipe(this.clone_ref(py), Interest::Writable);
        match LoopCore::watch_for(event_loop, fd, Interest::Writable, source) {
            Ok(key) => {
                this.get().state.with(py, |state| state.side.writer = Some(key));
                Ok(())
            }
            Err(error) => {
                // The caller is told, and what was not written is lost.
                this.get().state.with(py, |state| state.side.drop_unwritten());
                Err(error)
            }
        }
    }

    /// There is room again, or the reader has gone.
    fn write_ready(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let hangs_up = this.get().state.with(py, |state| state.reader.is_some());
        let mut sent = 0;
        let written = this.get().state.with(py, |state| {
            // It may have been closed since it became ready.
            state.side.writer?;
            Some(match taken(writev(state.borrow(), &state.side.outgoing.io_slices())) {
                Ok(count) => {
                    event_loop.get().sent(count);
                    sent = count;
                    let done = state.side.outgoing.advance(py, count);
                    let key = if state.side.outgoing.is_empty() { state.side.writer.take() } else { None };
                    // Not at the first time, in `write()`: not everybody who fills a pipe has a reader who keeps up.
                    if key.is_none() && !std::mem::replace(&mut state.side.was_full, true) {
                        enlarge(state.borrow());
                    }
                    Ok((done, key.map(|key| (state.fd, key))))
                }
                Err(error) => {
                    state.side.lost += 1;
                    Err(error)
                }
            })
        });
        event_loop.get().trace_sent(py, this, sent);
        let (done, watch) = match written {
            None => return Ok(()),
            Some(Ok(written)) => written,
            // The hang-up, which the writer may hear of before the watch for it has said so.
            Some(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe && hangs_up => {
                return Self::hung_up(this, event_loop);
            }
            Some(Err(error)) => return Self::write_failed(this, event_loop, &error),
        };
        drop(done);
        let Some((fd, key)) = watch else { return Ok(()) };
        LoopCore::end_watch(event_loop, fd, Interest::Writable, key, false);
        let told = Self::maybe_resume_protocol(this, event_loop);
        // The protocol may have written more, and may have closed it: then the loss is queued.
        let lost = this
            .get()
            .state
            .with(py, |state| state.closing && !state.losing && state.side.outgoing.is_empty());
        if !lost {
            return told;
        }
        if told.is_err() {
            // It ends the run; the loop may run again.
            return told.and(Self::lose(this, event_loop, None));
        }
        this.get().stop(event_loop, true);
        Self::connection_lost(this, event_loop, None)
    }

    /// A write has failed: the connection is lost. What the system said is logged in debug mode only.
    #[cold]
    fn write_failed(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        error: &io::Error,
    ) -> PyResult<()> {
        static REPORT: Import = Import::new("whilst._loop.errors", "report_fatal_error");
        let py = event_loop.py();
        let protocol = this.get().state.with(py, |state| state.protocol.as_ref().map(|it| it.clone_ref(py)));
        let exception = os_error(py, error).into_value(py).into_any();
        let message = "Fatal write error on pipe transport";
        REPORT.get(py)?.call1((event_loop, this.bind(py), protocol, &exception, message))?;
        Self::lose(this, event_loop, Some(exception))
    }

    /// The reader has hung up.
    fn hung_up(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let (open, unwritten) =
            this.get().state.with(py, |state| (state.reader.is_some(), !state.side.outgoing.is_empty()));
        if !open {
            return Ok(());
        }
        log_closed_by_peer(event_loop, this.bind(py))?;
        let exception = unwritten.then(|| PyBrokenPipeError::new_err(()).into_value(py).into_any());
        Self::lose(this, event_loop, exception)
    }

    /// `write_eof()` and `close()`, which are the same: closed once all is written.
    pub(super) fn write_eof(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let event_loop = this.get().state.with(py, |state| {
            if std::mem::replace(&mut state.closing, true) || !state.side.outgoing.is_empty() {
                return None;
            }
            state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py))
        });
        match event_loop {
            Some(event_loop) => Self::lose(this, event_loop.bind(py), None),
            None => Ok(()),
        }
    }

    /// `abort()`.
    pub(super) fn abort(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        match this.get().event_loop(py) {
            Some(event_loop) => Self::lose(this, event_loop.bind(py), None),
            None => Ok(()),
        }
    }

    /// Tells the protocol to pause if more than the high-water mark waits to be written.
    pub(super) fn maybe_pause_protocol(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let protocol = this.get().state.with(py, |state| {
            if state.side.protocol_paused || state.size() <= state.side.marks.high {
                return None;
            }
            state.side.protocol_paused = true;
            state.protocol.as_ref().map(|protocol| protocol.clone_ref(py))
        });
        let Some(protocol) = protocol else { return Ok(()) };
        match call_method(protocol.bind(py), intern!(py, "pause_writing"), []) {
            Ok(_) => Ok(()),
            Err(error) => Self::report(this, event_loop, &protocol, error, "protocol.pause_writing() failed"),
        }
    }

    /// Tells the protocol to go on if no more than the low-water mark waits to be written.
    fn maybe_resume_protocol(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let audience = this.get().state.with(py, |state| {
            if !state.side.protocol_paused || state.size() > state.side.marks.low {
                return None;
            }
            state.side.protocol_paused = false;
            state.audience(py)
        });
        let Some(audience) = audience else { return Ok(()) };
        let name = intern!(py, "resume_writing");
        match audience.tell(py, |protocol| call_method(protocol, name, []).map(drop)) {
            Ok(()) => Ok(()),
            Err(error) => {
                Self::report(this, event_loop, &audience.protocol, error, "protocol.resume_writing() failed")
            }
        }
    }

    /// Tells the loop's exception handler of a failure that does not concern the connection. What ends the run leaves.
    #[cold]
    fn report(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        protocol: &Py<PyAny>,
        error: PyErr,
        message: &str,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let transport = Some(this.clone_ref(py).into_any());
        report_failure(event_loop, transport, Some(protocol.clone_ref(py)), error, message)
    }
}

/// How many bytes the kernel took; none if it has no room.
fn taken(result: Result<usize, rustix::io::Errno>) -> io::Result<usize> {
    match result {
        Ok(count) => Ok(count),
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => Ok(0),
        Err(error) => Err(error.into()),
    }
}
