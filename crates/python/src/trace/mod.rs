//! `whilst.trace()`: what the loop's life is recorded by.
//!
//! One trace at a time is recorded in a process, of all its loops. Each event is a few words in a [ring](ring); names and lines are kept
//! once each; tasks and transports are numbers, so that nothing of the program's lives longer for it. What runs in the hooks is
//! no Python code: what they read of tasks and coroutines they read past what a class may have put in between
//! (`ffi/suspended.rs`).

mod export;
mod numbers;
mod places;
mod recorder;
mod ring;
mod waits;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use self::places::{Description, Libraries, Maker, Places};
use self::recorder::{NewTask, Recorder};
use self::ring::{Event, Kind, NONE};
use self::waits::State;
use crate::event_loop::observing::{TRACE, Traced};
use crate::event_loop::{LoopCore, Work};
use crate::ffi::clock::nanoseconds;
use crate::ffi::guarded::Guarded;
use crate::ffi::suspended::{self, Frame, Running, attribute};
use crate::handle::callable_of;
use crate::transport::datagram::Datagram;
use crate::transport::kind::TransportKind;
use crate::transport::pipe::{ReadPipe, WritePipe};
use crate::transport::stream::Stream;
use crate::transport::told::Told;

/// What is being recorded, if anything is.
static RECORDER: Guarded<Option<Box<Recorder>>> = Guarded::new(None);

/// The same question without the lock.
static ON: AtomicBool = AtomicBool::new(false);

/// So far a task's maker is looked for.
const DEEPEST_MAKER: usize = 12;

/// True while a trace is recorded.
#[inline]
pub(crate) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// Looks into the recorder as the loop with this lane; `None` if nothing is recorded any more, which the loop then knows, too.
#[inline]
fn with_recorder<R>(
    core: &LoopCore,
    py: Python<'_>,
    look: impl FnOnce(&mut Recorder, u16) -> R,
) -> Option<R> {
    RECORDER.with(py, |place| {
        let Some(recorder) = place else {
            no_longer(core);
            return None;
        };
        let known = core.lane.load(Ordering::Relaxed);
        let lane =
            if (known >> 32) as u32 == recorder.generation { known as u16 } else { new_lane(core, recorder) };
        Some(look(recorder, lane))
    })
}

#[cold]
fn no_longer(core: &LoopCore) {
    core.set_watcher(TRACE, false);
}

#[cold]
fn new_lane(core: &LoopCore, recorder: &mut Recorder) -> u16 {
    let lane = recorder.add_lane(core.driver_name, nanoseconds());
    core.lane.store(u64::from(recorder.generation) << 32 | u64::from(lane), Ordering::Relaxed);
    lane
}

/// What the loop is doing.
pub(crate) struct Doing<'py> {
    begin: u64,
    what: What<'py>,
}

