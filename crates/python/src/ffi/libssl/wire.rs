//! Where an `SSL` reads what the peer has sent and writes what goes to the peer: a `BIO` of our own over plain memory.
//!
//! OpenSSL's BIO of memory copies in and out. This one reads from where the bytes lie, if they are lent to it, and writes to where
//! they are wanted.

use std::ffi::{c_char, c_int, c_long, c_void};
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::functions::{Bio, BioMethod, Functions};

/// `BIO_TYPE_SOURCE_SINK` of `openssl/bio.h`: a BIO that stands at the end of a chain.
const SOURCE_SINK: c_int = 0x0400;

/// `BIO_FLAGS_READ` and `BIO_FLAGS_SHOULD_RETRY`: nothing to read, but there will be.
const RETRY_READ: c_int = 0x01 | 0x08;

/// `BIO_FLAGS_RWS` and `BIO_FLAGS_SHOULD_RETRY`: all that says why an operation did nothing.
const RETRY: c_int = 0x07 | 0x08;

/// `BIO_CTRL_PENDING`, `BIO_CTRL_WPENDING`, `BIO_CTRL_FLUSH`.
const PENDING: c_int = 10;
const WRITE_PENDING: c_int = 13;
const FLUSH: c_int = 11;

/// Bytes on their way between the `SSL` and its owner.
#[derive(Default)]
pub(super) struct Wire {
    /// What the peer has sent, from the byte `start` on.
    incoming: Vec<u8>,
    start: usize,
    /// What the peer has sent behind that: memory of somebody who waits for the end of [`with_lent`].
    lent: Lent,
    /// What goes to the peer goes here first: memory of somebody who waits for the end of [`with_sink`].
    sink: Sink,
    /// What goes to the peer and finds no room there.
    outgoing: Vec<u8>,
}

struct Lent {
    slices: *const *const [u8],
    count: usize,
    /// How many bytes of the first one are read.
    start: usize,
}

struct Sink {
    memory: *mut u8,
    room: usize,
    filled: usize,
}

impl Default for Lent {
    fn default() -> Self {
        Self { slices: ptr::null(), count: 0, start: 0 }
    }
}

impl Default for Sink {
    fn default() -> Self {
        Self { memory: ptr::null_mut(), room: 0, filled: 0 }
    }
}

// SAFETY: the pointers lead to memory that their owner keeps, and leaves alone, until they are taken away again (`with_lent`,
// `with_sink`); which thread uses them meanwhile does not matter, and a mutex lets one at a time.
unsafe impl Send for Wire {}

pub(super) type Shared = Mutex<Wire>;

pub(super) fn look(shared: &Shared) -> MutexGuard<'_, Wire> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Lent {
    /// What is not read yet, slice by slice.
    fn rest(&self) -> impl Iterator<Item = &[u8]> {
        let mut skip = self.start;
        (0..self.count).map(move |index| {
            // SAFETY: `slices` leads to `count` slices, all of which are lent for as long as they are here.
            let slice = unsafe { &**self.slices.add(index) };
            &slice[std::mem::take(&mut skip)..]
        })
    }

    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let first = self.rest().next().map_or(0, <[u8]>::len);
            if count < first {
                self.start += count;
                return;
            }
            count -= first;
            self.start = 0;
            self.count -= 1;
            // SAFETY: at most one past the last.
            self.slices = unsafe { self.slices.add(1) };
        }
    }
}

impl Wire {
    /// Takes bytes of the peer's.
    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// How many bytes of the peer's are not read.
    pub(super) fn unread(&self) -> usize {
        self.incoming.len() - self.start + self.lent.rest().map(<[u8]>::len).sum::<usize>()
    }

    /// How many bytes wait to be sent.
    pub(super) fn unsent(&self) -> usize {
        self.sink.filled + self.outgoing.len()
    }

