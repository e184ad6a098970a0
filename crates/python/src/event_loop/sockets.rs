//! What the `sock_*` coroutines are made of: a try that never blocks, and a wait for readiness.
//!
//! The coroutines themselves are Python (`python/whilst/_loop/sockets.py`), so that a program finds coroutines. A try that succeeds
//! costs them one call; a wait is one [`SocketWait`], without a future, a handle or a change to what the kernel watches but one.

use std::os::fd::RawFd;

use pyo3::exceptions::{PyRuntimeError, PyTypeError};
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyInt};
use whilst_engine::driver::{Interest, Key};

use super::LoopCore;
use super::observing::TRACE;
use super::readiness::descriptor;
use super::registry::Source;
use crate::errors::os_error;
use crate::fast_method;
use crate::ffi::arguments::Arguments;
use crate::ffi::buffer::{ReadableBuffer, WritableBuffer};
use crate::ffi::bytes;
use crate::ffi::call::{call, copy_context, in_context};
use crate::ffi::descriptor::borrow;
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::ffi::methods::add_fast_methods;
use crate::ffi::plain_socket::plain_descriptor;
use crate::handle::ends_the_run;
use crate::trace;
use crate::transport::socket;

/// Adds the methods of this file to the class.
pub(crate) fn add_methods(py: Python<'_>) -> PyResult<()> {
    add_fast_methods::<LoopCore>(
        py,
        vec![
            fast_method!(
                LoopCore,
                "_sock_recv",
                try_receive,
                "_sock_recv($self, sock, nbytes, /)\n--\n\n\
                 Receive what is there, up to nbytes bytes; None if nothing is. Raises as sock_recv() does."
            ),
            fast_method!(
                LoopCore,
                "_sock_recv_into",
                try_receive_into,
                "_sock_recv_into($self, sock, buf, /)\n--\n\n\
                 Receive what is there into a buffer. Return the number of bytes, or None if nothing is there."
            ),
            fast_method!(
                LoopCore,
                "_sock_send",
                try_send,
                "_sock_send($self, sock, data, /)\n--\n\n\
                 Send what there is room for. Return how many bytes it was, or None if it was all of them."
            ),
            fast_method!(
                LoopCore,
                "_sock_readable",
                readable,
                "_sock_readable($self, sock, /)\n--\n\n\
                 Return an awaitable that is done when the socket can be read. Raises RuntimeError if it is a transport's."
            ),
            fast_method!(
                LoopCore,
                "_sock_writable",
                writable,
                "_sock_writable($self, sock, /)\n--\n\n\
                 Return an awaitable that is done when the socket can be written. Raises RuntimeError if it is a transport's."
            ),
        ],
    )
}

/// The largest receive for which the bytes stop over on the stack, so that the `bytes` object is made for what they are. A larger one
/// goes straight into an object of its size, which is cut, unless little has come.
const STOPOVER: usize = 4096;

/// The largest memory for a receive that the loop keeps for the next one when nothing, or little, has come.
const LARGEST_SPARE: usize = 1 << 18;

/// The largest receive that is made here. For more, memory may fail, which is CPython's to say.
const LARGEST: usize = 1 << 26;

/// The errors after which waiting helps.
fn is_passing(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::Interrupted)
}

/// What a try is given: a socket, and the number or the bytes that it is about.
fn two<'a, 'py>(
    arguments: &Arguments<'a, 'py>,
    function: &str,
) -> PyResult<(&'a Bound<'py, PyAny>, &'a Bound<'py, PyAny>)> {
    if arguments.len() == 2
        && !arguments.has_keywords()
        && let (Some(sock), Some(value)) = (arguments.get(0), arguments.get(1))
    {
        return Ok((sock, value));
    }
    Err(PyTypeError::new_err(format!("{function}() takes two arguments")))
}

/// The descriptor of a socket that can be read and written here, without asking it. In debug mode there are checks that come first.
fn direct(this: &Bound<'_, LoopCore>, sock: &Bound<'_, PyAny>) -> PyResult<Option<RawFd>> {
    if this.get().is_debug() { Ok(None) } else { plain_descriptor(sock) }
}

