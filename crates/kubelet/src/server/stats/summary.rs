//! /stats/summary: the Summary of stats/v1alpha1.

use super::disk::{self, FileSystem, Used};
use super::{Measured, Rates, machine, measure};
use crate::container::spec::{log_dir, pod_log_dir};
use crate::kubelet::Shared;
use crate::node::allocatable::PODS_CGROUP;
use crate::server::{Query, json as answer};
use crate::volume::pod_dir;
use http::Response;
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_api::volume::claim_name;
use knarr_client::Body;
use knarr_meta::time::rfc3339;
use knarr_runtime::spec::{Pressure, Usage};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What goes into every part of the document.
struct Now<'a> {
    time: String,
    wall: SystemTime,
    instant: Instant,
    rates: &'a Rates,
}

impl Now<'_> {
    fn cpu(&self, name: &str, usage: &Usage, started: SystemTime) -> Value {
        let age = self.wall.duration_since(started).unwrap_or(Duration::from_secs(1));
        let mut cpu = json!({
            "time": self.time,
            "usageNanoCores": self.rates.nanocores(name, usage.cpu_usage_ns, self.instant, age),
            "usageCoreNanoSeconds": usage.cpu_usage_ns,
        });
        put(&mut cpu, "psi", usage.cpu_pressure.as_ref().map(psi));
        cpu
    }

    /// `limit` is how much there may be.
    fn memory(&self, usage: &Usage, limit: Option<u64>) -> Value {
        let mut memory = json!({
            "time": self.time,
            "usageBytes": usage.memory_usage_bytes,
            "workingSetBytes": usage.memory_working_set_bytes,
            "rssBytes": usage.memory_rss_bytes,
            "pageFaults": usage.page_faults,
            "majorPageFaults": usage.major_page_faults,
        });
        let available = limit.map(|limit| limit.saturating_sub(usage.memory_working_set_bytes).into());
        put(&mut memory, "availableBytes", available);
        put(&mut memory, "psi", usage.memory_pressure.as_ref().map(psi));
        memory
    }

    fn io(&self, usage: &Usage) -> Option<Value> {
        usage.io_pressure.as_ref().map(|pressure| json!({ "time": self.time, "psi": psi(pressure) }))
    }

    fn swap(&self, usage: &Usage) -> Option<Value> {
        let used = usage.swap_usage_bytes?;
        let mut swap = json!({ "time": self.time, "swapUsageBytes": used });
        let available = usage.swap_limit_bytes.map(|limit| limit.saturating_sub(used).into());
        put(&mut swap, "swapAvailableBytes", available);
        Some(swap)
    }

    /// CPU, memory and what the kernel tells besides, into `stats`.
    fn usage(&self, stats: &mut Value, name: &str, usage: &Usage, started: SystemTime, limit: Option<u64>) {
        stats["cpu"] = self.cpu(name, usage, started);
        stats["memory"] = self.memory(usage, limit);
        put(stats, "io", self.io(usage));
        put(stats, "swap", self.swap(usage));
    }

    fn network(&self, process: &Path, first: Option<&str>) -> Option<Value> {
        let interfaces: Vec<Value> = machine::interfaces(process)
            .iter()
            .map(|i| {
                json!({
                    "name": i.name,
                    "rxBytes": i.received[0],
                    "rxErrors": i.received[2],
                    "txBytes": i.sent[0],
                    "txErrors": i.sent[2],
                })
            })
            .collect();
        let main = interfaces.iter().find(|i| first.is_none_or(|first| i["name"] == first))?;
        let mut network = main.clone();
        network["time"] = self.time.as_str().into();
        network["interfaces"] = interfaces.into();
        Some(network)
    }

    /// `used` of a file system.
    fn fs(&self, whole: Option<FileSystem>, used: Option<Used>) -> Value {
        let whole = whole.unwrap_or_default();
        let used = used.unwrap_or_else(|| Used {
            bytes: whole.used_bytes,
            inodes: whole.inodes.saturating_sub(whole.inodes_free),
        });
        json!({
            "time": self.time,
            "availableBytes": whole.available_bytes,
            "capacityBytes": whole.capacity_bytes,
            "usedBytes": used.bytes,
            "inodesFree": whole.inodes_free,
            "inodes": whole.inodes,
            "inodesUsed": used.inodes,
        })
    }
}

fn put(object: &mut Value, field: &str, value: Option<Value>) {
    if let Some(value) = value {
        object[field] = value;
    }
}

