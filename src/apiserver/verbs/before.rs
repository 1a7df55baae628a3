//! What happens to every object before it is stored (apiserver `registry/rest/create.go` `BeforeCreate` and `update.go`
//! `BeforeUpdate`).

use api::field::{Error, ErrorList, Path};
use api::kind::{KindDef, RequestContext, Strategy, SubresourceKind};
use api::{Object, Status};
use jiff::Timestamp;
use rand::Rng;

/// Length of the random part of a generated name, and where the name is cut before it.
const SUFFIX_LENGTH: usize = 5;
const GENERATED_BASE_MAX: usize = 63 - SUFFIX_LENGTH;
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// RFC 3339 in seconds, as `metav1.Time` prints.
pub fn time(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `names.SimpleNameGenerator`.
pub fn generate_name(base: &str) -> String {
    let cut = base.char_indices().map(|(at, c)| at + c.len_utf8()).take_while(|end| *end <= GENERATED_BASE_MAX).last();
    let mut rng = rand::rng();
    let suffix: String =
        (0..SUFFIX_LENGTH).map(|_| char::from(SUFFIX_LETTERS[rng.random_range(0..SUFFIX_LETTERS.len())])).collect();
    format!("{}{suffix}", &base[..cut.unwrap_or(0)])
}

/// `rest.WipeObjectMetaSystemFields`: what clients may not bring along.
pub fn wipe_system_fields(object: &mut Object) {
    for field in ["creationTimestamp", "uid", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        object.remove(&["metadata", field]);
    }
}

/// `rest.FillObjectMetaSystemFields`, and the name if it is to be generated.
pub fn fill_system_fields(def: &KindDef, object: &mut Object, now: Timestamp) {
    object.set(&["metadata", "creationTimestamp"], time(now));
    object.set(&["metadata", "uid"], uuid::Uuid::new_v4().to_string());
    if object.name().is_empty()
        && let Some(base) = object.str(&["metadata", "generateName"]).filter(|b| !b.is_empty())
    {
        let name = if def.strategy.adds_to_names() { generate_name(base) } else { base.to_owned() };
        object.set(&["metadata", "name"], name);
    }
}

/// `rest.EnsureObjectNamespaceMatchesRequestNamespace`.
pub fn ensure_namespace(def: &KindDef, namespace: &str, object: &mut Object) -> Result<(), Status> {
    let expected = if def.namespaced { namespace } else { "" };
    match object.namespace() {
        found if found == expected => {
            if expected.is_empty() {
                object.remove(&["metadata", "namespace"]);
            }
            Ok(())
        }
        "" => {
            object.set(&["metadata", "namespace"], expected);
            Ok(())
        }
        // A namespace on a cluster-scoped object is dropped without a word.
        _ if expected.is_empty() => {
            object.remove(&["metadata", "namespace"]);
            Ok(())
        }
        _ => Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        )),
    }
}

/// Upstream's last line of defence on names (`path.IsValidPathSegmentName`).
fn validate_path_segment(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name == "." || name == ".." {
        problems.push(format!("may not be '{name}'"));
    }
    for bad in ["/", "%"] {
        if name.contains(bad) {
            problems.push(format!("may not contain '{bad}'"));
        }
    }
    problems
}

/// Readies a new object for the store.
pub fn before_create(def: &KindDef, ctx: &RequestContext<'_>, object: &mut Object) -> Result<Vec<String>, Status> {
    if def.has_status() && !def.strategy.keeps_status_on_create() {
        object.remove(&["status"]);
    }
    if def.has_generation {
        object.set(&["metadata", "generation"], 1);
    }
    def.strategy.prepare_for_create(ctx, object);
    let path = Path::new("metadata");
    let rule = |name: &str, prefix: bool| def.strategy.validate_name(name, prefix);
    // Of what is no object of its kind nothing else is said (apiextensions `customResourceValidator.Validate`).
    let is_other = def.custom.is_some() && object.kind() != def.gvk.kind;
    let mut errors = match is_other {
        true => ErrorList::new(),
        false => api::meta::validate_object_meta(object, def.namespaced, &rule, &path),
    };
    errors.extend(def.strategy.validate(ctx, object));
    if errors.is_empty() {
        // The last line of defence, for kinds that check less.
        let rule = |name: &str, _: bool| validate_path_segment(name);
        errors = api::meta::validate_object_meta(object, def.namespaced, &rule, &path);
    }
    invalid(def, object, &errors)?;
    canonicalise(def, object)?;
    Ok(def.strategy.warnings(object, None))
}

