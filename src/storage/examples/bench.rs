//! Measures puts of 1 KiB: `bench direct DATABASE` in process, `bench grpc ENDPOINT` over etcd's interface.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use storage::{KeyRange, Op, Put, RangeOptions, SqliteOptions, SqliteStore, Store, Txn};

const TIME: Duration = Duration::from_secs(4);
const VALUE_BYTES: usize = 1024;
const KEYS: u64 = 20_000;

enum Target {
    Direct(Arc<SqliteStore>),
    Grpc(Box<etcd_client::Client>),
}

impl Target {
    async fn put(&self, number: u64) -> Result<(), Box<dyn Error + Send + Sync>> {
        let key = format!("/registry/bench/default/object-{:06}", number % KEYS);
        let value = vec![b'x'; VALUE_BYTES];
        match self {
            Self::Direct(store) => {
                let put = Put { key: key.into(), value: value.into(), ..Put::default() };
                store.txn(Txn { success: vec![Op::Put(put)], ..Txn::default() }).await?;
            }
            Self::Grpc(client) => {
                client.kv_client().put(key, value, None).await?;
            }
        }
        Ok(())
    }

    async fn list(&self) -> Result<usize, Box<dyn Error + Send + Sync>> {
        let prefix = "/registry/bench/default/object-000";
        match self {
            Self::Direct(store) => Ok(store.range(KeyRange::prefix(prefix), RangeOptions::default()).await?.kvs.len()),
            Self::Grpc(client) => {
                let options = etcd_client::GetOptions::new().with_prefix();
                Ok(client.kv_client().get(prefix, Some(options)).await?.kvs().len())
            }
        }
    }

    fn share(&self) -> Self {
        match self {
            Self::Direct(store) => Self::Direct(store.clone()),
            Self::Grpc(client) => Self::Grpc(client.clone()),
        }
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(mode), Some(place)) = (arguments.next(), arguments.next()) else {
        return Err("usage: bench direct DATABASE | bench grpc ENDPOINT".into());
    };
    let shutdown = base::Shutdown::new();
    let target = match mode.as_str() {
        "direct" => {
            Target::Direct(SqliteStore::open(Path::new(&place), SqliteOptions::default(), shutdown.clone()).await?)
        }
        _ => Target::Grpc(Box::new(etcd_client::Client::connect([place], None).await?)),
    };
    let next = Arc::new(AtomicU64::new(0));
    for clients in [1, 8, 64] {
        let started = Instant::now();
        let tasks: Vec<_> = (0..clients)
            .map(|_| {
                let (target, next) = (target.share(), next.clone());
                tokio::spawn(async move {
                    let mut times = Vec::new();
                    while started.elapsed() < TIME {
                        let begun = Instant::now();
                        target.put(next.fetch_add(1, Ordering::Relaxed)).await?;
                        times.push(begun.elapsed());
                    }
                    Ok::<_, Box<dyn Error + Send + Sync>>(times)
                })
            })
            .collect();
        let mut times = Vec::new();
        for task in tasks {
            times.extend(task.await??);
        }
        times.sort_unstable();
        let rate = times.len() as f64 / started.elapsed().as_secs_f64();
        let at = |part: usize| times[(times.len() * part / 1000).min(times.len() - 1)];
        let (p50, p99, worst) = (at(500), at(990), at(1000));
        println!("{clients:>3} clients: {rate:>8.0} puts/s, p50 {p50:?}, p99 {p99:?}, worst {worst:?}");
    }
    let begun = Instant::now();
    let rounds = 20;
    let mut rows = 0;
    for _ in 0..rounds {
        rows = target.list().await?;
    }
    println!("list of {rows}: {:?}", begun.elapsed() / rounds);
    shutdown.cancel();
    if let Target::Direct(store) = target {
        store.closed().await;
    }
    Ok(())
}
