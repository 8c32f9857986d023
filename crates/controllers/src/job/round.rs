//! One look at a Job and its pods, and what follows from it: what to do now ([`Round::action`]), what the status says
//! then ([`Round::conclude`]), and which pods are counted ([`Round::count`], KEP-2307). Nothing here reaches out.

use super::backoff::{Failures, finished_at, remaining_for_index};
use super::conditions::{self, condition, set};
use super::indexes::Indexes;
use super::pods::{IndexFailures, index_of, is_failed, is_indexed, is_tracked, replaces_only_failed};
use super::policy::{self, Verdict};
use crate::framework::pods::{deletion_rank, is_active, is_ready, is_terminating, phase};
use crate::framework::time::{api_time, system_time};
use knarr_api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use knarr_api::core::v1::Pod;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Most pods created or deleted in one round.
const MOST_CHANGES: usize = 500;
/// Most pods that are counted in one round; their UIDs pass through the status.
const MOST_UNCOUNTED: usize = 500;

/// What to do to pods.
#[derive(Debug)]
pub enum Action {
    /// Nothing.
    Nothing,
    /// The Job is over: delete what is active. The pods stay tracked until they are counted.
    DeleteActive,
    /// Too many: delete these, without counting them.
    Delete(Vec<Arc<Pod>>),
    /// Too few: make one for each, with an index if the Job is Indexed.
    Create(Vec<Option<i32>>),
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Pods that were made.
    pub created: i32,
    /// Pods that were deleted.
    pub deleted: i32,
    /// Those of them that were ready.
    pub deleted_ready: i32,
}

/// A round.
pub struct Round {
    /// The Job, whose status the round changes.
    pub job: Job,
    /// Failures since the last success, these pods included.
    pub failures: Failures,
    /// When to look again, if nothing changes before.
    pub check_again: Option<Duration>,
    spec: JobSpec,
    pods: Vec<Arc<Pod>>,
    active: Vec<Arc<Pod>>,
    counting: HashSet<String>,
    succeeded: i32,
    terminating: i32,
    finished: Option<JobCondition>,
    succeeded_before: Indexes,
    succeeded_indexes: Indexes,
    failed_indexes: Option<Indexes>,
    kept: HashMap<i32, Arc<Pod>>,
    now: SystemTime,
}

fn uid(pod: &Pod) -> String {
    pod.metadata.uid.clone().unwrap_or_default()
}

impl Round {
    /// Looks at a Job and its pods. `released` are the UIDs of pods whose finalizer was taken away, though they may
    /// still show it.
    pub fn new(
        mut job: Job,
        pods: Vec<Arc<Pod>>,
        released: &HashSet<String>,
        failures: &Failures,
        now: SystemTime,
    ) -> Self {
        let spec = job.spec.clone().unwrap_or_default();
        let status = job.status.get_or_insert_default();
        let uncounted = status.uncounted_terminated_pods.get_or_insert_default().clone();
        let suspended = spec.suspend == Some(true);
        if status.start_time.is_none() && !suspended {
            status.start_time = api_time(now);
        }
        let counting: HashSet<String> =
            pods.iter().filter(|p| is_tracked(p) && !released.contains(&uid(p))).map(|p| uid(p)).collect();
        let in_range = |pod: &Pod| {
            !is_indexed(&spec) || index_of(pod).is_some_and(|i| i < spec.completions.unwrap_or_default())
        };
        let fresh = |seen: &Option<Vec<String>>, pod: &Pod| {
            counting.contains(&uid(pod)) && in_range(pod) && !seen.iter().flatten().any(|u| *u == uid(pod))
        };
        let new_succeeded: Vec<&Pod> = pods
            .iter()
            .map(|p| &**p)
            .filter(|p| phase(p) == "Succeeded" && fresh(&uncounted.succeeded, p))
            .collect();
        let new_failed: Vec<&Pod> = pods
            .iter()
            .map(|p| &**p)
            .filter(|p| is_failed(p, &spec) && fresh(&uncounted.failed, p))
            .collect();
        let some = |list: &Option<Vec<String>>| list.as_ref().map_or(0, Vec::len) as i32;
        let succeeded =
            status.succeeded.unwrap_or_default() + new_succeeded.len() as i32 + some(&uncounted.succeeded);
        let counted = new_failed.iter().filter(|p| policy::on_failure(&spec, p).counts()).count() as i32;
        let failed = status.failed.unwrap_or_default() + counted + some(&uncounted.failed);
        let failures = failures.after(new_succeeded, new_failed);
        let mut round = Self {
            failures,
            check_again: None,
            active: pods.iter().filter(|p| is_active(p)).cloned().collect(),
            terminating: pods.iter().filter(|p| is_terminating(p)).count() as i32,
            counting,
            succeeded,
            finished: None,
            succeeded_before: Indexes::default(),
            succeeded_indexes: Indexes::default(),
            failed_indexes: None,
            kept: HashMap::new(),
            now,
            job,
            spec,
            pods,
        };
        round.finished = round.verdict(failed);
        if is_indexed(&round.spec) {
            round.count_indexes();
        }
        round
    }

