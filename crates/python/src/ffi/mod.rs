//! The only place with raw calls of CPython, and of the OpenSSL that it has loaded ([`libssl`]).
//!
//! What is here, PyO3 does not offer: classes whose base is a class written in Python that has slots (a handle is an
//! [`asyncio.Handle`], a transport an [`asyncio.Transport`]), calls without tuples, and contexts entered without a
//! Python call. Everything above it is safe Rust.
//!
//! [`asyncio.Handle`]: https://docs.python.org/3/library/asyncio-eventloop.html#asyncio.Handle
//! [`asyncio.Transport`]: https://docs.python.org/3/library/asyncio-protocol.html#asyncio.Transport

pub(crate) mod arguments;
pub(crate) mod audit;
pub(crate) mod buffer;
pub(crate) mod bytes;
pub(crate) mod call;
pub(crate) mod class;
pub(crate) mod clock;
pub(crate) mod context;
pub(crate) mod descriptor;
pub(crate) mod file_memory;
pub(crate) mod frames;
pub(crate) mod guarded;
pub(crate) mod imports;
pub(crate) mod libssl;
pub(crate) mod memory_bio;
pub(crate) mod methods;
pub(crate) mod native_thread;
pub(crate) mod plain_socket;
mod pool;
pub(crate) mod python_class;
pub(crate) mod signals;
pub(crate) mod slots;
pub(crate) mod stored_arguments;
pub(crate) mod suspended;
#[cfg(Py_GIL_DISABLED)]
pub(crate) mod world;
