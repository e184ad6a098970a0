//! Tasks and what they wait for, read without running any Python code.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyCode, PyList, PyString, PyTuple, PyType};

use super::places::{Description, Point};
use super::recorder::{Name, Outcome};
use super::ring::Kind;
use super::with_recorder;
use crate::event_loop::LoopCore;
use crate::ffi::suspended::{
    Awaitable, Frame, attribute, awaitable, builtin, first_referent, function, is_instance,
};

/// So deep a chain of coroutines is followed.
const DEEPEST: usize = 64;

/// asyncio's classes and functions of tasks.
struct Asyncio {
    task: Option<Py<PyAny>>,
    get_name: Option<Py<PyAny>>,
    /// The class written in Python, its `__step` and its `__wakeup`.
    python_task: Option<Py<PyAny>>,
    python_steps: Vec<Py<PyAny>>,
    method: Option<Py<PyAny>>,
}

fn asyncio(py: Python<'_>) -> &Asyncio {
    static ASYNCIO: PyOnceLock<Asyncio> = PyOnceLock::new();
    ASYNCIO.get_or_init(py, || {
        let of = |module: &str, name: &str| py.import(module).and_then(|module| module.getattr(name)).ok();
        let task = of("_asyncio", "Task");
        let python_task = of("asyncio.tasks", "_PyTask");
        let step = |name: &str| python_task.as_ref()?.getattr(name).ok().map(Bound::unbind);
        Asyncio {
            get_name: task.as_ref().and_then(|task| task.getattr("get_name").ok()).map(Bound::unbind),
            python_steps: ["_Task__step", "_Task__wakeup"].into_iter().filter_map(step).collect(),
            task: task.map(Bound::unbind),
            python_task: python_task.map(Bound::unbind),
            method: of("types", "MethodType").map(Bound::unbind),
        }
    })
}

fn is_native_task(object: &Bound<'_, PyAny>) -> bool {
    let py = object.py();
    asyncio(py).task.as_ref().is_some_and(|class| is_instance(object, class.bind(py)))
}

/// True of asyncio's tasks and what inherits from them.
pub(super) fn is_task(object: &Bound<'_, PyAny>) -> bool {
    let py = object.py();
    is_native_task(object)
        || asyncio(py).python_task.as_ref().is_some_and(|class| is_instance(object, class.bind(py)))
}

/// The task that a callback is a step of.
#[inline]
pub(super) fn task_of<'py>(callable: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    static STEP: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static WAKEUP: PyOnceLock<usize> = PyOnceLock::new();
    let py = callable.py();
    if let Some((address, bound)) = builtin(callable) {
        match WAKEUP.get(py) {
            Some(wakeup) => return (*wakeup == address && is_native_task(&bound)).then_some(bound),
            None => {
                if !is_native_task(&bound) {
                    return None;
                }
                let name = attribute(callable, intern!(py, "__name__"))?;
                if !name.cast_exact::<PyString>().is_ok_and(|name| name == "task_wakeup") {
                    return None;
                }
                let _ = WAKEUP.set(py, address);
                return Some(bound);
            }
        }
    }
    let class = callable.get_type();
    match STEP.get(py) {
        Some(step) if class.is(step) => return attribute(callable, intern!(py, "__self__")),
        Some(_) => {}
        None => {
            if class.name().is_ok_and(|name| name == "TaskStepMethWrapper")
                && class.module().is_ok_and(|module| module == "_asyncio" || module == "builtins")
                && let Some(task) = attribute(callable, intern!(py, "__self__")).filter(is_native_task)
            {
                let _ = STEP.set(py, class.unbind());
                return Some(task);
            }
        }
    }
    python_task_of(callable)
}

/// As [`task_of`] of tasks written in Python.
fn python_task_of<'py>(callable: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let py = callable.py();
    let (bound, function) = method(callable)?;
    let is_step = asyncio(py).python_steps.iter().any(|step| function.is(step));
    (is_step && is_task(&bound)).then_some(bound)
}

/// The object and the function of a bound method.
pub(super) fn method<'py>(callable: &Bound<'py, PyAny>) -> Option<(Bound<'py, PyAny>, Bound<'py, PyAny>)> {
    let py = callable.py();
    if !callable.get_type().is(asyncio(py).method.as_ref()?) {
        return None;
    }
    Some((attribute(callable, intern!(py, "__self__"))?, attribute(callable, intern!(py, "__func__"))?))
}

