//! The physical limit of the echo rows: what an echo server does on this machine with nothing above the system calls.
//!
//! ```text
//! whilst-limit epoll|io_uring
//! ```
//!
//! Prints `{"port": PORT}` when it listens on the loopback address, serves on one thread, and ends when its standard input
//! does.

mod epoll;
mod uring;

use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("whilst-limit: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    use lexopt::prelude::*;

    let mut driver = None;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Value(value) if driver.is_none() => driver = Some(value.string()?),
            other => return Err(other.unexpected().into()),
        }
    }
    let serve = match driver.as_deref() {
        Some("epoll") => epoll::serve,
        Some("io_uring") => uring::serve,
        _ => return Err("usage: whilst-limit epoll|io_uring".into()),
    };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", serde_json::json!({ "port": listener.local_addr()?.port() }));
    io::stdout().flush()?;
    // The server's thread is the one that the benchmark pins; this one only waits for whoever started it to be done.
    std::thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(0);
    });
    Ok(serve(listener)?)
}
