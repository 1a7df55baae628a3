//! Watch caches and what is stored (apiserver `storage/cacher/metrics`, `storage/etcd3/metrics`, `endpoints/metrics`).

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use super::head;
use crate::cache::stats::{Lists, Stats};
use crate::cache::{Cache, RING_CHANGES_MAX};
use crate::served::Served;
use crate::server::ApiServer;

/// The caches in use with the labels of the first kind that each serves.
fn caches(server: &ApiServer) -> Vec<(String, String, Arc<Cache>)> {
    let mut seen: BTreeMap<String, (String, String, Arc<Cache>)> = BTreeMap::new();
    for served in &server.table.load().all {
        if let Some(stored) = served.stored.as_ref().filter(|s| s.cache.is_started()) {
            seen.entry(stored.cache.prefix.clone()).or_insert_with(|| {
                let resource = served.resource.to_string();
                let labels = format!("group=\"{}\",resource=\"{}\"", served.def.gvk.group, served.def.resource);
                (resource, labels, Arc::clone(&stored.cache))
            });
        }
    }
    seen.into_values().collect()
}

/// Appends what caches have.
pub(super) fn write(server: &ApiServer, out: &mut String) -> std::fmt::Result {
    let caches = caches(server);
    let name = "apiserver_storage_objects";
    head(out, name, "gauge", "[STABLE] Number of stored objects at the time of last check split by kind.")?;
    for (resource, _, cache) in &caches {
        writeln!(out, "{name}{{resource=\"{resource}\"}} {}", cache.count())?;
    }
    let gauges: [(&str, &str, fn(&Cache) -> i64); 4] = [
        (
            "apiserver_resource_objects",
            "[ALPHA] Number of stored objects at the time of last check split by kind. In case of a fetching error, the value will be -1.",
            |cache| cache.size().0 as i64,
        ),
        (
            "apiserver_resource_size_estimate_bytes",
            "[ALPHA] Estimated size of stored objects in database. Estimate is based on sum of last observed sizes of serialized objects. In case of a fetching error, the value will be -1.",
            |cache| cache.size().1 as i64,
        ),
        (
            "apiserver_watch_cache_resource_version",
            "[ALPHA] Current resource version of watch cache broken by resource type. This is truncated to the 15 least significant digits.",
            |cache| cache.revision() % 1_000_000_000_000_000,
        ),
        ("watch_cache_capacity", "[ALPHA] Total capacity of watch cache broken by resource type.", |_| {
            RING_CHANGES_MAX as i64
        }),
    ];
    for (name, help, value) in gauges {
        head(out, name, "gauge", help)?;
        for (_, labels, cache) in &caches {
            writeln!(out, "{name}{{{labels}}} {}", value(cache))?;
        }
    }
    let counters: [(&str, &str, fn(&Stats) -> u64); 6] = [
        ("apiserver_storage_events_received_total", "[BETA] Number of etcd events received split by kind.", |stats| {
            stats.received.get()
        }),
        (
            "apiserver_watch_cache_events_received_total",
            "[ALPHA] Counter of events received in watch cache broken by resource type.",
            |stats| stats.received.get(),
        ),
        (
            "apiserver_watch_cache_events_dispatched_total",
            "[ALPHA] Counter of events dispatched in watch cache broken by resource type.",
            |stats| stats.dispatched.get(),
        ),
        (
            "apiserver_init_events_total",
            "[ALPHA] Counter of init events processed in watch cache broken by resource type.",
            |stats| stats.initial.get(),
        ),
        (
            "apiserver_terminated_watchers_total",
            "[ALPHA] Counter of watchers closed due to unresponsiveness broken by resource type.",
            |stats| stats.terminated.get(),
        ),
        (
            "apiserver_watch_cache_initializations_total",
            "[ALPHA] Counter of watch cache initializations broken by resource type.",
            |stats| stats.initializations.lock().count,
        ),
    ];
    for (name, help, value) in counters {
        head(out, name, "counter", help)?;
        for (_, labels, cache) in &caches {
            writeln!(out, "{name}{{{labels}}} {}", value(&cache.stats))?;
        }
    }
    let name = "apiserver_watch_cache_initialization_duration_seconds";
    let help = "[ALPHA] Histogram of watch cache initialization duration in seconds, broken by resource type.";
    head(out, name, "histogram", help)?;
    for (_, labels, cache) in &caches {
        cache.stats.initializations.lock().write(out, name, labels)?;
    }
    let name = "apiserver_watch_cache_read_wait_seconds";
    let help = "[ALPHA] Histogram of time spent waiting for a watch cache to become fresh.";
    head(out, name, "histogram", help)?;
    for (_, labels, cache) in caches.iter().filter(|(_, _, cache)| cache.stats.waits.lock().count > 0) {
        cache.stats.waits.lock().write(out, name, labels)?;
    }
    let name = "apiserver_watch_cache_consistent_read_total";
    head(out, name, "counter", "[ALPHA] Counter for consistent reads from cache.")?;
    for (_, labels, cache) in &caches {
        for (success, count) in [(true, &cache.stats.consistent), (false, &cache.stats.consistent_failed)] {
            if count.get() > 0 {
                writeln!(out, "{name}{{fallback=\"false\",{labels},success=\"{success}\"}} {}", count.get())?;
            }
        }
    }
    lists(&caches, out)?;
    watchers(server, out)
}

