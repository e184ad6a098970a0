//! Connections that are simple to make: to an address in figures or to the path of a socket, with no option.
//!
//! CPython's functions make the others (`whilst._loop.connecting`). What they do by way of a `socket.socket` is done here by the
//! system calls, so nothing of it may be another's: not the loop's methods that they call, and no audit hook is told of a
//! socket object that there is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyInt, PyString, PyTuple, PyType};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, SocketAddrUnix, SocketFlags, SocketType, connect, ipproto, socket_with,
};

use super::LoopCore;
use super::tasks::new_future;
use crate::errors::os_error;
use crate::fast_method;
use crate::ffi::arguments::Arguments;
use crate::ffi::call::{call, copy_context, in_given_context};
use crate::ffi::imports::Import;
use crate::ffi::methods::add_fast_methods;
use crate::ffi::{audit, python_class};
use crate::resolving::literal;
use crate::transport::socket::into_python;
use crate::transport::stream::{Descriptor, Stream};

/// Adds the methods of this file to the class.
pub(crate) fn add_methods(py: Python<'_>) -> PyResult<()> {
    add_fast_methods::<LoopCore>(
        py,
        vec![
            fast_method!(
                LoopCore,
                "_connect_to_literal",
                connect_to_literal,
                "_connect_to_literal($self, protocol_factory, host, port)\n--\n\n\
                 Connect to an address and a port in figures.\n\n\
                 Returns None where it is not as simple as that, and nothing was done. Else a tuple: of the future that waits for\n\
                 connection_made() and the pair of transport and protocol; or, while the peer has not answered, of None and the\n\
                 socket. Raises what create_connection() does."
            ),
            fast_method!(
                LoopCore,
                "_connect_to_path",
                connect_to_path,
                "_connect_to_path($self, protocol_factory, path)\n--\n\n\
                 Connect to the path of a Unix socket. Returns and raises as _connect_to_literal() does."
            ),
        ],
    )
}

fn connect_to_literal(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    let [factory, host, port] =
        arguments.take("_connect_to_literal", ["protocol_factory", "host", "port"], 3)?;
    let (factory, host, port) =
        (factory.expect("required"), host.expect("required"), port.expect("required"));
    let py = this.py();
    let Some(address) = address_of(host, port) else { return Ok(py.None()) };
    if !is_simple(this)? {
        return Ok(py.None());
    }
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = stream_socket(py, family, Some(ipproto::TCP))?;
    let mut connected = connect(&fd, &address);
    if connected == Err(Errno::INPROGRESS) && address.ip().is_loopback() {
        // The peer is this machine's own, and its answer was there before connect(2) returned, which only does not look.
        connected = match connect(&fd, &address) {
            Ok(()) | Err(Errno::ISCONN) => Ok(()),
            Err(Errno::ALREADY | Errno::INPROGRESS | Errno::INTR) => Err(Errno::INPROGRESS),
            Err(error) => return Err(connect_failed(py, error, host, port)?),
        };
    }
    after_connect(this, fd, connected, factory)
}

fn connect_to_path(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    let [factory, path] = arguments.take("_connect_to_path", ["protocol_factory", "path"], 2)?;
    let (factory, path) = (factory.expect("required"), path.expect("required"));
    let py = this.py();
    // An empty path and one that begins with a NUL have a meaning of their own, and `socket` words what is wrong with others.
    let Some(address) = path
        .cast_exact::<PyString>()
        .ok()
        .and_then(|path| path.to_str().ok())
        .filter(|path| path.is_ascii() && !path.is_empty() && !path.contains('\0'))
        .and_then(|path| SocketAddrUnix::new(path).ok())
    else {
        return Ok(py.None());
    };
    if !is_simple(this)? {
        return Ok(py.None());
    }
    let fd = stream_socket(py, AddressFamily::UNIX, None)?;
    let connected = connect(&fd, &address);
    after_connect(this, fd, connected, factory)
}

fn stream_socket(py: Python<'_>, family: AddressFamily, protocol: Option<Protocol>) -> PyResult<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(family, SocketType::STREAM, flags, protocol).map_err(|error| os_error(py, &error.into()))
}

/// What is returned or raised by what connect(2) has said.
fn after_connect(
    this: &Bound<'_, LoopCore>,
    fd: OwnedFd,
    connected: Result<(), Errno>,
    factory: &Bound<'_, PyAny>,
) -> PyResult<Py<PyAny>> {
    match connected {
        Ok(()) => make_transport(this, fd, factory),
        Err(Errno::INPROGRESS | Errno::AGAIN | Errno::INTR) => under_way(this.py(), fd),
        Err(error) => Err(os_error(this.py(), &error.into())),
    }
}

