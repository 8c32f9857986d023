//! The system calls that neither rustix nor nix wraps, or only wraps as unsafe: clone3, mount_setattr, bpf,
//! seccomp, and a few ioctls. Everything else in this crate is safe code.
#![allow(unsafe_code)]

mod allocator;
pub mod oci;

pub use allocator::ShimAware;

use rustix::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ffi::CString;
use std::io;

/// Which side of a fork this is.
pub enum Forked {
    /// The parent, with the child's PID in its own PID namespace.
    Parent(i32),
    /// The child.
    Child,
}

fn check(value: libc::c_long) -> io::Result<libc::c_long> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// clone3(2) without shared memory, which is a fork into new namespaces (`CLONE_NEW*` in `flags`) and, when
/// `cgroup` is a directory of a cgroup2 mount, into that cgroup without a migration.
///
/// The caller must be single-threaded: the child goes on with a copy of the caller's heap and locks.
pub fn fork_into(flags: u64, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Forked> {
    let mut args = CloneArgs { flags, exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
    if let Some(cgroup) = cgroup {
        args.flags |= 0x2_0000_0000; // CLONE_INTO_CGROUP
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: the structure is the kernel's clone_args at version 2, no stack or TLS is given and no memory is
    // shared, so both sides return from the call like from fork(2). Shims and the zygote have one thread.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) })?;
    Ok(if pid == 0 { Forked::Child } else { Forked::Parent(pid as i32) })
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// What [`mount_setattr`] changes.
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct MountAttr {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or 0.
    pub propagation: u64,
    /// A user namespace for ID-mapped mounts.
    pub userns_fd: u64,
}

/// mount_setattr(2) on the mount that `mount` refers to, and on those below it when `recursive`.
pub fn mount_setattr(mount: BorrowedFd<'_>, recursive: bool, attr: MountAttr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string and the structure is the kernel's mount_attr at version 0.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Installs a seccomp filter for this thread. Without `no_new_privs` it needs CAP_SYS_ADMIN.
pub fn seccomp_set_filter(program: &[SockFilter], flags: u32) -> io::Result<()> {
    #[repr(C)]
    struct Program {
        len: u16,
        filter: *const SockFilter,
    }
    let len = u16::try_from(program.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
    let prog = Program { len, filter: program.as_ptr() };
    // SAFETY: `prog` is a sock_fprog over a slice that outlives the call; the kernel copies it.
    check(unsafe {
        libc::syscall(libc::SYS_seccomp, 1 /* SECCOMP_SET_MODE_FILTER */, flags, &raw const prog)
    })
    .map(drop)
}

/// One instruction of classic BPF.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SockFilter {
    /// Operation.
    pub code: u16,
    /// Instructions skipped when true.
    pub jt: u8,
    /// Instructions skipped when false.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// Loads an eBPF program of type `BPF_PROG_TYPE_CGROUP_DEVICE`.
pub fn bpf_load_cgroup_device(instructions: &[u64]) -> io::Result<OwnedFd> {
    #[repr(C)]
    #[derive(Default)]
    struct Load {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }
    let attr = Load {
        prog_type: 15,
        insn_cnt: instructions.len() as u32,
        insns: instructions.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        ..Load::default()
    };
    // SAFETY: BPF_PROG_LOAD reads the attribute and the instructions it points to, both alive over the call;
    // the result is a new descriptor that nobody else owns.
    unsafe {
        let fd = check(libc::syscall(libc::SYS_bpf, 5, &raw const attr, size_of::<Load>()))?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Attaches a device program to a cgroup2 directory, beside those already there.
pub fn bpf_attach_cgroup_device(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attach {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
    }
    let attr = Attach {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: 6,  // BPF_CGROUP_DEVICE
        attach_flags: 2, // BPF_F_ALLOW_MULTI
    };
    // SAFETY: BPF_PROG_ATTACH only reads the attribute.
    check(unsafe { libc::syscall(libc::SYS_bpf, 8, &raw const attr, size_of::<Attach>()) }).map(drop)
}

/// Every signal back to its default action and none blocked, as a program expects to start.
pub fn reset_signals() {
    // The kernel's own structure: handler (SIG_DFL), flags, restorer, mask. The C library would not touch the
    // two signals it keeps for itself, which may come ignored from whoever started the daemon.
    let default = [0u64; 4];
    let none = 0u64;
    // SAFETY: plain system calls on local structures; a refused signal number (KILL, STOP) is no matter.
    unsafe {
        for signal in 1..=64 {
            let no_old = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), no_old, size_of::<u64>());
        }
        let no_old = std::ptr::null_mut::<u64>();
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, &raw const none, no_old, size_of::<u64>());
    }
}

/// Lets the kernel reap this process's children, or not.
pub fn ignore_children(ignore: bool) {
    // SAFETY: installs no handler, only one of the two constant dispositions.
    unsafe {
        libc::signal(libc::SIGCHLD, if ignore { libc::SIG_IGN } else { libc::SIG_DFL });
    }
}

/// Makes writing to a pipe that nobody reads an error instead of a signal, as std does at the start.
pub fn ignore_broken_pipes() {
    // SAFETY: installs no handler.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
    }
}

/// Takes descriptor `fd`, which the process was started with.
pub fn inherited_fd(fd: RawFd) -> OwnedFd {
    // SAFETY: called once, at the very start of a re-executed process, on a descriptor its parent passed on;
    // nothing else in the process owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Closes every descriptor from `first` on, without regard to who thinks to own it.
pub fn close_from(first: u32) {
    // SAFETY: called where nothing uses descriptors afterwards but those below `first`.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, 0);
    }
}

/// Marks every descriptor from `first` on as close-on-exec.
pub fn close_on_exec_from(first: u32) {
    // SAFETY: only changes a flag of descriptors.
    unsafe {
        libc::syscall(libc::SYS_close_range, first, u32::MAX, 4 /* CLOSE_RANGE_CLOEXEC */);
    }
}

/// Makes `target` (0, 1 or 2) a copy of `fd`.
pub fn dup_onto(fd: BorrowedFd<'_>, target: RawFd) -> io::Result<()> {
    // SAFETY: standard descriptors are owned by nobody in this crate.
    check(unsafe { libc::dup2(fd.as_raw_fd(), target) }.into()).map(drop)
}

/// Ends the process without running destructors or exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: does not return.
    unsafe { libc::_exit(code) }
}

/// Brings the loopback device of the current network namespace up.
pub fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: `request` is an ifreq whose name is NUL-terminated by zeroing; both ioctls use the flags member.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        request.ifr_name[0] = b'l' as libc::c_char;
        request.ifr_name[1] = b'o' as libc::c_char;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFFLAGS as _, &raw mut request).into())?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as libc::c_short;
        check(libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request).into())?;
    }
    Ok(())
}

