//! The variables of contexts: what tells whether two contexts are the same as far as anybody could see from inside of them.
//!
//! A context refers to an immutable mapping of its variables, which a copy shares with it until either changes (PEP 567). Two contexts
//! with the very same mapping are copies of each other in which no variable was set since. CPython has no function for that, nor one for
//! the context that a thread is in; but both are words in memory: of the context object (`struct _pycontextobject` in
//! `pycore_context.h`) and of the thread's state (`PyThreadState.context` in `cpython/pystate.h`). [`learn`] finds out where, by contexts
//! made for the purpose, and gives up where that is not clear.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

use super::call::{copy_context, in_context};

/// Where in a context its variables are, in bytes; 0: not known.
static VARIABLES: AtomicUsize = AtomicUsize::new(0);
/// Where in a thread's state its context is, in bytes; 0: not known.
static CURRENT: AtomicUsize = AtomicUsize::new(0);

/// How much of a thread's state is looked through, in bytes. It is 288 on CPython 3.12 and more on all others from 3.11 on.
const SEARCHED: usize = 280;

type Word = *mut ffi::PyObject;

/// The variables of a context, to be compared with those of another that is alive: NULL if they cannot be told.
#[inline]
pub(crate) fn variables(context: &Bound<'_, PyAny>) -> *mut ffi::PyObject {
    // SAFETY: an object.
    unsafe { variables_at(context.as_ptr()) }
}

/// The variables of the context that this thread is in: NULL if it is in none, or they cannot be told.
#[inline]
pub(crate) fn current_variables(_py: Python<'_>) -> *mut ffi::PyObject {
    let place = CURRENT.load(Ordering::Relaxed);
    if cfg!(Py_GIL_DISABLED) || place == 0 {
        return ptr::null_mut();
    }
    // SAFETY: the thread is attached, so it has a state, and this is where the context is in it, or NULL.
    unsafe {
        let context = *ffi::PyThreadState_Get().byte_add(place).cast::<Word>();
        if context.is_null() { context } else { variables_at(context) }
    }
}

/// # Safety
///
/// `context` is an object.
#[inline]
unsafe fn variables_at(context: Word) -> Word {
    let place = VARIABLES.load(Ordering::Relaxed);
    // SAFETY: an object whose type is that of contexts has its variables there.
    unsafe {
        if place == 0 || ffi::Py_TYPE(context) != (&raw mut ffi::PyContext_Type) {
            return ptr::null_mut();
        }
        *context.byte_add(place).cast()
    }
}

/// True if nobody but the caller refers to the context, and its variables are these.
#[inline]
pub(crate) fn is_untouched(context: &Bound<'_, PyAny>, with: *mut ffi::PyObject) -> bool {
    // SAFETY: a live object.
    (unsafe { ffi::Py_REFCNT(context.as_ptr()) }) == 1 && variables(context) == with
}

/// Finds out where variables and contexts are.
pub(crate) fn learn(py: Python<'_>) -> PyResult<()> {
    // Without a GIL another thread could change what is read. Later Pythons are not known.
    if cfg!(Py_GIL_DISABLED) || py.version_info() >= (3, 16) || CURRENT.load(Ordering::Relaxed) != 0 {
        return Ok(());
    }
    let (one, other) = (copy_context(py)?, copy_context(py)?);
    // SAFETY: live contexts that nobody has entered, of a type whose instances have so many bytes, all initialised.
    let places = unsafe {
        let shown = shown_by(one.as_ptr());
        if shown.is_null() || shown != shown_by(other.as_ptr()) {
            return Ok(());
        }
        let size = (*ffi::Py_TYPE(one.as_ptr())).tp_basicsize.cast_unsigned();
        places_of(shown, one.as_ptr().cast(), size)
    };
    let [variables] = places[..] else { return Ok(()) };
    let find = |context: &Bound<'_, PyAny>| {
        // SAFETY: this thread's state, of at least this size.
        in_context(context, || unsafe {
            Ok(places_of(context.as_ptr(), ffi::PyThreadState_Get().cast(), SEARCHED))
        })
    };
    let places = find(&one)?;
    let [current] = places[..] else { return Ok(()) };
    if find(&other)? == places {
        VARIABLES.store(variables, Ordering::Relaxed);
        CURRENT.store(current, Ordering::Relaxed);
    }
    Ok(())
}

/// Where `word` is among the words of `memory`, in bytes.
///
/// # Safety
///
/// `memory` has `size` bytes that may be read.
unsafe fn places_of(word: Word, memory: *const u8, size: usize) -> Vec<usize> {
    let places = (0..size / size_of::<Word>()).map(|index| index * size_of::<Word>());
    // SAFETY: by the contract above. What is not initialised is not looked into, but compared.
    places.filter(|place| unsafe { ptr::read_volatile(memory.add(*place).cast::<Word>()) } == word).collect()
}

/// The one object that a context shows the garbage collector, as `gc.get_referents()` would give it: its variables, if nobody has
/// entered it. NULL if there are several.
///
/// # Safety
///
/// `context` is a live object.
unsafe fn shown_by(context: Word) -> Word {
    struct Shown {
        count: u32,
        object: Word,
    }
    unsafe extern "C" fn note(object: Word, shown: *mut c_void) -> c_int {
        // SAFETY: what the traversal below was given.
        let shown = unsafe { &mut *shown.cast::<Shown>() };
        *shown = Shown { count: shown.count + 1, object };
        0
    }
    let mut shown = Shown { count: 0, object: ptr::null_mut() };
    // SAFETY: a live object, whose class says how to traverse it, if it has anything to show; `note` only takes notes.
    unsafe {
        if let Some(traverse) = (*ffi::Py_TYPE(context)).tp_traverse {
            traverse(context, note, (&raw mut shown).cast());
        }
    }
    if shown.count == 1 { shown.object } else { ptr::null_mut() }
}
