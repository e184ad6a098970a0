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
    Awaitable, Frame, Getter, attribute, awaitable, builtin, first_referent, function, is_instance,
};
#[cfg(not(Py_GIL_DISABLED))]
use crate::ffi::suspended::{Field, first_word};

/// So deep a chain of coroutines is followed.
const DEEPEST: usize = 64;

/// asyncio's classes and functions of tasks.
struct Asyncio {
    task: Option<Py<PyAny>>,
    native: Option<Native>,
    get_name: Option<Py<PyAny>>,
    /// The class written in Python, its `__step` and its `__wakeup`.
    python_task: Option<Py<PyAny>>,
    python_steps: Vec<Py<PyAny>>,
    method: Option<Py<PyAny>>,
    future: Option<Py<PyAny>>,
}

/// How tasks and coroutines of C's are read. What is looked for by name in a class each time costs a multiple.
struct Native {
    coroutine: Getter,
    state: Getter,
    exception: Getter,
    waiter: Getter,
    /// The state of a future.
    future_state: Getter,
    /// The code of a coroutine.
    code: Getter,
}

impl Native {
    fn of(task: &Bound<'_, PyAny>, future: &Bound<'_, PyAny>) -> Option<Self> {
        let coroutine = task.py().import("types").ok()?.getattr("CoroutineType").ok()?;
        Some(Self {
            coroutine: Getter::of(task, "_coro")?,
            state: Getter::of(task, "_state")?,
            exception: Getter::of(task, "_exception")?,
            waiter: Getter::of(task, "_fut_waiter")?,
            future_state: Getter::of(future, "_state")?,
            code: Getter::of(&coroutine, "cr_code")?,
        })
    }
}

fn asyncio(py: Python<'_>) -> &Asyncio {
    static ASYNCIO: PyOnceLock<Asyncio> = PyOnceLock::new();
    ASYNCIO.get_or_init(py, || {
        let of = |module: &str, name: &str| py.import(module).and_then(|module| module.getattr(name)).ok();
        let task = of("_asyncio", "Task");
        let future = of("_asyncio", "Future");
        let python_task = of("asyncio.tasks", "_PyTask");
        let step = |name: &str| python_task.as_ref()?.getattr(name).ok().map(Bound::unbind);
        Asyncio {
            get_name: task.as_ref().and_then(|task| task.getattr("get_name").ok()).map(Bound::unbind),
            native: task.as_ref().zip(future.as_ref()).and_then(|(task, future)| Native::of(task, future)),
            python_steps: ["_Task__step", "_Task__wakeup"].into_iter().filter_map(step).collect(),
            task: task.map(Bound::unbind),
            python_task: python_task.map(Bound::unbind),
            method: of("types", "MethodType").map(Bound::unbind),
            future: future.map(Bound::unbind),
        }
    })
}

/// How a task is read, if it is one of C's.
#[inline]
fn native<'a>(task: &Bound<'_, PyAny>, asyncio: &'a Asyncio) -> Option<&'a Native> {
    asyncio.native.as_ref().filter(|_| is_native(task, asyncio))
}

#[inline]
fn is_native(object: &Bound<'_, PyAny>, asyncio: &Asyncio) -> bool {
    asyncio.task.as_ref().is_some_and(|class| is_instance(object, class.bind(object.py())))
}

fn is_native_task(object: &Bound<'_, PyAny>) -> bool {
    is_native(object, asyncio(object.py()))
}

/// True of asyncio's tasks and what inherits from them.
pub(super) fn is_task(object: &Bound<'_, PyAny>) -> bool {
    let py = object.py();
    is_native_task(object)
        || asyncio(py).python_task.as_ref().is_some_and(|class| is_instance(object, class.bind(py)))
}

/// What steps of tasks of C's look like.
static STEP: PyOnceLock<(Py<PyType>, Getter)> = PyOnceLock::new();
static WAKEUP: PyOnceLock<usize> = PyOnceLock::new();

