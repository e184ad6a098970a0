//! Classes written in Python: whether somebody has changed one, and the attributes of its instances, read from where CPython keeps them.
//!
//! An instance of such a class has no dictionary until somebody asks for one. Its attributes lie in an array, their "inline values",
//! each at the place that its name has for all instances of the class; a few bytes beside it say how many there are and in which
//! order they were set. The interpreter's own instructions read attributes from there (`LOAD_ATTR_INSTANCE_VALUE` in
//! `Python/bytecodes.c`). Beside `PyObject_GetAttr` that is a tenth of the work, and it tells that an instance has no attribute *but*
//! the known ones: none that hides a method of its class, say.
//!
//! The layouts are those of `pycore_object.h` and `pycore_dict.h`. They hold for all releases of a Python (3.11, 3.12 and so on), and an
//! extension is built for one. [`Layout::learn`] tries its own on an instance that it makes for the purpose, and gives up where
//! it does not fit.

use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyFunction, PyList, PyType};

/// A number that stands for what a class and its bases are now: it changes with every assignment to an attribute of one of them, and is
/// never given to another class. `None` where CPython has none at hand, and on builds without a GIL, where reading it is no safe
/// thing.
#[inline]
pub(crate) fn version(class: &Bound<'_, PyType>) -> Option<u32> {
    if cfg!(Py_GIL_DISABLED) {
        return None;
    }
    // SAFETY: a live type object. With a GIL nobody changes it meanwhile.
    let tag = unsafe { (*class.as_type_ptr()).tp_version_tag };
    // CPython's `PyType_Modified` sets it to 0, and the next look-up of an attribute gives a new one.
    (tag != 0).then_some(tag)
}

/// True if instances have their attributes read and set as `object`'s are, without a method of the class in between.
pub(crate) fn has_plain_attributes(class: &Bound<'_, PyType>) -> bool {
    // SAFETY: a live type object.
    let (get, set) = unsafe { ((*class.as_type_ptr()).tp_getattro, (*class.as_type_ptr()).tp_setattro) };
    // The addresses are compared with those that CPython's own `object` has: a function's address here may be another one.
    let object = class.py().get_type::<PyAny>();
    // SAFETY: as above.
    let plain = unsafe { ((*object.as_type_ptr()).tp_getattro, (*object.as_type_ptr()).tp_setattro) };
    get.map(|get| get as usize) == plain.0.map(|get| get as usize)
        && set.map(|set| set as usize) == plain.1.map(|set| set as usize)
}

/// The code object of a function: another one if somebody has assigned to `__code__`.
#[inline]
pub(crate) fn code<'a, 'py>(function: &'a Bound<'py, PyFunction>) -> pyo3::Borrowed<'a, 'py, PyAny> {
    // SAFETY: a function has a code object, which lives as long as the function refers to it.
    unsafe { pyo3::Borrowed::from_ptr(function.py(), ffi::PyFunction_GetCode(function.as_ptr())) }
}

/// The dictionary that the names in a function are looked up in.
pub(crate) fn globals<'a, 'py>(function: &'a Bound<'py, PyFunction>) -> pyo3::Borrowed<'a, 'py, PyAny> {
    // SAFETY: a function has globals, which live as long as it.
    unsafe { pyo3::Borrowed::from_ptr(function.py(), ffi::PyFunction_GetGlobals(function.as_ptr())) }
}

/// Where the instances of a class keep the attributes of `KNOWN` names, of which the first `READ` are to be read.
pub(crate) struct Layout<const READ: usize, const KNOWN: usize> {
    class: Py<PyType>,
    places: [u8; KNOWN],
}

impl<const READ: usize, const KNOWN: usize> Layout<READ, KNOWN> {
    /// Learns the places from an instance made for it, on which `__init__` is not called; `None` if this Python has another layout
    /// than the known ones, or the class another kind of instances.
    pub(crate) fn learn(class: &Bound<'_, PyType>, names: [&str; KNOWN]) -> PyResult<Option<Self>> {
        const { assert!(READ <= KNOWN) };
        let py = class.py();
        if cfg!(Py_GIL_DISABLED) || py.version_info() >= (3, 16) {
            return Ok(None);
        }
        let instance = py.get_type::<PyAny>().call_method1("__new__", (class,))?;
        let mut markers = Vec::with_capacity(KNOWN);
        for name in names {
            let marker = PyList::empty(py).into_any();
            instance.setattr(name, &marker)?;
            markers.push(marker);
        }
        let places = find(&instance, &markers);
        // As if nothing had ever been set, for a `__del__` of the class.
        for name in names {
            instance.delattr(name)?;
        }
        let places = places.and_then(|places| places.try_into().ok());
        Ok(places.map(|places| Self { class: class.clone().unbind(), places }))
    }

