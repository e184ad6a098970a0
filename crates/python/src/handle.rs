//! The handles that `call_soon`, `call_later` and their kin return.
//!
//! Real instances of [`asyncio.Handle`] and [`asyncio.TimerHandle`], whose methods they inherit where those are not
//! called once a callback: `repr()` and the ordering of timers are CPython's own, over attributes of the same names.
//!
//! [`asyncio.Handle`]: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.Handle
//! [`asyncio.TimerHandle`]: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.TimerHandle

use std::ffi::CStr;

use pyo3::exceptions::{PyKeyboardInterrupt, PySystemExit};
use pyo3::ffi as raw;
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};
use whilst_engine::timers::TimerKey;

use crate::event_loop::LoopCore;
use crate::ffi::arguments::Arguments;
use crate::ffi::call::{copy_context, in_context};
use crate::ffi::class::{Class, Instance, Object, Visitor};
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::ffi::stored_arguments::StoredArguments;
use crate::{getter, method};

/// A callback, what it is called with and in which context: what running takes out of a handle.
pub(crate) struct Callback {
    callable: Py<PyAny>,
    arguments: StoredArguments,
    context: Py<PyAny>,
}

impl Callback {
    pub(crate) fn new(callable: Py<PyAny>, arguments: StoredArguments, context: Py<PyAny>) -> Self {
        Self { callable, arguments, context }
    }

    /// A callback in a copy of the current context.
    pub(crate) fn from_tuple(callable: &Bound<'_, PyAny>, arguments: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let py = callable.py();
        let values: Vec<_> = arguments.iter().collect();
        let arguments = StoredArguments::new(values.iter());
        Ok(Self::new(callable.clone().unbind(), arguments, copy_context(py)?.unbind()))
    }

    fn clone_ref(&self, py: Python<'_>) -> Self {
        Self {
            callable: self.callable.clone_ref(py),
            arguments: self.arguments.clone_ref(py),
            context: self.context.clone_ref(py),
        }
    }

    /// Calls the callback in its context.
    #[inline]
    fn call(&self, py: Python<'_>) -> PyResult<()> {
        in_context(self.context.bind(py), || self.arguments.call(self.callable.bind(py)).map(drop))
    }

    fn traverse(&self, visitor: &mut Visitor) {
        visitor.visit(&self.callable);
        visitor.visit(&self.context);
        self.arguments.iter().for_each(|argument| visitor.visit(argument));
    }
}

/// What both kinds of handle hold.
struct State {
    /// `None` once cancelled or, of a handle that nobody else holds, taken to be run.
    callback: Option<Callback>,
    event_loop: Option<Py<LoopCore>>,
    cancelled: bool,
    /// `repr()` at the time of a cancellation in debug mode, which drops the callback.
    repr: Option<Py<PyAny>>,
    /// Where the handle was made, in debug mode: a `traceback.StackSummary`.
    source_traceback: Option<Py<PyAny>>,
    /// Of a timer: the loop's time at which to run, in seconds.
    when: f64,
    /// Of a timer that waits: where it is.
    key: Option<TimerKey>,
}

/// The state of a handle; what the two classes below wrap.
pub(crate) struct Shared(Guarded<State>);

/// A callback that is ready, or waits for a descriptor.
pub(crate) struct Handle(Shared);

/// A callback that waits for its time.
pub(crate) struct TimerHandle(Shared);

/// Either kind of handle.
pub(crate) trait AnyHandle: Instance + From<Shared> {
    /// The state that both kinds share.
    fn shared(&self) -> &Shared;
}

