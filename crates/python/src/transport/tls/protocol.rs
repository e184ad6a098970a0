//! `whilst.SSLProtocol` as the transport below, of whatever kind, sees it.

use std::ffi::CStr;

use pyo3::ffi as raw;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyType;

use super::lower::Lower;
use super::{Tls, Waiter};
use crate::ffi::arguments::Arguments;
use crate::ffi::class::{Class, Instance, Object, Visitor};
use crate::ffi::imports::LateImport;
use crate::transport::methods::{Answer, none};
use crate::transport::stream::is_buffered;
use crate::{getter, method};

impl Instance for Tls {
    const NAME: &'static CStr = c"whilst.SSLProtocol";
    const DOC: &'static CStr =
        c"The protocol of the transport below a TLS transport: an asyncio.BufferedProtocol.";
    const OPEN: bool = true;
    const FINALIZES: bool = false;

    fn class() -> &'static Class {
        static CLASS: Class = Class::new();
        &CLASS
    }

    fn base(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
        Ok(py.import("asyncio.protocols")?.getattr("BufferedProtocol")?.cast_into()?)
    }

    fn methods() -> Vec<raw::PyMethodDef> {
        vec![
            method!(
                Tls,
                "connection_made",
                connection_made,
                "connection_made($self, /, transport)\n--\n\n\
                 The transport below is connected: start the handshake."
            ),
            method!(
                Tls,
                "_start_handshake",
                start_handshake,
                "_start_handshake($self)\n--\n\n\
                 Start the handshake over the transport that `_transport` was set to."
            ),
            method!(
                Tls,
                "connection_lost",
                connection_lost,
                "connection_lost($self, /, exc)\n--\n\n\
                 The transport below is gone: tell the program's protocol."
            ),
            method!(
                Tls,
                "get_buffer",
                get_buffer,
                "get_buffer($self, /, sizehint)\n--\n\n\
                 Return memory for bytes that the transport below receives."
            ),
            method!(
                Tls,
                "buffer_updated",
                buffer_updated,
                "buffer_updated($self, /, nbytes)\n--\n\n\
                 So many bytes are in the memory of get_buffer()."
            ),
            method!(
                Tls,
                "eof_received",
                eof_received,
                "eof_received($self)\n--\n\n\
                 The peer sends no more. Return True if the transport below is to stay open, for reading is paused."
            ),
            method!(
                Tls,
                "pause_writing",
                pause_writing,
                "pause_writing($self)\n--\n\n\
                 The transport below wants no more for now."
            ),
            method!(
                Tls,
                "resume_writing",
                resume_writing,
                "resume_writing($self)\n--\n\n\
                 The transport below takes more again."
            ),
            method!(
                Tls,
                "_check_handshake_timeout",
                check_handshake_timeout,
                "_check_handshake_timeout($self)\n--\n\n\
                 Abort the connection if the handshake is not over."
            ),
            method!(
                Tls,
                "_check_shutdown_timeout",
                check_shutdown_timeout,
                "_check_shutdown_timeout($self)\n--\n\n\
                 Abort the connection if its end is not over."
            ),
            method!(
                Tls,
                "_do_read",
                do_read,
                "_do_read($self)\n--\n\n\
                 Hand over what can be decrypted."
            ),
            method!(
                Tls,
                "_resume",
                resume,
                "_resume($self)\n--\n\n\
                 Go on after resume_reading()."
            ),
            method!(
                Tls,
                "_feed",
                feed,
                "_feed($self, /, data)\n--\n\n\
                 Take bytes that were received before the handshake begins."
            ),
        ]
    }

    fn getters() -> Vec<raw::PyGetSetDef> {
        vec![
            getter!(Tls, "_loop", loop_attribute),
            getter!(Tls, "_transport", lower_attribute, set_lower_attribute),
            getter!(Tls, "_app_transport", app_transport_attribute),
            getter!(Tls, "_app_protocol", app_protocol_attribute),
            getter!(Tls, "_sslobj", ssl_object_attribute),
            getter!(Tls, "_engine", engine_attribute),
            getter!(Tls, "_extra", extra_attribute),
            getter!(Tls, "_app_reading_paused", app_reading_paused_attribute),
        ]
    }

    fn traverse(&self, visitor: &mut Visitor) {
        self.state.try_with(|state| {
            visitor.visit_option(state.event_loop.as_ref());
            visitor.visit_option(state.app_protocol.as_ref());
            visitor.visit_option(state.app_transport.as_ref().map(Object::as_py));
            visitor.visit_option(state.lower.as_ref().map(|lower| lower.object()));
            visitor.visit_option(state.extra.as_ref());
            visitor.visit_option(state.handshake_timer.as_ref());
            visitor.visit_option(state.shutdown_timer.as_ref());
            visitor.visit_option(state.buffer.as_ref());
            if let Waiter::Future(waiter) = &state.waiter {
                visitor.visit(waiter);
            }
            // Somebody who is in the middle of a call holds the engine, too: then not all of its references are ours.
            if let Some(engine) =
                state.engine.as_ref().filter(|engine| std::sync::Arc::strong_count(engine) == 1)
            {
                engine.traverse(visitor);
            }
        });
    }

    fn clear(&self, py: Python<'_>) {
        let references = self.state.with(py, |state| {
            (
                state.event_loop.take(),
                state.app_protocol.take(),
                state.app_transport.take(),
                state.lower.take(),
                state.engine.take(),
                state.extra.take(),
                [state.handshake_timer.take(), state.shutdown_timer.take(), state.buffer.take()],
                std::mem::replace(&mut state.waiter, Waiter::Nobody),
            )
        });
        drop(references);
    }
}

