//! Pods' interfaces: one bridge, a veth pair for each pod.
//!
//! A pod's address is a /32 and all its traffic is routed by the host, never bridged, so that every packet passes the
//! host's conntrack and Service rules work between two pods of the same node without `br_netfilter`.
//!
//! The kernel is the database: links carry `skiff:<instance>:<uid>` as alias. A small file for each pod holds what
//! the kernel does not show from outside (the address), below a folder that a reboot empties.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use futures::TryStreamExt;
use ipnet::Ipv4Net;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use netlink_packet_route::route::RouteScope;
use parking_lot::Mutex;
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder};
use serde::{Deserialize, Serialize};

use crate::netns;

/// Where and how pods are attached.
#[derive(Debug, Clone)]
pub struct PodNetworkConfig {
    /// Name of the bridge, at most 15 bytes; tells instances on one machine apart.
    pub bridge: String,
    pub mtu: u32,
    /// Folder for the pods' files; must not survive a reboot.
    pub state_dir: PathBuf,
}

/// Why a pod could not be attached or detached.
#[derive(Debug, thiserror::Error)]
pub enum PodNetworkError {
    #[error("the node has no pod CIDR yet")]
    NotConfigured,
    #[error("no address is left in the pod CIDR {0}")]
    Exhausted(Ipv4Net),
    #[error("cannot {step} for {what}")]
    Netlink {
        step: &'static str,
        what: String,
        #[source]
        source: rtnetlink::Error,
    },
    #[error("cannot {step} {path}")]
    File {
        step: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the kernel does not show the link {0} that it has just made")]
    Vanished(String),
}

/// A pod's place in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    pub uid: String,
    pub address: Ipv4Addr,
    /// Host end of the veth pair.
    pub link: String,
    /// The namespace that it was made for; a pod whose sandbox is made anew is attached anew.
    pub netns: PathBuf,
}

/// The pods' bridge and addresses.
pub struct PodNetwork {
    config: PodNetworkConfig,
    handle: Handle,
    connection: tokio::task::JoinHandle<()>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    cidr: Option<Ipv4Net>,
    attachments: BTreeMap<String, Attachment>,
    /// Where the search for a free address goes on, so that an address is not used again at once.
    next: u32,
}

impl Drop for PodNetwork {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl PodNetwork {
    /// Opens a netlink socket and reads back the attachments of an earlier run.
    pub fn new(config: PodNetworkConfig) -> Result<Self, PodNetworkError> {
        let (connection, handle, _messages) = rtnetlink::new_connection()
            .map_err(|source| file("open a netlink socket at", Path::new("/proc/net/netlink"), source))?;
        let attachments = read_attachments(&config.state_dir)?;
        Ok(Self {
            config,
            handle,
            connection: tokio::spawn(connection),
            state: Mutex::new(State { attachments, ..State::default() }),
        })
    }

    /// Makes the bridge with the first address of `cidr` and the kernel settings that routing needs. Idempotent; a CIDR
    /// that differs from the bridge's present one replaces it.
    pub async fn configure(&self, cidr: Ipv4Net) -> Result<(), PodNetworkError> {
        let bridge = &self.config.bridge;
        let failed = |step| move |source| PodNetworkError::Netlink { step, what: bridge.clone(), source };
        let index = match self.link(bridge).await? {
            Some(link) => link.header.index,
            None => {
                let message = LinkBridge::new(bridge).mtu(self.config.mtu).up().build();
                self.handle.link().add(message).execute().await.map_err(failed("make a bridge"))?;
                self.index(bridge).await?
            }
        };
        self.handle
            .link()
            .set(LinkUnspec::new_with_index(index).up().build())
            .execute()
            .await
            .map_err(failed("bring up the bridge"))?;
        let gateway = gateway(cidr);
        let held: Vec<_> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute()
            .try_collect()
            .await
            .map_err(failed("read the addresses"))?;
        let mut present = false;
        for message in held {
            let address = message.attributes.iter().find_map(|a| match a {
                netlink_packet_route::address::AddressAttribute::Address(IpAddr::V4(address)) => Some(*address),
                _ => None,
            });
            match address {
                Some(address) if address == gateway && message.header.prefix_len == cidr.prefix_len() => present = true,
                Some(_) => {
                    self.handle.address().del(message).execute().await.map_err(failed("remove an old address"))?;
                }
                None => {}
            }
        }
        if !present {
            self.handle
                .address()
                .add(index, IpAddr::V4(gateway), cidr.prefix_len())
                .execute()
                .await
                .map_err(failed("set the gateway address"))?;
        }
        sysctl("net/ipv4/ip_forward", "1")?;
        // Pods reach each other through the host on purpose; telling them of a shorter way would be wrong.
        sysctl(&format!("net/ipv4/conf/{bridge}/send_redirects"), "0")?;
        // NodePorts and hostPorts answer on 127.0.0.1 too.
        sysctl(&format!("net/ipv4/conf/{bridge}/route_localnet"), "1")?;
        self.state.lock().cidr = Some(cidr);
        Ok(())
    }

