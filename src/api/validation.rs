//! Checks of names and other small grammars (apimachinery `util/validation` and `api/validate/content`). Each returns
//! upstream's texts, none if the value is good.

mod ip;

pub use ip::{
    cidr, cidr_legacy, cidr_warnings, interface_address, ip, ip_legacy, ip_warnings, parse_cidr_sloppy, parse_ip_sloppy,
};

use serde_json::Value;

use crate::field::{Error, ErrorList, Path};

const DNS1123_LABEL_CHARS: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const DNS1123_SUBDOMAIN_CHARS: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*";
const LABEL_KEY_CHARS: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// For numbers that may not be negative.
pub const IS_NEGATIVE: &str = "must be greater than or equal to 0";
/// For fields that may not change.
pub const IMMUTABLE: &str = "field is immutable";

/// `must be no more than N characters`.
pub fn max_len_error(length: usize) -> String {
    format!("must be no more than {length} characters")
}

/// `must be between LO and HI, inclusive`.
pub fn inclusive_range_error(low: i64, high: i64) -> String {
    format!("must be between {low} and {high}, inclusive")
}

/// A broken rule, examples of its keeping, and the expression that stands for it.
pub fn regex_error(message: &str, expression: &str, examples: &[&str]) -> String {
    if examples.is_empty() {
        return format!("{message} (regex used for validation is '{expression}')");
    }
    let examples: Vec<String> = examples.iter().map(|e| format!("'{e}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{expression}')", examples.join(" or "))
}

/// RFC 1123 subdomain: at most 253 characters, labels joined by dots. With `prefix`, a trailing dash is allowed (it is
/// what `generateName` ends with).
pub fn dns1123_subdomain(name: &str, prefix: bool) -> Vec<String> {
    let name = if prefix { mask_trailing_dash(name) } else { name.to_owned() };
    let mut problems = Vec::new();
    if name.len() > 253 {
        problems.push(max_len_error(253));
    }
    if !is_dns1123_subdomain(&name) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', \
                       and must start and end with an alphanumeric character";
        problems.push(regex_error(message, DNS1123_SUBDOMAIN_CHARS, &["example.com"]));
    }
    problems
}

/// RFC 1123 label: at most 63 characters.
pub fn dns1123_label(name: &str, prefix: bool) -> Vec<String> {
    let name = if prefix { mask_trailing_dash(name) } else { name.to_owned() };
    let mut problems = Vec::new();
    if name.len() > 63 {
        problems.push(max_len_error(63));
    }
    if !is_dns1123_label(&name) {
        if is_dns1123_subdomain(&name) {
            problems.push("must not contain dots".to_owned());
        } else {
            let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and \
                           must start and end with an alphanumeric character";
            problems.push(regex_error(message, DNS1123_LABEL_CHARS, &["my-name", "123-abc"]));
        }
    }
    problems
}

/// RFC 1035 label: at most 63 characters, the first a letter (names of services).
pub fn dns1035_label(name: &str, prefix: bool) -> Vec<String> {
    let name = if prefix { mask_trailing_dash(name) } else { name.to_owned() };
    let mut problems = Vec::new();
    if name.len() > 63 {
        problems.push(max_len_error(63));
    }
    if !is_dns1123_label(&name) || !name.starts_with(|c: char| c.is_ascii_lowercase()) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an \
                       alphabetic character, and end with an alphanumeric character";
        problems.push(regex_error(message, "[a-z]([-a-z0-9]*[a-z0-9])?", &["my-name", "abc-123"]));
    }
    problems
}

/// A subdomain whose labels may contain underscores.
pub fn dns1123_subdomain_with_underscore(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > 253 {
        problems.push(max_len_error(253));
    }
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        let rest = label.strip_prefix('_').unwrap_or(label).as_bytes();
        rest.first().is_some_and(|b| alnum(*b))
            && rest.last().is_some_and(|b| alnum(*b))
            && rest.iter().all(|b| alnum(*b) || *b == b'-' || *b == b'_')
    };
    if !name.split('.').all(label) {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or \
                       '.', and must start and end with an alphanumeric character";
        let expression = "_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*";
        problems.push(regex_error(message, expression, &["example.com"]));
    }
    problems
}

