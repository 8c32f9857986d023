//! System calls that only the OCI command line needs.
#![allow(unsafe_code)]

use super::{CloneArgs, Forked, check};
use rustix::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ffi::CString;
use std::io;

/// `CLONE_NEWTIME`, which the C library's headers do not have everywhere.
pub const CLONE_NEWTIME: libc::c_int = 0x80;

/// Like [`super::fork_into`], but the child is a child of the caller's parent.
pub fn fork_sibling(flags: u64) -> io::Result<Forked> {
    let args = CloneArgs { flags: flags | libc::CLONE_PARENT as u64, ..CloneArgs::default() };
    // SAFETY: as in `fork_into`; with CLONE_PARENT the exit signal is the caller's own.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    Ok(if pid == 0 { Forked::Child } else { Forked::Parent(pid as i32) })
}

/// Runs the program that `file` refers to; comes back only with an error.
pub fn execve_fd(file: BorrowedFd<'_>, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in null and point to strings that outlive the call; the path is empty.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            file.as_raw_fd(),
            c"".as_ptr(),
            args.as_ptr(),
            env.as_ptr(),
            libc::AT_EMPTY_PATH,
        );
    }
    io::Error::last_os_error()
}

/// Sets the effective, permitted and inheritable capabilities.
pub fn set_capability_sets(effective: u64, permitted: u64, inheritable: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let data: [u32; 6] = [
        effective as u32,
        permitted as u32,
        inheritable as u32,
        (effective >> 32) as u32,
        (permitted >> 32) as u32,
        (inheritable >> 32) as u32,
    ];
    // SAFETY: version 3 of the structures, two elements of three words.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Adds a capability to the ambient set.
pub fn raise_ambient(capability: u32) -> io::Result<()> {
    // SAFETY: prctl with integers.
    check(
        unsafe {
            libc::prctl(
                libc::PR_CAP_AMBIENT,
                libc::PR_CAP_AMBIENT_RAISE,
                libc::c_ulong::from(capability),
                0,
                0,
            )
        }
        .into(),
    )
    .map(drop)
}

/// A new session keyring of this name, so that the container does not see its creator's keys.
pub fn join_session_keyring(name: &str) -> io::Result<()> {
    let name = CString::new(name)?;
    // SAFETY: KEYCTL_JOIN_SESSION_KEYRING reads a C string.
    check(unsafe { libc::syscall(libc::SYS_keyctl, 1, name.as_ptr()) }).map(drop)
}

/// personality(2).
pub fn personality(persona: u32) -> io::Result<()> {
    // SAFETY: takes an integer.
    check(unsafe { libc::personality(libc::c_ulong::from(persona)) }.into()).map(drop)
}

/// ioprio_set(2) for this process.
pub fn set_io_priority(class: u32, level: u32) -> io::Result<()> {
    // SAFETY: IOPRIO_WHO_PROCESS and integers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, 1, 0, class << 13 | level & 0x1fff) }).map(drop)
}

/// What sched_setattr(2) takes.
#[repr(C)]
#[derive(Default)]
pub struct SchedAttr {
    /// Set by [`set_scheduler`].
    pub size: u32,
    /// `SCHED_*`.
    pub policy: u32,
    /// `SCHED_FLAG_*`.
    pub flags: u64,
    /// For normal and batch.
    pub nice: i32,
    /// For the real-time policies.
    pub priority: u32,
    /// Deadline, in nanoseconds.
    pub runtime: u64,
    /// Deadline, in nanoseconds.
    pub deadline: u64,
    /// Deadline, in nanoseconds.
    pub period: u64,
}

/// sched_setattr(2) for this process.
pub fn set_scheduler(mut attr: SchedAttr) -> io::Result<()> {
    attr.size = size_of::<SchedAttr>() as u32;
    // SAFETY: the structure is the kernel's sched_attr at version 0.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attr, 0) }).map(drop)
}

/// Installs a seccomp filter that hands calls over to a listener, and returns the listener's descriptor.
pub fn seccomp_listener(program: &[super::SockFilter], flags: u32) -> io::Result<OwnedFd> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const super::SockFilter,
    }
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let prog = Program { len, filter: program.as_ptr() };
    const NEW_LISTENER: u32 = 8;
    // SAFETY: `prog` is a sock_fprog over a slice that outlives the call; the result is a new descriptor that
    // nobody else owns.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_seccomp, 1, flags | NEW_LISTENER, &raw const prog))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Waits for this child: its exit code, 128 + signal for signals.
pub fn wait_for(pid: i32) -> io::Result<i32> {
    let mut status = 0;
    loop {
        // SAFETY: waitpid writes to a local integer.
        match check(unsafe { libc::waitpid(pid, &raw mut status, 0) }.into()) {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) })
}

/// A signalfd for every signal that is passed on to a container in the foreground; they are blocked with it.
pub fn all_signals() -> io::Result<OwnedFd> {
    // SAFETY: plain system calls on a local set; the result is a new descriptor that nobody else owns.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Standard input, output or error.
pub fn standard(fd: RawFd) -> BorrowedFd<'static> {
    // SAFETY: descriptors 0 to 2 are owned by nobody and stay open.
    unsafe { BorrowedFd::borrow_raw(fd) }
}

/// umask(2).
pub fn umask(mask: u32) {
    // SAFETY: takes an integer.
    unsafe {
        libc::umask(mask);
    }
}
