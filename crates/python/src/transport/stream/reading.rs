//! Bytes from the peer to the protocol.
//!
//! What the receive operation says is noted when it arrives, and delivered in the loop's order.
//!
//! How pausing works without losing data: `pause_reading()` only notes it. If something arrives while the note stands, it is
//! kept and the receive operation is told to stop; `resume_reading()` has it delivered and starts another. A protocol that pauses
//! and resumes between two packets so costs nothing at all.

use std::io;

use pyo3::exceptions::PyRuntimeError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use whilst_engine::driver::{Chunk, Operation, Received};

use super::lifecycle::cancel;
use super::{State, Stream, StreamWork};
use crate::errors::os_error;
use crate::event_loop::{LoopCore, Work};
use crate::ffi::buffer::WritableBuffer;
use crate::ffi::bytes;
use crate::ffi::call::call_method;
use crate::ffi::class::Object;
use crate::ffi::descriptor;
use crate::ffi::imports::Import;
use crate::transport::audience::Audience;
use crate::transport::socket;
use crate::transport::stream_reader;
use crate::transport::tls::Tls;

/// How many bytes one read takes at most, as in CPython (`_SelectorTransport.max_size`).
pub(crate) const MOST: usize = 256 * 1024;

/// How many bytes TLS is given at once: they are copied twice on their way and decrypted, and should not leave the processor's cache
/// meanwhile.
const MOST_OF_TLS: usize = 128 * 1024;

/// How often in succession it is read from a connection, one `data_received()` each, if it fills the memory every time.
const TURNS: usize = 16;

/// A connection that has just sent so many bytes at once probably goes on so: the next read is made straight into its `bytes`, and a
/// ring is asked to leave the bytes in the kernel until then. Below, a read by way of the loop's scratch memory, or the ring's, and a
/// copy is cheaper than memory that is mostly given back.
const BULK: usize = 32 * 1024;

/// As much memory a read is given at first. The C library has blocks of this size at hand; larger ones it may map and unmap each
/// time (mallopt(3), `M_MMAP_THRESHOLD`).
const FIRST: usize = 96 * 1024;

/// After so many reads in succession that were smaller than [`BULK`] a ring is to receive again.
const SMALL_READS: u8 = 16;

/// What came of filling a protocol's buffer.
enum Filled {
    /// So many bytes, and the protocol was told.
    Bytes(usize),
    /// The stream has ended.
    End,
    /// There was nothing, or something failed, which was dealt with.
    Nothing,
}

/// What a delivery has to hand over.
enum Delivery {
    /// Bytes that the ring has received in one go.
    Chunk(Chunk),
    /// Bytes that the ring has received in several.
    Chunks(Vec<Chunk>),
    /// Something waits in the kernel.
    Waiting,
    /// The end of the stream.
    End,
    /// The receive failed.
    Failed(io::Error),
}

impl Stream {
    /// Starts a receive operation, if the protocol wants to read.
    pub(super) fn start_reading(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let wanted = this.get().state.with(py, |state| {
            let wanted = state.connected && state.is_reading() && !state.ended && state.receive.is_none();
            if wanted { Some((state.fd()?, state.key?, state.bulk)) } else { None }
        });
        let Some((fd, key, bulk)) = wanted else { return Ok(()) };
        if event_loop.get().is_waiting(py) {
            // Another thread, which is no way to use a transport, but one that works with CPython's: the loop does it when it is awake.
            return Self::queue(this, event_loop, StreamWork::Deliver);
        }
        let started = event_loop.get().with_driver(py, |driver| {
            if bulk { driver.receive_directly(fd, key) } else { driver.receive(fd, key) }
        });
        match started? {
            Ok(operation) => {
                this.get().state.with(py, |state| state.receive = Some(operation));
                Ok(())
            }
            Err(error) => Self::read_failed(this, event_loop, &error),
        }
    }

