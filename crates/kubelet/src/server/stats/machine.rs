//! The whole machine's readings: /proc.

use knarr_runtime::spec::{Pressure, Usage};
use std::fs;
use std::path::Path;

/// The kernel's clock ticks in a second, as /proc counts them.
const TICK_NS: u64 = 10_000_000;

/// What the machine uses.
pub(super) fn usage() -> Usage {
    let cpu = cpu(&read("/proc/stat"));
    let memory = read("/proc/meminfo");
    let memory = |field: &str| kibibytes(&memory, field);
    let faults = read("/proc/vmstat");
    let in_use = memory("MemTotal").saturating_sub(memory("MemFree"));
    let pressure = |what: &str| {
        let text = fs::read_to_string(format!("/proc/pressure/{what}")).ok()?;
        Some(Pressure::parse(&text))
    };
    Usage {
        cpu_usage_ns: cpu.0 + cpu.1,
        cpu_user_ns: cpu.0,
        cpu_system_ns: cpu.1,
        memory_usage_bytes: in_use,
        memory_working_set_bytes: memory("MemTotal").saturating_sub(memory("MemAvailable")),
        memory_rss_bytes: memory("AnonPages"),
        memory_cache_bytes: memory("Cached"),
        memory_mapped_file_bytes: memory("Mapped"),
        memory_active_file_bytes: memory("Active(file)"),
        memory_inactive_file_bytes: memory("Inactive(file)"),
        memory_kernel_bytes: memory("KernelStack") + memory("PageTables") + memory("Slab"),
        page_faults: counter(&faults, "pgfault"),
        major_page_faults: counter(&faults, "pgmajfault"),
        swap_usage_bytes: Some(memory("SwapTotal").saturating_sub(memory("SwapFree"))),
        swap_limit_bytes: Some(memory("SwapTotal")),
        cpu_pressure: pressure("cpu"),
        memory_pressure: pressure("memory"),
        io_pressure: pressure("io"),
        ..Usage::default()
    }
}

/// This process, in which the kubelet and the runtime's daemon live, and the seconds since the epoch at which it started.
pub(super) fn own_process() -> (Usage, u64) {
    let stat = read("/proc/self/stat");
    // The name in parentheses may hold anything; fields are counted after it, from the third on.
    let fields: Vec<u64> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(|f| f.parse().unwrap_or(0))
        .collect();
    let field = |number: usize| fields.get(number - 3).copied().unwrap_or_default();
    let resident: u64 = read("/proc/self/statm").split(' ').nth(1).and_then(|f| f.parse().ok()).unwrap_or(0);
    let resident = resident * rustix::param::page_size() as u64;
    let started = boot_seconds() + field(22) * TICK_NS / 1_000_000_000;
    let usage = Usage {
        cpu_usage_ns: (field(14) + field(15)) * TICK_NS,
        cpu_user_ns: field(14) * TICK_NS,
        cpu_system_ns: field(15) * TICK_NS,
        memory_usage_bytes: resident,
        memory_working_set_bytes: resident,
        memory_rss_bytes: resident,
        page_faults: field(10) + field(12),
        major_page_faults: field(12),
        ..Usage::default()
    };
    (usage, started)
}

/// Seconds since the epoch at which the machine started.
pub(super) fn boot_seconds() -> u64 {
    counter(&read("/proc/stat"), "btime")
}

/// CPUs, and bytes of memory and swap.
pub(super) fn hardware() -> (usize, u64, u64) {
    let memory = read("/proc/meminfo");
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (cpus, kibibytes(&memory, "MemTotal"), kibibytes(&memory, "SwapTotal"))
}

/// What went over one network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Interface {
    pub(super) name: String,
    /// Bytes, packets, errors, dropped.
    pub(super) received: [u64; 4],
    pub(super) sent: [u64; 4],
}

/// The interfaces of the network namespace that `process` (a directory of /proc) is in, but loopback.
pub(super) fn interfaces(process: &Path) -> Vec<Interface> {
    parse_interfaces(&fs::read_to_string(process.join("net/dev")).unwrap_or_default())
}

fn parse_interfaces(text: &str) -> Vec<Interface> {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let n: Vec<u64> = numbers.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let four = |at: usize| Some([*n.get(at)?, *n.get(at + 1)?, *n.get(at + 2)?, *n.get(at + 3)?]);
        Some(Interface { name: name.trim().to_owned(), received: four(0)?, sent: four(8)? })
    };
    text.lines().filter_map(line).filter(|interface| interface.name != "lo").collect()
}

/// The interface that the default route of this network namespace leads over.
pub(super) fn default_interface() -> Option<String> {
    let routes = read("/proc/net/route");
    let mut lines = routes.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.find(|fields| fields.get(1) == Some(&"00000000")).map(|fields| fields[0].to_owned())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// CPU time in user mode and in the kernel, in nanoseconds.
fn cpu(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|f| f.parse().ok()).collect();
    let sum = |which: &[usize]| which.iter().filter_map(|i| fields.get(*i)).sum::<u64>() * TICK_NS;
    // user and nice; system, irq, softirq, steal. Idle and iowait (3 and 4) are not used; guest is within user.
    (sum(&[0, 1]), sum(&[2, 5, 6, 7]))
}

fn kibibytes(meminfo: &str, field: &str) -> u64 {
    let line = meminfo.lines().find_map(|l| l.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse::<u64>().ok()).map_or(0, |k| k << 10)
}

fn counter(text: &str, name: &str) -> u64 {
    let found = text.lines().filter_map(|line| line.split_once(' ')).find(|(key, _)| *key == name);
    found.and_then(|(_, value)| value.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_read() {
        assert_eq!(cpu("cpu  10 1 5 900 50 1 2 3 4 0\ncpu0 1"), (110_000_000, 110_000_000));
        let text = "Inter-| Receive | Transmit\n face |bytes packets\n    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n  eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n";
        let eth0 = Interface { name: "eth0".into(), received: [10, 2, 3, 4], sent: [50, 6, 7, 8] };
        assert_eq!(parse_interfaces(text), [eth0]);
        assert!(usage().cpu_usage_ns > 0 && own_process().0.memory_rss_bytes > 0 && boot_seconds() > 0);
    }
}
