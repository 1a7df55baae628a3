//! What isolated pods let through, as data.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use ipnet::Ipv4Net;

use crate::services::Protocol;

/// Which connections the pods of this node take and make.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PolicyRules {
    /// Isolated pods, and the group that each is in; a pod that is not here takes everything.
    pub ingress: BTreeMap<Ipv4Addr, u32>,
    /// The same for what pods send.
    pub egress: BTreeMap<Ipv4Addr, u32>,
    /// Pods of one group have the same policies: any of its rules lets a connection through. By id, which says nothing
    /// by itself.
    pub groups: BTreeMap<u32, Group>,
    /// By id, too.
    pub rules: BTreeMap<u32, Allow>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    pub direction: Direction,
    pub rules: Vec<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    Ingress,
    Egress,
}

/// A rule: any of the peers, at any of the ports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allow {
    pub peers: Vec<Peer>,
    pub ports: Vec<Ports>,
}

/// The other end of a connection: where it comes from, or goes to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    Any,
    Pods(BTreeSet<Ipv4Addr>),
    Block { range: Ipv4Net, except: Vec<Ipv4Net> },
}

/// What a connection is to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ports {
    /// Everything, protocols without ports too.
    Any,
    Range(Protocol, RangeInclusive<u16>),
    /// Ports with a name, at the pods that give a port that name.
    Named(BTreeSet<(Ipv4Addr, Protocol, u16)>),
}