    /// Takes note of what the receive operation says. Runs no Python code: the delivery is queued.
    pub(crate) fn received(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>, received: Received) {
        let py = event_loop.py();
        if let Received::Data(chunk) = &received {
            event_loop.get().received(chunk.len());
            event_loop.get().trace_received(py, this, chunk.len());
        }
        let announce = this.get().state.with(py, |state| state.receive(received));
        if announce {
            let work = Work::Stream(this.clone_ref(py), StreamWork::Deliver);
            event_loop.get().state.with(py, |state| state.ready.push(work));
        }
    }

    /// Hands what has arrived to the protocol, one `data_received()` unless it is much, and the end of the stream in an iteration
    /// of its own.
    ///
    /// A loop that polls reads once an iteration, so what a protocol schedules in `data_received()` runs before
    /// `eof_received()` and before `connection_lost()`; and programs rely on it (aiohttp's server starts a request's handler in
    /// between). A ring may have received several packets and the end in one go.
    pub(super) fn deliver(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let (delivery, stop) = this.get().state.with(py, |state| {
            state.announced = false;
            state.sent_at_once = 0;
            if state.closing {
                state.arrived.clear();
                return (None, None);
            }
            if state.paused {
                // What has arrived is kept, what waits in the kernel can wait there.
                state.waiting = false;
                return (None, state.stop_receiving());
            }
            let delivery = state.next_delivery();
            (
                delivery
                    .zip(state.audience(py))
                    .map(|(delivery, audience)| (delivery, audience, state.buffered)),
                None,
            )
        });
        cancel(event_loop, stop);
        // What ends the run leaves below: the loop may run again, and then what is left is to be delivered.
        let delivered = match delivery {
            Some((delivery, audience, buffered)) => {
                let delivered = Self::hand_over(this, event_loop, &audience, buffered, delivery);
                audience.release(py);
                delivered
            }
            None => {
                event_loop.get().touch();
                Ok(())
            }
        };
        let (announce, start) = this
            .get()
            .state
            .with(py, |state| (state.is_reading() && state.announce(), state.receive.is_none()));
        let next = if announce {
            Self::queue(this, event_loop, StreamWork::Deliver)
        } else if start {
            Self::start_reading(this, event_loop)
        } else {
            Ok(())
        };
        delivered.and(next)
    }

    /// Hands one delivery to the protocol.
    fn hand_over(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        buffered: bool,
        delivery: Delivery,
    ) -> PyResult<()> {
        let py = event_loop.py();
        // Who reads what waits in the kernel says it itself.
        if !matches!(delivery, Delivery::Waiting) {
            event_loop.get().touch();
        }
        let tls = Object::<Tls>::from_any(audience.protocol.bind(py));
        let count = match &delivery {
            Delivery::Chunk(chunk) => chunk.len(),
            Delivery::Chunks(chunks) => chunks.iter().map(|chunk| chunk.len()).sum(),
            _ => 0,
        };
        if count >= BULK && tls.is_none() && !buffered {
            let stop = this.get().state.with(py, |state| state.has_received(count));
            cancel(event_loop, stop);
        }
        let chunks = match delivery {
            Delivery::Chunk(chunk) if tls.is_none() && !buffered => {
                return Self::tell_of_chunk(this, event_loop, audience, chunk);
            }
            Delivery::Chunk(chunk) => vec![chunk],
            Delivery::Chunks(chunks) => chunks,
            Delivery::Waiting => {
                return match tls {
                    Some(tls) => Self::read_for_tls(this, event_loop, audience, &tls),
                    None => Self::read(this, event_loop, audience, buffered),
                };
            }
            Delivery::End => return Self::end_received(this, event_loop, audience),
            Delivery::Failed(error) => return Self::read_failed(this, event_loop, &error),
        };
        match tls {
            Some(tls) => Self::feed_tls(this, event_loop, audience, &tls, chunks),
            None if buffered => Self::fill_buffers(this, event_loop, audience, chunks),
            None if Self::feed(this, event_loop, audience, &chunks)? => Ok(()),
            None => Self::tell_of_chunks(this, event_loop, audience, chunks),
        }
    }

