//! `create_future`, `create_task` and the task factory.
//!
//! Futures and tasks are CPython's own, looked up in `asyncio.futures` and `asyncio.tasks` at each call.

use std::sync::atomic::Ordering;

use pyo3::exceptions::PyTypeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use super::LoopCore;
use super::observing::TRACE;
use crate::fast_method;
use crate::ffi::arguments::Arguments;
use crate::ffi::call::call_keywords;
use crate::ffi::imports::{Import, LateImport};
use crate::ffi::methods::add_fast_methods;
use crate::trace;

/// Adds the methods of this file to the class.
pub(crate) fn add_methods(py: Python<'_>) -> PyResult<()> {
    add_fast_methods::<LoopCore>(
        py,
        vec![
            fast_method!(
                LoopCore,
                "create_future",
                create_future,
                "create_future($self)\n--\n\nReturn an asyncio.Future attached to the loop."
            ),
            fast_method!(
                LoopCore,
                "create_task",
                create_task,
                "create_task($self, coro, *, name=None, context=None, **kwargs)\n--\n\n\
                 Run a coroutine as a task, from the next iteration on. Returns the Task, made by the task factory if one is set.\n\n\
                 Raises RuntimeError if the loop is closed."
            ),
        ],
    )
}

/// The tuple `("loop",)`.
fn loop_keyword(py: Python<'_>) -> PyResult<&Bound<'_, PyTuple>> {
    static NAMES: PyOnceLock<Py<PyTuple>> = PyOnceLock::new();
    Ok(NAMES.get_or_try_init(py, || PyTuple::new(py, ["loop"]).map(Bound::unbind))?.bind(py))
}

/// The tuples `("loop", "name")` and `("loop", "name", "context")`, for the calls that tasks are made with.
fn task_keywords(py: Python<'_>) -> PyResult<&(Py<PyTuple>, Py<PyTuple>)> {
    static NAMES: PyOnceLock<(Py<PyTuple>, Py<PyTuple>)> = PyOnceLock::new();
    NAMES.get_or_try_init(py, || {
        Ok((
            PyTuple::new(py, ["loop", "name"])?.unbind(),
            PyTuple::new(py, ["loop", "name", "context"])?.unbind(),
        ))
    })
}

/// A future of the loop.
pub(crate) fn new_future<'py>(this: &Bound<'py, LoopCore>) -> PyResult<Bound<'py, PyAny>> {
    static FUTURE: LateImport = LateImport::new("asyncio.futures", "Future");
    static NATIVE: Import = Import::new("_asyncio", "Future");
    let py = this.py();
    let class = FUTURE.get(py)?;
    match NATIVE.get(py) {
        Ok(native) if class.is(native) => new_native_future(this, &class),
        _ => call_keywords(&class, None, loop_keyword(py)?, &[this.as_ptr()]),
    }
}

/// An `asyncio.Future` of CPython's own. Such a class of C's wants its keywords in a dictionary, and making and destroying one is a
/// fifth of the whole: so there is one for a run of the loop. (For longer it would keep the loop alive.)
fn new_native_future<'py>(
    this: &Bound<'py, LoopCore>,
    class: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = this.py();
    let core = this.get();
    let kept = core.future_keywords.with(py, |place| place.as_ref().map(|it| it.clone_ref(py)));
    let keywords = match kept {
        Some(keywords) => keywords.into_bound(py),
        None => {
            let keywords = PyDict::new(py);
            keywords.set_item(intern!(py, "loop"), this)?;
            if core.thread.load(Ordering::Relaxed) != 0 {
                let keywords = keywords.clone().unbind();
                drop(core.future_keywords.with(py, |place| place.replace(keywords)));
            }
            keywords
        }
    };
    class.call((), Some(&keywords))
}

fn create_future(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    arguments.take("create_future", [], 0)?;
    Ok(new_future(this)?.unbind())
}

fn create_task(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    if this.get().is_watched_by(TRACE) {
        return create_traced(this, arguments);
    }
    make_task(this, arguments)
}

