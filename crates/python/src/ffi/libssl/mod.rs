//! The libssl that CPython's `ssl` module has loaded, called without the detour by Python.
//!
//! An `ssl.SSLObject` has an `SSL` inside, whose place in the object is nobody's business and differs between Pythons. It is not
//! looked for there. OpenSSL itself tells of it: who has reserved extra data of every `SSL` ([`CRYPTO_get_ex_new_index`]) is called when
//! one is made, on the thread that makes it. So the one that is made in the middle of the context's `wrap_bio()` is the right one, and
//! CPython has noted on it, as its application's data, which object it belongs to ([`Made::take_over`] compares).
//!
//! The object holds the `SSL`, and a [`Connection`] holds the object. Its `ssl.MemoryBIO`s are exchanged for a [`wire`], so CPython's own
//! methods, called on the same object, go on to work, and read and write the same bytes.
//!
//! One call of OpenSSL's on one `SSL` at a time: it may call back into Python (`sni_callback` in a renegotiation), which may come back
//! here. Whoever calls holds the connection's [`Turn`], of which there is one.
//!
//! [`CRYPTO_get_ex_new_index`]: https://docs.openssl.org/3.0/man3/CRYPTO_get_ex_new_index/

mod functions;
mod wire;

use std::cell::Cell;
use std::ffi::{c_int, c_long, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;

use self::functions::{Functions, Ssl};
use self::wire::{Shared, look};
use super::buffer::WritableBuffer;
use super::bytes::Unfinished;
use super::memory_bio::MemoryBio;

/// `CRYPTO_EX_INDEX_SSL` of `openssl/crypto.h`.
const INDEX_SSL: c_int = 0;

/// The index of `SSL_get_app_data()`.
const APP_DATA: c_int = 0;

/// `SSL_ERROR_WANT_READ` and `SSL_ERROR_ZERO_RETURN` of `openssl/ssl.h`.
const WANT_READ: c_int = 2;
const ZERO_RETURN: c_int = 6;

/// `SSL_RECEIVED_SHUTDOWN`: the peer has said that it sends no more.
const RECEIVED_SHUTDOWN: c_int = 2;

/// What came of a call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// There is no more room, or all is written.
    Done,
    /// It goes on once the peer has sent more.
    Again,
    /// The peer has said that it sends no more.
    Closed,
    /// Something else. The thread's queue of errors says what, and CPython makes the exception of it: if the same is asked of the
    /// Python object. A connection that has failed does nothing any more (`state_machine()` in OpenSSL's `ssl/statem/statem.c` returns at
    /// once, and leaves the queue alone).
    Failed,
}

thread_local! {
    /// Whether an `SSL` that this thread makes is noted, and what was.
    static NOTED: Cell<Noted> = const { Cell::new(Noted::Nothing) };
}

#[derive(Clone, Copy)]
enum Noted {
    /// Nobody wants to know.
    Nothing,
    /// None yet.
    None,
    One(NonNull<Ssl>),
    /// More than one, or one that is gone: nobody can tell which.
    Several,
}

/// `CRYPTO_EX_new`: an `SSL` is made, on this thread.
unsafe extern "C" fn made(
    ssl: *mut c_void,
    _data: *mut c_void,
    _all: *mut c_void,
    _index: c_int,
    _number: c_long,
    _argument: *mut c_void,
) {
    NOTED.with(|noted| match noted.get() {
        Noted::Nothing => {}
        Noted::None => noted.set(NonNull::new(ssl.cast()).map_or(Noted::Several, Noted::One)),
        Noted::One(_) | Noted::Several => noted.set(Noted::Several),
    });
}

/// `CRYPTO_EX_free`: an `SSL` is freed.
unsafe extern "C" fn freed(
    _ssl: *mut c_void,
    _data: *mut c_void,
    _all: *mut c_void,
    _index: c_int,
    _number: c_long,
    _argument: *mut c_void,
) {
    NOTED.with(|noted| match noted.get() {
        Noted::Nothing | Noted::None => {}
        Noted::One(_) | Noted::Several => noted.set(Noted::Several),
    });
}

