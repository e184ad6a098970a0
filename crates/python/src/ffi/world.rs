//! A moment in which no other thread runs Python code, where there is no GIL to see to that.

use std::ffi::{CStr, c_void};

use pyo3::{Python, ffi};

/// `_PyEval_StopTheWorld` and `_PyEval_StartTheWorld`, between which CPython looks at other threads itself
/// (`_PyThread_CurrentFrames`). They are exported and not documented, so they are looked for: it cannot be had where they are not.
type Act = unsafe extern "C" fn(*mut ffi::PyInterpreterState);

/// While this lives the other threads are stopped.
struct Stopped {
    start: Act,
}

/// Looks while the other threads are stopped, and tells `look` if that can be had.
///
/// **In `look` nothing may run that can call Python code, collect garbage or wait for another thread**: no object may lose its last
/// reference there. Memory and objects may be made, as CPython itself does in such moments. Native code that does not let itself be
/// stopped is waited for.
pub(crate) fn stopped<R>(py: Python<'_>, look: impl FnOnce(bool) -> R) -> R {
    let stopped = stop(py);
    look(stopped.is_some())
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
