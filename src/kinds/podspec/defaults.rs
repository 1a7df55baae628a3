//! Defaults of pods and pod templates (`pkg/apis/core/v1/defaults.go`).

use serde_json::{Value, json};

use crate::json::{Json, Members, absent, child, existing, existing_at, fill, fill_zero, items_mut};

/// `SetDefaults_PodSpec` and the defaults of everything inside.
pub(crate) fn pod_spec(spec: &mut Members) {
    let account = match spec.text("serviceAccountName") {
        "" => spec.text("serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !account.is_empty() {
        spec.insert("serviceAccountName".to_owned(), account.as_str().into());
        spec.insert("serviceAccount".to_owned(), account.into());
    }
    fill(spec, "dnsPolicy", "ClusterFirst");
    fill(spec, "restartPolicy", "Always");
    fill(spec, "securityContext", json!({}));
    fill(spec, "terminationGracePeriodSeconds", 30);
    fill(spec, "schedulerName", "default-scheduler");
    for volume in items_mut(spec, "volumes") {
        self::volume(volume);
    }
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items_mut(spec, list) {
            self::container(container);
        }
    }
}

/// `SetDefaults_Pod`: what is filled in pods but not in templates, so that templates do not change on upgrades.
pub(crate) fn pod(spec: &mut Members) {
    if spec.int("terminationGracePeriodSeconds").is_some_and(|s| s < 0) {
        spec.insert("terminationGracePeriodSeconds".to_owned(), 1.into());
    }
    fill(spec, "enableServiceLinks", true);
    let host_network = spec.flag("hostNetwork");
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            if let Some(resources) = existing(container, "resources") {
                requests_from_limits(resources);
            }
            if host_network {
                for port in items_mut(container, "ports") {
                    let number = port.int("containerPort").unwrap_or_default();
                    fill_zero(port, "hostPort", number);
                }
            }
        }
    }
}

fn requests_from_limits(resources: &mut Members) {
    let Some(limits) = resources.at("limits").as_object().cloned() else { return };
    if limits.is_empty() {
        return;
    }
    if let Some(requests) = child(resources, "requests") {
        for (name, value) in limits {
            requests.entry(name).or_insert(value);
        }
    }
}

/// The tag of an image reference as `parsers.ParseImageName` has it: `latest` if there is neither tag nor digest.
pub(crate) fn image_tag(image: &str) -> &str {
    let (name, digest) = match image.split_once('@') {
        Some((name, _)) => (name, true),
        None => (image, false),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => tag,
        None if digest => "",
        None => "latest",
    }
}

/// Whether the grammar of references takes it (`reference.ParseNormalizedNamed`): a registry, a path in lower case, a
/// tag and a digest.
fn is_reference(image: &str) -> bool {
    const NAME_MAX: usize = 255;
    let (rest, digest) = image.split_once('@').map_or((image, None), |(rest, digest)| (rest, Some(digest)));
    let slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[slash..].split_once(':') {
        Some((last, tag)) => (&rest[..slash + last.len()], Some(tag)),
        None => (rest, None),
    };
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    if image.len() == 64 && hex(image) {
        return false;
    }
    let (domain, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':']) || first == "localhost" || first != first.to_lowercase() => {
            (Some(first), path)
        }
        _ => (None, name),
    };
    // docker.io/library/ comes before names without a registry.
    let length = name.len() + if domain.is_some() { 0 } else { "docker.io/".len() };
    length <= NAME_MAX
        && domain.is_none_or(is_registry)
        && path.split('/').all(is_path_component)
        && tag.is_none_or(is_tag)
        && digest.is_none_or(|digest| digest.split_once(':').is_some_and(|(_, hash)| hash.len() >= 32 && hex(hash)))
}

