//! `whilst.ReadPipeTransport` and `whilst.WritePipeTransport` as Python sees them.

use std::ffi::CStr;

use pyo3::ffi as raw;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString, PyType};

use super::{Pipe, ReadPipe, Reading, Side, WritePipe, Writing};
use crate::event_loop::LoopCore;
use crate::ffi::arguments::Arguments;
use crate::ffi::class::{Class, Instance, Object, Visitor};
use crate::transport::flow_control::Marks;
use crate::transport::methods::{Answer, boolean, log_debug, none};
use crate::{getter, method, repr};

/// What a class is called and has in its tables: the part of it that CPython sees.
pub(crate) trait Face {
    /// Its full name.
    const CLASS: &'static CStr;
    /// Its documentation string.
    const DOC: &'static CStr;
    /// Its `repr()`.
    const REPR: raw::reprfunc;
    /// Its base, in `asyncio.transports`.
    const BASE: &'static str;

    fn methods() -> Vec<raw::PyMethodDef>;
    fn getters() -> Vec<raw::PyGetSetDef>;
}

impl<S: Side> Instance for Pipe<S> {
    const NAME: &'static CStr = S::CLASS;
    const DOC: &'static CStr = S::DOC;
    const OPEN: bool = true;
    const FINALIZES: bool = true;
    const REPR: Option<raw::reprfunc> = Some(S::REPR);

    fn class() -> &'static Class {
        S::class()
    }

    fn base(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
        Ok(py.import("asyncio.transports")?.getattr(S::BASE)?.cast_into()?)
    }

    fn methods() -> Vec<raw::PyMethodDef> {
        S::methods()
    }

    fn getters() -> Vec<raw::PyGetSetDef> {
        S::getters()
    }

    fn traverse(&self, visitor: &mut Visitor) {
        self.state.try_with(|state| {
            visitor.visit_option(state.event_loop.as_ref());
            visitor.visit_option(state.protocol.as_ref());
            visitor.visit_option(state.context.as_ref());
            visitor.visit_option(state.pipe.as_ref());
            visitor.visit_option(state.extra.as_ref());
        });
    }

    fn clear(&self, py: Python<'_>) {
        let references = self.state.with(py, |state| {
            (
                state.event_loop.take(),
                state.protocol.take(),
                state.context.take(),
                state.pipe.take(),
                state.extra.take(),
            )
        });
        drop(references);
    }

    fn finalize(this: &Object<Self>, py: Python<'_>) {
        Self::abandon(this, py);
    }
}

/// The tables of a class: what both have, and what only this one has.
macro_rules! tables {
    ($type:ty, $side:ty, [$($method:expr),*], [$($getter:expr),*]) => {
        fn methods() -> Vec<raw::PyMethodDef> {
            vec![
                method!(
                    $type,
                    "is_closing",
                    is_closing::<$side>,
                    "is_closing($self)\n--\n\nReturn True if the transport is closed or closing."
                ),
                method!(
                    $type,
                    "set_protocol",
                    set_protocol::<$side>,
                    "set_protocol($self, /, protocol)\n--\n\nCall another protocol from now on."
                ),
                method!(
                    $type,
                    "get_protocol",
                    get_protocol::<$side>,
                    "get_protocol($self)\n--\n\nReturn the protocol; None once the connection is lost."
                ),
                $($method),*
            ]
        }

        fn getters() -> Vec<raw::PyGetSetDef> {
            vec![
                getter!($type, "_loop", loop_attribute::<$side>),
                getter!($type, "_protocol", protocol_attribute::<$side>),
                getter!($type, "_pipe", pipe_attribute::<$side>, set_pipe_attribute::<$side>),
                getter!($type, "_fileno", fileno_attribute::<$side>),
                getter!($type, "_extra", extra_attribute::<$side>),
                getter!($type, "_closing", closing_attribute::<$side>),
                $($getter),*
            ]
        }
    };
}

