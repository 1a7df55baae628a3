//! Gives Services their addresses and ports (`pkg/registry/core/service/storage/alloc.go`, `ipallocator`,
//! `portallocator`).
//!
//! What is taken is known from the Services themselves: it is read from the registry on first use and kept in step by
//! every write through the hook. Nothing is stored besides. An address is taken before the write and given back if the
//! write fails; one that an update frees is given back only after the write.

use std::collections::HashSet;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;

use api::field::{Error, Path};
use api::kind::{Pending, WriteHook};
use api::services::ActionContext;
use api::{Gvr, Object, Status};
use async_trait::async_trait;
use ipnet::IpNet;
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::Config;
use crate::json::{Json, existing};

use super::service::{
    carry_over, is_headless, kind, needs_cluster_ip, needs_health_check, needs_node_port, normalize_cluster_ips,
};
use super::service_validate;

/// Addresses and ports in use.
#[derive(Default)]
struct Taken {
    addresses: HashSet<IpAddr>,
    ports: HashSet<u16>,
}

impl Taken {
    fn free(&mut self, addresses: &[IpAddr], ports: &[u16]) {
        self.addresses.retain(|ip| !addresses.contains(ip));
        self.ports.retain(|port| !ports.contains(port));
    }
}

/// Fixed facts of the cluster.
struct Pools {
    networks: Vec<IpNet>,
    /// Never given out unasked: the DNS addresses.
    reserved: Vec<IpAddr>,
    ports: (u16, u16),
}

/// The hook of Services.
pub(super) struct Allocator {
    pools: Pools,
    taken: Arc<Mutex<Taken>>,
    loaded: tokio::sync::OnceCell<()>,
}

impl Allocator {
    pub fn new(config: &Config) -> Self {
        let pools = Pools {
            networks: config.service_cidrs.clone(),
            reserved: config.cluster_dns.clone(),
            ports: config.node_ports,
        };
        Self { pools, taken: Arc::default(), loaded: tokio::sync::OnceCell::new() }
    }

    async fn load(&self, ctx: &ActionContext<'_>) -> Result<(), Status> {
        let read = || async {
            let services = ctx.registry.list(&Gvr::new("", "v1", "services"), "").await?;
            let mut taken = self.taken.lock();
            for service in &services {
                taken.addresses.extend(addresses(service));
                taken.ports.extend(ports(service));
            }
            Ok(())
        };
        self.loaded.get_or_try_init(read).await.map(|()| ())
    }
}

fn addresses(service: &Object) -> impl Iterator<Item = IpAddr> {
    service.array(&["spec", "clusterIPs"]).iter().filter_map(|ip| ip.as_str()?.parse().ok())
}

fn ports(service: &Object) -> Vec<u16> {
    let spec = service.at("spec");
    let nodes = spec.list("ports").iter().filter_map(|p| p.int("nodePort"));
    nodes.chain(spec.int("healthCheckNodePort")).filter(|n| *n > 0).filter_map(|n| u16::try_from(n).ok()).collect()
}

/// What a write has taken and what it will free.
struct Transaction {
    taken: Arc<Mutex<Taken>>,
    new_addresses: Vec<IpAddr>,
    new_ports: Vec<u16>,
    old_addresses: Vec<IpAddr>,
    old_ports: Vec<u16>,
    committed: bool,
    /// Nothing is taken, nor is it asked whether somebody else has taken it.
    dry_run: bool,
}

impl Pending for Transaction {
    fn commit(mut self: Box<Self>) {
        self.committed = true;
        let mut taken = self.taken.lock();
        taken.free(&self.old_addresses, &self.old_ports);
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        if !self.committed {
            let mut taken = self.taken.lock();
            taken.free(&self.new_addresses, &self.new_ports);
        }
    }
}

/// Whether a Service that had an address, or none by choice, asks for another one.
fn other_address(object: &Object, old: &Object) -> bool {
    let first = |object: &Object| Some(object.at("spec").list("clusterIPs").first()?.as_str()?.to_owned());
    let both = [object, old].iter().all(|object| object.at("spec").text("type") != "ExternalName");
    both && matches!((first(object), first(old)), (Some(new), Some(old)) if new != old)
}

