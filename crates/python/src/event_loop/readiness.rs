//! `add_reader`, `add_writer` and their removal.

use std::io;
use std::os::fd::RawFd;

use pyo3::exceptions::{PyRuntimeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyTuple;
use whilst_engine::driver::{Interest, Key, Operation};

use super::registry::Source;
use super::sendfile::Sendfile;
use super::{LoopCore, State};
use crate::errors::os_error;
use crate::ffi::class::Object;
use crate::handle::{Callback, Handle, cancel_handle, new_handle};

/// What is watched of one descriptor.
#[derive(Default)]
pub(crate) struct Watches {
    reader: Option<Watch>,
    writer: Option<Watch>,
}

struct Watch {
    key: Key,
    /// `None` for a watch that another thread asked for while the loop waits: it begins when the loop is awake.
    operation: Option<Operation>,
}

/// How long a watch lasts.
#[derive(Clone, Copy)]
pub(crate) enum Span {
    /// Until it is ended.
    Lasting,
    /// Until it has been said that the descriptor is ready. It is then for who is told of it to take it out of the books.
    Once,
}

impl Watches {
    fn place(&mut self, interest: Interest) -> &mut Option<Watch> {
        match interest {
            Interest::Readable => &mut self.reader,
            Interest::Writable => &mut self.writer,
        }
    }

    /// The key of what is watched for.
    pub(super) fn key(&self, interest: Interest) -> Option<Key> {
        let watch = match interest {
            Interest::Readable => &self.reader,
            Interest::Writable => &self.writer,
        };
        watch.as_ref().map(|watch| watch.key)
    }

    fn is_empty(&self) -> bool {
        self.reader.is_none() && self.writer.is_none()
    }
}

#[pymethods]
impl LoopCore {
    /// Call callback(*args) whenever fd can be read.
    ///
    /// Raises ValueError for what is no descriptor, RuntimeError if the descriptor belongs to a transport, OSError if it cannot be
    /// polled (a regular file).
    #[pyo3(signature = (fd, callback, *args))]
    fn add_reader(
        this: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        let fd = Self::free_descriptor(this, fd)?;
        Self::watch(this, fd, Interest::Readable, callback, args).map(drop)
    }

    /// Stop watching fd for being readable. Returns False if it was not watched.
    fn remove_reader(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        let fd = Self::free_descriptor(this, fd)?;
        Self::unwatch(this, fd, Interest::Readable)
    }

    /// Call callback(*args) whenever fd can be written. Raises as add_reader() does.
    #[pyo3(signature = (fd, callback, *args))]
    fn add_writer(
        this: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<()> {
        let fd = Self::free_descriptor(this, fd)?;
        Self::watch(this, fd, Interest::Writable, callback, args).map(drop)
    }

    /// Stop watching fd for being writable. Returns False if it was not watched.
    fn remove_writer(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        let fd = Self::free_descriptor(this, fd)?;
        Self::unwatch(this, fd, Interest::Writable)
    }

    /// As add_reader(), returning the Handle, also for a transport's descriptor.
    #[pyo3(signature = (fd, callback, *args))]
    fn _add_reader(
        this: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        Self::watch(this, descriptor(fd)?, Interest::Readable, callback, args)
    }

    /// As remove_reader(), also for a transport's descriptor.
    fn _remove_reader(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::unwatch(this, descriptor(fd)?, Interest::Readable)
    }

    /// As add_writer(), returning the Handle, also for a transport's descriptor.
    #[pyo3(signature = (fd, callback, *args))]
    fn _add_writer(
        this: &Bound<'_, Self>,
        fd: &Bound<'_, PyAny>,
        callback: &Bound<'_, PyAny>,
        args: &Bound<'_, PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        Self::watch(this, descriptor(fd)?, Interest::Writable, callback, args)
    }

    /// As remove_writer(), also for a transport's descriptor.
    fn _remove_writer(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<bool> {
        Self::unwatch(this, descriptor(fd)?, Interest::Writable)
    }

    /// Raise RuntimeError if fd belongs to an open transport.
    fn _ensure_fd_no_transport(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<()> {
        Self::free_descriptor(this, fd).map(drop)
    }
}

/// The descriptor that `fd` is, or has (`fileno()`).
pub(crate) fn descriptor(fd: &Bound<'_, PyAny>) -> PyResult<RawFd> {
    let invalid =
        || -> PyResult<PyErr> { Ok(PyValueError::new_err(format!("Invalid file object: {}", fd.repr()?))) };
    if let Ok(number) = fd.extract::<RawFd>() {
        return Ok(number);
    }
    let number = fd.call_method0("fileno").and_then(|number| number.extract::<RawFd>());
    match number {
        Ok(number) => Ok(number),
        Err(_) => Err(invalid()?),
    }
}

impl LoopCore {
    /// The descriptor behind `fd`, which must not belong to an open transport.
    pub(super) fn free_descriptor(this: &Bound<'_, Self>, fd: &Bound<'_, PyAny>) -> PyResult<RawFd> {
        let number = descriptor(fd)?;
        Self::check_no_transport(this, number, fd).map(|()| number)
    }

    /// Raises `RuntimeError` if the descriptor, which the program knows as `fd`, belongs to an open transport.
    pub(super) fn check_no_transport(
        this: &Bound<'_, Self>,
        number: RawFd,
        fd: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let py = this.py();
        let transport = this.get().state.with(py, |state| {
            let key = *state.transports.get(&number)?;
            match state.registry.get(key)? {
                Source::Stream(stream) => Some((stream.as_py().clone_ref(py), stream.get().is_closing(py))),
                Source::Datagram(transport, _) => {
                    Some((transport.as_py().clone_ref(py), transport.get().is_closing(py)))
                }
                // A pipe's descriptor may be watched by anybody, as with CPython's loop.
                Source::ReadPipe(_)
                | Source::WritePipe(..)
                | Source::Sendfile(_)
                | Source::Socket(_)
                | Source::File(_)
                | Source::Watch(_)
                | Source::Acceptor(_) => None,
            }
        });
        match transport {
            Some((transport, false)) => Err(PyRuntimeError::new_err(format!(
                "File descriptor {} is used by transport {}",
                fd.repr()?,
                transport.bind(py).repr()?
            ))),
            _ => Ok(()),
        }
    }

    fn watch(
        this: &Bound<'_, Self>,
        fd: RawFd,
        interest: Interest,
        callback: &Bound<'_, PyAny>,
        arguments: &Bound<'_, PyTuple>,
    ) -> PyResult<Py<PyAny>> {
        let py = this.py();
        let core = this.get();
        core.check_open()?;
        if fd < 0 {
            return Err(PyValueError::new_err(format!("Invalid file descriptor: {fd}")));
        }
        let callback = Callback::from_tuple(callback, arguments)?;
        let handle: Object<Handle> = new_handle(py, this.as_unbound(), callback, 0.0, core.is_debug())?;
        handle.track(py);
        Self::watch_for(this, fd, interest, Source::Watch(handle.clone_ref(py)))?;
        Ok(handle.into_any())
    }

    /// Tells `source` whenever `fd` is ready, until the watch of that key ends. There is one for each direction of a descriptor,
    /// whoever asked for it: the last who asks has it, as in CPython's loop.
    ///
    /// Raises `RuntimeError` if the loop is closed, `OSError` if the descriptor is closed or cannot be polled.
    pub(crate) fn watch_for(
        this: &Bound<'_, Self>,
        fd: RawFd,
        interest: Interest,
        source: Source,
    ) -> PyResult<Key> {
        Self::watch_as_long(this, fd, interest, source, Span::Lasting)
    }

    /// As [`LoopCore::watch_for`], telling `source` once. When it is told, the watch is still in the books
    /// ([`LoopCore::forget_watch`]), and the driver's part of it over.
    pub(super) fn watch_once_for(
        this: &Bound<'_, Self>,
        fd: RawFd,
        interest: Interest,
        source: Source,
    ) -> PyResult<Key> {
        Self::watch_as_long(this, fd, interest, source, Span::Once)
    }

    fn watch_as_long(
        this: &Bound<'_, Self>,
        fd: RawFd,
        interest: Interest,
        source: Source,
        span: Span,
    ) -> PyResult<Key> {
        let py = this.py();
        let core = this.get();
        core.check_open()?;
        // A watch that is there is ended and made anew: its descriptor may have been closed behind the loop's back and
        // its number given to another file.
        Self::unwatch(this, fd, interest)?;
        let key = core.state.with(py, |state| state.registry.insert(source));
        match core.begin_watch(py, fd, interest, key, span) {
            Ok(()) => Ok(key),
            Err(error) => {
                drop(core.state.with(py, |state| state.registry.remove(key)));
                Err(os_error(py, &error))
            }
        }
    }

    /// Ends the watch that [`LoopCore::watch_for`] has begun under this key, unless another has its place by now. `now`: the
    /// descriptor is closed next, so the kernel must let go of the file, as it does by the next iteration in any case.
    pub(crate) fn end_watch(this: &Bound<'_, Self>, fd: RawFd, interest: Interest, key: Key, now: bool) {
        let py = this.py();
        let core = this.get();
        let ended = core.forget_watch(py, fd, interest, Some(key));
        let Some((source, Some(operation))) = ended else { return };
        // What fails here is a ring, and the next one begins without the operation.
        let cancelled = now && core.with_driver(py, |driver| driver.cancel_now(operation)).is_ok();
        if !cancelled {
            core.cancel(py, operation);
        }
        drop(source);
    }

    /// Begins a watch: now or, where the loop waits and so this is another thread, as soon as it is awake. Then it is woken.
    ///
    /// CPython's loop has this for free, since epoll can be told of a descriptor while it waits; and there are programs that use
    /// a loop so, though it is not documented to be safe (Jupyter's kernel does).
    fn begin_watch(
        &self,
        py: Python<'_>,
        fd: RawFd,
        interest: Interest,
        key: Key,
        span: Span,
    ) -> io::Result<()> {
        let waits = self.state.with(py, |state| {
            let operation = match state.driver.as_mut() {
                Some(driver) => Some(match span {
                    Span::Lasting => driver.watch(fd, interest, key)?,
                    Span::Once => driver.watch_once(fd, interest, key)?,
                }),
                None => {
                    state.watched_meanwhile.push((fd, interest, key, span));
                    None
                }
            };
            *state.watches.entry(fd).or_default().place(interest) = Some(Watch { key, operation });
            Ok::<_, io::Error>(operation.is_none())
        })?;
        if waits {
            self.wake();
        }
        Ok(())
    }

    /// Begins what other threads have asked to be watched while the loop waited.
    pub(super) fn begin_watches(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let core = this.get();
        let asked = core.state.with(py, |state| std::mem::take(&mut state.watched_meanwhile));
        for (fd, interest, key, span) in asked {
            // It may have ended before it began.
            let wanted = core.state.with(py, |state| state.registry.get(key).is_some());
            if wanted && let Err(error) = core.begin_watch(py, fd, interest, key, span) {
                drop(core.state.with(py, |state| state.registry.remove(key)));
                let message = "a descriptor that another thread added cannot be watched";
                Self::report(this, message, os_error(py, &error))?;
            }
        }
        Ok(())
    }

    /// Ends a watch; its callback is cancelled. `false` if there was none.
    pub(crate) fn unwatch(this: &Bound<'_, Self>, fd: RawFd, interest: Interest) -> PyResult<bool> {
        let py = this.py();
        let core = this.get();
        let Some((source, operation)) = core.forget_watch(py, fd, interest, None) else { return Ok(false) };
        if let Some(operation) = operation {
            // The caller may close the descriptor next, and expect its port to be free or its peer to be told.
            let cancel = |state: &mut State| state.driver.as_mut().map(|driver| driver.cancel_now(operation));
            match core.state.with(py, cancel) {
                Some(Ok(())) => {}
                Some(Err(error)) => return Err(os_error(py, &error)),
                None => core.cancel(py, operation),
            }
        }
        let Some(source) = source else { return Ok(false) };
        match source {
            Source::Watch(handle) => cancel_handle(py, &handle)?,
            Source::Sendfile(sendfile) => Sendfile::lost_watch(sendfile.bind(py))?,
            Source::Stream(_)
            | Source::Datagram(..)
            | Source::ReadPipe(_)
            | Source::WritePipe(..)
            // Whoever waits does so for good, as with CPython's loop.
            | Source::Socket(_)
            | Source::File(_)
            | Source::Acceptor(_) => {}
        }
        Ok(true)
    }

    /// Takes a watch (only the one with the key, if there is one) out of the books: who was told of it, and its operation if it has
    /// begun.
    pub(super) fn forget_watch(
        &self,
        py: Python<'_>,
        fd: RawFd,
        interest: Interest,
        key: Option<Key>,
    ) -> Option<(Option<Source>, Option<Operation>)> {
        self.state.with(py, |state| {
            let watches = state.watches.get_mut(&fd)?;
            let watch = watches.place(interest).take_if(|watch| key.is_none_or(|key| watch.key == key))?;
            if watches.is_empty() {
                state.watches.remove(&fd);
            }
            Some((state.registry.remove(watch.key), watch.operation))
        })
    }
}
