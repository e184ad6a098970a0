//! An engine that calls libssl itself, on what is inside of an `ssl.SSLObject`.
//!
//! Only what there is a lot of is done so: application's data. The handshake and the end are the Python object's calls, and so is
//! every call that fails, so that exceptions are CPython's own: a call that fails here is made there once more, and has the same
//! outcome ([`Outcome::Failed`]).

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyMemoryView};

use super::engine::{Engine, Progress, Stop};
use super::ssl_object::SslObject;
use crate::ffi::buffer::{WritableBuffer, rest};
use crate::ffi::bytes::{self, Unfinished};
use crate::ffi::class::Visitor;
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::ffi::libssl::{Connection, Outcome, Turn, watch_for_ssl};
use crate::ffi::memory_bio::MemoryBio;

/// The most that one TLS record carries, in bytes (RFC 8446, 5.1).
const RECORD: usize = 16 * 1024;

/// How many bytes are encrypted into one `bytes` object at most. Larger ones do not stay in the processor's cache until they are
/// sent.
const MOST: usize = 16 * RECORD;

/// After so many bytes other threads have their turn. (CPython lets go of the GIL for every call of OpenSSL, which costs more than
/// encrypting what is small.)
const WITHOUT_A_BREAK: usize = 1 << 20;

/// What a record takes beside its bytes, in TLS 1.3: a header of 5 bytes, the type of what is inside, and a tag of 16.
const OVERHEAD: usize = 5 + 1 + 16;

pub(super) struct LibsslEngine {
    object: SslObject,
    connection: Connection,
    /// What is encrypted, before anything that waits inside of the connection.
    encrypted: Guarded<Encrypted>,
    /// What a record has been seen to take beside its bytes.
    overhead: AtomicUsize,
}

#[derive(Default)]
struct Encrypted {
    pieces: VecDeque<Py<PyBytes>>,
    length: usize,
}

/// An end of a connection under `context`, an `ssl.SSLContext`: an `ssl.SSLObject`, and what is known of it.
pub(super) enum Made {
    Libssl(LibsslEngine),
    /// It cannot be called: the object, and what it reads and writes.
    Other(SslObject, MemoryBio, MemoryBio),
}

