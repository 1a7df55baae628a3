//! `metadata.managedFields` of writes that are no apply.

use api::{Object, Status};
use serde_json::Value;

use super::write::Write;

pub fn on_create(_write: &Write<'_>, _object: &mut Object) -> Result<(), Status> {
    Ok(())
}

pub fn on_update(_write: &Write<'_>, object: &mut Object, old: &Object) -> Result<(), Status> {
    match old.get(&["metadata", "managedFields"]) {
        Some(fields) => object.set(&["metadata", "managedFields"], fields.clone()),
        None => drop(object.remove(&["metadata", "managedFields"])),
    }
    Ok(())
}

/// A change that moved nothing but the times of managed fields is no change
/// (`fieldmanager.IgnoreManagedFieldsTimestampsTransformer`).
pub fn keep_times(object: &mut Object, old: &Object) {
    let timeless = |object: &Object| {
        let mut entries = object.array(&["metadata", "managedFields"]).to_vec();
        for entry in &mut entries {
            if let Value::Object(entry) = entry {
                entry.remove("time");
            }
        }
        entries
    };
    if object.get(&["metadata", "managedFields"]) == old.get(&["metadata", "managedFields"])
        || timeless(object) != timeless(old)
    {
        return;
    }
    let mut other = object.clone();
    let fields = old.get(&["metadata", "managedFields"]).cloned().unwrap_or_default();
    other.set(&["metadata", "managedFields"], fields.clone());
    if other == *old {
        object.set(&["metadata", "managedFields"], fields);
    }
}