/// Calls CPython's own, which sets `_transport` and calls `_start_handshake()`. It is looked up each time: programs that watch TLS
/// connections put a function of theirs in its place, on CPython's class, and it is to see ours as well.
fn connection_made<'py>(this: &Object<Tls>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    static CPYTHONS: LateImport = LateImport::new("asyncio.sslproto", "SSLProtocol");
    let [transport] = arguments.take("connection_made", ["transport"], 1)?;
    let own = CPYTHONS.get(py)?.getattr(intern!(py, "connection_made"))?;
    own.call1((this.bind(py), transport.expect("required")))?;
    none(py)
}

fn start_handshake(this: &Object<Tls>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("_start_handshake", [], 0)?;
    Tls::start_handshake(this, py)?;
    none(py)
}

fn connection_lost<'py>(this: &Object<Tls>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [exception] = arguments.take("connection_lost", ["exc"], 1)?;
    Tls::connection_lost(this, py, exception.filter(|exception| !exception.is_none()))?;
    none(py)
}

fn get_buffer(this: &Object<Tls>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("get_buffer", ["sizehint"], 1)?;
    Tls::get_buffer(this, py)
}

fn buffer_updated<'py>(this: &Object<Tls>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [count] = arguments.take("buffer_updated", ["nbytes"], 1)?;
    Tls::buffer_updated(this, py, count.expect("required").extract()?)?;
    none(py)
}

fn eof_received(this: &Object<Tls>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("eof_received", [], 0)?;
    let keep_open = Tls::eof_received(this, py)?;
    Ok(keep_open.into_pyobject(py)?.to_owned().into_any().unbind())
}

fn pause_writing(this: &Object<Tls>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("pause_writing", [], 0)?;
    Tls::set_lower_writing_paused(this, py, true)?;
    none(py)
}

fn resume_writing(this: &Object<Tls>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("resume_writing", [], 0)?;
    Tls::set_lower_writing_paused(this, py, false)?;
    none(py)
}

fn check_handshake_timeout(this: &Object<Tls>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("_check_handshake_timeout", [], 0)?;
    Tls::check_handshake_timeout(this, py)?;
    none(py)
}

fn check_shutdown_timeout(this: &Object<Tls>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("_check_shutdown_timeout", [], 0)?;
    Tls::check_shutdown_timeout(this, py)?;
    none(py)
}

fn do_read(this: &Object<Tls>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("_do_read", [], 0)?;
    Tls::do_read(this, py)?;
    none(py)
}

fn resume(this: &Object<Tls>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("_resume", [], 0)?;
    Tls::resume(this, py)?;
    none(py)
}

fn feed<'py>(this: &Object<Tls>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [data] = arguments.take("_feed", ["data"], 1)?;
    let data = crate::ffi::buffer::snapshot(data.expect("required"))?;
    Tls::feed(this, py, data.as_bytes())?;
    none(py)
}

fn or_none<T>(py: Python<'_>, object: Option<Py<T>>) -> Answer {
    Ok(object.map_or_else(|| py.None(), Py::into_any))
}

fn loop_attribute(this: &Object<Tls>, py: Python<'_>) -> Answer {
    or_none(py, this.get().event_loop(py).ok())
}

fn lower_attribute(this: &Object<Tls>, py: Python<'_>) -> Answer {
    or_none(py, this.get().lower(py).map(|lower| lower.object().clone_ref(py)))
}

fn set_lower_attribute(this: &Object<Tls>, py: Python<'_>, value: Option<&Bound<'_, PyAny>>) -> PyResult<()> {
    let lower = value.filter(|value| !value.is_none()).map(Lower::new);
    let before = this.get().state.with(py, |state| std::mem::replace(&mut state.lower, lower));
    drop(before);
    Ok(())
}

fn app_transport_attribute(this: &Object<Tls>, py: Python<'_>) -> Answer {
    or_none(py, this.get().app_transport(py).map(Object::into_any))
}

pub(super) fn app_protocol_attribute(this: &Object<Tls>, py: Python<'_>) -> Answer {
    or_none(py, this.get().app_protocol(py))
}

fn app_reading_paused_attribute(this: &Object<Tls>, py: Python<'_>) -> Answer {
    let paused = this.get().state.with(py, |state| state.app_reading_paused);
    Ok(paused.into_pyobject(py)?.to_owned().into_any().unbind())
}

fn ssl_object_attribute(this: &Object<Tls>, py: Python<'_>) -> Answer {
    or_none(py, this.get().engine(py).map(|engine| engine.ssl_object(py).unbind()))
}

/// The name of the engine, for whoever wants to know which it is.
fn engine_attribute(this: &Object<Tls>, py: Python<'_>) -> Answer {
    Ok(this.get().engine(py).map(|engine| engine.name()).into_pyobject(py)?.unbind())
}

fn extra_attribute(this: &Object<Tls>, py: Python<'_>) -> Answer {
    or_none(py, this.get().state.with(py, |state| state.extra.as_ref().map(|extra| extra.clone_ref(py))))
}

impl Tls {
    /// `set_protocol()` of the transport: the program's protocol from now on.
    pub(super) fn set_app_protocol(&self, protocol: &Bound<'_, PyAny>) -> PyResult<()> {
        let buffered = is_buffered(protocol)?;
        let before = self.state.with(protocol.py(), |state| {
            state.buffered = buffered;
            state.app_protocol.replace(protocol.clone().unbind())
        });
        drop(before);
        Ok(())
    }
}
