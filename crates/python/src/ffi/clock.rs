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

#[inline]
fn seconds(clock: libc::clockid_t) -> f64 {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call fills the place it is given. It cannot fail for a clock that every Linux has.
    let time = unsafe {
        libc::clock_gettime(clock, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
