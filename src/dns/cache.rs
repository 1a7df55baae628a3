//! Answers of other servers, kept for a short while (what CoreDNS' `cache 30` does).
//!
//! A response is kept as it came. When it is given out again, the id and the question become those of whoever asks, and
//! every record lives as long as the whole still does.

use std::collections::HashMap;
use std::ops::Range;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

/// Responses kept; a full cache loses the one that would end first.
const ENTRIES_MAX: usize = 1024;
/// Larger responses are rare and are asked for anew.
const RESPONSE_MAX: usize = 4096;
/// No record lives longer here, nor shorter; CoreDNS' numbers.
const LIFETIME_MAX: Duration = Duration::from_secs(30);
const LIFETIME_MIN: Duration = Duration::from_secs(5);

const HEADER: usize = 12;
const SOA: u16 = 6;
const OPT: u16 = 41;

/// What makes two queries ask for the same: the question in lower case, and the flags that change the answer.
type Key = (Vec<u8>, u8);

struct Entry {
    response: Vec<u8>,
    /// Where the lifetimes of the records are.
    lifetimes: Vec<usize>,
    ends: Instant,
}

/// The responses by what was asked.
#[derive(Default)]
pub struct Cache(Mutex<HashMap<Key, Entry>>);

impl Cache {
    /// The response to a query, if it is known and has at most `limit` bytes.
    pub fn get(&self, query: &[u8], limit: usize) -> Option<Vec<u8>> {
        let asked = Asked::read(query)?;
        let now = Instant::now();
        let mut entries = self.0.lock();
        let entry = entries.get(&asked.key)?;
        if entry.ends <= now {
            entries.remove(&asked.key);
            return None;
        }
        if entry.response.len() > limit {
            return None;
        }
        let mut response = entry.response.clone();
        response[..2].copy_from_slice(&query[..2]);
        // As it was asked: clients compare the letters' case.
        response[asked.question.clone()].copy_from_slice(&query[asked.question]);
        let left = u32::try_from((entry.ends - now).as_secs()).unwrap_or(0).to_be_bytes();
        for at in &entry.lifetimes {
            response[*at..*at + 4].copy_from_slice(&left);
        }
        Some(response)
    }

    /// Keeps a response for as long as it may be kept, if it may be.
    pub fn put(&self, query: &[u8], response: &[u8]) {
        let Some(asked) = Asked::read(query) else { return };
        let Some((lifetimes, lifetime)) = keepable(response, &asked.question) else { return };
        let ends = Instant::now() + lifetime.clamp(LIFETIME_MIN, LIFETIME_MAX);
        let mut entries = self.0.lock();
        if entries.len() >= ENTRIES_MAX && !entries.contains_key(&asked.key) {
            let first = entries.iter().min_by_key(|(_, entry)| entry.ends).map(|(key, _)| key.clone());
            if let Some(first) = first {
                entries.remove(&first);
            }
        }
        entries.insert(asked.key, Entry { response: response.to_vec(), lifetimes, ends });
    }
}

/// A query that may be answered from here.
struct Asked {
    key: Key,
    question: Range<usize>,
}

impl Asked {
    /// `None` for what is no plain question: with options, an answer may be for one client only.
    fn read(query: &[u8]) -> Option<Self> {
        if number(query, 4)? != 1 || number(query, 6)? != 0 || number(query, 8)? != 0 {
            return None;
        }
        let end = after_name(query, HEADER)? + 4;
        let question = HEADER..end;
        // Recursion desired, checking disabled; then EDNS and its "DNSSEC OK".
        let mut flags = (query[2] & 1) | (query[3] & 0x10);
        if number(query, 10)? > 0 {
            let at = after_name(query, end)?;
            if number(query, at)? != OPT || number(query, at + 8)? != 0 || number(query, 10)? > 1 {
                return None;
            }
            flags |= 2 | (query[at + 6] & 0x80) >> 5;
        }
        Some(Self { key: (query.get(question.clone())?.to_ascii_lowercase(), flags), question })
    }
}

/// Where the records' lifetimes are, and how long the response may be kept: an answer as long as its shortest record,
/// a denial as its zone says (RFC 2308). `None` for failures, for what is cut off, and for what has lifetime 0.
fn keepable(response: &[u8], question: &Range<usize>) -> Option<(Vec<usize>, Duration)> {
    let (flags, code) = (*response.get(2)?, *response.get(3)? & 0xf);
    let truncated = flags & 2 != 0;
    if truncated || !matches!(code, 0 | 3) || response.len() > RESPONSE_MAX || number(response, 4)? != 1 {
        return None;
    }
    let (answers, authorities, additionals) = (number(response, 6)?, number(response, 8)?, number(response, 10)?);
    let mut at = after_name(response, HEADER)? + 4;
    if at != question.end {
        return None;
    }
    let (mut lifetimes, mut shortest, mut denial) = (Vec::new(), u32::MAX, None);
    let (answers, authorities) = (usize::from(answers), usize::from(authorities));
    for record in 0..answers + authorities + usize::from(additionals) {
        at = after_name(response, at)?;
        let kind = number(response, at)?;
        let length = usize::from(number(response, at + 8)?);
        let data = response.get(at + 10..at + 10 + length)?;
        if kind != OPT {
            let lifetime = u32::from_be_bytes(response.get(at + 4..at + 8)?.try_into().ok()?);
            lifetimes.push(at + 4);
            shortest = shortest.min(lifetime);
            if kind == SOA && (answers..answers + authorities).contains(&record) {
                let minimum = u32::from_be_bytes(*data.last_chunk::<4>()?);
                denial = Some(lifetime.min(minimum));
            }
        }
        at += 10 + length;
    }
    let lifetime = if answers > 0 && code == 0 { shortest } else { denial? };
    (lifetime > 0).then(|| (lifetimes, Duration::from_secs(lifetime.into())))
}