    fn status(&mut self) -> &mut JobStatus {
        self.job.status.get_or_insert_default()
    }

    fn completions(&self) -> i32 {
        self.spec.completions.unwrap_or_default()
    }

    fn suspended(&self) -> bool {
        self.spec.suspend == Some(true)
    }

    /// Whether the Job as a whole is decided, and how: what was decided before, the failure policy, the back-off
    /// limit, the deadline.
    fn verdict(&mut self, failed: i32) -> Option<JobCondition> {
        let held = self.job.status.as_ref().and_then(|s| s.conditions.as_ref());
        let held = |kind: &str| held.into_iter().flatten().find(|c| c.type_ == kind && c.status == "True");
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        if let Some(met) = held("SuccessCriteriaMet") {
            return Some(met.clone());
        }
        if let Some(target) = held("FailureTarget") {
            return Some(condition("Failed", &text(&target.reason), &text(&target.message), self.now));
        }
        for pod in self.pods.iter().filter(|p| is_failed(p, &self.spec)) {
            if let Verdict::FailJob(message) = policy::on_failure(&self.spec, pod) {
                return Some(condition("FailureTarget", "PodFailurePolicy", &message, self.now));
            }
        }
        if failed > self.spec.backoff_limit.unwrap_or(6) || self.restarted_too_often() {
            let message = "Job has reached the specified backoff limit";
            return Some(condition("FailureTarget", "BackoffLimitExceeded", message, self.now));
        }
        let start = self.job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(system_time);
        if let (Some(limit), Some(start), false) =
            (self.spec.active_deadline_seconds, start, self.suspended())
        {
            let limit = Duration::from_secs(u64::try_from(limit).unwrap_or_default());
            let left = limit.saturating_sub(self.now.duration_since(start).unwrap_or_default());
            if left.is_zero() {
                let message = "Job was active longer than specified deadline";
                return Some(condition("FailureTarget", "DeadlineExceeded", message, self.now));
            }
            self.look_again(left);
        }
        None
    }

    fn look_again(&mut self, wait: Duration) {
        self.check_again = Some(self.check_again.map_or(wait, |w| w.min(wait)));
    }