/// Makes a handle. In debug mode it remembers where.
///
/// The garbage collector does not know it: most handles are run and gone before a collection could come by, and a loop with
/// thousands of them would be walked through again and again for nothing. While a handle waits in the loop's queues the loop
/// shows the collector what it refers to ([`visit_queued`]); when it leaves them and somebody else holds it, it is tracked.
#[inline]
pub(crate) fn new_handle<T: AnyHandle>(
    py: Python<'_>,
    event_loop: &Py<LoopCore>,
    callback: Callback,
    when: f64,
    debug: bool,
) -> PyResult<Object<T>> {
    let source_traceback = if debug { Some(extract_stack(py)?) } else { None };
    let state = State {
        callback: Some(callback),
        event_loop: Some(event_loop.clone_ref(py)),
        cancelled: false,
        repr: None,
        source_traceback,
        when,
        key: None,
    };
    Object::new_untracked(py, T::from(Shared(Guarded::new(state))))
}

/// The stack of the Python code that called, as `asyncio.format_helpers.extract_stack()` gives it.
pub(crate) fn extract_stack(py: Python<'_>) -> PyResult<Py<PyAny>> {
    static EXTRACT_STACK: Import = Import::new("asyncio.format_helpers", "extract_stack");
    Ok(EXTRACT_STACK.get(py)?.call0()?.unbind())
}

/// Shows the garbage collector a handle in one of the loop's queues, or, if it does not know the handle, what that refers to.
pub(crate) fn visit_queued<T: AnyHandle>(handle: &Object<T>, see: &mut impl FnMut(&Py<PyAny>)) {
    see(handle.as_py());
    if handle.is_tracked() {
        return;
    }
    handle.get().shared().0.try_with(|state| {
        if let Some(callback) = &state.callback {
            see(&callback.callable);
            see(&callback.context);
            callback.arguments.iter().for_each(&mut *see);
        }
        if let Some(event_loop) = &state.event_loop {
            see(event_loop.as_any());
        }
        state.repr.iter().chain(&state.source_traceback).for_each(see);
    });
}

impl Shared {
    fn traverse(&self, visitor: &mut Visitor) {
        self.0.try_with(|state| {
            if let Some(callback) = &state.callback {
                callback.traverse(visitor);
            }
            visitor.visit_option(state.event_loop.as_ref());
            visitor.visit_option(state.repr.as_ref());
            visitor.visit_option(state.source_traceback.as_ref());
        });
    }

    fn clear(&self, py: Python<'_>) {
        let references = self.0.with(py, |state| {
            (state.callback.take(), state.event_loop.take(), state.repr.take(), state.source_traceback.take())
        });
        drop(references);
    }

    pub(crate) fn is_cancelled(&self, py: Python<'_>) -> bool {
        self.0.with(py, |state| state.cancelled)
    }

    pub(crate) fn when(&self, py: Python<'_>) -> f64 {
        self.0.with(py, |state| state.when)
    }

    /// Notes where the timer waits, or that it no longer does.
    pub(crate) fn set_key(&self, py: Python<'_>, key: Option<TimerKey>) {
        self.0.with(py, |state| state.key = key);
    }
}

/// Runs a handle's callback, unless it was cancelled. What the callback raises goes to the loop's exception handler, but
/// for `SystemExit` and `KeyboardInterrupt`, which leave (`Handle._run` in CPython's `asyncio/events.py`).
#[inline]
pub(crate) fn run<T: AnyHandle>(py: Python<'_>, handle: Object<T>) -> PyResult<()> {
    // A handle that somebody else holds keeps its callback while and after it runs, as CPython's does. From one that only we
    // hold it is taken rather than cloned.
    #[cfg(not(Py_GIL_DISABLED))]
    let unshared = handle.is_unshared(py);
    #[cfg(Py_GIL_DISABLED)]
    let unshared = false;
    let callback = if unshared {
        handle.get().shared().0.with(py, |state| state.callback.take())
    } else {
        handle.track(py);
        handle
            .get()
            .shared()
            .0
            .with(py, |state| state.callback.as_ref().map(|callback| callback.clone_ref(py)))
    };
    let Some(callback) = callback else { return Ok(()) };
    match callback.call(py) {
        Ok(()) => Ok(()),
        Err(error) => {
            if unshared {
                handle.get().shared().0.with(py, |state| state.callback = Some(callback));
            }
            failed(py, &handle, error)
        }
    }
}