impl LibsslEngine {
    /// One end of a connection under `context`, an `ssl.SSLContext`.
    pub(super) fn make(
        context: &Bound<'_, PyAny>,
        server_side: bool,
        server_hostname: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Made> {
        let py = context.py();
        let incoming = MemoryBio::new(py)?;
        let outgoing = MemoryBio::new(py)?;
        let make = || SslObject::new(context, &incoming, &outgoing, server_side, server_hostname);
        let (object, ssl) = watch_for_ssl(py, make);
        let object = object?;
        let (Some(ssl), Some(behind)) = (ssl, object.behind(py)) else {
            return Ok(Made::Other(object, incoming, outgoing));
        };
        if watches_messages(context)? {
            return Ok(Made::Other(object, incoming, outgoing));
        }
        match ssl.take_over(behind, &incoming, &outgoing)? {
            Some(connection) => Ok(Made::Libssl(Self {
                object,
                connection,
                encrypted: Guarded::new(Encrypted::default()),
                overhead: AtomicUsize::new(OVERHEAD),
            })),
            None => Ok(Made::Other(object, incoming, outgoing)),
        }
    }

    /// Decrypts all there is.
    fn decrypt<'py>(
        &self,
        py: Python<'py>,
        turn: &Turn<'_>,
    ) -> PyResult<(Option<Bound<'py, PyBytes>>, Stop)> {
        let mut first = None;
        let mut others = Vec::new();
        let mut keep = |part: Bound<'py, PyBytes>| match &first {
            None => first = Some(part),
            Some(_) => others.push(part),
        };
        let stop = loop {
            let room = turn.readable(py);
            if room == 0 {
                break Stop::Again;
            }
            let mut part = Unfinished::new(py, room)?;
            let (count, outcome) = turn.read_bytes(py, &mut part);
            if count > 0 {
                keep(part.finish(py, count)?);
            }
            match outcome {
                // What is decrypted takes no more room than before, or else it was compressed.
                Outcome::Done => {}
                Outcome::Again => break Stop::Again,
                Outcome::Closed => break Stop::Closed,
                Outcome::Failed => {
                    let size = RECORD.into_pyobject(py)?;
                    let Some(part) = self.object.call(py, intern!(py, "read"), [size.as_any()])? else {
                        break Stop::Again;
                    };
                    let part = part.cast_into::<PyBytes>()?;
                    if part.as_bytes().is_empty() {
                        break Stop::Closed;
                    }
                    keep(part);
                }
            }
        };
        let Some(first) = first else { return Ok((None, stop)) };
        if others.is_empty() {
            return Ok((Some(first), stop));
        }
        let parts: Vec<&[u8]> = std::iter::once(&first).chain(&others).map(|part| part.as_bytes()).collect();
        Ok((Some(bytes::concat(py, &parts)?), stop))
    }

    /// Encrypts `data`. If that is not done, it is not taken, and is to be given again.
    fn encrypt(&self, py: Python<'_>, turn: &Turn<'_>, data: &[u8]) -> PyResult<Outcome> {
        // What was sent before it must leave before it.
        let before = turn.take_unsent();
        if !before.is_empty() {
            self.keep(py, PyBytes::new(py, &before));
        }
        let records = data.len().div_ceil(RECORD);
        let overhead = self.overhead.load(Ordering::Relaxed);
        let mut piece = Unfinished::new(py, data.len() + records * overhead)?;
        let (filled, outcome) = turn.write(py, data, &mut piece);
        if filled > 0 {
            self.keep(py, piece.finish(py, filled)?);
        }
        let more = self.connection.unsent();
        if outcome == Outcome::Done && more > 0 {
            // It did not fit.
            let seen = (filled + more).saturating_sub(data.len()).div_ceil(records);
            self.overhead.fetch_max(seen, Ordering::Relaxed);
        }
        Ok(outcome)
    }

    fn keep(&self, py: Python<'_>, piece: Bound<'_, PyBytes>) {
        self.encrypted.with(py, |encrypted| {
            encrypted.length += piece.as_bytes().len();
            encrypted.pieces.push_back(piece.unbind());
        });
    }
}