/// The functions, once OpenSSL tells of every `SSL` that is made. `None` where it is not to be called.
fn prepared(py: Python<'_>) -> Option<&'static Functions> {
    static PREPARED: PyOnceLock<Option<&'static Functions>> = PyOnceLock::new();
    *PREPARED.get_or_init(py, || {
        // Without a GIL, CPython's own locks in the object guard the `SSL`, and they are out of reach.
        if cfg!(Py_GIL_DISABLED) {
            return None;
        }
        let functions = Functions::of_python(py)?;
        // SAFETY: the callbacks are of the right type, and never unloaded.
        let index = unsafe {
            (functions.get_ex_new_index)(
                INDEX_SSL,
                0,
                ptr::null_mut(),
                Some(made),
                ptr::null_mut(),
                Some(freed),
            )
        };
        (index >= 0).then_some(functions)
    })
}

/// An `SSL` that was made.
pub(crate) struct Made {
    functions: &'static Functions,
    ssl: NonNull<Ssl>,
}

/// Runs `make`, and tells of the `SSL` that it has made on this thread, if it was just one and libssl can be called.
pub(crate) fn watch_for_ssl<R>(py: Python<'_>, make: impl FnOnce() -> R) -> (R, Option<Made>) {
    struct Restore(Noted);
    impl Drop for Restore {
        fn drop(&mut self) {
            NOTED.set(self.0);
        }
    }
    let Some(functions) = prepared(py) else { return (make(), None) };
    let _restore = Restore(NOTED.replace(Noted::None));
    let result = make();
    match NOTED.get() {
        Noted::One(ssl) => (result, Some(Made { functions, ssl })),
        Noted::Nothing | Noted::None | Noted::Several => (result, None),
    }
}

impl Made {
    /// Takes over the `SSL` behind `object`, the C object (`_ssl._SSLSocket`) behind an `ssl.SSLObject`, which was made to work on
    /// `incoming` and `outgoing`. `None` if it is another object's, or works on something else.
    ///
    /// It must not have begun to work.
    pub(crate) fn take_over(
        self,
        object: &Bound<'_, PyAny>,
        incoming: &MemoryBio,
        outgoing: &MemoryBio,
    ) -> PyResult<Option<Connection>> {
        let Self { functions, ssl } = self;
        let py = object.py();
        // SAFETY: the `SSL` was made a moment ago and not freed since. Whoever holds it does so by a Python object, and if it is this one,
        // as it says, it stays.
        if unsafe { (functions.ssl_get_ex_data)(ssl.as_ptr(), APP_DATA) } != object.as_ptr().cast() {
            return Ok(None);
        }
        // Bytes put into our BIOs are to be seen in the `SSL`'s: then they are the same.
        incoming.write(py, b"in")?;
        outgoing.write(py, b"out")?;
        // SAFETY: a BIO of the `SSL`'s is NULL or alive.
        let pending = unsafe {
            [(functions.ssl_get_rbio)(ssl.as_ptr()), (functions.ssl_get_wbio)(ssl.as_ptr())]
                .map(|bio| if bio.is_null() { 0 } else { (functions.bio_ctrl_pending)(bio) })
        };
        incoming.read(py)?;
        outgoing.read(py)?;
        if pending != [2, 3] {
            return Ok(None);
        }
        let shared = Arc::new(Shared::default());
        let Some(bio) = wire::new_bio(functions, &shared) else { return Ok(None) };
        // SAFETY: an `SSL` that is alive and has not begun, and a BIO with one reference, which is all that one for both directions
        // takes (SSL_set_bio(3)). The BIOs that were there lose the references that the `SSL` had to them.
        unsafe { (functions.ssl_set_bio)(ssl.as_ptr(), bio, bio) };
        Ok(Some(Connection {
            functions,
            ssl,
            object: object.clone().unbind(),
            shared,
            taken: AtomicBool::new(false),
        }))
    }
}

/// An `SSL` that belongs to a Python object.
pub(crate) struct Connection {
    functions: &'static Functions,
    /// Alive for as long as `object` is.
    ssl: NonNull<Ssl>,
    /// Keeps the `SSL`; CPython's objects never change theirs.
    object: Py<PyAny>,
    shared: Arc<Shared>,
    /// Somebody has the turn.
    taken: AtomicBool,
}

// SAFETY: an `SSL` may be used by any thread, one at a time. Calls are made by who has the turn, which is one, and with the GIL held.
unsafe impl Send for Connection {}
// SAFETY: as above.
unsafe impl Sync for Connection {}

impl Connection {
    /// The Python object.
    pub(crate) fn object(&self) -> &Py<PyAny> {
        &self.object
    }

    /// The right to call OpenSSL. `None` if a call is under way, out of which Python code was called that has come here.
    pub(crate) fn turn(&self) -> Option<Turn<'_>> {
        (!self.taken.swap(true, Ordering::Acquire)).then(|| Turn { connection: self })
    }

    /// Takes bytes of the peer's.
    pub(crate) fn feed(&self, bytes: &[u8]) {
        look(&self.shared).feed(bytes);
    }

    /// How many bytes of the peer's OpenSSL has not looked at.
    pub(crate) fn unread(&self) -> usize {
        look(&self.shared).unread()
    }

    /// How many bytes wait to be sent.
    pub(crate) fn unsent(&self) -> usize {
        look(&self.shared).unsent()
    }
}

/// The right to call OpenSSL on a connection, or to have CPython do so.
pub(crate) struct Turn<'a> {
    connection: &'a Connection,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.connection.taken.store(false, Ordering::Release);
    }
}

