//! Much of everything, and too little of some.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd};
use std::thread;
use std::time::Duration;

use whilst_engine::driver::{Choice, Event, Interest, Received};

use crate::support::*;

over_both!(
    chunks_kept_for_long,
    hundreds_of_sends_at_once,
    many_connections_at_once,
    more_bytes_than_there_are_buffers,
    more_ready_than_a_wait_can_say,
    no_descriptors_left_while_accepting,
    thousands_of_operations,
    thousands_of_sends_that_fail,
);

fn thousands_of_operations(choice: Choice) {
    let mut world = World::new(choice);
    let pairs: Vec<_> = (0..2000).map(|_| pair()).collect();
    for (key, (here, _)) in pairs.iter().enumerate() {
        world.receive(here, key as u64);
    }
    world.assert_quiet();
    for (key, (_, there)) in pairs.iter().enumerate().rev() {
        let mut there = there;
        there.write_all(&(key as u64).to_le_bytes()).unwrap();
    }
    let mut seen = vec![false; pairs.len()];
    for _ in &pairs {
        let (key, bytes) = world.find(|completion| {
            let key = completion.key.0 as usize;
            match World::received(completion.event, pairs[key].0.as_raw_fd()) {
                Said::Bytes(bytes) if bytes.is_empty() => None,
                Said::Bytes(bytes) => Some((key, bytes)),
                other => panic!("{other:?}"),
            }
        });
        assert_eq!(bytes, (key as u64).to_le_bytes());
        assert!(!std::mem::replace(&mut seen[key], true));
    }
    world.assert_quiet();
}

/// More than the submission queue holds, some of which fail.
fn hundreds_of_sends_at_once(choice: Choice) {
    for awaited in [true, false] {
        let mut world = World::new(choice);
        let pairs: Vec<_> = (0..1500).map(|_| pair()).collect();
        for (key, (here, there)) in pairs.iter().enumerate() {
            if key % 100 == 7 {
                there.shutdown(std::net::Shutdown::Both).unwrap();
            }
            let pieces = match key % 3 {
                0 => vec![key.to_le_bytes().to_vec()],
                1 => key.to_le_bytes().map(|byte| vec![byte]).to_vec(),
                _ => vec![key.to_le_bytes()[..3].to_vec(), key.to_le_bytes()[3..].to_vec()],
            };
            world.start_send(here, key as u64, Bytes { pieces, awaited });
        }
        let mut seen = vec![false; pairs.len()];
        for _ in &pairs {
            let completion = world.next();
            let key = completion.key.0 as usize;
            assert!(!std::mem::replace(&mut seen[key], true));
            let Event::Sent { payload, result } = completion.event else { panic!() };
            assert_eq!(payload.pieces.concat(), key.to_le_bytes());
            if key % 100 == 7 {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe);
            } else {
                assert_eq!(result.unwrap(), 8);
                assert_eq!(read_exactly(&pairs[key].1, 8), key.to_le_bytes());
            }
        }
    }
}

/// With the ring: more failures than its table of completions holds. None may pass for a success.
fn thousands_of_sends_that_fail(choice: Choice) {
    const COUNT: u64 = 5000;
    let mut world = World::new(choice);
    let (here, there) = pair();
    drop(there);
    for key in 0..COUNT {
        world.start_send(&here, key, Bytes::unawaited(b"x"));
    }
    for key in 0..COUNT {
        let Event::Sent { result, .. } = world.event(key) else { panic!() };
        assert_eq!(result.unwrap_err().kind(), ErrorKind::BrokenPipe);
    }
}

/// With the ring: more completions than its table holds.
fn more_ready_than_a_wait_can_say(choice: Choice) {
    const COUNT: usize = 5000;
    let mut world = World::new(choice);
    let events: Vec<File> = (0..COUNT)
        // SAFETY: a new descriptor, owned once.
        .map(|_| unsafe {
            let fd = libc::eventfd(1, libc::EFD_CLOEXEC);
            assert!(fd >= 0);
            File::from_raw_fd(fd)
        })
        .collect();
    let watches: Vec<_> = events
        .iter()
        .enumerate()
        .map(|(key, event)| world.watch(event, Interest::Readable, key as u64))
        .collect();
    let mut seen = vec![false; COUNT];
    let mut left = COUNT;
    while left > 0 {
        let completion = world.next();
        assert!(matches!(completion.event, Event::Ready));
        let key = completion.key.0 as usize;
        if !std::mem::replace(&mut seen[key], true) {
            left -= 1;
            world.driver.cancel(watches[key]);
        }
    }
    world.wait(Duration::ZERO);
    world.said.clear();
    world.assert_quiet();
}

