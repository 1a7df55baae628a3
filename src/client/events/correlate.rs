//! Which events are written, and which are merged into earlier ones (client-go `record/events_cache.go`).
//!
//! Three steps: a token bucket per source and object drops spam; more than ten events in ten minutes that differ only in
//! their message become one; an event equal to an earlier one counts that one up.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Event;

const ENTRIES_MAX: usize = 4096;
const SIMILAR_MAX: usize = 10;
const SIMILAR_WITHIN: SignedDuration = SignedDuration::from_secs(600);
const SPAM_BURST: f64 = 25.0;
/// One event in five minutes.
const SPAM_PER_SECOND: f64 = 1.0 / 300.0;

pub(super) enum Verdict {
    Drop,
    /// Write the event; over the one of that name if there is one.
    Write {
        event: Box<Event>,
        known: Option<String>,
    },
}

#[derive(Default)]
pub(super) struct Correlator {
    spam: Recent<String, Bucket>,
    similar: Recent<String, Similar>,
    seen: Recent<String, Seen>,
}

struct Bucket {
    tokens: f64,
    at: Timestamp,
}

struct Similar {
    messages: HashSet<String>,
    last: Timestamp,
}

struct Seen {
    count: i32,
    first: Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time>,
    name: String,
}

impl Correlator {
    pub(super) fn correlate(&mut self, mut event: Event) -> Verdict {
        let now = event.last_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0);
        let key = self.aggregate(&mut event, now);
        let mut known = None;
        if let Some(seen) = self.seen.get(&key) {
            event.count = Some(seen.count.saturating_add(1));
            event.first_timestamp.clone_from(&seen.first);
            if !seen.name.is_empty() {
                known = Some(seen.name.clone());
                event.metadata.name = Some(seen.name.clone());
            }
        }
        let entry = Seen {
            count: event.count.unwrap_or(1),
            first: event.first_timestamp.clone(),
            name: known.clone().unwrap_or_default(),
        };
        self.seen.put(key, entry);
        if self.is_spam(&event, now) {
            return Verdict::Drop;
        }
        Verdict::Write { event: Box::new(event), known }
    }

    /// The event is in the API under this name.
    pub(super) fn written(&mut self, event: &Event, name: &str) {
        let key = full_key(event);
        let group = aggregate_key(event);
        for key in [key, group] {
            if let Some(seen) = self.seen.get_mut(&key) {
                name.clone_into(&mut seen.name);
                seen.count = event.count.unwrap_or(1);
                return;
            }
        }
    }

    /// Turns one similar event too many into the aggregate; returns the key under which it counts.
    fn aggregate(&mut self, event: &mut Event, now: Timestamp) -> String {
        let group = aggregate_key(event);
        let message = event.message.clone().unwrap_or_default();
        let mut similar = match self.similar.take(&group) {
            Some(similar) if now.duration_since(similar.last) <= SIMILAR_WITHIN => similar,
            _ => Similar { messages: HashSet::new(), last: now },
        };
        similar.last = now;
        similar.messages.insert(message.clone());
        if similar.messages.len() < SIMILAR_MAX {
            self.similar.put(group, similar);
            return full_key(event);
        }
        // Any will do: it keeps the number of messages from growing.
        if let Some(any) = similar.messages.iter().next().cloned() {
            similar.messages.remove(&any);
        }
        self.similar.put(group.clone(), similar);
        event.message = Some(format!("(combined from similar events): {message}"));
        group
    }

    fn is_spam(&mut self, event: &Event, now: Timestamp) -> bool {
        let key = spam_key(event);
        let mut bucket = self.spam.take(&key).unwrap_or(Bucket { tokens: SPAM_BURST, at: now });
        let elapsed = now.duration_since(bucket.at).as_secs_f64().max(0.0);
        bucket.tokens = (bucket.tokens + elapsed * SPAM_PER_SECOND).min(SPAM_BURST);
        bucket.at = now;
        let spam = bucket.tokens < 1.0;
        if !spam {
            bucket.tokens -= 1.0;
        }
        self.spam.put(key, bucket);
        spam
    }
}

