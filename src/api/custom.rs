//! Custom resources: how bodies become objects, and stored objects what is served (apiextensions-apiserver
//! `customresource_handler.go`: `unstructuredSchemaCoercer`, `unstructuredDefaulter`, the codecs around them).
//!
//! Schemas are read from the CRD's bytes when a kind is first used, so that a CRD that nobody uses costs its bytes only.

pub mod webhook;

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::Value;

use crate::codec::{self, Decoded, FieldValidation, MediaType};
use crate::names::{GroupVersion, Gvk};
use crate::object::Object;
use crate::schema::Schema;
use crate::status::Status;
use crate::structural::rules::Rules;
use crate::structural::{Structural, defaults, embedded, prune, types};

/// What the versions of one CRD share.
pub struct Definition {
    pub group: String,
    pub kind: String,
    /// Group and version of what is stored.
    pub storage_version: String,
    /// `spec.preserveUnknownFields` of old CRDs: nothing is pruned.
    pub preserve_all: bool,
    /// Conversion strategy `Webhook`; `None` only exchanges the version.
    pub webhook: Option<webhook::Webhook>,
    /// `ObjectMeta` among the built-in types.
    meta: Schema,
    /// The CRD as JSON.
    source: Bytes,
    /// Differs when the CRD says something else.
    pub fingerprint: u64,
    versions: OnceLock<BTreeMap<String, VersionSchema>>,
}

/// The schema of one version in the forms that are needed.
#[derive(Default)]
struct VersionSchema {
    structural: Option<Structural>,
    /// For server-side apply; made by the first write.
    table: OnceLock<Schema>,
    /// Compiled by the first write.
    rules: OnceLock<Option<Rules>>,
}

impl Definition {
    /// `source` is the CRD as JSON, `fingerprint` differs when it says something else; `meta` is `ObjectMeta` among the built-in types.
    pub fn new(
        group: impl Into<String>,
        kind: impl Into<String>,
        storage_version: impl Into<String>,
        meta: Schema,
        source: Bytes,
        fingerprint: u64,
    ) -> Self {
        Self {
            fingerprint,
            group: group.into(),
            kind: kind.into(),
            storage_version: storage_version.into(),
            preserve_all: false,
            webhook: None,
            meta,
            source,
            versions: OnceLock::new(),
        }
    }

    /// `ObjectMeta` among the built-in types.
    pub fn meta(&self) -> &Schema {
        &self.meta
    }

    fn versions(&self) -> &BTreeMap<String, VersionSchema> {
        self.versions.get_or_init(|| {
            // What the store holds was validated; what cannot be read has no versions, and every use says so.
            let crd: Value = serde_json::from_slice(&self.source).unwrap_or_default();
            let list = crd["spec"]["versions"].as_array().map_or(&[][..], Vec::as_slice);
            list.iter()
                .filter_map(|version| {
                    let schema = version["schema"].get("openAPIV3Schema").filter(|s| s.is_object());
                    let mut structural = schema.map(Structural::parse);
                    if let Some(structural) = &mut structural {
                        defaults::prune_defaults(structural);
                    }
                    Some((
                        version["name"].as_str()?.to_owned(),
                        VersionSchema { structural, ..VersionSchema::default() },
                    ))
                })
                .collect()
        })
    }

    /// The schema of a version as it was written, with its texts; read anew each time.
    pub fn raw_schema(&self, version: &str) -> Option<Value> {
        let mut crd: Value = serde_json::from_slice(&self.source).ok()?;
        let list = crd["spec"]["versions"].as_array_mut()?;
        let found = list.iter_mut().find(|v| v["name"] == version)?;
        Some(found["schema"]["openAPIV3Schema"].take()).filter(Value::is_object)
    }

    /// The rules of a version; `None` if it has none.
    pub fn rules(&self, version: &str) -> Option<&Rules> {
        let held = self.versions().get(version)?;
        let compile = || Rules::compile(held.structural.as_ref()?, &self.raw_schema(version)?, true);
        held.rules.get_or_init(compile).as_ref()
    }

    /// The schema of a version; `None` if it has none or is none of this CRD's.
    pub fn structural(&self, version: &str) -> Option<&Structural> {
        self.versions().get(version)?.structural.as_ref()
    }

    /// The table that server-side apply walks; `None` if the version is none of this CRD's.
    pub fn table(&self, version: &str) -> Option<&Schema> {
        let held = self.versions().get(version)?;
        Some(held.table.get_or_init(|| types::schema(held.structural.as_ref(), &self.kind, &self.meta)))
    }