/// Brings an object into the form that Go would print, so that what strategies and plugins made of it is stored as
/// upstream stores it (`status: {}` of kinds whose status is no pointer).
fn canonicalise(def: &KindDef, object: &mut Object) -> Result<(), Status> {
    if def.custom.is_some() {
        return Ok(());
    }
    api::codec::normalize(&def.schema, object).map_err(Status::internal)?;
    empty_as_stored(def, object);
    Ok(())
}

/// What protobuf, in which upstream stores, cannot tell apart is the same.
fn empty_as_stored(def: &KindDef, object: &mut Object) {
    if def.custom.is_none() && !JSON_GROUPS.contains(&def.gvk.group.as_str()) {
        api::schema::walk::empty_as_nil(&def.schema, object);
    }
}

/// Groups that upstream stores as JSON; all others of its own are protobuf.
const JSON_GROUPS: [&str; 2] = ["apiextensions.k8s.io", "apiregistration.k8s.io"];

/// Which rules an update follows.
pub enum Part<'a> {
    Main,
    Status,
    View(&'a dyn Strategy),
}

impl<'a> Part<'a> {
    /// The part that a subresource stands for; `None` for those that are no view of the object.
    pub fn of(kind: &'a SubresourceKind) -> Option<Self> {
        match kind {
            SubresourceKind::Status => Some(Self::Status),
            SubresourceKind::View(strategy) => Some(Self::View(&**strategy)),
            SubresourceKind::Scale(_) | SubresourceKind::Action(_) | SubresourceKind::Connect(_) => None,
        }
    }
}

/// Undoes what this part of the object may not change at all: status through the main resource, the rest through
/// status. As upstream after ownership and mutating admission, which see what the client sent.
fn restrict(def: &KindDef, part: &Part<'_>, object: &mut Object, old: &Object) {
    match part {
        Part::Main if def.has_status() => {
            match old.get(&["status"]) {
                Some(status) => object.set(&["status"], status.clone()),
                None => drop(object.remove(&["status"])),
            };
        }
        Part::Main | Part::View(_) => {}
        Part::Status => {
            let mut whole = old.clone();
            match object.remove(&["status"]) {
                Some(status) => whole.set(&["status"], status),
                None => drop(whole.remove(&["status"])),
            };
            match def.status_keeps.members() {
                None => {
                    for field in ["managedFields", "resourceVersion"] {
                        copy(&mut whole, object, field);
                    }
                }
                Some(kept) => {
                    if let Some(metadata) = object.remove(&["metadata"]) {
                        whole.set(&["metadata"], metadata);
                    }
                    for field in kept {
                        copy(&mut whole, old, field);
                    }
                }
            }
            *object = whole;
        }
    }
}

