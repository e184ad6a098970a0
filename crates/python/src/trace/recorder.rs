//! What is known while a trace is recorded.

use std::collections::VecDeque;

use pyo3::prelude::*;

use super::numbers::NumberMap;
use super::places::{Code, Places};
use super::ring::{Event, Kind, NONE, Ring};

/// Polls shorter than this, and gaps between polls, are not told apart: nanoseconds.
const SHORT: u64 = 50_000;

/// For so long what goes through a transport is summed up: nanoseconds.
const BUCKET: u64 = 10_000_000;

/// So many transports that have ended are kept.
const MOST_TRANSPORTS: usize = 50_000;

/// A task's name.
pub(super) enum Name {
    /// `Task-` and this number.
    Number(u64),
    Text(Box<str>),
}

impl Name {
    /// It was not asked for yet. (asyncio counts from 1.)
    pub(super) const UNKNOWN: Self = Self::Number(0);

    pub(super) fn is_known(&self) -> bool {
        !matches!(self, Self::Number(0))
    }

    pub(super) fn of(name: &str) -> Self {
        let number =
            name.strip_prefix("Task-").filter(|digits| !digits.starts_with('0') && digits.len() < 19);
        match number.and_then(|digits| digits.parse().ok()) {
            Some(number) => Self::Number(number),
            None => Self::Text(name.into()),
        }
    }
}

/// How a task has ended, if it has.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Pending = 0,
    Returned = 1,
    Raised = 2,
    Cancelled = 3,
}

/// A task, by numbers alone: a trace keeps no task alive.
pub(super) struct Task {
    pub(super) id: u32,
    pub(super) lane: u16,
    pub(super) outcome: Outcome,
    /// Asked for when it ends or first waits.
    pub(super) name: Name,
    pub(super) coroutine: u32,
    pub(super) place: u32,
    pub(super) made_at: u32,
    pub(super) parent: u32,
    pub(super) begin: u64,
    pub(super) end: u64,
    pub(super) error: u32,
}

/// A task that has ended, on a line of the cache.
#[repr(align(64))]
pub(super) struct Ended(Task);

// One is written for each task.
const _: () = assert!(size_of::<Ended>() == 64);

/// What is known of a task when it is first seen.
pub(super) struct NewTask {
    pub(super) address: usize,
    pub(super) coroutine: u32,
    pub(super) place: u32,
    pub(super) made_at: u32,
    pub(super) parent: u32,
    pub(super) begin: u64,
}

/// A transport, by numbers alone.
pub(super) struct Transport {
    pub(super) id: u32,
    pub(super) kind: &'static str,
    pub(super) peer: String,
    pub(super) begin: u64,
    pub(super) end: Option<u64>,
    pub(super) received: u64,
    pub(super) sent: u64,
    bucket: (u64, u32, u32),
}

/// A loop.
pub(super) struct Lane {
    pub(super) driver: &'static str,
    pub(super) begin: u64,
    pub(super) end: u64,
    /// When the last thing ended that was seen: the next begins then.
    pub(super) last: u64,
    /// The task that runs, or whose callback does, and since when.
    pub(super) running: Option<(u32, u64)>,
    /// The block of polls that goes on, if the last thing was one.
    poll: Option<(u64, u64)>,
    pub(super) polls: u64,
    pub(super) polled: u64,
    pub(super) busy: u64,
}

pub(super) struct Recorder {
    /// No other recorder's of this process.
    pub(super) generation: u32,
    pub(super) begin: u64,
    /// From how many nanoseconds on callbacks are recorded.
    pub(super) threshold: u64,
    pub(super) places: Places,
    pub(super) ring: Ring<Event>,
    pub(super) lanes: Vec<Lane>,
    /// The tasks that have not ended, by address.
    live: NumberMap<usize, Task>,
    pub(super) ended: Ring<Ended>,
    next_task: u32,
    /// The task in whose step the trace was started, until that ends; and in which lane.
    started_in: Option<(u16, Py<PyAny>, u32)>,
    transports: NumberMap<usize, Transport>,
    ended_transports: VecDeque<Transport>,
    next_transport: u32,
    /// Code that was described twice, until it can be dropped.
    pub(super) spare: Vec<Code>,
}

