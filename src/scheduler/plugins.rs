//! Every plugin, in the order in which filters run (upstream's default multi-point order).

mod image_locality;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_resources;
mod node_unschedulable;
mod node_volume_limits;
mod pod_topology_spread;
mod scheduling_gates;
mod taint_toleration;
pub mod volume_binding;
mod volume_restrictions;
mod volume_zone;

use crate::framework::Plugin;

pub use scheduling_gates::is_gated;

/// The table: a plugin is a file, a `mod` and a line here.
pub static ALL: &[&dyn Plugin] = &[
    &node_name::NodeName,
    &node_unschedulable::NodeUnschedulable,
    &taint_toleration::TaintToleration,
    &node_affinity::NodeAffinity,
    &node_ports::NodePorts,
    &node_resources::Fit,
    &volume_restrictions::VolumeRestrictions,
    &node_volume_limits::NodeVolumeLimits,
    &volume_binding::VolumeBinding,
    &volume_zone::VolumeZone,
    &pod_topology_spread::PodTopologySpread,
    &inter_pod_affinity::InterPodAffinity,
    &node_resources::BalancedAllocation,
    &image_locality::ImageLocality,
];
