//! Node-pressure eviction (the page of that name): the node is watched for running short of memory, disk, inodes and
//! process numbers; pressure is shown in its conditions, keeps new pods out, and in the end costs pods that are
//! here. Pods beyond their own limits of ephemeral storage are evicted too.
//!
//! Signals are read every ten seconds, and at once when the kernel says that processes wait for memory (PSI).
//! What follows from them is decided by pure functions: [`judge`], [`rank`], [`local`].

pub(crate) mod images;
mod judge;
mod local;
mod rank;
pub(crate) mod threshold;
mod trigger;
mod usage;

use crate::config::KubeletConfig;
use crate::container::resources::qos_class;
use crate::kubelet::{Entry, Shared};
use crate::node;
use crate::node::allocatable::PODS_CGROUP;
use crate::pod::model::GiveUp;
use crate::pod::predicates::covers;
use crate::pod::static_pods::{is_mirror, is_static};
use crate::pod::worker::Msg;
use crate::util::about;
use judge::{Judge, Reading, Readings, is_met};
use knarr_api::Kind;
use knarr_api::core::v1::{Pod, Taint};
use knarr_base::clock::timeout;
use knarr_client::{Annotations, ObjectRef};
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use threshold::{Pressure, Resource, Signal, Threshold};
use usage::{Active, PodUsage};

/// Signals are read this often.
const PERIOD: Duration = Duration::from_secs(10);
/// The grace of pods that must go at once.
const IMMEDIATE: Duration = Duration::from_secs(1);
/// How long an evicted pod is waited for before the node is judged anew.
const CLEANUP_LIMIT: Duration = Duration::from_secs(30);
/// Priorities from here on are the system's own.
pub(crate) const SYSTEM_CRITICAL: i32 = 2_000_000_000;
const REASON: &str = "Evicted";

/// What the rest of the kubelet asks of eviction.
#[derive(Debug, Default)]
pub(crate) struct Eviction(Mutex<BTreeSet<Pressure>>);

impl Eviction {
    pub(crate) fn pressures(&self) -> BTreeSet<Pressure> {
        self.0.lock().expect("pressure lock is never poisoned").clone()
    }

    fn set(&self, pressures: BTreeSet<Pressure>) -> bool {
        let mut held = self.0.lock().expect("pressure lock is never poisoned");
        std::mem::replace(&mut *held, pressures.clone()) != pressures
    }

    /// Why a new pod is not let in: reason and message.
    pub(crate) fn refusal(&self, pod: &Pod) -> Option<(String, String)> {
        refusal(pod, &self.pressures())
    }
}

/// Whether the node cannot do without the pod.
pub(crate) fn is_critical(pod: &Pod) -> bool {
    let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or_default();
    is_static(pod) || is_mirror(pod) || priority >= SYSTEM_CRITICAL
}

/// Memory pressure keeps out pods that ask for nothing, unless they tolerate it; any other pressure keeps out all.
fn refusal(pod: &Pod, pressures: &BTreeSet<Pressure>) -> Option<(String, String)> {
    if pressures.is_empty() || is_critical(pod) {
        return None;
    }
    if *pressures == BTreeSet::from([Pressure::Memory]) {
        let taint = Taint {
            key: "node.kubernetes.io/memory-pressure".to_owned(),
            effect: "NoSchedule".to_owned(),
            ..Taint::default()
        };
        let tolerations = pod.spec.iter().flat_map(|s| s.tolerations.iter().flatten());
        if qos_class(pod) != "BestEffort" || tolerations.into_iter().any(|t| covers(t, &taint)) {
            return None;
        }
    }
    let names: Vec<&str> = pressures.iter().map(|p| p.name()).collect();
    Some((REASON.to_owned(), format!("The node had condition: [{}]. ", names.join(" "))))
}

/// Where images and what containers write are.
fn images_dir(config: &KubeletConfig) -> PathBuf {
    config.images.dir().to_owned()
}

/// Whether images and containers have a file system of their own.
fn has_dedicated_images(config: &KubeletConfig) -> bool {
    let device = |path| std::fs::metadata(path).map(|m: std::fs::Metadata| m.dev()).ok();
    device(images_dir(config)) != device(config.root_dir.clone())
}

