//! The waits of a loop that signals must end: those of the main thread, where Python's handlers of signals run.
//!
//! CPython catches a signal by taking note of it. Its handler runs before the next piece of bytecode, and a wait of the kernel that the
//! signal interrupts is followed by a look at the notes. Between the last look and the kernel's wait there is a moment: what comes then
//! would be seen when something else ends the wait, in an hour maybe; and so would what has interrupted another thread. (CPython's own
//! loop has that moment, too.)
//!
//! So a loop that has waited for a moment in vain gives CPython a pipe to write to (`signal.set_wakeup_fd()`), which the wait watches
//! ([`whilst_engine::signals`]), looks at the notes once more, and then blocks for as long as it takes. After the wait the pipe is taken back:
//! Python code never sees it, and what a program has set stays set. It costs a loop with something to do nothing, and Ctrl-C a moment at
//! worst.

use std::sync::atomic::Ordering;
use std::time::Duration;

use pyo3::prelude::*;
use whilst_engine::signals::NONE;

use super::LoopCore;
use super::waiting::Manner;
use crate::ffi::descriptor::borrow;
use crate::ffi::signals::{check_signals, set_wakeup_fd};

/// How long a signal may wait to be seen.
const MOMENT: Duration = Duration::from_millis(50);

impl LoopCore {
    /// Waits until there may be something to run, and until a signal comes or has come.
    #[inline]
    pub(super) fn block(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let core = this.get();
        let timeout = core.time_to_wait(py);
        if !core.main_thread.load(Ordering::Relaxed) || timeout.is_some_and(|timeout| timeout <= MOMENT) {
            return Self::wait(this, Manner::of(timeout));
        }
        Self::wait(this, Manner::Block(Some(MOMENT)))?;
        // A signal that came before the wait is seen now: here, or by whoever runs what the wait brought.
        if core.may_block(py) {
            return Self::block_for_long(this);
        }
        Ok(())
    }

    /// The same for the pipe's sake. Runs the handlers of the signals that came before.
    #[cold]
    fn block_for_long(this: &Bound<'_, Self>) -> PyResult<()> {
        let py = this.py();
        let core = this.get();
        let pipe = core.inbox.waker().signals().writer().unwrap_or(NONE);
        let Ok(mut others) = set_wakeup_fd(py, pipe) else {
            // Python's main thread is another. Signals end the wait if they come during it, as they do where no pipe is to be had.
            return Self::wait(this, Manner::of(core.time_to_wait(py)));
        };
        if others == pipe {
            // Who has put it back got it in a handler that ran below.
            others = NONE;
        }
        if others != NONE {
            // The program's, or that of a loop with handlers for signals, which hears of each signal so. What has come just now is passed
            // on to it after the wait.
            set_wakeup_fd(py, others).or_else(|_closed| set_wakeup_fd(py, NONE))?;
        }
        core.others_wakeup.store(others, Ordering::Relaxed);
        // The handlers may have scheduled something, or told the loop to stop.
        let result = check_signals(py).and_then(|()| Self::wait(this, Manner::of(core.time_to_wait(py))));
        if others == NONE {
            let present = set_wakeup_fd(py, NONE)?;
            if present != pipe {
                // A handler's doing.
                set_wakeup_fd(py, present)?;
            }
        }
        result
    }

    /// After a wait: empties the pipe for signals.
    #[inline]
    pub(super) fn drain_signals(&self) {
        self.inbox.waker().signals().drain(|signals| {
            let others = self.others_wakeup.load(Ordering::Relaxed);
            if others != NONE {
                // As CPython itself would have written them; there is nobody to be told of a failure.
                let _ = rustix::io::write(borrow(others), signals);
            }
        });
    }
}
