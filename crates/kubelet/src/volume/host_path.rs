//! hostPath and its types (the volumes page's table).

use knarr_api::core::v1::HostPathVolumeSource;
use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;

/// Checks the type, makes what may be made; the path.
pub(super) fn check(source: &HostPathVolumeSource) -> Result<PathBuf, String> {
    let path = PathBuf::from(&source.path);
    if path.components().any(|c| c == std::path::Component::ParentDir) {
        return Err(format!("hostPath {} must not contain '..'", path.display()));
    }
    let kind = fs::metadata(&path).map(|m| m.file_type()).ok();
    let fail = |what: &str| Err(format!("hostPath type check failed: {} is not {what}", path.display()));
    let io = |e: std::io::Error| format!("{}: {e}", path.display());
    let wanted = source.type_.as_deref().unwrap_or_default();
    match (wanted, kind) {
        ("", _) => {}
        ("DirectoryOrCreate", None) => {
            fs::create_dir_all(&path).map_err(io)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(io)?;
        }
        ("FileOrCreate", None) => {
            fs::File::create_new(&path).map_err(io)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).map_err(io)?;
        }
        ("Directory" | "DirectoryOrCreate", Some(k)) if k.is_dir() => {}
        ("File" | "FileOrCreate", Some(k)) if k.is_file() => {}
        ("Socket", Some(k)) if k.is_socket() => {}
        ("CharDevice", Some(k)) if k.is_char_device() => {}
        ("BlockDevice", Some(k)) if k.is_block_device() => {}
        ("Directory" | "DirectoryOrCreate", _) => return fail("a directory"),
        ("File" | "FileOrCreate", _) => return fail("a file"),
        ("Socket", _) => return fail("a socket file"),
        ("CharDevice", _) => return fail("a character device"),
        ("BlockDevice", _) => return fail("a block device"),
        (other, _) => return Err(format!("{other:?} is an invalid volume type")),
    }
    if wanted.is_empty() && !path.exists() {
        // The runtime would have to make a mount's source; upstream's runtimes make a directory.
        fs::create_dir_all(&path).map_err(io)?;
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_checked_and_missing_things_made_where_asked() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "").unwrap();
        let check = |path: PathBuf, kind: &str| {
            check(&HostPathVolumeSource { path: path.to_str().unwrap().into(), type_: Some(kind.into()) })
        };
        assert!(check(file.clone(), "File").is_ok());
        assert!(check(file, "Directory").unwrap_err().ends_with("f is not a directory"));
        assert!(check(dir.path().join("no"), "Socket").unwrap_err().ends_with("no is not a socket file"));
        assert!(check(dir.path().join("new/d"), "DirectoryOrCreate").unwrap().is_dir());
        assert!(check(dir.path().join("new/f"), "FileOrCreate").unwrap().is_file());
        assert!(check(dir.path().join("../x"), "").is_err());
    }
}
