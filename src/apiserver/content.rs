//! Documents that change rarely, for clients that may have them already: Go's `http.ServeContent` without ranges of bytes.

use std::collections::HashMap;

use http::header::{
    CONTENT_TYPE, ETAG, HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE, LAST_MODIFIED,
};
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method};
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use parking_lot::Mutex;

use crate::respond::{self, Response};

/// `http.TimeFormat`.
const DATE: &str = "%a, %d %b %Y %H:%M:%S GMT";

/// Since when documents are as they are: each since it was first asked for with its present tag.
#[derive(Default)]
pub(crate) struct Ages(Mutex<HashMap<String, (String, Timestamp)>>);

impl Ages {
    /// Since when the document at `path` has `etag`, `now` if that is news.
    pub fn since(&self, path: &str, etag: &str, now: Timestamp) -> Timestamp {
        let mut all = self.0.lock();
        match all.get(path) {
            Some((known, since)) if known == etag => *since,
            _ => {
                all.insert(path.to_owned(), (etag.to_owned(), now));
                now
            }
        }
    }
}

/// A document's present state.
pub(crate) struct State {
    /// With its quotes.
    pub etag: String,
    pub modified: Timestamp,
}

impl State {
    /// The answer, if it needs no document: 304 to who has it, 412 to who wants another (`checkPreconditions`).
    pub fn answer(&self, request: &Parts, media_type: &'static str) -> Option<Response> {
        let header =
            |name: HeaderName| request.headers.get(name).and_then(|v| v.to_str().ok()).filter(|v| !v.is_empty());
        let since =
            |name: HeaderName| header(name).and_then(date).map(|date| self.modified.as_second() > date.as_second());
        let refused = match header(IF_MATCH) {
            Some(list) => !listed(list, &self.etag, strong),
            None => since(IF_UNMODIFIED_SINCE) == Some(true),
        };
        let reads = matches!(request.method, Method::GET | Method::HEAD);
        let same = match header(IF_NONE_MATCH) {
            Some(list) => listed(list, &self.etag, weak),
            None => reads && since(IF_MODIFIED_SINCE) == Some(false),
        };
        let code = match (refused, same) {
            (true, _) => 412,
            (false, true) => {
                if reads {
                    304
                } else {
                    412
                }
            }
            (false, false) => return None,
        };
        let mut response = respond::bytes(code, media_type, axum::body::Body::empty());
        self.put(response.headers_mut());
        if code == 304 {
            // `writeNotModified`: a tag says more than the date.
            response.headers_mut().remove(LAST_MODIFIED);
            response.headers_mut().remove(CONTENT_TYPE);
        }
        Some(response)
    }

    /// Tells the state.
    pub fn put(&self, headers: &mut HeaderMap) {
        for (name, value) in [(ETAG, self.etag.clone()), (LAST_MODIFIED, text(self.modified))] {
            if let Ok(value) = HeaderValue::from_str(&value) {
                headers.insert(name, value);
            }
        }
    }
}

/// A time as headers have it.
pub(crate) fn text(time: Timestamp) -> String {
    time.strftime(DATE).to_string()
}

fn date(text: &str) -> Option<Timestamp> {
    DateTime::strptime(DATE, text).ok()?.to_zoned(TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// Whether a list of tags has `etag`; `*` has all.
fn listed(list: &str, etag: &str, same: fn(&str, &str) -> bool) -> bool {
    list.split(',').map(str::trim).any(|one| one == "*" || same(one, etag))
}

/// `etagStrongMatch`.
fn strong(one: &str, other: &str) -> bool {
    one == other && one.starts_with('"')
}

/// `etagWeakMatch`.
fn weak(one: &str, other: &str) -> bool {
    one.trim_start_matches("W/") == other.trim_start_matches("W/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_answered_as_by_go() {
        let state = State { etag: "\"A\"".to_owned(), modified: "2026-11-20T10:00:00.5Z".parse().unwrap() };
        let check = |method: Method, name: HeaderName, value: &str, want: Option<u16>| {
            let request = http::Request::builder().method(method.clone()).header(name.clone(), value).body(()).unwrap();
            let got = state.answer(&request.into_parts().0, "text/plain").map(|r| r.status().as_u16());
            assert_eq!(got, want, "{method} {name}: {value}");
        };
        check(Method::GET, IF_NONE_MATCH, "\"A\"", Some(304));
        check(Method::GET, IF_NONE_MATCH, "\"B\", W/\"A\"", Some(304));
        check(Method::GET, IF_NONE_MATCH, "*", Some(304));
        check(Method::GET, IF_NONE_MATCH, "\"B\"", None);
        check(Method::POST, IF_NONE_MATCH, "\"A\"", Some(412));
        check(Method::GET, IF_MATCH, "\"B\"", Some(412));
        check(Method::GET, IF_MATCH, "W/\"A\"", Some(412));
        check(Method::GET, IF_MATCH, "\"A\"", None);
        check(Method::HEAD, IF_MODIFIED_SINCE, "Fri, 20 Nov 2026 10:00:00 GMT", Some(304));
        check(Method::GET, IF_MODIFIED_SINCE, "Fri, 20 Nov 2026 09:59:59 GMT", None);
        check(Method::GET, IF_MODIFIED_SINCE, "yesterday", None);
        check(Method::GET, IF_UNMODIFIED_SINCE, "Fri, 20 Nov 2026 09:59:59 GMT", Some(412));
        check(Method::GET, IF_UNMODIFIED_SINCE, "Fri, 20 Nov 2026 10:00:00 GMT", None);
    }

    #[test]
    fn a_document_is_as_old_as_its_tag() {
        let (ages, time) = (Ages::default(), |text: &str| text.parse::<Timestamp>().unwrap());
        let (first, later) = (time("2026-11-20T10:00:00Z"), time("2026-11-20T11:00:00Z"));
        assert_eq!(ages.since("/a", "1", first), first);
        assert_eq!(ages.since("/a", "1", later), first);
        assert_eq!(ages.since("/a", "2", later), later);
        assert_eq!(text(first), "Fri, 20 Nov 2026 10:00:00 GMT");
    }
}
