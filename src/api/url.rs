//! URLs as Go's `net/url` (1.26) reads them, with its errors: what validation and expressions of the API go by.

use std::net::IpAddr;

use crate::codec::go_quote as quote;
use crate::netip;

/// A URL in parts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Url {
    /// In small letters.
    pub scheme: String,
    /// The user and password, as they were written.
    pub user: Option<String>,
    /// With the port; unescaped.
    pub host: String,
    /// Unescaped.
    pub path: Vec<u8>,
    /// The path as it was written.
    raw_path: String,
    /// What follows `?`, as it was written.
    pub query: String,
    /// Unescaped.
    pub fragment: String,
    /// What follows the scheme if that is no path.
    pub opaque: String,
}

/// Which characters stand for themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Path,
    Host,
    Zone,
    User,
    Query,
    Fragment,
}

/// `url.Parse`.
///
/// # Errors
/// Go's text, which begins with `parse "…": `.
pub fn parse(text: &str) -> Result<Url, String> {
    let (main, fragment) = text.split_once('#').unwrap_or((text, ""));
    let mut url = read(main, false).map_err(|why| format!("parse {}: {why}", quote(main)))?;
    let fragment = unescape(fragment, Part::Fragment).map_err(|why| format!("parse {}: {why}", quote(text)))?;
    url.fragment = String::from_utf8_lossy(&fragment).into_owned();
    Ok(url)
}

/// `url.ParseRequestURI`: an absolute URL or an absolute path, without a fragment.
///
/// # Errors
/// As [`parse`].
pub fn parse_request_uri(text: &str) -> Result<Url, String> {
    read(text, true).map_err(|why| format!("parse {}: {why}", quote(text)))
}

fn read(text: &str, request: bool) -> Result<Url, String> {
    if text.bytes().any(|b| b < b' ' || b == 0x7f) {
        return Err("net/url: invalid control character in URL".to_owned());
    }
    if text.is_empty() && request {
        return Err("empty url".to_owned());
    }
    let mut url = Url::default();
    if text == "*" {
        url.path = b"*".to_vec();
        return Ok(url);
    }
    let (scheme, mut rest) = scheme(text)?;
    url.scheme = scheme.to_ascii_lowercase();
    if let Some((before, query)) = rest.split_once('?') {
        url.query = query.to_owned();
        rest = before;
    }
    if !rest.starts_with('/') {
        if !url.scheme.is_empty() {
            url.opaque = rest.to_owned();
            return Ok(url);
        }
        if request {
            return Err("invalid URI for request".to_owned());
        }
        if rest.split('/').next().is_some_and(|segment| segment.contains(':')) {
            return Err("first path segment in URL cannot contain colon".to_owned());
        }
    }
    if (!url.scheme.is_empty() || !request && !rest.starts_with("///"))
        && let Some(after) = rest.strip_prefix("//")
    {
        let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        url.host = self::host(&url.scheme, host)?;
        if let Some(user) = user {
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
            if !user.chars().all(plain) {
                return Err("net/url: invalid userinfo".to_owned());
            }
            for part in user.splitn(2, ':') {
                unescape(part, Part::User)?;
            }
            url.user = Some(user.to_owned());
        }
        rest = path;
    }
    url.path = unescape(rest, Part::Path)?;
    url.raw_path = rest.to_owned();
    Ok(url)
}

/// The scheme, and what follows its colon.
fn scheme(text: &str) -> Result<(&str, &str), String> {
    for (i, byte) in text.bytes().enumerate() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' => {}
            b'0'..=b'9' | b'+' | b'-' | b'.' if i > 0 => {}
            b':' if i == 0 => return Err("missing protocol scheme".to_owned()),
            b':' => return Ok((&text[..i], &text[i + 1..])),
            _ => break,
        }
    }
    Ok(("", text))
}

fn host(scheme: &str, host: &str) -> Result<String, String> {
    let port_of = |port: &str| {
        if is_port(port) { Ok(()) } else { Err(format!("invalid port {} after host", quote(port))) }
    };
    let text = |part: &str, kind: Part| unescape(part, kind).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    match host.rfind('[') {
        Some(0) => {
            let close = host.rfind(']').ok_or("missing ']' in host")?;
            let (name, port) = (&host[1..close], &host[close + 1..]);
            port_of(port)?;
            let name = match name.find("%25") {
                Some(at) => text(&name[..at], Part::Host)? + &text(&name[at..], Part::Zone)?,
                None => text(name, Part::Host)?,
            };
            let (ip, _) = netip::parse(&name).map_err(|why| format!("invalid host: {why}"))?;
            if matches!(ip, IpAddr::V4(_)) {
                return Err("invalid IP-literal".to_owned());
            }
            return Ok(format!("[{name}]{port}"));
        }
        Some(_) => return Err("invalid IP-literal".to_owned()),
        None => {}
    }
    // Some databases' URLs name several hosts.
    let colon = if matches!(scheme, "http" | "https") { host.find(':') } else { host.rfind(':') };
    if let Some(colon) = colon {
        port_of(&host[colon..])?;
    }
    text(host, Part::Host)
}

/// Nothing, or a colon with digits.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_digit()))
}

impl Part {
    /// Whether a character need not be escaped (`shouldEscape`).
    fn has(self, byte: u8) -> bool {
        if byte.is_ascii_alphanumeric() {
            return true;
        }
        match byte {
            b'-' | b'_' | b'.' | b'~' => true,
            b'$' | b'&' | b'+' | b'=' | b':' | b'@' | b'/' | b';' | b',' | b'?' => match self {
                Self::Path => byte != b'?',
                Self::Host | Self::Zone => matches!(byte, b'$' | b'&' | b'+' | b'=' | b':' | b';' | b','),
                Self::User => matches!(byte, b'$' | b'&' | b'+' | b'=' | b';' | b','),
                Self::Query => false,
                Self::Fragment => true,
            },
            b'!' | b'(' | b')' | b'*' => matches!(self, Self::Host | Self::Zone | Self::Fragment),
            b'\'' | b'[' | b']' | b'<' | b'>' | b'"' => matches!(self, Self::Host | Self::Zone),
            _ => false,
        }
    }
}

