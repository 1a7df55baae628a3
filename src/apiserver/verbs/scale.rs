//! The `scale` subresource: an `autoscaling/v1` `Scale` over three paths of the object (`registry/*/storage` `ScaleREST`).

use std::sync::Arc;

use api::field::{Error, Path};
use api::kind::{ScalePaths, Subresource};
use api::schema::Str;
use api::selector::LabelSelector;
use api::{Object, Status};
use serde_json::{Value, json};

use super::write::Change;
use super::{Verb, before};
use crate::respond::{self, Response};
use crate::served::Served;

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
        let scale = of(&object, subresource, paths)?;
        return respond::document(200, verb.accept, &subresource.gvk, &subresource.schema, scale);
    }
    let kind = if verb.call.info.verb == "update" { "UpdateOptions" } else { "PatchOptions" };
    let options = verb.write_options(kind, false)?;
    let source = if verb.call.info.verb == "update" {
        let mut scale = verb.decode_as(&subresource.gvk, &subresource.schema, &options).await?;
        before::ensure_namespace(&served.def, verb.namespace(), &mut scale)?;
        verb.check_name(&scale)?;
        Source::Replace(scale)
    } else {
        Source::Patch(verb.read_patch().await?)
    };
    let change = ScaleChange { served: &served, subresource, paths, source };
    let written = verb.write(Some(subresource), &options, true)?.update(&change, false).await?;
    verb.stored()?.view.prepare(std::slice::from_ref(&written.entry)).await?;
    let scale = of(&verb.stored()?.view.object(&written.entry)?, subresource, paths)?;
    respond::document(200, verb.accept, &subresource.gvk, &subresource.schema, scale)
}

enum Source {
    Replace(Object),
    Patch(super::patch::Patch),
}

struct ScaleChange<'a> {
    served: &'a Served,
    subresource: &'a Subresource,
    paths: &'a ScalePaths,
    source: Source,
}

impl Change for ScaleChange<'_> {
    fn apply(&self, current: Option<&Object>) -> Result<Object, Status> {
        let Some(current) = current else { return Err(self.served.not_found("")) };
        let scale = match &self.source {
            Source::Replace(scale) => scale.clone(),
            Source::Patch(patch) => {
                patch.apply_to(&self.subresource.schema, &of(current, self.subresource, self.paths)?)?
            }
        };
        if !scale.uid().is_empty() && scale.uid() != current.uid() {
            let why = format!(
                "Precondition failed: UID in precondition: {}, UID in object meta: {}",
                scale.uid(),
                current.uid()
            );
            return Err(Status::conflict(&self.served.resource, current.name(), why));
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
        Ok(object)
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
