//! Times and durations.

use std::cmp::Ordering;

use jiff::civil::{DateTime, Weekday, date as civil_date};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use crate::cel::error::EvalError;
use crate::cel::eval::Result;
use crate::cel::value::Value;
use crate::codec::parse_civil;

/// A moment of the years 1 to 9999, with the offset from UTC that it was written with (Go's `time.Time`).
#[derive(Debug, Clone, Copy)]
pub struct Time {
    /// Since 1970 in UTC.
    seconds: i64,
    nanos: i32,
    /// Seconds ahead of UTC.
    offset: i32,
}

/// `0001-01-01T00:00:00Z` and `9999-12-31T23:59:59Z` (cel-go `minUnixTime`, `maxUnixTime`).
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

impl Time {
    /// `None` outside of the years that there are.
    pub(in crate::cel) fn new(seconds: i64, nanos: i32, offset: i32) -> Option<Self> {
        SECONDS.contains(&seconds).then_some(Self { seconds, nanos, offset })
    }

    fn from_civil(civil: DateTime, offset: i32) -> Option<Self> {
        let since = civil.duration_since(civil_date(1970, 1, 1).at(0, 0, 0, 0));
        // Before 1970 the rest of a second is negative.
        let (seconds, nanos) = match since.subsec_nanos() {
            rest if rest < 0 => (since.as_secs() - 1, rest + 1_000_000_000),
            rest => (since.as_secs(), rest),
        };
        Self::new(seconds - i64::from(offset), nanos, offset)
    }

    /// What a clock shows that is so many seconds ahead of UTC; `None` outside of the years -9999 to 9999.
    fn civil(self, offset: i64) -> Option<DateTime> {
        let since = SignedDuration::new(self.seconds.checked_add(offset)?, self.nanos);
        civil_date(1970, 1, 1).at(0, 0, 0, 0).checked_add(since).ok()
    }

    /// The same of a calendar that goes on after 9999, as Go's does: with the years to add.
    fn shown(self, offset: i64) -> Option<(DateTime, i64)> {
        /// Four centuries, after which the calendar repeats.
        const CYCLE: i64 = 146_097 * 86_400;
        match self.civil(offset) {
            Some(civil) => Some((civil, 0)),
            None => self.civil(offset.checked_sub(CYCLE)?).map(|civil| (civil, 400)),
        }
    }

    pub(super) fn add(self, by: SignedDuration) -> Result<Self> {
        let nanos = i64::from(self.nanos) + i64::from(by.subsec_nanos());
        let seconds = self.seconds.saturating_add(by.as_secs()).saturating_add(nanos.div_euclid(1_000_000_000));
        Self::new(seconds, nanos.rem_euclid(1_000_000_000) as i32, self.offset)
            .ok_or_else(|| EvalError::new("timestamp overflow"))
    }

    /// How much later this is; `None` if it is more than a duration can hold.
    pub(super) fn since(self, other: Self) -> Option<SignedDuration> {
        let seconds = self.seconds.checked_sub(other.seconds)?.checked_mul(1_000_000_000)?;
        Some(SignedDuration::from_nanos(seconds.checked_add(i64::from(self.nanos - other.nanos))?))
    }

    pub(super) fn unix(self) -> i64 {
        self.seconds
    }

    pub(in crate::cel) fn is_zero(self) -> bool {
        (self.seconds, self.nanos) == (*SECONDS.start(), 0)
    }
}

impl PartialEq for Time {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Time {}

impl PartialOrd for Time {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Time {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.seconds, self.nanos).cmp(&(other.seconds, other.nanos))
    }
}

/// An RFC 3339 time, as Go reads one.
///
/// # Errors
/// cel-go's: it is none, or of a year that there is not.
pub(in crate::cel) fn timestamp(text: &str) -> Result<Time> {
    let Ok((civil, offset)) = parse_civil(text, false) else {
        return Err(EvalError::new("type conversion error from 'string' to 'google.protobuf.Timestamp'"));
    };
    Time::from_civil(civil, offset).ok_or_else(|| EvalError::new("timestamp overflow"))
}

/// A date, as the midnight (UTC) that it begins with.
pub(in crate::cel) fn date(text: &str) -> Option<Time> {
    let date: jiff::civil::Date = (text.len() == 10).then(|| text.parse().ok()).flatten()?;
    Time::from_civil(date.at(0, 0, 0, 0), 0)
}