    /// The most frequent of deliveries, of which nothing is made but the protocol's `bytes`.
    #[inline]
    fn tell_of_chunk(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        chunk: Chunk,
    ) -> PyResult<()> {
        if Self::feed(this, event_loop, audience, std::slice::from_ref(&chunk))? {
            return Ok(());
        }
        let data = PyBytes::new(event_loop.py(), &chunk);
        // The driver has its buffer back before the protocol takes its time.
        drop(chunk);
        Self::data_received(this, event_loop, audience, &data)
    }

    /// Hands over what has arrived, [`MOST`] bytes at a time, for as long as the protocol wants to read; what is left then is kept.
    ///
    /// All of it at once would be more than any other loop gives, and more than protocols are made for: some take what they are
    /// given from a buffer's front, message by message, and every time move the rest.
    fn tell_of_chunks(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        mut chunks: Vec<Chunk>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        while !chunks.is_empty() {
            let mut length = 0;
            let fits = |chunk: &&Chunk| {
                length += chunk.len();
                length <= MOST
            };
            let count = chunks.iter().take_while(fits).count().max(1);
            let rest = chunks.split_off(count);
            let data = bytes::concat(py, &chunks)?;
            chunks = rest;
            let told = Self::data_received(this, event_loop, audience, &data);
            // The protocol may have paused or closed the transport, or handed it to another; or ended the run.
            let goes_on = told.is_ok()
                && this.get().state.with(py, |state| state.is_reading() && state.is_audience(audience));
            if !goes_on {
                this.get().state.with(py, |state| state.put_back(chunks));
                return told;
            }
        }
        Ok(())
    }

    /// Hands what the ring has received to TLS, from where it lies: there is no Python call and no copy in between.
    ///
    /// Much is handed over in parts, and TLS decrypts one before it is given the next: the memory that all at once would take is too
    /// much for the processor's caches, and C's allocator gives it back to the system each time.
    fn feed_tls(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        tls: &Object<Tls>,
        mut chunks: Vec<Chunk>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        while !chunks.is_empty() {
            let goes_on =
                this.get().state.with(py, |state| state.is_reading() && state.is_audience(audience));
            if !goes_on {
                this.get().state.with(py, |state| state.put_back(chunks));
                return Ok(());
            }
            let mut length = 0;
            let enough = chunks.iter().position(|chunk| {
                length += chunk.len();
                length >= MOST_OF_TLS
            });
            let rest = chunks.split_off(enough.map_or(chunks.len(), |last| last + 1));
            // The driver has these buffers back before the protocol takes its time.
            let part = std::mem::replace(&mut chunks, rest);
            Self::tell_tls(this, event_loop, audience, |_protocol| Tls::receive(tls, py, part).map(drop))?;
        }
        Ok(())
    }

    /// Reads what waits in the kernel for TLS.
    fn read_for_tls(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        tls: &Object<Tls>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let Some(fd) = this.get().state.with(py, |state| state.fd()) else { return Ok(()) };
        // Taken out of its place, as what is called may run Python code that looks there.
        let mut scratch = event_loop.get().take_scratch(py);
        let mut untouched = false;
        let told = match socket::receive(descriptor::borrow(fd), &mut scratch[..MOST_OF_TLS]) {
            Ok(0) => Self::end_received(this, event_loop, audience),
            Ok(count) => {
                event_loop.get().received(count);
                event_loop.get().trace_received(py, this, count);
                let received = &scratch[..count];
                Self::tell_tls(this, event_loop, audience, |_protocol| {
                    untouched = Tls::receive(tls, py, [received])? && count < MOST_OF_TLS;
                    Ok(())
                })
            }
            Err(error) => Self::read_failed(this, event_loop, &error),
        };
        event_loop.get().give_scratch_back(py, scratch);
        if !untouched {
            event_loop.get().touch();
        }
        told
    }

