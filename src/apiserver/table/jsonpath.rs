//! The JSONPath subset of printer columns: members, indexes, `[*]`, quoted members and `[?(@.a=="b")]` filters
//! (client-go `util/jsonpath`, as `additionalPrinterColumns` use it).

use jiff::Timestamp;
use serde_json::Value;

enum Step {
    Member(String),
    Index(i64),
    All,
    Filter { path: Vec<String>, negated: bool, want: String },
}

/// The cell of a CRD column: the first match, converted to the column's type; null if there is none.
pub fn cell(path: &str, kind: &str, root: &Value, now: Timestamp) -> Value {
    let Some(steps) = parse(path) else { return Value::Null };
    let mut found = vec![root];
    for step in &steps {
        found = found.into_iter().flat_map(|v| apply(step, v)).collect();
    }
    let Some(first) = found.first() else { return Value::Null };
    match (kind, first) {
        ("date", Value::String(text)) => {
            text.parse::<Timestamp>().map_or_else(|_| "<invalid>".into(), |t| age(t, now).into())
        }
        ("integer", Value::Number(number)) => {
            number.as_i64().or_else(|| number.as_f64().map(|f| f as i64)).map_or(Value::Null, Value::from)
        }
        ("string", Value::String(_)) | ("boolean", Value::Bool(_)) | ("number", Value::Number(_)) => (*first).clone(),
        ("string", Value::Null) | (_, Value::Null) => Value::Null,
        ("string", other) => other.to_string().into(),
        _ => Value::Null,
    }
}

fn apply<'v>(step: &Step, value: &'v Value) -> Vec<&'v Value> {
    match (step, value) {
        (Step::Member(name), Value::Object(map)) => map.get(name).into_iter().collect(),
        (Step::Index(index), Value::Array(items)) => {
            let at = if *index < 0 { items.len() as i64 + index } else { *index };
            usize::try_from(at).ok().and_then(|i| items.get(i)).into_iter().collect()
        }
        (Step::All, Value::Array(items)) => items.iter().collect(),
        (Step::All, Value::Object(map)) => map.values().collect(),
        (Step::Filter { path, negated, want }, Value::Array(items)) => {
            let text = |item: &Value| {
                let leaf = path.iter().try_fold(item, |v, name| v.get(name))?;
                Some(leaf.as_str().map_or_else(|| leaf.to_string(), ToOwned::to_owned))
            };
            items.iter().filter(|item| text(item).is_some_and(|t| (t == *want) != *negated)).collect()
        }
        _ => Vec::new(),
    }
}

fn parse(path: &str) -> Option<Vec<Step>> {
    let path = path.trim().trim_start_matches('{').trim_end_matches('}');
    let mut rest = path.strip_prefix('$').unwrap_or(path);
    let mut steps = Vec::new();
    while !rest.is_empty() {
        if let Some(inner) = rest.strip_prefix('[') {
            let close = closing(inner)?;
            steps.push(bracket(&inner[..close])?);
            rest = &inner[close + 1..];
        } else {
            let member = rest.strip_prefix('.').unwrap_or(rest);
            let (name, tail) = member_name(member);
            match name.as_str() {
                "" if tail.starts_with('[') => {}
                "" => return None,
                "*" => steps.push(Step::All),
                _ => steps.push(Step::Member(name)),
            }
            rest = tail;
        }
    }
    Some(steps)
}

/// A member name up to the next dot or bracket; a backslash takes the next character as it is.
fn member_name(text: &str) -> (String, &str) {
    let mut name = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.extend(chars.next().map(|(_, c)| c)),
            '.' | '[' => return (name, &text[at..]),
            _ => name.push(c),
        }
    }
    (name, "")
}

fn closing(text: &str) -> Option<usize> {
    let mut quote = None;
    for (at, c) in text.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if q == c => quote = None,
            (None, ']') => return Some(at),
            _ => {}
        }
    }
    None
}

fn bracket(text: &str) -> Option<Step> {
    if text == "*" {
        return Some(Step::All);
    }
    if let Some(name) = unquote(text) {
        return Some(Step::Member(name.to_owned()));
    }
    if let Some(filter) = text.strip_prefix("?(").and_then(|t| t.strip_suffix(')')) {
        let (left, right, negated) = match filter.split_once("==") {
            Some((left, right)) => (left, right, false),
            None => filter.split_once("!=").map(|(l, r)| (l, r, true))?,
        };
        let path = left.trim().strip_prefix('@')?.trim_start_matches('.').split('.').map(ToOwned::to_owned).collect();
        let right = right.trim();
        return Some(Step::Filter { path, negated, want: unquote(right).unwrap_or(right).to_owned() });
    }
    text.parse().ok().map(Step::Index)
}

fn unquote(text: &str) -> Option<&str> {
    ['"', '\''].iter().find_map(|q| text.strip_prefix(*q)?.strip_suffix(*q))
}

/// `duration.HumanDuration` of the time since `then` (apimachinery `util/duration`).
pub fn age(then: Timestamp, now: Timestamp) -> String {
    let seconds = now.as_second() - then.as_second();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    let days = hours / 24;
    let two = |big: i64, b: &str, small: i64, s: &str| {
        if small == 0 { format!("{big}{b}") } else { format!("{big}{b}{small}{s}") }
    };
    match seconds {
        ..=-2 => "<invalid>".to_owned(),
        -1..=0 => "0s".to_owned(),
        1..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if days < 8 => two(days, "d", hours % 24, "h"),
        _ if days < 365 * 2 => format!("{days}d"),
        _ if days < 365 * 8 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_find_their_values() {
        let object = serde_json::json!({
            "spec": {"replicas": 3, "a.b": "x", "list": [1, 2]},
            "status": {"conditions": [{"type": "A", "status": "False"}, {"type": "Ready", "status": "True"}]},
            "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"},
        });
        let now = "2026-01-01T00:03:05Z".parse().unwrap();
        let check = |path: &str, kind: &str, want: Value| assert_eq!(cell(path, kind, &object, now), want, "{path}");
        check(".spec.replicas", "integer", 3.into());
        check(".spec['a.b']", "string", "x".into());
        check(".spec.a\\.b", "string", "x".into());
        check(".spec.list[-1]", "integer", 2.into());
        check(".status.conditions[?(@.type==\"Ready\")].status", "string", "True".into());
        check(".metadata.creationTimestamp", "date", "3m5s".into());
        check(".spec.missing", "string", Value::Null);
    }
}
