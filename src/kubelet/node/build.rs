//! What the node's object says (upstream `nodestatus/setters.go`).

use std::collections::BTreeMap;
use std::net::IpAddr;

use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeFeatures,
    NodeRuntimeHandler, NodeRuntimeHandlerFeatures, NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::condition;
use crate::context::Context;

/// Conditions that the node agent decides.
pub const OWNED: &[&str] = &["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
/// Images listed in the status (upstream `nodeStatusMaxImages`).
const MAX_IMAGES: usize = 50;
const MAX_NAMES: usize = 5;

/// What the node can do that pods and their changes may need, in order of names (component-helpers
/// `nodedeclaredfeatures`).
const DECLARED_FEATURES: [&str; 3] = [
    "InPlacePodLevelResourcesVerticalScaling",
    "InPlacePodVerticalScalingInitContainers",
    "RestartAllContainersOnContainerExits",
];

/// The node as it is to be registered.
pub async fn node(ctx: &Context, conditions: Vec<NodeCondition>) -> Node {
    let config = &ctx.config;
    let mut node = Node::default();
    node.metadata.name = Some(config.node_name.clone());
    node.metadata.labels = Some(labels(ctx));
    let annotation = "volumes.kubernetes.io/controller-managed-attach-detach";
    node.metadata.annotations = Some(BTreeMap::from([(annotation.to_owned(), "true".to_owned())]));
    node.spec = Some(NodeSpec {
        provider_id: config.provider_id.clone(),
        taints: (!config.register_with_taints.is_empty()).then(|| config.register_with_taints.clone()),
        ..NodeSpec::default()
    });
    let machine = &ctx.machine;
    let (name, version) =
        ctx.runtime.version().await.unwrap_or_else(|_| ("containerd".to_owned(), "Unknown".to_owned()));
    node.status = Some(NodeStatus {
        addresses: Some(addresses(&config.node_ips, &config.hostname)),
        capacity: Some(resources(ctx, true)),
        allocatable: Some(resources(ctx, false)),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(config.listen.port()) }),
        }),
        runtime_handlers: Some(
            // The default one, under both of its names.
            ["", "runc"]
                .map(|name| NodeRuntimeHandler {
                    name: Some(name.to_owned()),
                    features: Some(NodeRuntimeHandlerFeatures {
                        recursive_read_only_mounts: Some(true),
                        user_namespaces: Some(false),
                    }),
                })
                .to_vec(),
        ),
        features: Some(NodeFeatures { supplemental_groups_policy: Some(true) }),
        declared_features: Some(DECLARED_FEATURES.map(str::to_owned).to_vec()),
        images: images(ctx).await,
        volumes_in_use: Some(ctx.csi.in_use()).filter(|list| !list.is_empty()),
        node_info: Some(NodeSystemInfo {
            architecture: machine.arch.to_owned(),
            boot_id: machine.boot_id.clone(),
            container_runtime_version: format!("{name}://{}", version.trim_start_matches('v')),
            kernel_version: machine.kernel.clone(),
            kubelet_version: config.version.clone(),
            machine_id: machine.machine_id.clone(),
            operating_system: "linux".to_owned(),
            os_image: machine.os_image.clone(),
            system_uuid: machine.system_uuid.clone(),
            ..NodeSystemInfo::default()
        }),
        ..NodeStatus::default()
    });
    node
}

fn labels(ctx: &Context) -> BTreeMap<String, String> {
    let config = &ctx.config;
    let mut labels = config.node_labels.clone();
    let own = [
        ("kubernetes.io/hostname", config.hostname.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", ctx.machine.arch),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", ctx.machine.arch),
    ];
    labels.extend(own.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())));
    labels
}

fn addresses(ips: &[IpAddr], hostname: &str) -> Vec<NodeAddress> {
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let mut out: Vec<NodeAddress> = ips.iter().map(|ip| address("InternalIP", ip.to_string())).collect();
    out.push(address("Hostname", hostname.to_owned()));
    out
}

fn resources(ctx: &Context, capacity: bool) -> BTreeMap<String, Quantity> {
    let huge = ctx.machine.hugepages.keys().map(|size| format!("hugepages-{size}"));
    let names = ["cpu", "memory", "ephemeral-storage", "pods"].into_iter().map(str::to_owned).chain(huge);
    names
        .map(|name| {
            let n = if capacity {
                ctx.machine.capacity(&ctx.config, &name)
            } else {
                ctx.machine.allocatable(&ctx.config, &name)
            };
            let text = match name.as_str() {
                "cpu" if n % 1000 == 0 => (n / 1000).to_string(),
                "cpu" => format!("{n}m"),
                // As upstream prints what it read in KiB.
                "memory" if n % 1024 == 0 => format!("{}Ki", n / 1024),
                "ephemeral-storage" if capacity && n % 1024 == 0 => format!("{}Ki", n / 1024),
                other if other.starts_with("hugepages-") && n % (1 << 20) == 0 && n > 0 => format!("{}Mi", n >> 20),
                _ => n.to_string(),
            };
            (name, Quantity(text))
        })
        .collect()
}

/// The largest images, with up to five names each.
async fn images(ctx: &Context) -> Option<Vec<ContainerImage>> {
    let mut images = ctx.runtime.images().await.ok()?;
    images.sort_by(|a, b| b.size.cmp(&a.size).then_with(|| a.id.cmp(&b.id)));
    let list: Vec<ContainerImage> = images
        .into_iter()
        .filter(|image| !image.tags.is_empty() || !image.digests.is_empty())
        .take(MAX_IMAGES)
        .map(|image| {
            let mut names: Vec<String> = image.digests.into_iter().chain(image.tags).collect();
            names.truncate(MAX_NAMES);
            ContainerImage { names: Some(names), size_bytes: i64::try_from(image.size).ok() }
        })
        .collect();
    (!list.is_empty()).then_some(list)
}

/// The node's conditions now.
pub async fn conditions(ctx: &Context, old: Option<&NodeStatus>) -> Vec<NodeCondition> {
    let pressure = ctx.pressures.now();
    let make = |type_, status, text| condition(ctx, old, type_, status, text);
    let memory = match pressure.memory {
        true => ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        false => ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    };
    let disk = match pressure.disk {
        true => ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        false => ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    };
    let pids = match pressure.pids {
        true => ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        false => ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    };
    let mut problems = Vec::new();
    if let Err(error) = ctx.runtime.version().await {
        problems.push(format!("container runtime is down: {}", base::chain(&error)));
    }
    if let Err(why) = ctx.network.ready().await {
        problems.push(format!(
            "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network \
             plugin returns error: {why}"
        ));
    }
    if ctx.shutting_down.load(std::sync::atomic::Ordering::Relaxed) {
        problems.push("node is shutting down".to_owned());
    }
    let ready = match problems.as_slice() {
        [] => ("KubeletReady", "kubelet is posting ready status".to_owned()),
        [one] => ("KubeletNotReady", one.clone()),
        many => ("KubeletNotReady", format!("[{}]", many.join(", "))),
    };
    vec![
        make("MemoryPressure", pressure.memory, (memory.0, memory.1.to_owned())),
        make("DiskPressure", pressure.disk, (disk.0, disk.1.to_owned())),
        make("PIDPressure", pressure.pids, (pids.0, pids.1.to_owned())),
        make("Ready", problems.is_empty(), ready),
    ]
}
