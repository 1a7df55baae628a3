//! Names of other zones: asked at the nameservers of the node.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use hickory_proto::op::{Message, Query};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};

use crate::cache::Cache;

/// How long one server may take.
const SERVER_TIMEOUT: Duration = Duration::from_secs(2);
/// Servers that are asked; glibc's MAXNS.
const SERVERS_MAX: usize = 3;
/// Datagrams that fill this are asked for again by TCP.
const DATAGRAM_MAX: usize = 4096;
const PORT: u16 = 53;

/// How a query travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

/// The nameservers of a resolv.conf, read again when the file changes.
pub struct Forwarder {
    resolv_conf: PathBuf,
    /// Never asked: this server itself.
    own: Ipv4Addr,
    read: Mutex<(Option<SystemTime>, Arc<[SocketAddr]>)>,
    cache: Cache,
}

impl Forwarder {
    pub fn new(resolv_conf: PathBuf, own: Ipv4Addr) -> Self {
        Self { resolv_conf, own, read: Mutex::new((None, Arc::from([]))), cache: Cache::default() }
    }

    /// The response to a query if it is still known and has at most `limit` bytes.
    pub fn known(&self, query: &[u8], limit: usize) -> Option<Vec<u8>> {
        self.cache.get(query, limit)
    }

    /// Sends a query to one server after the other and returns the first good response, with the query's id. A server's
    /// own failure counts only if no other server does better; `None` if none answers.
    pub async fn exchange(&self, query: &[u8], transport: Transport) -> Option<Vec<u8>> {
        let mut failed = None;
        for server in self.servers().await.iter() {
            match tokio::time::timeout(SERVER_TIMEOUT, ask(*server, query, transport)).await {
                Ok(Ok(response)) if matches!(response.get(3).map(|b| b & 0xf), Some(0 | 3)) => {
                    self.cache.put(query, &response);
                    return Some(response);
                }
                Ok(Ok(response)) => failed = Some(response),
                Ok(Err(error)) => tracing::debug!(%server, %error, "a nameserver cannot be asked"),
                Err(_) => tracing::debug!(%server, "a nameserver does not answer in time"),
            }
        }
        failed
    }

    /// Asks a question of our own, by TCP if a datagram is too small for the answer.
    pub async fn resolve(&self, question: Query) -> Option<Message> {
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(question);
        let query = query.to_vec().ok()?;
        if let Some(known) = self.known(&query, usize::MAX) {
            return Message::from_vec(&known).ok();
        }
        let response = Message::from_vec(&self.exchange(&query, Transport::Udp).await?).ok()?;
        if !response.metadata.truncation {
            return Some(response);
        }
        match self.exchange(&query, Transport::Tcp).await.and_then(|bytes| Message::from_vec(&bytes).ok()) {
            Some(whole) => Some(whole),
            None => Some(response),
        }
    }

    async fn servers(&self) -> Arc<[SocketAddr]> {
        let changed = tokio::fs::metadata(&self.resolv_conf).await.and_then(|m| m.modified()).ok();
        {
            let read = self.read.lock();
            if changed.is_some() && read.0 == changed {
                return Arc::clone(&read.1);
            }
        }
        let text = match tokio::fs::read_to_string(&self.resolv_conf).await {
            Ok(text) => text,
            Err(error) => {
                // Without the file there are no servers, as for glibc; whoever asked gets SERVFAIL.
                tracing::debug!(path = %self.resolv_conf.display(), %error, "cannot read the list of nameservers");
                String::new()
            }
        };
        let servers: Arc<[SocketAddr]> = nameservers(&text, self.own).into();
        *self.read.lock() = (changed, Arc::clone(&servers));
        servers
    }
}

/// The `nameserver` lines of a resolv.conf, without `own`.
fn nameservers(text: &str, own: Ipv4Addr) -> Vec<SocketAddr> {
    let addresses = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then_some(())?;
        words.next()?.parse::<IpAddr>().ok()
    });
    addresses
        .filter(|address| *address != IpAddr::V4(own) && !address.is_unspecified())
        .take(SERVERS_MAX)
        .map(|address| SocketAddr::new(address, PORT))
        .collect()
}

