//! Defaults of custom resources and what becomes of nulls (apiextensions-apiserver `schema/defaulting`).

use serde_json::Value;

use super::{Additional, Structural};

/// Fills the defaults that the schema has, also for nulls where null is not allowed.
pub fn fill(value: &mut Value, schema: Option<&Structural>) {
    let Some(schema) = schema else { return };
    match value {
        Value::Object(map) => {
            for (name, property) in &schema.properties {
                let Some(default) = &property.default else { continue };
                let unset = match map.get(&**name) {
                    None => true,
                    Some(value) => value.is_null() && !property.nullable,
                };
                if unset {
                    map.insert(name.to_string(), (**default).clone());
                }
            }
            for (name, value) in map {
                if let Some(property) = schema.property(name) {
                    fill(value, Some(property));
                } else if let Some(additional) = schema.additional_schema() {
                    fill_null(value, additional);
                    fill(value, Some(additional));
                }
            }
        }
        Value::Array(items) => {
            let Some(schema) = schema.items.as_deref() else { return };
            for value in items {
                fill_null(value, schema);
                fill(value, Some(schema));
            }
        }
        _ => {}
    }
}

fn fill_null(value: &mut Value, schema: &Structural) {
    if value.is_null()
        && !schema.nullable
        && let Some(default) = &schema.default
    {
        *value = (**default).clone();
    }
}

/// Removes members that are null where null is not allowed and no default stands in for it.
pub fn drop_nulls(value: &mut Value, schema: Option<&Structural>) {
    match value {
        Value::Object(map) => map.retain(|name, value| {
            let schema = schema.and_then(|s| s.member(name));
            if value.is_null() && schema.is_some_and(|s| !s.nullable && s.default.is_none()) {
                return false;
            }
            drop_nulls(value, schema);
            true
        }),
        Value::Array(items) => {
            let schema = schema.and_then(|s| s.items.as_deref());
            items.iter_mut().for_each(|value| drop_nulls(value, schema));
        }
        _ => {}
    }
}

/// Removes from the defaults of a schema what the schema itself does not specify (`PruneDefaults`).
pub fn prune_defaults(schema: &mut Structural) {
    if let Some(mut default) = schema.default.take() {
        super::prune::prune_inside(&mut default, schema);
        schema.default = Some(default);
    }
    schema.properties.iter_mut().for_each(|(_, property)| prune_defaults(property));
    if let Some(items) = &mut schema.items {
        prune_defaults(items);
    }
    if let Additional::Schema(inner) = &mut schema.additional {
        prune_defaults(inner);
    }
}
