//! The etcd interface through etcd's Rust client.

use std::sync::Arc;

use base::Shutdown;
use etcd_client::{
    AlarmAction, AlarmType, Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, LockOptions,
    ProclaimOptions, PutOptions, ResignOptions, SortOrder, SortTarget, Txn, TxnOp, TxnOpResponse, WatchFilterType,
    WatchOptions,
};
use storage::etcd_grpc::{EtcdListen, EtcdMember, EtcdServer};
use storage::{SqliteOptions, SqliteStore};

struct Bench {
    _dir: tempfile::TempDir,
    store: Arc<SqliteStore>,
    address: std::net::SocketAddr,
    client: Client,
    shutdown: Shutdown,
    serving: tokio::task::JoinHandle<()>,
}

impl Bench {
    async fn new(options: SqliteOptions) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let options = SqliteOptions { history: None, ..options };
        let store = SqliteStore::open(&dir.path().join("db"), options, shutdown.clone()).await.unwrap();
        let listen = vec![
            EtcdListen::Tcp { address: "127.0.0.1:0".parse().unwrap(), tls: None },
            EtcdListen::Unix(dir.path().join("socket")),
        ];
        let server =
            EtcdServer::bind(store.clone(), listen, EtcdMember::default(), shutdown.child_token()).await.unwrap();
        let address = server.addresses()[0];
        let serving = tokio::spawn(server.run());
        let client = Client::connect([format!("http://{address}")], None).await.unwrap();
        Self { _dir: dir, store, address, client, shutdown, serving }
    }

    async fn put(&mut self, key: &str, value: &str) {
        self.client.put(key, value, None).await.unwrap();
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.serving.await.unwrap();
        self.store.closed().await;
    }
}

fn message(error: etcd_client::Error) -> String {
    match error {
        etcd_client::Error::GRpcStatus(status) => format!("{:?} {}", status.code(), status.message()),
        other => other.to_string(),
    }
}

#[tokio::test]
async fn keys_are_put_read_and_deleted() {
    let mut bench = Bench::new(SqliteOptions::default()).await;
    for (key, value) in [("a", "3"), ("b", "2"), ("c", "1")] {
        bench.put(key, value).await;
    }
    let sorted = GetOptions::new().with_all_keys().with_sort(SortTarget::Value, SortOrder::Ascend).with_limit(2);
    let got = bench.client.get("", Some(sorted.with_keys_only())).await.unwrap();
    let keys: Vec<_> = got.kvs().iter().map(|kv| (kv.key_str().unwrap(), kv.value().len())).collect();
    assert_eq!((keys, got.count(), got.more()), (vec![("c", 0), ("b", 0)], 3, true));
    let newer = GetOptions::new().with_prefix().with_min_mod_revision(3).with_max_mod_revision(3);
    let got = bench.client.get("", Some(newer.with_all_keys())).await.unwrap();
    assert_eq!((got.kvs().len(), got.kvs()[0].key_str().unwrap()), (1, "b"));
    let put = bench.client.put("a", "4", Some(PutOptions::new().with_prev_key())).await.unwrap();
    assert_eq!(put.prev_key().unwrap().value(), b"3");
    let gone = DeleteOptions::new().with_range("c").with_prev_key();
    let gone = bench.client.delete("a", Some(gone)).await.unwrap();
    assert_eq!((gone.deleted(), gone.prev_kvs().len()), (2, 2));

    let error = bench.client.put("", "x", None).await.unwrap_err();
    assert_eq!(message(error), "InvalidArgument etcdserver: key is not provided");
    let error = bench.client.put("k", vec![0; 1_600_000], None).await.unwrap_err();
    assert_eq!(message(error), "InvalidArgument etcdserver: request is too large");
    let error = bench.client.get("k", Some(GetOptions::new().with_revision(99))).await.unwrap_err();
    assert_eq!(message(error), "OutOfRange etcdserver: mvcc: required revision is a future revision");
    let error = bench.client.put("k", "v", Some(PutOptions::new().with_lease(5))).await.unwrap_err();
    assert_eq!(message(error), "NotFound etcdserver: requested lease not found");
    bench.end().await;
}

