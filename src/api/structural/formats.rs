//! String formats of custom resources (kube-openapi `strfmt`, apiextensions-apiserver `validation/formats.go`).

use std::net::IpAddr;
use std::sync::LazyLock;

use regex::Regex;

/// Formats that are checked, without their dashes.
const KNOWN: &[&str] = &[
    "bsonobjectid",
    "uri",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "cidr",
    "mac",
    "uuid",
    "uuid3",
    "uuid4",
    "uuid5",
    "isbn",
    "isbn10",
    "isbn13",
    "creditcard",
    "ssn",
    "hexcolor",
    "rgbcolor",
    "byte",
    "password",
    "date",
    "duration",
    "datetime",
    "k8sshortname",
    "k8slongname",
];

/// Whether a format says something about values of a type (`type` as schemas write it, empty for none).
pub fn is_recognised(ty: &str, format: &str) -> bool {
    match ty {
        "" | "string" => KNOWN.contains(&format.replace('-', "").as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    }
}

fn regex(pattern: &str) -> Regex {
    // The patterns below are constants.
    #[allow(clippy::expect_used, reason = "a constant")]
    Regex::new(pattern).expect("a constant pattern compiles")
}

macro_rules! matches_pattern {
    ($text:expr, $pattern:expr) => {{
        static PATTERN: LazyLock<Regex> = LazyLock::new(|| regex($pattern));
        PATTERN.is_match($text)
    }};
}

/// Whether a text is of a format; one that nobody knows allows everything.
pub fn is_valid(format: &str, text: &str) -> bool {
    match format.replace('-', "").as_str() {
        "bsonobjectid" => text.len() == 24 && text.bytes().all(|b| b.is_ascii_hexdigit()),
        "uri" => is_request_uri(text),
        "email" => is_email(text),
        "hostname" => is_hostname(text),
        "ipv4" => text.contains('.') && parse_ip(text).is_some(),
        "ipv6" => text.contains(':') && parse_ip(text).is_some(),
        "cidr" => is_cidr(text),
        "mac" => is_mac(text),
        "uuid" => matches_pattern!(text, "(?i-u)^[0-9a-f]{8}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        "uuid3" => matches_pattern!(text, "(?i-u)^[0-9a-f]{8}-?[0-9a-f]{4}-?3[0-9a-f]{3}-?[0-9a-f]{4}-?[0-9a-f]{12}$"),
        "uuid4" => {
            matches_pattern!(text, "(?i-u)^[0-9a-f]{8}-?[0-9a-f]{4}-?4[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$")
        }
        "uuid5" => {
            matches_pattern!(text, "(?i-u)^[0-9a-f]{8}-?[0-9a-f]{4}-?5[0-9a-f]{3}-?[89ab][0-9a-f]{3}-?[0-9a-f]{12}$")
        }
        "isbn" => is_isbn10(text) || is_isbn13(text),
        "isbn10" => is_isbn10(text),
        "isbn13" => is_isbn13(text),
        "creditcard" => is_credit_card(text),
        "ssn" => matches_pattern!(text, "^[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}$"),
        "hexcolor" => matches_pattern!(text, "^#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})$"),
        "rgbcolor" => matches_pattern!(
            text,
            concat!(
                r"^rgb\(\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,",
                r"\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*,",
                r"\s*(0|[1-9][0-9]?|1[0-9][0-9]?|2[0-4][0-9]|25[0-5])\s*\)$"
            )
        ),
        "byte" => matches_pattern!(
            text,
            "^(?:[A-Za-z0-9+\\/]{4})*(?:[A-Za-z0-9+\\/]{2}==|[A-Za-z0-9+\\/]{3}=|[A-Za-z0-9+\\/]{4})$"
        ),
        "date" => is_date(text),
        "duration" => is_duration(text),
        "datetime" => is_datetime(text),
        "k8sshortname" => text.len() <= 63 && is_label(text),
        "k8slongname" => text.len() <= 253 && text.split('.').all(is_label),
        _ => true,
    }
}

fn is_label(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    !text.is_empty()
        && text.bytes().all(|b| inner(b) || b == b'-')
        && text.bytes().next().is_some_and(inner)
        && text.bytes().last().is_some_and(inner)
}

/// Go's sloppy parser: leading zeros in the parts of an IPv4 address do not matter.
fn parse_ip(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let parts: Vec<u8> = text
        .split('.')
        .map(|part| {
            let digits = !part.is_empty() && part.len() <= 8 && part.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| part.parse::<u32>().ok()).flatten().and_then(|n| u8::try_from(n).ok())
        })
        .collect::<Option<_>>()?;
    <[u8; 4]>::try_from(parts).ok().map(IpAddr::from)
}

fn is_cidr(text: &str) -> bool {
    let Some((address, bits)) = text.split_once('/') else { return false };
    let most = match parse_ip(address) {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
        None => return false,
    };
    !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u32>().is_ok_and(|b| b <= most)
}

/// `url.ParseRequestURI`: an absolute URL or an absolute path.
fn is_request_uri(text: &str) -> bool {
    let clean = |t: &str| {
        let bytes = t.as_bytes();
        t.bytes().all(|b| b > 0x20 && b != 0x7f)
            && bytes.iter().enumerate().filter(|(_, b)| **b == b'%').all(|(i, _)| {
                let hex = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_hexdigit);
                hex(i + 1) && hex(i + 2)
            })
    };
    if text.is_empty() || !clean(text) {
        return false;
    }
    if text.starts_with('/') || text == "*" {
        return true;
    }
    let Some((scheme, rest)) = text.split_once(':') else { return false };
    let good_scheme = scheme.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'));
    if !good_scheme {
        return false;
    }
    let Some(rest) = rest.strip_prefix("//") else { return !rest.is_empty() };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    if let Some(inner) = host.strip_prefix('[') {
        return inner.contains(']');
    }
    match host.split_once(':') {
        Some((_, port)) => port.bytes().all(|b| b.is_ascii_digit()),
        None => !host.contains([' ', '<', '>', '"', '{', '}', '|', '\\', '^', '`']),
    }
}

