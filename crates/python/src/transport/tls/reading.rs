//! Bytes from the peer to the program's protocol.

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};

use super::engine::Stop;
use super::{Phase, Tls, Told};
use crate::ffi::buffer::WritableBuffer;
use crate::ffi::call::call_method;
use crate::ffi::class::Object;
use crate::ffi::imports::Import;
use crate::handle::ends_the_run;
use crate::transport::stream_reader;

/// How many bytes a transport that is not ours may put into the buffer at once, as in CPython (`SSLProtocol.max_size`).
const MOST: usize = 256 * 1024;

impl Tls {
    /// `get_buffer()`: memory for what the transport below receives.
    pub(super) fn get_buffer(this: &Object<Self>, py: Python<'_>) -> PyResult<Py<PyAny>> {
        let buffer = this.get().state.with(py, |state| state.buffer.as_ref().map(|it| it.clone_ref(py)));
        if let Some(buffer) = buffer {
            return Ok(buffer);
        }
        let memory = PyByteArray::new_with(py, MOST, |_zeros| Ok(()))?;
        let view = PyMemoryView::from(memory.as_any())?.into_any().unbind();
        this.get().state.with(py, |state| state.buffer = Some(view.clone_ref(py)));
        Ok(view)
    }

    /// `buffer_updated()`: `count` bytes were put there.
    pub(super) fn buffer_updated(this: &Object<Self>, py: Python<'_>, count: usize) -> PyResult<()> {
        let (engine, buffer) = this
            .get()
            .state
            .with(py, |state| (state.engine.clone(), state.buffer.as_ref().map(|it| it.clone_ref(py))));
        if let (Some(engine), Some(buffer)) = (engine, buffer) {
            let mut buffer = WritableBuffer::of(buffer.bind(py))?;
            let bytes = buffer.bytes(py);
            let count = count.min(bytes.len());
            engine.feed(py, &bytes[..count])?;
        }
        Self::go_on(this, py)
    }

    /// Takes what a stream has received, from wherever it lies, and goes on with whatever waited for it. `received` is let go of before
    /// the program's protocol takes its time. Returns true if nothing was done with it but that an `asyncio.StreamReader` was fed.
    pub(crate) fn receive<T: std::ops::Deref<Target = [u8]>>(
        this: &Object<Self>,
        py: Python<'_>,
        received: impl AsRef<[T]>,
    ) -> PyResult<bool> {
        let straight = this.get().state.with(py, |state| {
            let straight = state.phase == Phase::Wrapped && !state.app_reading_paused && !state.buffered;
            if straight { state.engine.clone() } else { None }
        });
        let Some(engine) = straight else {
            received.as_ref().iter().try_for_each(|bytes| Self::feed(this, py, bytes))?;
            drop(received);
            return Self::go_on(this, py).map(|()| false);
        };
        let read = match received.as_ref() {
            [one] => engine.read(py, &[&**one]),
            several => engine.read(py, &several.iter().map(|bytes| &**bytes).collect::<Vec<_>>()),
        };
        drop(received);
        let mut fed = false;
        let result = read.and_then(|(data, stop)| {
            let closed;
            (closed, fed) = Self::data_received(this, py, data, stop)?;
            fed &= !closed;
            Self::reply(this, py, closed)
        });
        fed &= result.is_ok();
        Self::caught(this, py, result).map(|()| fed)
    }

    /// Takes bytes of the peer's and does nothing with them yet; [`Tls::go_on`] does.
    pub(crate) fn feed(this: &Object<Self>, py: Python<'_>, received: &[u8]) -> PyResult<()> {
        this.get().engine(py).map_or(Ok(()), |engine| engine.feed(py, received))
    }

    /// Goes on with whatever waited for bytes of the peer's.
    pub(crate) fn go_on(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        match this.get().phase(py) {
            // Not begun: what was fed is there when the handshake starts. Or over.
            Phase::Unwrapped => Ok(()),
            Phase::DoHandshake => Self::do_handshake(this, py),
            Phase::Wrapped => Self::do_read(this, py),
            Phase::Flushing => Self::do_flush(this, py),
            Phase::Shutdown => Self::do_shutdown(this, py),
        }
    }

    /// Hands what can be decrypted to the program's protocol, and sends what that brings about.
    pub(super) fn do_read(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        if !matches!(this.get().phase(py), Phase::Wrapped | Phase::Flushing) {
            return Ok(());
        }
        let result = Self::read_and_reply(this, py);
        Self::caught(this, py, result)
    }

    fn read_and_reply(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let (paused, buffered) =
            this.get().state.with(py, |state| (state.app_reading_paused, state.buffered));
        let closed = match (paused, buffered) {
            (true, _) => false,
            (false, true) => Self::read_buffered(this, py)?,
            (false, false) => Self::read_copied(this, py)?,
        };
        Self::reply(this, py, closed)
    }

    /// Sends what reading has brought about; begins the end if the peer has closed.
    fn reply(this: &Object<Self>, py: Python<'_>, closed: bool) -> PyResult<()> {
        if closed {
            Self::call_eof_received(this, py)?;
            Self::start_shutdown(this, py)?;
        }
        // CPython does this only if the program reads. But what completes the handshake must leave all the same, or a protocol that
        // pauses in `connection_made()` would keep a peer of TLS 1.3 waiting.
        Self::do_write(this, py)?;
        Self::control_lower_reading(this, py)
    }

