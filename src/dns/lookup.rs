//! From a name and a type to records: a pure function of the index.
//!
//! The names are those of the Kubernetes DNS specification 1.1.0
//! (`github.com/kubernetes/dns/blob/master/docs/specification.md`); the rest is CoreDNS' `plugin/kubernetes`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::ProtoError;
use hickory_proto::rr::rdata::{A, AAAA, CNAME, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use ipnet::IpNet;

use crate::index::{Entry, Index, Port, Reach, endpoint_label, slice_ports};

/// Lifetime of every record, in seconds; CoreDNS' default.
pub const TTL: u32 = 5;
/// Version of the specification that `dns-version` tells.
const VERSION: &str = "1.1.0";
/// All records of a set of one; CoreDNS divides it among the records.
const WEIGHT: usize = 100;

/// What a name stands for.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// The name belongs to another zone.
    Outside,
    Found {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name is another's: look that up too.
    Alias {
        record: Record,
        target: Name,
    },
    /// The name is there, but has no records of this type. With the zone's SOA record.
    NoData(Record),
    /// There is no such name. With the zone's SOA record.
    NoName(Record),
}

/// What the cluster's names say; before the SOA is added.
enum Found {
    Records(Vec<Record>, Vec<Record>),
    Alias(String),
    NoData,
    NoName,
}

/// Looks a name up.
///
/// # Errors
/// A name of the index that DNS cannot carry, such as one longer than 255 bytes.
pub fn records(index: &Index, name: &Name, kind: RecordType) -> Result<Answer, ProtoError> {
    let labels: Vec<String> = name.iter().map(|label| String::from_utf8_lossy(label).to_ascii_lowercase()).collect();
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let zone = index.zone();
    let domain: Vec<&str> = zone.domain.iter().map(String::as_str).collect();
    let look = Look { index, name, kind };
    let (found, apex) = if let Some(path) = labels.strip_suffix(domain.as_slice()) {
        (look.inside(path)?, domain)
    } else {
        let Ok(range) = name.parse_arpa_name() else { return Ok(Answer::Outside) };
        if !zone.ranges.iter().any(|own| IpNet::V4(*own).contains(&range)) {
            return Ok(Answer::Outside);
        }
        (look.reverse(range)?, vec!["in-addr", "arpa"])
    };
    Ok(match found {
        Found::Records(answers, additionals) if !answers.is_empty() => Answer::Found { answers, additionals },
        Found::Alias(target) => {
            let target = Name::from_ascii(format!("{}.", target.trim_end_matches('.')))?;
            let record = Record::from_rdata(name.clone(), TTL, RData::CNAME(CNAME(target.clone())));
            if kind == RecordType::CNAME {
                Answer::Found { answers: vec![record], additionals: Vec::new() }
            } else {
                Answer::Alias { record, target }
            }
        }
        Found::NoData | Found::Records(..) => Answer::NoData(look.soa(&apex)?),
        Found::NoName => Answer::NoName(look.soa(&apex)?),
    })
}

/// One question.
struct Look<'a> {
    index: &'a Index,
    name: &'a Name,
    kind: RecordType,
}

