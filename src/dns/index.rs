//! What the lookups read: the objects of the informers, found by name and by address.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointPort, EndpointSlice};

/// Label of an EndpointSlice that names its Service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The zones that are answered here.
#[derive(Debug, Clone)]
pub struct Zone {
    /// Labels of the cluster's domain, in lower case.
    pub domain: Vec<String>,
    /// Ranges whose reverse names belong to the cluster.
    pub ranges: Vec<Ipv4Net>,
    /// Address of this DNS server.
    pub address: Ipv4Addr,
}

impl Zone {
    pub fn new(domain: &str, ranges: Vec<Ipv4Net>, address: Ipv4Addr) -> Self {
        let labels = domain.trim_matches('.').split('.').map(str::to_ascii_lowercase);
        Self { domain: labels.collect(), ranges, address }
    }
}

/// A Service and its slices; either may be known before the other.
#[derive(Debug, Default)]
pub struct Entry {
    pub service: Option<Arc<Service>>,
    slices: BTreeMap<String, Arc<EndpointSlice>>,
}

/// A port that an SRV record may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Port<'a> {
    pub name: &'a str,
    /// As in the API: upper case.
    pub protocol: &'a str,
    pub number: u16,
}

/// How a Service is reached.
pub enum Reach<'a> {
    Addresses(Vec<IpAddr>),
    Headless,
    /// The external name.
    Alias(&'a str),
}

impl Entry {
    /// `None` if there is no such Service, or it has no address yet.
    pub fn reach(&self) -> Option<Reach<'_>> {
        let spec = self.service.as_ref()?.spec.as_ref()?;
        if spec.type_.as_deref() == Some("ExternalName") {
            return spec.external_name.as_deref().map(Reach::Alias);
        }
        let first = spec.cluster_ip.as_deref().unwrap_or_default();
        if first == "None" {
            return Some(Reach::Headless);
        }
        let mut addresses: Vec<IpAddr> = Vec::new();
        for text in std::iter::once(first).chain(spec.cluster_ips.iter().flatten().map(String::as_str)) {
            if let Ok(address) = text.parse()
                && !addresses.contains(&address)
            {
                addresses.push(address);
            }
        }
        (!addresses.is_empty()).then_some(Reach::Addresses(addresses))
    }

    pub fn service_ports(&self) -> impl Iterator<Item = Port<'_>> {
        let ports = self.service.as_ref().and_then(|s| s.spec.as_ref()).and_then(|s| s.ports.as_ref());
        ports.into_iter().flatten().filter_map(|port: &ServicePort| {
            let number = u16::try_from(port.port).ok()?;
            Some(Port { name: text(&port.name), protocol: port.protocol.as_deref().unwrap_or("TCP"), number })
        })
    }

    /// Ready endpoints: for Services that publish unready addresses the controller marks all of them so.
    pub fn endpoints(&self) -> impl Iterator<Item = (IpAddr, &Endpoint, &EndpointSlice)> {
        self.slices.values().filter(|slice| slice.address_type != "FQDN").flat_map(|slice| {
            let ready = slice
                .endpoints
                .iter()
                .flatten()
                .filter(|e| e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true));
            ready.flat_map(move |endpoint| {
                let addresses = endpoint.addresses.iter().filter_map(|a| a.parse().ok());
                addresses.map(move |address| (address, endpoint, &**slice))
            })
        })
    }

    /// What the addresses of this Service point back to, below the `svc` zone.
    fn pointers(&self, namespace: &str, name: &str) -> Vec<(IpAddr, String)> {
        match self.reach() {
            Some(Reach::Addresses(addresses)) => {
                addresses.into_iter().map(|address| (address, format!("{name}.{namespace}"))).collect()
            }
            Some(Reach::Headless) => self
                .endpoints()
                .filter_map(|(address, endpoint, _)| {
                    Some((address, format!("{}.{name}.{namespace}", endpoint.hostname.as_deref()?)))
                })
                .collect(),
            Some(Reach::Alias(_)) | None => Vec::new(),
        }
    }
}

/// The ports of a slice. One without ports counts as having one without name and number, as in CoreDNS.
pub fn slice_ports(slice: &EndpointSlice) -> impl Iterator<Item = Port<'_>> {
    slice.ports.iter().flatten().filter_map(|port: &EndpointPort| {
        let number = u16::try_from(port.port?).ok()?;
        Some(Port { name: text(&port.name), protocol: port.protocol.as_deref().unwrap_or("TCP"), number })
    })
}

