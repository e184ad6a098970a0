//! The beginning and the end of a pipe's transport, whichever end it is.

use std::os::fd::RawFd;

use pyo3::exceptions::{PyResourceWarning, PyValueError};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rustix::fs::{FileType, OFlags, fcntl_getfl, fcntl_setfl, fstat};
use rustix::io::Errno;
use whilst_engine::driver::{Interest, Key};

use super::{Pipe, PipeWork, Side, State};
use crate::errors::os_error;
use crate::event_loop::LoopCore;
use crate::event_loop::metrics::Open;
use crate::ffi::call::{call_method, copy_context};
use crate::ffi::class::{Attributes, Object};
use crate::ffi::guarded::Guarded;
use crate::transport::audience::resolve;
use crate::transport::kind::TransportKind;
use crate::transport::stream::WARN;

/// What kind of file a transport is of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A pipe or a FIFO.
    Pipe,
    /// A socket.
    Socket,
    /// A character device: a terminal, most of the time.
    Device,
}

impl Kind {
    /// The kind of an open file; `None` for one that is always ready (a regular file, a directory) and what else there is.
    fn of(fd: RawFd) -> Result<Option<Self>, Errno> {
        let fd = if fd < 0 { return Err(Errno::BADF) } else { crate::ffi::descriptor::borrow(fd) };
        Ok(match FileType::from_raw_mode(fstat(fd)?.st_mode) {
            FileType::Fifo => Some(Self::Pipe),
            FileType::Socket => Some(Self::Socket),
            FileType::CharacterDevice => Some(Self::Device),
            _ => None,
        })
    }
}

/// Makes the open file one that does not block, whoever else uses it (`os.set_blocking`).
fn set_nonblocking(fd: RawFd) -> Result<(), Errno> {
    let fd = crate::ffi::descriptor::borrow(fd);
    fcntl_setfl(fd, fcntl_getfl(fd)? | OFlags::NONBLOCK)
}

impl<S: Side> Pipe<S> {
    /// A transport over an object with a `fileno()`, which it owns from here on. The protocol is told in the next iteration, and
    /// `waiter` is resolved then.
    ///
    /// Raises `RuntimeError` if the loop is closed, `ValueError` for a regular file and its like, `OSError` for a closed descriptor.
    pub(super) fn create(
        event_loop: &Bound<'_, LoopCore>,
        pipe: &Bound<'_, PyAny>,
        protocol: Py<PyAny>,
        waiter: Option<Py<PyAny>>,
        extra: Option<&Bound<'_, PyDict>>,
    ) -> PyResult<Object<Self>> {
        let py = event_loop.py();
        event_loop.get().check_open()?;
        let fd: RawFd = pipe.call_method0(intern!(py, "fileno"))?.extract()?;
        let failed = |error: Errno| os_error(py, &error.into());
        let kind = Kind::of(fd).map_err(failed)?.ok_or_else(|| PyValueError::new_err(S::REFUSAL))?;
        set_nonblocking(fd).map_err(failed)?;
        let extra = extra.map_or_else(|| Ok(PyDict::new(py)), |extra| extra.copy())?;
        extra.set_item(intern!(py, "pipe"), pipe)?;
        let state = State {
            event_loop: Some(event_loop.clone().unbind()),
            protocol: Some(protocol),
            context: Some(copy_context(py)?.unbind()),
            pipe: Some(pipe.clone().unbind()),
            fd,
            extra: Some(extra.unbind()),
            open: Some(Open::new(event_loop.get(), TransportKind::Pipe)),
            closing: false,
            losing: false,
            reader: None,
            side: S::new(kind),
        };
        let this = Object::new(py, Self { attributes: Attributes::new(), state: Guarded::new(state) })?;
        Self::queue(&this, event_loop, PipeWork::Connect(waiter))?;
        Ok(this)
    }

    /// Tells the protocol that it is connected, begins to wait and wakes who waits for the connection.
    pub(super) fn connect(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        waiter: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let audience = this.get().state.with(py, |state| state.audience(py));
        if let Some(audience) = audience {
            let name = intern!(py, "connection_made");
            let told = audience.tell(py, |protocol| call_method(protocol, name, [this.bind(py)]).map(drop));
            if let Err(error) = told
                && let Err(error) = audience.report(event_loop, "connection_made", error)
            {
                // The loop may run again, and the connection is made.
                Self::queue(this, event_loop, PipeWork::Connected(waiter))?;
                return Err(error);
            }
        }
        Self::connected(this, event_loop, waiter)
    }

