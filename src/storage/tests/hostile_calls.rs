//! Requests that no client of etcd would send: random bytes, and messages that were whole before a few bytes of them
//! changed, for every method of etcd's interface. Nothing panics, nothing hangs, what cannot be read is told so with
//! gRPC's own code, and afterwards the store works as before. `STORAGE_HOSTILE_CALLS` lengthens the run.

#[path = "hostile_calls/messages.rs"]
mod messages;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base::Shutdown;
use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use messages::{Seed, mutate, random, seeds};
use rand::SeedableRng;
use rand::rngs::StdRng;
use storage::etcd_grpc::{EtcdListen, EtcdMember, EtcdServer};
use storage::{KeyRange, Op, Put, RangeOptions, SqliteOptions, SqliteStore, Store, Txn};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// Messages as they are.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(message);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// What a call may answer; `Internal` is for what cannot be read, as grpc-go says it.
const ANSWERS: [Code; 9] = [
    Code::Ok,
    Code::InvalidArgument,
    Code::OutOfRange,
    Code::NotFound,
    Code::FailedPrecondition,
    Code::ResourceExhausted,
    Code::Unimplemented,
    Code::Unavailable,
    Code::Internal,
];
/// Longer than anything takes that does not wait for another client.
const PATIENCE: Duration = Duration::from_secs(30);
/// For methods that wait for others.
const WAITING: Duration = Duration::from_millis(20);

static PANICS: AtomicUsize = AtomicUsize::new(0);

struct Server {
    store: Arc<SqliteStore>,
    channel: Channel,
    shutdown: Shutdown,
    serving: tokio::task::JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Server {
    async fn new() -> Self {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            earlier(panic);
        }));
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let options = SqliteOptions { history: None, ..SqliteOptions::default() };
        let store = SqliteStore::open(&dir.path().join("db"), options, shutdown.clone()).await.unwrap();
        let listen = vec![EtcdListen::Tcp { address: "127.0.0.1:0".parse().unwrap(), tls: None }];
        let server = EtcdServer::bind(store.clone(), listen, EtcdMember::default(), shutdown.child_token());
        let server = server.await.unwrap();
        let address = server.addresses()[0];
        let serving = tokio::spawn(server.run());
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { store, channel, shutdown, serving, _dir: dir }
    }

    /// The code of the answer, `None` if there was none in time.
    async fn call(&self, seed: &Seed, messages: Vec<Bytes>) -> Option<(Code, String)> {
        let mut grpc = tonic::client::Grpc::new(self.channel.clone());
        grpc.ready().await.unwrap();
        let path = PathAndQuery::from_static(seed.path);
        let limit = if seed.waits { WAITING } else { PATIENCE };
        let call = async {
            if !seed.streams {
                let message = messages.into_iter().next().unwrap_or_default();
                return grpc.unary(Request::new(message), path, Raw).await.map(drop);
            }
            let mut answers = grpc.streaming(Request::new(tokio_stream::iter(messages)), path, Raw).await?.into_inner();
            while answers.message().await?.is_some() {}
            Ok(())
        };
        let result = tokio::time::timeout(limit, call).await.ok()?;
        Some(result.map_or_else(|status| (status.code(), status.message().to_owned()), |()| (Code::Ok, String::new())))
    }

    /// A put is taken and can be read.
    async fn works(&self, round: usize) {
        let key = Bytes::from_static(b"still here");
        let put = Put { key: key.clone(), value: round.to_string().into(), ..Put::default() };
        self.store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap();
        let found = self.store.range(KeyRange::key(key), RangeOptions::default()).await.unwrap();
        assert_eq!(found.kvs[0].value, round.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_request_does_harm() {
    let rounds: usize = std::env::var("STORAGE_HOSTILE_CALLS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let server = Server::new().await;
    let seeds = seeds();
    let (mut calls, mut answered) = (0, std::collections::BTreeMap::<String, usize>::new());
    for round in 0..rounds {
        let mut rng = StdRng::seed_from_u64(round as u64);
        for seed in &seeds {
            let mut messages = vec![random(&mut rng)];
            for message in &seed.messages {
                messages.push(message.clone());
                messages.push(mutate(message, &mut rng));
                messages.push(mutate(message, &mut rng));
            }
            let batches = if seed.streams {
                let whole = messages.iter().skip(1).cloned().collect();
                vec![whole, messages]
            } else {
                messages.into_iter().map(|message| vec![message]).collect()
            };
            for batch in batches {
                calls += 1;
                let shown = format!("{} {batch:02x?}", seed.path);
                match server.call(seed, batch).await {
                    None => assert!(seed.waits, "no answer in time: {shown}"),
                    Some((code, text)) => {
                        // What etcd returns as an error of Go's has no code of its own.
                        let plain = seed.path.starts_with("/v3") || text == "etcdserver: unknown method";
                        let plain = plain && code == Code::Unknown;
                        assert!(plain || ANSWERS.contains(&code), "{code:?} {text}: {shown}");
                        *answered.entry(format!("{code:?}")).or_default() += 1;
                        let unread = text.contains("decode");
                        assert!(code != Code::Internal || unread, "{text}: {shown}");
                    }
                }
                assert_eq!(PANICS.load(Ordering::SeqCst), 0, "a panic: {shown}");
            }
        }
        server.works(round).await;
    }
    println!("{calls} calls of {} methods: {answered:?}", seeds.len());
    server.shutdown.cancel();
    server.serving.await.unwrap();
    server.store.closed().await;
}
