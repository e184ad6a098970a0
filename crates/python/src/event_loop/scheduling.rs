//! `call_soon`, `call_later`, `call_at`, `call_soon_threadsafe`, `time`.

use std::sync::atomic::Ordering;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::{LoopCore, State, WRONG_THREAD, Work, this_thread};
use crate::fast_method;
use crate::ffi::arguments::{Arguments, Keyword};
use crate::ffi::class::{Instance, Object};
use crate::ffi::imports::Import;
use crate::ffi::methods::add_fast_methods;
use crate::ffi::stored_arguments::StoredArguments;
use crate::handle::{AnyHandle, Callback, Handle, ThreadSafeHandle, TimerHandle, new_handle};

/// The loop's clock: `CLOCK_MONOTONIC` in seconds, as `time.monotonic()` reads it on Linux.
#[inline]
pub(crate) fn now() -> f64 {
    crate::ffi::clock::monotonic()
}

/// Adds the methods of this file to the class.
pub(crate) fn add_methods(py: Python<'_>) -> PyResult<()> {
    add_fast_methods::<LoopCore>(
        py,
        vec![
            fast_method!(
                LoopCore,
                "call_soon",
                call_soon,
                "call_soon($self, callback, *args, context=None)\n--\n\n\
                 Call callback(*args) in the next iteration, in `context` or a copy of the current one. Returns a Handle.\n\n\
                 Not safe from other threads. Raises RuntimeError if the loop is closed, and in debug mode TypeError for what\n\
                 cannot be called and RuntimeError in a thread other than the loop's."
            ),
            fast_method!(
                LoopCore,
                "call_soon_threadsafe",
                call_soon_threadsafe,
                "call_soon_threadsafe($self, callback, *args, context=None)\n--\n\n\
                 Like call_soon(), from any thread: wakes the loop if it sleeps. Returns a Handle."
            ),
            fast_method!(
                LoopCore,
                "call_later",
                call_later,
                "call_later($self, delay, callback, *args, context=None)\n--\n\n\
                 Call callback(*args) after a delay in seconds. Returns a TimerHandle. Raises as call_soon() does."
            ),
            fast_method!(
                LoopCore,
                "call_at",
                call_at,
                "call_at($self, when, callback, *args, context=None)\n--\n\n\
                 Call callback(*args) at a time of the loop's clock, in seconds. Returns a TimerHandle. Raises as call_soon()\n\
                 does."
            ),
            fast_method!(
                LoopCore,
                "time",
                time,
                "time($self)\n--\n\nReturn the time by the loop's clock, in seconds: that of time.monotonic()."
            ),
        ],
    )
}

impl LoopCore {
    /// Makes the handle of a callback: `arguments` from `first` on are the callback and what it is called with, and the one
    /// keyword there may be is `context`.
    #[inline]
    pub(super) fn make_handle<T: AnyHandle>(
        this: &Bound<'_, Self>,
        function: &str,
        arguments: Arguments<'_, '_>,
        first: usize,
        when: f64,
    ) -> PyResult<Object<T>> {
        let py = this.py();
        let core = this.get();
        core.check_open()?;
        static CONTEXT: Keyword = Keyword::new("context");
        let mut context = None;
        let mut callable = arguments.get(first);
        if let Some(value) = arguments.only(&CONTEXT) {
            if !value.is_none() {
                context = Some(value.clone().unbind());
            }
        } else if arguments.has_keywords() {
            for (name, value) in arguments.keywords() {
                match name.to_str()? {
                    "context" => {
                        if !value.is_none() {
                            context = Some(value.clone().unbind());
                        }
                    }
                    "callback" => {
                        if callable.replace(value).is_some() {
                            return Err(given_twice(function, &name));
                        }
                    }
                    // Taken already, if it was to be.
                    "delay" if function == "call_later" && arguments.len() == 0 => {}
                    "when" if function == "call_at" && arguments.len() == 0 => {}
                    "delay" if function == "call_later" => return Err(given_twice(function, &name)),
                    "when" if function == "call_at" => return Err(given_twice(function, &name)),
                    _ => {
                        return Err(PyTypeError::new_err(format!(
                            "{function}() got an unexpected keyword argument '{name}'"
                        )));
                    }
                }
            }
        }
        let Some(callable) = callable else {
            return Err(missing_arguments(function, parameters(function), arguments));
        };
        let debug = core.is_debug();
        if debug {
            if function != "call_soon_threadsafe" {
                core.check_this_thread()?;
            }
            // CPython's `call_later` is a call of `call_at`, which is what its words say.
            check_callback(callable, if function == "call_later" { "call_at" } else { function })?;
        }
        let (context, shares_context) = match context {
            Some(context) => (context, false),
            None => core.copy_context(py)?,
        };
        let arguments = StoredArguments::new(py, arguments.rest(first + 1))?;
        let callback = Callback::new(callable.clone().unbind(), arguments, context, shares_context);
        new_handle(py, this.as_unbound(), callback, when, debug)
    }