/// True for the exceptions that end the loop's run rather than go to its exception handler.
pub(crate) fn ends_the_run(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PySystemExit>(py) || error.is_instance_of::<PyKeyboardInterrupt>(py)
}

#[cold]
fn failed<T: AnyHandle>(py: Python<'_>, handle: &Object<T>, error: PyErr) -> PyResult<()> {
    if ends_the_run(py, &error) {
        return Err(error);
    }
    handle.track(py);
    static REPORT: Import = Import::new("whilst._loop.errors", "report_callback");
    let event_loop =
        handle.get().shared().0.with(py, |state| state.event_loop.as_ref().map(|it| it.clone_ref(py)));
    REPORT.get(py)?.call1((event_loop, handle.bind(py), error))?;
    Ok(())
}

/// `Handle.cancel()` and `TimerHandle.cancel()`.
fn cancel<T: AnyHandle>(
    this: &Object<T>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> PyResult<Py<PyAny>> {
    arguments.take("cancel", [], 0)?;
    cancel_handle(py, this)?;
    Ok(py.None())
}

/// Cancels a handle: its callback will not run. In debug mode its `repr()` is kept for reports.
pub(crate) fn cancel_handle<T: AnyHandle>(py: Python<'_>, handle: &Object<T>) -> PyResult<()> {
    let shared = handle.get().shared();
    let (event_loop, key) = shared.0.with(py, |state| {
        if std::mem::replace(&mut state.cancelled, true) {
            return (None, None);
        }
        (state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py)), state.key.take())
    });
    let Some(event_loop) = event_loop else { return Ok(()) };
    handle.track(py);
    if let Some(key) = key {
        event_loop.get().forget_timer(py, key);
    }
    // It says "cancelled" already, and what the callback was.
    let repr =
        if event_loop.get().is_debug() { Some(handle.bind(py).repr()?.into_any().unbind()) } else { None };
    let callback = shared.0.with(py, |state| {
        state.repr = repr;
        state.callback.take()
    });
    drop(callback);
    Ok(())
}

fn cancelled<T: AnyHandle>(
    this: &Object<T>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> PyResult<Py<PyAny>> {
    arguments.take("cancelled", [], 0)?;
    get_cancelled(this, py)
}

/// `Handle._run()`, for code that runs handles itself.
fn run_from_python<T: AnyHandle>(
    this: &Object<T>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> PyResult<Py<PyAny>> {
    arguments.take("_run", [], 0)?;
    run(py, this.clone_ref(py))?;
    Ok(py.None())
}

fn when(this: &Object<TimerHandle>, py: Python<'_>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    arguments.take("when", [], 0)?;
    get_when(this, py)
}

fn or_none(py: Python<'_>, value: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
    Ok(value.unwrap_or_else(|| py.None()))
}

fn get_callback<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    let with = |state: &mut State| state.callback.as_ref().map(|callback| callback.callable.clone_ref(py));
    or_none(py, this.get().shared().0.with(py, with))
}

fn get_args<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    let with = |state: &mut State| -> Option<Vec<Py<PyAny>>> {
        Some(state.callback.as_ref()?.arguments.iter().map(|argument| argument.clone_ref(py)).collect())
    };
    match this.get().shared().0.with(py, with) {
        Some(arguments) => Ok(PyTuple::new(py, arguments)?.into_any().unbind()),
        None => Ok(py.None()),
    }
}

fn get_context<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    let with = |state: &mut State| state.callback.as_ref().map(|callback| callback.context.clone_ref(py));
    or_none(py, this.get().shared().0.with(py, with))
}

fn get_loop<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    let with =
        |state: &mut State| state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py).into_any());
    or_none(py, this.get().shared().0.with(py, with))
}