    /// Has TLS look at what was received.
    fn tell_tls(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        body: impl FnOnce(&Bound<'_, PyAny>) -> PyResult<()>,
    ) -> PyResult<()> {
        match audience.tell(event_loop.py(), body) {
            Ok(()) => Ok(()),
            Err(error) => {
                let message = "Fatal error: protocol.buffer_updated() call failed.";
                Self::fatal_error(this, event_loop, error, message)
            }
        }
    }

    /// Copies what has arrived into the buffers that the protocol gives, for as long as it wants to read; what is left then is
    /// kept.
    fn fill_buffers(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        chunks: Vec<Chunk>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let mut chunks = chunks.into_iter();
        while let Some(mut chunk) = chunks.next() {
            while !chunk.is_empty() {
                // The protocol may have paused or closed the transport, or handed it to another.
                let goes_on =
                    this.get().state.with(py, |state| state.is_reading() && state.is_audience(audience));
                if !goes_on {
                    let rest = std::iter::once(chunk).chain(chunks);
                    this.get().state.with(py, |state| state.put_back(rest));
                    return Ok(());
                }
                let fill = |memory: &mut [u8]| {
                    let count = chunk.len().min(memory.len());
                    memory[..count].copy_from_slice(&chunk[..count]);
                    Ok(count)
                };
                match Self::fill_buffer(this, event_loop, audience, fill)? {
                    Filled::Bytes(count) => {
                        chunk.advance(count);
                        // It goes by what the protocol takes at once: small buffers are better filled one after the other from here.
                        if count >= BULK {
                            let stop = this.get().state.with(py, |state| state.has_received(count));
                            cancel(event_loop, stop);
                        }
                    }
                    Filled::End | Filled::Nothing => return Ok(()),
                }
            }
        }
        Ok(())
    }

    /// Reads what waits in the kernel.
    fn read(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        buffered: bool,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let Some(fd) = this.get().state.with(py, |state| state.fd()) else { return Ok(()) };
        let fd = descriptor::borrow(fd);
        let last = this.get().state.with(py, |state| state.last_read as usize);
        if last < BULK && !buffered && stream_reader::is_fed(audience.protocol.bind(py)) {
            return Self::read_for_reader(this, event_loop, audience);
        }
        event_loop.get().touch();
        if buffered {
            let fill = |memory: &mut [u8]| {
                socket::receive(fd, memory).inspect(|count| event_loop.get().received(*count))
            };
            return match Self::fill_buffer(this, event_loop, audience, fill)? {
                Filled::End => Self::end_received(this, event_loop, audience),
                Filled::Nothing => Ok(()),
                Filled::Bytes(count) => {
                    event_loop.get().trace_received(py, this, count);
                    let stop = this.get().state.with(py, |state| state.has_read(count));
                    cancel(event_loop, stop);
                    Ok(())
                }
            };
        }
        for turn in 0..TURNS {
            let last = this.get().state.with(py, |state| state.last_read as usize);
            let room = if last >= FIRST { MOST } else { FIRST };
            let read = if last >= BULK {
                bytes::filled(py, room, |memory| socket::receive_uninit(fd, memory))
            } else {
                event_loop.get().read_bytes(py, |memory| socket::receive(fd, memory))
            };
            let data = match read {
                Ok(data) if data.as_bytes().is_empty() && turn == 0 => {
                    return Self::end_received(this, event_loop, audience);
                }
                // The end is found again by the next iteration.
                Ok(data) if data.as_bytes().is_empty() => return Ok(()),
                Ok(data) => data,
                Err(error) if turn == 0 || error.kind() == io::ErrorKind::WouldBlock => {
                    return Self::read_failed(this, event_loop, &error);
                }
                Err(error) => {
                    this.get().state.with(py, |state| state.arrived.push_back(Received::Failed(error)));
                    return Ok(());
                }
            };
            let length = data.as_bytes().len();
            event_loop.get().received(length);
            event_loop.get().trace_received(py, this, length);
            let stop = this.get().state.with(py, |state| state.has_read(length));
            cancel(event_loop, stop);
            if !Self::feed(this, event_loop, audience, &[data.as_bytes()])? {
                Self::data_received(this, event_loop, audience, &data)?;
            }
            drop(data);
            let goes_on = length == MOST
                && this.get().state.with(py, |state| state.is_reading() && state.is_audience(audience));
            if !goes_on {
                break;
            }
        }
        Ok(())
    }

    /// Reads what waits in the kernel for an `asyncio.StreamReader`: without `bytes` in between, if it can be fed so.
    fn read_for_reader(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let Some(fd) = this.get().state.with(py, |state| state.fd()) else { return Ok(()) };
        // Taken out of its place, as a loop whose `call_soon` is Python's own may look there.
        let mut scratch = event_loop.get().take_scratch(py);
        let received = socket::receive(descriptor::borrow(fd), &mut scratch);
        let room = scratch.len();
        let mut fed = Ok(true);
        let mut data = None;
        if let Ok(count @ 1..) = received {
            event_loop.get().received(count);
            event_loop.get().trace_received(py, this, count);
            let bytes = &scratch[..count];
            let stop = this.get().state.with(py, |state| state.has_read(count));
            cancel(event_loop, stop);
            fed = Self::feed(this, event_loop, audience, &[bytes]);
            data = matches!(fed, Ok(false)).then(|| PyBytes::new(py, bytes));
        }
        event_loop.get().give_scratch_back(py, scratch);
        if !matches!((&received, &fed), (Ok(count @ 1..), Ok(true)) if *count < room) {
            event_loop.get().touch();
        }
        fed?;
        match (received, data) {
            (Ok(0), _) => Self::end_received(this, event_loop, audience),
            (Ok(_), Some(data)) => Self::data_received(this, event_loop, audience, &data),
            (Ok(_), None) => Ok(()),
            (Err(error), _) => Self::read_failed(this, event_loop, &error),
        }
    }

    /// Feeds the parts, in one, to the `asyncio.StreamReader` behind the protocol, and returns true; or returns false if
    /// `data_received()` must be called. Failures are dealt with.
    #[inline]
    fn feed(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        parts: &[impl std::ops::Deref<Target = [u8]>],
    ) -> PyResult<bool> {
        let protocol = audience.protocol.bind(event_loop.py());
        if !stream_reader::is_fed(protocol) {
            return Ok(false);
        }
        Self::feed_reader(this, event_loop, audience, parts)
    }

    fn feed_reader(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        parts: &[impl std::ops::Deref<Target = [u8]>],
    ) -> PyResult<bool> {
        // Debug mode has the functions called that it reports on; and more than this is not handed over in one.
        if event_loop.get().is_debug() || parts.iter().map(|part| part.len()).sum::<usize>() > MOST {
            return Ok(false);
        }
        match audience.tell(event_loop.py(), |protocol| stream_reader::feed(protocol, parts)) {
            Ok(fed) => Ok(fed),
            Err(error) => {
                let message = "Fatal error: protocol.data_received() call failed.";
                Self::fatal_error(this, event_loop, error, message).map(|()| true)
            }
        }
    }

    fn read_failed(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>, error: &io::Error) -> PyResult<()> {
        if error.kind() == io::ErrorKind::WouldBlock {
            return Ok(());
        }
        let raw = error.raw_os_error();
        let error = os_error(event_loop.py(), error);
        if matches!(raw, Some(libc::ENOTSOCK | libc::EPERM)) {
            // Closed behind the transport's back, and the number is a file's by now (epoll refuses those with EPERM); or the socket
            // is a stand-in of a test's. CPython's transport does not notice, and is there until somebody closes it.
            return Self::report(this, event_loop, error, "A transport's descriptor is no socket");
        }
        Self::fatal_error(this, event_loop, error, "Fatal read error on socket transport")
    }

    #[inline]
    fn data_received(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        data: &Bound<'_, PyBytes>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let name = intern!(py, "data_received");
        match audience.tell(py, |protocol| call_method(protocol, name, [data.as_any()]).map(drop)) {
            Ok(()) => Ok(()),
            Err(error) => Self::fatal_error(
                this,
                event_loop,
                error,
                "Fatal error: protocol.data_received() call failed.",
            ),
        }
    }

    /// Has bytes put into the buffer that the protocol gives, and tells it how many they are. Failures of the protocol and of
    /// `fill` are dealt with.
    fn fill_buffer(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
        fill: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> PyResult<Filled> {
        let py = event_loop.py();
        let get_buffer = |protocol: &Bound<'_, PyAny>| {
            let hint = (-1_i32).into_pyobject(py)?;
            let buffer = call_method(protocol, intern!(py, "get_buffer"), [hint.as_any()])?;
            if buffer.len()? == 0 {
                return Err(PyRuntimeError::new_err("get_buffer() returned an empty buffer"));
            }
            WritableBuffer::of(&buffer)
        };
        let filled = match audience.tell(py, get_buffer) {
            // The buffer is let go before the protocol is told, which may want to resize it.
            Ok(mut buffer) => fill(buffer.bytes(py)),
            Err(error) => {
                let message = "Fatal error: protocol.get_buffer() call failed.";
                return Self::fatal_error(this, event_loop, error, message).map(|()| Filled::Nothing);
            }
        };
        let count = match filled {
            Ok(0) => return Ok(Filled::End),
            Ok(count) => count,
            Err(error) => return Self::read_failed(this, event_loop, &error).map(|()| Filled::Nothing),
        };
        let told = audience.tell(py, |protocol| {
            let count = count.into_pyobject(py)?;
            call_method(protocol, intern!(py, "buffer_updated"), [count.as_any()]).map(drop)
        });
        match told {
            Ok(()) => Ok(Filled::Bytes(count)),
            Err(error) => {
                let message = "Fatal error: protocol.buffer_updated() call failed.";
                Self::fatal_error(this, event_loop, error, message).map(|()| Filled::Nothing)
            }
        }
    }

    /// The peer sends no more: the protocol says whether it wants to go on sending.
    fn end_received(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        audience: &Audience,
    ) -> PyResult<()> {
        static LOG_END: Import = Import::new("whilst._loop.errors", "log_end_of_stream");
        let py = event_loop.py();
        let operation = this.get().state.with(py, |state| {
            state.ended = true;
            state.stop_receiving()
        });
        cancel(event_loop, operation);
        if event_loop.get().is_debug() {
            LOG_END.get(py)?.call1((this.bind(py),))?;
        }
        let name = intern!(py, "eof_received");
        match audience.tell(py, |protocol| call_method(protocol, name, [])?.is_truthy()) {
            Ok(true) => Ok(()),
            Ok(false) => Self::close(this, py),
            Err(error) => Self::fatal_error(
                this,
                event_loop,
                error,
                "Fatal error: protocol.eof_received() call failed.",
            ),
        }
    }

    /// `pause_reading()`: true if the protocol was reading.
    pub(super) fn pause_reading(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| {
            let was_reading = state.is_reading();
            state.paused |= was_reading;
            was_reading
        })
    }

