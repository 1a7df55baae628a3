//! Value validation (kube-openapi `validation/validate`, as apiextensions-apiserver feeds and reports it), and its
//! ratcheting: what was wrong before and has not changed stays allowed.

use serde_json::{Map, Value};

use super::{Additional, Checks, ListKind, Structural, Ty, formats, pattern};
use crate::field::{Error, ErrorList, ErrorType, Path};

/// Problems of a value. `path` is where it stands; empty for a whole object.
pub fn validate(value: &Value, schema: &Structural, path: &Path) -> ErrorList {
    report(Node { schema, structure: schema, old: None, root: true }.check(value, ""), path)
}

/// Problems of a changed value that the old one did not have in the same place. `old` is `None` where there was none.
pub fn validate_update(value: &Value, old: Option<&Value>, schema: &Structural, path: &Path) -> ErrorList {
    report(Node { schema, structure: schema, old, root: true }.check(value, ""), path)
}

/// A problem as kube-openapi tells it: the path below the root, with a dot before it where the path above is empty.
#[derive(Debug, Clone, PartialEq)]
struct Problem {
    name: String,
    what: What,
    text: String,
}

#[derive(Debug, Clone, PartialEq)]
enum What {
    Required,
    Enum(Value, Vec<Value>),
    TooLong(i64),
    TooMany(usize, i64),
    Type(Value),
    /// The value to show; `None` shows an empty text.
    Other(Option<Value>),
    /// An error without a path of its own.
    Plain,
}

/// What a check brought to light, and how much matched: that picks the best of several failed alternatives.
#[derive(Debug, Default)]
struct Outcome {
    problems: Vec<Problem>,
    matched: usize,
}

impl Outcome {
    fn add(&mut self, problem: Problem) {
        if !self.problems.iter().any(|p| p.text == problem.text) {
            self.problems.push(problem);
        }
    }

    fn merge(&mut self, other: Self) {
        other.problems.into_iter().for_each(|p| self.add(p));
        self.matched += other.matched;
    }

    fn is_valid(&self) -> bool {
        self.problems.is_empty()
    }
}

fn report(outcome: Outcome, path: &Path) -> ErrorList {
    let at = |name: &str| match name.strip_prefix('.').unwrap_or(name) {
        "" => path.clone(),
        name => path.child(name),
    };
    outcome
        .problems
        .into_iter()
        .map(|Problem { name, what, text }| match what {
            What::Required => Error::required(at(&name), ""),
            What::Enum(value, wanted) => {
                let wanted: Vec<String> =
                    wanted.iter().map(|w| w.as_str().map_or_else(|| w.to_string(), ToOwned::to_owned)).collect();
                let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
                Error::not_supported(at(&name), value, &wanted)
            }
            What::TooLong(most) => match usize::try_from(most) {
                Ok(most) => Error::too_long(at(&name), most),
                Err(_) => Error { detail: "value is too long".to_owned(), ..Error::too_long(at(&name), 0) },
            },
            What::TooMany(actual, most) => {
                Error::too_many(at(&name), actual, usize::try_from(most).unwrap_or_default())
            }
            What::Type(value) => Error::type_invalid(at(&name), value, text),
            What::Other(value) => Error::invalid(at(&name), value.unwrap_or_else(|| "".into()), text),
            What::Plain => Error { kind: ErrorType::Invalid, ..Error::invalid(path.clone(), "", text) },
        })
        .collect()
}

/// A schema at a value. `structure` is the schema that says how old and new values belong together; below `allOf` and
/// the like it differs from `schema`.
#[derive(Clone, Copy)]
struct Node<'a> {
    schema: &'a Structural,
    structure: &'a Structural,
    /// The value that was there before, if it can be told.
    old: Option<&'a Value>,
    root: bool,
}

fn problem(name: &str, what: What, text: String) -> Problem {
    Problem { name: name.to_owned(), what, text }
}

impl<'a> Node<'a> {
    /// Checks a value; problems of one that has not changed do not count.
    fn check(self, value: &'a Value, name: &str) -> Outcome {
        let mut outcome = self.all(value, name);
        if !outcome.is_valid() && self.old.is_some_and(|old| old == value) {
            outcome.problems.clear();
        }
        outcome
    }

