//! PATCH: JSON patch, merge patch, strategic merge patch and server-side apply (apiserver `endpoints/handlers/patch.go`).

use api::codec::{FieldValidation, MediaType};
use api::kind::Subresource;
use api::status::Details;
use api::{Gvk, Object, Status};
use async_trait::async_trait;
use http::header::CONTENT_TYPE;
use serde_json::Value;
use std::sync::Arc;

use super::Verb;
use super::options::WriteOptions;
use super::write::Change;
use crate::respond::Response;
use crate::served::Served;

const JSON_PATCH: &str = "application/json-patch+json";
const MERGE_PATCH: &str = "application/merge-patch+json";
const STRATEGIC_PATCH: &str = "application/strategic-merge-patch+json";
const APPLY_PATCH: &str = "application/apply-patch+yaml";
const APPLY_JSON_PATCH: &str = "application/apply-patch+json";

/// Whether a Content-Type is server-side apply's.
pub fn is_apply(media_type: &str) -> bool {
    matches!(media_type, APPLY_PATCH | APPLY_JSON_PATCH)
}

/// A patch as sent.
pub enum Patch {
    Json(Value),
    Merge(Value),
    Strategic(Object),
}

impl Patch {
    /// The patch as it was sent.
    fn document(&self) -> Value {
        match self {
            Self::Json(patch) | Self::Merge(patch) => patch.clone(),
            Self::Strategic(patch) => Value::Object(patch.0.clone()),
        }
    }

    pub fn apply(&self, served: &Served, current: &Object) -> Result<Object, Status> {
        self.apply_to(served.def.schema(), current)
    }

    /// The answer to a patch whose result is no object of its kind: the patch is what is wrong, not the request
    /// (`applyPatchToObject`, `jsonPatcher.applyPatchToCurrentObject`).
    pub(super) fn undecodable(&self, patched: &Object, status: Status) -> Status {
        if status.code != 400 {
            return status;
        }
        let why = status.message.split_once(" cannot be handled as a ").and_then(|(_, rest)| rest.split_once(": "));
        let why = why.map_or(status.message.as_str(), |(_, why)| why);
        let value = match self {
            Self::Strategic(patch) => api::patch::go_value(&Value::Object(patch.0.clone())),
            Self::Json(_) | Self::Merge(_) => Value::Object(patched.0.clone()).to_string(),
        };
        let error = api::field::Error::invalid(api::field::Path::new("patch"), value, why);
        Status::invalid("", "", "", &[error])
    }

    /// The patched document; decoding it is the caller's.
    pub fn apply_to(&self, schema: &api::schema::Schema, current: &Object) -> Result<Object, Status> {
        let whole = |value: Value| {
            Object::from_value(value).ok_or_else(|| Status::bad_request("the patched document is no JSON object"))
        };
        match self {
            Self::Json(patch) => whole(api::patch::json(current.clone().into_value(), patch)?),
            Self::Merge(patch) => whole(api::patch::merge(current.clone().into_value(), patch)?),
            Self::Strategic(patch) => api::patch::strategic(schema, current.clone(), patch.clone()),
        }
    }
}

struct Patched<'a> {
    served: &'a Served,
    /// It is the object's status that is patched: what else the result says is not looked at.
    status: bool,
    patch: &'a Patch,
    duplicates: Vec<String>,
    name: &'a str,
    now: jiff::Timestamp,
    options: &'a WriteOptions,
    warnings: &'a crate::filters::Warnings,
}

