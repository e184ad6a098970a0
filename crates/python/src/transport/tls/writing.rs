//! Bytes from the program's protocol to the peer.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use super::{Phase, Tls};
use crate::ffi::call::call_method;
use crate::ffi::class::Object;
use crate::ffi::imports::Import;

/// How many writes to a connection that is closed are taken silently, as in CPython (`LOG_THRESHOLD_FOR_CONNLOST_WRITES`).
const SILENT_WRITES: u32 = 5;

impl Tls {
    /// Encrypts and sends `pieces`, none of them empty, or keeps them until that can be done.
    pub(super) fn write_pieces<'py>(
        this: &Object<Self>,
        py: Python<'py>,
        pieces: impl IntoIterator<Item = Bound<'py, PyBytes>>,
    ) -> PyResult<()> {
        let now = this.get().state.with(py, |state| {
            pieces.into_iter().for_each(|piece| state.backlog.push(piece));
            state.phase == Phase::Wrapped
        });
        if !now {
            return Ok(());
        }
        let result = Self::do_write(this, py);
        Self::caught(this, py, result)
    }

    /// True if what is written is lost, of which the log may be told.
    pub(super) fn drops_writes(&self, py: Python<'_>) -> PyResult<bool> {
        static WARN: Import = Import::new("whilst._loop.errors", "warn_of_tls");
        let (lost, warn) = self.state.with(py, |state| {
            if !state.phase.is_closed_to_writes() {
                return (false, false);
            }
            let warn = state.lost >= SILENT_WRITES;
            state.lost += 1;
            (true, warn)
        });
        if warn {
            WARN.get(py)?.call1(("SSL connection is closed",))?;
        }
        Ok(lost)
    }

    /// Encrypts what was written, as far as it goes, and sends it.
    pub(super) fn do_write(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        while let Some(engine) = this.get().engine(py) {
            let first = this.get().state.with(py, |state| {
                let piece = state.backlog.pieces.front()?;
                Some((piece.clone_ref(py), state.backlog.start))
            });
            let Some((piece, start)) = first else { break };
            let whole = piece.as_bytes(py).len() - start;
            let count = engine.write(py, piece.bind(py), start)?;
            let done = this.get().state.with(py, |state| {
                // Unless the connection was lost meanwhile.
                let same = state.backlog.pieces.front().is_some_and(|first| first.is(&piece));
                if same { state.backlog.advance(py, count) } else { None }
            });
            drop(done);
            if count < whole {
                break;
            }
        }
        Self::process_outgoing(this, py)
    }

    /// Sends what the engine has for the peer, unless the transport below wants no more.
    pub(super) fn process_outgoing(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let (engine, lower) = this.get().state.with(py, |state| {
            let lower = if state.lower_writing_paused {
                None
            } else {
                state.lower.as_ref().map(|lower| lower.clone_ref(py))
            };
            (state.engine.clone(), lower)
        });
        if let (Some(engine), Some(lower)) = (engine, lower) {
            while let Some(data) = engine.take_unsent(py)? {
                lower.write(py, data)?;
            }
        }
        Self::control_app_writing(this, py)
    }

    /// How many bytes are not with the transport below yet.
    pub(super) fn write_buffer_size(&self, py: Python<'_>) -> PyResult<usize> {
        let (engine, backlog) = self.state.with(py, |state| (state.engine.clone(), state.backlog.length));
        Ok(backlog + engine.map_or(Ok(0), |engine| engine.unsent(py))?)
    }

    /// Tells the program's protocol to pause or go on, by how much is not with the transport below yet.
    pub(super) fn control_app_writing(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let size = this.get().write_buffer_size(py)?;
        let (pause, protocol) = this.get().state.with(py, |state| {
            let pause = if size >= state.outgoing.high && !state.app_writing_paused {
                true
            } else if size <= state.outgoing.low && state.app_writing_paused {
                false
            } else {
                return (false, None);
            };
            state.app_writing_paused = pause;
            (pause, state.app_protocol.as_ref().map(|protocol| protocol.clone_ref(py)))
        });
        let Some(protocol) = protocol else { return Ok(()) };
        let (name, message) = if pause {
            (intern!(py, "pause_writing"), "protocol.pause_writing() failed")
        } else {
            (intern!(py, "resume_writing"), "protocol.resume_writing() failed")
        };
        match call_method(protocol.bind(py), name, []) {
            Ok(_) => Ok(()),
            Err(error) => Self::report(this, py, error, message),
        }
    }

    /// `pause_writing()` and `resume_writing()` of the transport below.
    pub(super) fn set_lower_writing_paused(
        this: &Object<Self>,
        py: Python<'_>,
        paused: bool,
    ) -> PyResult<()> {
        this.get().state.with(py, |state| state.lower_writing_paused = paused);
        if paused { Ok(()) } else { Self::process_outgoing(this, py) }
    }
}
