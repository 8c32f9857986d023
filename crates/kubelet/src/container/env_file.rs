//! Environment variables from a file that an earlier container left in a volume (KEP-3721): lines of `NAME='value'`,
//! a value in single quotes over as many lines as it takes; what a POSIX shell would read differently is refused.

use std::io::Read;
use std::path::Path;

/// A file of variables is at most this large.
const MOST_BYTES: u64 = 1 << 20;

/// Reads a variable from a file below a volume; empty when it is not there. The path cannot lead out of the
/// volume, whatever links the volume holds.
pub(crate) fn read(volume: &Path, path: &str, key: &str) -> Result<String, String> {
    use rustix::fs::{Mode, OFlags, ResolveFlags};
    let failed = |e: &dyn std::fmt::Display| {
        format!("failed to open environment variable file \"{}\": {e}", volume.join(path).display())
    };
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|e| failed(&e))?;
    // Nothing in the volume can make this wait: a FIFO without a writer opens at once.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)
        .map_err(|e| failed(&e))?;
    let mut bytes = Vec::new();
    std::fs::File::from(file).take(MOST_BYTES).read_to_end(&mut bytes).map_err(|e| failed(&e))?;
    parse(&String::from_utf8_lossy(&bytes), key)
}

fn parse(text: &str, key: &str) -> Result<String, String> {
    let mut lines = text.lines().enumerate().map(|(at, line)| (at + 1, line));
    while let Some((at, line)) = lines.next() {
        let invalid = |why: &str| Err(format!("invalid environment variable format at line {at}: {why}"));
        let line = line.trim_start_matches([' ', '\t']);
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let Some((name, value)) = line.split_once('=') else { return invalid("missing '='") };
        let plain = name.trim_end_matches([' ', '\t']);
        if plain.is_empty() {
            return invalid("empty variable name");
        }
        if plain != name {
            return invalid("whitespace before '=' is not allowed");
        }
        if value.starts_with([' ', '\t']) {
            // To a shell the variable is empty and what follows a command.
            if name == key {
                return Ok(String::new());
            }
            continue;
        }
        let Some(mut rest) = value.strip_prefix('\'') else {
            return invalid("value must be enclosed in single quotes");
        };
        let mut held = String::new();
        let after = loop {
            if let Some((end, after)) = rest.split_once('\'') {
                held.push_str(end);
                break after;
            }
            held.push_str(rest);
            held.push('\n');
            match lines.next() {
                Some((_, line)) => rest = line,
                None => {
                    return Err(format!(
                        "invalid environment variable format starting at line {at}: unclosed single quote"
                    ));
                }
            }
        };
        let after = after.trim_start_matches([' ', '\t']);
        if !after.is_empty() && !after.starts_with('#') {
            return invalid("unexpected content after closing quote");
        }
        if name == key {
            return Ok(held);
        }
    }
    Ok(String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_what_is_in_single_quotes() {
        for (text, expected) in [
            ("K='v'", Ok("v")),
            ("# c\n\n  K='a b' # d\n", Ok("a b")),
            ("J='x'\nK='one\ntwo'", Ok("one\ntwo")),
            ("K= 'v'", Ok("")),
            ("J='x'", Ok("")),
            ("K=v", Err("line 1: value must be enclosed in single quotes")),
            ("K ='v'", Err("whitespace before '='")),
            ("\nK", Err("line 2: missing '='")),
            ("='v'", Err("empty variable name")),
            ("K='v' w", Err("unexpected content after closing quote")),
            ("K='v\nw", Err("starting at line 1: unclosed single quote")),
        ] {
            match (parse(text, "K"), expected) {
                (Ok(value), Ok(expected)) => assert_eq!(value, expected, "{text}"),
                (Err(error), Err(expected)) => assert!(error.contains(expected), "{text}: {error}"),
                (got, _) => panic!("{text}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_file_outside_the_volume_is_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let volume = dir.path().join("v");
        std::fs::create_dir(&volume).unwrap();
        std::fs::write(dir.path().join("secret"), "K='v'").unwrap();
        std::os::unix::fs::symlink(dir.path().join("secret"), volume.join("link")).unwrap();
        assert!(read(&volume, "link", "K").is_err());
        assert!(read(&volume, "../secret", "K").is_err());
        std::fs::write(volume.join("f"), "K='v'").unwrap();
        assert_eq!(read(&volume, "f", "K").unwrap(), "v");
    }
}
