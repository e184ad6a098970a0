//! The load of the benchmarks: one thread on epoll, no async runtime, JSON on standard output.
//!
//! ```text
//! whilst-load echo --port PORT [--size BYTES]   send a message, wait for the whole of it to come back, again
//! whilst-load http --port PORT [--body TEXT]    GET / with keep-alive, wait for the whole answer, again
//! whilst-load idle --port PORT                  open connections, one message over each, then hold them
//! ```
//!
//! The load is a *closed loop*: each connection has one request under way, so what is measured is what the server
//! answers, never a queue of this program's. Every answer is checked. See `--help` for the options.

mod clocks;
mod closed_loop;
mod echo;
mod http;
mod idle;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::time::Duration;

use crate::closed_loop::Load;

const HELP: &str = "\
usage: whilst-load echo|http|idle --port PORT [OPTION…]

  --host ADDRESS       the server's address (127.0.0.1)
  --connections N      connections, each with one request under way (32)
  --seconds S          how long the measured window is (2)
  --warmup S           how long requests go on before the window opens (0.3)
  --server-pid PID     also report the CPU time that this process used within the window
  --size BYTES         echo, idle: length of a message, 16 or more (1024; idle: 64)
  --body TEXT          http: the body that every answer must have (default: any)

idle prints a line when all connections are open and have exchanged their message, and holds them until its
standard input ends.";

/// The load of a server, as the command line asks for it.
struct Arguments {
    mode: String,
    server: SocketAddr,
    connections: usize,
    seconds: f64,
    warmup: f64,
    server_pid: Option<u32>,
    size: Option<usize>,
    body: Option<String>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("whilst-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = parse(lexopt::Parser::from_env())?;
    let load = Load {
        server: arguments.server,
        connections: arguments.connections,
        window: Duration::try_from_secs_f64(arguments.seconds)?,
        warmup: Duration::try_from_secs_f64(arguments.warmup)?,
        server_pid: arguments.server_pid,
    };
    let outcome = match arguments.mode.as_str() {
        "echo" => load.run(&echo::Echo::new(arguments.size.unwrap_or(1024))?)?,
        "http" => load.run(&http::Http::new(arguments.server, arguments.body))?,
        "idle" => return idle::hold(arguments.server, arguments.connections, arguments.size.unwrap_or(64)),
        other => return Err(format!("no load is called {other:?}: echo, http or idle").into()),
    };
    println!("{outcome}");
    Ok(())
}

fn parse(mut parser: lexopt::Parser) -> Result<Arguments, lexopt::Error> {
    use lexopt::prelude::*;

    let (mut mode, mut port, mut host) = (None, None, IpAddr::V4(Ipv4Addr::LOCALHOST));
    let (mut connections, mut seconds, mut warmup) = (32, 2.0, 0.3);
    let (mut server_pid, mut size, mut body) = (None, None, None);
    while let Some(argument) = parser.next()? {
        match argument {
            Long("port") => port = Some(parser.value()?.parse()?),
            Long("host") => host = parser.value()?.parse()?,
            Long("connections") => connections = parser.value()?.parse()?,
            Long("seconds") => seconds = parser.value()?.parse()?,
            Long("warmup") => warmup = parser.value()?.parse()?,
            Long("server-pid") => server_pid = Some(parser.value()?.parse()?),
            Long("size") => size = Some(parser.value()?.parse()?),
            Long("body") => body = Some(parser.value()?.string()?),
            Long("help") | Short('h') => {
                println!("{HELP}");
                std::process::exit(0);
            }
            Value(value) if mode.is_none() => mode = Some(value.string()?),
            other => return Err(other.unexpected()),
        }
    }
    let mode = mode.ok_or("say which load: echo, http or idle (--help for more)")?;
    let port = port.ok_or("--port is missing")?;
    if connections == 0 {
        return Err("--connections must be at least 1".into());
    }
    let server = SocketAddr::new(host, port);
    Ok(Arguments { mode, server, connections, seconds, warmup, server_pid, size, body })
}
