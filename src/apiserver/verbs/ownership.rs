//! `metadata.managedFields` of writes.

use std::sync::Arc;

use api::apply::{FieldManager, OneVersion, Versions};
use api::kind::KindDef;
use api::schema::Schema;
use api::{Gvk, Object};

use super::write::Write;
use crate::served::{KindTable, Served};
use crate::server::ApiServer;

/// What nobody comes to own through a resource or subresource (`GetResetFields` of upstream's strategies).
pub fn reset_fields(def: &KindDef, subresource: &str) -> &'static [&'static [&'static str]] {
    let requests = def.gvk.group == "certificates.k8s.io" && def.resource == "certificatesigningrequests";
    match subresource {
        "" if requests => &[&["spec"], &["status"]],
        "" if def.has_status() => &[&["status"]],
        "status" if requests => &[&["spec"], &["status", "conditions"]],
        "status" => def.status_keeps.reset(),
        "approval" => &[&["spec"], &["status", "certificate"]],
        "finalize" => &[&["status"]],
        _ => &[],
    }
}

/// The versions of a kind that are served.
pub struct ServedVersions<'a> {
    table: Arc<KindTable>,
    served: &'a Served,
}

impl<'a> ServedVersions<'a> {
    pub fn new(server: &ApiServer, served: &'a Served) -> Self {
        Self { table: server.table.load_full(), served }
    }

    /// All that share the kind's storage.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Served>> {
        let prefix = |def: &KindDef| def.storage.as_ref().map(|s| s.prefix.clone());
        let own = prefix(&self.served.def);
        self.table.all.iter().filter(move |s| s.def.gvk.kind == self.served.def.gvk.kind && prefix(&s.def) == own)
    }

    fn version(&self, api_version: &str) -> Option<&Arc<Served>> {
        self.all().find(|s| s.def.gvk.api_version() == api_version)
    }
}

impl Versions for ServedVersions<'_> {
    fn schema(&self, api_version: &str) -> Option<&Schema> {
        self.version(api_version).map(|s| s.def.schema())
    }

    fn convert(&self, object: &Object, api_version: &str) -> Option<Object> {
        let (from, to) = (self.version(object.api_version())?, self.version(api_version)?);
        if to.def.custom.is_some() {
            // Without pruning and defaults, as upstream's converter. A webhook is not asked for this: its versions are
            // taken to have the same fields.
            let mut object = object.clone();
            object.set(&["apiVersion"], api_version);
            return Some(object);
        }
        let stored = match from.def.storage.as_ref()?.conversion.as_ref() {
            Some(conversion) => conversion.to_stored(object.clone()).ok()?,
            None => object.clone(),
        };
        let mut converted = to.stored.as_ref()?.view.from_stored(stored).ok()?;
        converted.set_gvk(&to.def.gvk);
        Some(converted)
    }
}

/// The manager of a request's fields.
pub fn with_manager<R>(
    server: &ApiServer,
    served: &Served,
    subresource: &str,
    then: impl FnOnce(&FieldManager<'_>) -> R,
) -> R {
    let def = &served.def;
    let versions = ServedVersions::new(server, served);
    then(&FieldManager {
        schema: def.schema(),
        gvk: &def.gvk,
        subresource,
        reset: reset_fields(def, subresource),
        // Custom resources leave the status of other versions to those (`customResourceStrategy.GetResetFields`).
        resets_versions: def.custom.is_none() || subresource == "status",
        versions: &versions,
        keeps_nulls: def.custom.is_some(),
        now: server.clock.now(),
    })
}

fn manager<R>(write: &Write<'_>, then: impl FnOnce(&FieldManager<'_>) -> R) -> R {
    with_manager(write.server, write.served, write.subresource.map_or("", |s| s.name), then)
}

/// A new object is its creator's.
pub fn on_create(write: &Write<'_>, object: &mut Object) {
    manager(write, |m| m.update(None, object, &write.options.manager));
}

/// The body of a question that is not kept.
pub fn on_ask(server: &ApiServer, schema: &Schema, gvk: &Gvk, subresource: &str, body: &mut Object, manager: &str) {
    let fields = FieldManager {
        schema,
        gvk,
        subresource,
        reset: &[],
        resets_versions: false,
        versions: &OneVersion,
        keeps_nulls: false,
        now: server.clock.now(),
    };
    fields.update(None, body, manager);
}

/// What changed is the writer's.
pub fn on_update(write: &Write<'_>, object: &mut Object, old: &Object) {
    manager(write, |m| m.update(Some(old), object, &write.options.manager));
}
