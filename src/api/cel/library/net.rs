//! Addresses, networks and URLs (apiserver `cel/library/ip.go`, `cidr.go`, `urls.go`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use indexmap::IndexMap;

use crate::cel::error::EvalError;
use crate::cel::eval::Result;
use crate::cel::value::{Cidr, Key, Url, Value};

pub(super) fn call(name: &str, member: bool, args: &[Value]) -> Option<Result> {
    Some(match (name, args) {
        ("ip", [Value::String(text)]) if !member => parse_ip(text).map(Value::Ip).map_err(EvalError::new),
        ("isIP", [Value::String(text)]) => Ok(Value::Bool(parse_ip(text).is_ok())),
        ("ip.isCanonical", [Value::String(text)]) => match parse_ip(text) {
            Ok(ip) => Ok(Value::Bool(ip.to_string() == **text)),
            Err(why) => Err(EvalError::new(why)),
        },
        (_, [Value::Ip(ip)]) => Ok(match (name, ip) {
            ("family", IpAddr::V4(_)) => Value::Int(4),
            ("family", IpAddr::V6(_)) => Value::Int(6),
            ("isUnspecified", ip) => Value::Bool(ip.is_unspecified()),
            ("isLoopback", ip) => Value::Bool(ip.is_loopback()),
            ("isLinkLocalMulticast", IpAddr::V4(ip)) => Value::Bool(ip.octets()[..3] == [224, 0, 0]),
            ("isLinkLocalMulticast", IpAddr::V6(ip)) => Value::Bool(ip.segments()[0] & 0xff0f == 0xff02),
            ("isLinkLocalUnicast", IpAddr::V4(ip)) => Value::Bool(ip.is_link_local()),
            ("isLinkLocalUnicast", IpAddr::V6(ip)) => Value::Bool(ip.segments()[0] & 0xffc0 == 0xfe80),
            ("isGlobalUnicast", ip) => Value::Bool(is_global_unicast(*ip)),
            _ => return None,
        }),
        ("cidr", [Value::String(text)]) => parse_cidr(text)
            .map(Value::Cidr)
            .map_err(|why| EvalError::new(format!("network address parse error during conversion from string: {why}"))),
        ("isCIDR", [Value::String(text)]) => Ok(Value::Bool(parse_cidr(text).is_ok())),
        ("ip", [Value::Cidr(cidr)]) => Ok(Value::Ip(cidr.address)),
        ("prefixLength", [Value::Cidr(cidr)]) => Ok(Value::Int(cidr.bits.into())),
        ("masked", [Value::Cidr(cidr)]) => Ok(Value::Cidr(Cidr { address: masked(cidr.address, cidr.bits), ..*cidr })),
        ("containsIP", [Value::Cidr(cidr), Value::Ip(ip)]) => Ok(Value::Bool(contains(cidr, *ip))),
        ("containsIP", [Value::Cidr(cidr), Value::String(text)]) => {
            parse_ip(text).map(|ip| Value::Bool(contains(cidr, ip))).map_err(EvalError::new)
        }
        ("containsCIDR", [Value::Cidr(cidr), Value::Cidr(other)]) => Ok(Value::Bool(contains_cidr(cidr, other))),
        ("containsCIDR", [Value::Cidr(cidr), Value::String(text)]) => match parse_cidr(text) {
            Ok(other) => Ok(Value::Bool(contains_cidr(cidr, &other))),
            Err(why) => {
                Err(EvalError::new(format!("network address parse error during conversion from string: {why}")))
            }
        },
        ("url", [Value::String(text)]) => match parse_url(text) {
            Ok(url) => Ok(Value::Url(Arc::new(url))),
            Err(why) => {
                Err(EvalError::new(format!("URL parse error during conversion from string: parse {text:?}: {why}")))
            }
        },
        ("isURL", [Value::String(text)]) => Ok(Value::Bool(parse_url(text).is_ok())),
        (_, [Value::Url(url)]) => Ok(match name {
            "getScheme" => url.scheme.as_str().into(),
            "getHost" => url.host.as_str().into(),
            "getHostname" => url.hostname.as_str().into(),
            "getPort" => url.port.as_str().into(),
            "getEscapedPath" => url.path.as_str().into(),
            "getQuery" => query(&url.query),
            _ => return None,
        }),
        _ => return None,
    })
}

/// `netip.ParseAddr`, without zones and IPv4-mapped addresses.
fn parse_ip(text: &str) -> std::result::Result<IpAddr, String> {
    if text.contains('%') {
        return Err(format!("IP address {text:?} with zone value is not allowed"));
    }
    let ip: IpAddr = text.parse().map_err(|_| {
        format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): unable to parse IP"
        )
    })?;
    match ip {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"))
        }
        ip => Ok(ip),
    }
}