#[async_trait]
impl WriteHook for Allocator {
    async fn begin(
        &self,
        ctx: &ActionContext<'_>,
        object: &mut Object,
        old: Option<&Object>,
    ) -> Result<Box<dyn Pending>, Status> {
        self.load(ctx).await?;
        match old {
            Some(old) => carry_over(object, old),
            None => {
                if let Some(spec) = existing(&mut object.0, "spec") {
                    normalize_cluster_ips(spec, None);
                }
            }
        }
        // As upstream's dry runs: of ports it is asked whether they are free, of addresses it is not.
        let taken = if ctx.dry_run {
            let ports = self.taken.lock().ports.clone();
            Arc::new(Mutex::new(Taken { ports, ..Taken::default() }))
        } else {
            Arc::clone(&self.taken)
        };
        let mut transaction = Transaction {
            taken,
            new_addresses: Vec::new(),
            new_ports: Vec::new(),
            old_addresses: Vec::new(),
            old_ports: Vec::new(),
            committed: false,
            dry_run: ctx.dry_run,
        };
        families(&self.pools, object, old)?;
        if old.is_some_and(|old| other_address(object, old)) {
            // Validation refuses it, before upstream allocates anything.
            return Ok(Box::new(()));
        }
        self.assign_addresses(object, old, &mut transaction)?;
        self.assign_ports(object, old, &mut transaction)?;
        if let Some(old) = old {
            let (kept, kept_ports): (Vec<IpAddr>, Vec<u16>) = (addresses(object).collect(), ports(object));
            transaction.old_addresses = addresses(old).filter(|ip| !kept.contains(ip)).collect();
            transaction.old_ports = ports(old).into_iter().filter(|port| !kept_ports.contains(port)).collect();
        }
        Ok(Box::new(transaction))
    }

    async fn deleted(&self, object: &Object) {
        let mut taken = self.taken.lock();
        taken.free(&addresses(object).collect::<Vec<_>>(), &ports(object));
    }
}

fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "IPv4" } else { "IPv6" }
}

fn invalid(service: &Object, error: Error) -> Status {
    Status::invalid("", "Service", service.name(), &[error])
}

fn refuse(service: &Object, errors: &[Error]) -> Result<(), Status> {
    if errors.is_empty() { Ok(()) } else { Err(Status::invalid("", "Service", service.name(), errors)) }
}

