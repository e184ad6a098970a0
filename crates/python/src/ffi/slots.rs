//! Instances that keep their references in the slots of their base class.
//!
//! `asyncio.Handle` has slots for its callback, arguments, context and so on: words that are in every instance, and that a
//! class of ours would leave empty and repeat behind them. A loop with many callbacks pending is as fast as its
//! handles are small, so handles fill them.
//!
//! Which slot holds what does not matter: our classes have attributes of their own under the slots' names, so nobody reads a
//! slot but through `asyncio.Handle._callback.__get__(handle)` and the like. What does matter is that each slot holds a
//! reference to an object or nothing, for that is what such an access, CPython and `ffi/class.rs` take it for; and that
//! whoever reads a slot here is prepared to find an object of any type.

use std::ptr;

use pyo3::ffi;
use pyo3::prelude::*;

use super::class::{Instance, Object};
use super::guarded::Guarded;

/// How many slots are used, from the first on. (`make` checks that the base has so many.)
pub(crate) const SLOTS: usize = 6;

/// What the slots hold.
pub(crate) type Slots = [Option<Py<PyAny>>; SLOTS];

/// An instance that keeps references in its base's slots.
pub(crate) trait Slotted: Instance {
    /// What is kept behind the base's layout and guards the slots.
    type State;

    fn state(&self) -> &Guarded<Self::State>;
}

impl<T: Slotted> Object<T> {
    /// A new instance that the garbage collector does not know yet. Whoever holds it shows the collector what it refers to, for as
    /// long as it is not [tracked](Self::track). (On builds without a GIL it is tracked from the start: what the collector
    /// there asks of objects is another thing.)
    #[inline]
    pub(crate) fn new_untracked(py: Python<'_>, slots: Slots, value: T) -> PyResult<Self> {
        const { assert!(T::FILLED_SLOTS == SLOTS) };
        // SAFETY: what comes back is uninitialised but for its head; ours of the base's slots are filled and the others
        // emptied, and nothing that could run the garbage collector comes between. `make` has checked that the slots are
        // where they are written to.
        let object = unsafe {
            let object = match T::class().pool().take(py) {
                // It raises MemoryError for NULL.
                Some(memory) => ffi::PyObject_Init(memory, T::class().object()),
                None => ffi::PyObject_GC_New(T::class().object()),
            };
            if object.is_null() {
                return Err(PyErr::fetch(py));
            }
            let head = size_of::<ffi::PyObject>();
            ptr::write(object.byte_add(head).cast::<Slots>(), slots);
            // Two words at most: a loop is cheaper than a call of `memset`.
            let mut place = head + size_of::<Slots>();
            while place < T::class().offset() {
                ptr::write_volatile(object.byte_add(place).cast::<usize>(), 0);
                place += size_of::<usize>();
            }
            ptr::write(object.byte_add(T::class().offset()).cast::<T>(), value);
            Self::from_owned(py, object)
        };
        #[cfg(Py_GIL_DISABLED)]
        object.track(py);
        Ok(object)
    }

    /// Looks into the slots and what guards them. The rules are those of [`Guarded::with`].
    #[inline]
    pub(crate) fn with<R>(&self, py: Python<'_>, look: impl FnOnce(&mut Slots, &mut T::State) -> R) -> R {
        let slots = self.slots();
        // SAFETY: the guard lets one piece of code at a time in, and all code but the collector's comes through here.
        self.get().state().with(py, |state| look(unsafe { &mut *slots }, state))
    }

    /// As [`Self::with`] for the garbage collector, which may come at a bad moment: `None` if so.
    pub(crate) fn try_with<R>(&self, look: impl FnOnce(&mut Slots, &mut T::State) -> R) -> Option<R> {
        let slots = self.slots();
        // SAFETY: as above.
        self.get().state().try_with(|state| look(unsafe { &mut *slots }, state))
    }

    #[inline]
    fn slots(&self) -> *mut Slots {
        // SAFETY: within the instance.
        unsafe { self.as_py().as_ptr().byte_add(size_of::<ffi::PyObject>()).cast() }
    }
}
