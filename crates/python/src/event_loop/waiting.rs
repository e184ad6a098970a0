//! How long the loop looks for work before it blocks: `busy_poll`, and the GIL beside a thread that computes.
//!
//! Who lets the GIL go while another thread has Python code to run gets it back when that one is asked for it: after the switch
//! interval (`sys.getswitchinterval()`, 5 ms), however short the wait was. So beside such a thread the loop first looks whether
//! there is something to do, with the GIL in its hands, and goes on looking for a moment; it blocks, and lets the GIL go, only
//! where nothing comes. It is no worse a neighbour for that than any other Python code: when it is asked for the GIL it gives it.
//!
//! Whether there is such a thread is learnt from how long it took to get the GIL back. Where there is none the loop lets it go
//! before every wait that may block, and so also while it looks on behalf of `busy_poll`: a thread that has a little to do,
//! one of an executor, then does it at once and need not ask.
//!
//! Without a GIL there is nothing to be learnt, and nobody to be kept waiting.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use super::LoopCore;
use super::iteration::LONGEST_WAIT;
use crate::ffi::clock::coarse;
use crate::ffi::imports::Import;
use crate::ffi::signals::check_signals;

/// Who gets the GIL back as late as this, in seconds, has a thread beside it that computes. No thread that merely passes by
/// keeps it so long, and one that computes keeps it for five times as long.
const LATE: f64 = 0.001;

/// So many waits in succession are measured after one that was late.
const SUSPICION: u8 = 64;

/// Where no thread has computed lately one wait in so many is measured. Two looks at the clock are a hundredth of a round trip, and a thread
/// that begins to compute costs a switch interval for each wait until it is noticed.
const SELDOM: u8 = 8;

/// How long the loop looks beside such a thread before it lets the GIL go: some round trips of a connection, and
/// a fiftieth of what letting it go costs.
const BESIDE_COMPUTING: Duration = Duration::from_micros(100);

/// How often a look with the GIL in hand gives way to threads that ask for it, and to signals.
const TURN: Duration = Duration::from_micros(50);

/// How long a look without the GIL goes on without seeing to signals.
const AWAY: Duration = Duration::from_millis(1);

/// How long a look on behalf of `busy_poll` keeps the GIL from when it was last late, in seconds: ten switch intervals. Then
/// it is let go once, to learn whether somebody still computes.
const MEMORY: f64 = 0.05;

/// How long to look before blocking.
#[derive(Default)]
pub(crate) struct Patience {
    /// What the program has asked for.
    busy_poll: Duration,
    /// When the GIL last came back late, by the coarse clock, if it was late the last time that this was looked at.
    late: Option<f64>,
    /// How many waits are to be measured one after the other, since one was late.
    suspicion: u8,
    /// How many waits were not measured since the last that was.
    unmeasured: u8,
}

impl Patience {
    /// How long to look; `None` where it is not worth a single look.
    #[inline]
    fn duration(&self) -> Option<Duration> {
        match self.late {
            Some(_) => Some(self.busy_poll.max(BESIDE_COMPUTING)),
            None => (!self.busy_poll.is_zero()).then_some(self.busy_poll),
        }
    }

    /// Whether the time is to be taken that the GIL takes to come back from the wait that begins.
    #[inline]
    fn measures(&mut self) -> bool {
        if self.suspicion == 0 {
            self.unmeasured = (self.unmeasured + 1) % SELDOM;
            return self.unmeasured == 0;
        }
        true
    }

    /// Takes note of when the GIL came back late, or that it did not.
    fn learn(&mut self, late: Option<f64>) {
        self.suspicion = if late.is_some() { SUSPICION } else { self.suspicion.saturating_sub(1) };
        self.late = late;
    }

    /// Whether to look with the GIL in hand.
    fn holds(&self) -> bool {
        self.late.is_some_and(|late| self.busy_poll.is_zero() || coarse() - late < MEMORY)
    }
}

/// How to wait.
#[derive(Clone, Copy)]
pub(super) enum Manner {
    /// Look, once.
    Poll,
    /// Look, again and again, without the GIL.
    Spin(Duration),
    /// Block, without the GIL, for as long as this or without end.
    Block(Option<Duration>),
}

