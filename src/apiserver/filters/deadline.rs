//! The `timeout` parameter of requests (apiserver `endpoints/filters/request_deadline.go`).

use std::time::Duration;

use api::Status;

use crate::query::Query;

/// How long a request may take: what the client asks, at most `max`.
pub fn of(query: &Query, max: Duration) -> Result<Duration, Status> {
    let text = query.text("timeout");
    if text.is_empty() {
        return Ok(max);
    }
    match parse(text) {
        None => {
            let why = format!("invalid timeout specified in the request URL - time: invalid duration {text:?}");
            Err(Status::bad_request(why))
        }
        Some(timeout) if timeout.is_zero() => Ok(max),
        Some(timeout) => Ok(timeout.min(max)),
    }
}

/// Go's `time.ParseDuration`; a negative duration is no time at all.
pub fn parse(text: &str) -> Option<Duration> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() || seconds == 0.0 {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').filter(|at| *at > 0)?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        seconds += number
            * match &rest[..unit] {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[unit..];
        if rest.is_empty() {
            break;
        }
    }
    Duration::try_from_secs_f64(if negative { 0.0 } else { seconds }).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_go_does() {
        let check =
            |text: &str, want: Option<u64>| assert_eq!(parse(text).map(|d| d.as_millis() as u64), want, "{text}");
        check("3m", Some(180_000));
        check("1h1m1.5s", Some(3_661_500));
        check("0s", Some(0));
        check("0", Some(0));
        check("-5s", Some(0));
        check("", None);
        check("invalid", None);
        check("5", None);
        check("s", None);
    }
}