#[tokio::test]
async fn transactions_nest() {
    let mut bench = Bench::new(SqliteOptions::default()).await;
    bench.put("a", "1").await;
    // Its condition is about the state before the transaction, as etcd's is.
    let inner = Txn::new().when([Compare::value("a", CompareOp::Equal, "1")]).and_then([TxnOp::put("b", "yes", None)]);
    let txn = Txn::new()
        .when([Compare::mod_revision("a", CompareOp::Equal, 2), Compare::version("none", CompareOp::Equal, 0)])
        .and_then([TxnOp::put("a", "2", None), TxnOp::txn(inner), TxnOp::get("b", None)])
        .or_else([TxnOp::get("a", None)]);
    let done = bench.client.txn(txn.clone()).await.unwrap();
    assert!(done.succeeded());
    match &done.op_responses()[2] {
        TxnOpResponse::Get(got) => assert_eq!(got.kvs()[0].value(), b"yes"),
        other => panic!("{other:?}"),
    }
    let done = bench.client.txn(txn).await.unwrap();
    assert!(!done.succeeded() && matches!(&done.op_responses()[0], TxnOpResponse::Get(got) if got.count() == 1));
    let twice = Txn::new().and_then([TxnOp::put("a", "1", None), TxnOp::put("a", "2", None)]);
    let error = bench.client.txn(twice).await.unwrap_err();
    assert_eq!(message(error), "InvalidArgument etcdserver: duplicate key given in txn request");
    bench.end().await;
}

#[tokio::test]
async fn one_stream_carries_many_watches() {
    let mut bench = Bench::new(SqliteOptions { watch_queue_len: 2, ..SqliteOptions::default() }).await;
    bench.put("a", "1").await; // 2
    bench.put("a", "2").await; // 3
    let options = WatchOptions::new().with_start_revision(2).with_prev_key().with_watch_id(7);
    let mut stream = bench.client.watch("a", Some(options)).await.unwrap();
    let created = stream.message().await.unwrap().unwrap();
    assert_eq!((created.created(), created.watch_id()), (true, 7));
    // History comes in batches.
    let history = stream.message().await.unwrap().unwrap();
    assert_eq!(history.events()[0].kv().unwrap().value(), b"1");
    assert_eq!(history.events()[1].prev_kv().unwrap().value(), b"1");

    let filtered = WatchOptions::new().with_prefix().with_filters([WatchFilterType::NoPut]);
    stream.watch("b", Some(filtered)).await.unwrap();
    let created = stream.message().await.unwrap().unwrap();
    assert_eq!((created.created(), created.watch_id()), (true, 0));
    bench.put("b1", "x").await; // 4
    bench.client.delete("b1", None).await.unwrap(); // 5
    let gone = stream.message().await.unwrap().unwrap();
    assert_eq!((gone.watch_id(), gone.events()[0].event_type()), (0, EventType::Delete));

    stream.request_progress().await.unwrap();
    let progress = stream.message().await.unwrap().unwrap();
    assert_eq!((progress.watch_id(), progress.header().unwrap().revision()), (-1, 5));

    // A client that does not read for a while misses nothing, however short the queue.
    for n in 0..200 {
        bench.put("a", &n.to_string()).await;
    }
    let mut values = Vec::new();
    while values.len() < 200 {
        let message = stream.message().await.unwrap().unwrap();
        values.extend(message.events().iter().map(|event| event.kv().unwrap().value_str().unwrap().to_owned()));
    }
    assert_eq!(values, (0..200).map(|n| n.to_string()).collect::<Vec<_>>());

    stream.cancel(7).await.unwrap();
    let canceled = stream.message().await.unwrap().unwrap();
    assert_eq!((canceled.canceled(), canceled.watch_id()), (true, 7));

    bench.client.compact(100, None).await.unwrap();
    stream.watch("a", Some(WatchOptions::new().with_start_revision(50))).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    let cut = stream.message().await.unwrap().unwrap();
    assert_eq!((cut.canceled(), cut.compact_revision()), (true, 100));
    bench.end().await;
}

#[tokio::test]
async fn large_revisions_come_in_fragments() {
    let options = SqliteOptions { request_bytes_max: 4 * 1024 * 1024, ..SqliteOptions::default() };
    let mut bench = Bench::new(options).await;
    let fragments = WatchOptions::new().with_prefix().with_fragment();
    let mut stream = bench.client.watch("k", Some(fragments)).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    let puts: Vec<_> = (0..10).map(|n| TxnOp::put(format!("k{n}"), vec![b'x'; 400_000], None)).collect();
    bench.client.txn(Txn::new().and_then(puts.clone())).await.unwrap();
    // The deletion's events carry no values: one message.
    bench.client.delete("k", Some(DeleteOptions::new().with_prefix())).await.unwrap();
    let mut events = 0;
    while events < 10 {
        let part = stream.message().await.unwrap().unwrap();
        events += part.events().len();
        assert_eq!(part.header().unwrap().revision(), 2);
    }
    assert_eq!(stream.message().await.unwrap().unwrap().events().len(), 10);
    bench.end().await;
}

