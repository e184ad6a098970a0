//! Drivers that change threads, are inherited by a child, or end early.

use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use whilst_engine::driver::{Choice, Event, Interest, Received};

use crate::support::*;

over_both!(
    detached_and_attached_again,
    dropped_with_everything_under_way,
    dropped_in_another_thread,
    ends_in_another_thread,
    inherited_and_dropped,
    inherited_and_used,
    operations_move_along,
    the_stream_stays_whole,
    sends_move_along,
);

/// Runs `work` in a new thread, which then ends, or lives on until the returned sender is dropped.
fn in_thread<T: Send + 'static>(
    lives_on: bool,
    work: impl FnOnce() -> T + Send + 'static,
) -> (T, Option<mpsc::Sender<()>>) {
    let (sender, receiver) = mpsc::channel();
    let (end, ended) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        sender.send(work()).unwrap();
        let _ = ended.recv();
    });
    let result = receiver.recv().unwrap();
    if lives_on {
        return (result, Some(end));
    }
    drop(end);
    thread.join().unwrap();
    (result, None)
}

fn operations_move_along(choice: Choice) {
    for lives_on in [false, true] {
        let mut world = World::new(choice);
        let listener = listener();
        let (watched, mut to_watched) = pair();
        let (here, mut there) = pair();
        world.accept(&listener, 1);
        world.watch(&watched, Interest::Readable, 2);
        world.receive(&here, 3);
        let mut alive = Vec::new();
        for round in 0..3 {
            let ((mut moved, here2), end) = in_thread(lives_on, {
                let here = here.try_clone().unwrap();
                move || {
                    world.assert_quiet();
                    (world, here)
                }
            });
            drop(here2);
            alive.extend(end);
            let peer = connect(&listener);
            moved.find(|completion| match completion.event {
                Event::Accepted(connection) => Some(connection.unwrap()),
                _ => None,
            });
            drop(peer);
            to_watched.write_all(b"x").unwrap();
            moved.assert_ready(2);
            (&watched).read_exact(&mut [0]).unwrap();
            moved.wait(Duration::ZERO);
            moved.said.clear();
            there.write_all(b"data").unwrap();
            assert_eq!(moved.read(&here, 3, 4), b"data");
            moved.said.clear();
            if round == 1 {
                moved.wait(Duration::ZERO);
                moved.said.clear();
            }
            world = moved;
        }
        drop(alive);
    }
}

/// Bytes come in at every stage of the way from thread to thread.
fn the_stream_stays_whole(choice: Choice) {
    let mut world = World::new(choice);
    let (here, mut there) = pair();
    let data = pattern(60_000, 9);
    world.receive(&here, 1);
    let mut arrived = Vec::new();
    let mut alive = Vec::new();
    for (round, piece) in data.chunks(1000).enumerate() {
        let number = here.as_raw_fd();
        let (first, second) = piece.split_at(500);
        there.write_all(first).unwrap();
        let ((moved, bytes), end) = in_thread(round % 2 == 0, move || {
            let mut bytes = Vec::new();
            match round % 3 {
                0 => drop(world.wait(Duration::ZERO)),
                1 => drop(world.wait(LIMIT)),
                _ => {}
            }
            for completion in world.said.drain(..).collect::<Vec<_>>() {
                match World::received(completion.event, number) {
                    Said::Bytes(more) => bytes.extend(more),
                    other => panic!("{other:?}"),
                }
            }
            (world, bytes)
        });
        arrived.extend(bytes);
        alive.extend(end);
        world = moved;
        there.write_all(second).unwrap();
    }
    while arrived.len() < data.len() {
        match World::received(world.event(1), here.as_raw_fd()) {
            Said::Bytes(more) => arrived.extend(more),
            other => panic!("{other:?}"),
        }
    }
    assert!(arrived == data, "what arrived is not what was sent");
}

/// What comes in while the driver lets go, and after, is for the next thread.
fn detached_and_attached_again(choice: Choice) {
    let mut world = World::new(choice);
    let (here, mut there) = pair();
    let data = pattern(50_000, 5);
    let receive = world.receive(&here, 1);
    world.driver.detach().unwrap(); // nothing was submitted yet
    let mut arrived = Vec::new();
    for piece in data.chunks(500) {
        world.wait(Duration::ZERO);
        let (first, second) = piece.split_at(200);
        there.write_all(first).unwrap();
        world.driver.detach().unwrap();
        there.write_all(second).unwrap();
        world.driver.detach().unwrap();
        world.wait(LIMIT);
        for completion in world.said.drain(..).collect::<Vec<_>>() {
            match World::received(completion.event, here.as_raw_fd()) {
                Said::Bytes(more) => arrived.extend(more),
                other => panic!("{other:?}"),
            }
        }
    }
    while arrived.len() < data.len() {
        match World::received(world.event(1), here.as_raw_fd()) {
            Said::Bytes(more) => arrived.extend(more),
            other => panic!("{other:?}"),
        }
    }
    assert!(arrived == data, "what arrived is not what was sent");
    // A cancelled receive still says that it stopped.
    world.wait(Duration::ZERO);
    world.driver.cancel(receive);
    world.driver.detach().unwrap();
    assert!(matches!(world.event(1), Event::Received(Received::Stopped)));
}

fn sends_move_along(choice: Choice) {
    let mut world = World::new(choice);
    let (here, there) = pair();
    world.receive(&here, 1);
    world.wait(Duration::ZERO);
    world.start_send(&here, 2, Bytes::one(b"on the way"));
    let (mut world, _) = in_thread(false, move || {
        world.find(|completion| match completion.event {
            Event::Sent { result, .. } => (result.unwrap() == 10).then_some(()),
            _ => None,
        });
        world
    });
    assert_eq!(read_exactly(&there, 10), b"on the way");
    assert_eq!(world.send(&here, b"and back").unwrap(), 8);
    assert_eq!(read_exactly(&there, 8), b"and back");
}

