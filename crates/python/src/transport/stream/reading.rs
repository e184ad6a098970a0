//! Bytes from the peer to the protocol.
//!
//! How pausing works without losing data: `pause_reading()` only notes it. If something is received while the note stands, that is
//! kept and the receive operation is told to stop; `resume_reading()` hands over what was kept and starts another. A protocol that
//! pauses and resumes between two packets so costs nothing at all.

use std::io;
use std::os::fd::BorrowedFd;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use whilst_engine::driver::Received;

use super::lifecycle::cancel;
use super::{Audience, State, Stream, StreamWork};
use crate::errors::os_error;
use crate::event_loop::LoopCore;
use crate::ffi::buffer::WritableBuffer;
use crate::ffi::call::call_method;
use crate::ffi::class::Object;
use crate::ffi::descriptor;
use crate::ffi::imports::Import;
use crate::transport::socket;

/// How many bytes one read takes at most, as in CPython (`_SelectorTransport.max_size`).
const MOST: usize = 256 * 1024;

/// What is to be done with something received.
enum Reception {
    /// Hand it to the protocol.
    Deliver(Audience, bool),
    /// Nothing: it was kept, or nobody wants it.
    Done,
    /// Nothing, and receiving must stop.
    Stop,
    /// Receiving has stopped, but is wanted again.
    Restart,
}

/// What came of filling a protocol's buffer.
enum Filled {
    /// So many bytes, and the protocol was told.
    Bytes(usize),
    /// The stream has ended.
    End,
    /// There was nothing, or something failed, which was dealt with.
    Nothing,
}

impl Stream {
    /// Starts a receive operation, if the protocol wants to read.
    pub(super) fn start_reading(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let wanted = this.get().state.with(py, |state| {
            let wanted = state.connected && state.is_reading() && !state.ended && state.receive.is_none();
            if wanted { state.fd().zip(state.key) } else { None }
        });
        let Some((fd, key)) = wanted else { return Ok(()) };
        match event_loop.get().with_driver(py, |driver| driver.receive(fd, key))? {
            Ok(operation) => {
                this.get().state.with(py, |state| state.receive = Some(operation));
                Ok(())
            }
            Err(error) => {
                let error = os_error(py, &error);
                Self::fatal_error(this, event_loop, error, "Fatal read error on socket transport")
            }
        }
    }

    /// Deals with what the receive operation has to say.
    pub(crate) fn received(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        received: Received,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let mut received = Some(received);
        let reception = this.get().state.with(py, |state| state.receive(py, &mut received));
        match (reception, received) {
            (Reception::Deliver(audience, buffered), Some(received)) => {
                Self::deliver(this, event_loop, &audience, buffered, received)
            }
            (Reception::Stop, _) => {
                let operation = this.get().state.with(py, State::stop_receiving);
                cancel(event_loop, operation);
                Ok(())
            }
            (Reception::Restart, _) => Self::start_reading(this, event_loop),
            _ => Ok(()),
        }
    }

    /// `resume_reading()`, after it was noted: hands over what was kept meanwhile and goes on.
    pub(super) fn deliver_kept(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        loop {
            let next = this.get().state.with(py, |state| {
                if !state.is_reading() || state.kept.is_empty() {
                    return None;
                }
                let audience = state.audience(py)?;
                state.kept.pop_front().map(|received| (audience, state.buffered, received))
            });
            match next {
                Some((audience, buffered, received)) => {
                    Self::deliver(this, event_loop, &audience, buffered, received)?;
                }
                None => return Self::start_reading(this, event_loop),
            }
        }
    }

