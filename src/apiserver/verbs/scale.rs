//! The `scale` subresource: an `autoscaling/v1` `Scale` over three paths of the object (`registry/*/storage` `ScaleREST`).

use std::sync::Arc;

use api::apply::scale::Paths;
use api::apply::{FieldManager, OneVersion};
use api::codec::{FieldValidation, MediaType};
use api::field::{Error, Path};
use api::kind::{ScalePaths, Subresource, SubresourceKind};
use api::schema::Str;
use api::selector::LabelSelector;
use api::{Object, Status};
use async_trait::async_trait;
use serde_json::{Value, json};

use super::options::WriteOptions;
use super::ownership::ServedVersions;
use super::write::Change;
use super::{Verb, before};
use crate::filters::Warnings;
use crate::respond::{self, Response};
use crate::served::Served;
use crate::server::ApiServer;
use crate::table::Table;

pub(super) async fn serve(mut verb: Verb, subresource: &Subresource, paths: &ScalePaths) -> Result<Response, Status> {
    let name = verb.call.info.name.clone();
    let served = Arc::clone(&verb.served);
    if verb.call.info.verb == "get" {
        let entry = super::read::get(&served, verb.stored()?, verb.namespace(), &name, "").await?;
        let object = verb.stored()?.view.object(&entry)?;
        if served.def.custom.is_some() && object.get(&names(&paths.spec_replicas)).is_none() {
            let path = format!(".{}", names(&paths.spec_replicas).join("."));
            return Err(Status::internal(format_args!("the spec replicas field {path:?} does not exist")));
        }
        return answer(&verb, subresource, of(&object, subresource, paths)?);
    }
    let applies = super::patch::is_apply(&verb.patch_type());
    let kind = if verb.call.info.verb == "update" { "UpdateOptions" } else { "PatchOptions" };
    let options = verb.write_options(kind, applies && verb.call.info.verb == "patch")?;
    let source = if verb.call.info.verb == "update" {
        let mut scale = verb.decode_as(&subresource.gvk, &subresource.schema, &options).await?;
        before::ensure_namespace(&served.def, verb.namespace(), &mut scale)?;
        verb.check_name(&scale)?;
        Source::Replace(scale)
    } else if applies {
        let body = verb.take_body().await?;
        Source::Apply(api::codec::decode_unstructured(&body, MediaType::Yaml, &subresource.gvk)?.object)
    } else {
        Source::Patch(verb.read_patch().await?.0)
    };
    let server = Arc::clone(&verb.server);
    let warnings = verb.call.warnings.clone();
    let change = ScaleChange {
        server: &server,
        served: &served,
        subresource,
        paths,
        source,
        options: &options,
        warnings: &warnings,
    };
    let written = verb.write(Some(subresource), &options, true)?.update(&change, false).await?;
    verb.stored()?.view.prepare(std::slice::from_ref(&written.entry)).await?;
    let scale = of(&verb.stored()?.view.object(&written.entry)?, subresource, paths)?;
    answer(&verb, subresource, scale)
}

fn answer(verb: &Verb, subresource: &Subresource, scale: Object) -> Result<Response, Status> {
    let custom = verb.served.def.custom.is_some();
    let include = verb.include_object()?;
    let table = || Table::of_scale(custom, verb.accept.meta_version(), include, verb.server.clock.now());
    let package = if custom { "v1" } else { "autoscaling" };
    respond::document(200, verb.accept, (&subresource.gvk, &subresource.schema), scale, package, table)
}

enum Source {
    Replace(Object),
    Patch(super::patch::Patch),
    Apply(Object),
}

struct ScaleChange<'a> {
    server: &'a ApiServer,
    served: &'a Served,
    subresource: &'a Subresource,
    paths: &'a ScalePaths,
    source: Source,
    options: &'a WriteOptions,
    warnings: &'a Warnings,
}

