//! Sets of completion indexes, written as `1,3-5,7` (`job/indexed_job_utils.go`).

use std::collections::BTreeSet;
use std::fmt;

/// Indexes in order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Indexes(pub BTreeSet<i32>);

impl Indexes {
    /// Reads the text; what is no number, or not below `completions`, is left out.
    pub(super) fn parse(text: &str, completions: i32) -> Self {
        let mut indexes = BTreeSet::new();
        for part in text.split(',').filter(|p| !p.is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
                indexes.extend(first.max(0)..=last.min(completions - 1));
            }
        }
        Self(indexes)
    }

    pub(super) fn has(&self, index: i32) -> bool {
        self.0.contains(&index)
    }

    pub(super) fn len(&self) -> i32 {
        i32::try_from(self.0.len()).unwrap_or(i32::MAX)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0.iter().copied().peekable();
        let mut separator = "";
        while let Some(first) = rest.next() {
            let mut last = first;
            while rest.peek() == Some(&(last + 1)) {
                last += 1;
                rest.next();
            }
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
    use super::*;

    #[test]
    fn indexes_print_as_intervals_and_read_back() {
        for text in ["", "0", "0,1", "0-2", "1,3-5,7", "0,2,4,5"] {
            assert_eq!(Indexes::parse(text, 10).to_string(), text);
        }
        assert_eq!(Indexes::parse("0-9", 3).to_string(), "0-2");
        assert_eq!(Indexes::parse("x,1", 3).to_string(), "1");
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
    }
}
