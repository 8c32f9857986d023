//! `update`: other limits for a running container, from a file of `linux.resources` or from flags.

use super::args::Given;
use super::config::Resources;
use super::resources;
use super::state::Container;
use crate::cgroup::Cgroup;
use crate::container::{Context, Failure};

/// `update`.
pub fn update(container: &Container, given: &Given) -> Result<(), Failure> {
    let _lock = container.lock()?;
    if let Some(name) = ["l3-cache-schema", "mem-bw-schema"].into_iter().find(|n| given.value(n).is_some()) {
        return Err(Failure::new(format!("--{name}: Intel RDT is not supported")));
    }
    let mut limits = match given.value("resources") {
        Some(path) => from_file(path)?,
        None => from_flags(given)?,
    };
    if !container.is_alive() {
        return Err(Failure::new("container not running"));
    }
    let cgroup = container.record.cgroup.cgroup()?;
    let memory = &limits.memory;
    let usage = cgroup.usage().memory_usage_bytes;
    if let Some(limit) = memory.limit.filter(|limit| *limit > 0)
        && memory.check_before_update == Some(true)
        && (limit as u64) < usage
    {
        return Err(Failure::new(format!("rejecting memory limit {limit} < usage {usage}")));
    }
    complete(&mut limits, &cgroup)?;
    cgroup.write_all(resources::writes(&limits, cgroup.is_v2())?).context(|| "failed to update")
}

fn from_file(path: &str) -> Result<Resources, Failure> {
    let text =
        if path == "-" { std::io::read_to_string(std::io::stdin()) } else { std::fs::read_to_string(path) };
    let text = text.context(|| format!("read resources {path}"))?;
    serde_json::from_str(&text).map_err(|error| Failure::new(format!("resources: {error}")))
}

fn from_flags(given: &Given) -> Result<Resources, Failure> {
    let mut limits = Resources::default();
    let invalid = |name: &str, text: &str| Failure::new(format!("invalid value for {name}: {text}"));
    let bytes = |name| given.value(name).map(size).transpose();
    let number = |name| given.value(name).map(|t| t.parse::<i64>().map_err(|_| invalid(name, t))).transpose();
    let natural =
        |name| given.value(name).map(|t| t.parse::<u64>().map_err(|_| invalid(name, t))).transpose();
    limits.memory.limit = bytes("memory")?;
    limits.memory.reservation = bytes("memory-reservation")?;
    limits.memory.swap = bytes("memory-swap")?;
    limits.cpu.shares = natural("cpu-share")?;
    limits.cpu.period = natural("cpu-period")?;
    limits.cpu.burst = natural("cpu-burst")?;
    limits.cpu.realtime_period = natural("cpu-rt-period")?;
    limits.cpu.quota = number("cpu-quota")?;
    limits.cpu.realtime_runtime = number("cpu-rt-runtime")?;
    limits.cpu.idle = number("cpu-idle")?;
    given.value("cpuset-cpus").unwrap_or_default().clone_into(&mut limits.cpu.cpus);
    given.value("cpuset-mems").unwrap_or_default().clone_into(&mut limits.cpu.mems);
    limits.pids.limit = number("pids-limit")?;
    let weight = given.value("blkio-weight");
    let weight = weight.map(|t| t.parse::<u16>().map_err(|_| invalid("blkio-weight", t))).transpose()?;
    limits.block_io.weight = weight;
    Ok(limits)
}

/// Fills in what goes with a value that is given, as runc does: memory without a limit is memory and swap
/// without one; on v2, where one file has both, quota and period keep each other, and swap alone is counted from
/// the limit of memory that holds.
fn complete(limits: &mut Resources, cgroup: &Cgroup) -> Result<(), Failure> {
    let memory = &mut limits.memory;
    if memory.limit == Some(-1) && memory.swap.is_none() {
        memory.swap = Some(-1);
    }
    if !cgroup.is_v2() {
        return Ok(());
    }
    if memory.swap.is_some_and(|swap| swap > 0) && memory.limit.is_none() {
        let now = cgroup.usage().memory_limit_bytes.and_then(|limit| i64::try_from(limit).ok());
        memory.limit =
            Some(now.ok_or_else(|| Failure::new("unable to set swap limit without memory limit"))?);
    }
    if let (Some(swap), Some(limit)) = (memory.swap, memory.limit)
        && swap > 0
        && swap < limit
    {
        return Err(Failure::new("memory+swap limit should be >= memory limit"));
    }
    let given = |value: Option<u64>| value.filter(|value| *value != 0);
    let (quota, period) = (limits.cpu.quota.filter(|quota| *quota != 0), given(limits.cpu.period));
    if quota.is_some() != period.is_some() {
        let (old_quota, old_period) = cpu_max(&cgroup.file("cpu", "cpu.max").unwrap_or_default());
        limits.cpu.quota = quota.or(old_quota);
        limits.cpu.period = period.or(old_period);
    }
    Ok(())
}

/// Quota (-1 for none) and period of `cpu.max`.
fn cpu_max(text: &str) -> (Option<i64>, Option<u64>) {
    let mut fields = text.split_whitespace();
    let quota = fields.next().map(|quota| quota.parse().unwrap_or(-1));
    (quota, fields.next().and_then(|period| period.parse().ok()))
}

/// A number of bytes, with `k`, `m`, `g` or `t`.
fn size(text: &str) -> Result<i64, Failure> {
    let lower = text.to_ascii_lowercase();
    let lower = lower.strip_suffix('b').unwrap_or(&lower);
    let units = [('k', 10), ('m', 20), ('g', 30), ('t', 40)];
    let unit = units.iter().find_map(|(unit, shift)| Some((lower.strip_suffix(*unit)?, *shift)));
    let (digits, shift) = unit.unwrap_or((lower, 0));
    let number: Option<i64> = digits.parse().ok();
    number
        .and_then(|n| n.checked_mul(1 << shift))
        .ok_or_else(|| Failure::new(format!("invalid size: '{text}'")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("5", 5), ("64m", 64 << 20), ("1GB", 1 << 30), ("-1", -1), ("2k", 2048), ("1T", 1 << 40)]
        {
            assert_eq!(size(text).unwrap(), bytes, "{text}");
        }
        assert!(size("much").is_err() && size("9999999t").is_err());
    }

    #[test]
    fn quota_and_period_are_read() {
        assert_eq!(cpu_max("max 100000\n"), (Some(-1), Some(100_000)));
        assert_eq!(cpu_max("5000 10000\n"), (Some(5000), Some(10_000)));
        assert_eq!(cpu_max(""), (None, None));
    }
}
