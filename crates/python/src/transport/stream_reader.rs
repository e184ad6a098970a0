//! asyncio's `StreamReader`, fed without the Python functions in between.
//!
//! What a transport receives for an `asyncio.streams.StreamReaderProtocol` goes through four functions of `asyncio/streams.py`:
//! `StreamReaderProtocol.data_received`, its property `_stream_reader`, `StreamReader.feed_data` and `StreamReader._wakeup_waiter`. They
//! append it to a `bytearray` and resolve the future that a reading coroutine waits for. [`feed`] does so itself where nobody could
//! tell: both classes are the very ones, nobody has put another function in the place of these (on the class, on the instance,
//! or by its code), and the reader takes the bytes without further ado. Everything else (its end was fed, there is as much in its buffer
//! as makes it pause the transport, somebody has replaced one of its parts) is left to them, before anything is done.

use std::ops::Deref;

use pyo3::intern;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyBool, PyByteArray, PyBytes, PyFunction, PyInt, PyType, PyWeakrefReference};

use crate::ffi::bytes;
use crate::ffi::call::{call, call_method};
use crate::ffi::guarded::Guarded;
use crate::ffi::imports::Import;
use crate::ffi::python_class::{Layout, code, globals, has_plain_attributes, version};

/// The attributes of a `StreamReaderProtocol` (Python 3.11 to 3.15). The last [two](SOMETIMES) not every instance has.
const PROTOCOL_ATTRIBUTES: [&str; 14] = [
    "_stream_reader_wr",
    "_loop",
    "_paused",
    "_drain_waiters",
    "_connection_lost",
    "_source_traceback",
    "_reject_connection",
    "_task",
    "_transport",
    "_client_connected_cb",
    "_over_ssl",
    "_closed",
    "_strong_reader",
    "_stream_writer",
];

/// How many attributes of a `StreamReaderProtocol` some instances do not have.
const SOMETIMES: usize = 2;

/// The attributes of a `StreamReader` (Python 3.11 to 3.15).
const READER_ATTRIBUTES: [&str; 8] =
    ["_eof", "_buffer", "_waiter", "_limit", "_loop", "_exception", "_transport", "_paused"];

/// The names in the code of `StreamReader.feed_data`.
const FEED_DATA_NAMES: [&str; 10] = [
    "_eof",
    "_buffer",
    "extend",
    "_wakeup_waiter",
    "_transport",
    "_paused",
    "len",
    "_limit",
    "pause_reading",
    "NotImplementedError",
];

/// Both classes.
struct Classes {
    protocol: Py<PyType>,
    reader: Py<PyType>,
    known: Guarded<Known>,
}

/// What was found out about the classes when they had these versions.
struct Known {
    versions: Option<[u32; 2]>,
    /// `None` where they are not as they ought to be.
    shape: Option<Shape>,
}

/// Classes as they ought to be.
struct Shape {
    protocol: Layout<1>,
    reader: Layout<4>,
    /// The four functions, with their code.
    functions: [(Py<PyFunction>, Py<PyAny>); 4],
}

