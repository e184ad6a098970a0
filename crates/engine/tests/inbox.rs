//! The inbox and the waker, without a driver. (With one: `driver/waiting.rs`.)

use std::sync::Arc;
use std::thread;

use whilst_engine::inbox::{Inbox, Waker};

fn inbox() -> Inbox<u32> {
    Inbox::new(Arc::new(Waker::new()))
}

#[test]
fn keeps_the_order() {
    let inbox = inbox();
    assert!(inbox.is_empty());
    let mut into = Vec::new();
    inbox.drain_into(&mut into);
    assert_eq!(into, []);
    for number in 0..5 {
        inbox.push(number).unwrap();
    }
    assert!(!inbox.is_empty());
    let mut seen = Vec::new();
    inbox.for_each(|&number| seen.push(number));
    assert_eq!(seen, [0, 1, 2, 3, 4]);
    inbox.drain_into(&mut into);
    assert!(inbox.is_empty());
    inbox.push(5).unwrap();
    inbox.drain_into(&mut into);
    assert_eq!(into, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn refuses_after_it_was_closed() {
    let inbox = inbox();
    inbox.push(1).unwrap();
    assert_eq!(inbox.close(), [1]);
    assert_eq!(inbox.push(2), Err(2));
    assert!(inbox.is_empty());
    assert_eq!(inbox.close(), []);
}

#[test]
fn either_takes_an_item_or_gives_it_back() {
    for _ in 0..200 {
        let inbox = Arc::new(inbox());
        let pusher = thread::spawn({
            let inbox = inbox.clone();
            move || (0..100).filter(|&number| inbox.push(number).is_ok()).count()
        });
        let mut items = Vec::new();
        inbox.drain_into(&mut items);
        let last = inbox.close();
        assert_eq!(pusher.join().unwrap(), items.len() + last.len());
    }
}

#[test]
fn a_wake_forbids_the_next_sleep() {
    let waker = Waker::new();
    assert!(waker.announce_sleep());
    assert!(!waker.consume());
    waker.wake();
    waker.wake();
    assert!(!waker.announce_sleep());
    assert!(waker.announce_sleep());
    waker.wake();
    assert!(waker.consume());
    assert!(!waker.consume());
}

/// Only a sleeper is written to, and once.
#[test]
fn a_burst_is_one_write() {
    let waker = Waker::new();
    let count = || {
        let mut counter = [0; 8];
        rustix::io::read(waker.descriptor().unwrap(), &mut counter).map_or(0, |_| u64::from_ne_bytes(counter))
    };
    waker.wake();
    assert_eq!(count(), 0);
    waker.consume();
    assert!(waker.announce_sleep());
    for _ in 0..100 {
        waker.wake();
    }
    assert_eq!(count(), 1);
}