    /// Raises `RuntimeError` if the loop runs on another thread (`BaseEventLoop._check_thread`).
    pub(super) fn check_this_thread(&self) -> PyResult<()> {
        let thread = self.thread.load(Ordering::Relaxed);
        if thread != 0 && thread != this_thread() {
            return Err(PyRuntimeError::new_err(WRONG_THREAD));
        }
        Ok(())
    }

    /// Moves what other threads have sent to the ready queue.
    #[inline]
    pub(super) fn take_inbox(&self, py: Python<'_>) {
        // With a GIL nobody uses it.
        if cfg!(Py_GIL_DISABLED) && !self.inbox.is_empty() {
            self.empty_inbox(py);
        }
    }

    #[cold]
    #[inline(never)]
    fn empty_inbox(&self, py: Python<'_>) {
        self.touch();
        let mut handles = Vec::new();
        self.inbox.drain_into(&mut handles);
        self.state.with(py, |state| {
            state.counts.thread_calls += handles.len() as u64;
            handles.into_iter().for_each(|work| state.ready.push(work));
        });
    }

    /// Queues a timer.
    fn schedule(&self, py: Python<'_>, when: f64, timer: &Object<TimerHandle>) {
        // What is no number is before no time, so that CPython's loop runs it at once (`if handle._when >= end_time: break`).
        let when = if when.is_nan() { f64::NEG_INFINITY } else { when };
        let key = self.state.with(py, |state| state.timers.insert(when, timer.clone_ref(py)));
        timer.get().set_key(py, Some(key));
    }

    /// Queues the timers whose time has come, and says how many callbacks and so on the iteration runs. The clock's resolution is a
    /// nanosecond; a timer that is due within it is due.
    #[inline]
    pub(super) fn begin(&self, py: Python<'_>) -> usize {
        self.state.with(py, |state| {
            if !state.timers.is_empty() {
                Self::take_due_timers(state);
            }
            let count = state.ready.begin();
            state.counts.iterations += 1;
            state.counts.callbacks += count as u64;
            count
        })
    }

    fn take_due_timers(state: &mut State) {
        let limit = now() + 1e-9;
        while let Some(timer) = state.timers.pop_due(limit) {
            state.ready.push(Work::Timer(timer));
        }
    }
}

/// Raises `TypeError` for what cannot be called, and for coroutine functions (`BaseEventLoop._check_callback`).
pub(crate) fn check_callback(callable: &Bound<'_, PyAny>, method: &str) -> PyResult<()> {
    static ISCOROUTINE: Import = Import::new("asyncio.coroutines", "iscoroutine");
    static ISCOROUTINEFUNCTION: Import = Import::new("inspect", "iscoroutinefunction");
    let py = callable.py();
    if ISCOROUTINE.get(py)?.call1((callable,))?.is_truthy()?
        || ISCOROUTINEFUNCTION.get(py)?.call1((callable,))?.is_truthy()?
    {
        return Err(PyTypeError::new_err(format!("coroutines cannot be used with {method}()")));
    }
    if !callable.is_callable() {
        return Err(PyTypeError::new_err(format!(
            "a callable object was expected by {method}(), got {}",
            callable.repr()?
        )));
    }
    Ok(())
}

#[cold]
fn given_twice(function: &str, name: &Bound<'_, PyString>) -> PyErr {
    PyTypeError::new_err(format!("{function}() got multiple values for argument '{name}'"))
}

/// What CPython says where `names`, of those before `*args`, were given neither by position nor by name.
#[cold]
fn missing_arguments(function: &str, names: &[&str], arguments: Arguments<'_, '_>) -> PyErr {
    let given: Vec<_> = arguments.keywords().map(|(name, _)| name.to_string()).collect();
    let missing: Vec<_> = names
        .iter()
        .skip(arguments.len())
        .filter(|name| !given.iter().any(|given| given == *name))
        .map(|name| format!("'{name}'"))
        .collect();
    let plural = if missing.len() > 1 { "s" } else { "" };
    PyTypeError::new_err(format!(
        "{function}() missing {} required positional argument{plural}: {}",
        missing.len(),
        missing.join(" and ")
    ))
}

