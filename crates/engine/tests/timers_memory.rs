//! The timers' memory, in a process where nothing else takes any.

use whilst_engine::timers::Timers;

/// A timeout for each of a million requests, cancelled when it is answered.
#[test]
fn cancelled_timers_leave_nothing_behind() {
    let mut timers = Timers::new();
    let resident = || {
        let status = std::fs::read_to_string("/proc/self/statm").unwrap();
        status.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    };
    let long = timers.insert(1e9, 0);
    let before = resident();
    for number in 0..1_000_000 {
        let key = timers.insert(f64::from(number), number);
        assert_eq!(timers.cancel(key), Some(number));
    }
    assert_eq!(timers.len(), 1);
    assert!(resident() < before + (4 << 20), "a tombstone each would be 24 MB");
    assert_eq!(timers.get(long), Some(&0));
    assert_eq!(timers.next_deadline(), Some(1e9));
}
