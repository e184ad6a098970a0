//! The closed loop: connections, each with one request under way, until the time is up.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use rustix::event::epoll;
use serde_json::{Value, json};

use crate::clocks;

/// A protocol of one request and one answer.
pub(crate) trait Exchange {
    /// The most bytes that an answer can have.
    fn longest_answer(&self) -> usize;

    /// Puts the request with this number into `request`, which still holds the connection's last one (or nothing).
    fn request(&self, number: u64, request: &mut Vec<u8>);

    /// Looks at what has arrived since the request with this number was sent.
    fn answer(&self, number: u64, received: &[u8]) -> Answer;
}

/// What has arrived so far.
pub(crate) enum Answer {
    /// A part of the right answer.
    Incomplete,
    /// The right answer, whole.
    Complete,
    /// Something else.
    Wrong,
}

/// How much load, upon which server.
pub(crate) struct Load {
    pub(crate) server: SocketAddr,
    pub(crate) connections: usize,
    pub(crate) window: Duration,
    pub(crate) warmup: Duration,
    pub(crate) server_pid: Option<u32>,
}

/// How long the load waits for any answer at all before it takes the server for hung.
const PATIENCE: Duration = Duration::from_secs(5);

impl Load {
    /// Keeps every connection busy with `exchange`, for the warm-up and then for the window that is measured.
    pub(crate) fn run(&self, exchange: &impl Exchange) -> io::Result<Value> {
        let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let mut connections = Vec::with_capacity(self.connections);
        for index in 0..self.connections {
            let stream = TcpStream::connect(self.server)?;
            stream.set_nodelay(true)?;
            stream.set_nonblocking(true)?;
            epoll::add(&poll, &stream, epoll::EventData::new_u64(index as u64), epoll::EventFlags::IN)?;
            connections.push(Some(Connection::new(stream, exchange.longest_answer())));
        }
        let mut window = Window::new(self.server_pid);
        let mut number = 0;
        for (index, connection) in connections.iter_mut().enumerate() {
            if let Some(open) = connection
                && open.send_next(exchange, &mut number, &poll, index).is_err()
            {
                window.errors += 1;
                *connection = None;
            }
        }
        let opens = Instant::now() + self.warmup;
        let mut closes = None;
        let mut events = Vec::with_capacity(1024);
        let mut last_answer = Instant::now();
        while connections.iter().any(Option::is_some) {
            events.clear();
            let wait = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
                Err(rustix::io::Errno::INTR) | Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            match closes {
                None if now >= opens => {
                    window.open()?;
                    closes = Some(now + self.window);
                }
                Some(end) if now >= end => break,
                _ if now - last_answer > PATIENCE => {
                    return Err(io::Error::new(io::ErrorKind::TimedOut, "the server stopped answering"));
                }
                _ => {}
            }
            for event in &events {
                let index = event.data.u64() as usize;
                let Some(open) = &mut connections[index] else { continue };
                match open.progress(event.flags, exchange, &mut number, &poll, index) {
                    Ok(None) => {}
                    Ok(Some(latency)) => {
                        last_answer = now;
                        window.count(latency);
                    }
                    Err(error) => {
                        window.errors += 1;
                        window.last_error = Some(error.to_string());
                        connections[index] = None;
                    }
                }
            }
        }
        window.close()
    }
}

/// A connection and the request that it has under way.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    sent: usize,
    answer: Box<[u8]>,
    received: usize,
    number: u64,
    began: Instant,
    waits_to_write: bool,
}

impl Connection {
    fn new(stream: TcpStream, longest_answer: usize) -> Self {
        Self {
            stream,
            request: Vec::new(),
            sent: 0,
            answer: vec![0; longest_answer].into_boxed_slice(),
            received: 0,
            number: 0,
            began: Instant::now(),
            waits_to_write: false,
        }
    }

    fn send_next(
        &mut self,
        exchange: &impl Exchange,
        number: &mut u64,
        poll: &OwnedFd,
        index: usize,
    ) -> io::Result<()> {
        *number += 1;
        self.number = *number;
        exchange.request(self.number, &mut self.request);
        self.sent = 0;
        self.received = 0;
        self.began = Instant::now();
        self.send(poll, index)
    }

    /// Sends what the socket takes, and asks to be told when it takes more, which large messages need.
    fn send(&mut self, poll: &OwnedFd, index: usize) -> io::Result<()> {
        while self.sent < self.request.len() {
            match self.stream.write(&self.request[self.sent..]) {
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let waits_to_write = self.sent < self.request.len();
        if waits_to_write != self.waits_to_write {
            self.waits_to_write = waits_to_write;
            let mut flags = epoll::EventFlags::IN;
            flags.set(epoll::EventFlags::OUT, waits_to_write);
            epoll::modify(poll, self.stream.as_fd(), epoll::EventData::new_u64(index as u64), flags)?;
        }
        Ok(())
    }

    /// Goes on with what the socket is ready for; the time that the request took, where its answer is whole.
    fn progress(
        &mut self,
        ready: epoll::EventFlags,
        exchange: &impl Exchange,
        number: &mut u64,
        poll: &OwnedFd,
        index: usize,
    ) -> io::Result<Option<Duration>> {
        if ready.contains(epoll::EventFlags::OUT) {
            self.send(poll, index)?;
        }
        if !ready.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            return Ok(None);
        }
        // One read a readiness: what is left shows up in the next wait, and a second read would mostly find nothing.
        match self.stream.read(&mut self.answer[self.received..]) {
            Ok(0) if self.received == self.answer.len() => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is too long"));
            }
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.received += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
            Err(error) => return Err(error),
        }
        match exchange.answer(self.number, &self.answer[..self.received]) {
            Answer::Incomplete => Ok(None),
            Answer::Wrong => Err(io::Error::new(io::ErrorKind::InvalidData, "the answer is wrong")),
            Answer::Complete => {
                let latency = self.began.elapsed();
                self.send_next(exchange, number, poll, index)?;
                Ok(Some(latency))
            }
        }
    }
}

