//! Requests and responses as bytes: what is refused outright, EDNS, and what fits into a datagram.

use hickory_proto::ProtoError;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};

/// Bytes of a UDP response to a client that does not say what it takes (RFC 1035).
const PLAIN_MAX: u16 = 512;
/// What this server takes by UDP.
pub const DATAGRAM_MAX: u16 = 4096;
/// Bytes of a message's header.
const HEADER: usize = 12;

/// A request, taken apart.
pub enum Request {
    /// To be answered: the request and its only question.
    Question(Message, Query),
    /// Refused with this response.
    Refused(Message),
    /// Nothing that deserves an answer.
    Junk,
}

/// Reads a request.
pub fn read(bytes: &[u8]) -> Request {
    let Ok(request) = Message::from_vec(bytes) else {
        // A response to a response could go on for ever.
        return match bytes {
            [high, low, flags, ..] if bytes.len() >= HEADER && flags & 0x80 == 0 => Request::Refused(
                Message::error_msg(u16::from_be_bytes([*high, *low]), OpCode::Query, ResponseCode::FormErr),
            ),
            _ => Request::Junk,
        };
    };
    if request.metadata.message_type == MessageType::Response {
        return Request::Junk;
    }
    let refuse = |code| {
        let mut response = response_to(&request);
        response.metadata.response_code = code;
        Request::Refused(response)
    };
    if request.metadata.op_code != OpCode::Query {
        return refuse(ResponseCode::NotImp);
    }
    if request.edns.as_ref().is_some_and(|edns| edns.version() > 0) {
        return refuse(ResponseCode::BADVERS);
    }
    match request.queries.as_slice() {
        [query] if query.query_class == hickory_proto::rr::DNSClass::IN => {
            let query = query.clone();
            Request::Question(request, query)
        }
        [_] => refuse(ResponseCode::Refused),
        _ => refuse(ResponseCode::FormErr),
    }
}

/// An empty response, with the request's question as it was asked.
pub fn response_to(request: &Message) -> Message {
    let mut response = Message::response(request.metadata.id, request.metadata.op_code);
    response.metadata.recursion_desired = request.metadata.recursion_desired;
    response.metadata.checking_disabled = request.metadata.checking_disabled;
    response.metadata.recursion_available = true;
    response.queries.clone_from(&request.queries);
    if request.edns.is_some() {
        let mut edns = Edns::new();
        edns.set_version(0).set_max_payload(DATAGRAM_MAX);
        response.edns = Some(edns);
    }
    response
}

/// Most bytes that the sender of a request takes in a datagram.
pub fn datagram_limit(request: &Message) -> usize {
    let limit = request.edns.as_ref().map_or(PLAIN_MAX, |edns| edns.max_payload().clamp(PLAIN_MAX, DATAGRAM_MAX));
    usize::from(limit)
}

