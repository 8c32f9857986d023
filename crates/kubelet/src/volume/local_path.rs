//! Where volumes of the class `local-path` are: one directory each below `<root>/local-path`, which outlives pods,
//! restarts and `knarr down`, and goes when its volume is deleted.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// The directory of a volume. Names are `pvc-` and a UID, and nothing else.
fn directory(root: &Path, volume: &str) -> Result<PathBuf> {
    let uid = volume.strip_prefix("pvc-").unwrap_or_default();
    let fine = uid.len() == 36 && uid.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit());
    if !fine {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{volume:?} is no name of a volume")));
    }
    Ok(root.join("local-path").join(volume))
}

/// Makes a volume's directory, for every user, unless it is there.
pub(crate) fn make(root: &Path, volume: &str) -> Result<PathBuf> {
    let path = directory(root, volume)?;
    fs::create_dir_all(root.join("local-path"))?;
    match fs::create_dir(&path) {
        // Who owns it and may use it is its user's from now on.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
        made => {
            made?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
        }
    }
    path.canonicalize()
}

/// Removes a volume's directory with all that is in it.
pub(crate) fn remove(root: &Path, volume: &str) -> Result<()> {
    let path = directory(root, volume)?;
    if super::has_mounts(&path) {
        return Err(Error::other(format!("something is mounted below {}", path.display())));
    }
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_come_and_go_and_no_others() {
        let root = tempfile::tempdir().unwrap();
        let name = "pvc-0b5e3a54-7c1e-4f0e-9a0b-1c2d3e4f5a6b";
        let path = make(root.path(), name).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o777);
        fs::write(path.join("f"), "kept").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        assert_eq!(make(root.path(), name).unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(path.join("f")).unwrap(), "kept");
        remove(root.path(), name).unwrap();
        assert!(!path.exists());
        remove(root.path(), name).unwrap();
        for bad in [
            "",
            "pvc-",
            "..",
            "pvc-../../../../../../../../../../../../etc",
            "data",
            "pvc-0b5e3a54/c1e-4f0e-9a0b-1c2d3e4f5a6b",
        ] {
            assert_eq!(make(root.path(), bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
            assert_eq!(remove(root.path(), bad).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
    }
}