    fn deliver(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        buffered: bool,
        received: Received,
    ) -> PyResult<()> {
        let py = event_loop.py();
        match received {
            Received::Data(chunk) if buffered => {
                let mut rest = &chunk[..];
                while !rest.is_empty() {
                    let fill = |memory: &mut [u8]| {
                        let count = rest.len().min(memory.len());
                        memory[..count].copy_from_slice(&rest[..count]);
                        Ok(count)
                    };
                    match Self::fill_buffer(this, event_loop, audience, fill)? {
                        Filled::Bytes(count) => rest = &rest[count..],
                        Filled::End | Filled::Nothing => return Ok(()),
                    }
                    // The protocol may have closed the transport, changed places with another or paused it.
                    let goes_on = this.get().state.with(py, |state| !state.closing && state.protocol.is_some());
                    if !goes_on {
                        return Ok(());
                    }
                }
                Ok(())
            }
            Received::Data(chunk) => {
                let data = PyBytes::new(py, &chunk);
                drop(chunk);
                Self::data_received(this, event_loop, audience, &data)
            }
            Received::Waiting => Self::read(this, event_loop, audience, buffered),
            Received::End => Self::end_received(this, event_loop, audience),
            Received::Failed(error) => {
                let error = os_error(py, &error);
                Self::fatal_error(this, event_loop, error, "Fatal read error on socket transport")
            }
            Received::Stopped => Ok(()),
        }
    }

    /// Reads what waits in the kernel.
    fn read(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        buffered: bool,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let Some(fd) = this.get().state.with(py, |state| state.fd()) else { return Ok(()) };
        let fd = descriptor::borrow(fd);
        if buffered {
            let fill = |memory: &mut [u8]| socket::receive(fd, memory);
            return match Self::fill_buffer(this, event_loop, audience, fill)? {
                Filled::End => Self::end_received(this, event_loop, audience),
                Filled::Bytes(_) | Filled::Nothing => Ok(()),
            };
        }
        match event_loop.get().read_bytes(py, fd) {
            Ok(data) if data.as_bytes().is_empty() => Self::end_received(this, event_loop, audience),
            Ok(data) => Self::data_received(this, event_loop, audience, &data),
            Err(error) => Self::read_failed(this, event_loop, &error),
        }
    }

