//! `whilst.DatagramTransport` as Python sees it.

use std::ffi::CStr;

use pyo3::ffi as raw;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyTuple, PyType};

use super::{Datagram, DatagramWork, Target};
use crate::event_loop::LoopCore;
use crate::ffi::arguments::Arguments;
use crate::ffi::class::{Class, Instance, Object, Visitor};
use crate::transport::flow_control::Marks;
use crate::transport::methods::{
    Answer, abort, boolean, close, closing_attribute, force_close, get_write_buffer_limits, is_closing,
    is_reading, none, pause_reading, resume_reading, set_write_buffer_limits, socket_transport,
};
use crate::{getter, method, repr};

socket_transport!(Datagram);

impl Instance for Datagram {
    const NAME: &'static CStr = c"whilst.DatagramTransport";
    const DOC: &'static CStr = c"The transport of a datagram socket: an asyncio.DatagramTransport.";
    const OPEN: bool = true;
    const FINALIZES: bool = true;
    const REPR: Option<raw::reprfunc> = Some(repr!(Datagram, repr));

    fn class() -> &'static Class {
        static CLASS: Class = Class::new();
        &CLASS
    }

    fn base(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
        // An `asyncio.DatagramTransport`, and an `asyncio.Transport` of the kind that asyncio's own code asks for where it looks at
        // flow control, as CPython's is: programs, and CPython's tests, ask for the one or the other.
        let transports = py.import("asyncio.transports")?;
        let bases = (transports.getattr("_FlowControlMixin")?, transports.getattr("DatagramTransport")?);
        let namespace = PyDict::new(py);
        namespace.set_item("__slots__", PyTuple::empty(py))?;
        namespace.set_item("__module__", "whilst")?;
        Ok(py.get_type::<PyType>().call1(("DatagramTransportBase", bases, namespace))?.cast_into()?)
    }

    fn methods() -> Vec<raw::PyMethodDef> {
        vec![
            method!(
                Datagram,
                "sendto",
                send_to,
                "sendto($self, /, data, addr=None)\n--\n\n\
                 Send a datagram, without waiting: what the kernel has no room for is kept and sent later.\n\n\
                 It goes to `addr` or, without one, to the address that the endpoint was made for. Before Python 3.13 an empty one\n\
                 is not sent. What the system refuses the protocol is told of (error_received). Raises TypeError for what is no\n\
                 bytes-like object, ValueError for another address than the endpoint's."
            ),
            method!(
                Datagram,
                "close",
                close,
                "close($self)\n--\n\n\
                 Close the transport once all is sent. The protocol receives nothing more."
            ),
            method!(
                Datagram,
                "abort",
                abort,
                "abort($self)\n--\n\n\
                 Close the transport at once; what is not sent is lost."
            ),
            method!(
                Datagram,
                "is_closing",
                is_closing,
                "is_closing($self)\n--\n\n\
                 Return True if the transport is closed or closing."
            ),
            method!(
                Datagram,
                "pause_reading",
                pause_reading,
                "pause_reading($self)\n--\n\n\
                 Hand nothing to the protocol until resume_reading(): datagrams stay in the kernel, as many as it has room for."
            ),
            method!(
                Datagram,
                "resume_reading",
                resume_reading,
                "resume_reading($self)\n--\n\n\
                 Receive again after pause_reading()."
            ),
            method!(
                Datagram,
                "is_reading",
                is_reading,
                "is_reading($self)\n--\n\n\
                 Return True if the transport reads: it is neither paused nor closing."
            ),
            method!(
                Datagram,
                "set_protocol",
                set_protocol,
                "set_protocol($self, /, protocol)\n--\n\n\
                 Call another protocol from now on."
            ),
            method!(
                Datagram,
                "get_protocol",
                get_protocol,
                "get_protocol($self)\n--\n\n\
                 Return the protocol."
            ),
            method!(
                Datagram,
                "get_extra_info",
                get_extra_info,
                "get_extra_info($self, /, name, default=None)\n--\n\n\
                 Return what there is to know by the name: 'socket', 'sockname' or 'peername', or the default."
            ),
            method!(
                Datagram,
                "get_write_buffer_size",
                get_write_buffer_size,
                "get_write_buffer_size($self)\n--\n\n\
                 Return how many bytes are not sent yet; from Python 3.13 on each datagram counts for 8 bytes more than it has."
            ),
            method!(
                Datagram,
                "get_write_buffer_limits",
                get_write_buffer_limits,
                "get_write_buffer_limits($self)\n--\n\n\
                 Return the low-water and the high-water mark, in bytes."
            ),
            method!(
                Datagram,
                "set_write_buffer_limits",
                set_write_buffer_limits,
                "set_write_buffer_limits($self, /, high=None, low=None)\n--\n\n\
                 Set the marks, in bytes: with more unsent than `high` the protocol is paused, with no more than `low` resumed.\n\n\
                 Without `high` it is four times `low`, or 64 KiB; without `low` it is a quarter of `high`. Raises ValueError for a\n\
                 mark below 0 and for `low` above `high`."
            ),
            method!(
                Datagram,
                "_force_close",
                force_close,
                "_force_close($self, /, exc)\n--\n\n\
                 Like abort(), with the exception for connection_lost()."
            ),
        ]
    }

    fn getters() -> Vec<raw::PyGetSetDef> {
        vec![
            getter!(Datagram, "_loop", loop_attribute),
            getter!(Datagram, "_protocol", protocol_attribute),
            getter!(Datagram, "_sock", sock_attribute),
            getter!(Datagram, "_sock_fd", sock_fd_attribute),
            getter!(Datagram, "_extra", extra_attribute),
            getter!(Datagram, "_address", address_attribute),
            getter!(Datagram, "_closing", closing_attribute),
            getter!(Datagram, "_conn_lost", conn_lost_attribute),
            getter!(Datagram, "_protocol_paused", protocol_paused_attribute),
        ]
    }

    fn traverse(&self, visitor: &mut Visitor) {
        self.state.try_with(|state| {
            visitor.visit_option(state.event_loop.as_ref());
            visitor.visit_option(state.protocol.as_ref());
            visitor.visit_option(state.context.as_ref());
            visitor.visit_option(state.socket.as_ref());
            visitor.visit_option(state.extra.as_ref());
            visitor.visit_option(state.remote.as_ref());
            visitor.visit_option(state.sender.as_ref().map(|(_, object)| object));
            for (_, target) in &state.outgoing {
                if let Target::Python(address) = target {
                    visitor.visit(address);
                }
            }
        });
    }

    fn clear(&self, py: Python<'_>) {
        let references = self.state.with(py, |state| {
            (
                state.event_loop.take(),
                state.protocol.take(),
                state.context.take(),
                state.socket.take(),
                state.extra.take(),
                state.remote.take(),
                state.sender.take(),
                state.take_outgoing(),
            )
        });
        drop(references);
    }

    fn finalize(this: &Object<Self>, py: Python<'_>) {
        Self::abandon(this, py);
    }
}

