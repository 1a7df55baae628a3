//! Validation of pod specs (`pkg/apis/core/validation`, `ValidatePodSpec` and `ValidatePodTemplateSpec`).

use api::field::{Error, ErrorList, Path};
use api::validation::dns1123_subdomain_with_underscore;
use serde_json::Value;

use crate::checks::{invalid_all, ip, label_name, labels, non_negative, one_of, qualified_name, subdomain};
use crate::json::Json;
use crate::printed::{LABEL_SELECTOR, Printed};

use super::container::{self, Pod};
use super::{affinity, pod_level, resources, security, volume, windows};

/// `ValidatePodSpec`. `pod_name` is empty for templates; `is_pod` for the checks that upstream makes of pods alone.
pub(crate) fn pod_spec(errors: &mut ErrorList, path: &Path, spec: &Value, pod_name: &str, is_pod: bool) {
    if !spec.has("terminationGracePeriodSeconds") {
        errors.push(Error::required(path.child("terminationGracePeriodSeconds"), ""));
    }
    let volumes = volume::volumes(errors, &path.child("volumes"), spec.list("volumes"), pod_name);
    let pod = Pod {
        spec,
        volumes,
        claims: spec.list("resourceClaims").iter().map(|c| c.text("name")).collect(),
        grace: spec.int("terminationGracePeriodSeconds"),
    };
    claims(errors, &path.child("resourceClaims"), spec.list("resourceClaims"));
    container::containers(errors, &path.child("containers"), &pod);
    container::init_containers(errors, &path.child("initContainers"), &pod);
    container::ephemeral_containers(errors, &path.child("ephemeralContainers"), &pod);
    if spec.has("resources") && spec.at("os").text("name") == "windows" {
        errors.push(Error::forbidden(path.child("resources"), "may not be set for a windows pod"));
    } else if spec.has("resources") {
        let at = path.child("resources");
        if spec.at("resources").has("claims") {
            errors.push(Error::forbidden(at.child("claims"), "claims may not be set for Resources at pod-level"));
        }
        resources::of_pod(errors, &at, spec.at("resources"), &pod.claims);
        pod_level::consistency(errors, &at, spec);
    }
    host_network(errors, path, spec, is_pod);
    one_of(errors, path.child("restartPolicy"), spec.text("restartPolicy"), &["Always", "OnFailure", "Never"]);
    one_of(
        errors,
        path.child("dnsPolicy"),
        spec.text("dnsPolicy"),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
    );
    labels(errors, &path.child("nodeSelector"), spec.at("nodeSelector"));
    security::pod(errors, &path.child("securityContext"), spec);
    if spec.flag("shareProcessNamespace") && spec.flag("hostPID") {
        let text = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.push(Error::invalid(path.child("shareProcessNamespace"), true, text));
    }
    affinity::affinity(errors, &path.child("affinity"), spec.at("affinity"));
    dns_config(errors, &path.child("dnsConfig"), spec);
    for (i, gate) in spec.list("readinessGates").iter().enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        invalid_all(errors, &at, gate.text("conditionType"), qualified_name(gate.text("conditionType")));
    }
    scheduling_gates(errors, &path.child("schedulingGates"), spec.list("schedulingGates"));
    affinity::spread(errors, &path.child("topologySpreadConstraints"), spec.list("topologySpreadConstraints"));
    windows::host_process(errors, path, spec);
    host_users(errors, path, spec);
    host_name(errors, path, spec);
    names(errors, path, spec);
    if let Some(seconds) = spec.int("activeDeadlineSeconds")
        && !(1..=i64::from(i32::MAX)).contains(&seconds)
    {
        let text = "must be between 1 and 2147483647, inclusive";
        errors.push(Error::invalid(path.child("activeDeadlineSeconds"), seconds, text));
    }
    affinity::tolerations(errors, &path.child("tolerations"), spec.list("tolerations"));
    for (i, alias) in spec.list("hostAliases").iter().enumerate() {
        let at = path.child("hostAliases").index(i);
        ip(errors, at.child("ip"), alias.text("ip"));
        for (j, name) in alias.list("hostnames").iter().enumerate() {
            subdomain(errors, &at.child("hostnames").index(j), name.as_str().unwrap_or_default());
        }
    }
    if spec.has("preemptionPolicy") {
        let supported = &["PreemptLowerPriority", "Never"];
        one_of(errors, path.child("preemptionPolicy"), spec.text("preemptionPolicy"), supported);
    }
    if spec.has("overhead") {
        // Upstream reuses the checks of containers' limits, with their path.
        let limits = serde_json::json!({ "limits": spec.at("overhead") });
        resources::requirements(errors, &path.child("overhead"), &limits, &std::collections::BTreeSet::new());
    }
    windows::system(errors, path, spec);
    file_volumes(errors, path, spec);
}