fn unescape(text: &str, part: Part) -> Result<Vec<u8>, String> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let byte = bytes[i];
        if byte == b'%' {
            let escape = &bytes[i..(i + 3).min(bytes.len())];
            let bad = || format!("invalid URL escape {}", quote(&String::from_utf8_lossy(escape)));
            let digit = |b: u8| char::from(b).to_digit(16);
            let value = match *escape {
                [_, high, low] => digit(high).zip(digit(low)).map(|(high, low)| (high * 16 + low) as u8),
                _ => None,
            };
            let value = value.ok_or_else(bad)?;
            let percent = escape == b"%25";
            // Only what is not ASCII may be escaped in a host, and in a zone nothing that could not stand there.
            if part == Part::Host && value < 0x80 && !percent
                || part == Part::Zone && !percent && value != b' ' && !Part::Host.has(value)
            {
                return Err(bad());
            }
            out.push(value);
            i += 3;
            continue;
        }
        if matches!(part, Part::Host | Part::Zone) && byte < 0x80 && !part.has(byte) {
            return Err(format!("invalid character {} in host name", quote(&char::from(byte).to_string())));
        }
        out.push(if byte == b'+' && part == Part::Query { b' ' } else { byte });
        i += 1;
    }
    Ok(out)
}

impl Url {
    /// `URL.Hostname`: without port and brackets.
    pub fn hostname(&self) -> &str {
        let host = self.split_host().0;
        host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host)
    }

    /// `URL.Port`.
    pub fn port(&self) -> &str {
        self.split_host().1
    }

    fn split_host(&self) -> (&str, &str) {
        match self.host.rfind(':') {
            Some(colon) if is_port(&self.host[colon..]) => (&self.host[..colon], &self.host[colon + 1..]),
            _ => (&self.host, ""),
        }
    }

    /// `URL.EscapedPath`: as it was written if that is well formed.
    pub fn escaped_path(&self) -> String {
        let plain = |b: u8| b"!$&'()*+,;=:@[]%".contains(&b) || Part::Path.has(b);
        if self.raw_path.bytes().all(plain) && !self.raw_path.is_empty() {
            return self.raw_path.clone();
        }
        if self.path == b"*" {
            return "*".to_owned();
        }
        let mut out = String::with_capacity(self.path.len());
        for byte in &self.path {
            if Part::Path.has(*byte) {
                out.push(char::from(*byte));
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        out
    }

    /// `URL.Query`: the parameters that read, in their order.
    pub fn query_pairs(&self) -> Vec<(String, String)> {
        let decode = |text: &str| unescape(text, Part::Query).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let pairs = self.query.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';'));
        pairs
            .filter_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                Some((decode(key).ok()?, decode(value).ok()?))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn parts_are_told_apart() {
        let url = parse("https://user:pw@example.com:8080/a%20b/c?x=1&y=2&x=%33#f").unwrap();
        assert_eq!((url.scheme.as_str(), url.user.as_deref()), ("https", Some("user:pw")));
        assert_eq!(url.host, "example.com:8080");
        assert_eq!((url.hostname(), url.port(), url.fragment.as_str()), ("example.com", "8080", "f"));
        assert_eq!((url.escaped_path(), url.path.as_slice()), ("/a%20b/c".to_owned(), &b"/a b/c"[..]));
        let pairs: Vec<String> = url.query_pairs().iter().map(|(k, v)| format!("{k}={v}")).collect();
        assert_eq!(pairs, ["x=1", "y=2", "x=3"]);
        let url = parse("http://[fe80::1%25eth0]:80/é").unwrap();
        assert_eq!((url.hostname(), url.port(), url.escaped_path()), ("fe80::1%eth0", "80", "/%C3%A9".to_owned()));
        assert_eq!(parse("mailto:a@b").unwrap().opaque, "a@b");
        assert_eq!(parse("/only?q").unwrap().query, "q");
    }

    #[test]
    fn errors_are_gos() {
        let check = |text: &str, want: &str| {
            assert_eq!(parse(text), Err(format!("parse {}: {want}", quote(text))), "{text}");
        };
        check("://x", "missing protocol scheme");
        check("1http://a", "first path segment in URL cannot contain colon");
        check("http://a b/", "invalid character \" \" in host name");
        check("http://[::1", "missing ']' in host");
        check("http://a[", "invalid IP-literal");
        check("http://[1.2.3.4]/", "invalid IP-literal");
        check("http://a:bad/", "invalid port \":bad\" after host");
        check("http://a:1:2/", "invalid port \":1:2\" after host");
        check("http://a/%zz", "invalid URL escape \"%zz\"");
        check("http://a%41b/", "invalid URL escape \"%41\"");
        check("http://a/\u{1}", "net/url: invalid control character in URL");
        check("http://u^@a/", "net/url: invalid userinfo");
        let refused = parse_request_uri("a b").unwrap_err();
        assert_eq!(refused, "parse \"a b\": invalid URI for request");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_text_is_too_much(text in "[a-z0-9:/?#\\[\\]@%&=+;. é\\x01-]{0,40}") {
            for url in [parse(&text), parse_request_uri(&text)].into_iter().flatten() {
                let _ = (url.hostname().len(), url.port().len(), url.query_pairs());
                prop_assert!(url.escaped_path().is_ascii());
            }
        }
    }
}