/// The label of an endpoint: its hostname, else its address with dashes (CoreDNS `endpointHostname`).
pub fn endpoint_label(endpoint: &Endpoint, address: IpAddr) -> String {
    match endpoint.hostname.as_deref() {
        Some(hostname) if !hostname.is_empty() => hostname.to_ascii_lowercase(),
        _ => address.to_string().replace(['.', ':'], "-"),
    }
}

/// Everything that names and addresses of the cluster stand for.
#[derive(Debug)]
pub struct Index {
    zone: Zone,
    /// Counts changes; the zone's serial number.
    serial: u32,
    namespaces: HashSet<String>,
    /// By namespace, then by name.
    services: HashMap<String, HashMap<String, Entry>>,
    reverse: HashMap<IpAddr, BTreeSet<String>>,
}

impl Index {
    pub fn new(zone: Zone) -> Self {
        Self { zone, serial: 1, namespaces: HashSet::new(), services: HashMap::new(), reverse: HashMap::new() }
    }

    pub fn zone(&self) -> &Zone {
        &self.zone
    }

    pub fn serial(&self) -> u32 {
        self.serial
    }

    pub fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    pub fn service(&self, namespace: &str, name: &str) -> Option<&Entry> {
        self.services.get(namespace)?.get(name)
    }

    /// Names below the `svc` zone that an address points back to.
    pub fn pointers(&self, address: IpAddr) -> impl Iterator<Item = &str> {
        self.reverse.get(&address).into_iter().flatten().map(String::as_str)
    }

    /// Forgets all objects.
    pub fn clear(&mut self) {
        let serial = self.serial.wrapping_add(1);
        *self = Self { serial, ..Self::new(self.zone.clone()) };
    }

    pub fn set_namespace(&mut self, name: &str) {
        self.namespaces.insert(name.to_owned());
        self.serial = self.serial.wrapping_add(1);
    }

    pub fn remove_namespace(&mut self, name: &str) {
        self.namespaces.remove(name);
        self.serial = self.serial.wrapping_add(1);
    }

    pub fn set_service(&mut self, service: Arc<Service>) {
        let (namespace, name) = (text(&service.metadata.namespace).to_owned(), text(&service.metadata.name).to_owned());
        self.change(&namespace, &name, |entry| entry.service = Some(service));
    }

    pub fn remove_service(&mut self, service: &Service) {
        let (namespace, name) = (text(&service.metadata.namespace), text(&service.metadata.name));
        self.change(namespace, name, |entry| entry.service = None);
    }

    pub fn set_slice(&mut self, slice: Arc<EndpointSlice>) {
        let Some((namespace, service)) = owner(&slice) else { return };
        let (namespace, service, name) =
            (namespace.to_owned(), service.to_owned(), text(&slice.metadata.name).to_owned());
        self.change(&namespace, &service, |entry| {
            entry.slices.insert(name, slice);
        });
    }

    pub fn remove_slice(&mut self, slice: &EndpointSlice) {
        let Some((namespace, service)) = owner(slice) else { return };
        self.change(namespace, service, |entry| {
            entry.slices.remove(text(&slice.metadata.name));
        });
    }

    /// Changes one entry and what points back to it.
    fn change(&mut self, namespace: &str, name: &str, change: impl FnOnce(&mut Entry)) {
        self.serial = self.serial.wrapping_add(1);
        let entries = self.services.entry(namespace.to_owned()).or_default();
        let entry = entries.entry(name.to_owned()).or_default();
        for (address, pointer) in entry.pointers(namespace, name) {
            if let Some(names) = self.reverse.get_mut(&address) {
                names.remove(&pointer);
                if names.is_empty() {
                    self.reverse.remove(&address);
                }
            }
        }
        change(entry);
        for (address, pointer) in entry.pointers(namespace, name) {
            self.reverse.entry(address).or_default().insert(pointer);
        }
        if entry.service.is_none() && entry.slices.is_empty() {
            entries.remove(name);
            if entries.is_empty() {
                self.services.remove(namespace);
            }
        }
    }
}

/// Namespace and name of the Service that a slice is of.
fn owner(slice: &EndpointSlice) -> Option<(&str, &str)> {
    let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
    Some((text(&slice.metadata.namespace), service))
}

fn text(field: &Option<String>) -> &str {
    field.as_deref().unwrap_or_default()
}
