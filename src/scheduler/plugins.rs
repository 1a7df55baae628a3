//! Every plugin, in the order in which filters run (upstream's default multi-point order).

mod image_locality;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources;
mod node_unschedulable;
mod scheduling_gates;
mod taint_toleration;

use crate::framework::Plugin;

pub use scheduling_gates::is_gated;

/// The table: a plugin is a file, a `mod` and a line here.
pub static ALL: &[&dyn Plugin] = &[
    &node_unschedulable::NodeUnschedulable,
    &node_name::NodeName,
    &taint_toleration::TaintToleration,
    &node_affinity::NodeAffinity,
    &node_ports::NodePorts,
    &node_resources::Fit,
    &node_resources::BalancedAllocation,
    &image_locality::ImageLocality,
];
