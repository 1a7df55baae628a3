//! Labels and annotations on containers and sandboxes, upstream's names (`kubelet/types/labels.go`,
//! `kuberuntime/labels.go`), so that state is read back from the runtime after a restart.

pub const POD_NAME: &str = "io.kubernetes.pod.name";
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
pub const POD_UID: &str = "io.kubernetes.pod.uid";
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
pub const CONTAINER_RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
pub const POD_TERMINATION_GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
pub const POD_DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";
pub const PRE_STOP_HANDLER: &str = "io.kubernetes.container.preStopHandler";
/// Path on the node of the file mounted as the container's termination log.
pub const TERMINATION_LOG_FILE: &str = "io.skiff.container.terminationLogFile";
/// Resources the container was last given, as JSON: what the status reports as actual.
pub const ACTUATED_RESOURCES: &str = "io.skiff.container.resources";
/// Addresses of the pod when its sandbox was connected, comma separated.
pub const SANDBOX_ATTEMPT: &str = "io.skiff.sandbox.attempt";

pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";

/// The runtime's name in container ids of the API.
pub const RUNTIME_SCHEME: &str = "containerd://";