fn try_receive(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    static ASK: Import = Import::new("whilst._loop.sockets", "receive");
    let py = this.py();
    let (sock, count) = two(&arguments, "_sock_recv")?;
    if let Some(fd) = direct(this, sock)?
        && count.is_exact_instance_of::<PyInt>()
        && let Ok(count @ 1..=LARGEST) = count.extract::<usize>()
    {
        let fd = borrow(fd);
        let received = if count <= STOPOVER {
            let mut memory = [std::mem::MaybeUninit::uninit(); STOPOVER];
            socket::receive_uninit(fd, &mut memory[..count]).map(|data| PyBytes::new(py, data))
        } else {
            let core = this.get();
            let mut spare = core.state.with(py, |state| state.spare_bytes.take());
            let received =
                bytes::filled_or_spared(py, &mut spare, count, |memory| socket::receive_uninit(fd, memory));
            if count <= LARGEST_SPARE {
                let replaced = core.state.with(py, |state| std::mem::replace(&mut state.spare_bytes, spare));
                drop(replaced);
            }
            received
        };
        return match received {
            Ok(data) => {
                this.get().received(data.as_bytes().len());
                Ok(data.into_any().unbind())
            }
            Err(error) if is_passing(&error) => Ok(py.None()),
            Err(error) => Err(os_error(py, &error)),
        };
    }
    Ok(call(ASK.get(py)?, [this.as_any(), sock, count])?.unbind())
}

fn try_receive_into(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    static ASK: Import = Import::new("whilst._loop.sockets", "receive_into");
    let py = this.py();
    let (sock, object) = two(&arguments, "_sock_recv_into")?;
    if let Some(fd) = direct(this, sock)?
        // What is wrong with another object CPython says better.
        && let Ok(mut buffer) = WritableBuffer::of(object)
        && let memory @ [_, ..] = buffer.bytes(py)
    {
        return match socket::receive(borrow(fd), memory) {
            Ok(count) => {
                this.get().received(count);
                Ok(count.into_pyobject(py)?.into_any().unbind())
            }
            Err(error) if is_passing(&error) => Ok(py.None()),
            Err(error) => Err(os_error(py, &error)),
        };
    }
    Ok(call(ASK.get(py)?, [this.as_any(), sock, object])?.unbind())
}

fn try_send(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    static ASK: Import = Import::new("whilst._loop.sockets", "send");
    let py = this.py();
    let (sock, object) = two(&arguments, "_sock_send")?;
    if let Some(fd) = direct(this, sock)? {
        let counted = |count: &usize| this.get().sent(*count);
        let send = |data: &[u8]| match socket::send(borrow(fd), data).inspect(counted) {
            Ok(count) if count == data.len() => Ok(py.None()),
            Ok(count) => Ok(count.into_pyobject(py)?.into_any().unbind()),
            Err(error) if is_passing(&error) => Ok(0_usize.into_pyobject(py)?.into_any().unbind()),
            Err(error) => Err(os_error(py, &error)),
        };
        if let Ok(data) = object.cast_exact::<PyBytes>() {
            return send(data.as_bytes());
        }
        if let Ok(buffer) = ReadableBuffer::of(object) {
            return send(buffer.bytes(py));
        }
    }
    Ok(call(ASK.get(py)?, [this.as_any(), sock, object])?.unbind())
}

fn readable(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    SocketWait::create(this, arguments, Interest::Readable)
}

fn writable(this: &Bound<'_, LoopCore>, arguments: Arguments<'_, '_>) -> PyResult<Py<PyAny>> {
    SocketWait::create(this, arguments, Interest::Writable)
}

/// A task's wait for a socket.
///
/// It is both what the coroutine awaits and what the task waits for: to a task it is a future (`_asyncio_future_blocking`, the
/// documented way of [`asyncio.isfuture`] to know one), which has a result once the socket is ready. The watch begins with the wait,
/// and ends with it whatever ends it: readiness, `cancel()`, or an exception that is thrown into the coroutine.
///
/// [`asyncio.isfuture`]: https://docs.python.org/3/library/asyncio-future.html#asyncio.isfuture
#[pyclass(frozen, module = "whilst._whilst")]
pub(crate) struct SocketWait {
    event_loop: Py<LoopCore>,
    fd: RawFd,
    interest: Interest,
    state: Guarded<State>,
}

