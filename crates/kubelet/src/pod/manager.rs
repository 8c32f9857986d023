//! Which pods are this node's: follows the API, gives every pod a worker, hands events on to it, and clears
//! away what belongs to no pod.

use super::predicates::{self, NodeFacts};
use super::setup::remove_all;
use super::sizes::Sizes;
use super::static_pods::{self, is_mirror};
use super::worker::{Msg, Worker};
use crate::container::spec::label;
use crate::kubelet::{Entry, Shared};
use crate::util::about;
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_client::Informer;
use knarr_runtime::spec::{Event, SandboxStatus, State};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Follows the pods of this node for ever.
pub(crate) async fn run(kubelet: Arc<Shared>, pods: Informer<Pod>) {
    let mut events = kubelet.config.runtime.events();
    pods.synced().await;
    let statics = kubelet.config.static_pods.as_ref().map(|dir| static_pods::scan(&kubelet, dir));
    let statics = statics.unwrap_or_default();
    let known: HashSet<String> =
        pods.list("").iter().chain(statics.values()).map(|p| p.uid().to_owned()).collect();
    let shared = kubelet.clone();
    kubelet.ctx.tasks.spawn_until_stopped("orphans", async move { clear_orphans(&shared, &known).await });
    let shared = kubelet.clone();
    pods.on_change(move |change| match (&change.old, &change.new) {
        (_, Some(pod)) if is_mirror(pod) => shared.mirrors.set(pod),
        (Some(pod), None) if is_mirror(pod) => shared.mirrors.remove(pod),
        (_, Some(pod)) => changed(&shared, pod),
        (Some(pod), None) => gone(&shared, pod.uid()),
        (None, None) => {}
    });
    kubelet.ctx.tasks.spawn_until_stopped("static-pods", static_pods::run(kubelet.clone(), statics));
    // All that was here is in the book now.
    decide_resizes(&kubelet);
    let shared = kubelet.clone();
    kubelet.ctx.tasks.spawn_until_stopped("image-changes", async move { watch_images(&shared).await });
    while let Some(event) = events.recv().await {
        match event {
            Event::ContainerExited { pod_uid, status } => {
                tell(&kubelet, &pod_uid, Msg::Exited(Box::new(status)))
            }
            Event::SandboxLost { pod_uid } => tell(&kubelet, &pod_uid, Msg::SandboxLost),
        }
    }
}

/// An image that arrives by itself, by import for example, ends the waiting for it.
async fn watch_images(kubelet: &Shared) {
    let mut changes = kubelet.config.images.changes();
    while changes.changed().await.is_ok() {
        kubelet.node_changed.notify_one();
        kubelet.pulls.retain(|image| kubelet.config.images.resolve(image).is_some());
        let entries: Vec<Arc<Entry>> =
            kubelet.pods.lock().expect("pod lock is never poisoned").values().cloned().collect();
        entries.iter().for_each(|entry| entry.send(Msg::ImagesChanged));
    }
}

fn tell(kubelet: &Shared, uid: &str, message: Msg) {
    if let Some(entry) = kubelet.entry(uid) {
        entry.send(message);
    }
}

pub(super) fn changed(kubelet: &Arc<Shared>, pod: &Arc<Pod>) {
    let mut pods = kubelet.pods.lock().expect("pod lock is never poisoned");
    if let Some(entry) = pods.get(pod.uid()) {
        entry.send(Msg::Pod(pod.clone()));
        return;
    }
    let refused = match is_new(kubelet, pod) {
        true => admit(kubelet, pod),
        false => {
            kubelet.book.adopt(pod, given(kubelet, pod).as_ref(), is_over(pod), kubelet.ctx.clock.now());
            None
        }
    };
    if let Some((reason, message)) = &refused {
        kubelet.recorder.warning(&about(pod, None), reason, message.clone());
    }
    let (entry, inbox) = Entry::new(pod.clone(), refused);
    pods.insert(pod.uid().to_owned(), entry.clone());
    let worker = Worker::new(kubelet.clone(), entry, inbox, pod.clone());
    kubelet.ctx.tasks.spawn_until_stopped("pod-worker", worker.run());
}

/// Whether the pod was never here before: what runs already is not asked whether it fits.
fn is_new(kubelet: &Shared, pod: &Pod) -> bool {
    let status = pod.status.as_ref();
    let ran = status.is_some_and(|s| s.container_statuses.iter().flatten().any(|c| c.container_id.is_some()));
    let pending = status.and_then(|s| s.phase.as_deref()).is_none_or(|phase| phase == "Pending");
    pending
        && !ran
        && pod.metadata.deletion_timestamp.is_none()
        && kubelet.config.runtime.sandbox(pod.uid()).is_none()
}

