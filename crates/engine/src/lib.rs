//! The event loop behind whilst, without Python.
//!
//! The parts, which the caller strings together into iterations:
//!
//! * [`ready`]: what is to run, first in, first out, an iteration at a time;
//! * [`timers`]: what is to run later;
//! * [`inbox`]: what other threads want run, and how they wake a loop that sleeps;
//! * [`driver`]: operations in, completions out, over `io_uring` or `epoll`.

pub mod driver;
pub mod inbox;
pub mod ready;
pub mod timers;
