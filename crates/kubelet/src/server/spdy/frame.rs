//! SPDY frames and header blocks (draft-mbelshe-httpbis-spdy-00, section 2.6). Header blocks of one direction
//! share one zlib stream that begins with a preset dictionary.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::sync::OnceLock;

const VERSION: u16 = 3;
const FIN: u8 = 1;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
/// Header blocks larger than this once unpacked are refused.
const MOST_HEADER_BYTES: usize = 64 << 10;
/// Control frames larger than this are refused.
const MOST_CONTROL_BYTES: usize = 1 << 20;

/// A frame, as far as it means anything here.
#[derive(Debug)]
pub(super) enum Frame {
    /// SYN_STREAM.
    Open { id: u32, headers: Vec<(String, String)>, fin: bool },
    /// SYN_REPLY without headers.
    Reply { id: u32 },
    /// RST_STREAM.
    Reset { id: u32, status: u32 },
    /// PING.
    Ping { id: u32 },
    /// GOAWAY.
    Goodbye,
    /// A data frame.
    Data { id: u32, fin: bool, data: Bytes },
    /// SETTINGS, WINDOW_UPDATE, HEADERS and what else may come.
    Other,
}

/// Both directions' compression.
pub(super) struct Codec {
    pack: Compress,
    unpack: Decompress,
}

impl Default for Codec {
    fn default() -> Self {
        let mut pack = Compress::new(Compression::fast(), true);
        pack.set_dictionary(dictionary()).expect("a fresh compressor takes a dictionary");
        Self { pack, unpack: Decompress::new(true) }
    }
}

/// The strings that headers are likely to hold: the draft's list, each with its length before it, then text.
fn dictionary() -> &'static [u8] {
    static DICTIONARY: OnceLock<Vec<u8>> = OnceLock::new();
    DICTIONARY.get_or_init(|| {
        let words = "options head post put delete trace accept accept-charset accept-encoding accept-language \
            accept-ranges age allow authorization cache-control connection content-base content-encoding \
            content-language content-length content-location content-md5 content-range content-type date etag \
            expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since \
            last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer \
            retry-after server te trailer transfer-encoding upgrade user-agent vary via warning \
            www-authenticate method get status";
        let more = ["200 OK", "version", "HTTP/1.1", "url", "public", "set-cookie", "keep-alive", "origin"];
        let text = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
            203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request\
            401 Unauthorized403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented\
            503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 \
            Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
            application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=\
            gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
        let mut out = Vec::new();
        for word in words.split_whitespace().chain(more) {
            out.put_u32(word.len() as u32);
            out.extend_from_slice(word.as_bytes());
        }
        out.extend_from_slice(text.as_bytes());
        out
    })
}

impl Codec {
    /// Appends a frame to `out`.
    pub(super) fn encode(&mut self, frame: &Frame, out: &mut BytesMut) {
        match frame {
            Frame::Data { id, fin, data } => {
                out.put_u32(*id);
                out.put_u32((u32::from(*fin) << 24) | data.len() as u32);
                out.extend_from_slice(data);
            }
            Frame::Open { id, headers, fin } => {
                let block = self.pack_headers(headers);
                control(SYN_STREAM, u8::from(*fin), 10 + block.len(), out);
                out.put_u32(*id);
                out.put_u32(0);
                out.put_u16(0);
                out.extend_from_slice(&block);
            }
            Frame::Reply { id } => {
                let block = self.pack_headers(&[]);
                control(SYN_REPLY, 0, 4 + block.len(), out);
                out.put_u32(*id);
                out.extend_from_slice(&block);
            }
            Frame::Reset { id, status } => {
                control(RST_STREAM, 0, 8, out);
                out.put_u32(*id);
                out.put_u32(*status);
            }
            Frame::Ping { id } => {
                control(PING, 0, 4, out);
                out.put_u32(*id);
            }
            Frame::Goodbye => {
                control(GOAWAY, 0, 8, out);
                out.put_u64(0);
            }
            Frame::Other => {}
        }
    }

