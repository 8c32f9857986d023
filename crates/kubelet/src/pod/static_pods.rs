//! Static pods: manifests in a directory are run without the API server, which gets to see them as mirror pods
//! (static-pod task page; names, hashes and annotations as upstream's file source and mirror client make them).
//! The directory is watched; a slow timer is the safety net.

use super::manager::{changed, gone};
use crate::kubelet::Shared;
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_client::DeleteOptions;
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

const SOURCE: &str = "kubernetes.io/config.source";
const HASH: &str = "kubernetes.io/config.hash";
const SEEN: &str = "kubernetes.io/config.seen";
const MIRROR: &str = "kubernetes.io/config.mirror";

/// The directory is read this often though no event told of a change (upstream's fileCheckFrequency).
pub(crate) const SAFETY_NET: Duration = Duration::from_secs(20);
/// A manifest is at most this large.
const MOST_BYTES: u64 = 10 << 20;

fn annotation<'a>(pod: &'a Pod, name: &str) -> Option<&'a str> {
    pod.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

/// Whether the pod comes from a file.
pub(crate) fn is_static(pod: &Pod) -> bool {
    annotation(pod, SOURCE).is_some_and(|source| source != "api")
}

/// Whether the pod stands in the API for one that comes from a file.
pub(crate) fn is_mirror(pod: &Pod) -> bool {
    annotation(pod, MIRROR).is_some()
}

type FullName = (String, String);

fn full_name(pod: &Pod) -> FullName {
    (pod.namespace().to_owned(), pod.name().to_owned())
}

#[derive(Clone, Debug)]
struct Mirror {
    uid: String,
    hash: String,
    deleting: bool,
}

/// The mirror pods in the API, and what makes the loop look again.
#[derive(Default)]
pub(crate) struct Mirrors {
    by_name: Mutex<HashMap<FullName, Mirror>>,
    pub(crate) changed: tokio::sync::Notify,
}

impl Mirrors {
    /// A mirror pod is there, or changed.
    pub(crate) fn set(&self, pod: &Pod) {
        let mirror = Mirror {
            uid: pod.uid().to_owned(),
            hash: annotation(pod, MIRROR).unwrap_or_default().to_owned(),
            deleting: pod.metadata.deletion_timestamp.is_some(),
        };
        self.by_name.lock().expect("mirror lock is never poisoned").insert(full_name(pod), mirror);
        self.changed.notify_one();
    }

    /// A mirror pod is gone.
    pub(crate) fn remove(&self, pod: &Pod) {
        let mut all = self.by_name.lock().expect("mirror lock is never poisoned");
        if all.get(&full_name(pod)).is_some_and(|m| m.uid == pod.uid()) {
            all.remove(&full_name(pod));
        }
        self.changed.notify_one();
    }

    /// The UID of the mirror of a static pod, once it is there.
    pub(crate) fn of(&self, namespace: &str, name: &str, static_uid: &str) -> Option<String> {
        let all = self.by_name.lock().expect("mirror lock is never poisoned");
        let mirror = all.get(&(namespace.to_owned(), name.to_owned()))?;
        (mirror.hash == static_uid && !mirror.deleting).then(|| mirror.uid.clone())
    }
}

/// What the directory says should run, by name.
type Wanted = BTreeMap<FullName, Arc<Pod>>;

/// Runs what the directory's manifests say, for ever.
pub(crate) async fn run(kubelet: Arc<Shared>, first: Wanted) {
    let Some(dir) = kubelet.config.static_pods.clone() else { return };
    let watch = watch(&dir).inspect_err(|error| {
        tracing::warn!(dir = %dir.display(), %error, "cannot watch for static pods; reading the directory now and then");
    });
    let watch = watch.ok();
    let mut wanted = first;
    loop {
        sync(&kubelet, &wanted).await;
        let files = tokio::select! {
            () = readable(watch.as_ref()) => true,
            () = kubelet.mirrors.changed.notified() => false,
            () = kubelet.ctx.clock.sleep(SAFETY_NET) => true,
        };
        if files {
            wanted = scan(&kubelet, &dir);
        }
    }
}

