//! `CreateOptions`, `UpdateOptions`, `PatchOptions` and `DeleteOptions` (apimachinery `meta/v1/validation`).

use api::codec::FieldValidation;
use api::field::{Error, ErrorList, Path};
use api::kind::Propagation;
use api::{Object, Status};
use http::HeaderMap;
use http::header::USER_AGENT;
use serde_json::{Value, json};

use crate::query::Query;

/// Options of a write.
#[derive(Debug, Clone)]
pub struct WriteOptions {
    pub dry_run: bool,
    /// The user agent's first word if the client names none.
    pub manager: String,
    pub validation: FieldValidation,
    /// Only apply has it.
    pub force: bool,
    /// The options as a document, for admission.
    pub document: Object,
}

impl WriteOptions {
    /// Reads the query. `kind` is `CreateOptions`, `UpdateOptions` or `PatchOptions`; `apply` tells an apply patch.
    pub fn read(query: &Query, headers: &HeaderMap, kind: &str, apply: bool) -> Result<Self, Status> {
        let manager = query.text("fieldManager");
        let mut errors = ErrorList::new();
        if kind == "PatchOptions" {
            if apply && manager.is_empty() {
                errors.push(Error::required(Path::new("fieldManager"), "is required for apply patch"));
            } else if !apply && query.get("force").is_some() {
                errors.push(Error::forbidden(Path::new("force"), "may not be specified for non-apply patch"));
            }
        }
        errors.extend(api::meta::validate_field_manager(manager, &Path::new("fieldManager")));
        let dry_run: Vec<&str> = query.all("dryRun").collect();
        errors.extend(validate_dry_run(&dry_run));
        let validation = FieldValidation::parse(query.text("fieldValidation")).unwrap_or_else(|| {
            let known = ["", "Ignore", "Strict", "Warn"];
            let value = query.text("fieldValidation");
            errors.push(Error::not_supported(Path::new("fieldValidation"), value, &known));
            FieldValidation::Warn
        });
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", kind, "", &errors));
        }
        let mut document = Object::default();
        document.set(&["apiVersion"], "meta.k8s.io/v1");
        // Patches are updates to admission (`patchToUpdateOptions`).
        document.set(&["kind"], if kind == "PatchOptions" { "UpdateOptions" } else { kind });
        if !dry_run.is_empty() {
            document.set(&["dryRun"], json!(dry_run));
        }
        for key in ["fieldManager", "fieldValidation"] {
            if let Some(value) = query.get(key).filter(|v| !v.is_empty()) {
                document.set(&[key], value);
            }
        }
        let force = query.flag("force");
        let agent = headers.get(USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let manager = api::apply::manager_name(manager, agent);
        Ok(Self { dry_run: !dry_run.is_empty(), manager, validation, force, document })
    }

    /// For writes the server makes itself, whose fields nobody owns.
    pub fn internal() -> Self {
        Self {
            dry_run: false,
            manager: String::new(),
            validation: FieldValidation::Ignore,
            force: false,
            document: Object::default(),
        }
    }

    /// The same options under another kind: updates that create.
    pub fn document_as(&self, kind: &str) -> Object {
        let mut document = self.document.clone();
        document.set(&["kind"], kind);
        document
    }
}

fn validate_dry_run(values: &[&str]) -> ErrorList {
    if values.iter().all(|v| *v == "All") {
        return ErrorList::new();
    }
    vec![Error::not_supported(Path::new("dryRun"), json!(values), &["All"])]
}

/// Options of a deletion.
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    /// Seconds.
    pub grace_period: Option<i64>,
    pub propagation: Option<Propagation>,
    /// The deprecated `orphanDependents`; overrides everything.
    pub orphan_dependents: Option<bool>,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// Deletes an object that cannot be read (`ignoreStoreReadErrorWithClusterBreakingPotential`).
    pub ignore_read_error: bool,
    pub document: Object,
}

const IGNORE_READ_ERROR: &str = "ignoreStoreReadErrorWithClusterBreakingPotential";