    /// Takes out what waits to be sent and is in nobody's memory.
    pub(super) fn take_outgoing(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.outgoing)
    }

    /// Reads into `place` what comes next; the number of bytes.
    fn read(&mut self, place: &mut [MaybeUninit<u8>]) -> usize {
        let kept = &self.incoming[self.start..];
        if !kept.is_empty() {
            let count = copy(kept, place);
            self.start += count;
            if self.start == self.incoming.len() {
                // The memory goes as well: a connection that rests has none.
                self.incoming = Vec::new();
                self.start = 0;
            }
            return count;
        }
        let count = self.lent.rest().find(|slice| !slice.is_empty()).map_or(0, |slice| copy(slice, place));
        self.lent.advance(count);
        count
    }

    /// Writes `bytes`; false if there is no memory.
    fn write(&mut self, bytes: &[u8]) -> bool {
        if self.outgoing.is_empty() && bytes.len() <= self.sink.room - self.sink.filled {
            // SAFETY: so much room is left behind what is filled.
            unsafe {
                let place = self.sink.memory.add(self.sink.filled);
                ptr::copy_nonoverlapping(bytes.as_ptr(), place, bytes.len());
            }
            self.sink.filled += bytes.len();
            return true;
        }
        if self.outgoing.try_reserve(bytes.len()).is_err() {
            return false;
        }
        self.outgoing.extend_from_slice(bytes);
        true
    }
}

fn copy(from: &[u8], place: &mut [MaybeUninit<u8>]) -> usize {
    let count = from.len().min(place.len());
    place[..count].write_copy_of_slice(&from[..count]);
    count
}

/// Runs `body` while `slices` are there to be read, behind what was fed. What is not read then is kept, as if fed.
pub(super) fn with_lent<R>(shared: &Shared, slices: &[&[u8]], body: impl FnOnce() -> R) -> R {
    struct TakeBack<'a>(&'a Shared);
    impl Drop for TakeBack<'_> {
        fn drop(&mut self) {
            let mut wire = look(self.0);
            let lent = std::mem::take(&mut wire.lent);
            for slice in lent.rest() {
                wire.incoming.extend_from_slice(slice);
            }
        }
    }
    // A reference and a pointer to a slice have the same layout.
    let lent = Lent { slices: slices.as_ptr().cast(), count: slices.len(), start: 0 };
    let before = std::mem::replace(&mut look(shared).lent, lent);
    debug_assert!(before.count == 0, "one lender at a time");
    let _take_back = TakeBack(shared);
    body()
}

/// Runs `body` while what is to be sent goes to `memory` first, as long as nothing else waits. Returns how many bytes went there.
///
/// # Safety
///
/// `memory` is of `room` bytes that may be written to, and that nobody else uses until this returns.
pub(super) unsafe fn with_sink<R>(
    shared: &Shared,
    memory: *mut u8,
    room: usize,
    body: impl FnOnce() -> R,
) -> (R, usize) {
    struct TakeBack<'a>(&'a Shared);
    impl TakeBack<'_> {
        fn take(&self) -> usize {
            std::mem::take(&mut look(self.0).sink).filled
        }
    }
    impl Drop for TakeBack<'_> {
        fn drop(&mut self) {
            self.take();
        }
    }
    look(shared).sink = Sink { memory, room, filled: 0 };
    let back = TakeBack(shared);
    let result = body();
    let filled = back.take();
    (result, filled)
}

/// A new BIO over `shared`, which it holds for as long as it lives. `None` if OpenSSL has no memory for it.
pub(super) fn new_bio(functions: &'static Functions, shared: &Arc<Shared>) -> Option<*mut Bio> {
    /// The kind, made once a process and never freed.
    struct Kind(*mut BioMethod);
    // SAFETY: complete before anybody sees it, and only read from then on.
    unsafe impl Send for Kind {}
    // SAFETY: as above.
    unsafe impl Sync for Kind {}
    static KIND: OnceLock<Option<Kind>> = OnceLock::new();

    TABLE.get_or_init(|| functions);
    // SAFETY: OpenSSL's functions with what their manual asks for; the callbacks are of the right types.
    let kind = KIND.get_or_init(|| unsafe {
        let kind =
            (functions.bio_meth_new)((functions.bio_get_new_index)() | SOURCE_SINK, c"whilst".as_ptr());
        let complete = !kind.is_null()
            && (functions.bio_meth_set_read)(kind, read) == 1
            && (functions.bio_meth_set_write)(kind, write) == 1
            && (functions.bio_meth_set_ctrl)(kind, control) == 1
            && (functions.bio_meth_set_destroy)(kind, destroy) == 1;
        complete.then_some(Kind(kind))
    });
    let kind = kind.as_ref()?.0;
    // SAFETY: a kind that is complete; the BIO has its data, a reference that `destroy` gives back, before anybody can use it.
    unsafe {
        let bio = (functions.bio_new)(kind);
        if bio.is_null() {
            return None;
        }
        (functions.bio_set_data)(bio, Arc::into_raw(Arc::clone(shared)).cast_mut().cast());
        (functions.bio_set_init)(bio, 1);
        Some(bio)
    }
}