    /// The first `READ` attributes of an object; `None` if it is no instance of the very class, lacks one of them, or has an attribute
    /// that is none of the known ones; or if somebody has asked for its dictionary and it keeps them there.
    #[inline]
    pub(crate) fn read<'py>(&self, object: &Bound<'py, PyAny>) -> Option<[Bound<'py, PyAny>; READ]> {
        let py = object.py();
        if object.get_type_ptr() != self.class.bind(py).as_type_ptr() {
            return None;
        }
        // SAFETY: an instance of the class that the layout was learnt of. Each array has room for all names that the class knew when
        // it was made; and no array is shorter than a later one, since that number only shrinks while names are yet to come
        // (`init_inline_values` and its successors in `Objects/dictobject.c`). So all places lie within. What is there
        // is an object or nothing, and stays while no Python code runs.
        unsafe {
            let values = Values::of(object.as_ptr())?;
            let mut count = 0;
            for place in self.places {
                count += usize::from(!(*values.array.add(usize::from(place))).is_null());
            }
            if count != values.count {
                return None;
            }
            let wanted: [_; READ] =
                std::array::from_fn(|index| *values.array.add(usize::from(self.places[index])));
            if wanted.iter().any(|value| value.is_null()) {
                return None;
            }
            Some(wanted.map(|value| Bound::from_borrowed_ptr(py, value)))
        }
    }
}

/// The places of the values of an instance, which are exactly these and were set in this order; `None` if that is not so.
fn find(instance: &Bound<'_, PyAny>, values: &[Bound<'_, PyAny>]) -> Option<Vec<u8>> {
    // SAFETY: an instance. Each number is looked at before what it leads to is read; where the layout is as expected, all are
    // within the instance's memory.
    unsafe {
        let found = Values::of(instance.as_ptr())?;
        if found.count != values.len() || found.count > found.capacity {
            return None;
        }
        let mut places = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let place = found.order(index);
            if usize::from(place) >= found.capacity
                || *found.array.add(usize::from(place)) != value.as_ptr()
                || places.contains(&place)
            {
                return None;
            }
            places.push(place);
        }
        Some(places)
    }
}

/// The inline values of an instance.
struct Values {
    array: *const *mut ffi::PyObject,
    /// How many of the places are filled.
    count: usize,
    /// How many places there are at most.
    capacity: usize,
}

impl Values {
    /// Python 3.13 and later: behind the object come four bytes (how many places, how many filled, whether they lie in the object, and
    /// whether they hold), padding, the array, and the order in bytes.
    ///
    /// # Safety
    ///
    /// `object` is a live object, and no other thread changes it.
    #[cfg(Py_3_13)]
    #[inline]
    unsafe fn of(object: *mut ffi::PyObject) -> Option<Self> {
        /// `Py_TPFLAGS_INLINE_VALUES`.
        const INLINE: std::ffi::c_ulong = 1 << 2;
        // SAFETY: by the contract above; the flag says that the values are there.
        unsafe {
            let class = ffi::Py_TYPE(object);
            if ffi::PyType_GetFlags(class) & INLINE == 0 {
                return None;
            }
            let head = object.byte_offset((*class).tp_basicsize).cast::<[u8; 4]>();
            let [capacity, count, _embedded, valid] = *head;
            if valid == 0 {
                return None;
            }
            let array = head.byte_add(size_of::<*mut ffi::PyObject>()).cast();
            Some(Self { array, count: usize::from(count), capacity: usize::from(capacity) })
        }
    }

    /// Python 3.11 and 3.12: a word before the object points to the array, before which, going back, come a byte with the size of
    /// what is before it, the number of filled places, and the order.
    ///
    /// # Safety
    ///
    /// `object` is a live object, and no other thread changes it.
    #[cfg(not(Py_3_13))]
    #[inline]
    unsafe fn of(object: *mut ffi::PyObject) -> Option<Self> {
        // SAFETY: by the contract above; the flag says that the word is there.
        unsafe {
            if ffi::PyType_GetFlags(ffi::Py_TYPE(object)) & ffi::Py_TPFLAGS_MANAGED_DICT == 0 {
                return None;
            }
            #[cfg(not(Py_3_12))]
            let array = *object.cast::<*const *mut ffi::PyObject>().sub(4);
            // A dictionary or, marked by the lowest bit, the array's address less one.
            #[cfg(Py_3_12)]
            let array = {
                let word = *object.cast::<*const u8>().sub(3);
                if word.addr() & 1 == 0 {
                    return None;
                }
                word.add(1).cast::<*mut ffi::PyObject>()
            };
            if array.is_null() {
                return None;
            }
            let bytes = array.cast::<u8>();
            let (size, count) = (*bytes.sub(1), *bytes.sub(2));
            Some(Self { array, count: usize::from(count), capacity: usize::from(size).saturating_sub(2) })
        }
    }

    /// The place of the value that was set as the `index`th.
    ///
    /// # Safety
    ///
    /// `index` is below the count, and that no more than the capacity.
    unsafe fn order(&self, index: usize) -> u8 {
        // SAFETY: by the contract above.
        unsafe {
            if cfg!(Py_3_13) {
                *self.array.add(self.capacity).cast::<u8>().add(index)
            } else {
                *self.array.cast::<u8>().sub(3 + index)
            }
        }
    }
}