    /// Whether an object says it is of this kind, in any version; then which.
    fn version_of(&self, object: &Object) -> Option<String> {
        let gv = GroupVersion::parse(object.api_version())?;
        (gv.group == self.group && object.kind() == self.kind).then_some(gv.version)
    }

    /// `unstructuredSchemaCoercer.apply`: prunes by the schema of the version that the object says it is of. Returns
    /// the paths of what was unknown.
    ///
    /// # Errors
    /// A text for metadata (its own or of an embedded object) that cannot be read, unless `lenient`.
    fn coerce(&self, object: &mut Object, lenient: bool) -> Result<Vec<String>, String> {
        let mut unknown = embedded::coerce_metadata(&mut object.0, &self.meta, "", lenient)?;
        if let Some(version) = self.version_of(object) {
            let schema = self.structural(&version);
            let mut value = Value::Object(std::mem::take(&mut object.0));
            if !self.preserve_all {
                unknown.extend(prune::prune(&mut value, schema));
                defaults::drop_nulls(&mut value, schema);
            }
            let coerced = embedded::coerce(&mut value, schema, &self.meta, lenient);
            object.0 = Object::from_value(value).unwrap_or_default().0;
            unknown.extend(coerced.map_err(|e| e.to_string())?);
        }
        Ok(unknown)
    }

    fn fill_defaults(&self, object: &mut Object) {
        let Some(version) = self.version_of(object) else { return };
        let schema = self.structural(&version);
        let mut value = Value::Object(std::mem::take(&mut object.0));
        defaults::fill(&mut value, schema);
        object.0 = Object::from_value(value).unwrap_or_default().0;
    }
}

/// One served version of a CRD.
pub struct CustomKind {
    pub definition: Arc<Definition>,
    pub gvk: Gvk,
    /// `Warning` headers of every request: the version is deprecated.
    pub warnings: Vec<String>,
    /// The CRD is being deleted: nothing new may be created.
    pub terminating: bool,
}

impl CustomKind {
    /// The schema that value validation and CEL rules follow; `None` if the version has none.
    pub fn structural(&self) -> Option<&Structural> {
        self.definition.structural(&self.gvk.version)
    }

    /// The table that server-side apply walks.
    pub fn schema(&self) -> &Schema {
        static NONE: OnceLock<Schema> = OnceLock::new();
        // The version is no longer in the CRD: everything is free of structure.
        let none = || NONE.get_or_init(|| types::schema(None, "", &self.definition.meta));
        self.definition.table(&self.gvk.version).unwrap_or_else(none)
    }

    /// Decodes a body, prunes and fills defaults.
    ///
    /// # Errors
    /// 400 in upstream's words.
    pub fn decode(&self, body: &[u8], media: MediaType, validation: FieldValidation) -> Result<Decoded, Status> {
        let decoded = codec::decode_custom(body, media, &self.gvk)?;
        let found = decoded.object.api_version();
        if found != self.gvk.api_version() {
            return Err(Status::bad_request(format!(
                "the API version in the data ({found}) does not match the expected API version ({})",
                self.gvk.api_version()
            )));
        }
        self.conform(decoded.object, decoded.strict, validation)
    }

    /// Prunes an object and fills defaults. `strict` are complaints that were made before.
    ///
    /// # Errors
    /// 400 in upstream's words: metadata that cannot be read; with strict validation, unknown fields.
    pub fn conform(
        &self,
        mut object: Object,
        mut strict: Vec<String>,
        validation: FieldValidation,
    ) -> Result<Decoded, Status> {
        let refused = |why: &str| {
            let Gvk { kind, version, .. } = &self.gvk;
            Status::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
        };
        let unknown = self.definition.coerce(&mut object, false).map_err(|e| refused(&e))?;
        strict.extend(unknown.iter().map(|path| format!("unknown field \"{path}\"")));
        let warnings = match validation {
            FieldValidation::Ignore => Vec::new(),
            FieldValidation::Strict if !strict.is_empty() => return Err(refused(&codec::strict_error(&strict))),
            FieldValidation::Warn | FieldValidation::Strict => strict,
        };
        self.definition.fill_defaults(&mut object);
        Ok(Decoded { object, warnings })
    }

    /// Fills the defaults of an object that is otherwise as it should be.
    pub fn with_defaults(&self, mut object: Object) -> Object {
        self.definition.fill_defaults(&mut object);
        object
    }

