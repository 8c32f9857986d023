//! What the machine says about itself: /proc, /sys and /etc files.

use crate::config::{Capacity, KubeletConfig};
use std::fs;
use std::path::Path;

/// Pods a node takes by default, as upstream's.
const MOST_PODS: u32 = 110;

/// What the node offers.
pub(crate) fn capacity(config: &KubeletConfig) -> Capacity {
    config.capacity.clone().unwrap_or_else(|| Capacity {
        cpu_millicores: 1000 * std::thread::available_parallelism().map_or(1, |n| n.get() as u64),
        memory_bytes: meminfo("MemTotal").unwrap_or_default(),
        ephemeral_storage_bytes: disk(&config.root_dir).map_or(0, |d| d.total_bytes),
        pods: MOST_PODS,
    })
}

/// What the node has for pods.
pub(crate) fn allocatable(config: &KubeletConfig) -> Capacity {
    crate::eviction::threshold::allocatable(config, capacity(config))
}

/// A field of /proc/meminfo in bytes.
pub(crate) fn meminfo(field: &str) -> Option<u64> {
    parse_meminfo(&fs::read_to_string("/proc/meminfo").ok()?, field)
}

fn parse_meminfo(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))?;
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok().map(|k| k << 10)
}

/// Room on a file system.
pub(crate) struct Disk {
    pub(crate) total_bytes: u64,
    pub(crate) free_bytes: u64,
    pub(crate) inodes: u64,
    pub(crate) free_inodes: u64,
}

pub(crate) fn disk(path: &Path) -> Option<Disk> {
    let s = rustix::fs::statvfs(path).ok()?;
    Some(Disk {
        total_bytes: s.f_blocks * s.f_frsize,
        free_bytes: s.f_bavail * s.f_frsize,
        inodes: s.f_files,
        free_inodes: s.f_favail,
    })
}

/// Processes there are and may be.
pub(crate) fn pids() -> Option<(u64, u64)> {
    let most = first_line("/proc/sys/kernel/pid_max")?.parse().ok()?;
    let loadavg = first_line("/proc/loadavg")?;
    let now = loadavg.split(' ').nth(3)?.split('/').nth(1)?.parse().ok()?;
    Some((now, most))
}

pub(super) fn first_line(path: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    Some(text.lines().next().unwrap_or_default().trim().to_owned())
}

/// The distribution's name for itself.
pub(super) fn os_image() -> String {
    let text = fs::read_to_string("/etc/os-release").or_else(|_| fs::read_to_string("/usr/lib/os-release"));
    let text = text.unwrap_or_default();
    let name = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="));
    name.map_or_else(|| "Linux".to_owned(), |n| n.trim_matches(['"', '\'']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_is_in_kibibytes() {
        let text = "MemTotal:       2048 kB\nMemAvailable:   1024 kB\n";
        assert_eq!(parse_meminfo(text, "MemAvailable"), Some(1 << 20));
        assert_eq!(parse_meminfo(text, "Mem"), None);
    }
}
