//! The ready queue: what is to run, first in, first out.
//!
//! An iteration runs what was ready when it began, as CPython's `BaseEventLoop._run_once` does: it takes the
//! length first ([`ReadyQueue::begin`]) and then pops that many. What these push meanwhile belongs to the
//! next iteration, so that a callback which schedules itself for ever cannot keep the loop from its
//! descriptors and timers.

#![forbid(unsafe_code)]

use std::collections::{VecDeque, vec_deque};

/// What is to run, first in, first out.
///
/// ```
/// # use whilst_engine::ready::ReadyQueue;
/// let mut ready = ReadyQueue::new();
/// ready.push(1);
/// let mut ran = Vec::new();
/// for _ in 0..ready.begin() {
///     let Some(number) = ready.pop() else { break };
///     ran.push(number);
///     ready.push(number + 1); // for the next iteration
/// }
/// assert_eq!((ran, ready.len()), (vec![1], 1));
/// ```
#[derive(Clone, Debug)]
pub struct ReadyQueue<T> {
    queue: VecDeque<T>,
}

impl<T> ReadyQueue<T> {
    /// An empty queue; allocates nothing yet.
    pub const fn new() -> Self {
        Self { queue: VecDeque::new() }
    }

    /// Adds to the end.
    #[inline]
    pub fn push(&mut self, value: T) {
        self.queue.push_back(value);
    }

    /// Takes from the front.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        self.queue.pop_front()
    }

    /// How many of what is queued an iteration that begins now may pop.
    #[inline]
    pub fn begin(&mut self) -> usize {
        // A burst (200 000 callbacks at once) should not keep its memory for the rest of the loop's life.
        if self.queue.is_empty() && self.queue.capacity() > Self::KEPT_CAPACITY {
            self.queue.shrink_to(Self::KEPT_CAPACITY);
        }
        self.queue.len()
    }

    /// An empty queue keeps room for this many: as many as another thread sends while it has the GIL, or some.
    const KEPT_CAPACITY: usize = 32768;

    /// How many are queued.
    #[inline]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    /// Whether none are queued.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// What is queued, in order.
    pub fn iter(&self) -> vec_deque::Iter<'_, T> {
        self.queue.iter()
    }

    /// Takes everything out, in order.
    pub fn drain(&mut self) -> vec_deque::Drain<'_, T> {
        self.queue.drain(..)
    }

    /// Drops everything that is queued.
    pub fn clear(&mut self) {
        self.queue.clear();
    }
}

impl<T> Default for ReadyQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Extend<T> for ReadyQueue<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, values: I) {
        self.queue.extend(values);
    }
}

impl<'a, T> IntoIterator for &'a ReadyQueue<T> {
    type Item = &'a T;
    type IntoIter = vec_deque::Iter<'a, T>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