/// `*.` and a subdomain.
pub fn wildcard_dns1123_subdomain(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > 253 {
        problems.push(max_len_error(253));
    }
    if !name.strip_prefix("*.").is_some_and(is_dns1123_subdomain) {
        let message = "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which \
                       must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric \
                       character";
        problems.push(regex_error(message, &format!("\\*\\.{DNS1123_SUBDOMAIN_CHARS}"), &["*.example.com"]));
    }
    problems
}

/// A name that can be one part of a URL path (roles, events, most machine-made names).
pub fn path_segment(name: &str, prefix: bool) -> Vec<String> {
    if !prefix && (name == "." || name == "..") {
        return vec![format!("may not be '{name}'")];
    }
    ["/", "%"].into_iter().filter(|c| name.contains(c)).map(|c| format!("may not contain '{c}'")).collect()
}

/// A label key, also called a qualified name: an optional subdomain and slash, then up to 63 characters.
pub fn label_key(key: &str) -> Vec<String> {
    const MESSAGE: &str = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an \
                           alphanumeric character";
    const EXAMPLES: &[&str] = &["MyName", "my.name", "123-abc"];
    let mut problems = Vec::new();
    let parts: Vec<&str> = key.split('/').collect();
    let name = match parts.as_slice() {
        [name] => *name,
        [prefix, name] => {
            if prefix.is_empty() {
                problems.push("prefix part must be non-empty".to_owned());
            } else {
                problems.extend(long_name(prefix).into_iter().map(|p| format!("prefix part {p}")));
            }
            *name
        }
        _ => {
            let rule = regex_error(MESSAGE, LABEL_KEY_CHARS, EXAMPLES);
            return vec![format!(
                "a valid label key {rule} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            )];
        }
    };
    if name.is_empty() {
        problems.push("name part must be non-empty".to_owned());
    } else if name.len() > 63 {
        problems.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_label_name(name) {
        problems.push(format!("name part {}", regex_error(MESSAGE, LABEL_KEY_CHARS, EXAMPLES)));
    }
    problems
}

/// A subdomain as declarative validation has it (`LongName`), which counts bytes in its text.
pub fn long_name(name: &str) -> Vec<String> {
    let mut problems = dns1123_subdomain(name, false);
    for problem in &mut problems {
        if problem.ends_with(" characters") && problem.starts_with("must be no more") {
            *problem = "must be no more than 253 bytes".to_owned();
        }
    }
    problems
}

/// A label value: empty, or up to 63 characters.
pub fn label_value(value: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if value.len() > 63 {
        problems.push("must be no more than 63 bytes".to_owned());
    }
    if !value.is_empty() && !is_label_name(value) {
        let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', \
                       and must start and end with an alphanumeric character";
        problems.push(regex_error(message, &format!("({LABEL_KEY_CHARS})?"), &["MyValue", "my_value", "12345"]));
    }
    problems
}

/// A key that must have a domain: `example.com/key` (`IsDomainPrefixedKey`).
pub fn domain_prefixed_key(path: &Path, key: &str) -> ErrorList {
    if key.is_empty() {
        return vec![Error::required(path.clone(), "")];
    }
    let problems: ErrorList = label_key(key).into_iter().map(|p| Error::invalid(path.clone(), key, p)).collect();
    if problems.is_empty() && !key.contains('/') {
        let detail = "must be a domain-prefixed key (such as \"acme.io/foo\")";
        return vec![Error::invalid(path.clone(), key, detail)];
    }
    problems
}

/// `IsDomainPrefixedPath`: a domain, a slash, and a URL path.
pub fn domain_prefixed_path(path: &Path, value: &str) -> ErrorList {
    const HTTP_PATH: &str = "[A-Za-z0-9/\\-._~%!$&'()*+,;=:]+";
    if value.is_empty() {
        return vec![Error::required(path.clone(), "")];
    }
    let (host, rest) = match value.split_once('/') {
        Some((host, rest)) if !host.is_empty() && !rest.is_empty() => (host, rest),
        _ => {
            let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
            return vec![Error::invalid(path.clone(), value, detail)];
        }
    };
    let mut errors: ErrorList =
        dns1123_subdomain(host, false).into_iter().map(|p| Error::invalid(path.clone(), host, p)).collect();
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b)) {
        errors.push(Error::invalid(path.clone(), rest, regex_error("Invalid path", HTTP_PATH, &[])));
    }
    errors
}

/// A name of at least three labels (`IsFullyQualifiedName`).
pub fn fully_qualified_name(path: &Path, name: &str) -> ErrorList {
    qualified(path, name, 3, "three")
}

/// A name of at least two labels, a trailing dot allowed (`IsFullyQualifiedDomainName`).
pub fn fully_qualified_domain_name(path: &Path, name: &str) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path.clone(), "")];
    }
    qualified(path, name.strip_suffix('.').unwrap_or(name), 2, "two")
}

