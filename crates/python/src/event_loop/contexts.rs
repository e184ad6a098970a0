//! Contexts that callbacks share.
//!
//! Each callback runs in a copy of the context in which it was scheduled, of its own. But a copy in which no variable is set is like any other,
//! and most callbacks set none; and who schedules many does so in the same context. So callbacks that are scheduled with the same variables
//! share one copy, which nobody ever enters; and they run one after the other in another copy, for as long as it comes back
//! as it was: with the same variables, and with nobody else who refers to it. What a program can see is made when it looks:
//! `Handle._context`, and the context of a handle that somebody holds while it runs, are that handle's own.
//!
//! Beside the copies it saves the garbage collector's time, which knows every context, where thousands wait.

use pyo3::ffi;
use pyo3::prelude::*;

use super::LoopCore;
use crate::ffi::call::{copy_context, copy_of_context};
use crate::ffi::context::{current_variables, is_untouched, variables};

/// The contexts of a loop's callbacks.
#[derive(Default)]
pub(crate) struct Contexts {
    /// The copy that callbacks share.
    shared: Option<Py<PyAny>>,
    /// The variables of the last callback that did not share it. They may be gone: the address is compared and nothing else.
    last: usize,
    /// The copy that callbacks run in, while none does.
    entered: Option<Py<PyAny>>,
}

impl Contexts {
    /// What is to be shown to the garbage collector.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Py<PyAny>> {
        self.shared.iter().chain(&self.entered)
    }
}

impl LoopCore {
    /// A copy of the current context, and whether it is one that other callbacks share.
    #[inline]
    pub(super) fn copy_context(&self, py: Python<'_>) -> PyResult<(Py<PyAny>, bool)> {
        let current = current_variables(py);
        if current.is_null() {
            return Ok((copy_context(py)?.unbind(), false));
        }
        let shared = self.state.with(py, |state| {
            let shared = state.contexts.shared.as_ref()?;
            (variables(shared.bind(py)) == current).then(|| shared.clone_ref(py))
        });
        match shared {
            Some(shared) => Ok((shared, true)),
            None => self.begin_to_share(py, current),
        }
    }

    /// As [`Self::copy_context`], where the variables are other ones than those of the shared context: the second callback in a row that has
    /// them begins to share them.
    #[cold]
    fn begin_to_share(&self, py: Python<'_>, current: *mut ffi::PyObject) -> PyResult<(Py<PyAny>, bool)> {
        let copy = copy_context(py)?.unbind();
        let (shares, before) = self.state.with(py, |state| {
            let contexts = &mut state.contexts;
            let shares = std::mem::replace(&mut contexts.last, current.addr()) == current.addr();
            (shares, shares.then(|| contexts.shared.replace(copy.clone_ref(py))))
        });
        drop(before);
        Ok((copy, shares))
    }

    /// A context to run a callback in that has `shared`.
    #[inline]
    pub(crate) fn context_to_enter<'py>(&self, shared: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        let py = shared.py();
        let entered = self.state.with(py, |state| state.contexts.entered.take());
        match entered.map(|context| context.into_bound(py)) {
            Some(context) if variables(&context) == variables(shared) => Ok(context),
            _ => copy_of_context(shared),
        }
    }

    /// Takes back what [`Self::context_to_enter`] gave, if the callback has left it as it was.
    #[inline]
    pub(crate) fn context_was_left(&self, context: Bound<'_, PyAny>, shared: &Bound<'_, PyAny>) {
        let py = context.py();
        if is_untouched(&context, variables(shared)) {
            let context = context.unbind();
            // A callback that ran inside of this one has brought back another, perhaps.
            let before = self.state.with(py, |state| state.contexts.entered.replace(context));
            drop(before);
        }
    }

    /// Lets go of the contexts: what their variables hold is not to be kept while nothing happens.
    pub(super) fn forget_contexts(&self, py: Python<'_>) {
        let contexts = self.state.with(py, |state| std::mem::take(&mut state.contexts));
        drop(contexts);
    }
}
