//! Where programs and working directories are: Go's `exec.LookPath`, whose error texts users know.

use super::target::{self, Shape};
use super::{Failure, reason};
use rustix::fd::BorrowedFd;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Makes the working directory if it is missing.
pub fn make_dir(root: BorrowedFd<'_>, path: &Path) -> Result<(), Failure> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    target::ensure(root, path, Shape::Directory).map(drop)
}

/// The file that `name` stands for.
pub fn look_up(name: &str, search: Option<&str>) -> Result<PathBuf, Failure> {
    let failed = |why: String| Failure::new(format!("exec: {name:?}: {why}"));
    if name.contains('/') {
        let stat = |error: io::Error| failed(format!("stat {name}: {}", reason(&error)));
        return match executable(Path::new(name)) {
            Ok(()) => Ok(PathBuf::from(name)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(stat(error)),
            Err(error) => Err(failed(reason(&error))),
        };
    }
    if name.is_empty() {
        return Err(failed("executable file not found in $PATH".to_owned()));
    }
    for dir in search.unwrap_or_default().split(':') {
        // An empty element is the current directory.
        let path = Path::new(if dir.is_empty() { "." } else { dir }).join(name);
        if executable(&path).is_ok() {
            return Ok(path);
        }
    }
    Err(failed("executable file not found in $PATH".to_owned()))
}

fn executable(path: &Path) -> io::Result<()> {
    let meta = std::fs::metadata(path)?;
    if meta.is_dir() {
        return Err(io::Error::from_raw_os_error(libc::EISDIR));
    }
    if meta.permissions().mode() & 0o111 == 0 {
        return Err(io::Error::from_raw_os_error(libc::EACCES));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_run_is_said_in_gos_words() {
        let text = |name: &str| match look_up(name, Some("/nonexistent:/bin")) {
            Ok(path) => path.display().to_string(),
            Err(Failure(crate::protocol::Refusal::Start(text))) => text,
            Err(other) => panic!("{other:?}"),
        };
        for (name, expected) in [
            ("sh", "/bin/sh"),
            ("foo", "exec: \"foo\": executable file not found in $PATH"),
            ("/foo", "exec: \"/foo\": stat /foo: no such file or directory"),
            ("/etc", "exec: \"/etc\": is a directory"),
            ("/etc/passwd", "exec: \"/etc/passwd\": permission denied"),
        ] {
            assert_eq!(text(name), expected);
        }
    }
}
