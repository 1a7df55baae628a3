//! The served kinds for code that sees objects of any kind: webhooks, policies.

use std::sync::Arc;

use api::codec::{FieldValidation, MediaType};
use api::kind::RequestContext;
use api::services::{Kinds, ServedKind};
use api::{Gvk, Gvr, Object, Status, UserInfo};
use async_trait::async_trait;
use serde_json::Value;

use crate::served::Served;
use crate::server::ApiServer;

fn describe(served: &Served) -> ServedKind {
    ServedKind {
        resource: served.gvr(),
        gvk: served.def.gvk.clone(),
        namespaced: served.def.namespaced,
        schema: served.def.schema().clone(),
    }
}

/// What the object says it is.
fn gvk_of(object: &Object) -> Option<Gvk> {
    let version = api::GroupVersion::parse(object.api_version())?;
    Some(Gvk::new(version.group, version.version, object.kind()))
}

impl ApiServer {
    fn served_kind(&self, gvk: &Gvk) -> Option<Arc<Served>> {
        self.table.load().all.iter().find(|served| served.def.gvk == *gvk).cloned()
    }
}

#[async_trait]
impl Kinds for ApiServer {
    fn kind(&self, gvk: &Gvk) -> Option<ServedKind> {
        self.served_kind(gvk).map(|served| describe(&served))
    }

    fn kinds(&self) -> Vec<ServedKind> {
        self.table.load().all.iter().map(|served| describe(served)).collect()
    }

    fn equivalents(&self, resource: &Gvr, subresource: &str) -> Vec<(Gvr, Gvk)> {
        let table = self.table.load();
        let Some(prefix) = table.get(resource).and_then(|s| s.stored.as_ref()).map(|s| s.cache.prefix.clone()) else {
            return Vec::new();
        };
        let same = |served: &&Arc<Served>| served.stored.as_ref().is_some_and(|s| s.cache.prefix == prefix);
        table
            .all
            .iter()
            .filter(same)
            .filter(|served| served.gvr() != *resource)
            .filter_map(|served| match subresource {
                "" => Some((served.gvr(), served.def.gvk.clone())),
                name => served.def.subresource(name).map(|sub| (served.gvr(), sub.gvk.clone())),
            })
            .collect()
    }

    async fn convert(&self, object: Object, to: &Gvk) -> Result<Object, Status> {
        let unknown = |gvk: &Gvk| Status::internal(format_args!("unable to convert to {gvk}: unknown kind"));
        if object.api_version() == to.api_version() && object.kind() == to.kind {
            return Ok(object);
        }
        let from = gvk_of(&object).ok_or_else(|| Status::internal("the object has no apiVersion"))?;
        let source = self.served_kind(&from).ok_or_else(|| unknown(&from))?;
        let target = self.served_kind(to).ok_or_else(|| unknown(to))?;
        // What is stored has no version of its own: it is kept beside the conversion.
        let version = object.resource_version().to_owned();
        if let Some(custom) = &source.def.custom {
            let converted = custom.convert_all(vec![object], &to.version).await?;
            return converted.into_iter().next().ok_or_else(|| unknown(to));
        }
        let stored = source.stored()?.view.to_stored(object).await?;
        let mut converted = target.stored()?.view.from_stored(stored)?;
        converted.set_gvk(to);
        if !version.is_empty() {
            converted.set(&["metadata", "resourceVersion"], version);
        }
        Ok(converted)
    }

    fn complete(&self, mut object: Object) -> Result<Object, Status> {
        let Some(gvk) = gvk_of(&object) else { return Ok(object) };
        let Some(served) = self.served_kind(&gvk) else {
            // Bodies of subresources have no defaults.
            return Ok(object);
        };
        if let Some(custom) = &served.def.custom {
            return Ok(custom.conform(object, Vec::new(), api::codec::FieldValidation::Ignore)?.object);
        }
        let schema = &served.def.schema;
        api::codec::normalize(schema, &mut object).map_err(Status::internal)?;
        object.set_gvk(&gvk);
        api::schema::walk::default(schema, &mut object);
        served.def.strategy.default(&mut object);
        served.def.strategy.default_at(&mut object, self.clock.now());
        Ok(object)
    }

    fn check_members(&self, object: &Object) -> Result<(), String> {
        let Some(gvk) = gvk_of(object) else { return Ok(()) };
        let Some(served) = self.served_kind(&gvk).filter(|served| served.def.custom.is_none()) else { return Ok(()) };
        let decoded = api::codec::decode_value(&object.0, &served.def.schema, &gvk, FieldValidation::Strict);
        let without_kind = |text: String| match text.split_once(" cannot be handled as a ") {
            Some((_, why)) => why.split_once(": ").map_or_else(|| why.to_owned(), |(_, why)| why.to_owned()),
            None => text,
        };
        decoded.map(|_| ()).map_err(|status| without_kind(status.message))
    }

    fn accept(&self, document: &Value) -> Result<Object, String> {
        let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
        let (version, kind) = (text("apiVersion"), text("kind"));
        if kind.is_empty() {
            return Err(format!("Object 'Kind' is missing in '{document}'"));
        }
        let unknown = || format!("no kind {kind:?} is registered for version {version:?}");
        let gv = api::GroupVersion::parse(version).ok_or_else(unknown)?;
        let gvk = Gvk::new(gv.group, gv.version, kind);
        let served = self.served_kind(&gvk).filter(|served| served.def.custom.is_none()).ok_or_else(unknown)?;
        let body = document.to_string();
        let decoded =
            api::codec::decode(body.as_bytes(), MediaType::Json, &served.def.schema, &gvk, FieldValidation::Strict);
        let object = decoded.map_err(|status| status.message)?.object;
        let object = self.complete(object).map_err(|status| status.message)?;
        let nobody = UserInfo::new("", &[]);
        let now = self.clock.now();
        let context =
            RequestContext { user: &nobody, now, dry_run: false, subresource: "", own_labels: true, warn: None };
        let name = api::field::Path::new("metadata").child("name");
        let mut errors: Vec<String> = served
            .def
            .strategy
            .validate_name(object.name(), false)
            .into_iter()
            .filter(|_| !object.name().is_empty())
            .map(|why| api::field::Error::invalid(name.clone(), object.name(), why).to_string())
            .collect();
        errors.extend(served.def.strategy.validate_update(&context, &object, &object).iter().map(ToString::to_string));
        match errors.as_slice() {
            [] => Ok(object),
            [one] => Err(format!("{kind} {:?}: {one}", object.name())),
            all => Err(format!("{kind} {:?}: [{}]", object.name(), all.join(", "))),
        }
    }
}
