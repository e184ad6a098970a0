//! The event loop behind whilst, without Python.
//!
//! The parts, which the caller strings together into iterations:
//!
//! * [`ready`]: what is to run, first in, first out, an iteration at a time;
//! * [`timers`]: what is to run later;
//! * [`inbox`]: what other threads want run, and how they wake a loop that sleeps;
//! * [`driver`]: operations in, completions out, over `io_uring` or `epoll`;
//! * [`signals`]: how a signal ends a wait, however early it came;
//! * [`process`]: child processes, with a descriptor that a driver can watch for their end.
//!
//! And [`tables`], which their tables and the caller's have in common.

pub mod driver;
pub mod inbox;
pub mod process;
pub mod ready;
pub mod signals;
pub mod tables;
pub mod timers;