/// `create_task`, recorded.
#[inline(never)]
fn create_traced(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    let py = this.py();
    let core = this.get();
    // What runs a task at once is a factory, or asyncio.Task if it is told to.
    let eager = core.task_factory.with(py, |factory| factory.is_some())
        || arguments.keywords().any(|(name, _)| !name.is(intern!(py, "context")) && name == "eager_start");
    if eager {
        return create_eager_traced(this, arguments);
    }
    let task = make_task(this, arguments)?;
    trace::task_made(core, task.bind(py));
    Ok(task)
}

/// The same where the task may run at once.
#[cold]
fn create_eager_traced(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    let (py, core) = (this.py(), this.get());
    let keyword = arguments.keywords().find(|(name, _)| name == "coro").map(|(_, coroutine)| coroutine);
    let making = trace::making_task(core, py, arguments.get(0).or(keyword));
    let task = make_task(this, arguments);
    if let Some(making) = making {
        trace::eager_task_made(core, py, making, task.as_ref().ok().map(|task| task.bind(py)));
    }
    task
}

#[inline(always)]
fn make_task(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    static TASK: LateImport = LateImport::new("asyncio.tasks", "Task");
    static FROM_FACTORY: Import = Import::new("whilst._loop.tasks", "from_factory");
    let py = this.py();
    let core = this.get();
    core.check_open()?;

    let mut coroutine = None;
    let (mut name, mut context, mut others) = (None, None, None);
    match arguments.len() {
        0 => {}
        1 => coroutine = arguments.get(0),
        count => {
            return Err(PyTypeError::new_err(format!(
                "create_task() takes 2 positional arguments but {} were given",
                count + 1
            )));
        }
    }
    for (keyword, value) in arguments.keywords() {
        match keyword.to_str()? {
            "name" => name = Some(value),
            "context" => context = Some(value),
            "coro" if coroutine.is_none() => coroutine = Some(value),
            _ => {
                let others = others.get_or_insert_with(|| PyDict::new(py));
                others.set_item(keyword, value)?;
            }
        }
    }
    let Some(coroutine) = coroutine else {
        return Err(PyTypeError::new_err("create_task() missing 1 required positional argument: 'coro'"));
    };

    if let Some(factory) = core.task_factory.with(py, |factory| factory.as_ref().map(|it| it.clone_ref(py))) {
        let keywords = others.unwrap_or_else(|| PyDict::new(py));
        for (keyword, value) in [("name", name), ("context", context)] {
            if let Some(value) = value {
                keywords.set_item(keyword, value)?;
            }
        }
        return Ok(FROM_FACTORY.get(py)?.call1((this, factory, coroutine, keywords))?.unbind());
    }

    let task_class = TASK.get(py)?;
    if let Some(keywords) = others {
        keywords.set_item("loop", this)?;
        keywords.set_item("name", name)?;
        keywords.set_item("context", context)?;
        return Ok(task_class.call((coroutine,), Some(&keywords))?.unbind());
    }
    let none = py.None();
    let name = name.map_or_else(|| none.as_ptr(), Bound::as_ptr);
    let (without_context, with_context) = task_keywords(py)?;
    let task = match context {
        Some(context) => call_keywords(
            &task_class,
            Some(coroutine),
            with_context.bind(py),
            &[this.as_ptr(), name, context.as_ptr()],
        )?,
        None => {
            call_keywords(&task_class, Some(coroutine), without_context.bind(py), &[this.as_ptr(), name])?
        }
    };
    Ok(task.unbind())
}

#[pymethods]
impl LoopCore {
    /// Set what makes tasks: a callable `factory(loop, coro, **kwargs)`, or None for asyncio.Task.
    fn set_task_factory(&self, py: Python<'_>, factory: Option<Bound<'_, PyAny>>) -> PyResult<()> {
        if factory.as_ref().is_some_and(|factory| !factory.is_callable()) {
            return Err(PyTypeError::new_err("task factory must be a callable or None"));
        }
        let factory = factory.map(Bound::unbind);
        let before = self.task_factory.with(py, |place| std::mem::replace(place, factory));
        drop(before);
        Ok(())
    }

    /// Return the task factory, or None if the default one is in use.
    fn get_task_factory(&self, py: Python<'_>) -> Option<Py<PyAny>> {
        self.task_factory.with(py, |factory| factory.as_ref().map(|factory| factory.clone_ref(py)))
    }
}
