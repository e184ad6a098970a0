//! `stop`, `close`, `is_running`, `is_closed`, debug mode, and the run itself between its set-up and clean-up in Python.

use std::sync::atomic::Ordering;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use rustix::process::getpid;
use rustix::thread::gettid;

use super::observing::DEBUG;
use super::{LoopCore, this_thread};

#[pymethods]
impl LoopCore {
    /// Run callbacks until stop() is called: run_forever() without its set-up and clean-up.
    fn _run_until_stopped(this: &Bound<'_, Self>) -> PyResult<()> {
        Self::run_until_stopped(this)
    }

    /// Note that this thread runs the loop. Raises RuntimeError if one does already, or the loop is closed.
    fn _enter(&self) -> PyResult<()> {
        self.check_open()?;
        self.thread
            .compare_exchange(0, this_thread(), Ordering::Relaxed, Ordering::Relaxed)
            .map_err(|_other| PyRuntimeError::new_err("This event loop is already running"))?;
        // The thread that a process begins with, or has forked with, is Python's main thread (but in a program that starts Python in
        // another one), and to the kernel it has the process's number.
        self.main_thread.store(gettid() == getpid(), Ordering::Relaxed);
        Ok(())
    }

    /// Note that no thread runs the loop, and forget that it was told to stop.
    fn _leave(&self, py: Python<'_>) {
        self.stopping.store(false, Ordering::Relaxed);
        self.thread.store(0, Ordering::Relaxed);
        drop(self.future_keywords.with(py, Option::take));
    }

    /// Let go of what the kernel keeps for this thread alone, at the end of a run: a ring. `ends`: the thread may end before the
    /// loop is closed, and then nobody could ask the kernel to let go at once.
    ///
    /// With servers it is done in any case. The kernel tells of a new connection only one of those who wait to accept it, and a
    /// ring that was left to another thread waits for some time yet: it would be told, and the connection never accepted.
    /// And with file operations under way: what a ring has of them only its own thread can see to the end.
    fn _detach(&self, py: Python<'_>, ends: bool) {
        self.state.with(py, |state| {
            if let Some(driver) = state.driver.as_mut()
                && (ends || !state.acceptors.is_empty() || driver.has_files())
            {
                // What cannot be taken apart now is later, by the driver itself.
                let _ = driver.detach();
            }
        });
    }

    /// Stop running: the iteration that runs now, or the next one, is the last.
    fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// True if the loop was told to stop and has not yet.
    #[getter]
    fn _stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Return True if the loop runs.
    pub(crate) fn is_running(&self) -> bool {
        self.thread.load(Ordering::Relaxed) != 0
    }

    /// Return True if the loop was closed.
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Raise RuntimeError if the loop is closed.
    fn _check_closed(&self) -> PyResult<()> {
        self.check_open()
    }

    /// Close the loop's driver and drop what is queued: close() without the parts that are Python's. Returns False if the
    /// loop was closed before. Raises RuntimeError if it runs.
    fn _close(this: &Bound<'_, Self>) -> PyResult<bool> {
        let py = this.py();
        let core = this.get();
        if core.is_running() {
            return Err(PyRuntimeError::new_err("Cannot close a running event loop"));
        }
        if core.closed.load(Ordering::Relaxed) {
            return Ok(false);
        }
        // What was written and not yet sent leaves now, or never.
        Self::send_unsent_now(this);
        core.closed.store(true, Ordering::Relaxed);
        core.drop_contents(py);
        Ok(true)
    }

    /// Return True in debug mode.
    fn get_debug(&self) -> bool {
        self.is_debug()
    }

    /// True in debug mode; the name by which CPython's own functions ask.
    #[getter]
    fn _debug(&self) -> bool {
        self.is_debug()
    }

    /// Turn debug mode on or off, but for the tracking of coroutines' origins.
    fn _set_debug(this: &Bound<'_, Self>, enabled: bool) -> PyResult<()> {
        this.get().set_watcher(DEBUG, enabled);
        Self::look_after_again(this)
    }

    /// Raise RuntimeError if another thread runs the loop; the check of debug mode.
    fn _check_thread(&self) -> PyResult<()> {
        self.check_this_thread()
    }

    /// In debug mode, the handle that runs now, else None.
    #[getter]
    fn _current_handle(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.current_handle.with(py, |handle| handle.as_ref().map(|handle| handle.clone_ref(py)))
    }
}