impl Face for Reading {
    const CLASS: &'static CStr = c"whilst.ReadPipeTransport";
    const DOC: &'static CStr = c"The transport of the reading end of a pipe: an asyncio.ReadTransport.";
    const REPR: raw::reprfunc = repr!(ReadPipe, repr::<Reading>);
    const BASE: &'static str = "ReadTransport";

    tables!(
        ReadPipe,
        Reading,
        [
            method!(
                ReadPipe,
                "pause_reading",
                pause_reading,
                "pause_reading($self)\n--\n\n\
                 Hand nothing to the protocol until resume_reading(). Paused twice is paused."
            ),
            method!(
                ReadPipe,
                "resume_reading",
                resume_reading,
                "resume_reading($self)\n--\n\n\
                 Hand to the protocol what arrived since pause_reading(), and what will."
            ),
            method!(
                ReadPipe,
                "is_reading",
                is_reading,
                "is_reading($self)\n--\n\n\
                 Return True if the transport reads: it is neither paused nor closing."
            ),
            method!(
                ReadPipe,
                "close",
                close_reading,
                "close($self)\n--\n\n\
                 Close the transport. The protocol receives nothing more."
            )
        ],
        [getter!(ReadPipe, "_paused", paused_attribute)]
    );
}

impl Face for Writing {
    const CLASS: &'static CStr = c"whilst.WritePipeTransport";
    const DOC: &'static CStr = c"The transport of the writing end of a pipe: an asyncio.WriteTransport.";
    const REPR: raw::reprfunc = repr!(WritePipe, repr::<Writing>);
    const BASE: &'static str = "_FlowControlMixin";

    tables!(
        WritePipe,
        Writing,
        [
            method!(
                WritePipe,
                "write",
                write,
                "write($self, /, data)\n--\n\n\
                 Write bytes, without waiting: what the pipe has no room for is kept and written later.\n\n\
                 Raises TypeError for what is no bytes-like object."
            ),
            method!(
                WritePipe,
                "write_eof",
                write_eof,
                "write_eof($self)\n--\n\n\
                 Close the transport once all is written; the reader sees the end."
            ),
            method!(
                WritePipe,
                "can_write_eof",
                can_write_eof,
                "can_write_eof($self)\n--\n\n\
                 Return True: write_eof() is supported."
            ),
            method!(
                WritePipe,
                "close",
                close_writing,
                "close($self)\n--\n\n\
                 Close the transport once all is written."
            ),
            method!(
                WritePipe,
                "abort",
                abort,
                "abort($self)\n--\n\n\
                 Close the transport at once; what is not written is lost."
            ),
            method!(
                WritePipe,
                "get_write_buffer_size",
                get_write_buffer_size,
                "get_write_buffer_size($self)\n--\n\n\
                 Return how many bytes are not written yet."
            ),
            method!(
                WritePipe,
                "get_write_buffer_limits",
                get_write_buffer_limits,
                "get_write_buffer_limits($self)\n--\n\n\
                 Return the low-water and the high-water mark, in bytes."
            ),
            method!(
                WritePipe,
                "set_write_buffer_limits",
                set_write_buffer_limits,
                "set_write_buffer_limits($self, /, high=None, low=None)\n--\n\n\
                 Set the marks, in bytes: with more unwritten than `high` the protocol is paused, and resumed once all is written.\n\n\
                 Without `high` it is four times `low`, or 64 KiB; without `low` it is a quarter of `high`. Raises ValueError for a\n\
                 mark below 0 and for `low` above `high`."
            )
        ],
        [
            getter!(WritePipe, "_conn_lost", conn_lost_attribute),
            getter!(WritePipe, "_protocol_paused", protocol_paused_attribute)
        ]
    );
}

fn is_closing<S: Side>(this: &Object<Pipe<S>>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("is_closing", [], 0)?;
    closing_attribute(this, py)
}

