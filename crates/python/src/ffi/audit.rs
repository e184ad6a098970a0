//! Audit events (PEP 578), which CPython raises for what whilst does in its place.

use std::ffi::{CStr, c_char, c_int};

use pyo3::ffi;
use pyo3::prelude::*;

unsafe extern "C" {
    /// <https://docs.python.org/3/c-api/sys.html#c.PySys_Audit>, which PyO3 leaves out.
    fn PySys_Audit(event: *const c_char, format: *const c_char, ...) -> c_int;
}

/// Raises the event `socket.getaddrinfo`, with the arguments that CPython gives with it. Costs next to nothing without a hook.
///
/// Raises what a hook raises.
pub(crate) fn getaddrinfo(
    host: &Bound<'_, PyAny>,
    port: &Bound<'_, PyAny>,
    numbers: [c_int; 4],
) -> PyResult<()> {
    const EVENT: &CStr = c"socket.getaddrinfo";
    const FORMAT: &CStr = c"OOiiii";
    let [family, kind, protocol, flags] = numbers;
    let py = host.py();
    let (host, port): (*mut ffi::PyObject, *mut ffi::PyObject) = (host.as_ptr(), port.as_ptr());
    // SAFETY: the thread is attached; the format says what follows: two objects, borrowed, and four integers.
    let status =
        unsafe { PySys_Audit(EVENT.as_ptr(), FORMAT.as_ptr(), host, port, family, kind, protocol, flags) };
    if status == 0 { Ok(()) } else { Err(PyErr::fetch(py)) }
}

/// Raises the event `socket.sendto`, with the socket object and the address that a datagram is for.
///
/// Raises what a hook raises.
pub(crate) fn sendto(socket: &Bound<'_, PyAny>, address: &Bound<'_, PyAny>) -> PyResult<()> {
    const EVENT: &CStr = c"socket.sendto";
    const FORMAT: &CStr = c"OO";
    let (socket_pointer, address): (*mut ffi::PyObject, *mut ffi::PyObject) =
        (socket.as_ptr(), address.as_ptr());
    // SAFETY: the thread is attached; the format says what follows: two objects, borrowed.
    let status = unsafe { PySys_Audit(EVENT.as_ptr(), FORMAT.as_ptr(), socket_pointer, address) };
    if status == 0 { Ok(()) } else { Err(PyErr::fetch(socket.py())) }
}

/// Raises the event `sys._current_frames`, for a look at another thread that CPython's own function is too late for.
///
/// Raises what a hook raises.
#[cfg(Py_GIL_DISABLED)]
pub(crate) fn current_frames(py: Python<'_>) -> PyResult<()> {
    const EVENT: &CStr = c"sys._current_frames";
    let format: *const c_char = std::ptr::null();
    // SAFETY: the thread is attached; no format, no arguments.
    let status = unsafe { PySys_Audit(EVENT.as_ptr(), format) };
    if status == 0 { Ok(()) } else { Err(PyErr::fetch(py)) }
}

/// True if anybody listens to audit events. Nobody hears of the question.
pub(crate) fn is_listened_to(py: Python<'_>) -> bool {
    const EVENT: &CStr = c"whilst.is_listened_to";
    const FORMAT: &CStr = c"O&";
    type Converter = unsafe extern "C" fn(*mut std::ffi::c_void) -> *mut ffi::PyObject;
    unsafe extern "C" fn fail(_argument: *mut std::ffi::c_void) -> *mut ffi::PyObject {
        // SAFETY: CPython makes arguments with the thread attached.
        unsafe { ffi::PyErr_SetNone(ffi::PyExc_LookupError) };
        std::ptr::null_mut()
    }
    // SAFETY: the thread is attached; the format says what follows: a function that makes an object, and its argument. It is called
    // only where there is a hook, and what it fails with is what the event ends with, before any hook is told.
    unsafe {
        let argument: *mut std::ffi::c_void = std::ptr::null_mut();
        let listened = PySys_Audit(EVENT.as_ptr(), FORMAT.as_ptr(), fail as Converter, argument) != 0;
        if listened {
            ffi::PyErr_Clear();
        }
        let _ = py;
        listened
    }
}
