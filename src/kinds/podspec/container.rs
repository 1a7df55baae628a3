//! Validation of containers of all three sorts.

use std::collections::BTreeSet;

use api::field::{Error, ErrorList, Path};
use api::validation::dns1123_subdomain;
use serde_json::Value;

use crate::checks::{
    config_key, env_name, invalid_all, label_name, no_backsteps, one_of, port_name, port_number, qualified_name,
};
use crate::json::{Json, amount};

use super::volume::{Volumes, devices, mounts, reference_name};
use super::{handler, is_sidecar, resources, security};

/// What containers must know of their pod.
pub(crate) struct Pod<'p> {
    pub spec: &'p Value,
    pub volumes: Volumes<'p>,
    pub claims: BTreeSet<&'p str>,
    /// `terminationGracePeriodSeconds`.
    pub grace: Option<i64>,
}

impl Pod<'_> {
    fn host_users(&self) -> bool {
        self.spec.at("hostUsers").as_bool() != Some(false)
    }
}

/// `validateContainers`.
pub(crate) fn containers(errors: &mut ErrorList, path: &Path, pod: &Pod<'_>) {
    let list = pod.spec.list("containers");
    if list.is_empty() {
        errors.push(Error::required(path.clone(), ""));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, container) in list.iter().enumerate() {
        let at = path.index(i);
        common(errors, &at, container, pod);
        if !names.insert(container.text("name")) {
            errors.push(Error::duplicate(at.child("name"), container.text("name")));
        }
        running(errors, &at, container, pod);
        restart_policy(errors, &at, container);
    }
    host_ports(errors, path, list);
}

/// `validateInitContainers`.
pub(crate) fn init_containers(errors: &mut ErrorList, path: &Path, pod: &Pod<'_>) {
    let mut names: BTreeSet<&str> = pod.spec.list("containers").iter().map(|c| c.text("name")).collect();
    for (i, container) in pod.spec.list("initContainers").iter().enumerate() {
        let at = path.index(i);
        common(errors, &at, container, pod);
        // Upstream looks at the rules of an init container only if it has a policy.
        if container.has("restartPolicy") {
            restart_policy(errors, &at, container);
        } else if container.count("restartPolicyRules") > 0 {
            let text = "must specify restartPolicy when restart rules are used";
            errors.push(Error::required(at.child("restartPolicy"), text));
        }
        let name = container.text("name");
        if !names.insert(name) {
            errors.push(Error::duplicate(at.child("name"), name));
        }
        host_ports(errors, path, std::slice::from_ref(container));
        if is_sidecar(container) {
            running(errors, &at, container, pod);
            continue;
        }
        for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
            if container.has(field) {
                let text = "may not be set for init containers without restartPolicy=Always";
                errors.push(Error::forbidden(at.child(field), text));
            }
        }
    }
}

/// `validateEphemeralContainers`.
pub(crate) fn ephemeral_containers(errors: &mut ErrorList, path: &Path, pod: &Pod<'_>) {
    let list = pod.spec.list("ephemeralContainers");
    let others: BTreeSet<&str> =
        ["containers", "initContainers"].iter().flat_map(|l| pod.spec.list(l)).map(|c| c.text("name")).collect();
    let mut names = others.clone();
    for (i, container) in list.iter().enumerate() {
        let at = path.index(i);
        common(errors, &at, container, pod);
        image_spaces(errors, &at, container);
        if !names.insert(container.text("name")) {
            errors.push(Error::duplicate(at.child("name"), container.text("name")));
        }
        let target = container.text("targetContainerName");
        if !target.is_empty() && !others.contains(target) {
            errors.push(Error::not_found(at.child("targetContainerName"), target));
        }
        for field in [
            "ports",
            "resources",
            "resizePolicy",
            "restartPolicy",
            "restartPolicyRules",
            "livenessProbe",
            "readinessProbe",
            "startupProbe",
            "lifecycle",
        ] {
            if !crate::json::same(container.at(field), &Value::Null) {
                errors.push(Error::forbidden(at.child(field), "cannot be set for an Ephemeral Container"));
            }
        }
        for (j, mount) in container.list("volumeMounts").iter().enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if mount.count(field) > 0 {
                    let at = at.child("volumeMounts").index(j).child(field);
                    errors.push(Error::forbidden(at, "cannot be set for an Ephemeral Container"));
                }
            }
        }
    }
}

