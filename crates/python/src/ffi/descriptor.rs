//! Descriptors that Python objects own.

use std::os::fd::{BorrowedFd, RawFd};

/// Borrows a descriptor that a Python object owns, for one system call.
pub(crate) fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    assert!(fd >= 0, "a socket that is open");
    // SAFETY: not -1, which is all that memory safety asks. If the object's owner has closed it behind the transport's back the kernel
    // answers EBADF or acts on the number's present file, as it would for CPython's own transports.
    unsafe { BorrowedFd::borrow_raw(fd) }
}
