//! Cooperative stop of tasks.
//!
//! Every long-running task takes a [`Shutdown`] and selects on it first (`biased`). The wiring stops in the order
//! listeners, controllers, node agent, storage, each with its own token.

/// A token that tells a task to end; children end with their parent.
pub type Shutdown = tokio_util::sync::CancellationToken;
