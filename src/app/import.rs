//! Snapshots of a stock cluster's etcd: its API server keeps built-in objects as protobuf, this one keeps JSON.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use api::codec::protobuf;
use api::kind::KindDef;
use api::{Gvk, Object};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use storage::snapshot::{Record, SnapshotReader, SnapshotWriter};

/// What an encrypted value begins with.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// Where custom kinds are defined, and the version in which a stock API server keeps that as JSON.
const DEFINITIONS: &[u8] = b"/registry/apiextensions.k8s.io/customresourcedefinitions/";
const OLD_DEFINITION: &str = "apiextensions.k8s.io/v1beta1";

/// What was done with the objects.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Objects that were protobuf and are JSON now, and definitions that were in their old version.
    pub converted: u64,
    /// Values of kinds that this version does not serve, by kind; they stay as they are.
    pub left: BTreeMap<String, u64>,
}

/// A snapshot with JSON in the place of protobuf; the file goes with the value.
pub struct Imported {
    pub path: PathBuf,
    pub summary: Summary,
}

impl Drop for Imported {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the converted snapshot");
        }
    }
}

/// Writes `source` anew to `target` with JSON instead of protobuf. Blocks.
///
/// # Errors
/// A file that is no whole snapshot; an object that does not decode; encrypted values, whose contents nobody sees here.
pub fn convert(source: &Path, target: &Path) -> anyhow::Result<Imported> {
    let mut reader = SnapshotReader::open_checked(source)?;
    let mut writer = SnapshotWriter::create(target, reader.header())?;
    let kinds = Kinds::new();
    let mut summary = Summary::default();
    while let Some(record) = reader.next_record()? {
        let record = match record {
            Record::Key(mut kv) => {
                let key = || String::from_utf8_lossy(&kv.key).into_owned();
                if kv.value.starts_with(ENCRYPTED) {
                    bail!(
                        "the value of {} is encrypted: in the old cluster put the provider identity first in its encryption \
                         configuration, write the objects anew (kubectl get … -o json | kubectl replace -f -), and take \
                         the snapshot then",
                        key()
                    );
                }
                match kinds.to_json(&kv.key, &kv.value).with_context(|| format!("cannot convert {}", key()))? {
                    Form::Json => {}
                    Form::Converted(value) => {
                        summary.converted += 1;
                        kv.value = value;
                    }
                    Form::Unknown(gvk) => *summary.left.entry(gvk.to_string()).or_default() += 1,
                }
                Record::Key(kv)
            }
            lease @ Record::Lease(..) => lease,
        };
        writer.write(&record)?;
    }
    writer.finish()?;
    Ok(Imported { path: target.to_owned(), summary })
}

/// What a value is.
enum Form {
    Json,
    Converted(Bytes),
    Unknown(Gvk),
}

/// Built-in kinds by version and kind.
struct Kinds(HashMap<Gvk, Arc<KindDef>>);

impl Kinds {
    fn new() -> Self {
        // Only schemas and conversions are asked for, which do not depend on the cluster.
        let config = kinds::Config {
            service_cidrs: Vec::new(),
            node_ports: (30_000, 32_767),
            cluster_dns: Vec::new(),
            kubelet_port: 10_250,
        };
        Self(kinds::all(&config).into_iter().map(|def| (def.gvk.clone(), def)).collect())
    }