impl DeleteOptions {
    /// Reads a decoded `DeleteOptions`.
    pub fn from_object(mut document: Object) -> Result<Self, Status> {
        let mut errors = ErrorList::new();
        let orphan_dependents = document.bool(&["orphanDependents"]);
        let policy = document.str(&["propagationPolicy"]);
        if let (Some(_), Some(policy)) = (orphan_dependents, policy) {
            let detail = "orphanDependents and deletionPropagation cannot be both set";
            errors.push(Error::invalid(Path::new("propagationPolicy"), policy, detail));
        }
        let propagation = match policy {
            None => None,
            Some("Foreground") => Some(Propagation::Foreground),
            Some("Background") => Some(Propagation::Background),
            Some("Orphan") => Some(Propagation::Orphan),
            Some(other) => {
                let known = ["Foreground", "Background", "Orphan", "nil"];
                errors.push(Error::not_supported(Path::new("propagationPolicy"), other, &known));
                None
            }
        };
        let dry_run: Vec<&str> = document.array(&["dryRun"]).iter().filter_map(Value::as_str).collect();
        errors.extend(validate_dry_run(&dry_run));
        let ignore_read_error = document.bool(&[IGNORE_READ_ERROR]).unwrap_or_default();
        if ignore_read_error {
            // `ValidateIgnoreStoreReadError`.
            for other in ["propagationPolicy", "orphanDependents", "gracePeriodSeconds", "preconditions"] {
                if document.get(&[other]).is_some() {
                    let why = format!("cannot be set together with .{other}");
                    errors.push(Error::invalid(Path::new(IGNORE_READ_ERROR), true, why));
                }
            }
        }
        if !errors.is_empty() {
            return Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors));
        }
        // Negative values are taken as one second on the delete path.
        let grace_period = document.i64(&["gracePeriodSeconds"]).map(|s| if s < 0 { 1 } else { s });
        let text = |path: &[&str]| document.str(path).map(ToOwned::to_owned);
        let mut options = Self {
            dry_run: !dry_run.is_empty(),
            grace_period,
            propagation,
            orphan_dependents,
            uid: text(&["preconditions", "uid"]),
            resource_version: text(&["preconditions", "resourceVersion"]),
            ignore_read_error,
            document: Object::default(),
        };
        document.set(&["apiVersion"], "meta.k8s.io/v1");
        document.set(&["kind"], "DeleteOptions");
        options.document = document;
        Ok(options)
    }

    /// Options in the query of a request without a body.
    pub fn from_query(query: &Query) -> Result<Self, Status> {
        let mut document = Object::default();
        if let Some(seconds) = query.number("gracePeriodSeconds")? {
            document.set(&["gracePeriodSeconds"], seconds);
        }
        if let Some(orphan) = query.optional_flag("orphanDependents") {
            document.set(&["orphanDependents"], orphan);
        }
        if let Some(policy) = query.get("propagationPolicy") {
            document.set(&["propagationPolicy"], policy);
        }
        // The members of `preconditions` stand in the query by their own names.
        for field in ["uid", "resourceVersion"] {
            if let Some(value) = query.get(field) {
                document.set(&["preconditions", field], value);
            }
        }
        if let Some(ignore) = query.optional_flag(IGNORE_READ_ERROR) {
            document.set(&[IGNORE_READ_ERROR], ignore);
        }
        let dry_run: Vec<&str> = query.all("dryRun").collect();
        if !dry_run.is_empty() {
            document.set(&["dryRun"], json!(dry_run));
        }
        Self::from_object(document)
    }

    /// What only the deletion of one object may ask for.
    pub fn refuse_for_collection(&self) -> Result<(), Status> {
        if !self.ignore_read_error {
            return Ok(());
        }
        let why = "is not allowed with DELETECOLLECTION, try again after removing the option";
        let errors = [Error::invalid(Path::new(IGNORE_READ_ERROR), true, why)];
        Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", &errors))
    }
}
