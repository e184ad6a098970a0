//! File operations of the ring: how they are submitted, and what their completions mean.
//!
//! Some facts, as read in Linux's `io_uring/` and seen on 6.18:
//!
//! * What can be answered from memory (a path whose lookup is cached, pages that are in the page cache) is
//!   answered by the very call that submits the operation. The rest waits for the disk in the kernel or, where
//!   the file system cannot do that, in one of the ring's kernel threads (`iou-wrk-…`), of which there are
//!   few: 4 a processor.
//! * Copying out of the page cache is done by whoever submits, before it waits: a large read holds the loop
//!   as long as the copy takes. `IOSQE_ASYNC` gives it to a kernel thread from the start.
//! * A cancelled operation that had not begun ends with ECANCELED, one that was interrupted before it did
//!   anything with EINTR; one that did something, or cannot be interrupted, with its result.
//! * Paths are copied when the operation is submitted; memory is touched until the completion is there.
//!
//! What follows from them:
//!
//! * Reads and writes of [`LARGE`] bytes and more are handed to a kernel thread.
//! * When the ring is left, its operations are cancelled and waited for; what ends so without having done
//!   anything is submitted to the next ring. What does not end, because the ring is another thread's, has failed with
//!   EIO, done or not, and its memory is given up: nothing must use that again while the kernel may.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use io_uring::squeue::{Entry as Submission, Flags};
use io_uring::{opcode, types};

use super::super::files::calls::{OPEN_FLAGS, closed, opened, span};
use super::super::files::{FileEvent, FileOperation};
use super::super::operations::Table;
use super::super::{Completion, Event, Key, Operation};

/// Set in the numbers of file operations, and so in their `user_data`.
pub(super) const FILE: u64 = 1 << 60;

/// From so many bytes on, a kernel thread does the copying.
const LARGE: usize = 512 * 1024;

/// A file operation and what became of it.
struct Registered {
    key: Key,
    operation: FileOperation,
    /// Whether the kernel has it.
    armed: bool,
    cancelled: bool,
}

/// The file operations of a ring, or of one to come.
pub(super) struct Files {
    operations: Table<Registered>,
    /// Operations that may have to be submitted.
    to_arm: Vec<Operation>,
    /// Armed operations that were cancelled.
    to_cancel: Vec<Operation>,
}

