//! Memory for instances that are made and destroyed once a callback.

use pyo3::ffi;
use pyo3::prelude::*;

/// The memory of a class's instances: blocks of equal places.
///
/// Beside being cheaper than a general allocator, it is memory that the garbage collector does not count. The collector goes by how
/// many more objects that it could know were allocated than freed; a handle is seldom tracked, and yet 200,000 handles that wait
/// would have it run twice as often.
///
/// A place is as [`ffi::PyObject_GC_New`] gives memory: what the collector and CPython keep in front of the object is zero, and the object
/// itself uninitialised. Memory goes back when a whole block is free.
///
/// On builds without a GIL there is none of it: there each thread has an allocator of its own, and all threads would meet here.
pub(super) use self::imp::Pool;

/// How many bytes CPython keeps in front of each instance of `class`: `sys.getsizeof()` adds them to what `__sizeof__()` says.
///
/// `None` if it cannot be found out, or is not what a class of ours would have.
#[cfg(not(Py_GIL_DISABLED))]
fn size_of_head(class: &Bound<'_, PyAny>) -> PyResult<Option<usize>> {
    let py = class.py();
    let instance = class.call_method1("__new__", (class,))?;
    let with_head: usize = py.import("sys")?.getattr("getsizeof")?.call1((&instance,))?.extract()?;
    let own: usize = instance.call_method0("__sizeof__")?.extract()?;
    let head = with_head.checked_sub(own);
    Ok(head.filter(|head| [16, 32].contains(head)))
}

#[cfg(not(Py_GIL_DISABLED))]
mod imp {
    use std::alloc::{Layout, alloc, dealloc};
    use std::ptr;

    use super::*;
    use crate::ffi::guarded::Guarded;

    pub(in crate::ffi) struct Pool(Guarded<Places>);

    // SAFETY: the memory is of no thread, and the guard lets one in at a time.
    unsafe impl Send for Pool {}
    // SAFETY: as above.
    unsafe impl Sync for Pool {}

    struct Places {
        /// The blocks in which there is room, the first of which is used next: a list by [`Block::next`] and [`Block::before`].
        with_room: *mut Block,
        /// How many of them are all room.
        empty: usize,
        /// The size of a place in bytes; 0: there are none.
        size: usize,
        /// How much of it comes before the object.
        head: usize,
        /// How many places a block has.
        count: u32,
    }

    /// What a block begins with; its places follow.
    struct Block {
        next: *mut Block,
        before: *mut Block,
        /// The place that was given back last, in whose first word is the one before it.
        free: *mut u8,
        /// How many places are in use.
        used: u32,
        /// How many places were ever in use: those behind are room, too.
        begun: u32,
    }

    /// Blocks begin at multiples of this, so that a place's block is found by its address.
    const ALIGNMENT: usize = 32 * 1024;
    /// Shorter than that by room for the allocator's own words, so that the next block can follow at once.
    const BLOCK: Layout = match Layout::from_size_align(ALIGNMENT - 64, ALIGNMENT) {
        Ok(layout) => layout,
        Err(_) => panic!("a power of two"),
    };
    const FIRST_PLACE: usize = size_of::<Block>().next_multiple_of(64);
    /// So many blocks are kept that are all room, 4 MiB. Another thread that sends callbacks does so for a switch interval (5 ms)
    /// before the loop has the GIL and runs them, some ten thousand; what would go back to the kernel in between costs a page fault
    /// for every 4 KiB.
    const KEPT: usize = 128;

    impl Pool {
        pub(in crate::ffi) const fn new() -> Self {
            Self(Guarded::new(Places { with_room: ptr::null_mut(), empty: 0, size: 0, head: 0, count: 0 }))
        }

        /// Begins to give memory for instances of `class`, whose base is `base`.
        ///
        /// # Safety
        ///
        /// `class` is a class made in C, with one base, `base`, and is given once, before any instance is made.
        pub(in crate::ffi) unsafe fn open(
            &self,
            base: &Bound<'_, PyAny>,
            class: *mut ffi::PyTypeObject,
        ) -> PyResult<()> {
            // What CPython keeps in front of an instance goes by these (`_PyType_PreHeaderSize` in its `pycore_object.h`: the
            // collector, and from Python 3.11 on a dictionary and weak references).
            const IN_FRONT: std::ffi::c_ulong = ffi::Py_TPFLAGS_HAVE_GC | 1 << 3 | 1 << 4;
            // SAFETY: type objects.
            let (same, size) = unsafe {
                let base = base.as_ptr().cast::<ffi::PyTypeObject>();
                let flags = ffi::PyType_GetFlags(class) ^ ffi::PyType_GetFlags(base);
                (flags & IN_FRONT == 0, (*class).tp_basicsize.cast_unsigned())
            };
            let Some(head) = size_of_head(base)?.filter(|_| same) else { return Ok(()) };
            let size = (head + size).next_multiple_of(16);
            let count = ((BLOCK.size() - FIRST_PLACE) / size) as u32;
            self.0.with(base.py(), |places| {
                places.size = size;
                places.head = head;
                places.count = count;
            });
            Ok(())
        }

