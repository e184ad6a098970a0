//! Which sockets are just sockets: those whose methods do what the system calls do.

use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::imports::Import;

/// The methods that are done without being called.
const METHODS: [&str; 4] = ["recv", "recv_into", "send", "fileno"];

/// The class `socket.socket` once it was looked at, its version then, and whether the [`METHODS`] were the C ones.
///
/// CPython gives a class a new version whenever something in it or in its bases changes (`PyType_Modified`), and 0 as long as
/// nobody has asked; the interpreter's own caches rely on it. So one comparison says that no program has put a method of
/// its own there. Instances of `socket.socket` itself have no dictionary in which there could be one.
static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static VERSION: AtomicU32 = AtomicU32::new(0);

/// The descriptor of a `socket.socket` whose `recv`, `recv_into`, `send` and `fileno` are CPython's own; `None` for a socket of
/// another class (TLS's, a subclass), one of a class that somebody has changed, and one that is closed.
#[inline]
pub(crate) fn plain_descriptor(socket: &Bound<'_, PyAny>) -> PyResult<Option<RawFd>> {
    // SAFETY: any object has a type, which it keeps alive; its version is a word that other threads may write to.
    let (class, version) = unsafe {
        let class = ffi::Py_TYPE(socket.as_ptr());
        (class, AtomicU32::from_ptr(&raw mut (*class).tp_version_tag).load(Ordering::Relaxed))
    };
    let known =
        version != 0 && version == VERSION.load(Ordering::Relaxed) && class == CLASS.load(Ordering::Relaxed);
    if !known && !look(socket)? {
        return Ok(None);
    }
    // SAFETY: the thread is attached; -1 with an exception set where there is no descriptor.
    let fd = unsafe { ffi::PyObject_AsFileDescriptor(socket.as_ptr()) };
    if fd < 0 {
        drop(PyErr::take(socket.py()));
        return Ok(None);
    }
    Ok(Some(fd))
}

/// Whether the socket's class is `socket.socket` with CPython's methods. If so, it is known from now on.
#[cold]
fn look(socket: &Bound<'_, PyAny>) -> PyResult<bool> {
    static SOCKET: Import = Import::new("socket", "socket");
    static BASE: Import = Import::new("_socket", "socket");
    let py = socket.py();
    let class = socket.get_type();
    if !class.is(SOCKET.get(py)?) {
        return Ok(false);
    }
    for name in METHODS {
        // Looking it up gives the class a version, if it has none.
        if !class.getattr(name)?.is(&BASE.get(py)?.getattr(name)?) {
            return Ok(false);
        }
    }
    // SAFETY: as above.
    let version = unsafe {
        AtomicU32::from_ptr(&raw mut (*class.as_type_ptr()).tp_version_tag).load(Ordering::Relaxed)
    };
    CLASS.store(class.as_type_ptr(), Ordering::Relaxed);
    VERSION.store(version, Ordering::Relaxed);
    Ok(true)
}
