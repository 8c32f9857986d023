//! Giving running containers what their pod was granted (KEP-1287, KEP-5419): what differs, what must be started
//! anew for it, and the order in which cgroups are changed so that no child ever exceeds its parent.

use super::model::{Observed, Record};
use super::sizes::{Felt, Size, Sizes};
use super::worker::Msg;
use crate::container::resources;
use crate::kubelet::{Entry, Shared};
use crate::util::{Def, Role};
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_runtime::Runtime;
use knarr_runtime::spec::Resources;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

/// A condition of a resize, `PodResizePending` or `PodResizeInProgress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Condition {
    pub(crate) reason: String,
    pub(crate) message: String,
    pub(crate) generation: i64,
    pub(crate) probed: SystemTime,
    pub(crate) since: SystemTime,
}

impl Condition {
    /// The condition that follows `before`: the transition is when the reason changed.
    pub(crate) fn after(
        before: Option<&Self>,
        reason: &str,
        message: &str,
        generation: i64,
        now: SystemTime,
    ) -> Self {
        let since = before.filter(|b| b.reason == reason).map_or(now, |b| b.since);
        Self { reason: reason.to_owned(), message: message.to_owned(), generation, probed: now, since }
    }
}

/// Where a pod's resizing stands.
#[derive(Clone, Debug, Default)]
pub(crate) struct Resizing {
    pub(crate) pending: Option<Condition>,
    pub(crate) progress: Option<Condition>,
    /// Cgroups are being changed.
    pub(crate) running: bool,
    /// A change that failed is not tried again before.
    pub(crate) retry_at: Option<SystemTime>,
    /// The limits that the pod's cgroup has; `None` while it has no cgroup.
    pub(crate) cgroup: Option<Resources>,
    /// The pod's own size as it is actuated.
    pub(crate) pod: Option<Size>,
}

/// A running container whose cgroup is to be changed.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) size: Size,
    pub(crate) have: Felt,
    pub(crate) want: Felt,
    pub(crate) resources: Resources,
}

/// What differs between what is granted and what is felt.
#[derive(Clone, Debug, Default)]
pub(crate) struct Need {
    /// Containers whose policy is to be started anew for it.
    pub(crate) restarts: Vec<String>,
    pub(crate) updates: Vec<Update>,
    /// The pod's cgroup is to be changed.
    pub(crate) pod: bool,
}

impl Need {
    pub(crate) fn is_empty(&self) -> bool {
        self.restarts.is_empty() && self.updates.is_empty() && !self.pod
    }
}

fn own_size(pod: &Pod) -> Option<Size> {
    pod.spec.as_ref().and_then(|s| s.resources.as_ref()).map(|r| Size::of(Some(r)))
}

/// Compares. Containers that do not run get the right size when they start.
pub(crate) fn need(pod: &Pod, defs: &[Def], observed: &Observed) -> Need {
    let granted = own_size(pod);
    let actual = observed.resizing.pod.as_ref().or(granted.as_ref());
    let mut need = Need {
        pod: observed.resizing.cgroup.as_ref().is_some_and(|now| *now != resources::pod(pod)),
        ..Need::default()
    };
    for def in defs.iter().filter(|d| d.role != Role::Ephemeral) {
        let record = observed.containers.get(&def.spec.name);
        let Some(record) = record.filter(|r| r.is_running() && r.killing.is_none()) else { continue };
        let Some(actuated) = &record.actuated else { continue };
        let size = Size::of(def.spec.resources.as_ref());
        let (have, want) = (actuated.felt(actual), size.felt(granted.as_ref()));
        if have == want {
            continue;
        }
        if restarts(def, have, want) {
            need.restarts.push(def.spec.name.clone());
        } else {
            need.updates.push(Update {
                name: def.spec.name.clone(),
                id: record.id.clone(),
                size,
                have,
                want,
                resources: resources::container(pod, &def.spec),
            });
        }
    }
    need
}

