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
use crate::ffi::call::{copy_context, copy_of_context, in_context};
use crate::ffi::class::{Class, Instance, Object, Visitor};
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::ffi::slots::{SLOTS, Slotted};
use crate::ffi::stored_arguments::{INLINE, StoredArguments, call_stored};
use crate::reentrant::Reentrant;
use crate::{getter, method};

/// A callback, what it is called with and in which context.
pub(crate) struct Callback {
    callable: Py<PyAny>,
    arguments: StoredArguments,
    context: Py<PyAny>,
    /// The context is shared with other callbacks, and to be copied before it is used.
    shares_context: bool,
}

impl Callback {
    pub(crate) fn new(
        callable: Py<PyAny>,
        arguments: StoredArguments,
        context: Py<PyAny>,
        shares_context: bool,
    ) -> Self {
        Self { callable, arguments, context, shares_context }
    }

    /// A callback in a copy of the current context.
    pub(crate) fn from_tuple(callable: &Bound<'_, PyAny>, arguments: &Bound<'_, PyTuple>) -> PyResult<Self> {
        let py = callable.py();
        let values: Vec<_> = arguments.iter().collect();
        let arguments = StoredArguments::new(py, values.iter())?;
        Ok(Self::new(callable.clone().unbind(), arguments, copy_context(py)?.unbind(), false))
    }
}

/// What the slots of `asyncio.Handle` hold here.
mod slot {
    /// `None` once cancelled or, of a handle that nobody else holds, taken to be run.
    pub(super) const CALLABLE: usize = 0;
    pub(super) const FIRST_ARGUMENT: usize = 1;
    pub(super) const CONTEXT: usize = 2;
    /// The loop.
    pub(super) const EVENT_LOOP: usize = 3;
    /// `repr()` at the time of a cancellation in debug mode, which drops the callback.
    pub(super) const REPR: usize = 4;
    /// Where the handle was made, in debug mode: a `traceback.StackSummary`.
    pub(super) const SOURCE_TRACEBACK: usize = 5;
    pub(super) const SECOND_ARGUMENT: usize = 6;
}

/// What a handle keeps beside its [slots](slot).
pub(crate) struct State {
    third_argument: Option<Py<PyAny>>,
    /// The first argument is a tuple of all.
    packed: bool,
    cancelled: bool,
    /// The context is shared with other handles: whoever uses it or shows it copies it first.
    shares_context: bool,
}

/// A callback that is ready, or waits for a descriptor.
pub(crate) struct Handle {
    state: Guarded<State>,
}

/// A callback that waits for its time.
pub(crate) struct TimerHandle {
    state: Guarded<State>,
    /// The loop's time at which to run, in seconds.
    when: f64,
    /// Where it waits, while it does.
    key: Guarded<Option<TimerKey>>,
}

/// A callback that came from another thread, or may have: Python 3.14 and later have a class of their own for these.
///
/// `cancel()` and `cancelled()` wait while another thread runs the callback, so that what they say holds
/// (`_ThreadSafeHandle` in CPython's `asyncio/events.py`).
pub(crate) struct ThreadSafeHandle {
    state: Guarded<State>,
    lock: Reentrant,
}

/// Any kind of handle.
pub(crate) trait AnyHandle: Slotted<State = State> {
    /// A handle with this state, for this time (`loop.time()`, in seconds) if it is a timer.
    fn new(state: State, when: f64) -> Self;
    /// Of a timer that waits: takes note that it no longer does.
    fn take_key(&self, _py: Python<'_>) -> Option<TimerKey> {
        None
    }
    /// What is held while the callback runs and while it is cancelled or asked about, if anything.
    fn lock(&self) -> Option<&Reentrant> {
        None
    }
}

impl AnyHandle for Handle {
    #[inline]
    fn new(state: State, _when: f64) -> Self {
        Self { state: Guarded::new(state) }
    }
}

impl AnyHandle for ThreadSafeHandle {
    fn new(state: State, _when: f64) -> Self {
        Self { state: Guarded::new(state), lock: Reentrant::new() }
    }

    fn lock(&self) -> Option<&Reentrant> {
        Some(&self.lock)
    }
}

impl ThreadSafeHandle {
    /// True if this Python has the class.
    pub(crate) fn is_needed(py: Python<'_>) -> PyResult<bool> {
        py.import("asyncio.events")?.hasattr("_ThreadSafeHandle")
    }
}