fn lists(caches: &[(String, String, Arc<Cache>)], out: &mut String) -> std::fmt::Result {
    let counters: [(&str, &str, bool, fn(&Lists) -> u64); 4] = [
        ("apiserver_storage_list_total", "[ALPHA] Number of LIST requests served from storage", true, |lists| {
            lists.total.get()
        }),
        (
            "apiserver_storage_list_fetched_objects_total",
            "[ALPHA] Number of objects read from storage in the course of serving a LIST request",
            true,
            |lists| lists.fetched.get(),
        ),
        (
            "apiserver_storage_list_evaluated_objects_total",
            "[ALPHA] Number of objects tested in the course of serving a LIST request from storage",
            false,
            |lists| lists.evaluated.get(),
        ),
        (
            "apiserver_storage_list_returned_objects_total",
            "[ALPHA] Number of objects returned for a LIST request from storage",
            false,
            |lists| lists.returned.get(),
        ),
    ];
    for (name, help, has_index, value) in counters {
        head(out, name, "counter", help)?;
        let index = if has_index { "index=\"\"," } else { "" };
        for (_, labels, cache) in caches {
            // What is no list of now comes from the store.
            for (storage, lists) in [("watchcache", &cache.stats.lists), ("etcd", &cache.stats.history)] {
                if lists.total.get() > 0 {
                    writeln!(out, "{name}{{{index}{labels},storage=\"{storage}\"}} {}", value(lists))?;
                }
            }
        }
    }
    Ok(())
}

/// What watchers were sent, by served version.
fn watchers(server: &ApiServer, out: &mut String) -> std::fmt::Result {
    let table = server.table.load();
    let labels = |served: &Served| {
        let gvk = &served.def.gvk;
        let resource = &served.def.resource;
        format!("group=\"{}\",resource=\"{resource}\",version=\"{}\"", gvk.group, gvk.version)
    };
    let told: Vec<&Arc<Served>> = table.all.iter().filter(|served| served.sent.total.get() > 0).collect();
    let name = "apiserver_watch_events_total";
    head(out, name, "counter", "[BETA] Number of events sent in watch clients")?;
    for served in &told {
        writeln!(out, "{name}{{{}}} {}", labels(served), served.sent.total.get())?;
    }
    let name = "apiserver_watch_events_sizes";
    head(out, name, "histogram", "[BETA] Watch event size distribution in bytes")?;
    for served in &told {
        served.sent.write(out, name, &labels(served))?;
    }
    Ok(())
}
