//! Readings of a cgroup (cgroup-v1/*.rst, cgroup-v2.rst).

use super::Cgroup;
use crate::spec::{DiskIo, Pressure, Usage};

/// v1 has numbers near the largest there are for "no limit".
const UNLIMITED: u64 = 1 << 62;

impl Cgroup {
    /// What the cgroup uses; what cannot be read is 0 or missing.
    pub fn usage(&self) -> Usage {
        let usage = if self.is_v2() { self.usage_v2() } else { self.usage_v1() };
        Usage {
            pids: self.number("pids", "pids.current"),
            pids_limit: self.limit("pids", "pids.max"),
            ..usage
        }
    }

    fn usage_v2(&self) -> Usage {
        let cpu = self.text("cpu", "cpu.stat");
        let stat = self.text("memory", "memory.stat");
        let events = self.text("memory", "memory.events");
        let in_use = self.number("memory", "memory.current");
        let inactive = field(&stat, "inactive_file");
        let pressure = |file: &str| {
            let text = self.file("cpu", file)?;
            (!text.is_empty()).then(|| Pressure::parse(&text))
        };
        Usage {
            cpu_usage_ns: field(&cpu, "usage_usec") * 1000,
            cpu_user_ns: field(&cpu, "user_usec") * 1000,
            cpu_system_ns: field(&cpu, "system_usec") * 1000,
            cpu_periods: field(&cpu, "nr_periods"),
            cpu_throttled_periods: field(&cpu, "nr_throttled"),
            cpu_throttled_ns: field(&cpu, "throttled_usec") * 1000,
            memory_usage_bytes: in_use,
            memory_working_set_bytes: in_use.saturating_sub(inactive),
            memory_rss_bytes: field(&stat, "anon"),
            memory_limit_bytes: self.limit("memory", "memory.max"),
            memory_max_usage_bytes: self.number("memory", "memory.peak"),
            memory_cache_bytes: field(&stat, "file"),
            memory_mapped_file_bytes: field(&stat, "file_mapped"),
            memory_active_file_bytes: field(&stat, "active_file"),
            memory_inactive_file_bytes: inactive,
            memory_kernel_bytes: field(&stat, "kernel"),
            memory_failures: field(&events, "max"),
            page_faults: field(&stat, "pgfault"),
            major_page_faults: field(&stat, "pgmajfault"),
            swap_usage_bytes: self.file("memory", "memory.swap.current").map(|text| parse(&text)),
            swap_limit_bytes: self.limit("memory", "memory.swap.max"),
            oom_kills: field(&events, "oom_kill"),
            io: io_v2(&self.text("io", "io.stat")),
            cpu_pressure: pressure("cpu.pressure"),
            memory_pressure: pressure("memory.pressure"),
            io_pressure: pressure("io.pressure"),
            ..Usage::default()
        }
    }

    fn usage_v1(&self) -> Usage {
        let cpu = self.text("cpu", "cpu.stat");
        let stat = self.text("memory", "memory.stat");
        let in_use = self.number("memory", "memory.usage_in_bytes");
        let inactive = field(&stat, "total_inactive_file");
        let limit = self.limit("memory", "memory.limit_in_bytes");
        let both = self.limit("memory", "memory.memsw.limit_in_bytes");
        Usage {
            cpu_usage_ns: self.number("cpuacct", "cpuacct.usage"),
            cpu_user_ns: self.number("cpuacct", "cpuacct.usage_user"),
            cpu_system_ns: self.number("cpuacct", "cpuacct.usage_sys"),
            cpu_periods: field(&cpu, "nr_periods"),
            cpu_throttled_periods: field(&cpu, "nr_throttled"),
            cpu_throttled_ns: field(&cpu, "throttled_time"),
            memory_usage_bytes: in_use,
            memory_working_set_bytes: in_use.saturating_sub(inactive),
            memory_rss_bytes: field(&stat, "total_rss"),
            memory_limit_bytes: limit,
            memory_max_usage_bytes: self.number("memory", "memory.max_usage_in_bytes"),
            memory_cache_bytes: field(&stat, "total_cache"),
            memory_mapped_file_bytes: field(&stat, "total_mapped_file"),
            memory_active_file_bytes: field(&stat, "total_active_file"),
            memory_inactive_file_bytes: inactive,
            memory_kernel_bytes: self.number("memory", "memory.kmem.usage_in_bytes"),
            memory_failures: self.number("memory", "memory.failcnt"),
            page_faults: field(&stat, "total_pgfault"),
            major_page_faults: field(&stat, "total_pgmajfault"),
            swap_usage_bytes: (!stat.is_empty() && stat.contains("total_swap "))
                .then(|| field(&stat, "total_swap")),
            swap_limit_bytes: both.zip(limit).map(|(both, memory)| both.saturating_sub(memory)),
            oom_kills: field(&self.text("memory", "memory.oom_control"), "oom_kill"),
            io: io_v1(
                &self.text("blkio", "blkio.throttle.io_service_bytes"),
                &self.text("blkio", "blkio.throttle.io_serviced"),
            ),
            ..Usage::default()
        }
    }

