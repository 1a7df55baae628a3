//! Requests of etcd's interface, written by hand in protobuf's form, and what random changes make of them.

use bytes::Bytes;
use rand::Rng;
use rand::rngs::StdRng;

/// A method with requests that it can read.
pub struct Seed {
    pub path: &'static str,
    pub messages: Vec<Bytes>,
    /// Requests and answers are streams.
    pub streams: bool,
    /// It may wait for other clients for ever.
    pub waits: bool,
}

/// Numbers at the edges of what a field can have.
const NUMBERS: [i64; 12] =
    [0, 1, 2, 5, 127, 1 << 20, i32::MAX as i64, i64::MAX, -1, i32::MIN as i64, i64::MIN, 1 << 62];

fn varint(mut number: u64, to: &mut Vec<u8>) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

fn number(field: u64, number: i64) -> Vec<u8> {
    let mut to = Vec::new();
    varint(field << 3, &mut to);
    varint(number as u64, &mut to);
    to
}

fn bytes(field: u64, content: &[u8]) -> Vec<u8> {
    let mut to = Vec::new();
    varint(field << 3 | 2, &mut to);
    varint(content.len() as u64, &mut to);
    to.extend_from_slice(content);
    to
}

/// Of each of so many fields from `first` on, a message with every number at the edge.
fn numbers(start: &[u8], fields: &[u64]) -> Vec<Bytes> {
    let each =
        |field: &u64| NUMBERS.iter().map(|edge| [start, &number(*field, *edge)].concat().into()).collect::<Vec<_>>();
    fields.iter().flat_map(each).collect()
}

fn unary(path: &'static str, messages: Vec<Bytes>) -> Seed {
    Seed { path, messages, streams: false, waits: false }
}

