//! The rules of a node, as data.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Where every Service and host port leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    pub frontends: BTreeMap<Key, Policy>,
    pub backends: BTreeMap<u32, Backend>,
    /// Frontends that only these sources may use (`loadBalancerSourceRanges`).
    pub sources: BTreeMap<Key, Vec<Ipv4Net>>,
    /// All endpoints that still serve, by the UDP frontends that lead to them, whatever their traffic policy says:
    /// connections to any other endpoint are over.
    pub serving: BTreeMap<(Place, u16), BTreeSet<(Ipv4Addr, u16)>>,
    /// What to tell load balancers, by `healthCheckNodePort`.
    pub health: BTreeMap<u16, Health>,
}

/// What packets are told apart by.
pub type Key = (Place, Protocol, u16);

/// Whether a Service with `externalTrafficPolicy: Local` is served by this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    pub namespace: String,
    pub name: String,
    /// Ready endpoints on this node.
    pub local_endpoints: usize,
}

/// What packets are sent to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frontend {
    pub place: Place,
    pub protocol: Protocol,
    pub port: u16,
    pub policy: Policy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    Address(Ipv4Addr),
    /// Every address of this node.
    Node,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The number in the IP header.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }
}

/// How a frontend treats packets. Backends are named by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Policy {
    Plain {
        backend: u32,
        masquerade: Masquerade,
    },
    /// `externalTrafficPolicy: Local`: from outside only to endpoints of this node, with the client's address kept;
    /// from pods and from this node itself to all endpoints.
    PreferLocal {
        local: u32,
        cluster: u32,
    },
    /// `internalTrafficPolicy: Local` with endpoints on other nodes only: packets vanish, as kube-proxy does it.
    Drop,
}

/// When the source becomes this node's address, so that answers come back the same way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Masquerade {
    Never,
    /// For sources outside the pods' range.
    Outside,
    Always,
}

/// Where packets go, one of several with equal chances.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    pub endpoints: Vec<(Ipv4Addr, u16)>,
    /// Seconds that a client keeps its endpoint after its last connection.
    pub affinity: Option<u32>,
}

impl Rules {
    /// Adds a backend; its id depends on the name alone, so that it is the same after every change.
    pub(super) fn backend(&mut self, name: &str, endpoints: Vec<(Ipv4Addr, u16)>, affinity: Option<u32>) -> u32 {
        let backend = Backend { endpoints, affinity };
        let mut id = base::fnv32a(name.as_bytes());
        // Two names with one hash: the later one moves on.
        while self.backends.get(&id).is_some_and(|other| *other != backend) {
            id = id.wrapping_add(1);
        }
        self.backends.insert(id, backend);
        id
    }

    /// Adds a frontend with all endpoints that serve behind it; of two with the same address the first stays
    /// (upstream's services are in name order too). `None` if another one was there.
    pub(super) fn add(&mut self, frontend: Frontend, serving: &BTreeSet<(Ipv4Addr, u16)>) -> Option<Key> {
        let key = (frontend.place, frontend.protocol, frontend.port);
        match self.frontends.entry(key) {
            Entry::Occupied(_) => None,
            Entry::Vacant(entry) => {
                entry.insert(frontend.policy);
                if frontend.protocol == Protocol::Udp {
                    self.serving.insert((frontend.place, frontend.port), serving.clone());
                }
                Some(key)
            }
        }
    }

    /// Whether anything answers behind a policy.
    pub fn answers(&self, policy: Policy) -> bool {
        let some = |id: u32| self.backends.get(&id).is_some_and(|b| !b.endpoints.is_empty());
        match policy {
            Policy::Plain { backend, .. } => some(backend),
            Policy::PreferLocal { cluster, .. } => some(cluster),
            // The packets are taken care of.
            Policy::Drop => true,
        }
    }
}
