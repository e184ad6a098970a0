//! What the ring backend knows of its operations, and what a completion does to it. No system calls.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;

use io_uring::cqueue;

use super::super::buffers::Pool;
use super::super::operations::Table;
use super::super::{Completion, Event, Key, Operation, Payload, Purpose, Received, Waiting, sys};
use super::files::{FILE, Files};

/// The `user_data` of the waker's poll. Operations' numbers leave the upper bits free.
pub(super) const WAKER: u64 = 1 << 63;
/// The `user_data` of cancellations, whose own results do not matter.
pub(super) const CANCELLATION: u64 = 1 << 62;
/// The `user_data` of sends, with the send's place in the queue.
pub(super) const SEND: u64 = 1 << 61;
/// The `user_data` of the poll of the epoll instance that has the watches.
pub(super) const WATCHES: u64 = WAKER | 1;
/// The `user_data` of the poll of the pipe for signals.
pub(super) const SIGNALS: u64 = WAKER | 2;

/// An operation and what became of it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Registered {
    pub(in super::super) waiting: Waiting,
    state: State,
    cancelled: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// To be submitted by the next wait.
    Queued,
    /// The kernel has it, and will say when it no longer has.
    Armed,
    /// A watch, which the ring never has.
    Watched,
}

/// A send, which the next wait submits and finishes.
pub(super) struct Send<P> {
    pub(super) fd: RawFd,
    pub(super) key: Key,
    pub(super) payload: P,
    pub(super) slices: std::ops::Range<usize>,
    /// What is offered to the kernel.
    pub(super) length: usize,
    /// Whether its completion is to end the wait.
    pub(super) awaited: bool,
    /// What the kernel said. It says nothing of a send that took all and that nobody awaits.
    pub(super) result: Option<i32>,
}

/// The operations and sends of a driver, wherever its ring is.
pub(super) struct Books<P> {
    pub(super) operations: Table<Registered>,
    /// Operations that may be in state `Queued`.
    pub(super) to_arm: Vec<Operation>,
    /// Armed operations that were cancelled.
    pub(super) to_cancel: Vec<Operation>,
    pub(super) sends: Vec<Send<P>>,
    pub(super) files: Files,
    /// The sends' slices, one after the other.
    pub(super) slices: Vec<libc::iovec>,
    /// Completions for the next wait to return.
    pub(super) kept: Vec<Completion<P>>,
    /// How many operations the kernel has.
    pub(super) armed: usize,
    /// Whether there was ever a receive, for which a ring needs buffers.
    pub(super) receives: bool,
    /// How many watches there are.
    pub(super) watches: usize,
    /// Whether watched descriptors are ready, to be asked which.
    pub(super) watches_ready: bool,
    /// How many receives have found no buffer since the last wait began.
    pub(super) starved: usize,
    /// Set by completions that end a wait without being in its list yet.
    pub(super) must_return: bool,
}

impl<P> Books<P> {
    pub(super) const fn new() -> Self {
        Self {
            operations: Table::new(),
            to_arm: Vec::new(),
            to_cancel: Vec::new(),
            sends: Vec::new(),
            files: Files::new(),
            slices: Vec::new(),
            kept: Vec::new(),
            armed: 0,
            receives: false,
            watches: 0,
            watches_ready: false,
            starved: 0,
            must_return: false,
        }
    }

    pub(super) fn start(&mut self, waiting: Waiting) -> Operation {
        self.receives |= matches!(waiting.purpose, Purpose::Receive { direct: false });
        let number = self.operations.insert(Registered { waiting, state: State::Queued, cancelled: false });
        self.to_arm.push(number);
        number
    }

    /// Notes a watch.
    pub(super) fn watch(&mut self, waiting: Waiting) -> Operation {
        self.watches += 1;
        self.operations.insert(Registered { waiting, state: State::Watched, cancelled: false })
    }

    /// Notes that a watched descriptor is ready.
    pub(super) fn watched(&mut self, number: Operation, completions: &mut Vec<Completion<P>>) {
        let Some(Waiting { key, purpose, .. }) = self.operations.get(number).map(|it| it.waiting) else {
            return;
        };
        completions.push(Completion { key, event: Event::Ready });
        if purpose.once() {
            self.unwatch(number);
        }
    }

