//! Label selectors and field selectors: parsing, printing and matching.

mod fields;
mod labels;

pub use fields::{FieldRequirement, FieldSelector};
pub use labels::{LabelRequirement, LabelSelector, Operator};

/// Why a selector text or object is no selector; the text is upstream's and goes into a `BadRequest` as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SelectorError(pub String);
