//! The few system calls that both backends make on descriptors which the caller named by number.

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::inbox::Waker;

/// At most this many slices go into one send; the kernel's own limit is 1024 (`UIO_MAXIOV`). What is left
/// over is a short send to the caller.
pub(super) const SLICES: usize = 256;

/// How sends are made: never blocking, and a peer that has gone is an error, not a SIGPIPE.
pub(super) const SEND_FLAGS: libc::c_int = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;

/// Borrows a descriptor that the caller named by number, for one system call.
pub(super) fn borrow<'a>(fd: RawFd) -> io::Result<BorrowedFd<'a>> {
    if fd < 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: not -1, which is all that memory safety asks. Whether the number still names what the caller
    // means is the caller's concern: the kernel answers EBADF or acts on the number's present file, and no
    // memory is involved.
    Ok(unsafe { BorrowedFd::borrow_raw(fd) })
}

/// A timeout as the kernel wants it; what does not fit is as good as for ever.
pub(super) fn timespec(timeout: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    }
}

/// Sends now what the slices name.
///
/// # Safety
///
/// The slices must name readable memory.
pub(super) unsafe fn send(fd: RawFd, slices: &[libc::iovec]) -> io::Result<usize> {
    loop {
        let sent = match slices {
            // SAFETY: the caller vouches for the slice.
            [slice] => unsafe { libc::send(fd, slice.iov_base, slice.iov_len, SEND_FLAGS) },
            _ => {
                let message = message(slices);
                // SAFETY: the caller vouches for the slices, and `message` names these and nothing else.
                unsafe { libc::sendmsg(fd, &message, SEND_FLAGS) }
            }
        };
        if let Ok(sent) = usize::try_from(sent) {
            return Ok(sent);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}

/// A message header over the first [`SLICES`] slices, which it points to.
pub(super) fn message(slices: &[libc::iovec]) -> libc::msghdr {
    // SAFETY: a message header is plain numbers and pointers; all zero is an empty message.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = slices.as_ptr().cast_mut();
    message.msg_iovlen = slices.len().min(SLICES) as _;
    message
}

/// Fails with EBADF where `fd` is no open descriptor.
pub(super) fn check_open(fd: RawFd) -> io::Result<()> {
    rustix::io::fcntl_getfd(borrow(fd)?)?;
    Ok(())
}

/// Waits for the waker and for signals alone.
pub(super) fn wait_for_waker(timeout: Option<Duration>, waker: &Waker) -> io::Result<()> {
    if timeout == Some(Duration::ZERO) {
        waker.consume();
        return Ok(());
    }
    let descriptor = waker.descriptor()?;
    if !waker.announce_sleep() {
        return Ok(());
    }
    let signals = waker.signals().reader();
    // Without a pipe the eventfd is there twice.
    let other = signals.as_ref().unwrap_or(&descriptor);
    let mut descriptors = [PollFd::new(&descriptor, PollFlags::IN), PollFd::new(other, PollFlags::IN)];
    let result = match poll(&mut descriptors, timeout.map(timespec).as_ref()) {
        Ok(0) | Err(Errno::INTR) => Ok(()),
        Ok(_) => {
            if !descriptors[0].revents().is_empty() {
                // Signalled by this wake, or a leftover of one whose sleeper had gone on before it was written.
                let _ = rustix::io::read(&descriptor, &mut [0_u8; 8]);
            }
            if signals.is_some() && !descriptors[1].revents().is_empty() {
                waker.signals().note();
            }
            Ok(())
        }
        Err(error) => Err(error.into()),
    };
    waker.consume();
    result
}