    fn read_failed(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>, error: &io::Error) -> PyResult<()> {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Ok(());
        }
        let error = os_error(event_loop.py(), error);
        Self::fatal_error(this, event_loop, error, "Fatal read error on socket transport")
    }

    #[inline]
    fn data_received(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        data: &Bound<'_, PyBytes>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let name = intern!(py, "data_received");
        match audience.tell(py, |protocol| call_method(protocol, name, [data.as_any()]).map(drop)) {
            Ok(()) => Ok(()),
            Err(error) => Self::fatal_error(
                this,
                event_loop,
                error,
                "Fatal error: protocol.data_received() call failed.",
            ),
        }
    }

    /// Has bytes put into the buffer that the protocol gives, and tells it how many they are. Failures of the protocol and of
    /// `fill` are dealt with.
    fn fill_buffer(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> PyResult<Filled> {
        let py = event_loop.py();
        let get_buffer = |protocol: &Bound<'_, PyAny>| {
            let hint = (-1_i32).into_pyobject(py)?;
            let buffer = call_method(protocol, intern!(py, "get_buffer"), [hint.as_any()])?;
            if buffer.len()? == 0 {
                return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
            }
            WritableBuffer::of(&buffer)
        };
        let filled = match audience.tell(py, get_buffer) {
            // The buffer is let go before the protocol is told, which may want to resize it.
            Ok(mut buffer) => fill(buffer.bytes(py)),
            Err(error) => {
                let message = "Fatal error: protocol.get_buffer() call failed.";
                return Self::fatal_error(this, event_loop, error, message).map(|()| Filled::Nothing);
            }
        };
        let count = match filled {
            Ok(0) => return Ok(Filled::End),
            Ok(count) => count,
            Err(error) => return Self::read_failed(this, event_loop, &error).map(|()| Filled::Nothing),
        };
        let told = audience.tell(py, |protocol| {
            let count = count.into_pyobject(py)?;
            call_method(protocol, intern!(py, "buffer_updated"), [count.as_any()]).map(drop)
        });
        match told {
            Ok(()) => Ok(Filled::Bytes(count)),
            Err(error) => {
                let message = "Fatal error: protocol.buffer_updated() call failed.";
                Self::fatal_error(this, event_loop, error, message).map(|()| Filled::Nothing)
            }
        }
    }

    /// The peer sends no more: the protocol says whether it wants to go on sending.
    fn end_received(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>, audience: &Audience) -> PyResult<()> {
        static LOG_END: Import = Import::new("whilst._loop.errors", "log_end_of_stream");
        let py = event_loop.py();
        let operation = this.get().state.with(py, |state| {
            state.ended = true;
            state.stop_receiving()
        });
        cancel(event_loop, operation);
        if event_loop.get().is_debug() {
            LOG_END.get(py)?.call1((this.bind(py),))?;
        }
        let name = intern!(py, "eof_received");
        match audience.tell(py, |protocol| call_method(protocol, name, [])?.is_truthy()) {
            Ok(true) => Ok(()),
            Ok(false) => Self::close(this, py),
            Err(error) => Self::fatal_error(
                this,
                event_loop,
                error,
                "Fatal error: protocol.eof_received() call failed.",
            ),
        }
    }

    /// `pause_reading()`.
    pub(super) fn pause_reading(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| {
            let was_reading = state.is_reading();
            state.paused |= was_reading;
            was_reading
        })
    }

    /// `resume_reading()`.
    pub(super) fn resume_reading(this: &Object<Self>, py: Python<'_>) -> PyResult<bool> {
        let (resumed, kept, event_loop) = this.get().state.with(py, |state| {
            if state.closing || !state.paused {
                return (false, false, None);
            }
            state.paused = false;
            let kept = !state.kept.is_empty();
            (true, kept, state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py)))
        });
        if let Some(event_loop) = event_loop {
            let event_loop = event_loop.bind(py);
            if kept {
                Self::queue(this, event_loop, StreamWork::Resume)?;
            } else {
                Self::start_reading(this, event_loop)?;
            }
        }
        Ok(resumed)
    }
}

impl State {
    /// Sorts what was received: takes it out of `received` if it is kept.
    fn receive(&mut self, py: Python<'_>, received: &mut Option<Received>) -> Reception {
        match received {
            Some(Received::Stopped) => {
                self.receive = None;
                self.receive_stops = false;
                // What was kept comes first; whoever hands it over starts reading again.
                let restart = self.is_reading() && self.kept.is_empty();
                return if restart { Reception::Restart } else { Reception::Done };
            }
            Some(Received::End | Received::Failed(_)) => {
                self.receive = None;
                self.receive_stops = false;
            }
            _ => {}
        }
        if self.closing || self.ended {
            return Reception::Done;
        }
        if self.paused {
            // What waits in the kernel can wait there.
            if !matches!(received, Some(Received::Waiting)) {
                self.kept.extend(received.take());
            }
            return Reception::Stop;
        }
        if !self.kept.is_empty() {
            // Behind what came before it, which is about to be handed over.
            if !matches!(received, Some(Received::Waiting)) {
                self.kept.extend(received.take());
            }
            return Reception::Done;
        }
        match self.audience(py) {
            Some(audience) => Reception::Deliver(audience, self.buffered),
            None => Reception::Done,
        }
    }
}

impl LoopCore {
    /// Reads what waits in the kernel; empty at the end of the stream.
    fn read_bytes<'py>(&self, py: Python<'py>, fd: BorrowedFd<'_>) -> io::Result<Bound<'py, PyBytes>> {
        self.state.with(py, |state| {
            if state.scratch.is_empty() {
                state.scratch = vec![0; MOST];
            }
            let count = socket::receive(fd, &mut state.scratch)?;
            // Making `bytes` runs no Python code: they are no concern of the garbage collector.
            Ok(PyBytes::new(py, &state.scratch[..count]))
        })
    }
}
