//! What the rules of a definition's schema say: whether they compile, what they may cost, and whether they can see old
//! values (`ValidateCustomResourceDefinitionOpenAPISchema` with `CELSchemaContext`).

use api::cel::Decl;
use api::field::{Error, ErrorList, Path};
use api::structural::Structural;
use api::structural::rules::Compiled;
use serde_json::Value;

use crate::json::Json;
use crate::printed::Printed;

const RULE: &str = "apiextensions.ValidationRule";

/// What one rule may cost by estimate …
const EXPRESSION_COST_MAX: u64 = 10_000_000;
/// … and all rules of a schema together.
const TOTAL_COST_MAX: u64 = 100_000_000;
/// How many expensive rules are named if all together cost too much.
const NAMED: usize = 4;

/// A place in the structure.
#[derive(Clone)]
struct Place {
    root: bool,
    /// How many values of this place an object can have; `None` if nobody knows.
    cardinality: Option<u64>,
    /// The list above whose items cannot be told apart between two revisions.
    uncorrelatable: Option<Path>,
}

struct Walk {
    errors: ErrorList,
    /// Costs of single rules do not matter: the schema was stored with them.
    quiet: bool,
    total: u64,
    costs: Vec<(u64, Path)>,
}

/// Problems of the rules of a schema that is otherwise good. `quiet`: the schema has not changed.
pub(super) fn validate(schema: &Value, path: &Path, quiet: bool) -> ErrorList {
    let mut walk = Walk { errors: ErrorList::new(), quiet, total: 0, costs: Vec::new() };
    walk.node(schema, path, &Place { root: true, cardinality: Some(1), uncorrelatable: None });
    if walk.total > TOTAL_COST_MAX {
        walk.costs.sort_by_key(|(cost, _)| std::cmp::Reverse(*cost));
        for (_, at) in walk.costs.iter().take(NAMED) {
            let text = "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            walk.errors.push(Error::forbidden(at.clone(), text));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        walk.errors.push(Error::forbidden(path.clone(), cost_text(what, walk.total, TOTAL_COST_MAX)));
    }
    walk.errors
}

/// `getCostErrorMessage`.
fn cost_text(what: &str, cost: u64, limit: u64) -> String {
    let times = cost as f64 / limit as f64;
    let factor = if times > 100.0 {
        "more than 100x".to_owned()
    } else if times < 1.5 {
        format!("{times:.6}x")
    } else {
        format!("{times:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

impl Walk {
    fn node(&mut self, schema: &Value, path: &Path, place: &Place) {
        if !schema.is_object() {
            return;
        }
        self.rules(schema, path, place);
        let inner = |cardinality| Place { root: false, cardinality, uncorrelatable: place.uncorrelatable.clone() };
        let times = |member: &str| {
            let most = schema.int(member).and_then(|n| u64::try_from(n).ok());
            place.cardinality.zip(most).map(|(a, b)| a.saturating_mul(b))
        };
        for (name, property) in schema.entries("properties") {
            self.node(property, &path.child("properties").key(name), &inner(place.cardinality));
        }
        let additional = inner(times("maxProperties"));
        self.node(schema.at("additionalProperties"), &path.child("additionalProperties"), &additional);
        let mut items = inner(times("maxItems"));
        if schema.text("x-kubernetes-list-type") != "map" && items.uncorrelatable.is_none() {
            items.uncorrelatable = Some(path.clone());
        }
        self.node(schema.at("items"), &path.child("items"), &items);
    }

    fn rules(&mut self, schema: &Value, path: &Path, place: &Place) {
        let rules = schema.list("x-kubernetes-validations");
        if rules.is_empty() {
            return;
        }
        let root = place.root || schema.flag("x-kubernetes-embedded-resource");
        let at_all = path.child("x-kubernetes-validations");
        let Some(decl) = Decl::from_json_schema(schema, root) else {
            let text = "internal error: failed to construct type information for x-kubernetes-validations rules: unable \
                        to convert structural schema to CEL declarations";
            let kind = api::field::ErrorType::Internal;
            self.errors.push(Error { kind, path: at_all, value: None, shown: None, detail: text.to_owned() });
            return;
        };
        let cardinality = place.cardinality.unwrap_or_else(|| decl.max_cardinality());
        for (index, rule) in Structural::parse(schema).rules.iter().enumerate() {
            let at = at_all.index(index);
            let compiled = Compiled::new(rule, &decl, Vec::new());
            let shown = rules.get(index).cloned().unwrap_or_default();
            match &compiled.program {
                Ok(program) => {
                    let cost = program.estimate().max.saturating_mul(cardinality);
                    self.cost(&at.child("rule"), "estimated rule cost", cost);
                }
                Err(text) => {
                    self.errors.push(Error::invalid(at.child("rule"), shown.clone(), text.as_str()).printed(RULE));
                }
            }
            match &compiled.message {
                Some(Ok(message)) if compiled.program.is_ok() => {
                    let cost = message.estimate().max;
                    self.cost(&at.child("messageExpression"), "estimated messageExpression cost", cost);
                }
                Some(Err(text)) if compiled.program.is_ok() => {
                    let error = Error::invalid(at.child("messageExpression"), shown, text.as_str());
                    self.errors.push(error.printed(RULE));
                }
                _ => {}
            }
            if compiled.uses_old {
                if let Some(list) = &place.uncorrelatable {
                    let text =
                        format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {list}");
                    self.errors.push(Error::invalid(at.child("rule"), rule.rule.as_str(), text));
                }
            } else if let Some(set) = rule.optional_old_self {
                let text = "may not be set if oldSelf is not used in rule";
                self.errors.push(Error::invalid(at.child("optionalOldSelf"), set, text));
            }
        }
    }

    fn cost(&mut self, at: &Path, what: &str, cost: u64) {
        if !self.quiet && cost > EXPRESSION_COST_MAX {
            self.errors.push(Error::forbidden(at.clone(), cost_text(what, cost, EXPRESSION_COST_MAX)));
        }
        self.total = self.total.saturating_add(cost);
        // What adds less than a hundredth is not named.
        if cost >= TOTAL_COST_MAX / 100 {
            self.costs.push((cost, at.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(spec: Value, want: &[(&str, &str)]) {
        let schema = json!({"type": "object", "properties": {"spec": spec}});
        let found = validate(&schema, &Path::new("schema"), false);
        let found: Vec<(String, String)> = found.iter().map(|e| (e.path.to_string(), e.detail.clone())).collect();
        assert_eq!(found.len(), want.len(), "{found:#?}");
        for ((path, detail), (want_path, part)) in found.iter().zip(want) {
            assert_eq!(path, want_path);
            assert!(detail.contains(part), "{detail}");
        }
    }

    #[test]
    fn rules_must_compile_and_be_cheap() {
        let rules = |rule: &str| json!([{"rule": rule}]);
        let at = "schema.properties[spec].x-kubernetes-validations[0].rule";
        let object = |rule: &str| {
            json!({"type": "object", "x-kubernetes-validations": rules(rule),
            "properties": {"a": {"type": "integer"}}})
        };
        check(object("self.a > 1"), &[]);
        check(object("self.b > 1"), &[(at, "undefined field 'b'")]);
        check(object("self.a"), &[(at, "cel expression must evaluate to a bool")]);
        let list = json!({"type": "array", "items": {"type": "array", "items": {"type": "string"}},
            "x-kubernetes-validations": rules("self.all(x, self.all(y, x == y))")});
        check(
            list.clone(),
            &[
                (at, "estimated rule cost exceeds budget by factor of more than 100x"),
                (at, "contributed to estimated rule cost total"),
                ("schema", "for entire OpenAPIv3 schema"),
            ],
        );
        let items = json!({"type": "array", "maxItems": 5, "items": {"type": "integer",
            "x-kubernetes-validations": rules("self >= oldSelf")}});
        let within =
            "oldSelf cannot be used on the uncorrelatable portion of the schema within schema.properties[spec]";
        check(items, &[("schema.properties[spec].items.x-kubernetes-validations[0].rule", within)]);
    }
}