async fn ask(server: SocketAddr, query: &[u8], transport: Transport) -> io::Result<Vec<u8>> {
    // An id of our own: the client's may be known to whoever would forge the response.
    let id = Message::query().metadata.id.to_be_bytes();
    let (Some(own), Some(question)) = (query.get(..2), question(query)) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a query"));
    };
    let mut sent = query.to_vec();
    sent[..2].copy_from_slice(&id);
    let accept = |response: &[u8]| {
        response.get(..2) == Some(id.as_slice())
            && response.get(2).is_some_and(|flags| flags & 0x80 != 0)
            && self::question(response).is_none_or(|theirs| theirs.eq_ignore_ascii_case(question))
    };
    let mut response = match transport {
        Transport::Udp => match ask_by_udp(server, &sent, accept).await? {
            Some(response) => response,
            None => ask_by_tcp(server, &sent).await?,
        },
        Transport::Tcp => ask_by_tcp(server, &sent).await?,
    };
    if !accept(&response) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the response is to another query"));
    }
    response[..2].copy_from_slice(own);
    Ok(response)
}

/// `None` if the response is too large.
async fn ask_by_udp(server: SocketAddr, query: &[u8], accept: impl Fn(&[u8]) -> bool) -> io::Result<Option<Vec<u8>>> {
    let any = if server.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; DATAGRAM_MAX];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if accept(&buffer[..length]) {
            buffer.truncate(length);
            return Ok((length < DATAGRAM_MAX).then_some(buffer));
        }
    }
}

async fn ask_by_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_framed(&mut stream, query).await?;
    read_framed(&mut stream).await
}

/// Reads one message with its length before it (RFC 1035, 4.2.2).
pub async fn read_framed(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

/// Writes one message with its length before it.
pub async fn write_framed(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::other("a message of more than 64 KiB"))?;
    let mut framed = Vec::with_capacity(message.len() + 2);
    framed.extend_from_slice(&length.to_be_bytes());
    framed.extend_from_slice(message);
    stream.write_all(&framed).await
}

/// The bytes of a message's only question; `None` if it has another number of them or is cut off.
fn question(message: &[u8]) -> Option<&[u8]> {
    if message.get(4..6)? != [0, 1] {
        return None;
    }
    let rest = message.get(12..)?;
    let mut at = 0;
    loop {
        match *rest.get(at)? {
            0 => return rest.get(..at + 5),
            length if length < 64 => at += usize::from(length) + 1,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nameservers_are_read_and_never_ourselves() {
        let own = Ipv4Addr::new(10, 43, 0, 10);
        let text = "# nameserver 9.9.9.9\nsearch example.org\nnameserver 10.43.0.10\n nameserver\t1.1.1.1\n\
                    nameserver fd00::1\nnameserver 0.0.0.0\nnameserver x\nnameserver 8.8.8.8 # two\nnameserver 8.8.4.4\n";
        let found: Vec<String> = nameservers(text, own).iter().map(ToString::to_string).collect();
        assert_eq!(found, ["1.1.1.1:53", "[fd00::1]:53", "8.8.8.8:53"]);
    }

    #[tokio::test]
    async fn without_nameservers_there_is_no_answer_at_once() {
        let forwarder = Forwarder::new("/nonexistent/resolv.conf".into(), Ipv4Addr::LOCALHOST);
        assert!(forwarder.exchange(&[0; 17], Transport::Udp).await.is_none());
    }

    #[tokio::test]
    async fn a_server_is_asked_with_another_id_and_forged_responses_are_passed_over() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let mut query = vec![7, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
        query.extend_from_slice(b"\x01A\x00\x00\x01\x00\x01");
        let serve = async {
            let mut buffer = [0; 512];
            let (length, client) = server.recv_from(&mut buffer).await.unwrap();
            let mut response = buffer[..length].to_vec();
            response[2] |= 0x80;
            let mut forged = response.clone();
            forged[0] ^= 1;
            server.send_to(&forged, client).await.unwrap();
            let mut other = response.clone();
            other[13] = b'B';
            server.send_to(&other, client).await.unwrap();
            response[13] = b'a';
            server.send_to(&response, client).await.unwrap();
        };
        let (response, ()) = tokio::join!(ask(address, &query, Transport::Udp), serve);
        let response = response.unwrap();
        assert_eq!(response[..2], [7, 7]);
        assert_eq!(response[13], b'a');
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_answer_of_a_nameserver_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200), text in "[a-z0-9.:#\t\n %]{0,200}") {
            let _question = question(&bytes);
            let _servers = nameservers(&text, Ipv4Addr::LOCALHOST);
        }
    }
}
