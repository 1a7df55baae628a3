//! Webhooks and policies from files of this machine beside those of the API (KEP-5793; apiserver `admission/plugin/manifest`,
//! `webhook/manifest`, `policy/manifest`).
//!
//! A folder is taken whole or not at all: at the start a mistake ends the server, later it leaves what there was.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use api::Object;
use api::field::{Error, Path as FieldPath};
use api::services::Kinds;
use arc_swap::ArcSwap;
use jiff::Timestamp;
use parking_lot::Mutex;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// What names of such objects end in, and no others do.
const SUFFIX: &str = ".static.k8s.io";
const EXTENSIONS: [&str; 3] = ["yaml", "yml", "json"];

/// `ValidateStaticManifestsDir`; empty is none.
pub(crate) fn folder(text: &str) -> Result<Option<PathBuf>, String> {
    if text.is_empty() {
        return Ok(None);
    }
    let wrong = |why: String| Err(Error::invalid(FieldPath::new("staticManifestsDir"), text, why).to_string());
    let path = PathBuf::from(text);
    if !path.is_absolute() {
        return wrong("must be an absolute file path".to_owned());
    }
    match std::fs::metadata(&path) {
        Err(error) => {
            let why = error.to_string();
            let why = why.split(" (os error").next().unwrap_or_default().to_lowercase();
            wrong(format!("unable to read: stat {text}: {why}"))
        }
        Ok(found) if !found.is_dir() => wrong("must be a directory".to_owned()),
        Ok(_) => Ok(Some(path)),
    }
}

/// What a folder says.
#[derive(Default)]
pub(crate) struct Content {
    /// Of the files' text; empty if there is none.
    pub hash: String,
    /// By name.
    objects: Vec<Object>,
}

impl Content {
    /// The objects of a kind, ordered by name.
    pub fn of(&self, kind: &str) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(move |object| object.kind() == kind)
    }
}

/// The folder of one plugin.
pub struct Manifests {
    plugin: &'static str,
    folder: PathBuf,
    /// What may be there.
    wanted: &'static [&'static str],
    kinds: Arc<dyn Kinds>,
    content: ArcSwap<Content>,
    counts: Mutex<Counts>,
    /// Stands for the server in labels.
    server: String,
}

#[derive(Default)]
struct Counts {
    /// Of the text that was read last, taken or not.
    read: String,
    /// How often and when last: failures, successes.
    ends: [(u64, Option<Timestamp>); 2],
}

impl Counts {
    fn ended(&mut self, is_taken: bool, now: Timestamp) {
        let (count, last) = &mut self.ends[usize::from(is_taken)];
        *count += 1;
        *last = Some(now);
    }
}

impl Manifests {
    /// Reads the folder.
    pub(crate) fn load(
        plugin: &'static str,
        folder: &Path,
        kinds: Arc<dyn Kinds>,
        (server, now): (&str, Timestamp),
    ) -> Result<Self, String> {
        let wanted: &[&str] = match plugin {
            "ValidatingAdmissionPolicy" => &["ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"],
            "MutatingAdmissionPolicy" => &["MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding"],
            "ValidatingAdmissionWebhook" => &["ValidatingWebhookConfiguration"],
            _ => &["MutatingWebhookConfiguration"],
        };
        let what = if wanted.len() > 1 { "policy" } else { "webhook" };
        let content = read(folder, wanted, &*kinds)
            .map_err(|why| format!("failed to load static {what} manifests from {folder:?}: {why}"))?;
        tracing::info!(plugin, objects = content.objects.len(), "loaded manifest-based admission configuration");
        let counts = Counts { read: content.hash.clone(), ends: [(0, None), (1, Some(now))] };
        Ok(Self {
            plugin,
            folder: folder.to_owned(),
            wanted,
            kinds,
            content: ArcSwap::from_pointee(content),
            counts: Mutex::new(counts),
            server: format!("sha256:{}", hex(&Sha256::digest(server))),
        })
    }

