//! IP addresses and CIDRs (apimachinery `util/validation/ip.go`).
//!
//! "Sloppy" parsing takes leading zeros as decimal, as Go once did; strict checks refuse what other software may read
//! differently.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::field::{Error, ErrorList, Path};

/// Parses an address with leading zeros allowed in IPv4 octets. IPv4-mapped IPv6 addresses come back as IPv4.
pub fn parse_ip_sloppy(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(unmap(ip));
    }
    if text.contains(':') {
        // Leading zeros may stand in an embedded IPv4 tail.
        let (head, tail) = text.rsplit_once(':')?;
        let v4 = parse_ipv4_sloppy(tail)?;
        return format!("{head}:{v4}").parse::<Ipv6Addr>().ok().map(|ip| unmap(ip.into()));
    }
    parse_ipv4_sloppy(text).map(IpAddr::V4)
}

fn parse_ipv4_sloppy(text: &str) -> Option<Ipv4Addr> {
    let mut octets = [0u8; 4];
    let mut parts = text.split('.');
    for octet in &mut octets {
        let part = parts.next()?;
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        *octet = part
            .trim_start_matches('0')
            .parse()
            .or_else(|e| if part.bytes().all(|b| b == b'0') { Ok(0) } else { Err(e) })
            .ok()?;
    }
    parts.next().is_none().then(|| octets.into())
}

fn unmap(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        IpAddr::V4(_) => ip,
    }
}

fn is_mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

/// Parses `address/length` sloppily: the address as given and the prefix length.
pub fn parse_cidr_sloppy(text: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = text.split_once('/')?;
    let ip = parse_ip_sloppy(address)?;
    if length.is_empty() || !length.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let length: u32 = length.parse().ok()?;
    let mapped = address.contains(':') && ip.is_ipv4();
    let bits = if mapped || ip.is_ipv6() { 128 } else { 32 };
    if length > bits {
        return None;
    }
    let length = if mapped { length.saturating_sub(96) } else { length };
    Some((ip, u8::try_from(length).ok()?))
}

/// The address with the bits after the prefix cleared.
fn masked(ip: IpAddr, length: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length.min(32))).unwrap_or(0);
            Ipv4Addr::from(u32::from(v4) & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0);
            Ipv6Addr::from(u128::from(v6) & mask).into()
        }
    }
}

fn parse_ip(path: &Path, value: &str, strict: bool) -> Result<IpAddr, ErrorList> {
    let Some(ip) = parse_ip_sloppy(value) else {
        let detail = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";
        return Err(vec![Error::invalid(path.clone(), value, detail)]);
    };
    if strict {
        match value.parse::<IpAddr>() {
            Err(_) => return Err(vec![Error::invalid(path.clone(), value, "must not have leading 0s")]),
            Ok(exact) if is_mapped(exact) => {
                return Err(vec![Error::invalid(path.clone(), value, "must not be an IPv4-mapped IPv6 address")]);
            }
            Ok(_) => {}
        }
    }
    Ok(ip)
}

/// An address in canonical form (`IsValidIP`).
pub fn ip(path: &Path, value: &str) -> ErrorList {
    match parse_ip(path, value, true) {
        Err(errors) => errors,
        Ok(ip) if ip.to_string() != value => {
            vec![Error::invalid(path.clone(), value, format!("must be in canonical form ({:?})", ip.to_string()))]
        }
        Ok(_) => ErrorList::new(),
    }
}

/// An address in a field older than strict checking: need not be canonical (`IsValidIPForLegacyField`, strict).
/// `old` are values that the object already had and may keep.
pub fn ip_legacy(path: &Path, value: &str, old: &[&str]) -> ErrorList {
    if old.contains(&value) {
        return ErrorList::new();
    }
    parse_ip(path, value, true).err().unwrap_or_default()
}

/// `Warning` texts for an address that is accepted but not in good form.
pub fn ip_warnings(path: &Path, value: &str) -> Vec<String> {
    let Some(ip) = parse_ip_sloppy(value) else { return Vec::new() };
    let good = ip.to_string();
    match value.parse::<IpAddr>() {
        Ok(exact) if !is_mapped(exact) => {
            if exact.is_ipv6() && good != value {
                let text = format!("{path}: IPv6 address {value:?} should be in RFC 5952 canonical format ({good:?})");
                return vec![text];
            }
            Vec::new()
        }
        _ => vec![format!("{path}: non-standard IP address {value:?} is invalid: use {good:?}")],
    }
}

