//! Finds a node for every pod that has none (upstream `pkg/scheduler`).
//!
//! [`queue`] holds pods that wait, [`cache`] what runs where, [`framework`] the contract of plugins, [`plugins`] the
//! plugins themselves in one table, [`cycle`] one decision, [`run`] the loop. An ordinary client of the API: it binds
//! by `pods/binding` and tells its reasons by conditions and events.

pub mod cache;
pub mod cycle;
pub mod framework;
pub mod plugins;
pub mod queue;
pub mod resources;
mod run;

pub use run::{SchedulerConfig, run};

/// `spec.schedulerName` of the pods that this scheduler places.
pub const SCHEDULER_NAME: &str = "default-scheduler";