/// Pods may not have spaces around images; templates may (`validateContainerOnlyForPod`).
pub(crate) fn image_spaces(errors: &mut ErrorList, path: &Path, container: &Value) {
    let image = container.text("image");
    if image.trim() != image {
        errors.push(Error::invalid(path.child("image"), image, "must not have leading or trailing whitespace"));
    }
}

fn running(errors: &mut ErrorList, at: &Path, container: &Value, pod: &Pod<'_>) {
    if container.has("lifecycle") {
        handler::lifecycle(errors, &at.child("lifecycle"), container.at("lifecycle"), pod.grace, pod.spec.at("os"));
    }
    handler::probes(errors, at, container, pod.grace);
}

/// `validateContainerCommon`.
fn common(errors: &mut ErrorList, path: &Path, container: &Value, pod: &Pod<'_>) {
    let name = container.text("name");
    if name.is_empty() {
        errors.push(Error::required(path.child("name"), ""));
    } else {
        label_name(errors, &path.child("name"), name);
    }
    if container.text("image").is_empty() {
        errors.push(Error::required(path.child("image"), ""));
    }
    one_of(
        errors,
        path.child("terminationMessagePolicy"),
        container.text("terminationMessagePolicy"),
        &["File", "FallbackToLogsOnError"],
    );
    ports(errors, &path.child("ports"), container.list("ports"));
    env(errors, &path.child("env"), container.list("env"));
    env_from(errors, &path.child("envFrom"), container.list("envFrom"));
    mounts(errors, &path.child("volumeMounts"), container, &pod.volumes);
    devices(errors, &path.child("volumeDevices"), container, &pod.volumes);
    one_of(
        errors,
        path.child("imagePullPolicy"),
        container.text("imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
    resources::requirements(errors, &path.child("resources"), container.at("resources"), &pod.claims);
    resize_policy(errors, &path.child("resizePolicy"), container, pod.spec.text("restartPolicy"));
    security::container(errors, &path.child("securityContext"), container.at("securityContext"), pod.host_users());
}

fn resize_policy(errors: &mut ErrorList, path: &Path, container: &Value, pod_policy: &str) {
    let mut seen = BTreeSet::new();
    for (i, policy) in container.list("resizePolicy").iter().enumerate() {
        let (resource, restart) = (policy.text("resourceName"), policy.text("restartPolicy"));
        if !seen.insert(resource) {
            errors.push(Error::duplicate(path.index(i), resource));
        }
        one_of(errors, path.clone(), resource, &["cpu", "memory"]);
        one_of(errors, path.clone(), restart, &["NotRequired", "RestartContainer"]);
        if pod_policy == "Never" && restart != "NotRequired" {
            let text = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.push(Error::invalid(path.clone(), restart, text));
        }
    }
}

/// `validateContainerRestartPolicy`.
fn restart_policy(errors: &mut ErrorList, path: &Path, container: &Value) {
    let (at, rules) = (path.child("restartPolicy"), container.list("restartPolicyRules"));
    if !container.has("restartPolicy") {
        if !rules.is_empty() {
            errors.push(Error::required(at, "must specify restartPolicy when restart rules are used"));
        }
    } else {
        let policy = container.text("restartPolicy");
        let supported = &["Always", "Never", "OnFailure"];
        if !supported.contains(&policy) {
            errors.push(Error::not_supported(at, policy, supported));
        }
    }
    if rules.len() > 20 {
        errors.push(Error::too_many(path.child("restartPolicyRules"), rules.len(), 20));
    }
    for (i, rule) in rules.iter().enumerate() {
        let at = path.child("restartPolicyRules").index(i);
        let supported = &["Restart", "RestartAllContainers"];
        if !supported.contains(&rule.text("action")) {
            errors.push(Error::not_supported(at.child("action"), rule.text("action"), supported));
        }
        let codes = rule.at("exitCodes");
        if codes.is_null() {
            errors.push(Error::required(at.child("exitCodes"), "must be specified"));
            continue;
        }
        if !matches!(codes.text("operator"), "In" | "NotIn") {
            let at = at.child("exitCodes").child("operator");
            errors.push(Error::not_supported(at, codes.text("operator"), &["In", "NotIn"]));
        }
        if codes.count("values") > 255 {
            errors.push(Error::too_many(at.child("exitCodes").child("values"), codes.count("values"), 255));
        }
    }
}

fn ports(errors: &mut ErrorList, path: &Path, list: &[Value]) {
    let mut names = BTreeSet::new();
    for (i, port) in list.iter().enumerate() {
        let (at, name) = (path.index(i), port.text("name"));
        if !name.is_empty() {
            let problems = port_name(name);
            if !problems.is_empty() {
                invalid_all(errors, &at.child("name"), name, problems);
            } else if !names.insert(name) {
                errors.push(Error::duplicate(at.child("name"), name));
            }
        }
        match port.int("containerPort").unwrap_or_default() {
            0 => errors.push(Error::required(at.child("containerPort"), "")),
            number => port_number(errors, at.child("containerPort"), number),
        }
        match port.int("hostPort").unwrap_or_default() {
            0 => {}
            number => port_number(errors, at.child("hostPort"), number),
        }
        one_of(errors, at.child("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

fn host_ports(errors: &mut ErrorList, path: &Path, list: &[Value]) {
    let mut taken = BTreeSet::new();
    for (i, container) in list.iter().enumerate() {
        for (j, port) in container.list("ports").iter().enumerate() {
            let number = port.int("hostPort").unwrap_or_default();
            if number == 0 {
                continue;
            }
            let key = format!("{}/{}/{number}", port.text("protocol"), port.text("hostIP"));
            if !taken.insert(key.clone()) {
                errors.push(Error::duplicate(path.index(i).child("ports").index(j).child("hostPort"), key));
            }
        }
    }
}

fn env(errors: &mut ErrorList, path: &Path, list: &[Value]) {
    for (i, variable) in list.iter().enumerate() {
        let (at, name) = (path.index(i), variable.text("name"));
        if name.is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        } else {
            invalid_all(errors, &at.child("name"), name, env_name(name));
        }
        if variable.has("valueFrom") {
            value_from(errors, &at.child("valueFrom"), variable);
        }
    }
}

fn value_from(errors: &mut ErrorList, path: &Path, variable: &Value) {
    let from = variable.at("valueFrom");
    let mut sources = 0;
    for kind in ["fieldRef", "resourceFieldRef", "configMapKeyRef", "secretKeyRef", "fileKeyRef"] {
        if !from.has(kind) {
            continue;
        }
        sources += 1;
        let (at, body) = (path.child(kind), from.at(kind));
        match kind {
            "fieldRef" => field_ref(errors, &at, body, ENV_FIELDS),
            "resourceFieldRef" => resource_ref(errors, &at, body, false),
            "fileKeyRef" => file_key(errors, &at, body),
            _ => {
                invalid_all(errors, &at.child("name"), body.text("name"), dns1123_subdomain(body.text("name"), false));
                match body.text("key") {
                    "" => errors.push(Error::required(at.child("key"), "")),
                    key => invalid_all(errors, &at.child("key"), key, config_key(key)),
                }
            }
        }
    }
    if sources == 0 {
        let text =
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errors.push(Error::invalid(path.clone(), "", text));
    } else if variable.count("value") > 0 {
        errors.push(Error::invalid(path.clone(), "", "may not be specified when `value` is not empty"));
    } else if sources > 1 {
        errors.push(Error::invalid(path.clone(), "", "may not have more than one field specified at a time"));
    }
}

const ENV_FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

/// Field labels that the downward API knows (`ConvertDownwardAPIFieldLabel`).
const KNOWN_FIELDS: &[&str] = &[
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.serviceAccountName",
    "spec.schedulerName",
    "status.phase",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
    "spec.host",
];

/// `validateObjectFieldSelector`.
pub(crate) fn field_ref(errors: &mut ErrorList, path: &Path, reference: &Value, supported: &[&str]) {
    if reference.text("apiVersion").is_empty() {
        errors.push(Error::required(path.child("apiVersion"), ""));
        return;
    }
    let field = reference.text("fieldPath");
    if field.is_empty() {
        errors.push(Error::required(path.child("fieldPath"), ""));
        return;
    }
    if reference.text("apiVersion") != "v1" {
        let text = format!("error converting fieldPath: unsupported pod version: {}", reference.text("apiVersion"));
        errors.push(Error::invalid(path.child("fieldPath"), field, text));
        return;
    }
    if let Some((base, key)) = field.strip_suffix("']").and_then(|f| f.split_once("['")) {
        match base {
            "metadata.annotations" => {
                let key = key.to_lowercase();
                invalid_all(errors, path, &key, qualified_name(&key));
            }
            "metadata.labels" => invalid_all(errors, path, key, qualified_name(key)),
            _ if KNOWN_FIELDS.contains(&base) => {
                errors.push(Error::invalid(path.clone(), base, "does not support subscript"));
            }
            _ => {
                let text = format!("error converting fieldPath: field label does not support subscript: {field}");
                errors.push(Error::invalid(path.child("fieldPath"), field, text));
            }
        }
    } else if !KNOWN_FIELDS.contains(&field) {
        let text = format!("error converting fieldPath: field label not supported: {field}");
        errors.push(Error::invalid(path.child("fieldPath"), field, text));
    } else if !supported.contains(&field) {
        errors.push(Error::not_supported(path.child("fieldPath"), field, supported));
    }
}

const RESOURCE_FIELDS: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// `validateContainerResourceFieldSelector`.
pub(crate) fn resource_ref(errors: &mut ErrorList, path: &Path, reference: &Value, volume: bool) {
    let resource = reference.text("resource");
    let huge = ["requests.hugepages-", "limits.hugepages-"].iter().any(|p| resource.starts_with(p));
    if volume && reference.text("containerName").is_empty() {
        errors.push(Error::required(path.child("containerName"), ""));
    } else if resource.is_empty() {
        errors.push(Error::required(path.child("resource"), ""));
    } else if !RESOURCE_FIELDS.contains(&resource) && !huge {
        errors.push(Error::not_supported(path.child("resource"), resource, RESOURCE_FIELDS));
    }
    let divisor = match reference.at("divisor") {
        Value::Null => return,
        value => amount(value),
    };
    let huge = huge.then_some("hugepages");
    let noun = match resource {
        "limits.cpu" | "requests.cpu" => "cpu",
        "limits.memory" | "requests.memory" => "memory",
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => "local ephemeral storage",
        _ => match huge {
            Some(noun) => noun,
            None => return,
        },
    };
    if divisor.sign() == 0 {
        return;
    }
    let sizes = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let (known, shown) = if noun == "cpu" { ("1m, 1", "1m and 1") } else { (sizes, sizes) };
    if !known.split(", ").any(|size| size == divisor.canonical()) {
        let text = format!("only divisor's values {shown} are supported with the {noun} resource");
        errors.push(Error::invalid(path.child("divisor"), resource, text));
    }
}

fn file_key(errors: &mut ErrorList, path: &Path, reference: &Value) {
    match reference.text("key") {
        "" => errors.push(Error::required(path.child("key"), "")),
        key => invalid_all(errors, &path.child("key"), key, env_name(key)),
    }
    match reference.text("volumeName") {
        "" => errors.push(Error::required(path.child("volumeName"), "")),
        name => label_name(errors, &path.child("volumeName"), name),
    }
    match reference.text("path") {
        "" => errors.push(Error::required(path.child("path"), "")),
        file => no_backsteps(errors, &path.child("path"), file),
    }
}

fn env_from(errors: &mut ErrorList, path: &Path, list: &[Value]) {
    for (i, source) in list.iter().enumerate() {
        let (at, prefix) = (path.index(i), source.text("prefix"));
        if !prefix.is_empty() {
            invalid_all(errors, &at.child("prefix"), prefix, env_name(prefix));
        }
        let mut sources = 0;
        for kind in ["configMapRef", "secretRef"] {
            if source.has(kind) {
                sources += 1;
                reference_name(errors, &at.child(kind).child("name"), source.at(kind).text("name"));
            }
        }
        match sources {
            0 => errors.push(Error::invalid(path.clone(), "", "must specify one of: `configMapRef` or `secretRef`")),
            1 => {}
            _ => errors.push(Error::invalid(path.clone(), "", "may not have more than one field specified at a time")),
        }
    }
}
