//! The little of protobuf's wire format (<https://protobuf.dev/programming-guides/encoding/>) that etcd's messages
//! need. Fields of the default value are left out where the reader takes them for the default.

use bytes::{Buf, BufMut, Bytes, BytesMut};

const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const BYTES: u8 = 2;
const FIXED32: u8 = 5;

/// Writes one message.
#[derive(Default)]
pub(super) struct Writer(BytesMut);

impl Writer {
    /// A number, unless it is 0.
    pub fn uint(self, field: u32, value: u64) -> Self {
        if value == 0 { self } else { self.explicit(field, value) }
    }

    /// A number, 0 too: members of a `oneof` say by being there that they are meant.
    pub fn explicit(mut self, field: u32, value: u64) -> Self {
        self.key(field, VARINT);
        put_varint(&mut self.0, value);
        self
    }

    /// A truth, unless it is false.
    pub fn flag(self, field: u32, value: bool) -> Self {
        self.uint(field, u64::from(value))
    }

    /// Bytes, unless there are none.
    pub fn bytes(self, field: u32, value: &[u8]) -> Self {
        if value.is_empty() { self } else { self.explicit_bytes(field, value) }
    }

    /// A message inside, empty too.
    pub fn message(self, field: u32, message: Writer) -> Self {
        self.explicit_bytes(field, &message.0)
    }

    fn explicit_bytes(mut self, field: u32, value: &[u8]) -> Self {
        self.key(field, BYTES);
        put_varint(&mut self.0, value.len() as u64);
        self.0.put_slice(value);
        self
    }

    fn key(&mut self, field: u32, kind: u8) {
        put_varint(&mut self.0, u64::from(field) << 3 | u64::from(kind));
    }

    /// The message.
    pub fn finish(self) -> Bytes {
        self.0.freeze()
    }
}

fn put_varint(out: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        out.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    out.put_u8(value as u8);
}

/// What a field holds.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// A number.
    Uint(u64),
    /// Text, bytes or a message.
    Bytes(Bytes),
}

impl Value {
    /// The number, 0 if it is none.
    pub fn uint(&self) -> u64 {
        match self {
            Self::Uint(number) => *number,
            Self::Bytes(_) => 0,
        }
    }

    /// The truth.
    pub fn flag(&self) -> bool {
        self.uint() != 0
    }

    /// The bytes, none if it is a number.
    pub fn bytes(self) -> Bytes {
        match self {
            Self::Uint(_) => Bytes::new(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// A message that is not one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message is cut short or malformed")]
pub(super) struct Malformed;

/// Reads the fields of one message in turn, sharing its buffer.
pub(super) struct Reader(pub Bytes);

impl Reader {
    /// The next field; `None` at the end.
    pub fn next(&mut self) -> Result<Option<(u32, Value)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = u32::try_from(key >> 3).map_err(|_| Malformed)?;
        let value = match (key & 7) as u8 {
            VARINT => Value::Uint(self.varint()?),
            BYTES => {
                let len = usize::try_from(self.varint()?).map_err(|_| Malformed)?;
                Value::Bytes(self.take(len)?)
            }
            // etcd has none; they are passed over.
            FIXED64 => Value::Bytes(self.take(8)?),
            FIXED32 => Value::Bytes(self.take(4)?),
            _ => return Err(Malformed),
        };
        Ok(Some((field, value)))
    }

    fn take(&mut self, len: usize) -> Result<Bytes, Malformed> {
        if len > self.0.len() {
            return Err(Malformed);
        }
        Ok(self.0.split_to(len))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            if self.0.is_empty() {
                return Err(Malformed);
            }
            let byte = self.0.get_u8();
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_every_cut_is_noticed() {
        let inner = Writer::default().uint(1, 300).flag(2, true).flag(3, false);
        let bytes = Writer::default()
            .explicit(6, 0)
            .uint(5, u64::MAX)
            .bytes(3, b"key")
            .bytes(4, b"")
            .message(64, inner)
            .finish();
        let mut reader = Reader(bytes.clone());
        assert_eq!(reader.next(), Ok(Some((6, Value::Uint(0)))));
        assert_eq!(reader.next(), Ok(Some((5, Value::Uint(u64::MAX)))));
        assert_eq!(reader.next(), Ok(Some((3, Value::Bytes(Bytes::from_static(b"key"))))));
        let (64, inner) = reader.next().unwrap().unwrap() else { panic!("the message is there") };
        assert_eq!(reader.next(), Ok(None));
        let mut inner = Reader(inner.bytes());
        assert_eq!(inner.next(), Ok(Some((1, Value::Uint(300)))));
        assert!(inner.next().unwrap().unwrap().1.flag());
        assert_eq!(inner.next(), Ok(None));
        // Only cuts between fields read as a shorter message.
        let whole = (0..bytes.len()).filter(|len| {
            let mut reader = Reader(bytes.slice(..*len));
            loop {
                match reader.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => return true,
                    Err(Malformed) => return false,
                }
            }
        });
        assert_eq!(whole.collect::<Vec<_>>(), [0, 2, 13, 18]);
        assert_eq!(Reader(Bytes::from_static(&[0xff; 12])).next(), Err(Malformed));
        assert_eq!(Reader(Bytes::from_static(&[0x0b])).next(), Err(Malformed), "groups are not read");
    }
}