/// `netip.ParsePrefix`.
fn parse_cidr(text: &str) -> std::result::Result<Cidr, String> {
    let failed = |why: &str| {
        format!("network address parse error during conversion from string: netip.ParsePrefix({text:?}): {why}")
    };
    let (address, bits) = text.rsplit_once('/').ok_or_else(|| failed("no '/'"))?;
    let address: IpAddr = address.parse().map_err(|_| failed("unable to parse IP"))?;
    if let IpAddr::V6(v6) = address
        && v6.to_ipv4_mapped().is_some()
    {
        return Err(format!("IPv4-mapped IPv6 address {text:?} is not allowed"));
    }
    let plain = bits.bytes().all(|b| b.is_ascii_digit()) && (bits.len() == 1 || !bits.starts_with('0'));
    let most = if address.is_ipv4() { 32 } else { 128 };
    match bits.parse::<u8>() {
        Ok(bits) if plain && bits <= most => Ok(Cidr { address, bits }),
        Ok(_) if plain => Err(failed("prefix length out of range")),
        _ => Err(failed(&format!("bad bits after slash: {bits:?}"))),
    }
}

fn is_global_unicast(ip: IpAddr) -> bool {
    if let IpAddr::V4(v4) = ip
        && (v4 == Ipv4Addr::UNSPECIFIED || v4 == Ipv4Addr::BROADCAST)
    {
        return false;
    }
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    };
    !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast() && !link_local
}

fn masked(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

fn contains(cidr: &Cidr, ip: IpAddr) -> bool {
    ip.is_ipv4() == cidr.address.is_ipv4() && masked(ip, cidr.bits) == masked(cidr.address, cidr.bits)
}

fn contains_cidr(cidr: &Cidr, other: &Cidr) -> bool {
    cidr.bits <= other.bits && contains(cidr, other.address)
}

/// `url.ParseRequestURI`, then `url.Parse`: an absolute URL or an absolute path.
pub(super) fn parse_url(text: &str) -> std::result::Result<Url, &'static str> {
    if text.is_empty() {
        return Err("empty url");
    }
    if text.chars().any(|c| c.is_ascii_control()) {
        return Err("net/url: invalid control character in URL");
    }
    let (main, _fragment) = text.split_once('#').unwrap_or((text, ""));
    let (main, query) = main.split_once('?').unwrap_or((main, ""));
    let mut url = Url { query: query.to_owned(), ..Url::default() };
    let mut rest = main;
    if let Some((scheme, after)) = main.split_once(':')
        && scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    {
        url.scheme = scheme.to_ascii_lowercase();
        rest = after;
    } else if main.starts_with(':') {
        return Err("missing protocol scheme");
    }
    if !rest.starts_with('/') {
        if url.scheme.is_empty() {
            return Err("invalid URI for request");
        }
        // An opaque URL has no path.
        return Ok(url);
    }
    if let Some(authority) = rest.strip_prefix("//")
        && (!url.scheme.is_empty() || !rest.starts_with("///"))
    {
        let end = authority.find('/').unwrap_or(authority.len());
        let (authority, path) = authority.split_at(end);
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        url.host = unescape(host).ok_or("invalid URL escape")?;
        (url.hostname, url.port) = split_port(&url.host)?;
        rest = path;
    }
    if unescape(rest).is_none() {
        return Err("invalid URL escape");
    }
    url.path = escape_path(rest);
    Ok(url)
}

fn split_port(host: &str) -> std::result::Result<(String, String), &'static str> {
    if host.contains(' ') {
        return Err("invalid character \" \" in host name");
    }
    let (name, port) = if let Some(inner) = host.strip_prefix('[') {
        let (name, after) = inner.split_once(']').ok_or("missing ']' in host")?;
        match after.strip_prefix(':') {
            Some(port) => (name, port),
            None if after.is_empty() => (name, ""),
            None => return Err("invalid port after host"),
        }
    } else {
        host.rsplit_once(':').unwrap_or((host, ""))
    };
    if !port.bytes().all(|b| b.is_ascii_digit()) {
        return Err("invalid port after host");
    }
    Ok((name.to_owned(), port.to_owned()))
}

/// Percent-decodes; `None` if it is not well formed.
fn unescape(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let (high, low) = (bytes.next()?, bytes.next()?);
        let digit = |b: u8| char::from(b).to_digit(16);
        out.push((digit(high)? * 16 + digit(low)?) as u8);
    }
    Some(String::from_utf8_lossy(&out).into_owned())
}

/// `URL.EscapedPath`: as it was written, if that is well formed, with what may not stand in a path escaped.
fn escape_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        let plain = byte.is_ascii_alphanumeric() || b"-_.~$&+,/:;=@%!'()*[]".contains(&byte);
        if plain { out.push(char::from(byte)) } else { out.push_str(&format!("%{byte:02X}")) }
    }
    out
}

/// `URL.Query()`.
fn query(text: &str) -> Value {
    let mut all: IndexMap<Key, Vec<Value>> = IndexMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty() && !pair.contains(';')) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| unescape(&text.replace('+', " "));
        if let (Some(key), Some(value)) = (decode(key), decode(value)) {
            all.entry(Key::String(key.into())).or_default().push(value.into());
        }
    }
    Value::Map(Arc::new(all.into_iter().map(|(key, values)| (key, values.into())).collect()))
}
