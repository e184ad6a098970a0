//! Sockets between Rust and Python.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use pyo3::prelude::*;
use rustix::net::{RecvFlags, SendFlags, SocketAddrAny};

use super::address::Address;
use crate::ffi::imports::Import;

/// A non-blocking `socket.socket` that owns the descriptor.
pub(crate) fn into_python(py: Python<'_>, fd: OwnedFd) -> PyResult<Bound<'_, PyAny>> {
    static SOCKET: Import = Import::new("socket", "socket");
    // With all of -1, -1, -1 the class asks the kernel for family, type and protocol.
    let socket = SOCKET.get(py)?.call1((-1, -1, -1, fd.as_raw_fd()))?;
    // Python's object owns the descriptor from here on.
    let _ = fd.into_raw_fd();
    socket.call_method1("setblocking", (false,))?;
    Ok(socket)
}

/// Receives what is there, without waiting: `WouldBlock` if nothing is, 0 at the end of the stream.
pub(crate) fn receive(fd: BorrowedFd<'_>, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::net::recv(fd, &mut *into, RecvFlags::DONTWAIT) {
            Ok((count, _)) => return Ok(count),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// As [`receive`], into memory that need not be anything yet; its first bytes are what was received.
pub(crate) fn receive_uninit<'a>(
    fd: BorrowedFd<'_>,
    into: &'a mut [MaybeUninit<u8>],
) -> io::Result<&'a mut [u8]> {
    // Without waiting it is not interrupted either.
    let ((filled, _rest), _) = rustix::net::recv(fd, into, RecvFlags::DONTWAIT)?;
    Ok(filled)
}

/// Receives a datagram that is there, without waiting: its length (what does not fit is dropped) and whom it is from, which
/// not all say. `WouldBlock` if there is none.
pub(crate) fn receive_from(
    fd: BorrowedFd<'_>,
    into: &mut [u8],
) -> io::Result<(usize, Option<SocketAddrAny>)> {
    loop {
        match rustix::net::recvfrom(fd, &mut *into, RecvFlags::DONTWAIT) {
            Ok((count, _, sender)) => return Ok((count, sender)),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sends what there is room for, without waiting: how many bytes, or `WouldBlock` if there is none.
pub(crate) fn send(fd: BorrowedFd<'_>, data: &[u8]) -> io::Result<usize> {
    Ok(rustix::net::send(fd, data, SendFlags::DONTWAIT | SendFlags::NOSIGNAL)?)
}

/// Sends a datagram, without waiting, to an address or to whom the socket is connected to. `WouldBlock` if there is no room.
pub(crate) fn send_to(fd: BorrowedFd<'_>, data: &[u8], to: Option<&Address>) -> io::Result<()> {
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    loop {
        let result = match to {
            None => rustix::net::send(fd, data, flags),
            Some(Address::V4(address)) => rustix::net::sendto(fd, data, flags, address),
            Some(Address::V6(address)) => rustix::net::sendto(fd, data, flags, address),
            Some(Address::Unix(address)) => rustix::net::sendto(fd, data, flags, &**address),
            Some(Address::Unknown) => Err(rustix::io::Errno::DESTADDRREQ),
        };
        match result {
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Turns Nagle's algorithm off, as asyncio does for every TCP transport (`base_events._set_nodelay`).
pub(crate) fn set_nodelay(fd: BorrowedFd<'_>) {
    // Fails on what is not TCP (a Unix or an SCTP socket), which is fine.
    let _ = rustix::net::sockopt::set_tcp_nodelay(fd, true);
}
