//! The ready queue against a plain model.

use proptest::prelude::*;
use whilst_engine::ready::ReadyQueue;

#[derive(Clone, Debug)]
enum Step {
    Push(u32),
    Pop,
    /// Runs an iteration in which each value popped pushes so many others.
    Iterate(usize),
    Clear,
    Drain,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => any::<u32>().prop_map(Step::Push),
        4 => Just(Step::Pop),
        2 => (0..3_usize).prop_map(Step::Iterate),
        1 => Just(Step::Clear),
        1 => Just(Step::Drain),
    ]
}

proptest! {
    #[test]
    fn is_first_in_first_out(steps in prop::collection::vec(step(), 0..200)) {
        let mut ready = ReadyQueue::new();
        let mut model = Vec::new();
        for step in steps {
            match step {
                Step::Push(value) => {
                    ready.push(value);
                    model.push(value);
                }
                Step::Pop => {
                    let expected = (!model.is_empty()).then(|| model.remove(0));
                    prop_assert_eq!(ready.pop(), expected);
                }
                Step::Iterate(pushes) => {
                    let begun = ready.begin();
                    prop_assert_eq!(begun, model.len());
                    let mut later = Vec::new();
                    for expected in model.drain(..) {
                        let value = ready.pop();
                        prop_assert_eq!(value, Some(expected));
                        for number in 0..pushes.min(20_usize.saturating_sub(begun)) {
                            ready.push(number as u32);
                            later.push(number as u32);
                        }
                    }
                    model = later;
                }
                Step::Clear => {
                    ready.clear();
                    model.clear();
                }
                Step::Drain => prop_assert_eq!(ready.drain().collect::<Vec<_>>(), std::mem::take(&mut model)),
            }
            prop_assert_eq!(ready.len(), model.len());
            prop_assert_eq!(ready.is_empty(), model.is_empty());
            prop_assert_eq!(ready.iter().copied().collect::<Vec<_>>(), model.clone());
            prop_assert_eq!((&ready).into_iter().count(), model.len());
        }
    }
}

#[test]
fn a_burst_is_given_back() {
    let mut ready = ReadyQueue::default();
    ready.extend(0..100_000);
    assert_eq!(ready.begin(), 100_000);
    while ready.pop().is_some() {}
    assert_eq!(ready.begin(), 0);
    ready.push(1);
    assert_eq!(ready.begin(), 1);
    assert_eq!(ready.pop(), Some(1));
}