impl Manner {
    pub(super) fn of(timeout: Option<Duration>) -> Self {
        if timeout.is_some_and(|timeout| timeout.is_zero()) { Self::Poll } else { Self::Block(timeout) }
    }
}

#[pymethods]
impl LoopCore {
    /// How long, in seconds, the loop looks for something to do before it sleeps, each time that it has nothing to do. 0, the
    /// default: it sleeps at once.
    ///
    /// While it looks it uses a core, and what comes meanwhile is answered without the time that waking takes. Threads that
    /// call the loop, signals and timers are seen as ever.
    ///
    /// Setting it raises ValueError for a negative number or NaN, and TypeError for what is no number.
    #[getter]
    fn get_busy_poll(&self, py: Python<'_>) -> f64 {
        self.patience.with(py, |patience| patience.busy_poll.as_secs_f64())
    }

    #[setter]
    fn set_busy_poll(&self, py: Python<'_>, value: f64) -> PyResult<()> {
        if value.is_nan() || value < 0.0 {
            return Err(PyValueError::new_err(format!("busy_poll must not be negative or NaN: {value}")));
        }
        let busy_poll = Duration::from_secs_f64(value.min(LONGEST_WAIT));
        self.patience.with(py, |patience| patience.busy_poll = busy_poll);
        Ok(())
    }
}

impl LoopCore {
    /// Waits until there may be something to run.
    #[inline]
    pub(super) fn wait_for_work(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let core = this.get();
        if core.stopping.load(Ordering::Relaxed) || core.state.with(py, |state| !state.ready.is_empty()) {
            return Self::wait(this, Manner::Poll);
        }
        if let Some(patience) = core.patience.with(py, |patience| patience.duration())
            && core.time_to_wait(py) != Some(Duration::ZERO)
        {
            return Self::look_and_wait(this, patience);
        }
        Self::block(this)
    }

    #[cold]
    fn look_and_wait(this: &Bound<'_, Self>, patience: Duration) -> PyResult<()> {
        let py = this.py();
        let core = this.get();
        let begin = Instant::now();
        // The first one at once: who holds the GIL and runs nothing but native code would never be asked for it.
        let mut turn = begin;
        let mut now = begin;
        loop {
            if core.patience.with(py, |patience| patience.holds()) {
                if now >= turn {
                    core.give_way(py)?;
                    turn = now + TURN;
                }
                Self::wait(this, Manner::Poll)?;
            } else {
                let until_timer = core.time_to_wait(py).unwrap_or(AWAY);
                let left = patience.saturating_sub(now - begin);
                Self::wait(this, Manner::Spin(AWAY.min(left).min(until_timer)))?;
                check_signals(py)?;
            }
            // Signal handlers and other threads may have done anything.
            if !core.may_block(py) {
                return Ok(());
            }
            now = Instant::now();
            if now - begin >= patience {
                return Self::block(this);
            }
        }
    }

    /// Gives threads that ask for the GIL their turn, and runs the handlers of signals that have come.
    ///
    /// The interpreter does both where bytecode is run, and there only; so a function of Python's is called.
    fn give_way(&self, py: Python<'_>) -> PyResult<()> {
        static GIVE_WAY: Import = Import::new("whilst._loop.lifecycle", "give_way");
        let function = GIVE_WAY.get(py)?;
        let begin = coarse();
        let result = function.call0();
        let end = coarse();
        if end - begin >= LATE {
            self.patience.with(py, |patience| patience.learn(Some(end)));
        }
        result.map(drop)
    }

    /// Calls `body` without the GIL, and learns whether another thread computes.
    #[inline]
    pub(super) fn without_gil<R: Send>(&self, py: Python<'_>, body: impl FnOnce() -> R + Send) -> R {
        if cfg!(Py_GIL_DISABLED) || !self.patience.with(py, |patience| patience.measures()) {
            return py.detach(body);
        }
        let (result, begin) = py.detach(|| (body(), coarse()));
        let end = coarse();
        let late = (end - begin >= LATE).then_some(end);
        self.patience.with(py, |patience| patience.learn(late));
        result
    }
}
