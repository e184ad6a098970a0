//! The arguments that a callback is stored with.

use pyo3::prelude::*;

use super::call::call_stack;

/// How many arguments of a callback fit into its handle without an allocation of their own.
const INLINE: usize = 3;

/// The arguments of a callback, behind the scratch place that a vectorcall wants in front of them.
pub(crate) enum StoredArguments {
    Inline { count: u8, values: [Option<Py<PyAny>>; INLINE] },
    Many(Box<[Py<PyAny>]>),
}

impl StoredArguments {
    /// Owned references to `values`.
    #[inline]
    pub(crate) fn new<'a, 'py: 'a>(values: impl ExactSizeIterator<Item = &'a Bound<'py, PyAny>>) -> Self {
        if values.len() <= INLINE {
            let count = values.len() as u8;
            let mut inline = [const { None }; INLINE];
            for (place, value) in inline.iter_mut().zip(values) {
                *place = Some(value.clone().unbind());
            }
            Self::Inline { count, values: inline }
        } else {
            Self::Many(values.map(|value| value.clone().unbind()).collect())
        }
    }

    /// The arguments, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Py<PyAny>> {
        let (inline, many): (&[Option<Py<PyAny>>], &[Py<PyAny>]) = match self {
            Self::Inline { values, .. } => (values, &[]),
            Self::Many(values) => (&[], values),
        };
        inline.iter().flatten().chain(many)
    }

    /// The same arguments once more.
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        match self {
            Self::Inline { count, values } => Self::Inline {
                count: *count,
                values: std::array::from_fn(|index| values[index].as_ref().map(|value| value.clone_ref(py))),
            },
            Self::Many(values) => Self::Many(values.iter().map(|value| value.clone_ref(py)).collect()),
        }
    }

    /// Calls `callable` with these arguments.
    #[inline]
    pub(crate) fn call<'py>(&self, callable: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        match self {
            Self::Inline { count, values } => {
                let mut stack = [std::ptr::null_mut(); INLINE + 1];
                for (place, value) in stack[1..].iter_mut().zip(values) {
                    *place = value.as_ref().map_or(std::ptr::null_mut(), Py::as_ptr);
                }
                // SAFETY: a scratch place, then `count` references that `self` owns.
                unsafe { call_stack(callable, stack.as_mut_ptr(), usize::from(*count)) }
            }
            Self::Many(values) => {
                let mut stack: Vec<_> =
                    std::iter::once(std::ptr::null_mut()).chain(values.iter().map(Py::as_ptr)).collect();
                // SAFETY: as above.
                unsafe { call_stack(callable, stack.as_mut_ptr(), values.len()) }
            }
        }
    }
}