/// Writes a response into at most `limit` bytes: first the additional records are left out, then answers, and then the
/// response says that it is truncated.
///
/// # Errors
/// A record that DNS cannot carry.
pub fn write(mut response: Message, limit: usize) -> Result<Vec<u8>, ProtoError> {
    let bytes = response.to_vec()?;
    if bytes.len() <= limit {
        return Ok(bytes);
    }
    response.additionals.clear();
    let bytes = response.to_vec()?;
    if bytes.len() <= limit {
        return Ok(bytes);
    }
    response.metadata.truncation = true;
    let answers = std::mem::take(&mut response.answers);
    let mut with = |count: usize| {
        response.answers = answers[..count].to_vec();
        response.to_vec()
    };
    let mut best = with(0)?;
    let (mut fits, mut too_many) = (0, answers.len());
    while fits + 1 < too_many {
        let middle = usize::midpoint(fits, too_many);
        let bytes = with(middle)?;
        if bytes.len() <= limit {
            (fits, best) = (middle, bytes);
        } else {
            too_many = middle;
        }
    }
    Ok(best)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    fn request(edns: Option<u16>) -> Message {
        let mut request = Message::query();
        let name = Name::from_ascii("Web.Shop.svc.cluster.local.").unwrap();
        request.add_query(Query::query(name, RecordType::A));
        if let Some(size) = edns {
            let mut edns = Edns::new();
            edns.set_max_payload(size).set_version(0);
            request.set_edns(edns);
        }
        request
    }

    fn response(request: &Message, count: u8) -> Message {
        let mut response = response_to(request);
        let name = request.queries[0].name.clone();
        let record = |i| Record::from_rdata(name.clone(), 5, RData::A(A::new(10, 42, 0, i)));
        response.answers = (0..count).map(record).collect();
        response.additionals = (0..count).map(record).collect();
        response
    }

    /// Answers, additional records and whether it is truncated.
    fn check(edns: Option<u16>, count: u8) -> (usize, usize, bool) {
        let request = request(edns);
        let limit = datagram_limit(&request);
        let bytes = write(response(&request, count), limit).unwrap();
        assert!(bytes.len() <= limit, "{} bytes", bytes.len());
        let read = Message::from_vec(&bytes).unwrap();
        assert_eq!(read.queries[0].name.to_ascii(), "Web.Shop.svc.cluster.local.");
        assert_eq!(read.edns.is_some(), edns.is_some());
        (read.answers.len(), read.additionals.len(), read.metadata.truncation)
    }

    #[test]
    fn responses_are_cut_to_what_the_client_takes() {
        assert_eq!(check(None, 3), (3, 3, false));
        assert_eq!(check(None, 20), (20, 0, false));
        let (answers, additionals, truncated) = check(None, 200);
        assert!((25..=30).contains(&answers), "{answers}");
        assert_eq!((additionals, truncated), (0, true));
        assert_eq!(check(Some(1232), 60), (60, 0, false));
        assert!(check(Some(1232), 200).2);
        assert!(check(Some(100), 200).0 >= 25, "no limit is below 512");
    }

    #[test]
    fn bad_requests_are_refused_and_responses_ignored() {
        let code = |bytes: &[u8]| match read(bytes) {
            Request::Refused(response) => Some(response.metadata.response_code),
            Request::Question(..) => Some(ResponseCode::NoError),
            Request::Junk => None,
        };
        let good = request(Some(1232)).to_vec().unwrap();
        assert_eq!(code(&good), Some(ResponseCode::NoError));
        assert_eq!(code(&good[..20]), Some(ResponseCode::FormErr));
        assert_eq!(code(&good[..11]), None);
        let mut answer = good.clone();
        answer[2] |= 0x80;
        assert_eq!(code(&answer), None);
        assert_eq!(code(&answer[..20]), None);
        let mut update = good.clone();
        update[2] = (update[2] & 0x87) | (5 << 3);
        assert_ne!(code(&update), Some(ResponseCode::NoError));
        let mut none = request(None);
        none.queries.clear();
        assert_eq!(code(&none.to_vec().unwrap()), Some(ResponseCode::FormErr));
        let mut newer = request(None);
        let mut edns = Edns::new();
        edns.set_version(1);
        newer.set_edns(edns);
        assert_eq!(code(&newer.to_vec().unwrap()), Some(ResponseCode::BADVERS));
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..600)) {
            if let Request::Question(request, _) = read(&bytes) {
                proptest::prop_assert!(write(response_to(&request), datagram_limit(&request)).is_ok());
            }
        }

        #[test]
        fn no_damaged_request_panics(
            size in proptest::option::of(proptest::prelude::any::<u16>()),
            at in proptest::prelude::any::<proptest::sample::Index>(),
            byte in proptest::prelude::any::<u8>(),
            cut in proptest::prelude::any::<proptest::sample::Index>(),
        ) {
            let mut bytes = request(size).to_vec().unwrap();
            let at = at.index(bytes.len());
            bytes[at] = byte;
            let _damaged = read(&bytes);
            bytes.truncate(cut.index(bytes.len()));
            let _cut = read(&bytes);
        }
    }
}
