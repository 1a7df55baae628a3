//! Turns [`Rules`] and [`PolicyRules`] into one transaction.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::expr::{self, R0, R1, R2, R4, R5, Rule};
use super::guard;
use super::wire::{Attributes, Batch};
use crate::policy::PolicyRules;
use crate::services::{Backend, Key, Masquerade, Place, Policy, Rules};

/// What the table needs to know beside the rules.
#[derive(Debug, Clone)]
pub struct TableConfig {
    pub table: String,
    /// Where pods get their addresses from, on all nodes.
    pub cluster_cidr: Ipv4Net,
    pub service_cidr: Ipv4Net,
}

// Message types.
const NEWTABLE: u16 = 0;
const DELTABLE: u16 = 2;
const NEWCHAIN: u16 = 3;
const DELCHAIN: u16 = 5;
const NEWRULE: u16 = 6;
const DELRULE: u16 = 8;
const NEWSET: u16 = 9;
const NEWSETELEM: u16 = 12;
const DELSETELEM: u16 = 14;

// Flags of sets.
pub(super) const MAP: u32 = 8;
const TIMEOUT: u32 = 0x10;
const EVAL: u32 = 0x20;

// Data types, for those who list the table.
pub(super) const IPV4: u32 = 7;
pub(super) const PROTOCOL: u32 = 12;
pub(super) const SERVICE: u32 = 13;
pub(super) const MARK: u32 = 19;
pub(super) const VERDICT: u32 = 0xffff_ff00;

/// Elements in one message; an attribute holds 64 KiB at most.
const ELEMENTS_MAX: usize = 512;

// Names.
const SERVICES: &str = "services";
const NODE_PORTS: &str = "node-ports";
const ENDPOINTS: &str = "endpoints";
const AFFINITY: &str = "affinity";
const AFFINE: &str = "affine-endpoints";
pub(super) const HAIRPINS: &str = "hairpins";
const REFUSED: &str = "refused";
const REFUSED_PORTS: &str = "refused-ports";
const NAT: &str = "nat";
const REFUSE: &str = "refuse";

/// What the table is about. A change writes the whole of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Services,
    Policies,
}

pub(super) struct Set {
    pub part: Part,
    pub name: &'static str,
    pub flags: u32,
    pub key: &'static [u32],
    pub data: &'static [u32],
}

const SETS: &[Set] = &[
    Set { part: Part::Services, name: SERVICES, flags: MAP, key: &[IPV4, PROTOCOL, SERVICE], data: &[VERDICT] },
    Set { part: Part::Services, name: NODE_PORTS, flags: MAP, key: &[PROTOCOL, SERVICE], data: &[VERDICT] },
    Set { part: Part::Services, name: ENDPOINTS, flags: MAP, key: &[MARK, MARK], data: &[IPV4, SERVICE] },
    Set {
        part: Part::Services,
        name: AFFINITY,
        flags: MAP | TIMEOUT | EVAL,
        key: &[IPV4, MARK],
        data: &[IPV4, SERVICE],
    },
    Set { part: Part::Services, name: AFFINE, flags: 0, key: &[MARK, IPV4, SERVICE], data: &[] },
    Set { part: Part::Services, name: HAIRPINS, flags: 0, key: &[IPV4, IPV4], data: &[] },
    Set { part: Part::Services, name: REFUSED, flags: 0, key: &[IPV4, PROTOCOL, SERVICE], data: &[] },
    Set { part: Part::Services, name: REFUSED_PORTS, flags: 0, key: &[PROTOCOL, SERVICE], data: &[] },
];

/// Chains that hang on the kernel's hooks: name, type, hook, priority.
const BASE: &[(&str, &str, u32, i32)] = &[
    ("prerouting", "nat", 0, -100),
    ("output", "nat", 3, -100),
    ("postrouting", "nat", 4, 100),
    ("filter-input", "filter", 1, 0),
    ("filter-forward", "filter", 2, 0),
    ("filter-output", "filter", 3, 0),
];

pub(super) fn create_table(batch: &mut Batch, table: &str) {
    batch.create(NEWTABLE, &Attributes::new().text(1, table));
}

pub(super) fn delete_table(batch: &mut Batch, table: &str) {
    batch.delete(DELTABLE, &Attributes::new().text(1, table));
}

/// What the table is to say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'a> {
    /// `None` leaves what is there.
    pub services: Option<&'a Rules>,
    /// The same.
    pub policies: Option<&'a PolicyRules>,
    /// The table is made anew: what is there goes.
    pub fresh: bool,
}