/// The address in figures that `host` and `port` are. `None` for everything unusual.
fn address_of(host: &Bound<'_, PyAny>, port: &Bound<'_, PyAny>) -> Option<SocketAddr> {
    let port = port.cast_exact::<PyInt>().ok()?.extract::<u16>().ok().filter(|port| *port > 0)?;
    let address = literal(host.cast_exact::<PyString>().ok()?.to_str().ok()?)?;
    // What the peer's name is then, the kernel decides.
    let unspecified = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    (!unspecified.contains(&address)).then(|| SocketAddr::new(address, port))
}

/// True if nobody could tell a connection that is made here from one that CPython's functions make.
fn is_simple(this: &Bound<'_, LoopCore>) -> PyResult<bool> {
    /// The names of what CPython's functions call.
    static STEPS: Import = Import::new("whilst._loop.connecting", "STEPS");
    /// The class and the version of it that was looked at last, and was found to have all of them.
    static CLASS: AtomicUsize = AtomicUsize::new(0);
    static VERSION: AtomicUsize = AtomicUsize::new(0);

    let py = this.py();
    let core = this.get();
    if core.is_debug() || core.check_open().is_err() || audit::is_listened_to(py) {
        return Ok(false);
    }
    let steps = STEPS.get(py)?.cast::<PyTuple>()?;
    let class = this.get_type();
    let current = python_class::version(&class).map(|version| version as usize);
    let known = CLASS.load(Ordering::Relaxed) == class.as_ptr() as usize
        && current == Some(VERSION.load(Ordering::Relaxed));
    if !known {
        if !has_all(&class)? {
            return Ok(false);
        }
        if let Some(version) = current {
            CLASS.store(class.as_ptr() as usize, Ordering::Relaxed);
            VERSION.store(version, Ordering::Relaxed);
        }
    }
    let own = this.getattr(pyo3::intern!(py, "__dict__"))?.cast_into::<PyDict>()?;
    for name in steps.iter_borrowed() {
        if own.contains(name)? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cold]
fn has_all(class: &Bound<'_, PyType>) -> PyResult<bool> {
    /// These methods as they are in the class `whilst.Loop`.
    static METHODS: Import = Import::new("whilst._loop", "STEPS_OF_CONNECTING");
    for (name, method) in METHODS.get(class.py())?.cast::<PyDict>()? {
        if !class.getattr(name.cast::<PyString>()?)?.is(&method) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What `loop.sock_connect()` raises when the peer has refused.
#[cold]
fn connect_failed(
    py: Python<'_>,
    error: Errno,
    host: &Bound<'_, PyAny>,
    port: &Bound<'_, PyAny>,
) -> PyResult<PyErr> {
    let address = if host.cast::<PyString>()?.to_str()?.contains(':') {
        PyTuple::new(py, [host, port, 0_i32.into_pyobject(py)?.as_any(), 0_i32.into_pyobject(py)?.as_any()])?
    } else {
        PyTuple::new(py, [host, port])?
    };
    Ok(PyOSError::new_err((error.raw_os_error(), format!("Connect call failed {}", address.repr()?))))
}

/// What is returned while the peer has not answered.
fn under_way(py: Python<'_>, fd: OwnedFd) -> PyResult<Py<PyAny>> {
    Ok(PyTuple::new(py, [py.None().into_bound(py), into_python(py, fd)?])?.into_any().unbind())
}

/// What `_create_connection_transport()` of CPython's loop does, up to its waiting.
fn make_transport(
    this: &Bound<'_, LoopCore>,
    fd: OwnedFd,
    factory: &Bound<'_, PyAny>,
) -> PyResult<Py<PyAny>> {
    let py = this.py();
    // From Python 3.15 on the context is copied before the protocol is made.
    let context = if cfg!(Py_3_15) { Some(copy_context(py)?) } else { None };
    let protocol = call(factory, [])?;
    let waiter = new_future(this)?;
    let stream = in_given_context(context.as_ref(), || {
        let descriptor = Descriptor::Owned(fd);
        let waiter = Some(waiter.clone().unbind());
        Stream::make(this, descriptor, protocol.clone().unbind(), waiter, None, None)
    })?;
    let pair = PyTuple::new(py, [stream.bind(py), &protocol])?;
    Ok(PyTuple::new(py, [&waiter, pair.as_any()])?.into_any().unbind())
}