impl AnyHandle for TimerHandle {
    #[inline]
    fn new(state: State, when: f64) -> Self {
        Self { state: Guarded::new(state), when, key: Guarded::new(None) }
    }

    fn take_key(&self, py: Python<'_>) -> Option<TimerKey> {
        self.key.with(py, Option::take)
    }
}

impl TimerHandle {
    /// Notes where the timer waits, or that it no longer does.
    #[inline]
    pub(crate) fn set_key(&self, py: Python<'_>, key: Option<TimerKey>) {
        self.key.with(py, |place| *place = key);
    }
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
    let Callback {
        callable,
        arguments: StoredArguments { values: [first, second, third], packed },
        context,
        shares_context,
    } = callback;
    let mut slots = [const { None }; SLOTS];
    slots[slot::CALLABLE] = Some(callable);
    slots[slot::FIRST_ARGUMENT] = first;
    slots[slot::SECOND_ARGUMENT] = second;
    slots[slot::CONTEXT] = Some(context);
    slots[slot::EVENT_LOOP] = Some(event_loop.clone_ref(py).into_any());
    slots[slot::SOURCE_TRACEBACK] = source_traceback;
    let state = State { third_argument: third, packed, cancelled: false, shares_context };
    Object::new_untracked(py, slots, T::new(state, when))
}

/// The stack of the Python code that called, as `asyncio.format_helpers.extract_stack()` gives it.
pub(crate) fn extract_stack(py: Python<'_>) -> PyResult<Py<PyAny>> {
    static EXTRACT_STACK: Import = Import::new("asyncio.format_helpers", "extract_stack");
    Ok(EXTRACT_STACK.get(py)?.call0()?.unbind())
}

/// Shows the garbage collector a handle in one of the loop's queues, or, if it does not know the handle, what that refers to.
pub(crate) fn visit_queued<T: AnyHandle>(handle: &Object<T>, see: &mut impl FnMut(&Py<PyAny>)) {
    if handle.is_tracked() {
        see(handle.as_py());
        return;
    }
    handle.try_with(|slots, state| slots.iter().chain([&state.third_argument]).flatten().for_each(see));
}

/// A callback on its way to be called.
struct Call<'py> {
    callable: Bound<'py, PyAny>,
    arguments: [Option<Bound<'py, PyAny>>; INLINE],
    packed: bool,
    context: Bound<'py, PyAny>,
    shares_context: bool,
}

impl<'py> Call<'py> {
    /// Takes the callback out of a handle, if it is there.
    #[inline]
    fn taken<T: AnyHandle>(handle: &Object<T>, py: Python<'py>) -> Option<Self> {
        let take = |place: &mut Option<Py<PyAny>>| place.take().map(|object| object.into_bound(py));
        Self::of(handle, py, take)
    }

    /// The callback of a handle, which keeps it, if it is there.
    fn copied<T: AnyHandle>(handle: &Object<T>, py: Python<'py>) -> Option<Self> {
        let copy = |place: &mut Option<Py<PyAny>>| place.as_ref().map(|object| object.bind(py).clone());
        Self::of(handle, py, copy)
    }

    #[inline]
    fn of<T: AnyHandle>(
        handle: &Object<T>,
        py: Python<'py>,
        get: impl Fn(&mut Option<Py<PyAny>>) -> Option<Bound<'py, PyAny>>,
    ) -> Option<Self> {
        handle.with(py, |slots, state| {
            Some(Self {
                callable: get(&mut slots[slot::CALLABLE])?,
                arguments: [
                    get(&mut slots[slot::FIRST_ARGUMENT]),
                    get(&mut slots[slot::SECOND_ARGUMENT]),
                    get(&mut state.third_argument),
                ],
                packed: state.packed,
                context: get(&mut slots[slot::CONTEXT])?,
                shares_context: state.shares_context,
            })
        })
    }

    /// Puts a callback that was taken back into its handle.
    fn put_back<T: AnyHandle>(self, handle: &Object<T>, py: Python<'py>) {
        handle.with(py, |slots, state| {
            let [first, second, third] = self.arguments.map(|argument| argument.map(Bound::unbind));
            slots[slot::CALLABLE] = Some(self.callable.unbind());
            slots[slot::FIRST_ARGUMENT] = first;
            slots[slot::SECOND_ARGUMENT] = second;
            slots[slot::CONTEXT] = Some(self.context.unbind());
            state.third_argument = third;
            state.shares_context = self.shares_context;
        });
    }

