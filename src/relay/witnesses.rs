//! The transactions that may have drawn a number that is missing. Pure.

use std::collections::HashSet;

/// The set of witnesses that was named last: who wrote when it was named, and has not ended since.
#[derive(Debug, Default)]
pub(crate) struct Witnesses {
    left: HashSet<String>,
    named: u64,
}

impl Witnesses {
    /// Takes in who writes now. Once all witnesses have ended, names a new set, and yields its number: for the gaps that were
    /// seen before this was asked.
    pub(crate) fn take(&mut self, writers: Vec<String>) -> Option<u64> {
        let writers: HashSet<_> = writers.into_iter().collect();
        self.left.retain(|witness| writers.contains(witness));
        if !self.left.is_empty() {
            return None;
        }
        self.left = writers;
        self.named += 1;
        Some(self.named)
    }

    /// The number of the last set whose witnesses have all ended.
    pub(crate) fn ended(&self) -> u64 {
        if self.left.is_empty() { self.named } else { self.named.saturating_sub(1) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writers(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn a_set_has_ended_when_none_of_it_writes_any_more() {
        let mut witnesses = Witnesses::default();
        assert_eq!((witnesses.take(writers(&["a", "b"])), witnesses.ended()), (Some(1), 0));
        assert_eq!((witnesses.take(writers(&["b", "c"])), witnesses.ended()), (None, 0));
        assert_eq!((witnesses.take(writers(&["c"])), witnesses.ended()), (Some(2), 1), "c came later");
        assert_eq!((witnesses.take(writers(&[])), witnesses.ended()), (Some(3), 3));
    }
}