    /// Forgets a watch, and says what it was; `None` if the operation is none.
    pub(super) fn unwatch(&mut self, number: Operation) -> Option<Waiting> {
        let waiting = self.operations.get(number).filter(|it| it.state == State::Watched)?.waiting;
        self.watches -= 1;
        self.operations.remove(number);
        Some(waiting)
    }

    pub(super) fn send(&mut self, fd: RawFd, key: Key, payload: P)
    where
        P: Payload,
    {
        let begin = self.slices.len();
        payload.slices(&mut self.slices);
        let whole = self.slices.len() - begin <= sys::SLICES;
        self.slices.truncate(begin + sys::SLICES);
        let slices = begin..self.slices.len();
        let length: usize = self.slices[slices.clone()].iter().map(|slice| slice.iov_len).sum();
        // What does not go into one send comes out short, for which a wait must return.
        let whole = whole && length <= LONGEST;
        let awaited = !whole || payload.awaited();
        self.sends.push(Send { fd, key, payload, slices, length, awaited, result: None });
    }

    /// Notes that an operation is to end. Those that the kernel does not have end here.
    pub(super) fn cancel(&mut self, number: Operation) {
        if number.number() & FILE != 0 {
            return self.files.cancel(number, &mut self.kept);
        }
        let Some(operation) = self.operations.get_mut(number) else { return };
        if operation.state == State::Armed {
            if !operation.cancelled {
                operation.cancelled = true;
                self.to_cancel.push(number);
            }
        } else {
            let waiting = operation.waiting;
            self.operations.remove(number);
            if let Purpose::Receive { .. } = waiting.purpose {
                self.kept.push(received(waiting.key, Received::Stopped));
            }
        }
    }

    /// The operation, if it is to be submitted; from now on the kernel has it.
    pub(super) fn arm(&mut self, number: Operation) -> Option<Waiting> {
        let operation = self.operations.get_mut(number)?;
        if operation.state != State::Queued {
            return None;
        }
        operation.state = State::Armed;
        self.armed += 1;
        Some(operation.waiting)
    }

    /// After the ring is gone: what the kernel had is to be submitted anew, or has ended. `inherited`: the ring is
    /// a parent process's.
    pub(super) fn disarm_all(&mut self, inherited: bool) {
        self.files.disarm_all(inherited, &mut self.kept);
        self.to_cancel.clear();
        self.to_arm.clear();
        self.armed = 0;
        for number in self.operations.numbers() {
            let Some(operation) = self.operations.get_mut(number) else { continue };
            if operation.state != State::Watched {
                operation.state = State::Queued;
                if operation.cancelled {
                    self.cancel(number);
                } else {
                    self.to_arm.push(number);
                }
            }
        }
    }

    /// Forgets all that is to be done or said, but of files. There is no ring.
    pub(super) fn forget(&mut self) {
        for number in self.operations.numbers() {
            self.operations.remove(number);
        }
        self.to_arm.clear();
        self.to_cancel.clear();
        self.sends.clear();
        self.slices.clear();
        self.kept.retain(|completion| matches!(completion.event, Event::File(_)));
        self.watches = 0;
        self.watches_ready = false;
    }

    /// Books a completion and appends what it means to the caller.
    pub(super) fn complete(
        &mut self,
        entry: &cqueue::Entry,
        pool: Option<&Arc<Pool>>,
        completions: &mut Vec<Completion<P>>,
    ) {
        let user_data = entry.user_data();
        // The kernel gives back what it was given, and that was never 0.
        let Some(number) = Operation::new(user_data) else { return };
        if user_data & FILE != 0 && user_data < SEND {
            self.armed -= usize::from(self.files.complete(user_data, entry.result(), completions));
        } else if let Some(&operation) = self.operations.get(number) {
            self.progress(number, operation, entry, pool, completions);
        } else if user_data & SEND != 0 {
            let place = (user_data & !SEND) as usize;
            if let Some(send) = self.sends.get_mut(place) {
                send.result = Some(entry.result());
            }
            self.must_return = true;
        }
    }