/// What the machine says now. A signal that cannot be read is left out.
fn read(config: &KubeletConfig) -> Readings {
    let mut all = Readings::new();
    let memory = node::meminfo("MemAvailable").zip(node::meminfo("MemTotal"));
    all.extend(
        memory.map(|(available, capacity)| (Signal::MemoryAvailable, Reading { available, capacity })),
    );
    let of_pods = config.runtime.usage_at(PODS_CGROUP);
    all.extend(of_pods.memory_limit_bytes.map(|limit| {
        let available = limit.saturating_sub(of_pods.memory_working_set_bytes);
        let capacity = available + of_pods.memory_working_set_bytes;
        (Signal::AllocatableMemoryAvailable, Reading { available, capacity })
    }));
    let pids =
        node::pids().map(|(now, most)| Reading { available: most.saturating_sub(now), capacity: most });
    all.extend(pids.map(|reading| (Signal::PidAvailable, reading)));
    let nodefs = (config.root_dir.clone(), [(Signal::NodeFsAvailable, Signal::NodeFsInodesFree)].to_vec());
    let of_images = [
        (Signal::ImageFsAvailable, Signal::ImageFsInodesFree),
        (Signal::ContainerFsAvailable, Signal::ContainerFsInodesFree),
    ];
    for (dir, signals) in [nodefs, (images_dir(config), of_images.to_vec())] {
        let Some(disk) = node::disk(&dir) else { continue };
        for (bytes, inodes) in signals {
            all.insert(bytes, Reading { available: disk.free_bytes, capacity: disk.total_bytes });
            // A file system that makes inodes as it goes has no number of them.
            if disk.inodes > 0 {
                all.insert(inodes, Reading { available: disk.free_inodes, capacity: disk.inodes });
            }
        }
    }
    all
}

/// Watches the node for ever.
pub(crate) async fn run(kubelet: Arc<Shared>) {
    let mut judge = Judge::default();
    let mut trigger = trigger::Memory::open();
    loop {
        let evicted = tick(&kubelet, &mut judge).await;
        if evicted.is_empty() {
            tokio::select! {
                () = kubelet.ctx.clock.sleep(PERIOD) => {}
                () = trigger.fired() => {}
            }
            continue;
        }
        for entry in evicted {
            let mut changed = entry.changed.subscribe();
            // What its volumes held counts as soon as they are gone, or the next pod would go for nothing.
            let over = |_: &u64| entry.view().released;
            let _ = timeout(&*kubelet.ctx.clock, CLEANUP_LIMIT, changed.wait_for(over)).await;
        }
    }
}

/// Looks once, and does what follows. Gives the pods that have to go.
async fn tick(kubelet: &Arc<Shared>, judge: &mut Judge) -> Vec<Arc<Entry>> {
    let config = &kubelet.config;
    let readings = read(config);
    let verdict = judge.judge(&config.housekeeping, &readings, kubelet.ctx.clock.now());
    if kubelet.eviction.set(verdict.pressures) {
        kubelet.node_changed.notify_one();
    }
    let dedicated = has_dedicated_images(config);
    let beyond = evict_beyond_limits(kubelet, dedicated).await;
    if !beyond.is_empty() {
        return beyond;
    }
    let Some(threshold) = verdict.due.first() else { return Vec::new() };
    let resource = threshold.signal.resource();
    let text = format!("Attempting to reclaim {}", resource.name());
    kubelet.recorder.warning(&node_ref(config), "EvictionThresholdMet", text);
    tracing::warn!(signal = threshold.signal.name(), "the node runs short of {}", resource.name());
    if matches!(resource, Resource::EphemeralStorage | Resource::Inodes) && enough_reclaimed(kubelet).await {
        return Vec::new();
    }
    evict_for(kubelet, threshold, &verdict.due, &readings, dedicated).await.into_iter().collect()
}

/// Frees what costs no pod anything; whether that was enough, with the minimum to be reclaimed.
async fn enough_reclaimed(kubelet: &Arc<Shared>) -> bool {
    let shared = kubelet.clone();
    let _ = tokio::task::spawn_blocking(move || images::reclaim(&shared)).await;
    let readings = read(&kubelet.config);
    !kubelet.config.housekeeping.in_force().iter().any(|t| is_met(t, &readings, true))
}

/// The node, as its kubelet's events name it.
pub(crate) fn node_ref(config: &KubeletConfig) -> ObjectRef {
    ObjectRef {
        kind: Some("Node".to_owned()),
        api_version: Some("v1".to_owned()),
        name: Some(config.node_name.clone()),
        uid: Some(config.node_name.clone()),
        ..ObjectRef::default()
    }
}

/// Pods of which something runs, and which are not on their way out by eviction.
fn active(kubelet: &Shared) -> Vec<(Arc<Entry>, Active)> {
    let entries: Vec<Arc<Entry>> =
        kubelet.pods.lock().expect("pod lock is never poisoned").values().cloned().collect();
    let one = |entry: Arc<Entry>| {
        let view = entry.view();
        let over = matches!(view.status["phase"].as_str(), Some("Failed" | "Succeeded"));
        if over || !view.containers.values().any(|c| c.running) {
            return None;
        }
        let ids = view.containers.iter().map(|(name, c)| (name.clone(), c.id.clone()));
        let ids: BTreeMap<String, String> = ids.filter(|(_, id)| !id.is_empty()).collect();
        Some((entry, Active { pod: view.pod, ids }))
    };
    entries.into_iter().filter_map(one).collect()
}