#[tokio::test]
async fn leases_and_members() {
    let mut bench = Bench::new(SqliteOptions::default()).await;
    let lease = bench.client.lease_grant(60, None).await.unwrap();
    bench.client.put("l", "v", Some(PutOptions::new().with_lease(lease.id()))).await.unwrap();
    let (mut keeper, mut kept) = bench.client.lease_keep_alive(lease.id()).await.unwrap();
    keeper.keep_alive().await.unwrap();
    assert_eq!(kept.message().await.unwrap().unwrap().ttl(), 60);
    assert_eq!(bench.client.leases().await.unwrap().leases()[0].id(), lease.id());
    bench.client.lease_revoke(lease.id()).await.unwrap();
    assert_eq!(bench.client.get("l", None).await.unwrap().count(), 0);
    let error = bench.client.lease_grant(9_000_000_001, None).await.unwrap_err();
    assert_eq!(message(error), "OutOfRange etcdserver: too large lease TTL");
    assert_eq!(bench.client.member_list().await.unwrap().members().len(), 1);
    let status = bench.client.status().await.unwrap();
    assert!(status.version().starts_with("3.6.") && status.db_size() > 0 && status.leader() != 0);
    let error = bench.client.user_list().await.unwrap_err();
    assert_eq!(message(error), "FailedPrecondition etcdserver: authentication is not enabled");
    bench.end().await;
}

#[tokio::test]
async fn a_snapshot_is_one_of_etcds() {
    let mut bench = Bench::new(SqliteOptions::default()).await;
    bench.put("a", "1").await;
    bench.put("a", "2").await;
    let mut stream = bench.client.snapshot().await.unwrap();
    let mut bytes = Vec::new();
    while let Some(part) = stream.message().await.unwrap() {
        bytes.extend_from_slice(part.blob());
    }
    assert_eq!(bytes.len() % 512, 32);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot");
    std::fs::write(&path, bytes).unwrap();
    let mut snapshot = storage::snapshot::SnapshotReader::open_checked(&path).unwrap();
    assert_eq!((snapshot.header().revision, &snapshot.header().engine[..]), (3, "etcd"));
    let storage::snapshot::Record::Key(kv) = snapshot.next_record().unwrap().unwrap() else { panic!("no key") };
    assert_eq!((&kv.key[..], &kv.value[..], kv.mod_revision.0, kv.version), (&b"a"[..], &b"2"[..], 3, 2));
    assert_eq!(snapshot.next_record().unwrap(), None);
    bench.end().await;
}

/// A TLS server configuration that wants client certificates of its own authority, and a client's with and without.
fn tls() -> (rustls::ServerConfig, rustls::ClientConfig, rustls::ClientConfig) {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let ca_key = KeyPair::generate().unwrap();
    let mut ca = CertificateParams::new(Vec::new()).unwrap();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_cert = ca.self_signed(&ca_key).unwrap();
    let issuer = Issuer::new(ca, ca_key);
    let leaf = || {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let cert = params.signed_by(&key, &issuer).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        (vec![cert.der().clone()], key)
    };
    let mut roots = rustls::RootCertStore::empty();
    roots.add(ca_cert.der().clone()).unwrap();
    let roots = Arc::new(roots);
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
    let (chain, key) = leaf();
    let mut server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_client_cert_verifier(verifier.build().unwrap())
        .with_single_cert(chain, key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let client = || {
        rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone())
    };
    let (chain, key) = leaf();
    let mut known = client().with_client_auth_cert(chain, key).unwrap();
    let mut unknown = client().with_no_client_auth();
    known.alpn_protocols = vec![b"h2".to_vec()];
    unknown.alpn_protocols = vec![b"h2".to_vec()];
    (server, known, unknown)
}