/// The parameters of a method before `*args`.
fn parameters(function: &str) -> &'static [&'static str] {
    match function {
        "call_later" => &["delay", "callback"],
        "call_at" => &["when", "callback"],
        _ => &["callback"],
    }
}

fn call_soon(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    let py = this.py();
    let handle: Object<Handle> = LoopCore::make_handle(this, "call_soon", arguments, 0, 0.0)?;
    this.get().push(py, Work::Handle(handle.clone_ref(py)));
    Ok(handle.into_any())
}

fn call_soon_threadsafe(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    if ThreadSafeHandle::class().is_made() {
        send::<ThreadSafeHandle>(this, arguments, Work::ThreadSafe)
    } else {
        send::<Handle>(this, arguments, Work::Handle)
    }
}

/// `call_soon_threadsafe` with this kind of handle.
#[inline]
fn send<T: AnyHandle>(
    this: &Bound<'_, LoopCore>,
    arguments: Arguments<'_, '_>,
    work: fn(Object<T>) -> Work,
) -> PyResult<Py<PyAny>> {
    let py = this.py();
    let core = this.get();
    let handle: Object<T> = LoopCore::make_handle(this, "call_soon_threadsafe", arguments, 0, 0.0)?;
    // Another thread may have closed it since.
    core.check_open()?;
    // With a GIL this thread has the loop's state for itself. Without one, threads that send many meet at the inbox, where the loop
    // comes once an iteration, rather than at the state, which it looks into all the time.
    let own = core.thread.load(Ordering::Relaxed) == this_thread();
    if cfg!(not(Py_GIL_DISABLED)) || own {
        if !own {
            core.state.with(py, |state| state.counts.thread_calls += 1);
        }
        core.push(py, work(handle.clone_ref(py)));
        return Ok(handle.into_any());
    }
    core.inbox
        .push(work(handle.clone_ref(py)))
        .map_err(|_closed| PyRuntimeError::new_err("Event loop is closed"))?;
    Ok(handle.into_any())
}

/// The time of a timer: the first argument, by position or by its name.
fn time_argument<'a, 'py>(
    arguments: &Arguments<'a, 'py>,
    function: &str,
    name: &str,
) -> PyResult<&'a Bound<'py, PyAny>> {
    if let Some(time) = arguments.get(0) {
        return Ok(time);
    }
    for (keyword, value) in arguments.keywords() {
        if keyword.to_str()? == name {
            return Ok(value);
        }
    }
    Err(missing_arguments(function, parameters(function), *arguments))
}

fn call_later(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    let delay = time_argument(&arguments, "call_later", "delay")?;
    if delay.is_none() {
        return Err(PyTypeError::new_err("delay must not be None"));
    }
    timer(this, "call_later", arguments, now() + delay.extract::<f64>()?)
}

fn call_at(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    let when = time_argument(&arguments, "call_at", "when")?;
    if when.is_none() {
        return Err(PyTypeError::new_err("when cannot be None"));
    }
    timer(this, "call_at", arguments, when.extract::<f64>()?)
}

fn timer(
    this: &Bound<'_, LoopCore>,
    function: &'static str,
    arguments: Arguments<'_, '_>,
    when: f64,
) -> PyResult<Py<PyAny>> {
    let timer: Object<TimerHandle> = LoopCore::make_handle(this, function, arguments, 1, when)?;
    this.get().schedule(this.py(), when, &timer);
    Ok(timer.into_any())
}

fn time(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    arguments.take("time", [], 0)?;
    Ok(now().into_pyobject(this.py())?.into_any().unbind())
}

/// Make a Handle of a callback without scheduling it.
#[pyfunction]
#[pyo3(name = "new_handle")]
pub(crate) fn new_handle_of(
    event_loop: &Bound<'_, LoopCore>,
    callback: &Bound<'_, PyAny>,
    args: &Bound<'_, PyTuple>,
) -> PyResult<Py<PyAny>> {
    let py = event_loop.py();
    let callback = Callback::from_tuple(callback, args)?;
    let debug = event_loop.get().is_debug();
    let handle: Object<Handle> = new_handle(py, event_loop.as_unbound(), callback, 0.0, debug)?;
    handle.track(py);
    Ok(handle.into_any())
}

#[pymethods]
impl LoopCore {
    /// Queue a Handle of this package for the next iteration. Raises TypeError for any other object.
    fn _push_handle(&self, handle: &Bound<'_, PyAny>) -> PyResult<()> {
        let py = handle.py();
        let handle =
            Object::<Handle>::from_any(handle).ok_or_else(|| PyTypeError::new_err("not a handle"))?;
        self.push(py, Work::Handle(handle));
        Ok(())
    }
}
