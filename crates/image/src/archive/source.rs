//! Where the members of an archive are: in a tar file, which is read in place by position, or in a directory.

use super::MOST_METADATA_BYTES;
use crate::digest::{self, decompressed};
use crate::error::{ImportError, io_error};
use crate::store::ImageStore;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// An archive that can be read out of order.
pub(super) struct Source {
    /// Its name, for errors.
    pub(super) path: PathBuf,
    place: Place,
}

enum Place {
    Tar { file: File, size: u64, members: HashMap<String, Member> },
    Directory(rustix::fd::OwnedFd),
}

enum Member {
    File { at: u64, size: u64 },
    Link(String),
}

/// Removes the copy of an archive that could not be read in place.
struct Temp(PathBuf);

impl Drop for Temp {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Source {
    /// Opens the directory at `path`.
    pub(super) fn directory(path: &Path) -> Result<Self, ImportError> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(CWD, path, flags, Mode::empty())
            .map_err(|e| ImportError::Read { path: path.to_owned(), source: e.into() })?;
        Ok(Self { path: path.to_owned(), place: Place::Directory(dir) })
    }

    /// Looks into `file`, called `path`. What is compressed, or comes through a pipe, is copied into the store first.
    pub(super) fn tar(store: &ImageStore, path: &Path, mut file: File) -> Result<Self, ImportError> {
        let read_error = |source| ImportError::Read { path: path.to_owned(), source };
        let in_place = file.stream_position().is_ok_and(|at| at == 0);
        let mut magic = [0; 4];
        let got = if in_place { file.read_at(&mut magic, 0).map_err(read_error)? } else { 0 };
        let compressed = got >= 2 && (magic[..2] == [0x1f, 0x8b] || magic == [0x28, 0xb5, 0x2f, 0xfd]);
        if compressed || !in_place {
            let plain = store.temp();
            let options = File::options().read(true).write(true).create_new(true).open(&plain);
            let mut out = options.map_err(io_error("create", &plain))?;
            // Unlinked when this ends: the open file stays.
            let _temp = Temp(plain);
            io::copy(&mut decompressed(file).map_err(read_error)?, &mut out).map_err(read_error)?;
            file = out;
        }
        file.seek(SeekFrom::Start(0)).map_err(read_error)?;
        let size = file.metadata().map_err(read_error)?.len();
        let members = members(&file).map_err(read_error)?;
        let source = Self { path: path.to_owned(), place: Place::Tar { file, size, members } };
        source.whole().map_err(|detail| source.format(detail))?;
        Ok(source)
    }

    pub(super) fn format(&self, detail: impl Into<String>) -> ImportError {
        ImportError::Format { path: self.path.clone(), detail: detail.into() }
    }

    /// Whether a tar file has all of its last member.
    fn whole(&self) -> Result<(), String> {
        let Place::Tar { size, members, .. } = &self.place else { return Ok(()) };
        for (name, member) in members {
            if let Member::File { at, size: length } = member
                && at.saturating_add(*length) > *size
            {
                return Err(format!("it is cut off within {name}: it has {size} bytes"));
            }
        }
        Ok(())
    }

    /// Says that something is missing, and why, if the archive does not end with zeros as tar files do.
    pub(super) fn missing(&self, what: &str) -> ImportError {
        let mut end = [0; 512];
        let cut = match &self.place {
            Place::Directory(_) => false,
            Place::Tar { file, size, .. } => {
                let got = file.read_at(&mut end, size.saturating_sub(512)).unwrap_or_default();
                end[..got].iter().any(|b| *b != 0)
            }
        };
        self.format(format!("{what}{}", if cut { "; it seems to be cut off" } else { "" }))
    }

    /// Whether there is such a member.
    pub(super) fn has(&self, name: &str) -> bool {
        self.open(name).is_ok()
    }

    /// Opens a member.
    pub(super) fn open(&self, name: &str) -> Result<Part, ImportError> {
        let read_error = |source| ImportError::Read { path: self.path.join(name), source };
        let mut name = normal(name);
        match &self.place {
            Place::Directory(dir) => {
                let opened = rustix::fs::openat2(
                    dir,
                    &*name,
                    OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
                    Mode::empty(),
                    ResolveFlags::BENEATH,
                );
                let file = File::from(opened.map_err(|_| self.missing(&format!("{name} is missing")))?);
                let metadata = file.metadata().map_err(read_error)?;
                if !metadata.is_file() {
                    return Err(self.format(format!("{name} is no file")));
                }
                Ok(Part { file, at: 0, end: metadata.len() })
            }
            Place::Tar { file, members, .. } => {
                for _ in 0..8 {
                    match members.get(&name) {
                        Some(Member::File { at, size: length }) => {
                            let file = file.try_clone().map_err(read_error)?;
                            return Ok(Part { file, at: *at, end: at.saturating_add(*length) });
                        }
                        Some(Member::Link(target)) => name = target.clone(),
                        None => break,
                    }
                }
                Err(self.missing(&format!("{name} is missing")))
            }
        }
    }

    /// The whole content of a small member; with `digest`, what it has to be.
    pub(super) fn small(&self, name: &str, digest: Option<&str>) -> Result<Vec<u8>, ImportError> {
        let mut part = self.open(name)?;
        if part.length() > MOST_METADATA_BYTES {
            return Err(self.format(format!("{name} is too large ({} bytes)", part.length())));
        }
        let mut content = Vec::new();
        part.read_to_end(&mut content)
            .map_err(|source| ImportError::Read { path: self.path.clone(), source })?;
        match digest {
            Some(expected) if expected != digest::of(&content) => Err(self.format(format!(
                "{name} is damaged: unexpected digest {}, expected {expected}",
                digest::of(&content)
            ))),
            _ => Ok(content),
        }
    }
}

fn members(file: &File) -> io::Result<HashMap<String, Member>> {
    let mut members = HashMap::new();
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = normal(&entry.path()?.to_string_lossy());
        let kind = entry.header().entry_type();
        if kind.is_file() {
            members.insert(name, Member::File { at: entry.raw_file_position(), size: entry.size() });
        } else if let (true, Some(target)) = (kind.is_symlink() || kind.is_hard_link(), entry.link_name()?) {
            let target = target.to_string_lossy().into_owned();
            let base = Path::new(&name).parent().unwrap_or(Path::new(""));
            let target = if kind.is_symlink() {
                normal(&base.join(&target).to_string_lossy())
            } else {
                normal(&target)
            };
            members.insert(name, Member::Link(target));
        }
    }
    Ok(members)
}

/// A member's name without `./` and with `..` worked out.
fn normal(name: &str) -> String {
    let mut parts = Vec::new();
    for part in name.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

/// A member as a reader.
pub(super) struct Part {
    file: File,
    at: u64,
    end: u64,
}

impl Part {
    /// Bytes left.
    pub(super) fn length(&self) -> u64 {
        self.end - self.at
    }
}

impl Read for Part {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = (self.end - self.at).min(buf.len() as u64) as usize;
        let n = self.file.read_at(&mut buf[..most], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
