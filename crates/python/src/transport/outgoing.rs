//! Bytes on their way out.

use std::collections::{VecDeque, vec_deque};
use std::io::IoSlice;

use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyMemoryView};
use whilst_engine::driver::Payload;

use crate::ffi::bytes::{self, contents};

/// How many pieces one send takes at most; more than the kernel's own limit (`UIO_MAXIOV`, 1024) would be refused, and past
/// some tens a further piece saves little.
const MOST_SLICES: usize = 128;

/// Two pieces that are no longer than this together become one: a server's head of an answer and its short body, say. The copy costs
/// less than the room for a second piece and a vectored send, which the kernel takes 80 ns more for.
const JOINED: usize = 1024;

/// What was written to a transport and is not yet sent: `bytes` objects, kept rather than copied.
///
/// Most sends are of one piece, which needs no memory of its own.
#[derive(Default)]
pub(crate) struct Outgoing {
    first: Option<Py<PyBytes>>,
    /// Empty unless there is a first one.
    others: Others,
    /// How many bytes of the first piece are sent already.
    sent: usize,
    /// How many bytes there are to send.
    length: usize,
    /// Somebody waits for the end of the send, so that it should be told at once.
    pub(crate) awaited: bool,
}

/// The pieces behind the first, with no more than a pointer's room where there never were any.
#[derive(Default)]
#[expect(clippy::box_collection, reason = "an idle connection has none, and should have no room for one")]
struct Others(Option<Box<VecDeque<Py<PyBytes>>>>);

impl Others {
    fn len(&self) -> usize {
        self.0.as_ref().map_or(0, |pieces| pieces.len())
    }

    fn push_back(&mut self, piece: Py<PyBytes>) {
        self.0.get_or_insert_default().push_back(piece);
    }

    fn pop_front(&mut self) -> Option<Py<PyBytes>> {
        self.0.as_mut()?.pop_front()
    }

    fn append(&mut self, other: &mut Self) {
        if let Some(pieces) = &mut other.0 {
            self.0.get_or_insert_default().append(pieces);
        }
    }
}

impl<'a> IntoIterator for &'a Others {
    type Item = &'a Py<PyBytes>;
    type IntoIter = vec_deque::Iter<'a, Py<PyBytes>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.as_ref().map_or_else(vec_deque::Iter::default, |pieces| pieces.iter())
    }
}

impl IntoIterator for Others {
    type Item = Py<PyBytes>;
    type IntoIter = vec_deque::IntoIter<Py<PyBytes>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.map_or_else(VecDeque::new, |pieces| *pieces).into_iter()
    }
}

/// Pieces that are done with.
#[derive(Default)]
pub(crate) struct Done {
    first: Option<Py<PyBytes>>,
    others: Vec<Py<PyBytes>>,
}

impl Done {
    fn add(&mut self, piece: Py<PyBytes>) {
        if self.first.is_none() {
            self.first = Some(piece);
        } else {
            self.others.push(piece);
        }
    }

    /// Lets go of the pieces.
    pub(crate) fn release(self, py: Python<'_>) {
        self.first.into_iter().chain(self.others).for_each(|piece| piece.drop_ref(py));
    }
}

impl Outgoing {
    /// Nothing to send, the end of which is awaited or not.
    pub(crate) fn empty(awaited: bool) -> Self {
        Self { awaited, ..Self::default() }
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds a piece that is not empty.
    pub(crate) fn push(&mut self, piece: Bound<'_, PyBytes>) {
        self.length += piece.as_bytes().len();
        if let Some(first) = &mut self.first
            && self.length <= JOINED
            && self.sent == 0
            && self.others.len() == 0
            && let Ok(joined) = bytes::concat(piece.py(), &[contents(first), piece.as_bytes()])
        {
            std::mem::replace(first, joined.unbind()).drop_ref(piece.py());
            return;
        }
        self.add(piece.unbind());
    }

    fn add(&mut self, piece: Py<PyBytes>) {
        if self.first.is_none() {
            self.first = Some(piece);
        } else {
            self.others.push_back(piece);
        }
    }

    /// Adds all of `other` behind what is here.
    pub(crate) fn append(&mut self, mut other: Self) {
        debug_assert!(other.sent == 0, "only what was never sent comes behind");
        self.length += other.length;
        if let Some(first) = other.first {
            self.add(first);
            self.others.append(&mut other.others);
        }
    }

    /// Lets go of all pieces.
    pub(crate) fn release(self, py: Python<'_>) {
        self.first.into_iter().chain(self.others).for_each(|piece| piece.drop_ref(py));
    }

    /// Takes off the first `count` bytes; returns the pieces that are done with.
    pub(crate) fn advance(&mut self, py: Python<'_>, count: usize) -> Done {
        self.length -= count;
        let mut done = Done::default();
        let mut sent = self.sent + count;
        while let Some(first) = &self.first {
            let length = first.as_bytes(py).len();
            if sent < length {
                break;
            }
            sent -= length;
            let next = self.others.pop_front();
            if let Some(first) = std::mem::replace(&mut self.first, next) {
                done.add(first);
            }
        }
        self.sent = sent;
        done
    }
}

impl Outgoing {
    /// What is to be sent, in order, as far as it goes into one system call.
    pub(crate) fn io_slices(&self) -> Vec<IoSlice<'_>> {
        let mut skip = self.sent;
        let pieces = self.first.iter().chain(&self.others).take(MOST_SLICES);
        pieces.map(|piece| IoSlice::new(&contents(piece)[std::mem::take(&mut skip)..])).collect()
    }
}

// SAFETY: the pieces are `bytes` objects, which never change and do not move; they are kept alive by references of `self`'s. A move of
// `self` moves the references only.
unsafe impl Payload for Outgoing {
    fn slices(&self, into: &mut Vec<libc::iovec>) {
        let mut skip = self.sent;
        for piece in self.first.iter().chain(&self.others).take(MOST_SLICES) {
            let bytes = contents(piece);
            into.push(libc::iovec {
                // The kernel only reads, whatever the type says.
                iov_base: bytes.as_ptr().wrapping_add(skip).cast_mut().cast(),
                iov_len: bytes.len() - skip,
            });
            skip = 0;
        }
    }

    fn awaited(&self) -> bool {
        // What is left over after the first slices must be sent next, whether or not somebody waits.
        self.awaited || self.others.len() >= MOST_SLICES
    }
}

/// What a datagram transport and a pipe ask for.
pub(crate) const BYTES_LIKE: &str = "bytes-like object";

/// What a stream transport asks for.
pub(crate) const STREAM_BYTES: &str =
    if cfg!(Py_3_14) { "bytes, bytearray, or memoryview object" } else { BYTES_LIKE };

/// Raises `TypeError`, in CPython's words, for what is not bytes-like. `kinds` is what it asks for.
pub(crate) fn check_bytes(data: &Bound<'_, PyAny>, kinds: &str) -> PyResult<()> {
    if data.is_instance_of::<PyBytes>()
        || data.is_instance_of::<PyByteArray>()
        || data.is_instance_of::<PyMemoryView>()
    {
        return Ok(());
    }
    let name = data.get_type().name()?;
    Err(PyTypeError::new_err(format!("data argument must be a {kinds}, not '{name}'")))
}