fn send_to<'py>(this: &Object<Datagram>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [data, address] = arguments.take("sendto", ["data", "addr"], 1)?;
    Datagram::send_to(this, py, data.expect("required"), address)?;
    none(py)
}

fn set_protocol<'py>(this: &Object<Datagram>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [protocol] = arguments.take("set_protocol", ["protocol"], 1)?;
    let protocol = protocol.expect("required").clone().unbind();
    let before = this.get().state.with(py, |state| state.protocol.replace(protocol));
    drop(before);
    none(py)
}

fn get_protocol(this: &Object<Datagram>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("get_protocol", [], 0)?;
    protocol_attribute(this, py)
}

fn get_extra_info<'py>(this: &Object<Datagram>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [name, default] = arguments.take("get_extra_info", ["name", "default"], 1)?;
    let extra = extra_dict(this, py);
    let found = extra.get_item(name.expect("required"))?;
    Ok(found.or_else(|| default.cloned()).map_or_else(|| py.None(), Bound::unbind))
}

fn get_write_buffer_size(this: &Object<Datagram>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("get_write_buffer_size", [], 0)?;
    let size = this.get().state.with(py, |state| state.outgoing_size);
    Ok(size.into_pyobject(py)?.into_any().unbind())
}

/// The dictionary of what `get_extra_info()` finds.
fn extra_dict<'py>(this: &Object<Datagram>, py: Python<'py>) -> Bound<'py, PyDict> {
    let extra = this.get().state.with(py, |state| state.extra.as_ref().map(|extra| extra.clone_ref(py)));
    // None only after the garbage collector has taken the transport apart.
    extra.map_or_else(|| PyDict::new(py), |extra| extra.into_bound(py))
}