    /// The text of a file; none where it is missing.
    pub fn file(&self, controller: &str, file: &str) -> Option<String> {
        std::fs::read_to_string(self.dir_of(controller)?.join(file)).ok()
    }

    fn text(&self, controller: &str, file: &str) -> String {
        self.file(controller, file).unwrap_or_default()
    }

    fn number(&self, controller: &str, file: &str) -> u64 {
        parse(&self.text(controller, file))
    }

    /// A limit, where there is one.
    fn limit(&self, controller: &str, file: &str) -> Option<u64> {
        self.file(controller, file)?.trim().parse().ok().filter(|limit| *limit < UNLIMITED)
    }
}

fn parse(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The value of `name` in a file of `name value` lines.
pub fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .map_or(0, |(_, value)| parse(value))
}

/// `8:0` as two numbers.
fn device(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Lines of `8:0 rbytes=1 wbytes=2 rios=3 wios=4 ...`.
fn io_v2(text: &str) -> Vec<DiskIo> {
    let line = |line: &str| {
        let mut fields = line.split(' ');
        let mut disk = DiskIo { device: device(fields.next()?)?, ..DiskIo::default() };
        for (name, value) in fields.filter_map(|f| f.split_once('=')) {
            match name {
                "rbytes" => disk.read_bytes = parse(value),
                "wbytes" => disk.write_bytes = parse(value),
                "rios" => disk.reads = parse(value),
                "wios" => disk.writes = parse(value),
                _ => {}
            }
        }
        Some(disk)
    };
    text.lines().filter_map(line).collect()
}

/// Lines of `8:0 Read 1`, in two files.
fn io_v1(bytes: &str, operations: &str) -> Vec<DiskIo> {
    let mut disks: Vec<DiskIo> = Vec::new();
    for (text, counts_bytes) in [(bytes, true), (operations, false)] {
        for line in text.lines() {
            let mut fields = line.split(' ');
            let Some(device) = fields.next().and_then(device) else { continue };
            let (Some(operation), Some(value)) = (fields.next(), fields.next()) else { continue };
            let at = disks.iter().position(|d| d.device == device).unwrap_or_else(|| {
                disks.push(DiskIo { device, ..DiskIo::default() });
                disks.len() - 1
            });
            let disk = &mut disks[at];
            match (operation, counts_bytes) {
                ("Read", true) => disk.read_bytes = parse(value),
                ("Write", true) => disk.write_bytes = parse(value),
                ("Read", false) => disk.reads = parse(value),
                ("Write", false) => disk.writes = parse(value),
                _ => {}
            }
        }
    }
    disks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(field(events, "oom_kill"), 2);
        assert_eq!(field(events, "absent"), 0);
    }

    #[test]
    fn both_versions_tell_what_went_to_disks() {
        let disk = DiskIo { device: (8, 0), read_bytes: 1, write_bytes: 2, reads: 3, writes: 4 };
        let v2 = "8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\n";
        assert_eq!(io_v2(v2), std::slice::from_ref(&disk));
        let bytes = "8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\n8:0 Total 3\nTotal 3\n";
        assert_eq!(io_v1(bytes, "8:0 Read 3\n8:0 Write 4\nTotal 7\n"), [disk]);
    }

    #[test]
    fn pressure_is_read() {
        let text = "some avg10=1.50 avg60=0.50 avg300=0.00 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n";
        let pressure = Pressure::parse(text);
        assert_eq!((pressure.some.avg10, pressure.some.total_us, pressure.full.total_us), (1.5, 12, 3));
    }
}