fn restarts(def: &Def, have: Felt, want: Felt) -> bool {
    def.spec.resize_policy.iter().flatten().filter(|p| p.restart_policy == "RestartContainer").any(
        |p| match p.resource_name.as_str() {
            "cpu" => (have.cpu_request, have.cpu_limit) != (want.cpu_request, want.cpu_limit),
            "memory" => (have.memory_request, have.memory_limit) != (want.memory_request, want.memory_limit),
            _ => false,
        },
    )
}

/// A message about a resize: what the containers are to have, as upstream's events say it.
pub(crate) fn message(prefix: &str, pod: &Pod, generation: i64, error: &str) -> String {
    #[derive(Serialize)]
    struct One<'a> {
        name: &'a str,
        resources: Size,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct All<'a> {
        #[serde(skip_serializing_if = "Vec::is_empty")]
        init_containers: Vec<One<'a>>,
        #[serde(skip_serializing_if = "Vec::is_empty")]
        containers: Vec<One<'a>>,
        generation: i64,
        #[serde(skip_serializing_if = "str::is_empty")]
        error: &'a str,
    }
    let Some(spec) = &pod.spec else { return prefix.to_owned() };
    let one = |c| {
        let c: &knarr_api::core::v1::Container = c;
        One { name: &c.name, resources: Size::of(c.resources.as_ref()) }
    };
    let all = All {
        init_containers: spec.init_containers.iter().flatten().map(one).collect(),
        containers: spec.containers.iter().map(one).collect(),
        generation,
        error,
    };
    format!("{prefix}: {}", serde_json::to_string(&all).expect("texts and numbers always encode"))
}

/// What is kept on disk beside a pod whose size changed: its containers' labels tell only the first size.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Kept {
    pub(crate) allocated: Sizes,
    /// By container id.
    #[serde(default)]
    pub(crate) actuated: BTreeMap<String, Size>,
    #[serde(default)]
    pub(crate) pod: Option<Size>,
    #[serde(default)]
    pub(crate) cgroup: Option<Resources>,
}

fn kept_path(root: &Path, uid: &str) -> PathBuf {
    crate::volume::pod_dir(root, uid).join("sizes.json")
}

/// Reads what was kept.
pub(crate) fn read(root: &Path, uid: &str) -> Option<Kept> {
    serde_json::from_slice(&std::fs::read(kept_path(root, uid)).ok()?).ok()
}

/// Keeps what a pod was given, whole or not at all.
pub(crate) fn write(root: &Path, uid: &str, allocated: &Sizes, observed: &Observed) -> std::io::Result<()> {
    let actuated = |r: &Record| Some((r.id.clone(), r.actuated.clone()?));
    let kept = Kept {
        allocated: allocated.clone(),
        actuated: observed.containers.values().filter_map(actuated).collect(),
        pod: observed.resizing.pod.clone(),
        cgroup: observed.resizing.cgroup.clone(),
    };
    let path = kept_path(root, uid);
    let new = path.with_extension("new");
    std::fs::create_dir_all(path.parent().expect("it is in the pod's directory"))?;
    std::fs::write(&new, serde_json::to_vec(&kept).expect("texts and numbers always encode"))?;
    std::fs::rename(new, path)
}

/// Cgroups to change.
pub(crate) struct Job {
    pub(crate) pod: Arc<Pod>,
    pub(crate) before: Resources,
    pub(crate) updates: Vec<Update>,
}

/// What changing came to. What was changed before an error is told too.
pub(crate) struct Done {
    pub(crate) updated: Vec<(String, String, Size)>,
    /// The pod's own size that was asked for.
    pub(crate) pod: Option<Size>,
    /// The limits of the pod's cgroup now.
    pub(crate) cgroup: Resources,
    pub(crate) error: Option<String>,
}

/// Changes cgroups and tells the worker.
pub(crate) async fn run(kubelet: Arc<Shared>, entry: Arc<Entry>, job: Job) {
    let runtime = &kubelet.config.runtime;
    let mut done =
        Done { updated: Vec::new(), pod: own_size(&job.pod), cgroup: job.before.clone(), error: None };
    let result = match check(runtime, &job).await {
        Ok(()) => apply(runtime, &job, &mut done.cgroup).await,
        Err(error) => Err(error),
    };
    match result {
        Ok(()) => {
            done.updated = job.updates.into_iter().map(|u| (u.name, u.id, u.size)).collect();
        }
        Err(error) => done.error = Some(error),
    }
    entry.send(Msg::Resized(Box::new(done)));
}

