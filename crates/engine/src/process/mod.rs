//! Child processes: knowing of their end, reaping them, and signalling them.
//!
//! Some facts about processes on Linux that force the shape of this file:
//!
//! * A process that has ended keeps its number until its parent has reaped it (wait(2)). From then on the number may be another
//!   process's, so whoever signals a number must know that nobody reaps it at the same time.
//! * A *pidfd* (pidfd_open(2), Linux 5.3) names one process for ever. It is readable once the process has ended, reaped or not,
//!   and a signal through it reaches that process or nobody. Waiting for one (`P_PIDFD`) came with Linux 5.4; containers'
//!   seccomp profiles may refuse either.
//! * waitid(2) with `WNOWAIT` waits and does not reap.
//! * With SIGCHLD ignored the kernel reaps by itself, and there is no status.
//!
//! What does this mean: a [`Child`] is a descriptor that becomes readable, for any driver to watch, and one place that knows
//! whether the process was reaped. Where there is no pidfd the descriptor is an eventfd, which a thread that waits without
//! reaping makes readable; everything else is the same.

mod signal;

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, waitid};

/// The stack of a thread that does nothing but wait, in bytes.
const STACK: usize = 64 * 1024;

/// How a process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// It runs.
    Running,
    /// It has ended by itself, with this code: 0 to 255.
    Exited(i32),
    /// A signal of this number has ended it.
    Killed(i32),
    /// It has ended and its status is lost: somebody else has reaped it, or it was no child of this process.
    Unknown,
}

/// A child process.
///
/// Dropping it does not end the process. What still runs is reaped as soon as it ends, by a thread: no zombie is left behind.
#[derive(Debug)]
pub struct Child(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    pid: Pid,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Readable once the process has ended. `None` once it was reaped.
    descriptor: Option<Descriptor>,
    /// Nobody will ask any more: who waits is to reap, too.
    abandoned: bool,
}

#[derive(Clone, Debug)]
enum Descriptor {
    /// Of the process itself.
    Pidfd(Arc<OwnedFd>),
    /// An eventfd that a thread makes readable.
    Eventfd(Arc<OwnedFd>),
    /// An eventfd that is readable: somebody else has reaped the process, and the number may be another child's by now.
    Gone(Arc<OwnedFd>),
}

