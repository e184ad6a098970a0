//! Methods that transports over sockets have alike; and what all methods are written with.

use pyo3::prelude::*;

use super::flow_control::Marks;
use crate::event_loop::LoopCore;
use crate::ffi::arguments::Arguments;
use crate::ffi::class::{Instance, Object};
use crate::ffi::imports::Import;

/// What a method or an attribute gives.
pub(super) type Answer = PyResult<Py<PyAny>>;

pub(super) fn none(py: Python<'_>) -> Answer {
    Ok(py.None())
}

pub(super) fn boolean(py: Python<'_>, value: bool) -> Answer {
    Ok(value.into_pyobject(py)?.to_owned().into_any().unbind())
}

/// Says in the log of debug mode what became of a transport, by a message with its `repr()` in it.
pub(super) fn log_debug<T: Instance>(
    this: &Object<T>,
    event_loop: Option<Py<LoopCore>>,
    py: Python<'_>,
    message: &str,
) -> PyResult<()> {
    static LOG: Import = Import::new("whilst._loop.errors", "log_debug");
    if event_loop.is_some_and(|event_loop| event_loop.get().is_debug()) {
        LOG.get(py)?.call1((message, this.bind(py)))?;
    }
    Ok(())
}

/// A transport over a socket, by what the methods below ask of it.
pub(super) trait SocketTransport: Instance {
    fn event_loop(&self, py: Python<'_>) -> Option<Py<LoopCore>>;
    fn is_closing(&self, py: Python<'_>) -> bool;
    fn is_reading(&self, py: Python<'_>) -> bool;
    /// Returns whether that changes anything, as `resume_reading` does.
    fn pause_reading(&self, py: Python<'_>) -> bool;
    fn resume_reading(this: &Object<Self>, py: Python<'_>) -> PyResult<bool>;
    fn close(this: &Object<Self>, py: Python<'_>) -> PyResult<()>;
    fn force_close(
        this: &Object<Self>,
        event_loop: &Bound<'_, LoopCore>,
        exception: Option<Py<PyAny>>,
    ) -> PyResult<()>;
    fn marks(&self, py: Python<'_>) -> Marks;
    fn set_marks(&self, py: Python<'_>, marks: Marks);
    fn maybe_pause_protocol(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()>;
}

pub(super) fn close<T: SocketTransport>(
    this: &Object<T>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> Answer {
    arguments.take("close", [], 0)?;
    T::close(this, py)?;
    none(py)
}

pub(super) fn abort<T: SocketTransport>(
    this: &Object<T>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> Answer {
    arguments.take("abort", [], 0)?;
    lose(this, py, None)
}

pub(super) fn force_close<'py, T: SocketTransport>(
    this: &Object<T>,
    py: Python<'py>,
    arguments: Arguments<'_, 'py>,
) -> Answer {
    let [exception] = arguments.take("_force_close", ["exc"], 1)?;
    let exception = exception.filter(|exception| !exception.is_none());
    lose(this, py, exception.map(|exception| exception.clone().unbind()))
}

fn lose<T: SocketTransport>(this: &Object<T>, py: Python<'_>, exception: Option<Py<PyAny>>) -> Answer {
    if let Some(event_loop) = this.get().event_loop(py) {
        T::force_close(this, event_loop.bind(py), exception)?;
    }
    none(py)
}

pub(super) fn is_closing<T: SocketTransport>(
    this: &Object<T>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> Answer {
    arguments.take("is_closing", [], 0)?;
    closing_attribute(this, py)
}

pub(super) fn closing_attribute<T: SocketTransport>(this: &Object<T>, py: Python<'_>) -> Answer {
    boolean(py, this.get().is_closing(py))
}

pub(super) fn is_reading<T: SocketTransport>(
    this: &Object<T>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> Answer {
    arguments.take("is_reading", [], 0)?;
    boolean(py, this.get().is_reading(py))
}

pub(super) fn pause_reading<T: SocketTransport>(
    this: &Object<T>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> Answer {
    arguments.take("pause_reading", [], 0)?;
    if this.get().pause_reading(py) {
        log_debug(this, this.get().event_loop(py), py, "%r pauses reading")?;
    }
    none(py)
}

pub(super) fn resume_reading<T: SocketTransport>(
    this: &Object<T>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> Answer {
    arguments.take("resume_reading", [], 0)?;
    if T::resume_reading(this, py)? {
        log_debug(this, this.get().event_loop(py), py, "%r resumes reading")?;
    }
    none(py)
}

pub(super) fn get_write_buffer_limits<T: SocketTransport>(
    this: &Object<T>,
    py: Python<'_>,
    arguments: Arguments<'_, '_>,
) -> Answer {
    arguments.take("get_write_buffer_limits", [], 0)?;
    let marks = this.get().marks(py);
    Ok((marks.low, marks.high).into_pyobject(py)?.into_any().unbind())
}

pub(super) fn set_write_buffer_limits<'py, T: SocketTransport>(
    this: &Object<T>,
    py: Python<'py>,
    arguments: Arguments<'_, 'py>,
) -> Answer {
    this.get().set_marks(py, Marks::of(arguments)?);
    if let Some(event_loop) = this.get().event_loop(py) {
        T::maybe_pause_protocol(this, event_loop.bind(py))?;
    }
    none(py)
}

/// Implements [`SocketTransport`] by the type's own methods of the same names.
macro_rules! socket_transport {
    ($type:ty) => {
        impl $crate::transport::methods::SocketTransport for $type {
            fn event_loop(&self, py: Python<'_>) -> Option<Py<LoopCore>> {
                self.event_loop(py)
            }

            fn is_closing(&self, py: Python<'_>) -> bool {
                self.is_closing(py)
            }

            fn is_reading(&self, py: Python<'_>) -> bool {
                self.state.with(py, |state| state.is_reading())
            }

            fn pause_reading(&self, py: Python<'_>) -> bool {
                self.pause_reading(py)
            }

            fn resume_reading(this: &Object<Self>, py: Python<'_>) -> PyResult<bool> {
                <$type>::resume_reading(this, py)
            }

            fn close(this: &Object<Self>, py: Python<'_>) -> PyResult<()> {
                <$type>::close(this, py)
            }

            fn force_close(
                this: &Object<Self>,
                event_loop: &Bound<'_, LoopCore>,
                exception: Option<Py<PyAny>>,
            ) -> PyResult<()> {
                <$type>::force_close(this, event_loop, exception)
            }

            fn marks(&self, py: Python<'_>) -> Marks {
                self.state.with(py, |state| state.marks)
            }

            fn set_marks(&self, py: Python<'_>, marks: Marks) {
                self.state.with(py, |state| state.marks = marks);
            }

            fn maybe_pause_protocol(this: &Object<Self>, event_loop: &Bound<'_, LoopCore>) -> PyResult<()> {
                <$type>::maybe_pause_protocol(this, event_loop)
            }
        }
    };
}
pub(super) use socket_transport;
