//! An engine over Python's `ssl` module: an `ssl.SSLObject` between two `ssl.MemoryBIO`.
//!
//! The object is whatever the context's `wrap_bio()` returns, so a subclass of `ssl.SSLContext` or of `ssl.SSLObject`
//! (`sslobject_class`) has its say. If it is an `ssl.SSLObject` and no subclass, whose methods do nothing but call the C object of
//! the same interface behind it (`_sslobj`), that one is called without the detour.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyMemoryView, PySlice, PyString};

use super::engine::{Engine, Progress, Stop};
use crate::ffi::bytes;
use crate::ffi::call::call_method;
use crate::ffi::class::Visitor;
use crate::ffi::imports::Import;
use crate::ffi::memory_bio::MemoryBio;

/// The most that one TLS record carries, in bytes (RFC 8446, 5.1): what one read can give and one write can take.
const RECORD: usize = 16 * 1024;

/// How many bytes one read asks an object of somebody else's class for, as in CPython (`SSLProtocol.max_size`).
const MOST: usize = 256 * 1024;

pub(super) struct MemoryBioEngine {
    incoming: MemoryBio,
    outgoing: MemoryBio,
    object: Py<PyAny>,
    /// Whom to call: `object`, or the C object behind it.
    target: Py<PyAny>,
    /// The target is the C object.
    direct: bool,
}

impl MemoryBioEngine {
    /// One end of a connection under `context`, an `ssl.SSLContext`.
    pub(super) fn new(
        context: &Bound<'_, PyAny>,
        server_side: bool,
        server_hostname: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Self> {
        static SSL_OBJECT: Import = Import::new("ssl", "SSLObject");
        let py = context.py();
        let incoming = MemoryBio::new(py)?;
        let outgoing = MemoryBio::new(py)?;
        let keywords = PyDict::new(py);
        keywords.set_item(intern!(py, "server_side"), server_side)?;
        keywords.set_item(intern!(py, "server_hostname"), server_hostname)?;
        let object = context.call_method(
            intern!(py, "wrap_bio"),
            (incoming.object(), outgoing.object()),
            Some(&keywords),
        )?;
        let behind = if object.get_type().is(SSL_OBJECT.get(py)?) {
            object.getattr(intern!(py, "_sslobj")).ok()
        } else {
            None
        };
        let direct = behind.is_some();
        let target = behind.unwrap_or_else(|| object.clone()).unbind();
        Ok(Self { incoming, outgoing, object: object.unbind(), target, direct })
    }

    fn call<'py, const N: usize>(
        &self,
        py: Python<'py>,
        name: &Bound<'py, PyString>,
        arguments: [&Bound<'py, PyAny>; N],
    ) -> PyResult<Option<Bound<'py, PyAny>>> {
        match call_method(self.target.bind(py), name, arguments) {
            Ok(result) => Ok(Some(result)),
            Err(error) if is_again(py, &error)? => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How many bytes to ask for at once: what one record may carry, and no more than can have arrived, as CPython makes an
    /// object of the full size first. (Encryption makes longer; compression, which has long been off, is no reason for
    /// an error, only for one more read.) `None` if there is surely nothing to read: no byte of the peer's that was not looked at,
    /// and none that is decrypted. It spares an exception that says so.
    fn readable(&self, py: Python<'_>) -> PyResult<Option<usize>> {
        if !self.direct {
            return Ok(Some(MOST));
        }
        let decrypted: usize = call_method(self.target.bind(py), intern!(py, "pending"), [])?.extract()?;
        let size = self.incoming.pending(py)? + decrypted;
        Ok((size > 0).then(|| size.min(RECORD)))
    }
}

impl Engine for MemoryBioEngine {
    fn handshake(&self, py: Python<'_>) -> PyResult<Progress> {
        Ok(progress(self.call(py, intern!(py, "do_handshake"), [])?))
    }

    fn may_read(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.readable(py)?.is_some())
    }

    fn read<'py>(&self, py: Python<'py>) -> PyResult<(Option<Bound<'py, PyBytes>>, Stop)> {
        let mut first = None;
        let mut others = Vec::new();
        let stop = loop {
            let Some(size) = self.readable(py)? else { break Stop::Again };
            let size = size.into_pyobject(py)?;
            let Some(chunk) = self.call(py, intern!(py, "read"), [size.as_any()])? else { break Stop::Again };
            let chunk = chunk.cast_into::<PyBytes>()?;
            if chunk.as_bytes().is_empty() {
                break Stop::Closed;
            }
            match &first {
                None => first = Some(chunk),
                Some(_) => others.push(chunk),
            }
        };
        let Some(first) = first else { return Ok((None, stop)) };
        if others.is_empty() {
            return Ok((Some(first), stop));
        }
        let parts: Vec<&[u8]> = std::iter::once(&first).chain(&others).map(|part| part.as_bytes()).collect();
        Ok((Some(bytes::concat(py, &parts)?), stop))
    }

