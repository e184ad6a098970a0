//! Who looks on while the loop runs: debug mode, and what of whilst's own records, counts or watches.
//!
//! One byte says whether anybody does ([`LoopCore::is_watched`]), and where nobody does that is all that an iteration asks about. The
//! functions here are called where it says so, from one place each.

use std::sync::atomic::Ordering;
use std::time::Instant;

use pyo3::prelude::*;

use super::{LoopCore, Work};
use crate::ffi::class::{Instance, Object};
use crate::ffi::clock::nanoseconds;
use crate::ffi::imports::Import;
use crate::handle::{AnyHandle, is_cancelled, run};
use crate::trace;
use crate::transport::datagram::Datagram;
use crate::transport::kind::TransportKind;
use crate::transport::pipe::{ReadPipe, WritePipe};
use crate::transport::stream::Stream;

/// asyncio's debug mode: `set_debug()`.
pub(crate) const DEBUG: u8 = 1;
/// A trace is being recorded.
pub(crate) const TRACE: u8 = 2;
/// Somebody has asked for times: `loop.metrics()`.
pub(crate) const METRICS: u8 = 4;
/// A thread looks after callbacks that hold the loop for long ([`super::watchdog`]). It wants to know of waits only.
pub(crate) const WATCHDOG: u8 = 8;
/// It wants to know of each piece of work, too. It says so itself, from its own thread.
pub(crate) const SUSPECTED: u8 = 16;

/// A transport, as a trace has it.
pub(crate) trait Traced: Instance {
    /// Its kind and its peer's address, or an empty string.
    fn introduce(&self, py: Python<'_>) -> (TransportKind, String);
}

impl LoopCore {
    /// True in debug mode.
    #[inline]
    pub(crate) fn is_debug(&self) -> bool {
        self.is_watched_by(DEBUG)
    }

    /// True if anybody looks on.
    #[inline]
    pub(crate) fn is_watched(&self) -> bool {
        self.watchers.load(Ordering::Relaxed) != 0
    }

    /// True if one of these looks on.
    #[inline]
    pub(crate) fn is_watched_by(&self, watchers: u8) -> bool {
        self.watchers.load(Ordering::Relaxed) & watchers != 0
    }

    /// From now on this one looks on, or does no longer.
    pub(crate) fn set_watcher(&self, watcher: u8, watches: bool) {
        if watches {
            self.watchers.fetch_or(watcher, Ordering::Relaxed);
        } else {
            self.watchers.fetch_and(!watcher, Ordering::Relaxed);
        }
    }

    /// A transport has received so many bytes.
    #[inline]
    pub(crate) fn trace_received<T: Traced>(&self, py: Python<'_>, transport: &Object<T>, bytes: usize) {
        if self.is_watched_by(TRACE) {
            trace::moved(self, py, transport.as_py(), &|| transport.get().introduce(py), bytes, 0);
        }
    }

    /// A transport has sent so many bytes.
    #[inline]
    pub(crate) fn trace_sent<T: Traced>(&self, py: Python<'_>, transport: &Object<T>, bytes: usize) {
        if self.is_watched_by(TRACE) {
            trace::moved(self, py, transport.as_py(), &|| transport.get().introduce(py), 0, bytes);
        }
    }

    /// A transport has closed its descriptor.
    #[inline]
    pub(crate) fn trace_ended<T: Traced>(&self, py: Python<'_>, transport: &Object<T>) {
        if self.is_watched_by(TRACE) {
            trace::transport_ended(self, py, transport.as_py().as_ptr().addr());
        }
    }

    /// Waits until there may be something to run, under somebody's eyes.
    #[cold]
    pub(super) fn wait_watched(this: &Bound<'_, Self>) -> PyResult<()> {
        let core = this.get();
        core.time_wait_begins(this.py());
        let begin = core.is_watched_by(TRACE).then(nanoseconds);
        let waited = if core.is_watched_by(WATCHDOG) {
            Self::waiting(this, || Self::wait_for_work(this))
        } else {
            Self::wait_for_work(this)
        };
        core.time_wait_ended(this.py());
        if let Some(begin) = begin {
            trace::waited(core, this.py(), begin);
        }
        waited
    }

    /// A wait is over that began under nobody's eyes.
    #[cold]
    pub(super) fn wait_seen_late(this: &Bound<'_, Self>) {
        this.get().time_wait_ended(this.py());
    }

