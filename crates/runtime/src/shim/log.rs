//! A container's log file in the CRI format (k8s.io/cri-api, "LogFormat"): a line is time, stream, `F` or `P`
//! (part of a line that goes on), text. Rotated files are named as the kubelet names them.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The longest text in one line of the file; containerd's default.
const MAX_LINE: usize = 16 * 1024;

/// Which stream a text is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output, and everything from a terminal.
    Stdout = 0,
    /// Standard error.
    Stderr = 1,
}

impl Stream {
    fn name(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Seconds and nanoseconds since 1970.
pub type Time = (i64, u32);

/// A log file being written.
pub struct Log {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    max_bytes: u64,
    max_files: u32,
    unfinished: [Vec<u8>; 2],
}

impl Log {
    /// Opens the file, making it and its directory if need be. An empty path is a log that keeps nothing.
    pub fn open(path: &Path, max_bytes: u64, max_files: u32) -> io::Result<Self> {
        let mut log = Self {
            path: path.to_owned(),
            file: None,
            size: 0,
            max_bytes,
            max_files,
            unfinished: [Vec::new(), Vec::new()],
        };
        log.reopen()?;
        Ok(log)
    }

    /// Opens the file anew, for when it was renamed.
    pub fn reopen(&mut self) -> io::Result<()> {
        if self.path.as_os_str().is_empty() {
            return Ok(());
        }
        if let Some(dir) = self.path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let file = OpenOptions::new().append(true).create(true).mode(0o640).open(&self.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Takes what a stream wrote. A disk that takes no more loses lines, but never stops the container.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: Time) {
        let mut pending = std::mem::take(&mut self.unfinished[stream as usize]);
        let mut out = Vec::new();
        let stamp = rfc3339(now);
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            pending.extend_from_slice(&rest[..end]);
            rest = &rest[end + 1..];
            cut(&mut pending, &mut out, &stamp, stream);
            line(&mut out, &stamp, stream, 'F', &pending);
            pending.clear();
        }
        pending.extend_from_slice(rest);
        cut(&mut pending, &mut out, &stamp, stream);
        if pending.is_empty() {
            pending = Vec::new();
        }
        self.unfinished[stream as usize] = pending;
        self.put(&out, now);
    }

    /// Writes what had no end of line, and says so: readers put none there.
    pub fn finish(&mut self, now: Time) {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(&mut self.unfinished[stream as usize]);
            if !pending.is_empty() {
                let mut out = Vec::new();
                line(&mut out, &rfc3339(now), stream, 'P', &pending);
                self.put(&out, now);
            }
        }
    }

    fn put(&mut self, out: &[u8], now: Time) {
        if out.is_empty() {
            return;
        }
        if self.max_bytes > 0 && self.size > 0 && self.size + out.len() as u64 > self.max_bytes {
            let _ = self.rotate(now);
        }
        if let Some(file) = &mut self.file
            && file.write_all(out).is_ok()
        {
            self.size += out.len() as u64;
        }
    }

    fn rotate(&mut self, now: Time) -> io::Result<()> {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Ok(()) };
        let prefix = format!("{}.", name.to_string_lossy());
        let to = dir.join(format!("{prefix}{}", compact(now)));
        if to.exists() {
            // Twice within a second: the file grows a little longer instead.
            return Ok(());
        }
        std::fs::rename(&self.path, to)?;
        let mut old: Vec<PathBuf> = std::fs::read_dir(dir)?
            .flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with(&prefix))
            .map(|entry| entry.path())
            .collect();
        old.sort();
        let keep = self.max_files.saturating_sub(1) as usize;
        for path in old.iter().rev().skip(keep) {
            let _ = std::fs::remove_file(path);
        }
        self.reopen()
    }
}

/// Takes whole parts off a line that is too long for one.
fn cut(pending: &mut Vec<u8>, out: &mut Vec<u8>, stamp: &str, stream: Stream) {
    let mut start = 0;
    while pending.len() - start > MAX_LINE {
        line(out, stamp, stream, 'P', &pending[start..start + MAX_LINE]);
        start += MAX_LINE;
    }
    pending.drain(..start);
}

fn line(out: &mut Vec<u8>, stamp: &str, stream: Stream, tag: char, text: &[u8]) {
    let _ = write!(out, "{stamp} {} {tag} ", stream.name());
    out.extend_from_slice(text);
    out.push(b'\n');
}

/// Year, month, day, hour, minute, second in UTC (the proleptic Gregorian calendar, by Hinnant's algorithm).
fn civil(seconds: i64) -> (i64, i64, i64, i64, i64, i64) {
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day, second / 3600, second / 60 % 60, second % 60)
}

pub fn rfc3339((seconds, nanos): Time) -> String {
    let (year, month, day, hour, minute, second) = civil(seconds);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

fn compact((seconds, _): Time) -> String {
    let (year, month, day, hour, minute, second) = civil(seconds);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Time = (1_763_726_400, 5);

    fn log(max_bytes: u64, max_files: u32) -> (tempfile::TempDir, Log) {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(&dir.path().join("pod/c/0.log"), max_bytes, max_files).unwrap();
        (dir, log)
    }

    #[test]
    fn lines_carry_time_stream_and_tag() {
        let (_dir, mut log) = log(0, 0);
        log.write(Stream::Stdout, b"Hello\nwor", NOON);
        log.write(Stream::Stderr, b"oops\n", NOON);
        log.write(Stream::Stdout, b"ld\n\nend", NOON);
        log.finish(NOON);
        assert_eq!(
            std::fs::read_to_string(&log.path).unwrap(),
            "2025-11-21T12:00:00.000000005Z stdout F Hello\n\
             2025-11-21T12:00:00.000000005Z stderr F oops\n\
             2025-11-21T12:00:00.000000005Z stdout F world\n\
             2025-11-21T12:00:00.000000005Z stdout F \n\
             2025-11-21T12:00:00.000000005Z stdout P end\n"
        );
    }

    #[test]
    fn a_line_beyond_sixteen_kibibytes_comes_in_parts() {
        let (_dir, mut log) = log(0, 0);
        log.write(Stream::Stdout, &[b'x'; MAX_LINE], NOON);
        log.write(Stream::Stdout, b"\n", NOON);
        log.write(Stream::Stdout, &[b'y'; MAX_LINE * 2 + 1], NOON);
        log.write(Stream::Stdout, b"\n", NOON);
        let text = std::fs::read_to_string(&log.path).unwrap();
        let shape: Vec<(&str, usize)> =
            text.lines().map(|l| l.splitn(4, ' ').collect::<Vec<_>>()).map(|f| (f[2], f[3].len())).collect();
        assert_eq!(shape, [("F", MAX_LINE), ("P", MAX_LINE), ("P", MAX_LINE), ("F", 1)]);
    }

    #[test]
    fn a_full_file_is_renamed_and_the_oldest_are_removed() {
        let (dir, mut log) = log(100, 3);
        for second in 0..5 {
            let text = format!("{second}{}\n", "z".repeat(40));
            log.write(Stream::Stdout, text.as_bytes(), (NOON.0 + second, 0));
        }
        let mut names: Vec<String> = std::fs::read_dir(dir.path().join("pod/c"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["0.log", "0.log.20251121-120003", "0.log.20251121-120004"]);
    }

    #[test]
    fn dates_are_right_at_the_turns_of_the_calendar() {
        for (seconds, text) in [
            (0, "19700101-000000"),
            (951_782_399, "20000228-235959"),
            (951_782_400, "20000229-000000"),
            (4_107_542_400, "21000301-000000"),
        ] {
            assert_eq!(compact((seconds, 0)), text);
        }
    }
}
