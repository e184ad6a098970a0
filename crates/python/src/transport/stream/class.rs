//! `whilst.StreamTransport` as Python sees it.

use std::ffi::CStr;
use std::os::fd::RawFd;

use pyo3::exceptions::PyRuntimeError;
use pyo3::ffi as raw;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};
use whilst_engine::driver::Key;

use super::Stream;
use super::lifecycle::{Descriptor, is_buffered};
use crate::event_loop::LoopCore;
use crate::event_loop::tasks::new_future;
use crate::ffi::arguments::Arguments;
use crate::ffi::call::in_given_context;
use crate::ffi::class::{Class, Instance, Object, Visitor};
use crate::ffi::imports::Import;
use crate::transport::flow_control::Marks;
use crate::transport::methods::{
    Answer, abort, boolean, close, closing_attribute, force_close, get_write_buffer_limits, is_closing,
    is_reading, none, pause_reading, resume_reading, set_write_buffer_limits, socket_transport,
};
use crate::{getter, method, repr};

socket_transport!(Stream);

impl Instance for Stream {
    const NAME: &'static CStr = c"whilst.StreamTransport";
    const DOC: &'static CStr = c"The transport of a stream socket: an asyncio.Transport.";
    const OPEN: bool = true;
    const FINALIZES: bool = true;
    const REPR: Option<raw::reprfunc> = Some(repr!(Stream, repr));

    fn class() -> &'static Class {
        static CLASS: Class = Class::new();
        &CLASS
    }

    fn base(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
        // An `asyncio.Transport`, and of the kind that asyncio's own code asks for where it looks at flow control.
        Ok(py.import("asyncio.transports")?.getattr("_FlowControlMixin")?.cast_into()?)
    }

    fn methods() -> Vec<raw::PyMethodDef> {
        vec![
            method!(
                Stream,
                "write",
                write,
                "write($self, /, data)\n--\n\n\
                 Send bytes, without waiting: what the kernel does not take is kept and sent later.\n\n\
                 Raises TypeError for what is no bytes-like object, RuntimeError after write_eof()."
            ),
            method!(
                Stream,
                "writelines",
                write_lines,
                "writelines($self, /, list_of_data)\n--\n\n\
                 Send an iterable of bytes-like objects, without waiting. Raises as write() does."
            ),
            method!(
                Stream,
                "write_eof",
                write_eof,
                "write_eof($self)\n--\n\n\
                 Close the writing end once all is sent; the peer sees the end of the stream."
            ),
            method!(
                Stream,
                "can_write_eof",
                can_write_eof,
                "can_write_eof($self)\n--\n\n\
                 Return True: write_eof() is supported."
            ),
            method!(
                Stream,
                "close",
                close,
                "close($self)\n--\n\n\
                 Close the transport once all is sent. The protocol receives nothing more."
            ),
            method!(
                Stream,
                "abort",
                abort,
                "abort($self)\n--\n\n\
                 Close the transport at once; what is not sent is lost."
            ),
            method!(
                Stream,
                "is_closing",
                is_closing,
                "is_closing($self)\n--\n\n\
                 Return True if the transport is closed or closing."
            ),
            method!(
                Stream,
                "pause_reading",
                pause_reading,
                "pause_reading($self)\n--\n\n\
                 Hand nothing to the protocol until resume_reading(). Paused twice is paused."
            ),
            method!(
                Stream,
                "resume_reading",
                resume_reading,
                "resume_reading($self)\n--\n\n\
                 Hand to the protocol what arrived since pause_reading(), and what will."
            ),
            method!(
                Stream,
                "is_reading",
                is_reading,
                "is_reading($self)\n--\n\n\
                 Return True if the transport reads: it is neither paused nor closing."
            ),
            method!(
                Stream,
                "set_protocol",
                set_protocol,
                "set_protocol($self, /, protocol)\n--\n\n\
                 Call another protocol from now on."
            ),
            method!(
                Stream,
                "get_protocol",
                get_protocol,
                "get_protocol($self)\n--\n\n\
                 Return the protocol."
            ),
            method!(
                Stream,
                "get_extra_info",
                get_extra_info,
                "get_extra_info($self, /, name, default=None)\n--\n\n\
                 Return what there is to know by the name: 'socket', 'sockname', 'peername' and the like, or the default."
            ),
            method!(
                Stream,
                "get_write_buffer_size",
                get_write_buffer_size,
                "get_write_buffer_size($self)\n--\n\n\
                 Return how many bytes are not sent yet."
            ),
            method!(
                Stream,
                "get_write_buffer_limits",
                get_write_buffer_limits,
                "get_write_buffer_limits($self)\n--\n\n\
                 Return the low-water and the high-water mark, in bytes."
            ),
            method!(
                Stream,
                "set_write_buffer_limits",
                set_write_buffer_limits,
                "set_write_buffer_limits($self, /, high=None, low=None)\n--\n\n\
                 Set the marks, in bytes: with more unsent than `high` the protocol is paused, with no more than `low` resumed.\n\n\
                 Without `high` it is four times `low`, or 64 KiB; without `low` it is a quarter of `high`. Raises ValueError for a\n\
                 mark below 0 and for `low` above `high`."
            ),
            method!(
                Stream,
                "_force_close",
                force_close,
                "_force_close($self, /, exc)\n--\n\n\
                 Like abort(), with the exception for connection_lost()."
            ),
            method!(
                Stream,
                "_make_empty_waiter",
                make_empty_waiter,
                "_make_empty_waiter($self)\n--\n\n\
                 Return a future that ends when all is sent."
            ),
            method!(
                Stream,
                "_reset_empty_waiter",
                reset_empty_waiter,
                "_reset_empty_waiter($self)\n--\n\n\
                 Forget the future of _make_empty_waiter()."
            ),
        ]
    }

    fn getters() -> Vec<raw::PyGetSetDef> {
        vec![
            getter!(Stream, "_loop", loop_attribute),
            getter!(Stream, "_protocol", protocol_attribute),
            getter!(Stream, "_sock", sock_attribute),
            getter!(Stream, "_sock_fd", sock_fd_attribute),
            getter!(Stream, "_extra", extra_attribute),
            getter!(Stream, "_closing", closing_attribute),
            getter!(Stream, "_paused", paused_attribute),
            getter!(Stream, "_conn_lost", conn_lost_attribute),
            getter!(Stream, "_protocol_paused", protocol_paused_attribute),
            getter!(Stream, "_start_tls_compatible", start_tls_compatible),
            getter!(Stream, "_sendfile_compatible", sendfile_compatible),
        ]
    }

    fn traverse(&self, visitor: &mut Visitor) {
        self.state.try_with(|state| {
            visitor.visit_option(state.event_loop.as_ref());
            visitor.visit_option(state.protocol.as_ref());
            visitor.visit_option(state.context.as_ref());
            visitor.visit_option(state.server.as_ref());
            visitor.visit_option(state.extra.as_ref());
            visitor.visit_option(state.empty_waiter.as_ref());
            if let Some(Descriptor::Python(socket, _)) = &state.descriptor {
                visitor.visit(socket);
            }
        });
    }

    fn clear(&self, py: Python<'_>) {
        let references = self.state.with(py, |state| {
            (
                state.event_loop.take(),
                state.protocol.take(),
                state.context.take(),
                state.server.take(),
                state.extra.take(),
                state.empty_waiter.take(),
                state.descriptor.take(),
            )
        });
        drop(references);
    }

    fn finalize(this: &Object<Self>, py: Python<'_>) {
        Self::abandon(this, py);
    }
}

