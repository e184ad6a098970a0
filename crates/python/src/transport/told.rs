//! What a transport tells its protocol, as debug mode names it.

use pyo3::prelude::*;

use crate::ffi::imports::Import;

/// A callback of a protocol that a transport is about to call, or thinks that it is.
pub(crate) struct Told<'py> {
    pub(crate) transport: Bound<'py, PyAny>,
    /// `None` where the connection is lost already, and nobody is told.
    pub(crate) protocol: Option<Bound<'py, PyAny>>,
    /// The callback's name.
    pub(crate) name: &'static str,
}

impl Told<'_> {
    /// Warns that the callback held the loop for so many seconds: for CPython it is a handle's, of which its report is made.
    #[cold]
    pub(crate) fn report_slow(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        static REPORT: Import = Import::new("whilst._loop.errors", "report_slow_protocol");
        REPORT.get(py)?.call1((&self.transport, &self.protocol, self.name, seconds)).map(drop)
    }
}