    fn to_json(&self, key: &[u8], value: &[u8]) -> anyhow::Result<Form> {
        if key.starts_with(DEFINITIONS) && !value.starts_with(protobuf::MAGIC) {
            let mut definition: Value = serde_json::from_slice(value)?;
            if definition["apiVersion"] != OLD_DEFINITION {
                return Ok(Form::Json);
            }
            definition_to_v1(&mut definition);
            return Ok(Form::Converted(serde_json::to_vec(&definition)?.into()));
        }
        if !value.starts_with(protobuf::MAGIC) {
            return Ok(Form::Json);
        }
        let (version, kind, message) = protobuf::open(value).map_err(anyhow::Error::msg)?;
        let Some(version) = version else { bail!("the value does not say which version it is of") };
        let gvk = Gvk::new(version.group, version.version, kind);
        let known = self.0.get(&gvk).and_then(|def| Some((def, def.storage.as_ref()?)));
        let Some((def, storage)) = known else { return Ok(Form::Unknown(gvk)) };
        let mut object: Object = protobuf::decode_message(def.schema(), message).map_err(anyhow::Error::msg)?;
        object.set_gvk(&gvk);
        if let Some(conversion) = &storage.conversion {
            object = conversion.to_stored(object).map_err(|status| anyhow::Error::msg(status.message))?;
        }
        object.set_gvk(&storage.gvk);
        Ok(Form::Converted(serde_json::to_vec(&object)?.into()))
    }
}

/// A definition as `apiextensions.k8s.io/v1` has it: what the old version says once for all versions, each version says
/// (apiextensions-apiserver `pkg/apis/apiextensions/v1beta1/conversion.go` and `v1/conversion.go`).
fn definition_to_v1(definition: &mut Value) {
    definition["apiVersion"] = json!("apiextensions.k8s.io/v1");
    let Some(spec) = definition.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let version = spec.remove("version").unwrap_or_default();
    let versions = spec.entry("versions").or_insert_with(|| json!([]));
    if versions.as_array().is_some_and(Vec::is_empty) && version.as_str().is_some_and(|name| !name.is_empty()) {
        *versions = json!([{"name": version, "served": true, "storage": true}]);
    }
    let shared = [
        ("schema", spec.remove("validation")),
        ("subresources", spec.remove("subresources")),
        ("additionalPrinterColumns", spec.remove("additionalPrinterColumns")),
        ("selectableFields", spec.remove("selectableFields")),
    ];
    for version in spec.get_mut("versions").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(version) = version.as_object_mut() else { continue };
        for (field, value) in &shared {
            if let Some(value) = value {
                version.entry(*field).or_insert_with(|| value.clone());
            }
        }
        let columns = version.get_mut("additionalPrinterColumns").and_then(Value::as_array_mut);
        for column in columns.into_iter().flatten().filter_map(Value::as_object_mut) {
            if let Some(path) = column.remove("JSONPath") {
                column.insert("jsonPath".to_owned(), path);
            }
        }
    }
    if spec.get("preserveUnknownFields") == Some(&Value::Bool(false)) {
        spec.remove("preserveUnknownFields");
    }
    if let Some(conversion) = spec.get_mut("conversion").and_then(Value::as_object_mut) {
        let mut webhook = Map::new();
        for (old, new) in
            [("webhookClientConfig", "clientConfig"), ("conversionReviewVersions", "conversionReviewVersions")]
        {
            if let Some(value) = conversion.remove(old) {
                webhook.insert(new.to_owned(), value);
            }
        }
        if conversion.get("strategy").is_some_and(|strategy| strategy == "Webhook") {
            conversion.insert("webhook".to_owned(), Value::Object(webhook));
        }
    }
}

#[cfg(test)]
mod tests {
    use storage::snapshot::SnapshotHeader;
    use storage::{KeyValue, LeaseId, Revision};

    use super::*;

    fn kv(key: &str, value: &[u8]) -> Record {
        Record::Key(KeyValue {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: Bytes::copy_from_slice(value),
            create_revision: Revision(2),
            mod_revision: Revision(3),
            version: 2,
            lease: LeaseId(0),
        })
    }

    fn write(path: &Path, records: &[Record]) {
        let header = SnapshotHeader { revision: 9, created: 1, engine: "etcd".to_owned() };
        let mut writer = SnapshotWriter::create(path, &header).unwrap();
        records.iter().for_each(|record| writer.write(record).unwrap());
        writer.finish().unwrap();
    }

