//! Classes over base classes that are written in Python and have slots.
//!
//! Some facts about CPython that force the shape of this file:
//!
//! * `asyncio.Handle` and `asyncio.BaseTransport` have `__slots__`, so their instances have a layout: a class written in C (or by
//!   `#[pyclass]`) and one of them cannot both be bases of one class ("multiple bases have instance lay-out conflict").
//! * A class made by `PyType_FromSpecWithBases` from *one* such base may append to its layout: its instances start with the
//!   base's `tp_basicsize` bytes, and what follows is ours.
//! * The base's own `tp_dealloc` (`subtype_dealloc`) cannot be called for an instance of a class with another `tp_dealloc`: it looks for
//!   the first base with a different one, finds ours and calls it, without end. So ours lets go of the base's slots itself.
//!
//! What does this mean: an instance is the base's layout, then a value of the Rust type `T` ([`Instance`]). The base's slots (all of
//! them object references, but for the list of weak references) stay empty unless Python code fills them; the class shadows
//! those that it has something to say about with attributes of its own.

use std::cell::Cell;
use std::ffi::{CStr, c_int, c_void};
use std::marker::PhantomData;
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::atomic::{AtomicIsize, AtomicPtr, AtomicUsize, Ordering};

use pyo3::exceptions::PySystemError;
use pyo3::ffi;
// Hidden, but what PyO3's own macros expand to: the one way to be counted as attached, and to have panics turned into
// exceptions, without asking for the GIL again.
use pyo3::impl_::trampoline::{self, MethodDef};
use pyo3::prelude::*;
use pyo3::types::{PyTuple, PyType};

use super::pool::Pool;

