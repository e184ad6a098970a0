//! Whether a class is still what it was.

use pyo3::prelude::*;
use pyo3::types::PyType;

/// A number that stands for what a class and its bases are now: it changes with every assignment to an attribute of one of them, and is
/// never given to another class. `None` where CPython has none at hand, and on builds without a GIL, where reading it is no
/// safe thing.
#[cfg(not(Py_GIL_DISABLED))]
#[inline]
pub(crate) fn of_type(class: &Bound<'_, PyType>) -> Option<u32> {
    // SAFETY: a live type object; what changes the field holds the GIL.
    let version = unsafe { (*class.as_type_ptr()).tp_version_tag };
    // CPython's `PyType_Modified` sets it to 0, and the next look-up of an attribute gives a new one.
    (version != 0).then_some(version)
}

#[cfg(Py_GIL_DISABLED)]
pub(crate) fn of_type(_class: &Bound<'_, PyType>) -> Option<u32> {
    None
}