struct State {
    stage: Stage,
    /// What is called when the wait is over, and in which context: the first, which is nearly always the only one, and the others.
    callback: Option<(Py<PyAny>, Py<PyAny>)>,
    more_callbacks: Vec<(Py<PyAny>, Py<PyAny>)>,
    /// `_asyncio_future_blocking`.
    blocking: bool,
}

enum Stage {
    /// Nobody waits yet.
    New,
    /// The loop watches, unless another watch of the descriptor has taken this one's place: then it never ends, as with CPython's loop.
    Waiting(Key),
    Ready,
    /// With the message of `cancel()`.
    Cancelled(Option<Py<PyAny>>),
    /// The coroutine was ended by an exception.
    Over,
}

impl SocketWait {
    fn create(
        this: &Bound<'_, LoopCore>,
        arguments: Arguments<'_, '_>,
        interest: Interest,
    ) -> PyResult<Py<PyAny>> {
        let py = this.py();
        let [Some(sock)] = arguments.take("wait", ["sock"], 1)? else { unreachable!("it is required") };
        let fd = match plain_descriptor(sock)? {
            Some(fd) => fd,
            None => descriptor(sock)?,
        };
        LoopCore::check_no_transport(this, fd, fd.into_pyobject(py)?.as_any())?;
        let state = State { stage: Stage::New, callback: None, more_callbacks: Vec::new(), blocking: false };
        let wait = Self { event_loop: this.clone().unbind(), fd, interest, state: Guarded::new(state) };
        Ok(Py::new(py, wait)?.into_any())
    }

    /// The socket is ready: whoever waits goes on at once, in this iteration.
    pub(super) fn ready(this: &Bound<'_, Self>, event_loop: &Bound<'_, LoopCore>, key: Key) -> PyResult<()> {
        let py = this.py();
        let wait = this.get();
        // The kernel's part of the watch is over. Nothing is left of ours if it was ended or replaced since.
        let Some(ended) = event_loop.get().forget_watch(py, wait.fd, wait.interest, Some(key)) else {
            return Ok(());
        };
        drop(ended);
        let (before, callback, more) = wait.state.with(py, |state| {
            let before = std::mem::replace(&mut state.stage, Stage::Ready);
            (before, state.callback.take(), std::mem::take(&mut state.more_callbacks))
        });
        drop(before);
        let mut callbacks = callback.into_iter().chain(more);
        if event_loop.get().is_debug() {
            // So that what takes long is reported as a handle's callback.
            return Self::schedule(this, event_loop, callbacks);
        }
        while let Some((callback, context)) = callbacks.next() {
            let callback = callback.bind(py);
            let core = event_loop.get();
            let traced =
                if core.is_watched_by(TRACE) { trace::callback_begins(event_loop, callback) } else { None };
            let called = in_context(context.bind(py), || call(callback, [this.as_any()]));
            if let Some(doing) = traced {
                trace::work_ended(core, py, doing);
            }
            if let Err(error) = called {
                if ends_the_run(py, &error) {
                    // The others have their turn in the next run.
                    Self::schedule(this, event_loop, callbacks)?;
                    return Err(error);
                }
                LoopCore::report(event_loop, &format!("Exception in callback {}", callback.repr()?), error)?;
            }
        }
        Ok(())
    }

    /// Has the loop call what is to be called when the wait is over.
    fn schedule(
        this: &Bound<'_, Self>,
        event_loop: &Bound<'_, LoopCore>,
        callbacks: impl Iterator<Item = (Py<PyAny>, Py<PyAny>)>,
    ) -> PyResult<()> {
        for (callback, context) in callbacks {
            let keywords = PyDict::new(this.py());
            keywords.set_item("context", context)?;
            event_loop.call_method("call_soon", (callback, this), Some(&keywords))?;
        }
        Ok(())
    }

    /// Ends a wait that is under way, in this manner; `false` if none is.
    fn end(&self, py: Python<'_>, stage: Stage) -> bool {
        let ended = self.state.with(py, |state| match state.stage {
            Stage::Waiting(key) => {
                state.stage = stage;
                Some(key)
            }
            _ => None,
        });
        if let Some(key) = ended {
            LoopCore::end_watch(self.event_loop.bind(py), self.fd, self.interest, key, true);
        }
        ended.is_some()
    }

