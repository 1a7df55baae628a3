//! The rules of a node, as data.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

/// Where every Service and host port leads.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    pub frontends: BTreeMap<(Place, Protocol, u16), Policy>,
    pub backends: BTreeMap<u32, Backend>,
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
        let mut id = fnv(name);
        // Two names with one hash: the later one moves on.
        while self.backends.get(&id).is_some_and(|other| *other != backend) {
            id = id.wrapping_add(1);
        }
        self.backends.insert(id, backend);
        id
    }

    /// Adds a frontend; of two with the same address the first stays (upstream's services are in name order too).
    pub(super) fn add(&mut self, frontend: Frontend) {
        self.frontends.entry((frontend.place, frontend.protocol, frontend.port)).or_insert(frontend.policy);
    }

    /// Whether anything answers behind a policy.
    pub fn answers(&self, policy: Policy) -> bool {
        let some = |id: u32| self.backends.get(&id).is_some_and(|b| !b.endpoints.is_empty());
        match policy {
            Policy::Plain { backend, .. } => some(backend),
            Policy::PreferLocal { cluster, .. } => some(cluster),
        }
    }
}

/// FNV-1a, 32 bit.
fn fnv(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
