//! An engine that works by the methods of Python's objects: an `ssl.SSLObject` between two `ssl.MemoryBIO`. It is there for whatever
//! [`super::libssl`] does not take.

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use super::engine::{Engine, Progress, Stop};
use super::ssl_object::SslObject;
use crate::ffi::buffer::rest;
use crate::ffi::bytes;
use crate::ffi::call::call_method;
use crate::ffi::class::Visitor;
use crate::ffi::memory_bio::MemoryBio;

/// The most that one TLS record carries, in bytes (RFC 8446, 5.1): what one read can give.
const RECORD: usize = 16 * 1024;

/// How many bytes one read asks an object of somebody else's class for, as in CPython (`SSLProtocol.max_size`).
const MOST: usize = 256 * 1024;

pub(super) struct MemoryBioEngine {
    incoming: MemoryBio,
    outgoing: MemoryBio,
    object: SslObject,
}

impl MemoryBioEngine {
    /// One that works by `object`, which was made for these two.
    pub(super) fn new(object: SslObject, incoming: MemoryBio, outgoing: MemoryBio) -> Self {
        Self { incoming, outgoing, object }
    }

    /// How many bytes to ask for at once: what one record may carry, and no more than can have arrived, as CPython makes an
    /// object of the full size first. (Encryption makes longer; compression, which has long been off, is no reason for
    /// an error, only for one more read.) `None` if there is surely nothing to read: no byte of the peer's that was not looked at,
    /// and none that is decrypted. It spares an exception that says so.
    fn readable(&self, py: Python<'_>) -> PyResult<Option<usize>> {
        let Some(behind) = self.object.behind(py) else { return Ok(Some(MOST)) };
        let decrypted: usize = call_method(behind, intern!(py, "pending"), [])?.extract()?;
        let size = self.incoming.pending(py)? + decrypted;
        Ok((size > 0).then(|| size.min(RECORD)))
    }
}

impl Engine for MemoryBioEngine {
    fn name(&self) -> &'static str {
        "memory_bio"
    }

    fn handshake(&self, py: Python<'_>) -> PyResult<Progress> {
        self.object.handshake(py)
    }

    fn may_read(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.readable(py)?.is_some())
    }

    fn read<'py>(
        &self,
        py: Python<'py>,
        received: &[&[u8]],
    ) -> PyResult<(Option<Bound<'py, PyBytes>>, Stop)> {
        received.iter().try_for_each(|bytes| self.incoming.write(py, bytes))?;
        let mut first = None;
        let mut others = Vec::new();
        let stop = loop {
            let Some(size) = self.readable(py)? else { break Stop::Again };
            let size = size.into_pyobject(py)?;
            let Some(chunk) = self.object.call(py, intern!(py, "read"), [size.as_any()])? else {
                break Stop::Again;
            };
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
            let place = if count == 0 { view.clone() } else { rest(&view, count)? };
            let size = (room - count).into_pyobject(py)?;
            let read = self.object.call(py, intern!(py, "read"), [size.as_any(), &place])?;
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
        // CPython's object takes all, unless it is more than a C int counts; another may take a part. What is left is given in views.
        let view = if length - start > RECORD || start > 0 {
            Some(PyMemoryView::from(data.as_any())?)
        } else {
            None
        };
        while taken < length {
            let part = match &view {
                Some(view) => rest(view.as_any(), taken)?,
                None => data.as_any().clone(),
            };
            match self.object.call(py, intern!(py, "write"), [&part])? {
                Some(count) => taken += count.extract::<usize>()?,
                None => break,
            }
        }
        Ok(taken.min(length) - start)
    }

    fn shut_down(&self, py: Python<'_>) -> PyResult<Progress> {
        self.object.shut_down(py)
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
        self.object.traverse(visitor);
    }
}
