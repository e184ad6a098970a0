//! A thread that looks after callbacks which hold the loop for long, while they do.
//!
//! The loop's thread tells when it waits and when it works by one number ([`Watch::turn`]), which changes with each wait. A thread of the
//! loop's own looks at it some times within the time that a callback may take. Where it does not move the thread becomes suspicious, and from
//! then until the iteration is over the loop counts each piece of work as well: an iteration may be long because it has much to do. One
//! piece of work that takes longer than it may is reported (`whilst/_watchdog.py`), with the stack that the loop's thread has at
//! that moment.
//!
//! Where the loop waits for longer than a few looks the thread parks: it does not wake up until the loop, at the end of that wait, wakes
//! it. Nothing of all this exists unless the loop is looked after.
//!
//! What is no fault of the callback does not count. Time in which the watching thread itself could not run (the process was stopped, the
//! machine asleep or overwhelmed) is left out, and so is the time for which the loop's thread stood in line for a processor, which the kernel
//! counts (`/proc/…/schedstat`). Where the GIL was not to be had, and the loop's thread may have waited for it too, the measurement
//! begins anew.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::observing::{SUSPECTED, WATCHDOG};
use super::{LoopCore, this_thread};
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::ffi::{frames, native_thread};

/// The thread looks so many times within the time that a callback may take.
const LOOKS: u32 = 4;

/// How often it looks at most and at least, whatever that time is, while the loop works.
const SHORTEST: Duration = Duration::from_millis(1);
const LONGEST: Duration = Duration::from_millis(250);

/// How late the thread may wake up without it being taken for a sign that it could not run.
const LATE: Duration = Duration::from_millis(5);

/// When a callback that goes on and on is reported again; later on at ten times that, and so forth.
const AGAIN: Duration = Duration::from_secs(10);

/// How long the thread waits for the next run of its loop.
const LINGER: Duration = Duration::from_secs(1);

/// All loops are looked after: the command `whilst` runs the program.
static BY_DEFAULT: AtomicBool = AtomicBool::new(false);

/// The interpreter is about to end.
static OVER: AtomicBool = AtomicBool::new(false);

/// Have loops looked after that are not told otherwise, with their `slow_callback_duration`.
#[pyfunction]
pub(crate) fn watch_by_default() {
    BY_DEFAULT.store(true, Ordering::Relaxed);
}

/// What a loop has for being looked after.
pub(super) struct Guard {
    /// What `WHILST_SLOW` says, in seconds: 0 for not at all.
    asked: Option<f64>,
    /// `slow_callback_duration`, where it was set.
    duration: Guarded<Option<Py<PyAny>>>,
    watch: Guarded<Option<Arc<Watch>>>,
}

impl Guard {
    /// Raises `ValueError` for a `WHILST_SLOW` that is no number of seconds.
    pub(super) fn new() -> PyResult<Self> {
        let asked = match std::env::var("WHILST_SLOW") {
            Ok(text) if text.is_empty() => None,
            Ok(text) => match text.trim().parse::<f64>() {
                Ok(seconds) if seconds >= 0.0 && seconds.is_finite() => Some(seconds),
                _ => {
                    return Err(PyValueError::new_err(format!(
                        "WHILST_SLOW: {text:?} is no number of seconds (0 turns the watchdog off)"
                    )));
                }
            },
            Err(_) => None,
        };
        Ok(Self { asked, duration: Guarded::new(None), watch: Guarded::new(None) })
    }

    pub(super) fn traverse(&self, see: &mut impl FnMut(&Py<PyAny>)) {
        self.duration.try_with(|duration| duration.as_ref().map(see));
    }

    pub(super) fn clear(&self, py: Python<'_>) {
        drop(self.duration.with(py, Option::take));
    }
}

