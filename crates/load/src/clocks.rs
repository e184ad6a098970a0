//! CPU time, of this process and of the server's.

use std::io;
use std::time::Duration;

/// The CPU time that this process has used.
pub(crate) fn own_cpu_time() -> Duration {
    duration(rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime))
}

/// The CPU time that the process `pid` has used, all its threads together, a ring's workers among them.
///
/// Linux gives every process a clock of its own, whose id `clock_getcpuclockid(3)` makes from the process's. `/proc` knows
/// the same figure, to a hundredth of a second only.
pub(crate) fn cpu_time_of(pid: u32) -> io::Result<Duration> {
    let pid = libc::pid_t::try_from(pid).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let mut clock = 0;
    // SAFETY: the call writes a clock's id to `clock`, which outlives it, and does nothing else.
    let error = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    if error != 0 {
        return Err(io::Error::from_raw_os_error(error));
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the call writes the time to `time`, which outlives it, and does nothing else.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(duration(rustix::time::Timespec { tv_sec: time.tv_sec, tv_nsec: time.tv_nsec }))
}

fn duration(time: rustix::time::Timespec) -> Duration {
    // CPU clocks start at zero and their nanoseconds stay below a second, so that neither conversion can fail.
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}
