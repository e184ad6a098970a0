//! What is to run later.
//!
//! Most timers of a network program are cancelled before they fire (a timeout a request), so cancelling is
//! what has to be cheap. The heap therefore holds only ranks and slot numbers; the values live in slots
//! beside it. Cancelling empties the slot, at once and without touching the heap, where a tombstone stays
//! behind: an entry whose generation is no longer its slot's. Tombstones are dropped when they reach the
//! top, and all together as soon as they are both many and most of the heap (as CPython does with its
//! cancelled `TimerHandle`s), which keeps the cost per timer constant and the memory in proportion to what
//! is live.

#![forbid(unsafe_code)]

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

/// Names a timer of [`Timers`]. Never names another one, also after its timer fired or was cancelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    index: u32,
    generation: u32,
}

/// Values and the times at which they are due, in `f64` seconds of the caller's monotonic clock.
///
/// Deadlines are in the order of [`f64::total_cmp`] (so that a NaN does no harm: it never fires); what is
/// due at the same time comes first in, first out.
#[derive(Debug)]
pub struct Timers<T> {
    heap: BinaryHeap<Reverse<Entry>>,
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    /// Counts insertions, to keep equal deadlines in order.
    sequence: u64,
    live: usize,
}

/// A deadline in the heap.
#[derive(Clone, Copy, Debug)]
struct Entry {
    rank: u64,
    sequence: u64,
    index: u32,
    generation: u32,
}

impl Entry {
    /// What the heap goes by: one number, which compares without a branch. No two entries have the same.
    #[inline]
    fn order(&self) -> u128 {
        u128::from(self.rank) << 64 | u128::from(self.sequence)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    #[inline]
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }

    #[inline]
    fn lt(&self, other: &Self) -> bool {
        self.order() < other.order()
    }

    #[inline]
    fn le(&self, other: &Self) -> bool {
        self.order() <= other.order()
    }
}

impl Ord for Entry {
    #[inline]
    fn cmp(&self, other: &Self) -> Ordering {
        self.order().cmp(&other.order())
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Below this many entries a heap of tombstones is not worth compacting (CPython:
/// `_MIN_SCHEDULED_TIMER_HANDLES`).
const COMPACTED_FROM: usize = 100;

/// Maps a deadline to an integer that has the order of `f64::total_cmp`, which compares faster.
#[inline]
fn rank(deadline: f64) -> u64 {
    // Adding zero makes one zero of the two, which are the same time.
    let bits = (deadline + 0.0).to_bits();
    if bits >> 63 == 0 { bits | 1 << 63 } else { !bits }
}

/// The deadline that has this rank.
#[inline]
fn deadline(rank: u64) -> f64 {
    f64::from_bits(if rank >> 63 == 1 { rank & !(1 << 63) } else { !rank })
}

impl<T> Timers<T> {
    /// No timers; allocates nothing yet.
    pub const fn new() -> Self {
        Self { heap: BinaryHeap::new(), slots: Vec::new(), free: Vec::new(), sequence: 0, live: 0 }
    }

    /// Adds a value that is due at `deadline`.
    ///
    /// # Panics
    ///
    /// With 2³² timers live.
    pub fn insert(&mut self, deadline: f64, value: T) -> TimerKey {
        let (index, generation) = match self.free.pop() {
            Some(index) => {
                let slot = &mut self.slots[index as usize];
                slot.value = Some(value);
                (index, slot.generation)
            }
            None => {
                let index = u32::try_from(self.slots.len()).expect("fewer than 2^32 timers");
                self.slots.push(Slot { generation: 0, value: Some(value) });
                (index, 0)
            }
        };
        self.heap.push(Reverse(Entry { rank: rank(deadline), sequence: self.sequence, index, generation }));
        self.sequence += 1;
        self.live += 1;
        TimerKey { index, generation }
    }

    /// Takes a value out before it is due; `None` if it fired or was cancelled already.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let value = self.take(key.index, key.generation)?;
        self.compact_if_mostly_dead();
        Some(value)
    }

    /// The value of a timer that has neither fired nor been cancelled.
    pub fn get(&self, key: TimerKey) -> Option<&T> {
        let slot = self.slots.get(key.index as usize)?;
        if slot.generation == key.generation { slot.value.as_ref() } else { None }
    }

    /// When the first timer is due.
    pub fn next_deadline(&mut self) -> Option<f64> {
        while let Some(Reverse(entry)) = self.heap.peek() {
            if self.is_live(entry) {
                return Some(deadline(entry.rank));
            }
            self.heap.pop();
        }
        None
    }

    /// Takes out the first value whose deadline is before `limit`, not at it: CPython runs what is due
    /// before the clock's next tick, `end_time = self.time() + self._clock_resolution`, `if handle._when >=
    /// end_time: break`.
    pub fn pop_due(&mut self, limit: f64) -> Option<T> {
        let limit = rank(limit);
        while let Some(Reverse(entry)) = self.heap.peek() {
            if self.is_live(entry) && entry.rank >= limit {
                return None;
            }
            let Reverse(entry) = self.heap.pop()?;
            if let Some(value) = self.take(entry.index, entry.generation) {
                return Some(value);
            }
        }
        None
    }

    /// How many timers have neither fired nor been cancelled.
    #[inline]
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether no timer is waiting.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The values that wait, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }

    /// Takes everything out, in no particular order. All keys become those of finished timers.
    pub fn drain(&mut self) -> Vec<T> {
        self.heap.clear();
        let mut values = Vec::with_capacity(self.live);
        for index in 0..self.slots.len() as u32 {
            let generation = self.slots[index as usize].generation;
            values.extend(self.take(index, generation));
        }
        values
    }

    fn is_live(&self, entry: &Entry) -> bool {
        let slot = &self.slots[entry.index as usize];
        slot.generation == entry.generation && slot.value.is_some()
    }

    /// Empties a slot and makes its key and its heap entry out of date.
    #[inline]
    fn take(&mut self, index: u32, generation: u32) -> Option<T> {
        let slot = self.slots.get_mut(index as usize)?;
        if slot.generation != generation {
            return None;
        }
        let value = slot.value.take()?;
        self.live -= 1;
        // A slot that has used up its generations is left empty for good, so that no key ever names two
        // timers.
        if let Some(next) = generation.checked_add(1) {
            slot.generation = next;
            self.free.push(index);
        }
        Some(value)
    }

    #[inline]
    fn compact_if_mostly_dead(&mut self) {
        if self.heap.len() >= COMPACTED_FROM && self.heap.len() > 2 * self.live {
            self.compact();
        }
    }

    #[cold]
    fn compact(&mut self) {
        let slots = &self.slots;
        self.heap.retain(|Reverse(entry)| {
            let slot = &slots[entry.index as usize];
            slot.generation == entry.generation && slot.value.is_some()
        });
        if self.heap.capacity() > 8 * self.heap.len().max(COMPACTED_FROM) {
            self.heap.shrink_to(2 * self.heap.len().max(COMPACTED_FROM));
        }
    }
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self::new()
    }
}