#[pymethods]
impl LoopCore {
    /// How long a callback may take, in seconds, before debug mode reports it; 0.1 unless it is set.
    ///
    /// It is also what a callback may take before it is reported while it runs, unless `WHILST_SLOW` says otherwise.
    #[getter]
    fn get_slow_callback_duration(&self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self.guard.duration.with(py, |it| it.as_ref().map(|it| it.clone_ref(py))) {
            Some(duration) => Ok(duration),
            None => Ok(0.1_f64.into_pyobject(py)?.into_any().unbind()),
        }
    }

    #[setter]
    fn set_slow_callback_duration(this: &Bound<'_, Self>, value: Py<PyAny>) -> PyResult<()> {
        let old = this.get().guard.duration.with(this.py(), |it| it.replace(value));
        drop(old);
        Self::look_after_again(this)
    }

    /// Have the loop looked after, or no longer, as it is to be by now; for the thread that runs it.
    fn _look_after_again(this: &Bound<'_, Self>) -> PyResult<()> {
        Self::look_after_again(this)
    }
}

impl LoopCore {
    /// How long a callback may take before it is reported while it runs; `None` if none is.
    fn longest_callback(this: &Bound<'_, Self>) -> PyResult<Option<Duration>> {
        let core = this.get();
        let seconds = match core.guard.asked {
            Some(seconds) => seconds,
            None if core.is_debug() || BY_DEFAULT.load(Ordering::Relaxed) => {
                // What is no number is debug mode's to complain of, where it first compares.
                this.as_any().getattr("slow_callback_duration")?.extract::<f64>().unwrap_or(0.0)
            }
            None => 0.0,
        };
        // A program that wants to hear of every callback, as tests do with 0, is told afterwards.
        Ok((seconds > 0.0).then(|| Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)))
    }

    /// Has the loop looked after from here on, if it is to be; at the beginning of a run.
    pub(super) fn look_after(this: &Bound<'_, Self>) -> PyResult<()> {
        let core = this.get();
        let Some(longest) = Self::longest_callback(this)? else {
            core.look_away(this.py());
            return Ok(());
        };
        let fresh = || Arc::new(Watch::new());
        let watch = core.guard.watch.with(this.py(), |watch| Arc::clone(watch.get_or_insert_with(fresh)));
        watch.begin(this, longest)?;
        core.set_watcher(WATCHDOG, true);
        Ok(())
    }

    /// The same while it runs, if this is the thread that runs it.
    pub(super) fn look_after_again(this: &Bound<'_, Self>) -> PyResult<()> {
        if this.get().thread.load(Ordering::Relaxed) == this_thread() {
            Self::look_after(this)
        } else {
            Ok(())
        }
    }

    /// Has the loop looked after no longer.
    pub(super) fn look_away(&self, py: Python<'_>) {
        if !self.is_watched_by(WATCHDOG) {
            return;
        }
        self.set_watcher(WATCHDOG | SUSPECTED, false);
        let watch = self.guard.watch.with(py, |watch| watch.clone());
        if let Some(run) = watch.and_then(|watch| watch.end()) {
            drop(run);
        }
    }

    /// In a forked child: the thread is the parent's.
    pub(super) fn forget_watchdog(&self) {
        self.set_watcher(WATCHDOG | SUSPECTED, false);
        // Its lock may be held by the thread that is not here.
        if let Some(watch) = self.guard.watch.try_with(Option::take) {
            std::mem::forget(watch);
        }
    }

    /// Does `wait` and lets the watching thread know that it is a wait.
    pub(super) fn waiting(this: &Bound<'_, Self>, wait: impl FnOnce() -> PyResult<()>) -> PyResult<()> {
        let watch = &this.get().guard.watch;
        watch.with(this.py(), |watch| watch.as_deref().inspect(|watch| watch.rests()).is_some());
        let result = wait();
        watch.with(this.py(), |watch| watch.as_deref().inspect(|watch| watch.works_on()).is_some());
        result
    }

    /// Notes that another piece of work begins.
    #[inline]
    pub(super) fn count_piece(&self) {
        self.pieces.store(self.pieces.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }
}