    /// `resume_reading()`: true if the protocol was not reading.
    pub(super) fn resume_reading(this: &Object<Self>, py: Python<'_>) -> PyResult<bool> {
        let (announce, event_loop) = this.get().state.with(py, |state| {
            if state.closing || !state.paused {
                return (false, None);
            }
            state.paused = false;
            (state.announce(), state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py)))
        });
        let Some(event_loop) = event_loop else { return Ok(false) };
        let event_loop = event_loop.bind(py);
        if announce {
            Self::queue(this, event_loop, StreamWork::Deliver)?;
        } else {
            Self::start_reading(this, event_loop)?;
        }
        Ok(true)
    }
}

impl State {
    /// Takes note of what the receive operation says; true if a delivery must be queued.
    fn receive(&mut self, received: Received) -> bool {
        if !matches!(received, Received::Data(_) | Received::Waiting) {
            self.receive = None;
            self.receive_stops = false;
        }
        if self.closing || self.ended {
            return false;
        }
        match received {
            Received::Waiting => self.waiting = true,
            // Whoever delivers what is left starts another receive operation, if one is wanted.
            Received::Stopped => return !std::mem::replace(&mut self.announced, true),
            Received::Data(_) | Received::End | Received::Failed(_) => self.arrived.push_back(received),
        }
        self.announce()
    }