enum What<'py> {
    /// A step of this task.
    Step(Bound<'py, PyAny>, u32, Option<(u32, u64)>),
    /// A callback.
    Callback(Bound<'py, PyAny>),
    /// A call of a protocol.
    Told(Told<'py>),
    /// The loop's own.
    Own(&'static str),
}

/// A run of the loop begins.
#[cold]
pub(crate) fn run_begins(core: &LoopCore, py: Python<'_>) {
    core.set_watcher(TRACE, true);
    with_recorder(core, py, |recorder, lane| recorder.lane(lane).last = nanoseconds());
}

/// A run of the loop has ended.
#[cold]
pub(crate) fn run_ended(core: &LoopCore, py: Python<'_>) {
    with_recorder(core, py, |recorder, lane| recorder.lane(lane).end = nanoseconds());
}

/// A wait has ended that began at this time.
pub(crate) fn waited(core: &LoopCore, py: Python<'_>, begin: u64) {
    finish_open(core, py, begin);
    with_recorder(core, py, |recorder, lane| recorder.polled(lane, begin, nanoseconds()));
}

/// The step in which the trace was started has ended.
#[inline]
fn finish_open(core: &LoopCore, py: Python<'_>, now: u64) {
    let open = with_recorder(core, py, |recorder, lane| recorder.take_open(lane)).flatten();
    if let Some((task, id, begin)) = open {
        end_step(core, task.bind(py), Step { id, begin, end: now, before: None });
    }
}

/// A piece of work begins.
pub(crate) fn work_begins<'py>(this: &Bound<'py, LoopCore>, work: &Work) -> Option<Doing<'py>> {
    let py = this.py();
    let core = this.get();
    match work {
        Work::Handle(handle) => begin(core, py, callback(callable_of(handle, py)?.into_bound(py)), None),
        Work::ThreadSafe(handle) => begin(core, py, callback(callable_of(handle, py)?.into_bound(py)), None),
        Work::Timer(handle) => begin(core, py, callback(callable_of(handle, py)?.into_bound(py)), None),
        Work::Stream(stream, work) => {
            let told = Stream::told(stream, py, work);
            begin(core, py, What::Told(told), Some(&|| stream.get().introduce(py)))
        }
        Work::Datagram(transport, work) => {
            let told = Datagram::told(transport, py, work);
            begin(core, py, What::Told(told), Some(&|| transport.get().introduce(py)))
        }
        Work::ReadPipe(pipe, work) => {
            let told = ReadPipe::told(pipe, py, work);
            begin(core, py, What::Told(told), Some(&|| pipe.get().introduce(py)))
        }
        Work::WritePipe(pipe, work) => {
            let told = WritePipe::told(pipe, py, work);
            begin(core, py, What::Told(told), Some(&|| pipe.get().introduce(py)))
        }
        Work::Sendfile(_) => begin(core, py, What::Own("sendfile"), None),
        // It calls back itself ([`callback_begins`]).
        Work::Socket(..) => None,
        Work::Accepted(..) => begin(core, py, What::Own("accept"), None),
        Work::File(..) => begin(core, py, What::Own("file operation"), None),
    }
}

/// A callback begins that is called in the middle of other work.
pub(crate) fn callback_begins<'py>(
    this: &Bound<'py, LoopCore>,
    callable: &Bound<'py, PyAny>,
) -> Option<Doing<'py>> {
    begin(this.get(), this.py(), callback(callable.clone()), None)
}

/// What a transport says of itself: its kind and its peer.
pub(crate) type Introduction<'a> = &'a dyn Fn() -> (TransportKind, String);

/// (One for all: what a program runs in between leaves nothing of this in the processor's caches, so that small is fast.)
#[inline(never)]
fn begin<'py>(
    core: &LoopCore,
    py: Python<'py>,
    mut what: What<'py>,
    introduce: Option<Introduction<'_>>,
) -> Option<Doing<'py>> {
    if let Some(begin) = try_begin(core, py, &mut what)? {
        return Some(Doing { begin, what });
    }
    prepare(core, py, &mut what, introduce);
    let begin = try_begin(core, py, &mut what)??;
    Some(Doing { begin, what })
}

/// Notes that work begins, and returns when; nothing if there is something to be noted before.
#[inline]
fn try_begin(core: &LoopCore, py: Python<'_>, what: &mut What<'_>) -> Option<Option<u64>> {
    with_recorder(core, py, |recorder, lane| {
        if recorder.has_open(lane) {
            return None;
        }
        match what {
            What::Step(task, id, before) => {
                *id = recorder.known_task(task.as_ptr().addr())?;
                let lane = recorder.lane(lane);
                *before = lane.running.replace((*id, lane.last));
            }
            What::Told(told) if !recorder.knows_transport(told.transport.as_ptr().addr()) => return None,
            _ => {}
        }
        Some(recorder.lane(lane).last)
    })
}

/// Notes what is to be known before work begins: what it is about, and that the step in which the trace was started has ended.
#[cold]
fn prepare(core: &LoopCore, py: Python<'_>, what: &mut What<'_>, introduce: Option<Introduction<'_>>) {
    finish_open(core, py, nanoseconds());
    match (what, introduce) {
        (What::Step(task, ..), _) => {
            task_id(core, task);
        }
        (What::Told(told), Some(introduce)) => {
            see_transport(core, py, told.transport.as_ptr().addr(), introduce)
        }
        _ => {}
    }
}

/// What a callback is.
#[inline]
fn callback(callable: Bound<'_, PyAny>) -> What<'_> {
    match waits::task_of(&callable) {
        Some(task) => What::Step(task, NONE, None),
        None => What::Callback(callable),
    }
}

/// The number of a task, which is noted if it is not known yet: it was made past `create_task()`, or before the trace.
fn task_id(core: &LoopCore, task: &Bound<'_, PyAny>) -> u32 {
    let py = task.py();
    let address = task.as_ptr().addr();
    match with_recorder(core, py, |recorder, _lane| recorder.known_task(address)) {
        Some(Some(id)) => id,
        Some(None) => {
            let new =
                New { id: None, coroutine: None, parent: Some(NONE), made_at: NONE, begin: nanoseconds() };
            note_task(core, task, new)
        }
        None => NONE,
    }
}

/// How a task came to be: its number and its coroutine if they are known already, the task that has made it (`None`: the one that
/// runs), the line, and when.
struct New<'py> {
    id: Option<u32>,
    coroutine: Option<waits::Coroutine<'py>>,
    parent: Option<u32>,
    made_at: u32,
    begin: u64,
}