fn write<'py>(this: &Object<Stream>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [data] = arguments.take("write", ["data"], 1)?;
    Stream::write(this, py, data.expect("required"))?;
    none(py)
}

fn write_lines<'py>(this: &Object<Stream>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [lines] = arguments.take("writelines", ["list_of_data"], 1)?;
    Stream::write_lines(this, py, lines.expect("required"))?;
    none(py)
}

fn write_eof(this: &Object<Stream>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("write_eof", [], 0)?;
    Stream::write_eof(this, py)?;
    none(py)
}

fn can_write_eof(_this: &Object<Stream>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("can_write_eof", [], 0)?;
    boolean(py, true)
}

fn set_protocol<'py>(this: &Object<Stream>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [protocol] = arguments.take("set_protocol", ["protocol"], 1)?;
    let protocol = protocol.expect("required");
    let buffered = is_buffered(protocol)?;
    let before = this.get().state.with(py, |state| {
        state.buffered = buffered;
        state.protocol.replace(protocol.clone().unbind())
    });
    drop(before);
    none(py)
}

fn get_protocol(this: &Object<Stream>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("get_protocol", [], 0)?;
    protocol_attribute(this, py)
}

fn get_write_buffer_size(this: &Object<Stream>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("get_write_buffer_size", [], 0)?;
    let size = this.get().state.with(py, |state| state.outgoing.len());
    Ok(size.into_pyobject(py)?.into_any().unbind())
}