    /// Why pods cannot be attached now, if they can't.
    pub fn ready(&self) -> Result<(), PodNetworkError> {
        self.state.lock().cidr.map(|_| ()).ok_or(PodNetworkError::NotConfigured)
    }

    /// The pods attached now.
    pub fn attachments(&self) -> Vec<Attachment> {
        self.state.lock().attachments.values().cloned().collect()
    }

    /// Gives the namespace at `netns` an interface `eth0` with an address and a default route. Idempotent for the same
    /// pod and namespace.
    pub async fn attach(&self, uid: &str, netns: &Path) -> Result<Ipv4Addr, PodNetworkError> {
        let earlier = self.state.lock().attachments.get(uid).cloned();
        if let Some(earlier) = earlier {
            if earlier.netns == netns && self.link(&earlier.link).await?.is_some() {
                return Ok(earlier.address);
            }
            self.detach(uid).await?;
        }
        let (attachment, gateway) = self.reserve(uid, netns)?;
        let made = async {
            self.write(&attachment)?;
            self.connect(&attachment, gateway).await
        }
        .await;
        match made {
            Ok(()) => Ok(attachment.address),
            Err(error) => {
                self.detach(uid).await?;
                Err(error)
            }
        }
    }

    /// Takes a pod's interface and address away. Idempotent.
    pub async fn detach(&self, uid: &str) -> Result<(), PodNetworkError> {
        let Some(attachment) = self.state.lock().attachments.get(uid).cloned() else { return Ok(()) };
        if let Some(link) = self.link(&attachment.link).await? {
            let deleted = self.handle.link().del(link.header.index).execute().await;
            // The namespace may have gone between, and the pair with it.
            if let Err(source) = deleted
                && self.link(&attachment.link).await?.is_some()
            {
                return Err(PodNetworkError::Netlink { step: "remove the link", what: attachment.link, source });
            }
        }
        let path = self.path(uid);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(file("remove", &path, error)),
            _ => {}
        }
        self.state.lock().attachments.remove(uid);
        Ok(())
    }

    /// Removes the bridge and every pod's link: for uninstalling.
    pub async fn remove_all(&self) -> Result<(), PodNetworkError> {
        for attachment in self.attachments() {
            self.detach(&attachment.uid).await?;
        }
        if let Some(link) = self.link(&self.config.bridge).await? {
            self.handle.link().del(link.header.index).execute().await.map_err(|source| PodNetworkError::Netlink {
                step: "remove the bridge",
                what: self.config.bridge.clone(),
                source,
            })?;
        }
        Ok(())
    }

