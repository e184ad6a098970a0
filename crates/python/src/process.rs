//! `ChildProcess`: a child process to watch, reap and signal; what a subprocess transport is made over.

use pyo3::exceptions::PyBlockingIOError;
use pyo3::prelude::*;
use whilst_engine::process::{Child, Status};

use crate::errors::os_error;
use crate::ffi::imports::Import;

/// Looked up before there is a process, since nothing can be when the interpreter shuts down.
pub(crate) static AUDIT: Import = Import::new("sys", "audit");

/// A child process: its end, its exit code, and signals to it. Once it is dropped, whatever still runs is reaped when it ends.
///
/// Raises OSError if no descriptor, or where the kernel refuses pidfds no thread, is left to watch it with.
#[pyclass(frozen, module = "whilst._whilst")]
pub(crate) struct ChildProcess {
    pid: i32,
    child: Child,
}

#[pymethods]
impl ChildProcess {
    #[new]
    fn new(py: Python<'_>, pid: i32) -> PyResult<Self> {
        let child = Child::new(pid).map_err(|error| os_error(py, &error))?;
        Ok(Self { pid, child })
    }

    /// Return the descriptor that is readable once the process has ended; -1 once it was reaped.
    fn fileno(&self) -> i32 {
        self.child.descriptor()
    }

    /// Reap the process, which has ended, without waiting. Return its exit code, negative for a signal, or None if somebody else
    /// has reaped it; the descriptor is closed then.
    ///
    /// Raises BlockingIOError if it still runs.
    fn reap(&self) -> PyResult<Option<i32>> {
        match self.child.reap() {
            Status::Running => Err(PyBlockingIOError::new_err("the process still runs")),
            Status::Exited(code) => Ok(Some(code)),
            Status::Killed(signal) => Ok(Some(-signal)),
            Status::Unknown => Ok(None),
        }
    }

    /// Return True if the process has not ended.
    fn is_running(&self) -> bool {
        self.child.is_running()
    }

    /// Send a signal, to this process and no other that may have its number by now; if it has ended nothing happens.
    ///
    /// Raises what os.kill() does, but for ProcessLookupError.
    fn send_signal(&self, py: Python<'_>, sig: i32) -> PyResult<()> {
        AUDIT.get(py)?.call1(("os.kill", self.pid, sig))?;
        self.child.signal(sig).map_err(|error| os_error(py, &error))
    }

    /// Leave the process to itself: it is reaped when it ends, by a thread.
    fn abandon(&self) {
        self.child.abandon();
    }
}
