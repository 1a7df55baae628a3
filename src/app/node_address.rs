//! The node's own name and address.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};

use anyhow::{Context, bail};

/// The host's name in the form that the API takes: lower case.
pub fn host_name() -> anyhow::Result<String> {
    let name = nix::unistd::gethostname().context("cannot read the host's name")?;
    let name = name.to_string_lossy().to_lowercase();
    if name.is_empty() {
        bail!("this machine has no host name: set one, or give --node-name");
    }
    Ok(name)
}

/// The source address of the default route, or the first global IPv4 address if there is no such route (an offline box
/// must start too), or 127.0.0.1 if there is none at all.
pub fn node_ip() -> anyhow::Result<IpAddr> {
    if let Some(address) = source_of_default_route() {
        return Ok(address);
    }
    let interfaces = nix::ifaddrs::getifaddrs().context("cannot list the network interfaces")?;
    let global = interfaces
        .filter_map(|interface| Some(IpAddr::V4(interface.address?.as_sockaddr_in()?.ip())))
        .find(|address| !address.is_loopback() && !matches!(address, IpAddr::V4(v4) if v4.is_link_local()));
    Ok(global.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)))
}

/// Asks the kernel's routing table by connecting a datagram socket, which sends nothing.
fn source_of_default_route() -> Option<IpAddr> {
    // RFC 5737 documentation address: never on a local network, so only a default route leads there.
    let outside = SocketAddr::from(([203, 0, 113, 1], 9));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(outside).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_unspecified())
}
