//! The reading end of a pipe.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::io::{Errno, ioctl_fionread, read};
use whilst_engine::driver::{Interest, Key};

use super::capacity::{USUAL, enlarge};
use super::lifecycle::Kind;
use super::{Pipe, PipeWork, Side, State};
use crate::errors::os_error;
use crate::event_loop::registry::Source;
use crate::event_loop::{LoopCore, Work};
use crate::ffi::bytes;
use crate::ffi::call::call_method;
use crate::ffi::class::{Class, Object};
use crate::ffi::imports::Import;
use crate::transport::stream::MOST;

/// A read of so many bytes is large: the next one asks beforehand how many there are, and reads these into a `bytes` object of that
/// size. To ask costs less than to copy so much.
const LARGE: usize = 16 * 1024;

/// What only the reading end has.
pub(crate) struct Reading {
    /// `pause_reading()` was called.
    pub(super) paused: bool,
    /// The last read was a large one.
    large: bool,
    /// A read has found the pipe full.
    was_full: bool,
}

impl Side for Reading {
    const NAME: &'static str = "ReadPipeTransport";
    const REFUSAL: &'static str = "Pipe transport is for pipes/sockets only.";

    fn class() -> &'static Class {
        static CLASS: Class = Class::new();
        &CLASS
    }

    fn new(_kind: Kind) -> Self {
        Self { paused: false, large: false, was_full: false }
    }

    fn take_writer(&mut self) -> Option<Key> {
        None
    }

    fn drop_unwritten(&mut self) {}

    fn describe(state: &State<Self>) -> String {
        if state.reader.is_some() { "polling" } else { "idle" }.to_owned()
    }

    fn work(this: Object<Pipe<Self>>, work: PipeWork) -> Work {
        Work::ReadPipe(this, work)
    }

    fn begin(this: &Object<Pipe<Self>>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        Pipe::start_reading(this, event_loop)
    }

    fn told_when_ready(_interest: Interest) -> &'static str {
        "data_received"
    }

    fn ready(
        this: &Object<Pipe<Self>>,
        event_loop: &Bound<'_, LoopCore>,
        _interest: Interest,
    ) -> PyResult<()> {
        Pipe::read_ready(this, event_loop)
    }
}

impl State<Reading> {
    pub(super) fn is_reading(&self) -> bool {
        !self.closing && !self.side.paused
    }
}

impl Pipe<Reading> {
    /// Begins to wait for bytes, if the protocol wants to read. Raises `OSError` if they cannot be waited for.
    fn start_reading(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let fd = this.get().state.with(py, |state| state.is_reading().then_some(state.fd));
        let Some(fd) = fd else { return Ok(()) };
        let source = Source::ReadPipe(this.clone_ref(py));
        let key = LoopCore::watch_for(event_loop, fd, Interest::Readable, source)?;
        this.get().state.with(py, |state| state.reader = Some(key));
        Ok(())
    }

