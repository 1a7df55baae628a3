//! Addresses that this machine answers itself, on its loopback interface.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use netlink_packet_route::address::AddressScope;
use rtnetlink::LinkUnspec;

const LOOPBACK: &str = "lo";

/// Why an address could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LocalAddressError {
    #[error("cannot open a netlink socket")]
    Socket(#[source] io::Error),
    #[error("cannot {step} for {address}")]
    Netlink {
        step: &'static str,
        address: Ipv4Addr,
        #[source]
        source: rtnetlink::Error,
    },
}

/// Gives `address` to the loopback interface, as /32 and with host scope: it never becomes the source of packets that
/// leave this machine unless asked for. Idempotent; the address stays when the process ends.
pub async fn ensure(address: Ipv4Addr) -> Result<(), LocalAddressError> {
    let (connection, handle, _messages) = rtnetlink::new_connection().map_err(LocalAddressError::Socket)?;
    let connection = tokio::spawn(connection);
    let failed = |step| move |source| LocalAddressError::Netlink { step, address, source };
    let work = async {
        let links: Vec<_> = handle
            .link()
            .get()
            .match_name(LOOPBACK.to_owned())
            .execute()
            .try_collect()
            .await
            .map_err(failed("find the loopback interface"))?;
        // The kernel makes it first in each namespace.
        let index = links.first().map_or(1, |link| link.header.index);
        handle
            .link()
            .set(LinkUnspec::new_with_index(index).up().build())
            .execute()
            .await
            .map_err(failed("bring up the loopback interface"))?;
        let mut request = handle.address().add(index, IpAddr::V4(address), 32);
        request.message_mut().header.scope = AddressScope::Host;
        match request.execute().await {
            Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EEXIST => Ok(()),
            result => result.map_err(failed("add an address to the loopback interface")),
        }
    };
    let result = work.await;
    connection.abort();
    result
}