/// `initIPFamilyFields`: fills `ipFamilyPolicy` and `ipFamilies` after the addresses and the cluster's networks.
fn families(pools: &Pools, object: &mut Object, old: Option<&Object>) -> Result<(), Status> {
    if !needs_cluster_ip(object.at("spec")) {
        return Ok(());
    }
    let cluster: Vec<&str> = pools.networks.iter().map(|n| family_of(n.addr())).collect();
    let default = cluster.first().copied().unwrap_or("IPv4");
    let at = Path::new("spec");
    let bare_headless = is_headless(object.at("spec")) && object.at("spec").count("selector") == 0;
    if !object.at("spec").has("ipFamilyPolicy") {
        let before = old.map_or(&Value::Null, |o| o.at("spec").at("ipFamilyPolicy"));
        let policy = match before.as_str() {
            Some(policy) => policy,
            None if bare_headless => "RequireDualStack",
            None => "SingleStack",
        };
        object.set(&["spec", "ipFamilyPolicy"], policy);
    }
    let mut errors = Vec::new();
    let before = old.map_or(&Value::Null, |old| old.at("spec"));
    service_validate::cluster_ips(&mut errors, &at, object.at("spec"), before);
    refuse(object, &errors)?;
    let policy = object.at("spec").text("ipFamilyPolicy").to_owned();
    let single = policy == "SingleStack";
    let whole = |text: String| Error::invalid(at.child("ipFamilyPolicy"), policy.as_str(), text);
    if let Some(old) = old {
        for (member, noun) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
            let list = object.array(&["spec", member]);
            let before = old.array(&["spec", member]);
            if single && list.len() > 1 && list == before {
                // Asking for one family is asking to release the second.
                let first = list[..1].to_vec();
                object.set(&["spec", member], first);
            } else if !single && before.len() == 2 && list.len() == 1 {
                errors.push(whole(format!("must be 'SingleStack' to release the secondary {noun}")));
            }
        }
    }
    if single {
        for (member, noun) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if object.at("spec").count(member) == 2 {
                let text =
                    format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {noun} are specified");
                errors.push(whole(text));
            }
        }
    }
    let mut families: Vec<String> =
        object.array(&["spec", "ipFamilies"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
    for (i, ip) in addresses(object).enumerate() {
        let family = family_of(ip);
        if i >= families.len() {
            if cluster.contains(&family) {
                families.push(family.to_owned());
            } else {
                let text = format!("{family} is not configured on this cluster");
                let value = object.at("spec").at("clusterIPs").clone();
                errors.push(Error::invalid(at.child("clusterIPs").index(i), value, text));
            }
        }
    }
    refuse(object, &errors)?;
    if families.is_empty() {
        families.push(default.to_owned());
    }
    let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
    if bare_headless {
        if !single && families.len() < 2 {
            families.push(other.to_owned());
        }
    } else {
        if policy == "RequireDualStack" && cluster.len() < 2 {
            errors.push(whole("this cluster is not configured for dual-stack services".to_owned()));
        }
        for (i, family) in families.iter().enumerate() {
            if !cluster.contains(&family.as_str()) {
                let at = at.child("ipFamilies").index(i);
                errors.push(Error::invalid(at, family.as_str(), "not configured on this cluster"));
            }
        }
        refuse(object, &errors)?;
        if !single && families.len() == 1 && cluster.len() == 2 {
            families.push(other.to_owned());
        }
    }
    object.set(&["spec", "ipFamilies"], families);
    Ok(())
}

impl Allocator {
    fn assign_addresses(
        &self,
        object: &mut Object,
        old: Option<&Object>,
        transaction: &mut Transaction,
    ) -> Result<(), Status> {
        if !needs_cluster_ip(object.at("spec")) || is_headless(object.at("spec")) {
            return Ok(());
        }
        let own: Vec<IpAddr> = old.into_iter().flat_map(addresses).collect();
        let families: Vec<String> =
            object.array(&["spec", "ipFamilies"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        // What has addresses gets no others, but for that of a second family; whether they may change is validation's
        // (`updateClusterIPs`).
        let first = match old.filter(|old| needs_cluster_ip(old.at("spec"))) {
            Some(old) if is_headless(old.at("spec")) => return Ok(()),
            Some(old) if old.array(&["spec", "ipFamilies"]).len() != 1 || families.len() != 2 => return Ok(()),
            Some(_) => 1,
            None => 0,
        };
        let mut list: Vec<String> =
            object.array(&["spec", "clusterIPs"]).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        list.resize(families.len(), String::new());
        let shared = Arc::clone(&transaction.taken);
        let mut taken = shared.lock();
        for (slot, family) in list.iter_mut().zip(&families).skip(first) {
            let Some(network) = self.pools.networks.iter().find(|n| family_of(n.addr()) == family) else { continue };
            if slot.is_empty() {
                let Some(ip) = next_address(network, &self.pools.reserved, &taken.addresses) else {
                    let text = format!("failed to allocate a serviceIP for Service {:?}: range is full", object.name());
                    return Err(Status::internal(text));
                };
                taken.addresses.insert(ip);
                transaction.new_addresses.push(ip);
                *slot = ip.to_string();
                continue;
            }
            let Ok(ip) = slot.parse::<IpAddr>() else { continue };
            if own.contains(&ip) {
                continue;
            }
            let problem = if !usable(network, ip) {
                Some(if transaction.dry_run {
                    format!("the provided IP ({ip}) is not in the valid range. The range of valid IPs is {network}")
                } else {
                    "the provided network does not match the current range".to_owned()
                })
            } else if !taken.addresses.insert(ip) {
                Some("provided IP is already allocated".to_owned())
            } else {
                transaction.new_addresses.push(ip);
                None
            };
            if let Some(problem) = problem {
                let text = format!("failed to allocate IP {ip}: {problem}");
                let value = object.at("spec").at("clusterIPs").clone();
                return Err(invalid(object, Error::invalid(Path::new("spec").child("clusterIPs"), value, text)));
            }
        }
        if let Some(first) = list.first() {
            object.set(&["spec", "clusterIP"], first.as_str());
        }
        object.set(&["spec", "clusterIPs"], json!(list));
        Ok(())
    }

    fn assign_ports(
        &self,
        object: &mut Object,
        old: Option<&Object>,
        transaction: &mut Transaction,
    ) -> Result<(), Status> {
        let spec = object.at("spec");
        let own: Vec<u16> = old.map(ports).unwrap_or_default();
        let wants_all = kind(spec) == "NodePort" || spec.at("allocateLoadBalancerNodePorts").as_bool() != Some(false);
        let shared = Arc::clone(&transaction.taken);
        let mut taken = shared.lock();
        if needs_node_port(spec) {
            let mut list = spec.list("ports").to_vec();
            let wanted: Vec<(i64, i64)> =
                list.iter().filter_map(|p| Some((p.int("port")?, p.int("nodePort").filter(|n| *n > 0)?))).collect();
            let mut given: Vec<(i64, i64)> = Vec::new();
            let mut of_protocols: Vec<(String, i64)> = Vec::new();
            for (i, port) in list.iter_mut().enumerate() {
                let number = port.int("port").unwrap_or_default();
                let asked = port.int("nodePort").unwrap_or_default();
                if asked == 0 && !wants_all {
                    continue;
                }
                // Ports of one number but different protocols share their node port.
                let shared = given.iter().find(|(n, _)| *n == number).map(|(_, node)| *node);
                let asked = match asked {
                    0 => shared
                        .or_else(|| wanted.iter().find(|(n, _)| *n == number).map(|(_, node)| *node))
                        .unwrap_or_default(),
                    asked => asked,
                };
                let node = self.take_port(asked, &own, &mut taken, transaction).map_err(|problem| {
                    if asked == 0 {
                        Status::internal(format!("failed to allocate a nodePort: {problem}"))
                    } else {
                        let at = Path::new("spec").child("ports").index(i).child("nodePort");
                        invalid(object, Error::invalid(at, asked, problem))
                    }
                })?;
                given.push((number, node));
                let of_protocol = (port.text("protocol").to_owned(), node);
                if of_protocols.contains(&of_protocol) && old.is_some() {
                    // `updateNodePorts`, which finds it before validation does.
                    let (protocol, node) = of_protocol;
                    return Err(Status::new(500, "", format!("duplicate nodePort: {{{protocol} {node}}}")));
                }
                of_protocols.push(of_protocol);
                if let Some(map) = port.as_object_mut() {
                    map.insert("nodePort".to_owned(), node.into());
                }
            }
            object.set(&["spec", "ports"], list);
        }
        if needs_health_check(object.at("spec")) {
            let asked = object.at("spec").int("healthCheckNodePort").unwrap_or_default();
            let port = self.take_port(asked, &own, &mut taken, transaction).map_err(|problem| {
                let what = if asked == 0 { "a HealthCheck NodePort 0" } else { "requested HealthCheck NodePort" };
                Status::internal(format!("failed to allocate {what}: {problem}"))
            })?;
            object.set(&["spec", "healthCheckNodePort"], port);
        }
        Ok(())
    }

    /// Takes the port that is asked for, or (0) a free one.
    fn take_port(
        &self,
        asked: i64,
        own: &[u16],
        taken: &mut Taken,
        transaction: &mut Transaction,
    ) -> Result<i64, String> {
        let (low, high) = self.pools.ports;
        let port = if asked == 0 {
            pick(u128::from(high - low) + 1, |n| {
                let port = low + u16::try_from(n).ok()?;
                (!taken.ports.contains(&port)).then_some(port)
            })
            .ok_or_else(|| "range is full".to_owned())?
        } else {
            let port = u16::try_from(asked).unwrap_or_default();
            if own.contains(&port) || transaction.new_ports.contains(&port) {
                return Ok(asked);
            }
            if transaction.dry_run && !(low..=high).contains(&port) {
                return Ok(asked);
            }
            if !(low..=high).contains(&port) {
                return Err(format!(
                    "provided port is not in the valid range. The range of valid ports is {low}-{high}"
                ));
            }
            if taken.ports.contains(&port) {
                return Err("provided port is already allocated".to_owned());
            }
            port
        };
        taken.ports.insert(port);
        transaction.new_ports.push(port);
        Ok(i64::from(port))
    }
}

/// Whether a Service may have this address: not the network's own and not its broadcast address.
fn usable(network: &IpNet, ip: IpAddr) -> bool {
    network.contains(&ip) && ip != network.network() && !(ip.is_ipv4() && ip == network.broadcast())
}

/// A free address; as upstream, first of the upper part of the network, so that the lower part stays for those that ask
/// for a certain one. The first address is the API server's own Service.
fn next_address(network: &IpNet, reserved: &[IpAddr], taken: &HashSet<IpAddr>) -> Option<IpAddr> {
    let size = hosts(network);
    // ipallocator.calculateRangeOffset: min(max(16, size/16), 256)
    let offset = (size / 16).clamp(16, 256).min(size);
    let free = |n: u128| {
        let ip = nth(network, n)?;
        (usable(network, ip) && !reserved.contains(&ip) && !taken.contains(&ip)).then_some(ip)
    };
    // Number 0 is the network's own address, number 1 the API server's.
    pick(size.saturating_sub(offset), |n| free(offset + n)).or_else(|| (2..=offset).find_map(free))
}

/// How many addresses a network has beyond its first, at most 2^16 of them for IPv6 as upstream has it.
fn hosts(network: &IpNet) -> u128 {
    let bits =
        u32::from(network.max_prefix_len() - network.prefix_len()).min(if network.addr().is_ipv6() { 16 } else { 32 });
    1_u128 << bits
}

fn nth(network: &IpNet, n: u128) -> Option<IpAddr> {
    match network.network() {
        IpAddr::V4(base) => Some(IpAddr::V4(u32::from(base).checked_add(u32::try_from(n).ok()?)?.into())),
        IpAddr::V6(base) => Some(IpAddr::V6(u128::from(base).checked_add(n)?.into())),
    }
}

/// The first hit going round `0..size` from a random place.
fn pick<T: Eq + Hash>(size: u128, hit: impl Fn(u128) -> Option<T>) -> Option<T> {
    if size == 0 {
        return None;
    }
    let start = rand::random_range(0..size);
    (start..size).chain(0..start).find_map(hit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_from_the_network_until_it_is_full() {
        let network: IpNet = "10.0.0.0/28".parse().unwrap();
        let dns: IpAddr = "10.0.0.10".parse().unwrap();
        let mut taken: HashSet<IpAddr> = HashSet::from(["10.0.0.1".parse().unwrap()]);
        while let Some(ip) = next_address(&network, &[dns], &taken) {
            assert!(usable(&network, ip) && ip != dns && taken.insert(ip), "{ip}");
        }
        // 16 less the network's, the broadcast and the DNS address
        assert_eq!(taken.len(), 13);
    }

    #[test]
    fn the_lower_part_is_used_last() {
        let network: IpNet = "10.43.0.0/16".parse().unwrap();
        let ip = next_address(&network, &[], &HashSet::new()).unwrap();
        assert!(ip >= "10.43.1.0".parse::<IpAddr>().unwrap(), "{ip}");
    }
}