fn number(message: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?))
}

/// Where a name ends; a pointer ends it.
fn after_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            length if length >= 0xc0 => return Some(at + 2),
            length if length < 0x40 => at += usize::from(length) + 1,
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use hickory_proto::op::{Edns, Message, Query, ResponseCode};
    use hickory_proto::rr::rdata::{A, SOA};
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    fn query(name: &str) -> Message {
        let mut query = Message::query();
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        query
    }

    fn answer(query: &Message, lifetimes: &[u32]) -> Message {
        let mut response = Message::response(query.metadata.id, query.metadata.op_code);
        response.queries.clone_from(&query.queries);
        for lifetime in lifetimes {
            let name = query.queries[0].name.clone();
            response.add_answer(Record::from_rdata(name, *lifetime, RData::A(A::new(192, 0, 2, 1))));
        }
        response
    }

    fn bytes(message: &Message) -> Vec<u8> {
        message.to_vec().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_is_given_again_until_its_first_record_ends() {
        let cache = Cache::default();
        let first = query("example.org.");
        cache.put(&bytes(&first), &bytes(&answer(&first, &[300, 20])));
        tokio::time::advance(Duration::from_secs(8)).await;
        let mut second = query("Example.ORG.");
        second.metadata.id = 77;
        let again = Message::from_vec(&cache.get(&bytes(&second), 512).unwrap()).unwrap();
        assert_eq!(again.metadata.id, 77);
        assert_eq!(again.queries[0].name.to_string(), "Example.ORG.");
        assert_eq!(again.answers.iter().map(|r| r.ttl).collect::<Vec<_>>(), [12, 12]);
        assert!(cache.get(&bytes(&second), 20).is_none(), "does not fit");
        assert!(cache.get(&bytes(&query("example.net.")), 512).is_none());
        let mut with_edns = query("example.org.");
        with_edns.set_edns(Edns::new());
        assert!(cache.get(&bytes(&with_edns), 512).is_none(), "asked in another way");
        tokio::time::advance(Duration::from_secs(12)).await;
        assert!(cache.get(&bytes(&second), 512).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_denial_lives_as_its_zone_says_and_failures_not_at_all() {
        let cache = Cache::default();
        let asked = query("missing.example.org.");
        let mut denial = answer(&asked, &[]);
        denial.metadata.response_code = ResponseCode::NXDomain;
        cache.put(&bytes(&asked), &bytes(&denial));
        assert!(cache.get(&bytes(&asked), 512).is_none(), "without a zone");
        let zone = Name::from_ascii("example.org.").unwrap();
        let soa = SOA::new(zone.clone(), zone.clone(), 1, 2, 3, 4, 7);
        denial.authorities.push(Record::from_rdata(zone, 900, RData::SOA(soa)));
        cache.put(&bytes(&asked), &bytes(&denial));
        assert!(cache.get(&bytes(&asked), 512).is_some());
        tokio::time::advance(Duration::from_secs(7)).await;
        assert!(cache.get(&bytes(&asked), 512).is_none());
        let mut failure = answer(&asked, &[60]);
        failure.metadata.response_code = ResponseCode::ServFail;
        cache.put(&bytes(&asked), &bytes(&failure));
        assert!(cache.get(&bytes(&asked), 512).is_none());
        cache.put(&bytes(&asked), &bytes(&answer(&asked, &[0])));
        assert!(cache.get(&bytes(&asked), 512).is_none(), "not to be kept");
        cache.put(&bytes(&asked), &[1, 2, 3]);
        cache.put(&[], &bytes(&failure));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_cache_loses_what_would_end_first() {
        let cache = Cache::default();
        for number in 0..=ENTRIES_MAX {
            let asked = query(&format!("h{number}.example.org."));
            cache.put(&bytes(&asked), &bytes(&answer(&asked, &[if number == 5 { 6 } else { 25 }])));
        }
        assert_eq!(cache.0.lock().len(), ENTRIES_MAX);
        assert!(cache.get(&bytes(&query("h5.example.org.")), 512).is_none());
        assert!(cache.get(&bytes(&query("h6.example.org.")), 512).is_some());
    }
}
