//! `flowcontrol.apiserver.k8s.io`.

use api::Object;
use api::field::{Error, ErrorList, Path};
use serde_json::Value;

use crate::checks::{label_name, subdomain};
use crate::columns::{age, name, number, string, string_or, text};
use crate::define::Extra;
use crate::json::{Json, dig, existing, existing_at, fill, fill_zero};
use crate::printed::Printed;
use crate::rules::Rules;

/// In upstream's order, which is the alphabet's.
const VERBS: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
/// `FlowSchemaMaxMatchingPrecedence`.
const PRECEDENCE_MAX: i64 = 10_000;
/// `priorityLevelConfigurationQueuingMaxQueues`.
const QUEUES_MAX: i64 = 10_000_000;
/// `shufflesharding.MaxHashBits`.
const HASH_BITS: u32 = 60;

/// What is special about a kind of this group.
pub(crate) fn extra(kind: &str) -> Option<Extra> {
    Some(match kind {
        "FlowSchema" => flow_schema(),
        "PriorityLevelConfiguration" => priority_level(),
        _ => return None,
    })
}

fn flow_schema() -> Extra {
    let rules = Rules {
        default: |object| {
            if let Some(spec) = existing(&mut object.0, "spec") {
                fill_zero(spec, "matchingPrecedence", 1000);
            }
        },
        validate: |object| {
            let mut errors = ErrorList::new();
            schema_spec(&mut errors, object);
            mandatory(&mut errors, object, "flowcontrol.FlowSchemaSpec");
            errors.extend(conditions(object));
            errors
        },
        validate_status: |object, _| conditions(object),
        ..Rules::GENERIC
    };
    let columns = vec![
        name(),
        text("PriorityLevel", |o, _| string(o, &["spec", "priorityLevelConfiguration", "name"])),
        text("MatchingPrecedence", |o, _| number(o, &["spec", "matchingPrecedence"])),
        text("DistinguisherMethod", |o, _| string_or(o, &["spec", "distinguisherMethod", "type"], "<none>")),
        age(),
        text("MissingPL", |o, _| {
            let conditions = o.array(&["status", "conditions"]);
            let dangling = conditions.iter().find(|c| c.text("type") == "Dangling");
            dangling.map_or("?", |c| c.text("status")).into()
        }),
    ];
    Extra::new(rules, columns).with_generation()
}

/// The objects that every server must have keep the specs that they begin with (`ValidateFlowSchema`,
/// `ValidateIfMandatoryPriorityLevelConfigurationObject`); of the exempt level one member may change.
fn mandatory(errors: &mut ErrorList, object: &Object, ty: &str) {
    if !matches!(object.name(), "exempt" | "catch-all") {
        return;
    }
    let fixed = crate::bootstrap::flow::objects();
    let Some(fixed) = fixed.iter().find(|fixed| fixed.kind() == object.kind() && fixed.name() == object.name()) else {
        return;
    };
    let mut spec = object.at("spec").clone();
    let free = object.kind() == "PriorityLevelConfiguration" && object.name() == "exempt";
    if free && let Some(members) = spec.as_object_mut() {
        members.insert("exempt".to_owned(), fixed.at("spec").at("exempt").clone());
    }
    if !crate::printed::equal(ty, &spec, fixed.at("spec")) {
        let except = if free { " except the 'spec.exempt' field" } else { "" };
        let text = format!("spec of '{}'{except} must equal the fixed value", object.name());
        errors.push(Error::invalid(Path::new("spec"), object.at("spec").clone(), text).printed(ty));
    }
}

/// Each type of condition once, and none without a type.
fn conditions(object: &Object) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen: Vec<&str> = Vec::new();
    for (i, condition) in object.array(&["status", "conditions"]).iter().enumerate() {
        let (at, kind) = (Path::new("status").child("conditions").index(i).child("type"), condition.text("type"));
        if seen.contains(&kind) {
            errors.push(Error::duplicate(at.clone(), kind));
        }
        seen.push(kind);
        if kind.is_empty() {
            errors.push(Error::required(at, ""));
        }
    }
    errors
}

