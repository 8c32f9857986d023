//! Readings of a cgroup.

use super::Cgroup;
use crate::spec::Usage;

impl Cgroup {
    /// What the cgroup uses; what cannot be read is 0.
    pub fn usage(&self) -> Usage {
        let read = |controller: &str, file: &str| {
            let dir = self.dir_of(controller)?;
            std::fs::read_to_string(dir.join(file)).ok()
        };
        let number = |text: Option<String>| text.and_then(|t| t.trim().parse::<u64>().ok()).unwrap_or(0);
        let v2 = self.is_v2();
        let stat = read("memory", "memory.stat").unwrap_or_default();
        let (cpu_usage_ns, in_use, inactive, resident) = if v2 {
            (
                field(&read("cpu", "cpu.stat").unwrap_or_default(), "usage_usec") * 1000,
                number(read("memory", "memory.current")),
                field(&stat, "inactive_file"),
                field(&stat, "anon"),
            )
        } else {
            (
                number(read("cpuacct", "cpuacct.usage")),
                number(read("memory", "memory.usage_in_bytes")),
                field(&stat, "total_inactive_file"),
                field(&stat, "total_rss"),
            )
        };
        Usage {
            cpu_usage_ns,
            memory_usage_bytes: in_use,
            memory_working_set_bytes: in_use.saturating_sub(inactive),
            memory_rss_bytes: resident,
            pids: number(read("pids", "pids.current")),
        }
    }
}

/// The value of `name` in a file of `name value` lines.
pub fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(key, _)| *key == name)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_field_is_found_by_its_whole_name() {
        let events = "low 0\noom 3\noom_kill 2\noom_group_kill 1\n";
        assert_eq!(super::field(events, "oom_kill"), 2);
        assert_eq!(super::field(events, "absent"), 0);
    }
}
