//! Datagrams from the protocol to the network.
//!
//! A datagram is sent at once, when none waits before it; what the kernel has no room for is kept and sent when there is.

use std::io;

use pyo3::exceptions::{PyBlockingIOError, PyInterruptedError, PyOSError, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use whilst_engine::driver::Interest;

use super::lifecycle::cancel;
use super::{Datagram, DatagramWork, Peer, State, Target};
use crate::errors::os_error;
use crate::event_loop::LoopCore;
use crate::ffi::audit;
use crate::ffi::buffer::snapshot;
use crate::ffi::call::call_method;
use crate::ffi::class::Object;
use crate::ffi::descriptor;
use crate::ffi::imports::Import;
use crate::trace;
use crate::transport::address::Address;
use crate::transport::outgoing::{BYTES_LIKE, check_bytes};
use crate::transport::socket;

/// How many datagrams to a lost connection are taken silently, as in CPython (`LOG_THRESHOLD_FOR_CONNLOST_WRITES`).
const SILENT_WRITES: u32 = 5;

/// Empty datagrams are sent, and each datagram counts for so many bytes more than it has, from 3.13 on.
const HEADER: Option<usize> = if cfg!(Py_3_13) { Some(8) } else { None };

/// What came of sending.
enum Sent {
    Done,
    /// The kernel has no room for it now.
    Full,
    /// The system has refused it (`OSError`), which is the protocol's to know.
    Refused(PyErr),
    /// Something else is wrong.
    Broken(PyErr),
}

/// What a call of `sendto()` comes to.
enum Call {
    Send,
    /// Behind others that wait.
    Queue,
    /// The transport is closed, and the datagram lost; somebody should hear of it, from a number on.
    Lost {
        warn: bool,
    },
}

impl Datagram {
    /// `sendto()`.
    pub(super) fn send_to(
        this: &Object<Self>,
        py: Python<'_>,
        data: &Bound<'_, PyAny>,
        address: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<()> {
        static WARN: Import = Import::new("whilst._loop.errors", "warn_of_lost_write");
        check_bytes(data, BYTES_LIKE)?;
        if HEADER.is_none() && !data.is_truthy()? {
            return Ok(());
        }
        let data = snapshot(data)?;
        let address = address.filter(|address| !address.is_none());
        let remote =
            this.get().state.with(py, |state| state.remote.as_ref().map(|remote| remote.clone_ref(py)));
        let given = match (&remote, address) {
            (None, given) => given,
            (Some(remote), Some(given)) if !given.is(remote) && !given.eq(remote)? => {
                let remote = remote.bind(py).str()?;
                return Err(PyValueError::new_err(format!("Invalid address: must be None or {remote}")));
            }
            (Some(remote), _) => Some(remote.bind(py)),
        };
        // Made beforehand, for it may raise and drop an exception.
        let target = this.get().target(py, given);
        let call = this.get().state.with(py, |state| {
            if state.socket.is_none() || (state.lost > 0 && remote.is_some()) {
                let warn = state.lost >= SILENT_WRITES;
                state.lost += 1;
                Call::Lost { warn }
            } else if state.outgoing.is_empty() {
                Call::Send
            } else {
                Call::Queue
            }
        });
        match call {
            Call::Lost { warn } => return if warn { WARN.get(py)?.call0().map(drop) } else { Ok(()) },
            Call::Queue => {}
            Call::Send => match this.get().first_transmit(py, &data, &target, given) {
                Sent::Done => {
                    Self::trace_sent(this, py, &data);
                    return Ok(());
                }
                Sent::Full => {}
                Sent::Refused(error) => return this.get().error_received(py, error),
                Sent::Broken(error) => {
                    let Some(event_loop) = this.get().event_loop(py) else { return Err(error) };
                    let message = "Fatal write error on datagram transport";
                    return Self::fatal_error(this, event_loop.bind(py), error, message);
                }
            },
        }
        let Some(event_loop) = this.get().event_loop(py) else { return Ok(()) };
        let event_loop = event_loop.bind(py);
        event_loop.get().check_open()?;
        this.get().state.with(py, |state| {
            state.outgoing_size += counted(&data);
            state.outgoing.push_back((data.unbind(), target));
        });
        Self::wait_for_room(this, event_loop)?;
        Self::maybe_pause_protocol(this, event_loop)
    }

    /// Whom a datagram to `given` is for.
    fn target(&self, py: Python<'_>, given: Option<&Bound<'_, PyAny>>) -> Target {
        let native = self.state.with(py, |state| match (&state.peer, given, &state.sender) {
            (Peer::Named, _, _) | (Peer::Unnamed, None, _) => Some(Ok(Target::Peer)),
            // The answer to the last datagram.
            (_, Some(given), Some((address, object))) if given.is(object) => {
                Some(Ok(Target::Address(address.clone())))
            }
            _ => state.native.map(Err),
        });
        let known = match (native, given) {
            (Some(Ok(target)), _) => return target,
            (Some(Err(family)), Some(given)) => Address::from_python(family, given),
            _ => None,
        };
        known.map_or_else(
            || Target::Python(given.map_or_else(|| py.None(), |given| given.clone().unbind())),
            Target::Address,
        )
    }

    /// Sends one datagram, and tells the hooks of audit events, as `sendto()` of the socket object does.
    fn first_transmit(
        &self,
        py: Python<'_>,
        data: &Bound<'_, PyBytes>,
        target: &Target,
        given: Option<&Bound<'_, PyAny>>,
    ) -> Sent {
        if let (Target::Address(_), Some(given)) = (target, given) {
            let socket =
                self.state.with(py, |state| state.socket.as_ref().map(|socket| socket.clone_ref(py)));
            if let Some(Err(error)) = socket.map(|socket| audit::sendto(socket.bind(py), given)) {
                return sent(py, Err(error));
            }
        }
        self.transmit(py, data, target)
    }

    /// Tells a trace of a datagram that was sent.
    fn trace_sent(this: &Object<Self>, py: Python<'_>, data: &Bound<'_, PyBytes>) {
        // Nothing is looked up where nobody records.
        if trace::is_on()
            && let Some(event_loop) = this.get().event_loop(py)
        {
            event_loop.get().trace_sent(py, this, data.as_bytes().len());
        }
    }

    /// Sends one datagram.
    fn transmit(&self, py: Python<'_>, data: &Bound<'_, PyBytes>, target: &Target) -> Sent {
        let answer = self.try_to_transmit(py, data, target);
        if matches!(answer, Sent::Done) {
            self.state.with(py, |state| state.open.iter().for_each(|open| open.sent(data.as_bytes().len())));
        }
        answer
    }

    #[inline]
    fn try_to_transmit(&self, py: Python<'_>, data: &Bound<'_, PyBytes>, target: &Target) -> Sent {
        let (native, fd, socket) = self.state.with(py, |state| {
            let python = state.native.is_none() || matches!(target, Target::Python(_));
            let socket = state.socket.as_ref().filter(|_| python).map(|socket| socket.clone_ref(py));
            (state.native.is_some() && state.socket.is_some(), state.fd, socket)
        });
        let to = match target {
            Target::Peer => None,
            Target::Address(address) => Some(address),
            Target::Python(address) => {
                let Some(socket) = socket else { return Sent::Done };
                let name = intern!(py, "sendto");
                return sent(
                    py,
                    call_method(socket.bind(py), name, [data.as_any(), address.bind(py)]).map(drop),
                );
            }
        };
        if native {
            return match socket::send_to(descriptor::borrow(fd), data.as_bytes(), to) {
                Ok(()) => Sent::Done,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Sent::Full,
                Err(error) => Sent::Refused(os_error(py, &error)),
            };
        }
        let Some(socket) = socket else { return Sent::Done };
        sent(py, call_method(socket.bind(py), intern!(py, "send"), [data.as_any()]).map(drop))
    }

    /// Tells the protocol what the system has refused.
    fn error_received(&self, py: Python<'_>, error: PyErr) -> PyResult<()> {
        let Some(protocol) = self.protocol(py) else { return Ok(()) };
        let error = error.into_value(py).into_any();
        call_method(protocol.bind(py), intern!(py, "error_received"), [error.bind(py)]).map(drop)
    }

    /// Watches for room in the kernel, if there is something to send.
    pub(super) fn wait_for_room(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let wanted = this.get().state.with(py, |state| {
            let wanted = state.room.is_none() && !state.outgoing.is_empty() && state.lost == 0;
            if wanted { state.keys.map(|keys| (state.fd, keys.writer)) } else { None }
        });
        let Some((fd, key)) = wanted else { return Ok(()) };
        if event_loop.get().is_waiting(py) {
            return Self::queue(this, event_loop, DatagramWork::Watch);
        }
        match event_loop.get().with_driver(py, |driver| driver.watch(fd, Interest::Writable, key))? {
            Ok(operation) => {
                this.get().state.with(py, |state| state.room = Some(operation));
                Ok(())
            }
            Err(error) => {
                let error = os_error(py, &error);
                Self::fatal_error(this, event_loop, error, "Fatal write error on datagram transport")
            }
        }
    }

    /// There is room in the kernel again: sends what was kept, as far as it goes.
    pub(super) fn writable(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        loop {
            let next = this.get().state.with(py, |state| {
                // Not the event of a watch that has ended since.
                state.room?;
                let (data, target) = state.outgoing.pop_front()?;
                state.outgoing_size -= counted(data.bind(py));
                Some((data, target))
            });
            let Some((data, target)) = next else { break };
            let data = data.into_bound(py);
            match this.get().transmit(py, &data, &target) {
                Sent::Done => event_loop.get().trace_sent(py, this, data.as_bytes().len()),
                Sent::Full => {
                    this.get().state.with(py, |state| {
                        state.outgoing_size += counted(&data);
                        state.outgoing.push_front((data.unbind(), target));
                    });
                    break;
                }
                Sent::Refused(error) => {
                    // The others have their turn in the next iteration.
                    let audience = this.get().state.with(py, |state| state.audience(py));
                    return audience.map_or(Ok(()), |it| Self::refused(&it, event_loop, error));
                }
                Sent::Broken(error) => {
                    let message = "Fatal write error on datagram transport";
                    return Self::fatal_error(this, event_loop, error, message);
                }
            }
        }
        Self::maybe_resume_protocol(this, event_loop)?;
        // The protocol may have sent more.
        let (room, lost) = this.get().state.with(py, |state| {
            if !state.outgoing.is_empty() || state.room.is_none() {
                return (None, false);
            }
            let lost = state.closing && state.lost == 0;
            state.lost += u32::from(lost);
            // The end takes it away itself.
            (if lost { None } else { state.room.take() }, lost)
        });
        cancel(event_loop, room);
        if lost { Self::connection_lost(this, event_loop, None) } else { Ok(()) }
    }

    /// Tells the protocol to pause if more than the high-water mark waits to be sent.
    pub(super) fn maybe_pause_protocol(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let protocol = this.get().state.with(py, |state| {
            if state.protocol_paused || state.outgoing_size <= state.marks.high {
                return None;
            }
            state.protocol_paused = true;
            state.protocol.as_ref().map(|protocol| protocol.clone_ref(py))
        });
        let Some(protocol) = protocol else { return Ok(()) };
        match call_method(protocol.bind(py), intern!(py, "pause_writing"), []) {
            Ok(_) => Ok(()),
            Err(error) => Self::report(this, event_loop, error, "protocol.pause_writing() failed"),
        }
    }

    /// Tells the protocol to go on if no more than the low-water mark waits to be sent.
    fn maybe_resume_protocol(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let audience = this.get().state.with(py, |state| {
            if !state.protocol_paused || state.outgoing_size > state.marks.low {
                return None;
            }
            state.protocol_paused = false;
            state.audience(py)
        });
        let Some(audience) = audience else { return Ok(()) };
        let name = intern!(py, "resume_writing");
        match audience.tell(py, |protocol| call_method(protocol, name, []).map(drop)) {
            Ok(()) => Ok(()),
            Err(error) => Self::report(this, event_loop, error, "protocol.resume_writing() failed"),
        }
    }
}

impl State {
    /// Takes all that waits to be sent.
    pub(super) fn take_outgoing(&mut self) -> std::collections::VecDeque<(Py<PyBytes>, Target)> {
        self.outgoing_size = 0;
        std::mem::take(&mut self.outgoing)
    }
}

/// What a datagram counts for in flow control, in bytes.
fn counted(data: &Bound<'_, PyBytes>) -> usize {
    data.as_bytes().len() + HEADER.unwrap_or(0)
}

/// What an answer of the socket object means.
fn sent(py: Python<'_>, answer: PyResult<()>) -> Sent {
    match answer {
        Ok(()) => Sent::Done,
        Err(error) if would_block(py, &error) => Sent::Full,
        Err(error) if error.is_instance_of::<PyOSError>(py) => Sent::Refused(error),
        Err(error) => Sent::Broken(error),
    }
}

/// True for what a socket object raises when it would have to wait.
pub(super) fn would_block(py: Python<'_>, error: &PyErr) -> bool {
    error.is_instance_of::<PyBlockingIOError>(py) || error.is_instance_of::<PyInterruptedError>(py)
}