    /// One `data_received()` with all there is; true if the peer has closed.
    fn read_copied(this: &Object<Self>, py: Python<'_>) -> PyResult<bool> {
        let Some(engine) = this.get().engine(py) else { return Ok(false) };
        let (data, stop) = engine.read(py, &[])?;
        Self::data_received(this, py, data, stop).map(|(closed, _fed)| closed)
    }

    /// Hands over what was decrypted; whether the peer has closed, and whether an `asyncio.StreamReader` was fed and no Python called.
    fn data_received(
        this: &Object<Self>,
        py: Python<'_>,
        data: Option<Bound<'_, PyBytes>>,
        stop: Stop,
    ) -> PyResult<(bool, bool)> {
        let mut fed = false;
        if let Some(data) = data
            && let Some(protocol) = this.get().app_protocol(py)
        {
            let debug = this.get().event_loop(py).map_or(true, |event_loop| event_loop.get().is_debug());
            fed = stream_reader::data_received(protocol.bind(py), &data, debug)?;
        }
        Ok((stop == Stop::Closed, fed))
    }

    /// Fills buffers of the program's protocol; true if the peer has closed. It is one buffer at a time, and the rest comes in the
    /// next iteration; but when the connection ends there is none, and CPython loses what is left.
    fn read_buffered(this: &Object<Self>, py: Python<'_>) -> PyResult<bool> {
        loop {
            let stop = Self::read_buffer(this, py)?;
            if stop != Stop::Full {
                return Ok(stop == Stop::Closed);
            }
            let (phase, paused) = this.get().state.with(py, |state| (state.phase, state.app_reading_paused));
            if phase == Phase::Wrapped {
                return Self::call_soon(this, py, "_do_read").map(|()| false);
            }
            if phase != Phase::Flushing || paused {
                return Ok(false);
            }
        }
    }

    /// Fills one buffer of the program's protocol.
    fn read_buffer(this: &Object<Self>, py: Python<'_>) -> PyResult<Stop> {
        let (engine, protocol) = this
            .get()
            .state
            .with(py, |state| (state.engine.clone(), state.app_protocol.as_ref().map(|it| it.clone_ref(py))));
        let (Some(engine), Some(protocol)) = (engine, protocol) else { return Ok(Stop::Again) };
        if !engine.may_read(py)? {
            return Ok(Stop::Again);
        }
        let protocol = protocol.bind(py);
        let hint = engine.unread(py)?.into_pyobject(py)?;
        let buffer = call_method(protocol, intern!(py, "get_buffer"), [hint.as_any()])?;
        if buffer.len()? == 0 {
            return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
        }
        let (count, stop) = engine.read_into(py, &buffer)?;
        // The buffer is let go before the protocol is told, which may want to resize it.
        drop(buffer);
        if count > 0 {
            let count = count.into_pyobject(py)?;
            call_method(protocol, intern!(py, "buffer_updated"), [count.as_any()])?;
        }
        Ok(stop)
    }

    /// Tells the program's protocol, once, that the peer sends no more.
    pub(super) fn call_eof_received(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        static WARN: Import = Import::new("whilst._loop.errors", "warn_of_tls");
        let protocol = this.get().state.with(py, |state| {
            if state.told != Told::Connected {
                return None;
            }
            state.told = Told::End;
            state.app_protocol.as_ref().map(|protocol| protocol.clone_ref(py))
        });
        let Some(protocol) = protocol else { return Ok(()) };
        let keep_open = call_method(protocol.bind(py), intern!(py, "eof_received"), [])
            .and_then(|keep_open| keep_open.is_truthy());
        match keep_open {
            Ok(false) => Ok(()),
            Ok(true) => {
                let words = "returning true from eof_received() has no effect when using ssl";
                WARN.get(py)?.call1((words,)).map(drop)
            }
            Err(error) if ends_the_run(py, &error) => Err(error),
            Err(error) => Self::fatal_error(this, py, error, "Error calling eof_received()"),
        }
    }

    /// Tells the transport below to pause or go on, by how much of what it has received is not looked at.
    pub(super) fn control_lower_reading(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let Some(engine) = this.get().engine(py) else { return Ok(()) };
        let size = engine.unread(py)?;
        let (pause, lower) = this.get().state.with(py, |state| {
            let pause = if size >= state.incoming.high && !state.lower_reading_paused {
                true
            } else if size <= state.incoming.low && state.lower_reading_paused {
                false
            } else {
                return (false, None);
            };
            state.lower_reading_paused = pause;
            (pause, state.lower.as_ref().map(|lower| lower.clone_ref(py)))
        });
        match lower {
            Some(lower) if pause => lower.pause_reading(py),
            Some(lower) => lower.resume_reading(py),
            None => Ok(()),
        }
    }

    /// `resume_reading()`: what was kept comes in the next iteration.
    pub(super) fn resume_reading(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let was_paused = this.get().state.with(py, |state| std::mem::take(&mut state.app_reading_paused));
        if was_paused { Self::call_soon(this, py, "_resume") } else { Ok(()) }
    }

    /// What `resume_reading()` has scheduled.
    pub(super) fn resume(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        match this.get().phase(py) {
            Phase::Unwrapped | Phase::DoHandshake => Ok(()),
            Phase::Wrapped | Phase::Flushing | Phase::Shutdown => Self::go_on(this, py),
        }
    }
}