#[async_trait]
impl Change for Patched<'_> {
    async fn apply(&self, current: Option<&Object>) -> Result<Object, Status> {
        let Some(current) = current else { return Err(self.served.not_found(self.name)) };
        let mut patched = self.patch.apply(self.served, current)?;
        let def = &self.served.def;
        match (self.patch, &def.custom) {
            // The patched document is read as the kind it was, whatever it says (`applyPatchToObject`).
            (Patch::Strategic(_), None) => patched.set_gvk(&def.gvk),
            (_, Some(_)) if self.status => patched.set_gvk(&def.gvk),
            (_, Some(_)) => self.same_type(&patched)?,
            _ => {}
        }
        // The metadata of custom resources is decoded and encoded again before anybody looks, which drops empty lists.
        let resets = def.custom.is_none() && api::apply::resets_ownership(&patched);
        let found = crate::filters::Warnings::default();
        let mut object = match &def.custom {
            Some(custom) => {
                let decoded = custom
                    .conform(patched.clone(), Vec::new(), self.options.validation)
                    .map_err(|status| self.undecodable(&patched, status))?;
                found.extend(decoded.warnings);
                decoded.object
            }
            None => {
                let decode = match self.patch {
                    Patch::Strategic(_) => crate::codec::convert_value,
                    Patch::Json(_) | Patch::Merge(_) => crate::codec::decode_value,
                };
                let mut object = decode(&patched, &def.gvk, &def.schema, self.options.validation, &found)
                    .map_err(|status| self.undecodable(&patched, status))?;
                def.strategy.default(&mut object);
                def.strategy.default_at(&mut object, self.now);
                if let Some(why) = def.strategy.unconvertible(&object) {
                    return Err(match self.patch {
                        // It is converted after the patch went well.
                        Patch::Strategic(_) => Status::new(500, "", why),
                        Patch::Json(_) | Patch::Merge(_) => self.undecodable(&patched, Status::bad_request(why)),
                    });
                }
                super::through_storage(def, object)?
            }
        };
        if resets {
            api::apply::reset_ownership(&mut object);
        }
        match self.options.validation {
            FieldValidation::Warn => self.warnings.extend(self.duplicates.iter().cloned()),
            FieldValidation::Strict if !self.duplicates.is_empty() => {
                let text = api::codec::strict_error(&self.duplicates);
                return Err(self.patch.undecodable(&patched, Status::bad_request(text)));
            }
            _ => {}
        }
        self.warnings.extend(found.texts());
        super::check_name(&object, self.name)?;
        Ok(object)
    }

    fn is_patch(&self) -> bool {
        true
    }
}

impl Patched<'_> {
    /// What is there twice in the patch is told before what strict decoding says of the patched document.
    fn undecodable(&self, patched: &Object, mut status: Status) -> Status {
        const STRICT: &str = "strict decoding error: ";
        if let Some((head, rest)) = status.message.split_once(STRICT).filter(|_| !self.duplicates.is_empty()) {
            status.message = format!("{head}{STRICT}{}, {rest}", self.duplicates.join(", "));
        }
        self.patch.undecodable(patched, status)
    }

    /// A custom resource stays what it is (apiextensions `customResourceValidator`).
    fn same_type(&self, patched: &Object) -> Result<(), Status> {
        let gvk = &self.served.def.gvk;
        let mut errors = Vec::new();
        for (member, found, wanted) in
            [("kind", patched.kind(), gvk.kind.clone()), ("apiVersion", patched.api_version(), gvk.api_version())]
        {
            if found != wanted {
                let why = format!("must be {wanted}");
                errors.push(api::field::Error::invalid(api::field::Path::new(member), found, why));
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        let group = patched.api_version().split_once('/').map_or("", |(group, _)| group);
        Err(Status::invalid(group, patched.kind(), patched.name(), &errors))
    }
}

/// Server-side apply: merges by ownership, and creates what is not there.
struct Applied<'a> {
    server: &'a crate::server::ApiServer,
    served: &'a Served,
    /// As the URL has it.
    name: &'a str,
    namespace: &'a str,
    subresource: &'a str,
    object: Object,
    /// What strict decoding says of the patch: it is told when the patch fits.
    checked: Result<Vec<String>, Status>,
    options: &'a WriteOptions,
    warnings: &'a crate::filters::Warnings,
}