    /// `SchemaValidator.Validate`.
    fn all(self, value: &'a Value, name: &str) -> Outcome {
        static NOTHING: std::sync::LazyLock<Checks> = std::sync::LazyLock::new(Checks::default);
        let checks = self.schema.checks.as_deref().unwrap_or(&NOTHING);
        let mut outcome = Outcome::default();
        let typed = !self.wanted(checks).is_empty() || !self.format(checks).is_empty();
        if value.is_null() {
            if typed {
                outcome.merge(self.of_type(value, name, checks));
            }
            outcome.merge(one_of_enum(value, name, checks));
            return outcome;
        }
        let mut step = |result: Outcome| {
            outcome.merge(result);
            outcome.matched += 1;
        };
        if typed {
            step(self.of_type(value, name, checks));
        }
        step(self.alternatives(value, name, checks));
        match value {
            Value::String(text) => {
                step(string(text, name, checks));
                let format = self.format(checks);
                if !format.is_empty() {
                    step(of_format(text, format, name));
                }
            }
            Value::Number(_) => step(self.number(value, name, checks)),
            Value::Array(items) => step(self.array(items, name, checks)),
            _ => {}
        }
        step(one_of_enum(value, name, checks));
        if let Value::Object(map) = value {
            step(self.object(map, name, checks));
        }
        outcome.matched += 1;
        outcome
    }