    /// There are bytes, the end, or an error: reads once, as much as there is up to [`MOST`].
    fn read_ready(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let wanted = this.get().state.with(py, |state| {
            // It may have been paused since it became ready.
            let wanted = state.reader.is_some() && state.is_reading();
            wanted.then(|| (state.fd, state.side.large, state.audience(py)))
        });
        let Some((fd, large, Some(audience))) = wanted else { return Ok(()) };
        let data = match read_bytes(event_loop, crate::ffi::descriptor::borrow(fd), large) {
            Ok(data) => data,
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => return Ok(()),
                _ => return Self::read_failed(this, event_loop, &error),
            },
        };
        let count = data.as_bytes().len();
        if count == 0 {
            return Self::end_of_stream(this, event_loop);
        }
        event_loop.get().received(count);
        event_loop.get().trace_received(py, this, count);
        this.get().state.with(py, |state| {
            state.side.large = count >= LARGE;
            if count >= USUAL && !std::mem::replace(&mut state.side.was_full, true) {
                enlarge(state.borrow());
            }
        });
        let name = intern!(py, "data_received");
        match audience.tell(py, |protocol| call_method(protocol, name, [data.as_any()]).map(drop)) {
            Ok(()) => Ok(()),
            // Not the end of the connection, unlike with sockets: so it is in CPython.
            Err(error) => audience.report(event_loop, "data_received", error),
        }
    }

    /// Nobody will write any more: `eof_received()` and `connection_lost()` follow.
    fn end_of_stream(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        log_closed_by_peer(event_loop, this.bind(event_loop.py()))?;
        this.get().stop(event_loop, false);
        Self::queue(this, event_loop, PipeWork::Ended)?;
        Self::queue(this, event_loop, PipeWork::Lost(None))
    }

    /// A read has failed: reported, unless it is how Linux says that the other end of a terminal was closed.
    #[cold]
    fn read_failed(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>, error: &io::Error) -> PyResult<()> {
        static REPORT: Import = Import::new("whilst._loop.errors", "report_pipe_read_error");
        let py = event_loop.py();
        let protocol = this.get().state.with(py, |state| state.protocol.as_ref().map(|it| it.clone_ref(py)));
        let exception = os_error(py, error).into_value(py).into_any();
        REPORT.get(py)?.call1((event_loop, this.bind(py), protocol, &exception))?;
        Self::lose(this, event_loop, Some(exception))
    }

    /// `pause_reading()`: true if the protocol was reading.
    pub(super) fn pause_reading(this: &Object<Self>, py: Python<'_>) -> bool {
        let (was_reading, watch) = this.get().state.with(py, |state| {
            let was_reading = state.is_reading();
            state.side.paused |= was_reading;
            let reader = if was_reading { state.reader.take() } else { None };
            let event_loop = state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py));
            (was_reading, reader.zip(event_loop).map(|(key, event_loop)| (event_loop, state.fd, key)))
        });
        if let Some((event_loop, fd, key)) = watch {
            LoopCore::end_watch(event_loop.bind(py), fd, Interest::Readable, key, false);
        }
        was_reading
    }

    /// `resume_reading()`: true if the protocol was paused. Raises as [`LoopCore::watch_for`] does.
    pub(super) fn resume_reading(this: &Object<Self>, py: Python<'_>) -> PyResult<bool> {
        let event_loop = this.get().state.with(py, |state| {
            if state.closing || !std::mem::take(&mut state.side.paused) {
                return None;
            }
            state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py))
        });
        let Some(event_loop) = event_loop else { return Ok(false) };
        Self::start_reading(this, event_loop.bind(py))?;
        Ok(true)
    }

    /// `close()`.
    pub(super) fn close(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        match this.get().event_loop(py) {
            Some(event_loop) => Self::lose(this, event_loop.bind(py), None),
            None => Ok(()),
        }
    }
}

/// Reads what there is, once; nothing at the end of the stream.
fn read_bytes<'py>(
    event_loop: &Bound<'py, LoopCore>,
    fd: BorrowedFd<'_>,
    large: bool,
) -> io::Result<Bound<'py, PyBytes>> {
    let py = event_loop.py();
    if large
        && let Ok(there) = ioctl_fionread(fd)
        && there >= LARGE as u64
    {
        let capacity = usize::try_from(there).map_or(MOST, |there| there.min(MOST));
        return bytes::filled(py, capacity, |memory: &mut [MaybeUninit<u8>]| Ok(read(fd, memory)?.0));
    }
    event_loop.get().read_bytes(py, |memory| read(fd, memory).map_err(Errno::into))
}

/// Notes that the other end has closed, in debug mode.
pub(super) fn log_closed_by_peer(
    event_loop: &Bound<'_, LoopCore>,
    transport: &Bound<'_, PyAny>,
) -> PyResult<()> {
    static LOG: Import = Import::new("whilst._loop.errors", "log_closed_by_peer");
    if !event_loop.get().is_debug() {
        return Ok(());
    }
    LOG.get(event_loop.py())?.call1((transport,)).map(drop)
}
