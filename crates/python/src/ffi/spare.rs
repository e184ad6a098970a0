//! Memory that is used again.

use std::ptr::NonNull;

use pyo3::ffi;
use pyo3::prelude::*;

use super::guarded::Guarded;

/// The memory of instances that were destroyed, for the next ones: as CPython's own free lists, for what is made and destroyed
/// once a callback. It spares the allocator's work and the collector's count of allocations.
///
/// Memory that lies here is as [`ffi::PyObject_GC_New`] gave it: untracked, without weak references, and no instance of a class.
pub(super) struct Spare(Guarded<Vec<NonNull<ffi::PyObject>>>);

// SAFETY: the memory belongs to nobody; it may be used in any thread that is attached.
unsafe impl Send for Spare {}
// SAFETY: as above, and the guard lets one thread at a time in.
unsafe impl Sync for Spare {}

impl Spare {
    /// So many are kept of each class: what a busy iteration has (some 100 bytes each).
    const MOST: usize = 512;

    pub(super) const fn new() -> Self {
        Self(Guarded::new(Vec::new()))
    }

    #[inline]
    pub(super) fn take(&self, py: Python<'_>) -> Option<*mut ffi::PyObject> {
        self.0.with(py, |spare| spare.pop().map(NonNull::as_ptr))
    }

    /// Takes memory in; `false` if there is enough.
    #[inline]
    pub(super) fn give(&self, py: Python<'_>, memory: *mut ffi::PyObject) -> bool {
        self.0.with(py, |spare| match NonNull::new(memory) {
            Some(memory) if spare.len() < Self::MOST => {
                spare.push(memory);
                true
            }
            _ => false,
        })
    }
}
