//! Warnings for files of a volume that are in each other's way (`warningsForOverlappingVirtualPaths`).

use serde_json::Value;

use crate::json::Json;

/// A path and what puts a file there, empty for a volume of one source.
type File = (String, String);

/// Warnings for volumes of config maps, secrets, the downward API and projections.
pub(crate) fn warnings(out: &mut Vec<String>, volumes: &[Value]) {
    for volume in volumes {
        let name = volume.text("name");
        for (kind, shown, of) in [
            ("configMap", "ConfigMap", Some("name")),
            ("secret", "Secret", Some("secretName")),
            ("downwardAPI", "DownwardAPI", None),
        ] {
            let body = volume.at(kind);
            let described = of.map_or_else(|| shown.to_owned(), |of| format!("{shown} {:?}", body.text(of)));
            overlapping(out, name, &described, items(body, ""));
        }
        let mut files = Vec::new();
        for source in volume.at("projected").list("sources") {
            if source.as_object().is_none_or(|kinds| kinds.values().all(Value::is_null)) {
                out.push(format!("volume {name:?} (Projected) has no sources provided"));
            } else {
                files.extend(projected(source));
            }
        }
        overlapping(out, name, "Projected", files);
    }
}

fn items(body: &Value, source: &str) -> Vec<File> {
    body.list("items").iter().map(|item| (item.text("path").to_owned(), source.to_owned())).collect()
}

fn projected(source: &Value) -> Vec<File> {
    let listed = |kind| source.at(kind).at("items").is_array();
    if listed("configMap") {
        let body = source.at("configMap");
        return items(body, &format!("ConfigMap {:?}", body.text("name")));
    }
    if listed("secret") {
        let body = source.at("secret");
        return items(body, &format!("Secret {:?}", body.text("name")));
    }
    if listed("downwardAPI") {
        return items(source.at("downwardAPI"), "DownwardAPI");
    }
    if source.has("serviceAccountToken") {
        return vec![(source.at("serviceAccountToken").text("path").to_owned(), "ServiceAccountToken".to_owned())];
    }
    if source.has("clusterTrustBundle") {
        let bundle = source.at("clusterTrustBundle");
        let name = if bundle.has("name") { bundle.text("name") } else { bundle.text("signerName") };
        return vec![(bundle.text("path").to_owned(), format!("ClusterTrustBundle {name:?}"))];
    }
    let certificate = source.at("podCertificate");
    let parts = [("certificateChainPath", "chain"), ("keyPath", "key"), ("credentialBundlePath", "credential bundle")];
    let there = parts.into_iter().filter(|(field, _)| certificate.count(field) > 0);
    there.map(|(field, part)| (certificate.text(field).to_owned(), format!("PodCertificate {part}"))).collect()
}

fn overlapping(out: &mut Vec<String>, volume: &str, described: &str, files: Vec<File>) {
    let shown = |(path, source): &File| match source.as_str() {
        "" => format!("{path:?}"),
        source => format!("{path:?} ({source})"),
    };
    let mut before: Vec<File> = Vec::new();
    for (path, source) in files {
        let file = (path.trim_end_matches('/').to_owned(), source);
        for other in before.iter().filter(|other| in_the_way(&other.0, &file.0)) {
            let (file, other) = (shown(&file), shown(other));
            out.push(format!("volume {volume:?} ({described}): overlapping paths: {file} with {other}"));
        }
        before.push(file);
    }
}

/// Whether two paths are the same or one is a directory of the other.
fn in_the_way(a: &str, b: &str) -> bool {
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    !a.is_empty() && !b.is_empty() && (within(a, b) || within(b, a))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn files_in_each_others_way_are_told() {
        let check = |volume: Value, want: &[&str]| {
            let mut out = Vec::new();
            warnings(&mut out, &[volume]);
            assert_eq!(out, want);
        };
        let item = |path: &str| json!({"key": "k", "path": path});
        check(
            json!({"name": "v", "configMap": {"name": "c", "items": [item("a"), item("b"), item("a/c/")]}}),
            &["volume \"v\" (ConfigMap \"c\"): overlapping paths: \"a/c\" with \"a\""],
        );
        check(json!({"name": "v", "secret": {"secretName": "c", "items": [item("a"), item("ab")]}}), &[]);
        check(
            json!({"name": "v", "projected": {"sources": [{}, {"secret": {"name": "s", "items": [item("t")]}}, {"serviceAccountToken": {"path": "t"}}]}}),
            &[
                "volume \"v\" (Projected) has no sources provided",
                "volume \"v\" (Projected): overlapping paths: \"t\" (ServiceAccountToken) with \"t\" (Secret \"s\")",
            ],
        );
    }
}
