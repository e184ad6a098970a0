//! `whilst.SSLTransport` as the program sees it.

use std::ffi::CStr;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::exceptions::{PyNotImplementedError, PyResourceWarning, PyTypeError};
use pyo3::ffi as raw;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView, PyString, PyType};

use super::{INCOMING_KIB, OUTGOING_KIB, Tls, marks};
use crate::ffi::arguments::Arguments;
use crate::ffi::buffer::snapshot;
use crate::ffi::class::{Attributes, Class, Instance, Object, Visitor};
use crate::ffi::imports::Import;
use crate::transport::methods::{Answer, boolean, none};
use crate::transport::stream::WARN;
use crate::{getter, method, repr};

/// The transport of the program's protocol: the class `whilst.SSLTransport`. (asyncio speaks of SSL, and programs look for that in the
/// class's name, CPython's own tests among them.)
#[repr(C)]
pub(crate) struct TlsTransport {
    /// First, where CPython looks for them.
    attributes: Attributes,
    tls: Object<Tls>,
    /// Closed, closing or lost.
    closed: AtomicBool,
}

impl TlsTransport {
    pub(super) fn new(py: Python<'_>, tls: &Object<Tls>) -> PyResult<Object<Self>> {
        Object::new(
            py,
            Self { attributes: Attributes::new(), tls: tls.clone_ref(py), closed: AtomicBool::new(false) },
        )
    }

    /// Notes that the transport is closed, so that its end is no surprise.
    pub(super) fn set_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }
}

impl Instance for TlsTransport {
    const NAME: &'static CStr = c"whilst.SSLTransport";
    const DOC: &'static CStr = c"The transport of a TLS connection: an asyncio.Transport.";
    const OPEN: bool = true;
    const FINALIZES: bool = true;
    const REPR: Option<raw::reprfunc> = Some(repr!(TlsTransport, repr));

