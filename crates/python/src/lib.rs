//! The extension module `whilst._whilst`: asyncio's interface over `whilst-engine`.
use pyo3::prelude::*;

/// asyncio's event loop, in Rust.
#[pymodule(gil_used = false)]
fn _whilst(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))
}