    /// Calls the callback in its context. If it fails, that is its own afterwards.
    #[inline]
    fn make(&mut self, core: &LoopCore) -> PyResult<()> {
        if !self.shares_context {
            return self.make_in(&self.context);
        }
        let context = core.context_to_enter(&self.context)?;
        let result = self.make_in(&context);
        if result.is_ok() {
            core.context_was_left(context, &self.context);
        } else {
            self.context = context;
            self.shares_context = false;
        }
        result
    }

    #[inline]
    fn make_in(&self, context: &Bound<'py, PyAny>) -> PyResult<()> {
        in_context(context, || call_stored(&self.callable, &self.arguments, self.packed).map(drop))
    }
}

/// Runs a handle's callback, unless it was cancelled. What the callback raises goes to the loop's exception handler, but
/// for `SystemExit` and `KeyboardInterrupt`, which leave (`Handle._run` in CPython's `asyncio/events.py`).
#[inline]
pub(crate) fn run<T: AnyHandle>(py: Python<'_>, handle: Object<T>, core: &LoopCore) -> PyResult<()> {
    // A handle that somebody else holds keeps its callback while and after it runs, as CPython's does. From one that only we
    // hold it is taken rather than copied; and nobody can cancel it or ask about it.
    #[cfg(not(Py_GIL_DISABLED))]
    let unshared = handle.is_unshared(py);
    #[cfg(Py_GIL_DISABLED)]
    let unshared = false;
    let held = handle.get().lock().filter(|_| !unshared).map(|lock| lock.hold(py));
    let call = if unshared {
        Call::taken(&handle, py)
    } else {
        handle.track(py);
        own_context(&handle, py)?;
        Call::copied(&handle, py)
    };
    let Some(mut call) = call else { return Ok(()) };
    if let Err(error) = call.make(core) {
        if unshared {
            call.put_back(&handle, py);
        }
        return failed(py, &handle, error);
    }
    drop(call);
    drop(held);
    #[cfg(not(Py_GIL_DISABLED))]
    handle.discard(py);
    Ok(())
}

/// Gives a handle that others see a context of its own, if it shares one.
fn own_context<T: AnyHandle>(handle: &Object<T>, py: Python<'_>) -> PyResult<()> {
    let shared = handle.with(py, |slots, state| {
        let context = slots[slot::CONTEXT].as_ref().filter(|_| state.shares_context);
        context.map(|context| context.bind(py).clone())
    });
    let Some(shared) = shared else { return Ok(()) };
    let own = copy_of_context(&shared)?.unbind();
    let before = handle.with(py, |slots, state| {
        state.shares_context = false;
        slots[slot::CONTEXT].replace(own)
    });
    drop(before);
    Ok(())
}

/// True once a handle was cancelled.
pub(crate) fn is_cancelled<T: AnyHandle>(handle: &Object<T>, py: Python<'_>) -> bool {
    handle.with(py, |_slots, state| state.cancelled)
}

/// What one of a handle's slots holds.
fn get_slot<T: AnyHandle>(handle: &Object<T>, py: Python<'_>, slot: usize) -> Option<Py<PyAny>> {
    handle.with(py, |slots, _state| slots[slot].as_ref().map(|object| object.clone_ref(py)))
}

/// What a handle calls; `None` once it is cancelled.
pub(crate) fn callable_of<T: AnyHandle>(handle: &Object<T>, py: Python<'_>) -> Option<Py<PyAny>> {
    get_slot(handle, py, slot::CALLABLE)
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
    let event_loop = get_slot(handle, py, slot::EVENT_LOOP);
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
    let _held = this.get().lock().map(|lock| lock.hold(py));
    cancel_handle(py, this)?;
    Ok(py.None())
}

