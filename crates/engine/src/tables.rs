//! Tables with a place for each connection.

/// Makes room for one more element, and for a quarter more than there are: a table that grows by doubling, as vectors do, would have
/// up to as many places for nobody as there are for connections.
pub fn reserve_for_one<T>(table: &mut Vec<T>) {
    if table.len() == table.capacity() {
        table.reserve_exact(table.len() / 4 + 16);
    }
}

#[cfg(test)]
mod tests {
    use super::reserve_for_one;

    #[test]
    fn grows_by_a_quarter() {
        let mut table = Vec::new();
        let mut moves = 0;
        for number in 0..100_000 {
            let before = table.capacity();
            reserve_for_one(&mut table);
            moves += usize::from(table.capacity() != before);
            table.push(number);
            assert!(table.capacity() <= table.len() + table.len() / 4 + 16);
        }
        assert!(moves < 50, "{moves}");
    }
}
