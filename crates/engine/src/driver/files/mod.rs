//! Operations on files: what they are, what they own, and how a thread carries them out.
//!
//! Some facts about files that force the shape of this:
//!
//! * A regular file is always ready as far as `poll` and `epoll` can tell; reading and writing it waits for the
//!   disk all the same. Readiness is no help, so that with `epoll` only a thread can do the waiting ([`pool`]).
//!   `io_uring` takes the operation itself.
//! * Opening can wait, too: for the disk, for a server, and for ever for the other end of a FIFO. With
//!   O_NONBLOCK it does not wait for another end (`fifo(7)`): a reader is there at once, a writer without a
//!   reader gets ENXIO.
//! * O_NONBLOCK means nothing to a regular file, but `io_uring` takes it at its word there, and answers EAGAIN
//!   where it would have to wait for the disk.
//! * A read or write that the kernel has begun on a regular file ends soon, and cannot be ended sooner.
//! * A descriptor that is closed while an operation is under way elsewhere may be another file's by the time
//!   the operation looks: bytes would go into the wrong file.
//!
//! What follows from them:
//!
//! * Everything is opened with O_NONBLOCK, which is taken off again where the file cannot be polled.
//! * An operation owns its memory *and* its descriptor ([`File`]) until its completion arrives.
//! * Every operation has exactly one completion, cancelled or not.

pub(super) mod calls;
pub(super) mod pool;

use std::any::Any;
use std::ffi::CString;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::sync::Arc;

/// Memory that a read or a write of a file owns until its completion arrives, in whichever thread.
///
/// # Safety
///
/// What [`Memory::span`] names must stay valid, also when `self` is moved, for as long as `self` lives: for a
/// read it must be writable and nobody else's meanwhile, for a write it must not change.
pub unsafe trait Memory: Any + Send {
    /// The address and the length in bytes.
    fn span(&mut self) -> (NonNull<u8>, usize);
}

/// An open file as operations hold it: the descriptor stays open until the last of them, and of its clones, has
/// let go.
#[derive(Clone, Debug)]
pub struct File(Arc<Descriptor>);

#[derive(Debug)]
struct Descriptor {
    number: RawFd,
    owned: bool,
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: it came from an `OwnedFd` and nobody has taken it out again.
            drop(unsafe { OwnedFd::from_raw_fd(self.number) });
        }
    }
}

impl File {
    /// A file that is closed when nobody holds it any more.
    pub fn owned(descriptor: OwnedFd) -> Self {
        Self(Arc::new(Descriptor { number: descriptor.into_raw_fd(), owned: true }))
    }

    /// A file that is somebody else's, who keeps it open for as long as operations are under way.
    pub fn borrowed(number: RawFd) -> Self {
        Self(Arc::new(Descriptor { number, owned: false }))
    }

    /// The descriptor, for closing it: `None` if it is somebody else's, or if an operation still holds it, whose
    /// end then closes it.
    pub fn into_descriptor(self) -> Option<OwnedFd> {
        let mut descriptor = Arc::into_inner(self.0)?;
        // SAFETY: as in `drop`, which from here on does nothing.
        std::mem::take(&mut descriptor.owned).then(|| unsafe { OwnedFd::from_raw_fd(descriptor.number) })
    }
}

impl AsRawFd for File {
    fn as_raw_fd(&self) -> RawFd {
        self.0.number
    }
}

/// What can be done to a file.
pub enum FileOperation {
    /// Opens `path` by openat(2) with `flags`, O_CLOEXEC and O_NONBLOCK, so that it never waits for the other end
    /// of a FIFO: see [`Opened`].
    Open {
        /// Relative to the current directory.
        path: CString,
        /// O_RDONLY, O_CREAT and so on.
        flags: i32,
        /// The permissions of a file that is made.
        mode: u32,
    },
    /// Reads once.
    Read {
        /// From where.
        file: File,
        /// From which byte on; `None`: from the file's position, which moves on.
        offset: Option<u64>,
        /// To where, at most as many bytes as it is long.
        memory: Box<dyn Memory>,
    },
    /// Writes once.
    Write {
        /// To where.
        file: File,
        /// To which byte on; `None`: to the file's position, which moves on (O_APPEND: to the end).
        offset: Option<u64>,
        /// What.
        memory: Box<dyn Memory>,
    },
    /// Has the file put on the disk: fsync(2) or, with `data_only`, fdatasync(2).
    Sync {
        /// Which.
        file: File,
        /// Leaves out what is not needed to read the data again.
        data_only: bool,
    },
    /// Cuts or extends the file to so many bytes: ftruncate(2).
    Truncate {
        /// Which.
        file: File,
        /// How long it is to be.
        length: u64,
    },
    /// Closes a descriptor: see [`File::into_descriptor`].
    Close {
        /// Which.
        descriptor: OwnedFd,
    },
}

