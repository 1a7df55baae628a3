//! Removing what a schema does not specify (apiextensions-apiserver `schema/pruning`).

use serde_json::Value;

use super::{Structural, Trail, is_meta_field};

/// Removes members that the schema of a resource does not specify, and returns their paths in order. `apiVersion`,
/// `kind` and `metadata` at the root stay whole. No schema specifies nothing.
pub fn prune(object: &mut Value, schema: Option<&Structural>) -> Vec<String> {
    let none = Structural::default();
    let mut pruner = Pruner { trail: Trail::default(), unknown: Vec::new() };
    pruner.prune(object, Some(schema.unwrap_or(&none)), true);
    pruner.unknown.sort_unstable();
    pruner.unknown
}

/// Removes what the schema of a value does not specify; for a default, which stands somewhere inside a resource.
pub fn prune_inside(value: &mut Value, schema: &Structural) {
    Pruner { trail: Trail::default(), unknown: Vec::new() }.prune(value, Some(schema), false);
}

struct Pruner {
    trail: Trail,
    unknown: Vec<String>,
}

impl Pruner {
    fn record(&mut self, key: &str) {
        let here = self.trail.key(key);
        self.unknown.push(self.trail.text().to_owned());
        self.trail.back(here);
    }

    fn member(&mut self, key: &str, value: &mut Value, schema: Option<&Structural>) {
        let here = self.trail.key(key);
        self.prune(value, schema, false);
        self.trail.back(here);
    }

    fn prune(&mut self, value: &mut Value, schema: Option<&Structural>, root: bool) {
        if schema.is_some_and(|s| s.preserve_unknown) {
            return self.skip(value, schema, root);
        }
        match value {
            Value::Object(map) => {
                let Some(schema) = schema else {
                    for key in map.keys() {
                        self.record(key);
                    }
                    map.clear();
                    return;
                };
                map.retain(|key, value| {
                    if (schema.embedded || root) && is_meta_field(key) {
                        return true;
                    }
                    if let Some(property) = schema.property(key) {
                        self.member(key, value, Some(property));
                        return true;
                    }
                    if schema.has_additional() {
                        self.member(key, value, schema.additional_schema());
                        return true;
                    }
                    if !is_meta_field(key) || !self.trail.is_root() {
                        self.record(key);
                    }
                    false
                });
            }
            Value::Array(items) => {
                let item = schema.and_then(|s| s.items.as_deref());
                for (index, value) in items.iter_mut().enumerate() {
                    let here = self.trail.index(index);
                    self.prune(value, item, false);
                    self.trail.back(here);
                }
            }
            _ => {}
        }
    }

    /// Below preserved unknown fields only what is specified is pruned.
    fn skip(&mut self, value: &mut Value, schema: Option<&Structural>, root: bool) {
        let Some(schema) = schema else { return };
        match value {
            Value::Object(map) => {
                for (key, value) in map {
                    if (schema.embedded || root) && is_meta_field(key) {
                        continue;
                    }
                    if let Some(property) = schema.property(key) {
                        self.member(key, value, Some(property));
                    } else if schema.has_additional() {
                        self.member(key, value, schema.additional_schema());
                    }
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter_mut().enumerate() {
                    let here = self.trail.index(index);
                    self.skip(value, schema.items.as_deref(), false);
                    self.trail.back(here);
                }
            }
            _ => {}
        }
    }
}