/// The name of a task.
pub(super) fn name_of(task: &Bound<'_, PyAny>) -> Name {
    let py = task.py();
    let name = match &asyncio(py).get_name {
        Some(get_name) if is_native_task(task) => get_name.bind(py).call1((task,)).ok(),
        _ => attribute(task, intern!(py, "_name")),
    };
    let name =
        name.as_ref().and_then(|name| name.cast::<PyString>().ok()).and_then(|name| name.to_str().ok());
    Name::of(name.unwrap_or_default())
}

/// Whether a task has ended, and how; with the name of the class of what it has raised.
pub(super) fn outcome(task: &Bound<'_, PyAny>) -> (Outcome, Option<String>) {
    let py = task.py();
    let Some(state) = attribute(task, intern!(py, "_state")) else { return (Outcome::Pending, None) };
    let Ok(state) = state.cast::<PyString>() else { return (Outcome::Pending, None) };
    if state == "PENDING" {
        return (Outcome::Pending, None);
    }
    if state == "CANCELLED" {
        return (Outcome::Cancelled, None);
    }
    match attribute(task, intern!(py, "_exception")).filter(|exception| !exception.is_none()) {
        None => (Outcome::Returned, None),
        Some(error) => {
            let name = error.get_type().qualname().map(|name| name.to_string());
            (Outcome::Raised, name.ok())
        }
    }
}

/// What the task has given asyncio to wait for.
#[inline]
pub(super) fn waiter<'py>(task: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    attribute(task, intern!(task.py(), "_fut_waiter")).filter(|waiter| !waiter.is_none())
}

/// The frame of a coroutine or its like, and what that awaits.
fn suspended<'py>(
    object: &Bound<'py, PyAny>,
    kind: Awaitable,
) -> Option<(Frame<'py>, Option<Bound<'py, PyAny>>)> {
    let py = object.py();
    let (frame, inner) = match kind {
        Awaitable::Coroutine => (intern!(py, "cr_frame"), intern!(py, "cr_await")),
        Awaitable::Generator => (intern!(py, "gi_frame"), intern!(py, "gi_yieldfrom")),
        Awaitable::AsyncGenerator => (intern!(py, "ag_frame"), intern!(py, "ag_await")),
        Awaitable::Other => return None,
    };
    Some((Frame::of(attribute(object, frame)?)?, attribute(object, inner).filter(|inner| !inner.is_none())))
}

/// The chain of a task's coroutines, outermost first.
fn chain<'py>(task: &Bound<'py, PyAny>) -> (Vec<Point<'py>>, Vec<Frame<'py>>) {
    let py = task.py();
    let mut points = Vec::with_capacity(8);
    let mut frames = Vec::with_capacity(8);
    let mut next = attribute(task, intern!(py, "_coro"));
    let mut steps = 0;
    while let Some(object) = next.take() {
        steps += 1;
        if steps > 2 * DEEPEST || points.len() == DEEPEST {
            break;
        }
        next = match awaitable(&object) {
            Awaitable::Other if is_opaque(&object) => first_referent(&object),
            Awaitable::Other => None,
            kind => match suspended(&object, kind) {
                Some((frame, inner)) => {
                    points.push((frame.code(), frame.offset()));
                    frames.push(frame);
                    inner
                }
                None => None,
            },
        };
    }
    (points, frames)
}

/// Awaitables of CPython's without attributes that have a coroutine or an asynchronous generator inside. (`async_gen_asend_traverse`,
/// `coro_wrapper_traverse` and `anextawaitable_traverse` show it first.)
fn is_opaque(object: &Bound<'_, PyAny>) -> bool {
    object.get_type().name().is_ok_and(|name| {
        name == "async_generator_asend"
            || name == "async_generator_athrow"
            || name == "coroutine_wrapper"
            || name == "anext_awaitable"
    })
}

/// Notes the code of these frames that is not known yet.
pub(super) fn learn(event_loop: &LoopCore, py: Python<'_>, points: &[Point<'_>], frames: &[Frame<'_>]) {
    let unknown = with_recorder(event_loop, py, |recorder, _lane| {
        let is_unknown = |(code, _): &Point<'_>| recorder.places.code(code).is_none();
        // Nothing is allocated where all are known.
        let mut unknown = Vec::new();
        for (index, point) in points.iter().enumerate() {
            if is_unknown(point) {
                unknown.push(index);
            }
        }
        unknown
    });
    let Some(unknown) = unknown.filter(|unknown| !unknown.is_empty()) else { return };
    let described: Vec<_> = unknown
        .into_iter()
        .map(|index| Description::of(&points[index].0, frames[index].globals().as_ref()))
        .collect();
    with_recorder(event_loop, py, |recorder, _lane| {
        for description in described {
            let before = recorder.places.add(description);
            recorder.spare.extend(before);
        }
    });
}