#[async_trait]
impl Change for Applied<'_> {
    async fn apply(&self, current: Option<&Object>) -> Result<Object, Status> {
        let def = &self.served.def;
        if current.is_none() && self.object.name().is_empty() {
            return Err(super::unnamed(self.name));
        }
        let merged = super::ownership::with_manager(self.server, self.served, self.subresource, |manager| {
            manager.apply(current, &self.object, &self.options.manager, self.options.force)
        })
        .await?;
        match &self.checked {
            Ok(warnings) => self.warnings.extend(warnings.iter().cloned()),
            Err(status) => return Err(status.clone()),
        }
        let mut object = match &def.custom {
            // Nothing is pruned: nulls that pruning left stay, and may be refused.
            Some(custom) => custom.with_defaults(merged),
            None => {
                let validation = FieldValidation::Ignore;
                let mut object = crate::codec::convert_value(&merged, &def.gvk, &def.schema, validation, self.warnings)
                    .map_err(|status| self.unconverted(&status))?;
                def.strategy.default(&mut object);
                def.strategy.default_at(&mut object, self.server.clock.now());
                if let Some(why) = def.strategy.unconvertible(&object) {
                    // `structuredMergeManager.Apply`
                    let about = api::apply::object_text(&self.object);
                    return Err(Status::new(500, "", format!("failed to convert to unversioned ({about}): {why}")));
                }
                super::through_storage(def, object)?
            }
        };
        super::before::ensure_namespace(def, self.namespace, &mut object)?;
        Ok(object)
    }

    fn owns_fields(&self) -> bool {
        true
    }

    fn is_patch(&self) -> bool {
        true
    }
}

impl Applied<'_> {
    /// The answer to an applied object that is not one of its kind (`structuredMergeManager.Apply`).
    fn unconverted(&self, status: &Status) -> Status {
        let gvk = &self.served.def.gvk;
        let why = status.message.split_once(&format!(" cannot be handled as a {}: ", gvk.kind));
        let why = why.map_or(status.message.as_str(), |(_, why)| why);
        let about = api::apply::object_text(&self.object);
        let (group, version, kind) = (&gvk.group, &gvk.version, &gvk.kind);
        let text = format!(
            "failed to convert new object ({about}) to proper version: unable to convert unstructured object to \
             {group}/{version}, Kind={kind}: {why}"
        );
        Status::new(500, "", text)
    }
}