/// The functions, for the callbacks, which OpenSSL calls with nothing but the BIO.
static TABLE: OnceLock<&'static Functions> = OnceLock::new();

/// What `bio` works on. `None` before it has been given that and after it was taken apart.
///
/// # Safety
///
/// `bio` is one of [`new_bio`]'s, and lives for as long as the result is used.
unsafe fn shared_of<'a>(functions: &Functions, bio: *mut Bio) -> Option<&'a Shared> {
    // SAFETY: its data is NULL or what `new_bio` has set.
    unsafe { (functions.bio_get_data)(bio).cast_const().cast::<Shared>().as_ref() }
}

/// `BIO_read`: with nothing to read it asks to be called again, as a BIO of memory does that CPython has made
/// (`BIO_set_mem_eof_return(bio, -1)`).
unsafe extern "C" fn read(bio: *mut Bio, place: *mut c_char, room: usize, count: *mut usize) -> c_int {
    let Some(functions) = TABLE.get() else { return -1 };
    // SAFETY: OpenSSL calls with a BIO of this kind, `room` bytes that it wants filled, and a place for their number. Which thread it
    // is, and whether it holds the GIL, does not matter.
    unsafe {
        (functions.bio_clear_flags)(bio, RETRY);
        let Some(shared) = shared_of(functions, bio) else { return -1 };
        let read = if place.is_null() {
            0
        } else {
            look(shared).read(std::slice::from_raw_parts_mut(place.cast::<MaybeUninit<u8>>(), room))
        };
        if read == 0 {
            (functions.bio_set_flags)(bio, RETRY_READ);
            return -1;
        }
        *count = read;
        1
    }
}

/// `BIO_write`: takes all.
unsafe extern "C" fn write(bio: *mut Bio, bytes: *const c_char, length: usize, count: *mut usize) -> c_int {
    let Some(functions) = TABLE.get() else { return -1 };
    // SAFETY: as for `read`; `length` bytes to be read.
    unsafe {
        (functions.bio_clear_flags)(bio, RETRY);
        let Some(shared) = shared_of(functions, bio) else { return -1 };
        if bytes.is_null() || !look(shared).write(std::slice::from_raw_parts(bytes.cast::<u8>(), length)) {
            return -1;
        }
        *count = length;
        1
    }
}

/// `BIO_ctrl`: what there is to know about it. Everything else it does not do, kernel TLS among it: 0.
unsafe extern "C" fn control(
    bio: *mut Bio,
    command: c_int,
    _number: c_long,
    _argument: *mut c_void,
) -> c_long {
    // OpenSSL asks several times a record for what is not there; that is answered first.
    if command == FLUSH {
        return 1;
    }
    if command != PENDING && command != WRITE_PENDING {
        return 0;
    }
    let Some(functions) = TABLE.get() else { return 0 };
    // SAFETY: as for `read`.
    let Some(shared) = (unsafe { shared_of(functions, bio) }) else { return 0 };
    let wire = look(shared);
    let count = if command == PENDING { wire.unread() } else { wire.unsent() };
    c_long::try_from(count).unwrap_or(c_long::MAX)
}

/// The BIO is freed.
unsafe extern "C" fn destroy(bio: *mut Bio) -> c_int {
    let Some(functions) = TABLE.get() else { return 0 };
    // SAFETY: as for `read`; the data is the reference that `new_bio` has made of an `Arc`, and given back once.
    unsafe {
        let data = (functions.bio_get_data)(bio).cast_const().cast::<Shared>();
        if !data.is_null() {
            (functions.bio_set_data)(bio, ptr::null_mut());
            drop(Arc::from_raw(data));
        }
    }
    1
}