/// Everything that makes the table say so. `chains` are the chains of rules that are there now; those that are there
/// afterwards come back.
pub fn transaction(config: &TableConfig, change: Change<'_>, chains: &BTreeSet<String>) -> (Batch, BTreeSet<String>) {
    let mut builder = Builder { batch: Batch::new(), table: &config.table };
    create_table(&mut builder.batch, &config.table);
    if change.fresh {
        delete_table(&mut builder.batch, &config.table);
        create_table(&mut builder.batch, &config.table);
    }
    builder.skeleton(config, change);
    let (guards, services): (BTreeSet<String>, BTreeSet<String>) =
        chains.iter().cloned().partition(|chain| chain.starts_with(guard::PREFIX));
    let mut wanted = BTreeSet::new();
    match change.services {
        Some(rules) => {
            wanted.append(&mut builder.policies(config, rules));
            builder.elements(rules);
        }
        None => wanted.extend(services),
    }
    match change.policies {
        Some(rules) => {
            wanted.append(&mut builder.groups(rules));
            builder.members(rules);
        }
        None => wanted.extend(guards),
    }
    for gone in chains.difference(&wanted) {
        builder.batch.delete(DELRULE, &Attributes::new().text(1, &config.table).text(2, gone));
        builder.batch.delete(DELCHAIN, &Attributes::new().text(1, &config.table).text(3, gone));
    }
    (builder.batch, wanted)
}

pub(super) struct Builder<'a> {
    batch: Batch,
    table: &'a str,
}

