//! Watching descriptors.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use whilst_engine::driver::{Choice, Interest, Key};

use crate::support::*;

over_both!(
    cancelled_and_watched_again,
    closed_while_the_other_direction_was_watched,
    closed_without_being_cancelled,
    closing_tells_the_peer,
    closing_tells_the_peer_of_what_was_said_once,
    hang_up_makes_both_directions_ready,
    is_level_triggered,
    once_and_for_good_on_one_descriptor,
    pipes_and_nameless_files,
    reads_and_writes_on_one_descriptor,
    refuses_what_cannot_be_watched,
    said_once,
    said_once_and_closed_without_a_word,
    said_once_in_both_directions,
    said_once_then_cancelled,
    silent_while_nothing_happens,
    stays_quiet_after_a_silent_close,
);

fn is_level_triggered(choice: Choice) {
    let mut world = World::new(choice);
    let (mut here, mut there) = pair();
    world.watch(&here, Interest::Readable, 1);
    world.assert_quiet();
    there.write_all(b"xyz").unwrap();
    for _ in 0..3 {
        world.assert_ready(1);
        here.read_exact(&mut [0]).unwrap();
    }
    world.wait(std::time::Duration::ZERO);
    world.said.clear();
    world.assert_quiet();
    there.write_all(b"x").unwrap();
    world.assert_ready(1);
}

fn silent_while_nothing_happens(choice: Choice) {
    let mut world = World::new(choice);
    let pairs: Vec<_> = (0..50).map(|_| pair()).collect();
    for (key, (here, _)) in pairs.iter().enumerate() {
        world.watch(here, Interest::Readable, key as u64);
    }
    world.assert_quiet();
    (&pairs[33].1).write_all(b"x").unwrap();
    world.assert_ready(33);
}

fn reads_and_writes_on_one_descriptor(choice: Choice) {
    let mut world = World::new(choice);
    let (mut here, mut there) = pair();
    world.watch(&here, Interest::Readable, 1);
    let writer = world.watch(&here, Interest::Writable, 2);
    world.assert_ready(2);
    there.write_all(b"x").unwrap();
    world.said.clear();
    world.wait(LIMIT);
    let mut keys: Vec<_> = world.said.drain(..).map(|completion| completion.key.0).collect();
    keys.sort_unstable();
    assert_eq!(keys, [1, 2]);
    world.driver.cancel(writer);
    world.wait(LIMIT);
    world.said.retain(|completion| completion.key == Key(1));
    world.assert_ready(1);
    here.read_exact(&mut [0]).unwrap();
    world.wait(std::time::Duration::ZERO);
    world.said.clear();
    world.assert_quiet();
    // A receive may share the descriptor with a watch of the other direction.
    let (here, mut there) = pair();
    world.receive(&here, 3);
    let writer = world.watch(&here, Interest::Writable, 4);
    world.assert_ready(4);
    world.driver.cancel(writer);
    there.write_all(b"data").unwrap();
    world.wait(LIMIT);
    world.said.retain(|completion| completion.key == Key(3));
    assert_eq!(world.read(&here, 3, 4), b"data");
}

fn hang_up_makes_both_directions_ready(choice: Choice) {
    let mut world = World::new(choice);
    let (here, there) = pair();
    // A full queue, so that only the hang-up can make it writable.
    let mut chunk = vec![0; 65536];
    while (&here).write(&chunk).is_ok_and(|length| length > 0) {}
    world.watch(&here, Interest::Readable, 1);
    world.watch(&here, Interest::Writable, 2);
    world.assert_quiet();
    drop(there);
    let mut seen = [false; 2];
    while seen != [true; 2] {
        seen[(world.next().key.0 - 1) as usize] = true;
    }
    // Unread bytes make it a reset on a Unix socket; any end will do.
    assert!((&here).read(&mut chunk).is_ok_and(|length| length == 0) || (&here).write(&[0]).is_err());
}

fn pipes_and_nameless_files(choice: Choice) {
    let mut world = World::new(choice);
    let (reader, mut writer) = pipe();
    world.watch(&reader, Interest::Readable, 1);
    world.assert_quiet();
    writer.write_all(b"x").unwrap();
    world.assert_ready(1);
    let (_reader, writer) = pipe();
    let mut world = World::new(choice);
    world.watch(&writer, Interest::Writable, 2);
    world.assert_ready(2);
    let mut world = World::new(choice);
    // SAFETY: a new descriptor, owned once.
    let mut event = unsafe { File::from_raw_fd(libc::eventfd(0, libc::EFD_CLOEXEC)) };
    world.watch(&event, Interest::Readable, 3);
    world.assert_quiet();
    event.write_all(&1_u64.to_ne_bytes()).unwrap();
    world.assert_ready(3);
}