/// `ValidateFlowSchemaSpec`.
fn schema_spec(errors: &mut ErrorList, object: &Object) {
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    let (precedence, precedence_at) =
        (spec.int("matchingPrecedence").unwrap_or_default(), at.child("matchingPrecedence"));
    if precedence <= 0 {
        errors.push(Error::invalid(precedence_at.clone(), precedence, "must be a positive value"));
    }
    if precedence > PRECEDENCE_MAX {
        let text = format!("must not be greater than {PRECEDENCE_MAX}");
        errors.push(Error::invalid(precedence_at.clone(), precedence, text));
    }
    if precedence == 1 && object.name() != "exempt" {
        let text = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.push(Error::invalid(precedence_at, precedence, text));
    }
    let method = spec.at("distinguisherMethod");
    if method.is_object() && !matches!(method.text("type"), "ByNamespace" | "ByUser") {
        let at = at.child("distinguisherMethod").child("type");
        let error = Error::not_supported(at, method.clone(), &["ByNamespace", "ByUser"]);
        errors.push(error.printed("flowcontrol.FlowDistinguisherMethod"));
    }
    let level = at.child("priorityLevelConfiguration").child("name");
    match spec.at("priorityLevelConfiguration").text("name") {
        "" => errors.push(Error::required(level, "must reference a priority level")),
        name => subdomain(errors, &level, name),
    }
    for (i, rule) in spec.list("rules").iter().enumerate() {
        let at = at.child("rules").index(i);
        if rule.count("subjects") == 0 {
            errors.push(Error::required(at.child("subjects"), "subjects must contain at least one value"));
        }
        for (j, one) in rule.list("subjects").iter().enumerate() {
            subject(errors, &at.child("subjects").index(j), one);
        }
        if rule.count("resourceRules") + rule.count("nonResourceRules") == 0 {
            let text = "at least one of resourceRules and nonResourceRules has to be non-empty";
            errors.push(Error::required(at.clone(), text));
        }
        for (j, one) in rule.list("resourceRules").iter().enumerate() {
            resource_rule(errors, &at.child("resourceRules").index(j), one);
        }
        for (j, one) in rule.list("nonResourceRules").iter().enumerate() {
            url_rule(errors, &at.child("nonResourceRules").index(j), one);
        }
    }
}

/// `ValidateFlowSchemaSubject`.
fn subject(errors: &mut ErrorList, at: &Path, subject: &Value) {
    const KINDS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = subject.text("kind");
    let Some((_, member)) = KINDS.iter().find(|(known, _)| *known == kind) else {
        errors.push(Error::not_supported(at.child("kind"), kind, &["Group", "ServiceAccount", "User"]));
        return;
    };
    let (body, body_at) = (subject.at(member), at.child(member));
    if body.is_null() {
        errors.push(Error::required(body_at, format!("{member} is required when subject kind is '{kind}'")));
    } else {
        let name = body.text("name");
        if name.is_empty() {
            errors.push(Error::required(body_at.child("name"), ""));
        } else if kind == "ServiceAccount" && name != "*" {
            subdomain(errors, &body_at.child("name"), name);
        }
        if kind == "ServiceAccount" {
            match body.text("namespace") {
                "" => {
                    let text = "must specify namespace for service account";
                    errors.push(Error::required(body_at.child("namespace"), text));
                }
                namespace => label_name(errors, &body_at.child("namespace"), namespace),
            }
        }
    }
    // Upstream's order: account, user, group, without the own one; but the user comes first for accounts.
    for (other, other_member) in KINDS.iter().filter(|(other, member)| *other != kind && subject.has(member)) {
        let text = format!("{other_member} is forbidden when subject kind is not '{other}'");
        errors.push(Error::forbidden(at.child(other_member), text));
    }
}

fn words<'v>(rule: &'v Value, member: &str) -> Vec<&'v str> {
    rule.list(member).iter().filter_map(Value::as_str).collect()
}

fn verbs(errors: &mut ErrorList, at: &Path, rule: &Value) {
    let (at, verbs) = (at.child("verbs"), words(rule, "verbs"));
    if verbs.is_empty() {
        errors.push(Error::required(at, "verbs must contain at least one value"));
    } else if verbs.contains(&"*") {
        if verbs.len() > 1 {
            let text = "if '*' is present, must not specify other verbs";
            errors.push(Error::invalid(at, rule.at("verbs").clone(), text));
        }
    } else if !verbs.iter().all(|v| VERBS.contains(v)) {
        errors.push(Error::not_supported(at, rule.at("verbs").clone(), VERBS));
    }
}

/// `ValidateFlowSchemaResourcePolicyRule`.
fn resource_rule(errors: &mut ErrorList, at: &Path, rule: &Value) {
    verbs(errors, at, rule);
    for (member, one, many) in [("apiGroups", "api group", "api groups"), ("resources", "resource", "resources")] {
        let (at, list) = (at.child(member), words(rule, member));
        if list.is_empty() {
            errors.push(Error::required(at, format!("resource rules must supply at least one {one}")));
        } else if list.len() > 1 && list.contains(&"*") {
            let text = format!("if '*' is present, must not specify other {many}");
            errors.push(Error::invalid(at, rule.at(member).clone(), text));
        }
    }
    let (at, namespaces) = (at.child("namespaces"), words(rule, "namespaces"));
    if namespaces.is_empty() && !rule.flag("clusterScope") {
        let text = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(Error::required(at, text));
    } else if namespaces.contains(&"*") {
        if namespaces.len() > 1 {
            let text = "if '*' is present, must not specify other namespaces";
            errors.push(Error::invalid(at, rule.at("namespaces").clone(), text));
        }
    } else {
        for (i, namespace) in namespaces.iter().enumerate() {
            for text in api::validation::dns1123_label(namespace, false) {
                let text = format!("each member of this list must be '*' or a DNS-1123 label; {text}");
                errors.push(Error::invalid(at.index(i), *namespace, text));
            }
        }
    }
}