    /// With restartPolicy OnFailure the restarts of running pods count as failures.
    fn restarted_too_often(&self) -> bool {
        let policy = self.spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref());
        if policy != Some("OnFailure") {
            return false;
        }
        let running = self.pods.iter().filter(|p| matches!(phase(p), "Running" | "Pending"));
        let statuses = running.filter_map(|p| p.status.as_ref()).flat_map(|s| {
            s.init_container_statuses.iter().flatten().chain(s.container_statuses.iter().flatten())
        });
        let restarts: i32 = statuses.map(|s| s.restart_count).sum();
        match self.spec.backoff_limit.unwrap_or(6) {
            0 => restarts > 0,
            limit => restarts >= limit,
        }
    }

    fn count_indexes(&mut self) {
        let completions = self.completions();
        let status = self.job.status.clone().unwrap_or_default();
        self.succeeded_before =
            Indexes::parse(status.completed_indexes.as_deref().unwrap_or_default(), completions);
        let indexed = |pod: &Pod| index_of(pod).filter(|i| *i < completions && is_tracked(pod));
        let new = self.pods.iter().filter(|p| phase(p) == "Succeeded").filter_map(|p| indexed(p));
        self.succeeded_indexes = self.succeeded_before.with(new);
        self.succeeded = self.succeeded_indexes.total();
        if let Some(limit) = self.spec.backoff_limit_per_index {
            let before = Indexes::parse(status.failed_indexes.as_deref().unwrap_or_default(), completions);
            let given_up = |pod: &Pod| match policy::on_failure(&self.spec, pod) {
                _ if !is_failed(pod, &self.spec) => false,
                Verdict::FailIndex => true,
                verdict => verdict.counts() && IndexFailures::of(pod).counted >= limit,
            };
            let failed = before.with(self.pods.iter().filter(|p| given_up(p)).filter_map(|p| indexed(p)));
            if self.finished.is_none() {
                let (reason, message) =
                    if self.spec.max_failed_indexes.is_some_and(|most| failed.total() > most) {
                        (
                            "MaxFailedIndexesExceeded",
                            "Job has exceeded the specified maximal number of failed indexes",
                        )
                    } else if failed.total() > 0 && failed.total() + self.succeeded >= completions {
                        ("FailedIndexes", "Job has failed indexes")
                    } else {
                        ("", "")
                    };
                if !reason.is_empty() {
                    self.finished = Some(condition("FailureTarget", reason, message, self.now));
                }
            }
            self.failed_indexes = Some(failed);
            self.keep_last_failures();
        }
        if self.finished.is_none()
            && let Some(message) = policy::on_success(&self.spec, &self.succeeded_indexes)
        {
            self.finished = Some(condition("SuccessCriteriaMet", "SuccessPolicy", &message, self.now));
        }
    }

    /// The last failed pod of an index keeps its finalizer until its successor has taken over the failure count.
    fn keep_last_failures(&mut self) {
        let active: HashSet<i32> = self.active.iter().filter_map(|p| index_of(p)).collect();
        let settled = |index: i32| {
            self.succeeded_indexes.has(index)
                || self.failed_indexes.as_ref().is_some_and(|f| f.has(index))
                || active.contains(&index)
        };
        let mut kept: HashMap<i32, Arc<Pod>> = HashMap::new();
        for pod in self.pods.iter().filter(|p| self.counting.contains(&uid(p)) && is_failed(p, &self.spec)) {
            let Some(index) = index_of(pod).filter(|i| *i < self.completions() && !settled(*i)) else {
                continue;
            };
            let rank = |pod: &Pod| (IndexFailures::of(pod).total(), finished_at(pod));
            if kept.get(&index).is_none_or(|held| rank(held) <= rank(pod)) {
                kept.insert(index, pod.clone());
            }
        }
        self.kept = kept;
    }

    /// What the pod for an index notes of the failures before it.
    pub fn failures_of(&self, index: i32) -> Option<IndexFailures> {
        self.spec.backoff_limit_per_index?;
        let Some(last) = self.kept.get(&index) else { return Some(IndexFailures::default()) };
        let mut failures = IndexFailures::of(last);
        if policy::on_failure(&self.spec, last).counts() {
            failures.counted += 1;
        } else {
            failures.ignored += 1;
        }
        Some(failures)
    }

    /// The active pods.
    pub fn active(&self) -> &[Arc<Pod>] {
        &self.active
    }

    /// What to do to pods. `settled` says whether what earlier rounds did to pods has been seen.
    pub fn action(&mut self, settled: bool) -> Action {
        if self.finished.is_some() {
            return Action::DeleteActive;
        }
        if !settled || self.job.metadata.deletion_timestamp.is_some() {
            return Action::Nothing;
        }
        let active = self.active.len();
        if self.suspended() {
            return self.remove(active);
        }
        let parallelism = self.spec.parallelism.unwrap_or(1);
        let wanted = match self.spec.completions {
            None if self.succeeded > 0 => active as i32,
            None => parallelism,
            Some(completions) => (completions - self.succeeded).min(parallelism).max(0),
        };
        let surplus = active.saturating_sub(usize::try_from(wanted).unwrap_or_default());
        if let Action::Delete(pods) = self.remove(surplus) {
            return Action::Delete(pods.into_iter().take(MOST_CHANGES).collect());
        }
        let terminating = if replaces_only_failed(&self.spec) { self.terminating } else { 0 };
        let missing = usize::try_from(wanted - terminating - active as i32).unwrap_or_default();
        let missing = missing.min(MOST_CHANGES);
        if missing == 0 {
            return Action::Nothing;
        }
        if self.spec.backoff_limit_per_index.is_none() {
            let wait = self.failures.remaining(self.now);
            if !wait.is_zero() {
                self.look_again(wait);
                return Action::Nothing;
            }
        }
        if !is_indexed(&self.spec) {
            return Action::Create(vec![None; missing]);
        }
        self.create_indexes(missing)
    }

    fn create_indexes(&mut self, missing: usize) -> Action {
        let mut taken = self.succeeded_indexes.with(self.active.iter().filter_map(|p| index_of(p)));
        if replaces_only_failed(&self.spec) {
            taken = taken.with(self.pods.iter().filter(|p| is_terminating(p)).filter_map(|p| index_of(p)));
        }
        if let Some(failed) = &self.failed_indexes {
            taken = taken.union(failed);
        }
        let mut indexes = taken.first_missing(missing, self.completions());
        let mut wait: Option<Duration> = None;
        indexes.retain(|index| {
            let Some(last) = self.kept.get(index) else { return true };
            let left = remaining_for_index(last, IndexFailures::of(last).total() + 1, self.now);
            if !left.is_zero() {
                wait = Some(wait.map_or(left, |w| w.min(left)));
            }
            left.is_zero()
        });
        if let Some(wait) = wait {
            self.look_again(wait);
        }
        if indexes.is_empty() {
            Action::Nothing
        } else {
            Action::Create(indexes.into_iter().map(Some).collect())
        }
    }

    /// At least `surplus` pods to give up: of an Indexed Job first those whose index is taken twice or out of range.
    fn remove(&self, surplus: usize) -> Action {
        let mut ranked: Vec<&Arc<Pod>> = self.active.iter().collect();
        ranked.sort_by_cached_key(|pod| deletion_rank(pod, 0));
        let mut removed: Vec<Arc<Pod>> = Vec::new();
        if is_indexed(&self.spec) {
            let mut best: BTreeMap<i32, &Arc<Pod>> = BTreeMap::new();
            let in_range = |pod: &Pod| index_of(pod).filter(|i| *i < self.completions());
            // The last in order is the one to keep.
            ranked.iter().filter_map(|p| Some((in_range(p)?, p))).for_each(|(i, p)| {
                best.insert(i, p);
            });
            let keep: HashSet<String> = best.values().map(|p| uid(p)).collect();
            let (stay, go): (Vec<_>, Vec<_>) = ranked.into_iter().partition(|p| keep.contains(&uid(p)));
            removed.extend(go.into_iter().cloned());
            ranked = stay;
        }
        let more = surplus.saturating_sub(removed.len());
        removed.extend(ranked.into_iter().take(more).cloned());
        if removed.is_empty() { Action::Nothing } else { Action::Delete(removed) }
    }

    /// Puts the outcome of the action into the status. Returns the events, reason and message, and whether anything
    /// changed.
    pub fn conclude(
        &mut self,
        action: &Action,
        outcome: Outcome,
        settled: bool,
    ) -> (Vec<[&'static str; 2]>, bool) {
        let active = self.active.len() as i32 + outcome.created - outcome.deleted;
        let ready = self.active.iter().filter(|p| is_ready(p)).count() as i32 - outcome.deleted_ready;
        self.terminating += outcome.deleted;
        let (mut events, mut changed, now) = (Vec::new(), false, self.now);
        if matches!(action, Action::DeleteActive) {
            if active > 0 || !settled {
                // Not everything that must go is known to go.
                self.finished = None;
            }
        } else {
            let complete = match self.spec.completions {
                None => self.succeeded > 0 && active == 0,
                Some(completions) => self.succeeded >= completions && active == 0,
            };
            if complete {
                let message = "Reached expected number of succeeded pods";
                self.finished = Some(condition("SuccessCriteriaMet", "CompletionsReached", message, now));
            } else if settled && self.job.metadata.deletion_timestamp.is_none() {
                let suspended = self.suspended();
                let conditions = self.status().conditions.get_or_insert_default();
                if suspended {
                    if set(conditions, "Suspended", true, "JobSuspended", "Job suspended", now) {
                        events.push(["Suspended", "Job suspended"]);
                        changed = true;
                    }
                } else if set(conditions, "Suspended", false, "JobResumed", "Job resumed", now) {
                    events.push(["Resumed", "Job resumed"]);
                    changed = true;
                    // The deadline counts from here.
                    self.status().start_time = api_time(now);
                }
            }
        }
        let terminating = self.terminating;
        let status = self.status();
        status.conditions = status.conditions.take().filter(|c| !c.is_empty());
        let numbers = (Some(active).filter(|n| *n != 0), Some(ready), Some(terminating));
        changed |= numbers != (status.active, status.ready, status.terminating);
        (status.active, status.ready, status.terminating) = numbers;
        (events, changed)
    }

    /// Puts the pods that ended since into the status as uncounted, and returns those to release, with whether the
    /// status must be written before.
    pub fn count(&mut self) -> (Vec<Arc<Pod>>, bool) {
        let mut changed = self.settle(&HashSet::new());
        let (indexed, completions) = (is_indexed(&self.spec), self.completions());
        let deleting = self.job.metadata.deletion_timestamp.is_some();
        let failing = self.finished.as_ref().is_some_and(|c| c.type_ != "SuccessCriteriaMet");
        let mut uncounted = self.status().uncounted_terminated_pods.clone().unwrap_or_default();
        let mut succeeded = uncounted.succeeded.take().unwrap_or_default();
        let mut failed = uncounted.failed.take().unwrap_or_default();
        let mut new_indexes = Vec::new();
        let mut release = Vec::new();
        let mut ordered: Vec<Arc<Pod>> =
            self.pods.iter().filter(|p| self.counting.contains(&uid(p))).cloned().collect();
        if indexed {
            ordered.sort_by_key(|p| index_of(p));
        }
        for pod in ordered {
            let (uid, is_failed) = (uid(&pod), is_failed(&pod, &self.spec));
            let kept = index_of(&pod)
                .and_then(|i| self.kept.get(&i))
                .is_some_and(|k| k.metadata.uid == pod.metadata.uid);
            let over = deleting || self.finished.is_some() || phase(&pod) == "Succeeded";
            if !over && (!is_failed || kept) {
                continue;
            }
            let index = index_of(&pod).filter(|i| *i < completions);
            if phase(&pod) == "Succeeded" && !failed.contains(&uid) {
                if indexed {
                    let new = index.filter(|i| !self.succeeded_before.has(*i));
                    changed |= new.is_some();
                    new_indexes.extend(new);
                } else if !succeeded.contains(&uid) {
                    succeeded.push(uid);
                    changed = true;
                }
            } else if (is_failed || failing)
                && !failed.contains(&uid)
                && (!indexed || index.is_some())
                && policy::on_failure(&self.spec, &pod).counts()
            {
                failed.push(uid);
                changed = true;
            }
            release.push(pod);
            if new_indexes.len() + succeeded.len() + failed.len() >= MOST_UNCOUNTED {
                // The rest comes in the next round, which this one's changes bring about.
                break;
            }
        }
        uncounted.succeeded = Some(succeeded).filter(|s| !s.is_empty());
        uncounted.failed = Some(failed).filter(|f| !f.is_empty());
        self.status().uncounted_terminated_pods = Some(uncounted);
        if indexed {
            let written = self.succeeded_before.with(new_indexes);
            let text = Some(written.to_string()).filter(|t| !t.is_empty());
            let failed = self.failed_indexes.as_ref().map(Indexes::to_string);
            let status = self.status();
            changed |= status.completed_indexes != text || status.failed_indexes != failed;
            status.succeeded = Some(written.total()).filter(|n| *n != 0);
            (status.completed_indexes, status.failed_indexes) = (text, failed);
        }
        changed |= self.announce();
        (release, changed)
    }

    /// Writes the interim condition; the final one follows once all pods are counted.
    fn announce(&mut self) -> bool {
        let Some(finished) = self.finished.clone() else { return false };
        let (reason, message) =
            (finished.reason.clone().unwrap_or_default(), finished.message.clone().unwrap_or_default());
        let last = match finished.type_.as_str() {
            "FailureTarget" => "Failed",
            "SuccessCriteriaMet" => "Complete",
            _ => return false,
        };
        self.finished = Some(condition(last, &reason, &message, self.now));
        let conditions = self.status().conditions.get_or_insert_default();
        if conditions.iter().any(|c| c.type_ == finished.type_ && c.status == "True") {
            return false;
        }
        conditions.push(finished);
        true
    }

    /// Pods with these UIDs were released: moves them from the uncounted to the numbers. Returns whether any moved.
    pub fn settle(&mut self, released: &HashSet<String>) -> bool {
        self.counting.retain(|uid| !released.contains(uid));
        let counting = &self.counting;
        let status = self.job.status.get_or_insert_default();
        let uncounted = status.uncounted_terminated_pods.get_or_insert_default();
        let mut moved = false;
        let mut count = |list: &mut Option<Vec<String>>, number: &mut Option<i32>| {
            let Some(uids) = list else { return };
            let before = uids.len();
            uids.retain(|uid| counting.contains(uid));
            let gone = (before - uids.len()) as i32;
            if gone > 0 {
                *number = Some(number.unwrap_or_default() + gone);
                moved = true;
            }
            if uids.is_empty() {
                *list = None;
            }
        };
        count(&mut uncounted.succeeded, &mut status.succeeded);
        count(&mut uncounted.failed, &mut status.failed);
        moved
    }

    /// The final condition, put into the status if nothing stands against it any more.
    pub fn finish(&mut self) -> Option<JobCondition> {
        let finished = self.finished.clone()?;
        let status = self.job.status.get_or_insert_default();
        let uncounted = status.uncounted_terminated_pods.clone().unwrap_or_default();
        if uncounted.succeeded.is_some() || uncounted.failed.is_some() || self.terminating > 0 {
            return None;
        }
        // What was left for the next round by the limit is tracked still.
        let left = self
            .pods
            .iter()
            .any(|p| self.counting.contains(&uid(p)) && matches!(phase(p), "Succeeded" | "Failed"));
        if left || !conditions::is_final(&finished) {
            return None;
        }
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        set(
            status.conditions.get_or_insert_default(),
            &finished.type_,
            true,
            &text(&finished.reason),
            &text(&finished.message),
            self.now,
        );
        if finished.type_ == "Complete" {
            status.completion_time = api_time(self.now);
        }
        Some(finished)
    }

    /// Whether more pods succeeded than were asked for.
    pub fn has_too_many_successes(&self) -> bool {
        let succeeded = self.job.status.as_ref().and_then(|s| s.succeeded).unwrap_or_default();
        self.spec.completions.is_some_and(|completions| succeeded > completions)
    }
}

#[cfg(test)]
#[path = "round_tests.rs"]
mod tests;