    /// Where the files are; call [`Self::reload`] when they change.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn content(&self) -> Arc<Content> {
        self.content.load_full()
    }

    /// Reads the folder again (`checkAndReload`). What cannot be taken leaves things as they were.
    pub fn reload(&self, now: Timestamp) {
        let read = read(&self.folder, self.wanted, &*self.kinds);
        let mut counts = self.counts.lock();
        match read {
            Err(error) => {
                counts.ended(false, now);
                tracing::error!(plugin = self.plugin, folder = %self.folder.display(), error, "changed admission manifests are left aside");
            }
            Ok(content) => {
                if counts.read == content.hash {
                    return;
                }
                counts.ended(true, now);
                counts.read.clone_from(&content.hash);
                self.content.store(Arc::new(content));
                tracing::info!(plugin = self.plugin, folder = %self.folder.display(), "took over changed admission manifests");
            }
        }
    }
}

/// Metrics of all folders (`admission/plugin/manifest/metrics`).
pub(crate) fn write_metrics(all: &[Arc<Manifests>], out: &mut String) -> std::fmt::Result {
    const PREFIX: &str = "apiserver_manifest_admission_config_controller";
    if all.is_empty() {
        return Ok(());
    }
    let ended = |manifests: &Manifests| {
        let ends = manifests.counts.lock().ends;
        let labels = |status| {
            format!("apiserver_id_hash=\"{}\",plugin=\"{}\",status=\"{status}\"", manifests.server, manifests.plugin)
        };
        ["failure", "success"]
            .into_iter()
            .zip(ends)
            .filter_map(move |(status, (count, last))| Some((labels(status), count, last?)))
            .collect::<Vec<_>>()
    };
    let head = |out: &mut String, name: &str, ty: &str, help: &str| {
        writeln!(out, "# HELP {PREFIX}_{name} [ALPHA] {help}\n# TYPE {PREFIX}_{name} {ty}")
    };
    let whose = "of admission manifest configuration split by status, plugin, and apiserver identity.";
    head(
        out,
        "automatic_reload_last_timestamp_seconds",
        "gauge",
        &format!("Timestamp of the last automatic reload {whose}"),
    )?;
    for (labels, _, last) in all.iter().flat_map(|manifests| ended(manifests)) {
        writeln!(
            out,
            "{PREFIX}_automatic_reload_last_timestamp_seconds{{{labels}}} {}",
            last.as_duration().as_secs_f64()
        )?;
    }
    head(out, "automatic_reloads_total", "counter", &format!("Total number of automatic reloads {whose}"))?;
    for (labels, count, _) in all.iter().flat_map(|manifests| ended(manifests)) {
        writeln!(out, "{PREFIX}_automatic_reloads_total{{{labels}}} {count}")?;
    }
    let help = "Information about the last applied admission manifest configuration with hash as label, split by plugin and apiserver identity.";
    head(out, "last_config_info", "gauge", help)?;
    for manifests in all {
        let (server, hash, plugin) = (&manifests.server, &manifests.content().hash, manifests.plugin);
        writeln!(
            out,
            "{PREFIX}_last_config_info{{apiserver_id_hash=\"{server}\",hash=\"{hash}\",plugin=\"{plugin}\"}} 1"
        )?;
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `LoadManifests` and `LoadPolicyManifests`.
fn read(folder: &Path, wanted: &[&str], kinds: &dyn Kinds) -> Result<Content, String> {
    let unreadable = |error: std::io::Error| format!("failed to read manifest directory {folder:?}: {error}");
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        if EXTENSIONS.contains(&extension.as_str()) && !path.is_dir() {
            files.push(path);
        }
    }
    files.sort();
    let (mut hash, mut has_text) = (Sha256::new(), false);
    let mut seen = HashMap::new();
    let mut objects = Vec::new();
    for path in &files {
        let text = std::fs::read_to_string(path).map_err(|error| format!("failed to read file {path:?}: {error}"))?;
        if text.is_empty() {
            continue;
        }
        hash.update(&text);
        hash.update([0]);
        has_text = true;
        let failed = |why: String| format!("error loading {}: {why}", path.display());
        let documents: Vec<Value> = serde_saphyr::from_multiple(&text)
            .map_err(|error| failed(error.to_string().lines().next().unwrap_or_default().to_owned()))?;
        for document in documents.iter().filter(|document| !document.is_null()) {
            for item in items(document, wanted) {
                let object = accept(item, wanted, kinds).map_err(failed)?;
                named(&object, path, &mut seen).map_err(failed)?;
                constrained(&object, path).map_err(failed)?;
                objects.push(object);
            }
        }
    }
    objects.sort_by(|a, b| a.name().cmp(b.name()));
    for binding in objects.iter().filter(|object| object.kind().ends_with("Binding")) {
        let policy = binding.str(&["spec", "policyName"]).unwrap_or_default();
        if !objects.iter().any(|object| object.name() == policy && !object.kind().ends_with("Binding")) {
            let name = binding.name();
            return Err(format!(
                "binding {name:?} references policy {policy:?} which does not exist in the manifest directory"
            ));
        }
    }
    let hash = if has_text { format!("sha256:{}", hex(&hash.finalize())) } else { String::new() };
    Ok(Content { hash, objects })
}

/// A document's objects: itself, or what it lists.
fn items<'d>(document: &'d Value, wanted: &[&str]) -> Vec<&'d Value> {
    let kind = document.get("kind").and_then(Value::as_str).unwrap_or_default();
    let lists = kind == "List" || kind.strip_suffix("List").is_some_and(|kind| wanted.contains(&kind));
    match document.get("items").and_then(Value::as_array) {
        Some(items) if lists => items.iter().collect(),
        None if lists => Vec::new(),
        _ => vec![document],
    }
}