/// `ValidateFlowSchemaNonResourcePolicyRule`.
fn url_rule(errors: &mut ErrorList, at: &Path, rule: &Value) {
    verbs(errors, at, rule);
    let (at, urls) = (at.child("nonResourceURLs"), words(rule, "nonResourceURLs"));
    if urls.is_empty() {
        errors.push(Error::required(at, "nonResourceURLs must contain at least one value"));
    } else if urls.contains(&"*") {
        if urls.len() > 1 {
            let text = "if '*' is present, must not specify other non-resource URLs";
            errors.push(Error::invalid(at, rule.at("nonResourceURLs").clone(), text));
        }
    } else {
        for (i, url) in urls.iter().enumerate() {
            let stars = url.matches('*').count();
            let problem = match *url {
                "" => "must not be empty",
                "/" => continue,
                url if !url.starts_with('/') => "must start with slash",
                url if url.contains(' ') => "must not contain white-space",
                url if url.contains("//") => "must not contain double slash",
                url if stars > 1 || stars == 1 && !url.ends_with("/*") => "wildcard can only do suffix matching",
                _ => continue,
            };
            errors.push(Error::invalid(at.index(i), *url, problem));
        }
    }
}

fn priority_level() -> Extra {
    let rules = Rules {
        default: |object| {
            let Some(spec) = existing(&mut object.0, "spec") else { return };
            if let Some(exempt) = existing(spec, "exempt") {
                fill(exempt, "nominalConcurrencyShares", 0);
                fill(exempt, "lendablePercent", 0);
            }
            if let Some(limited) = existing(spec, "limited") {
                fill(limited, "nominalConcurrencyShares", 30);
                fill(limited, "lendablePercent", 0);
                if let Some(queuing) = existing_at(limited, &["limitResponse", "queuing"]) {
                    fill_zero(queuing, "handSize", 8);
                    fill_zero(queuing, "queues", 64);
                    fill_zero(queuing, "queueLengthLimit", 50);
                }
            }
        },
        validate: |object| {
            let mut errors = ErrorList::new();
            level_spec(&mut errors, object);
            mandatory(&mut errors, object, "flowcontrol.PriorityLevelConfigurationSpec");
            errors.extend(conditions(object));
            errors
        },
        validate_status: |object, _| conditions(object),
        ..Rules::GENERIC
    };
    fn or_none(value: &Value) -> Value {
        if value.is_null() { "<none>".into() } else { value.clone() }
    }
    const QUEUING: [&str; 4] = ["spec", "limited", "limitResponse", "queuing"];
    let columns = vec![
        name(),
        text("Type", |o, _| string(o, &["spec", "type"])),
        text("NominalConcurrencyShares", |o, _| or_none(dig(o, &["spec", "limited", "nominalConcurrencyShares"]))),
        text("Queues", |o, _| or_none(dig(o, &QUEUING).at("queues"))),
        text("HandSize", |o, _| or_none(dig(o, &QUEUING).at("handSize"))),
        text("QueueLengthLimit", |o, _| or_none(dig(o, &QUEUING).at("queueLengthLimit"))),
        age(),
    ];
    Extra::new(rules, columns).with_generation()
}

/// `ValidatePriorityLevelConfigurationSpec`, with the union's errors as declarative validation says them.
fn level_spec(errors: &mut ErrorList, object: &Object) {
    let (spec, at) = (object.at("spec"), Path::new("spec"));
    let kind = spec.text("type");
    if (object.name() == "exempt") != (kind == "Exempt") {
        let text = "must be 'Exempt' if and only if `name` is 'exempt'";
        errors.push(Error::invalid(at.child("type"), kind, text));
    }
    let (limited, exempt) = (spec.at("limited"), spec.at("exempt"));
    match kind {
        "Exempt" => {
            shares(errors, &at.child("exempt"), exempt);
            lendable(errors, &at.child("exempt"), exempt);
            if limited.is_object() {
                errors.push(Error::forbidden(at.child("limited"), ""));
                if limited.at("limitResponse").text("type").is_empty() {
                    errors.push(Error::required(at.child("limited").child("limitResponse").child("type"), ""));
                }
            }
        }
        "Limited" => {
            if exempt.is_object() {
                errors.push(Error::forbidden(at.child("exempt"), ""));
            }
            if limited.is_object() {
                self::limited(errors, &at.child("limited"), limited);
            } else {
                errors.push(Error::required(at.child("limited"), ""));
            }
        }
        _ => {
            if !kind.is_empty() {
                errors.push(Error::not_supported(at.child("type"), kind, &["Exempt", "Limited"]));
            }
            for member in ["limited", "exempt"] {
                if spec.has(member) {
                    errors.push(Error::forbidden(at.child(member), ""));
                }
            }
            if kind.is_empty() {
                errors.push(Error::required(at.child("type"), ""));
            }
        }
    }
}

