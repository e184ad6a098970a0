//! TLS: a state machine between the transport below, of whatever kind, and the program's protocol.
//!
//! Two objects of Python make a connection. [`Tls`] (`whilst.SSLProtocol`, an `asyncio.BufferedProtocol`) is the protocol of the
//! transport below and holds the state; [`TlsTransport`] (`whilst.SSLTransport`) is what the program's protocol is given. Their faces
//! are [`protocol`] and [`transport`]. What they do is told by direction, as for the plain stream: [`handshake`], [`reading`],
//! [`writing`], [`closing`]. The cryptography is an [`engine`]'s, which does no I/O.
//!
//! The states, what is allowed in which, the order of calls and the words of errors are those of CPython's `asyncio/sslproto.py`:
//!
//! ```text
//! UNWRAPPED -> DO_HANDSHAKE -> WRAPPED -> FLUSHING -> SHUTDOWN       (and from each back to UNWRAPPED: aborted, failed or lost)
//! ```
//!
//! Over a stream transport of our own (`StreamTransport`) the bytes of both directions pass without a Python call: what is received is
//! decrypted from where the driver has put it, and what is encrypted joins the stream's queue.

mod closing;
mod engine;
mod handshake;
mod libssl;
mod lower;
mod making;
mod memory_bio;
mod protocol;
mod reading;
mod ssl_object;
mod transport;
mod writing;

use std::collections::VecDeque;
use std::sync::Arc;

use pyo3::exceptions::{PyException, PyRuntimeError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

use self::engine::Engine;
use self::lower::Lower;
use crate::event_loop::LoopCore;
use crate::event_loop::metrics::Open;
use crate::ffi::class::{Attributes, Object};
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::transport::audience::report_failure;
use crate::transport::methods::log_debug;

pub(crate) use self::making::Server;
pub(crate) use self::transport::TlsTransport;

/// The protocol of the transport below: the class `whilst.SSLProtocol`.
#[repr(C)]
pub(crate) struct Tls {
    /// First, where CPython looks for them.
    attributes: Attributes,
    state: Guarded<State>,
}

/// Where the connection is in its life, in CPython's words (`SSLProtocolState`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Unwrapped,
    DoHandshake,
    Wrapped,
    Flushing,
    Shutdown,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Unwrapped => "UNWRAPPED",
            Self::DoHandshake => "DO_HANDSHAKE",
            Self::Wrapped => "WRAPPED",
            Self::Flushing => "FLUSHING",
            Self::Shutdown => "SHUTDOWN",
        }
    }

    /// True if nothing can be written any more, or not yet.
    fn is_closed_to_writes(self) -> bool {
        matches!(self, Self::Flushing | Self::Shutdown | Self::Unwrapped)
    }
}

/// What the program's protocol was told (`AppProtocolState`).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Connected,
    End,
    Lost,
}

/// Who waits for the end of the handshake.
enum Waiter {
    Nobody,
    /// A future.
    Future(Py<PyAny>),
    /// A server, which has accepted the connection: nobody, but debug mode tells of a failure.
    Server,
}

/// Marks, in bytes, between which flow control goes on and off.
#[derive(Clone, Copy)]
struct Marks {
    high: usize,
    low: usize,
}

/// The default marks of the way to the peer, in KiB (CPython's `FLOW_CONTROL_HIGH_WATER_SSL_WRITE`).
const OUTGOING_KIB: i64 = 512;

/// The default marks of the way from the peer, in KiB (CPython's `FLOW_CONTROL_HIGH_WATER_SSL_READ`).
const INCOMING_KIB: i64 = 256;

struct State {
    event_loop: Option<Py<LoopCore>>,
    app_protocol: Option<Py<PyAny>>,
    /// The program's protocol is an `asyncio.BufferedProtocol`.
    buffered: bool,
    app_transport: Option<Object<TlsTransport>>,
    /// Counts the transport, until the connection is lost.
    open: Option<Open>,
    /// The transport below, while it is connected.
    lower: Option<Lower>,
    /// `None` once the connection is lost.
    engine: Option<Arc<dyn Engine>>,
    /// What `get_extra_info()` finds, beside what the transport below knows.
    extra: Option<Py<PyDict>>,
    waiter: Waiter,