/// The server's first HTTP/2 frame, if it lets the client in.
async fn first_frame(address: std::net::SocketAddr, config: rustls::ClientConfig) -> std::io::Result<[u8; 9]> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let stream = tokio::net::TcpStream::connect(address).await?;
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await?;
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await?;
    Ok(frame)
}

#[tokio::test]
async fn tls_lets_in_those_with_a_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    let store = SqliteStore::open(&dir.path().join("db"), SqliteOptions::default(), shutdown.clone()).await.unwrap();
    let (server, known, unknown) = tls();
    let listen = EtcdListen::Tcp { address: "127.0.0.1:0".parse().unwrap(), tls: Some(Arc::new(server)) };
    let server =
        EtcdServer::bind(store.clone(), vec![listen], EtcdMember::default(), shutdown.child_token()).await.unwrap();
    let address = server.addresses()[0];
    let serving = tokio::spawn(server.run());
    const SETTINGS: u8 = 4;
    assert_eq!(first_frame(address, known).await.unwrap()[3], SETTINGS);
    assert!(first_frame(address, unknown).await.is_err());
    shutdown.cancel();
    serving.await.unwrap();
    store.closed().await;
}

#[tokio::test]
async fn a_lock_goes_to_the_next_when_it_is_given_back_or_its_lease_ends() {
    let mut bench = Bench::new(SqliteOptions::default()).await;
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(bench.client.lease_grant(100, None).await.unwrap().id());
    }
    let first = bench.client.lock("l", Some(LockOptions::new().with_lease(leases[0]))).await.unwrap();
    assert_eq!(first.key(), format!("l/{:x}", leases[0]).as_bytes());
    let waiting: Vec<_> = leases[1..]
        .iter()
        .map(|lease| {
            let (mut client, lease) = (bench.client.clone(), *lease);
            tokio::spawn(async move { client.lock("l", Some(LockOptions::new().with_lease(lease))).await })
        })
        .collect();
    let reader = bench.client.clone();
    let claims = |count: i64| {
        let mut client = reader.clone();
        async move {
            loop {
                let found = client.get("l/", Some(GetOptions::new().with_prefix())).await.unwrap();
                if found.count() == count {
                    return;
                }
                tokio::task::yield_now().await;
            }
        }
    };
    claims(3).await;
    assert!(waiting.iter().all(|task| !task.is_finished()));
    bench.client.unlock(first.key()).await.unwrap();
    let mut held = Vec::new();
    for task in waiting {
        let key = task.await.unwrap().unwrap().key().to_vec();
        // Gives the lock to the one that waits still.
        let lease = leases.iter().find(|lease| key == format!("l/{lease:x}").as_bytes()).unwrap();
        bench.client.lease_revoke(*lease).await.unwrap();
        held.push(key);
    }
    assert_ne!(held[0], held[1]);
    claims(0).await;
    let error = bench.client.lock("l", Some(LockOptions::new().with_lease(77))).await.unwrap_err();
    assert_eq!(message(error), "Unknown etcdserver: requested lease not found");

    // Who goes while waiting leaves nothing behind.
    let lease = bench.client.lease_grant(100, None).await.unwrap().id();
    bench.client.lock("l", Some(LockOptions::new().with_lease(lease))).await.unwrap();
    let (mut client, other) = (bench.client.clone(), bench.client.lease_grant(100, None).await.unwrap().id());
    let gone = tokio::spawn(async move { client.lock("l", Some(LockOptions::new().with_lease(other))).await.is_ok() });
    claims(2).await;
    gone.abort();
    claims(1).await;
    bench.end().await;
}

#[tokio::test]
async fn one_leads_and_the_others_are_told() {
    let mut bench = Bench::new(SqliteOptions::default()).await;
    let error = bench.client.leader("e").await.unwrap_err();
    assert_eq!(message(error), "Unknown election: no leader");
    let mut leaders = bench.client.observe("e").await.unwrap();
    let mut told = async || leaders.message().await.unwrap().unwrap().kv().unwrap().value_str().unwrap().to_owned();
    let lease = bench.client.lease_grant(100, None).await.unwrap().id();
    let campaign = bench.client.campaign("e", "first", lease).await.unwrap();
    let leader = campaign.leader().unwrap().clone();
    assert_eq!(told().await, "first");
    assert_eq!(bench.client.leader("e").await.unwrap().kv().unwrap().value(), b"first");
    let options = || ProclaimOptions::new().with_leader(leader.clone());
    bench.client.proclaim("changed", Some(options())).await.unwrap();
    assert_eq!(told().await, "changed");

    let (mut client, other) = (bench.client.clone(), bench.client.lease_grant(100, None).await.unwrap().id());
    let waiting = tokio::spawn(async move { client.campaign("e", "second", other).await });
    bench.client.resign(Some(ResignOptions::new().with_leader(leader.clone()))).await.unwrap();
    waiting.await.unwrap().unwrap();
    assert_eq!(told().await, "second");
    let error = bench.client.proclaim("late", Some(options())).await.unwrap_err();
    assert_eq!(message(error), "Unknown election: not leader");
    bench.end().await;
}

