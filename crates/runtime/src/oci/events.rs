//! `events`: readings of a container's cgroup and notices of its OOM kills, one JSON document a line, in the form
//! that runc gave them (its `types/events.go`).

use super::args::Given;
use super::state::Container;
use crate::cgroup::{Cgroup, usage::field};
use crate::container::{Context, Failure};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::fd::{AsFd, AsRawFd, OwnedFd};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, PidfdFlags};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::time::Duration;

/// `events`: until the container ends, or with `--stats` one reading.
pub fn events(container: &Container, given: &Given) -> Result<(), Failure> {
    let interval = duration(given.value("interval").unwrap_or("5s"))?;
    if interval.is_zero() {
        return Err(Failure::new("duration interval must be greater than 0"));
    }
    let id = &container.record.id;
    let not_running = || Failure::new(format!("container with id {id} is not running"));
    if !container.is_alive() {
        return Err(not_running());
    }
    let cgroup = container.record.cgroup.cgroup()?;
    if given.is_set("stats") {
        return tell("stats", id, Some(reading(&cgroup)));
    }
    let pid = Pid::from_raw(container.record.pid).ok_or_else(not_running)?;
    let end = rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|_| not_running())?;
    let alarm = Alarm::set(&cgroup);
    let mut kills = cgroup.oom_kills();
    let mut left = interval;
    loop {
        let before = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let limit = Timespec { tv_sec: left.as_secs() as _, tv_nsec: i64::from(left.subsec_nanos()) as _ };
        let mut fds = vec![PollFd::new(&end, PollFlags::IN)];
        if let Some(alarm) = &alarm {
            fds.push(PollFd::new(alarm.fd(), alarm.flags()));
        }
        let ready = match rustix::event::poll(&mut fds, Some(&limit)) {
            Err(rustix::io::Errno::INTR) => 1,
            other => other.context(|| "poll")?,
        };
        let (ended, rang) =
            (!fds[0].revents().is_empty(), fds.get(1).is_some_and(|fd| !fd.revents().is_empty()));
        drop(fds);
        if let (true, Some(alarm)) = (rang, &alarm) {
            alarm.hush();
        }
        let now = cgroup.oom_kills();
        for _ in kills..now {
            tell("oom", id, None)?;
        }
        kills = now;
        if ended {
            return Ok(());
        }
        let after = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let passed = (after.tv_sec - before.tv_sec) * 1_000_000_000 + (after.tv_nsec - before.tv_nsec);
        left = left.saturating_sub(Duration::from_nanos(u64::try_from(passed).unwrap_or(0)));
        if ready == 0 || left.is_zero() {
            tell("stats", id, Some(reading(&cgroup)))?;
            left = interval;
        }
    }
}

fn tell(kind: &str, id: &str, data: Option<Value>) -> Result<(), Failure> {
    let mut event = json!({ "type": kind, "id": id });
    if let Some(data) = data {
        event["data"] = data;
    }
    let mut out = std::io::stdout();
    out.write_all(format!("{event}\n").as_bytes()).and_then(|()| out.flush()).context(|| "write")
}

/// What becomes readable when the kernel kills for want of memory.
enum Alarm {
    /// v1: an eventfd, registered for `memory.oom_control`, which stays open meanwhile.
    Eventfd(OwnedFd, #[allow(dead_code, reason = "kept open")] OwnedFd),
    /// v2: `memory.events` itself.
    File(OwnedFd),
}

impl Alarm {
    /// Without one kills are seen with the next reading.
    fn set(cgroup: &Cgroup) -> Option<Self> {
        let dir = cgroup.dir_of("memory")?;
        let open = |name: &str| {
            rustix::fs::open(dir.join(name), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()
        };
        if cgroup.is_v2() {
            let alarm = Self::File(open("memory.events")?);
            alarm.hush();
            return Some(alarm);
        }
        let control = open("memory.oom_control")?;
        let bell = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).ok()?;
        let line = format!("{} {}", bell.as_raw_fd(), control.as_raw_fd());
        std::fs::write(dir.join("cgroup.event_control"), line).ok()?;
        Some(Self::Eventfd(bell, control))
    }

    fn fd(&self) -> &OwnedFd {
        match self {
            Self::Eventfd(fd, _) | Self::File(fd) => fd,
        }
    }

    fn flags(&self) -> PollFlags {
        match self {
            Self::Eventfd(..) => PollFlags::IN,
            Self::File(_) => PollFlags::PRI,
        }
    }