fn refuses_what_cannot_be_watched(choice: Choice) {
    // Alone in a process, because it counts on descriptor numbers.
    in_fork(|| {
        let mut world = World::new(choice);
        let mut refused = |fd: i32, interest| {
            let error = world.driver.watch(fd, interest, Key(1)).unwrap_err();
            error.raw_os_error().unwrap()
        };
        for interest in [Interest::Readable, Interest::Writable] {
            let file = File::open("/proc/self/exe").unwrap();
            assert_eq!(refused(file.as_raw_fd(), interest), libc::EPERM);
            let directory = File::open("/").unwrap();
            assert_eq!(refused(directory.as_raw_fd(), interest), libc::EPERM);
            let device = File::open("/dev/null").unwrap();
            assert_eq!(refused(device.as_raw_fd(), interest), libc::EPERM);
            assert_eq!(refused(-1, interest), libc::EBADF);
            assert_eq!(refused(1_000_000, interest), libc::EBADF);
            let closed = file.as_raw_fd();
            drop(file);
            assert_eq!(refused(closed, interest), libc::EBADF);
        }
        assert_eq!(world.driver.receive(-1, Key(1)).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(world.driver.receive(1_000_000, Key(1)).unwrap_err().raw_os_error(), Some(libc::EBADF));
        assert_eq!(world.driver.accept(-1, 1, Key(1)).unwrap_err().raw_os_error(), Some(libc::EBADF));
        world.assert_quiet();
    });
}

fn cancelled_and_watched_again(choice: Choice) {
    let mut world = World::new(choice);
    let (mut here, mut there) = pair();
    for key in 0..200 {
        let watch = world.watch(&here, Interest::Readable, key);
        if key % 3 == 0 {
            world.wait(std::time::Duration::ZERO);
        }
        there.write_all(b"x").unwrap();
        world.assert_ready(key);
        here.read_exact(&mut [0]).unwrap();
        if key % 5 == 0 {
            // Armed again, which makes the cancellation one of something that the kernel has.
            world.wait(std::time::Duration::ZERO);
            world.said.clear();
        }
        world.driver.cancel(watch);
    }
    world.assert_quiet();
    // Nor does a cancelled one speak.
    let watch = world.watch(&here, Interest::Readable, 1000);
    world.assert_quiet();
    there.write_all(b"x").unwrap();
    world.driver.cancel(watch);
    world.assert_quiet();
}

/// What a careless program does: the number comes back as another file.
fn closed_without_being_cancelled(choice: Choice) {
    // Alone in a process, because it counts on descriptor numbers.
    in_fork(|| {
        let mut world = World::new(choice);
        let (here, there) = pair();
        let number = here.as_raw_fd();
        let stale = world.watch(&here, Interest::Readable, 1);
        world.watch(&here, Interest::Writable, 2);
        world.assert_ready(2);
        drop((here, there));
        world.said.clear();
        let (new, mut peer) = pair();
        assert_eq!(new.as_raw_fd(), number);
        world.watch(&new, Interest::Readable, 3);
        peer.write_all(b"x").unwrap();
        world.find(|completion| (completion.key == Key(3)).then_some(()));
        // What is left of the old one can be cancelled without harm to the new.
        world.driver.cancel(stale);
        world.find(|completion| (completion.key == Key(3)).then_some(()));
        world.find(|completion| (completion.key == Key(3)).then_some(()));
    });
}

/// A watch holds nothing open: the peer of a socket that is closed under it sees the end at once, and its port is free.
fn closing_tells_the_peer(choice: Choice) {
    let mut world = World::new(choice);
    let (bystander, mut peer) = pair();
    world.watch(&bystander, Interest::Readable, 1);
    let mut stale = Vec::new();
    for said_before in [false, true] {
        for interest in [Interest::Readable, Interest::Writable] {
            let (here, mut there) = tcp_pair();
            if said_before || interest == Interest::Writable {
                there.write_all(b"x").unwrap();
            }
            stale.push(world.watch(&here, interest, 2));
            world.wait(std::time::Duration::ZERO);
            world.wait(std::time::Duration::ZERO);
            if said_before {
                world.assert_ready(2);
                (&here).read_exact(&mut [0]).unwrap();
            }
            drop(here);
            let end = there.read(&mut [0]);
            assert!(
                matches!(&end, Ok(0))
                    || end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset),
                "{end:?}"
            );
        }
    }
    let listener = listener();
    let address = listener.local_addr().unwrap();
    stale.push(world.watch(&listener, Interest::Readable, 3));
    world.wait(std::time::Duration::ZERO);
    drop(listener);
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    // Nothing more is heard of them, also when they are cancelled after all.
    world.wait(std::time::Duration::ZERO);
    world.said.clear();
    world.assert_quiet();
    stale.into_iter().for_each(|watch| world.driver.cancel(watch));
    world.assert_quiet();
    peer.write_all(b"x").unwrap();
    world.assert_ready(1);
}

