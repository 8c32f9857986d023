//! /metrics/cadvisor: readings of the node (`id="/"`), of pods and of containers in cAdvisor's names and labels, and
//! what is known of the machine.

use super::exposition::{Exposition, Labels};
use super::{Measured, cpu_seconds, machine, measure, metrics_text, millis, seconds};
use crate::kubelet::Shared;
use http::Response;
use knarr_client::Body;
use knarr_runtime::spec::{Pressure, Usage};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// One cgroup with the values of its labels.
struct Row<'a> {
    container: &'a str,
    id: &'a str,
    image: &'a str,
    name: &'a str,
    namespace: &'a str,
    pod: &'a str,
    started: f64,
    usage: &'a Usage,
    network: Option<PathBuf>,
}

impl Row<'_> {
    fn labels<'b>(&'b self, more: Labels<'b>) -> Vec<(&'b str, &'b str)> {
        let mut labels = vec![
            ("container", self.container),
            ("id", self.id),
            ("image", self.image),
            ("name", self.name),
            ("namespace", self.namespace),
            ("pod", self.pod),
        ];
        labels.extend(more);
        labels.sort_unstable();
        labels
    }
}

/// A family with one sample a cgroup: whether it counts, name, help, value where there is one.
type Simple = (bool, &'static str, &'static str, fn(&Row<'_>) -> Option<f64>);

const COUNTS: bool = true;
const SHOWS: bool = false;

/// In the order of names, as the text has them.
const SIMPLE: &[Simple] = &[
    (COUNTS, "container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals.", |r| {
        limited(r, r.usage.cpu_periods as f64)
    }),
    (COUNTS, "container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals.", |r| {
        limited(r, r.usage.cpu_throttled_periods as f64)
    }),
    (
        COUNTS,
        "container_cpu_cfs_throttled_seconds_total",
        "Total time duration the container has been throttled.",
        |r| limited(r, cpu_seconds(r.usage.cpu_throttled_ns)),
    ),
    (COUNTS, "container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds.", |r| {
        Some(cpu_seconds(r.usage.cpu_system_ns))
    }),
    (COUNTS, "container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds.", |r| {
        Some(cpu_seconds(r.usage.cpu_user_ns))
    }),
    (SHOWS, "container_memory_cache", "Number of bytes of page cache memory.", |r| {
        Some(r.usage.memory_cache_bytes as f64)
    }),
    (COUNTS, "container_memory_failcnt", "Number of memory usage hits limits", |r| {
        Some(r.usage.memory_failures as f64)
    }),
    (SHOWS, "container_memory_kernel_usage", "Size of kernel memory allocated in bytes.", |r| {
        Some(r.usage.memory_kernel_bytes as f64)
    }),
    (SHOWS, "container_memory_mapped_file", "Size of memory mapped files in bytes.", |r| {
        Some(r.usage.memory_mapped_file_bytes as f64)
    }),
    (SHOWS, "container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes", |r| {
        Some(r.usage.memory_max_usage_bytes as f64)
    }),
    (SHOWS, "container_memory_rss", "Size of RSS in bytes.", |r| Some(r.usage.memory_rss_bytes as f64)),
    (SHOWS, "container_memory_swap", "Container swap usage in bytes.", |r| {
        Some(r.usage.swap_usage_bytes.unwrap_or_default() as f64)
    }),
    (SHOWS, "container_memory_total_active_file_bytes", "Current total active file in bytes.", |r| {
        Some(r.usage.memory_active_file_bytes as f64)
    }),
    (SHOWS, "container_memory_total_inactive_file_bytes", "Current total inactive file in bytes.", |r| {
        Some(r.usage.memory_inactive_file_bytes as f64)
    }),
    (
        SHOWS,
        "container_memory_usage_bytes",
        "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |r| Some(r.usage.memory_usage_bytes as f64),
    ),
    (SHOWS, "container_memory_working_set_bytes", "Current working set in bytes.", |r| {
        Some(r.usage.memory_working_set_bytes as f64)
    }),
    (COUNTS, "container_oom_events_total", "Count of out of memory events observed for the container", |r| {
        Some(r.usage.oom_kills as f64)
    }),
    (
        COUNTS,
        "container_pressure_cpu_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to CPU congestion.",
        |r| stalled(r.usage.cpu_pressure),
    ),
    (
        COUNTS,
        "container_pressure_cpu_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to CPU congestion.",
        |r| waiting(r.usage.cpu_pressure),
    ),
    (
        COUNTS,
        "container_pressure_io_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to IO congestion.",
        |r| stalled(r.usage.io_pressure),
    ),
    (
        COUNTS,
        "container_pressure_io_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to IO congestion.",
        |r| waiting(r.usage.io_pressure),
    ),
    (
        COUNTS,
        "container_pressure_memory_stalled_seconds_total",
        "Total time duration no tasks in the container could make progress due to memory congestion.",
        |r| stalled(r.usage.memory_pressure),
    ),
    (
        COUNTS,
        "container_pressure_memory_waiting_seconds_total",
        "Total time duration tasks in the container have waited due to memory congestion.",
        |r| waiting(r.usage.memory_pressure),
    ),
    (SHOWS, "container_processes", "Number of processes running inside the container.", |r| {
        Some(r.usage.pids as f64)
    }),
    (SHOWS, "container_spec_memory_limit_bytes", "Memory limit for the container.", |r| {
        Some(r.usage.memory_limit_bytes.unwrap_or_default() as f64)
    }),
    (
        SHOWS,
        "container_start_time_seconds",
        "Start time of the container since unix epoch in seconds.",
        |r| Some(r.started),
    ),
    (
        SHOWS,
        "container_threads_max",
        "Maximum number of threads allowed inside the container, infinity if value is zero",
        |r| Some(r.usage.pids_limit.unwrap_or_default() as f64),
    ),
];

/// Bytes, packets, errors, dropped: received and sent, with the place in [`machine::Interface`].
const NETWORK: [(&str, &str, usize, bool); 8] = [
    ("container_network_receive_bytes_total", "Cumulative count of bytes received", 0, true),
    (
        "container_network_receive_errors_total",
        "Cumulative count of errors encountered while receiving",
        2,
        true,
    ),
    (
        "container_network_receive_packets_dropped_total",
        "Cumulative count of packets dropped while receiving",
        3,
        true,
    ),
    ("container_network_receive_packets_total", "Cumulative count of packets received", 1, true),
    ("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", 0, false),
    (
        "container_network_transmit_errors_total",
        "Cumulative count of errors encountered while transmitting",
        2,
        false,
    ),
    (
        "container_network_transmit_packets_dropped_total",
        "Cumulative count of packets dropped while transmitting",
        3,
        false,
    ),
    ("container_network_transmit_packets_total", "Cumulative count of packets transmitted", 1, false),
];

type OfDisk = fn(&knarr_runtime::spec::DiskIo) -> u64;

const DISKS: [(&str, &str, OfDisk); 4] = [
    ("container_fs_reads_bytes_total", "Cumulative count of bytes read", |d| d.read_bytes),
    ("container_fs_reads_total", "Cumulative count of reads completed", |d| d.reads),
    ("container_fs_writes_bytes_total", "Cumulative count of bytes written", |d| d.write_bytes),
    ("container_fs_writes_total", "Cumulative count of writes completed", |d| d.writes),
];

/// Only where there is a CPU limit.
fn limited(row: &Row<'_>, value: f64) -> Option<f64> {
    (row.usage.cpu_periods > 0).then_some(value)
}

/// Seconds in which nothing went on for want of a resource.
fn stalled(pressure: Option<Pressure>) -> Option<f64> {
    pressure.map(|p| p.full.total_us as f64 / 1e6)
}

/// Seconds in which something waited for a resource.
fn waiting(pressure: Option<Pressure>) -> Option<f64> {
    pressure.map(|p| p.some.total_us as f64 / 1e6)
}

/// The document.
pub(in crate::server) async fn metrics(kubelet: &Arc<Shared>) -> Response<Body> {
    let measured = measure(kubelet).await;
    let (machine, pods) = (machine::usage(), kubelet.config.runtime.usage_at("kubepods"));
    let root = kubelet.config.runtime.cgroup_root().trim_matches('/');
    let boot = seconds(UNIX_EPOCH + Duration::from_secs(machine::boot_seconds()));
    let (root, now) = (format!("/{root}/kubepods"), millis(kubelet.ctx.clock.now()));
    let of = |id, usage, network| Row {
        container: "",
        id,
        image: "",
        name: "",
        namespace: "",
        pod: "",
        started: boot,
        usage,
        network,
    };
    let mut rows = vec![of("/", &machine, Some(Path::new("/proc/self").to_owned())), of(&root, &pods, None)];
    rows.extend(measured.iter().flat_map(rows_of));
    metrics_text(text(&rows, now))
}

fn rows_of(pod: &Measured) -> Vec<Row<'_>> {
    let of_pod = Row {
        container: "",
        id: &pod.cgroup,
        image: "",
        name: "",
        namespace: &pod.namespace,
        pod: &pod.pod,
        started: seconds(pod.started),
        usage: &pod.usage,
        network: pod.network.clone(),
    };
    let containers = pod.containers.iter().map(|c| Row {
        container: &c.name,
        id: &c.cgroup,
        image: &c.image,
        name: &c.id,
        namespace: &pod.namespace,
        pod: &pod.pod,
        started: seconds(c.started),
        usage: &c.usage,
        network: None,
    });
    std::iter::once(of_pod).chain(containers).collect()
}

fn text(rows: &[Row<'_>], now: u64) -> String {
    let (mut out, now) = (Exposition::default(), Some(now));
    out.gauge("cadvisor_version_info", "A metric with a constant '1' value labeled by kernel version, OS version, docker version, cadvisor version & cadvisor revision.");
    let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
    let version = env!("CARGO_PKG_VERSION");
    let labels: Labels<'_> =
        &[("cadvisorVersion", version), ("dockerVersion", ""), ("kernelVersion", &kernel)];
    out.sample(labels, 1.0, None);
    out.counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.");
    for row in rows {
        out.sample(&row.labels(&[("cpu", "total")]), cpu_seconds(row.usage.cpu_usage_ns), now);
    }
    for (name, help, value) in DISKS {
        out.counter(name, help);
        for row in rows {
            for disk in &row.usage.io {
                let device = device(disk.device);
                out.sample(&row.labels(&[("device", &device)]), value(disk) as f64, now);
            }
        }
    }
    out.gauge("container_last_seen", "Last time a container was seen by the exporter");
    for row in rows {
        out.sample(&row.labels(&[]), (now.unwrap_or_default() / 1000) as f64, now);
    }
    out.counter("container_memory_failures_total", "Cumulative count of memory allocation failures.");
    for row in rows {
        for (kind, value) in [("pgfault", row.usage.page_faults), ("pgmajfault", row.usage.major_page_faults)]
        {
            out.sample(&row.labels(&[("failure_type", kind), ("scope", "hierarchy")]), value as f64, now);
        }
    }
    for (name, help, at, received) in NETWORK {
        out.counter(name, help);
        for row in rows {
            for interface in row.network.iter().flat_map(|process| machine::interfaces(process)) {
                let numbers = if received { interface.received } else { interface.sent };
                out.sample(&row.labels(&[("interface", &interface.name)]), numbers[at] as f64, now);
            }
        }
    }
    for (counts, name, help, value) in SIMPLE {
        match *counts {
            true => out.counter(name, help),
            false => out.gauge(name, help),
        }
        for row in rows {
            if let Some(value) = value(row) {
                out.sample(&row.labels(&[]), value, now);
            }
        }
    }
    out.gauge(
        "container_scrape_error",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample(&[], 0.0, None);
    let (cpus, memory, swap) = machine::hardware();
    let file = |path: &str| std::fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let (boot, id) = (file("/proc/sys/kernel/random/boot_id"), file("/etc/machine-id"));
    let labels: Labels<'_> = &[("boot_id", &boot), ("machine_id", &id), ("system_uuid", "")];
    for (name, help, value) in [
        ("machine_cpu_cores", "Number of logical CPU cores.", cpus as f64),
        ("machine_memory_bytes", "Amount of memory installed on the machine.", memory as f64),
        ("machine_swap_bytes", "Amount of swap memory available on the machine.", swap as f64),
    ] {
        out.gauge(name, help);
        out.sample(labels, value, None);
    }
    out.gauge("machine_scrape_error", "1 if there was an error while getting machine metrics, 0 otherwise.");
    out.sample(&[], 0.0, None);
    out.finish()
}

/// `/dev/sda` for its numbers, where the kernel has a name for them.
fn device((major, minor): (u32, u32)) -> String {
    let link = std::fs::read_link(format!("/sys/dev/block/{major}:{minor}")).ok();
    let name = link.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    name.map_or_else(|| format!("{major}:{minor}"), |name| format!("/dev/{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cgroup_has_the_same_labels() {
        let usage = Usage { cpu_usage_ns: 1_500_000_000, memory_rss_bytes: 4096, ..Usage::default() };
        let row = Row {
            container: "c",
            id: "/k/pod1/2",
            image: "i",
            name: "2",
            namespace: "n",
            pod: "p",
            started: 5.0,
            usage: &usage,
            network: None,
        };
        let text = text(&[row], 1000);
        let labels = "container=\"c\",id=\"/k/pod1/2\",image=\"i\",name=\"2\",namespace=\"n\",pod=\"p\"";
        let with_cpu = labels.replacen(",id", ",cpu=\"total\",id", 1);
        for line in [
            format!("container_cpu_usage_seconds_total{{{with_cpu}}} 1.5 1000"),
            format!("container_memory_rss{{{labels}}} 4096 1000"),
            format!("container_start_time_seconds{{{labels}}} 5 1000"),
            "# TYPE container_oom_events_total counter".to_owned(),
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is missing in\n{text}");
        }
        assert!(!text.contains("cfs_periods"), "there is no CPU limit");
    }

    #[test]
    fn names_are_unique() {
        let mut names: Vec<&str> = SIMPLE.iter().map(|(_, name, ..)| *name).collect();
        names.extend(NETWORK.map(|n| n.0));
        names.extend(DISKS.map(|d| d.0));
        let all = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all);
    }
}