fn parse_cidr(path: &Path, value: &str, strict: bool) -> Result<(IpAddr, u8), ErrorList> {
    let Some((ip, length)) = parse_cidr_sloppy(value) else {
        let detail = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        return Err(vec![Error::invalid(path.clone(), value, detail)]);
    };
    if strict {
        let detail = match strict_prefix(value) {
            None => Some("must not have leading 0s in IP or prefix length"),
            Some((exact, _)) if is_mapped(exact) => Some("must not have an IPv4-mapped IPv6 address"),
            Some((exact, length)) if masked(exact, length) != exact => {
                Some("must not have bits set beyond the prefix length")
            }
            Some(_) => None,
        };
        if let Some(detail) = detail {
            return Err(vec![Error::invalid(path.clone(), value, detail)]);
        }
    }
    Ok((masked(ip, length), length))
}

/// What Go's `netip.ParsePrefix` takes.
fn strict_prefix(value: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = value.split_once('/')?;
    if length.len() > 1 && length.starts_with('0') {
        return None;
    }
    Some((address.parse().ok()?, length.parse().ok()?))
}

/// A subnet in canonical form (`IsValidCIDR`).
pub fn cidr(path: &Path, value: &str) -> ErrorList {
    match parse_cidr(path, value, true) {
        Err(errors) => errors,
        Ok((ip, length)) => canonical(path, value, &format!("{ip}/{length}")),
    }
}

/// A subnet in a field older than strict checking (`IsValidCIDRForLegacyField`, strict).
pub fn cidr_legacy(path: &Path, value: &str, old: &[&str]) -> ErrorList {
    if old.contains(&value) {
        return ErrorList::new();
    }
    parse_cidr(path, value, true).err().unwrap_or_default()
}

/// An address with the length of its subnet, e.g. `192.168.1.5/24`, in canonical form.
pub fn interface_address(path: &Path, value: &str) -> ErrorList {
    match parse_cidr_sloppy(value) {
        Some((ip, length)) => canonical(path, value, &format!("{ip}/{length}")),
        None => {
            let detail = "must be a valid address in CIDR form, (e.g. 10.9.8.7/24 or 2001:db8::1/64)";
            vec![Error::invalid(path.clone(), value, detail)]
        }
    }
}

fn canonical(path: &Path, value: &str, canonical: &str) -> ErrorList {
    if value == canonical {
        return ErrorList::new();
    }
    vec![Error::invalid(path.clone(), value, format!("must be in canonical form ({canonical:?})"))]
}

/// `Warning` texts for a subnet that is accepted but not in good form.
pub fn cidr_warnings(path: &Path, value: &str) -> Vec<String> {
    let Some((ip, length)) = parse_cidr_sloppy(value) else { return Vec::new() };
    let net = format!("{}/{length}", masked(ip, length));
    let mut warnings = Vec::new();
    if masked(ip, length) != ip {
        let single = format!("{ip}/{}", if ip.is_ipv4() { 32 } else { 128 });
        let text =
            format!("{path}: CIDR value {value:?} is ambiguous in this context (should be {net:?} or {single:?}?)");
        warnings.push(text);
    }
    match strict_prefix(value) {
        Some((exact, _)) if !is_mapped(exact) => {
            if warnings.is_empty() && exact.is_ipv6() && net != value {
                let text =
                    format!("{path}: IPv6 CIDR value {value:?} should be in RFC 5952 canonical format ({net:?})");
                warnings.push(text);
            }
        }
        _ => warnings.push(format!("{path}: non-standard CIDR value {value:?} is invalid: use {net:?}")),
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rule: fn(&Path, &str) -> ErrorList, value: &str, expected: &str) {
        let errors = rule(&Path::new("ip"), value);
        let text = errors.first().map(|e| e.detail.clone()).unwrap_or_default();
        assert_eq!(text, expected, "{value}");
    }

    #[test]
    fn addresses() {
        check(ip, "10.0.0.1", "");
        check(ip, "fe80::1", "");
        check(ip, "010.0.0.1", "must not have leading 0s");
        check(ip, "::ffff:1.2.3.4", "must not be an IPv4-mapped IPv6 address");
        check(ip, "FE80::1", "must be in canonical form (\"fe80::1\")");
        check(ip, "1.2.3", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        check(ip, "1.2.3.256", "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)");
        check(|p, v| ip_legacy(p, v, &["010.0.0.1"]), "010.0.0.1", "");
        check(|p, v| ip_legacy(p, v, &[]), "FE80::1", "");
    }

    #[test]
    fn subnets() {
        check(cidr, "10.0.0.0/8", "");
        check(cidr, "10.0.0.0/08", "must not have leading 0s in IP or prefix length");
        check(cidr, "10.0.0.1/8", "must not have bits set beyond the prefix length");
        check(cidr, "2001:DB8::/64", "must be in canonical form (\"2001:db8::/64\")");
        check(cidr, "10.0.0.0", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        check(cidr, "10.0.0.0/33", "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)");
        check(cidr, "0.0.0.0/0", "");
        check(cidr, "::/0", "");
        check(interface_address, "192.168.1.5/24", "");
    }
}
