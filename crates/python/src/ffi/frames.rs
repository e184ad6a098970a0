//! The Python stack of another thread, at one moment.

use std::ffi::c_int;

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

use super::imports::Import;

/// The deepest stack that is taken whole; of a deeper one, its innermost frames.
const DEEPEST: usize = 300;

static CURRENT_FRAMES: Import = Import::new("sys", "_current_frames");

/// Looks up what [`stack_of`] needs.
pub(crate) fn prepare(py: Python<'_>) -> PyResult<()> {
    CURRENT_FRAMES.get(py).map(drop)
}

/// What is taken of a frame.
struct Moment<'py> {
    code: Bound<'py, PyAny>,
    globals: Bound<'py, PyAny>,
    line: c_int,
    instruction: c_int,
}

/// The stack of the thread with this `threading.get_ident()`, the innermost frame first: a list of tuples `(code object, line, offset of
/// the instruction, globals)`. `None` if the thread runs no Python code.
///
/// With a GIL no frame moves meanwhile, for no bytecode is run in here. Without one the other threads are stopped.
pub(crate) fn stack_of<'py>(
    py: Python<'py>,
    thread: &Bound<'py, PyAny>,
) -> PyResult<Option<Bound<'py, PyList>>> {
    let frames = CURRENT_FRAMES.get(py)?.call0()?;
    let Some(innermost) = frames.cast::<PyDict>()?.get_item(thread)? else { return Ok(None) };
    let mut moments = Vec::with_capacity(DEEPEST);
    // Dropped when the others run again: who knows what the end of an object calls.
    let mut held: Vec<Bound<'_, PyAny>> = Vec::new();
    {
        let Some(_stopped) = world::stop(py) else { return Ok(None) };
        let mut frame = innermost.as_ptr().cast::<ffi::PyFrameObject>();
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
    }
    drop(held);
    let stack = PyList::empty(py);
    for Moment { code, globals, line, instruction } in moments {
        stack.append((code, line, instruction, globals))?;
    }
    Ok(Some(stack))
}

#[cfg(not(Py_GIL_DISABLED))]
mod world {
    use pyo3::Python;

    /// While this lives no other thread runs Python code, provided that its owner does not either.
    pub(super) struct Stopped;

    pub(super) fn stop(_py: Python<'_>) -> Option<Stopped> {
        Some(Stopped)
    }
}

#[cfg(Py_GIL_DISABLED)]
mod world {
    use std::ffi::c_void;

    use pyo3::{Python, ffi};

    /// `_PyEval_StopTheWorld` and `_PyEval_StartTheWorld` of CPython, by which it looks at other threads itself
    /// (`_PyThread_CurrentFrames`). They are exported and not documented, so they are looked for, and there is no stack where they are not.
    type Act = unsafe extern "C" fn(*mut ffi::PyInterpreterState);

    /// While this lives the other threads are stopped.
    pub(super) struct Stopped {
        start: Act,
    }

    pub(super) fn stop(_py: Python<'_>) -> Option<Stopped> {
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

    fn find(name: &std::ffi::CStr) -> Option<Act> {
        // SAFETY: a name that ends with NUL, looked for in what the process has loaded.
        let function: *mut c_void = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
        // SAFETY: the functions of these names have this type on every Python that can be without a GIL
        // (Include/internal/pycore_pystate.h).
        (!function.is_null()).then(|| unsafe { std::mem::transmute::<*mut c_void, Act>(function) })
    }
}
