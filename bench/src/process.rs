//! What the kernel says of the server's processes (proc(5)): processor time, memory, bytes written.

use std::collections::HashMap;
use std::time::Duration;

/// The kernel's USER_HZ, which is 100 on every architecture this is built for.
const TICK: Duration = Duration::from_millis(10);

/// Which processes are the server's.
#[derive(Clone, Debug)]
pub enum Servers {
    /// These.
    Pids(Vec<u32>),
    /// Every process that has this setting in the environment it was started with (children inherit it,
    /// containers do not).
    Marked(String),
}

impl Servers {
    /// These processes, or an unknown server if there are none.
    pub fn pids(pids: &[u32]) -> Self {
        Self::Pids(pids.to_vec())
    }

    /// The processes as of now.
    pub fn list(&self) -> Vec<u32> {
        match self {
            Self::Pids(pids) => pids.clone(),
            Self::Marked(mark) => {
                let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
                let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
                pids.filter(|pid| *pid != std::process::id() && is_marked(*pid, mark)).collect()
            }
        }
    }

    /// The processor time that they have used until now, if they are known.
    pub fn cpu(&self) -> Option<Cpu> {
        let pids = self.list();
        (!pids.is_empty()).then(|| Cpu(pids.iter().filter_map(|pid| Some((*pid, cpu_of(*pid)?))).collect()))
    }

    /// Their memory: the sum of proportional set sizes, in KiB.
    pub fn pss_kib(&self) -> Option<u64> {
        let sizes: Vec<u64> = self.list().iter().filter_map(|pid| pss_of(*pid)).collect();
        (!sizes.is_empty()).then(|| sizes.iter().sum())
    }

    /// Bytes they have caused to be written to storage.
    pub fn written_bytes(&self) -> Option<u64> {
        let written: Vec<u64> = self.list().iter().filter_map(|pid| written_of(*pid)).collect();
        (!written.is_empty()).then(|| written.iter().sum())
    }
}

/// Bytes written to the disks of the machine, by whomever (/proc/diskstats, Documentation/admin-guide/iostats).
/// A process's own count is of whole folios of the page cache, which may be 64 times what reaches the disk.
pub fn disk_bytes() -> Option<u64> {
    let stats = std::fs::read_to_string("/proc/diskstats").ok()?;
    Some(parse_disks(&stats, |name| std::path::Path::new("/sys/block").join(name).join("device").exists()))
}

/// The tenth field is sectors written, which are 512 bytes whatever the disk says.
fn parse_disks(stats: &str, is_disk: impl Fn(&str) -> bool) -> u64 {
    let sectors = stats.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        is_disk(fields.get(2)?).then(|| fields.get(9)?.parse::<u64>().ok())?
    });
    sectors.sum::<u64>() * 512
}

/// Processor time by process, so that a process that comes or goes does not count as a jump.
#[derive(Clone, Debug)]
pub struct Cpu(HashMap<u32, Duration>);

impl Cpu {
    /// What was used since `before`.
    pub fn since(&self, before: &Self) -> Duration {
        let used = self
            .0
            .iter()
            .map(|(pid, now)| now.saturating_sub(before.0.get(pid).copied().unwrap_or_default()));
        used.sum()
    }
}

fn is_marked(pid: u32, mark: &str) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|setting| setting == mark.as_bytes())
}

fn cpu_of(pid: u32) -> Option<Duration> {
    parse_cpu(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// utime and stime, the 14th and 15th field; the second may contain anything, in brackets.
fn parse_cpu(stat: &str) -> Option<Duration> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<u32>().ok();
    Some(TICK * (ticks()? + ticks()?))
}

fn pss_of(pid: u32) -> Option<u64> {
    field(&std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?, "Pss:")
}

fn written_of(pid: u32) -> Option<u64> {
    field(&std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?, "write_bytes:")
}

fn field(text: &str, name: &str) -> Option<u64> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
    rest.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_found_behind_a_strange_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4 1 0 0 0 150 50 9 9 20 0 3 0 5 6 7";
        assert_eq!(parse_cpu(stat), Some(Duration::from_secs(2)));
        assert_eq!(parse_cpu("7 (a) S 1"), None);
    }

    #[test]
    fn only_whole_disks_count() {
        let stats = " 254 0 vda 1 2 3 4 5 6 100 8 0\n 254 1 vda1 1 2 3 4 5 6 70 8 0\n 7 0 loop0 1\n";
        assert_eq!(parse_disks(stats, |name| name == "vda"), 51_200);
    }

    #[test]
    fn this_process_has_memory_and_processor_time() {
        let servers = Servers::pids(&[std::process::id()]);
        assert!(servers.pss_kib().is_some_and(|kib| kib > 100) && servers.cpu().is_some());
        assert!(Servers::pids(&[]).cpu().is_none());
    }
}