    /// The types that a value may be of, behind commas; empty for any.
    fn wanted(self, checks: &'a Checks) -> &'a str {
        match (&*checks.unknown_type, self.schema.int_or_string) {
            ("", true) => "integer,string",
            ("", false) => self.schema.ty.as_str(),
            (unknown, _) => unknown,
        }
    }

    /// The format, unless it is one that says nothing (`StripUnsupportedFormatsPostProcess`).
    fn format(self, checks: &'a Checks) -> &'a str {
        if formats::is_recognised(self.wanted(checks), &checks.format) { &checks.format } else { "" }
    }

    fn of_type(self, value: &Value, name: &str, checks: &'a Checks) -> Outcome {
        let mut good = Outcome { matched: 1, ..Outcome::default() };
        let wanted = self.wanted(checks);
        let (found, found_format) = match value {
            Value::Null => ("null", ""),
            Value::Bool(_) => ("boolean", ""),
            Value::Number(n) if n.is_f64() => ("number", "float64"),
            Value::Number(_) => ("integer", "int64"),
            Value::String(_) => ("string", ""),
            Value::Array(_) => ("array", ""),
            Value::Object(_) => ("object", ""),
        };
        let wrong = |wanted: &str, found: &str| {
            let text = format!("{name} in body must be of type {wanted}: {found:?}");
            Outcome { problems: vec![problem(name, What::Type(found.into()), text)], matched: 0 }
        };
        if value.is_null() {
            return if !wanted.is_empty() && !self.schema.nullable { wrong(wanted, "null") } else { good };
        }
        let has = |ty: &str| wanted.split(',').any(|w| w == ty);
        let format = self.format(checks);
        let float_int = value.as_f64().is_some_and(|f| f.fract() == 0.0) && found == "number" && has("integer");
        let int_float = found == "integer" && has("number");
        let texty = matches!(value, Value::String(_) | Value::Array(_));
        let fits = has(found) || float_int || int_float;
        let numeric = has("number") || has("integer");
        match (format.is_empty(), texty) {
            (false, false) if !fits && found_format != format => return wrong(format, found_format),
            // Texts of a format are checked by their format alone.
            (false, true) if !numeric => return good,
            _ => {}
        }
        if !fits {
            return wrong(wanted, found);
        }
        good.matched = 1;
        good
    }

    /// `schemaPropsValidator`.
    fn alternatives(self, value: &'a Value, name: &str, checks: &'a Checks) -> Outcome {
        let mut outcome = Outcome::default();
        let try_one = |schema: &'a Structural| Node { schema, root: false, ..self }.all(value, name);
        let plain = |text: String| problem("", What::Plain, text);
        if !checks.any_of.is_empty() {
            let mut best: Option<Outcome> = None;
            let mut success = None;
            for schema in &checks.any_of {
                let result = try_one(schema);
                if result.is_valid() {
                    success = Some(result);
                    break;
                }
                if best.as_ref().is_none_or(|b| result.matched > b.matched) {
                    best = Some(result);
                }
            }
            match success {
                Some(success) => outcome.merge(success),
                None => {
                    outcome.add(plain(format!("{name:?} must validate at least one schema (anyOf)")));
                    outcome.merge(best.unwrap_or_default());
                }
            }
        }
        if !checks.one_of.is_empty() {
            let mut best: Option<Outcome> = None;
            let mut first = None;
            let mut valid = 0;
            for schema in &checks.one_of {
                let result = try_one(schema);
                if result.is_valid() {
                    valid += 1;
                    best = None;
                    first.get_or_insert(result);
                } else if valid == 0 && best.as_ref().is_none_or(|b| result.matched > b.matched) {
                    best = Some(result);
                }
            }
            if valid == 1 {
                outcome.merge(first.unwrap_or_default());
            } else {
                let why = match valid {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                outcome.add(plain(format!("{name:?} must validate one and only one schema (oneOf). {why}")));
                outcome.merge(best.unwrap_or_default());
            }
        }
        if !checks.all_of.is_empty() {
            let mut valid = 0;
            for schema in &checks.all_of {
                let result = try_one(schema);
                valid += usize::from(result.is_valid());
                outcome.merge(result);
            }
            if valid != checks.all_of.len() {
                let none = if valid == 0 { ". None validated" } else { "" };
                outcome.add(plain(format!("{name:?} must validate all the schemas (allOf){none}")));
            }
        }
        if let Some(schema) = &checks.not
            && try_one(schema).is_valid()
        {
            outcome.add(plain(format!("{name:?} must not validate the schema (not)")));
        }
        outcome.matched += 1;
        outcome
    }

    /// `numberValidator`.
    fn number(self, value: &Value, name: &str, checks: &Checks) -> Outcome {
        let mut outcome = Outcome::default();
        let (ty, format) = match (self.schema.ty, &*checks.format) {
            (Ty::Integer, format @ ("int32" | "int64")) => ("integer", format),
            (Ty::Integer, _) => ("integer", ""),
            (Ty::Number, format @ ("float" | "double")) => ("number", format),
            (Ty::Number, _) => ("number", ""),
            _ => ("", ""),
        };
        let shown = number_text(value);
        let range = |number: &Value, what: &str| -> Option<Problem> {
            let good = match (ty, format) {
                ("integer", "int32") => int_of(number).is_some_and(|n| i32::try_from(n).is_ok()),
                ("integer", _) => int_of(number).is_some(),
                (_, "float") => number.as_f64().is_some_and(|f| f.abs() <= f64::from(f32::MAX)),
                _ => true,
            };
            let text = match format {
                "" => format!("{what} value must be of type {ty} (default format) in {name}"),
                format => format!("{what} value must be of type {ty} with format {format} in {name}"),
            };
            (!good).then(|| problem("", What::Plain, text))
        };
        range(value, "Checked").into_iter().for_each(|p| outcome.add(p));
        let float = value.as_f64().unwrap_or_default();
        let int = value.as_i64().filter(|_| !value.is_f64());
        let limits = [
            (checks.multiple_of, "MultipleOf", false),
            (checks.maximum, "Maximum boundary", checks.exclusive_maximum),
            (checks.minimum, "Minimum boundary", checks.exclusive_minimum),
        ];
        for (limit, what, exclusive) in limits {
            let Some(limit) = limit else { continue };
            let native = match range(&Value::from(limit), what) {
                Some(problem) => {
                    outcome.add(problem);
                    None
                }
                None => int,
            };
            let limit_text = if native.is_some() { (limit as i64).to_string() } else { go_float(limit) };
            let text = match what {
                "MultipleOf" => {
                    let good = match native {
                        Some(n) => limit as i64 > 0 && n % (limit as i64) == 0,
                        None => {
                            limit > 0.0 && {
                                let times = if limit < 1.0 { 1.0 / limit * float } else { float / limit };
                                (times - times.round()).abs() < 1e-9 * times.abs().max(1.0)
                            }
                        }
                    };
                    let positive = native.map_or(limit > 0.0, |_| limit as i64 > 0);
                    if !positive {
                        Some(format!("factor MultipleOf declared for {name} must be positive: {limit_text}"))
                    } else {
                        (!good).then(|| format!("{name} in body should be a multiple of {limit_text}"))
                    }
                }
                "Maximum boundary" => {
                    let over = match native {
                        Some(n) if exclusive => n >= limit as i64,
                        Some(n) => n > limit as i64,
                        None if exclusive => float >= limit,
                        None => float > limit,
                    };
                    let or_equal = if exclusive { "less than" } else { "less than or equal to" };
                    over.then(|| format!("{name} in body should be {or_equal} {limit_text}"))
                }
                _ => {
                    let under = match native {
                        Some(n) if exclusive => n <= limit as i64,
                        Some(n) => n < limit as i64,
                        None if exclusive => float <= limit,
                        None => float < limit,
                    };
                    let or_equal = if exclusive { "greater than" } else { "greater than or equal to" };
                    under.then(|| format!("{name} in body should be {or_equal} {limit_text}"))
                }
            };
            if let Some(text) = text {
                outcome.add(problem(name, What::Other(Some(shown.clone())), text));
            }
        }
        outcome.matched += 1;
        outcome
    }

    /// `schemaSliceValidator`.
    fn array(self, items: &'a [Value], name: &str, checks: &Checks) -> Outcome {
        let mut outcome = Outcome::default();
        if let Some(schema) = &self.schema.items {
            for (index, item) in items.iter().enumerate() {
                let structure = self.structure.items.as_deref().unwrap_or(schema);
                let old = self.old_item(item);
                outcome.merge(Node { schema, structure, old, root: false }.check(item, &format!("{name}[{index}]")));
            }
        }
        let size = items.len();
        let count = |n: i64| usize::try_from(n).unwrap_or_default();
        if let Some(least) = checks.min_items.filter(|n| size < count(*n)) {
            let text = format!("{name} in body should have at least {least} items");
            outcome.add(problem(name, What::Other(Some(size.into())), text));
        }
        if let Some(most) = checks.max_items.filter(|n| size > count(*n)) {
            let text = format!("{name} in body should have at most {most} items");
            outcome.add(problem(name, What::TooMany(size, most), text));
        }
        if checks.unique_items && (1..size).any(|i| items[..i].contains(&items[i])) {
            outcome.add(problem(name, What::Other(None), format!("{name} in body shouldn't contain duplicates")));
        }
        outcome.matched += 1;
        outcome
    }

    /// The item of the old list with the same keys; other lists cannot be told apart (`CorrelatedObject.Index`).
    fn old_item(self, item: &Value) -> Option<&'a Value> {
        if self.structure.list != Some(ListKind::Map) {
            return None;
        }
        let keys = &self.structure.list_map_keys;
        self.old?.as_array()?.iter().find(|old| keys.iter().all(|key| old.get(&**key) == item.get(&**key)))
    }

    /// `objectValidator`.
    fn object(self, map: &'a Map<String, Value>, name: &str, checks: &Checks) -> Outcome {
        let mut outcome = Outcome::default();
        let size = map.len();
        let count = |n: i64| usize::try_from(n).unwrap_or_default();
        if let Some(least) = checks.min_properties.filter(|n| size < count(*n)) {
            let text = format!("{name} in body should have at least {least} properties");
            outcome.add(problem(name, What::Other(Some(size.into())), text));
        }
        if let Some(most) = checks.max_properties.filter(|n| size > count(*n)) {
            let text = format!("{name} in body should have at most {most} properties");
            outcome.add(problem(name, What::TooMany(size, most), text));
        }
        for (key, value) in map.iter().filter(|(key, _)| self.schema.property(key).is_none()) {
            match &self.schema.additional {
                Additional::Allowed(false) => {
                    let text = format!("{name}.{key} in body is a forbidden property");
                    outcome.add(problem(name, What::Other(Some(key.as_str().into())), text));
                }
                Additional::Schema(schema) => outcome.merge(self.member(schema, key, value, &format!("{name}.{key}"))),
                Additional::Unset | Additional::Allowed(true) => {}
            }
        }
        for (key, schema) in &self.schema.properties {
            if let Some(value) = map.get(&**key) {
                let at = if name.is_empty() { key.to_string() } else { format!("{name}.{key}") };
                outcome.merge(self.member(schema, key, value, &at));
            }
        }
        for key in checks.required.iter().filter(|key| !map.contains_key(&***key)) {
            let at = format!("{name}.{key}");
            let text = format!("{at} in body is required");
            outcome.add(problem(&at, What::Required, text));
        }
        outcome
    }

    fn member(self, schema: &'a Structural, key: &str, value: &'a Value, at: &str) -> Outcome {
        // Changes of the version cannot be seen: both are converted to the same.
        let hidden = self.root && matches!(key, "apiVersion" | "kind");
        let structure = self.structure.member(key);
        let old = self.old.and_then(|old| old.get(key)).filter(|_| structure.is_some() && !hidden);
        Node { schema, structure: structure.unwrap_or(schema), old, root: false }.check(value, at)
    }
}

fn one_of_enum(value: &Value, name: &str, checks: &Checks) -> Outcome {
    let mut outcome = Outcome::default();
    let equal = |wanted: &Value| match (wanted.as_f64(), value.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => wanted == value,
    };
    // Null is in no enumeration, even if it is listed.
    if !checks.enums.is_empty() && (value.is_null() || !checks.enums.iter().any(equal)) {
        let text = format!("{name} in body should be one of");
        outcome.add(problem(name, What::Enum(value.clone(), checks.enums.to_vec()), text));
    }
    outcome
}

/// `stringValidator`: the first of its problems.
fn string(text: &str, name: &str, checks: &Checks) -> Outcome {
    let length = text.chars().count();
    let count = |n: i64| usize::try_from(n).unwrap_or_default();
    let shown = || What::Other(Some(text.into()));
    let problem = if let Some(most) = checks.max_length.filter(|n| length > count(*n)) {
        problem(name, What::TooLong(most), format!("{name} in body should be at most {most} chars long"))
    } else if let Some(least) = checks.min_length.filter(|n| length < count(*n)) {
        problem(name, shown(), format!("{name} in body should be at least {least} chars long"))
    } else if checks.pattern.is_empty() {
        return Outcome::default();
    } else {
        let wanted = &checks.pattern;
        match pattern::compile(wanted) {
            Ok(regex) if regex.is_match(text) => return Outcome::default(),
            Ok(_) => problem(name, shown(), format!("{name} in body should match '{wanted}'")),
            Err(why) => {
                let text = format!("{name} in body should match '{wanted}, but pattern is invalid: {why}'");
                problem(name, shown(), text)
            }
        }
    };
    Outcome { problems: vec![problem], matched: 0 }
}

fn of_format(text: &str, format: &str, name: &str) -> Outcome {
    if formats::is_valid(format, text) {
        return Outcome::default();
    }
    let message = format!("{name} in body must be of type {format}: {text:?}");
    Outcome { problems: vec![problem(name, What::Type(text.into()), message)], matched: 0 }
}

/// An integer that a number stands for without loss.
fn int_of(number: &Value) -> Option<i64> {
    number.as_i64().or_else(|| number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9.3e18).map(|f| f as i64))
}

fn number_text(value: &Value) -> Value {
    value.clone()
}

/// Go's `%v` of a float.
fn go_float(f: f64) -> String {
    if f == 0.0 || (1e-4..1e21).contains(&f.abs()) {
        return f.to_string();
    }
    let text = format!("{f:e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(schema: Value, value: Value, want: &[&str]) {
        let schema = Structural::parse(&schema);
        let found: Vec<String> = validate(&value, &schema, &Path::default()).iter().map(ToString::to_string).collect();
        assert_eq!(found, want, "{value}");
    }

    #[test]
    fn problems_read_as_upstream() {
        let spec = |schema: Value| json!({"type": "object", "properties": {"f": schema}});
        check(
            spec(json!({"type": "integer"})),
            json!({"f": "x"}),
            &["f: Invalid value: \"string\": f in body must be of type integer: \"string\""],
        );
        check(
            spec(json!({"type": "string", "maxLength": 2})),
            json!({"f": "abc"}),
            &["f: Too long: may not be more than 2 bytes"],
        );
        check(
            spec(json!({"type": "string", "minLength": 2})),
            json!({"f": "a"}),
            &["f: Invalid value: \"a\": f in body should be at least 2 chars long"],
        );
        check(
            spec(json!({"type": "string", "pattern": "^a$"})),
            json!({"f": "b"}),
            &["f: Invalid value: \"b\": f in body should match '^a$'"],
        );
        check(
            spec(json!({"type": "integer", "minimum": 1, "maximum": 5})),
            json!({"f": 9}),
            &["f: Invalid value: 9: f in body should be less than or equal to 5"],
        );
        check(
            spec(json!({"type": "string", "enum": ["a", "b"]})),
            json!({"f": "c"}),
            &["f: Unsupported value: \"c\": supported values: \"a\", \"b\""],
        );
        check(json!({"type": "object", "required": ["spec"]}), json!({}), &["spec: Required value"]);
        check(
            json!({"type": "object", "properties": {"spec": {"type": "object", "required": ["a"]}}}),
            json!({"spec": {}}),
            &["spec.a: Required value"],
        );
        check(
            spec(json!({"type": "array", "items": {"type": "string"}, "maxItems": 1})),
            json!({"f": ["a", "b"]}),
            &["f: Too many: 2: must have at most 1 item"],
        );
        check(
            spec(json!({"type": "array", "items": {"type": "string"}})),
            json!({"f": [1]}),
            &["f[0]: Invalid value: \"integer\": f[0] in body must be of type string: \"integer\""],
        );
        check(
            spec(json!({"x-kubernetes-int-or-string": true})),
            json!({"f": true}),
            &["f: Invalid value: \"boolean\": f in body must be of type integer,string: \"boolean\""],
        );
        check(
            spec(json!({"type": "bogus"})),
            json!({"f": 1}),
            &["f: Invalid value: \"integer\": f in body must be of type bogus: \"integer\""],
        );
        check(spec(json!({"type": "string", "nullable": true})), json!({"f": null}), &[]);
        check(
            spec(json!({"type": "string", "format": "ipv4"})),
            json!({"f": "x"}),
            &["f: Invalid value: \"x\": f in body must be of type ipv4: \"x\""],
        );
        check(
            spec(json!({"type": "object", "additionalProperties": {"type": "string"}})),
            json!({"f": {"a": 1}}),
            &["f.a: Invalid value: \"integer\": f.a in body must be of type string: \"integer\""],
        );
        check(
            spec(json!({"type": "integer", "oneOf": [{"minimum": 1}, {"maximum": 9}]})),
            json!({"f": 5}),
            &[
                "<nil>: Invalid value: \"\": \"f\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            ],
        );
        check(
            spec(json!({"type": "integer", "not": {"minimum": 1}})),
            json!({"f": 5}),
            &["<nil>: Invalid value: \"\": \"f\" must not validate the schema (not)"],
        );
    }

    #[test]
    fn what_was_wrong_before_stays_allowed() {
        let schema = Structural::parse(&json!({"type": "object", "properties": {
            "a": {"type": "string", "maxLength": 1}, "b": {"type": "string", "maxLength": 1},
            "m": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": {
                "type": "object", "properties": {"k": {"type": "string"}, "v": {"type": "string", "maxLength": 1}}}},
        }}));
        let old = json!({"a": "long", "b": "long", "m": [{"k": "x", "v": "long"}]});
        let check = |new: Value, want: &[&str]| {
            let found = validate_update(&new, Some(&old), &schema, &Path::default());
            let paths: Vec<String> = found.iter().map(|e| e.path.to_string()).collect();
            assert_eq!(paths, want);
        };
        check(json!({"a": "long", "b": "ab"}), &["b"]);
        check(json!({"a": "x", "m": [{"k": "y"}, {"k": "x", "v": "long"}]}), &[]);
        check(json!({"m": [{"k": "y", "v": "long"}]}), &["m[0].v"]);
    }
}