/// Refuses limits that what is in use does not fit into: better not begun than half done.
async fn check(runtime: &Runtime, job: &Job) -> Result<(), String> {
    let after = resources::pod(&job.pod);
    let uid = job.pod.uid();
    let mut errors = Vec::new();
    let used = async |id: Option<&str>| {
        let usage = runtime.usage(uid, id).await;
        usage.map(|u| u.memory_usage_bytes).map_err(|_| {
            format!("unable to read memory usage for pod \"{}\"", crate::util::format_pod(&job.pod))
        })
    };
    let sinks = |before: Option<i64>, after: i64| before.is_none_or(|b| b <= 0 || after < b);
    if let Some(limit) = after.memory_limit_bytes.filter(|limit| sinks(job.before.memory_limit_bytes, *limit))
    {
        let used = used(None).await?;
        if used >= limit.max(0).unsigned_abs() {
            errors.push(format!("attempting to set pod memory limit ({limit}) below current usage ({used})"));
        }
    }
    for update in &job.updates {
        let limit = update.want.memory_limit;
        if limit == 0 || !sinks(Some(update.have.memory_limit), limit) {
            continue;
        }
        let used = used(Some(&update.id)).await?;
        if used >= limit.max(0).unsigned_abs() {
            errors.push(format!(
                "attempting to set container \"{}\" memory limit ({limit}) below current usage ({used})",
                update.name
            ));
        }
    }
    match errors.len() {
        0 => Ok(()),
        1 => Err(format!("cannot decrease memory limits: {}", errors[0])),
        _ => Err(format!("cannot decrease memory limits: [{}]", errors.join(", "))),
    }
}

/// One step: the values of the pod's cgroup and of the containers' that it is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Memory,
    Cpu,
}

fn only(step: Step, limit: bool, all: &Resources) -> Resources {
    match (step, limit) {
        (Step::Memory, _) => Resources { memory_limit_bytes: all.memory_limit_bytes, ..Resources::default() },
        (Step::Cpu, true) => Resources {
            cpu_quota_us: all.cpu_quota_us,
            cpu_period_us: all.cpu_period_us,
            ..Resources::default()
        },
        (Step::Cpu, false) => Resources { cpu_shares: all.cpu_shares, ..Resources::default() },
    }
}

fn merge(into: &mut Resources, part: &Resources) {
    into.memory_limit_bytes = part.memory_limit_bytes.or(into.memory_limit_bytes);
    into.cpu_quota_us = part.cpu_quota_us.or(into.cpu_quota_us);
    into.cpu_period_us = part.cpu_period_us.or(into.cpu_period_us);
    into.cpu_shares = part.cpu_shares.or(into.cpu_shares);
}

