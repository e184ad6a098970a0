//! What happens while a trace is recorded, in memory that does not grow without end.

/// What a suspended task waits for. The names are those of `whilst._waits.KINDS`, in the same order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Sleep,
    Socket,
    Lock,
    Queue,
    Executor,
    Task,
    Gather,
    Process,
    Future,
    Ready,
}

impl Kind {
    pub(super) const ALL: [(Self, &'static str); 10] = [
        (Self::Sleep, "sleep"),
        (Self::Socket, "socket"),
        (Self::Lock, "lock"),
        (Self::Queue, "queue"),
        (Self::Executor, "executor"),
        (Self::Task, "task"),
        (Self::Gather, "gather"),
        (Self::Process, "process"),
        (Self::Future, "future"),
        (Self::Ready, "ready"),
    ];

    pub(super) fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(kind, _)| *kind)
    }
}

/// In the place of an index: none.
pub(super) const NONE: u32 = u32::MAX;

/// Something that has happened. Times are nanoseconds of the monotonic clock.
#[derive(Clone, Copy)]
pub(super) enum Event {
    /// A step of a task, and what it has waited for since, if it has not ended.
    Step { begin: u64, end: u64, task: u32, kind: Option<Kind>, on: u32, stack: u32 },
    /// A callback that took long.
    Callback { begin: u64, end: u64, name: u32, place: u32, lane: u16 },
    /// The loop has blocked.
    Poll { begin: u64, end: u64, lane: u16 },
    /// So many bytes have gone through a transport, from this time on for a short while.
    Bytes { at: u64, transport: u32, received: u32, sent: u32 },
}

// So many of them fit in what the manual says.
const _: () = assert!(size_of::<Event>() <= 32);

/// The last so many of what has happened.
pub(super) struct Ring<T> {
    places: Vec<Place<T>>,
    /// Where the oldest is, once the ring is full.
    oldest: usize,
    capacity: usize,
    pub(super) dropped: u64,
}

/// None lies on two of the cache's lines: each is written once, and each line has to come from memory.
#[repr(align(32))]
struct Place<T>(T);

impl<T> Ring<T> {
    pub(super) fn new(capacity: usize) -> Self {
        let mut places = Vec::new();
        // Memory that is reserved is not used before it is written to; to grow it by and by would be to copy it again and again.
        // Where the system refuses so much, it grows.
        let _ = places.try_reserve_exact(capacity);
        Self { places, oldest: 0, capacity: capacity.max(1), dropped: 0 }
    }

    #[inline]
    pub(super) fn push(&mut self, one: T) {
        if self.places.len() < self.capacity {
            self.places.push(Place(one));
            return;
        }
        self.places[self.oldest] = Place(one);
        self.oldest += 1;
        if self.oldest == self.capacity {
            self.oldest = 0;
        }
        self.dropped += 1;
    }

    /// All that is kept, the oldest first.
    pub(super) fn iter(&self) -> impl Iterator<Item = &T> {
        self.places[self.oldest..].iter().chain(&self.places[..self.oldest]).map(|place| &place.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_dropped() {
        let mut ring = Ring::new(3);
        for begin in 0..5 {
            ring.push(Event::Poll { begin, end: begin, lane: 0 });
        }
        let begins: Vec<_> = ring
            .iter()
            .map(|event| match event {
                Event::Poll { begin, .. } => *begin,
                _ => unreachable!(),
            })
            .collect();
        assert_eq!((begins, ring.dropped), (vec![2, 3, 4], 2));
    }

    #[test]
    fn kinds_are_where_their_numbers_say() {
        for (index, (kind, name)) in Kind::ALL.iter().enumerate() {
            assert_eq!((*kind as usize, Kind::named(name) == Some(*kind)), (index, true));
        }
    }
}
