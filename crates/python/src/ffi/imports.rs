//! What is looked up in Python's modules, by name and once a process, or at each call where a program may replace it.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyString};

/// An attribute of a module, imported at its first use.
pub(crate) struct Import {
    module: &'static str,
    name: &'static str,
    value: PyOnceLock<Py<PyAny>>,
}

impl Import {
    pub(crate) const fn new(module: &'static str, name: &'static str) -> Self {
        Self { module, name, value: PyOnceLock::new() }
    }

    pub(crate) fn get<'py>(&'py self, py: Python<'py>) -> PyResult<&'py Bound<'py, PyAny>> {
        let value = self.value.get_or_try_init(py, || -> PyResult<_> {
            Ok(py.import(self.module)?.getattr(self.name)?.unbind())
        })?;
        Ok(value.bind(py))
    }
}

/// An attribute that is looked up in its module at every call, so that what a program (or a test) puts in its place
/// counts.
pub(crate) struct LateImport {
    module: &'static str,
    name: &'static str,
    found: PyOnceLock<(Py<PyModule>, Py<PyDict>, Py<PyString>)>,
}

impl LateImport {
    pub(crate) const fn new(module: &'static str, name: &'static str) -> Self {
        Self { module, name, found: PyOnceLock::new() }
    }

    pub(crate) fn get<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyAny>> {
        let (module, contents, name) = self.found.get_or_try_init(py, || -> PyResult<_> {
            let module = py.import(self.module)?;
            Ok((module.clone().unbind(), module.dict().unbind(), PyString::intern(py, self.name).unbind()))
        })?;
        // A fifth of what the attribute of the module costs, which is looked for in its class first.
        match contents.bind(py).get_item(name.bind(py))? {
            Some(value) => Ok(value),
            None => module.bind(py).getattr(name.bind(py)),
        }
    }
}
