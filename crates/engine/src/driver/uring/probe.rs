//! Whether this machine gives rings that do all that is needed.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use io_uring::{Probe, opcode, squeue, types};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socketpair, sockopt};

use super::super::sys;
use super::SILENT_SEND_FLAGS;
use super::ring::{Ring, build};

/// Whether this process can have rings that do all that is needed; asked once. Else why not.
pub(in super::super) fn available() -> Result<(), &'static str> {
    static AVAILABLE: OnceLock<Result<(), String>> = OnceLock::new();
    AVAILABLE.get_or_init(probe).as_ref().copied().map_err(String::as_str)
}

/// Whether rings can cut files (Linux 6.9). Known once [`available`] is.
pub(in super::super) fn truncates() -> bool {
    TRUNCATES.load(Ordering::Relaxed)
}

static TRUNCATES: AtomicBool = AtomicBool::new(false);

fn probe() -> Result<(), String> {
    // Linux 6.1 is the first that takes these flags. With it come multishot accept and receive and buffer
    // tables.
    let io = build(8, 16).map_err(|error| {
        let hint = match error.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => {
                " (refused: the container's seccomp profile or the sysctl kernel.io_uring_disabled)"
            }
            Some(libc::ENOSYS) => " (the kernel has no io_uring, or a seccomp profile hides it)",
            Some(libc::EINVAL) => " (Linux 6.1 or later is needed)",
            Some(libc::ENOMEM) => " (maybe RLIMIT_MEMLOCK is too low)",
            _ => "",
        };
        format!("no ring can be made: {error}{hint}")
    })?;
    let parameters = io.params();
    if !(parameters.is_feature_ext_arg()
        && parameters.is_feature_nodrop()
        && parameters.is_feature_fast_poll()
        && parameters.is_feature_skip_cqe_on_success())
    {
        return Err("the kernel's io_uring lacks a feature that is needed".into());
    }
    let mut operations = Probe::new();
    let known = io.submitter().register_probe(&mut operations);
    known.map_err(|error| format!("the ring cannot be asked what it can do: {error}"))?;
    let needed = [
        opcode::Accept::CODE,
        opcode::AsyncCancel::CODE,
        opcode::Close::CODE,
        opcode::Fsync::CODE,
        opcode::OpenAt::CODE,
        opcode::PollAdd::CODE,
        opcode::Read::CODE,
        opcode::Recv::CODE,
        opcode::Send::CODE,
        opcode::SendMsg::CODE,
        opcode::Write::CODE,
    ];
    if !needed.into_iter().all(|code| operations.is_supported(code)) {
        return Err("the kernel's io_uring lacks an operation that is needed".into());
    }
    TRUNCATES.store(operations.is_supported(opcode::Ftruncate::CODE), Ordering::Relaxed);
    let mut ring = Ring::of(io);
    ring.need_pool().map_err(|error| format!("no buffers can be registered: {error}"))?;
    match short_sends_are_told(&mut ring) {
        Ok(true) => Ok(()),
        Ok(false) => Err("the kernel's io_uring keeps short sends to itself".into()),
        Err(error) => Err(format!("sends cannot be tried out: {error}")),
    }
}

/// Tries out what the sends depend on, for which no feature flag stands: that a send which was told to be
/// silent on success speaks when it took less than all, at once, and says how much it took.
fn short_sends_are_told(ring: &mut Ring) -> io::Result<bool> {
    let (here, there) = socketpair(
        AddressFamily::UNIX,
        SocketType::STREAM,
        SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
        None,
    )?;
    // The kernel makes it the least that it allows, which is some kilobytes.
    sockopt::set_socket_send_buffer_size(&here, 1)?;
    let bytes = vec![0_u8; 64 * 1024];
    let (first, second) = bytes.split_at(bytes.len() / 2);
    let slices = [first, second]
        .map(|half| libc::iovec { iov_base: half.as_ptr().cast_mut().cast(), iov_len: half.len() });
    let header = sys::message(&slices);
    let mut room = bytes.clone();
    let fd = types::Fd(here.as_raw_fd());
    let length = bytes.len() as u32;
    let send = opcode::Send::new(fd, bytes.as_ptr(), length).flags(SILENT_SEND_FLAGS).build();
    let send_message = opcode::SendMsg::new(fd, &header).flags(SILENT_SEND_FLAGS as u32).build();
    for entry in [send, send_message] {
        // SAFETY: the bytes, slices and header stay until the ring has been entered, just below.
        unsafe { ring.push(&entry.flags(squeue::Flags::SKIP_SUCCESS))? };
        ring.poll()?;
        let Some(completion) = ring.io.completion().next() else { return Ok(false) };
        let mut arrived = 0;
        while let Ok((length @ 1.., _)) = recv(&there, &mut room[..], RecvFlags::empty()) {
            arrived += length;
        }
        if arrived == 0 || arrived == bytes.len() || completion.result() != arrived as i32 {
            return Ok(false);
        }
    }
    // And the one that takes all is silent.
    let whole = opcode::Send::new(fd, bytes.as_ptr(), 1).flags(SILENT_SEND_FLAGS).build();
    // SAFETY: as above.
    unsafe { ring.push(&whole.flags(squeue::Flags::SKIP_SUCCESS))? };
    ring.poll()?;
    let silent = ring.io.completion().next().is_none();
    let arrived = recv(&there, &mut room[..], RecvFlags::empty());
    Ok(silent && matches!(arrived, Ok((1, _))))
}
