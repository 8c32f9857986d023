//! Sparse files in PAX form: GNU tar's formats 0.0, 0.1 (the map stands in the header) and 1.0 (the map comes before
//! the data). GNU's old format is expanded by the tar reader, with its holes filled.

use super::{invalid, write_out};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};

/// More pieces than this are refused: the map is held in memory.
const MOST_PIECES: usize = 1 << 20;

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sparse {
    /// The file's real name, where the entry has a made-up one.
    pub(super) name: Option<Vec<u8>>,
    size: u64,
    /// Offset and length of each piece of data.
    map: Vec<(u64, u64)>,
    offset: Option<u64>,
    map_in_data: bool,
}

impl Sparse {
    /// Takes in a header field, its name without `GNU.sparse.`.
    pub(super) fn hear(&mut self, field: &[u8], value: &str) -> io::Result<()> {
        match field {
            b"name" => self.name = Some(value.as_bytes().to_vec()),
            b"size" | b"realsize" => self.size = number(value)?,
            b"major" => match value {
                "0" => {}
                "1" => self.map_in_data = true,
                _ => return Err(invalid("unknown version of the sparse format")),
            },
            b"offset" => self.offset = Some(number(value)?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or_else(|| invalid("sparse map without an offset"))?;
                self.map.push((offset, number(value)?));
            }
            b"map" => {
                let numbers = value.split(',').map(number).collect::<io::Result<Vec<_>>>()?;
                self.map = numbers.chunks(2).map(|p| (p[0], p.get(1).copied().unwrap_or_default())).collect();
            }
            _ => {}
        }
        if self.map.len() > MOST_PIECES {
            return Err(invalid("the sparse map has too many pieces"));
        }
        Ok(())
    }

    /// Writes the file; the bytes of data in it.
    pub(super) fn write(
        mut self,
        entry: &mut impl Read,
        file: &mut File,
        buffer: &mut [u8],
    ) -> io::Result<u64> {
        if self.map_in_data {
            self.map = read_map(entry)?;
        }
        let (mut end, mut written) = (0, 0);
        for (offset, length) in &self.map {
            let next = offset.checked_add(*length).filter(|next| *next <= self.size && *offset >= end);
            end = next.ok_or_else(|| invalid("the sparse map is out of order"))?;
            file.seek(SeekFrom::Start(*offset))?;
            let got = write_out(&mut entry.take(*length), file, buffer, false)?;
            if got != *length {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            written += got;
        }
        file.set_len(self.size)?;
        Ok(written)
    }
}

/// Lines of decimal numbers, padded to a whole block: how many pieces, then offset and length of each.
fn read_map(entry: &mut impl Read) -> io::Result<Vec<(u64, u64)>> {
    let (mut block, mut at) = ([0; 512], 512);
    let mut next = || -> io::Result<u64> {
        let mut value = 0u64;
        loop {
            if at == block.len() {
                entry.read_exact(&mut block)?;
                at = 0;
            }
            let byte = block[at];
            at += 1;
            match byte {
                b'\n' => return Ok(value),
                b'0'..=b'9' => {
                    let digit = u64::from(byte - b'0');
                    let more = value.checked_mul(10).and_then(|v| v.checked_add(digit));
                    value = more.ok_or_else(|| invalid("number out of range in the sparse map"))?;
                }
                _ => return Err(invalid("the sparse map is not made of numbers")),
            }
        }
    };
    let pieces = next()?;
    if pieces > MOST_PIECES as u64 {
        return Err(invalid("the sparse map has too many pieces"));
    }
    (0..pieces).map(|_| Ok((next()?, next()?))).collect()
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|_| invalid("the sparse map is not made of numbers"))
}
