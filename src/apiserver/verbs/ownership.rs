//! `metadata.managedFields` of writes.

use api::Object;
use api::apply::{self, FieldManager};
use api::kind::KindDef;

use super::write::Write;

/// What nobody comes to own through a resource or subresource.
pub fn reset_fields(def: &KindDef, subresource: &str) -> &'static [&'static [&'static str]] {
    match subresource {
        // Status of custom resources leaves their metadata alone too.
        "status" if def.custom.is_some() => &[&["metadata"], &["spec"]],
        _ => apply::reset_fields(subresource, def.has_status()),
    }
}

fn manager<'a>(write: &'a Write<'_>) -> FieldManager<'a> {
    let def = &write.served.def;
    let subresource = write.subresource.map_or("", |s| s.name);
    FieldManager {
        schema: def.schema(),
        gvk: &def.gvk,
        subresource,
        reset: reset_fields(def, subresource),
        now: write.server.clock.now(),
    }
}

/// A new object is its creator's.
pub fn on_create(write: &Write<'_>, object: &mut Object) {
    manager(write).update(None, object, &write.options.manager);
}

/// What changed is the writer's.
pub fn on_update(write: &Write<'_>, object: &mut Object, old: &Object) {
    manager(write).update(Some(old), object, &write.options.manager);
}