/// What the loop's thread and the one that watches share.
struct Watch {
    /// Odd while the loop waits or does not run, even while it works; greater each time that it changes. Only the loop's thread writes it.
    turn: AtomicU32,
    /// The watching thread sleeps until it is woken.
    parked: AtomicBool,
    /// How long a callback may take, in nanoseconds.
    longest: AtomicU64,
    inner: Mutex<Inner>,
    changed: Condvar,
}

struct Inner {
    run: Option<Arc<Run>>,
    /// There is a thread.
    lives: bool,
}

/// A run of the loop.
struct Run {
    core: Py<LoopCore>,
    /// The kernel's number of the loop's thread.
    thread: i32,
}

impl Watch {
    fn new() -> Self {
        Self {
            turn: AtomicU32::new(1),
            parked: AtomicBool::new(false),
            longest: AtomicU64::new(0),
            inner: Mutex::new(Inner { run: None, lives: false }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The loop waits from here on.
    fn rests(&self) {
        self.turn.store(self.turn.load(Ordering::Relaxed) | 1, Ordering::Relaxed);
    }

    /// The loop works again.
    fn works_on(&self) {
        let turn = self.turn.load(Ordering::Relaxed) | 1;
        self.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        // No barrier between the two: who parks looks at `turn` once more long after it has said so.
        if self.parked.load(Ordering::Relaxed) {
            self.wake();
        }
    }

    #[cold]
    fn wake(&self) {
        let _inner = self.lock();
        self.parked.store(false, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// A run begins, or goes on with another `longest`.
    fn begin(self: &Arc<Self>, this: &Bound<'_, LoopCore>, longest: Duration) -> PyResult<()> {
        let longest = u64::try_from(longest.as_nanos()).unwrap_or(u64::MAX);
        let faster = longest < self.longest.swap(longest, Ordering::Relaxed);
        if self.turn.load(Ordering::Relaxed) & 1 == 0 {
            if faster {
                self.wake();
            }
            return Ok(());
        }
        self.works_on();
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let run = Arc::new(Run { core: this.clone().unbind(), thread });
        let mut inner = self.lock();
        inner.run = Some(run);
        if std::mem::replace(&mut inner.lives, true) {
            self.parked.store(false, Ordering::Relaxed);
            self.changed.notify_all();
            return Ok(());
        }
        drop(inner);
        static AT_EXIT: Import = Import::new("whilst._watchdog", "at_exit");
        AT_EXIT.get(this.py())?;
        let watch = Arc::clone(self);
        let watching = std::thread::Builder::new().name("whilst-watchdog".into()).stack_size(1 << 20);
        // No thread, no watchdog: nothing that a program should fail for.
        if watching.spawn(move || watch.watch()).is_err() {
            self.lock().lives = false;
        }
        Ok(())
    }

    /// The run ends, or is no longer looked after. The caller drops what is returned.
    fn end(&self) -> Option<Arc<Run>> {
        self.rests();
        let mut inner = self.lock();
        self.parked.store(false, Ordering::Relaxed);
        self.changed.notify_all();
        inner.run.take()
    }

    fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest.load(Ordering::Relaxed))
    }

    /// What the thread does.
    fn watch(&self) {
        let mut hold = Hold::new(self.turn.load(Ordering::Relaxed));
        let mut idle = 0;
        let mut inner = self.lock();
        loop {
            if inner.run.is_none() {
                // One round of the interpreter after another: a test suite has thousands of short runs.
                inner = self.sleep(inner, Some(LINGER), |inner| inner.run.is_none());
                if inner.run.is_none() {
                    inner.lives = false;
                    return;
                }
            }
            let period = hold.period(self.longest());
            let begin = Instant::now();
            inner = self.changed.wait_timeout(inner, period).unwrap_or_else(PoisonError::into_inner).0;
            hold.excuse(begin.elapsed().saturating_sub(period + LATE));
            let turn = self.turn.load(Ordering::Relaxed);
            if turn & 1 == 1 && turn == hold.turn {
                idle += 1;
                if idle == 1 {
                    self.parked.store(true, Ordering::Relaxed);
                } else {
                    // A look ago it was said that the thread parks, and the loop has not worked since: when it does it knows.
                    inner = self.sleep(inner, None, |inner| {
                        self.parked.load(Ordering::Relaxed) && inner.run.is_some()
                    });
                    idle = 0;
                    hold = Hold::new(self.turn.load(Ordering::Relaxed));
                }
                continue;
            }
            if idle > 0 {
                self.parked.store(false, Ordering::Relaxed);
                idle = 0;
            }
            if turn == hold.turn || hold.suspected {
                let Some(run) = inner.run.clone() else { continue };
                drop(inner);
                self.look(&mut hold, turn, &run);
                drop(run);
                inner = self.lock();
            } else {
                hold = Hold::new(turn);
            }
        }
    }

    fn sleep<'a>(
        &'a self,
        inner: MutexGuard<'a, Inner>,
        longest: Option<Duration>,
        goes_on: impl Fn(&Inner) -> bool,
    ) -> MutexGuard<'a, Inner> {
        match longest {
            Some(longest) => {
                let waited = self.changed.wait_timeout_while(inner, longest, |inner| goes_on(inner));
                waited.unwrap_or_else(PoisonError::into_inner).0
            }
            None => {
                self.changed.wait_while(inner, |inner| goes_on(inner)).unwrap_or_else(PoisonError::into_inner)
            }
        }
    }

    /// Looks at a loop that has not waited for a while.
    fn look(&self, hold: &mut Hold, turn: u32, run: &Run) {
        let core = run.core.get();
        let pieces = core.pieces.load(Ordering::Relaxed);
        if turn != hold.turn || (hold.suspected && pieces != hold.pieces) {
            if let Some(reported) = hold.reported.take() {
                reported.ended(run, hold.duration());
            }
            if turn != hold.turn {
                core.set_watcher(SUSPECTED, false);
                *hold = Hold::new(turn);
                return;
            }
            *hold = Hold { suspected: true, pieces, stood: stood_in_line(run.thread), ..Hold::new(turn) };
            return;
        }
        if !hold.suspected {
            // Whatever the loop does now has begun before this.
            *hold = Hold { suspected: true, pieces, stood: stood_in_line(run.thread), ..Hold::new(turn) };
            core.set_watcher(SUSPECTED, true);
            if !core.is_watched_by(WATCHDOG) {
                // The run has ended this very moment.
                core.set_watcher(SUSPECTED, false);
            }
            return;
        }
        let due = hold.reported.as_ref().map_or(self.longest(), |reported| reported.again);
        if hold.duration() < due {
            return;
        }
        let stood = stood_in_line(run.thread);
        hold.excuse(stood.saturating_sub(hold.stood));
        hold.stood = stood;
        if hold.duration() >= due && !OVER.load(Ordering::Relaxed) {
            self.report(hold, run);
        }
    }

    fn report(&self, hold: &mut Hold, run: &Run) {
        let may_want_gil = waits_for_a_lock(run.thread);
        let asked = Instant::now();
        let told = Python::try_attach(|py| {
            let waited = asked.elapsed();
            if may_want_gil && waited > self.longest() / 2 {
                return Err(Missed);
            }
            self.report_now(py, hold, run)
                .inspect_err(|error| error.clone_ref(py).write_unraisable(py, None))
                .map_err(|_| Missed)
        });
        match told {
            Some(Ok(true)) => {
                let again = hold.duration().max(AGAIN / 10) * 10;
                hold.reported = Some(Reported { again });
            }
            // It has gone on meanwhile, which the next look sees.
            Some(Ok(false)) => {}
            Some(Err(Missed)) | None => hold.since = Instant::now(),
        }
    }

    /// True if the loop's thread was where it was, and it has been reported.
    fn report_now(&self, py: Python<'_>, hold: &Hold, run: &Run) -> PyResult<bool> {
        static REPORT: Import = Import::new("whilst._watchdog", "report");
        let this = run.core.bind(py);
        let core = this.get();
        let is_there = || {
            self.turn.load(Ordering::Relaxed) == hold.turn
                && core.pieces.load(Ordering::Relaxed) == hold.pieces
        };
        if !is_there() {
            return Ok(false);
        }
        let thread = this.as_any().getattr("_thread_id")?;
        let stack = frames::stack_of(py, &thread)?;
        if !is_there() {
            return Ok(false);
        }
        let again = hold.reported.is_some();
        let asked = core.guard.asked.is_some() || core.is_debug();
        let arguments = (this, stack, hold.duration().as_secs_f64(), again, asked).into_pyobject(py)?;
        native_thread::call(REPORT.get(py)?, arguments.cast::<PyTuple>()?)?;
        Ok(true)
    }
}

/// The interpreter could not be asked in time.
struct Missed;

/// A piece of work that was reported.
struct Reported {
    /// When it is to be again.
    again: Duration,
}

impl Reported {
    fn ended(&self, run: &Run, duration: Duration) {
        static ENDED: Import = Import::new("whilst._watchdog", "ended");
        if OVER.load(Ordering::Relaxed) {
            return;
        }
        Python::try_attach(|py| {
            let tell = || -> PyResult<()> {
                let arguments = (run.core.bind(py), duration.as_secs_f64()).into_pyobject(py)?;
                native_thread::call(ENDED.get(py)?, arguments.cast::<PyTuple>()?).map(drop)
            };
            tell().unwrap_or_else(|error| error.write_unraisable(py, None));
        });
    }
}

/// What the thread remembers between two looks of what it has seen.
struct Hold {
    turn: u32,
    /// Since when it has been seen, put forward by what does not count.
    since: Instant,
    /// The loop counts its pieces of work, and stood at this one.
    suspected: bool,
    pieces: u32,
    /// What [`stood_in_line`] said then.
    stood: Duration,
    reported: Option<Reported>,
}

impl Hold {
    fn new(turn: u32) -> Self {
        let (suspected, pieces, stood) = (false, 0, Duration::ZERO);
        Self { turn, since: Instant::now(), suspected, pieces, stood, reported: None }
    }