    /// Raises `CancelledError` if the wait was cancelled, `InvalidStateError` if it is not over.
    fn check_over(&self, py: Python<'_>) -> PyResult<()> {
        static CANCELLED: Import = Import::new("asyncio.exceptions", "CancelledError");
        static INVALID: Import = Import::new("asyncio.exceptions", "InvalidStateError");
        enum Found {
            Ready,
            Pending,
            Cancelled(Option<Py<PyAny>>),
        }
        let found = self.state.with(py, |state| match &state.stage {
            Stage::Ready => Found::Ready,
            Stage::New | Stage::Waiting(_) => Found::Pending,
            Stage::Cancelled(message) => Found::Cancelled(message.as_ref().map(|it| it.clone_ref(py))),
            Stage::Over => Found::Cancelled(None),
        });
        Err(PyErr::from_value(match found {
            Found::Ready => return Ok(()),
            Found::Pending => INVALID.get(py)?.call1(("Result is not set.",))?,
            Found::Cancelled(Some(message)) => CANCELLED.get(py)?.call1((message,))?,
            Found::Cancelled(None) => CANCELLED.get(py)?.call0()?,
        }))
    }

    fn is_pending(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| matches!(state.stage, Stage::New | Stage::Waiting(_)))
    }
}

#[pymethods]
impl SocketWait {
    fn __await__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    fn __iter__(this: Bound<'_, Self>) -> Bound<'_, Self> {
        this
    }

    /// Begins the wait, the first time; the second time it is over.
    fn __next__(this: Bound<'_, Self>) -> PyResult<Option<Bound<'_, Self>>> {
        let py = this.py();
        let wait = this.get();
        let (is_new, is_ready) = wait
            .state
            .with(py, |state| (matches!(state.stage, Stage::New), matches!(state.stage, Stage::Ready)));
        if is_ready {
            return Ok(None);
        }
        if !is_new {
            if wait.end(py, Stage::Over) {
                // Whoever runs the coroutine has not waited, and gets no second chance.
                return Err(PyRuntimeError::new_err("await wasn't used with future"));
            }
            return wait.check_over(py).map(|()| None);
        }
        let source = Source::Socket(this.clone().unbind());
        let key = LoopCore::watch_once_for(wait.event_loop.bind(py), wait.fd, wait.interest, source)?;
        wait.state.with(py, |state| {
            state.stage = Stage::Waiting(key);
            state.blocking = true;
        });
        Ok(Some(this))
    }

    /// Go on, as next() does.
    fn send<'py>(this: Bound<'py, Self>, _value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, Self>> {
        static STOP: Import = Import::new("builtins", "StopIteration");
        let py = this.py();
        match Self::__next__(this)? {
            Some(this) => Ok(this),
            None => Err(PyErr::from_value(STOP.get(py)?.call0()?)),
        }
    }

    /// End the wait and raise an exception.
    #[pyo3(signature = (kind, value = None, traceback = None, /))]
    fn throw(
        &self,
        py: Python<'_>,
        kind: &Bound<'_, PyAny>,
        value: Option<&Bound<'_, PyAny>>,
        traceback: Option<&Bound<'_, PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        self.end(py, Stage::Over);
        let error = if kind.is_instance_of::<pyo3::exceptions::PyBaseException>() {
            kind.clone()
        } else if let Some(value) =
            value.filter(|it| it.is_instance_of::<pyo3::exceptions::PyBaseException>())
        {
            value.clone()
        } else {
            kind.call1(pyo3::types::PyTuple::new(py, value)?)?
        };
        if let Some(traceback) = traceback {
            error.call_method1("with_traceback", (traceback,))?;
        }
        Err(PyErr::from_value(error))
    }

    /// End the wait.
    fn close(&self, py: Python<'_>) {
        self.end(py, Stage::Over);
    }

    #[getter(_asyncio_future_blocking)]
    fn blocking(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| state.blocking)
    }

    #[setter(_asyncio_future_blocking)]
    fn set_blocking(&self, py: Python<'_>, blocking: bool) {
        self.state.with(py, |state| state.blocking = blocking);
    }

    /// Return the loop that watches the socket.
    fn get_loop(&self, py: Python<'_>) -> Py<LoopCore> {
        self.event_loop.clone_ref(py)
    }

    /// True once the socket is ready or the wait was cancelled.
    fn done(&self, py: Python<'_>) -> bool {
        !self.is_pending(py)
    }

    /// True if the wait was cancelled.
    fn cancelled(&self, py: Python<'_>) -> bool {
        self.state.with(py, |state| matches!(state.stage, Stage::Cancelled(_) | Stage::Over))
    }

    /// None once the socket is ready. Raises CancelledError if the wait was cancelled, InvalidStateError if it is not over.
    fn result(&self, py: Python<'_>) -> PyResult<()> {
        self.check_over(py)
    }

    /// None once the socket is ready. Raises as result() does.
    fn exception(&self, py: Python<'_>) -> PyResult<()> {
        self.check_over(py)
    }

    /// Call a function with this object when the wait is over.
    #[pyo3(signature = (function, /, *, context = None))]
    fn add_done_callback(
        this: &Bound<'_, Self>,
        function: Py<PyAny>,
        context: Option<Py<PyAny>>,
    ) -> PyResult<()> {
        let py = this.py();
        let wait = this.get();
        let context = match context {
            Some(context) => context,
            None => copy_context(py)?.unbind(),
        };
        if !wait.is_pending(py) {
            return Self::schedule(this, wait.event_loop.bind(py), std::iter::once((function, context)));
        }
        wait.state.with(py, |state| {
            if state.callback.is_none() {
                state.callback = Some((function, context));
            } else {
                state.more_callbacks.push((function, context));
            }
        });
        Ok(())
    }

    /// Do not call a function when the wait is over. Return how often it would have been called.
    fn remove_done_callback(&self, function: &Bound<'_, PyAny>) -> PyResult<usize> {
        let py = function.py();
        let callbacks = self.state.with(py, |state| {
            let more = std::mem::take(&mut state.more_callbacks);
            state.callback.take().into_iter().chain(more).collect::<Vec<_>>()
        });
        let mut kept = Vec::new();
        let mut removed = 0;
        for (callback, context) in callbacks {
            if callback.bind(py).eq(function)? {
                removed += 1;
            } else {
                kept.push((callback, context));
            }
        }
        self.state.with(py, |state| {
            // What was added meanwhile, by a comparison that runs Python code, comes last.
            kept.extend(state.callback.take());
            kept.append(&mut state.more_callbacks);
            let mut kept = kept.into_iter();
            state.callback = kept.next();
            state.more_callbacks = kept.collect();
        });
        Ok(removed)
    }

    /// End the wait, and have what waits for it told. Return False if it was over.
    #[pyo3(signature = (msg = None))]
    fn cancel(this: &Bound<'_, Self>, msg: Option<Py<PyAny>>) -> PyResult<bool> {
        let py = this.py();
        let wait = this.get();
        if !wait.end(py, Stage::Cancelled(msg)) {
            return Ok(false);
        }
        let (callback, more) =
            wait.state.with(py, |state| (state.callback.take(), std::mem::take(&mut state.more_callbacks)));
        Self::schedule(this, wait.event_loop.bind(py), callback.into_iter().chain(more))?;
        Ok(true)
    }

    fn __repr__(&self, py: Python<'_>) -> String {
        let stage = self.state.with(py, |state| match state.stage {
            Stage::New | Stage::Waiting(_) => "pending",
            Stage::Ready => "finished",
            Stage::Cancelled(_) | Stage::Over => "cancelled",
        });
        let what = match self.interest {
            Interest::Readable => "readable",
            Interest::Writable => "writable",
        };
        format!("<SocketWait {stage} {what} fd={}>", self.fd)
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)?;
        let visited = self.state.try_with(|state| {
            if let Stage::Cancelled(Some(message)) = &state.stage {
                visit.call(message)?;
            }
            for (callback, context) in state.callback.iter().chain(&state.more_callbacks) {
                visit.call(callback)?;
                visit.call(context)?;
            }
            Ok(())
        });
        visited.unwrap_or(Ok(()))
    }

    fn __clear__(&self, py: Python<'_>) {
        let taken = self.state.with(py, |state| {
            let message = match &mut state.stage {
                Stage::Cancelled(message) => message.take(),
                _ => None,
            };
            (message, state.callback.take(), std::mem::take(&mut state.more_callbacks))
        });
        drop(taken);
    }
}