fn make_empty_waiter(this: &Object<Stream>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("_make_empty_waiter", [], 0)?;
    let (there, event_loop) = this.get().state.with(py, |state| {
        (state.empty_waiter.is_some(), state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py)))
    });
    if there {
        return Err(PyRuntimeError::new_err("Empty waiter is already set"));
    }
    let Some(event_loop) = event_loop else { return Err(PyRuntimeError::new_err("the transport is closed")) };
    let waiter = new_future(event_loop.bind(py))?;
    let empty = this.get().state.with(py, |state| {
        state.empty_waiter = Some(waiter.clone().unbind());
        state.outgoing.awaited = true;
        state.outgoing.is_empty()
    });
    if empty {
        waiter.call_method1(intern!(py, "set_result"), (py.None(),))?;
    }
    Ok(waiter.unbind())
}

fn reset_empty_waiter(this: &Object<Stream>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("_reset_empty_waiter", [], 0)?;
    drop(this.get().state.with(py, |state| state.empty_waiter.take()));
    none(py)
}

fn get_extra_info<'py>(this: &Object<Stream>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [name, default] = arguments.take("get_extra_info", ["name", "default"], 1)?;
    let found = extra_info(this, py, name.expect("required"))?;
    Ok(found.or_else(|| default.map(|default| default.clone().unbind())).unwrap_or_else(|| py.None()))
}

fn extra_info(this: &Object<Stream>, py: Python<'_>, name: &Bound<'_, PyAny>) -> PyResult<Option<Py<PyAny>>> {
    let extra = this.get().state.with(py, |state| state.extra.as_ref().map(|extra| extra.clone_ref(py)));
    if let Some(extra) = extra
        && let Some(value) = extra.bind(py).get_item(name)?
    {
        return Ok(Some(value.unbind()));
    }
    let Ok(name) = name.cast::<PyString>() else { return Ok(None) };
    match name.to_str()? {
        "socket" => transport_socket(this, py),
        "sockname" => {
            let address = this.get().state.with(py, |state| state.names.local());
            Ok(Some(address.to_python(py)?.unbind()))
        }
        "peername" => {
            let address = this.get().state.with(py, |state| state.names.peer());
            Ok(Some(address.to_python(py)?.unbind()))
        }
        _ => Ok(None),
    }
}

/// The dictionary of what `get_extra_info()` finds, made if there is none.
fn extra_dict<'py>(this: &Object<Stream>, py: Python<'py>) -> Bound<'py, PyDict> {
    // Made beforehand: making an object may have the garbage collector run code.
    let fresh = PyDict::new(py).unbind();
    let extra = this.get().state.with(py, |state| state.extra.get_or_insert(fresh).clone_ref(py));
    extra.into_bound(py)
}

/// The `asyncio.trsock.TransportSocket` around the socket, made at the first call and kept among the extra information,
/// where it is found also after the transport is closed.
fn transport_socket(this: &Object<Stream>, py: Python<'_>) -> PyResult<Option<Py<PyAny>>> {
    static TRANSPORT_SOCKET: Import = Import::new("asyncio.trsock", "TransportSocket");
    let socket = match python_socket(this, py)? {
        Some(socket) => socket,
        None => closed_socket(this, py)?,
    };
    let wrapped = TRANSPORT_SOCKET.get(py)?.call1((socket,))?;
    extra_dict(this, py).set_item(intern!(py, "socket"), &wrapped)?;
    Ok(Some(wrapped.unbind()))
}

/// The `socket.socket`, made at the first call for an accepted connection.
fn python_socket<'py>(this: &Object<Stream>, py: Python<'py>) -> PyResult<Option<Bound<'py, PyAny>>> {
    // Making it runs Python code, so the descriptor is not in its place meanwhile; nobody can look for it there but a signal
    // handler or another thread, which then finds a transport that is closed.
    let mut descriptor = this.get().state.with(py, |state| state.descriptor.take());
    let socket = Descriptor::socket(&mut descriptor, py);
    this.get().state.with(py, |state| state.descriptor = descriptor);
    socket
}

/// A `socket.socket` of the transport's family that is closed: what is left of a socket that nobody asked for in time.
fn closed_socket<'py>(this: &Object<Stream>, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
    static SOCKET: Import = Import::new("socket", "socket");
    let family = this.get().state.with(py, |state| state.names.local().family());
    let socket = SOCKET.get(py)?.call1((family.unwrap_or(libc::AF_UNIX), libc::SOCK_STREAM))?;
    socket.call_method0(intern!(py, "close"))?;
    Ok(socket)
}

fn loop_attribute(this: &Object<Stream>, py: Python<'_>) -> Answer {
    let event_loop = this.get().event_loop(py);
    Ok(event_loop.map_or_else(|| py.None(), Py::into_any))
}

fn protocol_attribute(this: &Object<Stream>, py: Python<'_>) -> Answer {
    let protocol =
        this.get().state.with(py, |state| state.protocol.as_ref().map(|protocol| protocol.clone_ref(py)));
    Ok(protocol.unwrap_or_else(|| py.None()))
}

