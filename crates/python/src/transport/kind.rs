//! What kinds of transports there are, for those who count or tell of them.

use super::address::Address;

/// What a transport is over, or that it is one of TLS.
#[derive(Clone, Copy)]
pub(crate) enum TransportKind {
    Tcp,
    Udp,
    Unix,
    Pipe,
    Tls,
    Other,
}

impl TransportKind {
    /// Their names, in the order of the variants.
    pub(crate) const NAMES: [&str; 6] = ["tcp", "udp", "unix", "pipe", "tls", "other"];

    pub(crate) fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    /// That of a socket with such an address; `internet` if it is one of an internet socket.
    pub(crate) fn of(address: &Address, internet: Self) -> Self {
        match address {
            Address::V4(_) | Address::V6(_) => internet,
            Address::Unix(_) => Self::Unix,
            Address::Unknown => Self::Other,
        }
    }
}
