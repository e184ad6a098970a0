//! Passes on what the interpreter is (its version, whether it has a GIL) as `cfg` flags.

fn main() {
    pyo3_build_config::use_pyo3_cfgs();
}
