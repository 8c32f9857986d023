//! Time zones: offsets such as `-02:30`, and names from the machine's zone files (RFC 8536).

use crate::error::EvalError;
use std::path::Path;

/// Where the machine keeps its zones; the first that has the name counts.
const FOLDERS: [&str; 3] = ["/usr/share/zoneinfo", "/usr/share/lib/zoneinfo", "/usr/lib/locale/TZ"];

/// The seconds east of UTC that `zone` has at a time.
pub(crate) fn offset_at(zone: &str, seconds: i64) -> Result<i64, EvalError> {
    if let Some((hours, minutes)) = zone.split_once(':') {
        let hours = number(hours)?;
        let minutes = number(minutes)?;
        let total = if zone.starts_with('-') { hours * 60 - minutes } else { hours * 60 + minutes };
        return Ok(total * 60);
    }
    match zone {
        "" | "UTC" => return Ok(0),
        "Local" => return Ok(0),
        _ => {}
    }
    let unknown = || EvalError::new(format!("unknown time zone {zone}"));
    let safe = !zone.contains("..") && !zone.starts_with('/') && !zone.contains('\\');
    if !safe {
        return Err(EvalError::new("time: invalid location name"));
    }
    let file = FOLDERS.iter().find_map(|folder| std::fs::read(Path::new(folder).join(zone)).ok());
    parse(&file.ok_or_else(unknown)?, seconds)
        .ok_or_else(|| EvalError::new("malformed time zone information"))
}

fn number(text: &str) -> Result<i64, EvalError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let valid = !digits.is_empty() && digits.len() < 7 && digits.bytes().all(|b| b.is_ascii_digit());
    match text.parse() {
        Ok(value) if valid => Ok(value),
        _ => {
            let quoted = knarr_meta::go::quote(text);
            Err(EvalError::new(format!("strconv.Atoi: parsing {quoted}: invalid syntax")))
        }
    }
}

fn be32(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// The offset that a zone file gives for a time.
fn parse(bytes: &[u8], seconds: i64) -> Option<i64> {
    let first = Header::read(bytes)?;
    if bytes.get(4).is_none_or(|version| *version < b'2') {
        return first.offset_at(bytes, 44, 4, seconds);
    }
    // The second block has the same in 64 bits, then the rule for later years.
    let second = 44 + first.length(4);
    let header = Header::read(bytes.get(second..)?)?;
    let last = header.last_transition(bytes, second + 44)?;
    let rule = std::str::from_utf8(bytes.get(second + 44 + header.length(8)..)?).ok()?.trim_matches('\n');
    if last.is_none_or(|last| seconds >= last)
        && let Some(offset) = super::zone_rule::offset_at(rule, seconds)
    {
        return Some(offset);
    }
    header.offset_at(bytes, second + 44, 8, seconds)
}

/// The counts of a block.
struct Header {
    isut: usize,
    isstd: usize,
    leap: usize,
    times: usize,
    types: usize,
    chars: usize,
}

impl Header {
    fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.get(..4)? != b"TZif" {
            return None;
        }
        let count = |index: usize| be32(bytes, 20 + index * 4).and_then(|count| usize::try_from(count).ok());
        Some(Self {
            isut: count(0)?,
            isstd: count(1)?,
            leap: count(2)?,
            times: count(3)?,
            types: count(4)?,
            chars: count(5)?,
        })
    }

    fn length(&self, size: usize) -> usize {
        self.times * (size + 1)
            + self.types * 6
            + self.chars
            + self.leap * (size + 4)
            + self.isstd
            + self.isut
    }

    fn last_transition(&self, bytes: &[u8], at: usize) -> Option<Option<i64>> {
        if self.times == 0 {
            return Some(None);
        }
        Some(Some(time(bytes, at + (self.times - 1) * 8, 8)?))
    }

    fn offset_at(&self, bytes: &[u8], at: usize, size: usize, seconds: i64) -> Option<i64> {
        let mut kind = 0;
        for index in 0..self.times {
            if time(bytes, at + index * size, size)? > seconds {
                break;
            }
            kind = usize::from(*bytes.get(at + self.times * size + index)?);
        }
        let entry = at + self.times * (size + 1) + kind * 6;
        Some(i64::from(be32(bytes, entry)?))
    }
}

fn time(bytes: &[u8], at: usize, size: usize) -> Option<i64> {
    if size == 4 {
        return Some(i64::from(be32(bytes, at)?));
    }
    Some(i64::from_be_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
