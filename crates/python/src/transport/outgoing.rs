//! Bytes on their way out.

use std::collections::VecDeque;
use std::io::IoSlice;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use whilst_engine::driver::Payload;

/// How many pieces one send takes at most; more than the kernel's own limit (`UIO_MAXIOV`, 1024) would be refused, and past
/// some tens a further piece saves little.
const MOST_SLICES: usize = 128;

/// What was written to a transport and is not yet sent: `bytes` objects, kept rather than copied.
#[derive(Default)]
pub(crate) struct Outgoing {
    pieces: VecDeque<Py<PyBytes>>,
    /// How many bytes of the first piece are sent already.
    sent: usize,
    /// How many bytes there are to send.
    length: usize,
    /// Somebody waits for the end of the send, so that it should be told at once.
    pub(crate) awaited: bool,
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
        self.pieces.push_back(piece.unbind());
    }

    /// Adds all of `other` behind what is here.
    pub(crate) fn append(&mut self, mut other: Self) {
        debug_assert!(other.sent == 0, "only what was never sent comes behind");
        self.length += other.length;
        self.pieces.append(&mut other.pieces);
    }

    /// Takes off the first `count` bytes; returns the pieces that are done with.
    pub(crate) fn advance(&mut self, py: Python<'_>, count: usize) -> Vec<Py<PyBytes>> {
        self.length -= count;
        let mut done = Vec::new();
        let mut sent = self.sent + count;
        while let Some(first) = self.pieces.front() {
            let length = first.as_bytes(py).len();
            if sent < length {
                break;
            }
            sent -= length;
            done.extend(self.pieces.pop_front());
        }
        self.sent = sent;
        done
    }
}

impl Outgoing {
    /// What is to be sent, in order, as far as it goes into one system call.
    pub(crate) fn io_slices(&self) -> Vec<IoSlice<'_>> {
        let mut skip = self.sent;
        let pieces = self.pieces.iter().take(MOST_SLICES);
        pieces
            .map(|piece| IoSlice::new(&crate::ffi::bytes::contents(piece)[std::mem::take(&mut skip)..]))
            .collect()
    }
}

// SAFETY: the pieces are `bytes` objects, which never change and do not move; they are kept alive by references of `self`'s. A move of
// `self` moves the references only.
unsafe impl Payload for Outgoing {
    fn slices(&self, into: &mut Vec<libc::iovec>) {
        let mut skip = self.sent;
        for piece in self.pieces.iter().take(MOST_SLICES) {
            let bytes = crate::ffi::bytes::contents(piece);
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
        self.awaited || self.pieces.len() > MOST_SLICES
    }
}
