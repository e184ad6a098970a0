//! Receiving, sending and accepting.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::thread;
use std::time::Duration;

use whilst_engine::driver::{Choice, Event, Interest, Key, Received};

use crate::support::*;

over_both!(
    accepts_and_echoes,
    accepts_what_was_there_before,
    bulk_both_ways,
    ends,
    fails,
    gathers_slices,
    more_slices_than_go_into_one_send,
    ping_pong_within_the_driver,
    received_directly,
    send_of_nothing,
    sends_fail_with_the_sockets_error,
    sends_over_socketpair,
    short_sends_end_the_wait,
    unawaited_sends_come_back_with_the_next_event,
    would_block_then_writable,
);

fn sends_over_socketpair(choice: Choice) {
    let mut world = World::new(choice);
    let (here, there) = pair();
    world.receive(&here, 1);
    (&there).write_all(b"question").unwrap();
    assert_eq!(world.read(&here, 1, 8), b"question");
    assert_eq!(world.send(&here, b"answer").unwrap(), 6);
    assert_eq!(read_exactly(&there, 6), b"answer");
    assert_eq!(world.driver.name(), if choice == Choice::Epoll { "epoll" } else { "io_uring" });
}

fn accepts_and_echoes(choice: Choice) {
    let mut world = World::new(choice);
    let listener = listener();
    world.accept(&listener, 1);
    let peers: Vec<_> = (0..20).map(|_| connect(&listener)).collect();
    let mut connections = Vec::new();
    while connections.len() < peers.len() {
        let Event::Accepted(connection) = world.event(1) else { panic!() };
        let connection = connection.unwrap();
        // SAFETY: an open descriptor.
        unsafe {
            let fd = connection.as_raw_fd();
            assert_ne!(libc::fcntl(fd, libc::F_GETFL) & libc::O_NONBLOCK, 0);
            assert_ne!(libc::fcntl(fd, libc::F_GETFD) & libc::FD_CLOEXEC, 0);
        }
        world.receive(&connection, 100 + connections.len() as u64);
        connections.push(connection);
    }
    for (index, mut peer) in peers.iter().enumerate() {
        peer.write_all(format!("{index:08}").as_bytes()).unwrap();
    }
    let mut left = peers.len();
    while left > 0 {
        let completion = world.next();
        let connection = &connections[(completion.key.0 - 100) as usize];
        if let Said::Bytes(bytes) = World::received(completion.event, connection.as_raw_fd()) {
            assert_eq!(bytes.len(), 8);
            assert_eq!(world.send(connection, &bytes).unwrap(), 8);
            left -= 1;
        }
    }
    for (index, peer) in peers.iter().enumerate() {
        assert_eq!(read_exactly(peer, 8), format!("{index:08}").as_bytes());
    }
}

fn accepts_what_was_there_before(choice: Choice) {
    let mut world = World::new(choice);
    let listener = listener();
    let peers: Vec<_> = (0..5).map(|_| connect(&listener)).collect();
    world.driver.accept(listener.as_raw_fd(), 2, Key(1)).unwrap();
    for _ in &peers {
        assert!(matches!(world.event(1), Event::Accepted(Ok(_))));
    }
    world.assert_quiet();
}

fn ends(choice: Choice) {
    let mut world = World::new(choice);
    let (here, there) = tcp_pair();
    world.receive(&here, 1);
    (&there).write_all(b"last words").unwrap();
    there.shutdown(Shutdown::Write).unwrap();
    assert_eq!(world.read(&here, 1, 10), b"last words");
    assert!(matches!(world.last_word(&here, 1), Said::End));
    // The other direction still works.
    assert_eq!(world.send(&here, b"bye").unwrap(), 3);
    assert_eq!(read_exactly(&there, 3), b"bye");
}

fn fails(choice: Choice) {
    let mut world = World::new(choice);
    let (here, there) = tcp_pair();
    world.receive(&here, 1);
    world.wait(Duration::ZERO);
    reset(there);
    match world.last_word(&here, 1) {
        Said::Failed(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionReset),
        other => panic!("{other:?}"),
    }
}

