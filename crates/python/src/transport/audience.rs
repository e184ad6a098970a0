//! Whom a transport tells: its protocol, in its context; and, of what goes wrong there, the loop's exception handler.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::event_loop::LoopCore;
use crate::ffi::call::{call_method, in_context};
use crate::ffi::imports::Import;
use crate::handle::ends_the_run;

/// What a call of the protocol needs, taken out of a transport's state.
pub(crate) struct Audience {
    pub(crate) protocol: Py<PyAny>,
    pub(crate) context: Py<PyAny>,
}

impl Audience {
    /// Both, if they are still there.
    #[inline]
    pub(crate) fn of(
        py: Python<'_>,
        protocol: Option<&Py<PyAny>>,
        context: Option<&Py<PyAny>>,
    ) -> Option<Self> {
        Some(Self { protocol: protocol?.clone_ref(py), context: context?.clone_ref(py) })
    }

    /// Lets go of both.
    #[inline]
    pub(crate) fn release(self, py: Python<'_>) {
        self.protocol.drop_ref(py);
        self.context.drop_ref(py);
    }

    /// Runs `body` with the protocol, in its context.
    #[inline]
    pub(crate) fn tell<'py, R>(
        &self,
        py: Python<'py>,
        body: impl FnOnce(&Bound<'py, PyAny>) -> PyResult<R>,
    ) -> PyResult<R> {
        in_context(self.context.bind(py), || body(self.protocol.bind(py)))
    }

    /// Tells the loop's exception handler of the callback `name` of the protocol, which has raised, as CPython does where it makes
    /// the call in a callback of the loop's. What ends the run leaves.
    #[cold]
    pub(crate) fn report(&self, event_loop: &Bound<'_, LoopCore>, name: &str, error: PyErr) -> PyResult<()> {
        static REPORT: Import = Import::new("whilst._loop.errors", "report_protocol_callback");
        let py = event_loop.py();
        if ends_the_run(py, &error) {
            return Err(error);
        }
        REPORT.get(py)?.call1((event_loop, &self.protocol, name, error)).map(drop)
    }
}

/// Tells the loop's exception handler of a failure that does not concern the connection. What ends the run leaves.
#[cold]
pub(crate) fn report_failure(
    event_loop: &Bound<'_, LoopCore>,
    transport: Option<Py<PyAny>>,
    protocol: Option<Py<PyAny>>,
    error: PyErr,
    message: &str,
) -> PyResult<()> {
    let py = event_loop.py();
    if ends_the_run(py, &error) {
        return Err(error);
    }
    let context = PyDict::new(py);
    context.set_item("message", message)?;
    context.set_item("exception", error)?;
    context.set_item("transport", transport)?;
    context.set_item("protocol", protocol)?;
    event_loop.call_method1("call_exception_handler", (context,)).map(drop)
}

/// Wakes who waits for a transport to be made, unless that was cancelled.
pub(crate) fn resolve(py: Python<'_>, waiter: Option<Py<PyAny>>) -> PyResult<()> {
    let Some(waiter) = waiter else { return Ok(()) };
    let waiter = waiter.bind(py);
    if call_method(waiter, intern!(py, "cancelled"), [])?.is_truthy()? {
        return Ok(());
    }
    call_method(waiter, intern!(py, "set_result"), [py.None().bind(py)]).map(drop)
}