fn qualified(path: &Path, name: &str, labels: usize, word: &str) -> ErrorList {
    if name.is_empty() {
        return vec![Error::required(path.clone(), "")];
    }
    let problems = dns1123_subdomain(name, false);
    if !problems.is_empty() {
        return vec![Error::invalid(path.clone(), name, problems.join(","))];
    }
    if name.split('.').count() < labels {
        let detail = format!("should be a domain with at least {word} segments separated by dots");
        return vec![Error::invalid(path.clone(), name, detail)];
    }
    for label in name.split('.') {
        let problems = dns1123_label(label, false);
        if labels == 2 && !problems.is_empty() {
            return vec![Error::invalid(path.clone(), label, problems.join(","))];
        }
    }
    ErrorList::new()
}

/// A C identifier.
pub fn c_identifier(value: &str) -> Vec<String> {
    let good = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    let message = "a valid C identifier must start with alphabetic character or '_', followed by a string of \
                   alphanumeric characters or '_'";
    unless(good, || regex_error(message, "[A-Za-z_][A-Za-z0-9_]*", &["my_name", "MY_NAME", "MyName"]))
}

/// 1 to 65535.
pub fn port_number(port: i64) -> Vec<String> {
    in_range(port, 1, 65535)
}

pub fn in_range(value: i64, low: i64, high: i64) -> Vec<String> {
    unless((low..=high).contains(&value), || inclusive_range_error(low, high))
}

/// 0 to 2³¹-1, as user and group ids.
pub fn user_id(id: i64) -> Vec<String> {
    in_range(id, 0, i64::from(i32::MAX))
}

/// An IANA service name (RFC 6335), as port names are.
pub fn port_name(name: &str) -> Vec<String> {
    let mut problems = Vec::new();
    if name.len() > 15 {
        problems.push(max_len_error(15));
    }
    if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-') {
        problems.push("must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)".to_owned());
    }
    if !name.bytes().any(|b| b.is_ascii_lowercase()) {
        problems.push("must contain at least one letter (a-z)".to_owned());
    }
    if name.contains("--") {
        problems.push("must not contain consecutive hyphens".to_owned());
    }
    if name.starts_with('-') || name.ends_with('-') {
        problems.push("must not begin or end with a hyphen".to_owned());
    }
    problems
}

/// Digits and `%`.
pub fn percent(value: &str) -> Vec<String> {
    let good = value.strip_suffix('%').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let message = "a valid percent string must be a numeric string followed by an ending '%'";
    unless(good, || regex_error(message, "[0-9]+%", &["1%", "93%"]))
}

/// The number of a valid [`percent`].
pub fn percent_value(value: &str) -> Option<i64> {
    let digits = value.strip_suffix('%')?;
    digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
}

pub fn http_header_name(value: &str) -> Vec<String> {
    let good = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let message = "a valid HTTP header must consist of alphanumeric characters or '-'";
    unless(good, || regex_error(message, "[-A-Za-z0-9]+", &["X-Header-Name"]))
}

/// The strict form of an environment variable's name.
pub fn env_var_name(value: &str) -> Vec<String> {
    let good = value.starts_with(|c: char| c.is_ascii_alphabetic() || "-._".contains(c))
        && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let message = "a valid environment variable name must consist of alphabetic characters, digits, '_', '-', or '.', \
                   and must not start with a digit";
    let examples = &["my.env-name", "MY_ENV.NAME", "MyEnvName1"];
    let mut problems = unless(good, || regex_error(message, "[-._a-zA-Z][-._a-zA-Z0-9]*", examples));
    problems.extend(dots_at_start(value));
    problems
}

/// The form that v1.34 and later take: printable ASCII without `=`.
pub fn relaxed_env_var_name(value: &str) -> Vec<String> {
    let mut problems = unless(!value.is_empty(), || "environment variable name must be non-empty".to_owned());
    let good = value.bytes().all(|b| (b' '..=b'~').contains(&b) && b != b'=');
    let message = "a valid environment variable name must consist only of printable ASCII characters other than '='";
    problems.extend(unless(good, || message.to_owned()));
    problems
}