    fn duration(&self) -> Duration {
        self.since.elapsed()
    }

    /// Leaves this time out.
    fn excuse(&mut self, time: Duration) {
        self.since = (self.since + time).min(Instant::now());
    }

    /// How long to sleep before the next look.
    fn period(&self, longest: Duration) -> Duration {
        let period = (longest / LOOKS).clamp(SHORTEST, LONGEST);
        if self.reported.is_some() {
            period.max(self.duration() / 16).min(LONGEST.max(period))
        } else {
            period
        }
    }
}

/// How long a thread of this process has been ready to run without being let: the second number of `schedstat` (the kernel's
/// Documentation/scheduler/sched-stats.rst), in nanoseconds. Nothing where the kernel does not count it.
fn stood_in_line(thread: i32) -> Duration {
    let read = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat"));
    let nanoseconds = read.ok().and_then(|text| text.split_ascii_whitespace().nth(1)?.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

/// True if a thread of this process waits in futex(2), as one does that wants the GIL: `syscall` in proc(5) begins with its number.
fn waits_for_a_lock(thread: i32) -> bool {
    let read = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall"));
    let number =
        read.ok().and_then(|text| text.split_ascii_whitespace().next()?.parse::<libc::c_long>().ok());
    number.is_some_and(|number| number == libc::SYS_futex)
}

/// From here on nothing is reported: the interpreter ends.
#[pyfunction]
pub(crate) fn end_watching() {
    OVER.store(true, Ordering::Relaxed);
}