/// What became of a file operation.
pub enum FileEvent {
    /// Of [`FileOperation::Open`].
    Opened(io::Result<Opened>),
    /// Of [`FileOperation::Read`] and [`FileOperation::Write`]: how many bytes; at the end of the file a read has
    /// 0. It may be fewer than asked for.
    Transferred {
        /// The operation's memory; `None` where the kernel may still touch it, which has then been given up.
        memory: Option<Box<dyn Memory>>,
        /// How many bytes.
        result: io::Result<usize>,
    },
    /// Of the others.
    Done(io::Result<()>),
}

/// A file that was opened.
#[derive(Debug)]
pub struct Opened {
    /// Close-on-exec, and O_NONBLOCK if it can be polled.
    pub descriptor: OwnedFd,
    /// What fstat(2) said of it.
    pub status: Status,
}

/// What there is to know of a file before its first operation.
#[derive(Clone, Copy, Debug)]
pub struct Status {
    /// Its type and permissions, as in `st_mode`.
    pub mode: u32,
    /// Its length in bytes; 0 of what has none.
    pub size: u64,
    /// How many bytes at a time are read and written best.
    pub block_size: u64,
    /// It can be waited for (a FIFO, a socket, a terminal), with [`Driver::watch`](super::Driver::watch): file
    /// operations should not be used for it, for they may wait without end, each in a thread.
    pub pollable: bool,
}

/// What there is to know of an open file.
///
/// # Errors
///
/// EBADF where there is none with this number.
pub fn status(fd: RawFd) -> io::Result<Status> {
    calls::status(fd)
}

/// Which kind of completion an operation has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Open,
    Transfer,
    Other,
}

impl Kind {
    /// The completion of an operation that has failed, and whose memory is gone.
    pub(super) fn failed(self, error: io::Error) -> FileEvent {
        match self {
            Self::Open => FileEvent::Opened(Err(error)),
            Self::Transfer => FileEvent::Transferred { memory: None, result: Err(error) },
            Self::Other => FileEvent::Done(Err(error)),
        }
    }
}

impl FileOperation {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Open { .. } => Kind::Open,
            Self::Read { .. } | Self::Write { .. } => Kind::Transfer,
            Self::Sync { .. } | Self::Truncate { .. } | Self::Close { .. } => Kind::Other,
        }
    }

    /// The completion of an operation that was cancelled before it began. What was to be closed is closed.
    pub(super) fn cancelled(self) -> FileEvent {
        let error = io::Error::from_raw_os_error(libc::ECANCELED);
        match self {
            Self::Read { memory, .. } | Self::Write { memory, .. } => {
                FileEvent::Transferred { memory: Some(memory), result: Err(error) }
            }
            Self::Close { descriptor } => {
                drop(descriptor);
                FileEvent::Done(Ok(()))
            }
            Self::Open { .. } | Self::Sync { .. } | Self::Truncate { .. } => self.kind().failed(error),
        }
    }
}

impl fmt::Debug for FileOperation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Open { .. } => "Open",
            Self::Read { .. } => "Read",
            Self::Write { .. } => "Write",
            Self::Sync { .. } => "Sync",
            Self::Truncate { .. } => "Truncate",
            Self::Close { .. } => "Close",
        })
    }
}

impl fmt::Debug for FileEvent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Opened(result) => formatter.debug_tuple("Opened").field(result).finish(),
            Self::Transferred { result, .. } => formatter.debug_tuple("Transferred").field(result).finish(),
            Self::Done(result) => formatter.debug_tuple("Done").field(result).finish(),
        }
    }
}
