//! The sockets that etcd's interface is served on.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{fmt, io};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use base::Shutdown;

/// TLS handshakes at a time.
const HANDSHAKES: usize = 64;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to wait before accepting again after the system refused a connection (too many open files, say).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where to serve.
#[derive(Clone)]
pub enum EtcdListen {
    /// A Unix socket that only the owner may use.
    Unix(PathBuf),
    /// A TCP address; with `tls`, which also says whether clients need a certificate. ALPN must offer `h2`.
    Tcp { address: SocketAddr, tls: Option<Arc<rustls::ServerConfig>> },
}

impl fmt::Debug for EtcdListen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => f.debug_tuple("Unix").field(path).finish(),
            Self::Tcp { address, tls } => {
                f.debug_struct("Tcp").field("address", address).field("tls", &tls.is_some()).finish()
            }
        }
    }
}

/// Why a socket could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {place:?} for etcd clients")]
pub struct ListenError {
    pub place: EtcdListen,
    #[source]
    pub source: io::Error,
}

pub(super) enum Listener {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener, Option<TlsAcceptor>),
}

impl Listener {
    pub(super) async fn bind(place: EtcdListen) -> Result<Self, ListenError> {
        let bound = match &place {
            EtcdListen::Unix(path) => bind_unix(path).await.map(|listener| Self::Unix(listener, path.clone())),
            EtcdListen::Tcp { address, tls } => {
                TcpListener::bind(address).await.map(|listener| Self::Tcp(listener, tls.clone().map(TlsAcceptor::from)))
            }
        };
        bound.map_err(|source| ListenError { place, source })
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Unix(..) => None,
            Self::Tcp(listener, _) => listener.local_addr().ok(),
        }
    }

    async fn next(&self) -> io::Result<Raw> {
        match self {
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Raw::Ready(Connection::Unix(stream))),
            Self::Tcp(listener, tls) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(match tls {
                    Some(tls) => Raw::Handshake(tls.clone(), stream),
                    None => Raw::Ready(Connection::Tcp(stream)),
                })
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self
            && let Err(error) = std::fs::remove_file(&path)
        {
            tracing::debug!(path = %path.display(), %error, "could not remove a socket");
        }
    }
}

/// Binds, also where a process that has died left its socket.
async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let listener = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match UnixStream::connect(path).await {
                Err(refused) if refused.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path)?,
                _ => return Err(error),
            }
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

enum Raw {
    Ready(Connection),
    Handshake(TlsAcceptor, TcpStream),
}

/// Hands over connections, TLS ones after their handshake, until the shutdown.
pub(super) async fn accept(listener: Listener, connections: mpsc::Sender<io::Result<Connection>>, shutdown: Shutdown) {
    let mut handshakes: JoinSet<Option<Connection>> = JoinSet::new();
    loop {
        let ready = tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            Some(done) = handshakes.join_next(), if !handshakes.is_empty() => match done {
                Ok(Some(connection)) => connection,
                _ => continue,
            },
            raw = listener.next(), if handshakes.len() < HANDSHAKES => match raw {
                Ok(Raw::Ready(connection)) => connection,
                Ok(Raw::Handshake(tls, stream)) => {
                    handshakes.spawn(handshake(tls, stream));
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, "could not accept an etcd client");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        tokio::select! {
            biased;
            () = shutdown.cancelled() => return,
            sent = connections.send(Ok(ready)) => if sent.is_err() { return },
        }
    }
}

async fn handshake(tls: TlsAcceptor, stream: TcpStream) -> Option<Connection> {
    match tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
        Ok(Ok(stream)) => Some(Connection::Tls(Box::new(stream))),
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake of an etcd client failed");
            None
        }
        Err(_) => None,
    }
}

/// A client's connection.
pub(super) enum Connection {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

/// The same call on whichever stream it is.
macro_rules! each {
    ($self:expr, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Connection::Unix($stream) => $call,
            Connection::Tcp($stream) => $call,
            Connection::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
