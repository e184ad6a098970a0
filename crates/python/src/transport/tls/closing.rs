//! The end of a connection: `close()`, `abort()`, the peer's end, and the loss of the transport below.

use pyo3::exceptions::PyException;
use pyo3::intern;
use pyo3::prelude::*;

use super::engine::Progress;
use super::handshake::cancel;
use super::{Backlog, Phase, Tls, Told};
use crate::ffi::class::Object;
use crate::ffi::imports::Import;

impl Tls {
    /// Begins an orderly end: what is written is sent, then `close_notify`, then the transport below is closed. In the middle of the
    /// handshake there is no such thing, and the connection is aborted.
    pub(super) fn start_shutdown(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let (phase, waits) =
            this.get().state.with(py, |state| (state.phase, state.ended && state.app_reading_paused));
        if phase == Phase::Flushing && waits {
            // The peer's end waits for a program that reads no more (and would for ever, with CPython's loop).
            this.get().set_phase(py, Phase::Shutdown)?;
            return Self::do_shutdown(this, py);
        }
        if phase.is_closed_to_writes() {
            return Ok(());
        }
        this.get().mark_closed(py);
        if phase == Phase::DoHandshake {
            return Self::abort(this, py, None);
        }
        this.get().set_phase(py, Phase::Flushing)?;
        Self::start_shutdown_timer(this, py)?;
        Self::do_flush(this, py)
    }

    fn start_shutdown_timer(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let timeout = this.get().state.with(py, |state| state.shutdown_timeout.clone_ref(py));
        let timer = Self::call_later(this, py, &timeout, "_check_shutdown_timeout")?;
        let before = this.get().state.with(py, |state| state.shutdown_timer.replace(timer));
        cancel(py, before)
    }

    /// The end has taken too long, if it still does.
    pub(super) fn check_shutdown_timeout(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        static TIMEOUT: Import = Import::new("asyncio.exceptions", "TimeoutError");
        let lower = this.get().state.with(py, |state| {
            let closing = matches!(state.phase, Phase::Flushing | Phase::Shutdown);
            if closing { state.lower.as_ref().map(|lower| lower.clone_ref(py)) } else { None }
        });
        let Some(lower) = lower else { return Ok(()) };
        let error = TIMEOUT.get(py)?.call1(("SSL shutdown timed out",))?;
        lower.force_close(py, Some(&error))
    }

    /// Hands over what has arrived before the end, and goes on to the end.
    pub(super) fn do_flush(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        Self::do_read(this, py)?;
        // The program's protocol may have aborted the connection, or paused: then what the peer has sent before its end waits.
        let (phase, kept) =
            this.get().state.with(py, |state| (state.phase, state.ended && state.app_reading_paused));
        if phase != Phase::Flushing || (kept && Self::has_unread(this, py)?) {
            return Ok(());
        }
        this.get().set_phase(py, Phase::Shutdown)?;
        Self::do_shutdown(this, py)
    }

    fn has_unread(this: &Object<Self>, py: Python<'_>) -> PyResult<bool> {
        this.get().engine(py).map_or(Ok(false), |engine| engine.may_read(py))
    }

    /// Says `close_notify`, and goes on once the peer has.
    pub(super) fn do_shutdown(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        static SSL_ERROR: Import = Import::new("ssl", "SSLError");
        let (engine, ended) = this.get().state.with(py, |state| (state.engine.clone(), state.ended));
        // A peer whose end has come will not answer, and need not be told.
        if let Some(engine) = engine.filter(|_| !ended) {
            match engine.shut_down(py) {
                Ok(Progress::Done) => {}
                Ok(Progress::Again) => return Self::process_outgoing(this, py),
                Err(error) if error.is_instance(py, SSL_ERROR.get(py)?) => {
                    let timer = this.get().state.with(py, |state| state.shutdown_timer.take());
                    cancel(py, timer)?;
                    return Self::fatal_error(this, py, error, "Fatal error on transport");
                }
                Err(error) => return Err(error),
            }
        }
        Self::process_outgoing(this, py)?;
        Self::call_eof_received(this, py)?;
        Self::shutdown_complete(this, py)
    }