/// `mail.ParseAddress` for the forms that occur: `a@b`, `Name <a@b>`, `"Name" <a@b>`.
fn is_email(text: &str) -> bool {
    let text = text.trim();
    let address = match (text.find('<'), text.strip_suffix('>')) {
        (Some(at), Some(_)) => &text[at + 1..text.len() - 1],
        (None, None) => text,
        _ => return false,
    };
    let Some((local, domain)) = address.rsplit_once('@') else { return false };
    let atom = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&b) || b >= 0x80;
    let dotted = |t: &str| t.split('.').all(|part| !part.is_empty() && part.bytes().all(atom));
    let quoted = local.len() >= 2 && local.starts_with('"') && local.ends_with('"');
    let literal = domain.starts_with('[') && domain.ends_with(']');
    (quoted || dotted(local)) && (literal || dotted(domain))
}

fn is_hostname(text: &str) -> bool {
    matches_pattern!(
        text,
        concat!(
            r"^([a-zA-Z0-9\p{S}\p{L}]((-?[a-zA-Z0-9\p{S}\p{L}]{0,62})?)",
            r"|([a-zA-Z0-9\p{S}\p{L}](([a-zA-Z0-9-\p{S}\p{L}]{0,61}[a-zA-Z0-9\p{S}\p{L}])?)(\.)){1,}([a-zA-Z\p{L}]){2,63})$"
        )
    ) && text.len() <= 255
        && text.split('.').all(|part| part.len() <= 63)
}

/// `net.ParseMAC`: 6, 8 or 20 bytes, by colons, dashes or, in pairs, dots.
fn is_mac(text: &str) -> bool {
    let hex = |part: &str, length: usize| part.len() == length && part.bytes().all(|b| b.is_ascii_hexdigit());
    for (separator, digits) in [(':', 2), ('-', 2), ('.', 4)] {
        if text.contains(separator) {
            let parts: Vec<&str> = text.split(separator).collect();
            return matches!(parts.len() * digits / 2, 6 | 8 | 20) && parts.iter().all(|p| hex(p, digits));
        }
    }
    false
}

fn digits_of(text: &str) -> String {
    text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect()
}

fn is_isbn10(text: &str) -> bool {
    let text = digits_of(text);
    if text.len() != 10 || !text[..9].bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let value = |(i, b): (usize, u8)| if b == b'X' { 100 } else { (i as u32 + 1) * u32::from(b.wrapping_sub(b'0')) };
    let last = text.as_bytes()[9];
    (last == b'X' || last.is_ascii_digit()) && text.bytes().enumerate().map(value).sum::<u32>().is_multiple_of(11)
}

