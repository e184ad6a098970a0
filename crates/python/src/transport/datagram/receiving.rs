//! Datagrams from the network to the protocol.
//!
//! How many in one iteration: CPython hands over one, so whatever a protocol schedules in `datagram_received()` runs before the next
//! one, and programs rely on it (a future that is resolved there and made anew by the task that awaits it). Where it schedules nothing
//! and nothing else is ready the next iteration would come straight back here. So then, and only then, the next datagram is
//! received at once, up to [`MOST_AT_ONCE`] of them, after which timers, other descriptors and other threads have their turn.

use std::io;

use pyo3::exceptions::PyOSError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rustix::net::SocketAddrAny;
use whilst_engine::driver::Interest;

use super::lifecycle::cancel;
use super::{Datagram, DatagramWork, Probe, State};
use crate::errors::os_error;
use crate::event_loop::LoopCore;
use crate::ffi::call::call_method;
use crate::ffi::class::Object;
use crate::ffi::descriptor;
use crate::transport::address::Address;
use crate::transport::audience::Audience;
use crate::transport::socket;

/// The longest datagram that is received whole, in bytes, as in CPython (`_SelectorTransport.max_size`). UDP has none longer than
/// 64 KiB; a Unix socket may.
const LONGEST: usize = 256 * 1024;

/// How many datagrams one wake-up hands over at the most: no longer a time than a slow callback takes.
const MOST_AT_ONCE: u32 = 32;

/// What came of receiving.
enum Received<'py> {
    Datagram(Bound<'py, PyAny>, Bound<'py, PyAny>),
    Nothing,
    /// The system has refused (`OSError`), which is the protocol's to know.
    Refused(PyErr),
    /// Something else is wrong.
    Broken(PyErr),
}

/// Where datagrams are received from.
enum Source {
    Native(std::os::fd::RawFd),
    Python(Py<PyAny>),
}

impl Datagram {
    /// Starts to watch for datagrams, if the protocol wants to read.
    pub(super) fn start_reading(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let wanted = this.get().state.with(py, |state| {
            let wanted = state.connected && state.is_reading() && state.reading.is_none();
            if wanted { state.keys.map(|keys| (state.fd, keys.reader)) } else { None }
        });
        let Some((fd, key)) = wanted else { return Ok(()) };
        if event_loop.get().is_waiting(py) {
            return Self::queue(this, event_loop, DatagramWork::Watch);
        }
        match event_loop.get().with_driver(py, |driver| driver.watch(fd, Interest::Readable, key))? {
            Ok(operation) => {
                this.get().state.with(py, |state| state.reading = Some(operation));
                Ok(())
            }
            Err(error) => {
                let error = os_error(py, &error);
                Self::fatal_error(this, event_loop, error, "Fatal read error on datagram transport")
            }
        }
    }