/// A key of a ConfigMap or Secret.
pub fn config_map_key(value: &str) -> Vec<String> {
    let mut problems = unless(value.len() <= 253, || max_len_error(253));
    let good = !value.is_empty() && value.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    let message = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'";
    let examples = &["key.name", "KEY_NAME", "key-name"];
    problems.extend(unless(good, || regex_error(message, "[-._a-zA-Z0-9]+", examples)));
    problems.extend(dots_at_start(value));
    problems
}

fn dots_at_start(value: &str) -> Option<String> {
    match value {
        "." => Some("must not be '.'".to_owned()),
        ".." => Some("must not be '..'".to_owned()),
        _ if value.starts_with("..") => Some("must not start with '..'".to_owned()),
        _ => None,
    }
}

/// Problems of a field that may not be negative.
pub fn nonnegative(value: i64, path: Path) -> ErrorList {
    if value < 0 { vec![Error::invalid(path, value, IS_NEGATIVE)] } else { ErrorList::new() }
}

/// `field is immutable` unless the values are the same; absent, null, empty and zero count as the same, as they do for
/// Go's decoded structs.
pub fn immutable(new: Option<&Value>, old: Option<&Value>, path: Path) -> ErrorList {
    if same(new, old) {
        return ErrorList::new();
    }
    vec![Error::invalid(path, new.cloned().unwrap_or_default(), IMMUTABLE)]
}

/// Semantic equality of optional values: what is empty is absent.
pub fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    let filled = |v: &&Value| !is_empty(v);
    match (a.filter(filled), b.filter(filled)) {
        (None, None) => true,
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.iter().all(|(k, v)| same(Some(v), b.get(k)))
                && b.keys().all(|k| a.contains_key(k) || same(None, b.get(k)))
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b)))
        }
        (a, b) => a == b,
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(map) => map.values().all(is_empty),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

/// Problems of a path that must be absolute and may not step up (`validatePathNoBacksteps`, `path.IsAbs`).
pub fn absolute_path(value: &str, path: &Path) -> ErrorList {
    if value.starts_with('/') {
        return ErrorList::new();
    }
    vec![Error::invalid(path.clone(), value, "must be an absolute path")]
}

/// A path inside a volume: relative, and without `..`.
pub fn local_descending_path(value: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if value.starts_with('/') {
        errors.push(Error::invalid(path.clone(), value, "must be a relative path"));
    }
    errors.extend(no_backsteps(value, path));
    errors
}

/// `..` may not be a part of the path.
pub fn no_backsteps(value: &str, path: &Path) -> ErrorList {
    if value.split('/').any(|part| part == "..") {
        return vec![Error::invalid(path.clone(), value, "must not contain '..'")];
    }
    ErrorList::new()
}

/// Problems of a map of labels, each at the map's own path as upstream has it.
pub fn labels(labels: Option<&Value>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        errors.extend(label_key(key).into_iter().map(|p| Error::invalid(path.clone(), key.as_str(), p)));
        let value = value.as_str().unwrap_or_default();
        errors.extend(label_value(value).into_iter().map(|p| Error::invalid(path.clone(), value, p)));
    }
    errors
}

/// Problems of a `metav1.LabelSelector`. `lenient` accepts bad label values in expressions, for objects that had them.
pub fn label_selector(selector: Option<&Value>, lenient: bool, path: &Path) -> ErrorList {
    let Some(selector) = selector.filter(|s| s.is_object()) else { return ErrorList::new() };
    let mut errors = labels(selector.get("matchLabels"), &path.child("matchLabels"));
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    for (i, expression) in expressions.into_iter().flatten().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let text = |name: &str| expression.get(name).and_then(Value::as_str).unwrap_or_default();
        let values = expression.get("values").and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
        match text("operator") {
            "In" | "NotIn" if values.is_empty() => {
                let detail = "must be specified when `operator` is 'In' or 'NotIn'";
                errors.push(Error::required(path.child("values"), detail));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errors.push(Error::forbidden(path.child("values"), detail));
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.push(Error::invalid(path.child("operator"), other, "not a valid selector operator")),
        }
        let key = text("key");
        errors.extend(label_key(key).into_iter().map(|p| Error::invalid(path.child("key"), key, p)));
        for (i, value) in values.iter().enumerate().filter(|_| !lenient) {
            let value = value.as_str().unwrap_or_default();
            let path = path.child("values").index(i);
            errors.extend(label_value(value).into_iter().map(|p| Error::invalid(path.clone(), value, p)));
        }
    }
    errors
}

