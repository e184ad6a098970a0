//! The monotonic clock.

use std::mem::MaybeUninit;

/// `CLOCK_MONOTONIC` in seconds (clock_gettime(2)). By the C library, whose way to the vDSO also works under valgrind, where the
/// benchmarks count instructions; `rustix` looks for it in memory that valgrind has taken away.
#[inline]
pub(crate) fn monotonic() -> f64 {
    seconds(libc::CLOCK_MONOTONIC)
}

/// The same as of the kernel's last tick: up to some milliseconds behind (1 to 10, by the kernel's configuration), and for a
/// fraction of the cost, since no hardware is asked.
#[inline]
pub(crate) fn coarse() -> f64 {
    seconds(libc::CLOCK_MONOTONIC_COARSE)
}

/// `CLOCK_MONOTONIC` in nanoseconds.
#[inline]
pub(crate) fn nanoseconds() -> u64 {
    let time = read(libc::CLOCK_MONOTONIC);
    time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
}

#[inline]
fn seconds(clock: libc::clockid_t) -> f64 {
    let time = read(clock);
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}

#[inline]
fn read(clock: libc::clockid_t) -> libc::timespec {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call fills the place it is given. It cannot fail for a clock that every Linux has.
    unsafe {
        libc::clock_gettime(clock, time.as_mut_ptr());
        time.assume_init()
    }
}
