//! Durations as `kubectl get` shows them.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

/// apimachinery `util/duration.HumanDuration`.
pub fn human(d: SignedDuration) -> String {
    let seconds = d.as_secs();
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    if seconds < 0 {
        return "0s".to_owned();
    }
    if seconds < 120 {
        return format!("{seconds}s");
    }
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if minutes < 10 => pair(minutes, "m", seconds % 60, "s"),
        () if minutes < 180 => format!("{minutes}m"),
        () if hours < 8 => pair(hours, "h", minutes % 60, "m"),
        () if hours < 48 => format!("{hours}h"),
        () if hours < 24 * 8 => pair(days, "d", hours % 24, "h"),
        () if hours < 24 * 365 * 2 => format!("{days}d"),
        () if hours < 24 * 365 * 8 => pair(days / 365, "y", days % 365, "d"),
        () => format!("{}y", days / 365),
    }
}

fn pair(big: i64, big_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
}

/// Reads an RFC 3339 member.
pub(crate) fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// `translateTimestampSince`: time since a timestamp, `<unknown>` if there is none.
pub(crate) fn since(value: &Value, now: Timestamp) -> String {
    time(value).map_or_else(|| "<unknown>".to_owned(), |t| human(now.duration_since(t)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_as_upstream() {
        let check = |seconds: i64, want: &str| assert_eq!(human(SignedDuration::from_secs(seconds)), want);
        check(-5, "<invalid>");
        check(-1, "0s");
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(125, "2m5s");
        check(3599, "59m");
        check(3 * 3600, "3h");
        check(3 * 3600 + 300, "3h5m");
        check(47 * 3600, "47h");
        check(50 * 3600, "2d2h");
        check(9 * 86_400, "9d");
        check(3 * 365 * 86_400, "3y");
        check(3 * 365 * 86_400 + 86_400, "3y1d");
        check(9 * 365 * 86_400 + 86_400, "9y");
    }
}
