//! How much a pipe holds.
//!
//! A pipe holds 64 KiB unless somebody says otherwise (pipe(7)), and a program that copies what it reads does so in larger pieces: `cat`
//! and Python's files in 128 KiB or more. It then sleeps within each piece until the other end has made room. A pipe that holds
//! two of the kernel's usual ones spares both ends half of these meetings; larger ones were slower again, since what is read
//! has left the processor's cache by then. docs/performance.md has the figures.

use std::os::fd::BorrowedFd;

use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};

/// What a pipe holds at first, in bytes.
pub(super) const USUAL: usize = 64 * 1024;

/// What it is made to hold.
const AMPLE: usize = 128 * 1024;

/// Makes a pipe larger which was found full, unless somebody has chosen what it holds.
///
/// Where the system refuses (a user's pipes may hold so much in all, `/proc/sys/fs/pipe-user-pages-soft`), or where this is no pipe,
/// all stays as it is.
#[cold]
pub(super) fn enlarge(fd: BorrowedFd<'_>) {
    if fcntl_getpipe_size(fd) == Ok(USUAL) {
        let _ = fcntl_setpipe_size(fd, AMPLE);
    }
}
