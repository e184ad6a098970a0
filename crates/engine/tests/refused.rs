//! A machine that gives no ring, as in most containers: brought about by a seccomp filter, in children of a
//! process that has not asked yet (which is why this test is alone in its file).

use std::io::Write;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use whilst_engine::driver::{Choice, Completion, Driver, Event, Key, Payload, Received, available};
use whilst_engine::inbox::Waker;

#[derive(Debug)]
struct Nothing;

// SAFETY: it names no memory.
unsafe impl Payload for Nothing {
    fn slices(&self, _into: &mut Vec<libc::iovec>) {}
}

/// From now on `io_uring_setup` fails with this error.
fn refuse_rings(errno: i32) {
    const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let filter = [
        // The system call's number is the first word that a filter sees.
        statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: libc::SYS_io_uring_setup as u32,
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

fn check_without_rings() {
    assert_eq!(available(), ["epoll"]);
    let error = Driver::<Nothing>::new(Choice::Uring, Arc::new(Waker::new())).unwrap_err().to_string();
    for part in ["\"io_uring\" is not available", "no ring can be made", "available here: epoll"] {
        assert!(error.contains(part), "{error}");
    }
    let error = Choice::from_name("uring").unwrap_err().to_string();
    assert_eq!(error, "unknown driver \"uring\"; available here: epoll");
    // It is an error only where a ring was asked for.
    let mut driver = Driver::<Nothing>::new(Choice::Automatic, Arc::new(Waker::new())).unwrap();
    let (here, mut there) = UnixStream::pair().unwrap();
    driver.receive(here.as_raw_fd(), Key(1)).unwrap();
    there.write_all(b"x").unwrap();
    let mut completions = Vec::new();
    driver.wait(Some(Duration::from_secs(5)), &mut completions).unwrap();
    let [Completion { key: Key(1), event: Event::Received(Received::Waiting) }] = completions[..] else {
        panic!("{completions:?}");
    };
    assert_eq!(driver.name(), "epoll");
}

#[test]
fn falls_back_silently() {
    for errno in [libc::EPERM, libc::ENOSYS, libc::ENOMEM, libc::EINVAL] {
        // SAFETY: the child uses nothing that another thread may have held at the fork but what the
        // allocator sees to.
        match unsafe { libc::fork() } {
            0 => {
                let result = std::panic::catch_unwind(|| {
                    // SAFETY: a plain system call; should the child hang, the alarm ends it.
                    unsafe { libc::alarm(10) };
                    refuse_rings(errno);
                    check_without_rings();
                });
                // SAFETY: ends the child at once.
                unsafe { libc::_exit(i32::from(result.is_err())) };
            }
            child => {
                assert!(child > 0);
                let mut status = 0;
                // SAFETY: the child's number, and room for its status.
                unsafe { libc::waitpid(child, &raw mut status, 0) };
                assert_eq!(status, 0, "the child of errno {errno} failed");
            }
        }
    }
}
