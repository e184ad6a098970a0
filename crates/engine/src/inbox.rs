//! What other threads want run, and how they wake a loop that sleeps.

use std::sync::{Arc, Mutex};

/// Wakes a driver that blocks in its wait; shared between threads.
#[derive(Debug, Default)]
pub struct Waker {}

/// Work handed over by other threads.
#[derive(Debug)]
pub struct Inbox<T> {
    _waker: Arc<Waker>,
    _work: Mutex<Vec<T>>,
}
