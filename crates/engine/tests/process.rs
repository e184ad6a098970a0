//! Child processes: their end, their reaping and signals, with pidfds and where the kernel refuses them.

use std::os::fd::BorrowedFd;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use whilst_engine::process::{Child, Status};

const SECONDS: u64 = 10;

/// Starts a shell; nobody but the test reaps it.
#[expect(clippy::zombie_processes, reason = "reaping is what is tested")]
fn start(script: &str) -> i32 {
    let child = Command::new("/bin/sh").args(["-c", script]).stdin(Stdio::null()).spawn().unwrap();
    child.id().cast_signed()
}

/// Waits until the descriptor is readable.
fn wait_for_end(child: &Child) {
    let number = child.descriptor();
    // SAFETY: open until the child is reaped, which happens below this call only.
    let descriptor = unsafe { BorrowedFd::borrow_raw(number) };
    let mut descriptors = [PollFd::new(&descriptor, PollFlags::IN)];
    let timeout = Timespec { tv_sec: SECONDS.cast_signed(), tv_nsec: 0 };
    assert_eq!(poll(&mut descriptors, Some(&timeout)).unwrap(), 1, "the process has not ended");
}

/// The state of a process as the kernel has it: `Z` for one that is not reaped, `None` for none.
fn state_of(pid: i32) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit(") ").next()?.chars().next()
}

fn wait_until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(SECONDS);
    while !condition() {
        assert!(Instant::now() < end, "the condition never held");
        thread::sleep(Duration::from_millis(1));
    }
}

/// From now on this system call fails in this thread, and in those that it starts.
fn refuse(call: libc::c_long, errno: i32) {
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let filter = [
        statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: call as u32,
        },
        statement(RETURN, libc::SECCOMP_RET_ERRNO | errno as u32),
        statement(RETURN, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: the program and its statements live until the calls have returned.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program), 0);
    }
}

/// Runs a check with pidfds, and in threads where they are refused in one way or another.
fn everywhere(check: fn()) {
    check();
    for (call, errno) in [
        (libc::SYS_pidfd_open, libc::ENOSYS),
        (libc::SYS_pidfd_open, libc::EPERM),
        (libc::SYS_pidfd_send_signal, libc::ENOSYS),
        (libc::SYS_pidfd_send_signal, libc::EPERM),
    ] {
        let checked = thread::spawn(move || {
            refuse(call, errno);
            check();
        });
        checked.join().unwrap_or_else(|_| panic!("system call {call} refused with {errno}"));
    }
}

#[test]
fn ends_by_itself() {
    everywhere(|| {
        for code in [0, 1, 255] {
            let pid = start(&format!("read line; exit {code}"));
            let child = Child::new(pid).unwrap();
            wait_for_end(&child);
            assert!(!child.is_running());
            assert_eq!(state_of(pid), Some('Z'), "nobody has asked for it to be reaped");
            assert_eq!(child.reap(), Status::Exited(code));
            assert_eq!(state_of(pid), None);
            assert_eq!(child.descriptor(), -1);
            assert_eq!(child.reap(), Status::Unknown);
            child.signal(libc::SIGKILL).unwrap();
        }
    });
}

#[test]
fn ended_before() {
    everywhere(|| {
        let pid = start("exit 3");
        wait_until(|| state_of(pid) == Some('Z'));
        let child = Child::new(pid).unwrap();
        assert!(!child.is_running());
        wait_for_end(&child);
        assert_eq!(child.reap(), Status::Exited(3));
    });
}

#[test]
fn is_signalled() {
    everywhere(|| {
        for signal in [libc::SIGTERM, libc::SIGKILL, libc::SIGRTMIN(), libc::SIGRTMAX()] {
            let child = Child::new(start("exec sleep 100")).unwrap();
            assert!(child.is_running());
            assert_eq!(child.reap(), Status::Running);
            child.signal(0).unwrap();
            assert_eq!(child.signal(1000).unwrap_err().raw_os_error(), Some(libc::EINVAL));
            child.signal(signal).unwrap();
            wait_for_end(&child);
            assert_eq!(child.reap(), Status::Killed(signal));
        }
    });
}

#[test]
fn reaped_by_somebody_else() {
    everywhere(|| {
        let pid = start("exec sleep 100");
        let child = Child::new(pid).unwrap();
        // SAFETY: plain numbers.
        unsafe {
            assert_eq!(libc::kill(pid, libc::SIGKILL), 0);
            assert_eq!(libc::waitpid(pid, std::ptr::null_mut(), 0), pid);
        }
        wait_for_end(&child);
        assert!(!child.is_running());
        child.signal(libc::SIGKILL).unwrap();
        assert_eq!(child.reap(), Status::Unknown);

        let child = Child::new(pid).unwrap();
        wait_for_end(&child);
        assert!(!child.is_running());
        child.signal(libc::SIGKILL).unwrap();
        assert_eq!(child.reap(), Status::Unknown);
    });
}

#[test]
fn abandoned() {
    everywhere(|| {
        let pid = start("read line; exec sleep 100");
        let child = Child::new(pid).unwrap();
        child.abandon();
        child.abandon();
        assert!(child.is_running());
        child.signal(libc::SIGTERM).unwrap();
        wait_until(|| state_of(pid).is_none());
        child.signal(libc::SIGKILL).unwrap();

        let pid = start("exec sleep 0.1");
        drop(Child::new(pid).unwrap());
        assert!(state_of(pid).is_some(), "it goes on");
        wait_until(|| state_of(pid).is_none());

        let pid = start("exit 1");
        let child = Child::new(pid).unwrap();
        wait_for_end(&child);
        drop(child);
        wait_until(|| state_of(pid).is_none());
    });
}

#[test]
fn no_process() {
    for pid in [0, -1, i32::MIN] {
        assert_eq!(Child::new(pid).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    }
}
