//! From the specification's `linux.resources` (config-linux.md, "Control groups") to the files of cgroup v1 and
//! v2: the common limits by way of [`crate::spec::Resources`], the rest here.

use super::config::{BlockIo, DeviceRule, Resources, Throttle};
use crate::cgroup::devices::Rule;
use crate::cgroup::limits::{self, Write};
use crate::container::Failure;
use crate::spec;

/// The writes that apply limits.
pub fn writes(resources: &Resources, v2: bool) -> Result<Vec<Write>, Failure> {
    let common = common(resources);
    let mut writes = if v2 { limits::v2(&common, false) } else { limits::v1(&common) };
    if v2 {
        more_v2(resources, &mut writes)?;
    } else {
        more_v1(resources, &mut writes);
    }
    Ok(writes)
}

fn common(resources: &Resources) -> spec::Resources {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let cpu = &resources.cpu;
    spec::Resources {
        // 0 stands for "not set".
        cpu_shares: cpu.shares.filter(|shares| *shares != 0),
        cpu_quota_us: cpu.quota.filter(|quota| *quota != 0),
        cpu_period_us: cpu.period.filter(|period| *period != 0),
        memory_limit_bytes: resources.memory.limit.filter(|limit| *limit != 0),
        memory_swap_bytes: resources.memory.swap.filter(|limit| *limit != 0),
        memory_reservation_bytes: resources.memory.reservation.filter(|limit| *limit != 0),
        pids_limit: resources.pids.limit.filter(|limit| *limit != 0),
        hugepages: resources.hugepage_limits.iter().map(|h| (h.page_size.clone(), h.limit)).collect(),
        cpuset_cpus: some(&cpu.cpus),
        cpuset_mems: some(&cpu.mems),
        ..spec::Resources::default()
    }
}

fn more_v1(resources: &Resources, writes: &mut Vec<Write>) {
    let mut add = |controller: &'static str, file: &str, value: String| {
        writes.push(Write { controller: controller.into(), file: file.to_owned(), value });
    };
    let (memory, cpu) = (&resources.memory, &resources.cpu);
    if let Some(limit) = memory.kernel_tcp.filter(|limit| *limit != 0) {
        add("memory", "memory.kmem.tcp.limit_in_bytes", limit.to_string());
    }
    if let Some(swappiness) = memory.swappiness {
        add("memory", "memory.swappiness", swappiness.to_string());
    }
    if memory.disable_oom_killer == Some(true) {
        add("memory", "memory.oom_control", "1".to_owned());
    }
    if let Some(period) = cpu.realtime_period.filter(|period| *period != 0) {
        add("cpu", "cpu.rt_period_us", period.to_string());
    }
    if let Some(runtime) = cpu.realtime_runtime.filter(|runtime| *runtime != 0) {
        add("cpu", "cpu.rt_runtime_us", runtime.to_string());
    }
    if let Some(burst) = cpu.burst {
        add("cpu", "cpu.cfs_burst_us", burst.to_string());
    }
    if let Some(idle) = cpu.idle {
        add("cpu", "cpu.idle", idle.to_string());
    }
    let io = &resources.block_io;
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        add("blkio", "blkio.weight", weight.to_string());
    }
    if let Some(weight) = io.leaf_weight.filter(|weight| *weight != 0) {
        add("blkio", "blkio.leaf_weight", weight.to_string());
    }
    for device in &io.weight_device {
        let at = format!("{}:{}", device.major, device.minor);
        if let Some(weight) = device.weight {
            add("blkio", "blkio.weight_device", format!("{at} {weight}"));
        }
        if let Some(weight) = device.leaf_weight {
            add("blkio", "blkio.leaf_weight_device", format!("{at} {weight}"));
        }
    }
    for (file, devices) in throttles(io) {
        for device in devices {
            let file = format!("blkio.throttle.{file}_device");
            add("blkio", &file, format!("{}:{} {}", device.major, device.minor, device.rate));
        }
    }
    if let Some(class) = resources.network.class_id.filter(|class| *class != 0) {
        add("net_cls", "net_cls.classid", class.to_string());
    }
    for one in &resources.network.priorities {
        add("net_prio", "net_prio.ifpriomap", format!("{} {}", one.name, one.priority));
    }
    rdma(resources, add);
}

