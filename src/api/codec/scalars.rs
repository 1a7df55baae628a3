//! Text forms of Kubernetes' special scalars, read and printed as Go does.

use jiff::Timestamp;
use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;

/// `2006-01-02T15:04:05Z07:00` as Go's `time.Parse` reads it, with its errors. With `micro`, exactly six digits of a
/// second are wanted (`metav1.MicroTime`); without, any fraction is taken.
pub fn parse_time(text: &str, micro: bool) -> Result<Timestamp, String> {
    let (civil, offset) = parse_civil(text, micro)?;
    let out = || format!("parsing time {}: year out of range", quote(text));
    let utc = civil.to_zoned(TimeZone::UTC).map_err(|_| out())?.timestamp();
    utc.checked_sub(jiff::SignedDuration::from_secs(i64::from(offset))).map_err(|_| out())
}

/// The same, as it is written: the date and time of day, and how many seconds they are ahead of UTC.
pub fn parse_civil(text: &str, micro: bool) -> Result<(DateTime, i32), String> {
    let layout = if micro { "2006-01-02T15:04:05.000000Z07:00" } else { "2006-01-02T15:04:05Z07:00" };
    let mut reader = TimeReader { text, rest: text, layout };
    let year = reader.number(4, "2006")?;
    reader.literal("-")?;
    let month = reader.ranged(1..=12, "01", "month")?;
    reader.literal("-")?;
    let day = reader.ranged(1..=31, "02", "day")?;
    reader.literal("T")?;
    let hour = reader.hour()?;
    reader.literal(":")?;
    let minute = reader.ranged(0..=59, "04", "minute")?;
    reader.literal(":")?;
    let second = reader.ranged(0..=59, "05", "second")?;
    let nanos = reader.fraction(micro)?;
    let offset = reader.zone()?;
    if !reader.rest.is_empty() {
        return Err(format!("parsing time {}: extra text: {}", quote(text), quote(reader.rest)));
    }
    let small = |n: i32| i8::try_from(n).unwrap_or(i8::MAX);
    let date = i16::try_from(year).ok().and_then(|year| Date::new(year, small(month), small(day)).ok());
    let date = date.ok_or_else(|| format!("parsing time {}: day out of range", quote(text)))?;
    Ok((date.at(small(hour), small(minute), small(second), nanos), offset))
}

/// RFC 3339 in seconds, UTC.
pub fn print_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// RFC 3339 with six digits, UTC.
pub fn print_micro_time(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

struct TimeReader<'a> {
    text: &'a str,
    rest: &'a str,
    layout: &'a str,
}

impl TimeReader<'_> {
    fn fail(&self, element: &str) -> String {
        format!(
            "parsing time {} as {}: cannot parse {} as {}",
            quote(self.text),
            quote(self.layout),
            quote(self.rest),
            quote(element)
        )
    }

    fn number(&mut self, digits: usize, element: &str) -> Result<i32, String> {
        let Some(head) = self.rest.get(..digits).filter(|h| h.bytes().all(|b| b.is_ascii_digit())) else {
            return Err(self.fail(element));
        };
        let value = head.parse().map_err(|_| self.fail(element))?;
        self.rest = &self.rest[digits..];
        Ok(value)
    }

    fn ranged(&mut self, range: std::ops::RangeInclusive<i32>, element: &str, what: &str) -> Result<i32, String> {
        let value = self.number(2, element)?;
        if range.contains(&value) {
            Ok(value)
        } else {
            Err(format!("parsing time {}: {what} out of range", quote(self.text)))
        }
    }

    /// One digit will do.
    fn hour(&mut self) -> Result<i32, String> {
        let bytes = self.rest.as_bytes();
        if bytes.first().is_some_and(u8::is_ascii_digit) && !bytes.get(1).is_some_and(u8::is_ascii_digit) {
            return self.number(1, "15");
        }
        self.ranged(0..=23, "15", "hour")
    }

    fn literal(&mut self, literal: &str) -> Result<(), String> {
        match self.rest.strip_prefix(literal) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(self.fail(literal)),
        }
    }

    /// Nanoseconds.
    fn fraction(&mut self, micro: bool) -> Result<i32, String> {
        let tail = self.rest.strip_prefix(['.', ',']);
        let digits = tail.map_or(0, |t| t.bytes().take_while(u8::is_ascii_digit).count());
        // More of them are in the way of the zone.
        let digits = if micro { digits.min(6) } else { digits };
        if micro && digits != 6 || tail.is_some() && digits == 0 {
            return Err(self.fail(if micro { ".000000" } else { "Z07:00" }));
        }
        let Some(tail) = tail else { return Ok(0) };
        let nanos = tail.bytes().take(digits).chain(std::iter::repeat(b'0')).take(9);
        let nanos = nanos.fold(0, |sum, digit| sum * 10 + i32::from(digit - b'0'));
        self.rest = &tail[digits..];
        Ok(nanos)
    }

    /// Seconds east of Greenwich.
    fn zone(&mut self) -> Result<i32, String> {
        if let Some(rest) = self.rest.strip_prefix('Z') {
            self.rest = rest;
            return Ok(0);
        }
        let bytes = self.rest.as_bytes();
        let digit = |i: usize| bytes.get(i).filter(|b| b.is_ascii_digit()).map(|b| i32::from(b - b'0'));
        let found = (|| {
            let sign = match bytes.first()? {
                b'+' => 1,
                b'-' => -1,
                _ => return None,
            };
            let hours = digit(1)? * 10 + digit(2)?;
            if bytes.get(3) != Some(&b':') {
                return None;
            }
            let minutes = digit(4)? * 10 + digit(5)?;
            (hours <= 24 && minutes < 60).then_some(sign * (hours * 3600 + minutes * 60))
        })();
        match found {
            Some(offset) => {
                self.rest = &self.rest[6..];
                Ok(offset)
            }
            None => Err(self.fail("Z07:00")),
        }
    }
}

