//! A thread that Python does not know, and Python code called by it while the interpreter may end.

use std::io;
use std::thread::{Builder, JoinHandle};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

unsafe extern "C-unwind" {
    /// <https://docs.python.org/3/c-api/call.html#c.PyObject_CallObject>. PyO3 declares it as a function that does not unwind (and
    /// calls others).
    fn PyObject_CallObject(callable: *mut ffi::PyObject, args: *mut ffi::PyObject) -> *mut ffi::PyObject;
}

/// Starts a thread, which takes no signals: a program may block some in its own threads, to wait for them.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    // SAFETY: sets of signals are plain numbers; both calls only look at what they are given, and a thread inherits the mask of
    // the one that starts it.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        let mut before: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
        let spawned = Builder::new().name(name.into()).spawn(body);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const before, std::ptr::null_mut());
        spawned
    }
}

/// Calls `callable`, on a thread that nobody waits for.
///
/// Should the interpreter end meanwhile, this thread never comes back: up to 3.13 CPython ends a thread that asks for the GIL then by
/// `pthread_exit`, which unwinds its stack, and Rust's own frames must not be unwound so. Hence it is kept here until the process is gone, as
/// CPython itself does from 3.14 on and PyO3 where it asks for the GIL.
pub(crate) fn call<'py>(
    callable: &Bound<'py, PyAny>,
    arguments: &Bound<'py, PyTuple>,
) -> PyResult<Bound<'py, PyAny>> {
    struct Stay;
    impl Drop for Stay {
        fn drop(&mut self) {
            loop {
                std::thread::park();
            }
        }
    }
    let stay = Stay;
    // SAFETY: the thread is attached and both objects outlive the call; the result is a new reference or NULL with an exception set.
    let result = unsafe { PyObject_CallObject(callable.as_ptr(), arguments.as_ptr()) };
    std::mem::forget(stay);
    // SAFETY: as above.
    unsafe { Bound::from_owned_ptr_or_err(callable.py(), result) }
}