type Watch = tokio::io::unix::AsyncFd<std::os::fd::OwnedFd>;

fn watch(dir: &Path) -> std::io::Result<Watch> {
    std::fs::create_dir_all(dir)?;
    let fd = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
    let flags = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_FROM | WatchFlags::MOVED_TO | WatchFlags::DELETE;
    inotify::add_watch(&fd, dir, flags)?;
    crate::sys::async_fd(fd)
}

/// Ends when something in the directory changed.
async fn readable(watch: Option<&Watch>) {
    let Some(watch) = watch else { return std::future::pending().await };
    let Ok(mut ready) = watch.readable().await else { return std::future::pending().await };
    let mut bytes = [0; 4096];
    // What changed is found by reading the directory; the events only wake.
    while rustix::io::read(watch.get_ref(), &mut bytes).is_ok_and(|n| n > 0) {}
    ready.clear_ready();
}

/// Reads the directory's manifests.
pub(crate) fn scan(kubelet: &Shared, dir: &Path) -> Wanted {
    let mut wanted = Wanted::new();
    let mut files: Vec<_> =
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect();
    files.sort();
    for path in files {
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        if hidden || !path.is_file() {
            continue;
        }
        let node = &kubelet.config.node_name;
        match read(&path).and_then(|text| parse(&text, &path, node, &kubelet.ctx.clock.now())) {
            Ok(pod) => {
                wanted.entry(full_name(&pod)).or_insert_with(|| Arc::new(pod));
            }
            Err(error) => {
                tracing::warn!(file = %path.display(), error, "a static pod's manifest cannot be used")
            }
        }
    }
    wanted
}

fn read(path: &Path) -> Result<String, String> {
    use std::io::Read;
    let file = std::fs::File::open(path).map_err(|e| e.to_string())?;
    let mut text = String::new();
    file.take(MOST_BYTES).read_to_string(&mut text).map_err(|e| e.to_string())?;
    Ok(text)
}

/// A manifest as the pod to run.
fn parse(text: &str, path: &Path, node: &str, now: &std::time::SystemTime) -> Result<Pod, String> {
    let mut value: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    if value["kind"] != "Pod" || value["apiVersion"] != "v1" {
        return Err("it is no Pod of v1".to_owned());
    }
    let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if name.is_empty() {
        return Err("invalid pod: name is needed for the pod".to_owned());
    }
    defaults(&mut value);
    let uid = match value["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty()) {
        Some(uid) => uid.to_owned(),
        None => {
            format!("{:032x}", fnv128(&[&value.to_string(), "host:", node, "file:", &path.to_string_lossy()]))
        }
    };
    if !uid.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(format!("invalid uid {uid:?}"));
    }
    let meta = &mut value["metadata"];
    meta["uid"] = uid.as_str().into();
    meta["name"] = format!("{name}-{}", node.to_lowercase()).into();
    if meta["namespace"].as_str().is_none_or(str::is_empty) {
        meta["namespace"] = "default".into();
    }
    let seen = knarr_meta::time::rfc3339_micro(*now);
    for (annotation, value) in [(HASH, uid.as_str()), (SOURCE, "file"), (SEEN, &seen)] {
        meta["annotations"][annotation] = value.into();
    }
    value["spec"]["nodeName"] = node.into();
    let tolerations = value["spec"]["tolerations"].as_array().cloned().unwrap_or_default();
    let all = json!({ "operator": "Exists", "effect": "NoExecute" });
    value["spec"]["tolerations"] =
        tolerations.into_iter().filter(|t| *t != all).chain([all.clone()]).collect();
    value["status"] = json!({ "phase": "Pending" });
    let pod = Pod::from_value(&value).map_err(|e| e.to_string())?;
    if pod.spec.as_ref().is_none_or(|s| s.containers.is_empty()) {
        return Err("spec.containers: Required value".to_owned());
    }
    if let Some(what) = refers_to_api(&pod) {
        return Err(format!("static pods may not reference {what}"));
    }
    Ok(pod)
}