    phase: Phase,
    told: Told,
    /// The peer's end of the stream below was received.
    ended: bool,
    /// How often somebody has written since the connection could not be written to, plus one for its loss.
    lost: u32,

    /// In seconds; whatever number the program gave.
    handshake_timeout: Py<PyAny>,
    shutdown_timeout: Py<PyAny>,
    handshake_timer: Option<Py<PyAny>>,
    shutdown_timer: Option<Py<PyAny>>,
    /// When the handshake started, by the loop's clock; in debug mode.
    handshake_start: Option<f64>,

    backlog: Backlog,
    outgoing: Marks,
    /// The program's protocol was told to pause writing.
    app_writing_paused: bool,
    /// The transport below wants no more for now.
    lower_writing_paused: bool,

    incoming: Marks,
    /// `pause_reading()` was called.
    app_reading_paused: bool,
    /// The transport below was told to pause reading.
    lower_reading_paused: bool,
    /// What transports that are not ours put received bytes into: a `memoryview` of a `bytearray`, made when it is asked for.
    buffer: Option<Py<PyAny>>,
}

/// What was written and is not encrypted yet.
#[derive(Default)]
struct Backlog {
    pieces: VecDeque<Py<PyBytes>>,
    /// How many bytes of the first piece are encrypted.
    start: usize,
    /// How many bytes there are to encrypt.
    length: usize,
}

impl Backlog {
    fn push(&mut self, piece: Bound<'_, PyBytes>) {
        self.length += piece.as_bytes().len();
        self.pieces.push_back(piece.unbind());
    }

    /// Takes off `count` bytes of the first piece; returns the piece if that was its end.
    fn advance(&mut self, py: Python<'_>, count: usize) -> Option<Py<PyBytes>> {
        let first = self.pieces.front()?.as_bytes(py).len();
        self.start += count;
        self.length -= count;
        if self.start < first {
            return None;
        }
        self.start = 0;
        self.pieces.pop_front()
    }
}

