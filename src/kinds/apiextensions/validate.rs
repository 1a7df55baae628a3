//! Problems of a definition (apiextensions-apiserver `apis/apiextensions/validation`).

mod conversion;
mod expressions;
mod schema;
mod structure;

use std::collections::BTreeSet;

use api::Object;
use api::field::{Error, ErrorList, Path};
use api::structural::rules::field_path;
use api::structural::{Structural, Ty, defaults, formats};
use api::validation::{dns1035_label, dns1123_subdomain};
use serde_json::Value;

pub(super) use conversion::ca_bundle_is_good;
use conversion::is_known_review;

use super::conditions;
use crate::json::{Json, dig, same};
use crate::printed::Printed;

const SELECTABLE_FIELDS_MAX: usize = 8;

/// The annotation that approves definitions in Kubernetes' own groups.
pub(super) const APPROVED: &str = "api-approved.kubernetes.io";

/// What the approval annotation says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Approval {
    Invalid,
    Approved,
    Bypassed,
    Missing,
}

/// `IsProtectedCommunityGroup`.
pub(super) fn is_protected_group(group: &str) -> bool {
    ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|own| group.strip_suffix(own).is_some_and(|g| g.is_empty() || g.ends_with('.')))
}

/// `GetAPIApprovalState`: the state and why.
pub(super) fn approval(annotation: &str) -> (Approval, String) {
    const SEE: &str = "see https://github.com/kubernetes/enhancements/pull/1111";
    let has_host = |text: &str| {
        text.split_once("://").is_some_and(|(scheme, rest)| {
            !scheme.is_empty() && !rest.split(['/', '?', '#']).next().unwrap_or_default().is_empty()
        })
    };
    if annotation.is_empty() {
        let text = format!("protected groups must have approval annotation {APPROVED:?}, {SEE}");
        (Approval::Missing, text)
    } else if annotation.starts_with("unapproved") {
        (Approval::Bypassed, format!("not approved: {annotation:?}"))
    } else if has_host(annotation) {
        (Approval::Approved, format!("approved in {annotation}"))
    } else {
        let text = format!(
            "protected groups must have approval annotation {APPROVED:?} with either a URL or a reason starting with \
             \"unapproved\", {SEE}"
        );
        (Approval::Invalid, text)
    }
}

/// What is demanded of a definition; less of one that was stored before the demand was made.
#[derive(Debug, Clone)]
struct Options {
    review_version: bool,
    immutable_names: bool,
    schema: bool,
    valid_types: bool,
    structural: bool,
    pruned_defaults: bool,
    atomic_sets: bool,
    map_keys: bool,
    bad_ca_bundle: bool,
    /// Versions whose schemas have not changed.
    unchanged: BTreeSet<String>,
    /// Versions whose many selectable fields have not changed.
    many_selectable: BTreeSet<String>,
}

fn versions(object: &Object) -> &[Value] {
    object.at("spec").list("versions")
}

fn schema_of(version: &Value) -> &Value {
    version.at("schema").at("openAPIV3Schema")
}

/// Whether all versions have the same value in a member: then upstream keeps it once, and its paths say so.
fn shared(object: &Object, member: &str) -> bool {
    let all = versions(object);
    all.first().is_some_and(|first| all.iter().all(|v| same(v.at(member), first.at(member))))
}

/// Where upstream's internal form has a member of a version.
fn place(object: &Object, index: usize, member: &str, internal: &str) -> Path {
    let spec = Path::new("spec");
    if shared(object, member) { spec.child(internal) } else { spec.child("versions").index(index).child(member) }
}

/// What keeps the schemas of a definition from being structural.
pub(super) fn structural_problems(definition: &Object) -> Vec<String> {
    let mut problems = Vec::new();
    if definition.at("spec").flag("preserveUnknownFields") {
        let at = Path::new("spec").child("preserveUnknownFields");
        problems.push(Error::invalid(at, true, "must be false").to_string());
    }
    for (index, version) in versions(definition).iter().enumerate() {
        let schema = schema_of(version);
        if schema.is_object() {
            let at = Path::new("spec").child("versions").index(index).child("schema").child("openAPIV3Schema");
            problems.extend(structure::validate(schema, &at).iter().map(ToString::to_string));
        }
    }
    problems
}

