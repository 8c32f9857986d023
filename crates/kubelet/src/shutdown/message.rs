//! D-Bus messages (the D-Bus specification, "Message Protocol"): as much of the format as calls of logind need.
//! Written in little endian, read in either.

use std::io;

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Call = 1,
    Return = 2,
    Error = 3,
    Signal = 4,
}

/// An argument of a call, or of a test's answer.
#[derive(Clone, Copy, Debug)]
pub(super) enum Arg<'a> {
    Str(&'a str),
    I32(i32),
    #[cfg(test)]
    Bool(bool),
    /// An index of a descriptor.
    #[cfg(test)]
    Fd(u32),
    /// A 64-bit number in a variant.
    #[cfg(test)]
    Variant64(u64),
}

impl Arg<'_> {
    fn signature(self) -> char {
        match self {
            Self::Str(_) => 's',
            Self::I32(_) => 'i',
            #[cfg(test)]
            Self::Bool(_) => 'b',
            #[cfg(test)]
            Self::Fd(_) => 'h',
            #[cfg(test)]
            Self::Variant64(_) => 'v',
        }
    }
}

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) kind: Kind,
    /// Asked for by those who answer.
    #[cfg_attr(not(test), expect(dead_code, reason = "only the bus of the tests answers calls"))]
    pub(super) serial: u32,
    pub(super) path: String,
    pub(super) interface: String,
    pub(super) member: String,
    pub(super) error_name: String,
    pub(super) reply_to: u32,
    pub(super) destination: String,
    pub(super) sender: String,
    /// How many descriptors belong to it.
    pub(super) fds: u32,
    pub(super) body: Body,
}

/// The arguments as they came.
#[derive(Debug, Default)]
pub(super) struct Body {
    bytes: Vec<u8>,
    big_endian: bool,
    signature: String,
}

/// A longer message is no answer to anything that is asked here.
const LONGEST: usize = 1 << 20;
/// The header up to its list of fields.
const FIXED: usize = 16;

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("D-Bus: {what}"))
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

fn put_u32(out: &mut Vec<u8>, value: u32) {
    pad(out, 4);
    out.extend(value.to_le_bytes());
}

fn put_str(out: &mut Vec<u8>, text: &str) {
    // Nothing that is sent comes near this.
    put_u32(out, u32::try_from(text.len()).unwrap_or(u32::MAX));
    out.extend(text.as_bytes());
    out.push(0);
}

fn put_signature(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).unwrap_or(u8::MAX));
    out.extend(text.as_bytes());
    out.push(0);
}

/// What a message is addressed by.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Address<'a> {
    pub(super) destination: &'a str,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    pub(super) sender: &'a str,
    pub(super) reply_to: u32,
}

/// A message as bytes. `fds` of them go beside it.
pub(super) fn encode(kind: Kind, serial: u32, to: Address<'_>, arguments: &[Arg<'_>], fds: u32) -> Vec<u8> {
    let mut body = Vec::new();
    for argument in arguments {
        match *argument {
            Arg::Str(text) => put_str(&mut body, text),
            Arg::I32(number) => put_u32(&mut body, number.cast_unsigned()),
            #[cfg(test)]
            Arg::Bool(yes) => put_u32(&mut body, yes.into()),
            #[cfg(test)]
            Arg::Fd(index) => put_u32(&mut body, index),
            #[cfg(test)]
            Arg::Variant64(number) => {
                put_signature(&mut body, "t");
                pad(&mut body, 8);
                body.extend(number.to_le_bytes());
            }
        }
    }
    let signature: String = arguments.iter().map(|a| a.signature()).collect();
    let mut fields = Vec::new();
    let texts = [
        (1, "o", to.path),
        (2, "s", to.interface),
        (3, "s", to.member),
        (6, "s", to.destination),
        (7, "s", to.sender),
    ];
    for (code, kind, text) in texts.into_iter().filter(|(_, _, text)| !text.is_empty()) {
        pad(&mut fields, 8);
        fields.push(code);
        put_signature(&mut fields, kind);
        put_str(&mut fields, text);
    }
    for (code, number) in [(5, to.reply_to), (9, fds)].into_iter().filter(|(_, number)| *number > 0) {
        pad(&mut fields, 8);
        fields.push(code);
        put_signature(&mut fields, "u");
        put_u32(&mut fields, number);
    }
    if !signature.is_empty() {
        pad(&mut fields, 8);
        fields.push(8);
        put_signature(&mut fields, "g");
        put_signature(&mut fields, &signature);
    }
    let mut out = vec![b'l', kind as u8, 0, 1];
    put_u32(&mut out, u32::try_from(body.len()).unwrap_or(u32::MAX));
    put_u32(&mut out, serial);
    put_u32(&mut out, u32::try_from(fields.len()).unwrap_or(u32::MAX));
    out.extend(fields);
    pad(&mut out, 8);
    out.extend(body);
    out
}

