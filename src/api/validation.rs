//! Checks of names and other small grammars (apimachinery `util/validation`). Each returns upstream's texts.

const DNS1123_LABEL_CHARS: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";

/// RFC 1123 subdomain: at most 253 characters, labels joined by dots. With `prefix`, a trailing dash is allowed (it is
/// what `generateName` ends with).
pub fn dns1123_subdomain(name: &str, prefix: bool) -> Vec<String> {
    let name = if prefix { mask_trailing_dash(name) } else { name.to_owned() };
    let mut problems = Vec::new();
    if name.len() > 253 {
        problems.push("must be no more than 253 characters".to_owned());
    }
    if !name.split('.').all(is_dns1123_label) {
        problems.push(format!(
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must \
             start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is \
             '{DNS1123_LABEL_CHARS}(\\.{DNS1123_LABEL_CHARS})*')"
        ));
    }
    problems
}

/// RFC 1123 label: at most 63 characters.
pub fn dns1123_label(name: &str, prefix: bool) -> Vec<String> {
    let name = if prefix { mask_trailing_dash(name) } else { name.to_owned() };
    let mut problems = Vec::new();
    if name.len() > 63 {
        problems.push("must be no more than 63 characters".to_owned());
    }
    if !is_dns1123_label(&name) {
        problems.push(format!(
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and \
             end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is \
             '{DNS1123_LABEL_CHARS}')"
        ));
    }
    problems
}

fn mask_trailing_dash(name: &str) -> String {
    // Upstream masks one trailing dash with a letter, so that the rest is checked as a whole name.
    match name.strip_suffix('-') {
        Some(rest) if name.len() > 1 && !rest.is_empty() => format!("{rest}a"),
        _ => name.to_owned(),
    }
}

fn is_dns1123_label(label: &str) -> bool {
    let bytes = label.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    bytes.first().is_some_and(alnum) && bytes.last().is_some_and(alnum) && bytes.iter().all(|b| alnum(b) || *b == b'-')
}
