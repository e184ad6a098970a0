//! One iteration after another: send, wait, run.
//!
//! The order inside of an iteration is CPython's (`BaseEventLoop._run_once`): what was ready before comes first, then what
//! the wait brought, then the timers that are due; and what is scheduled meanwhile belongs to the next iteration.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use whilst_engine::driver::{Completion, Event, Interest};

use super::observing::WATCHDOG;
use super::registry::Source;
use super::scheduling::now;
use super::sendfile::Sendfile;
use super::sockets::SocketWait;
use super::waiting::Manner;
use super::{LoopCore, State, WRONG_THREAD, Work};
use crate::errors::os_error;
use crate::ffi::class::Object;
use crate::ffi::signals::check_signals;
use crate::handle::{ends_the_run, run};
use crate::trace;
use crate::transport::datagram::Datagram;
use crate::transport::pipe::{PipeWork, ReadPipe, WritePipe};
use crate::transport::stream::{Stream, StreamWork};

/// The longest wait, in seconds: a day, as in CPython (`MAXIMUM_SELECT_TIMEOUT`), where some clocks and calls overflow.
pub(super) const LONGEST_WAIT: f64 = 24.0 * 3600.0;

/// So many iterations in a row may leave out the wait, where it could bring nothing. It also looks after signals whose handlers no
/// Python code has run meanwhile, and forks.
const MOST_LEFT_OUT: u32 = 64;

impl LoopCore {
    /// Runs iterations until the loop is told to stop, or a callback raises what ends the run.
    pub(super) fn run_until_stopped(this: &Bound<'_, Self>) -> PyResult<()> {
        let core = this.get();
        Self::look_after(this)?;
        let mut left_out = 0;
        core.touch();
        if trace::is_on() {
            trace::run_begins(core, this.py());
        }
        let result = loop {
            if let Err(error) = Self::iterate(this, &mut left_out) {
                break Err(error);
            }
            if core.stopping.load(Ordering::Relaxed) {
                break Ok(());
            }
        };
        if core.is_watched() {
            Self::run_watched_ends(this);
        }
        core.forget_contexts(this.py());
        core.look_away(this.py());
        // What the last iteration has written must not wait for a run that may never come; and what it has cancelled must let
        // go of its descriptors.
        Self::submit_unsent(this)?;
        let settled = Self::wait(this, Manner::Poll);
        result.and(settled)
    }