/// Nor does what is left speak of the new file in the other direction.
fn closed_while_the_other_direction_was_watched(choice: Choice) {
    // Alone in a process, because it counts on descriptor numbers.
    in_fork(|| {
        let mut world = World::new(choice);
        let (here, there) = pair();
        let number = here.as_raw_fd();
        let stale = world.watch(&here, Interest::Readable, 1);
        world.assert_quiet();
        drop((here, there));
        world.wait(std::time::Duration::ZERO);
        world.said.clear();
        world.driver.cancel(stale);
        let (new, mut peer) = pair();
        assert_eq!(new.as_raw_fd(), number);
        let stale = world.watch(&new, Interest::Readable, 2);
        drop((new, peer));
        let (new, new_peer) = pair();
        assert_eq!(new.as_raw_fd(), number);
        world.watch(&new, Interest::Writable, 3);
        peer = new_peer;
        peer.write_all(b"x").unwrap();
        world.find(|completion| (completion.key == Key(3)).then_some(()));
        world.driver.cancel(stale);
        world.find(|completion| (completion.key == Key(3)).then_some(()));
    });
}

/// The file lives on in another descriptor (as in a forked child), and its number is gone.
fn stays_quiet_after_a_silent_close(choice: Choice) {
    // Alone in a process, because it counts on descriptor numbers.
    in_fork(|| {
        let mut world = World::new(choice);
        let (here, mut there) = pair();
        // SAFETY: a new descriptor, owned once.
        let _other =
            unsafe { OwnedFd::from_raw_fd(libc::fcntl(here.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 500)) };
        let (bystander, mut peer) = pair();
        world.watch(&bystander, Interest::Readable, 2);
        let watch = world.watch(&here, Interest::Readable, 1);
        world.assert_quiet();
        drop(here);
        world.driver.cancel(watch);
        there.write_all(b"x").unwrap();
        world.assert_quiet();
        peer.write_all(b"x").unwrap();
        world.assert_ready(2);
    });
}

/// A watch that is said once is over then, whatever is left to be read, and the next finds what is left.
fn said_once(choice: Choice) {
    let mut world = World::new(choice);
    let (mut here, mut there) = pair();
    for key in 0..50 {
        let watch = world.watch_once(&here, Interest::Readable, key);
        if key % 2 == 0 {
            world.assert_quiet();
        }
        there.write_all(b"xy").unwrap();
        world.assert_ready(key);
        world.assert_quiet();
        if key % 3 == 0 {
            // It is over, so there is nothing to cancel.
            world.driver.cancel(watch);
        }
        here.read_exact(&mut [0]).unwrap();
        let key = 1000 + key;
        world.watch_once(&here, Interest::Readable, key);
        world.assert_ready(key);
        here.read_exact(&mut [0]).unwrap();
    }
    // What arrives while nobody waits is not spoken of, nor the end.
    there.write_all(b"x").unwrap();
    world.assert_quiet();
    drop(there);
    world.assert_quiet();
    world.watch_once(&here, Interest::Writable, 2);
    world.assert_ready(2);
    // The place is free for a watch of the other kind.
    let watch = world.watch(&here, Interest::Readable, 3);
    world.assert_ready(3);
    world.assert_ready(3);
    world.driver.cancel(watch);
    world.wait(std::time::Duration::ZERO);
    world.said.clear();
    world.assert_quiet();
}

fn said_once_then_cancelled(choice: Choice) {
    let mut world = World::new(choice);
    let (here, mut there) = pair();
    for key in 0..10 {
        world.watch_once(&here, Interest::Writable, key);
        world.assert_ready(key);
        let watch = world.watch_once(&here, Interest::Readable, 100);
        world.driver.cancel(watch);
        let watch = world.watch_once(&here, Interest::Readable, 100);
        world.wait(std::time::Duration::ZERO);
        world.driver.cancel(watch);
        world.assert_quiet();
    }
    there.write_all(b"x").unwrap();
    world.assert_quiet();
    let watch = world.watch_once(&here, Interest::Readable, 5);
    let error = world.driver.watch_once(here.as_raw_fd(), Interest::Readable, Key(6)).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::EEXIST));
    world.assert_ready(5);
    world.driver.cancel(watch);
    world.assert_quiet();
}