    fn class() -> &'static Class {
        static CLASS: Class = Class::new();
        &CLASS
    }

    fn base(py: Python<'_>) -> PyResult<Bound<'_, PyType>> {
        // An `asyncio.Transport`, and of the kind that `loop.sendfile()` asks for.
        Ok(py.import("asyncio.transports")?.getattr("_FlowControlMixin")?.cast_into()?)
    }

    fn methods() -> Vec<raw::PyMethodDef> {
        vec![
            method!(
                TlsTransport,
                "write",
                write,
                "write($self, /, data)\n--\n\n\
                 Send bytes, without waiting. Raises TypeError for what is no bytes-like object."
            ),
            method!(
                TlsTransport,
                "writelines",
                write_lines,
                "writelines($self, /, list_of_data)\n--\n\n\
                 Send an iterable of bytes-like objects, without waiting. Raises as write() does."
            ),
            method!(
                TlsTransport,
                "write_eof",
                write_eof,
                "write_eof($self)\n--\n\n\
                 Raise NotImplementedError: the end of one direction alone is not supported over TLS."
            ),
            method!(
                TlsTransport,
                "can_write_eof",
                can_write_eof,
                "can_write_eof($self)\n--\n\n\
                 Return False: write_eof() is not supported."
            ),
            method!(
                TlsTransport,
                "close",
                close,
                "close($self)\n--\n\n\
                 Close the transport once all is sent and both sides have said that they are done."
            ),
            method!(
                TlsTransport,
                "abort",
                abort,
                "abort($self)\n--\n\n\
                 Close the transport at once; what is not sent is lost."
            ),
            method!(
                TlsTransport,
                "is_closing",
                is_closing,
                "is_closing($self)\n--\n\n\
                 Return True if the transport is closed or closing."
            ),
            method!(
                TlsTransport,
                "pause_reading",
                pause_reading,
                "pause_reading($self)\n--\n\n\
                 Hand nothing to the protocol until resume_reading(). Paused twice is paused."
            ),
            method!(
                TlsTransport,
                "resume_reading",
                resume_reading,
                "resume_reading($self)\n--\n\n\
                 Hand to the protocol what arrived since pause_reading(), and what will."
            ),
            method!(
                TlsTransport,
                "is_reading",
                is_reading,
                "is_reading($self)\n--\n\n\
                 Return True if reading is not paused."
            ),
            method!(
                TlsTransport,
                "set_protocol",
                set_protocol,
                "set_protocol($self, /, protocol)\n--\n\n\
                 Call another protocol from now on."
            ),
            method!(
                TlsTransport,
                "get_protocol",
                get_protocol,
                "get_protocol($self)\n--\n\n\
                 Return the protocol."
            ),
            method!(
                TlsTransport,
                "get_extra_info",
                get_extra_info,
                "get_extra_info($self, /, name, default=None)\n--\n\n\
                 Return what there is to know by the name: 'sslcontext' and, after the handshake, 'ssl_object', 'peercert',\n\
                 'cipher' and 'compression'; of the transport below 'socket', 'peername' and the like; or the default."
            ),
            method!(
                TlsTransport,
                "get_write_buffer_size",
                get_write_buffer_size,
                "get_write_buffer_size($self)\n--\n\n\
                 Return how many bytes are not with the transport below yet."
            ),
            method!(
                TlsTransport,
                "get_write_buffer_limits",
                get_write_buffer_limits,
                "get_write_buffer_limits($self)\n--\n\n\
                 Return the low-water and the high-water mark of writing, in bytes."
            ),
            method!(
                TlsTransport,
                "set_write_buffer_limits",
                set_write_buffer_limits,
                "set_write_buffer_limits($self, /, high=None, low=None)\n--\n\n\
                 Set the marks, in bytes: with no fewer unsent than `high` the protocol is paused, with no more than `low` resumed.\n\n\
                 Without `high` it is four times `low`, or 512 KiB; without `low` it is a quarter of `high`. Raises ValueError for\n\
                 a mark below 0 and for `low` above `high`."
            ),
            method!(
                TlsTransport,
                "get_read_buffer_size",
                get_read_buffer_size,
                "get_read_buffer_size($self)\n--\n\n\
                 Return how many bytes were received and are not decrypted."
            ),
            method!(
                TlsTransport,
                "get_read_buffer_limits",
                get_read_buffer_limits,
                "get_read_buffer_limits($self)\n--\n\n\
                 Return the low-water and the high-water mark of reading, in bytes."
            ),
            method!(
                TlsTransport,
                "set_read_buffer_limits",
                set_read_buffer_limits,
                "set_read_buffer_limits($self, /, high=None, low=None)\n--\n\n\
                 Set the marks, in bytes, between which the transport below is told to pause and to resume reading.\n\n\
                 Without `high` it is four times `low`, or 256 KiB; without `low` it is a quarter of `high`. Raises ValueError for\n\
                 a mark below 0 and for `low` above `high`."
            ),
            method!(
                TlsTransport,
                "_force_close",
                force_close,
                "_force_close($self, /, exc)\n--\n\n\
                 Like abort(), with the exception for connection_lost()."
            ),
            method!(
                TlsTransport,
                "_test__append_write_backlog",
                append_to_backlog,
                "_test__append_write_backlog($self, /, data)\n--\n\n\
                 Keep bytes as if they could not be encrypted yet. CPython's own tests have transports do this."
            ),
        ]
    }

    fn getters() -> Vec<raw::PyGetSetDef> {
        vec![
            getter!(TlsTransport, "_loop", loop_attribute),
            getter!(TlsTransport, "_ssl_protocol", ssl_protocol_attribute),
            getter!(TlsTransport, "_closed", closed_attribute),
            getter!(TlsTransport, "_protocol_paused", protocol_paused_attribute),
            getter!(TlsTransport, "_start_tls_compatible", start_tls_compatible),
            getter!(TlsTransport, "_sendfile_compatible", sendfile_compatible),
        ]
    }

    fn traverse(&self, visitor: &mut Visitor) {
        visitor.visit(self.tls.as_py());
    }

    fn clear(&self, _py: Python<'_>) {
        // A cycle through here goes through the protocol, which lets go.
    }

    fn finalize(this: &Object<Self>, py: Python<'_>) {
        if this.get().closed.swap(true, Ordering::Relaxed) {
            return;
        }
        let message = "unclosed transport <whilst.SSLTransport object>";
        let warned = WARN.get(py).and_then(|warn| warn.call1((message, py.get_type::<PyResourceWarning>())));
        if let Err(error) = warned {
            error.write_unraisable(py, Some(this.bind(py)));
        }
    }
}

fn size(py: Python<'_>, value: usize) -> Answer {
    Ok(value.into_pyobject(py)?.into_any().unbind())
}

fn write<'py>(this: &Object<TlsTransport>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [data] = arguments.take("write", ["data"], 1)?;
    let piece = piece(data.expect("required"))?;
    let tls = &this.get().tls;
    if !piece.as_bytes().is_empty() && !tls.get().drops_writes(py)? {
        Tls::write_pieces(tls, py, [piece])?;
    }
    none(py)
}

