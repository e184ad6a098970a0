//! Calls without tuples, and contexts.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyString, PyTuple};

use super::context::{current_variables, variables};

/// Calls `callable` with `arguments` by vectorcall.
///
/// The arguments stand behind a scratch place, as `PY_VECTORCALL_ARGUMENTS_OFFSET` wants it, so that a bound method
/// needs no copy of them.
#[inline]
pub(crate) fn call<'py, const N: usize>(
    callable: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    const MOST: usize = 4;
    const { assert!(N < MOST) };
    let mut stack = [std::ptr::null_mut(); MOST];
    for (place, argument) in stack[1..].iter_mut().zip(arguments) {
        *place = argument.as_ptr();
    }
    // SAFETY: `stack` holds one scratch place and N borrowed references that outlive the call.
    unsafe { call_stack(callable, &raw mut stack[0], N) }
}

/// Calls `callable` with the `count` arguments that follow the scratch place `stack` points to.
///
/// # Safety
///
/// `stack` points to `1 + count` places, of which all but the first hold valid references that outlive the call.
#[inline]
pub(crate) unsafe fn call_stack<'py>(
    callable: &Bound<'py, PyAny>,
    stack: *mut *mut ffi::PyObject,
    count: usize,
) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: by the contract above; the result is a new reference or NULL with an exception set.
    unsafe {
        let result = ffi::PyObject_Vectorcall(
            callable.as_ptr(),
            stack.add(1),
            count | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}

/// Calls the method `name` of `object` with `arguments`, without making a bound method.
#[inline]
pub(crate) fn call_method<'py, const N: usize>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    const MOST: usize = 5;
    const { assert!(N + 1 < MOST) };
    let mut stack = [std::ptr::null_mut(); MOST];
    stack[1] = object.as_ptr();
    for (place, argument) in stack[2..].iter_mut().zip(arguments) {
        *place = argument.as_ptr();
    }
    // SAFETY: as in `call`: a scratch place, the object and N borrowed references.
    unsafe {
        let result = ffi::PyObject_VectorcallMethod(
            name.as_ptr(),
            &raw const stack[1],
            (N + 1) | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            std::ptr::null_mut(),
        );
        Bound::from_owned_ptr_or_err(object.py(), result)
    }
}

/// Calls `callable` with one positional argument or none, and keyword arguments: `names` (a tuple of strings) and their
/// `values`.
#[inline]
pub(crate) fn call_keywords<'py>(
    callable: &Bound<'py, PyAny>,
    positional: Option<&Bound<'py, PyAny>>,
    names: &Bound<'py, PyTuple>,
    values: &[*mut ffi::PyObject],
) -> PyResult<Bound<'py, PyAny>> {
    const MOST: usize = 8;
    assert!(values.len() + 2 <= MOST && names.len() == values.len());
    let mut stack = [std::ptr::null_mut(); MOST];
    let mut place = 1;
    if let Some(positional) = positional {
        stack[place] = positional.as_ptr();
        place += 1;
    }
    let count = place - 1;
    stack[place..place + values.len()].copy_from_slice(values);
    // SAFETY: a scratch place, then borrowed references that outlive the call: `count` positional ones and one for each name.
    unsafe {
        let result = ffi::PyObject_Vectorcall(
            callable.as_ptr(),
            &raw const stack[1],
            count | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET,
            names.as_ptr(),
        );
        Bound::from_owned_ptr_or_err(callable.py(), result)
    }
}

/// A copy of the current context, as `contextvars.copy_context()` makes it.
#[inline]
pub(crate) fn copy_context(py: Python<'_>) -> PyResult<Bound<'_, PyAny>> {
    // SAFETY: the thread is attached; the result is a new reference or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(py, ffi::PyContext_CopyCurrent()) }
}

/// A copy of `context`, as `Context.copy()` makes it. Raises `TypeError` if it is none.
#[inline]
pub(crate) fn copy_of_context<'py>(context: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: the thread is attached; CPython checks that it was given a context. A new reference or NULL with an exception set.
    unsafe { Bound::from_owned_ptr_or_err(context.py(), ffi::PyContext_Copy(context.as_ptr())) }
}

/// Runs `body` inside of `context`, as `Context.run` does (CPython's `context_run` in `Python/context.c`): raises
/// `RuntimeError` if somebody is in that context already, `TypeError` if it is none.
#[inline]
pub(crate) fn in_context<'py, R>(
    context: &Bound<'py, PyAny>,
    body: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    // SAFETY: the thread is attached. Enter checks that it was given a context, and takes no reference: `context` is
    // borrowed until after the matching exit.
    check(context.py(), unsafe { ffi::PyContext_Enter(context.as_ptr()) })?;
    let result = body();
    // SAFETY: as above; entered on this thread just now, so the exit matches.
    let left = check(context.py(), unsafe { ffi::PyContext_Exit(context.as_ptr()) });
    match result {
        Ok(value) => left.map(|()| value),
        Err(error) => Err(error),
    }
}

/// Runs `body`, which sets no variables, inside of `context`, if there is one.
///
/// A context with the variables of the present one need not be entered; it may be that one, which cannot be. (So has CPython's own
/// `_accept_connection2` from 3.15 on: its task is in the context that it gives.)
pub(crate) fn in_given_context<'py, R>(
    context: Option<&Bound<'py, PyAny>>,
    body: impl FnOnce() -> PyResult<R>,
) -> PyResult<R> {
    match context {
        Some(context) => {
            let here = current_variables(context.py());
            if !here.is_null() && here == variables(context) { body() } else { in_context(context, body) }
        }
        None => body(),
    }
}

#[inline]
pub(super) fn check(py: Python<'_>, status: c_int) -> PyResult<()> {
    if status == 0 { Ok(()) } else { Err(PyErr::fetch(py)) }
}
