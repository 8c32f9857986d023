//! Starting the zygote and asking it for shims.

use crate::sys::{self, MountAttr};
use crate::zygote::{TITLE, TITLE_ROOM};
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::fs::{CWD, MemfdFlags, SealFlags};
use rustix::mount::{MountAttrFlags, OpenTreeFlags, open_tree};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
};
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A running zygote; ends when dropped.
pub struct Zygote {
    control: Option<OwnedFd>,
    child: Child,
}

impl Zygote {
    /// Starts `program` (this one when `None`) as the zygote of a runtime at `cgroup_root`.
    pub fn start(program: Option<&PathBuf>, cgroup_root: &str) -> io::Result<Self> {
        let program = program.map_or(Path::new("/proc/self/exe"), PathBuf::as_path);
        let sealed = seal(program)?;
        let (near, far) =
            rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        let child = Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd()))
            .arg0(TITLE)
            .arg(TITLE_ROOM)
            .env_clear()
            .stdin(Stdio::from(far))
            .stdout(Stdio::null())
            .spawn()?;
        let zygote = Self { control: Some(near), child };
        zygote.send(cgroup_root.as_bytes(), None)?;
        Ok(zygote)
    }

    /// Asks for a shim that serves `socket`.
    pub fn fork_shim(&mut self, socket: BorrowedFd<'_>) -> io::Result<()> {
        if self.child.try_wait()?.is_some() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        self.send(b"shim", Some(socket))
    }

    fn send(&self, bytes: &[u8], fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
        let Some(control) = &self.control else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
        if !fds.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        }
        rustix::net::sendmsg(control, &[IoSlice::new(bytes)], &mut ancillary, SendFlags::NOSIGNAL)?;
        Ok(())
    }
}

impl Drop for Zygote {
    fn drop(&mut self) {
        self.control = None;
        let _ = self.child.wait();
    }
}

/// The program in a form that nothing inside a container can write to, although containers can reach it
/// through `/proc/<pid>/exe` of a process that is about to become theirs (CVE-2019-5736): through a read-only
/// mount that is attached nowhere and so cannot be remounted. Where that fails a sealed copy in memory.
pub fn seal(program: &Path) -> io::Result<OwnedFd> {
    read_only_mount(program).or_else(|_| sealed_copy(program))
}

fn read_only_mount(program: &Path) -> io::Result<OwnedFd> {
    let mount = open_tree(CWD, program, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let attr = MountAttr {
        set: (MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV).bits().into(),
        propagation: libc::MS_PRIVATE,
        ..MountAttr::default()
    };
    sys::mount_setattr(mount.as_fd(), false, attr)?;
    Ok(mount)
}

fn sealed_copy(program: &Path) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag and let any such file be run.
    let memory = rustix::fs::memfd_create(TITLE, flags | MemfdFlags::EXEC)
        .or_else(|_| rustix::fs::memfd_create(TITLE, flags))?;
    let mut copy = std::fs::File::from(memory);
    io::copy(&mut std::fs::File::open(program)?, &mut copy)?;
    let seals = SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE;
    rustix::fs::fcntl_add_seals(&copy, seals)?;
    Ok(copy.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_program_cannot_be_written_through_its_read_only_mount() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("program");
        std::fs::write(&program, "x").unwrap();
        let mount = read_only_mount(&program).unwrap();
        let path = format!("/proc/self/fd/{}", mount.as_raw_fd());
        assert_eq!(std::fs::read(&path).unwrap(), b"x");
        let error = std::fs::OpenOptions::new().write(true).open(&path).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    }

    #[test]
    fn a_sealed_copy_cannot_be_written() {
        let copy = sealed_copy(Path::new("/proc/self/exe")).unwrap();
        let path = format!("/proc/self/fd/{}", copy.as_raw_fd());
        let written = std::fs::OpenOptions::new().write(true).open(path).and_then(|mut f| f.write_all(b"x"));
        assert!(written.is_err());
    }
}
