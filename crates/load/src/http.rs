//! `GET /` over a connection that is kept.

use std::net::SocketAddr;

use crate::closed_loop::{Answer, Exchange};

/// HTTP/1.1 as far as the benchmark's servers speak it: an answer has status 200 and a `Content-Length`.
pub(crate) struct Http {
    request: Vec<u8>,
    body: Option<Vec<u8>>,
}

const LONGEST_ANSWER: usize = 16 * 1024;

impl Http {
    pub(crate) fn new(server: SocketAddr, body: Option<String>) -> Self {
        let request = format!("GET / HTTP/1.1\r\nHost: {server}\r\n\r\n").into_bytes();
        Self { request, body: body.map(String::into_bytes) }
    }
}

impl Exchange for Http {
    fn longest_answer(&self) -> usize {
        LONGEST_ANSWER
    }

    fn request(&self, _number: u64, request: &mut Vec<u8>) {
        if request.is_empty() {
            request.extend_from_slice(&self.request);
        }
    }

    fn answer(&self, _number: u64, received: &[u8]) -> Answer {
        let Some(end) = received.windows(4).position(|window| window == b"\r\n\r\n") else {
            return Answer::Incomplete;
        };
        let (head, body) = (&received[..end], &received[end + 4..]);
        let Some(length) = content_length(head) else { return Answer::Wrong };
        if !head.starts_with(b"HTTP/1.1 200") || body.len() > length {
            return Answer::Wrong;
        }
        if body.len() < length {
            return Answer::Incomplete;
        }
        match &self.body {
            Some(expected) if expected != body => Answer::Wrong,
            _ => Answer::Complete,
        }
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    head.split(|&byte| byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        if !line[..colon].eq_ignore_ascii_case(b"content-length") {
            return None;
        }
        std::str::from_utf8(&line[colon + 1..]).ok()?.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(received: &str) -> Answer {
        let server = SocketAddr::from(([127, 0, 0, 1], 80));
        Http::new(server, Some("hello".to_owned())).answer(1, received.as_bytes())
    }

    #[test]
    fn an_answer_is_whole_with_the_last_byte_of_its_body() {
        let whole = "HTTP/1.1 200 OK\r\nserver: x\r\ncontent-length: 5\r\n\r\nhello";
        for end in 0..whole.len() {
            assert!(matches!(answer(&whole[..end]), Answer::Incomplete), "{end}");
        }
        assert!(matches!(answer(whole), Answer::Complete));
    }

    #[test]
    fn another_status_body_or_framing_is_wrong() {
        assert!(matches!(answer("HTTP/1.1 500 No\r\nContent-Length: 5\r\n\r\nhello"), Answer::Wrong));
        assert!(matches!(answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhollo"), Answer::Wrong));
        assert!(matches!(answer("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello!"), Answer::Wrong));
        assert!(matches!(answer("HTTP/1.1 200 OK\r\n\r\nhello"), Answer::Wrong));
    }
}
