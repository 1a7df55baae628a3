//! The power goes in the middle of writing: what was written since the last sync of each file is lost, kept in part,
//! out of order, or torn within a page. After the next start every acknowledged write is there, whole, and revisions go
//! on above every one that was ever told.
//!
//! SQLite's file layer is wrapped so that it remembers which writes a sync has covered; the cut takes what the disk
//! would have at that moment to a new folder. `STORAGE_POWER_ROUNDS` lengthens the run.

#[path = "durability/load.rs"]
mod load;
#[path = "power_cut/sys.rs"]
mod sys;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use base::Shutdown;
use load::{Told, WRITERS, examine, options, write};
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use storage::SqliteStore;
use tokio::sync::Notify;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_when_the_power_goes() {
    let rounds: usize = std::env::var("STORAGE_POWER_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(12);
    sys::wrap_files();
    let dirs = tempfile::tempdir().unwrap();
    let (mut newest, mut acknowledged, mut lost) = (0, 0, 0);
    for round in 0..rounds {
        let seed = round as u64;
        let mut rng = StdRng::seed_from_u64(seed);
        let (here, next) = (dirs.path().join(round.to_string()), dirs.path().join((round + 1).to_string()));
        let shutdown = Shutdown::new();
        let store = SqliteStore::open(&here.join("db"), options(), shutdown.clone()).await.unwrap();
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let (enough, go_on) = (Arc::new(Notify::new()), Arc::new(AtomicBool::new(true)));
        let count = rng.random_range(20..600);
        let tasks: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let (store, told, enough, go_on) = (store.clone(), told.clone(), enough.clone(), go_on.clone());
                tokio::spawn(async move {
                    let tell = |one: Told| {
                        let mut told = told.lock();
                        told.push(one);
                        if told.len() == count {
                            enough.notify_one();
                        }
                        go_on.load(Ordering::Relaxed)
                    };
                    write(&store, writer, tell).await;
                })
            })
            .collect();
        enough.notified().await;
        // What is acknowledged up to here must be on the disk as it is now.
        let kept = told.lock().clone();
        lost += sys::cut(&here, &next, &mut rng);
        go_on.store(false, Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        shutdown.cancel();
        store.closed().await;
        drop(store);
        std::fs::remove_dir_all(&here).unwrap();
        acknowledged += kept.len();
        println!("round {round}: {} writes acknowledged", kept.len());
        newest = examine(&next.join("db"), &kept, newest).await;
    }
    println!("{rounds} power cuts, {acknowledged} acknowledged writes kept, {lost} unsynced writes dropped or torn");
}