/// What holds for pods but not for templates (`validatePodMetadataAndSpec`).
pub(crate) fn pod_only(errors: &mut ErrorList, path: &Path, spec: &Value) {
    if spec.text("serviceAccountName").is_empty() {
        for (i, volume) in spec.list("volumes").iter().enumerate() {
            for (j, source) in volume.at("projected").list("sources").iter().enumerate() {
                if source.has("serviceAccountToken") {
                    let at = path.child("volumes").index(i).child("projected").child("sources").index(j);
                    let text = "must not be specified when serviceAccountName is not set";
                    errors.push(Error::forbidden(at.child("serviceAccountToken"), text));
                }
            }
        }
    }
    non_negative(errors, path.child("terminationGracePeriodSeconds"), spec.at("terminationGracePeriodSeconds"));
    for list in ["containers", "initContainers"] {
        for (i, container) in spec.list(list).iter().enumerate() {
            container::image_spaces(errors, &path.child(list).index(i), container);
        }
    }
}

/// `ValidatePodTemplateSpec`.
pub(crate) fn template(errors: &mut ErrorList, path: &Path, template: &Value) {
    let metadata = template.at("metadata");
    labels(errors, &path.child("labels"), metadata.at("labels"));
    annotations(errors, &path.child("annotations"), metadata.at("annotations"));
    let spec = template.at("spec");
    super::annotations::specific(errors, &path.child("annotations"), metadata.at("annotations"), spec);
    pod_spec(errors, &path.child("spec"), spec, "", false);
    if spec.count("ephemeralContainers") > 0 {
        let text = "ephemeral containers not allowed in pod template";
        errors.push(Error::forbidden(path.child("spec").child("ephemeralContainers"), text));
    }
}

/// `ValidateAnnotations`: keys are qualified names in lower case, all together at most 256 KiB.
pub(crate) fn annotations(errors: &mut ErrorList, path: &Path, map: &Value) {
    let mut size = 0;
    for (key, value) in map.as_object().into_iter().flatten() {
        invalid_all(errors, path, key, qualified_name(&key.to_lowercase()));
        size += key.len() + value.as_str().unwrap_or_default().len();
    }
    if size > 256 * 1024 {
        errors.push(Error::too_long(path.clone(), 256 * 1024));
    }
}

/// A selector that must select something and match its own template, as all workloads have it.
pub(crate) fn selector_and_template(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let selector = spec.at("selector");
    if selector.is_null() {
        errors.push(Error::required(path.child("selector"), ""));
    } else {
        crate::checks::label_selector(errors, &path.child("selector"), selector);
        if crate::checks::selects_everything(selector) {
            let text = "empty selector is invalid for deployment";
            errors.push(Error::invalid(path.child("selector"), selector.clone(), text).printed(LABEL_SELECTOR));
        }
    }
    if crate::checks::is_selector(selector) {
        template_for(errors, &path.child("template"), spec, "ReplicaSet");
    } else {
        let error = Error::invalid(path.child("selector"), selector.clone(), "invalid label selector");
        errors.push(error.printed(LABEL_SELECTOR));
    }
}

