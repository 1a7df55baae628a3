//! Cron schedules (`robfig/cron` `ParseStandard`): five fields, `@` names, `@every`. Pure.

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp, ToSpan};

/// A time after which no match is sought.
const YEARS_MAX: i16 = 5;

/// When something is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Schedule {
    Every(SignedDuration),
    Fields(Fields, TimeZone),
}

/// Bits of allowed values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fields {
    minute: u64,
    hour: u64,
    day: u64,
    month: u64,
    weekday: u64,
    /// A day field that is `*` does not widen the other.
    day_any: bool,
    weekday_any: bool,
}

/// Why a schedule cannot be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct BadSchedule(String);

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    /// Reads a schedule; `zone` is a time zone's name, UTC if there is none.
    pub fn parse(text: &str, zone: Option<&str>) -> Result<Self, BadSchedule> {
        let mut text = text.trim();
        let mut zone = zone.map(str::to_owned);
        for prefix in ["TZ=", "CRON_TZ="] {
            if let Some(rest) = text.strip_prefix(prefix) {
                let (name, rest) = rest.split_once(' ').ok_or_else(|| bad("missing schedule"))?;
                zone = Some(name.to_owned());
                text = rest.trim();
            }
        }
        let zone = match zone {
            None => TimeZone::UTC,
            Some(name) => time_zone(&name).ok_or_else(|| bad(&format!("unknown time zone {name}")))?,
        };
        if let Some(every) = text.strip_prefix("@every ") {
            return every_of(every.trim()).map(Schedule::Every);
        }
        let fields = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let parts: Vec<&str> = fields.split_whitespace().collect();
        let [minute, hour, day, month, weekday] = parts[..] else {
            return Err(bad(&format!("expected exactly 5 fields, found {}: [{text}]", parts.len())));
        };
        let is_any = |field: &str| field.split(',').any(|part| part.starts_with('*') || part.starts_with('?'));
        let fields = Fields {
            minute: bits(minute, 0, 59, &[], 0)?,
            hour: bits(hour, 0, 23, &[], 0)?,
            day: bits(day, 1, 31, &[], 0)?,
            month: bits(month, 1, 12, &MONTHS, 1)?,
            weekday: bits(weekday, 0, 6, &DAYS, 0)?,
            day_any: is_any(day),
            weekday_any: is_any(weekday),
        };
        Ok(Self::Fields(fields, zone))
    }

    /// The first time after `after`; `None` if there is none in the next years.
    pub fn next(&self, after: Timestamp) -> Option<Timestamp> {
        match self {
            Self::Every(period) => {
                let whole = Timestamp::from_second(after.as_second()).ok()?;
                whole.checked_add(*period).ok()
            }
            Self::Fields(fields, zone) => fields.next(after, zone),
        }
    }
}

/// A time zone by name.
pub(crate) fn time_zone(name: &str) -> Option<TimeZone> {
    if matches!(name, "" | "UTC") { Some(TimeZone::UTC) } else { TimeZone::get(name).ok() }
}

impl Fields {
    fn day_fits(&self, at: DateTime) -> bool {
        let day = self.day >> at.day() & 1 == 1;
        let weekday = self.weekday >> at.weekday().to_sunday_zero_offset() & 1 == 1;
        if self.day_any || self.weekday_any { day && weekday } else { day || weekday }
    }

    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(after);
        let mut at = start.with().second(0).subsec_nanosecond(0).build().ok()?.checked_add(1.minute()).ok()?;
        let last = start.year().checked_add(YEARS_MAX)?;
        while at.year() <= last {
            if self.month >> at.month() & 1 == 0 {
                at = at.with().day(1).hour(0).minute(0).build().ok()?.checked_add(1.month()).ok()?;
            } else if !self.day_fits(at) {
                at = at.with().hour(0).minute(0).build().ok()?.checked_add(1.day()).ok()?;
            } else if self.hour >> at.hour() & 1 == 0 {
                at = at.with().minute(0).build().ok()?.checked_add(1.hour()).ok()?;
            } else if self.minute >> at.minute() & 1 == 0 {
                at = at.checked_add(1.minute()).ok()?;
            } else {
                let found = zone.to_timestamp(at).ok()?;
                if found > after {
                    return Some(found);
                }
                // The clock was set back: this hour was there before.
                at = at.checked_add(1.minute()).ok()?;
            }
        }
        None
    }
}

fn bad(text: &str) -> BadSchedule {
    BadSchedule(text.to_owned())
}

