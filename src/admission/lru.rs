//! A bounded map by name whose least lately used entry goes first (upstream's `utils/lru`).

use std::collections::{BTreeMap, HashMap};

pub(crate) struct Lru<V> {
    /// Most entries.
    max: usize,
    /// Grows with each use.
    uses: u64,
    entries: HashMap<String, (u64, V)>,
    /// Names by their last use.
    order: BTreeMap<u64, String>,
}

impl<V> Lru<V> {
    /// `max` entries are kept, one at least.
    pub(crate) fn new(max: usize) -> Self {
        Self { max: max.max(1), uses: 0, entries: HashMap::new(), order: BTreeMap::new() }
    }

    pub(crate) fn get(&mut self, name: &str) -> Option<&mut V> {
        let (used, value) = self.entries.get_mut(name)?;
        self.uses += 1;
        let owned = self.order.remove(used).unwrap_or_else(|| name.to_owned());
        self.order.insert(self.uses, owned);
        *used = self.uses;
        Some(value)
    }

    pub(crate) fn insert(&mut self, name: &str, value: V) {
        self.uses += 1;
        match self.entries.insert(name.to_owned(), (self.uses, value)) {
            Some((used, _)) => drop(self.order.remove(&used)),
            None if self.entries.len() > self.max => {
                if let Some((_, oldest)) = self.order.pop_first() {
                    self.entries.remove(&oldest);
                }
            }
            None => {}
        }
        self.order.insert(self.uses, name.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_lately_used_entry_goes_first() {
        let mut lru = Lru::new(2);
        lru.insert("a", 1);
        lru.insert("b", 2);
        assert_eq!(lru.get("a"), Some(&mut 1));
        lru.insert("c", 3);
        assert_eq!((lru.get("a").copied(), lru.get("b").copied(), lru.get("c").copied()), (Some(1), None, Some(3)));
        lru.insert("a", 4);
        lru.insert("d", 5);
        assert_eq!((lru.get("a").copied(), lru.get("c").copied(), lru.get("d").copied()), (Some(4), None, Some(5)));
        assert_eq!((lru.entries.len(), lru.order.len()), (2, 2));
    }
}
