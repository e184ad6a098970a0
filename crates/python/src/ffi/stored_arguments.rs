//! The arguments that a callback is stored with.

use pyo3::prelude::*;
use pyo3::types::PyTuple;

use super::call::call_stack;

/// How many arguments of a callback are kept one by one; more are kept in a tuple.
pub(crate) const INLINE: usize = 3;

/// The arguments of a callback: at most [`INLINE`], those that are there first, or one tuple of all.
pub(crate) struct StoredArguments {
    pub(crate) values: [Option<Py<PyAny>>; INLINE],
    /// The one value is a tuple of the arguments.
    pub(crate) packed: bool,
}

impl StoredArguments {
    /// Owned references to `values`.
    #[inline]
    pub(crate) fn new<'a, 'py: 'a>(
        py: Python<'py>,
        mut values: impl ExactSizeIterator<Item = &'a Bound<'py, PyAny>>,
    ) -> PyResult<Self> {
        if values.len() <= INLINE {
            let mut take = || values.next().map(|value| value.clone().unbind());
            return Ok(Self { values: [take(), take(), take()], packed: false });
        }
        let tuple = PyTuple::new(py, values)?;
        Ok(Self { values: [Some(tuple.into_any().unbind()), None, None], packed: true })
    }
}

/// Calls `callable` with the arguments that [`StoredArguments`] keeps as `values`.
#[inline]
pub(crate) fn call_stored<'py>(
    callable: &Bound<'py, PyAny>,
    values: &[Option<Bound<'py, PyAny>>; INLINE],
    packed: bool,
) -> PyResult<Bound<'py, PyAny>> {
    if packed && let [Some(arguments), ..] = values {
        return callable.call1(arguments.cast::<PyTuple>()?);
    }
    let mut stack = [std::ptr::null_mut(); INLINE + 1];
    let mut count = 0;
    for value in values.iter().map_while(Option::as_ref) {
        count += 1;
        stack[count] = value.as_ptr();
    }
    // SAFETY: a scratch place, then `count` references that `values` owns.
    unsafe { call_stack(callable, stack.as_mut_ptr(), count) }
}
