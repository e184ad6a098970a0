//! Addresses of sockets, as Python writes them.

use std::net::{SocketAddrV4, SocketAddrV6};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};
use rustix::net::{SocketAddrAny, SocketAddrUnix};

/// The address of one end of a connection, kept until somebody asks.
#[derive(Clone)]
pub(crate) enum Address {
    V4(SocketAddrV4),
    V6(SocketAddrV6),
    Unix(Box<SocketAddrUnix>),
    /// The socket has none, or one of a family that only Python's `socket` knows.
    Unknown,
}

impl Address {
    /// The address that `fd` is bound to (getsockname(2)).
    pub(crate) fn local(fd: BorrowedFd<'_>) -> Self {
        rustix::net::getsockname(fd).map_or(Self::Unknown, |address| Self::new(&address))
    }

    /// The address that `fd` is connected to (getpeername(2)).
    pub(crate) fn peer(fd: BorrowedFd<'_>) -> Self {
        rustix::net::getpeername(fd)
            .map_or(Self::Unknown, |address| address.map_or(Self::Unknown, |it| Self::new(&it)))
    }

    fn new(address: &SocketAddrAny) -> Self {
        if let Ok(address) = SocketAddrV4::try_from(address.clone()) {
            Self::V4(address)
        } else if let Ok(address) = SocketAddrV6::try_from(address.clone()) {
            Self::V6(address)
        } else if let Ok(address) = SocketAddrUnix::try_from(address.clone()) {
            Self::Unix(Box::new(address))
        } else {
            Self::Unknown
        }
    }

    /// True for the internet's families.
    pub(crate) fn is_internet(&self) -> bool {
        matches!(self, Self::V4(_) | Self::V6(_))
    }

    /// The family's number (`AF_INET` and so on), if it is known.
    pub(crate) fn family(&self) -> Option<i32> {
        match self {
            Self::V4(_) => Some(libc::AF_INET),
            Self::V6(_) => Some(libc::AF_INET6),
            Self::Unix(_) => Some(libc::AF_UNIX),
            Self::Unknown => None,
        }
    }

    /// The address as `socket.getsockname()` returns it (`makesockaddr` in CPython's `socketmodule.c`); None if unknown.
    pub(crate) fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self {
            Self::V4(address) => (address.ip().to_string(), address.port()).into_pyobject(py)?.into_any(),
            Self::V6(address) => PyTuple::new(
                py,
                [
                    PyString::new(py, &address.ip().to_string()).into_any(),
                    address.port().into_pyobject(py)?.into_any(),
                    // The kernel's byte order, which Python turns around.
                    u32::from_be(address.flowinfo()).into_pyobject(py)?.into_any(),
                    address.scope_id().into_pyobject(py)?.into_any(),
                ],
            )?
            .into_any(),
            Self::Unix(address) => {
                // A socket without a name looks to `rustix` as if it had an abstract one of no bytes.
                if let Some(name) = address.abstract_name().filter(|name| !name.is_empty()) {
                    let mut bytes = vec![0];
                    bytes.extend_from_slice(name);
                    PyBytes::new(py, &bytes).into_any()
                } else {
                    let path = address.path_bytes().unwrap_or_default();
                    let path = path.strip_suffix(&[0]).unwrap_or(path);
                    std::ffi::OsStr::from_bytes(path).into_pyobject(py)?.into_any()
                }
            }
            Self::Unknown => py.None().into_bound(py),
        })
    }
}
