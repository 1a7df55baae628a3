//! Serves etcd's interface on a database: `etcd DATABASE ADDRESS|SOCKET [EPHEMERAL-PREFIX...]`.

use std::error::Error;
use std::path::PathBuf;

use storage::etcd_grpc::{EtcdListen, EtcdMember, EtcdServer};
use storage::{SqliteOptions, SqliteStore};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(path), Some(place)) = (arguments.next(), arguments.next()) else {
        return Err("usage: etcd DATABASE ADDRESS|SOCKET [EPHEMERAL-PREFIX...]".into());
    };
    let listen = match place.parse() {
        Ok(address) => EtcdListen::Tcp { address, tls: None },
        Err(_) => EtcdListen::Unix(PathBuf::from(&place)),
    };
    let options = SqliteOptions {
        // As etcd by itself: history is kept until a client compacts it.
        history: None,
        ephemeral_prefixes: arguments.map(|prefix| prefix.into_bytes().into()).collect(),
        ..SqliteOptions::default()
    };
    let shutdown = base::Shutdown::new();
    let store = SqliteStore::open(&PathBuf::from(path), options, shutdown.child_token()).await.map_err(|error| {
        let text = base::chain(&error).to_string();
        Box::<dyn Error>::from(text)
    })?;
    let member = EtcdMember { name: "skiff".to_owned(), client_urls: vec![format!("http://{place}")] };
    let server = EtcdServer::bind(store.clone(), vec![listen], member, shutdown.child_token()).await?;
    let stop = shutdown.clone();
    let signal = tokio::spawn(async move {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let heard = tokio::select! {
            heard = tokio::signal::ctrl_c() => heard,
            _ = terminate.recv() => Ok(()),
        };
        stop.cancel();
        heard
    });
    server.run().await;
    store.closed().await;
    signal.await??;
    Ok(())
}