pub(super) fn create(object: &Object) -> ErrorList {
    let options = Options {
        review_version: true,
        immutable_names: false,
        schema: true,
        valid_types: true,
        structural: true,
        pruned_defaults: true,
        atomic_sets: true,
        map_keys: true,
        bad_ca_bundle: true,
        unchanged: BTreeSet::new(),
        many_selectable: BTreeSet::new(),
    };
    let mut errors = ErrorList::new();
    let spec = object.at("spec");
    let wanted = format!("{}.{}", spec.at("names").text("plural"), spec.text("group"));
    let base = object.at("metadata").text("generateName");
    if !base.is_empty() && base != wanted {
        let text = "must be spec.names.plural+\".\"+spec.group";
        errors.push(Error::invalid(Path::new("metadata").child("generateName"), base, text));
    }
    if !object.name().is_empty() && object.name() != wanted {
        let text = "must be spec.names.plural+\".\"+spec.group";
        errors.push(Error::invalid(Path::new("metadata").child("name"), object.name(), text));
    }
    errors.extend(spec_problems(object, &options));
    errors.extend(names(dig(object, &["status", "acceptedNames"]), &Path::new("status").child("acceptedNames")));
    errors.extend(stored_versions(object));
    errors.extend(approval_problems(object, None));
    errors.extend(preserve_problems(object, None));
    errors
}

pub(super) fn update(object: &Object, old: &Object) -> ErrorList {
    let all = |test: &dyn Fn(&Value) -> bool| versions(old).iter().all(|v| test(schema_of(v)));
    let none = |test: &dyn Fn(&Value) -> bool| versions(old).iter().all(|v| !schema::any(schema_of(v), test));
    let old_reviews = dig(old, &["spec", "conversion", "webhook"]).list("conversionReviewVersions");
    let established = conditions::is_true(old, "Established");
    let old_bundle = dig(old, &["spec", "conversion", "webhook", "clientConfig"]).text("caBundle");
    let options = Options {
        review_version: old_reviews.is_empty() || old_reviews.iter().any(is_known_review),
        immutable_names: established,
        schema: all(&Value::is_object),
        valid_types: none(&|s| !s.text("type").is_empty() && Ty::parse(s.text("type")) == Ty::Any),
        structural: all(&|s| !s.is_object() || structure::validate(s, &Path::default()).is_empty()),
        pruned_defaults: all(&|s| {
            let before = Structural::parse(s);
            let mut after = before.clone();
            defaults::prune_defaults(&mut after);
            before == after
        }),
        atomic_sets: none(&|s| {
            let items = s.at("items");
            s.text("x-kubernetes-list-type") == "set"
                && match items.text("type") {
                    "array" => !matches!(items.text("x-kubernetes-list-type"), "" | "atomic"),
                    "object" => items.text("x-kubernetes-map-type") != "atomic",
                    _ => false,
                }
        }),
        map_keys: none(&|s| !schema::nullable_keys(s, &Path::default()).is_empty()),
        bad_ca_bundle: !established || (!old_bundle.is_empty() && !ca_bundle_is_good(old_bundle)),
        unchanged: versions(old)
            .iter()
            .filter(|v| versions(object).iter().any(|n| n.at("name") == v.at("name") && schema_of(n) == schema_of(v)))
            .map(|v| v.text("name").to_owned())
            .collect(),
        many_selectable: versions(old)
            .iter()
            .filter(|v| v.count("selectableFields") > SELECTABLE_FIELDS_MAX)
            .filter(|v| {
                let same_name = |n: &&Value| n.text("name") == v.text("name");
                versions(object)
                    .iter()
                    .find(same_name)
                    .is_some_and(|n| n.at("selectableFields") == v.at("selectableFields"))
            })
            .map(|v| v.text("name").to_owned())
            .collect(),
    };
    let mut errors = spec_problems(object, &options);
    let (new_spec, old_spec) = (object.at("spec"), old.at("spec"));
    let at = Path::new("spec");
    let mut fixed = |path: Path, new: &Value, old: &Value| {
        if new != old {
            errors.push(Error::invalid(path, new.clone(), "field is immutable"));
        }
    };
    if options.immutable_names {
        fixed(at.child("scope"), new_spec.at("scope"), old_spec.at("scope"));
        let kind = at.child("names").child("kind");
        fixed(kind, new_spec.at("names").at("kind"), old_spec.at("names").at("kind"));
    }
    fixed(at.child("group"), new_spec.at("group"), old_spec.at("group"));
    let plural = at.child("names").child("plural");
    fixed(plural, new_spec.at("names").at("plural"), old_spec.at("names").at("plural"));
    errors.extend(status(object, old));
    errors.extend(stored_versions(object));
    errors.extend(approval_problems(object, Some(old)));
    errors.extend(preserve_problems(object, Some(old)));
    errors
}

