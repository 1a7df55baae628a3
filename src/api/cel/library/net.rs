//! Addresses, networks and URLs (apiserver `cel/library/ip.go`, `cidr.go`, `urls.go`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use indexmap::IndexMap;

use crate::cel::error::EvalError;
use crate::cel::eval::Result;
use crate::cel::value::{Cidr, Key, Value};
use crate::codec::go_quote as quote;
use crate::netip;
use crate::url::{self, Url};

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
            // Upstream takes the error for an argument of another type.
            parse_ip(text).map(|ip| Value::Bool(contains(cidr, ip))).map_err(|_| EvalError::no_such_overload())
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
            Err(why) => Err(EvalError::new(format!("URL parse error during conversion from string: {why}"))),
        },
        ("isURL", [Value::String(text)]) => Ok(Value::Bool(parse_url(text).is_ok())),
        (_, [Value::Url(url)]) => Ok(match name {
            "getScheme" => url.scheme.as_str().into(),
            "getHost" => url.host.as_str().into(),
            "getHostname" => url.hostname().into(),
            "getPort" => url.port().into(),
            "getEscapedPath" => url.escaped_path().into(),
            "getQuery" => query(url),
            _ => return None,
        }),
        _ => return None,
    })
}

/// `parseIPAddr` of `ip.go`: zones and IPv4 in IPv6 are refused.
fn parse_ip(text: &str) -> std::result::Result<IpAddr, String> {
    let (ip, zone) = netip::parse(text)
        .map_err(|why| format!("IP Address {} parse error during conversion from string: {why}", quote(text)))?;
    if !zone.is_empty() {
        return Err(format!("IP address {} with zone value is not allowed", quote(text)));
    }
    if is_mapped(ip) {
        return Err(format!("IPv4-mapped IPv6 address {} is not allowed", quote(text)));
    }
    Ok(ip)
}

/// `parseCIDR` of `cidr.go`.
fn parse_cidr(text: &str) -> std::result::Result<Cidr, String> {
    let (address, bits) = netip::parse_prefix(text)
        .map_err(|why| format!("network address parse error during conversion from string: {why}"))?;
    if is_mapped(address) {
        return Err(format!("IPv4-mapped IPv6 address {} is not allowed", quote(text)));
    }
    Ok(Cidr { address, bits })
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
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
pub(super) fn parse_url(text: &str) -> std::result::Result<Url, String> {
    url::parse_request_uri(text)?;
    url::parse(text)
}

/// `URL.Query()`.
fn query(url: &Url) -> Value {
    let mut all: IndexMap<Key, Vec<Value>> = IndexMap::new();
    for (key, value) in url.query_pairs() {
        all.entry(Key::String(key.into())).or_default().push(value.into());
    }
    Value::Map(Arc::new(all.into_iter().map(|(key, values)| (key, values.into())).collect()))
}