#[tokio::test]
async fn alarms_stop_what_etcds_stop() {
    let mut bench = Bench::new(SqliteOptions::default()).await;
    bench.put("a", "1").await;
    bench.client.alarm(AlarmAction::Activate, AlarmType::Nospace, None).await.unwrap();
    let error = bench.client.put("a", "2", None).await.unwrap_err();
    assert_eq!(message(error), "ResourceExhausted etcdserver: mvcc: database space exceeded");
    assert!(page(&bench, "/health").await.ends_with(r#"{"health":"false","reason":"ALARM NOSPACE"}"#));
    assert_eq!(bench.client.get("a", None).await.unwrap().count(), 1);
    bench.client.delete("a", None).await.unwrap();
    bench.client.alarm(AlarmAction::Deactivate, AlarmType::Nospace, None).await.unwrap();
    bench.put("a", "2").await;
    assert!(bench.client.alarm(AlarmAction::Get, AlarmType::None, None).await.unwrap().alarms().is_empty());
    bench.end().await;
}

async fn page(bench: &Bench, path: &str) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(bench.address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn pages_are_served_beside_grpc() {
    let mut bench = Bench::new(SqliteOptions::default()).await;
    bench.put("a", "1").await;
    assert!(page(&bench, "/health").await.ends_with(r#"{"health":"true","reason":""}"#));
    assert!(page(&bench, "/version").await.contains(r#""etcdserver":"3.6."#));
    let metrics = page(&bench, "/metrics").await;
    assert!(metrics.contains("\netcd_debugging_mvcc_current_revision 2\n"), "{metrics}");
    assert!(page(&bench, "/none").await.starts_with("HTTP/1.1 200"), "gRPC's own answer to unknown methods");
    bench.end().await;
}

#[tokio::test]
async fn calls_are_counted_under_etcds_names() {
    let mut bench = Bench::new(SqliteOptions::default()).await;
    bench.put("a", "1").await;
    bench.put("a", "2").await;
    bench.client.lease_revoke(7).await.unwrap_err();
    let mut watch = bench.client.watch("a", None).await.unwrap();
    bench.put("a", "3").await;
    while watch.message().await.unwrap().unwrap().events().is_empty() {}
    let metrics = page(&bench, "/metrics").await;
    let labels = |service: &str, method: &str, kind: &str| {
        format!("grpc_method=\"{method}\",grpc_service=\"etcdserverpb.{service}\",grpc_type=\"{kind}\"}}")
    };
    let put = labels("KV", "Put", "unary");
    let revoke = labels("Lease", "LeaseRevoke", "unary");
    let watches = labels("Watch", "Watch", "bidi_stream");
    for line in [
        format!("grpc_server_started_total{{{put} 3"),
        format!("grpc_server_handled_total{{grpc_code=\"OK\",{put} 3"),
        format!("grpc_server_msg_received_total{{{put} 3"),
        format!("grpc_server_msg_sent_total{{{put} 3"),
        format!("grpc_server_handled_total{{grpc_code=\"NotFound\",{revoke} 1"),
        format!("grpc_server_started_total{{{watches} 1"),
        "etcd_debugging_mvcc_watch_stream_total 1".to_owned(),
        "etcd_server_is_learner 0".to_owned(),
        "etcd_server_proposals_applied_total 4".to_owned(),
        "etcd_cluster_version{cluster_version=\"3.6\"} 1".to_owned(),
    ] {
        assert!(metrics.contains(&format!("\n{line}\n")), "{line} is not in\n{metrics}");
    }
    assert!(
        metrics.contains("\nprocess_resident_memory_bytes ")
            && metrics.contains("\netcd_disk_wal_fsync_duration_seconds_count ")
    );
    bench.end().await;
}