    /// An iteration begins that does not wait, under somebody's eyes.
    #[cold]
    pub(super) fn iteration_watched(this: &Bound<'_, Self>) {
        this.get().time_iteration_ended(this.py());
    }

    /// A run has ended, under somebody's eyes.
    #[cold]
    pub(super) fn run_watched_ends(this: &Bound<'_, Self>) {
        this.get().time_run_ended(this.py());
        if this.get().is_watched_by(TRACE) {
            trace::run_ended(this.get(), this.py());
        }
    }

    /// Does a piece of work under somebody's eyes.
    #[cold]
    #[inline(never)]
    pub(super) fn perform_watched(this: &Bound<'_, Self>, work: Work) -> PyResult<()> {
        let core = this.get();
        if core.is_watched_by(SUSPECTED) {
            core.count_piece();
        }
        let traced = if core.is_watched_by(TRACE) { trace::work_begins(this, &work) } else { None };
        let result = if core.is_debug() {
            Self::perform_in_debug_mode(this, work)
        } else {
            Self::perform_unwatched(this, work)
        };
        if let Some(doing) = traced {
            trace::work_ended(core, this.py(), doing);
        }
        result
    }

    /// Does a piece of work as debug mode wants it: it is reported if it took long.
    #[cold]
    #[inline(never)]
    fn perform_in_debug_mode(this: &Bound<'_, Self>, work: Work) -> PyResult<()> {
        let py = this.py();
        match work {
            Work::Handle(handle) => Self::run_in_debug_mode(this, handle),
            Work::ThreadSafe(handle) => Self::run_in_debug_mode(this, handle),
            Work::Timer(timer) => {
                timer.get().set_key(py, None);
                Self::run_in_debug_mode(this, timer)
            }
            Work::Stream(stream, work) => {
                let told = Stream::told(&stream, py, &work);
                let body = || Stream::perform(&stream, this, work);
                Self::timed(this, body, |seconds| stream.get().known(py, told).report_slow(py, seconds))
            }
            Work::Datagram(transport, work) => {
                let told = Datagram::told(&transport, py, &work);
                let body = || Datagram::perform(&transport, this, work);
                Self::timed(this, body, |seconds| told.report_slow(py, seconds))
            }
            Work::ReadPipe(pipe, work) => {
                let told = ReadPipe::told(&pipe, py, &work);
                let body = || ReadPipe::perform(&pipe, this, work);
                Self::timed(this, body, |seconds| told.report_slow(py, seconds))
            }
            Work::WritePipe(pipe, work) => {
                let told = WritePipe::told(&pipe, py, &work);
                let body = || WritePipe::perform(&pipe, this, work);
                Self::timed(this, body, |seconds| told.report_slow(py, seconds))
            }
            work => Self::perform_unwatched(this, work),
        }
    }

    /// Runs a handle as debug mode wants it: its like is known while it runs, and reported if it took long.
    fn run_in_debug_mode<T: AnyHandle>(this: &Bound<'_, Self>, handle: Object<T>) -> PyResult<()> {
        static REPORT_SLOW: Import = Import::new("whilst._loop.errors", "report_slow_callback");
        let py = this.py();
        let core = this.get();
        if is_cancelled(&handle, py) {
            return Ok(());
        }
        let current = handle.clone_ref(py).into_any();
        core.current_handle.with(py, |place| place.replace(current));
        let body = || {
            let result = run(py, handle.clone_ref(py), core);
            drop(core.current_handle.with(py, Option::take));
            result
        };
        Self::timed(this, body, |seconds| REPORT_SLOW.get(py)?.call1((handle.bind(py), seconds)).map(drop))
    }

    /// Runs what calls the program, and reports how many seconds it took if they are more than debug mode allows.
    #[cold]
    pub(crate) fn timed<R>(
        this: &Bound<'_, Self>,
        body: impl FnOnce() -> PyResult<R>,
        report: impl FnOnce(f64) -> PyResult<()>,
    ) -> PyResult<R> {
        let start = Instant::now();
        let result = body()?;
        let seconds = start.elapsed().as_secs_f64();
        if seconds >= this.as_any().getattr("slow_callback_duration")?.extract::<f64>()? {
            report(seconds)?;
        }
        Ok(result)
    }
}
