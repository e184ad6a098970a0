//! Ending operations before they end by themselves.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use whilst_engine::driver::{Choice, Event, Interest, Key, Received};

use crate::support::*;

over_both!(
    accepted_connections_are_not_lost,
    before_anything_was_submitted,
    cancel_now_frees_the_port,
    cancel_now_keeps_other_completions,
    cancel_now_lets_the_peer_see_the_end,
    cancel_lets_the_peer_see_the_end,
    close_and_reuse_of_the_number,
    no_byte_is_lost,
    of_finished_operations,
    twice,
);

/// Collects what a receive says until it says that it stopped.
fn until_stopped(world: &mut World, fd: &UnixStream, key: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        match World::received(world.event(key), fd.as_raw_fd()) {
            Said::Bytes(more) => bytes.extend(more),
            Said::Stopped => return bytes,
            other => panic!("{other:?}"),
        }
    }
}

/// A stream whose receive is cancelled over and over, at every stage, arrives whole: by the receives, and
/// what these left behind by reading.
fn no_byte_is_lost(choice: Choice) {
    let mut world = World::new(choice);
    let (mut here, mut there) = pair();
    let data = pattern(40_000, 3);
    let mut arrived = Vec::new();
    for (round, piece) in data.chunks(100).enumerate() {
        let receive = world.receive(&here, round as u64);
        if round % 2 == 0 {
            world.wait(Duration::ZERO);
        }
        there.write_all(piece).unwrap();
        match round % 5 {
            0 => drop(world.wait(LIMIT)),
            1 => drop(world.wait(Duration::ZERO)),
            _ => {}
        }
        if round % 3 == 0 {
            world.driver.cancel_now(receive).unwrap();
        } else {
            world.driver.cancel(receive);
        }
        arrived.extend(until_stopped(&mut world, &here, round as u64));
        let mut rest = [0; 1000];
        loop {
            match here.read(&mut rest) {
                Ok(length) => arrived.extend(&rest[..length]),
                Err(error) => break assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
        }
    }
    assert!(arrived == data, "{} of {} bytes, or in another order", arrived.len(), data.len());
}

fn close_and_reuse_of_the_number(choice: Choice) {
    // Alone in a process, because it counts on descriptor numbers.
    in_fork(|| {
        let mut world = World::new(choice);
        let (mut here, mut there) = pair();
        let number = here.as_raw_fd();
        for key in 0..100 {
            let receive = world.receive(&here, key);
            let writer = world.watch(&here, Interest::Writable, 1000 + key);
            if key % 2 == 0 {
                world.wait(Duration::ZERO);
            }
            there.write_all(b"old").unwrap();
            world.said.clear();
            world.driver.cancel(receive);
            world.driver.cancel(writer);
            drop((here, there));
            (here, there) = pair();
            assert_eq!(here.as_raw_fd(), number);
            let new = world.receive(&here, 2000 + key);
            there.write_all(b"new").unwrap();
            let mut bytes = Vec::new();
            let mut stopped = false;
            while bytes.len() < 3 || !stopped {
                let completion = world.next();
                if completion.key == Key(2000 + key) {
                    match World::received(completion.event, number) {
                        Said::Bytes(more) => bytes.extend(more),
                        other => panic!("{other:?}"),
                    }
                } else {
                    assert_eq!(completion.key, Key(key), "{completion:?}");
                    stopped |= matches!(completion.event, Event::Received(Received::Stopped));
                }
            }
            assert_eq!(bytes, b"new");
            world.driver.cancel(new);
            world.find(|completion| {
                matches!(completion.event, Event::Received(Received::Stopped)).then_some(())
            });
        }
    });
}

fn cancel_now_frees_the_port(choice: Choice) {
    for connections in [0, 3] {
        let mut world = World::new(choice);
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let accept = world.accept(&listener, 1);
        let _peers: Vec<_> = (0..connections).map(|_| connect(&listener)).collect();
        world.wait(Duration::ZERO);
        assert_eq!(TcpListener::bind(address).unwrap_err().kind(), ErrorKind::AddrInUse);
        world.driver.cancel_now(accept).unwrap();
        drop(listener);
        TcpListener::bind(address).unwrap();
    }
}

fn cancel_now_lets_the_peer_see_the_end(choice: Choice) {
    let mut world = World::new(choice);
    let (here, mut there) = pair();
    let receive = world.receive(&here, 1);
    world.assert_quiet();
    world.driver.cancel_now(receive).unwrap();
    drop(here);
    assert_eq!(there.read(&mut [0]).unwrap(), 0);
    assert!(matches!(world.event(1), Event::Received(Received::Stopped)));
    let (here, mut there) = pair();
    let watch = world.watch(&here, Interest::Readable, 2);
    world.assert_quiet();
    world.driver.cancel_now(watch).unwrap();
    drop(here);
    assert_eq!(there.read(&mut [0]).unwrap(), 0);
    world.assert_quiet();
}

fn cancel_lets_the_peer_see_the_end(choice: Choice) {
    let mut world = World::new(choice);
    let (here, mut there) = pair();
    let receive = world.receive(&here, 1);
    world.assert_quiet();
    world.driver.cancel(receive);
    drop(here);
    assert!(matches!(world.event(1), Event::Received(Received::Stopped)));
    assert_eq!(there.read(&mut [0]).unwrap(), 0);
}

fn cancel_now_keeps_other_completions(choice: Choice) {
    let mut world = World::new(choice);
    let pairs: Vec<_> = (0..20).map(|_| pair()).collect();
    let receives: Vec<_> =
        pairs.iter().enumerate().map(|(key, (here, _))| world.receive(here, key as u64)).collect();
    world.assert_quiet();
    for (_, there) in &pairs {
        let mut there = there;
        there.write_all(b"here I am").unwrap();
    }
    world.driver.cancel_now(receives[7]).unwrap();
    let mut bytes = vec![Vec::new(); pairs.len()];
    let mut stopped = 0;
    while stopped == 0 || bytes.iter().filter(|bytes| bytes.len() == 9).count() < pairs.len() - 1 {
        let completion = world.next();
        let key = completion.key.0 as usize;
        match World::received(completion.event, pairs[key].0.as_raw_fd()) {
            Said::Bytes(more) => bytes[key].extend(more),
            Said::Stopped => {
                assert_eq!(key, 7);
                stopped += 1;
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(stopped, 1);
}

fn accepted_connections_are_not_lost(choice: Choice) {
    let mut world = World::new(choice);
    let listener = listener();
    for round in 0..20 {
        let accept = world.accept(&listener, round);
        if round % 2 == 0 {
            world.wait(Duration::ZERO);
        }
        let peers: Vec<_> = (0..3).map(|_| connect(&listener)).collect();
        if round % 3 == 0 {
            world.driver.cancel_now(accept).unwrap();
        } else {
            world.driver.cancel(accept);
        }
        world.wait(Duration::ZERO);
        world.wait(Duration::ZERO);
        let mut connections = 0;
        for completion in world.said.drain(..) {
            let Event::Accepted(connection) = completion.event else { panic!() };
            connection.unwrap();
            connections += 1;
        }
        while listener.accept().is_ok() {
            connections += 1;
        }
        assert_eq!(connections, peers.len());
    }
}

fn before_anything_was_submitted(choice: Choice) {
    let mut world = World::new(choice);
    let (here, mut there) = pair();
    let watch = world.watch(&here, Interest::Readable, 1);
    world.driver.cancel(watch);
    let receive = world.receive(&here, 2);
    world.driver.cancel(receive);
    let receive = world.receive(&here, 3);
    world.driver.cancel_now(receive).unwrap();
    there.write_all(b"x").unwrap();
    assert!(matches!(world.event(2), Event::Received(Received::Stopped)));
    assert!(matches!(world.event(3), Event::Received(Received::Stopped)));
    world.assert_quiet();
}

fn of_finished_operations(choice: Choice) {
    let mut world = World::new(choice);
    let (here, there) = pair();
    let receive = world.receive(&here, 1);
    drop(there);
    assert!(matches!(world.last_word(&here, 1), Said::End));
    if choice == Choice::Uring {
        // It has ended by itself; with epoll it is the caller who knows of the end.
        world.driver.cancel(receive);
        world.driver.cancel_now(receive).unwrap();
        world.assert_quiet();
    }
    // The slot serves the next operation, which the old name must not touch.
    let (here, mut there) = pair();
    world.driver.cancel(receive);
    world.wait(Duration::ZERO);
    world.said.clear();
    world.receive(&here, 2);
    world.driver.cancel(receive);
    world.driver.cancel_now(receive).unwrap();
    there.write_all(b"x").unwrap();
    assert_eq!(world.read(&here, 2, 1), b"x");
}

fn twice(choice: Choice) {
    let mut world = World::new(choice);
    let (here, _there) = pair();
    let receive = world.receive(&here, 1);
    world.assert_quiet();
    world.driver.cancel(receive);
    world.driver.cancel(receive);
    world.driver.cancel_now(receive).unwrap();
    world.driver.cancel(receive);
    assert!(matches!(world.event(1), Event::Received(Received::Stopped)));
    world.assert_quiet();
}
