//! The Python stack of another thread, at one moment.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyList;

/// The deepest stack that is taken whole; of a deeper one, its innermost frames.
const DEEPEST: usize = 300;

/// A thread that runs Python code.
pub(crate) struct Thread {
    /// Its `threading.get_ident()`.
    #[cfg(not(Py_GIL_DISABLED))]
    identity: Py<PyAny>,
    /// The address of CPython's state of it.
    #[cfg(Py_GIL_DISABLED)]
    state: usize,
}

/// What there is to be seen of a thread.
pub(crate) enum Seen<'py> {
    /// Its stack, the innermost frame first: a list of tuples `(code object, line, offset of the instruction, globals)`.
    Stack(Bound<'py, PyList>),
    /// It runs no Python code, or its stack cannot be had.
    Nothing,
    /// It has gone on.
    Gone,
}

/// What is taken of a frame.
struct Moment<'py> {
    code: Bound<'py, PyAny>,
    globals: Bound<'py, PyAny>,
    line: c_int,
    instruction: c_int,
}

impl Thread {
    /// The stack that the thread has while `is_there()` says that it still is where it was.
    ///
    /// With a GIL no frame moves meanwhile, for no bytecode is run in here. Without one the other threads are stopped, once and for all
    /// of it, so that the thread is seen where it was stopped. Native code that does not let itself be stopped is waited for.
    pub(crate) fn stack<'py>(&self, py: Python<'py>, is_there: impl Fn() -> bool) -> PyResult<Seen<'py>> {
        let mut moments = Vec::with_capacity(DEEPEST);
        // Dropped when the others run again: who knows what the end of an object calls.
        let mut held: Vec<Bound<'_, PyAny>> = Vec::with_capacity(DEEPEST);
        let is_there = self.look(py, |innermost| {
            let mut frame: *mut ffi::PyFrameObject =
                innermost.as_ref().map_or(std::ptr::null_mut(), |innermost| innermost.as_ptr().cast());
            held.extend(innermost);
            while !frame.is_null() && moments.len() < DEEPEST {
                // SAFETY: the thread is attached, `frame` is a frame object that we hold, and no other thread runs Python code; each
                // result is a new reference, of which that of the frame below may be NULL.
                unsafe {
                    moments.push(Moment {
                        code: Bound::from_owned_ptr(py, ffi::PyFrame_GetCode(frame).cast()),
                        globals: Bound::from_owned_ptr(py, ffi::PyFrame_GetGlobals(frame)),
                        line: ffi::PyFrame_GetLineNumber(frame),
                        instruction: ffi::PyFrame_GetLasti(frame),
                    });
                    frame = ffi::PyFrame_GetBack(frame);
                    held.extend(Bound::from_owned_ptr_or_opt(py, frame.cast::<ffi::PyObject>()));
                }
            }
            is_there()
        })?;
        drop(held);
        if !is_there {
            return Ok(Seen::Gone);
        }
        if moments.is_empty() {
            return Ok(Seen::Nothing);
        }
        let stack = PyList::empty(py);
        for Moment { code, globals, line, instruction } in moments {
            stack.append((code, line, instruction, globals))?;
        }
        Ok(Seen::Stack(stack))
    }
}

#[cfg(not(Py_GIL_DISABLED))]
mod imp {
    use pyo3::prelude::*;
    use pyo3::types::PyDict;

    use super::Thread;
    use crate::ffi::imports::Import;

    static CURRENT_FRAMES: Import = Import::new("sys", "_current_frames");

    impl Thread {
        /// Of a thread by its `threading.get_ident()`.
        pub(crate) fn identified(identity: Py<PyAny>) -> Self {
            Self { identity }
        }

        /// Looks up what it takes to look at a thread: who does is not to import.
        pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
            CURRENT_FRAMES.get(py).map(drop)
        }

        /// Looks at the thread's innermost frame, while no other thread runs Python code, provided that `look` does not either.
        pub(super) fn look<'py, R>(
            &self,
            py: Python<'py>,
            look: impl FnOnce(Option<Bound<'py, PyAny>>) -> R,
        ) -> PyResult<R> {
            let frames = CURRENT_FRAMES.get(py)?.call0()?;
            Ok(look(frames.cast::<PyDict>()?.get_item(self.identity.bind(py))?))
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod imp {
    use pyo3::ffi;
    use pyo3::prelude::*;

    use super::Thread;
    use crate::ffi::{audit, world};

    impl Thread {
        /// Of a thread by its [`mark`].
        pub(crate) fn marked(mark: usize) -> Self {
            Self { state: mark }
        }

        pub(crate) fn prepare(_py: Python<'_>) -> PyResult<()> {
            Ok(())
        }

        /// Looks at the thread's innermost frame while the other threads are stopped; see [`world::stopped`].
        ///
        /// `sys._current_frames()` has started them again by the time that one may look closer. Its audit event is raised all the same.
        pub(super) fn look<'py, R>(
            &self,
            py: Python<'py>,
            look: impl FnOnce(Option<Bound<'py, PyAny>>) -> R,
        ) -> PyResult<R> {
            audit::current_frames(py)?;
            Ok(world::stopped(py, |is_stopped| {
                let state = if is_stopped { self.state() } else { None };
                // SAFETY: a thread's state that is there, of a thread that is stopped; a new reference or NULL.
                look(state.and_then(|state| unsafe {
                    Bound::from_owned_ptr_or_opt(py, ffi::PyThreadState_GetFrame(state).cast())
                }))
            }))
        }

        /// The thread's state, if there still is one. Only while the other threads are stopped.
        fn state(&self) -> Option<*mut ffi::PyThreadState> {
            // SAFETY: the thread is attached, and no other ends meanwhile; a new one comes before the first.
            unsafe {
                let mut state = ffi::PyInterpreterState_ThreadHead(ffi::PyInterpreterState_Get());
                while !state.is_null() && state.addr() != self.state {
                    state = ffi::PyThreadState_Next(state);
                }
                (!state.is_null()).then_some(state)
            }
        }
    }

    /// What this thread is known by.
    pub(crate) fn mark(_py: Python<'_>) -> usize {
        // SAFETY: the thread is attached, so it has a state.
        unsafe { ffi::PyThreadState_Get() }.addr()
    }
}

#[cfg(Py_GIL_DISABLED)]
pub(crate) use self::imp::mark;
