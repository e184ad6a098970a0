//! Tables of methods and attributes: what stands between CPython's calls and safe functions.
//!
//! Each macro makes one entry. The function behind it is found through PyO3's own trampoline, which counts the thread as
//! attached and turns a panic into an exception.

use std::ffi::CStr;

use pyo3::PyClass;
use pyo3::ffi;
use pyo3::prelude::*;

use super::arguments::Arguments;
use super::class::{Instance, Object};

/// The signature of a method: the instance, and the arguments.
pub(crate) type Method<T> =
    for<'a, 'py> fn(&Object<T>, Python<'py>, Arguments<'a, 'py>) -> PyResult<Py<PyAny>>;

/// The signature of an attribute: the instance.
pub(crate) type Getter<T> = fn(&Object<T>, Python<'_>) -> PyResult<Py<PyAny>>;

/// The signature of an attribute's assignment: the instance and the value, or `None` where it is deleted.
pub(crate) type Setter<T> = fn(&Object<T>, Python<'_>, Option<&Bound<'_, PyAny>>) -> PyResult<()>;

/// The body behind [`getter!`](crate::getter) with an assignment.
///
/// # Safety
///
/// What CPython gives a setter of the class of `T`: an instance, and a value or NULL.
#[doc(hidden)]
pub(crate) unsafe fn run_setter<T: Instance>(
    py: Python<'_>,
    object: *mut ffi::PyObject,
    value: *mut ffi::PyObject,
    set: Setter<T>,
) -> PyResult<std::ffi::c_int> {
    // SAFETY: by the contract above.
    let (this, value) =
        unsafe { (Object::<T>::ref_from_ptr(&object), Bound::from_borrowed_ptr_or_opt(py, value)) };
    set(this, py, value.as_ref()).map(|()| 0)
}

/// The body behind [`method!`](crate::method).
///
/// # Safety
///
/// What CPython gives a `METH_FASTCALL | METH_KEYWORDS` method of the class of `T`.
#[doc(hidden)]
#[inline]
pub(crate) unsafe fn run_method<T: Instance>(
    py: Python<'_>,
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
    method: Method<T>,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: by the contract above.
    let (this, arguments) =
        unsafe { (Object::<T>::ref_from_ptr(&object), Arguments::new(py, values, count, names)) };
    method(this, py, arguments).map(Py::into_ptr)
}

/// An entry of a class's method table: `method!(Type, "name", function, "documentation")`.
#[macro_export]
macro_rules! method {
    ($type:ty, $name:literal, $function:path, $doc:literal) => {{
        unsafe fn attached(
            py: pyo3::Python<'_>,
            object: *mut pyo3::ffi::PyObject,
            values: *const *mut pyo3::ffi::PyObject,
            count: pyo3::ffi::Py_ssize_t,
            names: *mut pyo3::ffi::PyObject,
        ) -> pyo3::PyResult<*mut pyo3::ffi::PyObject> {
            // SAFETY: what CPython gives is passed on.
            unsafe { $crate::ffi::methods::run_method::<$type>(py, object, values, count, names, $function) }
        }
        pyo3::ffi::PyMethodDef {
            ml_name: concat!($name, "\0").as_ptr().cast(),
            ml_meth: pyo3::ffi::PyMethodDefPointer {
                PyCFunctionFastWithKeywords: pyo3::get_trampoline_function!(fastcall_kw, attached),
            },
            ml_flags: pyo3::ffi::METH_FASTCALL | pyo3::ffi::METH_KEYWORDS,
            ml_doc: concat!($doc, "\0").as_ptr().cast(),
        }
    }};
}

/// An entry of a class's attribute table: `getter!(Type, "name", function)`, with one more function for an attribute that can be
/// assigned to.
#[macro_export]
macro_rules! getter {
    ($type:ty, $name:literal, $function:path, $setter:path) => {{
        unsafe extern "C" fn set(
            object: *mut pyo3::ffi::PyObject,
            value: *mut pyo3::ffi::PyObject,
            _closure: *mut std::ffi::c_void,
        ) -> std::ffi::c_int {
            unsafe fn attached(
                py: pyo3::Python<'_>,
                object: *mut pyo3::ffi::PyObject,
                value: *mut pyo3::ffi::PyObject,
            ) -> pyo3::PyResult<std::ffi::c_int> {
                // SAFETY: what CPython gives is passed on.
                unsafe { $crate::ffi::methods::run_setter::<$type>(py, object, value, $setter) }
            }
            // SAFETY: CPython checks that attributes are set on instances of their class, and asks with the thread attached.
            unsafe { pyo3::get_trampoline_function!(objobjproc, attached)(object, value) }
        }
        pyo3::ffi::PyGetSetDef { set: Some(set), ..$crate::getter!($type, $name, $function) }
    }};
    ($type:ty, $name:literal, $function:path) => {{
        unsafe extern "C" fn get(
            object: *mut pyo3::ffi::PyObject,
            _closure: *mut std::ffi::c_void,
        ) -> *mut pyo3::ffi::PyObject {
            let slot = $crate::repr!($type, $function);
            // SAFETY: CPython checks that attributes are asked of instances of their class, and asks with the thread attached.
            unsafe { slot(object) }
        }
        pyo3::ffi::PyGetSetDef {
            name: concat!($name, "\0").as_ptr().cast(),
            get: Some(get),
            set: None,
            doc: std::ptr::null(),
            closure: std::ptr::null_mut(),
        }
    }};
}

/// The `repr()` of a class: `repr!(Type, function)`.
#[macro_export]
macro_rules! repr {
    ($type:ty, $function:path) => {{
        unsafe extern "C" fn slot(object: *mut pyo3::ffi::PyObject) -> *mut pyo3::ffi::PyObject {
            unsafe fn attached(
                py: pyo3::Python<'_>,
                object: *mut pyo3::ffi::PyObject,
            ) -> pyo3::PyResult<*mut pyo3::ffi::PyObject> {
                let function: $crate::ffi::methods::Getter<$type> = $function;
                // SAFETY: CPython asks instances of the class.
                function(unsafe { $crate::ffi::class::Object::ref_from_ptr(&object) }, py)
                    .map(pyo3::Py::into_ptr)
            }
            // SAFETY: CPython calls with the thread attached.
            unsafe { pyo3::get_trampoline_function!(unaryfunc, attached)(object) }
        }
        slot
    }};
}

/// A method that is called too often for `#[pymethods]`, which would make a tuple of its arguments.
pub(crate) type FastMethod<T> = for<'a, 'py> fn(&Bound<'py, T>, Arguments<'a, 'py>) -> PyResult<Py<PyAny>>;

/// The body behind [`fast_method!`](crate::fast_method).
///
/// # Safety
///
/// What CPython gives a `METH_FASTCALL | METH_KEYWORDS` method of the class `T`.
#[doc(hidden)]
#[inline]
pub(crate) unsafe fn run_fast_method<T: PyClass>(
    py: Python<'_>,
    object: *mut ffi::PyObject,
    values: *const *mut ffi::PyObject,
    count: ffi::Py_ssize_t,
    names: *mut ffi::PyObject,
    method: FastMethod<T>,
) -> PyResult<*mut ffi::PyObject> {
    // SAFETY: by the contract above; a method descriptor checks that it is called on an instance of its class.
    unsafe {
        let this = Bound::ref_from_ptr(py, &object).cast_unchecked::<T>();
        method(this, Arguments::new(py, values, count, names)).map(Py::into_ptr)
    }
}

/// Adds methods made by [`fast_method!`](crate::fast_method) to a `#[pyclass]`.
pub(crate) fn add_fast_methods<T: PyClass>(py: Python<'_>, methods: Vec<ffi::PyMethodDef>) -> PyResult<()> {
    let class = py.get_type::<T>();
    for method in methods {
        // The definition must outlive the class, which lives for ever.
        let method = Box::leak(Box::new(method));
        // SAFETY: a complete definition whose function takes instances of `T`; the name is a C string.
        let (name, descriptor) = unsafe {
            let descriptor = ffi::PyDescr_NewMethod(class.as_type_ptr(), method);
            (CStr::from_ptr(method.ml_name), Bound::from_owned_ptr_or_err(py, descriptor)?)
        };
        class.setattr(name, descriptor)?;
    }
    Ok(())
}

/// A method for [`add_fast_methods`]: `fast_method!(Class, "name", function, "documentation")`.
#[macro_export]
macro_rules! fast_method {
    ($type:ty, $name:literal, $function:path, $doc:literal) => {{
        unsafe fn attached(
            py: pyo3::Python<'_>,
            object: *mut pyo3::ffi::PyObject,
            values: *const *mut pyo3::ffi::PyObject,
            count: pyo3::ffi::Py_ssize_t,
            names: *mut pyo3::ffi::PyObject,
        ) -> pyo3::PyResult<*mut pyo3::ffi::PyObject> {
            // SAFETY: what CPython gives is passed on.
            unsafe {
                $crate::ffi::methods::run_fast_method::<$type>(py, object, values, count, names, $function)
            }
        }
        pyo3::ffi::PyMethodDef {
            ml_name: concat!($name, "\0").as_ptr().cast(),
            ml_meth: pyo3::ffi::PyMethodDefPointer {
                PyCFunctionFastWithKeywords: pyo3::get_trampoline_function!(fastcall_kw, attached),
            },
            ml_flags: pyo3::ffi::METH_FASTCALL | pyo3::ffi::METH_KEYWORDS,
            ml_doc: concat!($doc, "\0").as_ptr().cast(),
        }
    }};
}