/// `a`, `a-b`, `*`, each with `/step`, joined by commas.
fn bits(field: &str, min: u32, max: u32, names: &[&str], first: u32) -> Result<u64, BadSchedule> {
    let value = |text: &str| -> Result<u32, BadSchedule> {
        let lower = text.to_lowercase();
        if let Some(at) = names.iter().position(|n| *n == lower) {
            return Ok(first + u32::try_from(at).unwrap_or(0));
        }
        text.parse().map_err(|_| bad(&format!("failed to parse int from {text}")))
    };
    let mut all = 0;
    for part in field.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                (range, Some(step.parse::<u32>().map_err(|_| bad(&format!("failed to parse int from {step}")))?))
            }
            None => (part, None),
        };
        let (from, to) = if matches!(range, "*" | "?") {
            (min, max)
        } else if let Some((from, to)) = range.split_once('-') {
            (value(from)?, value(to)?)
        } else {
            let from = value(range)?;
            (from, if step.is_some() { max } else { from })
        };
        let step = step.unwrap_or(1);
        if from < min || to > max || from > to || step == 0 {
            return Err(bad(&format!("value out of range ({min} - {max}): {part}")));
        }
        for at in (from..=to).step_by(usize::try_from(step).unwrap_or(1)) {
            all |= 1_u64 << at;
        }
    }
    Ok(all)
}

/// A Go duration of whole seconds or more: `1h30m`.
fn every_of(text: &str) -> Result<SignedDuration, BadSchedule> {
    let mut total = 0_i64;
    let mut digits = String::new();
    let wrong = || bad(&format!("failed to parse duration @every {text}"));
    for character in text.chars() {
        if character.is_ascii_digit() {
            digits.push(character);
            continue;
        }
        let number: i64 = digits.parse().map_err(|_| wrong())?;
        digits.clear();
        let unit = match character {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(wrong()),
        };
        total = number.checked_mul(unit).and_then(|n| total.checked_add(n)).ok_or_else(wrong)?;
    }
    if !digits.is_empty() || text.is_empty() {
        return Err(wrong());
    }
    Ok(SignedDuration::from_secs(total.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(schedule: &str, zone: Option<&str>, after: &str, expected: &str) {
        let schedule = Schedule::parse(schedule, zone).unwrap();
        let next = schedule.next(after.parse().unwrap()).unwrap();
        assert_eq!(next, expected.parse::<Timestamp>().unwrap(), "{schedule:?}");
    }

    #[test]
    fn schedules_find_their_next_time() {
        check("*/1 * * * *", None, "2026-01-01T00:00:30Z", "2026-01-01T00:01:00Z");
        check("*/15 3-5 * * *", None, "2026-01-01T05:46:00Z", "2026-01-02T03:00:00Z");
        check("0 0 31 * *", None, "2026-02-01T00:00:00Z", "2026-03-31T00:00:00Z");
        check("0 0 29 feb ?", None, "2026-03-01T00:00:00Z", "2028-02-29T00:00:00Z");
        check("0 12 * * MON-FRI", None, "2026-01-02T13:00:00Z", "2026-01-05T12:00:00Z");
        check("0 0 13 * 5", None, "2026-01-02T00:00:00Z", "2026-01-09T00:00:00Z");
        check("@hourly", None, "2026-01-01T00:00:00Z", "2026-01-01T01:00:00Z");
        check("@every 1h30m", None, "2026-01-01T00:00:00Z", "2026-01-01T01:30:00Z");
        check("30 5/6 * * *", None, "2026-01-01T06:00:00Z", "2026-01-01T11:30:00Z");
    }

    #[test]
    fn bad_schedules_are_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * 0 * *", "a * * * *", "*/0 * * * *", "5-2 * * * *", "@every x"] {
            assert!(Schedule::parse(text, None).is_err(), "{text}");
        }
        assert!(Schedule::parse("* * * * *", Some("No/Where")).is_err());
        assert_eq!(Schedule::parse("0 0 31 2 *", None).unwrap().next(Timestamp::UNIX_EPOCH), None);
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_schedule_panics(
            fields in proptest::collection::vec("[0-9*,/?a-zA-Z-]{1,8}", 0..7), zone in "[A-Za-z/_+0-9]{0,20}", any in "\\PC{0,40}",
        ) {
            for text in [fields.join(" "), format!("@every {}", fields.join("")), format!("TZ={zone} {}", fields.join(" ")), any] {
                let _plain = Schedule::parse(&text, None);
                let _zoned = Schedule::parse(&text, Some(&zone));
            }
        }
    }
}