/// A driver that was detached in its thread can be taken apart in another as well as there.
fn ends_in_another_thread(choice: Choice) {
    let mut world = World::new(choice);
    let (here, mut there) = pair();
    let listener = listener();
    let address = listener.local_addr().unwrap();
    let ((mut world, receive, accept), _) = in_thread(false, {
        let (here, listener) = (here.try_clone().unwrap(), listener.try_clone().unwrap());
        move || {
            let receive = world.receive(&here, 1);
            let accept = world.accept(&listener, 2);
            // The clones' numbers are not the originals', so they must stay while the operations may be
            // submitted anew.
            world.assert_quiet();
            world.driver.cancel(receive);
            world.find(|completion| {
                matches!(completion.event, Event::Received(Received::Stopped)).then_some(())
            });
            world.driver.detach().unwrap();
            (world, receive, accept)
        }
    });
    world.driver.cancel(receive);
    world.driver.cancel_now(accept).unwrap();
    drop((here, listener));
    assert_eq!(there.read(&mut [0]).unwrap(), 0);
    std::net::TcpListener::bind(address).unwrap();
    world.assert_quiet();
}

fn dropped_with_everything_under_way(choice: Choice) {
    let mut kept = Vec::new();
    for round in 0..50 {
        let mut world = World::new(choice);
        let listener = listener();
        let address = listener.local_addr().unwrap();
        let (watched, _other) = pair();
        let (here, mut there) = pair();
        world.accept(&listener, 1);
        world.watch(&watched, Interest::Readable, 2);
        world.receive(&here, 3);
        world.wait(Duration::ZERO);
        there.write_all(b"first").unwrap();
        match world.event(3) {
            Event::Received(Received::Data(chunk)) => kept.push(chunk),
            event => drop(World::received(event, here.as_raw_fd())),
        }
        there.write_all(b"never read").unwrap();
        let _peer = connect(&listener);
        if round % 2 == 0 {
            world.start_send(&here, 4, Bytes::one(b"never sent"));
        }
        drop(world);
        // Nothing holds the files any more.
        drop((here, listener));
        std::net::TcpListener::bind(address).unwrap();
        there.set_nonblocking(true).unwrap();
        let mut rest = Vec::new();
        // The end, or a reset for what was not read.
        let end = there.read_to_end(&mut rest);
        assert!(end.is_ok() || end.is_err_and(|error| error.kind() == ErrorKind::ConnectionReset));
    }
    assert!(kept.iter().all(|chunk| **chunk == *b"first"));
}

fn dropped_in_another_thread(choice: Choice) {
    for lives_on in [false, true] {
        let mut world = World::new(choice);
        let (here, mut there) = pair();
        world.receive(&here, 1);
        world.wait(Duration::ZERO);
        there.write_all(b"data").unwrap();
        let (world, _end) = in_thread(lives_on, move || {
            world.wait(LIMIT);
            assert_eq!(world.said.len(), 1);
            world
        });
        let chunks: Vec<_> = world.said.into_iter().collect();
        drop(world.driver);
        for completion in chunks {
            if let Event::Received(Received::Data(chunk)) = completion.event {
                assert_eq!(*chunk, *b"data");
            }
        }
    }
}

/// What a child that was forked in the middle does with the driver is nothing to its parent.
fn inherited_and_dropped(choice: Choice) {
    let mut world = World::new(choice);
    let (watched, mut to_watched) = pair();
    let (here, mut there) = pair();
    let watch = world.watch(&watched, Interest::Readable, 1);
    let receive = world.receive(&here, 2);
    world.assert_quiet();
    for cancels in [false, true] {
        let mut inherited = Some(world);
        let child = || {
            let mut world = inherited.take().unwrap();
            if cancels {
                world.driver.cancel(watch);
                world.driver.cancel_now(receive).unwrap();
            }
            drop(world);
        };
        // The closure takes the driver out of the child's copy; the parent's stays.
        in_fork(child);
        world = inherited.take().unwrap();
        to_watched.write_all(b"x").unwrap();
        world.assert_ready(1);
        (&watched).read_exact(&mut [0]).unwrap();
        world.wait(Duration::ZERO);
        world.said.clear();
        there.write_all(b"data").unwrap();
        assert_eq!(world.read(&here, 2, 4), b"data");
        world.said.clear();
    }
}

fn inherited_and_used(choice: Choice) {
    let mut world = World::new(choice);
    let (here, mut there) = pair();
    world.receive(&here, 1);
    world.assert_quiet();
    let waker = world.waker.clone();
    let mut world = std::cell::RefCell::new(world);
    in_fork(|| {
        let world = &mut *world.borrow_mut();
        let (new, mut peer) = pair();
        world.receive(&new, 2);
        peer.write_all(b"to the child").unwrap();
        assert_eq!(world.read(&new, 2, 12), b"to the child");
        assert_eq!(world.send(&new, b"from the child").unwrap(), 14);
        assert_eq!(read_exactly(&peer, 14), b"from the child");
        // Its wakes are its own.
        waker.wake();
        world.driver.wait(None, &mut Vec::new()).unwrap();
        let sleeper = thread::spawn({
            let waker = waker.clone();
            move || {
                thread::sleep(Duration::from_millis(5));
                waker.wake();
            }
        });
        world.driver.wait(None, &mut Vec::new()).unwrap();
        sleeper.join().unwrap();
    });
    let world = world.get_mut();
    world.assert_quiet();
    there.write_all(b"to the parent").unwrap();
    assert_eq!(world.read(&here, 1, 13), b"to the parent");
}
