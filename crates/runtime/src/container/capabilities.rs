//! Capabilities by name (capabilities(7)), and the set a container gets.

use crate::spec::ContainerSpec;

/// All of them; the position is the number.
pub const NAMES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// containerd's default set.
const DEFAULT: [&str; 14] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "FSETID",
    "FOWNER",
    "MKNOD",
    "NET_RAW",
    "SETGID",
    "SETUID",
    "SETFCAP",
    "SETPCAP",
    "NET_BIND_SERVICE",
    "SYS_CHROOT",
    "KILL",
    "AUDIT_WRITE",
];

/// The highest number there is.
pub const LAST: u32 = NAMES.len() as u32 - 1;

/// The bit of a capability, with or without `CAP_` and in any case.
pub fn bit(name: &str) -> Option<u64> {
    let upper = name.to_ascii_uppercase();
    let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
    NAMES.iter().position(|known| *known == short).map(|at| 1 << at)
}

/// The set for a container, or the name that is none. `ALL` is taken first, then what is named: added before
/// dropped, as containerd does.
pub fn mask(spec: &ContainerSpec) -> Result<u64, String> {
    let all = (1 << NAMES.len()) - 1;
    if spec.privileged {
        return Ok(all);
    }
    let is_all = |name: &String| name.eq_ignore_ascii_case("ALL");
    let bits = |names: &[String]| {
        let named = names.iter().filter(|name| !is_all(name));
        named
            .map(|name| bit(name).ok_or_else(|| name.clone()))
            .try_fold(0, |sum, one| Ok::<u64, String>(sum | one?))
    };
    let mut mask = DEFAULT.iter().filter_map(|name| bit(name)).fold(0, |sum, one| sum | one);
    if spec.cap_drop.iter().any(is_all) {
        mask = 0;
    }
    if spec.cap_add.iter().any(is_all) {
        mask = all;
    }
    Ok((mask | bits(&spec.cap_add)?) & !bits(&spec.cap_drop)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_set_follows_adds_and_drops() {
        let set = |add: &[&str], drop: &[&str]| {
            let mut spec = crate::test_spec();
            spec.cap_add = add.iter().map(|s| (*s).to_owned()).collect();
            spec.cap_drop = drop.iter().map(|s| (*s).to_owned()).collect();
            mask(&spec)
        };
        assert_eq!(set(&[], &[]), Ok(0xa804_25fb));
        assert_eq!(set(&[], &["ALL"]), Ok(0));
        assert_eq!(set(&["NET_BIND_SERVICE"], &["all"]), Ok(1 << 10));
        assert_eq!(set(&["CAP_NET_ADMIN"], &["chown"]), Ok(0xa804_25fb & !1 | 1 << 12));
        assert_eq!(set(&["ALL"], &["SYS_ADMIN"]), Ok(0x1ff_ffff_ffff & !(1 << 21)));
        assert_eq!(set(&["FLY"], &[]), Err("FLY".to_owned()));
    }
}
