//! File operations as system calls.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};

use rustix::event::epoll;
use rustix::fs::{FileType, fstat};

use super::super::sys;
use super::{FileEvent, FileOperation, Memory, Opened, Status};

/// The flags that every file is opened with: see the facts in the module above.
pub(in super::super) const OPEN_FLAGS: i32 = libc::O_CLOEXEC | libc::O_NONBLOCK;

/// The kernel transfers no more at once (`MAX_RW_COUNT`).
pub(in super::super) const LONGEST: usize = 0x7fff_f000;

/// Carries an operation out, in this thread, for as long as it takes.
pub(in super::super) fn perform(operation: FileOperation) -> FileEvent {
    match operation {
        FileOperation::Open { path, flags, mode } => FileEvent::Opened(open(&path, flags, mode)),
        FileOperation::Read { file, offset, mut memory } => {
            let result = read(file.as_raw_fd(), offset, &mut *memory);
            FileEvent::Transferred { memory: Some(memory), result }
        }
        FileOperation::Write { file, offset, mut memory } => {
            let result = write(file.as_raw_fd(), offset, &mut *memory);
            FileEvent::Transferred { memory: Some(memory), result }
        }
        FileOperation::Sync { file, data_only } => {
            let fd = file.as_raw_fd();
            // SAFETY: these calls touch no memory.
            let call = || unsafe { if data_only { libc::fdatasync(fd) } else { libc::fsync(fd) } };
            FileEvent::Done(repeat(|| call() as isize).map(drop))
        }
        FileOperation::Truncate { file, length } => FileEvent::Done(truncate(file.as_raw_fd(), length)),
        FileOperation::Close { descriptor } => FileEvent::Done(close(descriptor)),
    }
}

fn open(path: &CStr, flags: i32, mode: u32) -> io::Result<Opened> {
    // SAFETY: the path is a string that ends in zero.
    let number = repeat(|| unsafe { libc::open(path.as_ptr(), flags | OPEN_FLAGS, mode) } as isize)?;
    // SAFETY: the kernel has just made this descriptor, for us alone.
    opened(unsafe { OwnedFd::from_raw_fd(number as RawFd) }, flags)
}

/// Finishes what was opened with `flags` and [`OPEN_FLAGS`].
pub(in super::super) fn opened(descriptor: OwnedFd, flags: i32) -> io::Result<Opened> {
    let status = status(descriptor.as_raw_fd())?;
    if !status.pollable {
        // Flags that cannot be changed are ignored. SAFETY: a plain system call on a descriptor that is ours.
        repeat(|| unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) }
            as isize)?;
    }
    Ok(Opened { descriptor, status })
}

/// What there is to know of an open file. An open file's status is in memory: this does not wait for a disk.
pub(super) fn status(fd: RawFd) -> io::Result<Status> {
    let status = fstat(sys::borrow(fd)?)?;
    let pollable = match FileType::from_raw_mode(status.st_mode) {
        // Also those of /proc, of which some can be polled: they are read as files all the same.
        FileType::RegularFile | FileType::Directory | FileType::BlockDevice | FileType::Symlink => false,
        FileType::Fifo | FileType::Socket => true,
        _ => is_pollable(fd),
    };
    Ok(Status {
        mode: status.st_mode,
        size: u64::try_from(status.st_size).unwrap_or(0),
        block_size: u64::try_from(status.st_blksize).unwrap_or(0),
        pollable,
    })
}

/// Whether epoll would take `fd`: some devices can be polled, others not.
fn is_pollable(fd: RawFd) -> bool {
    let Ok(instance) = epoll::create(epoll::CreateFlags::CLOEXEC) else { return false };
    let data = epoll::EventData::new_u64(0);
    sys::borrow(fd).is_ok_and(|source| epoll::add(&instance, source, data, epoll::EventFlags::IN).is_ok())
}

fn read(fd: RawFd, offset: Option<u64>, memory: &mut dyn Memory) -> io::Result<usize> {
    let (address, length) = span(memory);
    let address = address.cast();
    let Some(offset) = offset else {
        // SAFETY: the memory is writable and as long as said, by its contract.
        return repeat(|| unsafe { libc::read(fd, address, length) });
    };
    let offset = signed(offset)?;
    // SAFETY: as above.
    repeat(|| unsafe { libc::pread64(fd, address, length, offset) })
}

fn write(fd: RawFd, offset: Option<u64>, memory: &mut dyn Memory) -> io::Result<usize> {
    let (address, length) = span(memory);
    let address = address.cast_const().cast();
    let Some(offset) = offset else {
        // SAFETY: the memory is readable and as long as said, by its contract.
        return repeat(|| unsafe { libc::write(fd, address, length) });
    };
    let offset = signed(offset)?;
    // SAFETY: as above.
    repeat(|| unsafe { libc::pwrite64(fd, address, length, offset) })
}

fn truncate(fd: RawFd, length: u64) -> io::Result<()> {
    let length = signed(length)?;
    // SAFETY: a plain system call.
    repeat(|| unsafe { libc::ftruncate64(fd, length) } as isize).map(drop)
}

fn close(descriptor: OwnedFd) -> io::Result<()> {
    // The descriptor is gone whatever close(2) says, so it is not asked again after EINTR.
    // SAFETY: it was owned, and nobody else closes it.
    match unsafe { libc::close(descriptor.into_raw_fd()) } {
        0 => Ok(()),
        _ => closed(io::Error::last_os_error()),
    }
}

/// What close(2) means by an error.
pub(in super::super) fn closed(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::Interrupted { Ok(()) } else { Err(error) }
}

/// The address and the length of what one call can transfer.
pub(in super::super) fn span(memory: &mut dyn Memory) -> (*mut u8, usize) {
    let (address, length) = memory.span();
    (address.as_ptr(), length.min(LONGEST))
}

fn signed(number: u64) -> io::Result<i64> {
    i64::try_from(number).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

fn repeat(mut call: impl FnMut() -> isize) -> io::Result<usize> {
    loop {
        if let Ok(result) = usize::try_from(call()) {
            return Ok(result);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