/// The template of a controller that restarts its pods for ever (`ValidatePodTemplateSpecForReplicaSet`).
pub(crate) fn template_for(errors: &mut ErrorList, path: &Path, spec: &Value, kind: &str) {
    let template = spec.at("template");
    let selector = spec.at("selector");
    let labels = template.at("metadata").at("labels");
    selected(errors, path, selector, labels);
    self::template(errors, path, template);
    runs_for_ever(errors, path, template, kind);
}

/// Reports template labels that their controller's selector does not match; a missing selector matches nothing.
pub(crate) fn selected(errors: &mut ErrorList, path: &Path, selector: &Value, labels: &Value) {
    let everything = selector.is_object() && crate::checks::selects_everything(selector);
    if !everything && !crate::checks::selector_matches(selector, labels) {
        let at = path.child("metadata").child("labels");
        errors.push(Error::invalid(at, labels.clone(), "`selector` does not match template `labels`"));
    }
}

/// Pods of this controller are always restarted and have no deadline.
pub(crate) fn runs_for_ever(errors: &mut ErrorList, path: &Path, template: &Value, kind: &str) {
    let spec = template.at("spec");
    let policy = spec.text("restartPolicy");
    if policy != "Always" {
        let at = path.child("spec").child("restartPolicy");
        errors.push(Error::not_supported(at, policy, &["Always"]));
    }
    if spec.has("activeDeadlineSeconds") {
        let at = path.child("spec").child("activeDeadlineSeconds");
        errors.push(Error::forbidden(at, format!("activeDeadlineSeconds in {kind} is not Supported")));
    }
}

fn claims(errors: &mut ErrorList, path: &Path, list: &[Value]) {
    let mut seen = Vec::new();
    for (i, claim) in list.iter().enumerate() {
        let (at, name) = (path.index(i), claim.text("name"));
        if name.is_empty() {
            errors.push(Error::required(at.child("name"), ""));
        } else if seen.contains(&name) {
            errors.push(Error::duplicate(at.child("name"), name));
        } else {
            label_name(errors, &at.child("name"), name);
            seen.push(name);
        }
        let (direct, template) = (claim.has("resourceClaimName"), claim.has("resourceClaimTemplateName"));
        if direct && template {
            let text = "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
            errors.push(Error::invalid(at.clone(), claim.clone(), text).printed("core.PodResourceClaim"));
        } else if !direct && !template {
            let text = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
            errors.push(Error::invalid(at.clone(), claim.clone(), text).printed("core.PodResourceClaim"));
        }
        for member in ["resourceClaimName", "resourceClaimTemplateName"] {
            if claim.has(member) {
                subdomain(errors, &at.child(member), claim.text(member));
            }
        }
    }
}

fn host_network(errors: &mut ErrorList, path: &Path, spec: &Value, is_pod: bool) {
    if !spec.flag("hostNetwork") {
        return;
    }
    for (i, container) in spec.list("containers").iter().enumerate() {
        for (j, port) in container.list("ports").iter().enumerate() {
            let host = port.int("hostPort").unwrap_or_default();
            if (is_pod || host != 0) && host != port.int("containerPort").unwrap_or_default() {
                let at = path.child("containers").index(i).child("ports").index(j).child("hostPort");
                errors.push(Error::invalid(at, host, "must match `containerPort` when `hostNetwork` is true"));
            }
        }
    }
}

