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

use self::places::{Description, Libraries, Places};
use self::recorder::{NewTask, Outcome, Recorder};
use self::ring::{Event, Kind, NONE};
use crate::event_loop::observing::{TRACE, Traced};
use crate::event_loop::{LoopCore, Work};
use crate::ffi::clock::nanoseconds;
use crate::ffi::guarded::Guarded;
use crate::ffi::suspended::{self, Frame, attribute};
use crate::handle::callable_of;
use crate::transport::datagram::Datagram;
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
fn with_recorder<R>(
    core: &LoopCore,
    py: Python<'_>,
    look: impl FnOnce(&mut Recorder, u16) -> R,
) -> Option<R> {
    RECORDER.with(py, |place| {
        let Some(recorder) = place else {
            core.set_watcher(TRACE, false);
            return None;
        };
        let known = core.lane.load(Ordering::Relaxed);
        let lane = if (known >> 32) as u32 == recorder.generation {
            known as u16
        } else {
            let lane = recorder.add_lane(core.driver_name, nanoseconds());
            core.lane.store(u64::from(recorder.generation) << 32 | u64::from(lane), Ordering::Relaxed);
            lane
        };
        Some(look(recorder, lane))
    })
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
    Callback(Py<PyAny>),
    /// A call of a protocol.
    Told(Told),
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
        end_step(core, task.bind(py), id, begin, now);
    }
}

/// A piece of work begins.
pub(crate) fn work_begins<'py>(this: &Bound<'py, LoopCore>, work: &Work) -> Option<Doing<'py>> {
    let py = this.py();
    let what = match work {
        Work::Handle(handle) => callback(this.get(), callable_of(handle, py)?.into_bound(py)),
        Work::ThreadSafe(handle) => callback(this.get(), callable_of(handle, py)?.into_bound(py)),
        Work::Timer(handle) => callback(this.get(), callable_of(handle, py)?.into_bound(py)),
        Work::Stream(stream, work) => {
            see_transport(this.get(), py, stream.as_py(), || stream.get().introduce(py));
            What::Told(Stream::told(stream, py, work))
        }
        Work::Datagram(transport, work) => {
            see_transport(this.get(), py, transport.as_py(), || transport.get().introduce(py));
            What::Told(Datagram::told(transport, py, work))
        }
        Work::ReadPipe(pipe, work) => {
            see_transport(this.get(), py, pipe.as_py(), || pipe.get().introduce(py));
            What::Told(ReadPipe::told(pipe, py, work))
        }
        Work::WritePipe(pipe, work) => {
            see_transport(this.get(), py, pipe.as_py(), || pipe.get().introduce(py));
            What::Told(WritePipe::told(pipe, py, work))
        }
        Work::Sendfile(_) => What::Own("sendfile"),
        Work::Socket(..) => What::Own("socket wait"),
        Work::Accepted(..) => What::Own("accept"),
        Work::File(..) => What::Own("file operation"),
    };
    begin(this.get(), py, what)
}

/// A callback begins that is called in the middle of other work.
pub(crate) fn callback_begins<'py>(
    this: &Bound<'py, LoopCore>,
    callable: &Bound<'py, PyAny>,
) -> Option<Doing<'py>> {
    let what = callback(this.get(), callable.clone());
    begin(this.get(), this.py(), what)
}

fn begin<'py>(core: &LoopCore, py: Python<'py>, mut what: What<'py>) -> Option<Doing<'py>> {
    let has_open = with_recorder(core, py, |recorder, _lane| recorder.has_open())?;
    if has_open {
        finish_open(core, py, nanoseconds());
    }
    let begin = with_recorder(core, py, |recorder, lane| {
        let lane = recorder.lane(lane);
        if let What::Step(_, id, before) = &mut what {
            *before = lane.running.replace((*id, lane.last));
        }
        lane.last
    })?;
    Some(Doing { begin, what })
}

/// What a callback is.
#[inline]
fn callback<'py>(core: &LoopCore, callable: Bound<'py, PyAny>) -> What<'py> {
    match waits::task_of(&callable) {
        Some(task) => {
            let id = task_id(core, &task);
            What::Step(task, id, None)
        }
        None => What::Callback(callable.unbind()),
    }
}

