//! What clients are told of pods and templates that are valid but odd (upstream's `pkg/api/pod/warnings.go`).

use std::collections::BTreeMap;

use api::Object;
use api::field::Path;
use api::validation::{ip_warnings, label_value};
use serde_json::Value;

use super::annotations;
use crate::json::{Json, amount, dig};

/// Labels of nodes that are no more what to select by, with what is said of them.
const OLD_LABELS: [(&str, &str); 8] = [
    ("beta.kubernetes.io/arch", "deprecated since v1.14; use \"kubernetes.io/arch\" instead"),
    ("beta.kubernetes.io/os", "deprecated since v1.14; use \"kubernetes.io/os\" instead"),
    (
        "failure-domain.beta.kubernetes.io/region",
        "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead",
    ),
    ("failure-domain.beta.kubernetes.io/zone", "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"),
    ("beta.kubernetes.io/instance-type", "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"),
    ("app.kubernetes.io/created-by", "deprecated since v1.9"),
    ("scheduler.alpha.kubernetes.io/preferAvoidPods", "deprecated since v1.22; use Taints and Tolerations instead"),
    ("node-role.kubernetes.io/master", "use \"node-role.kubernetes.io/control-plane\" instead"),
];

const OLD_ANNOTATIONS: [(&str, &str); 3] = [
    (
        "scheduler.alpha.kubernetes.io/critical-pod",
        "non-functional in v1.16+; use the \"priorityClassName\" field instead",
    ),
    ("security.alpha.kubernetes.io/sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
    ("security.alpha.kubernetes.io/unsafe-sysctls", "non-functional in v1.11+; use the \"sysctls\" field instead"),
];

/// Kinds of volume that are on their way out, with what upstream calls them.
const OLD_VOLUMES: [(&str, &str, &str); 9] = [
    ("photonPersistentDisk", "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"),
    ("gitRepo", "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
    ("scaleIO", "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
    ("flocker", "flocker", "deprecated in v1.22, non-functional in v1.25+"),
    ("storageos", "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
    ("quobyte", "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
    ("glusterfs", "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
    ("cephfs", "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
    ("rbd", "rbd", "deprecated in v1.28, non-functional in v1.31+"),
];

const NULL_SELECTOR: &str = "a null labelSelector results in matching no pod";

/// Warnings for the template at `path` of an object; for a changed one only if its spec changed.
pub(crate) fn template(object: &Object, old: Option<&Object>, path: &[&str]) -> Vec<String> {
    if old.is_some_and(|old| old.generation() == object.generation() && object.generation() > 0) {
        return Vec::new();
    }
    let at = path.iter().fold(Path::default(), |at, name| at.child(name));
    warnings(&at, dig(object, path), true)
}

/// What is said of names that make no host names of pods.
pub(crate) fn host_name(object: &api::Object, old: Option<&api::Object>) -> Vec<String> {
    let problems = api::validation::dns1123_label(object.name(), false);
    if old.is_some() || problems.is_empty() || object.name().is_empty() {
        return Vec::new();
    }
    vec![format!(
        "metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is \
         recommended: [{}]",
        problems.join(" ")
    )]
}

/// Warnings for a pod, or with `is_template` for a template at `at`.
pub(crate) fn warnings(at: &Path, pod: &Value, is_template: bool) -> Vec<String> {
    let mut out = Vec::new();
    let (spec, metadata, spec_at) = (pod.at("spec"), pod.at("metadata"), at.child("spec"));
    let annotations_at = at.child("metadata").child("annotations");
    selectors(&mut out, &spec_at, spec);
    for (key, text) in OLD_ANNOTATIONS {
        if metadata.at("annotations").has(key) {
            out.push(format!("{}: {text}", annotations_at.key(key)));
        }
    }
    volumes(&mut out, &spec_at.child("volumes"), spec.list("volumes"));
    super::overlaps::warnings(&mut out, spec.list("volumes"));
    for (list, member, noun) in [("hostAliases", "ip", "ip"), ("imagePullSecrets", "name", "name")] {
        let items = spec.list(list);
        for (i, item) in items.iter().enumerate() {
            if items[..i].iter().any(|earlier| earlier.text(member) == item.text(member)) {
                let at = spec_at.child(list).index(i).child(member);
                out.push(format!("{at}: duplicate {noun} {:?}", item.text(member)));
            }
        }
    }
    for (i, item) in spec.list("imagePullSecrets").iter().enumerate().filter(|(_, item)| item.count("name") == 0) {
        let at = spec_at.child("imagePullSecrets").index(i).child("name");
        out.push(format!("{at}: invalid empty name {:?}", item.text("name")));
    }
    for name in ["memory", "ephemeral-storage"] {
        fractional(&mut out, &spec_at.child("overhead"), spec.at("overhead"), name);
    }
    if !spec.at("securityContext").has("seccompProfile") && metadata.at("annotations").has(SECCOMP_POD) {
        out.push(format!("{}: {SECCOMP}", annotations_at.key(SECCOMP_POD)));
    }
    let pods_profile = is_template.then(|| spec.at("securityContext").at("appArmorProfile"));
    for (at, container) in super::containers_at(&spec_at, spec) {
        self::container(&mut out, &at, container, (&annotations_at, metadata.at("annotations")), pods_profile);
    }
    ports(&mut out, &spec_at, spec);
    if spec.int("terminationGracePeriodSeconds").is_some_and(|seconds| seconds < 0) {
        let at = spec_at.child("terminationGracePeriodSeconds");
        out.push(format!("{at}: must be >= 0; negative values are invalid and will be treated as 1"));
    }
    affinity(&mut out, &spec_at.child("affinity"), spec.at("affinity"));
    for (i, server) in spec.at("dnsConfig").list("nameservers").iter().enumerate() {
        let at = spec_at.child("dnsConfig").child("nameservers").index(i);
        out.extend(ip_warnings(&at, server.as_str().unwrap_or_default()));
    }
    for (i, alias) in spec.list("hostAliases").iter().enumerate() {
        out.extend(ip_warnings(&spec_at.child("hostAliases").index(i).child("ip"), alias.text("ip")));
    }
    out
}

const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP: &str = "non-functional in v1.27+; use the \"seccompProfile\" field instead";

fn old_label(key: &str) -> Option<&'static str> {
    OLD_LABELS.iter().find(|(known, _)| *known == key).map(|(_, text)| *text)
}

fn selectors(out: &mut Vec<String>, at: &Path, spec: &Value) {
    for (key, _) in spec.entries("nodeSelector") {
        if let Some(text) = old_label(key) {
            out.push(format!("{}: {text}", at.child("nodeSelector").key(key)));
        }
    }
    let (node, to) = (spec.at("affinity").at("nodeAffinity"), at.child("affinity").child("nodeAffinity"));
    let (required, preferred) =
        ("requiredDuringSchedulingIgnoredDuringExecution", "preferredDuringSchedulingIgnoredDuringExecution");
    for (i, one) in node.at(required).list("nodeSelectorTerms").iter().enumerate() {
        node_term(out, &to.child(required).child("nodeSelectorTerms").index(i), one, false);
    }
    for (i, one) in node.list(preferred).iter().enumerate() {
        node_term(out, &to.child(preferred).index(i).child("preference"), one.at("preference"), true);
    }
    for (i, constraint) in spec.list("topologySpreadConstraints").iter().enumerate() {
        let (at, key) = (at.child("topologySpreadConstraints").index(i), constraint.text("topologyKey"));
        if let Some(text) = old_label(key) {
            out.push(format!("{}: {key} is {text}", at.child("topologyKey")));
        }
        if !constraint.has("labelSelector") {
            out.push(format!("{}: {NULL_SELECTOR}", at.child("labelSelector")));
        }
    }
}

/// `GetWarningsForNodeSelectorTerm`.
pub(crate) fn node_term(out: &mut Vec<String>, at: &Path, term: &Value, values: bool) {
    for (i, expression) in term.list("matchExpressions").iter().enumerate() {
        let (at, key) = (at.child("matchExpressions").index(i), expression.text("key"));
        if let Some(text) = old_label(key) {
            out.push(format!("{}: {key} is {text}", at.child("key")));
        }
        for (j, value) in expression.list("values").iter().enumerate().filter(|_| values) {
            let value = value.as_str().unwrap_or_default();
            let at = at.child("values").index(j);
            out.extend(label_value(value).into_iter().map(|text| format!("{at}: {value} is invalid, {text}")));
        }
    }
}

fn volumes(out: &mut Vec<String>, at: &Path, volumes: &[Value]) {
    for (i, volume) in volumes.iter().enumerate() {
        for (member, shown, text) in OLD_VOLUMES {
            if volume.has(member) {
                out.push(format!("{}: {text}", at.index(i).child(shown)));
            }
        }
        let template = volume.at("ephemeral").at("volumeClaimTemplate");
        if template.is_object() {
            let at = at.index(i).child("ephemeral").child("volumeClaimTemplate").child("spec");
            claim(out, &at, template.at("spec"));
        }
    }
}

/// `GetWarningsForPersistentVolumeClaimSpec`.
pub(crate) fn claim(out: &mut Vec<String>, at: &Path, spec: &Value) {
    for list in ["requests", "limits"] {
        fractional(out, &at.child("resources").child(list), spec.at("resources").at(list), "storage");
    }
}

/// Bytes are whole.
fn fractional(out: &mut Vec<String>, at: &Path, amounts: &Value, name: &str) {
    let value = amounts.at(name);
    if !value.is_null() && amount(value).milli_value() % 1000 != 0 {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        out.push(format!("{}: fractional byte value {text:?} is invalid, must be an integer", at.key(name)));
    }
}

/// `pods_profile` is the AppArmor profile of the pod of a template, `None` for pods themselves.
fn container(
    out: &mut Vec<String>,
    at: &Path,
    container: &Value,
    notes: (&Path, &Value),
    pods_profile: Option<&Value>,
) {
    let (notes_at, notes) = notes;
    let (security, name) = (container.at("securityContext"), container.text("name"));
    let seccomp = format!("container.seccomp.security.alpha.kubernetes.io/{name}");
    if !security.has("seccompProfile") && notes.has(&seccomp) {
        out.push(format!("{}: {SECCOMP}", notes_at.key(&seccomp)));
    }
    // Pods are told when their annotations become fields.
    let profile = format!("{}{name}", annotations::APPARMOR);
    if let Some(annotation) = notes.at(&profile).as_str().filter(|_| !security.has("appArmorProfile"))
        && let Some(pods) = pods_profile
        && !annotations::is_pods_profile(annotation, pods)
    {
        out.push(format!("{}: {}", notes_at.key(&profile), annotations::APPARMOR_DEPRECATED));
    }
    for resource in ["memory", "ephemeral-storage"] {
        for list in ["limits", "requests"] {
            let at = at.child("resources").child(list);
            fractional(out, &at, container.at("resources").at(list), resource);
        }
    }
    let env = container.list("env");
    for (i, item) in env.iter().enumerate() {
        let name = item.text("name");
        let reference = format!("$({name})");
        let hides =
            item.has("valueFrom") || item.text("value") == reference || !item.text("value").contains(&reference);
        if hides && env[..i].iter().any(|earlier| earlier.text("name") == name) {
            let text = "which may be dropped when using apply";
            out.push(format!("{}: hides previous definition of {name:?}, {text}", at.child("env").index(i)));
        }
    }
}

fn ports(out: &mut Vec<String>, at: &Path, spec: &Value) {
    let mut known: BTreeMap<(i64, &str), Vec<(Path, &Value)>> = BTreeMap::new();
    let mut names: BTreeMap<&str, Path> = BTreeMap::new();
    let mut repeated = Vec::new();
    let number = |port: &Value, member: &str| port.int(member).unwrap_or_default();
    for (at, container) in super::containers_at(at, spec) {
        for (i, port) in container.list("ports").iter().enumerate() {
            let at = at.child("ports").index(i);
            let (host, address) = (number(port, "hostPort"), port.text("hostIP"));
            let (inner, protocol, name) = (number(port, "containerPort"), port.text("protocol"), port.text("name"));
            if !address.is_empty() && host == 0 {
                out.push(format!(
                    "{at}: hostIP set without hostPort: {{Name:{name} HostPort:{host} ContainerPort:{inner} \
                     Protocol:{protocol} HostIP:{address}}}"
                ));
            }
            let others = known.entry((inner, protocol)).or_default();
            for (other_at, other) in others.iter() {
                let (other_host, other_address) = (number(other, "hostPort"), other.text("hostIP"));
                if address == other_address && host == other_host {
                    out.push(format!("{at}: duplicate port definition with {other_at}"));
                } else if host == 0 || other_host == 0 {
                    out.push(format!("{at}: overlapping port definition with {other_at}"));
                } else if host == other_host && address.is_empty() != other_address.is_empty() {
                    out.push(format!("{at}: dangerously ambiguous port definition with {other_at}"));
                }
            }
            others.push((at.clone(), port));
            match names.get(name) {
                _ if name.is_empty() => {}
                Some(other) => repeated.push(format!(
                    "{at}: duplicate port name {name:?} with {other}, services and probes that select ports by name will \
                     use {other}"
                )),
                None => drop(names.insert(name, at)),
            }
        }
    }
    out.extend(repeated);
}

fn affinity(out: &mut Vec<String>, at: &Path, affinity: &Value) {
    for kind in ["podAffinity", "podAntiAffinity"] {
        let (terms, at) = (affinity.at(kind), at.child(kind));
        let required = "requiredDuringSchedulingIgnoredDuringExecution";
        for (i, _) in terms.list(required).iter().enumerate().filter(|(_, t)| !t.has("labelSelector")) {
            out.push(format!("{}: {NULL_SELECTOR}", at.child(required).index(i).child("labelSelector")));
        }
        let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
        for (i, term) in terms.list(preferred).iter().enumerate() {
            if !term.at("podAffinityTerm").has("labelSelector") {
                let at = at.child(preferred).index(i).child("podAffinityTerm").child("labelSelector");
                out.push(format!("{at}: {NULL_SELECTOR}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_odd_is_told() {
        let check = |spec: Value, want: &[&str]| {
            assert_eq!(warnings(&Path::default(), &json!({ "spec": spec }), false), want);
        };
        check(
            json!({"containers": [{"name": "c", "ports": [{"name": "h", "containerPort": 80, "protocol": "TCP", "hostIP": "1.2.3.4"}]}]}),
            &[
                "spec.containers[0].ports[0]: hostIP set without hostPort: {Name:h HostPort:0 ContainerPort:80 Protocol:TCP HostIP:1.2.3.4}",
            ],
        );
        check(
            json!({"containers": [{"name": "c", "resources": {"limits": {"memory": "1500m"}}, "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}]}),
            &[
                "spec.containers[0].resources.limits[memory]: fractional byte value \"1500m\" is invalid, must be an integer",
                "spec.containers[0].env[1]: hides previous definition of \"A\", which may be dropped when using apply",
            ],
        );
        check(
            json!({"nodeSelector": {"beta.kubernetes.io/os": "linux"}}),
            &["spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead"],
        );
    }
}
