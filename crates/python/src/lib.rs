//! The extension module `whilst._whilst`: asyncio's interface over `whilst-engine`.

mod errors;
mod event_loop;
mod ffi;
mod file;
mod handle;
mod process;
mod reentrant;
mod resolving;
mod trace;
mod transport;

use pyo3::prelude::*;

/// asyncio's event loop, in Rust: the parts that `whilst.Loop` is made of.
#[pymodule(gil_used = false)]
fn _whilst(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let py = module.py();
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("PROFILE_GUIDED", option_env!("WHILST_PROFILE_GUIDED").is_some())?;
    module.add_class::<event_loop::LoopCore>()?;
    module.add_class::<process::ChildProcess>()?;
    module.add_class::<file::RawFile>()?;
    event_loop::connecting::add_methods(py)?;
    event_loop::scheduling::add_methods(py)?;
    event_loop::sockets::add_methods(py)?;
    event_loop::tasks::add_methods(py)?;
    ffi::class::make::<handle::Handle>(module)?;
    ffi::class::make::<handle::TimerHandle>(module)?;
    if handle::ThreadSafeHandle::is_needed(py)? {
        ffi::class::make::<handle::ThreadSafeHandle>(module)?;
    }
    ffi::class::make::<transport::stream::Stream>(module)?;
    ffi::class::make::<transport::datagram::Datagram>(module)?;
    ffi::class::make::<transport::pipe::ReadPipe>(module)?;
    ffi::class::make::<transport::pipe::WritePipe>(module)?;
    ffi::class::make::<transport::tls::Tls>(module)?;
    ffi::class::make::<transport::tls::TlsTransport>(module)?;
    ffi::context::learn(py)?;
    transport::stream::WARN.get(py)?;
    process::AUDIT.get(py)?;
    module.add_function(wrap_pyfunction!(event_loop::scheduling::new_handle_of, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::watchdog::watch_by_default, module)?)?;
    module.add_function(wrap_pyfunction!(event_loop::watchdog::end_watching, module)?)?;
    module.add_function(wrap_pyfunction!(resolving::addresses_of_literal, module)?)?;
    trace::add_functions(module)?;
    module.add_function(wrap_pyfunction!(available_drivers, module)?)
}

/// Return the names of the drivers that this machine has, the one that is chosen by default first.
#[pyfunction]
fn available_drivers() -> Vec<&'static str> {
    whilst_engine::driver::available()
}
