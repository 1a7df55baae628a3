//! Times and durations.

use jiff::civil::Weekday;
use jiff::tz::{Offset, TimeZone};
use jiff::{SignedDuration, Timestamp, Zoned};

use crate::cel::error::EvalError;
use crate::cel::eval::Result;
use crate::cel::value::Value;

/// An RFC 3339 time.
pub(in crate::cel) fn timestamp(text: &str) -> Option<Timestamp> {
    // `jiff` reads more than RFC 3339 has.
    let looks = text.len() >= 20 && text.as_bytes().get(10).is_some_and(|b| matches!(b, b'T' | b't'));
    let zoned = text.ends_with(['Z', 'z']) || text.get(19..).is_some_and(|rest| rest.contains(['+', '-']));
    (looks && zoned).then(|| text.parse().ok()).flatten()
}

/// A date, as the midnight (UTC) that it begins with.
pub(in crate::cel) fn date(text: &str) -> Option<Timestamp> {
    let date: jiff::civil::Date = (text.len() == 10).then(|| text.parse().ok()).flatten()?;
    date.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// As cel-go prints times: RFC 3339, with as much of a second as there is.
pub(in crate::cel) fn print(time: Timestamp) -> String {
    time.to_string()
}

/// Go's `time.ParseDuration`.
pub(in crate::cel) fn duration(text: &str) -> Option<SignedDuration> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(SignedDuration::ZERO);
    }
    if rest.is_empty() {
        return None;
    }
    let mut nanos: i128 = 0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let unit_end = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let scale: i128 = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || whole.len() > 19 || fraction.contains('.') {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        nanos += whole * scale;
        let mut part = scale;
        for digit in fraction.bytes() {
            part /= 10;
            nanos += i128::from(digit - b'0') * part;
        }
        if nanos > i128::from(i64::MAX) {
            return None;
        }
        rest = after;
    }
    let nanos = i64::try_from(if negative { -nanos } else { nanos }).ok()?;
    Some(SignedDuration::from_nanos(nanos))
}

/// As cel-go prints durations: seconds.
pub(in crate::cel) fn print_duration(duration: SignedDuration) -> String {
    let nanos = duration.as_nanos();
    let sign = if nanos < 0 { "-" } else { "" };
    let (whole, rest) = (nanos.unsigned_abs() / 1_000_000_000, nanos.unsigned_abs() % 1_000_000_000);
    if rest == 0 {
        return format!("{sign}{whole}s");
    }
    let fraction = format!("{rest:09}");
    format!("{sign}{whole}.{}s", fraction.trim_end_matches('0'))
}

pub(super) fn call(name: &str, args: &[Value]) -> Option<Result> {
    Some(match (name, args) {
        ("timestamp", [Value::Timestamp(_)]) | ("duration", [Value::Duration(_)]) => Ok(args[0].clone()),
        ("timestamp", [Value::Int(seconds)]) => {
            Timestamp::from_second(*seconds).map(Value::Timestamp).map_err(|_| EvalError::new("timestamp overflow"))
        }
        ("timestamp", [Value::String(text)]) => timestamp(text).map(Value::Timestamp).ok_or_else(|| {
            EvalError::new(format!("type conversion error from '{text}' to 'google.protobuf.Timestamp'"))
        }),
        ("duration", [Value::Int(nanos)]) => Ok(Value::Duration(SignedDuration::from_nanos(*nanos))),
        ("duration", [Value::String(text)]) => duration(text).map(Value::Duration).ok_or_else(|| {
            EvalError::new(format!("type conversion error from '{text}' to 'google.protobuf.Duration'"))
        }),
        (_, [Value::Duration(duration)]) => of_duration(name, *duration)?,
        (_, [Value::Timestamp(time)]) => of_time(name, time.to_zoned(TimeZone::UTC))?,
        (_, [Value::Timestamp(time), Value::String(zone)]) if name.starts_with("get") => match time_zone(zone) {
            Some(zone) => of_time(name, time.to_zoned(zone))?,
            None => Err(EvalError::new(format!("unknown time zone {zone}"))),
        },
        _ => return None,
    })
}

/// A name of the time zone database, or an offset such as `-08:00`.
fn time_zone(text: &str) -> Option<TimeZone> {
    let (sign, digits) = match text.as_bytes().first() {
        Some(b'-') => (-1, &text[1..]),
        Some(b'+') => (1, &text[1..]),
        _ => (1, text),
    };
    if let Some((hours, minutes)) = digits.split_once(':') {
        let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
        return Offset::from_seconds(sign * (hours * 3600 + minutes * 60)).ok().map(TimeZone::fixed);
    }
    match text {
        "UTC" | "" => Some(TimeZone::UTC),
        name => TimeZone::get(name).ok(),
    }
}

fn of_duration(name: &str, duration: SignedDuration) -> Option<Result> {
    let seconds = duration.as_secs();
    Some(Ok(Value::Int(match name {
        "getHours" => seconds / 3600,
        "getMinutes" => seconds / 60,
        "getSeconds" => seconds,
        "getMilliseconds" => i64::try_from(duration.as_millis()).ok()?,
        _ => return None,
    })))
}

fn of_time(name: &str, time: Zoned) -> Option<Result> {
    Some(Ok(Value::Int(match name {
        "getFullYear" => time.year().into(),
        "getMonth" => i64::from(time.month()) - 1,
        "getDayOfYear" => i64::from(time.day_of_year()) - 1,
        "getDayOfMonth" => i64::from(time.day()) - 1,
        "getDate" => time.day().into(),
        "getDayOfWeek" => match time.weekday() {
            Weekday::Sunday => 0,
            other => other.to_monday_one_offset().into(),
        },
        "getHours" => time.hour().into(),
        "getMinutes" => time.minute().into(),
        "getSeconds" => time.second().into(),
        "getMilliseconds" => time.millisecond().into(),
        _ => return None,
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_in_go() {
        let check = |text: &str, want: Option<&str>| {
            assert_eq!(duration(text).map(print_duration).as_deref(), want, "{text}");
        };
        check("1h30m", Some("5400s"));
        check("-1.5s", Some("-1.5s"));
        check("100ms", Some("0.1s"));
        check("0", Some("0s"));
        check("1", None);
        check("1d", None);
        check("", None);
        check(".s", None);
    }
}
