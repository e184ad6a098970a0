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
        /// The thread that asks.
        pub(crate) fn current(py: Python<'_>) -> PyResult<Self> {
            static GET_IDENT: Import = Import::new("_thread", "get_ident");
            // Who looks at it is not to import.
            CURRENT_FRAMES.get(py)?;
            Ok(Self { identity: GET_IDENT.get(py)?.call0()?.unbind() })
        }

        /// Looks at the thread's innermost frame, in which no other thread runs Python code, provided that `look` does not either.
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
    use std::ffi::{CStr, c_void};

    use pyo3::ffi;
    use pyo3::prelude::*;

    use super::Thread;
    use crate::ffi::audit;

    /// `_PyEval_StopTheWorld` and `_PyEval_StartTheWorld` of CPython, between which it looks at other threads itself
    /// (`_PyThread_CurrentFrames`, which is not called here: it has started them again by the time that one may look closer). They are
    /// exported and not documented, so they are looked for, and there is no stack where they are not.
    type Act = unsafe extern "C" fn(*mut ffi::PyInterpreterState);

    /// While this lives the other threads are stopped.
    struct Stopped {
        start: Act,
    }

    impl Thread {
        /// The thread that asks.
        pub(crate) fn current(_py: Python<'_>) -> PyResult<Self> {
            // SAFETY: the thread is attached, so it has a state.
            Ok(Self { state: unsafe { ffi::PyThreadState_Get() }.addr() })
        }

        /// Looks at the thread's innermost frame while the other threads are stopped. In `look` nothing may run that can call Python
        /// code or wait for another thread.
        ///
        /// Raises the audit event of `sys._current_frames()`, and what a hook raises.
        pub(super) fn look<'py, R>(
            &self,
            py: Python<'py>,
            look: impl FnOnce(Option<Bound<'py, PyAny>>) -> R,
        ) -> PyResult<R> {
            audit::current_frames(py)?;
            let Some(_stopped) = stop(py) else { return Ok(look(None)) };
            let innermost = self.state().and_then(|state| {
                // SAFETY: a thread's state that is there, of a thread that is stopped; a new reference or NULL.
                unsafe { Bound::from_owned_ptr_or_opt(py, ffi::PyThreadState_GetFrame(state).cast()) }
            });
            Ok(look(innermost))
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

    fn stop(_py: Python<'_>) -> Option<Stopped> {
        let stop = find(c"_PyEval_StopTheWorld")?;
        let start = find(c"_PyEval_StartTheWorld")?;
        // SAFETY: the thread is attached, and starts the others again when `Stopped` is dropped.
        unsafe { stop(ffi::PyInterpreterState_Get()) };
        Some(Stopped { start })
    }

    impl Drop for Stopped {
        fn drop(&mut self) {
            // SAFETY: as above; they were stopped by this thread.
            unsafe { (self.start)(ffi::PyInterpreterState_Get()) };
        }
    }

    fn find(name: &CStr) -> Option<Act> {
        // SAFETY: a name that ends with NUL, looked for in what the process has loaded.
        let function: *mut c_void = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        // SAFETY: the functions of these names have this type on every Python that can be without a GIL
        // (Include/internal/pycore_pystate.h).
        (!function.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Act>(function) })
    }
}
