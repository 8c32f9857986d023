//! The default profile: what containerd's (contrib/seccomp) and Docker's let through. What every container may
//! do is marked in the table; here is what depends on capabilities and arguments.

use super::{Action, Arch, Compare, Condition, Profile, Rule, table};
use crate::container::capabilities;

/// Namespaces that a container without CAP_SYS_ADMIN cannot make: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER,
/// NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;

const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// System calls that a capability opens.
const BY_CAPABILITY: [(&str, &[&str]); 14] = [
    ("DAC_READ_SEARCH", &["open_by_handle_at"]),
    (
        "SYS_ADMIN",
        &[
            "bpf",
            "clone",
            "clone3",
            "fanotify_init",
            "fsconfig",
            "fsmount",
            "fsopen",
            "fspick",
            "lookup_dcookie",
            "mount",
            "mount_setattr",
            "move_mount",
            "open_tree",
            "perf_event_open",
            "quotactl",
            "quotactl_fd",
            "setdomainname",
            "sethostname",
            "setns",
            "syslog",
            "umount",
            "umount2",
            "unshare",
        ],
    ),
    ("SYS_BOOT", &["reboot"]),
    ("SYS_CHROOT", &["chroot"]),
    ("SYS_MODULE", &["delete_module", "init_module", "finit_module"]),
    ("SYS_PACCT", &["acct"]),
    ("SYS_PTRACE", &["kcmp", "pidfd_getfd", "process_madvise"]),
    ("SYS_RAWIO", &["iopl", "ioperm"]),
    ("SYS_TIME", &["settimeofday", "stime", "clock_settime", "clock_settime64"]),
    ("SYS_TTY_CONFIG", &["vhangup"]),
    ("SYS_NICE", &["get_mempolicy", "mbind", "set_mempolicy", "set_mempolicy_home_node"]),
    ("SYSLOG", &["syslog"]),
    ("BPF", &["bpf"]),
    ("PERFMON", &["perf_event_open"]),
];

/// The default profile for a container with these capabilities.
pub fn profile(capabilities: u64) -> Profile {
    let rule = |names: &[&str], action: Action, conditions: Vec<Condition>| Rule {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        action,
        conditions,
    };
    let first = |compare: Compare, value: u64| vec![Condition { argument: 0, compare, value }];
    let always = table().filter(|row| row[4] == "always").map(|row| row[0].to_owned()).collect();
    let mut rules = vec![Rule { names: always, action: Action::Allow, conditions: vec![] }];
    // All address families but AF_ALG and AF_VSOCK.
    for (compare, value) in
        [(Compare::Less, AF_ALG), (Compare::Equal, AF_ALG + 1), (Compare::Greater, AF_VSOCK)]
    {
        rules.push(rule(&["socket"], Action::Allow, first(compare, value)));
    }
    for persona in [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(rule(&["personality"], Action::Allow, first(Compare::Equal, persona)));
    }
    if Arch::NATIVE == Arch::X86_64 {
        rules.push(rule(&["arch_prctl", "modify_ldt"], Action::Allow, vec![]));
    }
    let has = |name: &str| capabilities::bit(name).is_some_and(|bit| capabilities & bit != 0);
    for (capability, names) in BY_CAPABILITY {
        if has(capability) {
            rules.push(rule(names, Action::Allow, vec![]));
        }
    }
    if !has("SYS_ADMIN") {
        rules.push(rule(&["clone"], Action::Allow, first(Compare::Masked(CLONE_NAMESPACES), 0)));
        // Its flags lie behind a pointer; programs fall back to clone when it is not there at all.
        rules.push(rule(&["clone3"], Action::Errno(libc::ENOSYS as u16), vec![]));
    }
    let arches =
        if Arch::NATIVE == Arch::X86_64 { vec![Arch::X86_64, Arch::X86] } else { vec![Arch::NATIVE] };
    Profile { default: Action::Errno(libc::EPERM as u16), arches, rules }
}