fn more_v2(resources: &Resources, writes: &mut Vec<Write>) -> Result<(), Failure> {
    let mut add = |controller: &'static str, file: &str, value: String| {
        writes.push(Write { controller: controller.into(), file: file.to_owned(), value });
    };
    if let Some(burst) = resources.cpu.burst {
        add("cpu", "cpu.max.burst", burst.to_string());
    }
    if let Some(idle) = resources.cpu.idle {
        add("cpu", "cpu.idle", idle.to_string());
    }
    let io = &resources.block_io;
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        // 10..=1000 becomes 1..=10000, as runc and crun have it.
        let weight = 1 + (u64::from(weight).saturating_sub(10)) * 9999 / 990;
        add("io", "io.weight", format!("default {weight}"));
    }
    for (file, key) in
        [("read_bps", "rbps"), ("write_bps", "wbps"), ("read_iops", "riops"), ("write_iops", "wiops")]
    {
        for device in throttles(io).into_iter().filter(|(name, _)| *name == file).flat_map(|(_, list)| list) {
            add("io", "io.max", format!("{}:{} {key}={}", device.major, device.minor, device.rate));
        }
    }
    rdma(resources, add);
    for (file, value) in &resources.unified {
        if file.contains('/') || !file.contains('.') {
            return Err(Failure::new(format!(
                "unified resource {file:?} must be a file name without any slashes"
            )));
        }
        let controller = file.split('.').next().unwrap_or_default().to_owned();
        for line in value.split('\n') {
            let (controller, file, value) = (controller.clone().into(), file.clone(), line.to_owned());
            writes.push(Write { controller, file, value });
        }
    }
    Ok(())
}

fn throttles(io: &BlockIo) -> [(&'static str, &[Throttle]); 4] {
    [
        ("read_bps", &io.throttle_read_bps_device),
        ("write_bps", &io.throttle_write_bps_device),
        ("read_iops", &io.throttle_read_iops_device),
        ("write_iops", &io.throttle_write_iops_device),
    ]
}

fn rdma(resources: &Resources, mut add: impl FnMut(&'static str, &str, String)) {
    for (device, limits) in &resources.rdma {
        let mut line = device.clone();
        if let Some(handles) = limits.hca_handles {
            line.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limits.hca_objects {
            line.push_str(&format!(" hca_object={objects}"));
        }
        add("rdma", "rdma.max", line);
    }
}

/// The device rules of a configuration: allowed and denied in order, then what every container may use.
pub fn device_rules(resources: &Resources) -> Result<Vec<Rule>, Failure> {
    let number = |n: Option<i64>| n.and_then(|n| u32::try_from(n).ok());
    let mut rules = Vec::new();
    for DeviceRule { allow, kind, major, minor, access } in &resources.devices {
        let kind = match kind.as_str() {
            "" | "a" => 'a',
            "c" | "u" => 'c',
            "b" => 'b',
            other => return Err(Failure::new(format!("invalid device type {other:?}"))),
        };
        let access = if access.is_empty() { "rwm" } else { access };
        let rule = Rule::new(kind, number(*major), number(*minor), access);
        rules.push(if *allow { rule } else { rule.denied() });
    }
    rules.extend(crate::cgroup::devices::default_rules());
    Ok(rules)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn show(text: &str, v2: bool) -> Vec<String> {
        let resources: Resources = serde_json::from_str(text).unwrap();
        writes(&resources, v2).unwrap().into_iter().map(|w| format!("{}={}", w.file, w.value)).collect()
    }

    #[test]
    fn limits_become_the_files_of_each_version() {
        let text = r#"{"memory":{"limit":1048576,"swap":3145728,"reservation":524288,"swappiness":10},
            "cpu":{"shares":0,"quota":5000,"period":10000,"mems":"0"},"devices":null,
            "blockIO":{"weight":500,"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1024}]},
            "network":{"classID":7,"priorities":[{"name":"lo","priority":3}]},
            "unified":{"memory.high":"900000"}}"#;
        assert_eq!(
            show(text, false),
            [
                "cpu.cfs_period_us=10000",
                "cpu.cfs_quota_us=5000",
                "memory.limit_in_bytes=1048576",
                "memory.memsw.limit_in_bytes=3145728",
                "memory.soft_limit_in_bytes=524288",
                "cpuset.mems=0",
                "memory.swappiness=10",
                "blkio.weight=500",
                "blkio.throttle.read_bps_device=8:0 1024",
                "net_cls.classid=7",
                "net_prio.ifpriomap=lo 3",
            ]
        );
        assert_eq!(
            show(text, true),
            [
                "cpu.max=5000 10000",
                "memory.max=1048576",
                "memory.swap.max=2097152",
                "memory.low=524288",
                "cpuset.mems=0",
                "io.weight=default 4950",
                "io.max=8:0 rbps=1024",
                "memory.high=900000",
            ]
        );
    }

    #[test]
    fn a_unified_name_cannot_leave_the_cgroup() {
        let resources: Resources = serde_json::from_str(r#"{"unified":{"../memory.max":"1"}}"#).unwrap();
        assert!(writes(&resources, true).is_err());
    }
}