fn loop_attribute(this: &Object<Datagram>, py: Python<'_>) -> Answer {
    Ok(this.get().event_loop(py).map_or_else(|| py.None(), Py::into_any))
}

fn protocol_attribute(this: &Object<Datagram>, py: Python<'_>) -> Answer {
    Ok(this.get().protocol(py).unwrap_or_else(|| py.None()))
}

fn sock_attribute(this: &Object<Datagram>, py: Python<'_>) -> Answer {
    let socket = this.get().state.with(py, |state| state.open_socket(py));
    Ok(socket.map_or_else(|| py.None(), |(socket, _)| socket))
}

fn sock_fd_attribute(this: &Object<Datagram>, py: Python<'_>) -> Answer {
    let fd = this.get().state.with(py, |state| state.fd);
    Ok(fd.into_pyobject(py)?.into_any().unbind())
}

fn extra_attribute(this: &Object<Datagram>, py: Python<'_>) -> Answer {
    Ok(extra_dict(this, py).into_any().unbind())
}

fn address_attribute(this: &Object<Datagram>, py: Python<'_>) -> Answer {
    let remote = this.get().state.with(py, |state| state.remote.as_ref().map(|remote| remote.clone_ref(py)));
    Ok(remote.unwrap_or_else(|| py.None()))
}

fn conn_lost_attribute(this: &Object<Datagram>, py: Python<'_>) -> Answer {
    let lost = this.get().state.with(py, |state| state.lost);
    Ok(lost.into_pyobject(py)?.into_any().unbind())
}

fn protocol_paused_attribute(this: &Object<Datagram>, py: Python<'_>) -> Answer {
    boolean(py, this.get().state.with(py, |state| state.protocol_paused))
}

/// `<DatagramTransport fd=7 read=polling write=<idle, bufsize=0>>`, in the manner of CPython's.
fn repr(this: &Object<Datagram>, py: Python<'_>) -> Answer {
    let text = this.get().state.with(py, |state| {
        let mut text = String::from("<DatagramTransport");
        if state.socket.is_none() {
            text.push_str(" closed");
        } else if state.closing {
            text.push_str(" closing");
        }
        text.push_str(&format!(" fd={}", state.fd));
        if state.event_loop.as_ref().is_some_and(|event_loop| event_loop.get().check_open().is_ok()) {
            let reading = if state.reading.is_some() && state.is_reading() { "polling" } else { "idle" };
            let writing = if state.room.is_some() { "polling" } else { "idle" };
            let size = state.outgoing_size;
            text.push_str(&format!(" read={reading} write=<{writing}, bufsize={size}>"));
        }
        text + ">"
    });
    Ok(PyString::new(py, &text).into_any().unbind())
}

#[pymethods]
impl LoopCore {
    /// Make a datagram transport over a non-blocking socket. The protocol is told in the next iteration, and `waiter` is resolved
    /// then.
    #[pyo3(signature = (sock, protocol, address = None, waiter = None, extra = None))]
    fn _make_datagram_transport(
        this: &Bound<'_, Self>,
        sock: &Bound<'_, PyAny>,
        protocol: Py<PyAny>,
        address: Option<Bound<'_, PyAny>>,
        waiter: Option<Py<PyAny>>,
        extra: Option<Py<PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        this.get().check_open()?;
        let transport = Datagram::new(this, sock, protocol, address, extra)?;
        Datagram::queue(&transport, this, DatagramWork::Connect(waiter))?;
        Ok(transport.into_any())
    }
}
