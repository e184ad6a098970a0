//! The server on io_uring: multishot accept and receive into provided buffers, sends straight out of them, and one system
//! call an iteration, which submits and waits.

use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode, squeue};

/// Buffers that the kernel receives into. A power of two, enough for every connection of the rows to hold two.
const BUFFERS: u16 = 128;
/// Room for the largest message of the rows.
const BUFFER_SIZE: usize = 64 * 1024;
const GROUP: u16 = 0;

/// What a completion is of, in the upper half of its user data; a descriptor is in the lower.
#[derive(Clone, Copy, PartialEq)]
enum Operation {
    Accept = 0,
    Receive = 1,
    Send = 2,
}

fn user_data(operation: Operation, descriptor: i32) -> u64 {
    (operation as u64) << 32 | descriptor as u64
}

/// A message that was received into the buffer `id` and is to be sent out of it.
struct Message {
    id: u16,
    length: u32,
}

#[derive(Default)]
struct Connection {
    /// What is to be sent, in order; the first of it is under way.
    messages: VecDeque<Message>,
    receives: bool,
    closed: bool,
}

/// Serves until the process ends.
pub(crate) fn serve(listener: TcpListener) -> io::Result<()> {
    let ring =
        IoUring::builder().setup_single_issuer().setup_defer_taskrun().setup_cqsize(4096).build(1024)?;
    let buffers = Buffers::new(&ring)?;
    let mut server = Server { ring, buffers, connections: Vec::new(), starved: Vec::new() };
    server.accept(&listener)?;
    let mut completions = Vec::with_capacity(4096);
    loop {
        server.ring.submit_and_wait(1)?;
        completions.extend(server.ring.completion());
        for completion in completions.drain(..) {
            let descriptor = completion.user_data() as u32 as i32;
            match completion.user_data() >> 32 {
                accept if accept == Operation::Accept as u64 => server.accepted(&listener, &completion)?,
                receive if receive == Operation::Receive as u64 => {
                    server.received(descriptor, &completion)?
                }
                _ => server.sent(descriptor, completion.result())?,
            }
        }
        server.feed_starved()?;
    }
}

struct Server {
    ring: IoUring,
    buffers: Buffers,
    connections: Vec<Connection>,
    /// Connections whose receive ended because there was no buffer.
    starved: Vec<i32>,
}

impl Server {
    fn accept(&mut self, listener: &TcpListener) -> io::Result<()> {
        let entry = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).build();
        self.push(entry.user_data(user_data(Operation::Accept, 0)))
    }

    fn receive(&mut self, descriptor: i32) -> io::Result<()> {
        self.connections[descriptor as usize].receives = true;
        let entry = opcode::RecvMulti::new(Fd(descriptor), GROUP).build();
        self.push(entry.user_data(user_data(Operation::Receive, descriptor)))
    }

    /// Sends the connection's first message, the whole of it, out of the buffer where it came in.
    fn send(&mut self, descriptor: i32) -> io::Result<()> {
        let Message { id, length } = self.connections[descriptor as usize].messages[0];
        // MSG_WAITALL has the kernel go on after a short send by itself.
        let entry = opcode::Send::new(Fd(descriptor), self.buffers.address(id), length)
            .flags(libc::MSG_WAITALL | libc::MSG_NOSIGNAL)
            .build();
        self.push(entry.user_data(user_data(Operation::Send, descriptor)))
    }

    fn push(&mut self, entry: squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: the memory that an entry points to is a provided buffer, which lives as long as the ring and is not
            // given back to the kernel before the entry's completion.
            if unsafe { self.ring.submission().push(&entry) }.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }

    fn accepted(&mut self, listener: &TcpListener, completion: &cqueue::Entry) -> io::Result<()> {
        if !cqueue::more(completion.flags()) {
            self.accept(listener)?;
        }
        let descriptor = completion.result();
        if descriptor < 0 {
            return Err(io::Error::from_raw_os_error(-descriptor));
        }
        // SAFETY: the kernel has just made the descriptor, and it stays open: the reference ends with the call.
        let socket = unsafe { rustix::fd::BorrowedFd::borrow_raw(descriptor) };
        rustix::net::sockopt::set_tcp_nodelay(socket, true)?;
        let index = descriptor as usize;
        if self.connections.len() <= index {
            self.connections.resize_with(index + 1, Connection::default);
        }
        self.connections[index] = Connection::default();
        self.receive(descriptor)
    }

    fn received(&mut self, descriptor: i32, completion: &cqueue::Entry) -> io::Result<()> {
        let connection = &mut self.connections[descriptor as usize];
        if let (Some(id), Ok(length @ 1..)) =
            (cqueue::buffer_select(completion.flags()), u32::try_from(completion.result()))
        {
            connection.messages.push_back(Message { id, length });
            if connection.messages.len() == 1 {
                self.send(descriptor)?;
            }
        }
        if cqueue::more(completion.flags()) {
            return Ok(());
        }
        self.connections[descriptor as usize].receives = false;
        match completion.result() {
            result if result == -libc::ENOBUFS => {
                self.starved.push(descriptor);
                Ok(())
            }
            1.. => self.receive(descriptor),
            _ => {
                self.connections[descriptor as usize].closed = true;
                self.close_when_done(descriptor);
                Ok(())
            }
        }
    }

    fn sent(&mut self, descriptor: i32, result: i32) -> io::Result<()> {
        let connection = &mut self.connections[descriptor as usize];
        let Some(message) = connection.messages.pop_front() else { return Ok(()) };
        self.buffers.give_back(message.id);
        if result != message.length as i32 {
            // The peer is gone: its other messages have no one to go to.
            connection.closed = true;
            while let Some(message) = connection.messages.pop_front() {
                self.buffers.give_back(message.id);
            }
        }
        if self.connections[descriptor as usize].messages.is_empty() {
            self.close_when_done(descriptor);
            Ok(())
        } else {
            self.send(descriptor)
        }
    }

    /// Receives again where the buffers had run out: by now messages have been sent.
    fn feed_starved(&mut self) -> io::Result<()> {
        while let Some(descriptor) = self.starved.pop() {
            self.receive(descriptor)?;
        }
        Ok(())
    }

    /// Closes a connection once no operation of it is under way. A reset ends its receive, too.
    fn close_when_done(&mut self, descriptor: i32) {
        let connection = &self.connections[descriptor as usize];
        if connection.closed && !connection.receives && connection.messages.is_empty() {
            // SAFETY: the descriptor is the server's own, and with this connection's last operation done nothing names it.
            drop(unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(descriptor) });
        }
    }
}

