//! Files on the driver: what `whilst.open()` reads and writes through.
//!
//! Each method begins one operation and returns a future of the loop. The operation goes on whatever becomes of the future:
//! `done(value, error)`, where given, is called at its end, whether or not somebody still waits, and before anybody
//! who does is woken. That is how a file knows where it is after a task that read from it was cancelled.

use std::any::Any;
use std::ffi::CString;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

use pyo3::exceptions::PyValueError;
use pyo3::gc::{PyTraverseError, PyVisit};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use whilst_engine::driver::{self, File, FileEvent, FileOperation, Key, Status};

use crate::errors::os_error;
use crate::event_loop::LoopCore;
use crate::event_loop::registry::Source;
use crate::event_loop::tasks::new_future;
use crate::ffi::bytes::Unfinished;
use crate::ffi::file_memory::Finished;
use crate::ffi::guarded::Guarded;

/// An open file on a loop's driver.
#[pyclass(frozen, module = "whilst._whilst")]
pub(crate) struct RawFile {
    event_loop: Py<LoopCore>,
    file: Guarded<Option<File>>,
    status: Status,
}

/// Who waits for a file operation.
pub(crate) struct Pending {
    future: Py<PyAny>,
    done: Option<Py<PyAny>>,
}

impl Pending {
    pub(crate) fn traverse(&self, visit: &mut impl FnMut(&Py<PyAny>)) {
        visit(&self.future);
        self.done.iter().for_each(visit);
    }
}

#[pymethods]
impl RawFile {
    /// Read up to size bytes at offset, or at the file's position if offset is None. The result is bytes, empty at the end of
    /// the file.
    #[pyo3(signature = (size, offset = None, done = None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        size: usize,
        offset: Option<u64>,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let file = self.file(py)?;
        let memory = Box::new(Unfinished::new(py, size)?);
        self.start(py, FileOperation::Read { file, offset, memory }, done)
    }

    /// Write bytes at offset, or at the file's position if offset is None. The result is how many were written, maybe fewer
    /// than all.
    #[pyo3(signature = (data, offset = None, done = None))]
    fn write<'py>(
        &self,
        py: Python<'py>,
        data: Py<PyBytes>,
        offset: Option<u64>,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let file = self.file(py)?;
        let memory = Box::new(Finished(data));
        self.start(py, FileOperation::Write { file, offset, memory }, done)
    }

    /// Have what was written put on the disk; with data_only without what is not needed to read it again.
    #[pyo3(signature = (data_only = false, done = None))]
    fn sync<'py>(
        &self,
        py: Python<'py>,
        data_only: bool,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let file = self.file(py)?;
        self.start(py, FileOperation::Sync { file, data_only }, done)
    }

    /// Cut or extend the file to so many bytes.
    #[pyo3(signature = (length, done = None))]
    fn truncate<'py>(
        &self,
        py: Python<'py>,
        length: u64,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let file = self.file(py)?;
        self.start(py, FileOperation::Truncate { file, length }, done)
    }

    /// Close the file, once the operations that are under way have ended.
    #[pyo3(signature = (done = None))]
    fn close<'py>(&self, py: Python<'py>, done: Option<Py<PyAny>>) -> PyResult<Bound<'py, PyAny>> {
        let core = self.event_loop.get();
        core.check_open()?;
        let file = self.file.with(py, Option::take).ok_or_else(closed)?;
        match file.into_descriptor() {
            Some(descriptor) => self.start(py, FileOperation::Close { descriptor }, done),
            // Somebody else's, or the last operation's to close.
            None => {
                let future = new_future(self.event_loop.bind(py))?;
                Pending { future: future.clone().unbind(), done }.end(py, Ok(py.None()))?;
                Ok(future)
            }
        }
    }

    /// Close the file here and now, without waiting for anything: for a file that nobody has closed.
    fn close_now(&self, py: Python<'_>) {
        drop(self.file.with(py, Option::take));
    }

    /// Return the descriptor. Raises ValueError if the file is closed.
    fn fileno(&self, py: Python<'_>) -> PyResult<RawFd> {
        Ok(self.file(py)?.as_raw_fd())
    }

    /// The file's type and permissions (`st_mode`) when it was opened.
    #[getter]
    fn mode(&self) -> u32 {
        self.status.mode
    }

    /// How many bytes at a time are read and written best (`st_blksize`).
    #[getter]
    fn block_size(&self) -> u64 {
        self.status.block_size
    }

    /// True if the file can be waited for (a FIFO, a terminal): it must be read and written by readiness.
    #[getter]
    fn pollable(&self) -> bool {
        self.status.pollable
    }

    fn __traverse__(&self, visit: PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&self.event_loop)
    }
}

