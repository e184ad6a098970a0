//! How long a wait takes, and what ends it.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::thread::JoinHandleExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use whilst_engine::driver::{Choice, Driver, Interest};
use whilst_engine::inbox::{Inbox, Waker};

use crate::support::*;

over_both!(
    a_signal_ends_it,
    a_signal_in_the_pipe_ends_it,
    a_wake_before_it_ends_it,
    a_wake_from_another_thread_ends_it,
    an_idle_driver_costs_nothing,
    no_wake_is_lost,
    one_entry_for_a_send_and_the_wait,
    shorter_than_a_millisecond,
    spinning_blocks_for_nothing,
    spinning_ends_with_what_comes,
    without_blocking,
);

/// Runs `check` without an operation, and with one that never completes.
fn idle_and_busy(choice: Choice, check: impl Fn(&mut World)) {
    check(&mut World::new(choice));
    let mut world = World::new(choice);
    let (here, _there) = pair();
    world.watch(&here, Interest::Readable, 1);
    check(&mut world);
    world.wait(Duration::ZERO);
    check(&mut world);
}

fn without_blocking(choice: Choice) {
    idle_and_busy(choice, |world| {
        let begin = Instant::now();
        for _ in 0..100 {
            world.wait(Duration::ZERO);
        }
        assert!(begin.elapsed() < Duration::from_secs(1));
        assert!(world.said.is_empty());
    });
}

fn shorter_than_a_millisecond(choice: Choice) {
    idle_and_busy(choice, |world| {
        let timeout = Duration::from_micros(150);
        let shortest = (0..50)
            .map(|_| {
                let begin = Instant::now();
                world.wait(timeout);
                begin.elapsed()
            })
            .inspect(|&took| assert!(took >= timeout, "{took:?}"))
            .min();
        assert!(shortest < Some(Duration::from_millis(1)), "{shortest:?}");
        for milliseconds in [1, 20] {
            let timeout = Duration::from_millis(milliseconds);
            let begin = Instant::now();
            world.wait(timeout);
            assert!(begin.elapsed() >= timeout);
        }
        // The longest there is is no error and does not end at once.
        world.waker.wake();
        world.driver.wait(Some(Duration::MAX), &mut Vec::new()).unwrap();
        let waker = world.waker.clone();
        let begin = Instant::now();
        let sleeper = thread::spawn(move || {
            thread::sleep(QUIET);
            waker.wake();
        });
        world.driver.wait(Some(Duration::MAX), &mut Vec::new()).unwrap();
        assert!(begin.elapsed() >= QUIET);
        sleeper.join().unwrap();
    });
}

/// The number of times that this thread has gone to sleep of itself.
fn sleeps() -> libc::c_long {
    // SAFETY: all zero is a value of the structure, which the call fills.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        assert_eq!(libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage), 0);
        usage.ru_nvcsw
    }
}

fn spinning_blocks_for_nothing(choice: Choice) {
    idle_and_busy(choice, |world| {
        // The first one makes what is made once.
        world.driver.spin(Duration::ZERO, &mut Vec::new()).unwrap();
        let before = sleeps();
        let begin = Instant::now();
        world.driver.spin(QUIET, &mut Vec::new()).unwrap();
        assert!(begin.elapsed() >= QUIET);
        assert_eq!(sleeps(), before);
    });
}

fn spinning_ends_with_what_comes(choice: Choice) {
    idle_and_busy(choice, |world| {
        // A wake before it, one meanwhile, and none is left for the next.
        for delay in [Duration::ZERO, Duration::from_millis(5)] {
            let waker = world.waker.clone();
            let wake = move || {
                thread::sleep(delay);
                waker.wake();
            };
            if delay.is_zero() {
                wake()
            } else {
                drop(thread::spawn(wake))
            }
            let begin = Instant::now();
            world.driver.spin(LIMIT, &mut Vec::new()).unwrap();
            assert!(begin.elapsed() < LIMIT);
            let begin = Instant::now();
            world.wait(QUIET);
            assert!(begin.elapsed() >= QUIET);
        }
    });
    let mut world = World::new(choice);
    let (here, mut there) = pair();
    world.receive(&here, 2);
    let sender = thread::spawn(move || {
        thread::sleep(Duration::from_millis(5));
        there.write_all(b"ball").unwrap();
    });
    let mut said = Vec::new();
    let begin = Instant::now();
    world.driver.spin(LIMIT, &mut said).unwrap();
    assert!(begin.elapsed() < LIMIT);
    assert!(said.iter().all(|completion| completion.key.0 == 2) && !said.is_empty());
    sender.join().unwrap();
}