/// Cancels a handle: its callback will not run. In debug mode its `repr()` is kept for reports.
pub(crate) fn cancel_handle<T: AnyHandle>(py: Python<'_>, handle: &Object<T>) -> PyResult<()> {
    let event_loop = handle.with(py, |slots, state| {
        if std::mem::replace(&mut state.cancelled, true) {
            return None;
        }
        slots[slot::EVENT_LOOP].as_ref().map(|event_loop| event_loop.bind(py).clone())
    });
    let Some(event_loop) = event_loop else { return Ok(()) };
    let event_loop = event_loop.cast::<LoopCore>()?;
    handle.track(py);
    if let Some(key) = handle.get().take_key(py) {
        event_loop.get().forget_timer(py, key);
    }
    // It says "cancelled" already, and what the callback was.
    let repr =
        if event_loop.get().is_debug() { Some(handle.bind(py).repr()?.into_any().unbind()) } else { None };
    let dropped = handle.with(py, |slots, state| {
        slots[slot::REPR] = repr;
        let places = [slot::CALLABLE, slot::FIRST_ARGUMENT, slot::SECOND_ARGUMENT];
        (places.map(|place| slots[place].take()), state.third_argument.take())
    });
    drop(dropped);
    Ok(())
}

fn cancelled<T: AnyHandle>(
    this: &Object<T>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> PyResult<Py<PyAny>> {
    arguments.take("cancelled", [], 0)?;
    let _held = this.get().lock().map(|lock| lock.hold(py));
    get_cancelled(this, py)
}

/// `Handle._run()`, for code that runs handles itself.
fn run_from_python<T: AnyHandle>(
    this: &Object<T>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> PyResult<Py<PyAny>> {
    arguments.take("_run", [], 0)?;
    let event_loop = get_loop(this, py)?;
    run(py, this.clone_ref(py), event_loop.bind(py).cast::<LoopCore>()?.get())?;
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
    or_none(py, get_slot(this, py, slot::CALLABLE))
}

fn get_args<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    let arguments = this.with(py, |slots, state| {
        slots[slot::CALLABLE].as_ref()?;
        let values = [&slots[slot::FIRST_ARGUMENT], &slots[slot::SECOND_ARGUMENT], &state.third_argument];
        let values = values.into_iter().flatten();
        Some((state.packed, values.map(|argument| argument.clone_ref(py)).collect::<Vec<_>>()))
    });
    match arguments {
        Some((true, mut packed)) => or_none(py, packed.pop()),
        Some((false, values)) => Ok(PyTuple::new(py, values)?.into_any().unbind()),
        None => Ok(py.None()),
    }
}

fn get_context<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    own_context(this, py)?;
    or_none(py, get_slot(this, py, slot::CONTEXT))
}

fn get_loop<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    or_none(py, get_slot(this, py, slot::EVENT_LOOP))
}

fn get_cancelled<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    Ok(is_cancelled(this, py).into_pyobject(py)?.to_owned().into_any().unbind())
}

fn get_repr<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    or_none(py, get_slot(this, py, slot::REPR))
}

fn get_source_traceback<T: AnyHandle>(this: &Object<T>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    or_none(py, get_slot(this, py, slot::SOURCE_TRACEBACK))
}

fn get_when(this: &Object<TimerHandle>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    Ok(this.get().when.into_pyobject(py)?.into_any().unbind())
}

fn get_scheduled(this: &Object<TimerHandle>, py: Python<'_>) -> PyResult<Py<PyAny>> {
    let scheduled = this.get().key.with(py, |key| key.is_some());
    Ok(scheduled.into_pyobject(py)?.to_owned().into_any().unbind())
}

/// What the classes have in common, written once.
macro_rules! handle_class {
    ($type:ident, $name:literal, $base:literal, $doc:literal, [$($method:expr),*], [$($getter:expr),*]) => {
        impl Slotted for $type {
            type State = State;

            #[inline]
            fn state(&self) -> &Guarded<State> {
                &self.state
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

            const FILLED_SLOTS: usize = SLOTS;
            const DISMANTLES: bool = true;

            // The slots are the class's own business, in these three.

            fn traverse(&self, visitor: &mut Visitor) {
                self.state().try_with(|state| visitor.visit_option(state.third_argument.as_ref()));
            }

            fn clear(&self, py: Python<'_>) {
                let argument = self.state().with(py, |state| state.third_argument.take());
                drop(argument);
            }

            fn dismantle(&mut self, py: Python<'_>) {
                let argument = self.state().with(py, |state| state.third_argument.take());
                argument.into_iter().for_each(|argument| argument.drop_ref(py));
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
    ThreadSafeHandle,
    c"whilst.ThreadSafeHandle",
    "_ThreadSafeHandle",
    c"A callback that was scheduled by call_soon_threadsafe(), on Python 3.14 and later.",
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