fn is_isbn13(text: &str) -> bool {
    let text = digits_of(text);
    if text.len() != 13 || !text.bytes().all(|b| b.is_ascii_digit()) {
        return false;
    }
    let weight = |(i, b): (usize, u8)| u32::from(b - b'0') * if i % 2 == 0 { 1 } else { 3 };
    text.bytes().enumerate().map(weight).sum::<u32>().is_multiple_of(10)
}

fn is_credit_card(text: &str) -> bool {
    let text: String = text.chars().filter(char::is_ascii_digit).collect();
    let known = matches_pattern!(
        &text,
        concat!(
            "^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}",
            "|3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$"
        )
    );
    let sum: u32 = text
        .bytes()
        .rev()
        .enumerate()
        .map(|(i, b)| {
            let digit = u32::from(b - b'0');
            if i % 2 == 0 { digit } else { digit * 2 / 10 + digit * 2 % 10 }
        })
        .sum();
    known && sum.is_multiple_of(10)
}

fn is_date(text: &str) -> bool {
    text.len() == 10
        && text.bytes().all(|b| b.is_ascii_digit() || b == b'-')
        && text.parse::<jiff::civil::Date>().is_ok()
}

fn is_datetime(text: &str) -> bool {
    let lower = text.to_lowercase();
    let Some((date, rest)) = lower.split_once('t') else { return false };
    if text.len() < 4 || !is_date(date) {
        return false;
    }
    let time = rest.split('t').next().unwrap_or_default();
    static TIME: LazyLock<Regex> =
        LazyLock::new(|| regex(r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$"));
    let Some(parts) = TIME.captures(time) else { return false };
    let most = |index: usize, limit: &str| parts.get(index).is_some_and(|m| m.as_str() <= limit);
    most(1, "23") && most(2, "59") && most(3, "59")
}

/// `time.ParseDuration`, or words such as `2 hours`.
fn is_duration(text: &str) -> bool {
    let go = matches_pattern!(text, r"^[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+$");
    let words = matches_pattern!(
        text,
        concat!(
            r"(?i)[0-9]+\s*(ns|nanos?|nanoseconds?|us|µs|micros?|microseconds?|ms|millis?|milliseconds?|s|secs?|seconds?",
            r"|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?)"
        )
    );
    go || words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_hold_what_they_say() {
        let check = |format: &str, good: &[&str], bad: &[&str]| {
            good.iter().for_each(|text| assert!(is_valid(format, text), "{format} {text}"));
            bad.iter().for_each(|text| assert!(!is_valid(format, text), "{format} {text}"));
        };
        check("date", &["2026-02-28"], &["2026-02-30", "2026-2-1", ""]);
        check("date-time", &["2014-12-15T08:00:00.000Z", "2011-08-18T19:03:37.000000000+01:00"], &["2014-12-15", "x"]);
        check("ipv4", &["1.2.3.4", "01.2.3.4"], &["::1", "1.2.3"]);
        check("ipv6", &["::1", "2001:db8::1"], &["1.2.3.4"]);
        check("cidr", &["10.0.0.0/8", "::/0"], &["10.0.0.0", "10.0.0.0/33"]);
        check("uuid", &["a8098c1a-f86e-11da-bd1a-00112444be1e"], &["a8098c1a"]);
        check("uri", &["http://foo.bar/?baz=qux", "/a"], &["foo", "http//x", ""]);
        check("email", &["a@b.c", "Ann <a@b.c>"], &["a", "a@", "@b"]);
        check("byte", &["aGVsbG8="], &["a", "ZWxpemFiZXRocG9zZXk"]);
        check("mac", &["01:02:03:04:05:06"], &["01:02:03"]);
        check("duration", &["1h30m", "22 ns", "2 hours"], &["abc", ""]);
        check("hexcolor", &["#fff", "FFFFFF"], &["#ffff"]);
        check("rgbcolor", &["rgb(100,100,100)"], &["rgb(300,0,0)"]);
        check("isbn10", &["0321751043"], &["0321751041"]);
        check("isbn13", &["978 3401013190"], &["9783401013191"]);
        check("creditcard", &["4111-1111-1111-1111"], &["4111-1111-1111-1112"]);
        check("ssn", &["111-11-1111"], &["111-1"]);
        check("hostname", &["www.example.com", "a"], &["-a.com", "a_b.com"]);
        check("k8s-short-name", &["a-b"], &["A", "-a", "a.b"]);
        check("k8s-long-name", &["a.b-c"], &["a..b"]);
        check("whatever", &["anything"], &[]);
    }
}
