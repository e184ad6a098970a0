//! The driver, over real sockets.

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use whilst_engine::driver::{Choice, Driver, Event, Interest, Key, Payload, Received};
use whilst_engine::inbox::Waker;

struct Bytes(Vec<u8>);

// SAFETY: a vector's memory stays where it is when the vector is moved, and nothing changes it here.
unsafe impl Payload for Bytes {
    fn slices(&self, into: &mut Vec<libc::iovec>) {
        into.push(libc::iovec { iov_base: self.0.as_ptr().cast_mut().cast(), iov_len: self.0.len() });
    }
}

#[test]
fn watches() {
    let mut driver = Driver::<Bytes>::new(Choice::Epoll, Arc::new(Waker::new())).unwrap();
    let (here, mut there) = UnixStream::pair().unwrap();
    let watch = driver.watch(here.as_raw_fd(), Interest::Readable, Key(7)).unwrap();
    let mut completions = Vec::new();
    driver.wait(Some(Duration::from_millis(1)), &mut completions).unwrap();
    assert!(completions.is_empty());
    there.write_all(b"x").unwrap();
    for _ in 0..2 {
        completions.clear();
        driver.wait(Some(Duration::from_secs(5)), &mut completions).unwrap();
        assert_eq!(completions.len(), 1);
        assert_eq!(completions[0].key, Key(7));
        assert!(matches!(completions[0].event, Event::Ready));
    }
    driver.cancel(watch);
    driver.receive(here.as_raw_fd(), Key(8)).unwrap();
    completions.clear();
    driver.wait(Some(Duration::from_secs(5)), &mut completions).unwrap();
    assert!(matches!(completions[0].event, Event::Received(Received::Waiting)));
    let Some(Event::Sent { result: Ok(3), .. }) =
        driver.send(here.as_raw_fd(), Key(9), Bytes(b"abc".to_vec()))
    else {
        panic!()
    };
}
