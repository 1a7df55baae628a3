//! Values encrypted with the help of a KMS v2 plugin that runs in the test: what lies in the store behind, keys that the
//! plugin changes, values of other servers, plugins that fail or are not there, and watches.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base::Shutdown;
use bytes::Bytes;
use parking_lot::Mutex;
use storage::encryption::kms_plugin::key_management_service_server::{
    KeyManagementService, KeyManagementServiceServer,
};
use storage::encryption::kms_plugin::{
    DecryptRequest, DecryptResponse, EncryptRequest, EncryptResponse, StatusRequest, StatusResponse,
};
use storage::encryption::{Census, EncryptedStore, Kms, ProviderSpec, Rules};
use storage::{
    KeyRange, Op, Put, RangeOptions, Revision, SqliteOptions, SqliteStore, Store, Txn, WatchMessage, WatchOptions,
};
use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

const PREFIX: &[u8] = b"k8s:enc:kms:v2:test:";

/// A plugin that "encrypts" by turning bits, under a key that the test names.
#[derive(Clone, Default)]
struct Plugin(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    key_id: String,
    sick: bool,
    encrypted: usize,
    decrypted: usize,
}

fn turned(bytes: &[u8]) -> Bytes {
    bytes.iter().map(|byte| byte ^ 0x5a).collect()
}

#[tonic::async_trait]
impl KeyManagementService for Plugin {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let state = self.0.lock();
        let healthz = if state.sick { "the vault is sealed" } else { "ok" }.to_owned();
        Ok(Response::new(StatusResponse { version: "v2".to_owned(), healthz, key_id: state.key_id.clone() }))
    }

    async fn encrypt(&self, request: Request<EncryptRequest>) -> Result<Response<EncryptResponse>, Status> {
        let mut state = self.0.lock();
        state.encrypted += 1;
        let annotations = [("vault.example.com".to_owned(), Bytes::from_static(b"north"))].into();
        let ciphertext = turned(&request.get_ref().plaintext);
        Ok(Response::new(EncryptResponse { ciphertext, key_id: state.key_id.clone(), annotations }))
    }

    async fn decrypt(&self, request: Request<DecryptRequest>) -> Result<Response<DecryptResponse>, Status> {
        let mut state = self.0.lock();
        if state.sick {
            return Err(Status::failed_precondition("the vault is sealed"));
        }
        state.decrypted += 1;
        let request = request.get_ref();
        assert_eq!(request.annotations["vault.example.com"], "north");
        assert!(!request.key_id.is_empty() && !request.uid.is_empty());
        Ok(Response::new(DecryptResponse { plaintext: turned(&request.ciphertext) }))
    }
}

struct Bench {
    dir: tempfile::TempDir,
    plugin: Plugin,
    behind: Arc<dyn Store>,
    shutdown: Shutdown,
    inner: Arc<SqliteStore>,
}

impl Bench {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let shutdown = Shutdown::new();
        let path = dir.path().join("db");
        let inner = SqliteStore::open(&path, SqliteOptions::default(), shutdown.clone()).await.unwrap();
        let plugin = Plugin::default();
        plugin.0.lock().key_id = "one".to_owned();
        Self { dir, plugin, behind: inner.clone(), shutdown, inner }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("kms.sock")
    }

    fn listen(&self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(KeyManagementServiceServer::new(self.plugin.clone()))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), self.shutdown.clone().cancelled_owned());
        tokio::spawn(server);
    }

    /// A server's view of the store, with a memory of its own.
    async fn server(&self) -> Arc<EncryptedStore> {
        EncryptedStore::new(self.behind.clone(), rules(&self.socket(), &self.shutdown).await)
    }

    async fn end(self) {
        self.shutdown.cancel();
        self.inner.closed().await;
    }
}

async fn rules(socket: &Path, shutdown: &Shutdown) -> Rules {
    let endpoint = format!("unix://{}", socket.display());
    let kms = Kms::start("test", &endpoint, Duration::from_millis(500), shutdown).await.unwrap();
    let mut rules = Rules::default();
    rules.add(vec!["/s/".into()], vec![ProviderSpec::Kms(kms), ProviderSpec::Identity]).unwrap();
    rules
}

async fn put(store: &dyn Store, key: &str, value: &str) -> Result<(), String> {
    let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() };
    let done = store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await;
    done.map(drop).map_err(|error| base::chain(&error).to_string())
}

async fn get(store: &dyn Store, key: &str) -> Result<Bytes, String> {
    let found = store.range(KeyRange::key(key.to_owned()), RangeOptions::default()).await;
    found.map(|mut found| found.kvs.remove(0).value).map_err(|error| base::chain(&error).to_string())
}

/// Lets time pass at once.
async fn pass(time: Duration) {
    tokio::time::pause();
    tokio::time::advance(time).await;
    tokio::time::resume();
}