/// The task that a callback is a step of.
#[inline]
pub(super) fn task_of<'py>(callable: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let py = callable.py();
    if let Some((address, bound)) = builtin(callable) {
        return match WAKEUP.get(py) {
            Some(wakeup) => (*wakeup == address && is_native_task(&bound)).then_some(bound),
            None => first_wakeup(callable, address, bound),
        };
    }
    match STEP.get(py) {
        Some((step, task)) if callable.get_type().is(step) => task.get(callable),
        Some(_) => python_task_of(callable),
        None => first_step(callable),
    }
}

/// The same until one was seen that goes on after a wait.
#[cold]
fn first_wakeup<'py>(
    callable: &Bound<'py, PyAny>,
    address: usize,
    bound: Bound<'py, PyAny>,
) -> Option<Bound<'py, PyAny>> {
    let py = callable.py();
    if !is_native_task(&bound) {
        return None;
    }
    let name = attribute(callable, intern!(py, "__name__"))?;
    if !name.cast_exact::<PyString>().is_ok_and(|name| name == "task_wakeup") {
        return None;
    }
    let _ = WAKEUP.set(py, address);
    Some(bound)
}

/// The same until one was seen that begins.
#[cold]
fn first_step<'py>(callable: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    let class = callable.get_type();
    if class.name().is_ok_and(|name| name == "TaskStepMethWrapper")
        && class.module().is_ok_and(|module| module == "_asyncio" || module == "builtins")
        && let Some(getter) = Getter::of(&class, "__self__")
        && let Some(task) = getter.get(callable).filter(is_native_task)
    {
        let _ = STEP.set(callable.py(), (class.unbind(), getter));
        return Some(task);
    }
    python_task_of(callable)
}

/// As [`task_of`] of tasks written in Python.
#[inline(never)]
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
    let asyncio = asyncio(py);
    // Of a task of C's the first word that it shows the garbage collector is its name, from Python 3.12 on as a number if it was
    // given none (`TaskObj_traverse`, `task_init`); `get_name()` would make a string of that. It has its place in every task.
    // Without a GIL it may be replaced meanwhile.
    #[cfg(not(Py_GIL_DISABLED))]
    if asyncio.task.as_ref().is_some_and(|class| task.get_type().is(class)) {
        static NAME: PyOnceLock<Option<Field>> = PyOnceLock::new();
        let place = NAME.get_or_init(py, || Field::of(task, &first_word(task)?));
        if let Some(name) = place.as_ref().and_then(|place| place.get(task)) {
            if let Ok(name) = name.cast::<PyString>() {
                return Name::of(name.to_str().unwrap_or_default());
            }
            if let Ok(number) = name.extract() {
                return Name::Number(number);
            }
        }
    }
    asked_name(task, asyncio)
}

/// The name of a task, as it says itself.
#[inline(never)]
fn asked_name(task: &Bound<'_, PyAny>, asyncio: &Asyncio) -> Name {
    let name = match &asyncio.get_name {
        Some(get_name) if is_native(task, asyncio) => get_name.bind(task.py()).call1((task,)).ok(),
        _ => attribute(task, intern!(task.py(), "_name")),
    };
    let name =
        name.as_ref().and_then(|name| name.cast::<PyString>().ok()).and_then(|name| name.to_str().ok());
    Name::of(name.unwrap_or_default())
}

/// How a task is after a step.
pub(super) enum State<'py> {
    /// It is suspended, and waits for this, or for its turn.
    Suspended(Option<Bound<'py, PyAny>>),
    /// It has ended; with the name of the class of what it has raised.
    Ended(Outcome, Option<String>),
}