    /// Takes note of how much a read has brought. Returns the receive operation if it is to be cancelled, for another that does
    /// better with so much or so little.
    fn has_read(&mut self, count: usize) -> Option<Operation> {
        self.last_read = count as u32;
        self.small_reads = if count < BULK { self.small_reads.saturating_add(1) } else { 0 };
        if !self.bulk || self.small_reads < SMALL_READS {
            return None;
        }
        self.bulk = false;
        self.stop_receiving()
    }

    /// As [`State::has_read`], of so much that a ring has received.
    fn has_received(&mut self, count: usize) -> Option<Operation> {
        if self.bulk {
            return None;
        }
        self.last_read = count as u32;
        self.small_reads = 0;
        self.bulk = true;
        self.stop_receiving()
    }

    /// True if there is something to deliver and a delivery must be queued.
    fn announce(&mut self) -> bool {
        (self.waiting || !self.arrived.is_empty()) && !std::mem::replace(&mut self.announced, true)
    }

    /// Keeps what was not handed over, to be the next that is.
    fn put_back(&mut self, chunks: impl IntoIterator<Item = Chunk, IntoIter: DoubleEndedIterator>) {
        chunks.into_iter().rev().for_each(|chunk| self.arrived.push_front(Received::Data(chunk)));
    }