/// Closes with a reset.
fn reset(stream: std::net::TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the option's value is as long as said.
    let result = unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of_val(&linger) as u32,
        )
    };
    assert_eq!(result, 0);
}

fn gathers_slices(choice: Choice) {
    let mut world = World::new(choice);
    let (here, there) = pair();
    let pieces: Vec<_> = (0..100_u64).map(|seed| pattern(1 + seed as usize, seed)).collect();
    let whole = pieces.concat();
    world.start_send(&here, 1, Bytes { pieces, awaited: true });
    let Event::Sent { result, .. } = world.event(1) else { panic!() };
    assert_eq!(result.unwrap(), whole.len());
    assert_eq!(read_exactly(&there, whole.len()), whole);
}

fn more_slices_than_go_into_one_send(choice: Choice) {
    for awaited in [true, false] {
        let mut world = World::new(choice);
        let (here, there) = pair();
        let pieces: Vec<_> = (0..3000_u32).map(|number| number.to_le_bytes().to_vec()).collect();
        let whole = pieces.concat();
        world.start_send(&here, 1, Bytes { pieces, awaited });
        let Event::Sent { result, .. } = world.event(1) else { panic!() };
        let sent = result.unwrap();
        assert!(sent > 0 && sent < whole.len(), "{sent}");
        assert_eq!(read_exactly(&there, sent), &whole[..sent]);
    }
}

fn send_of_nothing(choice: Choice) {
    let mut world = World::new(choice);
    let (here, _there) = pair();
    world.start_send(&here, 1, Bytes { pieces: Vec::new(), awaited: true });
    let Event::Sent { result, .. } = world.event(1) else { panic!() };
    assert_eq!(result.unwrap(), 0);
}

fn sends_fail_with_the_sockets_error(choice: Choice) {
    for awaited in [true, false] {
        let mut world = World::new(choice);
        let (here, there) = pair();
        drop(there);
        world.start_send(&here, 1, Bytes { pieces: vec![b"x".to_vec()], awaited });
        let Event::Sent { result, payload } = world.event(1) else { panic!() };
        // And no SIGPIPE.
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
        assert_eq!(payload.pieces, [b"x"]);
        world.start_send(&-1, 2, Bytes { pieces: vec![b"x".to_vec()], awaited });
        let Event::Sent { result, .. } = world.event(2) else { panic!() };
        assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}

fn would_block_then_writable(choice: Choice) {
    let mut world = World::new(choice);
    let (here, there) = pair();
    let data = pattern(3_000_000, 1);
    let (go, gone) = std::sync::mpsc::channel();
    let mut go = Some(go);
    let length = data.len();
    let reader = thread::spawn(move || {
        gone.recv_timeout(LIMIT).unwrap();
        read_exactly(&there, length)
    });
    let mut sent = 0;
    let mut blocked = 0;
    while sent < data.len() {
        match world.send(&here, &data[sent..]) {
            Ok(more) => {
                assert!(more > 0);
                sent += more;
            }
            Err(error) => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                blocked += 1;
                let watch = world.watch(&here, Interest::Writable, 2);
                if let Some(go) = go.take() {
                    world.assert_quiet();
                    go.send(()).unwrap();
                }
                world.assert_ready(2);
                world.driver.cancel(watch);
                world.wait(Duration::ZERO);
                world.said.clear();
            }
        }
    }
    assert!(blocked > 0);
    assert_eq!(reader.join().unwrap(), data);
}