/// As cel-go prints times: RFC 3339, with as much of a second as there is.
pub(in crate::cel) fn print(time: Time) -> String {
    let offset = match time.offset {
        0 => "Z".to_owned(),
        offset => {
            let sign = if offset < 0 { '-' } else { '+' };
            format!("{sign}{:02}:{:02}", offset.abs() / 3600, offset.abs() / 60 % 60)
        }
    };
    // Every offset leaves such a moment within the years that a date may have, but for an hour at either end.
    let civil = time.civil(time.offset.into()).map(|civil| civil.to_string()).unwrap_or_default();
    format!("{civil}{offset}")
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

/// As cel-go prints durations: seconds, as many digits as a double has.
pub(in crate::cel) fn print_duration(duration: SignedDuration) -> String {
    // `time.Duration.Seconds`: whole seconds and the rest are added as doubles.
    let seconds = duration.as_secs() as f64 + f64::from(duration.subsec_nanos()) / 1e9;
    format!("{seconds}s")
}

pub(super) fn call(name: &str, args: &[Value]) -> Option<Result> {
    let failed = |to: &str| EvalError::new(format!("type conversion error from 'string' to 'google.protobuf.{to}'"));
    Some(match (name, args) {
        ("timestamp", [Value::Timestamp(_)]) | ("duration", [Value::Duration(_)]) => Ok(args[0].clone()),
        ("timestamp", [Value::Int(seconds)]) => {
            Time::new(*seconds, 0, 0).map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
        }
        ("timestamp", [Value::String(text)]) => timestamp(text).map(Value::Timestamp),
        ("duration", [Value::Int(nanos)]) => Ok(Value::Duration(SignedDuration::from_nanos(*nanos))),
        ("duration", [Value::String(text)]) => duration(text).map(Value::Duration).ok_or_else(|| failed("Duration")),
        (_, [Value::Duration(duration)]) => of_duration(name, *duration)?,
        (_, [Value::Timestamp(time)]) => of_time(name, time.shown(0)?)?,
        (_, [Value::Timestamp(time), Value::String(zone)]) if name.starts_with("get") => match offset(zone, *time) {
            Ok(offset) => of_time(name, time.shown(offset)?)?,
            Err(why) => Err(EvalError::new(why)),
        },
        _ => return None,
    })
}

/// How many seconds a zone is ahead of UTC at a time: a name of the time zone database, or an offset such as `-08:00`
/// (cel-go `timeZone`).
fn offset(text: &str, time: Time) -> std::result::Result<i64, String> {
    if let Some((hours, minutes)) = text.split_once(':') {
        let (hours, minutes) = (super::standard::atoi(hours)?, super::standard::atoi(minutes)?);
        if !(0..=59).contains(&minutes) {
            return Err(format!("timezone offset minutes out of range [0, 59]: {text}"));
        }
        let hours = hours.checked_mul(60).ok_or_else(|| format!("unknown time zone {text}"))?;
        let all = if text.starts_with('-') { hours - minutes } else { hours.saturating_add(minutes) };
        return all.checked_mul(60).ok_or_else(|| format!("unknown time zone {text}"));
    }
    if matches!(text, "" | "UTC" | "Local") {
        return Ok(0);
    }
    if text.contains("..") || text.starts_with(['/', '\\']) {
        return Err("time: invalid location name".to_owned());
    }
    // Names are those of files, which differ by case.
    let zone = TimeZone::get(text).ok().filter(|zone| zone.iana_name() == Some(text));
    let zone = zone.ok_or_else(|| format!("unknown time zone {text}"))?;
    // The last hours of the last year have the rules of those before them.
    let at =
        Timestamp::from_second(time.seconds).unwrap_or(if time.seconds > 0 { Timestamp::MAX } else { Timestamp::MIN });
    Ok(zone.to_offset(at).seconds().into())
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

fn of_time(name: &str, (time, years): (DateTime, i64)) -> Option<Result> {
    Some(Ok(Value::Int(match name {
        "getFullYear" => i64::from(time.year()) + years,
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
        check("2562047h47m16.854775807s", Some("9223372036.854776s"));
    }

    #[test]
    fn times_keep_their_offset_and_reach_to_the_last_year() {
        let check = |text: &str, want: &str| assert_eq!(timestamp(text).map(print).as_deref(), Ok(want), "{text}");
        check("2024-02-29T23:59:59.5+02:00", "2024-02-29T23:59:59.5+02:00");
        check("9999-12-31T23:59:59.999999999Z", "9999-12-31T23:59:59.999999999Z");
        check("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z");
        check("1969-12-31T23:59:59.25Z", "1969-12-31T23:59:59.25Z");
        let last = timestamp("9999-12-31T23:59:59Z").unwrap().shown(3600).unwrap();
        assert_eq!((last.0.to_string().as_str(), last.1), ("9600-01-01T00:59:59", 400));
        assert!(timestamp("0000-01-01T00:00:00Z").is_err());
        assert!(timestamp("9999-12-31T23:59:59-01:00").is_err());
        assert_eq!(timestamp("2024-01-01T02:00:00+02:00"), timestamp("2024-01-01T00:00:00Z"));
    }
}