fn accept(document: &Value, wanted: &[&str], kinds: &dyn Kinds) -> Result<Object, String> {
    let object = kinds.accept(document)?;
    if !wanted.contains(&object.kind()) {
        let version = object.api_version().rsplit('/').next().unwrap_or_default();
        return Err(format!("unsupported resource type *{version}.{}", object.kind()));
    }
    Ok(object)
}

/// `ValidateManifestName`.
fn named(object: &Object, path: &Path, seen: &mut HashMap<(bool, String), PathBuf>) -> Result<(), String> {
    let name = object.name();
    if name.is_empty() {
        return Err(format!("resource in file {path:?} must have a name"));
    }
    if !name.ends_with(SUFFIX) {
        return Err(format!("{name:?} in file {path:?} must have a name ending with {SUFFIX:?}"));
    }
    let key = (object.kind().ends_with("Binding"), name.to_owned());
    match seen.insert(key, path.to_owned()) {
        None => Ok(()),
        Some(before) => Err(format!("duplicate name {name:?} found in file {path:?} (previously seen in {before:?})")),
    }
}

/// What such objects must not say: they depend on nothing that the API keeps (`validateWebhookClientConfigs`,
/// `validatePolicyManifestConstraints`).
fn constrained(object: &Object, path: &Path) -> Result<(), String> {
    let (kind, name) = (object.kind(), object.name());
    for hook in object.array(&["webhooks"]) {
        let hook_name = hook.get("name").and_then(Value::as_str).unwrap_or_default();
        let client = hook.get("clientConfig").unwrap_or(&Value::Null);
        let prefix = format!("webhook {hook_name:?} in {name:?} (file {path:?}): clientConfig.");
        if client.get("service").is_some_and(Value::is_object) {
            return Err(format!("{prefix}service is not supported for static manifests; use clientConfig.url instead"));
        }
        if client.get("url").and_then(Value::as_str).unwrap_or_default().is_empty() {
            return Err(format!("{prefix}url is required for static manifests"));
        }
    }
    if object.get(&["spec", "paramKind"]).is_some_and(Value::is_object) {
        return Err(format!("{kind} {name:?}: spec.paramKind is not supported for static manifests"));
    }
    if kind.ends_with("Binding") {
        let policy = object.str(&["spec", "policyName"]).unwrap_or_default();
        if !policy.ends_with(SUFFIX) {
            return Err(format!("binding {name:?}: spec.policyName {policy:?} must end with {SUFFIX:?}"));
        }
        if object.get(&["spec", "paramRef"]).is_some_and(Value::is_object) {
            return Err(format!("binding {name:?}: spec.paramRef is not supported for static manifests"));
        }
    }
    Ok(())
}
