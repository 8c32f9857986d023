//! User namespaces of pods (KEP-127): each pod that does not want the host's users gets 65,536 ids of the host for
//! itself. The mapping is kept beside the pod, as upstream's kubelet keeps it, so that it holds over restarts.
//! A range is free again when nothing of its pod is left on the node.

use super::subids::Slots;
use knarr_api::core::v1::Pod;
use knarr_runtime::spec::{IdMapping, SandboxSpec, UserNamespace};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// Ids of a pod. The first 65,536 of the host are its own.
pub(crate) const LENGTH: u32 = 1 << 16;

/// Ids from here on are not given: programs that take them for signed numbers are still about.
pub(super) const END: u32 = 1 << 31;

/// What upstream says of a runtime without them.
pub(crate) const UNSUPPORTED: &str =
    "can't set `spec.hostUsers: false`, runtime does not support user namespaces";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    host_id: u32,
    container_id: u32,
    length: u32,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    uid_mappings: Vec<Mapping>,
    gid_mappings: Vec<Mapping>,
}

fn path(root: &Path, uid: &str) -> PathBuf {
    crate::volume::pod_dir(root, uid).join("userns")
}

/// Whether the pod is to have users of its own.
pub(crate) fn is_wanted(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|s| s.host_users) == Some(false)
}

/// Whether this node has user namespaces to give.
pub(crate) fn are_there() -> bool {
    let most = std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap_or_default();
    Path::new("/proc/self/ns/user").exists() && most.trim().parse() != Ok(0_u64)
}

/// Which pod has which ids of the host.
#[derive(Debug)]
pub(crate) struct Ranges {
    root: PathBuf,
    /// Those that may be given.
    slots: Slots,
    /// First id by pod UID.
    used: Mutex<HashMap<String, u32>>,
}

impl Ranges {
    /// The ranges of the pods that have directories below `root`, and of those that run.
    pub(crate) fn read<'a>(
        root: &Path,
        slots: Slots,
        running: impl IntoIterator<Item = &'a SandboxSpec>,
    ) -> Self {
        let mut used = HashMap::new();
        for entry in std::fs::read_dir(root.join("pods")).into_iter().flatten().flatten() {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if let Some(first) = kept(&path(root, &uid)) {
                used.insert(uid, first);
            }
        }
        for sandbox in running {
            let first = sandbox.user_namespace.as_ref().and_then(|users| users.uids.first());
            if let Some(first) = first {
                used.insert(sandbox.pod_uid.clone(), first.host_id);
            }
        }
        Self { root: root.to_owned(), slots, used: Mutex::new(used) }
    }

    /// The pod's users, which are its until they are released.
    pub(crate) fn of(&self, uid: &str) -> Result<UserNamespace, String> {
        let ids = |first| vec![IdMapping { container_id: 0, host_id: first, size: LENGTH }];
        let first = self.first(uid).map_err(|e| format!("create user namespace: {e}"))?;
        Ok(UserNamespace { uids: ids(first), gids: ids(first) })
    }

    fn first(&self, uid: &str) -> Result<u32, String> {
        let mut used = self.used.lock().expect("range lock is never poisoned");
        if let Some(first) = used.get(uid) {
            return Ok(*first);
        }
        let taken: HashSet<u32> = used.values().copied().collect();
        let first = self.slots.clone();
        let first = first
            .map(|number| number * LENGTH)
            .find(|first| !taken.contains(first))
            .ok_or("could not find an empty slot to allocate a user namespace")?;
        let mapping = || vec![Mapping { host_id: first, container_id: 0, length: LENGTH }];
        let text = serde_json::to_vec(&Kept { uid_mappings: mapping(), gid_mappings: mapping() });
        let path = path(&self.root, uid);
        let new = path.with_extension("new");
        std::fs::create_dir_all(path.parent().expect("it is in the pod's directory"))
            .and_then(|()| std::fs::write(&new, text.expect("numbers always encode")))
            .and_then(|()| std::fs::rename(&new, &path))
            .map_err(|e| format!("{}: {e}", path.display()))?;
        used.insert(uid.to_owned(), first);
        Ok(first)
    }

    /// Nothing of the pod is left: its ids may be another's.
    pub(crate) fn release(&self, uid: &str) {
        self.used.lock().expect("range lock is never poisoned").remove(uid);
    }
}

fn kept(path: &Path) -> Option<u32> {
    let kept: Kept = serde_json::from_slice(&std::fs::read(path).ok()?).ok()?;
    let mapping = kept.uid_mappings.first()?;
    (mapping.length == LENGTH && mapping.host_id.is_multiple_of(LENGTH) && mapping.host_id > 0)
        .then_some(mapping.host_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(ranges: &Ranges, uid: &str) -> u32 {
        let users = ranges.of(uid).unwrap();
        assert_eq!(users.uids, users.gids);
        assert_eq!((users.uids.len(), users.uids[0].container_id, users.uids[0].size), (1, 0, LENGTH));
        users.uids[0].host_id
    }

    #[test]
    fn a_pod_keeps_its_ids_over_a_restart_and_gives_them_back_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let ranges = Ranges::read(dir.path(), 1..9, []);
        assert_eq!(["a", "b", "a"].map(|uid| first(&ranges, uid)), [65_536, 131_072, 65_536]);
        let again = Ranges::read(dir.path(), 1..9, []);
        assert_eq!(["c", "b"].map(|uid| first(&again, uid)), [196_608, 131_072]);
        again.release("a");
        assert_eq!(first(&again, "d"), 65_536);
        // No others than those that may be given, of which some may be in use from before.
        let few = Ranges::read(dir.path(), 3..5, []);
        assert_eq!(["b", "e"].map(|uid| first(&few, uid)), [131_072, 262_144]);
        let none = few.of("f").unwrap_err();
        assert_eq!(none, "create user namespace: could not find an empty slot to allocate a user namespace");
    }

    #[test]
    fn what_runs_has_its_ids_though_nothing_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = serde_json::json!({
            "pod_uid": "a", "namespace": "n", "name": "a", "attempt": 0, "hostname": "a", "domainname": null,
            "host_network": false, "host_pid": false, "host_ipc": false, "share_process_namespace": false,
            "cgroup": "", "resources": {"hugepages": {}}, "sysctls": {}, "labels": {},
            "user_namespace": {
                "uids": [{"containerID": 0, "hostID": 65_536, "size": 65_536}],
                "gids": [{"containerID": 0, "hostID": 65_536, "size": 65_536}],
            },
        });
        let running: SandboxSpec = serde_json::from_value(sandbox).unwrap();
        let ranges = Ranges::read(dir.path(), 1..9, [&running]);
        assert_eq!(["b", "a"].map(|uid| first(&ranges, uid)), [131_072, 65_536]);
    }

    #[test]
    fn what_is_not_a_mapping_of_ours_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let zero = r#"{"uidMappings":[{"hostId":0,"containerId":0,"length":65536}],"gidMappings":[]}"#;
        for (uid, text) in [("x", "{"), ("y", zero)] {
            let path = path(dir.path(), uid);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        assert_eq!(first(&Ranges::read(dir.path(), 1..9, []), "a"), 65_536);
    }
}
