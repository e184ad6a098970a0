//! What the cases share: a driver with its completions, sockets, and the macro that runs a case over both
//! backends.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use whilst_engine::driver::{
    Choice, Completion, Driver, Event, Interest, Key, Operation, Payload, Received, available,
};
use whilst_engine::inbox::Waker;

/// Longer than anything here takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);

/// Long enough for what should not come to come.
pub(crate) const QUIET: Duration = Duration::from_millis(30);

/// Runs each function named as a test over each backend; where no ring is to be had, that half says so and
/// passes.
macro_rules! over_both {
    ($($case:ident),+ $(,)?) => {
        mod epoll {
            $(#[test] fn $case() {
                let _limit = $crate::support::limit();
                super::$case(whilst_engine::driver::Choice::Epoll);
            })+
        }
        mod io_uring {
            $(#[test] fn $case() {
                if $crate::support::have_ring() {
                    let _limit = $crate::support::limit();
                    super::$case(whilst_engine::driver::Choice::Uring);
                }
            })+
        }
    };
}
pub(crate) use over_both;

/// Ends the process if what it returns has not been dropped in time: a wait without end cannot be interrupted
/// otherwise.
pub(crate) fn limit() -> mpsc::Sender<()> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        if receiver.recv_timeout(6 * LIMIT) == Err(mpsc::RecvTimeoutError::Timeout) {
            eprintln!("a test hangs");
            std::process::abort();
        }
    });
    sender
}

pub(crate) fn have_ring() -> bool {
    let have = available().contains(&"io_uring");
    if !have {
        // Who asks for a ring does not want to hear that its tests have passed.
        assert_ne!(std::env::var("WHILST_DRIVER").as_deref(), Ok("io_uring"), "there is no ring");
        eprintln!("SKIPPED: this machine gives no ring");
    }
    have
}

/// A payload of one or more pieces.
#[derive(Debug)]
pub(crate) struct Bytes {
    pub(crate) pieces: Vec<Vec<u8>>,
    pub(crate) awaited: bool,
}

// SAFETY: a vector's memory stays where it is when the vector is moved, and nothing changes it here.
unsafe impl Payload for Bytes {
    fn slices(&self, into: &mut Vec<libc::iovec>) {
        into.extend(
            self.pieces.iter().map(|piece| libc::iovec {
                iov_base: piece.as_ptr().cast_mut().cast(),
                iov_len: piece.len(),
            }),
        );
    }

    fn awaited(&self) -> bool {
        self.awaited
    }
}

impl Bytes {
    pub(crate) fn one(piece: impl Into<Vec<u8>>) -> Self {
        Self { pieces: vec![piece.into()], awaited: true }
    }

    pub(crate) fn unawaited(piece: impl Into<Vec<u8>>) -> Self {
        Self { pieces: vec![piece.into()], awaited: false }
    }
}

/// A driver and what it has said.
pub(crate) struct World {
    pub(crate) driver: Driver<Bytes>,
    pub(crate) waker: Arc<Waker>,
    pub(crate) said: VecDeque<Completion<Bytes>>,
}

impl World {
    pub(crate) fn new(choice: Choice) -> Self {
        let waker = Arc::new(Waker::new());
        let driver = Driver::new(choice, waker.clone()).unwrap();
        Self { driver, waker, said: VecDeque::new() }
    }

    /// One wait; how many completions it brought.
    pub(crate) fn wait(&mut self, timeout: Duration) -> usize {
        let mut completions = Vec::new();
        self.driver.wait(Some(timeout), &mut completions).unwrap();
        let count = completions.len();
        self.said.extend(completions);
        count
    }

    /// The next completion that `wanted` picks; those before it are dropped.
    pub(crate) fn find<T>(&mut self, mut wanted: impl FnMut(Completion<Bytes>) -> Option<T>) -> T {
        let begin = Instant::now();
        loop {
            while let Some(completion) = self.said.pop_front() {
                if let Some(found) = wanted(completion) {
                    return found;
                }
            }
            assert!(begin.elapsed() < LIMIT, "it never came");
            self.wait(LIMIT);
        }
    }

    /// The next completion.
    pub(crate) fn next(&mut self) -> Completion<Bytes> {
        self.find(Some)
    }

    /// The next completion, which must be of `key`.
    pub(crate) fn event(&mut self, key: u64) -> Event<Bytes> {
        let completion = self.next();
        assert_eq!(completion.key, Key(key), "{completion:?}");
        completion.event
    }

    pub(crate) fn assert_ready(&mut self, key: u64) {
        let event = self.event(key);
        assert!(matches!(event, Event::Ready), "{event:?}");
    }

    /// Nothing comes, at this wait and one that takes a while.
    pub(crate) fn assert_quiet(&mut self) {
        self.wait(Duration::ZERO);
        let begin = Instant::now();
        while let Some(left) = QUIET.checked_sub(begin.elapsed()) {
            assert!(self.said.is_empty(), "{:?}", self.said);
            self.wait(left);
        }
        assert!(self.said.is_empty(), "{:?}", self.said);
    }

    pub(crate) fn watch(&mut self, fd: &impl AsRawFd, interest: Interest, key: u64) -> Operation {
        self.driver.watch(fd.as_raw_fd(), interest, Key(key)).unwrap()
    }

    pub(crate) fn watch_once(&mut self, fd: &impl AsRawFd, interest: Interest, key: u64) -> Operation {
        self.driver.watch_once(fd.as_raw_fd(), interest, Key(key)).unwrap()
    }

    pub(crate) fn receive(&mut self, fd: &impl AsRawFd, key: u64) -> Operation {
        self.driver.receive(fd.as_raw_fd(), Key(key)).unwrap()
    }

