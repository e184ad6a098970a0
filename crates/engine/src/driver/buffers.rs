//! Receive buffers: a pool for each ring, shared by all its connections, out of which the kernel takes one
//! when there are bytes to put into it. An idle connection owns none.
//!
//! The pool is one mapping: the table through which buffers are given to the kernel (a "provided buffer
//! ring", `io_uring_register_buf_ring(3)`), then the buffers. Memory that was never written takes none.
//!
//! Who may touch what: a buffer belongs to the kernel from being put into the table until a completion names
//! it, then to the [`Chunk`] until that is dropped, in whichever thread. The mapping stays for as long as a
//! chunk or a ring needs it, and for ever (without its memory) after a ring that was left behind with
//! receives under way in another thread: see [`Pool::keep_addresses`].
//!
//! Chunks may be kept for as long as the caller likes, and still the kernel never runs out: only [`LENT`]
//! buffers are lent. Beyond that bytes are copied out and their buffer goes straight back.
//!
//! The kernel takes buffers in turn, so that all those in the table pass through the processor's caches. Few
//! are offered at first, therefore, and the rest kept in reserve until several receives at once have found
//! none ([`Pool::starved`]).

use std::fmt;
use std::io;
use std::ops::Deref;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use io_uring::types::BufRingEntry;

/// Buffers of a pool; a power of two, as the kernel asks.
pub(super) const BUFFERS: u16 = 128;

/// Bytes in a buffer: what one receive can bring. Large enough for a bulk transfer to spend its time copying
/// rather than in calls, small enough for a pool of them.
pub(super) const BUFFER_SIZE: usize = 64 * 1024;

/// So many buffers are offered to the kernel at first.
const OFFERED_FIRST: u16 = 16;

/// When so many receives have found no buffer in one wait, more are offered. A single one that does is a
/// bulk transfer, which gains nothing from more.
const STARVED: usize = 4;

/// At most so many buffers are lent to chunks, which leaves the kernel a quarter of them.
pub(super) const LENT: usize = BUFFERS as usize / 4 * 3;

/// The table takes a page (of up to 64 KiB), and the buffers begin behind it.
const TABLE_SIZE: usize = 64 * 1024;

const MAPPED: usize = TABLE_SIZE + BUFFERS as usize * BUFFER_SIZE;

/// The buffers of one ring.
pub(super) struct Pool {
    memory: NonNull<u8>,
    /// The lock is for chunks dropped in other threads.
    supply: Mutex<Supply>,
    /// How many buffers the kernel was seen to have taken from the table, modulo 2¹⁶.
    taken: AtomicU16,
    lent: AtomicUsize,
    keep_addresses: AtomicBool,
}

#[derive(Debug)]
struct Supply {
    /// How many buffers were ever put into the table, modulo 2¹⁶: where the next one goes.
    tail: u16,
    /// How many buffers the table is to offer.
    offered: u16,
    /// Buffers in nobody's hands; the one used last is the first to be used again.
    reserve: Vec<u16>,
}

