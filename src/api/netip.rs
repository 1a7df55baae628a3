//! Addresses as Go's `net/netip` reads them, with its errors.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::codec::go_quote as quote;

/// `netip.ParseAddr`: the address and its zone.
///
/// # Errors
/// Go's text, which begins with `ParseAddr("…"): `.
pub fn parse(text: &str) -> Result<(IpAddr, &str), String> {
    read(text).map_err(|why| format!("ParseAddr({}): {why}", quote(text)))
}

fn read(text: &str) -> Result<(IpAddr, &str), String> {
    match text.bytes().find(|b| matches!(b, b'.' | b':' | b'%')) {
        Some(b'.') => Ok((Ipv4Addr::from(four(text)?).into(), "")),
        Some(b':') => six(text),
        Some(_) => Err("missing IPv6 address".to_owned()),
        None => Err("unable to parse IP".to_owned()),
    }
}

fn at(what: &str, rest: &str) -> String {
    if rest.is_empty() { what.to_owned() } else { format!("{what} (at {})", quote(rest)) }
}

/// `parseIPv4Fields`.
fn four(text: &str) -> Result<[u8; 4], String> {
    let bytes = text.as_bytes();
    let (mut fields, mut field, mut value, mut digits) = ([0; 4], 0, 0u32, 0);
    for (i, byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                if digits == 1 && value == 0 {
                    return Err("IPv4 field has octet with leading zero".to_owned());
                }
                value = value * 10 + u32::from(byte - b'0');
                digits += 1;
                if value > 255 {
                    return Err("IPv4 field has value >255".to_owned());
                }
            }
            b'.' => {
                if i == 0 || i == bytes.len() - 1 || bytes[i - 1] == b'.' {
                    return Err(at("IPv4 field must have at least one digit", &text[i..]));
                }
                if field == 3 {
                    return Err("IPv4 address too long".to_owned());
                }
                fields[field] = value as u8;
                (field, value, digits) = (field + 1, 0, 0);
            }
            _ => return Err(at("unexpected character", text.get(i..).unwrap_or_default())),
        }
    }
    if field < 3 {
        return Err("IPv4 address too short".to_owned());
    }
    fields[3] = value as u8;
    Ok(fields)
}

/// `parseIPv6`.
fn six(text: &str) -> Result<(IpAddr, &str), String> {
    let (mut s, zone) = match text.split_once('%') {
        Some((_, "")) => return Err("zone must be a non-empty string".to_owned()),
        Some((s, zone)) => (s, zone),
        None => (text, ""),
    };
    let mut groups: Vec<u16> = Vec::with_capacity(8);
    let mut gap = None;
    if let Some(rest) = s.strip_prefix("::") {
        gap = Some(0);
        s = rest;
        if s.is_empty() {
            return Ok((Ipv6Addr::UNSPECIFIED.into(), zone));
        }
    }
    while groups.len() < 8 {
        let digits = s.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits > 4 {
            return Err(at("each group must have 4 or less digits", s));
        }
        if digits == 0 {
            return Err(at("each colon-separated field must have at least one digit", s));
        }
        if s.as_bytes().get(digits) == Some(&b'.') {
            if gap.is_none() && groups.len() != 6 {
                return Err(at("embedded IPv4 address must replace the final 2 fields of the address", s));
            }
            if groups.len() > 6 {
                return Err(at("too many hex fields to fit an embedded IPv4 at the end of the address", s));
            }
            let [a, b, c, d] = four(s)?;
            groups.extend([u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]);
            s = "";
            break;
        }
        // Four hexadecimal digits fit.
        groups.push(u16::from_str_radix(&s[..digits], 16).unwrap_or_default());
        s = &s[digits..];
        if s.is_empty() {
            break;
        }
        if !s.starts_with(':') {
            return Err(at("unexpected character, want colon", s));
        }
        if s.len() == 1 {
            return Err(at("colon must be followed by more characters", s));
        }
        s = &s[1..];
        if s.starts_with(':') {
            if gap.is_some() {
                return Err(at("multiple :: in address", s));
            }
            gap = Some(groups.len());
            s = &s[1..];
            if s.is_empty() {
                break;
            }
        }
    }
    if !s.is_empty() {
        return Err(at("trailing garbage after address", s));
    }
    match (gap, groups.len()) {
        (None, 8) => {}
        (None, _) => return Err("address string too short".to_owned()),
        (Some(_), 8) => return Err("the :: must expand to at least one field of zeros".to_owned()),
        (Some(gap), count) => {
            let tail = groups.split_off(gap);
            groups.resize(gap + 8 - count, 0);
            groups.extend(tail);
        }
    }
    let mut all = [0; 8];
    all.copy_from_slice(&groups);
    Ok((Ipv6Addr::from(all).into(), zone))
}

/// `netip.ParsePrefix`: the address and the bits of its prefix.
///
/// # Errors
/// Go's text, which begins with `netip.ParsePrefix("…"): `.
pub fn parse_prefix(text: &str) -> Result<(IpAddr, u8), String> {
    let failed = |why: &str| format!("netip.ParsePrefix({}): {why}", quote(text));
    let (address, bits) = text.rsplit_once('/').ok_or_else(|| failed("no '/'"))?;
    let (ip, zone) = parse(address).map_err(|why| failed(&why))?;
    if !zone.is_empty() {
        return Err(failed("IPv6 zones cannot be present in a prefix"));
    }
    // Two digits at least must not begin with a sign or zero.
    let bad = || failed(&format!("bad bits after slash: {}", quote(bits)));
    if bits.len() > 1 && !matches!(bits.as_bytes().first(), Some(b'1'..=b'9')) {
        return Err(bad());
    }
    let number: u32 =
        Some(bits).filter(|b| b.bytes().all(|b| b.is_ascii_digit())).and_then(|b| b.parse().ok()).ok_or_else(bad)?;
    let most = if ip.is_ipv4() { 32 } else { 128 };
    match u8::try_from(number) {
        Ok(number) if number <= most => Ok((ip, number)),
        _ => Err(failed("prefix length out of range")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_refused_in_gos_words() {
        let check = |text: &str, want: &str| {
            assert_eq!(parse(text), Err(format!("ParseAddr({}): {want}", quote(text))));
        };
        check("", "unable to parse IP");
        check("1.2.3", "IPv4 address too short");
        check("1.2.3.4.5", "IPv4 address too long");
        check("1..2.3", "IPv4 field must have at least one digit (at \".2.3\")");
        check("01.2.3.4", "IPv4 field has octet with leading zero");
        check("1.2.3.a", "unexpected character (at \"a\")");
        check("1::2::3", "multiple :: in address (at \":3\")");
        check("12345::", "each group must have 4 or less digits (at \"12345::\")");
        check("1:2", "address string too short");
        check("1:2:3:4:5:6:7:8:9", "trailing garbage after address (at \"9\")");
        check("1:", "colon must be followed by more characters (at \":\")");
        check("%a", "missing IPv6 address");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_printed_is_read(six in any::<u128>(), four in any::<u32>()) {
            for ip in [IpAddr::from(Ipv6Addr::from(six)), Ipv4Addr::from(four).into()] {
                prop_assert_eq!(parse(&ip.to_string()).map(|(ip, _)| ip), Ok(ip));
            }
        }

        #[test]
        fn what_is_read_is_what_the_standard_library_reads(text in "[0-9a-f:.]{0,20}") {
            prop_assert_eq!(parse(&text).ok().map(|(ip, _)| ip), text.parse().ok());
        }
    }
}
