//! The loop's numbers: `metrics()`.
//!
//! What is counted by one addition an iteration or a transport's read is always counted. What needs a clock is measured from when
//! somebody first asks ([`LoopCore::begin_to_time`]) and is in [`Times`].
//!
//! Who asks may be in any thread: the loop lets nobody in while it changes what is in [`Guarded`] or in its state, and the counts of
//! bytes are atomic.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::observing::METRICS;
use super::scheduling::now;
use super::{LoopCore, State};
use crate::transport::kind::TransportKind;

/// The upper bounds of the histogram of lags, in seconds; what is longer is counted in the sum only.
const BOUNDS: [f64; 16] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// What is counted where the loop's state is not at hand.
#[derive(Default)]
pub(crate) struct Counters {
    received: AtomicU64,
    sent: AtomicU64,
    open: [AtomicU64; TransportKind::NAMES.len()],
}

impl Counters {
    fn add(counter: &AtomicU64, count: u64) {
        if cfg!(Py_GIL_DISABLED) {
            counter.fetch_add(count, Ordering::Relaxed);
        } else {
            // Who writes holds the GIL.
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(count), Ordering::Relaxed);
        }
    }
}

/// Counts a transport as open for as long as it lives.
pub(crate) struct Open {
    counters: Arc<Counters>,
    kind: TransportKind,
}

impl Open {
    pub(crate) fn new(event_loop: &LoopCore, kind: TransportKind) -> Self {
        let counters = Arc::clone(&event_loop.counters);
        counters.open[kind as usize].fetch_add(1, Ordering::Relaxed);
        Self { counters, kind }
    }

    pub(crate) fn kind(&self) -> TransportKind {
        self.kind
    }