impl Verb {
    pub(super) fn patch_type(&self) -> String {
        let text = self.call.parts.headers.get(CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        text.split(';').next().unwrap_or_default().trim().to_owned()
    }

    /// Reads the patch of the body, and what of it is there twice.
    pub(super) async fn read_patch(&mut self) -> Result<(Patch, Vec<String>), Status> {
        let media_type = self.patch_type();
        let all = [JSON_PATCH, MERGE_PATCH, STRATEGIC_PATCH, APPLY_PATCH];
        let custom = [JSON_PATCH, MERGE_PATCH, APPLY_PATCH];
        let known = if self.served.def.custom.is_some() { &custom[..] } else { &all[..] };
        if !known.contains(&media_type.as_str()) {
            return Err(self.unsupported(known));
        }
        let body = self.take_body().await?;
        let mut json = serde_json::from_slice::<Value>(&body).map_err(|_| Status::bad_request("invalid JSON patch"))?;
        let duplicates = api::codec::duplicates(&body);
        if self.served.def.custom.is_some() {
            api::codec::settle_numbers(&mut json);
        }
        match media_type.as_str() {
            JSON_PATCH => Ok((Patch::Json(json), Vec::new())),
            MERGE_PATCH => Ok((Patch::Merge(json), duplicates)),
            STRATEGIC_PATCH => {
                let what = api::codec::go_word(&json);
                let json = if json.is_null() { Value::Object(serde_json::Map::new()) } else { json };
                let patch = Object::from_value(json).ok_or_else(|| {
                    let text = format!("json: cannot unmarshal {what} into Go value of type map[string]interface {{}}");
                    Status::bad_request(text)
                })?;
                Ok((Patch::Strategic(patch), duplicates))
            }
            _ => Err(self.unsupported(known)),
        }
    }

    /// Built-in kinds are behind a router that looks at the media type first.
    fn unsupported(&self, known: &[&str]) -> Status {
        if self.served.def.custom.is_some() {
            return Status::unsupported_media_type(known);
        }
        Status::new(415, "UnsupportedMediaType", "415: Unsupported Media Type").with_details(Details::default())
    }

    /// Custom resources have no router that knows the types of patches.
    pub(super) fn check_patch_type(&self) -> Result<(), Status> {
        let known = [JSON_PATCH, MERGE_PATCH, APPLY_PATCH, APPLY_JSON_PATCH];
        if self.served.def.custom.is_some() && !known.contains(&self.patch_type().as_str()) {
            return Err(Status::unsupported_media_type(&known[..3]));
        }
        Ok(())
    }

    pub(super) async fn patch(&mut self, subresource: Option<&Subresource>) -> Result<Response, Status> {
        self.check_patch_type()?;
        if is_apply(&self.patch_type()) {
            return self.apply(subresource).await;
        }
        let options = self.write_options("PatchOptions", false)?;
        let (patch, duplicates) = self.read_patch().await?;
        let served = Arc::clone(&self.served);
        let name = self.call.info.name.clone();
        if let Some(recorder) = crate::filters::audited::recorder() {
            recorder.request_patch(&patch.document());
        }
        let change = Patched {
            served: &served,
            status: subresource.is_some_and(|subresource| subresource.name == "status"),
            patch: &patch,
            duplicates,
            name: &name,
            now: self.server.clock.now(),
            options: &options,
            warnings: &self.call.warnings,
        };
        let written = self.write(subresource, &options, true)?.update(&change, false).await?;
        self.entry(if written.created { 201 } else { 200 }, &written.entry).await
    }

    async fn apply(&mut self, subresource: Option<&Subresource>) -> Result<Response, Status> {
        let options = self.write_options("PatchOptions", true)?;
        let body = self.take_body().await?;
        let gvk = self.served.def.gvk.clone();
        // Nothing says for the client which kind it means.
        let decoded = api::codec::decode_unstructured(&body, MediaType::Yaml, &Gvk::new("", "", ""));
        let decoded = decoded.map_err(|status| {
            // Upstream reads the patch as a map.
            let parts = status.message.split_once("json: cannot unmarshal ").map(|(_, rest)| rest);
            match parts.and_then(|rest| rest.split_once(" into Go value of type struct")) {
                None => match status
                    .message
                    .strip_prefix("error decoding object: ")
                    .filter(|why| why.starts_with("error converting"))
                {
                    Some(why) => Status::bad_request(format!("error decoding patch: {why}")),
                    None => status,
                },
                Some((what, _)) => Status::bad_request(format!(
                    "error decoding patch: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {what} \
                     into Go value of type map[string]interface {{}}"
                )),
            }
        })?;
        let object = decoded.object;
        if object.api_version() != gvk.api_version() || object.kind() != gvk.kind {
            let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
            return Err(Status::bad_request(format!("invalid object type: {group}/{version}, Kind={}", object.kind())));
        }
        // What the schema does not know is refused when the patch is merged; strictness is about keys that come twice.
        let checked = match options.validation {
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Strict if !decoded.strict.is_empty() => Err(Status::bad_request(format!(
                "error strict decoding patch: error converting YAML to JSON: {}",
                decoded.strict.join(", ")
            ))),
            FieldValidation::Warn | FieldValidation::Strict => {
                // One for each of go-yaml's errors, without the line that introduces them.
                let lines = decoded.strict.iter().flat_map(|text| text.lines());
                Ok(lines.filter(|line| line.starts_with(' ')).map(|line| line.trim().to_owned()).collect())
            }
        };
        // What is there already has its name.
        if !object.name().is_empty() {
            self.check_name(&object)?;
        }
        self.own_labels = super::body::has_labels(&object);
        let change = Applied {
            server: &self.server,
            served: &self.served,
            name: &self.call.info.name,
            namespace: self.namespace(),
            subresource: subresource.map_or("", |s| s.name),
            object,
            checked,
            options: &options,
            warnings: &self.call.warnings,
        };
        if let Some(recorder) = crate::filters::audited::recorder() {
            recorder.request_patch(&Value::Object(change.object.0.clone()));
        }
        let written = self.write(subresource, &options, true)?.update(&change, subresource.is_none()).await?;
        self.entry(if written.created { 201 } else { 200 }, &written.entry).await
    }
}
