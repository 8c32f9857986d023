//! SHA-256 digests in the OCI form `sha256:<64 hex digits>`, and readers that compute them on the way.

use sha2::{Digest, Sha256};
use std::io::{self, Read, Write};

/// The digest of `bytes`.
pub(crate) fn of(bytes: &[u8]) -> String {
    finish(Sha256::new_with_prefix(bytes))
}

/// The text form of a finished hash.
pub(crate) fn finish(hash: Sha256) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(71);
    text.push_str("sha256:");
    for byte in hash.finalize() {
        write!(text, "{byte:02x}").expect("writing to a string succeeds");
    }
    text
}

/// The hex digits of a well-formed `sha256:` digest. Everything that becomes a file name passes here.
pub(crate) fn hex(digest: &str) -> Option<&str> {
    let hex = digest.strip_prefix("sha256:")?;
    let ok = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    ok.then_some(hex)
}

/// A reader that hashes and counts what passes through it.
pub(crate) struct Hashing<R> {
    inner: R,
    hash: Sha256,
    /// Bytes read so far.
    pub(crate) count: u64,
}

impl<R: Read> Hashing<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, hash: Sha256::new(), count: 0 }
    }

    /// Reads to the end (a tar reader stops before trailing padding, the digest does not) and gives the
    /// digest.
    pub(crate) fn drain(mut self) -> io::Result<String> {
        io::copy(&mut self, &mut io::sink())?;
        Ok(finish(self.hash))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.hash.update(&buf[..n]);
        self.count += n as u64;
        Ok(n)
    }
}

/// A writer that hashes and counts what passes through it.
pub(crate) struct Written<W> {
    inner: W,
    hash: Sha256,
    count: u64,
}

impl<W: Write> Written<W> {
    pub(crate) fn new(inner: W) -> Self {
        Self { inner, hash: Sha256::new(), count: 0 }
    }

    /// How many bytes were written, and their digest.
    pub(crate) fn finish(self) -> (u64, String) {
        (self.count, finish(self.hash))
    }
}

impl<W: Write> Write for Written<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.inner.write(buf)?;
        self.hash.update(&buf[..n]);
        self.count += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Undoes gzip or zstd compression, told by the first bytes; anything else passes as it is.
pub(crate) fn decompressed<'a, R: Read + 'a>(mut reader: R) -> io::Result<Box<dyn Read + 'a>> {
    let mut magic = [0; 4];
    let mut got = 0;
    while got < magic.len() {
        match reader.read(&mut magic[got..])? {
            0 => break,
            n => got += n,
        }
    }
    let whole = io::Cursor::new(magic).take(got as u64).chain(reader);
    Ok(if magic.starts_with(&[0x1f, 0x8b]) {
        Box::new(flate2::read::MultiGzDecoder::new(io::BufReader::with_capacity(64 << 10, whole)))
    } else if magic == [0x28, 0xb5, 0x2f, 0xfd] {
        Box::new(zstd::stream::read::Decoder::new(whole)?)
    } else {
        Box::new(whole)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_well_formed_digests_become_file_names() {
        assert_eq!(hex(&of(b"")).unwrap().len(), 64);
        for bad in ["sha256:../../etc/passwd", "sha256:", "md5:00", &format!("sha256:{}", "A".repeat(64))] {
            assert_eq!(hex(bad), None, "{bad}");
        }
    }

    #[test]
    fn compression_is_told_by_its_magic() {
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(b"hello").unwrap();
        let zst = zstd::encode_all(&b"hello"[..], 1).unwrap();
        for form in [gz.finish().unwrap(), zst, b"hello".to_vec()] {
            let mut text = String::new();
            decompressed(&form[..]).unwrap().read_to_string(&mut text).unwrap();
            assert_eq!(text, "hello");
        }
        assert_eq!(decompressed(&b"h"[..]).unwrap().read_to_end(&mut Vec::new()).unwrap(), 1);
    }
}