// SAFETY: the mapping is not bound to a thread. The table is written under the lock, and a buffer only ever
// has one owner (see above).
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Pool {
    /// A pool with all its buffers in the table.
    pub(super) fn new() -> io::Result<Arc<Self>> {
        // SAFETY: a new private mapping, wherever the kernel likes.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                MAPPED,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
                -1,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // With huge pages the first byte would take two megabytes. It is advice; an error says that there
        // are none. SAFETY: the mapping just made.
        unsafe { libc::madvise(memory, MAPPED, libc::MADV_NOHUGEPAGE) };
        let memory = NonNull::new(memory.cast()).expect("a mapping is not at address zero");
        let pool = Self {
            memory,
            supply: Mutex::new(Supply {
                tail: 0,
                offered: OFFERED_FIRST,
                reserve: (0..BUFFERS).rev().collect(),
            }),
            taken: AtomicU16::new(0),
            lent: AtomicUsize::new(0),
            keep_addresses: AtomicBool::new(false),
        };
        pool.top_up();
        Ok(Arc::new(pool))
    }

    /// The address of the table, for the kernel: page-aligned, [`BUFFERS`] entries long.
    pub(super) fn table(&self) -> u64 {
        self.memory.as_ptr() as u64
    }

    /// Makes a chunk of the first `length` bytes of a buffer.
    ///
    /// # Safety
    ///
    /// A completion has just named the buffer `id`, and `length` bytes were received into it.
    pub(super) unsafe fn take(self: &Arc<Self>, id: u16, length: usize) -> Chunk {
        assert!(id < BUFFERS && length <= BUFFER_SIZE, "the kernel names buffers that it was given");
        self.count_taken();
        if self.lent.load(Ordering::Relaxed) < LENT {
            self.lent.fetch_add(1, Ordering::Relaxed);
            return Chunk { bytes: Bytes::Lent { pool: self.clone(), id, length }, start: 0 };
        }
        // SAFETY: the buffer is nobody's but the caller's until it is given back, and its bytes were written.
        let bytes = unsafe { slice::from_raw_parts(self.buffer(id), length) }.into();
        self.give_back(id);
        Chunk { bytes: Bytes::Copied(bytes), start: 0 }
    }

    /// Puts a buffer back into which nothing was received after all.
    ///
    /// # Safety
    ///
    /// A completion has just named it.
    pub(super) unsafe fn put_back(&self, id: u16) {
        self.count_taken();
        self.give_back(id);
    }

    /// Offers as many buffers as it is to, as long as there are some in reserve. Before the ring is entered.
    pub(super) fn top_up(&self) {
        // Without the lock this may miss a buffer that another thread gives back, which then sees to itself.
        let offered = self.tail().load(Ordering::Relaxed).wrapping_sub(self.taken.load(Ordering::Relaxed));
        if offered < OFFERED_FIRST || offered < self.lock().offered {
            let mut supply = self.lock();
            while self.in_table(&supply) < supply.offered
                && let Some(id) = supply.reserve.pop()
            {
                self.offer(&mut supply, id);
            }
        }
    }

    /// Takes note of so many receives in one wait that found no buffer.
    pub(super) fn starved(&self, receives: usize) {
        if receives >= STARVED {
            let mut supply = self.lock();
            supply.offered = (2 * supply.offered).min(BUFFERS);
        }
    }

    /// Takes a buffer back which nobody uses any more.
    fn give_back(&self, id: u16) {
        let mut supply = self.lock();
        if self.in_table(&supply) < supply.offered {
            self.offer(&mut supply, id);
        } else {
            supply.reserve.push(id);
        }
    }

    /// Puts a buffer into the table.
    fn offer(&self, supply: &mut Supply, id: u16) {
        let table = self.memory.as_ptr().cast::<BufRingEntry>();
        // SAFETY: the place is inside of the table, and the kernel reads only those before the tail. The
        // tail itself lies in the reserved bytes of the first entry, which setting the members of an entry
        // leaves alone.
        unsafe {
            let entry = &mut *table.add(usize::from(supply.tail & (BUFFERS - 1)));
            entry.set_addr(self.buffer(id) as u64);
            entry.set_len(BUFFER_SIZE as u32);
            entry.set_bid(id);
        }
        supply.tail = supply.tail.wrapping_add(1);
        // Release: the kernel must not see the tail before the entry.
        self.tail().store(supply.tail, Ordering::Release);
    }

    /// The table's tail, which the kernel reads.
    fn tail(&self) -> &AtomicU16 {
        let table = self.memory.as_ptr().cast::<BufRingEntry>();
        // SAFETY: it is 16 bits, aligned, in the mapping, and only ever accessed atomically.
        unsafe { &*BufRingEntry::tail(table).cast::<AtomicU16>() }
    }

    /// How many buffers the table has, as far as completions tell.
    fn in_table(&self, supply: &Supply) -> u16 {
        supply.tail.wrapping_sub(self.taken.load(Ordering::Relaxed))
    }

    fn count_taken(&self) {
        // Only the ring's thread counts, so this need not be one instruction.
        self.taken.store(self.taken.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    fn lock(&self) -> MutexGuard<'_, Supply> {
        self.supply.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never to give the addresses to anybody else, because a ring that cannot be waited for may still write
    /// to them.
    pub(super) fn keep_addresses(&self) {
        self.keep_addresses.store(true, Ordering::Relaxed);
    }

    fn buffer(&self, id: u16) -> *mut u8 {
        // SAFETY: the buffer lies in the mapping.
        unsafe { self.memory.as_ptr().add(TABLE_SIZE + usize::from(id) * BUFFER_SIZE) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let memory = self.memory.as_ptr().cast();
        // SAFETY: the mapping is this pool's, and neither a chunk nor a ring is left that refers to it: both
        // would hold the pool.
        unsafe {
            if self.keep_addresses.load(Ordering::Relaxed) {
                // The memory goes; a late write gets itself a fresh page that nobody reads.
                libc::madvise(memory, MAPPED, libc::MADV_DONTNEED);
            } else {
                libc::munmap(memory, MAPPED);
            }
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Pool").field("lent", &self.lent).finish_non_exhaustive()
    }
}

/// Received bytes, maybe in a buffer of the driver's; dropping it gives the buffer back.
///
/// It may be kept, dropped in another thread, and outlive the driver.
pub struct Chunk {
    bytes: Bytes,
    /// How many bytes at the beginning are done with ([`Chunk::advance`]).
    start: usize,
}

impl Chunk {
    /// Takes `count` bytes off the beginning. Panics if there are fewer.
    pub fn advance(&mut self, count: usize) {
        assert!(count <= self.len(), "only what is there can be taken off");
        self.start += count;
    }
}

enum Bytes {
    Lent { pool: Arc<Pool>, id: u16, length: usize },
    Copied(Box<[u8]>),
}

impl Deref for Chunk {
    type Target = [u8];

    #[inline]
    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Copied(bytes) => &bytes[self.start..],
            // SAFETY: `length` bytes of the buffer were written, and it is this chunk's until it is dropped.
            Bytes::Lent { pool, id, length } => unsafe {
                &slice::from_raw_parts(pool.buffer(*id), *length)[self.start..]
            },
        }
    }
}

impl Drop for Chunk {
    fn drop(&mut self) {
        if let Bytes::Lent { pool, id, .. } = &self.bytes {
            pool.lent.fetch_sub(1, Ordering::Relaxed);
            pool.give_back(*id);
        }
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

impl fmt::Debug for Chunk {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Chunk({} bytes)", self.len())
    }
}