fn psi(pressure: &Pressure) -> Value {
    let stall = |s: &knarr_runtime::spec::Stall| json!({ "total": s.total_us.saturating_mul(1000), "avg10": s.avg10, "avg60": s.avg60, "avg300": s.avg300 });
    json!({ "full": stall(&pressure.full), "some": stall(&pressure.some) })
}

/// The document; with `only_cpu_and_memory` no more than that.
pub(in crate::server) async fn summary(
    kubelet: &Arc<Shared>,
    rates: &Rates,
    query: &Query,
) -> Response<Body> {
    let brief = query.is_set("only_cpu_and_memory");
    let wall = kubelet.ctx.clock.now();
    let now = Now { time: rfc3339(wall), wall, instant: kubelet.ctx.clock.instant(), rates };
    let measured = measure(kubelet).await;
    let mut node = node(kubelet, &now, brief);
    let files = if brief { vec![None; measured.len()] } else { files(kubelet, &measured).await };
    let fs = disk::file_system(&kubelet.config.root_dir);
    let pods: Vec<Value> =
        measured.iter().zip(&files).map(|(pod, files)| pod_stats(&now, pod, files.as_ref(), fs)).collect();
    if !brief {
        node["fs"] = now.fs(fs, None);
        node["runtime"] = runtime(kubelet, &now, fs, &files);
    }
    rates.forget(now.instant);
    answer(&json!({ "node": node, "pods": pods }))
}

fn node(kubelet: &Shared, now: &Now<'_>, brief: bool) -> Value {
    let usage = machine::usage();
    let boot = UNIX_EPOCH + Duration::from_secs(machine::boot_seconds());
    let (_, memory, _) = machine::hardware();
    let mut node = json!({ "nodeName": kubelet.config.node_name, "startTime": rfc3339(boot) });
    now.usage(&mut node, "node", &usage, boot, Some(memory));
    let part = |name: &str, usage: &Usage, started: SystemTime, limit: Option<u64>| {
        let mut part = json!({ "name": name, "startTime": rfc3339(started) });
        now.usage(&mut part, name, usage, started, limit);
        part
    };
    let pods = kubelet.config.runtime.usage_at(PODS_CGROUP);
    let of_pods = pods.memory_limit_bytes.map_or(memory, |limit| limit.min(memory));
    let (own, started) = machine::own_process();
    let started = UNIX_EPOCH + Duration::from_secs(started);
    node["systemContainers"] = json!([
        part("kubelet", &own, started, None),
        part("runtime", &own, started, None),
        part("pods", &pods, boot, Some(of_pods)),
    ]);
    if !brief {
        put(
            &mut node,
            "network",
            now.network(Path::new("/proc/self"), machine::default_interface().as_deref()),
        );
        put(
            &mut node,
            "rlimit",
            crate::node::pids()
                .map(|(running, most)| json!({ "time": now.time, "maxpid": most, "curproc": running })),
        );
    }
    node
}

/// What images and containers' own layers take.
fn runtime(kubelet: &Shared, now: &Now<'_>, fs: Option<FileSystem>, files: &[Option<Files>]) -> Value {
    let images = kubelet.config.images.list();
    let bytes = images.iter().map(|image| image.size_bytes).sum();
    let inodes = fs.map_or(0, |fs| fs.inodes.saturating_sub(fs.inodes_free));
    let mut layers = Used::default();
    files.iter().flatten().flat_map(|f| &f.containers).for_each(|(rootfs, _)| layers += *rootfs);
    json!({
        "imageFs": now.fs(fs, Some(Used { bytes, inodes })),
        "containerFs": now.fs(fs, Some(layers)),
    })
}

/// What a pod's files take.
#[derive(Clone, Default)]
struct Files {
    /// Of each measured container: its writable layer, its logs.
    containers: Vec<(Used, Used)>,
    /// Logs that are no container's.
    logs: Used,
    /// By name, with the file system if it has one of its own.
    volumes: Vec<(String, Option<Value>, Used, Option<FileSystem>)>,
}

/// What is to be looked at, and nothing that lives longer than a moment.
struct Places {
    containers: Vec<(Option<PathBuf>, PathBuf)>,
    logs: PathBuf,
    volumes: Vec<(String, Option<Value>, PathBuf)>,
}