impl Child {
    /// The child process with this number, which the caller has just started and nobody should have reaped.
    ///
    /// If somebody has, the descriptor is readable at once and the status [`Status::Unknown`].
    ///
    /// # Errors
    ///
    /// EMFILE, ENFILE, ENOMEM: no descriptor is left. EAGAIN: no thread is left, where one is needed. EINVAL: the number is that
    /// of no process.
    pub fn new(pid: i32) -> io::Result<Self> {
        let pid = if pid > 0 { Pid::from_raw(pid) } else { None };
        let pid = pid.ok_or(Errno::INVAL)?;
        match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => {
                // The number may have become another process's before it was opened; that one is no child.
                match waitid(WaitId::PidFd(fd.as_fd()), look()) {
                    Ok(_) => Ok(Self::with(pid, Descriptor::Pidfd(Arc::new(fd)))),
                    Err(Errno::CHILD) => Self::gone(pid),
                    Err(_) => Self::followed(pid),
                }
            }
            Err(Errno::SRCH) => Self::gone(pid),
            Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => Err(error.into()),
            Err(_) => Self::followed(pid),
        }
    }

    fn with(pid: Pid, descriptor: Descriptor) -> Self {
        let state = State { descriptor: Some(descriptor), abandoned: false };
        Self(Arc::new(Shared { pid, state: Mutex::new(state) }))
    }

    /// A child that somebody else has reaped.
    fn gone(pid: Pid) -> io::Result<Self> {
        Ok(Self::with(pid, Descriptor::Gone(Arc::new(event(1)?))))
    }

    /// A child whose end a thread waits for.
    fn followed(pid: Pid) -> io::Result<Self> {
        let child = Self::with(pid, Descriptor::Eventfd(Arc::new(event(0)?)));
        Shared::follow(&child.0)?;
        Ok(child)
    }

    /// What becomes readable when the process has ended; -1 once it was reaped here, which closes it.
    pub fn descriptor(&self) -> RawFd {
        match &self.0.lock().descriptor {
            Some(Descriptor::Pidfd(fd) | Descriptor::Eventfd(fd) | Descriptor::Gone(fd)) => fd.as_raw_fd(),
            None => -1,
        }
    }

    /// Reaps the process if it has ended, without waiting. What is not [`Status::Running`] is said once, and [`Status::Unknown`]
    /// from then on; the descriptor is closed.
    pub fn reap(&self) -> Status {
        self.0.reap(&mut self.0.lock())
    }

    /// True if the process has not ended. Does not reap it.
    pub fn is_running(&self) -> bool {
        let state = self.0.lock();
        state.descriptor.as_ref().is_some_and(|it| matches!(self.0.wait(it, look()), Ok(None)))
    }

    /// Sends a signal; to a process that has ended nothing happens. The number is not checked, and with 0 nothing is sent.
    ///
    /// # Errors
    ///
    /// EPERM: the process runs as somebody else. EINVAL: there is no such signal.
    pub fn signal(&self, number: i32) -> io::Result<()> {
        // Held meanwhile, so that nobody reaps the process here.
        let state = self.0.lock();
        let Some(descriptor) = &state.descriptor else { return Ok(()) };
        let sent = match descriptor {
            Descriptor::Pidfd(fd) => signal::send(fd.as_fd(), number),
            Descriptor::Eventfd(_) | Descriptor::Gone(_) => Err(Errno::NOSYS.into()),
        };
        let sent = match sent {
            // Refused for the call or for the process: by the number, which is the process's for as long as nobody has reaped it.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                match self.0.wait(descriptor, look()) {
                    Ok(_) => signal::kill(self.0.pid, number),
                    Err(_) => Ok(()),
                }
            }
            sent => sent,
        };
        match sent {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            sent => sent,
        }
    }

    /// Leaves the process to itself: a thread reaps it when it ends. It can be signalled as before.
    pub fn abandon(&self) {
        let mut state = self.0.lock();
        if state.abandoned || self.0.reap(&mut state) != Status::Running {
            return;
        }
        state.abandoned = true;
        if matches!(state.descriptor, Some(Descriptor::Pidfd(_))) {
            // Without a thread to be had the zombie stays until this process ends.
            let _ = Shared::follow(&self.0);
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.abandon();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, descriptor: &Descriptor, options: WaitIdOptions) -> Result<Option<WaitIdStatus>, Errno> {
        loop {
            let id = match descriptor {
                Descriptor::Pidfd(fd) => WaitId::PidFd(fd.as_fd()),
                Descriptor::Eventfd(_) => WaitId::Pid(self.pid),
                Descriptor::Gone(_) => return Err(Errno::CHILD),
            };
            match waitid(id, options) {
                Err(Errno::INTR) => {}
                result => return result,
            }
        }
    }

    fn reap(&self, state: &mut State) -> Status {
        let Some(descriptor) = &state.descriptor else { return Status::Unknown };
        let status = match self.wait(descriptor, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(None) => return Status::Running,
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Status::Exited(code),
                (None, Some(number)) => Status::Killed(number),
                (None, None) => Status::Unknown,
            },
            Err(_) => Status::Unknown,
        };
        state.descriptor = None;
        status
    }

    /// Waits in a thread for the end of the process, and then says so or, if nobody will ask any more, reaps it.
    fn follow(this: &Arc<Self>) -> io::Result<()> {
        let shared = Arc::clone(this);
        let follow = move || {
            let descriptor = shared.lock().descriptor.clone();
            let Some(descriptor) = descriptor else { return };
            // If it fails, somebody else has reaped it, which is an end, too.
            let _ = shared.wait(&descriptor, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            let mut state = shared.lock();
            if state.abandoned {
                shared.reap(&mut state);
            } else if let Descriptor::Eventfd(fd) = &descriptor {
                // It holds nothing yet, so there is room.
                let _ = rustix::io::write(fd, &1_u64.to_ne_bytes());
            }
        };
        thread::Builder::new().name("whilst-child".into()).stack_size(STACK).spawn(follow).map(drop)
    }
}

/// How to see whether a process has ended: without waiting, without reaping.
fn look() -> WaitIdOptions {
    WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT
}

fn event(value: u32) -> io::Result<OwnedFd> {
    Ok(eventfd(value, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?)
}
