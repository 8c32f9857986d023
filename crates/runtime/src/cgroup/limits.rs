//! Which file of a cgroup gets which value: the pure half of applying [`Resources`], for v1
//! (Documentation/admin-guide/cgroup-v1) and v2 (Documentation/admin-guide/cgroup-v2.rst).

use crate::spec::Resources;
use std::borrow::Cow;

/// One value to write.
#[derive(Debug, PartialEq, Eq)]
pub struct Write {
    /// The controller whose hierarchy has the file.
    pub controller: Cow<'static, str>,
    /// The file.
    pub file: String,
    /// The value.
    pub value: String,
}

fn write(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Write {
    Write { controller: controller.into(), file: file.into(), value: value.to_string() }
}

/// The writes for cgroup v1.
pub fn v1(resources: &Resources) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(shares) = resources.cpu_shares {
        writes.push(write("cpu", "cpu.shares", shares.clamp(2, 262_144)));
    }
    if let Some(period) = resources.cpu_period_us {
        writes.push(write("cpu", "cpu.cfs_period_us", period));
    }
    if let Some(quota) = resources.cpu_quota_us {
        writes.push(write("cpu", "cpu.cfs_quota_us", if quota <= 0 { -1 } else { quota }));
    }
    if let Some(limit) = resources.memory_limit_bytes {
        writes.push(write("memory", "memory.limit_in_bytes", if limit <= 0 { -1 } else { limit }));
    }
    if let Some(limit) = resources.memory_swap_bytes {
        writes.push(write("memory", "memory.memsw.limit_in_bytes", if limit <= 0 { -1 } else { limit }));
    }
    if let Some(bytes) = resources.memory_reservation_bytes {
        writes.push(write("memory", "memory.soft_limit_in_bytes", if bytes <= 0 { -1 } else { bytes }));
    }
    if let Some(limit) = resources.pids_limit {
        writes.push(write("pids", "pids.max", max_or(limit)));
    }
    for (size, limit) in &resources.hugepages {
        writes.push(write("hugetlb", format!("hugetlb.{size}.limit_in_bytes"), limit));
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        writes.push(write("cpuset", "cpuset.cpus", cpus));
    }
    if let Some(mems) = &resources.cpuset_mems {
        writes.push(write("cpuset", "cpuset.mems", mems));
    }
    writes
}

/// The writes for cgroup v2. `container`: an OOM kill takes the whole cgroup, as Kubernetes wants it of
/// containers since 1.28.
pub fn v2(resources: &Resources, container: bool) -> Vec<Write> {
    let mut writes = Vec::new();
    if let Some(shares) = resources.cpu_shares {
        writes.push(write("cpu", "cpu.weight", weight_of_shares(shares)));
    }
    if resources.cpu_quota_us.is_some() || resources.cpu_period_us.is_some() {
        let period = resources.cpu_period_us.unwrap_or(100_000);
        writes.push(write(
            "cpu",
            "cpu.max",
            format!("{} {period}", max_or(resources.cpu_quota_us.unwrap_or(-1))),
        ));
    }
    if let Some(limit) = resources.memory_limit_bytes {
        writes.push(write("memory", "memory.max", max_or(limit)));
    }
    if let Some(limit) = resources.memory_swap_bytes {
        // v2 counts swap alone.
        let memory = resources.memory_limit_bytes.filter(|memory| *memory > 0).unwrap_or(0);
        let swap = if limit <= 0 { "max".to_owned() } else { (limit - memory).max(0).to_string() };
        writes.push(write("memory", "memory.swap.max", swap));
    }
    if let Some(bytes) = resources.memory_reservation_bytes {
        writes.push(write("memory", "memory.low", max_or(bytes)));
    }
    if container {
        writes.push(write("memory", "memory.oom.group", 1));
    }
    if let Some(limit) = resources.pids_limit {
        writes.push(write("pids", "pids.max", max_or(limit)));
    }
    for (size, limit) in &resources.hugepages {
        writes.push(write("hugetlb", format!("hugetlb.{size}.max"), limit));
    }
    if let Some(cpus) = &resources.cpuset_cpus {
        writes.push(write("cpuset", "cpuset.cpus", cpus));
    }
    if let Some(mems) = &resources.cpuset_mems {
        writes.push(write("cpuset", "cpuset.mems", mems));
    }
    for (file, value) in &resources.unified {
        let controller = file.split('.').next().unwrap_or_default().to_owned();
        writes.push(Write { controller: controller.into(), file: file.clone(), value: value.clone() });
    }
    writes
}

fn max_or(limit: i64) -> String {
    if limit <= 0 { "max".to_owned() } else { limit.to_string() }
}

/// The v2 weight (1..=10000, default 100) that stands for v1 shares (2..=262144, default 1024). A quadratic
/// in the logarithm that meets all three pairs of ends and defaults, as opencontainers/cgroups has it since 2025.
fn weight_of_shares(shares: u64) -> u64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let log = (shares as f64).log2();
    let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
    (10f64.powf(exponent).ceil() as u64).clamp(1, 10_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_become_the_files_of_each_version() {
        let resources = Resources {
            cpu_shares: Some(1024),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            memory_limit_bytes: Some(64 << 20),
            pids_limit: Some(-1),
            hugepages: [("2MB".to_owned(), 4 << 20)].into(),
            cpuset_cpus: Some("0-1".to_owned()),
            ..Resources::default()
        };
        let show = |writes: Vec<Write>| -> Vec<String> {
            writes.into_iter().map(|w| format!("{} {}={}", w.controller, w.file, w.value)).collect()
        };
        assert_eq!(
            show(v1(&resources)),
            [
                "cpu cpu.shares=1024",
                "cpu cpu.cfs_period_us=100000",
                "cpu cpu.cfs_quota_us=50000",
                "memory memory.limit_in_bytes=67108864",
                "pids pids.max=max",
                "hugetlb hugetlb.2MB.limit_in_bytes=4194304",
                "cpuset cpuset.cpus=0-1",
            ]
        );
        assert_eq!(
            show(v2(&resources, true)),
            [
                "cpu cpu.weight=100",
                "cpu cpu.max=50000 100000",
                "memory memory.max=67108864",
                "memory memory.oom.group=1",
                "pids pids.max=max",
                "hugetlb hugetlb.2MB.max=4194304",
                "cpuset cpuset.cpus=0-1",
            ]
        );
        assert_eq!(v1(&Resources::default()), []);
        assert_eq!(v2(&Resources::default(), false), []);
    }

    #[test]
    fn shares_map_to_weights_at_their_ends_and_default() {
        for (shares, weight) in
            [(0, 1), (2, 1), (102, 17), (1024, 100), (262_144, 10_000), (u64::MAX, 10_000)]
        {
            assert_eq!(weight_of_shares(shares), weight, "{shares} shares");
        }
    }
}