impl Recorder {
    pub(super) fn new(generation: u32, begin: u64, threshold: u64, capacity: usize, places: Places) -> Self {
        Self {
            generation,
            begin,
            threshold,
            places,
            ring: Ring::new(capacity),
            lanes: Vec::new(),
            live: NumberMap::default(),
            ended: Ring::new(capacity),
            next_task: 0,
            started_in: None,
            transports: NumberMap::default(),
            ended_transports: VecDeque::new(),
            next_transport: 0,
            spare: Vec::new(),
        }
    }

    pub(super) fn add_lane(&mut self, driver: &'static str, now: u64) -> u16 {
        if self.lanes.len() == usize::from(u16::MAX) {
            return u16::MAX - 1;
        }
        self.lanes.push(Lane {
            driver,
            begin: now,
            end: now,
            last: now,
            running: None,
            poll: None,
            polls: 0,
            polled: 0,
            busy: 0,
        });
        self.lanes.len() as u16 - 1
    }

    #[inline]
    pub(super) fn lane(&mut self, lane: u16) -> &mut Lane {
        &mut self.lanes[usize::from(lane)]
    }

    #[inline]
    pub(super) fn known_task(&self, address: usize) -> Option<u32> {
        self.live.get(&address).map(|task| task.id)
    }

    /// The number of the next task.
    pub(super) fn reserve(&mut self) -> u32 {
        let id = self.next_task;
        self.next_task = self.next_task.wrapping_add(1);
        id
    }

    /// Notes in which task's step the trace was started. What stood there before comes back, to be dropped elsewhere.
    #[must_use]
    pub(super) fn open(&mut self, lane: u16, task: Py<PyAny>, id: u32) -> Option<Py<PyAny>> {
        let begin = self.lane(lane).last;
        self.lane(lane).running = Some((id, begin));
        self.started_in.replace((lane, task, id)).map(|(_, task, _)| task)
    }

    #[inline]
    pub(super) fn has_open(&self, lane: u16) -> bool {
        self.started_in.as_ref().is_some_and(|(its, ..)| *its == lane)
    }

    /// The task in whose step the trace was started, if it was this loop's; its number and since when it runs.
    pub(super) fn take_open(&mut self, lane: u16) -> Option<(Py<PyAny>, u32, u64)> {
        let (_, task, id) = self.started_in.take_if(|(its, ..)| *its == lane)?;
        let (_, begin) = self.lane(lane).running.take()?;
        Some((task, id, begin))
    }

    /// Notes a task. One that had the same address was destroyed without having ended.
    pub(super) fn add_task(&mut self, id: u32, lane: u16, new: NewTask) {
        let NewTask { address, coroutine, place, made_at, parent, begin } = new;
        let task = Task {
            id,
            lane,
            outcome: Outcome::Pending,
            name: Name::UNKNOWN,
            coroutine,
            place,
            made_at,
            parent,
            begin,
            end: 0,
            error: NONE,
        };
        if let Some(before) = self.live.insert(address, task) {
            self.ended.push(Ended(before));
        }
    }

    #[inline]
    pub(super) fn is_nameless(&self, address: usize) -> bool {
        self.live.get(&address).is_some_and(|task| !task.name.is_known())
    }

    #[inline]
    pub(super) fn name_task(&mut self, address: usize, name: Name) {
        if let Some(task) = self.live.get_mut(&address) {
            task.name = name;
        }
    }

    pub(super) fn end_task(
        &mut self,
        address: usize,
        end: u64,
        outcome: Outcome,
        error: Option<&str>,
        name: Name,
    ) {
        let Some(mut task) = self.live.remove(&address) else { return };
        task.end = end;
        task.outcome = outcome;
        task.name = name;
        task.error = error.map_or(NONE, |error| self.places.strings.number(error));
        self.ended.push(Ended(task));
    }

    /// All tasks, in the order in which they were made.
    pub(super) fn tasks(&self) -> Vec<&Task> {
        let mut tasks: Vec<_> = self.ended.iter().map(|Ended(task)| task).chain(self.live.values()).collect();
        tasks.sort_unstable_by_key(|task| task.id);
        tasks
    }