async fn with_disk(kubelet: &Arc<Shared>, active: Active, usage: PodUsage) -> PodUsage {
    let kubelet = kubelet.clone();
    let walk = tokio::task::spawn_blocking(move || {
        let mut usage = usage;
        usage::add_disk(&kubelet, &active.pod, &active.ids, &mut usage);
        usage
    });
    walk.await.unwrap_or_default()
}

async fn evict_beyond_limits(kubelet: &Arc<Shared>, dedicated: bool) -> Vec<Arc<Entry>> {
    let mut evicted = Vec::new();
    for (entry, active) in active(kubelet).into_iter().filter(|(_, a)| local::is_limited(&a.pod)) {
        let pod = active.pod.clone();
        let usage = with_disk(kubelet, active, PodUsage::default()).await;
        if let Some((signal, message)) = local::exceeded(&pod, &usage, dedicated)
            && evict(kubelet, &entry, &pod, (message, Annotations::new()), IMMEDIATE, false)
        {
            kubelet.metrics.evicted(signal);
            evicted.push(entry);
        }
    }
    evicted
}

async fn evict_for(
    kubelet: &Arc<Shared>,
    threshold: &Threshold,
    due: &[Threshold],
    readings: &Readings,
    dedicated: bool,
) -> Option<Arc<Entry>> {
    let (signal, resource) = (threshold.signal, threshold.signal.resource());
    let of_disk = matches!(resource, Resource::EphemeralStorage | Resource::Inodes);
    let keep = &kubelet.config.housekeeping;
    let mut entries = BTreeMap::new();
    let mut pods = Vec::new();
    for (entry, active) in active(kubelet) {
        let pod = active.pod.clone();
        let mut usage = usage::of_cgroups(kubelet, pod.uid()).await;
        if of_disk {
            usage = Some(with_disk(kubelet, active, usage.unwrap_or_default()).await);
        }
        entries.insert(pod.uid().to_owned(), entry);
        pods.push((pod, usage));
    }
    rank::rank(&mut pods, resource, rank::counted(signal, dedicated));
    for (pod, usage) in pods {
        let Some(entry) = entries.get(pod.uid()) else { continue };
        let grace = if threshold.grace.is_zero() { IMMEDIATE } else { keep.soft_pod_grace };
        let why = rank::message(resource, &pod, usage.as_ref(), due, readings);
        if evict(kubelet, entry, &pod, why, grace, true) {
            kubelet.metrics.evicted(signal.name());
            return Some(entry.clone());
        }
    }
    tracing::warn!("no pod can be evicted");
    None
}

/// Gives a pod up for a reason, which its event says with annotations, unless the node cannot do without it. `disrupted`: its owner is told that this was not its own doing.
fn evict(
    kubelet: &Shared,
    entry: &Entry,
    pod: &Pod,
    (message, annotations): (String, Annotations),
    grace: Duration,
    disrupted: bool,
) -> bool {
    if is_critical(pod) {
        tracing::warn!(pod = pod.name(), namespace = pod.namespace(), "a critical pod is not evicted");
        return false;
    }
    kubelet.recorder.annotated_warning(&about(pod, None), annotations, REASON, message.clone());
    entry.send(Msg::GiveUp(Box::new(GiveUp { reason: REASON.to_owned(), message, grace, disrupted })));
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::phase::tests::pod;
    use serde_json::json;

    #[test]
    fn pressure_keeps_pods_out() {
        let none = json!({"containers": [{"name": "c"}]});
        let some = json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1m"}}}]});
        let mut tolerant = none.clone();
        tolerant["tolerations"] =
            json!([{"key": "node.kubernetes.io/memory-pressure", "operator": "Exists"}]);
        let mut critical = none.clone();
        critical["priority"] = 2_000_001_000.into();
        let (memory, disk) = (Pressure::Memory, Pressure::Disk);
        for (spec, pressures, expected) in [
            (&none, vec![], None),
            (&none, vec![memory], Some("The node had condition: [MemoryPressure]. ")),
            (&some, vec![memory], None),
            (&tolerant, vec![memory], None),
            (&critical, vec![memory, disk], None),
            (&some, vec![disk], Some("The node had condition: [DiskPressure]. ")),
            (&tolerant, vec![memory, disk], Some("The node had condition: [DiskPressure MemoryPressure]. ")),
        ] {
            let refused = refusal(&pod(spec.clone()), &pressures.iter().copied().collect());
            assert_eq!(refused.map(|r| r.1).as_deref(), expected, "{spec} {pressures:?}");
        }
    }
}