fn a_wake_before_it_ends_it(choice: Choice) {
    idle_and_busy(choice, |world| {
        for timeout in [None, Some(LIMIT)] {
            // However many wakes, they end one wait.
            world.waker.wake();
            world.waker.wake();
            world.driver.wait(timeout, &mut Vec::new()).unwrap();
            let begin = Instant::now();
            world.wait(QUIET);
            assert!(begin.elapsed() >= QUIET);
        }
        // Also one that does not block has seen it.
        world.waker.wake();
        world.wait(Duration::ZERO);
        let begin = Instant::now();
        world.wait(QUIET);
        assert!(begin.elapsed() >= QUIET);
    });
}

fn a_wake_from_another_thread_ends_it(choice: Choice) {
    idle_and_busy(choice, |world| {
        for _ in 0..5 {
            let waker = world.waker.clone();
            let sleeper = thread::spawn(move || {
                thread::sleep(Duration::from_millis(5));
                waker.wake();
            });
            world.driver.wait(None, &mut Vec::new()).unwrap();
            sleeper.join().unwrap();
            // What the wake left in the eventfd ends no later wait.
            let begin = Instant::now();
            while begin.elapsed() < QUIET {
                world.wait(QUIET);
            }
        }
        assert!(world.said.is_empty());
    });
}