fn parts(event: &Event) -> [&str; 10] {
    let source = event.source.as_ref();
    let object = &event.involved_object;
    fn text(field: Option<&String>) -> &str {
        field.map_or("", String::as_str)
    }
    [
        text(source.and_then(|s| s.component.as_ref())),
        text(source.and_then(|s| s.host.as_ref())),
        text(object.kind.as_ref()),
        text(object.namespace.as_ref()),
        text(object.name.as_ref()),
        text(object.uid.as_ref()),
        text(object.api_version.as_ref()),
        text(event.type_.as_ref()),
        text(event.reason.as_ref()),
        text(object.field_path.as_ref()),
    ]
}

fn spam_key(event: &Event) -> String {
    parts(event)[..8].join("\0")
}

fn aggregate_key(event: &Event) -> String {
    parts(event)[..9].join("\0")
}

fn full_key(event: &Event) -> String {
    let mut key = parts(event).join("\0");
    key.push('\0');
    key.push_str(event.message.as_deref().unwrap_or_default());
    key
}

/// A map that forgets the oldest entries.
struct Recent<K, V> {
    entries: HashMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Recent<K, V> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<K: Clone + Eq + Hash, V> Recent<K, V> {
    fn get(&self, key: &K) -> Option<&V> {
        self.entries.get(key)
    }

    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.entries.get_mut(key)
    }

    /// Takes an entry out to be changed; it keeps its age when put back.
    fn take(&mut self, key: &K) -> Option<V> {
        self.entries.remove(key)
    }

    fn put(&mut self, key: K, value: V) {
        if self.entries.insert(key.clone(), value).is_none() && !self.order.contains(&key) {
            self.order.push_back(key);
        }
        while self.order.len() > ENTRIES_MAX {
            if let Some(oldest) = self.order.pop_front() {
                self.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn event(message: &str, second: i64) -> Event {
        let now = Some(Time(Timestamp::from_second(second).unwrap()));
        Event {
            message: Some(message.to_owned()),
            first_timestamp: now.clone(),
            last_timestamp: now,
            count: Some(1),
            ..Default::default()
        }
    }

    fn written(correlator: &mut Correlator, message: &str, second: i64) -> Option<(String, i32, Option<String>)> {
        match correlator.correlate(event(message, second)) {
            Verdict::Drop => None,
            Verdict::Write { event, known } => {
                let name = known.clone().unwrap_or_else(|| format!("e{second}"));
                correlator.written(&event, &name);
                Some((event.message.unwrap_or_default(), event.count.unwrap_or(0), known))
            }
        }
    }

    #[test]
    fn equal_events_count_up_under_the_first_name() {
        let mut correlator = Correlator::default();
        assert_eq!(written(&mut correlator, "m", 1), Some(("m".into(), 1, None)));
        assert_eq!(written(&mut correlator, "m", 2), Some(("m".into(), 2, Some("e1".into()))));
        assert_eq!(written(&mut correlator, "other", 3), Some(("other".into(), 1, None)));
    }

    #[test]
    fn the_tenth_similar_event_becomes_the_aggregate() {
        let mut correlator = Correlator::default();
        for n in 0..9 {
            assert_eq!(written(&mut correlator, &format!("m{n}"), n).unwrap().1, 1);
        }
        let combined = |n: i64| format!("(combined from similar events): m{n}");
        assert_eq!(written(&mut correlator, "m9", 9), Some((combined(9), 1, None)));
        assert_eq!(written(&mut correlator, "m10", 10), Some((combined(10), 2, Some("e9".into()))));
    }

    #[test]
    fn spam_is_dropped_and_the_bucket_refills() {
        let mut correlator = Correlator::default();
        let passed = (0..100).filter(|_| written(&mut correlator, "m", 0).is_some()).count();
        assert_eq!(passed, 25);
        assert!(written(&mut correlator, "m", 299).is_none());
        assert!(written(&mut correlator, "m", 301).is_some());
    }
}