async fn apply(runtime: &Runtime, job: &Job, now: &mut Resources) -> Result<(), String> {
    let after = resources::pod(&job.pod);
    let uid = job.pod.uid();
    for step in [Step::Memory, Step::Cpu] {
        let limits = match step {
            Step::Memory => (now.memory_limit_bytes, after.memory_limit_bytes),
            Step::Cpu => (now.cpu_quota_us, after.cpu_quota_us),
        };
        // A limit that is not there is the highest of all; one is never taken away (validation sees to it).
        let high = |limit: Option<i64>| limit.filter(|l| *l > 0).unwrap_or(i64::MAX);
        let (limit_before, limit_after) =
            (high(limits.0), limits.1.map_or(high(limits.0), |l| high(Some(l))));
        let (shares_before, shares_after) = match step {
            Step::Memory => (0, 0),
            Step::Cpu => (now.cpu_shares.unwrap_or_default(), after.cpu_shares.unwrap_or_default()),
        };
        let pod = async |limit: bool, now: &mut Resources| {
            let part = only(step, limit, &after);
            runtime.update_resources(uid, None, part.clone()).await.map_err(|e| e.to_string())?;
            merge(now, &part);
            Ok::<(), String>(())
        };
        // Upwards the limit goes first, downwards the request: a request never exceeds its limit.
        if limit_after > limit_before {
            pod(true, now).await?;
        }
        if shares_after > shares_before {
            pod(false, now).await?;
        }
        let value = |f: &Felt| match step {
            Step::Memory => (f.memory_limit, f.memory_request),
            Step::Cpu => (f.cpu_limit, f.cpu_request),
        };
        let mut updates: Vec<&Update> =
            job.updates.iter().filter(|u| value(&u.have) != value(&u.want)).collect();
        // What gives back goes before what takes.
        updates.sort_by_key(|u| value(&u.want) > value(&u.have));
        for update in updates {
            let mut part = only(step, true, &update.resources);
            merge(&mut part, &only(step, false, &update.resources));
            runtime.update_resources(uid, Some(&update.id), part).await.map_err(|e| e.to_string())?;
        }
        if shares_after < shares_before {
            pod(false, now).await?;
        }
        if limit_after < limit_before {
            pod(true, now).await?;
        }
    }
    *now = after;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::model::State;
    use crate::pod::phase::tests::{observed, pod, t};
    use crate::util::defs;
    use serde_json::json;

    fn sized(cpu: &str, memory: &str, policy: &str) -> Pod {
        pod(
            json!({"containers": [{"name": "a", "resizePolicy": [{"resourceName": "memory", "restartPolicy": policy}],
            "resources": {"requests": {"cpu": cpu}, "limits": {"memory": memory}}}]}),
        )
    }

    fn running(as_of: &Pod) -> Observed {
        let mut seen = observed(&[("a", State::Running(t(0)))]);
        let size = Size::of(as_of.spec.as_ref().unwrap().containers[0].resources.as_ref());
        seen.containers.get_mut("a").unwrap().actuated = Some(size);
        seen.resizing.cgroup = Some(resources::pod(as_of));
        seen
    }

    #[test]
    fn a_container_is_changed_in_place_or_restarted_as_its_policy_says() {
        let old = sized("10m", "10Mi", "RestartContainer");
        let seen = running(&old);
        assert!(need(&old, &defs(&old), &seen).is_empty());
        let more_cpu = sized("20m", "10Mi", "RestartContainer");
        let n = need(&more_cpu, &defs(&more_cpu), &seen);
        assert_eq!((n.restarts.len(), n.updates.len(), n.pod), (0, 1, true));
        let more_memory = sized("10m", "20Mi", "RestartContainer");
        let n = need(&more_memory, &defs(&more_memory), &seen);
        assert_eq!((n.restarts, n.updates.len(), n.pod), (vec!["a".to_owned()], 0, true));
        let in_place = sized("10m", "20Mi", "NotRequired");
        assert_eq!(need(&in_place, &defs(&in_place), &seen).updates.len(), 1);
        let mut stopped = seen;
        stopped.containers.get_mut("a").unwrap().state = State::None;
        assert!(need(&more_memory, &defs(&more_memory), &stopped).updates.is_empty());
    }

    #[test]
    fn messages_carry_the_sizes_as_json() {
        let pod = sized("10m", "10Mi", "NotRequired");
        assert_eq!(
            message("Pod resize started", &pod, 2, ""),
            "Pod resize started: {\"containers\":[{\"name\":\"a\",\"resources\":{\"limits\":{\"memory\":\"10Mi\"},\
             \"requests\":{\"cpu\":\"10m\"}}}],\"generation\":2}"
        );
        assert!(message("Pod resize error", &pod, 2, "no").ends_with(",\"generation\":2,\"error\":\"no\"}"));
    }

    #[test]
    fn the_transition_is_when_the_reason_changed() {
        let first = Condition::after(None, "Deferred", "m", 1, t(1));
        let second = Condition::after(Some(&first), "Deferred", "n", 2, t(2));
        assert_eq!((second.since, second.probed), (t(1), t(2)));
        assert_eq!(Condition::after(Some(&second), "Infeasible", "", 2, t(3)).since, t(3));
    }
}
