//! Finds a node for every pod that has none (upstream `pkg/scheduler`).
//!
//! [`queue`] holds pods that wait, [`cache`] what runs where, [`framework`] the contract of plugins, [`plugins`] the
//! plugins themselves in one table, [`cycle`] one decision with [`preemption`] as its last resort, [`run`] the loop. An
//! ordinary client of the API: it binds by `pods/binding` and tells its reasons by conditions and events.

pub mod cache;
pub mod cycle;
pub mod framework;
pub mod labels;
pub mod listers;
pub mod nominator;
pub mod plugins;
pub mod pod_info;
pub mod preemption;
pub mod queue;
pub mod resources;
mod run;

pub use run::{SchedulerConfig, run};

/// `spec.schedulerName` of the pods that this scheduler places. Pods that name another one are left alone.
pub const SCHEDULER_NAME: &str = "default-scheduler";