/// Notes a task, and returns its number.
fn note_task<'py>(core: &LoopCore, task: &Bound<'py, PyAny>, new: New<'py>) -> u32 {
    let py = task.py();
    let New { id, coroutine, parent, made_at, begin } = new;
    let address = task.as_ptr().addr();
    let coroutine = waits::Coroutine::of(task).or(coroutine);
    let code = coroutine.as_ref().and_then(waits::Coroutine::code);
    let note = |name: Option<&str>| {
        with_recorder(core, py, |recorder, lane| {
            let known = code.as_ref().and_then(|code| recorder.places.code(code));
            let (coroutine, place) = match (known, name) {
                (Some(code), _) => (code.name, code.begin),
                (None, Some(name)) => (recorder.places.strings.number(name), NONE),
                (None, None) => return None,
            };
            let id = id.unwrap_or_else(|| recorder.reserve());
            let parent =
                parent.unwrap_or_else(|| recorder.lane(lane).running.map_or(NONE, |(parent, _)| parent));
            recorder.add_task(id, lane, NewTask { address, coroutine, place, made_at, parent, begin });
            Some(id)
        })
    };
    match note(None) {
        Some(Some(id)) => return id,
        None => return NONE,
        Some(None) => {}
    }
    note_new_coroutine(core, py, coroutine.as_ref(), &note)
}

/// Notes a task whose coroutine's code is not known yet.
#[cold]
fn note_new_coroutine(
    core: &LoopCore,
    py: Python<'_>,
    coroutine: Option<&waits::Coroutine<'_>>,
    note: &dyn Fn(Option<&str>) -> Option<Option<u32>>,
) -> u32 {
    let mut name = String::new();
    if let Some(coroutine) = coroutine
        && !waits::learn_coroutine(core, py, coroutine)
    {
        name = coroutine.name();
    }
    note(Some(&name)).flatten().unwrap_or(NONE)
}

/// A piece of work has ended.
pub(crate) fn work_ended(core: &LoopCore, py: Python<'_>, doing: Doing<'_>) {
    let end = nanoseconds();
    let Doing { begin, what } = doing;
    if let What::Step(task, id, before) = what {
        end_step(core, &task, Step { id, begin, end, before });
        return;
    }
    let long = with_recorder(core, py, |recorder, lane| {
        recorder.worked(lane, begin, end);
        end.saturating_sub(begin) >= recorder.threshold
    });
    if long == Some(true) {
        note_long(core, py, &what, begin, end);
    }
}

/// A callback has ended that took long.
#[cold]
fn note_long(core: &LoopCore, py: Python<'_>, what: &What<'_>, begin: u64, end: u64) {
    let (name, point, globals) = named(py, what);
    if let (Some(code), Some(globals)) = (&point, &globals) {
        let known = with_recorder(core, py, |recorder, _lane| recorder.places.code(code).is_some());
        if known == Some(false) {
            let description = Description::of(code, Some(globals));
            with_recorder(core, py, |recorder, _lane| {
                let before = recorder.places.add(description);
                recorder.spare.extend(before);
            });
        }
    }
    with_recorder(core, py, |recorder, lane| {
        let place =
            point.as_ref().and_then(|code| recorder.places.code(code)).map(|code| (code.name, code.begin));
        let (code_name, place) = place.unwrap_or((NONE, NONE));
        let name = match name {
            Some(name) => recorder.places.strings.number(&name),
            None if code_name == NONE => recorder.places.strings.number("callback"),
            None => code_name,
        };
        recorder.ring.push(Event::Callback { begin, end, name, place, lane });
    });
}

/// A step of a task: its number, when it was, and what ran before in the same lane.
struct Step {
    id: u32,
    begin: u64,
    end: u64,
    before: Option<(u32, u64)>,
}