fn unless(good: bool, problem: impl FnOnce() -> String) -> Vec<String> {
    if good { Vec::new() } else { vec![problem()] }
}

fn mask_trailing_dash(name: &str) -> String {
    // Upstream replaces the dash and the character before it by one letter.
    match name.strip_suffix('-') {
        Some(rest) if name.len() > 1 => {
            let mut rest = rest.to_owned();
            rest.pop();
            rest.push('a');
            rest
        }
        _ => name.to_owned(),
    }
}

fn is_dns1123_subdomain(name: &str) -> bool {
    name.split('.').all(is_dns1123_label)
}

fn is_dns1123_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(alnum) && bytes.last().is_some_and(alnum) && bytes.iter().all(|b| alnum(b) || *b == b'-')
}

fn is_label_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.last().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(rule: fn(&str) -> Vec<String>, good: &[&str], bad: &[(&str, &str)]) {
        for value in good {
            assert_eq!(rule(value), Vec::<String>::new(), "{value:?}");
        }
        for (value, text) in bad {
            let problems = rule(value);
            assert!(problems.iter().any(|p| p.contains(text)), "{value:?}: {problems:?}");
        }
    }

    #[test]
    fn names_of_each_kind() {
        let long = "a".repeat(64);
        check(
            |v| dns1123_label(v, false),
            &["a", "0a", "a-b"],
            &[
                ("a.b", "must not contain dots"),
                ("A", "(e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"),
                ("-a", "must start and end"),
                ("", "must start and end"),
                (&long, "must be no more than 63 characters"),
            ],
        );
        check(|v| dns1123_label(v, true), &["a-", "b-"], &[("-", "must start and end")]);
        check(
            |v| dns1123_subdomain(v, false),
            &["a.b", "1.2"],
            &[("a..b", "(e.g. 'example.com', regex used for validation is '"), ("a_b", "RFC 1123 subdomain")],
        );
        check(|v| dns1035_label(v, false), &["a1"], &[("1a", "start with an alphabetic character")]);
        check(
            port_name,
            &["http", "a-1"],
            &[("1", "at least one letter"), ("a--b", "consecutive"), ("A", "only alpha")],
        );
        check(percent, &["1%", "100%"], &[("1", "numeric string"), ("%", "numeric string")]);
        check(config_map_key, &["a.b", "A_b"], &[("", "valid config key"), ("..", "must not be '..'")]);
        check(relaxed_env_var_name, &["a b", "1"], &[("a=b", "printable"), ("", "must be non-empty")]);
        check(|v| path_segment(v, false), &["a:b", "..."], &[(".", "may not be '.'"), ("a/b", "may not contain '/'")]);
    }

    #[test]
    fn labels_and_keys() {
        let long = "a".repeat(64);
        check(
            label_key,
            &["a", "A.b_c-d", "example.com/x"],
            &[
                ("", "name part must be non-empty"),
                ("/x", "prefix part must be non-empty"),
                ("a/b/c", "a valid label key must consist"),
                ("A/b", "prefix part a lowercase RFC 1123 subdomain"),
                (&long, "name part must be no more than 63 bytes"),
            ],
        );
        check(
            label_value,
            &["", "a", "1.0"],
            &[("a b", "a valid label must be an empty string"), ("-", "valid label")],
        );
        let errors = label_selector(
            Some(&json!({"matchExpressions": [{"key": "a", "operator": "In"}]})),
            false,
            &Path::new("s"),
        );
        assert_eq!(
            errors[0].to_string(),
            "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"
        );
    }

    #[test]
    fn what_is_empty_equals_what_is_absent() {
        assert!(same(None, Some(&json!({}))));
        assert!(same(Some(&json!({"a": 1, "b": []})), Some(&json!({"a": 1}))));
        assert!(!same(Some(&json!({"a": 0})), Some(&json!({}))));
        assert_eq!(immutable(Some(&json!("x")), Some(&json!("y")), Path::new("p")).len(), 1);
    }
}