fn is_registry(text: &str) -> bool {
    let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
    let label = |part: &str| {
        !part.is_empty()
            && !part.starts_with('-')
            && !part.ends_with('-')
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    host.split('.').all(label) && port.is_none_or(|port| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_path_component(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = bytes.first().is_some_and(|b| plain(*b)) && bytes.last().is_some_and(|b| plain(*b));
    let between = text.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit()).filter(|part| !part.is_empty());
    ends && between.into_iter().all(|part| matches!(part, "." | "_" | "__") || part.bytes().all(|b| b == b'-'))
}

fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    text.len() <= 128
        && text.as_bytes().first().is_some_and(|b| word(*b))
        && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn pull_policy(image: &str) -> &'static str {
    // Upstream ignores a reference it cannot read, which then has no tag.
    if is_reference(image) && image_tag(image) == "latest" { "Always" } else { "IfNotPresent" }
}

fn container(container: &mut Members) {
    let policy = pull_policy(container.text("image"));
    fill(container, "imagePullPolicy", policy);
    fill(container, "terminationMessagePath", "/dev/termination-log");
    fill(container, "terminationMessagePolicy", "File");
    fill(container, "resources", json!({}));
    for port in items_mut(container, "ports") {
        fill(port, "protocol", "TCP");
    }
    for env in items_mut(container, "env") {
        if let Some(reference) = existing_at(env, &["valueFrom", "fieldRef"]) {
            fill(reference, "apiVersion", "v1");
        }
        if let Some(reference) = existing_at(env, &["valueFrom", "fileKeyRef"]) {
            fill(reference, "optional", false);
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = existing(container, probe) {
            fill_zero(probe, "timeoutSeconds", 1);
            fill_zero(probe, "periodSeconds", 10);
            fill_zero(probe, "successThreshold", 1);
            fill_zero(probe, "failureThreshold", 3);
            http_get(probe);
            if let Some(grpc) = existing(probe, "grpc")
                && !grpc.has("service")
            {
                grpc.insert("service".to_owned(), "".into());
            }
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = existing_at(container, &["lifecycle", hook]) {
            http_get(handler);
        }
    }
}

fn http_get(handler: &mut Members) {
    if let Some(action) = existing(handler, "httpGet") {
        fill(action, "path", "/");
        fill(action, "scheme", "HTTP");
    }
}

fn volume(volume: &mut Members) {
    if !volume.iter().any(|(key, value)| key != "name" && !value.is_null()) {
        volume.insert("emptyDir".to_owned(), json!({}));
    }
    if let Some(image) = existing(volume, "image") {
        let policy = pull_policy(image.text("reference"));
        fill(image, "pullPolicy", policy);
    }
    for source in ["secret", "configMap"] {
        if let Some(source) = existing(volume, source) {
            fill(source, "defaultMode", 0o644);
        }
    }
    if let Some(source) = existing(volume, "downwardAPI") {
        fill(source, "defaultMode", 0o644);
        downward_items(source);
    }
    if let Some(source) = existing(volume, "projected") {
        fill(source, "defaultMode", 0o644);
        for part in items_mut(source, "sources") {
            if let Some(token) = existing(part, "serviceAccountToken") {
                fill(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = existing(part, "downwardAPI") {
                downward_items(downward);
            }
        }
    }
    if let Some(source) = existing(volume, "hostPath")
        && !source.has("type")
    {
        source.insert("type".to_owned(), "".into());
    }
    if let Some(claim) = existing_at(volume, &["ephemeral", "volumeClaimTemplate", "spec"]) {
        absent(claim, "volumeMode", "Filesystem");
    }
    if let Some(disk) = existing(volume, "azureDisk") {
        absent(disk, "cachingMode", "ReadWrite");
        absent(disk, "fsType", "ext4");
        fill(disk, "readOnly", false);
        absent(disk, "kind", "Shared");
    }
    if let Some(disk) = existing(volume, "iscsi") {
        fill(disk, "iscsiInterface", "default");
    }
    if let Some(disk) = existing(volume, "rbd") {
        fill(disk, "pool", "rbd");
        fill(disk, "user", "admin");
        fill(disk, "keyring", "/etc/ceph/keyring");
    }
    if let Some(disk) = existing(volume, "scaleIO") {
        fill(disk, "storageMode", "ThinProvisioned");
        fill(disk, "fsType", "xfs");
    }
}

fn downward_items(source: &mut Members) {
    for item in items_mut(source, "items") {
        if let Some(reference) = existing(item, "fieldRef") {
            fill(reference, "apiVersion", "v1");
        }
    }
}

/// Defaults of a template at `key` of `owner`.
pub(crate) fn template(owner: &mut Members, key: &str) {
    if let Some(spec) = existing_at(owner, &[key, "spec"]) {
        pod_spec(spec);
    }
}

/// `podIP` and `podIPs` in step (`SetDefaults_PodStatus`).
pub(crate) fn pod_status(status: &mut Members) {
    for (one, many) in [("podIP", "podIPs"), ("hostIP", "hostIPs")] {
        let single = status.text(one).to_owned();
        let first = status.list(many).first().map(|ip| ip.text("ip").to_owned());
        match first {
            None if single.is_empty() => {}
            Some(first) if single.is_empty() && one == "podIP" => {
                status.insert(one.to_owned(), first.into());
            }
            Some(first) if first == single => {}
            _ if one == "podIP" => {
                status.insert(many.to_owned(), Value::from(vec![json!({"ip": single})]));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pull_policy_follows_the_tag() {
        let check = |image: &str, want: &str| assert_eq!(pull_policy(image), want, "{image}");
        check("nginx", "Always");
        check("nginx:latest", "Always");
        check("nginx:1.25", "IfNotPresent");
        check("registry:5000/nginx", "Always");
        check("registry:5000/nginx:1", "IfNotPresent");
        check("nginx@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "IfNotPresent");
        check("nginx:latest@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", "Always");
        check("", "IfNotPresent");
    }

    #[test]
    fn a_bare_pod_gets_all_defaults_twice_the_same() {
        let mut spec = json!({"containers": [{"name": "a", "image": "b:1", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"cpu": "1"}}, "readinessProbe": {"httpGet": {"port": 80}}}],
            "volumes": [{"name": "v"}, {"name": "h", "hostPath": {"path": "/x"}}, {"name": "c", "configMap": {"name": "c"}}]});
        let map = spec.as_object_mut().unwrap();
        pod_spec(map);
        pod(map);
        let once = map.clone();
        pod_spec(map);
        pod(map);
        assert_eq!(*map, once);
        assert_eq!(
            spec,
            json!({"containers": [{"name": "a", "image": "b:1", "imagePullPolicy": "IfNotPresent",
                "ports": [{"containerPort": 80, "protocol": "TCP"}],
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "readinessProbe": {"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
                    "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                "volumes": [{"name": "v", "emptyDir": {}}, {"name": "h", "hostPath": {"path": "/x", "type": ""}},
                    {"name": "c", "configMap": {"name": "c", "defaultMode": 420}}],
                "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "securityContext": {},
                "terminationGracePeriodSeconds": 30, "schedulerName": "default-scheduler", "enableServiceLinks": true})
        );
    }
}
