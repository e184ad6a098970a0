//! State that belongs to whoever is attached to the interpreter.

/// A value that one piece of code at a time may look into, for the length of a closure.
///
/// With a GIL the [`Python`] token says that no other thread is here, so a flag is all the lock that is needed; without one
/// it is a mutex. **Inside of the closure nothing may run that can call Python code**, dropping the last reference to
/// an object included: whatever is called could come back here. Take things out of the state and deal with them outside.
///
/// [`Python`]: pyo3::Python
pub(crate) use self::imp::Guarded;

#[cfg(not(Py_GIL_DISABLED))]
mod imp {
    use std::cell::{Cell, UnsafeCell};

    use pyo3::Python;

    pub(crate) struct Guarded<T> {
        busy: Cell<bool>,
        value: UnsafeCell<T>,
    }

    // SAFETY: the value is only reached with a `Python` token in hand (or from the garbage collector, which runs with the GIL
    // held), and the GIL is not let go inside of the closures; so one thread at a time touches `busy` and `value`.
    unsafe impl<T: Send> Sync for Guarded<T> {}

    struct Release<'a>(&'a Cell<bool>);

    impl Drop for Release<'_> {
        fn drop(&mut self) {
            self.0.set(false);
        }
    }

    impl<T> Guarded<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self { busy: Cell::new(false), value: UnsafeCell::new(value) }
        }

        /// Looks into the value. Panics if called from inside of itself, which is a bug in whilst.
        #[inline]
        pub(crate) fn with<R>(&self, _py: Python<'_>, look: impl FnOnce(&mut T) -> R) -> R {
            assert!(!self.busy.replace(true), "state looked into while it is being changed");
            let _release = Release(&self.busy);
            // SAFETY: see `Sync` above for other threads; `busy` keeps this thread out for as long as the reference lives.
            look(unsafe { &mut *self.value.get() })
        }

        /// As [`Guarded::with`] for the garbage collector, which may come at a bad moment: `None` if so.
        pub(crate) fn try_with<R>(&self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
            if self.busy.replace(true) {
                return None;
            }
            let _release = Release(&self.busy);
            // SAFETY: as above; the collector runs with the GIL held.
            Some(look(unsafe { &mut *self.value.get() }))
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod imp {
    use std::sync::{Mutex, TryLockError};

    use pyo3::Python;

    pub(crate) struct Guarded<T>(Mutex<T>);

    impl<T> Guarded<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(Mutex::new(value))
        }

        /// Looks into the value.
        #[inline]
        pub(crate) fn with<R>(&self, _py: Python<'_>, look: impl FnOnce(&mut T) -> R) -> R {
            look(&mut self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
        }

        /// As [`Guarded::with`] for the garbage collector, which may come at a bad moment: `None` if so.
        pub(crate) fn try_with<R>(&self, look: impl FnOnce(&mut T) -> R) -> Option<R> {
            match self.0.try_lock() {
                Ok(mut value) => Some(look(&mut value)),
                Err(TryLockError::Poisoned(poisoned)) => Some(look(&mut poisoned.into_inner())),
                Err(TryLockError::WouldBlock) => None,
            }
        }
    }
}