/// What of the API the pod needs, which a pod that does not come from there must not.
fn refers_to_api(pod: &Pod) -> Option<&'static str> {
    let spec = pod.spec.as_ref()?;
    if spec.service_account_name.as_deref().is_some_and(|s| !s.is_empty()) {
        return Some("serviceaccounts");
    }
    if spec.resource_claims.as_ref().is_some_and(|c| !c.is_empty()) {
        return Some("ResourceClaims");
    }
    spec.volumes.iter().flatten().find_map(|v| {
        let found = [
            (v.secret.is_some(), "secrets"),
            (v.config_map.is_some(), "configmaps"),
            (v.persistent_volume_claim.is_some(), "persistentvolumeclaims"),
        ];
        found.into_iter().find_map(|(is, what)| is.then_some(what))
    })
}

/// FNV-1a with 128 bits: a name for what the manifest says, not a secret.
fn fnv128(parts: &[&str]) -> u128 {
    let bytes = parts.iter().flat_map(|p| p.bytes());
    bytes.fold(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, |hash: u128, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(0x0000_0000_0100_0000_0000_0000_0000_013b)
    })
}

/// What the API server would fill in, as far as the kubelet looks at it.
fn defaults(pod: &mut Value) {
    let spec = &mut pod["spec"];
    let fill = |object: &mut Value, fields: Value| {
        let (Some(object), Value::Object(fields)) = (object.as_object_mut(), fields) else { return };
        for (name, value) in fields {
            object.entry(name).or_insert(value);
        }
    };
    fill(
        spec,
        json!({ "restartPolicy": "Always", "dnsPolicy": "ClusterFirst", "terminationGracePeriodSeconds": 30,
            "enableServiceLinks": true, "securityContext": {}, "schedulerName": "default-scheduler" }),
    );
    for list in ["initContainers", "containers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            fill(
                container,
                json!({ "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File" }),
            );
            if let Some(limits) = container["resources"]["limits"].as_object().cloned() {
                fill(&mut container["resources"], json!({ "requests": {} }));
                fill(&mut container["resources"]["requests"], limits.into());
            }
            for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
                let seconds = json!({ "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3 });
                if container.get(probe).is_some() {
                    fill(&mut container[probe], seconds);
                }
            }
        }
    }
}

/// Starts and stops what differs, and keeps the mirror pods as they should be.
async fn sync(kubelet: &Arc<Shared>, wanted: &Wanted) {
    let here: Vec<Arc<Pod>> = {
        let pods = kubelet.pods.lock().expect("pod lock is never poisoned");
        pods.values().map(|e| e.view().pod).filter(|p| is_static(p)).collect()
    };
    for pod in &here {
        if wanted.get(&full_name(pod)).is_none_or(|w| w.uid() != pod.uid()) {
            gone(kubelet, pod.uid());
        }
    }
    for (name, pod) in wanted {
        // The successor of a pod starts when nothing of the pod is left; the loop is woken then.
        if !here.iter().any(|p| full_name(p) == *name) {
            changed(kubelet, pod);
        }
    }
    let mirrors = kubelet.mirrors.by_name.lock().expect("mirror lock is never poisoned").clone();
    for (name, mirror) in &mirrors {
        if wanted.get(name).is_none_or(|pod| pod.uid() != mirror.hash) || mirror.deleting {
            delete(kubelet, name, &mirror.uid).await;
        }
    }
    if kubelet.node_uid.lock().expect("uid lock is never poisoned").is_empty() {
        return;
    }
    for (name, pod) in wanted.iter().filter(|(name, _)| !mirrors.contains_key(*name)) {
        match create(kubelet, pod).await {
            Ok(()) => {
                if let Some(entry) = kubelet.entry(pod.uid()) {
                    entry.send(super::worker::Msg::Mirrored);
                }
            }
            // One of the name is there that the watch has not told of yet.
            Err(error) if error.is_conflict() => {}
            Err(error) => {
                tracing::warn!(pod = name.1, %error, "cannot make the mirror of a static pod yet");
            }
        }
    }
}