fn write_lines<'py>(this: &Object<TlsTransport>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [lines] = arguments.take("writelines", ["list_of_data"], 1)?;
    let tls = &this.get().tls;
    if tls.get().drops_writes(py)? {
        return none(py);
    }
    let mut pieces = Vec::new();
    for line in lines.expect("required").try_iter()? {
        let piece = piece(&line?)?;
        if !piece.as_bytes().is_empty() {
            pieces.push(piece);
        }
    }
    if !pieces.is_empty() {
        Tls::write_pieces(tls, py, pieces)?;
    }
    none(py)
}

/// The bytes of `data`. Raises `TypeError`, in CPython's words, for what is not bytes-like.
fn piece<'py>(data: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
    if data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
    {
        return snapshot(data);
    }
    let name = data.get_type().name()?;
    Err(PyTypeError::new_err(format!("data: expecting a bytes-like instance, got {name}")))
}

fn append_to_backlog<'py>(
    this: &Object<TlsTransport>,
    py: Python<'py>,
    arguments: Arguments<'_, 'py>,
) -> Answer {
    let [data] = arguments.take("_test__append_write_backlog", ["data"], 1)?;
    let piece = piece(data.expect("required"))?;
    this.get().tls.get().state.with(py, |state| state.backlog.push(piece));
    none(py)
}

fn write_eof(_this: &Object<TlsTransport>, _py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("write_eof", [], 0)?;
    Err(PyNotImplementedError::new_err(()))
}

fn can_write_eof(_this: &Object<TlsTransport>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("can_write_eof", [], 0)?;
    boolean(py, false)
}

fn close(this: &Object<TlsTransport>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("close", [], 0)?;
    let tls = &this.get().tls;
    if this.get().closed.swap(true, Ordering::Relaxed) {
        // Who closes once more is done with it: the context goes even if the transport is kept, by a protocol that a loop which has
        // stopped has yet to tell of the end. CPython's transport forgets its connection altogether.
        drop(tls.get().state.with(py, |state| state.extra.take()));
    } else {
        Tls::start_shutdown(tls, py)?;
    }
    none(py)
}

fn abort(this: &Object<TlsTransport>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("abort", [], 0)?;
    this.get().set_closed();
    Tls::abort(&this.get().tls, py, None)?;
    none(py)
}

fn force_close<'py>(this: &Object<TlsTransport>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [exception] = arguments.take("_force_close", ["exc"], 1)?;
    this.get().set_closed();
    Tls::abort(&this.get().tls, py, exception.filter(|exception| !exception.is_none()))?;
    none(py)
}

fn is_closing(this: &Object<TlsTransport>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("is_closing", [], 0)?;
    // The transport below may have been closed past this one (CPython asks it from 3.14 on).
    let closing = this.get().is_closed()
        || this.get().tls.get().lower(py).map_or(Ok(false), |lower| lower.is_closing(py))?;
    boolean(py, closing)
}

fn pause_reading(this: &Object<TlsTransport>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("pause_reading", [], 0)?;
    this.get().tls.get().state.with(py, |state| state.app_reading_paused = true);
    none(py)
}

fn resume_reading(this: &Object<TlsTransport>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("resume_reading", [], 0)?;
    Tls::resume_reading(&this.get().tls, py)?;
    none(py)
}

fn is_reading(this: &Object<TlsTransport>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("is_reading", [], 0)?;
    boolean(py, !this.get().tls.get().state.with(py, |state| state.app_reading_paused))
}

fn set_protocol<'py>(this: &Object<TlsTransport>, py: Python<'py>, arguments: Arguments<'_, 'py>) -> Answer {
    let [protocol] = arguments.take("set_protocol", ["protocol"], 1)?;
    this.get().tls.get().set_app_protocol(protocol.expect("required"))?;
    none(py)
}

fn get_protocol(this: &Object<TlsTransport>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("get_protocol", [], 0)?;
    super::protocol::app_protocol_attribute(&this.get().tls, py)
}

fn get_extra_info<'py>(
    this: &Object<TlsTransport>,
    py: Python<'py>,
    arguments: Arguments<'_, 'py>,
) -> Answer {
    let [name, default] = arguments.take("get_extra_info", ["name", "default"], 1)?;
    let name = name.expect("required");
    let (extra, lower) = this.get().tls.get().state.with(py, |state| {
        (
            state.extra.as_ref().map(|extra| extra.clone_ref(py)),
            state.lower.as_ref().map(|lower| lower.clone_ref(py)),
        )
    });
    if let Some(extra) = extra
        && let Some(value) = extra.bind(py).get_item(name)?
    {
        return Ok(value.unbind());
    }
    match lower {
        Some(lower) => {
            let lower = lower.object().bind(py);
            Ok(lower.call_method1(intern!(py, "get_extra_info"), (name, default))?.unbind())
        }
        None => Ok(default.map_or_else(|| py.None(), |default| default.clone().unbind())),
    }
}