/// What an instance of a class holds behind its base's layout.
pub(crate) trait Instance: Sized + Send + Sync + 'static {
    /// The full name: module and class.
    const NAME: &'static CStr;
    /// The class's documentation string.
    const DOC: &'static CStr;
    /// True if instances take any attribute and weak references; the type then starts with [`Attributes`].
    const OPEN: bool;
    /// True if [`Instance::finalize`] has something to do.
    const FINALIZES: bool;

    /// Where the class is kept once it is made.
    fn class() -> &'static Class;
    /// The base class.
    fn base(py: Python<'_>) -> PyResult<Bound<'_, PyType>>;
    /// The methods, made by [`method!`](crate::method).
    fn methods() -> Vec<ffi::PyMethodDef>;
    /// The attributes, made by [`getter!`](crate::getter).
    fn getters() -> Vec<ffi::PyGetSetDef>;
    /// Shows the garbage collector every reference that is held.
    fn traverse(&self, visitor: &mut Visitor);
    /// Lets go of every reference, to break cycles.
    fn clear(&self, py: Python<'_>);
    /// `__del__`: called once, before the instance is destroyed or its cycle is broken.
    fn finalize(_this: &Object<Self>, _py: Python<'_>) {}
    /// `repr()`; `None`: the base's.
    const REPR: Option<ffi::reprfunc> = None;
    /// How many of the base's slots the instance fills itself, from the first on ([`slots`](super::slots)).
    const FILLED_SLOTS: usize = 0;
    /// True if [`Instance::dismantle`] takes all references out, so that no `Drop` of one has to find out whether it may: destroying
    /// such an instance is cheaper.
    const DISMANTLES: bool = false;
    /// Lets go of every reference, by [`Py::drop_ref`].
    fn dismantle(&mut self, _py: Python<'_>) {}
}

/// The dictionary and the weak references of an instance of an [open](Instance::OPEN) class. CPython fills both.
#[repr(C)]
pub(crate) struct Attributes {
    dict: AtomicPtr<ffi::PyObject>,
    weak_references: AtomicPtr<ffi::PyObject>,
}

impl Attributes {
    pub(crate) const fn new() -> Self {
        Self { dict: AtomicPtr::new(ptr::null_mut()), weak_references: AtomicPtr::new(ptr::null_mut()) }
    }
}

/// A class, once it is made: its type object and where in an instance the Rust value lies.
pub(crate) struct Class {
    object: AtomicPtr<ffi::PyTypeObject>,
    offset: AtomicUsize,
    /// Where the base's layout ends, in bytes.
    base_size: AtomicUsize,
    /// Where in an instance the list of weak references is, in bytes from its head; 0 if there is none.
    weak_references: AtomicIsize,
    /// Memory for instances that fill their slots.
    pool: Pool,
}

impl Class {
    pub(crate) const fn new() -> Self {
        Self {
            object: AtomicPtr::new(ptr::null_mut()),
            offset: AtomicUsize::new(0),
            base_size: AtomicUsize::new(0),
            weak_references: AtomicIsize::new(0),
            pool: Pool::new(),
        }
    }

    /// True once the class is made.
    #[inline]
    pub(crate) fn is_made(&self) -> bool {
        !self.object().is_null()
    }

    #[inline]
    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    /// Where in an instance the Rust value is, in bytes from its head.
    #[inline]
    pub(super) fn offset(&self) -> usize {
        self.offset.load(Ordering::Relaxed)
    }

    #[inline]
    pub(super) fn object(&self) -> *mut ffi::PyTypeObject {
        self.object.load(Ordering::Acquire)
    }
}

/// Shows references to the garbage collector.
pub(crate) struct Visitor {
    visit: ffi::visitproc,
    argument: *mut c_void,
    result: c_int,
}

impl Visitor {
    /// Shows one reference.
    #[inline]
    pub(crate) fn visit<T>(&mut self, object: &Py<T>) {
        // SAFETY: the collector's own function, given a live object.
        unsafe { self.visit_pointer(object.as_ptr()) }
    }

    /// Shows one reference that may not be there.
    #[inline]
    pub(crate) fn visit_option<T>(&mut self, object: Option<&Py<T>>) {
        if let Some(object) = object {
            self.visit(object);
        }
    }

    /// # Safety
    ///
    /// `object` is a live object or NULL.
    unsafe fn visit_pointer(&mut self, object: *mut ffi::PyObject) {
        if self.result == 0 && !object.is_null() {
            // SAFETY: by the contract above.
            self.result = unsafe { (self.visit)(object, self.argument) };
        }
    }
}

/// An owned reference to an instance of the class of `T`.
#[repr(transparent)]
pub(crate) struct Object<T>(Py<PyAny>, PhantomData<fn() -> T>);

impl<T: Instance> Object<T> {
    /// A new instance. The class must have been made ([`make`]).
    pub(crate) fn new(py: Python<'_>, value: T) -> PyResult<Self> {
        let class = T::class();
        // SAFETY: the type object lives for ever; the allocation has room for the base and a `T` at `offset`, and nothing
        // that could run the garbage collector comes between the allocation and the write.
        unsafe {
            let object = ffi::PyType_GenericAlloc(class.object(), 0);
            if object.is_null() {
                return Err(PyErr::fetch(py));
            }
            ptr::write(object.byte_add(class.offset()).cast::<T>(), value);
            Ok(Self::from_owned(py, object))
        }
    }

    /// # Safety
    ///
    /// `object` is an owned reference to an instance of the class of `T`.
    #[inline]
    pub(super) unsafe fn from_owned(py: Python<'_>, object: *mut ffi::PyObject) -> Self {
        // SAFETY: by the contract above.
        Self(unsafe { Bound::from_owned_ptr(py, object) }.unbind(), PhantomData)
    }

    /// Makes the instance known to the garbage collector.
    #[inline]
    pub(crate) fn track(&self, _py: Python<'_>) {
        if !self.is_tracked() {
            // SAFETY: a complete instance of a class with a traverse function, not tracked.
            unsafe { ffi::PyObject_GC_Track(self.0.as_ptr().cast()) }
        }
    }

    /// True if the garbage collector knows the instance.
    #[inline]
    pub(crate) fn is_tracked(&self) -> bool {
        // SAFETY: a live instance of a class that supports the collector.
        unsafe { ffi::PyObject_GC_IsTracked(self.0.as_ptr()) != 0 }
    }

    /// The instance as one of this class, if it is one.
    pub(crate) fn from_any(object: &Bound<'_, PyAny>) -> Option<Self> {
        // SAFETY: any object has a type; these classes cannot be subclassed, so the type itself is what to compare.
        let same = unsafe { ffi::Py_TYPE(object.as_ptr()) } == T::class().object();
        same.then(|| Self(object.clone().unbind(), PhantomData))
    }

    #[inline]
    pub(crate) fn get(&self) -> &T {
        // SAFETY: an instance of the class of `T` holds a `T` at the class's offset from its making to its end, and `self` keeps it
        // alive.
        unsafe { &*self.0.as_ptr().byte_add(T::class().offset()).cast::<T>() }
    }

    #[inline]
    pub(crate) fn clone_ref(&self, py: Python<'_>) -> Self {
        Self(self.0.clone_ref(py), PhantomData)
    }

    #[inline]
    pub(crate) fn bind<'a, 'py>(&'a self, py: Python<'py>) -> &'a Bound<'py, PyAny> {
        self.0.bind(py)
    }

    #[inline]
    pub(crate) fn as_py(&self) -> &Py<PyAny> {
        &self.0
    }

    #[inline]
    pub(crate) fn into_any(self) -> Py<PyAny> {
        self.0
    }

    /// True if nobody else holds a counted reference to the instance.
    #[cfg(not(Py_GIL_DISABLED))]
    #[inline]
    pub(crate) fn is_unshared(&self, _py: Python<'_>) -> bool {
        // SAFETY: a live object; the GIL is held.
        unsafe { ffi::Py_REFCNT(self.0.as_ptr()) == 1 }
    }

    /// # Safety
    ///
    /// `object` holds a reference to an instance of the class of `T`.
    #[inline]
    pub(crate) unsafe fn ref_from_ptr(object: &*mut ffi::PyObject) -> &Self {
        // SAFETY: `Self` is a transparent wrapper of a non-null object pointer.
        unsafe { &*ptr::from_ref(object).cast::<Self>() }
    }
}

/// Makes the class of `T` and adds it to `module`.
pub(crate) fn make<T: Instance>(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    let base = T::base(py)?;
    // SAFETY: a type object.
    let base_size = unsafe { (*base.as_type_ptr()).tp_basicsize }.cast_unsigned();
    let offset = base_size.next_multiple_of(align_of::<T>());
    let size = offset + size_of::<T>();
    check_slots(&base, T::FILLED_SLOTS)?;

    let mut methods = T::methods();
    // SAFETY: all zeros is the sentinel that ends these tables.
    methods.push(unsafe { std::mem::zeroed() });
    let mut getters = T::getters();
    // SAFETY: as above.
    getters.push(unsafe { std::mem::zeroed() });
    let mut members = Vec::new();
    if T::OPEN {
        for (name, place) in [
            (c"__dictoffset__", std::mem::offset_of!(Attributes, dict)),
            (c"__weaklistoffset__", std::mem::offset_of!(Attributes, weak_references)),
        ] {
            members.push(ffi::PyMemberDef {
                name: name.as_ptr(),
                type_code: ffi::Py_T_PYSSIZET,
                offset: (offset + place).cast_signed(),
                flags: ffi::Py_READONLY,
                doc: ptr::null(),
            });
        }
        getters.insert(
            0,
            ffi::PyGetSetDef {
                name: c"__dict__".as_ptr(),
                get: Some(ffi::PyObject_GenericGetDict),
                set: Some(ffi::PyObject_GenericSetDict),
                doc: ptr::null(),
                closure: ptr::null_mut(),
            },
        );
    }
    // SAFETY: as above.
    members.push(unsafe { std::mem::zeroed() });

    let slot = |slot: c_int, function: *mut c_void| ffi::PyType_Slot { slot, pfunc: function };
    let mut slots = vec![
        slot(ffi::Py_tp_doc, T::DOC.as_ptr().cast_mut().cast()),
        slot(ffi::Py_tp_dealloc, dealloc::<T> as ffi::destructor as *mut c_void),
        slot(ffi::Py_tp_traverse, traverse::<T> as ffi::traverseproc as *mut c_void),
        slot(ffi::Py_tp_clear, clear::<T> as ffi::inquiry as *mut c_void),
        // The tables are part of the type, which lives for ever.
        slot(ffi::Py_tp_methods, Box::leak(methods.into_boxed_slice()).as_mut_ptr().cast()),
        slot(ffi::Py_tp_getset, Box::leak(getters.into_boxed_slice()).as_mut_ptr().cast()),
        slot(ffi::Py_tp_members, Box::leak(members.into_boxed_slice()).as_mut_ptr().cast()),
    ];
    if T::FINALIZES {
        slots.push(slot(ffi::Py_tp_finalize, finalize::<T> as ffi::destructor as *mut c_void));
    }
    if let Some(repr) = T::REPR {
        slots.push(slot(ffi::Py_tp_repr, repr as *mut c_void));
    }
    slots.push(slot(0, ptr::null_mut()));

    let mut spec = ffi::PyType_Spec {
        name: T::NAME.as_ptr(),
        basicsize: c_int::try_from(size).map_err(|_| PySystemError::new_err("the instance is too large"))?,
        itemsize: 0,
        flags: (ffi::Py_TPFLAGS_DEFAULT | ffi::Py_TPFLAGS_HAVE_GC | ffi::Py_TPFLAGS_DISALLOW_INSTANTIATION)
            as _,
        slots: slots.as_mut_ptr(),
    };
    let bases = PyTuple::new(py, [&base])?;
    // SAFETY: the spec and its tables are complete and end in sentinels; CPython copies what does not live for ever.
    let class = unsafe {
        Bound::from_owned_ptr_or_err(py, ffi::PyType_FromSpecWithBases(&raw mut spec, bases.as_ptr()))?
            .cast_into_unchecked::<PyType>()
    };
    module.add(class.name()?, &class)?;
    T::class().offset.store(offset, Ordering::Relaxed);
    T::class().base_size.store(base_size, Ordering::Relaxed);
    if T::FILLED_SLOTS > 0 {
        // SAFETY: made just now, of this base.
        unsafe { T::class().pool.open(&base, class.as_type_ptr())? };
    }
    // SAFETY: a type object.
    let weak_references = unsafe { (*class.as_type_ptr()).tp_weaklistoffset };
    T::class().weak_references.store(weak_references, Ordering::Relaxed);
    T::class().object.store(class.into_ptr().cast(), Ordering::Release);
    Ok(())
}

/// Raises `SystemError` if the first `count` words of the layout of `base` are not all slots.
fn check_slots(base: &Bound<'_, PyType>, count: usize) -> PyResult<()> {
    let word = size_of::<*mut ffi::PyObject>();
    let mut missing: Vec<usize> = (0..count).map(|index| size_of::<ffi::PyObject>() + index * word).collect();
    let mut class = base.as_type_ptr();
    // SAFETY: type objects, kept alive by the first one; a table of members ends in an entry without a name.
    unsafe {
        while !class.is_null() {
            let mut member = (*class).tp_members;
            while !member.is_null() && !(*member).name.is_null() {
                if (*member).type_code == ffi::Py_T_OBJECT_EX {
                    missing.retain(|offset| offset.cast_signed() != (*member).offset);
                }
                member = member.add(1);
            }
            class = (*class).tp_base;
        }
    }
    if missing.is_empty() {
        return Ok(());
    }
    Err(PySystemError::new_err(format!("{} does not have {count} slots at its beginning", base.name()?)))
}

/// The base's slots of an instance: every word between the object's head and `T`, but for the list of weak references.
///
/// # Safety
///
/// `object` is an instance of the class of `T`.
#[inline]
unsafe fn base_slots<T: Instance>(
    object: *mut ffi::PyObject,
) -> impl Iterator<Item = *mut *mut ffi::PyObject> {
    let word = size_of::<*mut ffi::PyObject>();
    let head = size_of::<ffi::PyObject>();
    let count = (T::class().base_size.load(Ordering::Relaxed) - head) / word;
    let weak_references = T::class().weak_references.load(Ordering::Relaxed);
    (0..count)
        .map(move |index| head + index * word)
        .filter(move |offset| offset.cast_signed() != weak_references)
        // SAFETY: within the instance.
        .map(move |offset| unsafe { object.byte_add(offset).cast() })
}

unsafe extern "C" fn traverse<T: Instance>(
    object: *mut ffi::PyObject,
    visit: ffi::visitproc,
    argument: *mut c_void,
) -> c_int {
    let mut visitor = Visitor { visit, argument, result: 0 };
    // SAFETY: CPython gives an instance of this class, alive; `get` only reads.
    unsafe {
        visitor.visit_pointer(ffi::Py_TYPE(object).cast());
        for place in base_slots::<T>(object) {
            visitor.visit_pointer(*place);
        }
        let value = Object::<T>::ref_from_ptr(&object).get();
        if T::OPEN {
            visitor.visit_pointer((*ptr::from_ref(value).cast::<Attributes>()).dict.load(Ordering::Relaxed));
        }
        value.traverse(&mut visitor);
    }
    visitor.result
}

unsafe extern "C" fn clear<T: Instance>(object: *mut ffi::PyObject) -> c_int {
    struct Body<T>(PhantomData<T>);
    impl<T: Instance> MethodDef<trampoline::inquiry::Func> for Body<T> {
        const METH: trampoline::inquiry::Func = |py, object| {
            // SAFETY: as in `clear`.
            unsafe {
                let this = Object::<T>::ref_from_ptr(&object);
                this.get().clear(py);
                clear_base::<T>(object);
            }
            Ok(0)
        };
    }
    // SAFETY: the collector calls with the thread attached, and an instance of this class.
    unsafe { trampoline::inquiry::<Body<T>>(object) }
}

/// Empties the base's slots and, of an open class, the dictionary.
///
/// # Safety
///
/// `object` is an instance of the class of `T`, the thread is attached.
unsafe fn clear_base<T: Instance>(object: *mut ffi::PyObject) {
    // SAFETY: each place holds an owned reference or NULL; it is emptied before the reference is dropped, which may run code.
    unsafe {
        if T::OPEN {
            let attributes = object.byte_add(T::class().offset()).cast::<Attributes>();
            ffi::Py_XDECREF((*attributes).dict.swap(ptr::null_mut(), Ordering::Relaxed));
        }
        for place in base_slots::<T>(object) {
            ffi::Py_XDECREF(ptr::replace(place, ptr::null_mut()));
        }
    }
}

unsafe extern "C" fn finalize<T: Instance>(object: *mut ffi::PyObject) {
    struct Body<T>(PhantomData<T>);
    impl<T: Instance> MethodDef<trampoline::inquiry::Func> for Body<T> {
        const METH: trampoline::inquiry::Func = |py, object| {
            // A finalizer must leave the exception that is under way as it found it (CPython's documentation of tp_finalize).
            let pending = PyErr::take(py);
            // SAFETY: CPython gives an instance of this class.
            T::finalize(unsafe { Object::<T>::ref_from_ptr(&object) }, py);
            if let Some(pending) = pending {
                pending.restore(py);
            }
            Ok(0)
        };
    }
    // SAFETY: CPython calls finalizers with the thread attached.
    unsafe { trampoline::inquiry::<Body<T>>(object) };
}

unsafe extern "C" fn dealloc<T: Instance>(object: *mut ffi::PyObject) {
    if T::DISMANTLES && !T::FINALIZES {
        // SAFETY: as below. Nothing here asks PyO3 whether the thread is attached, so it need not be told; nor can it panic.
        unsafe {
            ffi::PyObject_GC_UnTrack(object.cast());
            unnested(object, destroy::<T>);
        }
        return;
    }
    struct Body<T>(PhantomData<T>);
    impl<T: Instance> MethodDef<trampoline::inquiry::Func> for Body<T> {
        const METH: trampoline::inquiry::Func = |_py, object| {
            // SAFETY: the last reference is gone, so nobody else is here; the order is CPython's (`subtype_dealloc`): finalizer,
            // which may bring the instance back, then weak references, contents, memory, and the class at the very end.
            unsafe {
                if T::FINALIZES && ffi::PyObject_CallFinalizerFromDealloc(object) < 0 {
                    return Ok(0);
                }
                ffi::PyObject_GC_UnTrack(object.cast());
                unnested(object, destroy::<T>);
            }
            Ok(0)
        };
    }
    // SAFETY: CPython destroys objects with the thread attached.
    unsafe { trampoline::inquiry::<Body<T>>(object) };
}

/// The part of [`dealloc`] that may destroy other objects.
///
/// # Safety
///
/// `object` is an instance of the class of `T` that nobody refers to and the collector does not know any more.
unsafe fn destroy<T: Instance>(object: *mut ffi::PyObject) {
    // SAFETY: by the contract above; the class goes last, for the instance's layout is its.
    unsafe {
        let class = ffi::Py_TYPE(object);
        let weak_references = T::class().weak_references.load(Ordering::Relaxed);
        if weak_references != 0
            && !(*object.byte_offset(weak_references).cast::<*mut ffi::PyObject>()).is_null()
        {
            ffi::PyObject_ClearWeakRefs(object);
        }
        clear_base::<T>(object);
        let value = object.byte_add(T::class().offset()).cast::<T>();
        let py = Python::assume_attached();
        if T::DISMANTLES {
            (*value).dismantle(py);
        }
        ptr::drop_in_place(value);
        if T::FILLED_SLOTS == 0 || !T::class().pool.give(py, object) {
            ffi::PyObject_GC_Del(object.cast());
        }
        ffi::Py_DECREF(class.cast());
    }
}

/// So many destructions may lie inside of each other.
const MOST_NESTED: u32 = 50;

/// Calls `destroy`, which may come back here for what the object was the last to refer to, and so on along a chain: now, or
/// if that is too many calls inside of each other, as soon as the outermost is done. Without this a long chain of
/// handles, each an argument of the next, would use up the stack. (CPython's own remedy, the "trashcan", has no stable interface.)
///
/// # Safety
///
/// As for [`destroy`].
unsafe fn unnested(object: *mut ffi::PyObject, destroy: unsafe fn(*mut ffi::PyObject)) {
    type Postponed = Vec<(*mut ffi::PyObject, unsafe fn(*mut ffi::PyObject))>;
    thread_local! {
        static NESTED: Cell<u32> = const { Cell::new(0) };
        // Without a destructor, so that it works to the very end of a thread; it is empty but during the outermost destruction.
        static POSTPONED: Cell<ManuallyDrop<Postponed>> = const { Cell::new(ManuallyDrop::new(Vec::new())) };
    }
    let change = |change: &dyn Fn(&mut Postponed)| {
        POSTPONED.with(|place| {
            let mut postponed = place.replace(ManuallyDrop::new(Vec::new()));
            change(&mut postponed);
            place.set(postponed);
        });
    };
    NESTED.with(|nested| {
        let depth = nested.get();
        if depth >= MOST_NESTED {
            change(&|postponed| postponed.push((object, destroy)));
            return;
        }
        nested.set(depth + 1);
        // SAFETY: by the contract above.
        unsafe { destroy(object) };
        if depth > 0 {
            nested.set(depth);
            return;
        }
        loop {
            let next = Cell::new(None);
            change(&|postponed| {
                next.set(postponed.pop());
                if postponed.is_empty() {
                    *postponed = Vec::new();
                }
            });
            let Some((object, destroy)) = next.get() else { break };
            // SAFETY: postponed above under the same contract, and once.
            unsafe { destroy(object) };
        }
        nested.set(0);
    });
}
