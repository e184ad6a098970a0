//! The table of operations under way, by which a driver finds what a completion belongs to.

#![forbid(unsafe_code)]

use super::Operation;
use crate::tables::reserve_for_one;

/// Operations by their [`Operation`] number: the slot's index in the low half, its generation above it.
#[derive(Debug)]
pub(super) struct Table<O> {
    slots: Vec<Slot<O>>,
    free: Vec<u32>,
    live: usize,
}

#[derive(Debug)]
struct Slot<O> {
    generation: u32,
    operation: Option<O>,
}

/// Generations stay below this, which leaves the upper bits of an operation's number to the backend.
const GENERATIONS: u32 = 1 << 28;

/// Not 0, so that no number is.
const FIRST: u32 = 1;

fn number(generation: u32, index: u32) -> Operation {
    Operation::new(u64::from(generation) << 32 | u64::from(index)).expect("generations begin above 0")
}

impl<O> Table<O> {
    pub(super) const fn new() -> Self {
        Self { slots: Vec::new(), free: Vec::new(), live: 0 }
    }

    pub(super) fn insert(&mut self, operation: O) -> Operation {
        let index = self.free.pop().unwrap_or_else(|| {
            reserve_for_one(&mut self.slots);
            self.slots.push(Slot { generation: FIRST, operation: None });
            u32::try_from(self.slots.len() - 1).expect("fewer than 2^32 operations")
        });
        let slot = &mut self.slots[index as usize];
        slot.operation = Some(operation);
        self.live += 1;
        number(slot.generation, index)
    }

    pub(super) fn get_mut(&mut self, number: Operation) -> Option<&mut O> {
        let slot = self.slots.get_mut(number.number() as u32 as usize)?;
        if u64::from(slot.generation) == number.number() >> 32 { slot.operation.as_mut() } else { None }
    }

    pub(super) fn get(&self, number: Operation) -> Option<&O> {
        let slot = self.slots.get(number.number() as u32 as usize)?;
        if u64::from(slot.generation) == number.number() >> 32 { slot.operation.as_ref() } else { None }
    }

    pub(super) fn remove(&mut self, number: Operation) -> Option<O> {
        let index = number.number() as u32;
        let slot = self.slots.get_mut(index as usize)?;
        if u64::from(slot.generation) != number.number() >> 32 {
            return None;
        }
        let operation = slot.operation.take()?;
        self.live -= 1;
        // A slot whose generations are used up is left empty for good: numbers are never used twice.
        if slot.generation + 1 < GENERATIONS {
            slot.generation += 1;
            self.free.push(index);
        }
        Some(operation)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live == 0
    }

    /// The numbers of all operations.
    pub(super) fn numbers(&self) -> Vec<Operation> {
        let numbered = self.slots.iter().enumerate().filter(|(_, slot)| slot.operation.is_some());
        numbered.map(|(index, slot)| number(slot.generation, index as u32)).collect()
    }

    /// The same table, numbers kept, over other descriptions of the operations.
    pub(super) fn map<N>(self, mut change: impl FnMut(O) -> N) -> Table<N> {
        Table {
            slots: self
                .slots
                .into_iter()
                .map(|slot| Slot { generation: slot.generation, operation: slot.operation.map(&mut change) })
                .collect(),
            free: self.free,
            live: self.live,
        }
    }
}
