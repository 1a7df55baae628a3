//! The sockets: answers of the index at once, everything else in a bounded number of tasks.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base::{Backoff, Shutdown};
use client::Informers;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RecordType};
use parking_lot::RwLock;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::DnsConfig;
use crate::follow::Source;
use crate::forward::{Forwarder, Transport, read_framed, write_framed};
use crate::index::{Index, Zone};
use crate::lookup::{Answer, records};
use crate::message::{self, Request};

const PORT: u16 = 53;
/// Queries that wait for other servers.
const FORWARDS_MAX: usize = 512;
const CONNECTIONS_MAX: usize = 128;
/// How long a TCP client may be silent.
const IDLE: Duration = Duration::from_secs(10);
/// Aliases of aliases.
const CHAIN_MAX: usize = 8;
const MESSAGE_MAX: usize = 65_535;

/// Fills the index, listens and answers; ends only by being dropped or at the informers' end.
pub async fn serve(config: DnsConfig, informers: &Informers, shutdown: &Shutdown) {
    let source = Source::new(informers);
    source.synced().await;
    let zone = Zone::new(&config.cluster_domain, vec![config.cluster_cidr, config.service_cidr], config.address);
    let server = Arc::new(Server {
        index: RwLock::new(Index::new(zone)),
        forwarder: Forwarder::new(config.resolv_conf, config.address),
        forwards: Arc::new(Semaphore::new(FORWARDS_MAX)),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
        tasks: TaskTracker::new(),
        shutdown: shutdown.clone(),
    });
    source.fill(&server.index);
    let listen = async {
        let (socket, listener) = bind(config.address).await;
        tracing::info!(address = %config.address, domain = config.cluster_domain, "answering DNS");
        tokio::join!(server.serve_udp(Arc::new(socket)), server.serve_tcp(listener));
    };
    tokio::join!(source.follow(&server.index), listen);
}

/// Binds as soon as the address is there and free.
async fn bind(address: Ipv4Addr) -> (UdpSocket, TcpListener) {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
    loop {
        let both = async {
            io::Result::Ok((UdpSocket::bind((address, PORT)).await?, TcpListener::bind((address, PORT)).await?))
        };
        match both.await {
            Ok(sockets) => return sockets,
            Err(error) => {
                tracing::warn!(%address, %error, "cannot listen for DNS; trying again");
                tokio::time::sleep(backoff.step()).await;
            }
        }
    }
}

struct Server {
    index: RwLock<Index>,
    forwarder: Forwarder,
    forwards: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    tasks: TaskTracker,
    shutdown: Shutdown,
}

/// What the index makes of a request.
enum Step {
    Ignore,
    Reply(Vec<u8>),
    /// To be sent to a nameserver as it came.
    Forward(Message),
    /// The response lacks what an outside name stands for; the size is what fits.
    Resolve(Message, Query, usize),
}

