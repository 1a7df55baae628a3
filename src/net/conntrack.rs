//! Connections that the kernel remembers (`linux/netfilter/nfnetlink_conntrack.h`), and which of them lead nowhere.
//!
//! A UDP client that goes on sending keeps its entry alive, and with it the endpoint that was chosen when the entry was
//! made. When that endpoint is gone, the entry has to go too (kube-proxy's `pkg/proxy/conntrack/cleanup.go`). TCP needs
//! nothing: its connections end with their endpoint.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::nft::wire::{Attributes, NftError, Parsed, Socket};
use crate::services::{Place, Rules};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const UDP: u8 = 17;

// Attributes of an entry, and of its tuples.
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTOCOL: u16 = 2;
const IP_V4_SOURCE: u16 = 1;
const IP_V4_DESTINATION: u16 = 2;
const PROTOCOL_NUMBER: u16 = 1;
const SOURCE_PORT: u16 = 2;
const DESTINATION_PORT: u16 = 3;

/// A UDP flow: where its client sends to, and who answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    pub asked: SocketAddrV4,
    pub answering: SocketAddrV4,
    /// What names the entry to the kernel.
    name: Attributes,
}

/// Removes the UDP entries that lead to endpoints which `rules` no longer serve; how many.
///
/// # Errors
/// The kernel does not tell its entries, or keeps one.
pub fn clear_stale(rules: &Rules, own: &BTreeSet<Ipv4Addr>) -> Result<usize, NftError> {
    if rules.serving.is_empty() {
        return Ok(0);
    }
    let socket = Socket::open()?;
    let mut stale = Vec::new();
    socket.dump(SUBSYSTEM << 8 | GET, &Attributes::new(), |attributes| {
        if let Some(flow) = flow(attributes)
            && is_stale(&flow, rules, own)
        {
            stale.push(flow);
        }
    })?;
    for flow in &stale {
        match socket.request(SUBSYSTEM << 8 | DELETE, &flow.name) {
            // It ended by itself.
            Err(NftError::Refused { source, .. }) if source.raw_os_error() == Some(libc::ENOENT) => {}
            result => result?,
        }
    }
    Ok(stale.len())
}

/// Whether a flow goes to a frontend of ours and is answered by none of its endpoints. `own` are this node's addresses.
fn is_stale(flow: &Flow, rules: &Rules, own: &BTreeSet<Ipv4Addr>) -> bool {
    let port = flow.asked.port();
    let by_address = rules.serving.get(&(Place::Address(*flow.asked.ip()), port));
    let by_port = || own.contains(flow.asked.ip()).then(|| rules.serving.get(&(Place::Node, port))).flatten();
    by_address
        .or_else(by_port)
        .is_some_and(|endpoints| !endpoints.contains(&(*flow.answering.ip(), flow.answering.port())))
}