fn dns_config(errors: &mut ErrorList, path: &Path, spec: &Value) {
    let config = spec.at("dnsConfig");
    if spec.text("dnsPolicy") == "None" {
        if config.is_null() {
            errors.push(Error::required(path.clone(), "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if config.count("nameservers") == 0 {
            let text = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.push(Error::required(path.child("nameservers"), text));
            return;
        }
    }
    let at = path.child("nameservers");
    if config.count("nameservers") > 3 {
        let value = config.at("nameservers").clone();
        errors.push(Error::invalid(at.clone(), value, "must not have more than 3 nameservers"));
    }
    for (i, server) in config.list("nameservers").iter().enumerate() {
        ip(errors, at.index(i), server.as_str().unwrap_or_default());
    }
    let at = path.child("searches");
    let searches: Vec<&str> = config.list("searches").iter().filter_map(Value::as_str).collect();
    if searches.len() > 32 {
        let value = config.at("searches").clone();
        errors.push(Error::invalid(at.clone(), value, "must not have more than 32 search paths"));
    }
    if searches.join(" ").len() > 2048 {
        let text = "must not have more than 2048 characters (including spaces) in the search list";
        errors.push(Error::invalid(at.clone(), config.at("searches").clone(), text));
    }
    for (i, search) in searches.iter().enumerate() {
        if *search != "." {
            let plain = search.strip_suffix('.').unwrap_or(search);
            invalid_all(errors, &at.index(i), plain, dns1123_subdomain_with_underscore(plain));
        }
    }
    for (i, option) in config.list("options").iter().enumerate() {
        if option.text("name").is_empty() {
            errors.push(Error::required(path.child("options").index(i), "must not be empty"));
        }
    }
}

fn scheduling_gates(errors: &mut ErrorList, path: &Path, list: &[Value]) {
    let mut seen = Vec::new();
    for (i, gate) in list.iter().enumerate() {
        let name = gate.text("name");
        invalid_all(errors, &path.index(i), name, qualified_name(name));
        if seen.contains(&name) {
            errors.push(Error::duplicate(path.index(i), name));
        }
        seen.push(name);
    }
}

fn host_users(errors: &mut ErrorList, path: &Path, spec: &Value) {
    if spec.at("hostUsers").as_bool() != Some(false) {
        return;
    }
    for (member, name) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec.flag(member) {
            errors.push(Error::forbidden(path.child(name), "when `hostUsers` is false"));
        }
    }
    for (at, _) in super::containers_at(path, spec).into_iter().filter(|(_, c)| c.count("volumeDevices") > 0) {
        errors.push(Error::forbidden(at.child("volumeDevices"), "when `hostUsers` is false"));
    }
}

/// `validateFileKeyRefVolumes`: files that variables come from lie in `emptyDir` volumes.
fn file_volumes(errors: &mut ErrorList, path: &Path, spec: &Value) {
    for (at, container) in super::containers_at(path, spec) {
        for (i, variable) in container.list("env").iter().enumerate() {
            let reference = variable.at("valueFrom").at("fileKeyRef");
            if reference.is_null() {
                continue;
            }
            let at = at.child("env").index(i).child("valueFrom").child("fileKeyRef").child("volumeName");
            let name = reference.text("volumeName");
            match spec.list("volumes").iter().rfind(|volume| volume.text("name") == name) {
                None => errors.push(Error::not_found(at, name)),
                Some(volume) if volume.has("emptyDir") => {}
                Some(_) => errors.push(Error::invalid(at, name, "referenced volume must be of type emptyDir")),
            }
        }
    }
}

fn host_name(errors: &mut ErrorList, path: &Path, spec: &Value) {
    if !spec.has("hostnameOverride") {
        return;
    }
    let (at, name) = (path.child("hostnameOverride"), spec.text("hostnameOverride"));
    for (member, text) in [
        ("setHostnameAsFQDN", "may not be specified when setHostnameAsFQDN is true"),
        ("hostNetwork", "may not be specified when hostNetwork is true"),
    ] {
        if spec.flag(member) {
            errors.push(Error::forbidden(at.clone(), text));
        }
    }
    if name.len() > 64 {
        errors.push(Error::too_long(at.clone(), 64));
    }
    subdomain(errors, &at, name);
}

fn names(errors: &mut ErrorList, path: &Path, spec: &Value) {
    for member in ["serviceAccountName", "nodeName", "priorityClassName", "runtimeClassName"] {
        let name = spec.text(member);
        // Of these only the class is a pointer in Go, which an empty text is not.
        if !name.is_empty() || member == "runtimeClassName" && spec.has(member) {
            subdomain(errors, &path.child(member), name);
        }
    }
    for member in ["hostname", "subdomain"] {
        let name = spec.text(member);
        if !name.is_empty() {
            label_name(errors, &path.child(member), name);
        }
    }
}