fn closed() -> PyErr {
    PyValueError::new_err("I/O operation on closed file.")
}

impl RawFile {
    fn file(&self, py: Python<'_>) -> PyResult<File> {
        self.file.with(py, |file| file.clone()).ok_or_else(closed)
    }

    fn start<'py>(
        &self,
        py: Python<'py>,
        operation: FileOperation,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        LoopCore::start_file_operation(self.event_loop.bind(py), operation, done)
    }
}

#[pymethods]
impl LoopCore {
    /// Open a file by its path in the file system's encoding. The result is a RawFile.
    ///
    /// It never waits for the other end of a FIFO: one that is opened for writing and has no reader raises OSError (ENXIO).
    #[pyo3(signature = (path, flags, mode, done = None))]
    fn _open_file<'py>(
        this: &Bound<'py, Self>,
        path: Vec<u8>,
        flags: i32,
        mode: u32,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let path = CString::new(path).map_err(|_| PyValueError::new_err("embedded null byte"))?;
        Self::start_file_operation(this, FileOperation::Open { path, flags, mode }, done)
    }

    /// Make a RawFile of an open descriptor, which it closes if `owned`. Raises OSError for what is no descriptor.
    fn _adopt_file(this: &Bound<'_, Self>, fd: RawFd, owned: bool) -> PyResult<RawFile> {
        let status = driver::status(fd).map_err(|error| os_error(this.py(), &error))?;
        let file = if owned { File::owned(crate::ffi::descriptor::take(fd)) } else { File::borrowed(fd) };
        Ok(RawFile { event_loop: this.clone().unbind(), file: Guarded::new(Some(file)), status })
    }
}

impl LoopCore {
    fn start_file_operation<'py>(
        this: &Bound<'py, Self>,
        operation: FileOperation,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = this.py();
        let core = this.get();
        core.check_open()?;
        let future = new_future(this)?;
        let pending = Box::new(Pending { future: future.clone().unbind(), done });
        let key = core.state.with(py, |state| state.registry.insert(Source::File(pending)));
        let started = core.with_driver(py, |driver| driver.file(operation, key));
        if let Err(error) =
            started.and_then(|started| started.map(drop).map_err(|error| os_error(py, &error)))
        {
            drop(core.state.with(py, |state| state.registry.remove(key)));
            return Err(error);
        }
        Ok(future)
    }

    /// Tells whoever waits what became of a file operation.
    pub(crate) fn file_operation_ended(this: &Bound<'_, Self>, key: Key, event: FileEvent) -> PyResult<()> {
        let py = this.py();
        let source = this.get().state.with(py, |state| state.registry.remove(key));
        let Some(Source::File(pending)) = source else { return Ok(()) };
        let value = match event {
            FileEvent::Opened(Ok(opened)) => Self::opened(this, opened.descriptor, opened.status),
            FileEvent::Transferred { memory: Some(memory), result: Ok(count) } => {
                let memory: Box<dyn Any> = memory;
                match memory.downcast::<Unfinished>() {
                    Ok(memory) => memory.finish(py, count).map(|bytes| bytes.into_any().unbind()),
                    Err(_written) => Ok(count.into_pyobject(py)?.into_any().unbind()),
                }
            }
            FileEvent::Done(Ok(())) | FileEvent::Transferred { memory: None, result: Ok(_) } => Ok(py.None()),
            FileEvent::Opened(Err(error))
            | FileEvent::Transferred { result: Err(error), .. }
            | FileEvent::Done(Err(error)) => Err(os_error(py, &error)),
        };
        pending.end(py, value)
    }

    fn opened(this: &Bound<'_, Self>, descriptor: OwnedFd, status: Status) -> PyResult<Py<PyAny>> {
        let file = Guarded::new(Some(File::owned(descriptor)));
        let raw = RawFile { event_loop: this.clone().unbind(), file, status };
        Ok(Py::new(this.py(), raw)?.into_any())
    }
}

impl Pending {
    fn end(self, py: Python<'_>, value: PyResult<Py<PyAny>>) -> PyResult<()> {
        let (value, error) = match value {
            Ok(value) => (value, py.None()),
            Err(error) => (py.None(), error.into_value(py).into_any()),
        };
        if let Some(done) = self.done {
            done.call1(py, (&value, &error))?;
        }
        let future = self.future.bind(py);
        if future.call_method0(intern!(py, "done"))?.is_truthy()? {
            return Ok(());
        }
        if error.is_none(py) {
            future.call_method1(intern!(py, "set_result"), (value,))?;
        } else {
            future.call_method1(intern!(py, "set_exception"), (error,))?;
        }
        Ok(())
    }
}
