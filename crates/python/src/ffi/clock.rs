//! The monotonic clock.

use std::mem::MaybeUninit;

/// `CLOCK_MONOTONIC` in seconds (clock_gettime(2)). By the C library, whose way to the vDSO also works under valgrind, where the
/// benchmarks count instructions; `rustix` looks for it in memory that valgrind has taken away.
#[inline]
pub(crate) fn monotonic() -> f64 {
    let mut time = MaybeUninit::<libc::timespec>::uninit();
    // SAFETY: the call fills the place it is given. It cannot fail for a clock that every Linux has.
    let time = unsafe {
        libc::clock_gettime(libc::CLOCK_MONOTONIC, time.as_mut_ptr());
        time.assume_init()
    };
    time.tv_sec as f64 + time.tv_nsec as f64 * 1e-9
}