/// A send that nobody awaits must still end the wait when it is not whole: else nobody would watch for room.
fn short_sends_end_the_wait(choice: Choice) {
    let mut world = World::new(choice);
    let (here, there) = pair();
    let data = pattern(3_000_000, 1);
    world.start_send(&here, 1, Bytes::unawaited(data.clone()));
    let Event::Sent { result, .. } = world.event(1) else { panic!() };
    let sent = result.unwrap();
    assert!(sent > 0 && sent < data.len(), "{sent}");
    world.start_send(&here, 2, Bytes::unawaited(data.clone()));
    let Event::Sent { result, .. } = world.event(2) else { panic!() };
    assert_eq!(result.unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(read_exactly(&there, sent), &data[..sent]);
    world.start_send(&here, 3, Bytes { pieces: vec![data.clone(), data.clone()], awaited: false });
    let Event::Sent { result, .. } = world.event(3) else { panic!() };
    let sent = result.unwrap();
    assert!(sent > 0 && sent < data.len(), "{sent}");
    assert_eq!(read_exactly(&there, sent), &data[..sent]);
    there.set_nonblocking(true).unwrap();
    assert_eq!((&there).read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
}

fn unawaited_sends_come_back_with_the_next_event(choice: Choice) {
    let mut world = World::new(choice);
    let (here, mut there) = pair();
    world.receive(&here, 1);
    let answerer = thread::spawn(move || {
        assert_eq!(read_exactly(&there, 4), b"ping");
        there.write_all(b"pong").unwrap();
        there
    });
    world.start_send(&here, 2, Bytes::unawaited(b"ping"));
    let mut sent = false;
    let mut bytes = Vec::new();
    while !sent || bytes.len() < 4 {
        let completion = world.next();
        match completion.event {
            Event::Sent { result, .. } => {
                assert_eq!(result.unwrap(), 4);
                sent = true;
            }
            event => match World::received(event, here.as_raw_fd()) {
                Said::Bytes(more) => bytes.extend(more),
                other => panic!("{other:?}"),
            },
        }
    }
    assert_eq!(bytes, b"pong");
    answerer.join().unwrap();
}

/// Both ends belong to the driver, as in a test of a program that talks to itself.
fn ping_pong_within_the_driver(choice: Choice) {
    let mut world = World::new(choice);
    let (one, two) = tcp_pair();
    two.set_nonblocking(true).unwrap();
    world.receive(&one, 1);
    world.receive(&two, 2);
    world.start_send(&one, 0, Bytes::unawaited(b"ball"));
    let mut rounds = 0;
    while rounds < 2000 {
        let completion = world.next();
        let (from, to) = match completion.key.0 {
            0 => continue,
            1 => (&one, &one),
            _ => (&two, &two),
        };
        match World::received(completion.event, from.as_raw_fd()) {
            Said::Bytes(bytes) if bytes.is_empty() => {}
            Said::Bytes(bytes) => {
                assert_eq!(bytes, b"ball");
                rounds += 1;
                world.start_send(to, 0, Bytes::unawaited(b"ball"));
            }
            other => panic!("{other:?}"),
        }
    }
}

fn bulk_both_ways(choice: Choice) {
    let mut world = World::new(choice);
    let (here, there) = tcp_pair();
    let outgoing = pattern(8 << 20, 1);
    let incoming = pattern(8 << 20, 2);
    let writer = thread::spawn({
        let (mut there, incoming) = (there.try_clone().unwrap(), incoming.clone());
        move || there.write_all(&incoming).unwrap()
    });
    let reader = thread::spawn({
        let length = outgoing.len();
        move || read_exactly(&there, length)
    });
    world.receive(&here, 1);
    let mut received = Vec::new();
    let mut sent = 0;
    let mut watch = None;
    let piece = |sent: usize| Bytes::one(&outgoing[sent..outgoing.len().min(sent + 200_000)]);
    world.start_send(&here, 2, piece(0));
    while received.len() < incoming.len() || sent < outgoing.len() {
        let completion = world.next();
        match completion.event {
            Event::Sent { result: Ok(more), .. } => {
                sent += more;
                if sent < outgoing.len() {
                    world.start_send(&here, 2, piece(sent));
                }
            }
            Event::Sent { result: Err(error), .. } => {
                assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                assert!(watch.is_none());
                watch = Some(world.watch(&here, Interest::Writable, 3));
            }
            Event::Ready => {
                if let Some(watch) = watch.take() {
                    world.driver.cancel(watch);
                    world.start_send(&here, 2, piece(sent));
                }
            }
            event => match World::received(event, here.as_raw_fd()) {
                Said::Bytes(bytes) => received.extend(bytes),
                other => panic!("{other:?}"),
            },
        }
    }
    writer.join().unwrap();
    assert!(reader.join().unwrap() == outgoing, "what was sent arrived otherwise");
    assert!(received == incoming, "what arrived is not what was sent");
}

fn received_directly(choice: Choice) {
    let mut world = World::new(choice);
    let (here, there) = tcp_pair();
    let operation = world.driver.receive_directly(here.as_raw_fd(), Key(1)).unwrap();
    let sent = pattern(300_000, 1);
    let thread = thread::spawn({
        let sent = sent.clone();
        move || {
            (&there).write_all(&sent).unwrap();
            there
        }
    });
    let mut bytes = Vec::new();
    while bytes.len() < sent.len() {
        let event = world.event(1);
        assert!(matches!(event, Event::Received(Received::Waiting)), "{event:?}");
        match World::received(event, here.as_raw_fd()) {
            Said::Bytes(more) => bytes.extend(more),
            other => panic!("{other:?} after {} bytes", bytes.len()),
        }
    }
    assert!(bytes == sent);
    let there = thread.join().unwrap();

    // Said again for as long as it is not read.
    (&there).write_all(b"left").unwrap();
    for _ in 0..3 {
        let event = world.event(1);
        assert!(matches!(event, Event::Received(Received::Waiting)), "{event:?}");
    }
    // Nothing is taken out of the kernel by the time it is cancelled, and another kind of receive goes on.
    world.driver.cancel(operation);
    assert!(matches!(world.last_word(&here, 1), Said::Stopped));
    (&there).write_all(b" and more").unwrap();
    let operation = world.receive(&here, 2);
    let mut rest = world.find(|completion| match World::received(completion.event, here.as_raw_fd()) {
        Said::Bytes(bytes) if completion.key == Key(2) => Some(bytes),
        _ => None,
    });
    // The cancelled one may have announced the first of them, which `last_word` has read then.
    world.driver.cancel(operation);
    loop {
        match World::received(world.event(2), here.as_raw_fd()) {
            Said::Bytes(more) => rest.extend(more),
            Said::Stopped => break,
            other => panic!("{other:?}"),
        }
    }
    assert!(b"left and more".ends_with(&rest), "{rest:?}");

    // The end is for the caller to find, and so is a failure.
    world.driver.receive_directly(here.as_raw_fd(), Key(3)).unwrap();
    there.shutdown(Shutdown::Write).unwrap();
    assert!(matches!(world.last_word(&here, 3), Said::End));
}

/// A look for a connection that is not there costs more than one that is: none is made where connections come alone, while a crowd is
/// taken in two waits.
#[test]
fn connections_that_come_alone_are_taken_alone() {
    let mut world = World::new(Choice::Epoll);
    let listener = listener();
    world.accept(&listener, 1);
    let _first = connect(&listener);
    assert_eq!(world.wait(Duration::from_secs(5)), 1);
    assert_eq!(world.wait(Duration::ZERO), 0);
    let _crowd: Vec<_> = (0..5).map(|_| connect(&listener)).collect();
    assert_eq!(world.wait(Duration::from_secs(5)), 1);
    assert_eq!(world.wait(Duration::from_secs(5)), 4);
    assert_eq!(world.wait(Duration::ZERO), 0);
    // Where the last ones were many the next may be, too.
    let _crowd: Vec<_> = (0..5).map(|_| connect(&listener)).collect();
    assert_eq!(world.wait(Duration::from_secs(5)), 5);
    let _last = connect(&listener);
    assert_eq!(world.wait(Duration::from_secs(5)), 1);
    let _pair: Vec<_> = (0..2).map(|_| connect(&listener)).collect();
    // The wait before was another one's, and this one finds a second in a row.
    assert_eq!(world.wait(Duration::from_secs(5)), 2);
}