    pub(crate) fn accept(&mut self, fd: &impl AsRawFd, key: u64) -> Operation {
        self.driver.accept(fd.as_raw_fd(), 100, Key(key)).unwrap()
    }

    /// Starts a send; its completion comes like all others, whatever the backend.
    pub(crate) fn start_send(&mut self, fd: &impl AsRawFd, key: u64, payload: Bytes) {
        if let Some(event) = self.driver.send(fd.as_raw_fd(), Key(key), payload) {
            self.said.push_back(Completion { key: Key(key), event });
        }
    }

    /// Sends and returns the result; other completions stay.
    pub(crate) fn send(&mut self, fd: &impl AsRawFd, bytes: &[u8]) -> io::Result<usize> {
        const KEY: u64 = u64::MAX;
        self.start_send(fd, KEY, Bytes::one(bytes));
        let begin = Instant::now();
        loop {
            if let Some(place) = self.said.iter().position(|completion| completion.key == Key(KEY)) {
                let Some(Completion { event: Event::Sent { result, payload }, .. }) = self.said.remove(place)
                else {
                    panic!("a send says that it is done and nothing else");
                };
                assert_eq!(payload.pieces[0], bytes);
                return result;
            }
            assert!(begin.elapsed() < LIMIT, "it never came");
            self.wait(LIMIT);
        }
    }

    /// What one completion of a receive says, read where the caller is to read.
    pub(crate) fn received(event: Event<Bytes>, fd: RawFd) -> Said {
        match event {
            Event::Received(Received::Data(chunk)) => {
                assert!(!chunk.is_empty());
                Said::Bytes(chunk.to_vec())
            }
            Event::Received(Received::Waiting) => {
                let mut buffer = vec![0; 65536];
                // SAFETY: the buffer is as long as said.
                let read =
                    unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
                match usize::try_from(read) {
                    Ok(0) => Said::End,
                    Ok(length) => Said::Bytes(buffer[..length].to_vec()),
                    Err(_) => match io::Error::last_os_error() {
                        error if error.kind() == io::ErrorKind::WouldBlock => Said::Bytes(Vec::new()),
                        error => Said::Failed(error),
                    },
                }
            }
            Event::Received(Received::End) => Said::End,
            Event::Received(Received::Failed(error)) => Said::Failed(error),
            Event::Received(Received::Stopped) => Said::Stopped,
            other => panic!("not of a receive: {other:?}"),
        }
    }

    /// Receives exactly `length` bytes. All completions must be of `key`.
    pub(crate) fn read(&mut self, fd: &impl AsRawFd, key: u64, length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < length {
            match Self::received(self.event(key), fd.as_raw_fd()) {
                Said::Bytes(more) => bytes.extend(more),
                other => panic!("{other:?} after {} of {length} bytes", bytes.len()),
            }
        }
        assert_eq!(bytes.len(), length);
        bytes
    }

    /// The next thing that a receive says other than bytes.
    pub(crate) fn last_word(&mut self, fd: &impl AsRawFd, key: u64) -> Said {
        loop {
            match Self::received(self.event(key), fd.as_raw_fd()) {
                Said::Bytes(_) => {}
                other => return other,
            }
        }
    }
}

/// What a receive has said.
#[derive(Debug)]
pub(crate) enum Said {
    Bytes(Vec<u8>),
    End,
    Failed(io::Error),
    Stopped,
}

pub(crate) fn pair() -> (UnixStream, UnixStream) {
    let (here, there) = UnixStream::pair().unwrap();
    here.set_nonblocking(true).unwrap();
    there.set_read_timeout(Some(LIMIT)).unwrap();
    there.set_write_timeout(Some(LIMIT)).unwrap();
    (here, there)
}

pub(crate) fn listener() -> TcpListener {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.set_nonblocking(true).unwrap();
    listener
}

pub(crate) fn tcp_pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let there = connect(&listener);
    let (here, _) = listener.accept().unwrap();
    here.set_nonblocking(true).unwrap();
    here.set_nodelay(true).unwrap();
    (here, there)
}

pub(crate) fn connect(listener: &TcpListener) -> TcpStream {
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.set_read_timeout(Some(LIMIT)).unwrap();
    stream.set_write_timeout(Some(LIMIT)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Reads exactly so much from a blocking peer.
pub(crate) fn read_exactly(mut peer: impl Read, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    peer.read_exact(&mut bytes).unwrap();
    bytes
}

/// Bytes whose order can be told.
pub(crate) fn pattern(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .collect()
}

/// Runs `child` in a forked process; the process must end with 0 within the limit.
pub(crate) fn in_fork(child: impl FnOnce()) {
    // SAFETY: the child is this thread alone. It uses what a test uses, and the tests' harness runs each
    // test in a process of its own (nextest) or at least has no lock held across it that the child needs.
    match unsafe { libc::fork() } {
        -1 => panic!("{}", io::Error::last_os_error()),
        0 => {
            // Should the child hang, the alarm ends it.
            // SAFETY: a plain system call.
            unsafe { libc::alarm(LIMIT.as_secs() as u32) };
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(child));
            // SAFETY: ends the child at once, without what the parent registered for its own end.
            unsafe { libc::_exit(i32::from(result.is_err())) };
        }
        process => {
            let mut status = 0;
            // SAFETY: the child's number, and room for its status.
            unsafe { libc::waitpid(process, &raw mut status, 0) };
            assert_eq!(status, 0, "the forked child failed");
        }
    }
}

/// An eventfd-like descriptor that is not a socket.
pub(crate) fn pipe() -> (std::fs::File, std::fs::File) {
    let mut ends = [0; 2];
    // SAFETY: room for two descriptors, which are then owned once.
    unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK), 0);
        (std::fs::File::from_raw_fd(ends[0]), std::fs::File::from_raw_fd(ends[1]))
    }
}