impl Builder<'_> {
    pub(super) fn chain(&mut self, name: &str) {
        self.batch.create(NEWCHAIN, &Attributes::new().text(1, self.table).text(3, name));
    }

    pub(super) fn clear_chain(&mut self, name: &str) {
        self.batch.delete(DELRULE, &Attributes::new().text(1, self.table).text(2, name));
    }

    pub(super) fn rule(&mut self, chain: &str, rule: Rule) {
        let attributes = Attributes::new().text(1, self.table).text(2, chain).nested(4, &rule.into_attributes());
        self.batch.append(NEWRULE, &attributes);
    }

    /// What does not depend on any object: base chains and sets. The sets of the parts that change, other than the
    /// affinity map, are emptied.
    fn skeleton(&mut self, config: &TableConfig, change: Change<'_>) {
        for (id, set) in SETS.iter().chain(guard::SETS).enumerate() {
            self.set(set, u32::try_from(id).unwrap_or_default() + 1);
        }
        for (name, kind, hook, priority) in guard::BASE.iter().chain(BASE) {
            let hook = Attributes::new().u32(1, *hook).u32(2, priority.cast_unsigned());
            let attributes = Attributes::new().text(1, self.table).text(3, name).nested(4, &hook).text(7, kind);
            self.batch.create(NEWCHAIN, &attributes);
        }
        self.chain(NAT);
        self.chain(REFUSE);
        if !change.fresh {
            let changed = |set: &&Set| match set.part {
                Part::Services => change.services.is_some() && set.name != AFFINITY,
                Part::Policies => change.policies.is_some(),
            };
            for set in SETS.iter().chain(guard::SETS).filter(changed) {
                self.batch.delete(DELSETELEM, &Attributes::new().text(1, self.table).text(2, set.name));
            }
            return;
        }
        self.guards();
        self.rule("prerouting", Rule::new().jump(NAT));
        self.rule("output", Rule::new().jump(NAT));
        let by_address = || Rule::new().load_destination(R0).load_protocol(R1).load_port(R2);
        let by_port = || Rule::new().is_local(false).load_protocol(R0).load_port(R1);
        self.rule(NAT, by_address().verdict_map(SERVICES, R0));
        self.rule(NAT, by_port().verdict_map(NODE_PORTS, R0));

        self.rule("postrouting", Rule::new().is_marked().unmark().masquerade());
        self.rule("postrouting", Rule::new().load_source(R0).load_destination(R1).in_set(HAIRPINS, R0).masquerade());
        // A NodePort or host port asked for at 127.0.0.1 leaves for a pod, which could not answer there.
        let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        self.rule("postrouting", Rule::new().source_in(loopback).destination_in(config.cluster_cidr).masquerade());
        // Pods' addresses mean nothing outside.
        let multicast = Ipv4Net::new_assert(Ipv4Addr::new(224, 0, 0, 0), 4);
        let leaving = Rule::new()
            .source_in(config.cluster_cidr)
            .destination_outside(config.cluster_cidr)
            .destination_outside(multicast);
        self.rule("postrouting", leaving.masquerade());

        // A Service address that nothing answers must not leave by the default route, where anything might answer.
        for chain in ["filter-forward", "filter-output"] {
            self.rule(chain, Rule::new().is_local(false).give_back());
            self.rule(chain, Rule::new().destination_in(config.service_cidr).connection_is_new().goto(REFUSE));
            self.rule(chain, by_address().in_set(REFUSED, R0).connection_is_new().goto(REFUSE));
        }
        self.rule("filter-input", by_port().in_set(REFUSED_PORTS, R0).connection_is_new().goto(REFUSE));
        self.rule("filter-input", by_address().in_set(REFUSED, R0).connection_is_new().goto(REFUSE));
        self.rule(REFUSE, Rule::new().protocol_is(6, false).reset());
        self.rule(REFUSE, Rule::new().unreachable());
    }

    fn set(&mut self, set: &Set, id: u32) {
        let mut attributes = Attributes::new()
            .text(1, self.table)
            .text(2, set.name)
            .u32(3, set.flags)
            .u32(4, data_type(set.key))
            .u32(5, length(set.key))
            .u32(10, id);
        if set.flags & MAP != 0 {
            let verdict = set.data == [VERDICT];
            let (kind, length) = if verdict { (VERDICT, 16) } else { (data_type(set.data), length(set.data)) };
            attributes = attributes.u32(6, kind).u32(7, length);
        }
        self.batch.create(NEWSET, &attributes);
    }

    /// A chain for each policy in use; their names.
    fn policies(&mut self, config: &TableConfig, rules: &Rules) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut todo: Vec<Policy> = rules.frontends.values().copied().filter(|policy| rules.answers(*policy)).collect();
        // What a local policy falls back to.
        todo.extend(todo.clone().iter().filter_map(|policy| match policy {
            Policy::PreferLocal { cluster, .. } => {
                Some(Policy::Plain { backend: *cluster, masquerade: Masquerade::Outside })
            }
            Policy::Plain { .. } | Policy::Drop => None,
        }));
        todo.sort_unstable();
        todo.dedup();
        let guarded = rules.sources.keys().map(|key| guard_name(*key));
        for name in todo.iter().map(|policy| chain_name(*policy)).chain(guarded) {
            self.chain(&name);
            self.clear_chain(&name);
            names.insert(name);
        }
        for (key, ranges) in &rules.sources {
            let (guard, Some(policy)) = (guard_name(*key), rules.frontends.get(key)) else { continue };
            if rules.answers(*policy) {
                for range in ranges {
                    self.rule(&guard, Rule::new().source_in(*range).goto(&chain_name(*policy)));
                }
            }
            self.rule(&guard, Rule::new().drop());
        }
        for policy in todo {
            let name = chain_name(policy);
            match policy {
                Policy::Plain { backend, masquerade } => {
                    match masquerade {
                        Masquerade::Never => {}
                        Masquerade::Outside => {
                            self.rule(&name, Rule::new().source_outside(config.cluster_cidr).mark_masquerade());
                        }
                        Masquerade::Always => self.rule(&name, Rule::new().mark_masquerade()),
                    }
                    self.balance(&name, backend, &rules.backends[&backend]);
                }
                Policy::PreferLocal { local, cluster } => {
                    let fallback = chain_name(Policy::Plain { backend: cluster, masquerade: Masquerade::Outside });
                    self.rule(&name, Rule::new().source_in(config.cluster_cidr).goto(&fallback));
                    self.rule(&name, Rule::new().is_local(true).goto(&fallback));
                    self.balance(&name, local, &rules.backends[&local]);
                    // Nothing of this node answers: the balancer in front must find another one.
                    self.rule(&name, Rule::new().drop());
                }
                Policy::Drop => self.rule(&name, Rule::new().drop()),
            }
        }
        names
    }

    fn balance(&mut self, chain: &str, id: u32, backend: &Backend) {
        let Ok(count) = u32::try_from(backend.endpoints.len()) else { return };
        if count == 0 {
            return;
        }
        let key = id.to_ne_bytes();
        let Some(seconds) = backend.affinity else {
            let pick = Rule::new().load(R0, &key).random(R1, count).look_up(ENDPOINTS, R0, R4);
            self.rule(chain, pick.dnat(R4, R5));
            return;
        };
        let timeout_ms = u64::from(seconds) * 1000;
        // R0, R1: client and backend. R4, R5: its endpoint. R2 before it makes the key of AFFINE, from R3 on.
        let client = || Rule::new().load_source(R0).load(R1, &key);
        let known = client().look_up(AFFINITY, R0, R4).load(R4 - 1, &key).in_set(AFFINE, R4 - 1);
        self.rule(chain, known.refresh(AFFINITY, R0, R4, timeout_ms).dnat(R4, R5));
        self.rule(chain, client().load(R4, &[0; 8]).forget(AFFINITY, R0, R4));
        let pick = Rule::new().load(R0, &key).random(R1, count).look_up(ENDPOINTS, R0, R4);
        let pick = pick.load_source(R0).load(R1, &key).remember(AFFINITY, R0, R4, timeout_ms);
        self.rule(chain, pick.dnat(R4, R5));
    }

    /// The contents of all sets.
    fn elements(&mut self, rules: &Rules) {
        let (mut services, mut node_ports) = (Vec::new(), Vec::new());
        let (mut refused, mut refused_ports) = (Vec::new(), Vec::new());
        for ((place, protocol, port), policy) in &rules.frontends {
            let frontend = (*place, *protocol, *port);
            let chain = if rules.sources.contains_key(&frontend) { guard_name(frontend) } else { chain_name(*policy) };
            let (protocol, port) = ([protocol.number()], port.to_be_bytes());
            let answers = rules.answers(*policy);
            let target = Attributes::new().nested(2, &expr::goto(&chain));
            match place {
                Place::Address(address) => {
                    let key = expr::concat(&[&address.octets(), &protocol, &port]);
                    if answers {
                        services.push(element(&key).nested(2, &target));
                    } else {
                        refused.push(element(&key));
                    }
                }
                Place::Node => {
                    let key = expr::concat(&[&protocol, &port]);
                    if answers {
                        node_ports.push(element(&key).nested(2, &target));
                    } else {
                        refused_ports.push(element(&key));
                    }
                }
            }
        }
        let (mut endpoints, mut affine) = (Vec::new(), Vec::new());
        let mut addresses = BTreeSet::new();
        for (id, backend) in &rules.backends {
            for (index, target) in backend.endpoints.iter().enumerate() {
                let index = u32::try_from(index).unwrap_or_default();
                let key = expr::concat(&[&id.to_ne_bytes(), &index.to_ne_bytes()]);
                let data = expr::endpoint(*target);
                endpoints.push(element(&key).nested(2, &value(&data)));
                if backend.affinity.is_some() {
                    affine.push(element(&[&id.to_ne_bytes()[..], &data].concat()));
                }
                addresses.insert(target.0);
            }
        }
        affine.dedup();
        let hairpins = addresses.iter().map(|a| element(&expr::concat(&[&a.octets(), &a.octets()]))).collect();
        for (set, elements) in [
            (ENDPOINTS, endpoints),
            (AFFINE, affine),
            (HAIRPINS, hairpins),
            (REFUSED, refused),
            (REFUSED_PORTS, refused_ports),
            (SERVICES, services),
            (NODE_PORTS, node_ports),
        ] {
            self.fill(set, &elements);
        }
    }

    pub(super) fn fill(&mut self, set: &str, elements: &[Attributes]) {
        for part in elements.chunks(ELEMENTS_MAX) {
            let list = part.iter().fold(Attributes::new(), |list, element| list.nested(1, element));
            self.batch.create(NEWSETELEM, &Attributes::new().text(1, self.table).text(2, set).nested(3, &list));
        }
    }
}

