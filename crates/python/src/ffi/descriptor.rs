//! Descriptors that Python objects own.

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Borrows a descriptor that a Python object owns, for one system call.
pub(crate) fn borrow<'a>(fd: RawFd) -> BorrowedFd<'a> {
    assert!(fd >= 0, "a socket that is open");
    // SAFETY: not -1, which is all that memory safety asks. If the object's owner has closed it behind the transport's back the kernel
    // answers EBADF or acts on the number's present file, as it would for CPython's own transports.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// Takes over a descriptor that Python code hands over to be closed by us.
pub(crate) fn take(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "a descriptor that is open");
    // SAFETY: it was open a moment ago. As with `os.fdopen()` it is the caller's duty that nobody else closes it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