/// The part of the run that counts, and what was seen in it. Errors count from the start.
struct Window {
    server_pid: Option<u32>,
    opened: Option<Opened>,
    errors: u64,
    last_error: Option<String>,
    latencies: Histogram<u32>,
}

struct Opened {
    at: Instant,
    own_cpu: Duration,
    server_cpu: Option<Duration>,
}

impl Window {
    fn new(server_pid: Option<u32>) -> Self {
        // Nanoseconds to three digits, up to a minute: the bounds are constants that the histogram takes.
        let latencies =
            Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("bounds that hdrhistogram takes");
        Self { server_pid, opened: None, errors: 0, last_error: None, latencies }
    }

    fn open(&mut self) -> io::Result<()> {
        let server_cpu = self.server_pid.map(clocks::cpu_time_of).transpose()?;
        self.opened = Some(Opened { at: Instant::now(), own_cpu: clocks::own_cpu_time(), server_cpu });
        Ok(())
    }

    fn count(&mut self, latency: Duration) {
        if self.opened.is_some() {
            self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    fn close(self) -> io::Result<Value> {
        let Some(opened) = self.opened else {
            let why = self.last_error.unwrap_or_else(|| "no connection was left".to_owned());
            return Err(io::Error::other(format!("no request was measured: {why}")));
        };
        let seconds = opened.at.elapsed().as_secs_f64();
        let own_cpu = (clocks::own_cpu_time() - opened.own_cpu).as_secs_f64();
        let server_cpu = match (self.server_pid, opened.server_cpu) {
            (Some(pid), Some(before)) => Some(clocks::cpu_time_of(pid)?.saturating_sub(before).as_secs_f64()),
            _ => None,
        };
        let microseconds = |nanoseconds: u64| nanoseconds as f64 / 1000.0;
        let percentile = |p: f64| microseconds(self.latencies.value_at_percentile(p));
        Ok(json!({
            "requests": self.latencies.len(),
            "seconds": seconds,
            "errors": self.errors,
            "last_error": self.last_error,
            "load_cpu_seconds": own_cpu,
            "load_cpu_share": own_cpu / seconds,
            "server_cpu_seconds": server_cpu,
            "latency_us": {
                "p50": percentile(50.0),
                "p90": percentile(90.0),
                "p99": percentile(99.0),
                "p99.9": percentile(99.9),
                "max": microseconds(self.latencies.max()),
            },
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::thread;

    use super::*;
    use crate::echo::Echo;

    /// A server that answers with what `change` makes of what it gets, on a thread a connection.
    fn server(change: fn(&mut [u8])) -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                thread::spawn(move || {
                    let mut buffer = vec![0; 1 << 20];
                    while let Ok(count @ 1..) = stream.read(&mut buffer) {
                        change(&mut buffer[..count]);
                        if stream.write_all(&buffer[..count]).is_err() {
                            break;
                        }
                    }
                });
            }
        });
        address
    }

    fn load(server: SocketAddr) -> Load {
        let (window, warmup) = (Duration::from_millis(200), Duration::from_millis(20));
        Load { server, connections: 3, window, warmup, server_pid: Some(std::process::id()) }
    }

    #[test]
    fn requests_are_answered_for_as_long_as_the_window_is_open() {
        // A message that no socket's buffer holds is written and read in parts.
        for size in [16, 1024, 3 << 20] {
            let result = load(server(|_| ())).run(&Echo::new(size).unwrap()).unwrap();
            assert_eq!(result["errors"], 0, "{result}");
            assert!(result["requests"].as_u64().unwrap() > 0, "{result}");
            // Measured from when the window was seen to be open: some microseconds less than it was open.
            assert!((0.19..2.0).contains(&result["seconds"].as_f64().unwrap()), "{result}");
            let (own, server) = (&result["load_cpu_seconds"], &result["server_cpu_seconds"]);
            // Load and server are threads of this one process, whose clock both figures are read from.
            assert!(own.as_f64().unwrap() > 0.0 && server.as_f64().unwrap() > 0.0, "{result}");
        }
    }

    #[test]
    fn an_answer_that_is_not_the_request_is_an_error() {
        let error = load(server(|message| message[0] ^= 1)).run(&Echo::new(64).unwrap()).unwrap_err();
        assert!(error.to_string().contains("the answer is wrong"), "{error}");
    }

    #[test]
    fn a_server_that_is_not_there_is_an_error() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        assert!(load(address).run(&Echo::new(64).unwrap()).is_err());
    }
}
