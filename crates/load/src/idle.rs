//! Connections that are open and do nothing, so that the server's memory can be looked at.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::json;

/// Opens the connections, exchanges one message of `size` bytes over each, says so and holds them until standard input
/// ends.
///
/// The message makes the server allocate what it allocates at a connection's first use, and shows that it has accepted it.
pub(crate) fn hold(server: SocketAddr, count: usize, size: usize) -> Result<(), Box<dyn std::error::Error>> {
    let message = vec![b'.'; size];
    let mut answer = vec![0; size];
    let mut connections = Vec::with_capacity(count);
    for _ in 0..count {
        let mut connection = TcpStream::connect(server)?;
        connection.set_nodelay(true)?;
        connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        connection.write_all(&message)?;
        connection.read_exact(&mut answer)?;
        if answer != message {
            return Err("the answer is wrong".into());
        }
        connections.push(connection);
    }
    println!("{}", json!({ "connections": connections.len() }));
    io::stdout().flush()?;
    io::copy(&mut io::stdin().lock(), &mut io::sink())?;
    Ok(())
}