    /// `left_out`: how many iterations it is since the last that waited or polled.
    fn iterate(this: &Bound<'_, Self>, left_out: &mut u32) -> PyResult<()> {
        let py = this.py();
        let core = this.get();
        core.take_inbox(py);
        if *left_out < MOST_LEFT_OUT && core.need_not_wait(py) {
            *left_out += 1;
            if core.is_watched() {
                Self::iteration_watched(this);
            }
        } else {
            *left_out = 0;
            if core.state.with(py, |state| state.ready.is_empty()) {
                core.forget_contexts(py);
            }
            Self::submit_unsent(this)?;
            core.untouched.store(true, Ordering::Relaxed);
            if core.is_watched() {
                Self::wait_watched(this)?;
            } else {
                Self::wait_for_work(this)?;
                if core.is_watched() {
                    Self::wait_seen_late(this);
                }
            }
            check_signals(py)?;
            core.take_inbox(py);
        }
        let count = core.begin(py);
        for index in 0..count {
            let Some(work) = core.state.with(py, |state| state.ready.pop()) else { break };
            if let Err(error) = Self::perform(this, work).or_else(|error| Self::failed(this, error)) {
                // The others are counted when they run.
                core.state.with(py, |state| state.counts.callbacks -= (count - index - 1) as u64);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Tells the loop's exception handler what went wrong in work of the loop's own (a socket that cannot be closed, say): where
    /// CPython has a callback for it, whose exception goes there, too. What ends the run leaves.
    #[cold]
    fn failed(this: &Bound<'_, Self>, error: PyErr) -> PyResult<()> {
        if ends_the_run(this.py(), &error) {
            return Err(error);
        }
        Self::report(this, "Exception in callback of a transport", error)
    }

    /// Calls the loop's exception handler.
    #[cold]
    pub(super) fn report(this: &Bound<'_, Self>, message: &str, error: PyErr) -> PyResult<()> {
        let context = PyDict::new(this.py());
        context.set_item("message", message)?;
        context.set_item("exception", error)?;
        this.call_method1("call_exception_handler", (context,)).map(drop)
    }

    /// True if there is something to run, nothing to send and nothing to poll for: then a wait could bring nothing.
    ///
    /// So it is, too, when since the last wait bytes went to `asyncio.StreamReader`s and nothing else was done: nobody but we has had
    /// the time to make something ready, and what comes from elsewhere could as well have come a moment later. (A task that reads
    /// from a stream is woken an iteration after its bytes came in. A poll in between costs a twentieth of the round trip.)
    #[inline]
    fn need_not_wait(&self, py: Python<'_>) -> bool {
        let untouched = self.untouched.load(Ordering::Relaxed);
        self.state.with(py, |state| {
            !state.ready.is_empty()
                && state.unsent.is_empty()
                && state
                    .driver
                    .as_ref()
                    .is_some_and(|driver| driver.is_idle() || untouched && driver.told_all())
        })
    }

    /// Takes note that something was done since the last wait that a poll might show the effects of.
    #[inline]
    pub(crate) fn touch(&self) {
        self.untouched.store(false, Ordering::Relaxed);
    }

    /// How long the wait may block: not at all if there is something to run, else until the next timer.
    pub(super) fn time_to_wait(&self, py: Python<'_>) -> Option<Duration> {
        if self.stopping.load(Ordering::Relaxed) {
            return Some(Duration::ZERO);
        }
        let until_timer = |state: &mut State| {
            if !state.ready.is_empty() {
                return Some(Duration::ZERO);
            }
            let seconds = (state.timers.next_deadline()? - now()).clamp(0.0, LONGEST_WAIT);
            // Rounded up to the nanosecond of the kernel's clocks, so that the timer is due when the wait ends.
            Some(Duration::from_nanos((seconds * 1e9).ceil() as u64))
        };
        self.state.with(py, until_timer)
    }

    /// Submits what is outstanding, waits, and queues what completed. The GIL is let go only for a wait that may block.
    pub(super) fn wait(this: &Bound<'_, Self>, manner: Manner) -> PyResult<()> {
        let py = this.py();
        let core = this.get();
        let (driver, mut completions, manner) = core.state.with(py, |state| {
            // What another thread has queued since the time was computed, on builds without a GIL: from here on it would wake us.
            let queued = !state.ready.is_empty() || !state.unsent.is_empty();
            let manner = if queued { Manner::Poll } else { manner };
            state.counts.polls += 1;
            (state.driver.take(), std::mem::take(&mut state.completions), manner)
        });
        let Some(mut driver) = driver else { return Err(PyRuntimeError::new_err(WRONG_THREAD)) };
        let result = match manner {
            Manner::Poll => driver.wait(Some(Duration::ZERO), &mut completions),
            Manner::Spin(longest) => core.without_gil(py, || driver.spin(longest, &mut completions)),
            Manner::Block(timeout) => core.without_gil(py, || driver.wait(timeout, &mut completions)),
        };
        let (asked, completions) = core.state.with(py, |state| {
            // What other threads have cancelled meanwhile.
            if !state.cancelled_meanwhile.is_empty() {
                state.cancelled_meanwhile.drain(..).for_each(|operation| driver.cancel(operation));
            }
            state.driver = Some(driver);
            let asked = !state.watched_meanwhile.is_empty();
            if completions.is_empty() {
                state.completions = completions;
                return (asked, None);
            }
            (asked, Some(completions))
        });
        core.drain_signals();
        if let Some(mut completions) = completions {
            for completion in completions.drain(..) {
                Self::complete(this, completion);
            }
            core.state.with(py, |state| state.completions = completions);
        }
        if asked {
            Self::begin_watches(this)?;
        }
        result.map_err(|error| os_error(py, &error))
    }

    /// Queues what a completion asks for. Runs no Python code.
    fn complete(this: &Bound<'_, Self>, completion: Completion<crate::transport::outgoing::Outgoing>) {
        let py = this.py();
        let core = this.get();
        let key = completion.key;
        match completion.event {
            Event::Received(received) => {
                if let Some(stream) = core.stream(py, key) {
                    Stream::received(&stream, this, received);
                }
            }
            Event::Accepted(accepted) => core.push(py, Work::Accepted(key, accepted)),
            Event::Ready => {
                let queue = |state: &mut State| match state.registry.get(key) {
                    Some(Source::Watch(handle)) => state.ready.push(Work::Handle(handle.clone_ref(py))),
                    Some(Source::Stream(stream)) => {
                        state.ready.push(Work::Stream(stream.clone_ref(py), StreamWork::Writable));
                    }
                    Some(Source::Datagram(transport, interest)) => {
                        if let Some(work) = transport.get().ready(py, *interest) {
                            state.ready.push(Work::Datagram(transport.clone_ref(py), work));
                        }
                    }
                    Some(Source::ReadPipe(pipe)) => {
                        let work = PipeWork::Ready(Interest::Readable);
                        state.ready.push(Work::ReadPipe(pipe.clone_ref(py), work));
                    }
                    Some(Source::WritePipe(pipe, interest)) => {
                        let work = PipeWork::Ready(*interest);
                        state.ready.push(Work::WritePipe(pipe.clone_ref(py), work));
                    }
                    Some(Source::Sendfile(sendfile)) => {
                        state.ready.push(Work::Sendfile(sendfile.clone_ref(py)));
                    }
                    Some(Source::Socket(wait)) => {
                        state.ready.push(Work::Socket(wait.clone_ref(py), key));
                    }
                    Some(Source::Acceptor(_) | Source::File(_)) | None => {}
                };
                core.state.with(py, queue);
            }
            Event::File(event) => core.push(py, Work::File(key, Box::new(event))),
            Event::Sent { payload, result } => {
                if let Some(stream) = core.stream(py, key) {
                    Stream::sent(&stream, this, payload, result);
                }
            }
        }
    }

    /// The open stream transport with this key.
    fn stream(&self, py: Python<'_>, key: whilst_engine::driver::Key) -> Option<Object<Stream>> {
        self.state.with(py, |state| match state.registry.get(key) {
            Some(Source::Stream(stream)) => Some(stream.clone_ref(py)),
            _ => None,
        })
    }

    #[inline]
    fn perform(this: &Bound<'_, Self>, work: Work) -> PyResult<()> {
        // A delivery says it itself.
        if !matches!(work, Work::Stream(_, StreamWork::Deliver)) {
            this.get().touch();
        }
        if this.get().is_watched_by(!WATCHDOG) {
            return Self::perform_watched(this, work);
        }
        Self::perform_unwatched(this, work)
    }

    /// Does a piece of work.
    #[inline(always)]
    pub(super) fn perform_unwatched(this: &Bound<'_, Self>, work: Work) -> PyResult<()> {
        let py = this.py();
        match work {
            Work::Handle(handle) => run(py, handle, this.get()),
            Work::ThreadSafe(handle) => run(py, handle, this.get()),
            Work::Timer(timer) => {
                timer.get().set_key(py, None);
                run(py, timer, this.get())
            }
            Work::Stream(stream, work) => Stream::perform(&stream, this, work),
            Work::Datagram(transport, work) => Datagram::perform(&transport, this, work),
            Work::Sendfile(sendfile) => Sendfile::turn(sendfile.bind(py)),
            Work::Socket(wait, key) => SocketWait::ready(wait.bind(py), this, key),
            Work::Accepted(key, accepted) => Self::accepted(this, key, accepted),
            Work::ReadPipe(pipe, work) => ReadPipe::perform(&pipe, this, work),
            Work::WritePipe(pipe, work) => WritePipe::perform(&pipe, this, work),
            Work::File(key, event) => Self::file_operation_ended(this, key, *event),
        }
    }

    /// Hands what the streams have written to the driver.
    fn submit_unsent(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let core = this.get();
        let take = |state: &mut State| (!state.unsent.is_empty()).then(|| std::mem::take(&mut state.unsent));
        let Some(mut streams) = core.state.with(py, take) else { return Ok(()) };
        for stream in streams.drain(..) {
            Stream::submit(&stream, this)?;
        }
        // The vector goes back for its memory, unless more was written meanwhile.
        core.state.with(py, |state| {
            if state.unsent.is_empty() {
                state.unsent = streams;
            }
        });
        Ok(())
    }

    /// Sends what the streams have written, as far as it goes without waiting; for a loop that will not run again, or whose process
    /// is about to fork.
    pub(super) fn send_unsent_now(this: &Bound<'_, Self>) {
        let py = this.py();
        let streams = this.get().state.with(py, |state| std::mem::take(&mut state.unsent));
        for stream in streams {
            Stream::send_listed_now(&stream, this);
        }
    }
}