/// A reader and what was read from it: the first of its [attributes](READER_ATTRIBUTES).
type Reader<'py> = (Bound<'py, PyAny>, [Bound<'py, PyAny>; 4]);

/// True if the protocol is one that [`feed`] may be tried on.
#[inline]
pub(crate) fn is_fed(protocol: &Bound<'_, PyAny>) -> bool {
    let py = protocol.py();
    // Without a GIL another thread could change what is read here meanwhile.
    !cfg!(Py_GIL_DISABLED)
        && classes(py)
            .is_some_and(|classes| protocol.get_type_ptr() == classes.protocol.bind(py).as_type_ptr())
}

/// Hands bytes to a protocol: calls its `data_received()`, or [`feed`]s them, unless the loop is in debug mode; true if they were fed.
/// Raises what `data_received()` raises.
pub(crate) fn data_received(
    protocol: &Bound<'_, PyAny>,
    data: &Bound<'_, PyBytes>,
    debug: bool,
) -> PyResult<bool> {
    if !debug && is_fed(protocol) && feed(protocol, &[data.as_bytes()])? {
        return Ok(true);
    }
    call_method(protocol, intern!(protocol.py(), "data_received"), [data.as_any()]).map(|_none| false)
}

/// Does what the protocol's `data_received()` would do with all the parts in one, and returns true; or does nothing and returns
/// false, if it is not plain what that would be. Raises what `data_received()` would raise.
pub(crate) fn feed(protocol: &Bound<'_, PyAny>, parts: &[impl Deref<Target = [u8]>]) -> PyResult<bool> {
    let py = protocol.py();
    let Some((reader, [eof, buffer, waiter, limit])) =
        classes(py).and_then(|classes| classes.reader_of(protocol))
    else {
        return Ok(false);
    };
    let (Ok(buffer), Ok(limit)) = (buffer.cast_exact::<PyByteArray>(), limit.cast_exact::<PyInt>()) else {
        return Ok(false);
    };
    let Ok(limit) = limit.extract::<usize>() else { return Ok(false) };
    let length = parts.iter().fold(buffer.len(), |sum, part| sum + part.len());
    // After the end `feed_data()` raises; past this length it pauses the transport; and of nothing it does not tell.
    if !eof.is(PyBool::new(py, false)) || length > limit.saturating_mul(2) || length == buffer.len() {
        return Ok(false);
    }
    bytes::append(buffer, parts)?;
    if !waiter.is_none() {
        reader.setattr(intern!(py, "_waiter"), py.None())?;
        wake(&waiter)?;
    }
    Ok(true)
}

/// Resolves the future that a coroutine waits for, unless it was cancelled.
fn wake(waiter: &Bound<'_, PyAny>) -> PyResult<()> {
    // From the C module, whose classes cannot be changed.
    static FUTURE: Import = Import::new("_asyncio", "Future");
    static SET_RESULT: PyOnceLock<Option<Py<PyAny>>> = PyOnceLock::new();
    let py = waiter.py();
    let none = py.None();
    let set_result =
        SET_RESULT.get_or_init(py, || Some(FUTURE.get(py).ok()?.getattr("set_result").ok()?.unbind()));
    if let Some(set_result) = set_result
        && waiter.get_type().is(FUTURE.get(py)?)
    {
        return match call(set_result.bind(py), [waiter, none.bind(py)]) {
            Ok(_) => Ok(()),
            // It refuses what is cancelled, and nothing else that a reader waits for.
            Err(_) if is_cancelled(waiter)? => Ok(()),
            Err(error) => Err(error),
        };
    }
    if !is_cancelled(waiter)? {
        call_method(waiter, intern!(py, "set_result"), [none.bind(py)])?;
    }
    Ok(())
}

fn is_cancelled(waiter: &Bound<'_, PyAny>) -> PyResult<bool> {
    call_method(waiter, intern!(waiter.py(), "cancelled"), [])?.is_truthy()
}

#[inline]
fn classes(py: Python<'_>) -> Option<&Classes> {
    static CLASSES: PyOnceLock<Option<Classes>> = PyOnceLock::new();
    let find = || -> PyResult<Classes> {
        let module = py.import("asyncio.streams")?;
        Ok(Classes {
            protocol: module.getattr("StreamReaderProtocol")?.cast_into()?.unbind(),
            reader: module.getattr("StreamReader")?.cast_into()?.unbind(),
            known: Guarded::new(Known { versions: None, shape: None }),
        })
    };
    CLASSES.get_or_init(py, || find().ok()).as_ref()
}

impl Classes {
    /// The reader of a protocol, if both are plain instances of classes that nobody has changed.
    #[inline]
    fn reader_of<'py>(&self, protocol: &Bound<'py, PyAny>) -> Option<Reader<'py>> {
        let py = protocol.py();
        let mut versions = self.versions(py);
        if versions.is_none() || self.known.with(py, |known| known.versions != versions) {
            versions = self.examine(protocol);
        }
        self.known.with(py, |known| {
            let shape = known.shape.as_ref()?;
            (known.versions == versions && shape.has_its_code(py)).then(|| shape.reader_of(protocol))?
        })
    }

    /// `None` while CPython has no number for one of the classes.
    #[inline]
    fn versions(&self, py: Python<'_>) -> Option<[u32; 2]> {
        Some([version(self.protocol.bind(py))?, version(self.reader.bind(py))?])
    }

    /// Looks at the classes anew, on the occasion of an instance. Returns their versions.
    #[cold]
    fn examine(&self, instance: &Bound<'_, PyAny>) -> Option<[u32; 2]> {
        let py = instance.py();
        let shape = Shape::find(self.protocol.bind(py), self.reader.bind(py), instance).ok().flatten();
        // The look has given them numbers, if they had none.
        let versions = self.versions(py)?;
        let known = Known { versions: Some(versions), shape };
        drop(self.known.with(py, |place| std::mem::replace(place, known)));
        Some(versions)
    }
}

