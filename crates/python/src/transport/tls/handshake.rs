//! From `connection_made()` of the transport below to that of the program's protocol.

use pyo3::exceptions::{PyConnectionAbortedError, PyException};
use pyo3::intern;
use pyo3::prelude::*;

use super::engine::Progress;
use super::{Phase, Tls, Told, Waiter};
use crate::event_loop::scheduling::now;
use crate::ffi::call::call_method;
use crate::ffi::class::Object;
use crate::ffi::imports::Import;

impl Tls {
    /// The transport below is connected, and the handshake starts (`SSLProtocol._start_handshake`).
    pub(super) fn start_handshake(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        Self::log_debug(this, py, "%r starts SSL handshake")?;
        this.get().set_phase(py, Phase::DoHandshake)?;
        let event_loop = this.get().event_loop(py)?;
        let timeout = this.get().state.with(py, |state| {
            state.handshake_start = event_loop.get().is_debug().then(now);
            state.handshake_timeout.clone_ref(py)
        });
        let timer = Self::call_later(this, py, &timeout, "_check_handshake_timeout")?;
        this.get().state.with(py, |state| state.handshake_timer = Some(timer));
        Self::do_handshake(this, py)
    }

    /// The handshake has taken too long, if it still does.
    pub(super) fn check_handshake_timeout(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        let timeout = this.get().state.with(py, |state| {
            (state.phase == Phase::DoHandshake).then(|| state.handshake_timeout.clone_ref(py))
        });
        let Some(timeout) = timeout else { return Ok(()) };
        let error = PyConnectionAbortedError::new_err(format!(
            "SSL handshake is taking longer than {} seconds: aborting the connection",
            timeout.bind(py).str()?
        ));
        Self::fatal_error(this, py, error, "Fatal error on transport")
    }

    /// Goes on with the handshake.
    pub(super) fn do_handshake(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        static SSL_ERROR: Import = Import::new("ssl", "SSLError");
        let Some(engine) = this.get().engine(py) else { return Ok(()) };
        match engine.handshake(py) {
            Ok(Progress::Again) => Self::process_outgoing(this, py),
            Ok(Progress::Done) => Self::handshake_complete(this, py, None),
            Err(error) if error.is_instance(py, SSL_ERROR.get(py)?) => {
                Self::handshake_complete(this, py, Some(error))
            }
            Err(error) => Err(error),
        }
    }

    /// The handshake is over, with an error or without.
    pub(super) fn handshake_complete(
        this: &Object<Self>,
        py: Python<'_>,
        error: Option<PyErr>,
    ) -> PyResult<()> {
        static CERTIFICATE_ERROR: Import = Import::new("ssl", "CertificateError");
        let timer = this.get().state.with(py, |state| state.handshake_timer.take());
        cancel(py, timer)?;
        let finished = match error {
            Some(error) => Err(error),
            None => Self::take_note(this, py),
        };
        if let Err(error) = finished {
            if !error.is_instance_of::<PyException>(py) {
                return Err(error);
            }
            this.get().set_phase(py, Phase::Unwrapped)?;
            let message = if error.is_instance(py, CERTIFICATE_ERROR.get(py)?) {
                "SSL handshake failed on verifying the certificate"
            } else {
                "SSL handshake failed"
            };
            Self::fatal_error(this, py, error.clone_ref(py), message)?;
            return Self::wake_waiter(this, py, Some(error));
        }
        Self::log_duration(this, py)?;
        let (protocol, transport) = this.get().state.with(py, |state| {
            if state.told != Told::Nothing {
                return (None, None);
            }
            state.told = Told::Connected;
            (
                state.app_protocol.as_ref().map(|it| it.clone_ref(py)),
                state.app_transport.as_ref().map(|it| it.clone_ref(py)),
            )
        });
        if let (Some(protocol), Some(transport)) = (protocol, transport) {
            call_method(protocol.bind(py), intern!(py, "connection_made"), [transport.bind(py)])?;
        }
        Self::wake_waiter(this, py, None)?;
        Self::do_read(this, py)
    }

    /// Notes what is known now that the handshake is done.
    fn take_note(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        this.get().set_phase(py, Phase::Wrapped)?;
        let (engine, extra) = this
            .get()
            .state
            .with(py, |state| (state.engine.clone(), state.extra.as_ref().map(|it| it.clone_ref(py))));
        let (Some(engine), Some(extra)) = (engine, extra) else { return Ok(()) };
        let object = engine.ssl_object(py);
        let extra = extra.bind(py);
        let certificate = call_method(&object, intern!(py, "getpeercert"), [])?;
        extra.set_item(intern!(py, "peercert"), certificate)?;
        extra.set_item(intern!(py, "cipher"), call_method(&object, intern!(py, "cipher"), [])?)?;
        extra.set_item(intern!(py, "compression"), call_method(&object, intern!(py, "compression"), [])?)?;
        extra.set_item(intern!(py, "ssl_object"), object)
    }

    /// Says in the log of debug mode how long the handshake took.
    fn log_duration(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
        static LOG: Import = Import::new("whilst._loop.errors", "log_handshake");
        let start = this.get().state.with(py, |state| state.handshake_start.take());
        match start {
            Some(start) => LOG.get(py)?.call1((this.bind(py), now() - start)).map(drop),
            None => Ok(()),
        }
    }

    /// Tells who waits for the end of the handshake, once.
    pub(super) fn wake_waiter(this: &Object<Self>, py: Python<'_>, error: Option<PyErr>) -> PyResult<()> {
        let waiter = this.get().state.with(py, |state| std::mem::replace(&mut state.waiter, Waiter::Nobody));
        match (waiter, error) {
            (Waiter::Nobody, _) | (Waiter::Server, None) => Ok(()),
            (Waiter::Server, Some(error)) => Self::not_accepted(this, py, error),
            (Waiter::Future(waiter), error) => {
                let waiter = waiter.bind(py);
                if call_method(waiter, intern!(py, "cancelled"), [])?.is_truthy()? {
                    return Ok(());
                }
                match error {
                    None => waiter.call_method1(intern!(py, "set_result"), (py.None(),)).map(drop),
                    Some(error) => waiter.call_method1(intern!(py, "set_exception"), (error,)).map(drop),
                }
            }
        }
    }

    /// A server's connection has come to nothing: CPython is silent about that but in debug mode
    /// (`BaseSelectorEventLoop._accept_connection2`).
    fn not_accepted(this: &Object<Self>, py: Python<'_>, error: PyErr) -> PyResult<()> {
        static REPORT: Import = Import::new("whilst._loop.errors", "report_failed_accept");
        let event_loop = this.get().event_loop(py)?;
        if !event_loop.get().is_debug() {
            return Ok(());
        }
        let transport = this.get().app_transport(py).map(Object::into_any);
        let protocol = this.get().app_protocol(py);
        REPORT.get(py)?.call1((event_loop, protocol, transport, error)).map(drop)
    }
}

/// Cancels a timer, if there is one.
pub(super) fn cancel(py: Python<'_>, timer: Option<Py<PyAny>>) -> PyResult<()> {
    match timer {
        Some(timer) => call_method(timer.bind(py), intern!(py, "cancel"), []).map(drop),
        None => Ok(()),
    }
}
