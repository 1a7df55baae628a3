//! Turns [`PolicyRules`] into chains: one for each group of pods, found by the pod's address.

use std::collections::BTreeSet;

use super::expr::{self, R0, R1, R2, R3, Rule};
use super::program::{Builder, HAIRPINS, IPV4, MAP, MARK, PROTOCOL, Part, SERVICE, Set, VERDICT, element, value};
use super::wire::Attributes;
use crate::policy::{Allow, Direction, Peer, PolicyRules, Ports};

const ISOLATED_IN: &str = "isolated-in";
const ISOLATED_OUT: &str = "isolated-out";
const PEERS: &str = "peers";
const PEER_PORTS: &str = "peer-ports";

/// Begins the names of chains that are here for policies.
pub(super) const PREFIX: &str = "policy-";

pub(super) const SETS: &[Set] = &[
    Set { part: Part::Policies, name: ISOLATED_IN, flags: MAP, key: &[IPV4], data: &[VERDICT] },
    Set { part: Part::Policies, name: ISOLATED_OUT, flags: MAP, key: &[IPV4], data: &[VERDICT] },
    Set { part: Part::Policies, name: PEERS, flags: 0, key: &[MARK, IPV4], data: &[] },
    Set { part: Part::Policies, name: PEER_PORTS, flags: 0, key: &[MARK, IPV4, PROTOCOL, SERVICE], data: &[] },
];

/// Both see packets that are forwarded, and only those: what the node itself sends and gets is never held up. Two chains,
/// because what the first one accepts must still pass the second.
pub(super) const BASE: &[(&str, &str, u32, i32)] = &[("egress", "filter", 2, -20), ("ingress", "filter", 2, -19)];

impl Builder<'_> {
    /// What does not depend on policies.
    pub(super) fn guards(&mut self) {
        for (chain, map) in [("egress", ISOLATED_OUT), ("ingress", ISOLATED_IN)] {
            self.rule(chain, Rule::new().connection_is_known().accept());
            let pod = match map {
                ISOLATED_OUT => Rule::new().load_source(R0),
                _ => Rule::new().load_destination(R0),
            };
            self.rule(chain, pod.verdict_map(map, R0));
        }
    }

    /// A chain for each group; their names.
    pub(super) fn groups(&mut self, rules: &PolicyRules) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        for (id, group) in &rules.groups {
            let name = chain_name(*id);
            self.chain(&name);
            self.clear_chain(&name);
            // A pod that reaches itself by way of a Service.
            self.rule(&name, Rule::new().load_source(R0).load_destination(R1).in_set(HAIRPINS, R0).accept());
            for rule in &group.rules {
                if let Some(allow) = rules.rules.get(rule) {
                    self.allow(&name, *rule, group.direction, allow);
                }
            }
            self.rule(&name, Rule::new().drop());
            names.insert(name);
        }
        names
    }

    /// Each kind of peer with each kind of port.
    fn allow(&mut self, chain: &str, id: u32, direction: Direction, allow: &Allow) {
        let id = id.to_ne_bytes();
        for peer in &allow.peers {
            for ports in &allow.ports {
                let from_peer = match (peer, direction) {
                    (Peer::Any, _) => Rule::new(),
                    (Peer::Pods(_), Direction::Ingress) => Rule::new().load(R0, &id).load_source(R1).in_set(PEERS, R0),
                    (Peer::Pods(_), Direction::Egress) => {
                        Rule::new().load(R0, &id).load_destination(R1).in_set(PEERS, R0)
                    }
                    (Peer::Block { range, except }, Direction::Ingress) => {
                        except.iter().fold(Rule::new().source_in(*range), |rule, range| rule.source_outside(*range))
                    }
                    (Peer::Block { range, except }, Direction::Egress) => except
                        .iter()
                        .fold(Rule::new().destination_in(*range), |rule, range| rule.destination_outside(*range)),
                };
                let rule = match ports {
                    Ports::Any => from_peer,
                    Ports::Range(protocol, range) => {
                        from_peer.protocol_is(protocol.number(), false).port_in(*range.start(), *range.end())
                    }
                    Ports::Named(_) => from_peer
                        .load(R0, &id)
                        .load_destination(R1)
                        .load_protocol(R2)
                        .load_port(R3)
                        .in_set(PEER_PORTS, R0),
                };
                self.rule(chain, rule.accept());
            }
        }
    }

    /// The contents of the sets.
    pub(super) fn members(&mut self, rules: &PolicyRules) {
        for (set, isolated) in [(ISOLATED_IN, &rules.ingress), (ISOLATED_OUT, &rules.egress)] {
            let elements: Vec<_> = isolated
                .iter()
                .map(|(pod, group)| {
                    let target = Attributes::new().nested(2, &expr::goto(&chain_name(*group)));
                    element(&pod.octets()).nested(2, &target)
                })
                .collect();
            self.fill(set, &elements);
        }
        let (mut peers, mut named) = (BTreeSet::new(), BTreeSet::new());
        for (id, allow) in &rules.rules {
            let id = id.to_ne_bytes();
            for peer in &allow.peers {
                if let Peer::Pods(pods) = peer {
                    peers.extend(pods.iter().map(|pod| expr::concat(&[&id, &pod.octets()])));
                }
            }
            for ports in &allow.ports {
                if let Ports::Named(found) = ports {
                    named.extend(found.iter().map(|(pod, protocol, port)| {
                        expr::concat(&[&id, &pod.octets(), &[protocol.number()], &port.to_be_bytes()])
                    }));
                }
            }
        }
        for (set, keys) in [(PEERS, peers), (PEER_PORTS, named)] {
            let elements: Vec<_> = keys.iter().map(|key| Attributes::new().nested(1, &value(key))).collect();
            self.fill(set, &elements);
        }
    }
}

fn chain_name(group: u32) -> String {
    format!("{PREFIX}{group}")
}