pub(super) fn status(object: &Object, _old: &Object) -> ErrorList {
    names(dig(object, &["status", "acceptedNames"]), &Path::new("status").child("acceptedNames"))
}

/// Formats that say nothing and sets of what is no scalar, which were not there before.
pub(super) fn warnings(object: &Object, old: Option<&Object>) -> Vec<String> {
    let mut all = new_texts(object, old, &|schema, found| {
        let format = schema.text("format");
        if !format.is_empty() && !formats::is_recognised(schema.text("type"), format) {
            found.push(format!("unrecognized format {format:?}"));
        }
    });
    let mut sets = new_texts(object, old, &|schema, found| {
        let item = schema.at("items").text("type");
        if schema.text("x-kubernetes-list-type") == "set" && matches!(item, "object" | "array") {
            found.push(format!(
                "x-kubernetes-list-type: set for items of type {item:?} is not supported by server-side apply or CEL \
                 validation rules"
            ));
        }
    });
    sets.sort();
    sets.dedup();
    all.extend(sets);
    all
}

fn new_texts(object: &Object, old: Option<&Object>, look: &dyn Fn(&Value, &mut Vec<String>)) -> Vec<String> {
    let texts = |object: &Object| {
        let found = std::cell::RefCell::new(Vec::new());
        let shared = shared(object, "schema");
        for version in versions(object).iter().take(if shared { 1 } else { usize::MAX }) {
            schema::any(schema_of(version), &|s| {
                look(s, &mut found.borrow_mut());
                false
            });
        }
        found.into_inner()
    };
    let before = old.map(texts).unwrap_or_default();
    texts(object).into_iter().filter(|text| !before.contains(text)).collect()
}

/// `validateCustomResourceDefinitionSpec`.
fn spec_problems(object: &Object, options: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    let spec = object.at("spec");
    let at = Path::new("spec");
    let mut options = options.clone();
    let group = spec.text("group");
    let group_problems = dns1123_subdomain(group, false);
    if group.is_empty() {
        errors.push(Error::required(at.child("group"), ""));
    } else if !group_problems.is_empty() {
        errors.push(Error::invalid(at.child("group"), group, group_problems.join(",")));
    } else if !group.contains('.') {
        errors.push(Error::invalid(at.child("group"), group, "should be a domain with at least one dot"));
    }
    crate::checks::one_of(&mut errors, at.child("scope"), spec.text("scope"), &["Cluster", "Namespaced"]);
    let preserves = spec.flag("preserveUnknownFields");
    options.structural |= !preserves;
    let all = versions(object);
    for (index, version) in all.iter().enumerate().filter(|(_, v)| !schema_of(v).is_object()) {
        let at = at.child("versions").index(index).child("schema").child("openAPIV3Schema");
        if options.schema {
            errors.push(Error::required(at, ""));
        } else if !preserves && version.flag("served") {
            errors.push(Error::required(at, "because otherwise all fields are pruned"));
        }
    }
    let holds = |test: &dyn Fn(&Value) -> bool| all.iter().any(|v| schema::any(schema_of(v), test));
    if holds(&|s| s.has("default")) {
        options.structural = true;
        if preserves {
            let text = "must be false in order to use defaults in the schema";
            errors.push(Error::invalid(at.child("preserveUnknownFields"), true, text));
        }
    }
    options.structural |= holds(&|s| s.as_object().is_some_and(|m| m.keys().any(|k| k.starts_with("x-kubernetes-"))));
    let mut seen = BTreeSet::new();
    let mut unique = true;
    for (index, version) in all.iter().enumerate() {
        let name = version.text("name");
        unique &= seen.insert(name);
        let problems = dns1035_label(name, false);
        if !problems.is_empty() {
            let at = at.child("versions").index(index).child("name");
            errors.push(Error::invalid(at, name, problems.join(",")));
        }
        errors.extend(deprecation(version, &at.child("versions").index(index).child("deprecationWarning")));
        let mut member = |member: &str, internal: &str, check: &dyn Fn(&Path) -> ErrorList| {
            if index == 0 || !shared(object, member) {
                errors.extend(check(&place(object, index, member, internal)));
            }
        };
        let status = version.at("subresources").has("status");
        member("schema", "validation", &|at| {
            schema_problems(schema_of(version), status, at, &options, options.unchanged.contains(name))
        });
        member("subresources", "subresources", &|at| subresources(version.at("subresources"), at));
        member("additionalPrinterColumns", "additionalPrinterColumns", &|at| {
            let columns = version.list("additionalPrinterColumns");
            columns.iter().enumerate().flat_map(|(i, c)| column(c, &at.index(i))).collect()
        });
        member("selectableFields", "selectableFields", &|at| selectable(version, at, &options));
    }
    let versions_invalid = |text: &str| {
        Error::invalid(at.child("versions"), internal_versions(object), text)
            .printed("[]apiextensions.CustomResourceDefinitionVersion")
    };
    if !unique {
        errors.push(versions_invalid("must contain unique version names"));
    }
    if all.iter().filter(|v| v.flag("storage")).count() != 1 {
        errors.push(versions_invalid("must have exactly one version marked as storage version"));
    }
    // The internal type has the first version's name once more.
    let first = all.first().map_or("", |version| version.text("name"));
    let problems = dns1035_label(first, false);
    if !first.is_empty() && !problems.is_empty() {
        errors.push(Error::invalid(at.child("version"), first, problems.join(",")));
    }
    for member in ["plural", "singular", "kind", "listKind"] {
        if spec.at("names").text(member).is_empty() {
            errors.push(Error::required(at.child("names").child(member), ""));
        }
    }
    errors.extend(names(spec.at("names"), &at.child("names")));
    errors.extend(conversion::problems(spec, &options));
    errors
}