/// Walks over the pods' directories.
async fn files(kubelet: &Arc<Shared>, measured: &[Measured]) -> Vec<Option<Files>> {
    let places: Vec<Option<Places>> = measured
        .iter()
        .map(|m| {
            let pod = kubelet.entry(&m.uid)?.view().pod;
            Some(places(kubelet, m, &pod))
        })
        .collect();
    let walked = tokio::task::spawn_blocking(move || places.into_iter().map(|p| p.map(walk)).collect());
    walked.await.unwrap_or_else(|_| vec![None; measured.len()])
}

fn places(kubelet: &Shared, measured: &Measured, pod: &Pod) -> Places {
    let config = &kubelet.config;
    let volumes = pod_dir(&config.root_dir, pod.uid()).join("volumes");
    let plugins: Vec<PathBuf> =
        std::fs::read_dir(&volumes).into_iter().flatten().flatten().map(|plugin| plugin.path()).collect();
    let spec_volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    Places {
        containers: measured
            .containers
            .iter()
            .map(|c| (config.images.upper(&c.id).ok(), log_dir(&config.log_dir, pod, &c.name)))
            .collect(),
        logs: pod_log_dir(&config.log_dir, pod),
        volumes: spec_volumes
            .filter_map(|volume| {
                if let Some(claim) = claim_name(pod, volume) {
                    let claim = json!({ "name": claim, "namespace": pod.namespace() });
                    let path = kubelet.claims.place(&config.root_dir, pod.uid(), &volume.name)?;
                    return Some((volume.name.clone(), Some(claim), path));
                }
                let path =
                    plugins.iter().map(|plugin| plugin.join(&volume.name)).find(|path| path.exists())?;
                Some((volume.name.clone(), None, path))
            })
            .collect(),
    }
}

fn walk(places: Places) -> Files {
    let mut files = Files::default();
    let mut of_containers = Used::default();
    for (upper, logs) in &places.containers {
        let (upper, logs) = (upper.as_deref().map(disk::used).unwrap_or_default(), disk::used(logs));
        of_containers += logs;
        files.containers.push((upper, logs));
    }
    let all = disk::used(&places.logs);
    files.logs = Used {
        bytes: all.bytes.saturating_sub(of_containers.bytes),
        inodes: all.inodes.saturating_sub(of_containers.inodes),
    };
    for (name, claim, path) in places.volumes {
        // Of claimed volumes the whole file system is told, as upstream does: nobody walks through them.
        let own = disk::file_system(&path).filter(|_| claim.is_some() || disk::is_mount(&path));
        let used = match own {
            Some(fs) => Used { bytes: fs.used_bytes, inodes: fs.inodes.saturating_sub(fs.inodes_free) },
            None => disk::used(&path),
        };
        files.volumes.push((name, claim, used, own));
    }
    files
}

fn pod_stats(now: &Now<'_>, pod: &Measured, files: Option<&Files>, fs: Option<FileSystem>) -> Value {
    let mut stats = json!({
        "podRef": { "name": pod.pod, "namespace": pod.namespace, "uid": pod.uid },
        "startTime": rfc3339(pod.started),
        "process_stats": { "process_count": pod.usage.pids },
    });
    now.usage(&mut stats, &pod.uid, &pod.usage, pod.started, pod.usage.memory_limit_bytes);
    let mut ephemeral = Used::default();
    let containers = pod.containers.iter().enumerate().map(|(at, container)| {
        let mut stats = json!({ "name": container.name, "startTime": rfc3339(container.started) });
        let usage = &container.usage;
        now.usage(&mut stats, &container.id, usage, container.started, usage.memory_limit_bytes);
        if let Some((rootfs, logs)) = files.and_then(|files| files.containers.get(at)) {
            stats["rootfs"] = now.fs(fs, Some(*rootfs));
            stats["logs"] = now.fs(fs, Some(*logs));
            ephemeral += *rootfs;
            ephemeral += *logs;
        }
        stats
    });
    stats["containers"] = containers.collect();
    put(&mut stats, "network", pod.network.as_deref().and_then(|process| now.network(process, None)));
    let Some(files) = files else { return stats };
    ephemeral += files.logs;
    let volumes = files.volumes.iter().map(|(name, claim, used, own)| {
        if own.is_none() {
            ephemeral += *used;
        }
        let mut volume = now.fs(own.or(fs), Some(*used));
        volume["name"] = name.as_str().into();
        put(&mut volume, "pvcRef", claim.clone());
        volume
    });
    let volumes: Vec<Value> = volumes.collect();
    put(&mut stats, "volume", (!volumes.is_empty()).then(|| volumes.into()));
    stats["ephemeral-storage"] = now.fs(fs, Some(ephemeral));
    stats
}
