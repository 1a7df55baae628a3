//! Encryption at rest over the SQLite engine: what lies in the store behind, what readers and watchers get, and keys
//! that change while it runs.

use std::sync::Arc;

use base::Shutdown;
use bytes::Bytes;
use storage::encryption::{Census, Cipher, EncryptedStore, ProviderSpec, Rules};
use storage::{
    KeyRange, Op, Put, RangeOptions, Revision, SqliteOptions, SqliteStore, Store, Txn, WatchMessage, WatchOptions,
};

fn keys(names: &[&str]) -> ProviderSpec {
    let keys = names.iter().map(|name| ((*name).to_owned(), vec![name.len() as u8; 32])).collect();
    ProviderSpec::Keys(Cipher::Secretbox, keys)
}

fn rules(providers: Vec<ProviderSpec>) -> Rules {
    let mut rules = Rules::default();
    rules.add(vec!["/s/".into()], providers).unwrap();
    rules
}

async fn put(store: &dyn Store, key: &str, value: &str) {
    let put = Put { key: key.to_owned().into(), value: value.to_owned().into(), ..Put::default() };
    store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await.unwrap();
}

async fn get(store: &dyn Store, key: &str) -> Bytes {
    store.range(KeyRange::key(key.to_owned()), RangeOptions::default()).await.unwrap().kvs.remove(0).value
}

#[tokio::test]
async fn chosen_values_are_encrypted_and_keys_rotate() {
    let dir = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    let inner = SqliteStore::open(&dir.path().join("db"), SqliteOptions::default(), shutdown.clone()).await.unwrap();
    let behind: Arc<dyn Store> = inner.clone();
    put(&*behind, "/s/old", "plain").await;
    let store = EncryptedStore::new(behind.clone(), rules(vec![keys(&["a"]), ProviderSpec::Identity]));
    let mut watch =
        store.watch(KeyRange::prefix("/"), WatchOptions { start: Revision(2), prev_kv: true }).await.unwrap();
    put(&*store, "/s/x", "secret").await;
    put(&*store, "/other", "open").await;
    assert!(get(&*behind, "/s/x").await.starts_with(b"k8s:enc:secretbox:v1:a:"));
    assert_eq!(get(&*behind, "/other").await, "open");
    for (key, value) in [("/s/old", "plain"), ("/s/x", "secret"), ("/other", "open")] {
        assert_eq!(get(&*store, key).await, value);
    }
    // History comes in batches.
    let mut seen = Vec::new();
    while seen.len() < 3 {
        match watch.messages.recv().await {
            Some(WatchMessage::Events { events, .. }) => seen.extend(events.iter().map(|event| event.kv.value.clone())),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(seen, ["plain", "secret", "open"]);
    assert_eq!(store.census().await.unwrap(), Census { current: 1, stale: 1, unreadable: 0 });
    assert_eq!(store.rewrite().await.unwrap(), 1);
    assert!(get(&*behind, "/s/old").await.starts_with(b"k8s:enc:secretbox:v1:a:"));

    store.replace(rules(vec![keys(&["bb", "a"])]));
    assert_eq!(get(&*store, "/s/x").await, "secret");
    assert_eq!(store.rewrite().await.unwrap(), 2);
    store.replace(rules(vec![keys(&["bb"])]));
    assert_eq!(store.census().await.unwrap(), Census { current: 2, stale: 0, unreadable: 0 });
    assert_eq!(get(&*store, "/s/old").await, "plain");

    store.replace(rules(vec![keys(&["ccc"])]));
    let error = store.range(KeyRange::prefix("/s/"), RangeOptions::default()).await.unwrap_err();
    let text = base::chain(&error).to_string();
    assert!(text.contains("/s/old") && text.contains("k8s:enc:secretbox:v1:bb"), "{text}");
    assert_eq!(store.census().await.unwrap(), Census { current: 0, stale: 0, unreadable: 2 });
    shutdown.cancel();
    inner.closed().await;
}

#[tokio::test]
async fn values_beside_an_unreadable_one_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let shutdown = Shutdown::new();
    let inner = SqliteStore::open(&dir.path().join("db"), SqliteOptions::default(), shutdown.clone()).await.unwrap();
    let store = EncryptedStore::new(inner.clone(), rules(vec![keys(&["a"])]));
    put(&*store, "/s/1", "first").await;
    store.replace(rules(vec![keys(&["bb"])]));
    put(&*store, "/s/2", "second").await;
    let all = || store.range_readable(KeyRange::prefix("/s/"), RangeOptions::default());
    assert!(store.range(KeyRange::prefix("/s/"), RangeOptions::default()).await.is_err());
    let (found, unreadable) = all().await.unwrap();
    assert_eq!((found.kvs.len(), &found.kvs[1].value[..]), (2, &b"second"[..]));
    assert_eq!(unreadable.len(), 1);
    assert_eq!((&unreadable[0].key[..], &unreadable[0].why[..]), (&b"/s/1"[..], "no matching prefix found"));
    store.replace(rules(vec![keys(&["bb", "a"])]));
    assert!(all().await.unwrap().1.is_empty());
    shutdown.cancel();
    inner.closed().await;
}
