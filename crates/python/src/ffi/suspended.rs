//! Frames, suspended coroutines, and what is behind a callable: read without running any Python code.
//!
//! Attributes are read by CPython's generic function, past what a class may have for `__getattribute__`; of objects of CPython's own
//! that is what the attribute is.

use std::ffi::{c_int, c_void};

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCode, PyDict, PyString};

/// An attribute, by `object.__getattribute__`; `None` if there is none.
#[inline]
pub(crate) fn attribute<'py>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
) -> Option<Bound<'py, PyAny>> {
    // SAFETY: two live objects; a new reference, or NULL with an exception set, which is cleared.
    unsafe {
        let value = ffi::PyObject_GenericGetAttr(object.as_ptr(), name.as_ptr());
        if value.is_null() {
            ffi::PyErr_Clear();
            return None;
        }
        Some(Bound::from_owned_ptr(object.py(), value))
    }
}

/// An attribute of a class of C's, found once and for all, and read past what classes that inherit from it may have of the name.
pub(crate) struct Getter(Py<PyAny>);

impl Getter {
    /// `None` if the class has no such attribute, or it is none of C's.
    pub(crate) fn of(class: &Bound<'_, PyAny>, name: &str) -> Option<Self> {
        let descriptor = class.getattr(name).ok()?;
        // SAFETY: any object has a type; the two are CPython's, and final.
        let is_plain = unsafe {
            let kind = ffi::Py_TYPE(descriptor.as_ptr());
            kind == &raw mut ffi::PyGetSetDescr_Type || kind == &raw mut ffi::PyMemberDescr_Type
        };
        is_plain.then(|| Self(descriptor.unbind()))
    }

    /// The attribute's value; `None` if it has none, or if the object is none of the class's.
    #[inline]
    pub(crate) fn get<'py>(&self, object: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        let descriptor = self.0.as_ptr();
        // SAFETY: a descriptor, whose class says how it is read; it looks itself whether the object is one of its class. A new
        // reference, or NULL with an exception set, which is cleared.
        unsafe {
            let get = (*ffi::Py_TYPE(descriptor)).tp_descr_get?;
            let value = get(descriptor, object.as_ptr(), ffi::Py_TYPE(object.as_ptr()).cast());
            if value.is_null() {
                ffi::PyErr_Clear();
                return None;
            }
            Some(Bound::from_owned_ptr(object.py(), value))
        }
    }
}

/// Where the objects of a class of C's keep something: what it takes to read it is then one instruction.
#[cfg(not(Py_GIL_DISABLED))]
pub(crate) struct Field(usize);

#[cfg(not(Py_GIL_DISABLED))]
impl Field {
    /// Where this object keeps that one; `None` if it is in no place of it, or in several.
    pub(crate) fn of(object: &Bound<'_, PyAny>, kept: &Bound<'_, PyAny>) -> Option<Self> {
        const WORD: usize = size_of::<*mut ffi::PyObject>();
        // SAFETY: an object, which is as long as its class says.
        let size = unsafe { (*ffi::Py_TYPE(object.as_ptr())).tp_basicsize }.cast_unsigned();
        let mut places = (size_of::<ffi::PyObject>()..(size / WORD * WORD)).step_by(WORD).filter(|offset| {
            // SAFETY: as above. What is there is compared as a number, whatever it is.
            unsafe { object.as_ptr().byte_add(*offset).cast::<usize>().read() == kept.as_ptr().addr() }
        });
        let place = places.next()?;
        places.next().is_none().then_some(Self(place))
    }

    /// What the object keeps there, if anything. It is of the very class of the object where the place was found.
    #[inline]
    pub(crate) fn get<'py>(&self, object: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
        // SAFETY: in objects of this class there is a reference to an object in this place, or NULL.
        unsafe {
            let kept = object.as_ptr().byte_add(self.0).cast::<*mut ffi::PyObject>().read();
            Bound::from_borrowed_ptr_or_opt(object.py(), kept)
        }
    }
}

/// A frame: the code, where in it (a byte's offset, negative before the first instruction), and the module's variables.
pub(crate) struct Frame<'py>(Bound<'py, PyAny>);

impl<'py> Frame<'py> {
    /// The innermost one that runs on this thread.
    pub(crate) fn current(py: Python<'py>) -> Option<Self> {
        // SAFETY: the thread is attached; a borrowed reference or NULL.
        unsafe { Bound::from_borrowed_ptr_or_opt(py, ffi::PyEval_GetFrame().cast()) }.map(Self)
    }

    /// An object as a frame, if it is one.
    pub(crate) fn of(object: Bound<'py, PyAny>) -> Option<Self> {
        // SAFETY: any object has a type.
        let is_frame = unsafe { ffi::Py_TYPE(object.as_ptr()) == &raw mut ffi::PyFrame_Type };
        is_frame.then_some(Self(object))
    }

    /// The one that has called it.
    pub(crate) fn back(&self) -> Option<Self> {
        // SAFETY: a frame; a new reference or NULL.
        unsafe {
            Bound::from_owned_ptr_or_opt(self.0.py(), ffi::PyFrame_GetBack(self.0.as_ptr().cast()).cast())
        }
        .map(Self)
    }