/// Go's `%q` for the texts met here.
pub fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Standard base64 as Go's `encoding/base64` reads it: padded, line breaks skipped. The error is Go's
/// `CorruptInputError`.
pub fn decode_base64(text: &str) -> Result<Vec<u8>, String> {
    let corrupt = |at: usize| format!("illegal base64 data at input byte {at}");
    let mut out = Vec::with_capacity(text.len() / 4 * 3);
    let bytes = text.as_bytes();
    let (mut quantum, mut count, mut at) = (0u32, 0usize, 0usize);
    while at < bytes.len() {
        let byte = bytes[at];
        at += 1;
        let six = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'\n' | b'\r' => continue,
            b'=' => return finish_base64(bytes, at, quantum, count, out).map_err(corrupt),
            _ => return Err(corrupt(at - 1)),
        };
        quantum = quantum << 6 | u32::from(six);
        count += 1;
        if count == 4 {
            out.extend_from_slice(&quantum.to_be_bytes()[1..]);
            (quantum, count) = (0, 0);
        }
    }
    if count == 0 { Ok(out) } else { Err(corrupt(at - count)) }
}

/// After the first `=` (just before `at`); the error is the offset of what is wrong.
fn finish_base64(bytes: &[u8], mut at: usize, quantum: u32, count: usize, mut out: Vec<u8>) -> Result<Vec<u8>, usize> {
    let skip = |mut at: usize| {
        while matches!(bytes.get(at), Some(b'\n' | b'\r')) {
            at += 1;
        }
        at
    };
    match count {
        2 => {
            at = skip(at);
            match bytes.get(at) {
                None => return Err(bytes.len()),
                Some(b'=') => at += 1,
                Some(_) => return Err(at - 1),
            }
            out.push((quantum >> 4) as u8);
        }
        3 => out.extend_from_slice(&((quantum >> 2) as u16).to_be_bytes()),
        _ => return Err(at - 1),
    }
    at = skip(at);
    if at < bytes.len() { Err(at) } else { Ok(out) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_go_reads_them() {
        for (text, micro, want) in [
            ("2024-02-03T04:05:06Z", false, Ok("2024-02-03T04:05:06Z")),
            ("2024-02-03T04:05:06.789Z", false, Ok("2024-02-03T04:05:06Z")),
            ("2024-02-03T04:05:06+02:00", false, Ok("2024-02-03T02:05:06Z")),
            ("2024-02-03T04:05:06.123456Z", true, Ok("2024-02-03T04:05:06.123456Z")),
            (
                "yesterday",
                false,
                Err(
                    "parsing time \"yesterday\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"yesterday\" as \"2006\"",
                ),
            ),
            (
                "2024-02-03",
                false,
                Err("parsing time \"2024-02-03\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"\" as \"T\""),
            ),
            ("2024-13-03T04:05:06Z", false, Err("parsing time \"2024-13-03T04:05:06Z\": month out of range")),
            ("2023-02-29T04:05:06Z", false, Err("parsing time \"2023-02-29T04:05:06Z\": day out of range")),
            (
                "2024-02-03T04:05:06.123456789Z",
                true,
                Err(
                    "parsing time \"2024-02-03T04:05:06.123456789Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"789Z\" as \"Z07:00\"",
                ),
            ),
            (
                "2024-02-03T04:05:06Z",
                true,
                Err(
                    "parsing time \"2024-02-03T04:05:06Z\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"Z\" as \".000000\"",
                ),
            ),
        ] {
            let got = parse_time(text, micro).map(|t| if micro { print_micro_time(t) } else { print_time(t) });
            assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned));
        }
    }

    #[test]
    fn base64_is_read_as_go_reads_it() {
        for (text, want) in [
            ("aGVsbG8=", Ok("hello")),
            ("aGVs\nbG8=", Ok("hello")),
            ("aA==", Ok("h")),
            ("", Ok("")),
            ("plain text", Err("illegal base64 data at input byte 5")),
            ("abc", Err("illegal base64 data at input byte 0")),
            ("aGVsbG8", Err("illegal base64 data at input byte 4")),
            ("aA=x", Err("illegal base64 data at input byte 2")),
        ] {
            let got = decode_base64(text).map(|b| String::from_utf8(b).unwrap());
            assert_eq!(got, want.map(str::to_owned).map_err(str::to_owned), "{text}");
        }
    }
}