/// Lets a new pod in, or says why not.
fn admit(kubelet: &Shared, pod: &Arc<Pod>) -> Option<(String, String)> {
    if let Some(refused) = kubelet.shutdown.refusal().or_else(|| kubelet.eviction.refusal(pod)) {
        return Some(refused);
    }
    let room = crate::node::allocatable(&kubelet.config);
    let refused = kubelet.book.admit(pod, &room).err();
    refused.or_else(|| {
        let refused = predicates::refusal(pod, &node_facts(kubelet))?;
        kubelet.book.forget(pod.uid());
        Some(refused)
    })
}

fn node_facts(kubelet: &Shared) -> NodeFacts {
    let config = &kubelet.config;
    let node = kubelet.nodes.list("").into_iter().find(|n| n.name() == config.node_name);
    let (labels, taints) = match &node {
        Some(node) => (
            node.metadata.labels.clone().unwrap_or_default(),
            node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default(),
        ),
        // Before the node is registered it has what it will be registered with.
        None => (crate::node::labels(config), Vec::new()),
    };
    NodeFacts { name: config.node_name.clone(), labels, taints, apparmor: kubelet.apparmor }
}

/// What a pod that is here was given: kept when it was resized, else as its sandbox was made.
fn given(kubelet: &Shared, pod: &Pod) -> Option<Sizes> {
    if let Some(kept) = super::resize::read(&kubelet.config.root_dir, pod.uid()) {
        return Some(kept.allocated);
    }
    let sandbox = kubelet.config.runtime.sandbox(pod.uid())?;
    serde_json::from_str(sandbox.spec.labels.get(label::SIZE)?).ok()
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

/// Looks at all wishes for other sizes anew, as when room became free, and tells whom it concerns.
pub(crate) fn decide_resizes(kubelet: &Arc<Shared>) {
    for uid in kubelet.book.decide(&crate::node::allocatable(&kubelet.config)) {
        tell(kubelet, &uid, Msg::Granted);
    }
}

pub(super) fn gone(kubelet: &Shared, uid: &str) {
    tell(kubelet, uid, Msg::Gone);
}

/// Sandboxes, directories and root file systems that no pod of the API owns.
async fn clear_orphans(kubelet: &Arc<Shared>, known: &HashSet<String>) {
    let config = &kubelet.config;
    let orphans: Vec<SandboxStatus> =
        config.runtime.sandboxes().into_iter().filter(|s| !known.contains(&s.spec.pod_uid)).collect();
    let stops = orphans.iter().map(|sandbox| async move {
        let uid = &sandbox.spec.pod_uid;
        tracing::info!(pod = uid, name = sandbox.spec.name, "stopping a pod that is no longer in the API");
        let running = sandbox.containers.iter().filter(|c| c.state == State::Running);
        let stops = running.map(|c| {
            let seconds = c.labels.get(label::GRACE).and_then(|g| g.parse().ok()).unwrap_or(30);
            config.runtime.stop_container(uid, &c.id, Duration::from_secs(seconds), "SIGTERM")
        });
        futures_util::future::join_all(stops).await;
        if let Err(error) = remove_all(kubelet, uid, true).await {
            tracing::warn!(pod = uid, error, "cannot remove an orphaned pod");
        }
    });
    futures_util::future::join_all(stops).await;
    let owned = |uid: &str| known.contains(uid) || kubelet.entry(uid).is_some();
    for entry in std::fs::read_dir(config.root_dir.join("pods")).into_iter().flatten().flatten() {
        let uid = entry.file_name().to_string_lossy().into_owned();
        if owned(&uid) {
            continue;
        }
        match crate::volume::remove(&config.root_dir, &uid) {
            Ok(()) => kubelet.users.release(&uid),
            Err(error) => tracing::warn!(pod = uid, %error, "cannot remove an orphaned pod's volumes"),
        }
    }
    // In this order, a container that is being started meanwhile is in one of the two sets.
    let made = config.images.containers();
    let starting = kubelet.starting.lock().expect("start lock is never poisoned").clone();
    let live: HashSet<String> =
        config.runtime.sandboxes().into_iter().flat_map(|s| s.containers).map(|c| c.id).collect();
    let volume = |id: &str| crate::container::image_volume::holder(id).is_some_and(owned);
    for id in made.iter().filter(|id| !live.contains(*id) && !starting.contains(*id) && !volume(id)) {
        let _ = config.images.release(id);
    }
    for entry in std::fs::read_dir(&config.log_dir).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.rsplit_once('_').is_some_and(|(_, uid)| !owned(uid)) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}