pub(super) fn value(bytes: &[u8]) -> Attributes {
    Attributes::new().bytes(1, bytes)
}

/// An element of a set, to which a map's value may be added.
pub(super) fn element(key: &[u8]) -> Attributes {
    Attributes::new().nested(1, &value(key))
}

fn chain_name(policy: Policy) -> String {
    match policy {
        Policy::Plain { backend, masquerade: Masquerade::Never } => format!("to-{backend:08x}"),
        Policy::Plain { backend, masquerade: Masquerade::Outside } => format!("in-{backend:08x}"),
        Policy::Plain { backend, masquerade: Masquerade::Always } => format!("ext-{backend:08x}"),
        Policy::PreferLocal { local, .. } => format!("local-{local:08x}"),
        Policy::Drop => "dropped".to_owned(),
    }
}

/// The chain in front of a frontend that not everybody may use.
fn guard_name((place, protocol, port): Key) -> String {
    let address = match place {
        Place::Address(address) => u32::from(address),
        Place::Node => 0,
    };
    format!("from-{address:08x}-{}-{port}", protocol.number())
}

/// nft's number of a (concatenated) type: six bits for each field.
fn data_type(fields: &[u32]) -> u32 {
    fields.iter().fold(0, |all, field| all << 6 | field)
}

/// Bytes of a value; the fields of a concatenation are padded to four.
fn length(fields: &[u32]) -> u32 {
    u32::try_from(fields.len() * 4).unwrap_or_default()
}
