//! A worker's part in resizing its pod: what the node grants, what is to be changed for it, and what the
//! conditions and events say about it (KEP-1287).

use super::{START_RETRY, Worker};
use crate::kubelet::Shared;
use crate::pod::model::{Restart, Setup};
use crate::pod::resize::{self, Condition, Job};
use crate::pod::sizes::Sizes;
use crate::util::about;
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use std::sync::Arc;
use std::time::SystemTime;

/// The pod with what it was granted in place of what it asks for.
pub(super) fn granted(kubelet: &Shared, desired: &Arc<Pod>) -> Arc<Pod> {
    match kubelet.book.of(desired.uid()) {
        Some((sizes, _)) if !sizes.same(&Sizes::of(desired)) => sizes.put_into(desired),
        _ => desired.clone(),
    }
}

impl Worker {
    fn generation(&self) -> i64 {
        self.desired.metadata.generation.unwrap_or_default()
    }

    /// The object changed: if its size did, the node is asked for it.
    pub(super) fn resize_wanted(&mut self, was: &Pod) {
        if !Sizes::of(&self.desired).same(&Sizes::of(was)) {
            let now = self.now();
            self.kubelet.book.wish(&self.desired, now);
            crate::pod::manager::decide_resizes(&self.kubelet);
        }
        self.granted();
    }

    /// Takes over what the node grants now.
    pub(super) fn granted(&mut self) {
        let Some((sizes, pending)) = self.kubelet.book.of(self.desired.uid()) else {
            self.pod = self.desired.clone();
            return;
        };
        let (now, generation) = (self.now(), self.generation());
        let changed = !sizes.same(&Sizes::of(&self.pod));
        self.pod = granted(&self.kubelet, &self.desired);
        let about = about(&self.pod, None);
        let resizing = &mut self.observed.resizing;
        if changed {
            resizing.progress = Some(Condition::after(None, "", "", generation, now));
            resizing.retry_at = None;
            let text = resize::message("Pod resize started", &self.pod, generation, "");
            self.kubelet.recorder.normal(&about, "ResizeStarted", text);
        }
        match pending {
            None => resizing.pending = None,
            Some(pending) => {
                let reason = if pending.infeasible { "Infeasible" } else { "Deferred" };
                let before = resizing.pending.as_ref();
                let news = before.is_none_or(|b| b.reason != reason || b.generation != generation);
                if news || before.is_some_and(|b| b.message != pending.message) {
                    let after = Condition::after(before, reason, &pending.message, generation, now);
                    resizing.pending = Some(after);
                }
                if news {
                    let prefix = format!("Pod resize {reason}");
                    let text = resize::message(&prefix, &self.desired, generation, &pending.message);
                    self.kubelet.recorder.warning(&about, &format!("Resize{reason}"), text);
                }
            }
        }
        if changed {
            self.keep_sizes();
        }
    }

    fn keep_sizes(&self) {
        let sizes = Sizes::of(&self.pod);
        let root = &self.kubelet.config.root_dir;
        if let Err(error) = resize::write(root, self.pod.uid(), &sizes, &self.observed) {
            tracing::warn!(pod = self.pod.name(), %error, "cannot keep the pod's new size");
        }
    }

    /// The sandbox was made for this state of the pod.
    pub(super) fn sized(&mut self, pod: &Pod) {
        let resizing = &mut self.observed.resizing;
        resizing.cgroup = Some(crate::container::resources::pod(pod));
        resizing.pod = Sizes::of(pod).pod;
    }

    /// Sees to it that what runs has the size that was granted; when to look again after a failure.
    pub(super) fn plan_resize(&mut self, now: SystemTime) -> Option<SystemTime> {
        self.observed.held_by_resize = false;
        let stopping = crate::pod::plan::is_stopping(&self.pod, &self.defs, &self.observed);
        if stopping || self.observed.setup != Setup::Done {
            if stopping {
                (self.observed.resizing.pending, self.observed.resizing.progress) = (None, None);
            }
            return None;
        }
        let need = resize::need(&self.pod, &self.defs, &self.observed);
        let resizing = &self.observed.resizing;
        if need.is_empty() && !resizing.running {
            if let Some(progress) = self.observed.resizing.progress.take() {
                let text = resize::message("Pod resize completed", &self.pod, progress.generation, "");
                self.kubelet.recorder.normal(&about(&self.pod, None), "ResizeCompleted", text);
            }
            return None;
        }
        let failed = resizing.retry_at.filter(|at| *at > now);
        // A container that starts needs its pod's cgroup as large as the pod is.
        self.observed.held_by_resize = failed.is_none() && (need.pod || resizing.running);
        for name in &need.restarts {
            let message = format!("Container {name} resize requires restart");
            let record = self.record(name);
            if record.restart.is_none() {
                record.restart = Some(Restart { message, grace: None, again: true });
            }
        }
        // A pod's cgroup cannot become smaller than those of containers that are yet to end.
        let ending = self.observed.containers.values().any(|r| r.is_running() && r.restart.is_some());
        if failed.is_some() || ending || self.observed.resizing.running {
            return failed;
        }
        if self.observed.resizing.progress.is_none() {
            let progress = Condition::after(None, "", "", self.generation(), now);
            self.observed.resizing.progress = Some(progress);
        }
        self.observed.resizing.running = true;
        let before = self.observed.resizing.cgroup.clone().unwrap_or_default();
        let job = Job { pod: self.pod.clone(), before, updates: need.updates };
        self.spawn("pod-resize", resize::run(self.kubelet.clone(), self.entry.clone(), job));
        None
    }

    /// Cgroups were changed.
    pub(super) fn resize_done(&mut self, done: resize::Done) {
        let (now, generation) = (self.now(), self.generation());
        for (name, id, size) in done.updated {
            let record = self.record(&name);
            if record.id == id {
                record.actuated = Some(size);
            }
        }
        let resizing = &mut self.observed.resizing;
        resizing.running = false;
        resizing.cgroup = Some(done.cgroup);
        match done.error {
            None => resizing.pod = done.pod,
            Some(error) => {
                resizing.retry_at = Some(now + START_RETRY);
                let before = resizing.progress.as_ref();
                let generation = before.map_or(generation, |b| b.generation);
                if before.is_none_or(|b| b.message != error) {
                    let text = resize::message("Pod resize error", &self.pod, generation, &error);
                    let after = Condition::after(before, "Error", &error, generation, now);
                    resizing.progress = Some(after);
                    self.kubelet.recorder.warning(&about(&self.pod, None), "ResizeError", text);
                }
            }
        }
        self.keep_sizes();
    }
}