    /// Notes a step that has ended.
    #[inline]
    pub(super) fn step(
        &mut self,
        lane: u16,
        task: u32,
        begin: u64,
        end: u64,
        wait: Option<(Kind, u32, u32)>,
    ) {
        let (kind, on, stack) = match wait {
            Some((kind, on, stack)) => (Some(kind), on, stack),
            None => (None, NONE, NONE),
        };
        self.ring.push(Event::Step { begin, end, task, kind, on, stack });
        self.worked(lane, begin, end);
    }

    /// Notes that the loop has done something.
    #[inline]
    pub(super) fn worked(&mut self, lane: u16, begin: u64, end: u64) {
        let lane = self.lane(lane);
        lane.busy += end.saturating_sub(begin);
        lane.last = end;
    }

    /// Notes that the loop has waited, or looked.
    pub(super) fn polled(&mut self, lane: u16, begin: u64, end: u64) {
        let place = self.lane(lane);
        place.polls += 1;
        place.polled += end.saturating_sub(begin);
        place.last = end;
        match &mut place.poll {
            Some((_, until)) if begin.saturating_sub(*until) < SHORT => *until = end,
            poll => {
                if let Some((begin, end)) = poll.replace((begin, end))
                    && end - begin >= SHORT
                {
                    self.ring.push(Event::Poll { begin, end, lane });
                }
            }
        }
    }

    #[inline]
    pub(super) fn knows_transport(&self, address: usize) -> bool {
        self.transports.contains_key(&address)
    }

    pub(super) fn add_transport(&mut self, address: usize, kind: &'static str, peer: String, begin: u64) {
        let id = self.next_transport;
        self.next_transport += 1;
        self.transports.insert(
            address,
            Transport { id, kind, peer, begin, end: None, received: 0, sent: 0, bucket: (begin, 0, 0) },
        );
    }

    /// Notes bytes; false if the transport is not known.
    #[inline]
    pub(super) fn moved(&mut self, address: usize, at: u64, received: usize, sent: usize) -> bool {
        let Some(transport) = self.transports.get_mut(&address) else { return false };
        transport.received += received as u64;
        transport.sent += sent as u64;
        let (begin, in_, out) = &mut transport.bucket;
        if at.saturating_sub(*begin) >= BUCKET {
            if *in_ != 0 || *out != 0 {
                let event = Event::Bytes { at: *begin, transport: transport.id, received: *in_, sent: *out };
                self.ring.push(event);
            }
            (*begin, *in_, *out) = (at, 0, 0);
        }
        *in_ = in_.saturating_add(received as u32);
        *out = out.saturating_add(sent as u32);
        true
    }

    pub(super) fn end_transport(&mut self, address: usize, end: u64) {
        let Some(mut transport) = self.transports.remove(&address) else { return };
        self.flush_transport(&transport);
        transport.end = Some(end);
        if self.ended_transports.len() == MOST_TRANSPORTS {
            self.ended_transports.pop_front();
        }
        self.ended_transports.push_back(transport);
    }

    fn flush_transport(&mut self, transport: &Transport) {
        let (at, received, sent) = transport.bucket;
        if received != 0 || sent != 0 {
            self.ring.push(Event::Bytes { at, transport: transport.id, received, sent });
        }
    }

    /// All transports, in the order in which they were seen.
    pub(super) fn transports(&self) -> Vec<&Transport> {
        let mut transports: Vec<_> = self.ended_transports.iter().chain(self.transports.values()).collect();
        transports.sort_unstable_by_key(|transport| transport.id);
        transports
    }

    /// Notes what goes on: nothing more comes.
    pub(super) fn end(&mut self, now: u64) {
        for index in 0..self.lanes.len() as u16 {
            let lane = self.lane(index);
            if let Some((task, begin)) = lane.running.take() {
                self.step(index, task, begin, now, None);
            }
            if let Some((begin, end)) = self.lane(index).poll.take()
                && end - begin >= SHORT
            {
                self.ring.push(Event::Poll { begin, end, lane: index });
            }
        }
        let open: Vec<_> = self.transports.keys().copied().collect();
        for address in open {
            if let Some(mut transport) = self.transports.remove(&address) {
                self.flush_transport(&transport);
                transport.bucket = (now, 0, 0);
                self.transports.insert(address, transport);
            }
        }
    }
}