fn sock_attribute(this: &Object<Stream>, py: Python<'_>) -> Answer {
    Ok(python_socket(this, py)?.map_or_else(|| py.None(), Bound::unbind))
}

fn sock_fd_attribute(this: &Object<Stream>, py: Python<'_>) -> Answer {
    let fd = this.get().state.with(py, |state| state.fd()).unwrap_or(-1);
    Ok(fd.into_pyobject(py)?.into_any().unbind())
}

fn extra_attribute(this: &Object<Stream>, py: Python<'_>) -> Answer {
    transport_socket(this, py)?;
    let extra = extra_dict(this, py);
    for name in ["sockname", "peername"] {
        if !extra.contains(name)? {
            let value = extra_info(this, py, PyString::new(py, name).as_any())?;
            extra.set_item(name, value)?;
        }
    }
    Ok(extra.into_any().unbind())
}

fn paused_attribute(this: &Object<Stream>, py: Python<'_>) -> Answer {
    boolean(py, this.get().state.with(py, |state| state.paused))
}

fn conn_lost_attribute(this: &Object<Stream>, py: Python<'_>) -> Answer {
    let lost = this.get().state.with(py, |state| state.lost);
    Ok(lost.into_pyobject(py)?.into_any().unbind())
}

fn protocol_paused_attribute(this: &Object<Stream>, py: Python<'_>) -> Answer {
    boolean(py, this.get().state.with(py, |state| state.protocol_paused))
}

fn start_tls_compatible(_this: &Object<Stream>, py: Python<'_>) -> Answer {
    boolean(py, true)
}

/// `asyncio.constants._SendfileMode.TRY_NATIVE`: `loop.sendfile()` may use the system call.
fn sendfile_compatible(_this: &Object<Stream>, py: Python<'_>) -> Answer {
    static MODE: Import = Import::new("asyncio.constants", "_SendfileMode");
    Ok(MODE.get(py)?.getattr(intern!(py, "TRY_NATIVE"))?.unbind())
}

/// `<StreamTransport fd=7 read=polling write=<idle, bufsize=0>>`, in the manner of CPython's.
fn repr(this: &Object<Stream>, py: Python<'_>) -> Answer {
    let text = this.get().state.with(py, |state| {
        let mut text = String::from("<StreamTransport");
        if state.descriptor.is_none() {
            text.push_str(" closed");
        } else if state.closing {
            text.push_str(" closing");
        }
        if let Some(fd) = state.fd() {
            let reading = if state.receive.is_some() && !state.receive_stops { "polling" } else { "idle" };
            let writing = if state.outgoing.is_empty() { "idle" } else { "polling" };
            let size = state.outgoing.len();
            text.push_str(&format!(" fd={fd} read={reading} write=<{writing}, bufsize={size}>"));
        }
        text + ">"
    });
    Ok(PyString::new(py, &text).into_any().unbind())
}

/// The descriptor and the key of a stream transport that is open.
fn open_stream(transport: &Bound<'_, PyAny>) -> PyResult<(RawFd, Key)> {
    Object::<Stream>::from_any(transport)
        .and_then(|stream| stream.get().state.with(transport.py(), |state| state.fd().zip(state.key)))
        .ok_or_else(|| PyRuntimeError::new_err("the transport is closed"))
}

#[pymethods]
impl LoopCore {
    /// Let the descriptor of a transport be watched by others until _reclaim_descriptor().
    fn _lend_descriptor(&self, transport: &Bound<'_, PyAny>) -> PyResult<()> {
        let (fd, _key) = open_stream(transport)?;
        self.state.with(transport.py(), |state| state.transports.remove(&fd));
        Ok(())
    }

    /// End what _lend_descriptor() began.
    fn _reclaim_descriptor(&self, transport: &Bound<'_, PyAny>) {
        // A transport that was closed meanwhile has nothing to reclaim.
        if let Ok((fd, key)) = open_stream(transport) {
            self.state.with(transport.py(), |state| state.transports.insert(fd, key));
        }
    }

    /// Make a stream transport over a connected, non-blocking socket. The protocol is told in the next iteration, and `waiter`
    /// is resolved then. Its callbacks run in a copy of the context that is given, or of the current one.
    #[pyo3(signature = (sock, protocol, waiter = None, *, extra = None, server = None, context = None))]
    fn _make_socket_transport(
        this: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        protocol: Py<PyAny>,
        waiter: Option<Py<PyAny>>,
        extra: Option<Py<PyDict>>,
        server: Option<Py<PyAny>>,
        context: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let descriptor = Descriptor::of_socket(sock)?;
        let make = || Stream::make(this, descriptor, protocol, waiter, extra, server);
        in_given_context(context, make).map(Object::into_any)
    }
}