fn get_cancelled<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    Ok(this.get().shared().is_cancelled(py).into_pyobject(py)?.to_owned().into_any().unbind())
}

fn get_repr<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    or_none(py, this.get().shared().0.with(py, |state| state.repr.as_ref().map(|repr| repr.clone_ref(py))))
}

fn get_source_traceback<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    let with = |state: &mut State| state.source_traceback.as_ref().map(|traceback| traceback.clone_ref(py));
    or_none(py, this.get().shared().0.with(py, with))
}

fn get_when(this: &Object<TimerHandle>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    Ok(this.get().shared().when(py).into_pyobject(py)?.into_any().unbind())
}

fn get_scheduled(this: &Object<TimerHandle>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    let scheduled = this.get().0.0.with(py, |state| state.key.is_some());
    Ok(scheduled.into_pyobject(py)?.to_owned().into_any().unbind())
}

/// What the two classes have in common, written once.
macro_rules! handle_class {
    ($type:ident, $name:literal, $base:literal, $doc:literal, [$($method:expr),*], [$($getter:expr),*]) => {
        impl From<Shared> for $type {
            #[inline]
            fn from(shared: Shared) -> Self {
                Self(shared)
            }
        }

        impl AnyHandle for $type {
            #[inline]
            fn shared(&self) -> &Shared {
                &self.0
            }
        }

        impl Instance for $type {
            const NAME: &'static CStr = $name;
            const DOC: &'static CStr = $doc;
            const OPEN: bool = false;
            const FINALIZES: bool = false;

            fn class() -> &'static Class {
                static CLASS: Class = Class::new();
                &CLASS
            }

            fn base(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
                Ok(py.import("asyncio.events")?.getattr($base)?.cast_into()?)
            }

            fn methods() -> Vec<raw::PyMethodDef> {
                vec![
                    method!(
                        $type,
                        "cancel",
                        cancel::<$type>,
                        "cancel($self)\n--\n\nCancel the callback: it will not run. Cancelled twice is cancelled."
                    ),
                    method!(
                        $type,
                        "cancelled",
                        cancelled::<$type>,
                        "cancelled($self)\n--\n\nReturn True if the callback was cancelled."
                    ),
                    method!(
                        $type,
                        "_run",
                        run_from_python::<$type>,
                        "_run($self)\n--\n\nRun the callback in its context, unless it was cancelled."
                    ),
                    $($method),*
                ]
            }

            fn getters() -> Vec<raw::PyGetSetDef> {
                vec![
                    getter!($type, "_callback", get_callback::<$type>),
                    getter!($type, "_args", get_args::<$type>),
                    getter!($type, "_context", get_context::<$type>),
                    getter!($type, "_loop", get_loop::<$type>),
                    getter!($type, "_cancelled", get_cancelled::<$type>),
                    getter!($type, "_repr", get_repr::<$type>),
                    getter!($type, "_source_traceback", get_source_traceback::<$type>),
                    $($getter),*
                ]
            }

            fn traverse(&self, visitor: &mut Visitor) {
                self.0.traverse(visitor);
            }

            fn clear(&self, py: Python<'_>) {
                self.0.clear(py);
            }
        }
    };
}

handle_class!(
    Handle,
    c"whilst.Handle",
    "Handle",
    c"A callback that was scheduled; what call_soon() and call_soon_threadsafe() return.",
    [],
    []
);

handle_class!(
    TimerHandle,
    c"whilst.TimerHandle",
    "TimerHandle",
    c"A callback that was scheduled for a time; what call_later() and call_at() return.",
    [method!(
        TimerHandle,
        "when",
        when,
        "when($self)\n--\n\nReturn the time, in seconds of the loop's clock (loop.time()), at which the callback runs."
    )],
    [getter!(TimerHandle, "_when", get_when), getter!(TimerHandle, "_scheduled", get_scheduled)]
);