impl Tls {
    /// The loop, which is there but for the last moments of an object that the garbage collector takes apart.
    fn event_loop(&self, py: Python<'_>) -> PyResult<Py<LoopCore>> {
        self.state
            .with(py, |state| state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py)))
            .ok_or_else(|| PyRuntimeError::new_err("the connection is being taken apart"))
    }

    fn engine(&self, py: Python<'_>) -> Option<Arc<dyn Engine>> {
        self.state.with(py, |state| state.engine.clone())
    }

    fn lower(&self, py: Python<'_>) -> Option<Lower> {
        self.state.with(py, |state| state.lower.as_ref().map(|lower| lower.clone_ref(py)))
    }

    fn app_protocol(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.state.with(py, |state| state.app_protocol.as_ref().map(|protocol| protocol.clone_ref(py)))
    }

    fn app_transport(&self, py: Python<'_>) -> Option<Object<TlsTransport>> {
        self.state.with(py, |state| state.app_transport.as_ref().map(|transport| transport.clone_ref(py)))
    }

    fn phase(&self, py: Python<'_>) -> Phase {
        self.state.with(py, |state| state.phase)
    }

    /// Changes the state. Raises `RuntimeError` if there is no such way (`SSLProtocol._set_state`): somebody has aborted the
    /// connection in the middle of what was going on.
    fn set_phase(&self, py: Python<'_>, next: Phase) -> PyResult<()> {
        let before = self.state.with(py, |state| {
            let before = state.phase;
            let allowed = matches!(
                (before, next),
                (_, Phase::Unwrapped)
                    | (Phase::Unwrapped, Phase::DoHandshake)
                    | (Phase::DoHandshake, Phase::Wrapped)
                    | (Phase::Wrapped, Phase::Flushing)
                    | (Phase::Flushing, Phase::Shutdown)
            );
            if allowed {
                state.phase = next;
                None
            } else {
                Some(before)
            }
        });
        match before {
            None => Ok(()),
            Some(before) => Err(PyRuntimeError::new_err(format!(
                "cannot switch state from SSLProtocolState.{} to SSLProtocolState.{}",
                before.name(),
                next.name()
            ))),
        }
    }

    /// Calls one of this object's methods in the next iteration.
    fn call_soon(this: &Object<Self>, py: Python<'_>, method: &str) -> PyResult<()> {
        let method = this.bind(py).getattr(method)?;
        this.get().event_loop(py)?.bind(py).call_method1(intern!(py, "call_soon"), (method,)).map(drop)
    }

    /// Calls one of this object's methods after `delay`. Returns the timer.
    fn call_later(
        this: &Object<Self>,
        py: Python<'_>,
        delay: &Py<PyAny>,
        method: &str,
    ) -> PyResult<Py<PyAny>> {
        let method = this.bind(py).getattr(method)?;
        let event_loop = this.get().event_loop(py)?;
        Ok(event_loop.bind(py).call_method1(intern!(py, "call_later"), (delay, method))?.unbind())
    }

    /// Ends the connection because of `error` and reports it (`SSLProtocol._fatal_error`): what the system or OpenSSL said in debug
    /// mode only, anything else to the loop's exception handler.
    fn fatal_error(this: &Object<Self>, py: Python<'_>, error: PyErr, message: &str) -> PyResult<()> {
        static REPORT: Import = Import::new("whilst._loop.errors", "report_tls_error");
        let lower = this.get().lower(py);
        let exception = error.into_value(py).into_any();
        if let Some(lower) = &lower {
            lower.force_close(py, Some(exception.bind(py)))?;
        }
        let event_loop = this.get().event_loop(py)?;
        let transport = lower.as_ref().map(|lower| lower.object());
        REPORT.get(py)?.call1((event_loop, this.bind(py), transport, exception, message)).map(drop)
    }

    /// Deals with a failure of what was going on: an `Exception` ends the connection, anything else is the caller's.
    fn caught(this: &Object<Self>, py: Python<'_>, result: PyResult<()>) -> PyResult<()> {
        match result {
            Err(error) if error.is_instance_of::<PyException>(py) => {
                Self::fatal_error(this, py, error, "Fatal error on SSL protocol")
            }
            other => other,
        }
    }

    /// Tells the loop's exception handler of a failure that does not concern the connection.
    #[cold]
    fn report(this: &Object<Self>, py: Python<'_>, error: PyErr, message: &str) -> PyResult<()> {
        let event_loop = this.get().event_loop(py)?;
        let transport = this.get().app_transport(py).map(Object::into_any);
        report_failure(event_loop.bind(py), transport, Some(this.clone_ref(py).into_any()), error, message)
    }

    /// Says something in the log of debug mode.
    fn log_debug(this: &Object<Self>, py: Python<'_>, message: &str) -> PyResult<()> {
        log_debug(this, Some(this.get().event_loop(py)?), py, message)
    }
}

/// The marks that follow from those that were given (CPython's `sslproto.add_flowcontrol_defaults`). Raises `ValueError`.
fn marks(high: Option<i64>, low: Option<i64>, kib: i64) -> PyResult<Marks> {
    let high = high.unwrap_or_else(|| low.map_or(kib * 1024, |low| low.saturating_mul(4)));
    let low = low.unwrap_or(high.div_euclid(4));
    usize::try_from(high)
        .ok()
        .zip(usize::try_from(low).ok())
        .filter(|(high, low)| high >= low)
        .map(|(high, low)| Marks { high, low })
        .ok_or_else(|| {
            pyo3::exceptions::PyValueError::new_err(format!(
                "high ({high}) must be >= low ({low}) must be >= 0"
            ))
        })
}