    /// Reads what is there, after which it is quiet.
    fn hush(&self) {
        let mut bytes = [0; 4096];
        if let Self::File(file) = self {
            let _ = rustix::fs::seek(file, rustix::fs::SeekFrom::Start(0));
        }
        let _ = rustix::io::read(self.fd().as_fd(), &mut bytes);
    }
}

/// One reading.
fn reading(cgroup: &Cgroup) -> Value {
    let usage = cgroup.usage();
    let v2 = cgroup.is_v2();
    let text = |controller: &str, file: &str| cgroup.file(controller, file).unwrap_or_default();
    let each_cpu = |file: &str| -> Vec<u64> {
        text("cpuacct", file).split_whitespace().filter_map(|number| number.parse().ok()).collect()
    };
    let mut cpu =
        json!({ "total": usage.cpu_usage_ns, "kernel": usage.cpu_system_ns, "user": usage.cpu_user_ns });
    if !v2 {
        let lines = text("cpuacct", "cpuacct.usage_all");
        let column = |at: usize| -> Vec<u64> {
            let value = |line: &str| line.split_whitespace().nth(at)?.parse().ok();
            lines.lines().skip(1).filter_map(value).collect()
        };
        cpu["percpu"] = json!(each_cpu("cpuacct.usage_percpu"));
        cpu["percpu_user"] = json!(column(1));
        cpu["percpu_kernel"] = json!(column(2));
    }
    let raw: Map<String, Value> = text("memory", "memory.stat")
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, value)| Some((name.to_owned(), json!(value.trim().parse::<u64>().ok()?))))
        .collect();
    let limit = |limit: Option<u64>| limit.unwrap_or(u64::MAX);
    let v1 = |name: &str| {
        let number =
            |file: &str| text("memory", &format!("memory.{name}.{file}")).trim().parse::<u64>().unwrap_or(0);
        json!({ "limit": number("limit_in_bytes"), "usage": number("usage_in_bytes"),
            "max": number("max_usage_in_bytes"), "failcnt": number("failcnt") })
    };
    let swap = if v2 {
        json!({ "limit": limit(usage.swap_limit_bytes), "usage": usage.swap_usage_bytes.unwrap_or(0), "failcnt":
            field(&text("memory", "memory.swap.events"), "max") })
    } else {
        v1("memsw")
    };
    let mut blkio = json!({});
    if !usage.io.is_empty() {
        let list = |read: fn(&crate::spec::DiskIo) -> u64, write: fn(&crate::spec::DiskIo) -> u64| -> Value {
            let entry = |disk: &crate::spec::DiskIo, op: &str, value: u64| json!({ "major": disk.device.0, "minor": disk.device.1, "op": op, "value": value });
            usage.io.iter().flat_map(|d| [entry(d, "Read", read(d)), entry(d, "Write", write(d))]).collect()
        };
        blkio["ioServiceBytesRecursive"] = list(|d| d.read_bytes, |d| d.write_bytes);
        blkio["ioServicedRecursive"] = list(|d| d.reads, |d| d.writes);
    }
    let mut pids = json!({ "current": usage.pids });
    if let Some(limit) = usage.pids_limit {
        pids["limit"] = json!(limit);
    }
    json!({
        "cpu": {
            "usage": cpu,
            "throttling": { "periods": usage.cpu_periods, "throttledPeriods": usage.cpu_throttled_periods,
                "throttledTime": usage.cpu_throttled_ns },
        },
        "memory": {
            "cache": usage.memory_cache_bytes,
            "usage": { "limit": limit(usage.memory_limit_bytes), "usage": usage.memory_usage_bytes,
                "max": usage.memory_max_usage_bytes, "failcnt": usage.memory_failures },
            "swap": swap,
            "kernel": if v2 { json!({ "usage": usage.memory_kernel_bytes }) } else { v1("kmem") },
            "kernelTCP": if v2 { json!({}) } else { v1("kmem.tcp") },
            "raw": raw,
        },
        "pids": pids,
        "blkio": blkio,
        "hugetlb": {},
        "intel_rdt": {},
        "network_interfaces": null,
    })
}

/// A duration as Go writes them: `5s`, `1m30s`, `1.5s`, `100ms`.
fn duration(text: &str) -> Result<Duration, Failure> {
    let invalid = || Failure::new(format!("invalid duration {text:?}"));
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(invalid)?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let (unit, after) = after.split_at(unit);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(invalid()),
        };
        sum += number.parse::<f64>().map_err(|_| invalid())? * seconds;
        rest = after;
    }
    if text.is_empty() {
        return Err(invalid());
    }
    Duration::try_from_secs_f64(sum).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_gos() {
        for (text, millis) in
            [("5s", 5000), ("100ms", 100), ("1m30s", 90_000), ("1.5s", 1500), ("1h", 3_600_000)]
        {
            assert_eq!(duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        for text in ["", "5", "s", "5x", "-1s", "1s2"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }
}
