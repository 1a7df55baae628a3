//! The tables of facts about Kubernetes' own kinds (see `api::schema::facts` for their form), parsed on first use.

use std::sync::{Arc, LazyLock};

use api::kind::Column;
use api::schema::facts::{ResourceFacts, parse_resources, parse_types};
use api::schema::{Schema, Types};

static TYPES: LazyLock<Arc<Types>> = LazyLock::new(|| Arc::new(parse_types(include_str!("facts/types.txt"))));
static RESOURCES: LazyLock<Vec<ResourceFacts>> = LazyLock::new(|| parse_resources(include_str!("facts/resources.txt")));

/// What upstream says of table columns; see `e2e/judge/columns.py` for the form.
static COLUMNS: &str = include_str!("facts/columns.txt");

/// Every struct type that the built-in kinds reach.
pub fn types() -> &'static Arc<Types> {
    &TYPES
}

/// Every resource that a v1.37 API server serves by default, the core group first, then in discovery's order.
pub fn resources() -> &'static [ResourceFacts] {
    &RESOURCES
}

/// The resource of this group, version and plural name.
pub fn resource(group: &str, version: &str, resource: &str) -> Option<&'static ResourceFacts> {
    resources().iter().find(|r| r.gvk.group == group && r.gvk.version == version && r.resource == resource)
}

/// The schema of a type by its OpenAPI name, e.g. `io.k8s.api.core.v1.Pod`.
pub fn schema(type_name: &str) -> Option<Schema> {
    Some(Schema { types: types().clone(), root: types().id(type_name)? })
}

/// Describes a resource's columns in upstream's words, where they are not described yet.
pub(crate) fn describe(group: &str, resource: &str, columns: &mut [Column]) {
    let mark = if group.is_empty() { format!("\n={resource}\n") } else { format!("\n={resource}.{group}\n") };
    let Some(at) = COLUMNS.find(&mark) else { return };
    let lines = COLUMNS[at + mark.len()..].lines().take_while(|line| !line.starts_with('='));
    for (name, text) in lines.filter_map(|line| line.split_once('\t')) {
        for column in columns.iter_mut().filter(|c| c.name == name && c.description.is_empty()) {
            column.description = if text.contains("\\n") { text.replace("\\n", "\n").into() } else { text.into() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_column_is_described() {
        for facts in resources() {
            let config = crate::Config {
                service_cidrs: Vec::new(),
                node_ports: (30000, 32767),
                cluster_dns: Vec::new(),
                kubelet_port: 10250,
            };
            let def = crate::define::define(facts, crate::extra(facts, &config)).expect(facts.resource);
            // Upstream says nothing of this one either.
            for column in def.columns.iter().filter(|c| c.name != "Handler") {
                assert!(!column.description.is_empty(), "{} {}", def.gvk.kind, column.name);
            }
        }
    }

    #[test]
    fn every_resource_has_its_types() {
        for resource in resources() {
            assert!(schema(resource.type_name).is_some(), "{}", resource.type_name);
            for sub in &resource.subresources {
                assert!(schema(sub.type_name).is_some(), "{}", sub.type_name);
            }
        }
        assert_eq!(resource("apps", "v1", "deployments").map(|r| r.short_names.clone()), Some(vec!["deploy"]));
    }

    #[test]
    fn every_stored_kind_has_a_list_type() {
        for resource in resources().iter().filter(|r| r.verbs.contains(&"list")) {
            assert!(schema(&format!("{}List", resource.type_name)).is_some(), "{}", resource.type_name);
        }
    }
}