/// Threads push while the loop sleeps, is about to sleep, and has just slept.
fn no_wake_is_lost(choice: Choice) {
    const EACH: u64 = 10_000;
    idle_and_busy(choice, |world| {
        let inbox = Arc::new(Inbox::new(world.waker.clone()));
        let pushers: Vec<_> = (0..3)
            .map(|thread| {
                let inbox = inbox.clone();
                thread::spawn(move || {
                    for number in 0..EACH {
                        inbox.push((thread, number)).unwrap();
                        if number % 64 == 0 {
                            thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        let mut next = [0; 3];
        let mut items = Vec::new();
        while next != [EACH; 3] {
            inbox.drain_into(&mut items);
            if items.is_empty() {
                let begin = Instant::now();
                world.driver.wait(Some(LIMIT), &mut Vec::new()).unwrap();
                assert!(begin.elapsed() < LIMIT, "nobody woke it: {next:?}");
            }
            for (thread, number) in items.drain(..) {
                assert_eq!(next[thread], number);
                next[thread] += 1;
            }
        }
        pushers.into_iter().for_each(|pusher| pusher.join().unwrap());
        world.wait(Duration::ZERO);
    });
}

extern "C" fn do_nothing(_: libc::c_int) {}

fn a_signal_ends_it(choice: Choice) {
    // SAFETY: the handler does nothing, and the structure is what the call takes.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = do_nothing as *const () as usize;
        libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut());
    }
    // Signals until the wait is over, for it may not have begun at the first.
    let wait = |prepare: fn(&mut World)| {
        let done = Arc::new(AtomicBool::new(false));
        let waiter = thread::spawn({
            let done = done.clone();
            move || {
                let mut world = World::new(choice);
                let (here, _there) = pair();
                world.watch(&here, Interest::Readable, 1);
                prepare(&mut world);
                let begin = Instant::now();
                world.wait(LIMIT);
                done.store(true, Ordering::Relaxed);
                assert!(begin.elapsed() < LIMIT);
            }
        });
        while !done.load(Ordering::Relaxed) && !waiter.is_finished() {
            // SAFETY: the thread has not been joined.
            unsafe { libc::pthread_kill(waiter.as_pthread_t(), libc::SIGUSR1) };
            thread::sleep(Duration::from_millis(1));
        }
        waiter.join().unwrap();
    };
    // With something to submit along with the wait, and without.
    wait(|_| {});
    wait(|world| assert_eq!(world.wait(Duration::ZERO), 0));
}

/// Whether it is there before the wait begins or comes during it, and again each time.
fn a_signal_in_the_pipe_ends_it(choice: Choice) {
    fn write(world: &World, bytes: &[u8]) {
        let writer = world.waker.signals().writer().unwrap();
        // SAFETY: the pipe stays open for longer than this call.
        let writer = unsafe { BorrowedFd::borrow_raw(writer) };
        assert_eq!(rustix::io::write(writer, bytes), Ok(bytes.len()));
    }
    fn drained(world: &World) -> Vec<u8> {
        let mut all = Vec::new();
        world.waker.signals().drain(|bytes| all.extend_from_slice(bytes));
        all
    }
    const LONG: Duration = Duration::from_secs(10);
    idle_and_busy(choice, |world| {
        assert!(drained(world).is_empty());
        let begin = Instant::now();
        for round in 0..3 {
            write(world, &[round, 1]);
            world.wait(LONG);
            // Somebody may be interrupted, and wait again before it looks.
            write(world, &[2]);
            world.wait(Duration::ZERO);
            assert_eq!(drained(world), [round, 1, 2]);
            assert!(drained(world).is_empty());
            let world = &mut *world;
            thread::scope(|scope| {
                let waker = world.waker.clone();
                scope.spawn(move || {
                    thread::sleep(QUIET);
                    // SAFETY: as above.
                    let writer = unsafe { BorrowedFd::borrow_raw(waker.signals().writer().unwrap()) };
                    rustix::io::write(writer, b"later").unwrap();
                });
                world.driver.wait(Some(LONG), &mut Vec::new()).unwrap();
            });
            // The edge of what was written in between may come late.
            let mut all = drained(world);
            while all.len() < 5 && begin.elapsed() < LONG {
                world.wait(LONG);
                all.extend(drained(world));
            }
            assert_eq!(all, b"later");
        }
        assert!(begin.elapsed() < LONG, "{:?}", begin.elapsed());
    });
}

fn an_idle_driver_costs_nothing(choice: Choice) {
    in_fork(|| {
        let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
        drop(Driver::<Bytes>::new(choice, Arc::new(Waker::new())).unwrap()); // the probe, once
        let before = descriptors();
        let worlds: Vec<_> = (0..10).map(|_| World::new(choice)).collect();
        assert_eq!(descriptors(), before);
        let mut world = World::new(choice);
        world.wait(Duration::ZERO);
        world.waker.wake();
        world.wait(Duration::ZERO);
        assert_eq!(descriptors(), before);
        // Blocking takes the eventfd, and that is all.
        world.wait(Duration::from_millis(1));
        assert_eq!(descriptors(), before + 1);
        // A watch takes an epoll instance, with either backend; another operation takes the backend.
        let (here, _there) = pair();
        world.watch(&here, Interest::Writable, 1);
        world.wait(Duration::from_millis(1));
        assert_eq!(descriptors(), before + 4);
        world.receive(&here, 2);
        world.wait(Duration::from_millis(1));
        let backend = usize::from(choice == Choice::Uring);
        assert_eq!(descriptors(), before + 4 + backend);
        drop((world, here, _there, worlds));
        assert_eq!(descriptors(), before);
    });
}

/// A send that nobody awaits is submitted by the call that waits for the answer to it. A wait blocks in one system
/// call, so the number of waits is that of calls.
fn one_entry_for_a_send_and_the_wait(choice: Choice) {
    const ROUNDS: usize = 500;
    let mut world = World::new(choice);
    let (here, mut there) = pair();
    world.receive(&here, 1);
    let echo = thread::spawn(move || {
        let mut ball = [0; 4];
        for _ in 0..ROUNDS {
            there.read_exact(&mut ball).unwrap();
            there.write_all(&ball).unwrap();
        }
    });
    let mut waits = 0;
    for _ in 0..ROUNDS {
        world.start_send(&here, 0, Bytes::unawaited(b"ball"));
        world.said.clear();
        'round: loop {
            waits += 1;
            world.wait(LIMIT);
            for completion in world.said.drain(..).collect::<Vec<_>>() {
                if completion.key.0 == 1 {
                    let Said::Bytes(bytes) = World::received(completion.event, here.as_raw_fd()) else {
                        panic!("only bytes")
                    };
                    assert_eq!(bytes, b"ball");
                    break 'round;
                }
            }
        }
    }
    echo.join().unwrap();
    assert!(waits < ROUNDS + ROUNDS / 10, "{waits} waits for {ROUNDS} rounds");
}