    fn reserve(&self, uid: &str, netns: &Path) -> Result<(Attachment, Ipv4Addr), PodNetworkError> {
        let mut state = self.state.lock();
        let cidr = state.cidr.ok_or(PodNetworkError::NotConfigured)?;
        let gateway = gateway(cidr);
        let address = pick(cidr, state.next, |candidate| {
            candidate == gateway || state.attachments.values().any(|a| a.address == candidate)
        })
        .ok_or(PodNetworkError::Exhausted(cidr))?;
        state.next = u32::from(address).wrapping_sub(u32::from(cidr.network())) + 1;
        let attachment =
            Attachment { uid: uid.to_owned(), address, link: link_name(&self.config.bridge, uid), netns: netns.into() };
        state.attachments.insert(uid.to_owned(), attachment.clone());
        Ok((attachment, gateway))
    }

    async fn connect(&self, attachment: &Attachment, gateway: Ipv4Addr) -> Result<(), PodNetworkError> {
        let Attachment { uid, address, link, netns } = attachment;
        let failed = |step| move |source| PodNetworkError::Netlink { step, what: uid.clone(), source };
        let peer = format!("p{}", &link[1..]);
        let bridge = self.index(&self.config.bridge).await?;
        let pair = LinkVeth::new(link, &peer).mtu(self.config.mtu).controller(bridge).up().build();
        self.handle.link().add(pair).execute().await.map_err(failed("make a veth pair"))?;
        let index = self.index(link).await?;
        // Where br_netfilter is on, a packet of a pod to its own Service is bridged back to the port that it came from.
        self.handle
            .link()
            .set_port(LinkBridgePort::new(index).hairpin(true).build())
            .execute()
            .await
            .map_err(failed("let packets return"))?;
        let alias = format!("skiff:{}:{uid}", self.config.bridge);
        self.handle
            .link()
            .set(LinkUnspec::new_with_index(index).alias(alias).build())
            .execute()
            .await
            .map_err(failed("label the link"))?;
        let namespace = std::fs::File::open(netns).map_err(|source| file("open", netns, source))?;
        let peer = self.index(&peer).await?;
        let [a, b, c, d] = address.octets();
        let message = LinkUnspec::new_with_index(peer)
            .setns_by_fd(namespace.as_raw_fd())
            .name("eth0".to_owned())
            .mtu(self.config.mtu)
            // As CNI's bridge plugin does: the address in the MAC, so that it is stable.
            .address(vec![0x0a, 0x58, a, b, c, d])
            .build();
        self.handle.link().set(message).execute().await.map_err(failed("move the link into the pod"))?;
        let address = *address;
        netns::within(netns, move |handle| inside(handle, address, gateway))
            .await
            .map_err(|source| file("enter", netns, source))?
            .map_err(failed("set up the pod's interface"))
    }

    async fn link(&self, name: &str) -> Result<Option<LinkMessage>, PodNetworkError> {
        let mut found = self.handle.link().get().match_name(name.to_owned()).execute();
        match found.try_next().await {
            Ok(link) => Ok(link),
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -nix::libc::ENODEV => Ok(None),
            Err(source) => Err(PodNetworkError::Netlink { step: "look up the link", what: name.to_owned(), source }),
        }
    }

    async fn index(&self, name: &str) -> Result<u32, PodNetworkError> {
        let link = self.link(name).await?.ok_or_else(|| PodNetworkError::Vanished(name.to_owned()))?;
        Ok(link.header.index)
    }

    fn path(&self, uid: &str) -> PathBuf {
        self.config.state_dir.join(format!("{uid}.json"))
    }

    fn write(&self, attachment: &Attachment) -> Result<(), PodNetworkError> {
        let path = self.path(&attachment.uid);
        let write = || -> io::Result<()> {
            std::fs::create_dir_all(&self.config.state_dir)?;
            let temporary = path.with_extension("new");
            std::fs::write(&temporary, serde_json::to_vec(attachment)?)?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|source| file("write", &path, source))
    }
}

