//! Sets of completion indexes, written as `1,3-5,7` (`job/indexed_job_utils.go`).
//!
//! Kept as ranges: a text of a few bytes may stand for two billion indexes, so nothing here takes more memory or time
//! than there are ranges and indexes asked for.

use std::fmt;

/// Indexes in order: ranges, both ends included, that neither touch nor overlap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads the text; what is no number, or not below `completions`, is left out.
    pub(super) fn parse(text: &str, completions: i32) -> Self {
        let ranges = text.split(',').filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (first.parse::<i32>().ok()?, last.parse::<i32>().ok()?);
            Some((first.max(0), last.min(completions.saturating_sub(1))))
        });
        Self::of(ranges.filter(|(first, last)| first <= last).collect())
    }

    fn of(mut ranges: Vec<(i32, i32)>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|next, before| {
            let joins = next.0 <= before.1.saturating_add(1);
            if joins {
                before.1 = before.1.max(next.1);
            }
            joins
        });
        Self(ranges)
    }

    /// These and others.
    pub(super) fn with(&self, more: impl IntoIterator<Item = i32>) -> Self {
        let more = more.into_iter().map(|index| (index, index));
        Self::of(self.0.iter().copied().chain(more).collect())
    }

    /// Those of either.
    pub(super) fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied().collect())
    }

    pub(super) fn has(&self, index: i32) -> bool {
        let at = self.0.partition_point(|(_, last)| *last < index);
        self.0.get(at).is_some_and(|(first, _)| *first <= index)
    }

    pub(super) fn len(&self) -> i32 {
        let count: i64 = self.0.iter().map(|range| width(*range)).sum();
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many of them `other` has too.
    pub(super) fn common(&self, other: &Self) -> i32 {
        let (mut a, mut b) = (self.0.iter().copied().peekable(), other.0.iter().copied().peekable());
        let mut count = 0i64;
        while let (Some(x), Some(y)) = (a.peek().copied(), b.peek().copied()) {
            count += width((x.0.max(y.0), x.1.min(y.1))).max(0);
            if x.1 < y.1 {
                a.next()
            } else {
                b.next()
            };
        }
        i32::try_from(count).unwrap_or(i32::MAX)
    }

    /// The indexes from zero on, and below `completions`, that are not among these (`firstPendingIndexes`).
    pub(super) fn missing(&self, completions: i32) -> impl Iterator<Item = i32> {
        let mut next = 0i32;
        let gaps = self.0.iter().map(|(first, last)| (*first, last.saturating_add(1)));
        gaps.chain([(completions, completions)]).flat_map(move |(end, after)| {
            let gap = next..end.min(completions);
            next = next.max(after);
            gap
        })
    }
}

fn width((first, last): (i32, i32)) -> i64 {
    i64::from(last) - i64::from(first) + 1
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (first, last) in &self.0 {
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                1 => write!(f, "{separator}{first},{last}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn indexes_print_as_intervals_and_read_back() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7", "0,2,4,5"] {
            assert_eq!(Indexes::parse(text, 10).to_string(), text);
        }
        assert_eq!(Indexes::parse("0-9", 3).to_string(), "0-2");
        assert_eq!(Indexes::parse("x,1", 3).to_string(), "1");
    }

    #[test]
    fn few_bytes_never_stand_for_much_memory_or_time() {
        let all = Indexes::parse("0-2147483646", i32::MAX);
        assert_eq!((all.len(), all.0.len()), (i32::MAX, 1));
        assert_eq!(all.missing(i32::MAX).next(), None);
        assert_eq!(all.common(&all), i32::MAX);
        let most = Indexes::parse("0-1000000000,1000000002-2147483645", i32::MAX);
        assert_eq!(most.missing(i32::MAX).collect::<Vec<_>>(), [1_000_000_001, 2_147_483_646]);
        assert_eq!(most.with([1_000_000_001, 2_147_483_646]), all);
        assert_eq!(Indexes::default().missing(i32::MAX).take(2).collect::<Vec<_>>(), [0, 1]);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_indexes_panic(text in "[0-9,-]{0,40}", any in "\\PC{0,20}", completions in 0i32..5000) {
            for text in [text, any] {
                let read = Indexes::parse(&text, completions);
                proptest::prop_assert!(read.len() <= completions);
                proptest::prop_assert_eq!(&Indexes::parse(&read.to_string(), completions), &read);
            }
        }

        #[test]
        fn ranges_behave_as_sets(
            a in proptest::collection::btree_set(0i32..40, 0..20),
            b in proptest::collection::btree_set(0i32..40, 0..20),
            completions in 0i32..45,
        ) {
            let of = |set: &BTreeSet<i32>| Indexes::default().with(set.iter().copied());
            let (x, y) = (of(&a), of(&b));
            proptest::prop_assert_eq!(&x.union(&y), &of(&(&a | &b)));
            proptest::prop_assert_eq!(x.common(&y) as usize, (&a & &b).len());
            proptest::prop_assert_eq!(x.len() as usize, a.len());
            let missing: Vec<i32> = (0..completions).filter(|i| !a.contains(i)).collect();
            proptest::prop_assert_eq!(x.missing(completions).collect::<Vec<_>>(), missing);
            for index in 0..45 {
                proptest::prop_assert_eq!(x.has(index), a.contains(&index));
            }
        }
    }
}