    /// Takes a whole frame off `bytes`; `None` while it is not all there.
    pub(super) fn decode(&mut self, bytes: &mut BytesMut) -> Result<Option<Frame>, &'static str> {
        if bytes.len() < 8 {
            return Ok(None);
        }
        let is_control = bytes[0] & 0x80 != 0;
        let length = u32::from_be_bytes([0, bytes[5], bytes[6], bytes[7]]) as usize;
        if is_control && length > MOST_CONTROL_BYTES {
            return Err("control frame too large");
        }
        if bytes.len() < 8 + length {
            return Ok(None);
        }
        let head = bytes.split_to(8);
        let mut body = bytes.split_to(length).freeze();
        let flags = head[4];
        if !is_control {
            let id = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
            return Ok(Some(Frame::Data { id, fin: flags & FIN != 0, data: body }));
        }
        let kind = u16::from_be_bytes([head[2], head[3]]);
        let number = |body: &mut Bytes| {
            if body.len() < 4 { Err("control frame too short") } else { Ok(body.get_u32() & 0x7fff_ffff) }
        };
        Ok(Some(match kind {
            SYN_STREAM => {
                let id = number(&mut body)?;
                if body.len() < 6 {
                    return Err("control frame too short");
                }
                body.advance(6);
                Frame::Open { id, headers: self.unpack_headers(&body)?, fin: flags & FIN != 0 }
            }
            SYN_REPLY => {
                let id = number(&mut body)?;
                self.unpack_headers(&body)?;
                Frame::Reply { id }
            }
            RST_STREAM => Frame::Reset { id: number(&mut body)?, status: number(&mut body)? },
            PING => Frame::Ping { id: number(&mut body)? },
            GOAWAY => Frame::Goodbye,
            // HEADERS has a block too, which must pass through the decompressor to keep it in step.
            8 => {
                number(&mut body)?;
                self.unpack_headers(&body)?;
                Frame::Other
            }
            _ => Frame::Other,
        }))
    }

    fn pack_headers(&mut self, headers: &[(String, String)]) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(text.len() as u32);
            plain.extend_from_slice(text.as_bytes());
        }
        let mut out = Vec::with_capacity(plain.len() + 64);
        let before = self.pack.total_in();
        loop {
            let fed = (self.pack.total_in() - before) as usize;
            self.pack
                .compress_vec(&plain[fed..], &mut out, FlushCompress::Sync)
                .expect("compressing to memory succeeds");
            // A sync flush is complete when room is left in the buffer.
            if (self.pack.total_in() - before) as usize == plain.len() && out.len() < out.capacity() {
                return out;
            }
            out.reserve(64);
        }
    }

    fn unpack_headers(&mut self, block: &[u8]) -> Result<Vec<(String, String)>, &'static str> {
        let mut plain = Vec::with_capacity(1024);
        let before = self.unpack.total_in();
        loop {
            let fed = (self.unpack.total_in() - before) as usize;
            let held = plain.len();
            match self.unpack.decompress_vec(&block[fed..], &mut plain, FlushDecompress::Sync) {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.unpack.set_dictionary(dictionary()).map_err(|_| "wrong header dictionary")?;
                    continue;
                }
                Err(_) => return Err("header block cannot be decompressed"),
                Ok(Status::StreamEnd) => return Err("header stream ended"),
                Ok(_) => {}
            }
            let all_fed = (self.unpack.total_in() - before) as usize == block.len();
            if all_fed && plain.len() < plain.capacity() {
                break;
            }
            if plain.len() > MOST_HEADER_BYTES {
                return Err("header block too large");
            }
            if plain.len() == held && plain.len() < plain.capacity() {
                return Err("header block cannot be decompressed");
            }
            plain.reserve(1024);
        }
        parse_headers(&plain).ok_or("malformed header block")
    }
}

fn control(kind: u16, flags: u8, length: usize, out: &mut BytesMut) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    out.put_u32((u32::from(flags) << 24) | length as u32);
}

fn parse_headers(mut plain: &[u8]) -> Option<Vec<(String, String)>> {
    let take = |plain: &mut &[u8]| -> Option<String> {
        let (length, rest) = plain.split_first_chunk::<4>()?;
        let length = u32::from_be_bytes(*length) as usize;
        let text = rest.get(..length)?;
        *plain = &rest[length..];
        Some(String::from_utf8_lossy(text).into_owned())
    };
    let (count, rest) = plain.split_first_chunk::<4>()?;
    plain = rest;
    let mut headers = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        headers.push((take(&mut plain)?.to_lowercase(), take(&mut plain)?));
    }
    Some(headers)
}