    /// Both sides have said that they are done: the transport below is closed in the next iteration.
    ///
    /// It sends what it has first, which a peer that does not read can delay for ever. So the limit of time stays, or starts if it was
    /// the peer that began, until the connection is lost (as in CPython from 3.15 on).
    fn shutdown_complete(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let (timed, lower) = this.get().state.with(py, |state| {
            (state.shutdown_timer.is_some(), state.lower.as_ref().map(|lower| lower.clone_ref(py)))
        });
        let Some(lower) = lower else { return Ok(()) };
        if !timed {
            Self::start_shutdown_timer(this, py)?;
        }
        let close = lower.object().bind(py).getattr(intern!(py, "close"))?;
        let event_loop = this.get().event_loop(py)?;
        event_loop.bind(py).call_method1(intern!(py, "call_soon"), (close,)).map(drop)
    }

    /// Ends the connection at once.
    pub(super) fn abort(
        this: &Object<Self>,
        py: Python<'_>,
        exception: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        this.get().set_phase(py, Phase::Unwrapped)?;
        match this.get().lower(py) {
            Some(lower) => lower.force_close(py, exception),
            None => Ok(()),
        }
    }

    /// `eof_received()`: the end of the stream below. True if the transport below is to stay open, for the program has paused reading
    /// and there is something to be read.
    pub(super) fn eof_received(this: &Object<Self>, py: Python<'_>) -> PyResult<bool> {
        this.get().state.with(py, |state| state.ended = true);
        let result = Self::end(this, py);
        if let Err(error) = &result
            && error.is_instance_of::<PyException>(py)
            && let Some(lower) = this.get().lower(py)
        {
            lower.close(py)?;
        }
        result
    }

    fn end(this: &Object<Self>, py: Python<'_>) -> PyResult<bool> {
        Self::log_debug(this, py, "%r received EOF")?;
        match this.get().phase(py) {
            Phase::Unwrapped => {}
            Phase::DoHandshake => {
                let error = pyo3::exceptions::PyConnectionResetError::new_err(());
                Self::handshake_complete(this, py, Some(error))?;
            }
            Phase::Wrapped => {
                this.get().set_phase(py, Phase::Flushing)?;
                if this.get().state.with(py, |state| state.app_reading_paused) {
                    return Ok(true);
                }
                Self::do_flush(this, py)?;
            }
            Phase::Flushing => {
                Self::do_write(this, py)?;
                if this.get().phase(py) == Phase::Flushing {
                    this.get().set_phase(py, Phase::Shutdown)?;
                    Self::do_shutdown(this, py)?;
                }
            }
            Phase::Shutdown => Self::do_shutdown(this, py)?,
        }
        Ok(false)
    }

    /// `connection_lost()` of the transport below: the program's protocol is told in the next iteration, and all is let go of.
    pub(super) fn connection_lost(
        this: &Object<Self>,
        py: Python<'_>,
        exception: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        this.get().mark_closed(py);
        let (protocol, timers) = this.get().state.with(py, |state| {
            state.lost += 1;
            let tell = state.phase != Phase::DoHandshake && matches!(state.told, Told::Connected | Told::End);
            if tell {
                state.told = Told::Lost;
            }
            state.phase = Phase::Unwrapped;
            let protocol = if tell { state.app_protocol.as_ref() } else { None };
            (
                protocol.map(|protocol| protocol.clone_ref(py)),
                [state.handshake_timer.take(), state.shutdown_timer.take()],
            )
        });
        let mut told = Ok(());
        if let Some(protocol) = protocol {
            told = Self::tell_of_loss(this, py, protocol.bind(py), exception);
        }
        let woken = Self::wake_waiter(this, py, exception.map(|it| PyErr::from_value(it.clone())));
        let references = this.get().state.with(py, |state| {
            (
                state.app_protocol.take(),
                state.app_transport.take(),
                std::mem::take::<Backlog>(&mut state.backlog),
                state.lower.take(),
                state.engine.take(),
                state.buffer.take(),
                state.open.take(),
            )
        });
        drop(references);
        for timer in timers {
            cancel(py, timer)?;
        }
        told.and(woken)
    }

    fn tell_of_loss(
        this: &Object<Self>,
        py: Python<'_>,
        protocol: &Bound<'_, PyAny>,
        exception: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        let event_loop = this.get().event_loop(py)?;
        let method = protocol.getattr(intern!(py, "connection_lost"))?;
        event_loop.bind(py).call_method1(intern!(py, "call_soon"), (method, exception)).map(drop)
    }

    /// Notes on the transport that it is closed, so that it does not warn.
    pub(super) fn mark_closed(&self, py: Python<'_>) {
        if let Some(transport) = self.app_transport(py) {
            transport.get().set_closed();
        }
    }
}