/// A step of a task has ended.
fn end_step(core: &LoopCore, task: &Bound<'_, PyAny>, step: Step) {
    match waits::state(task) {
        State::Ended(outcome, error) => {
            let py = task.py();
            let Step { id, begin, end, before } = step;
            let address = task.as_ptr().addr();
            // By its end it has the name that it is meant to have; asyncio.create_task() itself may give it after it was made.
            let name = waits::name_of(task);
            with_recorder(core, py, |recorder, lane| {
                recorder.lane(lane).running = before;
                recorder.step(lane, id, begin, end, None);
                recorder.end_task(address, end, outcome, error.as_deref(), name);
            });
        }
        State::Suspended(waiter) => end_suspended(core, task, step, waiter.as_ref()),
    }
}

/// A step of a task has ended that has not.
#[inline(never)]
fn end_suspended(core: &LoopCore, task: &Bound<'_, PyAny>, step: Step, waiter: Option<&Bound<'_, PyAny>>) {
    let py = task.py();
    let Step { id, begin, end, before } = step;
    let address = task.as_ptr().addr();
    let wait = waits::wait_of(core, task, waiter);
    // It may never end.
    let nameless = with_recorder(core, py, |recorder, lane| {
        recorder.lane(lane).running = before;
        recorder.step(lane, id, begin, end, wait);
        recorder.is_nameless(address)
    });
    let name = (nameless == Some(true)).then(|| waits::name_of(task));
    with_recorder(core, py, |recorder, lane| {
        if let Some(name) = name {
            recorder.name_task(address, name);
        }
        // What the look at it took is nobody's time.
        recorder.lane(lane).last = nanoseconds();
    });
}

type Named<'py> = (Option<String>, Option<Bound<'py, pyo3::types::PyCode>>, Option<Bound<'py, PyDict>>);

/// What something that took long is called, if it is not called as its code is; and its code.
#[cold]
fn named<'py>(py: Python<'py>, what: &What<'py>) -> Named<'py> {
    let function = |callable: &Bound<'py, PyAny>| match suspended::function(callable) {
        Some((code, globals)) => (Some(code), Some(globals)),
        None => (None, None),
    };
    match what {
        What::Step(..) => (None, None, None),
        What::Own(name) => (Some((*name).to_owned()), None, None),
        What::Told(told) => {
            let Some(protocol) = &told.protocol else { return (Some(told.name.to_owned()), None, None) };
            let class = protocol.get_type();
            let method = class
                .mro()
                .iter()
                .filter_map(|class| class.getattr("__dict__").ok())
                .find_map(|members| members.get_item(told.name).ok());
            let (code, globals) = method.as_ref().map_or((None, None), function);
            let class = class.qualname().map_or_else(|_| String::new(), |name| name.to_string());
            (Some(format!("{class}.{}", told.name)), code, globals)
        }
        What::Callback(callable) => {
            let mut callable = callable.clone();
            // functools.partial, some of them in each other.
            for _ in 0..8 {
                let partial = callable.get_type().name().is_ok_and(|name| name == "partial");
                match partial.then(|| attribute(&callable, intern!(py, "func"))).flatten() {
                    Some(inner) => callable = inner,
                    None => break,
                }
            }
            if let Some((_, inner)) = waits::method(&callable) {
                callable = inner;
            }
            let (code, globals) = function(&callable);
            if code.is_some() {
                return (None, code, globals);
            }
            let name = match suspended::builtin(&callable) {
                Some((_, bound)) => {
                    let name = attribute(&callable, intern!(py, "__name__"));
                    let name = name.and_then(|name| name.extract::<String>().ok()).unwrap_or_default();
                    let class =
                        bound.get_type().qualname().map_or_else(|_| String::new(), |it| it.to_string());
                    format!("{class}.{name}")
                }
                None => callable.get_type().qualname().map_or_else(|_| String::new(), |it| it.to_string()),
            };
            (Some(name), None, None)
        }
    }
}

/// The making of a task that may run before anybody sees it, on its way.
pub(crate) struct Making<'py> {
    coroutine: Option<waits::Coroutine<'py>>,
    begin: u64,
    id: u32,
    before: Option<(u32, u64)>,
}