/// What a task that is suspended waits for: the kind, the address of a task if that is what it waits for, and the stack.
pub(super) fn wait_of(
    event_loop: &LoopCore,
    task: &Bound<'_, PyAny>,
    waiter: Option<&Bound<'_, PyAny>>,
) -> Option<(Kind, u32, u32)> {
    let py = task.py();
    let (points, frames) = chain(task);
    let on = waiter.filter(|waiter| is_task(waiter)).map(|waiter| waiter.as_ptr().addr());
    let note = |recorder: &mut super::recorder::Recorder, _lane| {
        if points.iter().any(|(code, _)| recorder.places.code(code).is_none()) {
            return None;
        }
        let stack = recorder.places.stack(&points);
        let kind = recorder.places.stacks.get(stack as usize).and_then(|stack| stack.kind);
        let on = on.and_then(|address| recorder.known_task(address)).unwrap_or(super::ring::NONE);
        Some((kind, on, stack))
    };
    let noted = match with_recorder(event_loop, py, note)? {
        Some(noted) => noted,
        None => {
            learn(event_loop, py, &points, &frames);
            with_recorder(event_loop, py, note)??
        }
    };
    let (kind, on_task, stack) = noted;
    let kind = match waiter {
        None => Kind::Ready,
        Some(waiter) => kind.unwrap_or_else(|| if on.is_some() { Kind::Task } else { by_future(waiter) }),
    };
    Some((kind, on_task, stack))
}

/// The kind of a wait by the future, as in `whilst._waits`.
fn by_future(waiter: &Bound<'_, PyAny>) -> Kind {
    let py = waiter.py();
    if waiter.cast_exact::<crate::event_loop::sockets::SocketWait>().is_ok() {
        return Kind::Socket;
    }
    if attribute(waiter, intern!(py, "_children")).is_some_and(|children| children.is_instance_of::<PyList>())
    {
        return Kind::Gather;
    }
    let callbacks = attribute(waiter, intern!(py, "_callbacks"));
    let callbacks = callbacks.as_ref().and_then(|callbacks| callbacks.cast_exact::<PyList>().ok());
    for entry in callbacks.into_iter().flatten() {
        let callback = match entry.cast_exact::<PyTuple>() {
            Ok(pair) => match pair.get_item(0) {
                Ok(callback) => callback,
                Err(_) => continue,
            },
            Err(_) => entry,
        };
        let Some((code, _)) = function(&callback) else { continue };
        let Some(name) = attribute(&code, intern!(py, "co_name")) else { continue };
        match name.cast_exact::<PyString>() {
            // What `asyncio.wrap_future` adds, and `asyncio.shield`.
            Ok(name) if name == "_call_check_cancel" => return Kind::Executor,
            Ok(name) if name == "_outer_done_callback" => return Kind::Task,
            _ => {}
        }
    }
    Kind::Future
}

/// What runs in a task.
pub(super) struct Coroutine<'py> {
    object: Bound<'py, PyAny>,
    kind: Awaitable,
}

impl<'py> Coroutine<'py> {
    pub(super) fn of(task: &Bound<'py, PyAny>) -> Option<Self> {
        let object = attribute(task, intern!(task.py(), "_coro"))?;
        let kind = awaitable(&object);
        Some(Self { object, kind })
    }

    /// Its code, if it is a coroutine of CPython's.
    pub(super) fn code(&self) -> Option<Bound<'py, PyCode>> {
        let py = self.object.py();
        let name = match self.kind {
            Awaitable::Coroutine => intern!(py, "cr_code"),
            Awaitable::Generator => intern!(py, "gi_code"),
            Awaitable::AsyncGenerator | Awaitable::Other => return None,
        };
        attribute(&self.object, name)?.cast_into_exact().ok()
    }

    /// Its frame, until it has ended. (To ask for it makes an object.)
    pub(super) fn frame(&self) -> Option<Frame<'py>> {
        suspended(&self.object, self.kind).map(|(frame, _)| frame)
    }

    /// Its name, of one that has ended already, or is none of CPython's.
    pub(super) fn name(&self) -> String {
        let name = match self.kind {
            Awaitable::Other => self.object.get_type().qualname().ok().map(|name| name.to_string()),
            _ => attribute(&self.object, intern!(self.object.py(), "__qualname__"))
                .and_then(|name| name.extract().ok()),
        };
        name.unwrap_or_default()
    }
}