    pub(crate) fn code(&self) -> Bound<'py, PyCode> {
        // SAFETY: a frame, which always has a code; a new reference.
        unsafe {
            Bound::from_owned_ptr(self.0.py(), ffi::PyFrame_GetCode(self.0.as_ptr().cast()).cast())
                .cast_into_unchecked()
        }
    }

    pub(crate) fn offset(&self) -> i32 {
        // SAFETY: a frame.
        unsafe { ffi::PyFrame_GetLasti(self.0.as_ptr().cast()) }
    }

    pub(crate) fn globals(&self) -> Option<Bound<'py, PyDict>> {
        // SAFETY: a frame; a new reference.
        unsafe { Bound::from_owned_ptr_or_opt(self.0.py(), ffi::PyFrame_GetGlobals(self.0.as_ptr().cast())) }?
            .cast_into()
            .ok()
    }
}

/// A function of Python's that runs on this thread, and where in it, by addresses alone: a [`Frame`] is an object to be made first.
///
/// CPython has these in structures of its own (`pycore_frame.h`, `cpython/pystate.h`; 3.14: `pycore_interpframe_structs.h`), which
/// are the same throughout a version. Of 3.15 and later nothing is read, as if none ran; nor without a GIL, where each thread has
/// instructions of its own.
#[derive(Clone, Copy)]
pub(crate) struct Running(*const running::InterpreterFrame);

impl Running {
    /// The innermost one.
    #[inline]
    pub(crate) fn innermost(_py: Python<'_>) -> Option<Self> {
        running::current().map(Self)
    }

    /// Where it is: in this code, at this instruction.
    #[inline]
    pub(crate) fn point(self) -> (usize, usize) {
        // SAFETY: a frame of this thread, which is deeper in the stack than who asks.
        unsafe { ((*self.0).code.addr() & !running::TAGS, (*self.0).instruction.addr()) }
    }

    /// The one that has called it.
    #[inline]
    pub(crate) fn back(self) -> Option<Self> {
        // SAFETY: as above; it has been called by a frame that still is there, or by none.
        let previous = unsafe { (*self.0).previous };
        (!previous.is_null()).then_some(Self(previous))
    }
}

#[cfg(not(any(Py_3_15, Py_GIL_DISABLED)))]
mod running {
    use std::ffi::{c_int, c_void};

    use pyo3::ffi;

    /// What of an address may say how the reference is counted (`_PyStackRef`).
    pub(super) const TAGS: usize = if cfg!(Py_3_14) { 3 } else { 0 };

    #[cfg(not(Py_3_13))]
    #[repr(C)]
    struct ThreadState {
        links: [*mut c_void; 3],
        numbers: [c_int; 7],
        running: *const Evaluation,
    }

    #[cfg(not(Py_3_13))]
    #[repr(C)]
    struct Evaluation {
        #[cfg(not(Py_3_12))]
        use_tracing: u8,
        frame: *const InterpreterFrame,
    }

    #[cfg(Py_3_13)]
    #[repr(C)]
    struct ThreadState {
        links: [*mut c_void; 3],
        breaker: usize,
        numbers: [c_int; 9],
        frame: *const InterpreterFrame,
    }

    #[cfg(not(Py_3_12))]
    #[repr(C)]
    pub(super) struct InterpreterFrame {
        variables: [*mut c_void; 4],
        pub(super) code: *const c_void,
        object: *mut c_void,
        pub(super) previous: *const Self,
        pub(super) instruction: *const c_void,
    }

    #[cfg(Py_3_12)]
    #[repr(C)]
    pub(super) struct InterpreterFrame {
        pub(super) code: *const c_void,
        pub(super) previous: *const Self,
        variables: [*mut c_void; 5],
        pub(super) instruction: *const c_void,
    }

    #[inline]
    pub(super) fn current() -> Option<*const InterpreterFrame> {
        // SAFETY: the thread is attached, so it has a state, and what that refers to lives on its stack or in its chunk of frames.
        let frame = unsafe {
            let state = ffi::PyThreadState_Get().cast::<ThreadState>();
            #[cfg(not(Py_3_13))]
            let frame = (*(*state).running).frame;
            #[cfg(Py_3_13)]
            let frame = (*state).frame;
            frame
        };
        (!frame.is_null()).then_some(frame)
    }
}

#[cfg(any(Py_3_15, Py_GIL_DISABLED))]
mod running {
    use std::ffi::c_void;

    pub(super) const TAGS: usize = 0;

    pub(super) struct InterpreterFrame {
        pub(super) code: *const c_void,
        pub(super) previous: *const Self,
        pub(super) instruction: *const c_void,
    }

    #[inline]
    pub(super) fn current() -> Option<*const InterpreterFrame> {
        None
    }
}

/// The line of an offset in a code; 0 if it has none.
pub(crate) fn line(code: &Bound<'_, PyCode>, offset: i32) -> i32 {
    // SAFETY: a code object; it knows what is no offset of its.
    unsafe { ffi::PyCode_Addr2Line(code.as_ptr().cast(), offset as c_int) }.max(0)
}

