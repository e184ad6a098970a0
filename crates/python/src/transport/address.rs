//! Addresses of sockets, as Python writes them.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt;

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyInt, PyString, PyTuple};
use rustix::net::{AddressFamily, SocketAddrAny, SocketAddrUnix};

/// The address of one end of a connection, kept until somebody asks.
#[derive(Clone, PartialEq)]
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

    /// The address that the kernel has told.
    pub(crate) fn new(address: &SocketAddrAny) -> Self {
        match address.address_family() {
            AddressFamily::INET => address.clone().try_into().map_or(Self::Unknown, Self::V4),
            AddressFamily::INET6 => address.clone().try_into().map_or(Self::Unknown, Self::V6),
            AddressFamily::UNIX => {
                address.clone().try_into().map_or(Self::Unknown, |address| Self::Unix(Box::new(address)))
            }
            _ => Self::Unknown,
        }
    }

    /// The address of the internet's family `family` that Python's `socket` would make of `address` (`getsockaddrarg` in CPython's
    /// `socketmodule.c`), if it is plain: a tuple of figures. `None` for host names, for the short forms of an address, for what is
    /// wrong and for other families: what becomes of them, or what is said about them, is `socket`'s business. Runs no Python code.
    pub(crate) fn from_python(family: i32, address: &Bound<'_, PyAny>) -> Option<Self> {
        let tuple = address.cast_exact::<PyTuple>().ok()?;
        let number =
            |index: usize| tuple.get_item(index).ok()?.cast_exact::<PyInt>().ok()?.extract::<u32>().ok();
        let length = tuple.len();
        let wanted = match family {
            libc::AF_INET => 2..=2,
            libc::AF_INET6 => 2..=4,
            _ => return None,
        };
        if !wanted.contains(&length) {
            return None;
        }
        let host = tuple.get_item(0).ok()?;
        let host = host.cast_exact::<PyString>().ok()?.to_str().ok()?;
        let port = u16::try_from(number(1)?).ok()?;
        if family == libc::AF_INET {
            return Some(Self::V4(SocketAddrV4::new(host.parse().ok()?, port)));
        }
        let flow = if length > 2 { number(2)? } else { 0 };
        let scope = if length > 3 { number(3)? } else { 0 };
        // Of more bits than that Python says that they are too many.
        (flow <= 0xf_ffff).then_some(())?;
        Some(Self::V6(SocketAddrV6::new(host.parse().ok()?, port, flow, scope)))
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

    /// The address in a few words: `127.0.0.1:80`, `[::1]:80`, a path, `@` and an abstract name, or nothing.
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::V4(address) => address.to_string(),
            Self::V6(address) => format!("[{}]:{}", figures(*address.ip()), address.port()),
            Self::Unix(address) => match address.abstract_name().filter(|name| !name.is_empty()) {
                Some(name) => format!("@{}", String::from_utf8_lossy(name)),
                None => {
                    let path = address.path_bytes().unwrap_or_default();
                    String::from_utf8_lossy(path.strip_suffix(&[0]).unwrap_or(path)).into_owned()
                }
            },
            Self::Unknown => String::new(),
        }
    }

    /// The address as `socket.getsockname()` returns it (`makesockaddr` in CPython's `socketmodule.c`); None if unknown.
    pub(crate) fn to_python<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        Ok(match self {
            Self::V4(address) => (address.ip().to_string(), address.port()).into_pyobject(py)?.into_any(),
            Self::V6(address) => PyTuple::new(
                py,
                [
                    PyString::new(py, &figures(*address.ip())).into_any(),
                    address.port().into_pyobject(py)?.into_any(),
                    // `rustix` has turned the kernel's byte order around, as Python does.
                    address.flowinfo().into_pyobject(py)?.into_any(),
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

/// An address as inet_ntop(3) writes it, which Python uses: those that are compatible with IPv4 (RFC 4291, 2.5.5.1) it writes like
/// those that are mapped from IPv4, which Rust does not.
fn figures(address: Ipv6Addr) -> String {
    match (address.segments(), address.octets()) {
        ([0, 0, 0, 0, 0, 0, high, _], [.., a, b, c, d]) if high != 0 => {
            format!("::{}", Ipv4Addr::new(a, b, c, d))
        }
        _ => address.to_string(),
    }
}