/// The versions as the internal type has them: what all have alike stands once, outside of them.
fn internal_versions(object: &Object) -> Value {
    let mut all = object.at("spec").at("versions").clone();
    for member in ["schema", "subresources", "additionalPrinterColumns", "selectableFields"] {
        if shared(object, member) {
            for version in all.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
                version.remove(member);
            }
        }
    }
    all
}

/// `ValidateCustomResourceDefinitionNames`.
fn names(names: &Value, at: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for member in ["plural", "singular"] {
        let name = names.text(member);
        let problems = dns1035_label(name, false);
        if !name.is_empty() && !problems.is_empty() {
            errors.push(Error::invalid(at.child(member), name, problems.join(",")));
        }
    }
    for member in ["kind", "listKind"] {
        let name = names.text(member);
        let problems = dns1035_label(&name.to_lowercase(), false);
        if !name.is_empty() && !problems.is_empty() {
            let text = format!("may have mixed case, but should otherwise match: {}", problems.join(","));
            errors.push(Error::invalid(at.child(member), name, text));
        }
    }
    labels(names, "shortNames", at, &mut errors);
    let kind = names.text("kind");
    if !kind.is_empty() && kind == names.text("listKind") {
        errors.push(Error::invalid(at.child("listKind"), kind, "kind and listKind may not be the same"));
    }
    labels(names, "categories", at, &mut errors);
    errors
}

fn labels(names: &Value, member: &str, at: &Path, errors: &mut ErrorList) {
    for (index, name) in names.list(member).iter().filter_map(Value::as_str).enumerate() {
        let problems = dns1035_label(name, false);
        if !problems.is_empty() {
            errors.push(Error::invalid(at.child(member).index(index), name, problems.join(",")));
        }
    }
}

/// `validateDeprecationWarning`.
fn deprecation(version: &Value, at: &Path) -> ErrorList {
    let Some(warning) = version.at("deprecationWarning").as_str() else { return ErrorList::new() };
    let mut problems = Vec::new();
    if !version.flag("deprecated") {
        problems.push("can only be set for deprecated versions".to_owned());
    } else {
        if warning.len() > 256 {
            problems.push("must be <= 256 characters long".to_owned());
        }
        if warning.is_empty() {
            problems.push("must not be an empty string".to_owned());
        }
        if let Some((index, _)) =
            warning.char_indices().find(|(_, c)| c.is_control() || (c.is_whitespace() && *c != ' '))
        {
            problems.push(format!(
                "must only contain printable UTF-8 characters; non-printable character found at index {index}"
            ));
        }
    }
    problems.into_iter().map(|text| Error::invalid(at.clone(), warning, text)).collect()
}