impl Look<'_> {
    /// A name below the cluster's domain, by its labels without that.
    fn inside(&self, path: &[&str]) -> Result<Found, ProtoError> {
        let one = |data| Found::Records(vec![self.record(data)], Vec::new());
        Ok(match path {
            [] => match self.kind {
                RecordType::SOA => {
                    let domain: Vec<&str> = self.index.zone().domain.iter().map(String::as_str).collect();
                    one(self.soa(&domain)?.data)
                }
                RecordType::NS => {
                    let server = self.domain_name(&["ns", "dns"])?;
                    let address = IpAddr::V4(self.index.zone().address);
                    let glue = Record::from_rdata(server.clone(), TTL, address_data(address));
                    Found::Records(vec![self.record(RData::NS(NS(server)))], vec![glue])
                }
                _ => Found::NoData,
            },
            ["dns-version"] if self.kind == RecordType::TXT => one(RData::TXT(TXT::new(vec![VERSION.to_owned()]))),
            ["dns-version" | "dns"] => Found::NoData,
            ["ns", "dns"] => self.addresses([IpAddr::V4(self.index.zone().address)]),
            [path @ .., "svc"] => self.service(path)?,
            [path @ .., "pod"] => self.pod(path),
            _ => Found::NoName,
        })
    }

    fn service(&self, path: &[&str]) -> Result<Found, ProtoError> {
        let (more, name, namespace) = match path {
            [] => return Ok(Found::NoData),
            [namespace] => return Ok(self.namespace(namespace)),
            [more @ .., name, namespace] => (more, *name, *namespace),
        };
        let Some((entry, reach)) = self.index.service(namespace, name).and_then(|e| Some((e, e.reach()?))) else {
            return Ok(Found::NoName);
        };
        let base = [name, namespace, "svc"];
        match (reach, more) {
            (Reach::Alias(target), []) => Ok(Found::Alias(target.to_owned())),
            (Reach::Alias(_), _) => Ok(Found::NoName),
            (Reach::Addresses(addresses), []) if self.kind != RecordType::SRV => Ok(self.addresses(addresses)),
            (Reach::Addresses(addresses), [] | [_, _]) => {
                let Some(wanted) = Wanted::of(more) else { return Ok(Found::NoName) };
                let target = self.domain_name(&base)?;
                let ports: Vec<u16> = entry.service_ports().filter(|p| wanted.takes(p)).map(|p| p.number).collect();
                let targets = ports.into_iter().map(|port| (target.clone(), port, addresses.clone())).collect();
                Ok(self.targets(targets))
            }
            (Reach::Headless, []) if self.kind != RecordType::SRV => {
                let mut found = entry.endpoints().map(|(address, ..)| address).peekable();
                // The specification: no ready endpoints, no name.
                Ok(if found.peek().is_none() { Found::NoName } else { self.addresses(found) })
            }
            (Reach::Headless, [] | [_, _]) => self.endpoint_targets(entry, &base, None, more),
            (reach, [label]) if label.starts_with('_') => {
                let protocol = label.trim_start_matches('_');
                let has = |port: Port<'_>| port.protocol.eq_ignore_ascii_case(protocol);
                let there = match reach {
                    Reach::Headless => entry.endpoints().any(|(.., slice)| slice_ports(slice).any(has)),
                    _ => entry.service_ports().any(has),
                };
                Ok(if there { Found::NoData } else { Found::NoName })
            }
            (_, [label]) if self.kind == RecordType::SRV => self.endpoint_targets(entry, &base, Some(label), &[]),
            (_, [label]) => {
                let mut found = entry
                    .endpoints()
                    .filter(|(address, endpoint, _)| endpoint_label(endpoint, *address) == *label)
                    .map(|(address, ..)| address)
                    .peekable();
                Ok(if found.peek().is_none() { Found::NoName } else { self.addresses(found) })
            }
            _ => Ok(Found::NoName),
        }
    }

    /// SRV records of endpoints: of all, or those with a label.
    fn endpoint_targets(
        &self,
        entry: &Entry,
        base: &[&str],
        label: Option<&str>,
        more: &[&str],
    ) -> Result<Found, ProtoError> {
        let Some(wanted) = Wanted::of(more) else { return Ok(Found::NoName) };
        let mut targets: Vec<(Name, u16, Vec<IpAddr>)> = Vec::new();
        let mut there = false;
        for (address, endpoint, slice) in entry.endpoints() {
            let own = endpoint_label(endpoint, address);
            if label.is_some_and(|label| label != own) {
                continue;
            }
            there |= more.is_empty();
            let mut path = vec![own.as_str()];
            path.extend(base);
            let target = self.domain_name(&path)?;
            for port in slice_ports(slice).filter(|p| wanted.takes(p)) {
                match targets.iter_mut().find(|(name, number, _)| *number == port.number && *name == target) {
                    Some((.., addresses)) if addresses.contains(&address) => {}
                    Some((.., addresses)) => addresses.push(address),
                    None => targets.push((target.clone(), port.number, vec![address])),
                }
            }
        }
        Ok(if targets.is_empty() && there { Found::NoData } else { self.targets(targets) })
    }

    /// SRV records and the addresses of their targets; without any the name is not there.
    fn targets(&self, targets: Vec<(Name, u16, Vec<IpAddr>)>) -> Found {
        if targets.is_empty() {
            return Found::NoName;
        }
        if self.kind != RecordType::SRV {
            return Found::NoData;
        }
        let weight = u16::try_from(WEIGHT / targets.len()).unwrap_or(1).max(1);
        let (mut answers, mut additionals) = (Vec::new(), Vec::<Record>::new());
        for (target, port, addresses) in targets {
            answers.push(self.record(RData::SRV(SRV::new(0, weight, port, target.clone()))));
            for address in addresses {
                let record = Record::from_rdata(target.clone(), TTL, address_data(address));
                // Ports of one target follow each other or there are few.
                if !additionals.iter().rev().take(64).any(|held| *held == record) {
                    additionals.push(record);
                }
            }
        }
        Found::Records(answers, additionals)
    }

    fn namespace(&self, name: &str) -> Found {
        if self.index.has_namespace(name) { Found::NoData } else { Found::NoName }
    }

    /// `1-2-3-4.namespace.pod`: the address that the name spells (CoreDNS' mode `pods insecure`).
    fn pod(&self, path: &[&str]) -> Found {
        match path {
            [] => Found::NoData,
            [namespace] => self.namespace(namespace),
            [label, namespace] if self.index.has_namespace(namespace) => match spelled_address(label) {
                Some(address) => self.addresses([address]),
                None => Found::NoName,
            },
            _ => Found::NoName,
        }
    }

    fn reverse(&self, range: IpNet) -> Result<Found, ProtoError> {
        let address = range.addr();
        let whole = if address.is_ipv4() { 32 } else { 128 };
        if range.prefix_len() != whole {
            return Ok(Found::NoData);
        }
        let mut answers = Vec::new();
        for pointer in self.index.pointers(address) {
            let mut path: Vec<&str> = pointer.split('.').collect();
            path.push("svc");
            answers.push(self.record(RData::PTR(PTR(self.domain_name(&path)?))));
        }
        Ok(match self.kind {
            _ if answers.is_empty() => Found::NoName,
            RecordType::PTR => Found::Records(answers, Vec::new()),
            _ => Found::NoData,
        })
    }

    /// The addresses of the wanted family, each once; without any the name is still there.
    fn addresses(&self, addresses: impl IntoIterator<Item = IpAddr>) -> Found {
        let mut wanted: Vec<IpAddr> = addresses
            .into_iter()
            .filter(|address| match self.kind {
                RecordType::A => address.is_ipv4(),
                RecordType::AAAA => address.is_ipv6(),
                _ => false,
            })
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        Found::Records(wanted.into_iter().map(|address| self.record(address_data(address))).collect(), Vec::new())
    }

    /// A record with the name as it was asked for.
    fn record(&self, data: RData) -> Record {
        Record::from_rdata(self.name.clone(), TTL, data)
    }

    /// A name in the cluster's domain.
    fn domain_name(&self, path: &[&str]) -> Result<Name, ProtoError> {
        let labels = path.iter().copied().chain(self.index.zone().domain.iter().map(String::as_str));
        Name::from_labels(labels.map(str::as_bytes))
    }

    /// The SOA record of a zone, with CoreDNS' times.
    fn soa(&self, apex: &[&str]) -> Result<Record, ProtoError> {
        let apex = Name::from_labels(apex.iter().map(|label| label.as_bytes()))?;
        let (server, mailbox) = (self.domain_name(&["ns", "dns"])?, self.domain_name(&["hostmaster"])?);
        let minimum = TTL;
        let data = SOA::new(server, mailbox, self.index.serial(), 7200, 1800, 86400, minimum);
        Ok(Record::from_rdata(apex, TTL, RData::SOA(data)))
    }
}

/// Which ports an SRV question is for.
struct Wanted<'a>(Option<(&'a str, &'a str)>);

impl<'a> Wanted<'a> {
    /// From `_port._protocol`, or no labels for all ports; `None` if they are no such pair.
    fn of(labels: &[&'a str]) -> Option<Self> {
        match labels {
            [] => Some(Self(None)),
            [port, protocol] => Some(Self(Some((port.strip_prefix('_')?, protocol.strip_prefix('_')?)))),
            _ => None,
        }
    }

    fn takes(&self, port: &Port<'_>) -> bool {
        self.0.is_none_or(|(name, protocol)| {
            port.name.eq_ignore_ascii_case(name) && port.protocol.eq_ignore_ascii_case(protocol)
        })
    }
}

fn address_data(address: IpAddr) -> RData {
    match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    }
}

fn spelled_address(label: &str) -> Option<IpAddr> {
    let v4 = || label.replace('-', ".").parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    let v6 = || label.replace('-', ":").parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    v4().or_else(v6)
}

#[cfg(test)]
mod tests;
