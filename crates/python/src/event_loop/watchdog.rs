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
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::observing::{SUSPECTED, WATCHDOG};
use super::{LoopCore, this_thread};
use crate::ffi::frames::{self, Seen};
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::ffi::native_thread;

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

/// How long a fork waits for the thread to end; for longer than that it only does where it reports.
const RETIREMENT: Duration = Duration::from_millis(200);

/// What says that a loop is held, and that it is no longer.
static REPORT: Import = Import::new("whilst._watchdog", "report");
static ENDED: Import = Import::new("whilst._watchdog", "ended");

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
        if let Some((Some(run), Some(since))) = watch.map(|watch| watch.end()) {
            run.ended(py, since.elapsed());
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

    /// Before a fork: the thread ends. CPython warns of a fork where there is any other thread than the one that forks.
    pub(super) fn retire_watchdog(&self, py: Python<'_>) {
        if let Some(watch) = self.guard.watch.with(py, |watch| watch.clone()) {
            py.detach(|| watch.retire());
        }
    }

    /// In the parent, after a fork: there is one again, if the loop runs.
    pub(super) fn return_watchdog(&self, py: Python<'_>) {
        if let Some(watch) = self.guard.watch.with(py, |watch| watch.clone()) {
            let mut inner = watch.lock();
            if inner.run.is_some() {
                watch.see_to_thread(&mut inner);
            }
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

#[derive(Default)]
struct Inner {
    run: Option<Arc<Run>>,
    /// Since when the loop has been held by what was reported, and not yet that it is over.
    reported: Option<Instant>,
    /// There is a thread.
    lives: bool,
    /// It is to end, whatever the loop does.
    retires: bool,
    thread: Option<JoinHandle<()>>,
}

/// A run of the loop.
struct Run {
    core: Py<LoopCore>,
    /// The kernel's number of the loop's thread.
    thread: i32,
    /// The same thread, as Python knows it.
    python_thread: frames::Thread,
}

impl Watch {
    fn new() -> Self {
        Self {
            turn: AtomicU32::new(1),
            parked: AtomicBool::new(false),
            longest: AtomicU64::new(0),
            inner: Mutex::new(Inner::default()),
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
        let other = longest != self.longest.swap(longest, Ordering::Relaxed);
        if self.turn.load(Ordering::Relaxed) & 1 == 0 {
            if other {
                // From here on.
                this.get().count_piece();
                self.wake();
            }
            return Ok(());
        }
        self.works_on();
        let py = this.py();
        // Looked up here, for the watching thread is not to import.
        for import in [&REPORT, &ENDED] {
            import.get(py)?;
        }
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        let python_thread = frames::Thread::current(py)?;
        let run = Arc::new(Run { core: this.clone().unbind(), thread, python_thread });
        let mut inner = self.lock();
        inner.run = Some(run);
        self.parked.store(false, Ordering::Relaxed);
        self.changed.notify_all();
        self.see_to_thread(&mut inner);
        Ok(())
    }

    /// Starts a thread if there is none.
    fn see_to_thread(self: &Arc<Self>, inner: &mut Inner) {
        if inner.lives {
            return;
        }
        let hold = Hold::new(self.turn.load(Ordering::Relaxed));
        let watcher = Watcher { watch: Arc::clone(self), hold, idle: 0 };
        // No thread, no watchdog: nothing that a program should fail for.
        inner.thread = native_thread::spawn("whilst-watchdog", move || watcher.run()).ok();
        inner.lives = inner.thread.is_some();
    }

    /// Ends the thread, if it does not report just now.
    fn retire(&self) {
        let mut inner = self.lock();
        inner.retires = true;
        self.parked.store(false, Ordering::Relaxed);
        self.changed.notify_all();
        inner = self.sleep(inner, Some(RETIREMENT), |inner| inner.lives);
        inner.retires = false;
        let thread = if inner.lives { None } else { inner.thread.take() };
        drop(inner);
        // It has let go of the lock, and has nothing more to do.
        drop(thread.map(JoinHandle::join));
    }

    /// The run ends, or is no longer looked after. Returns it, and what [`Inner::reported`] says.
    fn end(&self) -> (Option<Arc<Run>>, Option<Instant>) {
        self.rests();
        let mut inner = self.lock();
        self.parked.store(false, Ordering::Relaxed);
        self.changed.notify_all();
        (inner.run.take(), inner.reported.take())
    }

    fn longest(&self) -> Duration {
        Duration::from_nanos(self.longest.load(Ordering::Relaxed))
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
}

/// What the watching thread does.
struct Watcher {
    watch: Arc<Watch>,
    hold: Hold,
    /// For so many looks the loop has been in one and the same wait.
    idle: u32,
}

/// What the watching thread has to call Python for.
enum Call {
    /// The loop is held.
    Report { run: Arc<Run>, asked: Instant, may_want_gil: bool },
    /// What was reported is over, after this time.
    Ended { run: Arc<Run>, duration: Duration },
}

impl Watcher {
    fn run(mut self) {
        let Some(first) = self.next_call() else { return };
        // From the first report on the interpreter knows this thread until its end. Were it to forget it after each it would clear away
        // what reports leave in `threading.local`s, by code of Python's and at a place that may not be left as `native_thread` says.
        Python::try_attach(|py| {
            let mut call = first;
            loop {
                self.perform(py, call);
                match py.detach(|| self.next_call()) {
                    Some(next) => call = next,
                    None => break,
                }
            }
        });
    }

    /// Looks on until there is something to tell; `None` when there has been no run for a while.
    fn next_call(&mut self) -> Option<Call> {
        let watch = Arc::clone(&self.watch);
        let mut inner = watch.lock();
        loop {
            if inner.retires {
                inner.lives = false;
                watch.changed.notify_all();
                return None;
            }
            if inner.run.is_none() {
                // One run of a loop follows another: a test suite has thousands of short ones.
                inner = watch.sleep(inner, Some(LINGER), |inner| inner.run.is_none() && !inner.retires);
                if inner.run.is_none() && !OVER.load(Ordering::Relaxed) {
                    inner.lives = false;
                    return None;
                }
                continue;
            }
            let period = self.hold.period(watch.longest());
            let begin = Instant::now();
            inner = watch.changed.wait_timeout(inner, period).unwrap_or_else(PoisonError::into_inner).0;
            self.hold.late += begin.elapsed().saturating_sub(period + LATE);
            let turn = watch.turn.load(Ordering::Relaxed);
            if turn & 1 == 1 && turn == self.hold.turn {
                self.idle += 1;
                if self.idle == 1 {
                    watch.parked.store(true, Ordering::Relaxed);
                    continue;
                }
                // A look ago it was said that this thread parks, and the loop has not worked since: when it does it knows.
                let parks = |inner: &Inner| {
                    watch.parked.load(Ordering::Relaxed) && inner.run.is_some() && !inner.retires
                };
                inner = watch.sleep(inner, None, parks);
                self.idle = 0;
                self.hold = Hold::new(watch.turn.load(Ordering::Relaxed));
                continue;
            }
            if self.idle > 0 {
                watch.parked.store(false, Ordering::Relaxed);
                self.idle = 0;
            }
            if turn != self.hold.turn && !self.hold.suspected {
                self.hold = Hold::new(turn);
                continue;
            }
            let Some(run) = inner.run.clone() else { continue };
            if let Some(call) = self.look(&mut inner, turn, run) {
                return Some(call);
            }
        }
    }

    /// Looks at a loop that has not waited since the last look, or was suspected then.
    fn look(&mut self, inner: &mut Inner, turn: u32, run: Arc<Run>) -> Option<Call> {
        let core = run.core.get();
        let hold = &mut self.hold;
        let pieces = core.pieces.load(Ordering::Relaxed);
        let has_moved = turn != hold.turn || (hold.suspected && pieces != hold.pieces);
        let is_suspected = turn == hold.turn;
        if has_moved || !hold.suspected {
            if is_suspected != hold.suspected {
                core.set_watcher(SUSPECTED, is_suspected);
            }
            *hold = Hold::new(turn);
            if is_suspected {
                // Whatever the loop does now has begun before this.
                (hold.suspected, hold.pieces, hold.before) = (true, pieces, Times::of(run.thread));
            }
            return inner.reported.take().map(|since| Call::Ended { run, duration: since.elapsed() });
        }
        let due = hold.again.unwrap_or_else(|| self.watch.longest());
        if hold.duration() < due || OVER.load(Ordering::Relaxed) {
            return None;
        }
        let times = Times::of(run.thread);
        hold.stood = times.stood.saturating_sub(hold.before.stood);
        if hold.duration() < due {
            return None;
        }
        // Who waits for the GIL looks every 5 ms whether it is to be had, and then is a moment without being in that wait: longer
        // where others want the processor.
        let worked = times.ran.is_zero() || times.ran.saturating_sub(hold.before.ran) > hold.duration() / 2;
        let may_want_gil = match system_call(run.thread) {
            SystemCall::Futex => true,
            SystemCall::None => !worked,
            SystemCall::Other => false,
        };
        Some(Call::Report { run, asked: Instant::now(), may_want_gil })
    }

    fn perform(&mut self, py: Python<'_>, call: Call) {
        match call {
            Call::Ended { run, duration } => run.ended(py, duration),
            Call::Report { run, asked, may_want_gil } => {
                if may_want_gil && asked.elapsed() > self.watch.longest() / 2 {
                    self.hold.since = Instant::now();
                    (self.hold.late, self.hold.stood) = (Duration::ZERO, Duration::ZERO);
                    self.hold.before = Times::of(run.thread);
                    return;
                }
                let again = self.hold.again.is_some();
                // What fails is no fault of the loop's: it goes on unwatched until it has moved.
                let was_there = self.report(py, &run, again).unwrap_or(true);
                if !was_there {
                    // The next look sees where it has gone.
                    return;
                }
                self.hold.again = Some(self.hold.duration().max(AGAIN / 10) * 10);
                let mut inner = self.watch.lock();
                if inner.run.as_ref().is_some_and(|current| Arc::ptr_eq(current, &run)) {
                    inner.reported = Some(self.hold.since);
                } else {
                    drop(inner);
                    run.ended(py, self.hold.duration());
                }
            }
        }
    }

    /// True if the loop's thread was where it was, and that has been reported.
    fn report(&self, py: Python<'_>, run: &Run, again: bool) -> PyResult<bool> {
        let core = run.core.get();
        let is_there = || {
            self.watch.turn.load(Ordering::Relaxed) == self.hold.turn
                && core.pieces.load(Ordering::Relaxed) == self.hold.pieces
        };
        if !is_there() {
            return Ok(false);
        }
        let stack = match run.python_thread.stack(py, is_there)? {
            Seen::Stack(stack) => Some(stack),
            Seen::Nothing => None,
            Seen::Gone => return Ok(false),
        };
        let seconds = self.hold.duration().as_secs_f64();
        let asked = core.guard.asked.is_some() || core.is_debug();
        let arguments = (run.core.bind(py), stack, seconds, again, asked).into_pyobject(py)?;
        native_thread::call(REPORT.get(py)?, arguments.cast::<PyTuple>()?)?;
        Ok(true)
    }
}

impl Run {
    fn ended(&self, py: Python<'_>, duration: Duration) {
        if OVER.load(Ordering::Relaxed) {
            return;
        }
        let tell = || -> PyResult<()> {
            let arguments = (self.core.bind(py), duration.as_secs_f64()).into_pyobject(py)?;
            native_thread::call(ENDED.get(py)?, arguments.cast::<PyTuple>()?).map(drop)
        };
        // It tells itself what goes wrong.
        drop(tell());
    }
}

/// What the thread remembers between two looks of what it has seen.
struct Hold {
    turn: u32,
    /// Since when it has been seen.
    since: Instant,
    /// For so long since then this thread could not run, ...
    late: Duration,
    /// ... and the loop's stood in line, as far as is known. The two may be the same time.
    stood: Duration,
    /// The loop counts its pieces of work, and stood at this one.
    suspected: bool,
    pieces: u32,
    /// The times of the loop's thread then.
    before: Times,
    /// It was reported, and is to be again when it has lasted for so long.
    again: Option<Duration>,
}

impl Hold {
    fn new(turn: u32) -> Self {
        Self {
            turn,
            since: Instant::now(),
            late: Duration::ZERO,
            stood: Duration::ZERO,
            suspected: false,
            pieces: 0,
            before: Times::default(),
            again: None,
        }
    }

    /// How long it has lasted by now, without what does not count.
    fn duration(&self) -> Duration {
        self.since.elapsed().saturating_sub(self.late.max(self.stood))
    }

    /// How long to sleep before the next look.
    fn period(&self, longest: Duration) -> Duration {
        let period = (longest / LOOKS).clamp(SHORTEST, LONGEST);
        // How long it was in the end is told to some per cent.
        if self.again.is_some() { (self.duration() / 16).clamp(period, LONGEST) } else { period }
    }
}

/// What the kernel counts of a thread of this process: the first numbers of `schedstat` (its Documentation/scheduler/sched-stats.rst),
/// in nanoseconds. Nothing where it does not count.
#[derive(Clone, Copy, Default)]
struct Times {
    ran: Duration,
    /// It was ready to run without being let.
    stood: Duration,
}

impl Times {
    fn of(thread: i32) -> Self {
        let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
        let mut numbers = text
            .split_ascii_whitespace()
            .map(|number| number.parse().map_or(Duration::ZERO, Duration::from_nanos));
        Self { ran: numbers.next().unwrap_or_default(), stood: numbers.next().unwrap_or_default() }
    }
}

/// What a thread of this process is in.
enum SystemCall {
    /// futex(2), as one is that waits for the GIL.
    Futex,
    Other,
    /// None: it runs, or is ready to.
    None,
}

/// `syscall` in proc(5) begins with the number, or is "running".
fn system_call(thread: i32) -> SystemCall {
    let text = std::fs::read_to_string(format!("/proc/self/task/{thread}/syscall")).unwrap_or_default();
    match text.split_ascii_whitespace().next() {
        Some("running") => SystemCall::None,
        Some(number) if number.parse() == Ok(libc::SYS_futex) => SystemCall::Futex,
        _ => SystemCall::Other,
    }
}

/// From here on nothing is reported: the interpreter ends.
#[pyfunction]
pub(crate) fn end_watching() {
    OVER.store(true, Ordering::Relaxed);
}
