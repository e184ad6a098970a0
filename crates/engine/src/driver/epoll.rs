//! The `epoll` backend: says what is ready, and accepts and sends itself. [`Readiness`] has the facts about epoll.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{OwnedFd, RawFd};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketFlags, accept_with};

use super::operations::Table;
use super::readiness::Readiness;
use super::{Completion, Event, Key, Operation, Pace, Purpose, Received, Waiting, sys};
use crate::inbox::Waker;

/// Operations, and the descriptors that they wait for.
pub(super) struct Epoll {
    readiness: Readiness,
    operations: Table<Waiting>,
    /// Keys of receives that were cancelled since the last wait.
    stopped: Vec<Key>,
    /// Operations that could not be registered when they came over from another backend.
    refused: Vec<(Waiting, io::Error)>,
    /// How many waits there were.
    waits: u32,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            readiness: Readiness::new()?,
            operations: Table::new(),
            stopped: Vec::new(),
            refused: Vec::new(),
            waits: 0,
        })
    }

    /// Takes over another backend's operations, numbers kept. Those that epoll refuses fail at the next wait.
    pub(super) fn adopt(&mut self, operations: Table<Waiting>) {
        self.operations = operations;
        for number in self.operations.numbers() {
            let Some(&waiting) = self.operations.get(number) else { continue };
            if let Err(error) = self.readiness.register(number, waiting.fd, waiting.purpose) {
                self.operations.remove(number);
                self.refused.push((waiting, error));
            }
        }
    }

    /// Whether there is nothing to poll for and nothing to tell.
    #[inline]
    pub(super) fn is_idle(&self) -> bool {
        self.operations.is_empty() && self.stopped.is_empty() && self.refused.is_empty()
    }

    /// Whether whoever has read what the last wait told of to its end would hear nothing from a poll, but for what has come since.
    #[inline]
    pub(super) fn told_all(&self) -> bool {
        self.readiness.told_all() && self.stopped.is_empty() && self.refused.is_empty()
    }

    pub(super) fn start(&mut self, waiting: Waiting) -> io::Result<Operation> {
        let number = self.operations.insert(waiting);
        match self.readiness.register(number, waiting.fd, waiting.purpose) {
            Ok(()) => Ok(number),
            Err(error) => {
                self.operations.remove(number);
                Err(error)
            }
        }
    }

    pub(super) fn cancel(&mut self, number: Operation) {
        let Some(waiting) = self.operations.remove(number) else { return };
        if matches!(waiting.purpose, Purpose::Receive { .. }) {
            self.stopped.push(waiting.key);
        }
        self.readiness.unregister(number, waiting.fd, waiting.purpose.interest());
    }

    /// Empties the books. The instance is the parent's, and the next call that needs one makes another.
    pub(super) fn forget(&mut self) {
        for number in self.operations.numbers() {
            self.operations.remove(number);
        }
        self.readiness.forget();
        self.stopped.clear();
        self.refused.clear();
    }

    pub(super) fn wait<P>(
        &mut self,
        timeout: Option<Duration>,
        waker: &Waker,
        completions: &mut Vec<Completion<P>>,
    ) -> io::Result<()> {
        let begin = completions.len();
        self.deliver_kept(completions);
        let timeout = if completions.len() > begin { Some(Duration::ZERO) } else { timeout };
        if timeout == Some(Duration::ZERO) && self.operations.is_empty() {
            waker.consume();
            return Ok(());
        }
        self.waits = self.waits.wrapping_add(1);
        let Self { readiness, operations, waits, .. } = self;
        readiness.wait(timeout, waker, |number| {
            if let Some(waiting) = operations.get_mut(number) {
                fulfil(waiting, *waits, completions);
                if waiting.purpose.once() {
                    operations.remove(number);
                }
            }
        })
    }

    /// Completions that need no wait.
    fn deliver_kept<P>(&mut self, completions: &mut Vec<Completion<P>>) {
        let stopped = self.stopped.drain(..);
        completions.extend(stopped.map(|key| Completion { key, event: Event::Received(Received::Stopped) }));
        for (waiting, error) in self.refused.drain(..) {
            completions.push(Completion {
                key: waiting.key,
                event: match waiting.purpose {
                    // Whoever reads or writes now finds out.
                    Purpose::Watch(_) | Purpose::WatchOnce(_) => Event::Ready,
                    Purpose::Receive { .. } => Event::Received(Received::Failed(error)),
                    Purpose::Accept { .. } => Event::Accepted(Err(error)),
                },
            });
        }
    }
}

/// Does what an operation is for, now that the wait of this number has found its descriptor ready.
fn fulfil<P>(waiting: &mut Waiting, wait: u32, completions: &mut Vec<Completion<P>>) {
    let key = waiting.key;
    match &mut waiting.purpose {
        Purpose::Watch(_) | Purpose::WatchOnce(_) => {
            completions.push(Completion { key, event: Event::Ready });
        }
        Purpose::Receive { .. } => {
            completions.push(Completion { key, event: Event::Received(Received::Waiting) });
        }
        Purpose::Accept { burst, pace } => {
            // Where connections come one by one, none is behind the first; but a second wait in a row says that they do not.
            let looks_further = !pace.alone || pace.wait.wrapping_add(1) == wait;
            let begin = completions.len();
            let accepted = accept(waiting.fd, if looks_further { *burst } else { 1 });
            completions.extend(accepted.map(|result| Completion { key, event: Event::Accepted(result) }));
            *pace = Pace { wait, alone: completions.len() - begin <= 1 };
        }
    }
}

/// Accepts up to `burst` connections, until there are no more or it fails.
///
/// A failure after the first connection is not passed on: the kernel looks for a free descriptor before it
/// looks for a connection, so the failure may be for none. If there is one it fails at the next wait.
fn accept(fd: RawFd, burst: u32) -> impl Iterator<Item = io::Result<OwnedFd>> {
    let mut left = burst.max(1);
    let mut first = true;
    std::iter::from_fn(move || {
        while left > 0 {
            left -= 1;
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            match sys::borrow(fd).and_then(|fd| Ok(accept_with(fd, flags)?)) {
                Ok(connection) => {
                    first = false;
                    return Some(Ok(connection));
                }
                Err(error) => match Errno::from_io_error(&error) {
                    // A connection that its peer has given up in the queue is none.
                    Some(Errno::CONNABORTED | Errno::INTR) => {}
                    Some(Errno::AGAIN) => left = 0,
                    _ => {
                        left = 0;
                        return first.then_some(Err(error));
                    }
                },
            }
        }
        None
    })
}