impl Server {
    async fn serve_udp(self: &Arc<Self>, socket: Arc<UdpSocket>) {
        let mut buffer = vec![0; usize::from(message::DATAGRAM_MAX)];
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_secs(1));
        loop {
            let (length, client) = match socket.recv_from(&mut buffer).await {
                Ok(received) => received,
                Err(error) => {
                    tracing::warn!(%error, "cannot receive DNS queries");
                    tokio::time::sleep(backoff.step()).await;
                    continue;
                }
            };
            backoff.reset();
            let request = &buffer[..length];
            match self.step(request, Transport::Udp) {
                Step::Ignore => {}
                Step::Reply(response) => send(&socket, &response, client).await,
                step => {
                    // Too many wait already: clients ask again.
                    let Ok(slot) = Arc::clone(&self.forwards).try_acquire_owned() else { continue };
                    let (server, socket, request) = (Arc::clone(self), Arc::clone(&socket), request.to_vec());
                    let shutdown = self.shutdown.clone();
                    self.tasks.spawn(async move {
                        let work = async {
                            if let Some(response) = server.finish(step, &request, Transport::Udp).await {
                                send(&socket, &response, client).await;
                            }
                        };
                        shutdown.run_until_cancelled(work).await;
                        drop(slot);
                    });
                }
            }
        }
    }

    async fn serve_tcp(self: &Arc<Self>, listener: TcpListener) {
        let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_secs(1));
        loop {
            let Ok(slot) = Arc::clone(&self.connections).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept DNS connections");
                    tokio::time::sleep(backoff.step()).await;
                    continue;
                }
            };
            backoff.reset();
            let (server, shutdown) = (Arc::clone(self), self.shutdown.clone());
            self.tasks.spawn(async move {
                let ended = shutdown.run_until_cancelled(server.connection(stream)).await;
                if let Some(Err(error)) = ended {
                    tracing::debug!(%error, "a DNS connection ended early");
                }
                drop(slot);
            });
        }
    }

    /// Answers one query after the other until the client closes or is silent.
    async fn connection(&self, mut stream: TcpStream) -> io::Result<()> {
        loop {
            let request = match tokio::time::timeout(IDLE, read_framed(&mut stream)).await {
                Ok(Ok(request)) => request,
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Err(_) => return Ok(()),
            };
            let response = match self.step(&request, Transport::Tcp) {
                Step::Ignore => return Ok(()),
                Step::Reply(response) => Some(response),
                step => {
                    let Ok(_slot) = self.forwards.acquire().await else { return Ok(()) };
                    self.finish(step, &request, Transport::Tcp).await
                }
            };
            let Some(response) = response else { return Ok(()) };
            match tokio::time::timeout(IDLE, write_framed(&mut stream, &response)).await {
                Ok(written) => written?,
                Err(_) => return Ok(()),
            }
        }
    }

    fn step(&self, bytes: &[u8], transport: Transport) -> Step {
        let (request, query) = match message::read(bytes) {
            Request::Junk => return Step::Ignore,
            Request::Refused(response) => return reply(response, MESSAGE_MAX),
            Request::Question(request, query) => (request, query),
        };
        let limit = match transport {
            Transport::Udp => message::datagram_limit(&request),
            Transport::Tcp => MESSAGE_MAX,
        };
        let mut response = message::response_to(&request);
        response.metadata.authoritative = true;
        let chased = {
            let index = self.index.read();
            chase(&index, &query.name, query.query_type, &mut response)
        };
        match chased {
            Chased::Whole => {
                let turn = usize::from(request.metadata.id);
                share(&mut response, turn);
                reply(response, limit)
            }
            Chased::Outside(_) if response.answers.is_empty() => match self.forwarder.known(bytes, limit) {
                Some(response) => Step::Reply(response),
                None => Step::Forward(request),
            },
            Chased::Outside(target) => Step::Resolve(response, Query::query(target, query.query_type), limit),
        }
    }

    /// Does what needs other servers.
    async fn finish(&self, step: Step, bytes: &[u8], transport: Transport) -> Option<Vec<u8>> {
        match step {
            Step::Ignore => None,
            Step::Reply(response) => Some(response),
            Step::Forward(request) => match self.forwarder.exchange(bytes, transport).await {
                Some(response) => Some(response),
                None => {
                    let mut response = message::response_to(&request);
                    response.metadata.response_code = ResponseCode::ServFail;
                    message::write(response, MESSAGE_MAX).ok()
                }
            },
            Step::Resolve(mut response, query, limit) => {
                // Like CoreDNS: without an answer from there, the alias alone is the answer.
                if let Some(theirs) = self.forwarder.resolve(query).await {
                    if theirs.metadata.response_code == ResponseCode::NXDomain {
                        response.metadata.response_code = ResponseCode::NXDomain;
                    }
                    response.answers.extend(theirs.answers);
                }
                message::write(response, limit).ok()
            }
        }
    }
}

async fn send(socket: &UdpSocket, response: &[u8], client: SocketAddr) {
    if let Err(error) = socket.send_to(response, client).await {
        tracing::debug!(%client, %error, "cannot send a DNS response");
    }
}

fn reply(response: Message, limit: usize) -> Step {
    match message::write(response, limit) {
        Ok(bytes) => Step::Reply(bytes),
        Err(error) => {
            tracing::error!(%error, "cannot write a DNS response");
            Step::Ignore
        }
    }
}

/// How far the index leads.
#[derive(Debug, PartialEq)]
enum Chased {
    Whole,
    /// The rest is what this name stands for.
    Outside(Name),
}

/// Fills the response from the index, following aliases.
fn chase(index: &Index, name: &Name, kind: RecordType, response: &mut Message) -> Chased {
    let mut name = name.clone();
    for _ in 0..CHAIN_MAX {
        match records(index, &name, kind) {
            Ok(Answer::Outside) => return Chased::Outside(name),
            Ok(Answer::Found { answers, additionals }) => {
                response.answers.extend(answers);
                response.additionals.extend(additionals);
                return Chased::Whole;
            }
            Ok(Answer::NoData(soa)) => {
                response.authorities.push(soa);
                return Chased::Whole;
            }
            Ok(Answer::NoName(soa)) => {
                response.authorities.push(soa);
                response.metadata.response_code = ResponseCode::NXDomain;
                return Chased::Whole;
            }
            Ok(Answer::Alias { record, target }) => {
                response.answers.push(record);
                name = target;
            }
            Err(error) => {
                tracing::warn!(%name, %error, "a name in the cluster cannot be told by DNS");
                break;
            }
        }
    }
    // A loop of aliases, or an object that makes no valid record.
    response.answers.clear();
    response.metadata.response_code = ResponseCode::ServFail;
    Chased::Whole
}

/// Starts the addresses at a different one each time, as CoreDNS' `loadbalance` does, since clients take the first.
fn share(response: &mut Message, turn: usize) {
    let addresses =
        |record: &hickory_proto::rr::Record| matches!(record.record_type(), RecordType::A | RecordType::AAAA);
    if let Some(first) = response.answers.iter().position(addresses) {
        let (_, addresses) = response.answers.split_at_mut(first);
        let by = turn % addresses.len().max(1);
        addresses.rotate_left(by);
    }
}