/// The number of a task, which is noted if it is not known yet: it was made past `create_task()`, or before the trace.
fn task_id(core: &LoopCore, task: &Bound<'_, PyAny>) -> u32 {
    let py = task.py();
    let address = task.as_ptr().addr();
    match with_recorder(core, py, |recorder, _lane| recorder.known_task(address)) {
        Some(Some(id)) => id,
        Some(None) => {
            let id = with_recorder(core, py, |recorder, _lane| recorder.reserve()).unwrap_or(NONE);
            note_task(core, task, id, None, nanoseconds());
            id
        }
        None => NONE,
    }
}

/// Notes a task that was made at this time, with who has made it if that is known.
fn note_task(core: &LoopCore, task: &Bound<'_, PyAny>, id: u32, maker: Option<(u32, u32)>, begin: u64) {
    let py = task.py();
    let name = waits::name_of(task);
    let (point, frame, coroutine_name) = waits::coroutine_of(task);
    if let (Some(point), Some(frame)) = (&point, frame) {
        waits::learn(core, py, std::slice::from_ref(point), &[frame]);
    }
    with_recorder(core, py, |recorder, lane| {
        let known = point.as_ref().and_then(|(code, _)| recorder.places.code(code));
        let (coroutine, place) = match known {
            Some(code) => (code.name, code.begin),
            None => (recorder.places.strings.number(&coroutine_name), NONE),
        };
        let (parent, made_at) = maker.unwrap_or((NONE, NONE));
        let address = task.as_ptr().addr();
        recorder.add_task(id, lane, NewTask { address, name, coroutine, place, made_at, parent, begin });
    });
}

