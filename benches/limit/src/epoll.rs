//! The server on epoll: level-triggered, a read and a write a message, as a C server would be written.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::event::epoll::{self, EventData, EventFlags};

/// Room for the largest message of the rows, so that one read takes it.
const READ_SIZE: usize = 64 * 1024;

struct Connection {
    stream: TcpStream,
    /// What the socket did not take. While there is any the connection is not read.
    unsent: VecDeque<u8>,
}

/// Serves until the process ends.
pub(crate) fn serve(listener: TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let listening = listener.as_raw_fd();
    epoll::add(&poll, &listener, data(listening), EventFlags::IN)?;
    // Descriptors are small numbers, given out lowest first: a table of them needs no hashing.
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut buffer = vec![0; READ_SIZE];
    let mut events = Vec::with_capacity(1024);
    loop {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            let index = event.data.u64() as usize;
            if index == listening as usize {
                accept(&listener, &poll, &mut connections)?;
                continue;
            }
            let Some(connection) = connections[index].as_mut() else { continue };
            let open = if connection.unsent.is_empty() {
                connection.echo(&poll, &mut buffer)
            } else {
                connection.send_rest(&poll)
            };
            if !matches!(open, Ok(true)) {
                connections[index] = None;
            }
        }
    }
}

fn data(descriptor: i32) -> EventData {
    EventData::new_u64(descriptor as u64)
}

fn accept(
    listener: &TcpListener,
    poll: &OwnedFd,
    connections: &mut Vec<Option<Connection>>,
) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        let index = stream.as_raw_fd() as usize;
        epoll::add(poll, &stream, data(stream.as_raw_fd()), EventFlags::IN)?;
        if connections.len() <= index {
            connections.resize_with(index + 1, || None);
        }
        connections[index] = Some(Connection { stream, unsent: VecDeque::new() });
    }
}

impl Connection {
    /// Reads once and writes it back; false when the peer has closed.
    fn echo(&mut self, poll: &OwnedFd, buffer: &mut [u8]) -> io::Result<bool> {
        let count = match self.stream.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        let sent = match self.stream.write(&buffer[..count]) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(error) => return Err(error),
        };
        if sent < count {
            self.unsent.extend(&buffer[sent..count]);
            epoll::modify(poll, self.stream.as_fd(), data(self.stream.as_raw_fd()), EventFlags::OUT)?;
        }
        Ok(true)
    }

    /// Sends what was left; when nothing is, the connection is read again.
    fn send_rest(&mut self, poll: &OwnedFd) -> io::Result<bool> {
        match self.stream.write(self.unsent.make_contiguous()) {
            Ok(sent) => drop(self.unsent.drain(..sent)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
        if self.unsent.is_empty() {
            epoll::modify(poll, self.stream.as_fd(), data(self.stream.as_raw_fd()), EventFlags::IN)?;
        }
        Ok(true)
    }
}