impl Files {
    pub(super) const fn new() -> Self {
        Self { operations: Table::new(), to_arm: Vec::new(), to_cancel: Vec::new() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    /// Whether something is to be submitted.
    pub(super) fn has_work(&self) -> bool {
        !self.to_arm.is_empty() || !self.to_cancel.is_empty()
    }

    pub(super) fn start(&mut self, operation: FileOperation, key: Key) -> Operation {
        let number = self.operations.insert(Registered { key, operation, armed: false, cancelled: false });
        self.to_arm.push(number);
        number.with(FILE)
    }

    /// Notes that an operation is to end. One that the kernel does not have ends here.
    pub(super) fn cancel<P>(&mut self, number: Operation, kept: &mut Vec<Completion<P>>) {
        let Some(number) = number.without(FILE) else { return };
        let Some(registered) = self.operations.get_mut(number) else { return };
        if !registered.armed {
            if let Some(registered) = self.operations.remove(number) {
                kept.push(completion(registered.key, registered.operation.cancelled()));
            }
        } else if !std::mem::replace(&mut registered.cancelled, true) {
            self.to_cancel.push(number);
        }
    }

    /// The `user_data` of the operations that are to be cancelled, each once.
    pub(super) fn cancellations(&mut self) -> impl Iterator<Item = Operation> {
        self.to_cancel.drain(..).map(|number| number.with(FILE))
    }

    /// The next submission; from now on the kernel has the operation, whose memory stays where it is until
    /// [`Files::complete`].
    pub(super) fn arm(&mut self) -> Option<Submission> {
        while let Some(number) = self.to_arm.pop() {
            if let Some(registered) = self.operations.get_mut(number)
                && !registered.armed
            {
                registered.armed = true;
                return Some(submission(&mut registered.operation).user_data(number.with(FILE).number()));
            }
        }
        None
    }

    /// Puts what is to be submitted into the order in which it was started.
    pub(super) fn begin_arming(&mut self) {
        self.to_arm.reverse();
    }

    /// Books a completion. `false`: it is of no operation.
    pub(super) fn complete<P>(
        &mut self,
        user_data: u64,
        result: i32,
        completions: &mut Vec<Completion<P>>,
    ) -> bool {
        let Some(number) = Operation::new(user_data & !FILE) else { return false };
        let Some(registered) = self.operations.get_mut(number) else { return false };
        registered.armed = false;
        let undone = match -result {
            libc::ECANCELED => true,
            // A descriptor is gone whatever interrupted its closing.
            libc::EINTR => !matches!(registered.operation, FileOperation::Close { .. }),
            _ => false,
        };
        if undone && !registered.cancelled {
            self.to_arm.push(number);
            return true;
        }
        if let Some(Registered { key, operation, .. }) = self.operations.remove(number) {
            let event =
                if -result == libc::ECANCELED { operation.cancelled() } else { ended(operation, result) };
            completions.push(completion(key, event));
        }
        true
    }

    /// After the ring is gone: what the kernel has not had is to be submitted anew, and what it had is lost. In a
    /// forked child (`inherited`) the kernel touches the parent's memory and not this.
    pub(super) fn disarm_all<P>(&mut self, inherited: bool, kept: &mut Vec<Completion<P>>) {
        self.to_cancel.clear();
        self.to_arm.clear();
        for number in self.operations.numbers() {
            if self.operations.get(number).is_some_and(|registered| !registered.armed) {
                self.to_arm.push(number);
            } else if let Some(Registered { key, operation, .. }) = self.operations.remove(number) {
                let code = if inherited { libc::ECANCELED } else { libc::EIO };
                kept.push(completion(key, operation.kind().failed(io::Error::from_raw_os_error(code))));
                if inherited {
                    drop(operation);
                } else {
                    std::mem::forget(operation);
                }
            }
        }
    }

    /// In a forked child: all operations are the parent's, and have failed here.
    pub(super) fn forget<P>(&mut self, kept: &mut Vec<Completion<P>>) {
        self.to_cancel.clear();
        self.to_arm.clear();
        for number in self.operations.numbers() {
            if let Some(Registered { key, operation, .. }) = self.operations.remove(number) {
                let error = io::Error::from_raw_os_error(libc::ECANCELED);
                kept.push(completion(key, operation.kind().failed(error)));
            }
        }
    }

    /// Takes all operations out, which no ring has.
    pub(super) fn dissolve(&mut self) -> Vec<(FileOperation, Key)> {
        self.to_arm.clear();
        let numbers = self.operations.numbers();
        let taken = numbers.into_iter().filter_map(|number| self.operations.remove(number));
        taken.map(|registered| (registered.operation, registered.key)).collect()
    }
}

fn completion<P>(key: Key, event: FileEvent) -> Completion<P> {
    Completion { key, event: Event::File(event) }
}

/// The submission for an operation, which points to its path or memory.
fn submission(operation: &mut FileOperation) -> Submission {
    // To the ring, the highest number is the file's own position; no file is as long as the one below.
    let place = |offset: Option<u64>| offset.map_or(u64::MAX, |offset| offset.min(u64::MAX - 1));
    let flags = |length: usize| if length >= LARGE { Flags::ASYNC } else { Flags::empty() };
    match operation {
        FileOperation::Open { path, flags, mode } => {
            opcode::OpenAt::new(types::Fd(libc::AT_FDCWD), path.as_ptr())
                .flags(*flags | OPEN_FLAGS)
                .mode(*mode)
                .build()
        }
        FileOperation::Read { file, offset, memory } => {
            let (address, length) = span(&mut **memory);
            opcode::Read::new(types::Fd(file.as_raw_fd()), address, length as u32)
                .offset(place(*offset))
                .build()
                .flags(flags(length))
        }
        FileOperation::Write { file, offset, memory } => {
            let (address, length) = span(&mut **memory);
            opcode::Write::new(types::Fd(file.as_raw_fd()), address, length as u32)
                .offset(place(*offset))
                .build()
                .flags(flags(length))
        }
        FileOperation::Sync { file, data_only } => {
            let flags = if *data_only { types::FsyncFlags::DATASYNC } else { types::FsyncFlags::empty() };
            opcode::Fsync::new(types::Fd(file.as_raw_fd())).flags(flags).build()
        }
        FileOperation::Truncate { file, length } => {
            opcode::Ftruncate::new(types::Fd(file.as_raw_fd()), *length).build()
        }
        FileOperation::Close { descriptor } => opcode::Close::new(types::Fd(descriptor.as_raw_fd())).build(),
    }
}

/// What a result means.
fn ended(operation: FileOperation, result: i32) -> FileEvent {
    let result = if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) };
    match operation {
        FileOperation::Open { flags, .. } => FileEvent::Opened(result.and_then(|number: RawFd| {
            // SAFETY: the kernel has just made this descriptor, for whoever takes the completion.
            opened(unsafe { OwnedFd::from_raw_fd(number) }, flags)
        })),
        FileOperation::Read { memory, .. } | FileOperation::Write { memory, .. } => {
            FileEvent::Transferred { memory: Some(memory), result: result.map(|count| count as usize) }
        }
        FileOperation::Sync { .. } | FileOperation::Truncate { .. } => FileEvent::Done(result.map(drop)),
        FileOperation::Close { descriptor } => {
            // The ring has closed it.
            let _ = descriptor.into_raw_fd();
            FileEvent::Done(result.map(drop).or_else(closed))
        }
    }
}
