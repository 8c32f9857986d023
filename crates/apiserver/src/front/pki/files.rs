//! Files that hold secrets: written whole or not at all, readable by their owner alone.

use super::PkiError;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

/// Makes the directory, mode 0700.
pub(super) fn make_dir(dir: &Path) -> Result<(), PkiError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(error(dir))
}

/// Replaces `path` by `bytes`, mode 0600: a reader or a crash sees the old file or the new one.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    replace(path, bytes)?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// Makes the names of a directory's files durable.
pub(super) fn sync_dir(dir: &Path) -> Result<(), PkiError> {
    fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(error(dir))
}

/// The same, whose rename is durable after [`sync_dir`] only.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), PkiError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(error(&temporary))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(error(&temporary))?;
    fs::rename(&temporary, path).map_err(error(path))
}

/// Reads a text file.
pub fn read(path: &Path) -> Result<String, PkiError> {
    fs::read_to_string(path).map_err(error(path))
}

fn error(path: &Path) -> impl FnOnce(std::io::Error) -> PkiError + '_ {
    move |source| PkiError::File { path: path.to_owned(), source }
}