    /// What follows `connection_made()`: begins to wait and wakes who waits for the connection.
    pub(super) fn connected(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        waiter: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        // A device that cannot be waited for is reported (EPERM, of /dev/null), but it is a transport all the same.
        let begun = S::begin(this, event_loop);
        resolve(event_loop.py(), waiter)?;
        begun
    }

    /// Calls `eof_received()`. `connection_lost()` comes next, whatever the protocol answers.
    pub(super) fn ended(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
        let py = event_loop.py();
        let audience = this.get().state.with(py, |state| state.audience(py));
        let Some(audience) = audience else { return Ok(()) };
        let name = intern!(py, "eof_received");
        match audience.tell(py, |protocol| call_method(protocol, name, []).map(drop)) {
            Ok(()) => Ok(()),
            Err(error) => audience.report(event_loop, "eof_received", error),
        }
    }

    /// Ends all that is under way and has the connection lost in the next iteration; does nothing the second time.
    ///
    /// Raises `RuntimeError` if the loop is closed.
    pub(crate) fn lose(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        exception: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        if !this.get().stop(event_loop, false) {
            return Ok(());
        }
        Self::queue(this, event_loop, PipeWork::Lost(exception))
    }

    /// Ends all that is under way; false if that was done before. `now`: the descriptor is closed next.
    pub(super) fn stop(&self, event_loop: &Bound<'_, LoopCore>, now: bool) -> bool {
        let py = event_loop.py();
        let taken = self.state.with(py, |state| {
            state.closing = true;
            if std::mem::replace(&mut state.losing, true) {
                return None;
            }
            state.side.drop_unwritten();
            Some((state.fd, state.reader.take(), state.side.take_writer()))
        });
        let Some((fd, reader, writer)) = taken else { return false };
        end_watches(event_loop, fd, reader, writer, now);
        true
    }

    /// Tells the protocol that the connection is lost, closes the pipe and lets go of everything.
    pub(super) fn connection_lost(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        exception: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = event_loop.py();
        let audience = this.get().state.with(py, |state| state.audience(py));
        let mut told = Ok(());
        if let Some(audience) = audience {
            let name = intern!(py, "connection_lost");
            let exception = exception.unwrap_or_else(|| py.None());
            told = audience.tell(py, |protocol| call_method(protocol, name, [exception.bind(py)]).map(drop));
            if let Err(error) = told {
                told = audience.report(event_loop, "connection_lost", error);
            }
        }
        event_loop.get().trace_ended(py, this);
        let released = this.get().release(py);
        told.and(released)
    }

    /// Closes the pipe and lets go of everything.
    fn release(&self, py: Python<'_>) -> PyResult<()> {
        let (pipe, references) = self.state.with(py, |state| {
            let references = (state.protocol.take(), state.context.take(), state.event_loop.take());
            (state.pipe.take(), (references, state.open.take()))
        });
        drop(references);
        pipe.map_or(Ok(()), |pipe| pipe.call_method0(py, intern!(py, "close")).map(drop))
    }

    /// `__del__`: an open transport that nobody refers to any more is closed, with a warning.
    pub(super) fn abandon(this: &Object<Self>, py: Python<'_>) {
        let (open, event_loop) = this.get().state.with(py, |state| {
            (state.pipe.is_some(), state.event_loop.as_ref().map(|event_loop| event_loop.clone_ref(py)))
        });
        if !open {
            return;
        }
        let warned = this.bind(py).repr().and_then(|repr| {
            let keywords = PyDict::new(py);
            keywords.set_item("source", this.bind(py))?;
            let message = format!("unclosed transport {repr}");
            WARN.get(py)?.call((message, py.get_type::<PyResourceWarning>()), Some(&keywords))
        });
        if let Err(error) = warned {
            error.write_unraisable(py, Some(this.bind(py)));
        }
        if let Some(event_loop) = event_loop {
            // Watches are there only where the loop goes with the transport.
            this.get().stop(event_loop.bind(py), true);
            event_loop.get().trace_ended(py, this);
        }
        if let Err(error) = this.get().release(py) {
            error.write_unraisable(py, Some(this.bind(py)));
        }
    }
}

/// Ends the watches of a descriptor. `now`: it is closed next.
pub(super) fn end_watches(
    event_loop: &Bound<'_, LoopCore>,
    fd: RawFd,
    reader: Option<Key>,
    writer: Option<Key>,
    now: bool,
) {
    for (interest, key) in [(Interest::Readable, reader), (Interest::Writable, writer)] {
        if let Some(key) = key {
            LoopCore::end_watch(event_loop, fd, interest, key, now);
        }
    }
}