    fn read_into(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>) -> PyResult<(usize, Stop)> {
        let view = PyMemoryView::from(buffer)?;
        let view = if view.getattr(intern!(py, "itemsize"))?.extract::<usize>()? == 1 {
            view.into_any()
        } else {
            view.call_method1(intern!(py, "cast"), ("B",))?
        };
        let room = view.len()?;
        let mut count = 0;
        let stop = loop {
            if self.readable(py)?.is_none() {
                break Stop::Again;
            }
            let place = if count == 0 { view.clone() } else { from(&view, count)? };
            let size = (room - count).into_pyobject(py)?;
            let read = self.call(py, intern!(py, "read"), [size.as_any(), &place])?;
            let Some(read) = read else { break Stop::Again };
            let read: usize = read.extract()?;
            if read == 0 {
                break Stop::Closed;
            }
            count += read;
            if count >= room {
                break Stop::Full;
            }
        };
        Ok((count, stop))
    }

    fn write(&self, py: Python<'_>, data: &Bound<'_, PyBytes>, start: usize) -> PyResult<usize> {
        let length = data.as_bytes().len();
        let mut taken = start;
        // One write takes a record's worth. What is longer is given in views, not in copies of all that is left.
        let view = if length - start > RECORD || start > 0 {
            Some(PyMemoryView::from(data.as_any())?)
        } else {
            None
        };
        while taken < length {
            let part = match &view {
                Some(view) => from(view.as_any(), taken)?,
                None => data.as_any().clone(),
            };
            match self.call(py, intern!(py, "write"), [&part])? {
                Some(count) => taken += count.extract::<usize>()?,
                None => break,
            }
        }
        Ok(taken.min(length) - start)
    }

    fn shut_down(&self, py: Python<'_>) -> PyResult<Progress> {
        let name = if self.direct { intern!(py, "shutdown") } else { intern!(py, "unwrap") };
        Ok(progress(self.call(py, name, [])?))
    }

    fn feed(&self, py: Python<'_>, received: &[u8]) -> PyResult<()> {
        self.incoming.write(py, received)
    }

    fn unread(&self, py: Python<'_>) -> PyResult<usize> {
        self.incoming.pending(py)
    }

    fn unsent(&self, py: Python<'_>) -> PyResult<usize> {
        self.outgoing.pending(py)
    }

    fn take_unsent<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        if self.outgoing.pending(py)? == 0 { Ok(None) } else { self.outgoing.read(py).map(Some) }
    }

    fn ssl_object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.object.bind(py).clone()
    }

    fn traverse(&self, visitor: &mut Visitor) {
        visitor.visit(self.incoming.object());
        visitor.visit(self.outgoing.object());
        visitor.visit(&self.object);
        visitor.visit(&self.target);
    }
}

fn progress<T>(result: Option<T>) -> Progress {
    if result.is_some() { Progress::Done } else { Progress::Again }
}

/// `view[start:]`.
fn from<'py>(view: &Bound<'py, PyAny>, start: usize) -> PyResult<Bound<'py, PyAny>> {
    // By the class: `PySlice::new` of PyO3 0.30 never lets go of the numbers that it makes.
    let slice = view.py().get_type::<PySlice>().call1((start, view.py().None()))?;
    view.get_item(slice)
}

/// True if the exception only says that more is wanted from the peer (`SSLAgainErrors` in CPython's `asyncio/sslproto.py`).
fn is_again(py: Python<'_>, error: &PyErr) -> PyResult<bool> {
    static WANT_READ: Import = Import::new("ssl", "SSLWantReadError");
    static SYSTEM_CALL: Import = Import::new("ssl", "SSLSyscallError");
    Ok(error.is_instance(py, WANT_READ.get(py)?) || error.is_instance(py, SYSTEM_CALL.get(py)?))
}
