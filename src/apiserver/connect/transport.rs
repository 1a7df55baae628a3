//! Connections to where requests are proxied: plain, to kubelets with our certificate, or TLS without checks.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use api::kind::{ConnectTarget, Tls};
use axum::body::Body;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::server::ApiServer;

const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// How proxied connections are secured.
#[derive(Clone)]
pub struct Kubelets {
    /// Trusts the cluster's authority and shows the API server's kubelet client certificate.
    pub tls: Arc<ClientConfig>,
}

/// Opens a connection and speaks HTTP/1.1 on it. Its task ends when both ends are done, or at shutdown.
pub async fn connect(server: &ApiServer, target: &ConnectTarget) -> io::Result<SendRequest<Body>> {
    let address = (target.host.as_str(), target.port);
    let dial = async {
        let stream = TcpStream::connect(address).await.map_err(|e| {
            io::Error::new(e.kind(), format!("dial tcp {}:{}: connect: {}", target.host, target.port, go_text(&e)))
        })?;
        stream.set_nodelay(true)?;
        match target.tls {
            Tls::Plain => speak(server, stream).await,
            Tls::Kubelet => {
                let kubelets =
                    server.kubelets.as_ref().ok_or_else(|| io::Error::other("no kubelet client certificate"))?;
                secure(server, stream, Arc::clone(&kubelets.tls), target).await
            }
            Tls::Insecure => {
                // Upstream's proxy transport: `InsecureSkipVerify`. What is behind `https:` names has certificates of
                // its own.
                let config = pki::serving::unverified_client_config(None).map_err(io::Error::other)?;
                secure(server, stream, Arc::new(config), target).await
            }
        }
    };
    tokio::time::timeout(DIAL_TIMEOUT, dial).await.unwrap_or_else(|_| {
        Err(io::Error::new(io::ErrorKind::TimedOut, format!("dial tcp {}:{}: i/o timeout", target.host, target.port)))
    })
}

/// The system's word for an error as Go prints it.
pub(crate) fn go_text(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::HostUnreachable => "no route to host".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network is unreachable".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset by peer".to_owned(),
        _ => error.to_string(),
    }
}

async fn secure(
    server: &ApiServer,
    stream: TcpStream,
    config: Arc<ClientConfig>,
    target: &ConnectTarget,
) -> io::Result<SendRequest<Body>> {
    let name = ServerName::try_from(target.host.clone()).map_err(io::Error::other)?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    speak(server, stream).await
}

async fn speak<S>(server: &ApiServer, stream: S) -> io::Result<SendRequest<Body>>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let shutdown = server.shutdown.clone();
    server.tasks.spawn(async move {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => {}
            ended = connection.with_upgrades() => if let Err(error) = ended {
                tracing::debug!(%error, "proxied connection ended with an error");
            }
        }
    });
    Ok(sender)
}