/// A task is about to be made of this that may run at once.
pub(crate) fn making_task<'py>(
    core: &LoopCore,
    py: Python<'py>,
    coroutine: Option<&Bound<'py, PyAny>>,
) -> Option<Making<'py>> {
    let coroutine = coroutine.map(|coroutine| waits::Coroutine::new(coroutine.clone()));
    // Of one that has ended less can be seen.
    if let Some(coroutine) = &coroutine {
        waits::learn_coroutine(core, py, coroutine);
    }
    with_recorder(core, py, |recorder, lane| {
        let id = recorder.reserve();
        let begin = nanoseconds();
        // Who makes tasks in the meantime is this one.
        let before = recorder.lane(lane).running.replace((id, begin));
        Making { coroutine, begin, id, before }
    })
}

/// A task was made that runs from the next iteration on, or something in its place.
pub(crate) fn task_made(core: &LoopCore, task: &Bound<'_, PyAny>) {
    if !waits::is_task(task) {
        return;
    }
    let py = task.py();
    let made_at = maker(core, py);
    note_task(core, task, New { id: None, coroutine: None, parent: None, made_at, begin: nanoseconds() });
}

/// A task was made that may have run already, or something in its place, or nothing.
#[cold]
pub(crate) fn eager_task_made<'py>(
    core: &LoopCore,
    py: Python<'py>,
    making: Making<'py>,
    task: Option<&Bound<'py, PyAny>>,
) {
    let Making { coroutine, begin, id, before } = making;
    with_recorder(core, py, |recorder, lane| recorder.lane(lane).running = before);
    let Some(task) = task.filter(|task| waits::is_task(task)) else { return };
    let address = task.as_ptr().addr();
    // A factory may give one that there is.
    if with_recorder(core, py, |recorder, _lane| recorder.known_task(address)).flatten().is_some() {
        return;
    }
    let made_at = maker(core, py);
    let parent = Some(before.map_or(NONE, |(parent, _)| parent));
    note_task(core, task, New { id: Some(id), coroutine, parent, made_at, begin });
    if matches!(waits::state(task), State::Suspended(None)) {
        return;
    }
    let now = with_recorder(core, py, |recorder, lane| {
        let lane = recorder.lane(lane);
        (lane.last, lane.busy)
    });
    end_step(core, task, Step { id, begin, end: nanoseconds(), before });
    // It ran inside of what runs, whose time it is.
    with_recorder(core, py, |recorder, lane| {
        let lane = recorder.lane(lane);
        (lane.last, lane.busy) = now.unwrap_or((lane.last, lane.busy));
    });
}

/// The line that makes a task: the innermost of the program's own within the callback that runs, else of a package.
fn maker(core: &LoopCore, py: Python<'_>) -> u32 {
    let running = Running::innermost(py);
    if let Some(running) = running
        && let Some(place) =
            with_recorder(core, py, |recorder, _lane| recorder.places.maker_running(running)).flatten()
    {
        return place;
    }
    look_for_maker(core, py, running)
}

/// The same, by frames, which are objects to be made first.
#[inline(never)]
fn look_for_maker(core: &LoopCore, py: Python<'_>, mut running: Option<Running>) -> u32 {
    let mut frame = Frame::current(py);
    let mut of_package = NONE;
    for _ in 0..DEEPEST_MAKER {
        let Some(this) = frame.take() else { break };
        let point = [(this.code(), this.offset())];
        let look = || with_recorder(core, py, |recorder, _lane| recorder.places.maker(&point[0]));
        let found = match look() {
            Some(None) => {
                waits::learn(core, py, &point, std::slice::from_ref(&this));
                look()
            }
            found => found,
        };
        // They are the same functions, unless there is one that only begins.
        running = running.filter(|running| running.point().0 == point[0].0.as_ptr().addr());
        if let (Some(running), Some(Some(maker))) = (running, found) {
            with_recorder(core, py, |recorder, _lane| recorder.places.note_running(running, maker));
        }
        running = running.and_then(Running::back);
        match found.flatten() {
            Some(Maker::Line(place)) => return place,
            Some(Maker::Package(place)) if of_package == NONE => of_package = place,
            Some(Maker::Package(_) | Maker::Further) => {}
            Some(Maker::Loop) | None => break,
        }
        frame = this.back();
    }
    if of_package != NONE {
        with_recorder(core, py, |recorder, _lane| recorder.places.note_alone(of_package));
    }
    of_package
}

/// Notes a transport that is not known yet.
#[cold]
fn see_transport(core: &LoopCore, py: Python<'_>, address: usize, introduce: Introduction<'_>) {
    if with_recorder(core, py, |recorder, _lane| recorder.knows_transport(address)) != Some(false) {
        return;
    }
    let (kind, peer) = introduce();
    with_recorder(core, py, |recorder, _lane| {
        recorder.add_transport(address, kind.name(), peer, nanoseconds())
    });
}