/// For fuzzers: any bytes are frames, wait for more, or are refused, within bounds; data frames are written and read
/// again as the same.
#[allow(dead_code)] // fuzzers and tests
pub fn fuzz(data: &[u8]) {
    let (mut far, mut near, mut again) = (Codec::default(), Codec::default(), Codec::default());
    // Bytes as they come; then the same as header blocks that this side has packed.
    let mut bytes = BytesMut::from(data);
    while let Ok(Some(frame)) = far.decode(&mut bytes) {
        if let Frame::Open { headers, .. } = &frame {
            let size: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            assert!(size <= 4 * MOST_HEADER_BYTES, "headers of {size} bytes");
        }
        let mut out = BytesMut::new();
        near.encode(&frame, &mut out);
        if !matches!(frame, Frame::Other) {
            assert!(matches!(again.decode(&mut out), Ok(Some(_))), "{frame:?} is not read again");
        }
    }
    if let Some((first, rest)) = data.split_first() {
        let text = String::from_utf8_lossy(rest).into_owned();
        let headers = vec![("k".to_owned(), text); usize::from(*first % 3)];
        let mut out = BytesMut::new();
        Codec::default().encode(&Frame::Open { id: 1, headers, fin: false }, &mut out);
        let _ = Codec::default().decode(&mut out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_frames_or_refused() {
        let mut frame = BytesMut::new();
        let headers =
            vec![("streamtype".to_owned(), "error".to_owned()), ("port".to_owned(), "80".to_owned())];
        let mut codec = Codec::default();
        codec.encode(&Frame::Open { id: 1, headers, fin: false }, &mut frame);
        codec.encode(&Frame::Data { id: 1, fin: true, data: Bytes::from_static(b"text") }, &mut frame);
        knarr_meta::fuzzing::drive(&[&frame, &[0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]], 1_000, fuzz);
    }

    #[test]
    fn the_dictionary_is_the_drafts() {
        assert_eq!(dictionary().len(), 1423);
        let (mut a, mut b) = (1u32, 0u32);
        for byte in dictionary() {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        // The Adler-32 that every SPDY/3 header stream names as its dictionary.
        assert_eq!((b << 16) | a, 0xe3c6_a7c2);
    }

    #[test]
    fn header_blocks_follow_each_other_in_one_stream() {
        let (mut near, mut far) = (Codec::default(), Codec::default());
        for round in 0..50 {
            let headers = vec![
                ("streamtype".to_owned(), "error".to_owned()),
                ("port".to_owned(), round.to_string().repeat(round)),
            ];
            let mut bytes = BytesMut::new();
            near.encode(
                &Frame::Open { id: 2 * round as u32 + 1, headers: headers.clone(), fin: round % 2 == 0 },
                &mut bytes,
            );
            match far.decode(&mut bytes).unwrap() {
                Some(Frame::Open { headers: got, fin, .. }) => {
                    assert_eq!((got, fin), (headers, round % 2 == 0))
                }
                other => panic!("{other:?}"),
            }
            assert!(bytes.is_empty());
        }
    }

    #[test]
    fn nonsense_is_refused_and_half_frames_wait() {
        let mut codec = Codec::default();
        assert!(codec.decode(&mut BytesMut::from(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff][..])).is_err());
        assert!(codec.decode(&mut BytesMut::from(&[0x80, 3, 0, 1, 0, 0, 0, 2, 0, 0][..])).is_err());
        let junk = [0x80, 3, 0, 1, 0, 0, 0, 14, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 9, 9, 9, 9];
        assert!(codec.decode(&mut BytesMut::from(&junk[..])).is_err());
        assert!(
            Codec::default()
                .decode(&mut BytesMut::from(&[0, 0, 0, 1, 0, 0, 0, 5, b'x'][..]))
                .unwrap()
                .is_none()
        );
    }
}
