//! Received bytes.

use std::ops::Deref;

/// Received bytes in a buffer of the driver's; dropping it gives the buffer back.
#[derive(Debug)]
pub struct Chunk {
    bytes: Box<[u8]>,
}

impl Deref for Chunk {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}
