//! Operations on files: by the ring, or by threads.

use std::collections::HashSet;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use whilst_engine::driver::{
    Choice, Event, File, FileEvent, FileOperation, Key, Memory, Opened, Operation, Received,
};

use crate::support::*;

over_both!(
    a_fifo_does_not_hold_up_others,
    appends,
    cancelled,
    closes,
    dropped_under_way,
    errors,
    inherited,
    many_at_once,
    moves_to_another_thread,
    moves_without_notice,
    reads_and_writes,
    stays_open_while_it_is_used,
    threads_end,
    truncates_and_syncs,
    wakes_a_wait,
    with_sockets_in_between,
);

/// A directory that goes when it is dropped.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("whilst-files-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, contents: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Memory that is counted.
struct Block {
    bytes: Vec<u8>,
    alive: Arc<AtomicUsize>,
}

impl Block {
    fn new(bytes: Vec<u8>, alive: &Arc<AtomicUsize>) -> Box<Self> {
        alive.fetch_add(1, Ordering::Relaxed);
        Box::new(Self { bytes, alive: alive.clone() })
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        self.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

// SAFETY: a vector's memory stays where it is when the vector is moved, and nobody else has it.
unsafe impl Memory for Block {
    fn span(&mut self) -> (NonNull<u8>, usize) {
        (NonNull::new(self.bytes.as_mut_ptr()).unwrap(), self.bytes.len())
    }
}

fn bytes_of(memory: Option<Box<dyn Memory>>) -> Vec<u8> {
    let any: Box<dyn std::any::Any> = memory.expect("the memory comes back");
    std::mem::take(&mut any.downcast::<Block>().unwrap().bytes)
}

fn path_of(path: impl AsRef<Path>) -> CString {
    CString::new(path.as_ref().as_os_str().as_bytes()).unwrap()
}

impl World {
    fn file(&mut self, operation: FileOperation) -> Operation {
        self.driver.file(operation, Key(7)).unwrap()
    }

    fn file_event(&mut self) -> FileEvent {
        match self.event(7) {
            Event::File(event) => event,
            other => panic!("{other:?}"),
        }
    }

    fn open(&mut self, path: impl AsRef<Path>, flags: i32) -> io::Result<Opened> {
        self.file(FileOperation::Open { path: path_of(path), flags, mode: 0o600 });
        match self.file_event() {
            FileEvent::Opened(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn open_file(&mut self, path: impl AsRef<Path>, flags: i32) -> File {
        File::owned(self.open(path, flags).unwrap().descriptor)
    }

    fn start_read(&mut self, file: &File, offset: Option<u64>, length: usize, alive: &Arc<AtomicUsize>) {
        let memory = Block::new(vec![0xAA; length], alive);
        self.file(FileOperation::Read { file: file.clone(), offset, memory });
    }

    fn read_file(&mut self, file: &File, offset: Option<u64>, length: usize) -> io::Result<Vec<u8>> {
        let alive = Arc::default();
        self.start_read(file, offset, length, &alive);
        let FileEvent::Transferred { memory, result } = self.file_event() else { panic!() };
        let mut bytes = bytes_of(memory);
        assert_eq!(bytes.len(), length);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
        let count = result?;
        assert!(bytes[count..].iter().all(|byte| *byte == 0xAA), "memory behind what was read");
        bytes.truncate(count);
        Ok(bytes)
    }

    fn write_file(&mut self, file: &File, offset: Option<u64>, bytes: &[u8]) -> io::Result<usize> {
        let memory = Block::new(bytes.to_vec(), &Arc::default());
        self.file(FileOperation::Write { file: file.clone(), offset, memory });
        let FileEvent::Transferred { memory, result } = self.file_event() else { panic!() };
        assert_eq!(bytes_of(memory), bytes);
        result
    }

    fn done(&mut self, operation: FileOperation) -> io::Result<()> {
        self.file(operation);
        match self.file_event() {
            FileEvent::Done(result) => result,
            other => panic!("{other:?}"),
        }
    }

    fn close(&mut self, file: File) -> io::Result<()> {
        let descriptor = file.into_descriptor().expect("nobody else has it");
        self.done(FileOperation::Close { descriptor })
    }
}

fn is_open(fd: RawFd) -> bool {
    // SAFETY: a plain system call.
    unsafe { libc::fcntl(fd, libc::F_GETFD) != -1 }
}

fn code<T: std::fmt::Debug>(result: io::Result<T>) -> i32 {
    result.unwrap_err().raw_os_error().unwrap()
}

/// The names of this process's threads, the kernel's own for it included.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    tasks
        .filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

fn our_threads() -> usize {
    threads().iter().filter(|name| *name == "whilst-file").count()
}

fn make_fifo(folder: &Folder, name: &str) -> PathBuf {
    let path = folder.0.join(name);
    // SAFETY: the path is a string that ends in zero.
    assert_eq!(unsafe { libc::mkfifo(path_of(&path).as_ptr(), 0o600) }, 0);
    path
}

fn reads_and_writes(choice: Choice) {
    let folder = Folder::new();
    let mut world = World::new(choice);
    let path = folder.file("some", &pattern(10_000, 1));
    let opened = world.open(&path, libc::O_RDWR).unwrap();
    assert_eq!(opened.status.size, 10_000);
    assert!(!opened.status.pollable);
    assert!(opened.status.block_size >= 512);
    // SAFETY: plain system calls.
    let (flags, descriptor_flags) = unsafe {
        let fd = opened.descriptor.as_raw_fd();
        (libc::fcntl(fd, libc::F_GETFL), libc::fcntl(fd, libc::F_GETFD))
    };
    assert_eq!(flags & (libc::O_NONBLOCK | libc::O_ACCMODE), libc::O_RDWR);
    assert_eq!(descriptor_flags, libc::FD_CLOEXEC);
    let file = File::owned(opened.descriptor);
    let all = pattern(10_000, 1);
    // At the position, which moves on.
    assert_eq!(world.read_file(&file, None, 4000).unwrap(), all[..4000]);
    assert_eq!(world.read_file(&file, None, 4000).unwrap(), all[4000..8000]);
    // A short one, and the end.
    assert_eq!(world.read_file(&file, None, 4000).unwrap(), all[8000..]);
    assert_eq!(world.read_file(&file, None, 4000).unwrap(), b"");
    // Anywhere, and the position stays.
    assert_eq!(world.read_file(&file, Some(3), 5).unwrap(), all[3..8]);
    assert_eq!(world.read_file(&file, Some(9_999), 5).unwrap(), all[9_999..]);
    assert_eq!(world.read_file(&file, Some(1 << 40), 5).unwrap(), b"");
    assert_eq!(world.write_file(&file, Some(1), b"123").unwrap(), 3);
    assert_eq!(world.write_file(&file, None, b"at the end").unwrap(), 10);
    assert_eq!(world.read_file(&file, Some(0), 5).unwrap(), [&all[..1], b"123", &all[4..5]].concat());
    assert_eq!(world.read_file(&file, Some(10_000), 50).unwrap(), b"at the end");
    assert_eq!(world.read_file(&file, None, 0).unwrap(), b"");
    world.close(file).unwrap();
    // One that a kernel thread copies.
    let large = pattern(3 << 20, 2);
    let file = world.open_file(folder.0.join("large"), libc::O_RDWR | libc::O_CREAT | libc::O_EXCL);
    assert_eq!(world.write_file(&file, None, &large).unwrap(), large.len());
    assert!(world.read_file(&file, Some(0), large.len() + 1).unwrap() == large);
}

fn appends(choice: Choice) {
    let folder = Folder::new();
    let mut world = World::new(choice);
    let path = folder.file("log", b"before;");
    let file = world.open_file(&path, libc::O_WRONLY | libc::O_APPEND);
    assert_eq!(world.write_file(&file, None, b"one;").unwrap(), 4);
    fs::OpenOptions::new().append(true).open(&path).unwrap();
    assert_eq!(world.write_file(&file, None, b"two;").unwrap(), 4);
    assert_eq!(fs::read(&path).unwrap(), b"before;one;two;");
}

fn truncates_and_syncs(choice: Choice) {
    let folder = Folder::new();
    let mut world = World::new(choice);
    let path = folder.file("some", b"0123456789");
    let file = world.open_file(&path, libc::O_RDWR);
    world.done(FileOperation::Truncate { file: file.clone(), length: 4 }).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123");
    world.done(FileOperation::Truncate { file: file.clone(), length: 6 }).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"0123\0\0");
    for data_only in [false, true] {
        world.done(FileOperation::Sync { file: file.clone(), data_only }).unwrap();
    }
    let directory = world.open_file(&folder.0, libc::O_RDONLY);
    world.done(FileOperation::Sync { file: directory, data_only: false }).unwrap();
}

fn errors(choice: Choice) {
    let folder = Folder::new();
    let mut world = World::new(choice);
    let path = folder.file("some", b"some");
    assert_eq!(code(world.open(folder.0.join("none"), libc::O_RDONLY)), libc::ENOENT);
    assert_eq!(code(world.open(path.join("below"), libc::O_RDONLY)), libc::ENOTDIR);
    assert_eq!(code(world.open(&folder.0, libc::O_WRONLY)), libc::EISDIR);
    assert_eq!(code(world.open(&path, libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL)), libc::EEXIST);
    let directory = world.open_file(&folder.0, libc::O_RDONLY);
    assert_eq!(code(world.read_file(&directory, None, 10)), libc::EISDIR);
    let full = world.open_file("/dev/full", libc::O_WRONLY);
    assert_eq!(code(world.write_file(&full, None, b"x")), libc::ENOSPC);
    let read_only = world.open_file(&path, libc::O_RDONLY);
    assert_eq!(code(world.write_file(&read_only, None, b"x")), libc::EBADF);
    assert_eq!(code(world.done(FileOperation::Truncate { file: read_only, length: 1 })), libc::EINVAL);
    // None with this number.
    let none = File::borrowed(1_000_000);
    assert_eq!(code(world.read_file(&none, None, 10)), libc::EBADF);
    assert_eq!(code(world.done(FileOperation::Sync { file: none, data_only: true })), libc::EBADF);
    // This number means something else to a ring.
    let read_only = world.open_file(&path, libc::O_RDONLY);
    assert_eq!(code(world.read_file(&read_only, Some(u64::MAX), 10)), libc::EINVAL);
    // The rest goes on.
    assert_eq!(fs::read(&path).unwrap(), b"some");
    world.assert_quiet();
}

fn closes(choice: Choice) {
    let folder = Folder::new();
    // Alone in a process, because it asks for descriptors by number.
    in_fork(|| closes_alone(choice, &folder));
}

fn closes_alone(choice: Choice, folder: &Folder) {
    let mut world = World::new(choice);
    let path = folder.file("some", b"some");
    let file = world.open_file(&path, libc::O_RDONLY);
    let fd = file.as_raw_fd();
    let clone = file.clone();
    assert!(file.into_descriptor().is_none(), "somebody else has it");
    assert!(is_open(fd));
    world.close(clone).unwrap();
    assert!(!is_open(fd));
    let other = OwnedFd::from(fs::File::open(&path).unwrap());
    let borrowed = File::borrowed(other.as_raw_fd());
    assert_eq!(world.read_file(&borrowed, None, 4).unwrap(), b"some");
    assert!(borrowed.into_descriptor().is_none());
    assert!(is_open(other.as_raw_fd()));
}

/// A descriptor that its owner has let go of stays what it is until the operation is over.
fn stays_open_while_it_is_used(choice: Choice) {
    const COUNT: usize = 16;
    let folder = Folder::new();
    let all = pattern(4 << 20, 1);
    let path = folder.file("some", &all);
    // Alone in a process, because it asks for descriptors by number.
    in_fork(|| {
        let mut world = World::new(choice);
        let file = world.open_file(&path, libc::O_RDONLY);
        let fd = file.as_raw_fd();
        let alive = Arc::default();
        let blocks: Vec<_> = (0..COUNT).map(|_| Block::new(vec![0; all.len()], &alive)).collect();
        for memory in blocks {
            world.file(FileOperation::Read { file: file.clone(), offset: Some(0), memory });
        }
        match file.into_descriptor() {
            None => assert!(is_open(fd)),
            // More than threads can be done with by now, unless this one was kept from running.
            Some(_closed) => assert_eq!(choice, Choice::Epoll),
        }
        for _ in 0..COUNT {
            let FileEvent::Transferred { memory, result } = world.file_event() else { panic!() };
            assert_eq!(result.unwrap(), all.len());
            assert!(bytes_of(memory) == all);
        }
        assert!(!is_open(fd));
    });
}

fn many_at_once(choice: Choice) {
    const COUNT: usize = 1000;
    let folder = Folder::new();
    let mut world = World::new(choice);
    let all = pattern(COUNT * 10, 4);
    let file = world.open_file(folder.file("some", &all), libc::O_RDONLY);
    let alive: Arc<AtomicUsize> = Arc::default();
    for number in 0..COUNT {
        let memory = Block::new(vec![0; 10], &alive);
        let offset = Some(number as u64 * 10);
        let operation = FileOperation::Read { file: file.clone(), offset, memory };
        world.driver.file(operation, Key(number as u64)).unwrap();
    }
    let mut seen = HashSet::new();
    while seen.len() < COUNT {
        let completion = world.next();
        let Event::File(FileEvent::Transferred { memory, result }) = completion.event else { panic!() };
        let number = completion.key.0 as usize;
        assert_eq!(result.unwrap(), 10);
        assert_eq!(bytes_of(memory), all[number * 10..][..10]);
        assert!(seen.insert(number));
    }
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    // Others' threads may have started meanwhile, in the tests that run beside this one; the ring has none of ours.
    if choice == Choice::Epoll {
        assert!(our_threads() > 0);
    }
    world.assert_quiet();
}

/// A wait that blocks ends with a completion, and one without end is no different.
fn wakes_a_wait(choice: Choice) {
    let folder = Folder::new();
    let mut world = World::new(choice);
    let file = world.open_file(folder.file("some", b"some"), libc::O_RDWR);
    let begin = Instant::now();
    for _ in 0..20 {
        world.file(FileOperation::Sync { file: file.clone(), data_only: false });
        let mut completions = Vec::new();
        while completions.is_empty() {
            world.driver.wait(None, &mut completions).unwrap();
        }
    }
    assert!(begin.elapsed() < LIMIT);
}

fn with_sockets_in_between(choice: Choice) {
    let folder = Folder::new();
    let mut world = World::new(choice);
    let file = world.open_file(folder.file("some", b"some"), libc::O_RDONLY);
    let (here, mut there) = pair();
    world.receive(&here, 1);
    let alive = Arc::default();
    for _ in 0..50 {
        world.start_read(&file, Some(0), 4, &alive);
        io::Write::write_all(&mut there, b"data").unwrap();
        let (mut read, mut received) = (0, 0);
        while read < 1 || received < 4 {
            let completion = world.next();
            match completion.event {
                Event::File(FileEvent::Transferred { result, .. }) => {
                    read += usize::from(result.unwrap() == 4)
                }
                event => match World::received(event, here.as_raw_fd()) {
                    Said::Bytes(bytes) => received += bytes.len(),
                    other => panic!("{other:?}"),
                },
            }
        }
        assert_eq!(world.send(&here, b"back").unwrap(), 4);
        assert_eq!(read_exactly(&there, 4), b"back");
    }
}

/// Opening does not wait for the other end of a FIFO.
fn a_fifo_does_not_hold_up_others(choice: Choice) {
    let folder = Folder::new();
    let mut world = World::new(choice);
    let fifo = make_fifo(&folder, "fifo");
    let some = folder.file("some", b"some");
    assert_eq!(code(world.open(&fifo, libc::O_WRONLY)), libc::ENXIO);
    assert_eq!(code(world.open(&fifo, libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC)), libc::ENXIO);
    let readers: Vec<_> = (0..20).map(|_| world.open(&fifo, libc::O_RDONLY).unwrap()).collect();
    assert!(readers.iter().all(|opened| opened.status.pollable));
    let writer = world.open(&fifo, libc::O_WRONLY).unwrap();
    assert!(writer.status.pollable);
    assert_eq!(fs::read(some).unwrap(), b"some");
}

fn cancelled(choice: Choice) {
    let folder = Folder::new();
    in_fork(|| cancelled_alone(choice, &folder));
}

fn cancelled_alone(choice: Choice, folder: &Folder) {
    let mut world = World::new(choice);
    let path = folder.file("some", &pattern(1000, 1));
    let alive: Arc<AtomicUsize> = Arc::default();
    // At every stage: each operation ends once, with its memory, having done it or not.
    for round in 0..200_u64 {
        let file = world.open_file(&path, libc::O_RDWR);
        let fd = file.as_raw_fd();
        let memory = Block::new(vec![0; 100], &alive);
        let read = FileOperation::Read { file: file.clone(), offset: Some(round), memory };
        let read = world.file(read);
        if round % 2 == 0 {
            world.wait(Duration::ZERO);
        }
        match round % 3 {
            0 => world.driver.cancel(read),
            1 => world.driver.cancel_now(read).unwrap(),
            _ => {
                world.driver.cancel(read);
                world.driver.cancel(read);
            }
        }
        let FileEvent::Transferred { memory, result } = world.file_event() else { panic!() };
        match result {
            Ok(count) => assert_eq!(bytes_of(memory)[..count], pattern(1000, 1)[round as usize..][..count]),
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(libc::ECANCELED));
                assert_eq!(bytes_of(memory).len(), 100);
            }
        }
        // A close that is cancelled closes all the same.
        let close = world.file(FileOperation::Close { descriptor: file.into_descriptor().unwrap() });
        world.driver.cancel(close);
        let FileEvent::Done(Ok(())) = world.file_event() else { panic!() };
        assert!(!is_open(fd));
        world.driver.cancel(read);
        world.driver.cancel(close);
    }
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    world.assert_quiet();
}

/// Whatever is under way, memory and descriptors outlive it, and no longer.
fn dropped_under_way(choice: Choice) {
    let folder = Folder::new();
    let path = folder.file("some", &pattern(4 << 20, 1));
    let alive: Arc<AtomicUsize> = Arc::default();
    for round in 0..30 {
        let mut world = World::new(choice);
        let file = world.open_file(&path, libc::O_RDWR);
        for _ in 0..10 {
            world.start_read(&file, Some(0), 1 << 20, &alive);
            let memory = Block::new(pattern(1 << 20, 1), &alive);
            world.file(FileOperation::Write { file: file.clone(), offset: Some(0), memory });
        }
        world.file(FileOperation::Open { path: path_of(&path), flags: libc::O_RDONLY, mode: 0 });
        let other = OwnedFd::from(fs::File::open(&path).unwrap());
        world.file(FileOperation::Close { descriptor: other });
        drop(file);
        if round % 2 == 0 {
            world.driver.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
        }
        drop(world);
        assert_eq!(alive.load(Ordering::Relaxed), 0);
    }
    assert!(fs::read(&path).unwrap() == pattern(4 << 20, 1));
}

/// Detached here, what was under way goes on in another thread, and nothing is done twice.
fn moves_to_another_thread(choice: Choice) {
    let folder = Folder::new();
    let path = folder.file("log", b"");
    for round in 0..20 {
        let mut world = World::new(choice);
        let file = world.open_file(&path, libc::O_WRONLY | libc::O_APPEND);
        fs::write(&path, b"").unwrap();
        for _ in 0..20 {
            let memory = Block::new(b"once;".to_vec(), &Arc::default());
            world.file(FileOperation::Write { file: file.clone(), offset: None, memory });
        }
        if round % 2 == 0 {
            world.wait(Duration::ZERO);
        }
        assert_eq!(
            world.driver.has_files(),
            choice == Choice::Uring && (round % 2 == 1 || world.said.len() < 20)
        );
        world.driver.detach().unwrap();
        std::thread::spawn(move || {
            for _ in 0..20 {
                let FileEvent::Transferred { result: Ok(5), .. } = world.file_event() else { panic!() };
            }
            world.assert_quiet();
        })
        .join()
        .unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"once;".repeat(20));
    }
}

/// Not detached, everything still ends, once.
fn moves_without_notice(choice: Choice) {
    let folder = Folder::new();
    let path = folder.file("some", &pattern(8 << 20, 1));
    for submits in [false, true] {
        let mut world = World::new(choice);
        let file = world.open_file(&path, libc::O_RDONLY);
        let alive = Arc::default();
        for _ in 0..4 {
            world.start_read(&file, Some(0), 8 << 20, &alive);
        }
        if submits {
            world.wait(Duration::ZERO);
        }
        std::thread::spawn(move || {
            for _ in 0..4 {
                let FileEvent::Transferred { memory, result } = world.file_event() else { panic!() };
                match result {
                    Ok(length) => assert!(bytes_of(memory)[..length] == pattern(8 << 20, 1)[..length]),
                    Err(error) => {
                        assert!(submits && choice == Choice::Uring);
                        assert_eq!(error.raw_os_error(), Some(libc::EIO));
                        assert!(memory.is_none());
                    }
                }
            }
            world.assert_quiet();
        })
        .join()
        .unwrap();
    }
}

fn inherited(choice: Choice) {
    let folder = Folder::new();
    let path = folder.file("some", &pattern(4 << 20, 1));
    let mut world = World::new(choice);
    let file = world.open_file(&path, libc::O_RDONLY);
    let alive = Arc::default();
    for _ in 0..8 {
        world.start_read(&file, Some(0), 4 << 20, &alive);
    }
    world.driver.wait(Some(Duration::ZERO), &mut Vec::new()).unwrap();
    for uses in [false, true] {
        let mut inherited = Some(world);
        let path = &path;
        in_fork(|| {
            let mut world = inherited.take().unwrap();
            if uses {
                let file = world.open_file_among_others(path);
                assert_eq!(world.read_file(&file, Some(0), 10).unwrap(), pattern(10, 1));
                world.close(file).unwrap();
            }
            drop(world);
        });
        world = inherited.take().unwrap();
    }
    let file = world.open_file_among_others(&path);
    assert_eq!(world.read_file(&file, Some(5), 10).unwrap(), pattern(15, 1)[5..]);
}

impl World {
    /// As `open_file`, where transfers of before may complete first.
    fn open_file_among_others(&mut self, path: &Path) -> File {
        self.file(FileOperation::Open { path: path_of(path), flags: libc::O_RDONLY, mode: 0 });
        let mut opened = None;
        while opened.is_none() || !self.is_quiet() {
            let Some(completion) = self.said.pop_front() else {
                self.wait(QUIET);
                continue;
            };
            match completion.event {
                Event::File(FileEvent::Opened(result)) => opened = Some(result.unwrap()),
                Event::File(FileEvent::Transferred { .. }) | Event::Received(Received::Stopped) => {}
                other => panic!("{other:?}"),
            }
        }
        File::owned(opened.unwrap().descriptor)
    }

    fn is_quiet(&mut self) -> bool {
        self.said.is_empty() && self.wait(QUIET) == 0
    }
}

/// The end of a driver is the end of its threads. Alone in a process, because it counts them.
fn threads_end(choice: Choice) {
    let folder = Folder::new();
    let path = folder.file("some", b"some");
    in_fork(|| {
        for _ in 0..20 {
            let mut world = World::new(choice);
            let file = world.open_file(&path, libc::O_RDWR);
            let alive = Arc::default();
            for _ in 0..50 {
                world.start_read(&file, Some(0), 4, &alive);
            }
            for _ in 0..50 {
                world.file_event();
            }
            let ours = our_threads();
            match choice {
                Choice::Uring => assert_eq!(ours, 0, "{:?}", threads()),
                _ => assert!((1..=4).contains(&ours), "{:?}", threads()),
            }
            drop(world);
            // A thread that has said that it ends may still be listed for a moment.
            let begin = Instant::now();
            while our_threads() > 0 {
                assert!(begin.elapsed() < LIMIT, "{:?}", threads());
                std::thread::yield_now();
            }
        }
    });
}