    /// Takes what is to be handed over next: all bytes that have arrived. (Were it a part of them, a fast peer's bytes would
    /// arrive faster than they are delivered, without end.)
    fn next_delivery(&mut self) -> Option<Delivery> {
        if let Some(Received::Data(_)) = self.arrived.front()
            && !matches!(self.arrived.get(1), Some(Received::Data(_)))
            && let Some(Received::Data(chunk)) = self.arrived.pop_front()
        {
            return Some(Delivery::Chunk(chunk));
        }
        let mut chunks = Vec::new();
        while let Some(Received::Data(_)) = self.arrived.front() {
            if let Some(Received::Data(chunk)) = self.arrived.pop_front() {
                chunks.push(chunk);
            }
        }
        if !chunks.is_empty() {
            return Some(Delivery::Chunks(chunks));
        }
        match self.arrived.pop_front() {
            Some(Received::End) => Some(Delivery::End),
            Some(Received::Failed(error)) => Some(Delivery::Failed(error)),
            _ => std::mem::take(&mut self.waiting).then_some(Delivery::Waiting),
        }
    }
}

impl LoopCore {
    /// Lends the place where large reads go, for longer than a look into the state.
    fn take_scratch(&self, py: Python<'_>) -> Vec<u8> {
        let scratch = self.state.with(py, |state| std::mem::take(&mut state.scratch));
        if scratch.is_empty() { vec![0; MOST] } else { scratch }
    }

    fn give_scratch_back(&self, py: Python<'_>, scratch: Vec<u8>) {
        // Another may be there, made meanwhile.
        drop(self.state.with(py, |state| std::mem::replace(&mut state.scratch, scratch)));
    }

    /// What `read` puts into the memory that it is given, which is as much as one read takes.
    pub(crate) fn read_bytes<'py>(
        &self,
        py: Python<'py>,
        read: impl FnOnce(&mut [u8]) -> io::Result<usize>,
    ) -> io::Result<Bound<'py, PyBytes>> {
        self.state.with(py, |state| {
            if state.scratch.is_empty() {
                state.scratch = vec![0; MOST];
            }
            let count = read(&mut state.scratch)?;
            // Making `bytes` runs no Python code: they are no concern of the garbage collector.
            Ok(PyBytes::new(py, &state.scratch[..count]))
        })
    }
}