/// Reads values one after the other, as aligned as the format wants them.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    big_endian: bool,
}

impl<'a> Reader<'a> {
    fn take(&mut self, align: usize, count: usize) -> io::Result<&'a [u8]> {
        let from = self.at.next_multiple_of(align);
        let to = from.checked_add(count).ok_or_else(|| bad("too long"))?;
        let taken = self.bytes.get(from..to).ok_or_else(|| bad("a message ends early"))?;
        self.at = to;
        Ok(taken)
    }

    fn u32(&mut self) -> io::Result<u32> {
        let bytes = self.take(4, 4)?.try_into().map_err(|_| bad("no number"))?;
        Ok(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn u64(&mut self) -> io::Result<u64> {
        let bytes = self.take(8, 8)?.try_into().map_err(|_| bad("no number"))?;
        Ok(if self.big_endian { u64::from_be_bytes(bytes) } else { u64::from_le_bytes(bytes) })
    }

    fn text(&mut self, length: usize) -> io::Result<String> {
        let bytes = self.take(1, length)?;
        self.take(1, 1)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| bad("no UTF-8"))
    }

    fn string(&mut self) -> io::Result<String> {
        let length = self.u32()? as usize;
        self.text(length)
    }

    fn signature(&mut self) -> io::Result<String> {
        let length = self.take(1, 1)?[0];
        self.text(length.into())
    }
}

/// Length of the message that begins here, once enough of it is there to say.
pub(super) fn length(bytes: &[u8]) -> io::Result<Option<usize>> {
    if bytes.len() < FIXED {
        return Ok(None);
    }
    let mut reader = Reader { bytes, at: 4, big_endian: bytes[0] == b'B' };
    let body = reader.u32()? as usize;
    reader.u32()?;
    let fields = reader.u32()? as usize;
    if body > LONGEST || fields > LONGEST {
        return Err(bad("a message is too long"));
    }
    Ok(Some((FIXED + fields).next_multiple_of(8) + body))
}

/// Reads a whole message.
pub(super) fn decode(bytes: &[u8]) -> io::Result<Message> {
    let big_endian = match bytes.first() {
        Some(b'l') => false,
        Some(b'B') => true,
        _ => return Err(bad("no message")),
    };
    let kind = match bytes.get(1) {
        Some(1) => Kind::Call,
        Some(2) => Kind::Return,
        Some(3) => Kind::Error,
        Some(4) => Kind::Signal,
        _ => return Err(bad("a message of an unknown kind")),
    };
    let mut reader = Reader { bytes, at: 4, big_endian };
    let body_length = reader.u32()? as usize;
    let serial = reader.u32()?;
    let end = FIXED + reader.u32()? as usize;
    let mut message = Message {
        kind,
        serial,
        path: String::new(),
        interface: String::new(),
        member: String::new(),
        error_name: String::new(),
        reply_to: 0,
        destination: String::new(),
        sender: String::new(),
        fds: 0,
        body: Body::default(),
    };
    let mut signature = String::new();
    while reader.at < end {
        let code = reader.take(8, 1)?[0];
        let kind = reader.signature()?;
        match (code, kind.as_str()) {
            (1, "o") => message.path = reader.string()?,
            (2, "s") => message.interface = reader.string()?,
            (3, "s") => message.member = reader.string()?,
            (4, "s") => message.error_name = reader.string()?,
            (5, "u") => message.reply_to = reader.u32()?,
            (6, "s") => message.destination = reader.string()?,
            (7, "s") => message.sender = reader.string()?,
            (8, "g") => signature = reader.signature()?,
            (9, "u") => message.fds = reader.u32()?,
            (_, "s" | "o") => drop(reader.string()?),
            (_, "u") => drop(reader.u32()?),
            _ => return Err(bad("a header field of an unknown type")),
        }
    }
    let from = end.next_multiple_of(8);
    let body = bytes.get(from..from + body_length).ok_or_else(|| bad("a message ends early"))?;
    message.body = Body { bytes: body.to_vec(), big_endian, signature };
    Ok(message)
}