impl Turn<'_> {
    /// The most that can be read: what is decrypted and what may be in bytes that OpenSSL has not looked at, which are more. 0: there
    /// is surely nothing.
    pub(crate) fn readable(&self, _py: Python<'_>) -> usize {
        let Connection { functions, ssl, .. } = self.connection;
        // SAFETY: alive, and it is this thread's turn.
        let decrypted = unsafe { (functions.ssl_pending)(ssl.as_ptr()) };
        self.connection.unread() + usize::try_from(decrypted).unwrap_or(0)
    }

    /// Runs `body` while `received` is there to be read, behind what was fed. What is not read then is kept, as if fed.
    pub(crate) fn with_received<R>(&self, received: &[&[u8]], body: impl FnOnce() -> R) -> R {
        wire::with_lent(&self.connection.shared, received, body)
    }

    /// Decrypts into `bytes` until they are full or there is no more. Returns how many bytes it were.
    pub(crate) fn read_bytes(&self, py: Python<'_>, bytes: &mut Unfinished) -> (usize, Outcome) {
        let (memory, room) = bytes.memory();
        // SAFETY: memory of an object that nobody else has seen, which lives for as long as it is borrowed here.
        unsafe { self.read(py, memory, 0, room) }
    }

    /// Decrypts into `buffer` from the byte `start` on, until it is full or there is no more. Returns how many bytes it were.
    pub(crate) fn read_into(
        &self,
        py: Python<'_>,
        buffer: &mut WritableBuffer,
        start: usize,
    ) -> (usize, Outcome) {
        let (memory, room) = buffer.memory();
        // SAFETY: memory of an exporter that keeps it for as long as the buffer is held. What Python code does to it meanwhile, if
        // OpenSSL calls some, is what it may do during `SSLObject.read()` as well.
        unsafe { self.read(py, memory, start, room) }
    }

    /// # Safety
    ///
    /// `memory` is of `room` bytes that may be written to while this runs.
    unsafe fn read(&self, py: Python<'_>, memory: *mut u8, start: usize, room: usize) -> (usize, Outcome) {
        let Connection { functions, ssl, .. } = self.connection;
        self.clear_errors();
        let mut count = start;
        let outcome = loop {
            if count >= room {
                break Outcome::Done;
            }
            // Nothing to look at: the answer is known, and OpenSSL takes longer for it.
            if self.readable(py) == 0 {
                break Outcome::Again;
            }
            let mut read = 0;
            // SAFETY: an `SSL` that is alive, and it is this thread's turn; so much room is left.
            let done = unsafe {
                (functions.ssl_read)(ssl.as_ptr(), memory.add(count).cast(), room - count, &raw mut read)
            };
            if done <= 0 {
                break self.why(done);
            }
            count += read;
        };
        (count.saturating_sub(start), outcome)
    }

    /// Encrypts all of `data`, into `bytes` as long as it finds room there and nothing else waits to be sent. Returns how many bytes are
    /// there.
    pub(crate) fn write(&self, _py: Python<'_>, data: &[u8], bytes: &mut Unfinished) -> (usize, Outcome) {
        let Connection { functions, ssl, shared, .. } = self.connection;
        self.clear_errors();
        let (memory, room) = bytes.memory();
        let mut written = 0;
        // SAFETY: memory of an object that nobody else has seen; an `SSL` that is alive, and it is this thread's turn; `data` is
        // borrowed from `bytes` or the like, which never change.
        let (done, filled) = unsafe {
            wire::with_sink(shared, memory, room, || {
                (functions.ssl_write)(ssl.as_ptr(), data.as_ptr().cast(), data.len(), &raw mut written)
            })
        };
        let outcome = if done > 0 { Outcome::Done } else { self.why(done) };
        debug_assert!(done <= 0 || written == data.len(), "CPython does not allow partial writes");
        (filled, outcome)
    }

    /// Takes out what waits to be sent.
    pub(crate) fn take_unsent(&self) -> Vec<u8> {
        look(&self.connection.shared).take_outgoing()
    }

    /// An error that somebody has left in this thread's queue would be taken for one of the next call's (SSL_get_error(3)).
    fn clear_errors(&self) {
        let functions = self.connection.functions;
        // SAFETY: no arguments; a queue that belongs to the thread.
        unsafe {
            if (functions.err_peek_error)() != 0 {
                (functions.err_clear_error)();
            }
        }
    }

    /// Why the last call has done nothing.
    fn why(&self, result: c_int) -> Outcome {
        let Connection { functions, ssl, .. } = self.connection;
        // SAFETY: alive, and on the thread of the call.
        unsafe {
            match (functions.ssl_get_error)(ssl.as_ptr(), result) {
                WANT_READ => Outcome::Again,
                // CPython takes it for the end only if this side has not said its own (`_ssl__SSLSocket_read_impl`).
                ZERO_RETURN if (functions.ssl_get_shutdown)(ssl.as_ptr()) == RECEIVED_SHUTDOWN => {
                    Outcome::Closed
                }
                _ => Outcome::Failed,
            }
        }
    }
}