/// Members that a root schema may have beside a status of its own, by upstream's field names.
const ROOT_FIELDS: &[(&str, &str)] = &[
    ("description", "Description"),
    ("type", "Type"),
    ("format", "Format"),
    ("title", "Title"),
    ("maximum", "Maximum"),
    ("exclusiveMaximum", "ExclusiveMaximum"),
    ("minimum", "Minimum"),
    ("exclusiveMinimum", "ExclusiveMinimum"),
    ("maxLength", "MaxLength"),
    ("minLength", "MinLength"),
    ("pattern", "Pattern"),
    ("maxItems", "MaxItems"),
    ("minItems", "MinItems"),
    ("uniqueItems", "UniqueItems"),
    ("multipleOf", "MultipleOf"),
    ("required", "Required"),
    ("items", "Items"),
    ("properties", "Properties"),
    ("externalDocs", "ExternalDocs"),
    ("example", "Example"),
    ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
    ("x-kubernetes-validations", "XValidations"),
];

/// `validateCustomResourceDefinitionValidation`. `at` is where the schema's holder stands; `unchanged`: the schema was
/// stored as it is.
fn schema_problems(schema: &Value, status: bool, at: &Path, options: &Options, unchanged: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(map) = schema.as_object() else { return errors };
    let at = at.child("openAPIV3Schema");
    if status {
        for key in map.keys() {
            if key == "type" && schema.text("type") != "object" {
                let text = "only \"object\" is allowed as the type at the root of the schema if the status subresource \
                            is enabled";
                errors.push(Error::invalid(at.child("type"), schema.text("type"), text));
                break;
            }
            if !ROOT_FIELDS.iter().any(|(name, _)| name == key) {
                let known: Vec<&str> = ROOT_FIELDS.iter().map(|(_, go)| *go).collect();
                let text = format!(
                    "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                    known.join(" ")
                );
                errors.push(Error::invalid(at.clone(), schema.clone(), text));
                break;
            }
        }
    }
    if schema.flag("nullable") {
        errors.push(Error::forbidden(at.child("nullable"), "nullable cannot be true at the root"));
    }
    let unsupported = schema::unsupported(schema).filter(|_| options.structural);
    if options.structural && unsupported.is_none() {
        let problems = structure::validate(schema, &at);
        if problems.is_empty() {
            errors.extend(schema::defaults(schema, &at, options.pruned_defaults));
        } else {
            errors.extend(problems);
        }
    }
    errors.extend(schema::open_api(schema, &at, options));
    if errors.is_empty()
        && let Some(name) = unsupported
    {
        errors.push(Error::invalid(at.clone(), "", format!("OpenAPIV3Schema '{name}' is not supported")));
    }
    if options.structural && errors.is_empty() {
        errors.extend(expressions::validate(schema, &at, unchanged));
    }
    errors
}

fn simple_path(path: &str, at: &Path) -> Option<Error> {
    match path.chars().next() {
        None => Some(Error::invalid(at.clone(), path, "must not be empty")),
        Some('.') => None,
        Some(_) => Some(Error::invalid(at.clone(), path, "must be a simple json path starting with .")),
    }
}

/// `ValidateCustomResourceDefinitionSubresources`.
fn subresources(subresources: &Value, at: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let scale = subresources.at("scale");
    if scale.is_null() {
        return errors;
    }
    for (member, parent) in [("specReplicasPath", "spec"), ("statusReplicasPath", "status")] {
        let path = scale.text(member);
        let at = at.child("scale").child(member);
        if path.is_empty() {
            errors.push(Error::required(at, ""));
        } else if let Some(error) = simple_path(path, &at) {
            errors.push(error);
        } else if !path.starts_with(&format!(".{parent}.")) {
            errors.push(Error::invalid(at, path, format!("should be a json path under .{parent}")));
        }
    }
    let path = scale.text("labelSelectorPath");
    if !path.is_empty() {
        let at = at.child("scale").child("labelSelectorPath");
        if let Some(error) = simple_path(path, &at) {
            errors.push(error);
        } else if !path.starts_with(".spec.") && !path.starts_with(".status.") {
            errors.push(Error::invalid(at, path, "should be a json path under either .spec or .status"));
        }
    }
    errors
}

/// `ValidateCustomResourceColumnDefinition`.
fn column(column: &Value, at: &Path) -> ErrorList {
    const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];
    const FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
    let mut errors = ErrorList::new();
    if column.text("name").is_empty() {
        errors.push(Error::required(at.child("name"), ""));
    }
    let one_of = |known: &[&str]| format!("must be one of {}", known.join(","));
    match column.text("type") {
        "" => errors.push(Error::required(at.child("type"), one_of(TYPES))),
        ty if !TYPES.contains(&ty) => errors.push(Error::invalid(at.child("type"), ty, one_of(TYPES))),
        _ => {}
    }
    match column.text("format") {
        "" => {}
        format if FORMATS.contains(&format) => {}
        format => errors.push(Error::invalid(at.child("format"), format, one_of(FORMATS))),
    }
    match column.text("jsonPath") {
        "" => errors.push(Error::required(at.child("JSONPath"), "")),
        path => errors.extend(simple_path(path, &at.child("JSONPath"))),
    }
    errors
}