impl Engine for LibsslEngine {
    fn name(&self) -> &'static str {
        "libssl"
    }

    fn handshake(&self, py: Python<'_>) -> PyResult<Progress> {
        let Some(_turn) = self.connection.turn() else { return Ok(Progress::Again) };
        self.object.handshake(py)
    }

    fn may_read(&self, py: Python<'_>) -> PyResult<bool> {
        Ok(self.connection.turn().is_some_and(|turn| turn.readable(py) > 0))
    }

    fn read<'py>(
        &self,
        py: Python<'py>,
        received: &[&[u8]],
    ) -> PyResult<(Option<Bound<'py, PyBytes>>, Stop)> {
        let Some(turn) = self.connection.turn() else {
            received.iter().for_each(|bytes| self.connection.feed(bytes));
            return Ok((None, Stop::Again));
        };
        turn.with_received(received, || self.decrypt(py, &turn))
    }

    fn read_into(&self, py: Python<'_>, buffer: &Bound<'_, PyAny>) -> PyResult<(usize, Stop)> {
        let Some(turn) = self.connection.turn() else { return Ok((0, Stop::Again)) };
        let mut memory = WritableBuffer::of(buffer)?;
        let mut count = 0;
        loop {
            let (read, outcome) = turn.read_into(py, &mut memory, count);
            count += read;
            match outcome {
                Outcome::Done => return Ok((count, Stop::Full)),
                Outcome::Again => return Ok((count, Stop::Again)),
                Outcome::Closed => return Ok((count, Stop::Closed)),
                Outcome::Failed => {
                    let size = RECORD.min(memory.length() - count).into_pyobject(py)?;
                    let Some(part) = self.object.call(py, intern!(py, "read"), [size.as_any()])? else {
                        return Ok((count, Stop::Again));
                    };
                    let part = part.cast_into::<PyBytes>()?;
                    let part = part.as_bytes();
                    if part.is_empty() {
                        return Ok((count, Stop::Closed));
                    }
                    memory.bytes(py)[count..count + part.len()].copy_from_slice(part);
                    count += part.len();
                }
            }
        }
    }

    fn write(&self, py: Python<'_>, data: &Bound<'_, PyBytes>, start: usize) -> PyResult<usize> {
        // Called out of OpenSSL: it is given again when the call that is under way is over.
        let Some(turn) = self.connection.turn() else { return Ok(0) };
        let bytes = data.as_bytes();
        let mut taken = start;
        while taken < bytes.len() {
            let part = &bytes[taken..bytes.len().min(taken + MOST)];
            match self.encrypt(py, &turn, part)? {
                Outcome::Done => {
                    taken += part.len();
                    if (taken - start).is_multiple_of(WITHOUT_A_BREAK) {
                        py.detach(|| {});
                    }
                }
                Outcome::Again => break,
                Outcome::Closed | Outcome::Failed => {
                    let view = PyMemoryView::from(data.as_any())?;
                    let view = rest(view.as_any(), taken)?;
                    match self.object.call(py, intern!(py, "write"), [&view])? {
                        Some(count) => taken += count.extract::<usize>()?,
                        None => break,
                    }
                }
            }
        }
        Ok(taken.min(bytes.len()) - start)
    }

    fn shut_down(&self, py: Python<'_>) -> PyResult<Progress> {
        let Some(_turn) = self.connection.turn() else { return Ok(Progress::Again) };
        self.object.shut_down(py)
    }

    fn feed(&self, _py: Python<'_>, received: &[u8]) -> PyResult<()> {
        self.connection.feed(received);
        Ok(())
    }

    fn unread(&self, _py: Python<'_>) -> PyResult<usize> {
        Ok(self.connection.unread())
    }

    fn unsent(&self, py: Python<'_>) -> PyResult<usize> {
        Ok(self.encrypted.with(py, |encrypted| encrypted.length) + self.connection.unsent())
    }

    fn take_unsent<'py>(&self, py: Python<'py>) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let piece = self.encrypted.with(py, |encrypted| {
            let piece = encrypted.pieces.pop_front()?;
            encrypted.length -= piece.as_bytes(py).len();
            Some(piece)
        });
        if let Some(piece) = piece {
            return Ok(Some(piece.into_bound(py)));
        }
        // In the middle of a call more may come before what there is.
        let Some(turn) = self.connection.turn() else { return Ok(None) };
        let bytes = turn.take_unsent();
        Ok((!bytes.is_empty()).then(|| PyBytes::new(py, &bytes)))
    }

    fn ssl_object<'py>(&self, py: Python<'py>) -> Bound<'py, PyAny> {
        self.object.bind(py).clone()
    }

    fn traverse(&self, visitor: &mut Visitor) {
        self.object.traverse(visitor);
        visitor.visit(self.connection.object());
    }
}

/// True if the context has a function of Python that sees every message (`_msg_callback`), what it raises being kept for the next
/// call of CPython's.
fn watches_messages(context: &Bound<'_, PyAny>) -> PyResult<bool> {
    static CONTEXT: Import = Import::new("_ssl", "_SSLContext");
    let py = context.py();
    let callback = CONTEXT.get(py)?.getattr(intern!(py, "_msg_callback"))?;
    Ok(!callback.call_method1(intern!(py, "__get__"), (context,))?.is_none())
}