    fn progress(
        &mut self,
        number: Operation,
        operation: Registered,
        entry: &cqueue::Entry,
        pool: Option<&Arc<Pool>>,
        completions: &mut Vec<Completion<P>>,
    ) {
        let goes_on = cqueue::more(entry.flags());
        let Registered { waiting: Waiting { key, purpose, .. }, cancelled, .. } = operation;
        let result = entry.result();
        // What ends an operation without its having failed: it is to be submitted again.
        let passing = match -result {
            libc::ECANCELED | libc::EAGAIN | libc::EINTR => true,
            // A peer that has given up in the queue.
            libc::ECONNABORTED => matches!(purpose, Purpose::Accept { .. }),
            // Of a receive it says that no buffer was left; of an accept, that memory is short.
            libc::ENOBUFS => matches!(purpose, Purpose::Receive { direct: false }),
            _ => false,
        };
        if !goes_on {
            self.armed -= 1;
        }
        let mut ended = false;
        match purpose {
            // The ring has none.
            Purpose::Watch(_) | Purpose::WatchOnce(_) => {}
            Purpose::Accept { .. } if result >= 0 => {
                // SAFETY: the kernel has just made this descriptor, for whoever takes the completion.
                let connection = unsafe { OwnedFd::from_raw_fd(result) };
                completions.push(Completion { key, event: Event::Accepted(Ok(connection)) });
            }
            Purpose::Accept { .. } => {
                if !cancelled && !passing {
                    let error = io::Error::from_raw_os_error(-result);
                    completions.push(Completion { key, event: Event::Accepted(Err(error)) });
                }
            }
            Purpose::Receive { direct: true } => {
                if result >= 0 {
                    completions.push(received(key, Received::Waiting));
                } else if !passing {
                    ended = true;
                    let error = io::Error::from_raw_os_error(-result);
                    completions.push(received(key, Received::Failed(error)));
                }
            }
            Purpose::Receive { direct: false } => {
                let buffer = cqueue::buffer_select(entry.flags()).zip(pool);
                match usize::try_from(result) {
                    Ok(length @ 1..) => {
                        let (id, pool) = buffer.expect("received bytes are in a buffer");
                        // SAFETY: this completion names the buffer and says what was received into it.
                        let chunk = unsafe { pool.take(id, length) };
                        completions.push(received(key, Received::Data(chunk)));
                    }
                    other => {
                        if let Some((id, pool)) = buffer {
                            // SAFETY: this completion names the buffer.
                            unsafe { pool.put_back(id) };
                        }
                        self.starved += usize::from(-result == libc::ENOBUFS);
                        if other.is_ok() {
                            ended = true;
                            completions.push(received(key, Received::End));
                        } else if !passing {
                            ended = true;
                            let error = io::Error::from_raw_os_error(-result);
                            completions.push(received(key, Received::Failed(error)));
                        }
                    }
                }
            }
        }
        if goes_on {
            return;
        }
        if ended {
            self.operations.remove(number);
        } else if cancelled {
            self.operations.remove(number);
            if let Purpose::Receive { .. } = purpose {
                completions.push(received(key, Received::Stopped));
            }
        } else if let Some(operation) = self.operations.get_mut(number) {
            operation.state = State::Queued;
            self.to_arm.push(number);
        }
    }

    /// Ends the sends, all of which the kernel has dealt with.
    pub(super) fn finish_sends(&mut self, completions: &mut Vec<Completion<P>>) {
        self.slices.clear();
        completions.extend(self.sends.drain(..).map(|send| {
            let result = match send.result {
                None => Ok(send.length),
                Some(result) => usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result)),
            };
            Completion { key: send.key, event: Event::Sent { payload: send.payload, result } }
        }));
    }

    /// Ends the sends of which the kernel has said nothing with an error.
    pub(super) fn fail_sends(&mut self) {
        for send in &mut self.sends {
            send.result.get_or_insert(-libc::EIO);
        }
    }

    /// Makes the sends here and now, without a ring.
    pub(super) fn send_directly(&mut self, completions: &mut Vec<Completion<P>>) {
        for send in self.sends.drain(..) {
            // SAFETY: the payload vouches for its slices for as long as it lives.
            let result = unsafe { sys::send(send.fd, &self.slices[send.slices]) };
            completions
                .push(Completion { key: send.key, event: Event::Sent { payload: send.payload, result } });
        }
        self.slices.clear();
    }
}

/// At most so many bytes go into one send, which is more than any socket takes at once.
const LONGEST: usize = 1 << 30;

fn received<P>(key: Key, received: Received) -> Completion<P> {
    Completion { key, event: Event::Received(received) }
}