/// What a coroutine or its like is.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Awaitable {
    Coroutine,
    Generator,
    AsyncGenerator,
    /// Something else, of which only the garbage collector is told what it is made of.
    Other,
}

/// What sort of an awaitable this is.
#[inline]
pub(crate) fn awaitable(object: &Bound<'_, PyAny>) -> Awaitable {
    // SAFETY: any object has a type; the three are CPython's, and final.
    let (kind, coroutine, generator, asynchronous) = unsafe {
        (
            ffi::Py_TYPE(object.as_ptr()),
            &raw mut ffi::PyCoro_Type,
            &raw mut ffi::PyGen_Type,
            &raw mut ffi::PyAsyncGen_Type,
        )
    };
    if kind == coroutine {
        Awaitable::Coroutine
    } else if kind == generator {
        Awaitable::Generator
    } else if kind == asynchronous {
        Awaitable::AsyncGenerator
    } else {
        Awaitable::Other
    }
}

/// What an object shows the garbage collector first, its class left out.
pub(crate) fn first_referent<'py>(object: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: what is shown is a live object.
    referent(object, |shown| unsafe { ffi::PyType_Check(shown) == 0 })
}

/// The first string or whole number that an object shows the garbage collector.
#[cfg(not(Py_GIL_DISABLED))]
pub(crate) fn first_word<'py>(object: &Bound<'py, PyAny>) -> Option<Bound<'py, PyAny>> {
    // SAFETY: as above.
    referent(object, |shown| unsafe {
        ffi::PyUnicode_Check(shown) != 0 || ffi::PyLong_CheckExact(shown) != 0
    })
}

/// The first object of this sort that an object shows the garbage collector.
fn referent<'py, F>(object: &Bound<'py, PyAny>, is_meant: F) -> Option<Bound<'py, PyAny>>
where
    F: Fn(*mut ffi::PyObject) -> bool,
{
    struct Search<F> {
        is_meant: F,
        found: *mut ffi::PyObject,
    }
    unsafe extern "C" fn visit<F: Fn(*mut ffi::PyObject) -> bool>(
        object: *mut ffi::PyObject,
        search: *mut c_void,
    ) -> c_int {
        // SAFETY: what the traversal below was given; a live object. Any other answer than zero ends the traversal.
        unsafe {
            let search = search.cast::<Search<F>>();
            if !(*search).found.is_null() || !((*search).is_meant)(object) {
                return 0;
            }
            (*search).found = object;
        }
        1
    }
    let mut search = Search { is_meant, found: std::ptr::null_mut() };
    // SAFETY: a live object, whose class says how to traverse it, if it has anything to show; what it shows is borrowed from it.
    unsafe {
        if let Some(traverse) = (*ffi::Py_TYPE(object.as_ptr())).tp_traverse {
            traverse(object.as_ptr(), visit::<F>, (&raw mut search).cast());
        }
        Bound::from_borrowed_ptr_or_opt(object.py(), search.found)
    }
}

/// The address of a function of C's and what it is bound to, if the object is such a function.
#[inline]
pub(crate) fn builtin<'py>(callable: &Bound<'py, PyAny>) -> Option<(usize, Bound<'py, PyAny>)> {
    // SAFETY: the type is compared first; what it is bound to is borrowed from it, or NULL.
    unsafe {
        if ffi::PyCFunction_CheckExact(callable.as_ptr()) == 0 {
            return None;
        }
        let function = ffi::PyCFunction_GetFunction(callable.as_ptr())?;
        let bound =
            Bound::from_borrowed_ptr_or_opt(callable.py(), ffi::PyCFunction_GetSelf(callable.as_ptr()))?;
        Some((function as usize, bound))
    }
}

/// The code and the module's variables of a function of Python's.
pub(crate) fn function<'py>(
    callable: &Bound<'py, PyAny>,
) -> Option<(Bound<'py, PyCode>, Bound<'py, PyDict>)> {
    // SAFETY: the type is compared first; both are borrowed from the function.
    unsafe {
        if ffi::PyFunction_Check(callable.as_ptr()) == 0 {
            return None;
        }
        let code =
            Bound::from_borrowed_ptr_or_opt(callable.py(), ffi::PyFunction_GetCode(callable.as_ptr()))?;
        let globals =
            Bound::from_borrowed_ptr_or_opt(callable.py(), ffi::PyFunction_GetGlobals(callable.as_ptr()))?;
        Some((code.cast_into_unchecked(), globals.cast_into().ok()?))
    }
}

/// True if the object is an instance of the class, or of one that inherits from it, whatever `__class__` says.
#[inline]
pub(crate) fn is_instance(object: &Bound<'_, PyAny>, class: &Bound<'_, PyAny>) -> bool {
    // SAFETY: `class` is a type object, which the callers have seen to; any object has a type.
    unsafe { ffi::PyObject_TypeCheck(object.as_ptr(), class.as_ptr().cast()) != 0 }
}
