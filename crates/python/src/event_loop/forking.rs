//! What a loop does when its process forks.
//!
//! A child has a copy of everything, and shares with its parent what the kernel has: sockets, the ring, the epoll instance, the
//! eventfd. The driver keeps its hands off the last three (`driver/origin.rs`), and here is what concerns the first.
//!
//! What was written before the fork is sent before it, by the parent: so it is with CPython's loop, which sends when `write()` is called.
//! Were it left for the end of the iteration, a child that runs or closes its copy of the loop would send it as well.
//!
//! A loop that runs when its process forks goes on in the parent. In the child the run ends should it come back to it, and
//! `asyncio.run()` runs the loop once more to have its tasks cancelled. The loop must not read what is the parent's then, nor write for it: in
//! the child its connections are lost, its servers accept nothing and its watches are gone. A loop that does not run then is whole in
//! the child, as with CPython: that is how a program goes into the background after it has opened its sockets.

use std::sync::atomic::Ordering;

use pyo3::prelude::*;

use super::LoopCore;
use super::registry::Source;
use crate::transport::datagram::Datagram;
use crate::transport::pipe::{ReadPipe, WritePipe};
use crate::transport::stream::Stream;

#[pymethods]
impl LoopCore {
    /// Send what was written, as far as it goes without waiting, before the process forks.
    fn _before_fork(this: &Bound<'_, Self>) {
        // A loop that waits (in another thread) has sent all there is, or is woken to do so.
        if !this.get().closed.load(Ordering::Relaxed) && !this.get().is_waiting(this.py()) {
            Self::send_unsent_now(this);
        }
        this.get().retire_watchdog(this.py());
    }

    /// Have the loop looked after as before, in the parent.
    fn _after_fork_in_parent(&self, py: Python<'_>) {
        self.return_watchdog(py);
    }

    /// In a forked child, give up what the loop has under way if it runs: it is the parent's. Returns False if it does not run.
    fn _after_fork_in_child(this: &Bound<'_, Self>) -> bool {
        let core = this.get();
        core.forget_watchdog();
        core.inbox.waker().signals().close();
        if !core.is_running() {
            return false;
        }
        // A child that comes back to the loop comes back to a run that is the parent's; there is nothing in it to wait for.
        core.stopping.store(true, Ordering::Relaxed);
        // Without a GIL another thread may have been at the state when the process forked, which it will be for ever.
        let sources = core.state.try_with(|state| {
            if let Some(driver) = &mut state.driver {
                driver.forget();
            }
            (
                // The driver says of file operations that they were cancelled.
                state.registry.take_those(|source| !matches!(source, Source::File(_))),
                std::mem::take(&mut state.watches),
                std::mem::take(&mut state.transports),
                std::mem::take(&mut state.acceptors),
                std::mem::take(&mut state.unsent),
            )
        });
        for source in sources.map(|(sources, ..)| sources).into_iter().flatten() {
            let lost = match &source {
                Source::Stream(stream) => Stream::force_close(stream, this, None),
                Source::ReadPipe(pipe) => ReadPipe::lose(pipe, this, None),
                Source::WritePipe(pipe, _) => WritePipe::lose(pipe, this, None),
                Source::Datagram(transport, _) => Datagram::force_close(transport, this, None),
                Source::Watch(_)
                | Source::Acceptor(_)
                | Source::Sendfile(_)
                | Source::Socket(_)
                | Source::File(_) => Ok(()),
            };
            // It fails for a loop that is closed, and this one runs.
            drop(lost);
        }
        true
    }
}