fn get_write_buffer_size(
    this: &Object<TlsTransport>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> Answer {
    arguments.take("get_write_buffer_size", [], 0)?;
    size(py, this.get().tls.get().write_buffer_size(py)?)
}

fn get_write_buffer_limits(
    this: &Object<TlsTransport>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> Answer {
    arguments.take("get_write_buffer_limits", [], 0)?;
    let marks = this.get().tls.get().state.with(py, |state| state.outgoing);
    Ok((marks.low, marks.high).into_pyobject(py)?.into_any().unbind())
}

fn get_read_buffer_size(this: &Object<TlsTransport>, py: Python<'_>, arguments: Arguments<'_, '_>) -> Answer {
    arguments.take("get_read_buffer_size", [], 0)?;
    size(py, this.get().tls.get().engine(py).map_or(Ok(0), |engine| engine.unread(py))?)
}

fn get_read_buffer_limits(
    this: &Object<TlsTransport>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> Answer {
    arguments.take("get_read_buffer_limits", [], 0)?;
    let marks = this.get().tls.get().state.with(py, |state| state.incoming);
    Ok((marks.low, marks.high).into_pyobject(py)?.into_any().unbind())
}

/// `high` and `low` as they were given.
fn limits(function: &str, arguments: Arguments<'_, '_>) -> PyResult<(Option<i64>, Option<i64>)> {
    let given = arguments.take(function, ["high", "low"], 0)?;
    let [high, low] =
        given.map(|limit| limit.filter(|limit| !limit.is_none()).map(|limit| limit.extract::<i64>()));
    Ok((high.transpose()?, low.transpose()?))
}

fn set_write_buffer_limits<'py>(
    this: &Object<TlsTransport>,
    py: Python<'py>,
    arguments: Arguments<'_, 'py>,
) -> Answer {
    let (high, low) = limits("set_write_buffer_limits", arguments)?;
    let marks = marks(high, low, OUTGOING_KIB)?;
    let tls = &this.get().tls;
    tls.get().state.with(py, |state| state.outgoing = marks);
    Tls::control_app_writing(tls, py)?;
    none(py)
}

fn set_read_buffer_limits<'py>(
    this: &Object<TlsTransport>,
    py: Python<'py>,
    arguments: Arguments<'_, 'py>,
) -> Answer {
    let (high, low) = limits("set_read_buffer_limits", arguments)?;
    let marks = marks(high, low, INCOMING_KIB)?;
    let tls = &this.get().tls;
    tls.get().state.with(py, |state| state.incoming = marks);
    Tls::control_lower_reading(tls, py)?;
    none(py)
}

fn loop_attribute(this: &Object<TlsTransport>, py: Python<'_>) -> Answer {
    Ok(this.get().tls.get().event_loop(py).map_or_else(|_| py.None(), Py::into_any))
}

fn ssl_protocol_attribute(this: &Object<TlsTransport>, py: Python<'_>) -> Answer {
    Ok(this.get().tls.clone_ref(py).into_any())
}

fn closed_attribute(this: &Object<TlsTransport>, py: Python<'_>) -> Answer {
    boolean(py, this.get().is_closed())
}

fn protocol_paused_attribute(this: &Object<TlsTransport>, py: Python<'_>) -> Answer {
    boolean(py, this.get().tls.get().state.with(py, |state| state.app_writing_paused))
}

fn start_tls_compatible(_this: &Object<TlsTransport>, py: Python<'_>) -> Answer {
    boolean(py, true)
}

/// `asyncio.constants._SendfileMode.FALLBACK`: `loop.sendfile()` reads the file and writes it, since it must be encrypted.
fn sendfile_compatible(_this: &Object<TlsTransport>, py: Python<'_>) -> Answer {
    static MODE: Import = Import::new("asyncio.constants", "_SendfileMode");
    Ok(MODE.get(py)?.getattr(intern!(py, "FALLBACK"))?.unbind())
}

/// `<SSLTransport WRAPPED over <StreamTransport fd=7 read=polling write=<idle, bufsize=0>>>`.
fn repr(this: &Object<TlsTransport>, py: Python<'_>) -> Answer {
    let tls = this.get().tls.get();
    let mut text = String::from("<SSLTransport");
    let lower = tls.lower(py);
    if this.get().is_closed() {
        text.push_str(if lower.is_some() { " closing" } else { " closed" });
    }
    if let Some(lower) = lower {
        text.push_str(&format!(" {} over {}", tls.phase(py).name(), lower.object().bind(py).repr()?));
    }
    Ok(PyString::new(py, &(text + ">")).into_any().unbind())
}