/// Makes the terminal on `fd` the controlling terminal of this session.
pub fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the ioctl takes an integer.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY as _, 0) }.into()).map(drop)
}

/// setgroups, setresgid and setresuid in this order, each only when `Some`.
pub fn set_ids(groups: &[u32], gid: u32, uid: u32) -> io::Result<()> {
    // SAFETY: the raw system calls act on this thread, which is the only one; the slice outlives the call.
    unsafe {
        check(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// setresgid and setresuid alone, where supplementary groups may not be set.
pub fn set_ids_alone(gid: u32, uid: u32) -> io::Result<()> {
    // SAFETY: the raw system calls act on this thread, which is the only one.
    unsafe {
        check(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
        check(libc::syscall(libc::SYS_setresuid, uid, uid, uid))?;
    }
    Ok(())
}

/// Drops `capability` from the bounding set; an unknown one is no error.
pub fn drop_bounding(capability: u32) {
    // SAFETY: prctl with integers.
    unsafe {
        libc::prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(capability), 0, 0, 0);
    }
}

/// Sets the effective and permitted sets to `mask`, the inheritable set to nothing.
pub fn set_capabilities(mask: u64) -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: i32,
    }
    #[repr(C)]
    struct Data {
        effective: u32,
        permitted: u32,
        inheritable: u32,
    }
    let header = Header { version: 0x2008_0522, pid: 0 };
    let half = |bits: u32| Data { effective: bits, permitted: bits, inheritable: 0 };
    let data = [half(mask as u32), half((mask >> 32) as u32)];
    // SAFETY: version 3 of the structures, two data elements.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// Runs a program; comes back only with an error.
pub fn execve(path: &CString, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both arrays end in null and point to strings that outlive the call.
    unsafe {
        libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr());
    }
    io::Error::last_os_error()
}

/// Shows `title` instead of the arguments this process was started with, as far as the room they took lets it.
pub fn set_title(title: &str) {
    let Ok(stat) = std::fs::read_to_string("/proc/self/stat") else { return };
    // Fields 48 and 49 are the addresses of the arguments; the name in field 2 may hold blanks.
    let Some((_, rest)) = stat.rsplit_once(')') else { return };
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let number = |at: usize| fields.get(at).and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let (start, end) = (number(45), number(46));
    if start == 0 || end <= start {
        return;
    }
    let room = end - start;
    // SAFETY: the range is this process's own argument area, which is writable and which nothing in this
    // process borrows: std copies arguments when asked, and nobody asks after this.
    unsafe {
        let area = std::slice::from_raw_parts_mut(start as *mut u8, room);
        area.fill(0);
        let len = title.len().min(room - 1);
        area[..len].copy_from_slice(&title.as_bytes()[..len]);
    }
}

/// kill(2) that does not mind when the process is gone.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes integers.
    match check(unsafe { libc::kill(pid, signal) }.into()) {
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        other => other.map(drop),
    }
}