impl Body {
    fn reader(&self, signature: &str) -> io::Result<Reader<'_>> {
        if !self.signature.starts_with(signature) {
            return Err(bad(&format!("expected {signature:?}, not {:?}", self.signature)));
        }
        Ok(Reader { bytes: &self.bytes, at: 0, big_endian: self.big_endian })
    }

    /// The first argument, a text.
    pub(super) fn string(&self) -> io::Result<String> {
        self.reader("s")?.string()
    }

    /// The first argument, a truth.
    pub(super) fn bool(&self) -> io::Result<bool> {
        Ok(self.reader("b")?.u32()? != 0)
    }

    /// The first argument, an index into the message's descriptors.
    pub(super) fn fd(&self) -> io::Result<usize> {
        Ok(self.reader("h")?.u32()? as usize)
    }

    /// The first argument, a 64-bit number in a variant.
    pub(super) fn variant_u64(&self) -> io::Result<u64> {
        let mut reader = self.reader("v")?;
        match reader.signature()?.as_str() {
            "t" => reader.u64(),
            other => Err(bad(&format!("expected a number, not {other:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_are_written() {
        let to = Address {
            destination: "org.freedesktop.login1",
            path: "/org/freedesktop/login1",
            interface: "org.freedesktop.login1.Manager",
            member: "Inhibit",
            ..Address::default()
        };
        let bytes = encode(Kind::Call, 7, to, &[Arg::Str("shutdown"), Arg::I32(1)], 0);
        assert_eq!(length(&bytes).unwrap(), Some(bytes.len()));
        assert_eq!(length(&bytes[..15]).unwrap(), None);
        let message = decode(&bytes).unwrap();
        assert_eq!((message.kind, message.serial, message.fds), (Kind::Call, 7, 0));
        assert_eq!((message.path.as_str(), message.member.as_str()), (to.path, to.member));
        assert_eq!(
            (message.interface.as_str(), message.destination.as_str()),
            (to.interface, to.destination)
        );
        assert_eq!(message.body.string().unwrap(), "shutdown");
        assert!(message.body.bool().is_err());
        let reply = Address { reply_to: 7, sender: ":1.2", ..Address::default() };
        let message = decode(&encode(Kind::Return, 1, reply, &[Arg::Variant64(5_000_000)], 0)).unwrap();
        assert_eq!((message.reply_to, message.sender.as_str()), (7, ":1.2"));
        assert_eq!(message.body.variant_u64().unwrap(), 5_000_000);
        let message = decode(&encode(Kind::Return, 1, reply, &[Arg::Fd(0)], 1)).unwrap();
        assert_eq!((message.fds, message.body.fd().unwrap()), (1, 0));
    }

    /// A signal as a big-endian machine's bus has it, put together by the specification's rules.
    #[test]
    fn the_other_endian_is_read_too() {
        let mut bytes = vec![b'B', 4, 0, 1, 0, 0, 0, 4, 0, 0, 0, 9, 0, 0, 0, 15];
        bytes.extend([8, 1, b'g', 0, 1, b'b', 0, 0]); // the signature, and the start of the next field
        bytes.extend([5, 1, b'u', 0, 0, 0, 3]);
        assert!(decode(&bytes).is_err(), "it ends early");
        bytes.truncate(16);
        bytes[15] = 7;
        bytes.extend([8, 1, b'g', 0, 1, b'b', 0, 0, 0, 0, 0, 1]);
        let message = decode(&bytes).unwrap();
        assert_eq!(message.serial, 9);
        assert!(message.body.bool().unwrap());
    }

    #[test]
    fn no_prefix_and_no_flipped_byte_panics() {
        let to = Address { path: "/a", interface: "b.c", member: "D", sender: ":1.1", ..Address::default() };
        let bytes = encode(Kind::Signal, 3, to, &[Arg::Bool(true)], 0);
        for end in 0..bytes.len() {
            assert!(decode(&bytes[..end]).is_err());
            let mut other = bytes.clone();
            for value in [0, 1, 0x7f, 0xff] {
                other[end] = value;
                let _ = (length(&other), decode(&other).map(|m| m.body.bool()));
            }
        }
    }
}
