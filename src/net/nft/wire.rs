//! nfnetlink messages: attributes, batches and the socket (`linux/netfilter/nfnetlink.h`, `nf_tables.h`).

use std::io;

use netlink_sys::{Socket as Raw, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::{TimeVal, TimeValLike};

/// Why the kernel did not take a transaction.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    #[error("cannot {step} the netfilter socket")]
    Socket {
        step: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("the kernel refused message {message} of the transaction")]
    Refused {
        message: u32,
        #[source]
        source: io::Error,
    },
    #[error("the kernel's answer cannot be read")]
    Malformed,
}

const HEADER: usize = 16;
const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const REQUEST: u16 = 1;
const ACK: u16 = 4;
const CREATE: u16 = 0x400;
const FAMILY_IPV4: u8 = 2;
const NESTED: u16 = 0x8000;

/// Attributes of a message, or of a nested attribute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attributes(Vec<u8>);

impl Attributes {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn bytes(mut self, kind: u16, value: &[u8]) -> Self {
        self.push(kind, value);
        self
    }

    pub fn text(self, kind: u16, value: &str) -> Self {
        let mut bytes = value.as_bytes().to_vec();
        bytes.push(0);
        self.bytes(kind, &bytes)
    }

    /// Numbers are big-endian in nfnetlink.
    pub fn u32(self, kind: u16, value: u32) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn u64(self, kind: u16, value: u64) -> Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    pub fn nested(self, kind: u16, value: &Self) -> Self {
        self.nested_bytes(kind, &value.0)
    }

    /// As [`Attributes::nested`], of attributes that came from the kernel.
    pub fn nested_bytes(self, kind: u16, value: &[u8]) -> Self {
        self.bytes(kind | NESTED, value)
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    fn push(&mut self, kind: u16, value: &[u8]) {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }
}

/// Attributes as the kernel sends them. What is cut off is left out.
#[derive(Debug, Clone, Copy)]
pub struct Parsed<'a>(&'a [u8]);

impl<'a> Parsed<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The value of the first attribute of a kind.
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        let mut rest = self.0;
        while let Some(([a, b, c, d], _)) = rest.split_first_chunk::<4>() {
            let length = usize::from(u16::from_ne_bytes([*a, *b]));
            let value = rest.get(4..length)?;
            if u16::from_ne_bytes([*c, *d]) & !NESTED == kind {
                return Some(value);
            }
            rest = rest.get(length.next_multiple_of(4)..)?;
        }
        None
    }
}

/// Messages that the kernel takes all together or not at all.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    sequence: u32,
}

impl Batch {
    pub fn new() -> Self {
        let mut batch = Self::default();
        batch.control(BATCH_BEGIN);
        batch
    }

    /// A message that makes something if it is not there.
    pub fn create(&mut self, message: u16, attributes: &Attributes) {
        self.message(SUBSYSTEM << 8 | message, REQUEST | ACK | CREATE, FAMILY_IPV4, 0, &attributes.0);
    }

    /// As [`Batch::create`], at the end of a list.
    pub fn append(&mut self, message: u16, attributes: &Attributes) {
        const APPEND: u16 = 0x800;
        self.message(SUBSYSTEM << 8 | message, REQUEST | ACK | CREATE | APPEND, FAMILY_IPV4, 0, &attributes.0);
    }

    pub fn delete(&mut self, message: u16, attributes: &Attributes) {
        self.message(SUBSYSTEM << 8 | message, REQUEST | ACK, FAMILY_IPV4, 0, &attributes.0);
    }

    fn control(&mut self, kind: u16) {
        self.message(kind, REQUEST, 0, SUBSYSTEM, &[]);
    }

    fn message(&mut self, kind: u16, flags: u16, family: u8, resource: u16, attributes: &[u8]) {
        message(&mut self.bytes, (kind, flags, self.sequence), (family, resource), attributes);
        self.sequence += 1;
    }

    fn finish(mut self) -> (Vec<u8>, u32) {
        // Every message between begin and end asks for an acknowledgement.
        let acknowledged = self.sequence - 1;
        self.control(BATCH_END);
        (self.bytes, acknowledged)
    }
}

