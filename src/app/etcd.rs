//! The etcd API in front of the store, when asked for.

use std::sync::Arc;

use anyhow::{Context, bail};
use base::{SharedClock, Shutdown};
use pki::{CertificateAuthority, LeafSpec, ServingCertificate, Usage};
use storage::etcd_grpc::{EtcdListen, EtcdMember, EtcdServer};
use tokio::task::JoinSet;

use crate::datastore::Datastore;
use crate::layout::Layout;

/// Serves on each of `places`: `unix:///path`, `http://address:port`, or `https://address:port`, where clients need the
/// certificate that lies in `tls/etcd/client.crt`. Its authority is not the cluster's: who may speak to etcd's API may
/// read and write everything.
pub async fn serve(
    places: &[String],
    layout: &Layout,
    datastore: &Datastore,
    clock: &SharedClock,
    tasks: &mut JoinSet<()>,
    shutdown: &Shutdown,
) -> anyhow::Result<()> {
    if places.is_empty() {
        return Ok(());
    }
    let Datastore::Sqlite(store) = datastore else {
        bail!("--etcd-listen serves the database in the data folder; with --datastore-endpoint, talk to etcd itself");
    };
    let listen = places.iter().map(|place| parse(place, layout, clock)).collect::<anyhow::Result<Vec<_>>>()?;
    let member = EtcdMember { name: "skiff".to_owned(), client_urls: places.to_vec() };
    let server = EtcdServer::bind(store.clone(), listen, member, shutdown.clone()).await?;
    tasks.spawn(server.run());
    Ok(())
}

fn parse(place: &str, layout: &Layout, clock: &SharedClock) -> anyhow::Result<EtcdListen> {
    if let Some(path) = place.strip_prefix("unix://") {
        if !path.starts_with('/') {
            bail!("--etcd-listen {place}: the path must be absolute");
        }
        return Ok(EtcdListen::Unix(path.into()));
    }
    let (tls, address) = match (place.strip_prefix("http://"), place.strip_prefix("https://")) {
        (Some(address), _) => (false, address),
        (_, Some(address)) => (true, address),
        _ => bail!("--etcd-listen {place}: must begin with unix://, http:// or https://"),
    };
    let address: std::net::SocketAddr = address
        .parse()
        .with_context(|| format!("--etcd-listen {place}: must name an address and a port, such as 127.0.0.1:2379"))?;
    if !tls {
        if !address.ip().is_loopback() {
            bail!("--etcd-listen {place}: without TLS only a loopback address is served");
        }
        return Ok(EtcdListen::Tcp { address, tls: None });
    }
    let dir = layout.tls().join("etcd");
    let ca = CertificateAuthority::load_or_create(&dir, "ca", "skiff-etcd-ca", clock.as_ref())?;
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), address.ip().to_string()];
    let spec = LeafSpec { usage: Usage::Both, ..LeafSpec::server("etcd", names) };
    let server = ca.load_or_issue(&dir, "server", &spec, clock.as_ref())?;
    ca.load_or_issue(&dir, "client", &LeafSpec::client("etcd-client", &[]), clock.as_ref())?;
    let config = ServingCertificate::new(&server)?.mutual_config(&[ca.cert_der().clone()], &[b"h2", b"http/1.1"])?;
    Ok(EtcdListen::Tcp { address, tls: Some(Arc::new(config)) })
}

#[cfg(test)]
mod tests {
    use base::SystemClock;

    use super::*;

    #[test]
    fn places_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path());
        let clock: SharedClock = Arc::new(SystemClock);
        let parse = |place: &str| parse(place, &layout, &clock);
        assert!(matches!(parse("unix:///run/x.sock"), Ok(EtcdListen::Unix(_))));
        assert!(matches!(parse("http://127.0.0.1:2379"), Ok(EtcdListen::Tcp { tls: None, .. })));
        assert!(matches!(parse("https://10.0.0.1:2379"), Ok(EtcdListen::Tcp { tls: Some(_), .. })));
        for bad in ["unix://x", "tcp://1.2.3.4:5", "http://localhost", "http://10.0.0.1:2379"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
