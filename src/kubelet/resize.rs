//! In-place changes of a running container's CPU and memory: how they are told, and [`allocation`], which grants them.

pub mod allocation;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;

use crate::resources;

/// CPU and memory of a container as whole numbers: `cpu` in thousandths, `memory` in bytes; requests and limits.
type Numbers = BTreeMap<String, i64>;

fn numbers(resources: Option<&ResourceRequirements>) -> Numbers {
    let mut numbers = Numbers::new();
    let mut put = |key: &str, n: Option<i64>| {
        if let Some(n) = n {
            numbers.insert(key.to_owned(), n);
        }
    };
    put("cpu.request", resources::cpu_request_milli(resources, "cpu"));
    put("cpu.limit", resources::cpu_limit_milli(resources, "cpu"));
    put("memory.request", resources::request_value(resources, "memory"));
    put("memory.limit", resources::limit_value(resources, "memory"));
    numbers
}

/// What is kept with a container about the resources it was given.
pub fn record(resources: Option<&ResourceRequirements>) -> String {
    serde_json::to_string(&numbers(resources)).unwrap_or_default()
}

/// Which resources (`cpu`, `memory`) differ between a [`record`] and the spec. Nothing for a record that is not ours.
pub fn changed(record: &str, resources: Option<&ResourceRequirements>) -> Vec<&'static str> {
    let Ok(old) = serde_json::from_str::<Numbers>(record) else { return Vec::new() };
    let new = numbers(resources);
    let differs = |resource: &str| {
        [".request", ".limit"].iter().any(|part| {
            let key = format!("{resource}{part}");
            old.get(&key) != new.get(&key)
        })
    };
    ["cpu", "memory"].into_iter().filter(|resource| differs(resource)).collect()
}

/// The quantities of a record, to be shown as the container's actual resources: resource, is limit, number.
pub fn actual(record: &str) -> Vec<(&'static str, bool, i64)> {
    let Ok(numbers) = serde_json::from_str::<Numbers>(record) else { return Vec::new() };
    let entries = [
        ("cpu", false, "cpu.request"),
        ("cpu", true, "cpu.limit"),
        ("memory", false, "memory.request"),
        ("memory", true, "memory.limit"),
    ];
    entries.into_iter().filter_map(|(resource, limit, key)| numbers.get(key).map(|n| (resource, limit, *n))).collect()
}