/// Adds a message with its headers; `kind`, `flags` and `sequence`, then the family and the resource.
fn message(bytes: &mut Vec<u8>, (kind, flags, sequence): (u16, u16, u32), of: (u8, u16), attributes: &[u8]) {
    let length = u32::try_from(HEADER + 4 + attributes.len()).unwrap_or(u32::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    bytes.extend_from_slice(&0_u32.to_ne_bytes());
    bytes.extend_from_slice(&[of.0, 0]);
    bytes.extend_from_slice(&of.1.to_be_bytes());
    bytes.extend_from_slice(attributes);
}

/// A blocking netlink socket; a transaction takes milliseconds.
pub struct Socket(Raw);

impl Socket {
    pub fn open() -> Result<Self, NftError> {
        let failed = |step| move |source| NftError::Socket { step, source };
        let mut socket = Raw::new(NETLINK_NETFILTER).map_err(failed("open"))?;
        socket.bind_auto().map_err(failed("bind"))?;
        socket.connect(&SocketAddr::new(0, 0)).map_err(failed("connect"))?;
        // Acknowledgements of a large transaction come all at once; the sum is bounded by the kernel's own limit.
        socket.set_rx_buf_sz(32 * 1024 * 1024).map_err(failed("size"))?;
        // The kernel answers at once; silence means that an answer was lost.
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(10)).map_err(|e| failed("set up")(e.into()))?;
        Ok(Self(socket))
    }

    /// Sends a transaction and waits until it is in force.
    pub fn send(&self, batch: Batch) -> Result<(), NftError> {
        let (bytes, mut outstanding) = batch.finish();
        self.write(&bytes)?;
        while outstanding > 0 {
            self.read(|received| {
                if received.kind == NLMSG_ERROR {
                    received.accepted()?;
                    outstanding = outstanding.saturating_sub(1);
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Sends one message that is no part of a transaction and waits for the kernel's consent.
    pub fn request(&self, kind: u16, attributes: &Attributes) -> Result<(), NftError> {
        let mut bytes = Vec::new();
        message(&mut bytes, (kind, REQUEST | ACK, 0), (FAMILY_IPV4, 0), &attributes.0);
        self.write(&bytes)?;
        let mut done = false;
        while !done {
            self.read(|received| {
                done |= received.kind == NLMSG_ERROR;
                if received.kind == NLMSG_ERROR { received.accepted() } else { Ok(()) }
            })?;
        }
        Ok(())
    }

    /// Asks for everything of a kind; `each` gets the attributes of one after the other.
    pub fn dump(&self, kind: u16, attributes: &Attributes, mut each: impl FnMut(&[u8])) -> Result<(), NftError> {
        const DUMP: u16 = 0x300;
        let mut bytes = Vec::new();
        message(&mut bytes, (kind, REQUEST | DUMP, 0), (FAMILY_IPV4, 0), &attributes.0);
        self.write(&bytes)?;
        let mut done = false;
        while !done {
            self.read(|received| {
                match received.kind {
                    NLMSG_DONE => done = true,
                    NLMSG_ERROR => {
                        done = true;
                        return received.accepted();
                    }
                    _ => {
                        if let Some(attributes) = received.body.get(4..) {
                            each(attributes);
                        }
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8]) -> Result<(), NftError> {
        let sent = self.0.send(bytes, 0).map_err(|source| NftError::Socket { step: "write to", source })?;
        if sent == bytes.len() { Ok(()) } else { Err(NftError::Malformed) }
    }

    /// Waits for messages and hands over each of them.
    fn read(&self, each: impl FnMut(Received<'_>) -> Result<(), NftError>) -> Result<(), NftError> {
        let mut buffer = Vec::with_capacity(64 * 1024);
        self.0.recv(&mut buffer, 0).map_err(|source| NftError::Socket { step: "read from", source })?;
        messages(&buffer, each)
    }
}

/// Hands over each of the messages of a datagram.
fn messages(mut rest: &[u8], mut each: impl FnMut(Received<'_>) -> Result<(), NftError>) -> Result<(), NftError> {
    while rest.len() >= HEADER + 4 {
        let word = |at: usize| rest.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
        let (Some(length), Some(sequence)) = (word(0), word(8)) else { return Err(NftError::Malformed) };
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        let Some(body) = rest.get(HEADER..length) else { return Err(NftError::Malformed) };
        each(Received { kind: u16::from_ne_bytes([rest[4], rest[5]]), sequence, body })?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(())
}

/// One message from the kernel.
struct Received<'a> {
    kind: u16,
    sequence: u32,
    body: &'a [u8],
}

impl Received<'_> {
    /// What an error message says: number 0 is consent.
    fn accepted(&self) -> Result<(), NftError> {
        let code = self.body.first_chunk::<4>().ok_or(NftError::Malformed)?;
        match i32::from_ne_bytes(*code) {
            0 => Ok(()),
            code => {
                let source = io::Error::from_raw_os_error(code.saturating_neg());
                Err(NftError::Refused { message: self.sequence, source })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_nested() {
        let inner = Attributes::new().bytes(1, &[7]);
        assert_eq!(inner.0, [5, 0, 1, 0, 7, 0, 0, 0]);
        let outer = Attributes::new().nested(2, &inner);
        assert_eq!(outer.len(), 12);
        assert_eq!(outer.0[..4], [12, 0, 2, 0x80]);
        assert_eq!(Parsed::new(&outer.0).get(2), Some(inner.as_bytes()));
        assert_eq!(Parsed::new(inner.as_bytes()).get(1), Some(&[7][..]));
        assert_eq!(Parsed::new(&[9, 0, 1, 0, 7]).get(1), None, "cut off");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig {
            failure_persistence: None,
            ..proptest::prelude::ProptestConfig::default()
        })]

        #[test]
        fn no_answer_of_the_kernel_panics(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300), kind in 0u16..20) {
            let value = Parsed::new(&bytes).get(kind);
            proptest::prop_assert!(value.is_none_or(|value| value.len() + 4 <= bytes.len()));
            let mut seen = 0;
            let walked = messages(&bytes, |received| {
                seen += received.body.len() + HEADER;
                received.accepted().or(Ok(()))
            });
            proptest::prop_assert!(walked.is_err() || seen <= bytes.len());
        }
    }
}