/// A piece of work has ended.
pub(crate) fn work_ended(core: &LoopCore, py: Python<'_>, doing: Doing<'_>) {
    let end = nanoseconds();
    let Doing { begin, what } = doing;
    if let What::Step(task, id, before) = what {
        with_recorder(core, py, |recorder, lane| recorder.lane(lane).running = before);
        end_step(core, &task, id, begin, end);
        return;
    }
    let long = with_recorder(core, py, |recorder, lane| {
        recorder.worked(lane, begin, end);
        end.saturating_sub(begin) >= recorder.threshold
    });
    if long != Some(true) {
        return;
    }
    let (name, point, globals) = named(py, &what);
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

/// A step of a task has ended.
fn end_step(core: &LoopCore, task: &Bound<'_, PyAny>, id: u32, begin: u64, end: u64) {
    let py = task.py();
    let waiter = waits::waiter(task);
    let (outcome, error) = match &waiter {
        Some(_) => (Outcome::Pending, None),
        None => waits::outcome(task),
    };
    let (wait, name) = match outcome {
        Outcome::Pending => (waits::wait_of(core, task, waiter.as_ref()), None),
        _ => (None, Some(waits::name_of(task))),
    };
    with_recorder(core, py, |recorder, lane| {
        recorder.step(lane, id, begin, end, wait);
        if outcome != Outcome::Pending {
            recorder.end_task(task.as_ptr().addr(), end, outcome, error.as_deref(), name);
        } else {
            // What the look at it took is nobody's time.
            recorder.lane(lane).last = nanoseconds();
        }
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
            let class = protocol.bind(py).get_type();
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
            let mut callable = callable.bind(py).clone();
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

/// The making of a task, on its way.
pub(crate) struct Making {
    begin: u64,
    id: u32,
    parent: u32,
    before: Option<Option<(u32, u64)>>,
}

/// A task is about to be made. `eager`: it may run before anybody sees it.
pub(crate) fn making_task(core: &LoopCore, py: Python<'_>, eager: bool) -> Option<Making> {
    with_recorder(core, py, |recorder, lane| {
        let id = recorder.reserve();
        let begin = nanoseconds();
        let running = &mut recorder.lane(lane).running;
        let parent = running.map_or(NONE, |(parent, _)| parent);
        // Who makes tasks in the meantime is this one.
        let before = eager.then(|| running.replace((id, begin)));
        Making { begin, id, parent, before }
    })
}

/// A task was made, or something in its place, or nothing.
pub(crate) fn task_made(core: &LoopCore, py: Python<'_>, making: Making, task: Option<&Bound<'_, PyAny>>) {
    let Making { begin, id, parent, before } = making;
    let eager = before.is_some();
    if let Some(before) = before {
        with_recorder(core, py, |recorder, lane| recorder.lane(lane).running = before);
    }
    let Some(task) = task.filter(|task| waits::is_task(task)) else { return };
    let address = task.as_ptr().addr();
    // A factory may give one that there is.
    if eager && with_recorder(core, py, |recorder, _lane| recorder.known_task(address)).flatten().is_some() {
        return;
    }
    let made_at = maker(core, py);
    note_task(core, task, id, Some((parent, made_at)), begin);
    if eager && (waits::waiter(task).is_some() || waits::outcome(task).0 != Outcome::Pending) {
        let last = with_recorder(core, py, |recorder, lane| recorder.lane(lane).last);
        let busy = with_recorder(core, py, |recorder, lane| recorder.lane(lane).busy);
        end_step(core, task, id, begin, nanoseconds());
        // It ran inside of what runs, whose time it is.
        with_recorder(core, py, |recorder, lane| {
            let lane = recorder.lane(lane);
            lane.last = last.unwrap_or(lane.last);
            lane.busy = busy.unwrap_or(lane.busy);
        });
    }
}

/// The line that makes a task: the innermost of the program's own within the callback that runs, else of a package.
fn maker(core: &LoopCore, py: Python<'_>) -> u32 {
    let mut frame = Frame::current(py);
    let mut of_package = NONE;
    for _ in 0..DEEPEST_MAKER {
        let Some(this) = frame.take() else { break };
        let next = this.back();
        let point = [(this.code(), this.offset())];
        waits::learn(core, py, &point, std::slice::from_ref(&this));
        let found = with_recorder(core, py, |recorder, _lane| {
            let code = recorder.places.code(&point[0].0)?;
            Some((code.owner, code.runs_the_loop, recorder.places.point(&point[0])))
        });
        let Some(Some((owner, runs_the_loop, place))) = found else { break };
        if runs_the_loop {
            break;
        }
        match owner {
            places::Owner::Program => return place,
            places::Owner::Package if of_package == NONE => of_package = place,
            places::Owner::Package | places::Owner::Python => {}
        }
        frame = next;
    }
    of_package
}

/// Notes a transport that is not known yet.
fn see_transport(
    core: &LoopCore,
    py: Python<'_>,
    transport: &Py<PyAny>,
    introduce: impl FnOnce() -> (&'static str, String),
) {
    let address = transport.as_ptr().addr();
    if with_recorder(core, py, |recorder, _lane| recorder.knows_transport(address)) != Some(false) {
        return;
    }
    let (kind, peer) = introduce();
    with_recorder(core, py, |recorder, _lane| recorder.add_transport(address, kind, peer, nanoseconds()));
}

/// Bytes have gone through a transport.
#[cold]
pub(crate) fn moved(
    core: &LoopCore,
    py: Python<'_>,
    transport: &Py<PyAny>,
    introduce: impl FnOnce() -> (&'static str, String),
    received: usize,
    sent: usize,
) {
    see_transport(core, py, transport, introduce);
    with_recorder(core, py, |recorder, lane| {
        let at = recorder.lane(lane).last;
        recorder.moved(transport.as_ptr().addr(), at, received, sent);
    });
}

/// A transport has ended.
#[cold]
pub(crate) fn transport_ended(core: &LoopCore, py: Python<'_>, transport: usize) {
    with_recorder(core, py, |recorder, _lane| recorder.end_transport(transport, nanoseconds()));
}

/// Begin to record. Raises RuntimeError if a trace is being recorded.
///
/// `threshold`: from how many seconds on callbacks are recorded; `capacity`: how many events are kept; `python`, `packages`: directories
/// of the standard library and of packages, ending in a slash; `waiting`: what the names of modules that wait begin with; `kinds`:
/// what waits are called, by module and function.
#[pyfunction]
#[pyo3(name = "start_trace")]
fn start(
    py: Python<'_>,
    threshold: f64,
    capacity: usize,
    python: Vec<String>,
    packages: Vec<String>,
    waiting: Vec<String>,
    kinds: HashMap<String, String>,
) -> PyResult<()> {
    static GENERATION: AtomicU32 = AtomicU32::new(0);
    let kinds = kinds.into_iter().filter_map(|(name, kind)| Some((name, Kind::named(&kind)?))).collect();
    let places = Places::new(Libraries { python, packages, waiting, kinds });
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
