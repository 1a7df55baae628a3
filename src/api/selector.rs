//! Label selectors and field selectors: parsing, printing and matching.

mod fields;
mod labels;

pub use fields::{FieldRequirement, FieldSelector};
pub use labels::{LabelRequirement, LabelSelector, Operator};

/// Why a selector text or object is no selector; the text is upstream's and goes into a `BadRequest` as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_panics(text in "\\PC{0,60}", like in "[a-z0-9./,=!()<> ]{0,40}(in|notin)?[(), a-z]{0,20}") {
            for text in [&text, &like] {
                if let Ok(selector) = LabelSelector::parse(text) {
                    // What is printed reads as the same selector.
                    let printed = selector.to_string();
                    prop_assert_eq!(LabelSelector::parse(&printed).map(|s| s.to_string()), Ok(printed));
                }
                let _ = FieldSelector::parse(text);
            }
        }
    }
}
