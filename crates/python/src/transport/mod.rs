//! Transports: what carries a protocol's bytes.

pub(crate) mod address;
pub(crate) mod audience;
pub(crate) mod datagram;
pub(crate) mod flow_control;
pub(crate) mod kind;
mod methods;
pub(crate) mod outgoing;
pub(crate) mod pipe;
pub(crate) mod socket;
pub(crate) mod stream;
pub(crate) mod stream_reader;
pub(crate) mod tls;
pub(crate) mod told;
