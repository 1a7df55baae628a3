//! The wire format: tags, varints, lengths.

pub const VARINT: u8 = 0;
pub const FIXED64: u8 = 1;
pub const LEN: u8 = 2;
pub const FIXED32: u8 = 5;

/// One field as it stands on the wire.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Fixed32,
    Len(&'a [u8]),
}

const EOF: &str = "unexpected EOF";

/// The fields of a message.
pub fn fields(bytes: &[u8]) -> impl Iterator<Item = Result<(u32, Field<'_>), String>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let field = next(&mut rest);
        if field.is_err() {
            rest = &[];
        }
        Some(field)
    })
}

fn next<'a>(rest: &mut &'a [u8]) -> Result<(u32, Field<'a>), String> {
    let tag = varint(rest)?;
    let number = u32::try_from(tag >> 3).ok().filter(|n| *n != 0);
    let Some(number) = number else { return Err(format!("proto: illegal tag {} (wire type {tag})", tag >> 3)) };
    let field = match (tag & 7) as u8 {
        VARINT => Field::Varint(varint(rest)?),
        FIXED64 => {
            let (head, tail) = rest.split_first_chunk::<8>().ok_or(EOF)?;
            *rest = tail;
            Field::Fixed64(u64::from_le_bytes(*head))
        }
        FIXED32 => {
            *rest = rest.get(4..).ok_or(EOF)?;
            Field::Fixed32
        }
        LEN => {
            let length = usize::try_from(varint(rest)?).map_err(|_| EOF)?;
            let (head, tail) = rest.split_at_checked(length).ok_or(EOF)?;
            *rest = tail;
            Field::Len(head)
        }
        other => return Err(format!("proto: illegal wireType {other}")),
    };
    Ok((number, field))
}

pub fn varint(rest: &mut &[u8]) -> Result<u64, String> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, tail) = rest.split_first().ok_or(EOF)?;
        *rest = tail;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("proto: integer overflow".to_owned())
}

pub fn push_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Writes messages front to back, leaving out empty values, as proto3 does.
#[derive(Default)]
pub struct Forward {
    out: Vec<u8>,
}

impl Forward {
    pub fn finish(self) -> Vec<u8> {
        self.out
    }

    fn tag(&mut self, number: u32, wire_type: u8) {
        push_varint(&mut self.out, u64::from(number) << 3 | u64::from(wire_type));
    }

    /// Nothing for `None`; an empty text is written, because it may be an item of a list.
    pub fn text(&mut self, number: u32, text: Option<&str>) {
        if let Some(text) = text {
            self.tag(number, LEN);
            push_varint(&mut self.out, text.len() as u64);
            self.out.extend_from_slice(text.as_bytes());
        }
    }

    pub fn flag(&mut self, number: u32, value: bool) {
        if value {
            self.tag(number, VARINT);
            self.out.push(1);
        }
    }

    pub fn integer(&mut self, number: u32, value: Option<i64>) {
        if let Some(value) = value {
            self.tag(number, VARINT);
            push_varint(&mut self.out, value as u64);
        }
    }

    pub fn double(&mut self, number: u32, value: Option<f64>) {
        if let Some(value) = value {
            self.tag(number, FIXED64);
            self.out.extend_from_slice(&value.to_le_bytes());
        }
    }

    pub fn message(&mut self, number: u32, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.tag(number, LEN);
        push_varint(&mut self.out, inner.out.len() as u64);
        self.out.extend_from_slice(&inner.out);
    }
}