/// How a task is after a step.
pub(super) fn state<'py>(task: &Bound<'py, PyAny>) -> State<'py> {
    let py = task.py();
    let native = native(task, asyncio(py));
    let read = |getter: fn(&Native) -> &Getter, name| match native {
        Some(native) => getter(native).get(task),
        None => attribute(task, name),
    };
    let outcome = match read(|native| &native.state, intern!(py, "_state")) {
        Some(state) if is_word(&state, intern!(py, "FINISHED")) => Outcome::Returned,
        Some(state) if is_word(&state, intern!(py, "CANCELLED")) => Outcome::Cancelled,
        _ => Outcome::Pending,
    };
    match outcome {
        Outcome::Pending => {
            let waiter = read(|native| &native.waiter, intern!(py, "_fut_waiter"));
            State::Suspended(waiter.filter(|waiter| !waiter.is_none()))
        }
        Outcome::Returned => {
            let error = read(|native| &native.exception, intern!(py, "_exception"));
            match error.filter(|error| !error.is_none()) {
                None => State::Ended(Outcome::Returned, None),
                Some(error) => raised(&error),
            }
        }
        outcome => State::Ended(outcome, None),
    }
}

#[cold]
fn raised<'py>(error: &Bound<'py, PyAny>) -> State<'py> {
    let name = error.get_type().qualname().map(|name| name.to_string());
    State::Ended(Outcome::Raised, name.ok())
}

/// True of this string. Those that asyncio uses are interned, as is `word`.
#[inline]
fn is_word(object: &Bound<'_, PyAny>, word: &Bound<'_, PyString>) -> bool {
    object.is(word) || is_equal_word(object, word)
}

#[inline(never)]
fn is_equal_word(object: &Bound<'_, PyAny>, word: &Bound<'_, PyString>) -> bool {
    object.cast_exact::<PyString>().is_ok_and(|string| string.to_str().ok() == word.to_str().ok())
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

/// Notes a coroutine's code if it is not known yet; false if it cannot be seen.
pub(super) fn learn_coroutine(event_loop: &LoopCore, py: Python<'_>, coroutine: &Coroutine<'_>) -> bool {
    let Some(code) = coroutine.code() else { return false };
    let known = with_recorder(event_loop, py, |recorder, _lane| recorder.places.code(&code).is_some());
    if known != Some(false) {
        return true;
    }
    let Some(frame) = coroutine.frame() else { return false };
    learn(event_loop, py, &[(code, -1)], &[frame]);
    true
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
        Some(waiter) if is_done(waiter) => Kind::Ready,
        Some(waiter) => kind.unwrap_or_else(|| if on.is_some() { Kind::Task } else { by_future(waiter) }),
    };
    Some((kind, on_task, stack))
}

/// True of a future of asyncio's that was done already when the task came to wait for it: the task waits for its turn.
fn is_done(future: &Bound<'_, PyAny>) -> bool {
    let py = future.py();
    let asyncio = asyncio(py);
    let state = match (&asyncio.native, &asyncio.future) {
        (Some(native), Some(class)) if is_instance(future, class.bind(py)) => native.future_state.get(future),
        _ => attribute(future, intern!(py, "_state")),
    };
    state.is_some_and(|state| {
        is_word(&state, intern!(py, "FINISHED")) || is_word(&state, intern!(py, "CANCELLED"))
    })
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
    /// A task's. (One that ends before anybody sees it, as eager ones may, has none any more.)
    pub(super) fn of(task: &Bound<'py, PyAny>) -> Option<Self> {
        let object = match native(task, asyncio(task.py())) {
            Some(native) => native.coroutine.get(task),
            None => attribute(task, intern!(task.py(), "_coro")),
        };
        object.filter(|object| !object.is_none()).map(Self::new)
    }

    pub(super) fn new(object: Bound<'py, PyAny>) -> Self {
        let kind = awaitable(&object);
        Self { object, kind }
    }

    /// Its code, if it is a coroutine of CPython's.
    pub(super) fn code(&self) -> Option<Bound<'py, PyCode>> {
        let py = self.object.py();
        let code = match self.kind {
            Awaitable::Coroutine => match &asyncio(py).native {
                Some(native) => native.code.get(&self.object),
                None => attribute(&self.object, intern!(py, "cr_code")),
            },
            Awaitable::Generator => attribute(&self.object, intern!(py, "gi_code")),
            Awaitable::AsyncGenerator | Awaitable::Other => None,
        };
        code?.cast_into_exact().ok()
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