fn set_protocol<'py, S: Side>(
    this: &Object<Pipe<S>>,
    py: Python<'py>,
    arguments: Arguments<'_, 'py>,
) -> Answer {
    let [protocol] = arguments.take("set_protocol", ["protocol"], 1)?;
    let protocol = protocol.expect("required").clone().unbind();
    let before = this.get().state.with(py, |state| state.protocol.replace(protocol));
    drop(before);
    none(py)
}

fn get_protocol<S: Side>(this: &Object<Pipe<S>>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("get_protocol", [], 0)?;
    protocol_attribute(this, py)
}

fn pause_reading(this: &Object<ReadPipe>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("pause_reading", [], 0)?;
    if Pipe::pause_reading(this, py) {
        log_debug(this, this.get().event_loop(py), py, "%r pauses reading")?;
    }
    none(py)
}

fn resume_reading(this: &Object<ReadPipe>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("resume_reading", [], 0)?;
    if Pipe::resume_reading(this, py)? {
        log_debug(this, this.get().event_loop(py), py, "%r resumes reading")?;
    }
    none(py)
}

fn is_reading(this: &Object<ReadPipe>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("is_reading", [], 0)?;
    boolean(py, this.get().state.with(py, |state| state.is_reading()))
}

fn close_reading(this: &Object<ReadPipe>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("close", [], 0)?;
    Pipe::close(this, py)?;
    none(py)
}

fn write<'py>(this: &Object<WritePipe>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [data] = arguments.take("write", ["data"], 1)?;
    Pipe::write(this, py, data.expect("required"))?;
    none(py)
}

fn write_eof(this: &Object<WritePipe>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("write_eof", [], 0)?;
    Pipe::write_eof(this, py)?;
    none(py)
}

fn can_write_eof(_this: &Object<WritePipe>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("can_write_eof", [], 0)?;
    boolean(py, true)
}

fn close_writing(this: &Object<WritePipe>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("close", [], 0)?;
    Pipe::write_eof(this, py)?;
    none(py)
}

fn abort(this: &Object<WritePipe>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("abort", [], 0)?;
    Pipe::abort(this, py)?;
    none(py)
}

fn get_write_buffer_size(this: &Object<WritePipe>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("get_write_buffer_size", [], 0)?;
    let size = this.get().state.with(py, |state| state.size());
    Ok(size.into_pyobject(py)?.into_any().unbind())
}

fn get_write_buffer_limits(this: &Object<WritePipe>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("get_write_buffer_limits", [], 0)?;
    let limits = this.get().state.with(py, |state| (state.side.marks.low, state.side.marks.high));
    Ok(limits.into_pyobject(py)?.into_any().unbind())
}

fn set_write_buffer_limits<'py>(
    this: &Object<WritePipe>,
    py: Python<'py>,
    arguments: Arguments<'_, 'py>,
) -> Answer {
    let marks = Marks::of(arguments)?;
    let event_loop = this.get().state.with(py, |state| {
        state.side.marks = marks;
        state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py))
    });
    if let Some(event_loop) = event_loop {
        Pipe::maybe_pause_protocol(this, event_loop.bind(py))?;
    }
    none(py)
}

fn loop_attribute<S: Side>(this: &Object<Pipe<S>>, py: Python<'_>) -> Answer {
    Ok(this.get().event_loop(py).map_or_else(|| py.None(), Py::into_any))
}

fn protocol_attribute<S: Side>(this: &Object<Pipe<S>>, py: Python<'_>) -> Answer {
    let protocol = this.get().state.with(py, |state| state.protocol.as_ref().map(|it| it.clone_ref(py)));
    Ok(protocol.unwrap_or_else(|| py.None()))
}

fn pipe_attribute<S: Side>(this: &Object<Pipe<S>>, py: Python<'_>) -> Answer {
    let pipe = this.get().state.with(py, |state| state.pipe.as_ref().map(|pipe| pipe.clone_ref(py)));
    Ok(pipe.unwrap_or_else(|| py.None()))
}

