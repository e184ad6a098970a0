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