        /// Memory for an instance, NULL if there is none left; `None`: ask [`ffi::PyObject_GC_New`].
        #[inline]
        pub(in crate::ffi) fn take(&self, py: Python<'_>) -> Option<*mut ffi::PyObject> {
            self.0.with(py, |places| {
                if places.with_room.is_null() {
                    if places.size == 0 {
                        return None;
                    }
                    if !places.add_block() {
                        return Some(ptr::null_mut());
                    }
                }
                // SAFETY: the list holds live blocks, and what `free` leads to are places of this block that nobody has.
                unsafe {
                    let block = places.with_room;
                    let place = if (*block).free.is_null() {
                        let place = block.byte_add(FIRST_PLACE + (*block).begun as usize * places.size);
                        (*block).begun += 1;
                        place.cast::<u8>()
                    } else {
                        let place = (*block).free;
                        (*block).free = place.cast::<*mut u8>().read();
                        place
                    };
                    if (*block).used == 0 {
                        places.empty -= 1;
                    }
                    (*block).used += 1;
                    if (*block).used == places.count {
                        places.unlink(block);
                    }
                    ptr::write_bytes(place.cast::<[usize; 2]>(), 0, 1);
                    if places.head > 16 {
                        ptr::write_bytes(place.byte_add(16).cast::<[usize; 2]>(), 0, 1);
                    }
                    Some(place.byte_add(places.head).cast())
                }
            })
        }

        /// Takes memory back that [`Self::take`] gave; `false` if it gives none.
        ///
        /// # Safety
        ///
        /// `object` is memory of an instance of the class, and the last that anybody does with it is this.
        #[inline]
        pub(in crate::ffi) unsafe fn give(&self, py: Python<'_>, object: *mut ffi::PyObject) -> bool {
            self.0.with(py, |places| {
                if places.size == 0 {
                    return false;
                }
                // SAFETY: all instances' memory is from here once there is a size, and so is in a block, which lives until all its
                // places are back.
                unsafe {
                    let place = object.byte_sub(places.head).cast::<u8>();
                    let block = place.map_addr(|address| address & !(ALIGNMENT - 1)).cast::<Block>();
                    place.cast::<*mut u8>().write((*block).free);
                    (*block).free = place;
                    if (*block).used == places.count {
                        places.link(block);
                    }
                    (*block).used -= 1;
                    if (*block).used == 0 {
                        places.empty += 1;
                        if places.empty > KEPT {
                            places.drop_block(block);
                        }
                    }
                }
                true
            })
        }
    }

    impl Places {
        /// Makes a block that is all room.
        #[cold]
        fn add_block(&mut self) -> bool {
            // SAFETY: the layout has a size.
            let block = unsafe { alloc(BLOCK) }.cast::<Block>();
            if block.is_null() {
                return false;
            }
            // SAFETY: new memory, large enough and aligned.
            unsafe {
                block.write(Block {
                    next: ptr::null_mut(),
                    before: ptr::null_mut(),
                    free: ptr::null_mut(),
                    used: 0,
                    begun: 0,
                });
                self.link(block);
            }
            self.empty += 1;
            true
        }

        /// # Safety
        ///
        /// `block` is a live block that is not in the list.
        unsafe fn link(&mut self, block: *mut Block) {
            // SAFETY: by the contract above, and the list's blocks are alive.
            unsafe {
                (*block).next = self.with_room;
                (*block).before = ptr::null_mut();
                if !self.with_room.is_null() {
                    (*self.with_room).before = block;
                }
            }
            self.with_room = block;
        }

        /// # Safety
        ///
        /// `block` is in the list.
        unsafe fn unlink(&mut self, block: *mut Block) {
            // SAFETY: by the contract above; the list's blocks are alive.
            unsafe {
                let Block { next, before, .. } = block.read();
                match before.as_mut() {
                    Some(before) => before.next = next,
                    None => self.with_room = next,
                }
                if let Some(next) = next.as_mut() {
                    next.before = before;
                }
            }
        }

        /// # Safety
        ///
        /// `block` is in the list, and nobody has a place of it.
        #[cold]
        unsafe fn drop_block(&mut self, block: *mut Block) {
            self.empty -= 1;
            // SAFETY: by the contract above; allocated with this layout.
            unsafe {
                self.unlink(block);
                dealloc(block.cast(), BLOCK);
            }
        }
    }
}

#[cfg(Py_GIL_DISABLED)]
mod imp {
    use super::*;

    pub(in crate::ffi) struct Pool;

    impl Pool {
        pub(in crate::ffi) const fn new() -> Self {
            Self
        }

        /// Does nothing.
        ///
        /// # Safety
        ///
        /// None.
        pub(in crate::ffi) unsafe fn open(
            &self,
            _base: &Bound<'_, PyAny>,
            _class: *mut ffi::PyTypeObject,
        ) -> PyResult<()> {
            Ok(())
        }

        pub(in crate::ffi) fn take(&self, _py: Python<'_>) -> Option<*mut ffi::PyObject> {
            None
        }

        /// Takes nothing.
        ///
        /// # Safety
        ///
        /// None.
        pub(in crate::ffi) unsafe fn give(&self, _py: Python<'_>, _object: *mut ffi::PyObject) -> bool {
            false
        }
    }
}
