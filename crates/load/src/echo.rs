//! A message that is to come back as it was sent.

use std::io;

use crate::closed_loop::{Answer, Exchange};

/// Messages of one length that begin and end with the request's number, so that one that is mixed up is found at the
/// price of two comparisons.
pub(crate) struct Echo {
    size: usize,
}

impl Echo {
    pub(crate) fn new(size: usize) -> io::Result<Self> {
        if size < 16 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "--size must be at least 16"));
        }
        Ok(Self { size })
    }
}

impl Exchange for Echo {
    fn longest_answer(&self) -> usize {
        self.size
    }

    fn request(&self, number: u64, request: &mut Vec<u8>) {
        request.resize(self.size, b'.');
        request[..8].copy_from_slice(&number.to_le_bytes());
        request[self.size - 8..].copy_from_slice(&number.to_le_bytes());
    }

    fn answer(&self, number: u64, received: &[u8]) -> Answer {
        if received.len() < self.size {
            return Answer::Incomplete;
        }
        let number = number.to_le_bytes();
        if received[..8] == number && received[self.size - 8..] == number {
            Answer::Complete
        } else {
            Answer::Wrong
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_the_request_whole() {
        let echo = Echo::new(100).unwrap();
        let mut request = Vec::new();
        echo.request(7, &mut request);
        assert_eq!(request.len(), 100);
        assert!(matches!(echo.answer(7, &request[..99]), Answer::Incomplete));
        assert!(matches!(echo.answer(7, &request), Answer::Complete));
        assert!(matches!(echo.answer(8, &request), Answer::Wrong));
    }

    #[test]
    fn a_message_has_room_for_its_number_twice() {
        assert!(Echo::new(15).is_err());
        assert!(Echo::new(16).is_ok());
    }
}
