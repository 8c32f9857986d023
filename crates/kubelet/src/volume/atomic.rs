//! Files that change all at once: every version is a directory, `..data` is a symbolic link to the current
//! one that is replaced by rename, and each visible name is a link through `..data` (upstream's atomic
//! writer lays volumes out so, and programs watch for it).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path};

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// A file to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct File {
    pub(super) content: Vec<u8>,
    pub(super) mode: u32,
    /// Owner in place of root.
    pub(super) uid: Option<u32>,
}

/// Files by relative path.
pub(super) type Payload = BTreeMap<String, File>;

/// Makes the directory hold exactly the payload. False when it did already. `finish` has its hand at a version's
/// directory before anybody sees it.
pub(super) fn write(
    dir: &Path,
    payload: &Payload,
    finish: impl Fn(&Path) -> io::Result<()>,
) -> io::Result<bool> {
    for path in payload.keys() {
        if !is_inside(path) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path: {path}")));
        }
    }
    fs::create_dir_all(dir)?;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
    let old = fs::read_link(dir.join(DATA)).ok();
    if let Some(old) = &old
        && is_current(&dir.join(old), payload)
    {
        return Ok(false);
    }
    let version = tempfile_name(dir)?;
    let new = dir.join(&version);
    fill(&new, payload).and_then(|()| finish(&new)).inspect_err(|_| drop(fs::remove_dir_all(&new)))?;
    let _ = fs::remove_file(dir.join(NEW_DATA));
    symlink(&version, dir.join(NEW_DATA))?;
    fs::rename(dir.join(NEW_DATA), dir.join(DATA))?;
    show(dir, payload, &version)?;
    Ok(true)
}

/// Writes a version.
fn fill(new: &Path, payload: &Payload) -> io::Result<()> {
    for (path, file) in payload {
        let target = new.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.content)?;
        fs::set_permissions(&target, fs::Permissions::from_mode(file.mode))?;
        if let Some(uid) = file.uid {
            std::os::unix::fs::chown(&target, Some(uid), None)?;
        }
    }
    fs::set_permissions(new, fs::Permissions::from_mode(0o755))
}

/// Makes the visible names those of the payload, and takes away older versions.
fn show(dir: &Path, payload: &Payload, version: &str) -> io::Result<()> {
    let visible: BTreeSet<&str> = payload.keys().filter_map(|p| p.split('/').next()).collect();
    for name in &visible {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let stale_link = !name.starts_with("..") && !visible.contains(name.as_str());
        if stale_link {
            let _ = fs::remove_file(entry.path());
        } else if name.starts_with("..") && name != DATA && name != version {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
    Ok(())
}

fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.starts_with("..")
        && Path::new(path).components().all(|c| matches!(c, Component::Normal(_)))
}

/// A directory that did not exist; its name's form is upstream's as far as anybody looks at it.
fn tempfile_name(dir: &Path) -> io::Result<String> {
    for number in 0u32.. {
        let name = format!("..v{number:09}");
        match fs::create_dir(dir.join(&name)) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    unreachable!("there are more numbers than versions")
}

fn is_current(version: &Path, payload: &Payload) -> bool {
    let mut files = Vec::new();
    let mut ahead = vec![version.to_owned()];
    while let Some(dir) = ahead.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { return false };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => ahead.push(entry.path()),
                _ => files.push(entry.path()),
            }
        }
    }
    files.len() == payload.len()
        && payload.iter().all(|(path, file)| {
            // Modes are not compared: fsGroup adds bits after the writing.
            fs::read(version.join(path)).is_ok_and(|content| content == file.content)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |content: &str| File { content: content.into(), mode: 0o640, uid: None };
        files.iter().map(|(path, content)| ((*path).to_owned(), file(content))).collect()
    }

    fn visible(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .filter(|n| !n.starts_with(".."))
            .collect();
        names.sort();
        names
    }

    #[test]
    fn all_files_change_at_once_and_nothing_old_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v");
        assert!(write(&path, &payload(&[("a", "1"), ("d/b", "2")]), |_| Ok(())).unwrap());
        assert_eq!(fs::read_to_string(path.join("d/b")).unwrap(), "2");
        assert_eq!(fs::read_link(path.join("a")).unwrap(), Path::new("..data/a"));
        assert_eq!(fs::metadata(path.join("a")).unwrap().permissions().mode() & 0o777, 0o640);
        let first = fs::read_link(path.join(DATA)).unwrap();
        assert!(!write(&path, &payload(&[("a", "1"), ("d/b", "2")]), |_| Ok(())).unwrap());
        assert_eq!(fs::read_link(path.join(DATA)).unwrap(), first);
        assert!(write(&path, &payload(&[("a", "3"), ("c", "4")]), |_| Ok(())).unwrap());
        assert_eq!(fs::read_to_string(path.join("a")).unwrap(), "3");
        assert_eq!(visible(&path), ["a", "c"]);
        assert!(!path.join(first).exists());
        assert!(write(&path, &payload(&[]), |_| Ok(())).unwrap());
        assert_eq!(visible(&path), Vec::<String>::new());
    }

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for bad in ["../x", "/x", "a/../../x", "", "..data"] {
            assert!(write(&dir.path().join("v"), &payload(&[(bad, "1")]), |_| Ok(())).is_err(), "{bad}");
        }
    }
}