    /// Receives what is there and hands it to the protocol.
    pub(super) fn readable(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        for count in 0..MOST_AT_ONCE {
            let (from, pause) = this.get().state.with(py, |state| {
                state.announced = false;
                if state.is_reading() {
                    let further = count == 0 || state.probe.is_due(count);
                    (further.then(|| state.source(py)).flatten(), None)
                } else {
                    // It waits in the kernel for `resume_reading()`.
                    (None, state.reading.take())
                }
            });
            cancel(event_loop, pause);
            let Some((source, audience)) = from else { return Ok(()) };
            match Self::receive(this, event_loop, source) {
                Received::Datagram(data, sender) => {
                    event_loop.get().trace_received(py, this, data.len().unwrap_or(0));
                    let name = intern!(py, "datagram_received");
                    let told =
                        audience.tell(py, |protocol| call_method(protocol, name, [&data, &sender]).map(drop));
                    if let Err(error) = told {
                        return audience.report(event_loop, "datagram_received", error);
                    }
                }
                Received::Nothing => {
                    if count == 1 {
                        this.get().state.with(py, |state| state.probe.was_in_vain());
                    }
                    return Ok(());
                }
                Received::Refused(error) => return Self::refused(&audience, event_loop, error),
                Received::Broken(error) => {
                    let message = "Fatal read error on datagram transport";
                    return Self::fatal_error(this, event_loop, error, message);
                }
            }
            if count == 1 {
                this.get().state.with(py, |state| state.probe = Probe::default());
            }
            // Debug mode says of a single call whether it took long.
            if !event_loop.get().is_idle(py) || event_loop.get().is_debug() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Tells the protocol, in a callback of the loop's, what the system has refused.
    pub(super) fn refused(
        audience: &Audience,
        event_loop: &Bound<'_, LoopCore>,
        error: PyErr,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let error = error.into_value(py).into_any();
        let name = intern!(py, "error_received");
        match audience.tell(py, |protocol| call_method(protocol, name, [error.bind(py)]).map(drop)) {
            Ok(()) => Ok(()),
            Err(error) => audience.report(event_loop, "error_received", error),
        }
    }

    fn receive<'py>(this: &Object<Self>, event_loop: &Bound<'py, LoopCore>, source: Source) -> Received<'py> {
        let py = event_loop.py();
        match source {
            Source::Native(fd) => match event_loop.get().receive_datagram(py, fd) {
                Ok((data, sender)) => match this.get().sender(py, sender) {
                    Ok(sender) => Received::Datagram(data.into_any(), sender),
                    Err(error) => Received::Broken(error),
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Received::Nothing,
                Err(error) => Received::Refused(os_error(py, &error)),
            },
            Source::Python(socket) => {
                let received = socket
                    .bind(py)
                    .call_method1(intern!(py, "recvfrom"), (LONGEST,))
                    .and_then(|answer| answer.extract::<(Bound<'py, PyAny>, Bound<'py, PyAny>)>());
                match received {
                    Ok((data, sender)) => {
                        event_loop.get().received(data.len().unwrap_or(0));
                        Received::Datagram(data, sender)
                    }
                    Err(error) if super::sending::would_block(py, &error) => Received::Nothing,
                    Err(error) if error.is_instance_of::<PyOSError>(py) => Received::Refused(error),
                    Err(error) => Received::Broken(error),
                }
            }
        }
    }

    /// The Python object for a sender's address.
    fn sender<'py>(&self, py: Python<'py>, sender: Option<SocketAddrAny>) -> PyResult<Bound<'py, PyAny>> {
        let Some(address) = sender.map(|sender| Address::new(&sender)) else {
            return Ok(py.None().into_bound(py));
        };
        let known = self.state.with(py, |state| match &state.sender {
            Some((known, object)) if *known == address => Some(object.clone_ref(py)),
            _ => None,
        });
        if let Some(object) = known {
            return Ok(object.into_bound(py));
        }
        let object = address.to_python(py)?;
        let fresh = Some((address, object.clone().unbind()));
        let before = self.state.with(py, |state| std::mem::replace(&mut state.sender, fresh));
        drop(before);
        Ok(object)
    }

    /// `pause_reading()`: true if the protocol was reading. What arrives meanwhile stays in the kernel; the watch ends when there is
    /// something, so that a protocol that pauses and resumes between two datagrams costs nothing.
    pub(super) fn pause_reading(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| {
            let was_reading = state.is_reading();
            state.paused |= was_reading;
            was_reading
        })
    }

    /// `resume_reading()`: true if the protocol was not reading.
    pub(super) fn resume_reading(this: &Object<Self>, py: Python<'_>) -> PyResult<bool> {
        let event_loop = this.get().state.with(py, |state| {
            if state.closing || !state.paused {
                return None;
            }
            state.paused = false;
            state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py))
        });
        let Some(event_loop) = event_loop else { return Ok(false) };
        Self::start_reading(this, event_loop.bind(py))?;
        Ok(true)
    }
}

impl State {
    /// Where to receive from, and who is told.
    fn source(&self, py: Python<'_>) -> Option<(Source, Audience)> {
        let source = match self.native {
            Some(_) if self.socket.is_some() => Source::Native(self.fd),
            _ => Source::Python(self.open_socket(py)?.0),
        };
        Some((source, self.audience(py)?))
    }
}

impl Probe {
    /// The longest pause, in wake-ups.
    const MOST: u8 = 64;

    /// True if after `count` datagrams of one wake-up it is time to look for another.
    fn is_due(&mut self, count: u32) -> bool {
        if count > 1 || self.skip == 0 {
            return true;
        }
        self.skip -= 1;
        false
    }

    /// There was none.
    fn was_in_vain(&mut self) {
        self.pause = (self.pause * 2).clamp(1, Self::MOST);
        self.skip = self.pause;
    }
}

impl LoopCore {
    /// Receives a datagram that waits in the kernel, and whom it is from.
    fn receive_datagram<'py>(
        &self,
        py: Python<'py>,
        fd: std::os::fd::RawFd,
    ) -> io::Result<(Bound<'py, PyBytes>, Option<SocketAddrAny>)> {
        self.state.with(py, |state| {
            if state.scratch.len() < LONGEST {
                state.scratch = vec![0; LONGEST];
            }
            let (count, sender) =
                socket::receive_from(descriptor::borrow(fd), &mut state.scratch[..LONGEST])?;
            self.received(count);
            // Making `bytes` runs no Python code: they are no concern of the garbage collector.
            Ok((PyBytes::new(py, &state.scratch[..count]), sender))
        })
    }
}
