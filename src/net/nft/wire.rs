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
        self.bytes(kind | NESTED, &value.0)
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
        let length = u32::try_from(HEADER + 4 + attributes.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&flags.to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0_u32.to_ne_bytes());
        self.bytes.extend_from_slice(&[family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        self.bytes.extend_from_slice(attributes);
        self.sequence += 1;
    }

    fn finish(mut self) -> (Vec<u8>, u32) {
        // Every message between begin and end asks for an acknowledgement.
        let acknowledged = self.sequence - 1;
        self.control(BATCH_END);
        (self.bytes, acknowledged)
    }
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
        let failed = |step| move |source| NftError::Socket { step, source };
        let (bytes, mut outstanding) = batch.finish();
        let sent = self.0.send(&bytes, 0).map_err(failed("write to"))?;
        if sent != bytes.len() {
            return Err(NftError::Malformed);
        }
        let mut buffer = Vec::with_capacity(64 * 1024);
        while outstanding > 0 {
            buffer.clear();
            self.0.recv(&mut buffer, 0).map_err(failed("read from"))?;
            let mut rest = buffer.as_slice();
            while rest.len() >= HEADER + 4 {
                let word = |at: usize| rest.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_ne_bytes);
                let (Some(length), Some(sequence), Some(code)) = (word(0), word(8), word(16)) else {
                    return Err(NftError::Malformed);
                };
                if u16::from_ne_bytes([rest[4], rest[5]]) == NLMSG_ERROR {
                    let code = code.cast_signed();
                    if code != 0 {
                        return Err(NftError::Refused {
                            message: sequence,
                            source: io::Error::from_raw_os_error(-code),
                        });
                    }
                    outstanding = outstanding.saturating_sub(1);
                }
                let length = usize::try_from(length).unwrap_or(usize::MAX).next_multiple_of(4);
                if length < HEADER || length > rest.len() {
                    break;
                }
                rest = &rest[length..];
            }
        }
        Ok(())
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
    }
}