/// Reads an entry; `None` for other protocols than UDP over IPv4.
fn flow(attributes: &[u8]) -> Option<Flow> {
    let entry = Parsed::new(attributes);
    let (original, reply) = (entry.get(TUPLE_ORIGINAL)?, entry.get(TUPLE_REPLY)?);
    let tuple = |bytes, address_at: u16, port_at: u16| {
        let tuple = Parsed::new(bytes);
        let protocol = Parsed::new(tuple.get(TUPLE_PROTOCOL)?);
        if protocol.get(PROTOCOL_NUMBER)? != [UDP] {
            return None;
        }
        let address: [u8; 4] = Parsed::new(tuple.get(TUPLE_IP)?).get(address_at)?.try_into().ok()?;
        let port = u16::from_be_bytes(protocol.get(port_at)?.try_into().ok()?);
        Some(SocketAddrV4::new(address.into(), port))
    };
    let mut name = Attributes::new().nested_bytes(TUPLE_ORIGINAL, original);
    for plain in [ID, ZONE] {
        if let Some(value) = entry.get(plain) {
            name = name.bytes(plain, value);
        }
    }
    Some(Flow {
        asked: tuple(original, IP_V4_DESTINATION, DESTINATION_PORT)?,
        answering: tuple(reply, IP_V4_SOURCE, SOURCE_PORT)?,
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuple(source: ([u8; 4], u16), destination: ([u8; 4], u16), protocol: u8) -> Attributes {
        let ip = Attributes::new().bytes(IP_V4_SOURCE, &source.0).bytes(IP_V4_DESTINATION, &destination.0);
        let ports = Attributes::new()
            .bytes(PROTOCOL_NUMBER, &[protocol])
            .bytes(SOURCE_PORT, &source.1.to_be_bytes())
            .bytes(DESTINATION_PORT, &destination.1.to_be_bytes());
        Attributes::new().nested(TUPLE_IP, &ip).nested(TUPLE_PROTOCOL, &ports)
    }

    fn entry(asked: ([u8; 4], u16), answering: ([u8; 4], u16), protocol: u8) -> Attributes {
        let client = ([10, 42, 0, 9], 4000);
        Attributes::new()
            .nested(TUPLE_ORIGINAL, &tuple(client, asked, protocol))
            .nested(TUPLE_REPLY, &tuple(answering, client, protocol))
            .u32(ID, 7)
    }

    fn read(asked: ([u8; 4], u16), answering: ([u8; 4], u16)) -> Flow {
        flow(entry(asked, answering, UDP).as_bytes()).unwrap()
    }

    #[test]
    fn entries_of_udp_are_read() {
        let found = read(([10, 43, 0, 7], 53), ([10, 42, 0, 2], 5353));
        assert_eq!(found.asked.to_string(), "10.43.0.7:53");
        assert_eq!(found.answering.to_string(), "10.42.0.2:5353");
        assert_eq!(Parsed::new(found.name.as_bytes()).get(ID), Some(&[0, 0, 0, 7][..]));
        assert_eq!(flow(entry(([10, 43, 0, 7], 53), ([10, 42, 0, 2], 53), 6).as_bytes()), None);
        assert_eq!(flow(&[8, 0, 1]), None);
    }

    #[test]
    fn only_flows_to_endpoints_that_are_gone_are_stale() {
        let service = Place::Address(Ipv4Addr::new(10, 43, 0, 7));
        let left = BTreeSet::from([(Ipv4Addr::new(10, 42, 0, 2), 53)]);
        let mut rules = Rules::default();
        rules.serving.insert((service, 53), left.clone());
        rules.serving.insert((Place::Node, 30053), left);
        rules.serving.insert((Place::Node, 30054), BTreeSet::new());
        let own = BTreeSet::from([Ipv4Addr::new(192, 0, 2, 1)]);
        let check = |asked, answering, expected| {
            let flow = read(asked, answering);
            assert_eq!(is_stale(&flow, &rules, &own), expected, "{flow:?}");
        };
        check(([10, 43, 0, 7], 53), ([10, 42, 0, 2], 53), false);
        check(([10, 43, 0, 7], 53), ([10, 42, 0, 3], 53), true);
        check(([10, 43, 0, 7], 53), ([10, 43, 0, 7], 53), true);
        check(([10, 43, 0, 7], 54), ([10, 42, 0, 3], 53), false);
        check(([192, 0, 2, 1], 30053), ([10, 42, 0, 3], 53), true);
        check(([192, 0, 2, 1], 30053), ([10, 42, 0, 2], 53), false);
        check(([192, 0, 2, 1], 30054), ([10, 42, 0, 2], 53), true);
        check(([198, 51, 100, 1], 30053), ([198, 51, 100, 1], 30053), false);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_entry_panics(
            bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200),
            at in proptest::prelude::any::<proptest::sample::Index>(),
            byte in proptest::prelude::any::<u8>(),
        ) {
            let _random = flow(&bytes);
            let entry = entry(([10, 0, 0, 1], 1), ([10, 0, 0, 2], 2), UDP);
            let mut damaged = entry.as_bytes().to_vec();
            let at = at.index(damaged.len());
            damaged[at] = byte;
            let _damaged = flow(&damaged);
            let _cut = flow(&damaged[..at]);
        }
    }
}
