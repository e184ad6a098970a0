//! The two system calls that send a signal, for any number: `rustix` takes the named ones only.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use rustix::process::Pid;

/// pidfd_send_signal(2), without further information.
pub(super) fn send(process: BorrowedFd<'_>, number: i32) -> io::Result<()> {
    // SAFETY: an open descriptor, a number that the kernel checks, no memory, no flags.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            number,
            ptr::null::<libc::siginfo_t>(),
            0_u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// kill(2), of one process.
pub(super) fn kill(process: Pid, number: i32) -> io::Result<()> {
    // SAFETY: two numbers, which the kernel checks.
    let result = unsafe { libc::kill(process.as_raw_nonzero().get(), number) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
