//! Keeps containers from writing to Knarr's program. A process that enters a container can be made to show its
//! program there (`/proc/self/exe`, CVE-2019-5736), so it is run from a place where nobody can write, as the
//! zygote is: docs/adr/0003-shim-zygote.md.

use crate::sys;
use rustix::fd::AsFd;
use rustix::fs::{Mode, OFlags, SealFlags, StatVfsMountFlags};
use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStringExt;

const OWN: &str = "/proc/self/exe";

/// Runs this program once more from where it cannot be written, unless it is already.
pub fn seal() -> io::Result<()> {
    if is_sealed() {
        return Ok(());
    }
    let program = crate::daemon::seal(OWN.as_ref())?;
    let words = |list: Vec<std::ffi::OsString>| -> io::Result<Vec<CString>> {
        list.into_iter().map(|word| Ok(CString::new(word.into_vec())?)).collect()
    };
    let args = words(std::env::args_os().collect())?;
    let env = words(
        std::env::vars_os()
            .map(|(mut name, value)| {
                name.push("=");
                name.push(value);
                name
            })
            .collect(),
    )?;
    Err(sys::oci::execve_fd(program.as_fd(), &args, &env))
}

/// Whether nobody can write to the running program. Opening it for writing would not tell: the kernel says that a
/// program runs (ETXTBSY) before it says that the mount is read-only.
fn is_sealed() -> bool {
    let Ok(program) = rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    let is_read_only =
        rustix::fs::fstatvfs(&program).is_ok_and(|fs| fs.f_flag.contains(StatVfsMountFlags::RDONLY));
    is_read_only || rustix::fs::fcntl_get_seals(&program).is_ok_and(|seals| seals.contains(SealFlags::WRITE))
}
