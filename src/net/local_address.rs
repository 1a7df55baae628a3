//! Addresses that this machine answers itself, on its loopback interface.

use std::io;
use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use netlink_packet_route::address::{AddressAttribute, AddressScope};
use rtnetlink::{Handle, LinkUnspec};

const LOOPBACK: &str = "lo";

/// Why an address could not be taken or given up.
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
/// leave this machine unless asked for. Idempotent: an address that an earlier process has left is taken over.
pub async fn ensure(address: Ipv4Addr) -> Result<(), LocalAddressError> {
    let failed = |step| move |source| LocalAddressError::Netlink { step, address, source };
    on_loopback(address, async |handle, index| {
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
    })
    .await
}

/// Takes `address` from the loopback interface; it need not be there.
pub async fn release(address: Ipv4Addr) -> Result<(), LocalAddressError> {
    let failed = |step| move |source| LocalAddressError::Netlink { step, address, source };
    on_loopback(address, async |handle, index| {
        let mut held = handle
            .address()
            .get()
            .set_link_index_filter(index)
            .set_prefix_length_filter(32)
            .set_address_filter(IpAddr::V4(address))
            .execute();
        while let Some(message) = held.try_next().await.map_err(failed("read the loopback interface's addresses"))? {
            // The filters are the kernel's to honour; no other address may go.
            if !message.attributes.contains(&AddressAttribute::Address(IpAddr::V4(address))) {
                continue;
            }
            match handle.address().del(message).execute().await {
                Err(rtnetlink::Error::NetlinkError(error)) if error.raw_code() == -libc::EADDRNOTAVAIL => {}
                result => result.map_err(failed("take an address from the loopback interface"))?,
            }
        }
        Ok(())
    })
    .await
}

/// Runs `work` with a netlink handle and the index of the loopback interface.
async fn on_loopback<W>(address: Ipv4Addr, work: W) -> Result<(), LocalAddressError>
where
    W: AsyncFnOnce(&Handle, u32) -> Result<(), LocalAddressError>,
{
    let (connection, handle, _messages) = rtnetlink::new_connection().map_err(LocalAddressError::Socket)?;
    let connection = tokio::spawn(connection);
    let result = async {
        let links: Vec<_> =
            handle.link().get().match_name(LOOPBACK.to_owned()).execute().try_collect().await.map_err(|source| {
                LocalAddressError::Netlink { step: "find the loopback interface", address, source }
            })?;
        // The kernel makes it first in each namespace.
        let index = links.first().map_or(1, |link| link.header.index);
        work(&handle, index).await
    }
    .await;
    connection.abort();
    result
}