    /// A stored object, which may be of any version of the CRD, in its own version: pruned, with defaults. Conversion
    /// to the served version follows.
    pub fn read(&self, mut object: Object) -> Result<Object, Status> {
        self.definition.coerce(&mut object, true).map_err(Status::internal)?;
        if object.generation() == 0 {
            object.set(&["metadata", "generation"], 1);
        }
        self.definition.fill_defaults(&mut object);
        Ok(object)
    }

    /// Whether versions are converted by a webhook, which [`CustomKind::convert_all`] calls.
    pub fn has_webhook(&self) -> bool {
        self.definition.webhook.is_some()
    }

    /// The group and version that is stored.
    pub fn storage_version(&self) -> GroupVersion {
        GroupVersion::new(self.gvk.group.clone(), self.definition.storage_version.clone())
    }

    /// Converts objects of any version of the CRD.
    ///
    /// # Errors
    /// 500 for versions that the CRD does not have, and for what the webhook does wrong.
    pub async fn convert_all(&self, objects: Vec<Object>, version: &str) -> Result<Vec<Object>, Status> {
        let gv = GroupVersion::new(self.gvk.group.clone(), version).to_string();
        let Some(webhook) = &self.definition.webhook else {
            return objects.into_iter().map(|object| self.convert(object, version)).collect();
        };
        let (mut places, mut wanting) = (Vec::new(), Vec::new());
        let mut all: Vec<Object> = Vec::with_capacity(objects.len());
        for object in objects {
            if object.api_version() == gv {
                all.push(object);
                continue;
            }
            let known =
                self.definition.version_of(&object).is_some_and(|v| self.definition.versions().contains_key(&v));
            if !known {
                let found = object.api_version();
                let text = format!("request to convert CR from an invalid group/version: {found}");
                return Err(Status::internal(text));
            }
            places.push(all.len());
            all.push(Object::default());
            wanting.push(object);
        }
        let converted = webhook.convert(wanting, &gv).await?;
        for (place, mut object) in places.into_iter().zip(converted) {
            self.definition.coerce(&mut object, false).map_err(Status::internal)?;
            if let Some(slot) = all.get_mut(place) {
                *slot = object;
            }
        }
        Ok(all)
    }

    /// What the webhook makes of an object, as it says it: nothing is pruned, as in upstream's converter for the owners of
    /// fields. The object itself without a webhook.
    ///
    /// # Errors
    /// 500 for what the webhook does wrong.
    pub async fn ask_webhook(&self, object: Object, version: &str) -> Result<Object, Status> {
        let Some(webhook) = &self.definition.webhook else { return Ok(object) };
        let gv = GroupVersion::new(self.gvk.group.clone(), version).to_string();
        let converted = webhook.convert(vec![object], &gv).await?;
        converted.into_iter().next().ok_or_else(|| Status::internal("conversion lost the object"))
    }

    /// Sets the version of an object (conversion strategy `None`) and prunes by it.
    ///
    /// # Errors
    /// 500 for metadata that cannot be read, and where a webhook would have to be called.
    fn convert(&self, mut object: Object, version: &str) -> Result<Object, Status> {
        let gv = GroupVersion::new(self.gvk.group.clone(), version).to_string();
        if object.api_version() == gv {
            return Ok(object);
        }
        if self.has_webhook() {
            let gvk = webhook::gvk_text(&self.gvk);
            return Err(Status::internal(format_args!("an object has not been converted to {gvk}")));
        }
        object.set(&["apiVersion"], gv);
        self.definition.coerce(&mut object, false).map_err(Status::internal)?;
        Ok(object)
    }

    /// What is served of stored bytes' object, where no webhook has to be called for it.
    ///
    /// # Errors
    /// 500 where one has; [`CustomKind::read`] and [`CustomKind::convert_all`] do that.
    pub fn from_stored(&self, object: Object) -> Result<Object, Status> {
        let object = self.read(object)?;
        self.convert(object, &self.gvk.version)
    }

    /// What is stored of a served object.
    ///
    /// # Errors
    /// See [`CustomKind::convert_all`].
    pub async fn to_stored(&self, object: Object) -> Result<Object, Status> {
        let converted = self.convert_all(vec![object], &self.definition.storage_version).await?;
        converted.into_iter().next().ok_or_else(|| Status::internal("conversion lost the object"))
    }
}