/// What is done inside the pod's namespace: address, link up, routes by way of the host only.
async fn inside(handle: Handle, address: Ipv4Addr, gateway: Ipv4Addr) -> Result<(), rtnetlink::Error> {
    let mut found = handle.link().get().match_name("eth0".to_owned()).execute();
    let Some(link) = found.try_next().await? else { return Err(rtnetlink::Error::RequestFailed) };
    let index = link.header.index;
    handle.address().add(index, IpAddr::V4(address), 32).execute().await?;
    handle.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
    let onlink = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(gateway, 32)
        .output_interface(index)
        .scope(RouteScope::Link)
        .pref_source(address)
        .build();
    handle.route().add(onlink).execute().await?;
    let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway).output_interface(index).build();
    handle.route().add(default).execute().await
}

fn read_attachments(dir: &Path) -> Result<BTreeMap<String, Attachment>, PodNetworkError> {
    let mut attachments = BTreeMap::new();
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(attachments),
        Err(source) => return Err(file("read", dir, source)),
    };
    for entry in entries {
        let path = entry.map_err(|source| file("read", dir, source))?.path();
        if path.extension().is_none_or(|e| e != "json") {
            continue;
        }
        let bytes = std::fs::read(&path).map_err(|source| file("read", &path, source))?;
        match serde_json::from_slice::<Attachment>(&bytes) {
            Ok(attachment) => {
                attachments.insert(attachment.uid.clone(), attachment);
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "ignoring an unreadable attachment"),
        }
    }
    Ok(attachments)
}

/// The first address after `start` (an offset into `cidr`) that is not `taken`; wraps around. Never the network's own
/// address or its broadcast address.
fn pick(cidr: Ipv4Net, start: u32, taken: impl Fn(Ipv4Addr) -> bool) -> Option<Ipv4Addr> {
    let base = u32::from(cidr.network());
    let hosts = u32::from(cidr.broadcast()).checked_sub(base)?.checked_sub(1)?;
    (0..hosts).map(|i| Ipv4Addr::from(base + 1 + (start.saturating_sub(1) + i) % hosts)).find(|a| !taken(*a))
}

/// The host's own address on the bridge: the first of the range.
pub fn gateway(cidr: Ipv4Net) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.network()) + 1)
}

/// A link name of 15 bytes: `v` and 14 hexadecimal digits of a hash of instance and pod (FNV-1a, 64 bit).
fn link_name(instance: &str, uid: &str) -> String {
    format!("v{:014x}", base::fnv64a(format!("{instance}\0{uid}").as_bytes()) >> 8)
}

fn sysctl(name: &str, value: &str) -> Result<(), PodNetworkError> {
    let path = Path::new("/proc/sys").join(name);
    let write = || -> io::Result<()> {
        if std::fs::read_to_string(&path)?.trim() == value { Ok(()) } else { std::fs::write(&path, value) }
    };
    write().map_err(|source| file("set", &path, source))
}

fn file(step: &'static str, path: &Path, source: io::Error) -> PodNetworkError {
    PodNetworkError::File { step, path: path.to_owned(), source }
}

/// The label that links of pods carry, for those who look for leftovers.
pub fn alias(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfAlias(alias) => Some(alias.as_str()),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_used_in_turn_and_reused_only_when_free() {
        let cidr: Ipv4Net = "10.42.0.0/29".parse().unwrap();
        let gateway = gateway(cidr);
        let pick_after = |start| pick(cidr, start, |a| a == gateway);
        assert_eq!(pick_after(0), Some(Ipv4Addr::new(10, 42, 0, 2)));
        assert_eq!(pick_after(3), Some(Ipv4Addr::new(10, 42, 0, 3)));
        assert_eq!(pick_after(6), Some(Ipv4Addr::new(10, 42, 0, 6)));
        assert_eq!(pick_after(7), Some(Ipv4Addr::new(10, 42, 0, 2)), "wraps around past the gateway");
        assert_eq!(pick(cidr, 0, |_| true), None);
    }

    #[test]
    fn link_names_fit_and_differ_by_instance() {
        let one = link_name("skiff0", "uid");
        assert_eq!(one.len(), 15);
        assert_ne!(one, link_name("skiff1", "uid"));
    }
}