fn shares(errors: &mut ErrorList, at: &Path, body: &Value) {
    let share = body.int("nominalConcurrencyShares").unwrap_or_default();
    if share < 0 {
        errors.push(Error::invalid(at.child("nominalConcurrencyShares"), share, "must be a non-negative integer"));
    }
}

fn lendable(errors: &mut ErrorList, at: &Path, body: &Value) {
    if let Some(percent) = body.int("lendablePercent")
        && !(0..=100).contains(&percent)
    {
        errors.push(Error::invalid(at.child("lendablePercent"), percent, "must be between 0 and 100, inclusive"));
    }
}

fn limited(errors: &mut ErrorList, at: &Path, body: &Value) {
    shares(errors, at, body);
    let (response, to) = (body.at("limitResponse"), at.child("limitResponse"));
    let (kind, queuing) = (response.text("type"), response.at("queuing"));
    match kind {
        "Queue" if queuing.is_object() => self::queuing(errors, &to.child("queuing"), queuing),
        "Queue" => errors.push(Error::required(to.child("queuing"), "")),
        "Reject" => {}
        "" => {}
        other => errors.push(Error::not_supported(to.child("type"), other, &["Queue", "Reject"])),
    }
    if kind != "Queue" && queuing.is_object() {
        errors.push(Error::forbidden(to.child("queuing"), ""));
    }
    if kind.is_empty() {
        errors.push(Error::required(to.child("type"), ""));
    }
    lendable(errors, at, body);
    if let Some(percent) = body.int("borrowingLimitPercent")
        && percent < 0
    {
        let text = "if specified, must be a non-negative integer";
        errors.push(Error::invalid(at.child("borrowingLimitPercent"), percent, text));
    }
}

/// `ValidatePriorityLevelQueuingConfiguration`.
fn queuing(errors: &mut ErrorList, at: &Path, body: &Value) {
    let number = |member: &str| body.int(member).unwrap_or_default();
    let (length, queues, hand) = (number("queueLengthLimit"), number("queues"), number("handSize"));
    if length <= 0 {
        errors.push(Error::invalid(at.child("queueLengthLimit"), length, "must be positive"));
    }
    if queues <= 0 {
        errors.push(Error::invalid(at.child("queues"), queues, "must be positive"));
    } else if queues > QUEUES_MAX {
        errors.push(Error::invalid(at.child("queues"), queues, format!("must not be greater than {QUEUES_MAX}")));
    }
    let at = at.child("handSize");
    if hand <= 0 {
        errors.push(Error::invalid(at, hand, "must be positive"));
    } else if hand > queues {
        errors.push(Error::invalid(at, hand, format!("should not be greater than queues ({queues})")));
    } else if entropy_bits(queues, hand) > HASH_BITS {
        let text = format!(
            "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {HASH_BITS}"
        );
        errors.push(Error::invalid(at, hand, text));
    }
}

/// `shufflesharding.RequiredEntropyBits`: bits to deal a hand from a deck without replacement.
fn entropy_bits(deck: i64, hand: i64) -> u32 {
    let mut bits = 0.0_f64;
    for dealt in 0..hand {
        bits += f64::from(i32::try_from(deck - dealt).unwrap_or(i32::MAX)).log2();
        if bits > f64::from(HASH_BITS) {
            return HASH_BITS + 1;
        }
    }
    // A hand's bits are few and not negative.
    (1..=HASH_BITS).find(|limit| bits <= f64::from(*limit)).unwrap_or(HASH_BITS + 1)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hands_need_the_bits_that_upstream_counts() {
        assert!(entropy_bits(64, 8) <= HASH_BITS);
        assert!(entropy_bits(10_000_000, 8) > HASH_BITS);
        assert_eq!(entropy_bits(4, 2), 4);
    }

    #[test]
    fn rules_need_subjects_and_something_to_match() {
        let object = Object::from_value(json!({"metadata": {"name": "f"}, "spec": {"matchingPrecedence": 1,
            "priorityLevelConfiguration": {"name": "p"}, "rules": [{"subjects": [{"kind": "User", "group": {"name": "g"}}]}]}}));
        let mut errors = ErrorList::new();
        schema_spec(&mut errors, &object.unwrap());
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "spec.matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                "spec.rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
            ]
        );
    }
}