#[tokio::test]
async fn values_are_encrypted_with_one_seed_and_read_by_every_server() {
    let bench = Bench::new().await;
    bench.listen();
    put(&*bench.behind, "/s/plain", "before").await.unwrap();
    let first = bench.server().await;
    assert_eq!(first.checks(), ["kms-providers"]);
    first.check("kms-providers").await.unwrap();
    for n in 0..20 {
        put(&*first, &format!("/s/{n}"), "secret").await.unwrap();
    }
    let calls = || {
        let state = bench.plugin.0.lock();
        (state.encrypted, state.decrypted)
    };
    assert_eq!(calls(), (1, 0), "calls for each value");
    let (one, two) = (get(&*bench.behind, "/s/1").await.unwrap(), get(&*bench.behind, "/s/2").await.unwrap());
    assert!(one.starts_with(PREFIX) && !one.windows(6).any(|part| part == b"secret"));
    assert_ne!(one, two);
    assert_eq!(get(&*first, "/s/1").await.unwrap(), "secret");
    assert_eq!(get(&*first, "/s/plain").await.unwrap(), "before");

    // Another server asks the plugin once, and so does a watch that finds what it does not know.
    let second = bench.server().await;
    let options = WatchOptions { start: Revision(3), prev_kv: true };
    let mut watch = second.watch(KeyRange::prefix("/s/"), options).await.unwrap();
    let mut told = 0;
    while told < 20 {
        match watch.messages.recv().await {
            Some(WatchMessage::Events { events, .. }) => {
                assert!(events.iter().all(|event| event.kv.value == "secret"), "{events:?}");
                told += events.len();
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(second.range(KeyRange::prefix("/s/"), RangeOptions::default()).await.unwrap().kvs[7].value, "secret");
    assert_eq!(calls().1, 1);

    // A value moved to another key is refused.
    let stolen = Put { key: "/s/stolen".into(), value: one, ..Put::default() };
    bench.behind.txn(Txn { success: vec![Op::Put(stolen)], ..Txn::default() }).await.unwrap();
    assert!(get(&*second, "/s/stolen").await.unwrap_err().contains("/s/stolen"));
    bench.end().await;
}

#[tokio::test]
async fn a_key_that_the_plugin_changes_makes_values_stale() {
    let bench = Bench::new().await;
    bench.listen();
    let store = bench.server().await;
    put(&*store, "/s/a", "1").await.unwrap();
    put(&*bench.behind, "/s/plain", "2").await.unwrap();
    assert_eq!(store.census().await.unwrap(), Census { current: 1, stale: 1, unreadable: 0 });
    assert_eq!(store.rewrite().await.unwrap(), 1);

    bench.plugin.0.lock().key_id = "two".to_owned();
    // The next look at the plugin is due within a minute.
    pass(Duration::from_secs(61)).await;
    store.check("kms-providers").await.unwrap();
    assert_eq!(store.census().await.unwrap(), Census { current: 0, stale: 2, unreadable: 0 });
    assert_eq!(store.rewrite().await.unwrap(), 2);
    assert_eq!(store.census().await.unwrap(), Census { current: 2, stale: 0, unreadable: 0 });
    for (key, value) in [("/s/a", "1"), ("/s/plain", "2")] {
        assert_eq!(get(&*store, key).await.unwrap(), value);
    }
    bench.end().await;
}

#[tokio::test]
async fn a_plugin_that_fails_is_named_and_comes_back() {
    let bench = Bench::new().await;
    // Nobody listens yet: the server starts, and says what is wrong.
    let store = bench.server().await;
    let why = store.check("kms-providers").await.unwrap_err();
    let wanted = "kms-provider-0: failed to perform status section of the healthz check for KMS Provider test, error: rpc error: \
                  code = Unavailable";
    assert!(why.starts_with(wanted), "{why}");
    let refused = put(&*store, "/s/a", "1").await.unwrap_err();
    assert!(refused.contains(r#"the KMS plugin "test" has not answered yet"#), "{refused}");
    put(&*store, "/open/a", "1").await.unwrap();

    bench.listen();
    pass(Duration::from_secs(4)).await;
    store.check("kms-providers").await.unwrap();
    put(&*store, "/s/a", "1").await.unwrap();

    // Sick: what is known is read and written, another server can read nothing.
    bench.plugin.0.lock().sick = true;
    assert_eq!(get(&*store, "/s/a").await.unwrap(), "1");
    put(&*store, "/s/b", "2").await.unwrap();
    let other = bench.server().await;
    let why = other.check("kms-providers").await.unwrap_err();
    assert!(
        why.ends_with("kmsv2 Provider test is not healthy, error: got unexpected healthz status: the vault is sealed"),
        "{why}"
    );
    let why = get(&*other, "/s/a").await.unwrap_err();
    assert!(why.contains("/s/a"), "{why}");
    bench.plugin.0.lock().sick = false;
    assert_eq!(get(&*other, "/s/a").await.unwrap(), "1");
    bench.end().await;
}