/// Programs (and CPython's tests) take a pipe away from a transport whose loop is closed by setting this to None.
fn set_pipe_attribute<S: Side>(
    this: &Object<Pipe<S>>,
    py: Python<'_>,
    value: Option<&Bound<'_, PyAny>>,
) -> PyResult<()> {
    let pipe = value.filter(|value| !value.is_none()).map(|value| value.clone().unbind());
    let before = this.get().state.with(py, |state| std::mem::replace(&mut state.pipe, pipe));
    drop(before);
    Ok(())
}

fn fileno_attribute<S: Side>(this: &Object<Pipe<S>>, py: Python<'_>) -> Answer {
    let fd = this.get().state.with(py, |state| state.fd);
    Ok(fd.into_pyobject(py)?.into_any().unbind())
}

/// What `get_extra_info()`, which is `asyncio.BaseTransport`'s own, looks into.
fn extra_attribute<S: Side>(this: &Object<Pipe<S>>, py: Python<'_>) -> Answer {
    let extra = this.get().state.with(py, |state| state.extra.as_ref().map(|extra| extra.clone_ref(py)));
    Ok(extra.unwrap_or_else(|| PyDict::new(py).unbind()).into_any())
}

fn closing_attribute<S: Side>(this: &Object<Pipe<S>>, py: Python<'_>) -> Answer {
    boolean(py, this.get().state.with(py, |state| state.closing))
}

fn paused_attribute(this: &Object<ReadPipe>, py: Python<'_>) -> Answer {
    boolean(py, this.get().state.with(py, |state| state.side.paused))
}

fn conn_lost_attribute(this: &Object<WritePipe>, py: Python<'_>) -> Answer {
    let lost = this.get().state.with(py, |state| state.side.lost);
    Ok(lost.into_pyobject(py)?.into_any().unbind())
}

fn protocol_paused_attribute(this: &Object<WritePipe>, py: Python<'_>) -> Answer {
    boolean(py, this.get().state.with(py, |state| state.side.protocol_paused))
}

/// `<WritePipeTransport fd=7 idle bufsize=0>`, in the manner of CPython's.
fn repr<S: Side>(this: &Object<Pipe<S>>, py: Python<'_>) -> Answer {
    let text = this.get().state.with(py, |state| {
        let running = state.event_loop.as_ref().is_some_and(|it| it.get().check_open().is_ok());
        let (before, after) = match (&state.pipe, state.closing) {
            (None, _) => (" closed", "closed".to_owned()),
            // What the loop watched it does not any more.
            (Some(_), closing) => (
                if closing { " closing" } else { "" },
                if running { S::describe(state) } else { "open".to_owned() },
            ),
        };
        format!("<{}{before} fd={} {after}>", S::NAME, state.fd)
    });
    Ok(PyString::new(py, &text).into_any().unbind())
}

#[pymethods]
impl LoopCore {
    /// Make the transport of the reading end of a pipe, an object with a fileno(). The protocol is told in the next iteration, and
    /// `waiter` is resolved then.
    ///
    /// Raises ValueError for what is no pipe, socket or character device.
    #[pyo3(signature = (pipe, protocol, waiter = None, extra = None))]
    fn _make_read_pipe_transport(
        this: &Bound<'_, Self>,
        pipe: &Bound<'_, PyAny>,
        protocol: Py<PyAny>,
        waiter: Option<Py<PyAny>>,
        extra: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        Ok(ReadPipe::create(this, pipe, protocol, waiter, extra)?.into_any())
    }

    /// Make the transport of the writing end of a pipe, as _make_read_pipe_transport() does of the reading end.
    #[pyo3(signature = (pipe, protocol, waiter = None, extra = None))]
    fn _make_write_pipe_transport(
        this: &Bound<'_, Self>,
        pipe: &Bound<'_, PyAny>,
        protocol: Py<PyAny>,
        waiter: Option<Py<PyAny>>,
        extra: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Py<PyAny>> {
        Ok(WritePipe::create(this, pipe, protocol, waiter, extra)?.into_any())
    }
}