/// Readies a changed object for the store.
pub fn before_update(
    def: &KindDef,
    part: &Part<'_>,
    ctx: &RequestContext<'_>,
    object: &mut Object,
    old: &Object,
) -> Result<Vec<String>, Status> {
    restrict(def, part, object, old);
    copy(object, old, "generation");
    // These strategies count what they then drop.
    let counted = matches!(part, Part::Main)
        && matches!(def.gvk.kind.as_str(), "ResourceSlice" | "EndpointSlice")
        && def.custom.is_none()
        && differs_as_stored(def, object, old);
    match part {
        Part::Main => def.strategy.prepare_for_update(ctx, object, old),
        Part::Status => def.strategy.prepare_for_status_update(ctx, object, old),
        Part::View(strategy) => strategy.prepare_for_update(ctx, object, old),
    }
    if object.uid().is_empty() {
        copy(object, old, "uid");
    }
    if old.get(&["metadata", "creationTimestamp"]).is_some() {
        copy(object, old, "creationTimestamp");
    }
    if old.is_deleting() {
        copy(object, old, "deletionTimestamp");
    }
    if object.get(&["metadata", "deletionGracePeriodSeconds"]).is_none() {
        copy(object, old, "deletionGracePeriodSeconds");
    }
    // Validation sees what is empty as it was sent, and prints it so.
    if def.has_generation && !matches!(part, Part::Status) && (counted || generation_counts(def, object, old)) {
        object.set(&["metadata", "generation"], old.generation() + 1);
    }
    let path = Path::new("metadata");
    let rule = |name: &str, _: bool| validate_path_segment(name);
    let mut errors = api::meta::validate_object_meta(object, def.namespaced, &rule, &path);
    let of_update = api::meta::validate_object_meta_update(object, old, &path);
    if repeats(def) {
        // The validators of these look at the metadata once more.
        errors.extend(of_update.iter().cloned());
    }
    errors.extend(of_update);
    if let Some(base) = object.str(&["metadata", "generateName"]).filter(|base| !base.is_empty())
        && matches!(part, Part::Main)
        && def.rechecks_names
    {
        let problems = def.strategy.validate_name(base, true);
        errors.extend(problems.into_iter().map(|p| Error::invalid(path.child("generateName"), base, p)));
    }
    errors.extend(match part {
        Part::Main => def.strategy.validate_update(ctx, object, old),
        Part::Status => def.strategy.validate_status_update(ctx, object, old),
        Part::View(strategy) => strategy.validate_update(ctx, object, old),
    });
    invalid(def, object, &errors)?;
    canonicalise(def, object)?;
    Ok(match part {
        Part::Main => def.strategy.warnings(object, Some(old)),
        Part::Status => Vec::new(),
        Part::View(strategy) => strategy.warnings(object, Some(old)),
    })
}

fn copy(object: &mut Object, old: &Object, field: &str) {
    match old.get(&["metadata", field]) {
        Some(value) => object.set(&["metadata", field], value.clone()),
        None => drop(object.remove(&["metadata", field])),
    }
}

/// Whether what `metadata.generation` counts has changed: all but metadata and, of built-in kinds, status.
fn differs(def: &KindDef, object: &Object, old: &Object) -> bool {
    let custom = def.custom.is_some();
    let counts = |key: &&String| match key.as_str() {
        "metadata" | "apiVersion" | "kind" => false,
        "status" => custom,
        _ => true,
    };
    object.0.keys().chain(old.0.keys()).filter(counts).any(|key| object.0.get(key) != old.0.get(key))
}

/// What [`differs`] says of an object as the store would keep it.
fn differs_as_stored(def: &KindDef, object: &Object, old: &Object) -> bool {
    differs(def, object, old) && {
        let mut kept = object.clone();
        empty_as_stored(def, &mut kept);
        differs(def, &kept, old)
    }
}

fn generation_counts(def: &KindDef, object: &Object, old: &Object) -> bool {
    if def.strategy.counts_empty() { differs(def, object, old) } else { differs_as_stored(def, object, old) }
}

/// Kinds whose problems are told as often as they are found.
fn repeats(def: &KindDef) -> bool {
    def.custom.is_some() || JSON_GROUPS.contains(&def.gvk.group.as_str())
}

fn invalid(def: &KindDef, object: &Object, errors: &ErrorList) -> Result<(), Status> {
    if errors.is_empty() {
        return Ok(());
    }
    // What several layers find is said once (`rest/validate.go`, `dedupedImperativeErrs`), of kinds with declarative
    // validation: not of custom resources, definitions and API services.
    let repeats = repeats(def);
    let mut once = ErrorList::with_capacity(errors.len());
    for error in errors {
        if repeats || !once.contains(error) {
            once.push(error.clone());
        }
    }
    // Strategies check the stored kind, which for events.k8s.io is the core group's.
    let gvk = def.storage.as_ref().filter(|_| def.custom.is_none()).map_or(&def.gvk, |storage| &storage.gvk);
    let kind = if def.custom.is_some() { object.kind() } else { &gvk.kind };
    Err(Status::invalid(&gvk.group, kind, object.name(), &once))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit_a_label() {
        let name = generate_name(&"a".repeat(80));
        assert_eq!(name.len(), 63);
        assert!(generate_name("web-").starts_with("web-"));
        assert!(generate_name("web-")[4..].bytes().all(|b| SUFFIX_LETTERS.contains(&b)));
    }
}