/// `ValidateCustomResourceSelectableFields`.
fn selectable(version: &Value, at: &Path, options: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    let fields = version.list("selectableFields");
    if fields.is_empty() {
        return errors;
    }
    if !schema_of(version).is_object() {
        let text = "may only be set when validations.schema is included";
        errors.push(Error::invalid(at.clone(), "", text));
        return errors;
    }
    let schema = Structural::parse(schema_of(version));
    let mut seen = BTreeSet::new();
    for (index, field) in fields.iter().enumerate() {
        let at = at.index(index).child("jsonPath");
        let path = field.text("jsonPath");
        if path.is_empty() {
            errors.push(Error::required(at, ""));
            continue;
        }
        match field_path(&schema, path, false) {
            Err(why) => errors.push(Error::invalid(at, path, format!("is an invalid path: {why}"))),
            Ok((names, found)) => {
                if names.first().is_some_and(|n| n == "metadata") {
                    errors.push(Error::invalid(at.clone(), path, "must not point to fields in metadata"));
                }
                if !matches!(found.ty, Ty::String | Ty::Boolean | Ty::Integer) {
                    let text = "must point to a field of type string, boolean or integer. Enum string fields and \
                                strings with formats are allowed.";
                    errors.push(Error::invalid(at.clone(), path, text));
                }
                if !seen.insert(names) {
                    errors.push(Error::duplicate(at, path));
                }
            }
        }
    }
    if seen.len() > SELECTABLE_FIELDS_MAX && !options.many_selectable.contains(version.text("name")) {
        errors.push(Error::too_many(at.clone(), seen.len(), SELECTABLE_FIELDS_MAX));
    }
    errors
}

/// `ValidateCustomResourceDefinitionStoredVersions`.
fn stored_versions(object: &Object) -> ErrorList {
    let at = Path::new("status").child("storedVersions");
    let stored = object.at("status").list("storedVersions");
    let shown = || Value::from(stored.to_vec());
    if stored.is_empty() {
        return vec![Error::invalid(at, Value::Null, "must have at least one stored version")];
    }
    let mut errors = ErrorList::new();
    for (index, version) in versions(object).iter().enumerate().filter(|(_, v)| v.flag("storage")) {
        // A name is found once.
        let again = versions(object).iter().take(index).any(|v| v.at("name") == version.at("name"));
        if again || !stored.contains(version.at("name")) {
            let text = format!("must have the storage version {}", version.text("name"));
            errors.push(Error::invalid(at.clone(), shown(), text));
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if versions(object).iter().any(|v| v.at("name") == name) {
            continue;
        }
        let v = name.as_str().unwrap_or_default();
        let text = format!(
            "missing from spec.versions; {v} was previously a storage version, and must remain in spec.versions until a \
             storage migration ensures no data remains persisted in {v} and removes {v} from status.storedVersions"
        );
        errors.push(Error::invalid(at.index(index), v, text));
    }
    errors
}

/// `validateAPIApproval`.
fn approval_problems(object: &Object, old: Option<&Object>) -> Option<Error> {
    if !is_protected_group(object.at("spec").text("group")) {
        return None;
    }
    let value = object.annotation(APPROVED).unwrap_or_default();
    let (state, why) = approval(value);
    if old.is_some_and(|old| approval(old.annotation(APPROVED).unwrap_or_default()).0 == state) {
        return None;
    }
    let at = Path::new("metadata").child("annotations").key(APPROVED);
    match state {
        Approval::Approved | Approval::Bypassed => None,
        Approval::Missing => Some(Error::required(at, why)),
        Approval::Invalid => Some(Error::invalid(at, value, why)),
    }
}

/// `validatePreserveUnknownFields`.
fn preserve_problems(object: &Object, old: Option<&Object>) -> Option<Error> {
    let set = |object: &Object| object.at("spec").flag("preserveUnknownFields");
    (set(object) && !old.is_some_and(set)).then(|| {
        let text = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                    spec.versions[*].schema instead";
        Error::invalid(Path::new("spec").child("preserveUnknownFields"), true, text)
    })
}
