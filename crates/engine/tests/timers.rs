//! The timers against a plain model: a list, searched for what is due first.

use std::rc::Rc;

use proptest::prelude::*;
use whilst_engine::timers::{TimerKey, Timers};

#[derive(Clone, Debug)]
enum Step {
    Insert(f64),
    /// Cancels the so-manieth of all keys ever given out.
    Cancel(usize),
    /// Cancels all but every so-manieth of the live ones, so that most of the heap is dead.
    CancelMost(usize),
    PopDue(f64),
    NextDeadline,
    Drain,
}

/// Few distinct times, so that ties are common, and all the odd ones.
fn time() -> impl Strategy<Value = f64> {
    prop_oneof![
        8 => (0..20_u32).prop_map(f64::from),
        4 => -1e9..1e9,
        1 => prop::sample::select(vec![
            0.0, -0.0, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, f64::MIN_POSITIVE, f64::MAX, f64::MIN,
        ]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        20 => time().prop_map(Step::Insert),
        6 => any::<usize>().prop_map(Step::Cancel),
        1 => (2..50_usize).prop_map(Step::CancelMost),
        6 => time().prop_map(Step::PopDue),
        4 => Just(Step::NextDeadline),
        1 => Just(Step::Drain),
    ]
}

#[derive(Default)]
struct Model {
    /// Deadline, key and value of what is live, oldest first.
    live: Vec<(f64, TimerKey, u64)>,
}

impl Model {
    /// The place of what is due first; the oldest of equals.
    fn first(&self) -> Option<usize> {
        (0..self.live.len()).min_by(|&left, &right| self.live[left].0.total_cmp(&self.live[right].0))
    }

    fn cancel(&mut self, key: TimerKey) -> Option<u64> {
        let place = self.live.iter().position(|&(_, live, _)| live == key)?;
        Some(self.live.remove(place).2)
    }

    fn pop_due(&mut self, limit: f64) -> Option<u64> {
        let first = self.first()?;
        self.live[first].0.total_cmp(&limit).is_lt().then(|| self.live.remove(first).2)
    }
}

fn normal(time: f64) -> f64 {
    time + 0.0 // one zero
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn do_as_the_model_does(steps in prop::collection::vec(step(), 0..400)) {
        let mut timers = Timers::new();
        let mut model = Model::default();
        let mut keys = Vec::new();
        let mut number = 0;
        for step in steps {
            match step {
                Step::Insert(deadline) => {
                    number += 1;
                    let key = timers.insert(deadline, number);
                    prop_assert!(!keys.contains(&key), "a key was given out twice");
                    prop_assert_eq!(timers.get(key), Some(&number));
                    keys.push(key);
                    model.live.push((normal(deadline), key, number));
                }
                Step::Cancel(which) => {
                    if !keys.is_empty() {
                        let key = keys[which % keys.len()];
                        prop_assert_eq!(timers.cancel(key), model.cancel(key));
                        prop_assert_eq!(timers.cancel(key), None);
                        prop_assert_eq!(timers.get(key), None);
                    }
                }
                Step::CancelMost(spared) => {
                    let live: Vec<_> = model.live.iter().map(|&(_, key, _)| key).collect();
                    for (place, key) in live.into_iter().enumerate() {
                        if place % spared != 0 {
                            prop_assert_eq!(timers.cancel(key), model.cancel(key));
                        }
                    }
                }
                Step::PopDue(limit) => {
                    prop_assert_eq!(timers.pop_due(limit), model.pop_due(normal(limit)));
                }
                Step::NextDeadline => {
                    let expected = model.first().map(|first| model.live[first].0.to_bits());
                    prop_assert_eq!(timers.next_deadline().map(f64::to_bits), expected);
                }
                Step::Drain => {
                    let mut drained = timers.drain();
                    drained.sort_unstable();
                    let mut expected: Vec<_> = model.live.drain(..).map(|(_, _, value)| value).collect();
                    expected.sort_unstable();
                    prop_assert_eq!(drained, expected);
                }
            }
            prop_assert_eq!(timers.len(), model.live.len());
            prop_assert_eq!(timers.is_empty(), model.live.is_empty());
            let mut values: Vec<_> = timers.iter().copied().collect();
            values.sort_unstable();
            let mut expected: Vec<_> = model.live.iter().map(|&(_, _, value)| value).collect();
            expected.sort_unstable();
            prop_assert_eq!(values, expected);
        }
        // What is left fires in order.
        while let Some(first) = model.first() {
            let (deadline, _, value) = model.live[first];
            if deadline.is_nan() && deadline.is_sign_positive() {
                break; // after everything, for ever
            }
            prop_assert_eq!(timers.next_deadline().map(f64::to_bits), Some(deadline.to_bits()));
            prop_assert_eq!(timers.pop_due(f64::NAN), Some(value));
            model.live.remove(first);
        }
    }
}

#[test]
fn what_is_due_at_the_limit_waits() {
    let mut timers = Timers::new();
    timers.insert(2.0, 'b');
    timers.insert(1.0, 'a');
    assert_eq!(timers.next_deadline(), Some(1.0));
    assert_eq!(timers.pop_due(1.0), None);
    assert_eq!(timers.pop_due(1.5), Some('a'));
    assert_eq!(timers.pop_due(1.5), None);
    assert_eq!(timers.next_deadline(), Some(2.0));
}

#[test]
fn a_cancelled_value_is_freed_at_once() {
    let mut timers = Timers::default();
    let value = Rc::new(());
    let key = timers.insert(1.0, value.clone());
    drop(timers.cancel(key));
    assert_eq!(Rc::strong_count(&value), 1);
    assert_eq!(timers.next_deadline(), None);
}
