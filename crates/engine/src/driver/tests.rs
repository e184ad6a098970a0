//! What cannot be brought about from outside: a ring that cannot be made any more.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use super::*;

struct Bytes(&'static [u8]);

// SAFETY: static memory.
unsafe impl Payload for Bytes {
    fn slices(&self, into: &mut Vec<libc::iovec>) {
        into.push(libc::iovec { iov_base: self.0.as_ptr().cast_mut().cast(), iov_len: self.0.len() });
    }
}

#[test]
fn goes_on_with_epoll() {
    if uring::available().is_err() {
        eprintln!("SKIPPED: this machine gives no ring");
        return;
    }
    let mut driver = Driver::new(Choice::Automatic, Arc::new(Waker::new())).unwrap();
    assert_eq!(driver.name(), "io_uring");
    let pair = || UnixStream::pair().unwrap();
    let ((here, mut there), (watched, mut to_watched), (sending, mut sent)) = (pair(), pair(), pair());
    let receive = driver.receive(here.as_raw_fd(), Key(1)).unwrap();
    let watch = driver.watch(watched.as_raw_fd(), Interest::Readable, Key(2)).unwrap();
    let (cancelled, _other) = pair();
    let stopped = driver.receive(cancelled.as_raw_fd(), Key(3)).unwrap();
    let mut completions = Vec::new();
    let none = Some(Duration::ZERO);
    driver.wait(none, &mut completions).unwrap();
    there.write_all(b"first").unwrap();
    driver.wait(none, &mut completions).unwrap();
    let [Completion { key: Key(1), event: Event::Received(Received::Data(chunk)) }] = &completions[..] else {
        panic!("{:?}", completions.len());
    };
    assert_eq!(**chunk, *b"first");
    completions.clear();

    there.write_all(b"second").unwrap();
    assert!(driver.send(sending.as_raw_fd(), Key(4), Bytes(b"sent")).is_none());
    assert_eq!(driver.payloads().count(), 1);
    driver.cancel(stopped);
    driver.fall_back(none, &mut completions).unwrap();
    assert_eq!(driver.name(), "epoll");
    assert_eq!(driver.payloads().count(), 0);
    let mut sent_bytes = [0; 4];
    sent.read_exact(&mut sent_bytes).unwrap();
    assert_eq!(sent_bytes, *b"sent");
    let mut seen = [false; 3];
    for Completion { key, event } in completions.drain(..) {
        match (key, event) {
            (Key(1), Event::Received(Received::Waiting)) => seen[0] = true,
            (Key(3), Event::Received(Received::Stopped)) => seen[1] = true,
            (Key(4), Event::Sent { result: Ok(4), .. }) => seen[2] = true,
            (key, _) => panic!("{key:?}"),
        }
    }
    assert_eq!(seen, [true; 3]);
    to_watched.write_all(b"x").unwrap();
    // The names of before are still good.
    driver.cancel(receive);
    driver.wait(Some(Duration::from_secs(5)), &mut completions).unwrap();
    driver.wait(Some(Duration::from_secs(5)), &mut completions).unwrap();
    assert!(completions.iter().any(|completion| matches!(completion.event, Event::Ready)));
    completions.clear();
    driver.cancel(watch);
    driver.wait(none, &mut completions).unwrap();
    assert!(completions.is_empty());
}

/// When another look could show something that was there all along, and when not.
#[test]
fn says_whether_a_wait_has_told_all() {
    let mut driver = Driver::<Bytes>::new(Choice::Epoll, Arc::new(Waker::new())).unwrap();
    let (here, mut there) = UnixStream::pair().unwrap();
    let (other, _other_end) = UnixStream::pair().unwrap();
    driver.receive(here.as_raw_fd(), Key(1)).unwrap();
    let mut completions = Vec::new();
    let mut wait = |driver: &mut Driver<Bytes>| {
        completions.clear();
        driver.wait(Some(Duration::ZERO), &mut completions).unwrap();
        completions.len()
    };
    assert!(!driver.told_all(), "there was no wait");
    assert_eq!((wait(&mut driver), driver.told_all()), (0, true));
    there.write_all(b"bytes").unwrap();
    assert_eq!((wait(&mut driver), driver.told_all()), (1, true));
    let operation = driver.receive(other.as_raw_fd(), Key(2)).unwrap();
    assert!(!driver.told_all(), "what is new may be ready");
    assert_eq!((wait(&mut driver), driver.told_all()), (1, true));
    driver.cancel(operation);
    assert!(!driver.told_all(), "that it has stopped is to be told");
    assert_eq!((wait(&mut driver), driver.told_all()), (2, true));
    there.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!((wait(&mut driver), driver.told_all()), (1, false), "behind the bytes is the end");
}

/// What was asked of a ring that could not be made is done by threads.
#[test]
fn files_go_on_with_epoll() {
    if uring::available().is_err() {
        eprintln!("SKIPPED: this machine gives no ring");
        return;
    }
    let mut driver = Driver::<Bytes>::new(Choice::Automatic, Arc::new(Waker::new())).unwrap();
    for key in 0..3 {
        let operation = FileOperation::Open { path: c"/".into(), flags: libc::O_RDONLY, mode: 0 };
        let number = driver.file(operation, Key(key)).unwrap();
        if key == 1 {
            driver.cancel(number);
        }
    }
    assert!(driver.has_files());
    let mut completions = Vec::new();
    driver.fall_back(Some(Duration::ZERO), &mut completions).unwrap();
    assert_eq!(driver.name(), "epoll");
    assert!(!driver.has_files());
    while completions.len() < 3 {
        driver.wait(Some(Duration::from_secs(5)), &mut completions).unwrap();
    }
    let mut seen = [0; 3];
    for Completion { key, event } in completions {
        let Event::File(FileEvent::Opened(result)) = event else { panic!("{key:?}") };
        assert_eq!(result.is_ok(), key != Key(1));
        seen[key.0 as usize] += 1;
    }
    assert_eq!(seen, [1; 3]);
}

#[test]
fn names() {
    assert_eq!(Choice::from_name("").unwrap(), Choice::Automatic);
    assert_eq!(Choice::from_name("epoll").unwrap(), Choice::Epoll);
    assert_eq!(Choice::from_name("io_uring").unwrap(), Choice::Uring);
    for name in ["kqueue", "EPOLL", " epoll"] {
        let error = Choice::from_name(name).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let message = error.to_string();
        assert!(message.contains(&format!("{name:?}")), "{message}");
        for driver in available() {
            assert!(message.contains(driver), "{message}");
        }
    }
    assert!(available().contains(&"epoll"));
    let driver = Driver::<Bytes>::new(Choice::Epoll, Arc::new(Waker::new())).unwrap();
    assert_eq!(driver.name(), "epoll");
}

/// What a driver needs to be a member of a loop that threads hand to each other.
#[test]
fn is_send() {
    fn check<T: Send>() {}
    check::<Driver<Bytes>>();
    check::<Chunk>();
}