/// One direction that is said does not silence the other.
fn said_once_in_both_directions(choice: Choice) {
    let mut world = World::new(choice);
    let (mut here, mut there) = pair();
    there.set_nonblocking(true).unwrap();
    let mut chunk = vec![0; 65536];
    for key in 0..10 {
        while (&here).write(&chunk).is_ok_and(|length| length > 0) {}
        world.watch_once(&here, Interest::Writable, key);
        world.watch_once(&here, Interest::Readable, 100 + key);
        world.assert_quiet();
        there.write_all(b"x").unwrap();
        world.assert_ready(100 + key);
        world.assert_quiet();
        here.read_exact(&mut [0]).unwrap();
        while there.read(&mut chunk).is_ok_and(|length| length > 0) {}
        world.assert_ready(key);
        world.assert_quiet();
        // Both at once.
        world.watch_once(&here, Interest::Writable, key);
        world.watch_once(&here, Interest::Readable, 100 + key);
        there.write_all(b"x").unwrap();
        let mut keys = [world.next().key.0, world.next().key.0];
        keys.sort_unstable();
        assert_eq!(keys, [key, 100 + key]);
        world.assert_quiet();
        here.read_exact(&mut [0]).unwrap();
    }
    drop(there);
    world.watch_once(&here, Interest::Writable, 1);
    world.watch_once(&here, Interest::Readable, 2);
    let mut keys = [world.next().key.0, world.next().key.0];
    keys.sort_unstable();
    assert_eq!(keys, [1, 2]);
    world.assert_quiet();
}

fn once_and_for_good_on_one_descriptor(choice: Choice) {
    let mut world = World::new(choice);
    let (mut here, mut there) = pair();
    let reader = world.watch(&here, Interest::Readable, 1);
    world.assert_quiet();
    world.watch_once(&here, Interest::Writable, 2);
    world.assert_ready(2);
    world.assert_quiet();
    there.write_all(b"x").unwrap();
    world.assert_ready(1);
    world.assert_ready(1);
    here.read_exact(&mut [0]).unwrap();
    world.wait(std::time::Duration::ZERO);
    world.said.clear();
    world.watch_once(&here, Interest::Writable, 3);
    world.driver.cancel(reader);
    world.assert_ready(3);
    world.assert_quiet();
    there.write_all(b"x").unwrap();
    world.assert_quiet();
    // A receive takes over a descriptor that was watched before.
    world.receive(&here, 4);
    assert_eq!(world.read(&here, 4, 1), b"x");
    there.write_all(b"abc").unwrap();
    assert_eq!(world.read(&here, 4, 3), b"abc");
}

/// The number comes back as another file, of which the kernel has no registration.
fn said_once_and_closed_without_a_word(choice: Choice) {
    // Alone in a process, because it counts on descriptor numbers.
    in_fork(|| {
        let mut world = World::new(choice);
        let mut number = None;
        for (key, lives_on) in (0..20).map(|key| (key, key % 3 == 0)) {
            let (here, mut there) = pair();
            assert_eq!(*number.get_or_insert(here.as_raw_fd()), here.as_raw_fd());
            let other = lives_on.then(|| here.try_clone().unwrap());
            for _ in 0..2 {
                world.watch_once(&here, Interest::Readable, key);
                world.assert_quiet();
                there.write_all(b"x").unwrap();
                world.assert_ready(key);
                (&here).read_exact(&mut [0]).unwrap();
            }
            if key % 2 == 0 {
                // Closed while it waits.
                world.watch_once(&here, Interest::Readable, key);
                world.wait(std::time::Duration::ZERO);
            }
            drop(here);
            there.write_all(b"x").ok();
            if lives_on && key % 2 == 0 {
                // Whatever is said of it now, it is not said for ever.
                world.wait(std::time::Duration::ZERO);
                world.said.clear();
            }
            world.assert_quiet();
            drop((other, there));
        }
    });
}

/// What is left of a watch that was said holds nothing open.
fn closing_tells_the_peer_of_what_was_said_once(choice: Choice) {
    let mut world = World::new(choice);
    let (bystander, mut peer) = pair();
    world.watch(&bystander, Interest::Readable, 1);
    for interest in [Interest::Readable, Interest::Writable] {
        let (here, mut there) = tcp_pair();
        there.write_all(b"x").unwrap();
        world.watch_once(&here, interest, 2);
        world.assert_ready(2);
        (&here).read_exact(&mut [0]).unwrap();
        drop(here);
        assert!(matches!(there.read(&mut [0]), Ok(0)));
    }
    world.assert_quiet();
    peer.write_all(b"x").unwrap();
    world.assert_ready(1);
}