    /// `ConfigMap` `a` with `k: v`, as a stock API server stores it.
    const CONFIG_MAP: &[u8] = b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x0d\n\x03\n\x01a\x12\x06\n\x01k\x12\x01v";
    const RANGE: &[u8] = b"k8s\0\n\x15\n\x02v1\x12\x0fRangeAllocation\x12\0";

    #[test]
    fn protobuf_becomes_json_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("etcd"), dir.path().join("imported"));
        let stored = br#"{"apiVersion":"x.io/v1","kind":"X","metadata":{"name":"x"}}"#;
        let lease = Record::Lease(LeaseId(7), 60);
        write(
            &source,
            &[lease.clone(), kv("/a", CONFIG_MAP), kv("/x", stored), kv("/registry/ranges/serviceips", RANGE)],
        );
        let imported = convert(&source, &target).unwrap();
        assert_eq!(imported.summary.converted, 1);
        assert_eq!(imported.summary.left.values().sum::<u64>(), 1);
        let mut reader = SnapshotReader::open_checked(&target).unwrap();
        assert_eq!(reader.header().revision, 9);
        assert_eq!(reader.next_record().unwrap(), Some(lease));
        let Some(Record::Key(found)) = reader.next_record().unwrap() else { panic!("no key") };
        let object: Value = serde_json::from_slice(&found.value).unwrap();
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": "v"}})
        );
        assert_eq!((found.create_revision, found.mod_revision, found.version), (Revision(2), Revision(3), 2));
        assert_eq!(reader.next_record().unwrap(), Some(kv("/x", stored)));
        assert_eq!(reader.next_record().unwrap(), Some(kv("/registry/ranges/serviceips", RANGE)));
        drop((reader, imported));
        assert!(!target.exists());
    }

    #[test]
    fn definitions_say_in_each_version_what_they_said_once() {
        let mut definition = json!({
            "apiVersion": OLD_DEFINITION,
            "spec": {
                "group": "x.io",
                "version": "v1",
                "versions": [{"name": "v1", "served": true, "storage": true}, {"name": "v2", "schema": {"own": 1}}],
                "validation": {"openAPIV3Schema": {"type": "object"}},
                "subresources": {"status": {}},
                "additionalPrinterColumns": [{"name": "Size", "type": "integer", "JSONPath": ".spec.size"}],
                "preserveUnknownFields": false,
                "conversion": {
                    "strategy": "Webhook", "webhookClientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"],
                },
            },
        });
        definition_to_v1(&mut definition);
        let columns = json!([{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]);
        let status = json!({"status": {}});
        let schema = json!({"openAPIV3Schema": {"type": "object"}});
        assert_eq!(
            definition,
            json!({
                "apiVersion": "apiextensions.k8s.io/v1",
                "spec": {
                    "group": "x.io",
                    "versions": [
                        {"name": "v1", "served": true, "storage": true, "schema": schema, "subresources": status,
                         "additionalPrinterColumns": columns},
                        {"name": "v2", "schema": {"own": 1}, "subresources": status, "additionalPrinterColumns": columns},
                    ],
                    "conversion": {
                        "strategy": "Webhook",
                        "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]},
                    },
                },
            })
        );
        let mut short = json!({"apiVersion": OLD_DEFINITION, "spec": {"version": "v1"}});
        definition_to_v1(&mut short);
        assert_eq!(short["spec"], json!({"versions": [{"name": "v1", "served": true, "storage": true}]}));
    }

    #[test]
    fn encrypted_and_broken_values_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("etcd"), dir.path().join("imported"));
        for (value, wanted) in [
            (&b"k8s:enc:aescbc:v1:a:xx"[..], "is encrypted"),
            (b"k8s\0\n\x0f\n\x02v1\x12\tConfigMap\x12\x0d\n\x03\n\x09a", "cannot convert /a"),
        ] {
            write(&source, &[kv("/a", value)]);
            let error = format!("{:#}", convert(&source, &target).map(|_| ()).unwrap_err());
            assert!(error.contains(wanted), "{error}");
            assert!(!target.exists());
        }
    }
}