impl Shape {
    /// What the classes are like, if they are as they ought to be.
    fn find(
        protocol: &Bound<'_, PyType>,
        reader: &Bound<'_, PyType>,
        instance: &Bound<'_, PyAny>,
    ) -> PyResult<Option<Self>> {
        static PROPERTY: Import = Import::new("builtins", "property");
        let py = protocol.py();
        if !has_plain_attributes(protocol) || !has_plain_attributes(reader) {
            return Ok(None);
        }
        // A descriptor of the class's would be asked before the instance.
        for (class, names) in [(protocol, &PROTOCOL_ATTRIBUTES[..1]), (reader, &READER_ATTRIBUTES)] {
            for name in names {
                if class.hasattr(*name)? {
                    return Ok(None);
                }
            }
        }
        fn of<'py>(class: &Bound<'py, PyType>, name: &str) -> PyResult<Bound<'py, PyAny>> {
            class.getattr("__dict__")?.get_item(name)
        }
        let property = of(protocol, "_stream_reader")?;
        if !property.get_type().is(PROPERTY.get(py)?) {
            return Ok(None);
        }
        // Each with the names that its code uses: a later Python's may do something else.
        let functions: [(_, &[&str]); 4] = [
            (of(protocol, "data_received")?, &["_stream_reader", "feed_data"]),
            (property.getattr("fget")?, &["_stream_reader_wr"]),
            (of(reader, "feed_data")?, &FEED_DATA_NAMES),
            (of(reader, "_wakeup_waiter")?, &["_waiter", "cancelled", "set_result"]),
        ];
        let module = py.import("asyncio.streams")?.dict();
        let mut found = Vec::with_capacity(functions.len());
        for (function, names) in functions {
            let Ok(function) = function.cast_into_exact::<PyFunction>() else { return Ok(None) };
            let code = code(&function).to_owned();
            if !globals(&function).is(&module) || code.getattr("co_names")?.extract::<Vec<String>>()? != names
            {
                return Ok(None);
            }
            found.push((function.unbind(), code.unbind()));
        }
        let Ok(functions) = found.try_into() else { return Ok(None) };
        let mut layout = Layout::learn(protocol, &PROTOCOL_ATTRIBUTES)?;
        if layout.is_none() {
            // A program of clients may have made so many that there is no room for what only servers' have.
            let (always, sometimes) = PROTOCOL_ATTRIBUTES.split_at(PROTOCOL_ATTRIBUTES.len() - SOMETIMES);
            let mut names = always.to_vec();
            for &name in sometimes {
                if instance.hasattr(name)? {
                    names.push(name);
                }
            }
            layout = Layout::learn(protocol, &names)?;
        }
        let Some(protocol) = layout else { return Ok(None) };
        let Some(reader) = Layout::learn(reader, &READER_ATTRIBUTES)? else { return Ok(None) };
        Ok(Some(Self { protocol, reader, functions }))
    }

    /// True if nobody has given one of the functions another code.
    #[inline]
    fn has_its_code(&self, py: Python<'_>) -> bool {
        self.functions.iter().all(|(function, known)| code(function.bind(py)).is(known))
    }

    /// The reader of a protocol, if it is there and both have no attributes but the known ones. Runs no Python code.
    #[inline]
    fn reader_of<'py>(&self, protocol: &Bound<'py, PyAny>) -> Option<Reader<'py>> {
        let [reference] = self.protocol.read(protocol)?;
        let reader = reference.cast_exact::<PyWeakrefReference>().ok()?.upgrade()?;
        let attributes = self.reader.read(&reader)?;
        Some((reader, attributes))
    }
}