/// Bytes have gone through a transport.
#[inline(never)]
pub(crate) fn moved(
    core: &LoopCore,
    py: Python<'_>,
    transport: &Py<PyAny>,
    introduce: Introduction<'_>,
    received: usize,
    sent: usize,
) {
    let note = || {
        with_recorder(core, py, |recorder, lane| {
            let at = recorder.lane(lane).last;
            recorder.moved(transport.as_ptr().addr(), at, received, sent)
        })
    };
    if note() == Some(false) {
        see_transport(core, py, transport.as_ptr().addr(), introduce);
        note();
    }
}

/// A transport has ended.
#[cold]
pub(crate) fn transport_ended(core: &LoopCore, py: Python<'_>, transport: usize) {
    with_recorder(core, py, |recorder, _lane| recorder.end_transport(transport, nanoseconds()));
}

/// Begin to record. Raises RuntimeError if a trace is being recorded.
///
/// `threshold`: from how many seconds on callbacks are recorded; `capacity`: how many events are kept; `owners`: whose a file is, by
/// `RUNTIME`, `PACKAGES` and `STDLIB` of `whilst._owners`; `waiting`: what the names of modules that wait begin with; `kinds`: what
/// waits are called, by module and function.
#[pyfunction]
#[pyo3(name = "start_trace")]
fn start(
    py: Python<'_>,
    threshold: f64,
    capacity: usize,
    owners: (Vec<String>, Vec<String>, String),
    waiting: Vec<String>,
    kinds: HashMap<String, String>,
) -> PyResult<()> {
    static GENERATION: AtomicU32 = AtomicU32::new(0);
    let kinds = kinds.into_iter().filter_map(|(name, kind)| Some((name, Kind::named(&kind)?))).collect();
    let (runtime, packages, stdlib) = owners;
    let places = Places::new(Libraries { runtime, packages, stdlib, waiting, kinds });
    let generation = GENERATION.fetch_add(1, Ordering::Relaxed) + 1;
    let threshold = (threshold * 1e9) as u64;
    let recorder = Box::new(Recorder::new(generation, nanoseconds(), threshold, capacity, places));
    let refused = RECORDER.with(py, |place| {
        if place.is_some() {
            return Some(recorder);
        }
        *place = Some(recorder);
        None
    });
    if refused.is_some() {
        return Err(PyRuntimeError::new_err("a trace is being recorded already"));
    }
    ON.store(true, Ordering::Relaxed);
    Ok(())
}

/// Record this loop, which runs, and the task that runs in it, if any.
#[pyfunction]
#[pyo3(name = "trace_running_loop")]
fn attach(event_loop: &Bound<'_, LoopCore>, task: Option<&Bound<'_, PyAny>>) {
    let py = event_loop.py();
    let core = event_loop.get();
    run_begins(core, py);
    let Some(task) = task.filter(|task| waits::is_task(task)) else { return };
    let id = task_id(core, task);
    let kept = task.clone().unbind();
    let before = with_recorder(core, py, |recorder, lane| recorder.open(lane, kept, id));
    drop(before);
}

/// End the record and return it, as `whilst._trace` describes it but for the lines' text; None if nothing is recorded.
#[pyfunction]
#[pyo3(name = "stop_trace")]
fn stop(py: Python<'_>) -> PyResult<Option<Bound<'_, PyDict>>> {
    ON.store(false, Ordering::Relaxed);
    let now = nanoseconds();
    let Some(mut recorder) = RECORDER.with(py, Option::take) else { return Ok(None) };
    recorder.end(now);
    export::record(py, &recorder, now).map(Some)
}

/// Forget what is recorded: it is the parent's, in a forked child.
#[pyfunction]
#[pyo3(name = "forget_trace")]
fn forget(py: Python<'_>) {
    ON.store(false, Ordering::Relaxed);
    // Without a GIL another thread may have had it when the process forked.
    let recorder = RECORDER.try_with(Option::take);
    let _ = py;
    drop(recorder);
}

/// Adds the functions of this file to the module.
pub(crate) fn add_functions(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add_function(wrap_pyfunction!(start, module)?)?;
    module.add_function(wrap_pyfunction!(attach, module)?)?;
    module.add_function(wrap_pyfunction!(stop, module)?)?;
    module.add_function(wrap_pyfunction!(forget, module)?)
}