fn many_connections_at_once(choice: Choice) {
    const COUNT: usize = 3000;
    let mut world = World::new(choice);
    let listener = listener();
    // SAFETY: a plain system call.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 4096) }, 0);
    world.accept(&listener, 1);
    world.wait(Duration::ZERO);
    let address = listener.local_addr().unwrap();
    let peers = thread::spawn(move || -> Vec<_> {
        (0..COUNT).map(|_| TcpStream::connect(address).unwrap()).collect()
    });
    // All of them come before the first wait, if the queue is long enough.
    let limit: usize =
        std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    let mut ports = Vec::new();
    let peers = if limit > COUNT { Ok(peers.join().unwrap()) } else { Err(peers) };
    while ports.len() < COUNT {
        let Event::Accepted(connection) = world.event(1) else { panic!() };
        ports.push(TcpStream::from(connection.unwrap()).peer_addr().unwrap().port());
    }
    let peers = peers.unwrap_or_else(|peers| peers.join().unwrap());
    let mut expected: Vec<_> = peers.iter().map(|peer| peer.local_addr().unwrap().port()).collect();
    expected.sort_unstable();
    ports.sort_unstable();
    assert_eq!(ports, expected);
    world.assert_quiet();
}

/// Hundreds of sockets, each with more to receive than one buffer, at the same time.
fn more_bytes_than_there_are_buffers(choice: Choice) {
    const EACH: usize = 100_000;
    let mut world = World::new(choice);
    let pairs: Vec<_> = (0..300).map(|_| pair()).collect();
    for (key, (here, there)) in pairs.iter().enumerate() {
        world.receive(here, key as u64);
        let mut there = there;
        there.write_all(&pattern(EACH, key as u64)).unwrap();
    }
    let mut bytes = vec![Vec::new(); pairs.len()];
    let mut left = pairs.len();
    while left > 0 {
        let completion = world.next();
        let key = completion.key.0 as usize;
        match World::received(completion.event, pairs[key].0.as_raw_fd()) {
            Said::Bytes(more) => bytes[key].extend(more),
            other => panic!("{other:?}"),
        }
        left -= usize::from(bytes[key].len() == EACH);
    }
    for (key, bytes) in bytes.into_iter().enumerate() {
        assert!(bytes == pattern(EACH, key as u64), "the stream {key} arrived otherwise");
    }
    world.assert_quiet();
}

/// Far more of them than buffers, of which some outlive the driver, and one thread drops another's.
fn chunks_kept_for_long(choice: Choice) {
    if choice == Choice::Epoll {
        return; // it has none
    }
    let mut world = World::new(choice);
    let (here, mut there) = pair();
    world.receive(&here, 1);
    let mut chunks = Vec::new();
    for number in 0..1000_u64 {
        there.write_all(&number.to_le_bytes()).unwrap();
        let Event::Received(Received::Data(chunk)) = world.event(1) else { panic!() };
        chunks.push((number, chunk));
    }
    thread::scope(|scope| {
        let late = chunks.split_off(50);
        scope.spawn(move || drop(late));
        for number in 1000..3000_u64 {
            there.write_all(&number.to_le_bytes()).unwrap();
            let Event::Received(Received::Data(chunk)) = world.event(1) else { panic!() };
            assert_eq!(*chunk, number.to_le_bytes());
            if number % 50 == 0 {
                chunks.push((number, chunk));
            }
        }
    });
    drop(world);
    for (number, chunk) in &chunks {
        assert_eq!(**chunk, number.to_le_bytes());
    }
    thread::spawn(move || drop(chunks)).join().unwrap();
}

fn no_descriptors_left_while_accepting(choice: Choice) {
    in_fork(|| {
        let mut world = World::new(choice);
        let listener = listener();
        let peer = connect(&listener);
        world.receive(&peer, 2);
        world.assert_quiet(); // all that the driver needs is open now
        let open = std::fs::read_dir("/proc/self/fd").unwrap();
        let numbers = open.map(|entry| entry.unwrap().file_name().to_str().unwrap().parse::<u64>().unwrap());
        let highest = numbers.max().unwrap();
        // SAFETY: the structure is what the calls take; the process is the test's own.
        unsafe {
            let mut limit = std::mem::zeroed();
            assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit), 0);
            limit.rlim_cur = limit.rlim_cur.min(highest + 10);
            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit), 0);
        }
        let mut fillers = Vec::new();
        while let Ok(filler) = File::open("/dev/null") {
            fillers.push(filler);
        }
        world.accept(&listener, 1);
        for _ in 0..3 {
            let Event::Accepted(Err(error)) = world.event(1) else { panic!() };
            assert_eq!(error.raw_os_error(), Some(libc::EMFILE));
        }
        world.said.clear();
        fillers.pop();
        let connection = world.find(|completion| match completion.event {
            Event::Accepted(result) => result.ok(),
            _ => panic!(),
        });
        let accepted = TcpStream::from(connection);
        assert_eq!(accepted.peer_addr().unwrap(), peer.local_addr().unwrap());
        world.assert_quiet();
    });
}