/// A signalfd for SIGCHLD, which is blocked with it.
pub fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: plain system calls on a local set; the result is a new descriptor that nobody else owns.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()).into())?;
        let fd = check(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK).into())?;
        Ok(OwnedFd::from_raw_fd(fd as RawFd))
    }
}

/// Reaps one ended child, if there is one: its PID and exit code (128 + signal for signals).
pub fn reap() -> Option<(i32, i32)> {
    let mut status = 0;
    // SAFETY: waitpid writes to a local integer.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    if pid <= 0 {
        return None;
    }
    let code =
        if libc::WIFSIGNALED(status) { 128 + libc::WTERMSIG(status) } else { libc::WEXITSTATUS(status) };
    Some((pid, code))
}

/// Waits for the end of this child, which must be near.
pub fn reap_child(pid: i32) {
    // SAFETY: waitpid with no place for the status.
    while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
}

/// Gives unused heap back to the kernel.
pub fn trim_heap() {
    // SAFETY: malloc_trim only touches the C library's own allocator.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

/// setns(2).
pub fn setns(namespace: impl AsFd, kind: libc::c_int) -> io::Result<()> {
    // SAFETY: setns takes integers.
    check(unsafe { libc::setns(namespace.as_fd().as_raw_fd(), kind) }.into()).map(drop)
}

/// unshare(2) of namespaces.
pub fn unshare(flags: libc::c_int) -> io::Result<()> {
    // SAFETY: only namespaces are unshared (no CLONE_FILES or CLONE_VM), so nothing owned elsewhere changes.
    check(unsafe { libc::unshare(flags) }.into()).map(drop)
}

/// Registers a descriptor with the current tokio runtime.
pub fn watch(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd keeps naming the same open descriptor for as long as the registration owns it.
    unsafe { tokio::io::unix::AsyncFd::register(fd) }.map_err(io::Error::from)
}