    /// The transport has sent so many bytes.
    pub(crate) fn sent(&self, count: usize) {
        Counters::add(&self.counters.sent, count as u64);
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counters.open[self.kind as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the loop does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Nothing: it does not run.
    Stopped,
    /// It waits.
    Polling,
    /// It runs callbacks.
    Running,
}

/// What is measured by the clock, in seconds.
struct Times {
    /// Since when it is measured.
    since: f64,
    phase: Phase,
    /// Since when.
    phase_since: f64,
    /// When the iteration that runs began, or its first timer was due during its wait.
    iteration_since: f64,
    callbacks: f64,
    polls: f64,
    lag_last: f64,
    lag_sum: f64,
    lag_count: u64,
    /// How many lags were no longer than the bound, and longer than the one before.
    buckets: [u64; BOUNDS.len()],
    recent: Recent,
}

/// The longest lags of the last minute.
struct Recent([Second; 64]);

/// The longest lag that ended in one second of the clock.
#[derive(Clone, Copy)]
struct Second {
    number: u64,
    longest: f64,
}

impl Recent {
    const fn new() -> Self {
        Self([Second { number: 0, longest: 0.0 }; 64])
    }

    fn note(&mut self, lag: f64, now: f64) {
        let number = now as u64;
        let second = &mut self.0[number as usize % 64];
        if second.number != number {
            *second = Second { number, longest: lag };
        } else if lag > second.longest {
            second.longest = lag;
        }
    }

    /// The longest of so many seconds, of which the last has just begun, maybe.
    fn longest(&self, seconds: u64, now: f64) -> f64 {
        let first = (now as u64).saturating_sub(seconds);
        let recent = self.0.iter().filter(|second| second.number >= first);
        recent.map(|second| second.longest).fold(0.0, f64::max)
    }
}

impl Times {
    fn new(phase: Phase) -> Self {
        let now = now();
        Self {
            since: now,
            phase,
            phase_since: now,
            iteration_since: now,
            callbacks: 0.0,
            polls: 0.0,
            lag_last: 0.0,
            lag_sum: 0.0,
            lag_count: 0,
            buckets: [0; BOUNDS.len()],
            recent: Recent::new(),
        }
    }

    /// Ends what the loop did and begins another phase.
    fn begin(&mut self, phase: Phase, now: f64) {
        let lasted = now - self.phase_since;
        match self.phase {
            Phase::Stopped => {}
            Phase::Polling => self.polls += lasted,
            Phase::Running => {
                self.callbacks += lasted;
                self.note_lag(now - self.iteration_since, now);
            }
        }
        self.phase = phase;
        self.phase_since = now;
        self.iteration_since = now;
    }

    fn note_lag(&mut self, lag: f64, now: f64) {
        self.lag_last = lag;
        self.lag_sum += lag;
        self.lag_count += 1;
        if let Some(bucket) = BOUNDS.iter().position(|bound| lag <= *bound) {
            self.buckets[bucket] += 1;
        }
        self.recent.note(lag, now);
    }
}

/// Where the loop keeps its [`Times`]: nowhere until somebody asks.
#[derive(Default)]
pub(crate) struct Clockwork(Option<Box<Times>>);

impl LoopCore {
    /// So many bytes were received.
    #[inline]
    pub(crate) fn received(&self, count: usize) {
        Counters::add(&self.counters.received, count as u64);
    }

    /// So many bytes were sent: the kernel has taken them.
    #[inline]
    pub(crate) fn sent(&self, count: usize) {
        Counters::add(&self.counters.sent, count as u64);
    }

    /// Begins to measure what needs a clock, if that is not done already. From any thread.
    fn begin_to_time(&self, py: Python<'_>) {
        if self.is_watched_by(METRICS) {
            return;
        }
        let phase = match (self.is_running(), self.is_waiting(py)) {
            (false, _) => Phase::Stopped,
            (true, true) => Phase::Polling,
            (true, false) => Phase::Running,
        };
        self.clockwork.with(py, |clockwork| {
            clockwork.0.get_or_insert_with(|| Box::new(Times::new(phase)));
        });
        self.set_watcher(METRICS, true);
    }

    fn with_times(&self, py: Python<'_>, change: impl FnOnce(&mut Times)) {
        self.clockwork.with(py, |clockwork| {
            if let Some(times) = &mut clockwork.0 {
                change(times);
            }
        });
    }

    /// An iteration has run what it had to run, and a wait begins.
    pub(super) fn time_wait_begins(&self, py: Python<'_>) {
        self.with_times(py, |times| times.begin(Phase::Polling, now()));
    }

    /// The wait is over.
    ///
    /// A timer that was due before that had to wait for the GIL, or for a processor: so long the iteration is late from its beginning.
    pub(super) fn time_wait_ended(&self, py: Python<'_>) {
        if !self.is_watched_by(METRICS) {
            return;
        }
        let due = self.state.with(py, |state| state.timers.next_deadline());
        self.with_times(py, |times| {
            let (began, now) = (times.phase_since, now());
            let waited = times.phase == Phase::Polling;
            times.begin(Phase::Running, now);
            if let Some(due) = due
                && waited
                && due < now
            {
                times.iteration_since = due.max(began);
            }
        });
    }

    /// An iteration has run what it had to run, and the next one begins without a wait.
    pub(super) fn time_iteration_ended(&self, py: Python<'_>) {
        self.with_times(py, |times| times.begin(Phase::Running, now()));
    }

    /// The run has ended.
    pub(super) fn time_run_ended(&self, py: Python<'_>) {
        self.with_times(py, |times| times.begin(Phase::Stopped, now()));
    }
}

#[pymethods]
impl LoopCore {
    /// Count bytes that Python code of the loop's has received.
    fn _count_received(&self, count: usize) {
        self.received(count);
    }

    /// Count bytes that Python code of the loop's has sent.
    fn _count_sent(&self, count: usize) {
        self.sent(count);
    }

    /// The loop's numbers by the names of whilst.Metrics, but for those that Python knows. Begins to measure times.
    fn _metrics<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        self.begin_to_time(py);
        let closed = self.closed.load(Ordering::Relaxed);
        let phase = match (self.is_running(), self.is_waiting(py)) {
            _ if closed => "closed",
            (false, _) => "stopped",
            (true, true) => "polling",
            (true, false) => "running",
        };
        let numbers = PyDict::new(py);
        let put = |name: &str, number: u64| numbers.set_item(name, number);
        numbers.set_item("driver", self.driver(py))?;
        numbers.set_item("state", phase)?;

        let look = |state: &mut State| {
            let lengths = [state.ready.len(), state.timers.len(), state.acceptors.len(), state.watches.len()];
            (state.counts, lengths.map(|length| length as u64))
        };
        let (counts, [ready, timers, servers, watches]) = self.state.with(py, look);
        put("iterations", counts.iterations)?;
        put("callbacks", counts.callbacks)?;
        put("polls", counts.polls)?;
        put("wakes", self.inbox.waker().wakes())?;
        put("thread_calls", counts.thread_calls)?;
        put("ready", ready + self.inbox.len() as u64)?;
        put("timers", timers)?;
        put("servers", servers)?;
        put("watches", watches)?;
        put("bytes_received", self.counters.received.load(Ordering::Relaxed))?;
        put("bytes_sent", self.counters.sent.load(Ordering::Relaxed))?;
        let transports = PyDict::new(py);
        for (kind, open) in TransportKind::NAMES.iter().zip(&self.counters.open) {
            transports.set_item(kind, open.load(Ordering::Relaxed))?;
        }
        numbers.set_item("transports", transports)?;

        let mut measured = None;
        // With the time of the same moment.
        let mut time = now();
        self.with_times(py, |times| {
            time = now();
            measured = Some(Measured::new(times, time, phase == "running"));
        });
        numbers.set_item("time", time)?;
        if let Some(measured) = measured {
            for (name, seconds) in measured.seconds {
                numbers.set_item(name, seconds)?;
            }
            numbers.set_item("lag_count", measured.lag_count)?;
            numbers.set_item("lag_buckets", measured.buckets)?;
        }
        Ok(numbers)
    }
}

/// What [`Times`] say at one moment.
struct Measured {
    seconds: [(&'static str, f64); 8],
    lag_count: u64,
    buckets: Vec<(f64, u64)>,
}

impl Measured {
    fn new(times: &Times, now: f64, runs: bool) -> Self {
        let lasted = (now - times.phase_since).max(0.0);
        let (mut callbacks, mut polls) = (times.callbacks, times.polls);
        match times.phase {
            Phase::Stopped => {}
            Phase::Polling => polls += lasted,
            Phase::Running => callbacks += lasted,
        }
        let held = if runs && times.phase == Phase::Running { now - times.iteration_since } else { 0.0 };
        let mut total = 0;
        let cumulative = BOUNDS.iter().zip(times.buckets).map(|(bound, count)| {
            total += count;
            (*bound, total)
        });
        let buckets = cumulative.collect();
        let seconds = [
            ("timed", now - times.since),
            ("callback_seconds", callbacks),
            ("poll_seconds", polls),
            ("held", held),
            ("lag_last", times.lag_last),
            ("lag_max_10s", times.recent.longest(10, now).max(held)),
            ("lag_max_60s", times.recent.longest(60, now).max(held)),
            ("lag_seconds", times.lag_sum),
        ];
        Self { seconds, lag_count: times.lag_count, buckets }
    }
}

/// What the loop's thread counts.
#[derive(Clone, Copy, Default)]
pub(crate) struct Counts {
    pub(super) iterations: u64,
    pub(super) callbacks: u64,
    pub(super) polls: u64,
    pub(super) thread_calls: u64,
}