async fn delete(kubelet: &Shared, (namespace, name): &FullName, uid: &str) {
    let options = DeleteOptions {
        grace_period_seconds: Some(0),
        uid: Some(uid.to_owned()),
        ..DeleteOptions::default()
    };
    if let Err(error) = kubelet.client.delete::<Pod>(namespace, name, &options).await
        && !error.is_not_found()
        && !error.is_conflict()
    {
        tracing::warn!(pod = name, %error, "cannot delete the mirror of a static pod yet");
    }
}

async fn create(kubelet: &Shared, pod: &Pod) -> Result<(), knarr_client::Error> {
    let mut value = pod.to_value();
    let meta = &mut value["metadata"];
    meta["annotations"][MIRROR] = pod.uid().into();
    if let Some(fields) = meta.as_object_mut() {
        fields.remove("uid");
    }
    let node = &kubelet.config.node_name;
    let node_uid = kubelet.node_uid.lock().expect("uid lock is never poisoned").clone();
    meta["ownerReferences"] =
        json!([{ "apiVersion": "v1", "kind": "Node", "name": node, "uid": node_uid, "controller": true }]);
    if let Some(fields) = value.as_object_mut() {
        fields.remove("status");
    }
    let path = knarr_client::ResourcePath::of::<Pod>();
    let url = path.url(pod.namespace(), "", "");
    let made = kubelet.client.call(http::Method::POST, &url, &value).await?;
    if let Ok(mirror) = Pod::decode(&made) {
        kubelet.mirrors.set(&mirror);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::UNIX_EPOCH;

    fn parsed(text: &str) -> Result<Pod, String> {
        parse(text, Path::new("/m/a.yaml"), "Node1", &UNIX_EPOCH)
    }

    const WEB: &str = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: web\nspec:\n  containers:\n  - name: c\n    image: i\n    resources: {limits: {cpu: 1}}\n";

    #[test]
    fn a_manifest_becomes_a_pod_of_this_node() {
        let pod = parsed(WEB).unwrap();
        assert_eq!((pod.name(), pod.namespace(), pod.uid().len()), ("web-node1", "default", 32));
        assert!(is_static(&pod) && !is_mirror(&pod));
        assert_eq!(annotation(&pod, HASH), Some(pod.uid()));
        let spec = pod.spec.as_ref().unwrap();
        assert_eq!(spec.node_name.as_deref(), Some("Node1"));
        assert_eq!(spec.tolerations.as_ref().unwrap()[0].effect.as_deref(), Some("NoExecute"));
        assert_eq!(spec.containers[0].termination_message_path.as_deref(), Some("/dev/termination-log"));
        assert!(
            spec.containers[0].resources.as_ref().unwrap().requests.as_ref().unwrap().contains_key("cpu")
        );
        assert_eq!(parsed(WEB).unwrap().uid(), pod.uid());
        assert_ne!(parsed(&WEB.replace("image: i", "image: j")).unwrap().uid(), pod.uid());
    }

    #[test]
    fn manifests_that_cannot_be_static_pods_are_refused() {
        for (from, to, why) in [
            ("kind: Pod", "kind: Service", "no Pod"),
            ("name: web", "labels: {}", "name is needed"),
            ("spec:\n", "spec:\n  serviceAccountName: x\n", "serviceaccounts"),
            ("spec:\n", "spec:\n  volumes: [{name: s, secret: {secretName: x}}]\n", "secrets"),
            ("containers:", "initContainers:", "containers"),
        ] {
            let error = parsed(&WEB.replacen(from, to, 1)).unwrap_err();
            assert!(error.contains(why), "{to}: {error}");
        }
        assert!(parsed("][").is_err());
    }
}