/// Every method, with messages that it can read.
pub fn seeds() -> Vec<Seed> {
    let range = [bytes(1, b"a"), bytes(2, b"z"), number(3, 2), number(5, 1), number(6, 2)].concat();
    let put = [bytes(1, b"a"), bytes(2, b"value"), number(4, 1)].concat();
    let delete = [bytes(1, b"a"), bytes(2, b"b"), number(3, 1)].concat();
    let compare = [number(1, 1), number(2, 2), bytes(3, b"a"), number(6, 1)].concat();
    let ops: Vec<u8> = [(1, &range), (2, &put), (3, &delete)].map(|(kind, op)| bytes(2, &bytes(kind, op))).concat();
    let txn = [bytes(1, &compare), bytes(2, &bytes(1, &range)), bytes(3, &bytes(2, &put))].concat();
    let mut deep = txn.clone();
    for _ in 0..40 {
        deep = bytes(2, &bytes(4, &deep));
    }
    let create = bytes(1, &[bytes(1, b"a"), bytes(2, b"z"), number(3, 1), number(6, 1), number(8, 1)].concat());
    let watch = vec![create.into(), bytes(2, &number(1, 0)).into(), bytes(3, b"").into(), bytes(1, b"").into()];
    let with_range = |start: &[u8]| -> Vec<Bytes> {
        std::iter::once(range.clone().into()).chain(numbers(start, &[3, 4, 5, 6, 10, 11, 12, 13])).collect()
    };
    let compares = NUMBERS.iter().flat_map(|edge| {
        [4, 5, 6, 8]
            .map(|field| bytes(1, &[number(1, *edge), number(2, *edge), bytes(3, b"a"), number(field, *edge)].concat()))
    });
    let transactions = [ops.into(), txn.into(), deep.into(), bytes(2, b"").into(), bytes(2, &bytes(4, b"")).into()];
    let transactions = transactions.into_iter().chain(compares.map(Bytes::from)).collect();
    let named = |name: &[u8]| vec![[bytes(1, name), number(2, 5)].concat().into(), bytes(1, name).into(), Bytes::new()];
    let leader = bytes(1, &[bytes(1, b"e"), bytes(2, b"e/1"), number(3, 1), number(4, 1)].concat());
    let waits = |seed: Seed| Seed { waits: true, ..seed };
    let streams = |seed: Seed| Seed { streams: true, ..seed };
    vec![
        unary("/etcdserverpb.KV/Range", with_range(&[bytes(1, b"a"), bytes(2, b"\0")].concat())),
        unary("/etcdserverpb.KV/Put", [vec![put.into()], numbers(&bytes(1, b"p"), &[3, 4, 5, 6])].concat()),
        unary("/etcdserverpb.KV/DeleteRange", vec![delete.into(), bytes(2, b"\0").into(), bytes(1, b"").into()]),
        unary("/etcdserverpb.KV/Txn", transactions),
        unary("/etcdserverpb.KV/Compact", numbers(&number(2, 1), &[1])),
        waits(streams(unary("/etcdserverpb.Watch/Watch", watch))),
        unary("/etcdserverpb.Lease/LeaseGrant", numbers(b"", &[1, 2])),
        unary("/etcdserverpb.Lease/LeaseRevoke", numbers(b"", &[1])),
        streams(unary("/etcdserverpb.Lease/LeaseKeepAlive", numbers(b"", &[1]))),
        unary("/etcdserverpb.Lease/LeaseTimeToLive", numbers(&number(2, 1), &[1])),
        unary("/etcdserverpb.Lease/LeaseLeases", vec![Bytes::new()]),
        unary("/etcdserverpb.Cluster/MemberAdd", vec![bytes(1, b"http://peer:1").into()]),
        unary("/etcdserverpb.Cluster/MemberRemove", numbers(b"", &[1])),
        unary("/etcdserverpb.Cluster/MemberUpdate", numbers(b"", &[1])),
        unary("/etcdserverpb.Cluster/MemberList", numbers(b"", &[1])),
        unary("/etcdserverpb.Cluster/MemberPromote", numbers(b"", &[1])),
        unary("/etcdserverpb.Maintenance/Alarm", numbers(b"", &[1, 2, 3])),
        unary("/etcdserverpb.Maintenance/Status", vec![Bytes::new()]),
        unary("/etcdserverpb.Maintenance/Defragment", vec![Bytes::new()]),
        unary("/etcdserverpb.Maintenance/Hash", vec![Bytes::new()]),
        unary("/etcdserverpb.Maintenance/HashKV", numbers(b"", &[1])),
        streams(unary("/etcdserverpb.Maintenance/Snapshot", vec![Bytes::new()])),
        unary("/etcdserverpb.Maintenance/MoveLeader", numbers(b"", &[1])),
        unary("/etcdserverpb.Maintenance/Downgrade", numbers(&bytes(2, b"3.5.0"), &[1])),
        unary("/etcdserverpb.Auth/AuthStatus", vec![Bytes::new()]),
        unary("/etcdserverpb.Auth/Authenticate", vec![bytes(1, b"root").into()]),
        waits(unary("/v3lockpb.Lock/Lock", named(b"l"))),
        unary("/v3lockpb.Lock/Unlock", named(b"l/1")),
        waits(unary("/v3electionpb.Election/Campaign", named(b"e"))),
        unary("/v3electionpb.Election/Proclaim", vec![leader.clone().into()]),
        unary("/v3electionpb.Election/Leader", named(b"e")),
        waits(streams(unary("/v3electionpb.Election/Observe", named(b"e")))),
        unary("/v3electionpb.Election/Resign", vec![leader.into()]),
        unary("/grpc.health.v1.Health/Check", vec![bytes(1, b"etcd").into(), Bytes::new()]),
        unary("/etcdserverpb.KV/NoSuchMethod", vec![Bytes::new()]),
    ]
}

/// Bytes of no meaning.
pub fn random(rng: &mut StdRng) -> Bytes {
    let length = rng.random_range(0..200);
    (0..length).map(|_| rng.random::<u8>()).collect()
}

/// The message with a few changes: bits, bytes, cuts, repetitions.
pub fn mutate(message: &Bytes, rng: &mut StdRng) -> Bytes {
    let mut changed = message.to_vec();
    for _ in 0..rng.random_range(1..4) {
        let at = rng.random_range(0..=changed.len());
        match rng.random_range(0..5) {
            0 if at < changed.len() => changed[at] ^= 1 << rng.random_range(0..8),
            1 if at < changed.len() => changed[at] = rng.random(),
            2 => changed.truncate(at),
            3 => changed.insert(at, rng.random()),
            _ => changed.extend_from_within(at..),
        }
    }
    changed.into()
}