/// The ring of provided buffers.
struct Buffers {
    entries: NonNull<BufRingEntry>,
    /// All buffers, one after the other. Only the kernel writes to them.
    memory: NonNull<u8>,
    tail: u16,
}

impl Buffers {
    fn new(ring: &IoUring) -> io::Result<Self> {
        let length = size_of::<BufRingEntry>() * usize::from(BUFFERS);
        let protection = rustix::mm::ProtFlags::READ | rustix::mm::ProtFlags::WRITE;
        // SAFETY: an anonymous mapping at an address of the kernel's choice replaces no other.
        let mapping = unsafe {
            rustix::mm::mmap_anonymous(
                std::ptr::null_mut(),
                length,
                protection,
                rustix::mm::MapFlags::PRIVATE,
            )?
        };
        let entries =
            NonNull::new(mapping.cast::<BufRingEntry>()).expect("mmap does not map the address zero");
        // SAFETY: the mapping has room for the entries, is aligned to a page and is never unmapped.
        unsafe { ring.submitter().register_buf_ring_with_flags(entries.as_ptr() as u64, BUFFERS, GROUP, 0)? };
        // The memory is never freed, as the ring lives until the process ends.
        let memory = NonNull::from(vec![0_u8; usize::from(BUFFERS) * BUFFER_SIZE].leak()).cast();
        let mut buffers = Self { entries, memory, tail: 0 };
        for id in 0..BUFFERS {
            buffers.give_back(id);
        }
        Ok(buffers)
    }

    fn address(&self, id: u16) -> *const u8 {
        assert!(id < BUFFERS, "the kernel names a buffer that it was not given");
        // SAFETY: the offset is within the memory, which has BUFFERS times BUFFER_SIZE bytes.
        unsafe { self.memory.as_ptr().add(usize::from(id) * BUFFER_SIZE) }
    }

    fn give_back(&mut self, id: u16) {
        let address = self.address(id) as u64;
        // SAFETY: the index is within the ring, whose entries from head to tail are the kernel's and the others this
        // program's; the buffer with this id is not in the ring, so that the entry at the tail is free.
        unsafe {
            let entry = self.entries.as_ptr().add(usize::from(self.tail % BUFFERS));
            (*entry).set_addr(address);
            (*entry).set_len(BUFFER_SIZE as u32);
            (*entry).set_bid(id);
        }
        self.tail = self.tail.wrapping_add(1);
        // SAFETY: the tail lies within the first entry and is aligned as a u16. The kernel reads it in another context, so
        // that it is stored with release order.
        unsafe {
            let tail = BufRingEntry::tail(self.entries.as_ptr()).cast_mut();
            AtomicU16::from_ptr(tail).store(self.tail, Ordering::Release);
        }
    }
}