impl ScaleChange<'_> {
    /// Where the versions of the kind keep their replicas.
    fn mappings(&self) -> Paths {
        let versions = ServedVersions::new(self.server, self.served);
        let path = |served: &Served| {
            served.def.subresources.iter().find_map(|s| match &s.kind {
                SubresourceKind::Scale(paths) => Some(paths.spec_replicas.iter().map(ToString::to_string).collect()),
                _ => None,
            })
        };
        versions.all().map(|served| (served.def.gvk.api_version(), path(served))).collect()
    }

    /// The scale that the request asks for, with its managers.
    fn written(&self, old: &Object) -> Result<Object, Status> {
        let manager = FieldManager {
            schema: &self.subresource.schema,
            gvk: &self.subresource.gvk,
            subresource: self.subresource.name,
            reset: &[],
            resets_versions: true,
            versions: &OneVersion,
            keeps_nulls: false,
            now: self.server.clock.now(),
        };
        let conform = |object: &Object| {
            let Subresource { gvk, schema, .. } = self.subresource;
            Ok::<_, Status>(api::codec::decode_value(&object.0, schema, gvk, FieldValidation::Ignore)?.object)
        };
        let mut new = match &self.source {
            Source::Replace(scale) => scale.clone(),
            Source::Patch(patch) => {
                let patched = patch.apply_to(&self.subresource.schema, old)?;
                let resets = api::apply::resets_ownership(&patched);
                let Subresource { gvk, schema, .. } = self.subresource;
                let decoded = api::codec::decode_value(&patched.0, schema, gvk, self.options.validation)
                    .map_err(|status| patch.undecodable(&patched, status))?;
                self.warnings.extend(decoded.warnings);
                let mut new = decoded.object;
                if resets {
                    api::apply::reset_ownership(&mut new);
                }
                new
            }
            Source::Apply(applied) => {
                let unowned = old.array(&["metadata", "managedFields"]).is_empty();
                if self.served.def.custom.is_some() && unowned {
                    // Upstream's object for what existed before the first apply is the custom resource's.
                    return Err(Status::new(
                        500,
                        "",
                        "failed to create manager for existing fields: failed to convert \
                        live object (/; autoscaling/v1, Kind=Scale) to proper version: request to convert CR to an \
                        invalid group/version: autoscaling/v1",
                    ));
                }
                let merged = manager.apply(Some(old), applied, &self.options.manager, self.options.force)?;
                return conform(&merged);
            }
        };
        manager.update(Some(old), &mut new, &self.options.manager);
        Ok(new)
    }
}

#[async_trait]
impl Change for ScaleChange<'_> {
    async fn apply(&self, current: Option<&Object>) -> Result<Object, Status> {
        let Some(current) = current else { return Err(self.served.not_found("")) };
        let mappings = self.mappings();
        let mut old = of(current, self.subresource, self.paths)?;
        api::apply::scale::to_scale(current, &mappings, &mut old).map_err(Status::internal)?;
        let scale = self.written(&old)?;
        if !scale.uid().is_empty() && scale.uid() != current.uid() {
            let key = self.served.key(current.namespace(), current.name());
            let uids = (current.name(), scale.uid(), current.uid());
            let prefix = &self.served.stored()?.cache.prefix;
            return Err(super::write::uid_conflict(self.served, prefix, &key, self.options.dry_run, uids));
        }
        let replicas = scale.i64(&["spec", "replicas"]).unwrap_or_default();
        if replicas < 0 {
            let path = Path::new("spec").child("replicas");
            let error = Error::invalid(path, replicas, "must be greater than or equal to 0");
            return Err(Status::invalid("autoscaling", "Scale", current.name(), &[error]));
        }
        let mut object = current.clone();
        object.set(&names(&self.paths.spec_replicas), replicas);
        match scale.resource_version() {
            "" | "0" => {}
            version => object.set(&["metadata", "resourceVersion"], version),
        }
        let api_version = self.served.def.gvk.api_version();
        api::apply::scale::to_parent(&mut object, &mappings, &scale, &api_version).map_err(Status::internal)?;
        Ok(object)
    }

    fn owns_fields(&self) -> bool {
        true
    }

    fn is_patch(&self) -> bool {
        !matches!(self.source, Source::Replace(_))
    }
}

pub(super) fn names(path: &[Str]) -> Vec<&str> {
    path.iter().map(AsRef::as_ref).collect()
}

/// The scale of an object.
pub(super) fn of(object: &Object, subresource: &Subresource, paths: &ScalePaths) -> Result<Object, Status> {
    let mut scale = Object::default();
    scale.set_gvk(&subresource.gvk);
    for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
        if let Some(value) = object.get(&["metadata", field]) {
            scale.set(&["metadata", field], value.clone());
        }
    }
    let replicas = object.i64(&names(&paths.spec_replicas)).unwrap_or_default();
    scale.set(&["spec"], if replicas == 0 { json!({}) } else { json!({"replicas": replicas}) });
    scale.set(&["status", "replicas"], object.i64(&names(&paths.status_replicas)).unwrap_or_default());
    let selector = selector_text(object.get(&names(&paths.selector)))?;
    if !selector.is_empty() {
        scale.set(&["status", "selector"], selector);
    }
    Ok(scale)
}

/// A label selector, a plain map of labels, or the text itself, as the text of a query.
fn selector_text(selector: Option<&Value>) -> Result<String, Status> {
    let map = match selector {
        Some(Value::Object(map)) => map,
        // Custom resources keep the text itself.
        Some(Value::String(text)) => return Ok(text.clone()),
        _ => return Ok(String::new()),
    };
    let selector = if map.contains_key("matchLabels") || map.contains_key("matchExpressions") {
        LabelSelector::from_object(&Value::Object(map.clone())).map_err(Status::internal)?
    } else {
        LabelSelector::from_labels(map.iter().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))))
    };
    Ok(selector.to_string())
}
