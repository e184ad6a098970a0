//! Which sockets are just sockets: those whose methods do what the system calls do.

use std::ffi::c_void;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use pyo3::ffi;
use pyo3::prelude::*;

use crate::ffi::imports::Import;

/// The methods that are done without being called.
const METHODS: [&str; 4] = ["recv", "recv_into", "send", "fileno"];

/// The class `socket.socket` once it was looked at and its [`METHODS`] were the C ones, its version then, and the function behind its
/// `fileno` (a [`ffi::PyCFunction`]).
///
/// CPython gives a class a new version whenever something in it or in its bases changes (`PyType_Modified`), and 0 as long as
/// nobody has asked; the interpreter's own caches rely on it. So one comparison says that no program has put a method of
/// its own there. Instances of `socket.socket` itself have no dictionary in which there could be one.
static CLASS: AtomicPtr<ffi::PyTypeObject> = AtomicPtr::new(ptr::null_mut());
static VERSION: AtomicU32 = AtomicU32::new(0);
static FILENO: AtomicPtr<c_void> = AtomicPtr::new(ptr::null_mut());

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
        version != 0 && version == VERSION.load(Ordering::Acquire) && class == CLASS.load(Ordering::Relaxed);
    if !known && !look(socket)? {
        return Ok(None);
    }
    // SAFETY: the thread is attached; what was stored is the function of a method without arguments of this very class, made of
    // such a function there. It returns a new reference, or NULL with an exception set.
    let number = unsafe {
        let function: ffi::PyCFunction = std::mem::transmute(FILENO.load(Ordering::Relaxed));
        Bound::from_owned_ptr_or_err(socket.py(), function(socket.as_ptr(), ptr::null_mut()))?
    };
    let fd: RawFd = number.extract()?;
    Ok((fd >= 0).then_some(fd))
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
    let fileno = socket.getattr("fileno")?;
    // SAFETY: a type object, and a function that CPython's C code has given the class, as was compared above.
    let (version, function) = unsafe {
        if ffi::PyCFunction_Check(fileno.as_ptr()) == 0
            || ffi::PyCFunction_GetFlags(fileno.as_ptr()) != ffi::METH_NOARGS
        {
            return Ok(false);
        }
        let version = AtomicU32::from_ptr(&raw mut (*class.as_type_ptr()).tp_version_tag);
        (version.load(Ordering::Relaxed), ffi::PyCFunction_GetFunction(fileno.as_ptr()))
    };
    let Some(function) = function else { return Ok(false) };
    FILENO.store(function as *mut c_void, Ordering::Relaxed);
    CLASS.store(class.as_type_ptr(), Ordering::Relaxed);
    VERSION.store(version, Ordering::Release);
    Ok(true)
}
