//! One look at one autoscaler: the scale of its target, what the metrics ask for, what the limits let through.

use super::Autoscalers;
use super::calculator::{Proposal, Tolerances};
use super::limits::Wish;
use super::targets;
use crate::framework::pod_control::about;
use crate::framework::time::api_time;
use http::Method;
use knarr_api::Kind;
use knarr_api::autoscaling::v1::Scale;
use knarr_api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerSpec,
    HorizontalPodAutoscalerStatus, MetricStatus,
};
use knarr_api::core::v1::Pod;
use knarr_client::informer::Key;
use knarr_client::{Error, ResourcePath};
use knarr_meta::quantity::Quantity;
use knarr_meta::selector::LabelSelector;
use serde_json::Value;
use std::sync::Arc;
use std::time::SystemTime;

/// Upstream's default of --horizontal-pod-autoscaler-tolerance.
const TOLERANCE: f64 = 0.1;
/// How often a scale is written anew when somebody else changed it meanwhile.
const ATTEMPTS: usize = 5;

/// One look.
pub struct Round<'a> {
    pub(super) controller: &'a Autoscalers,
    pub(super) object: HorizontalPodAutoscaler,
    pub(super) status: HorizontalPodAutoscalerStatus,
    pub(super) now: SystemTime,
}

/// What all metrics together ask for.
struct Asked {
    replicas: i32,
    metric: String,
    statuses: Vec<MetricStatus>,
}

impl<'a> Round<'a> {
    /// Nothing is done yet.
    pub fn new(controller: &'a Autoscalers, object: &HorizontalPodAutoscaler) -> Self {
        let now = controller.start.ctx.clock.now();
        let status = object.status.clone().unwrap_or_default();
        Self { controller, object: object.clone(), status, now }
    }

    /// The object with the status that came out.
    pub fn into_object(self) -> HorizontalPodAutoscaler {
        HorizontalPodAutoscaler { status: Some(self.status), ..self.object }
    }

    pub(super) fn namespace(&self) -> &str {
        self.object.namespace()
    }

    fn spec(&self) -> HorizontalPodAutoscalerSpec {
        self.object.spec.clone()
    }

    pub(super) fn warning(&self, reason: &'static str, message: impl Into<String>) {
        self.controller.recorder.warning(&about(&self.object), reason, message);
    }

    fn condition(&mut self, kind: &str, is_true: bool, reason: &str, message: impl Into<String>) {
        let status = if is_true { "True" } else { "False" };
        let conditions = self.status.conditions.get_or_insert_default();
        let index = conditions.iter().position(|c| c.type_ == kind).unwrap_or_else(|| {
            let new = HorizontalPodAutoscalerCondition { type_: kind.to_owned(), ..Default::default() };
            conditions.push(new);
            conditions.len() - 1
        });
        let condition = &mut conditions[index];
        if condition.status != status {
            condition.last_transition_time = api_time(self.now);
        }
        condition.status = status.to_owned();
        condition.reason = Some(reason.to_owned());
        condition.message = Some(message.into());
    }

    pub(super) fn tolerances(&self) -> Tolerances {
        let behavior = self.object.spec.behavior.as_ref();
        let of = |quantity: Option<&knarr_api::Quantity>| {
            quantity.and_then(|q| Quantity::parse(&q.0).ok()).map_or(TOLERANCE, |q| q.as_f64())
        };
        Tolerances {
            down: of(behavior.and_then(|b| b.scale_down.as_ref()?.tolerance.as_ref())),
            up: of(behavior.and_then(|b| b.scale_up.as_ref()?.tolerance.as_ref())),
        }
    }

    /// Looks, decides and scales. The error is for the log; events and conditions have told it.
    pub async fn work(&mut self) -> Result<(), String> {
        let (mut scale, path) = match self.scale().await {
            Ok(found) => found,
            Err(problem) => {
                self.warning("FailedGetScale", problem.clone());
                let message =
                    format!("the HPA controller was unable to get the target's current scale: {problem}");
                self.condition("AbleToScale", false, "FailedGetScale", message);
                return Err(problem);
            }
        };
        let message = "the HPA controller was able to get the target's current scale";
        self.condition("AbleToScale", true, "SucceededGetScale", message);
        let current = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or_default();
        let uid = self.object.metadata.uid.clone().unwrap_or_default();
        self.controller.remember(&uid, |memory| memory.begin(current, self.now));
        let spec = self.spec();
        let min = spec.min_replicas.unwrap_or(1);
        let (mut statuses, mut desired, mut reason) = (Vec::new(), current, String::new());
        let mut problem = None;
        if current == 0 {
            let message = "scaling is disabled since the replica count of the target is zero";
            self.condition("ScalingActive", false, "ScalingDisabled", message);
        } else if current > spec.max_replicas {
            desired = spec.max_replicas;
            reason = "Current number of replicas above Spec.MaxReplicas".to_owned();
        } else if current < min {
            desired = min;
            reason = "Current number of replicas below Spec.MinReplicas".to_owned();
        } else {
            let (asked, why) = self.ask(&scale).await;
            statuses = asked.statuses;
            if asked.replicas < 0 {
                self.set(current, self.status.desired_replicas, statuses, false);
                let why = why.unwrap_or_default();
                self.warning("FailedComputeMetricsReplicas", why.clone());
                return Err(why);
            }
            problem = why;
            if asked.replicas > current {
                reason = format!("{} above target", asked.metric);
            } else if asked.replicas < current {
                reason = "All metrics below target".to_owned();
            }
            desired = self.limit(Wish { current, desired: asked.replicas, min, max: spec.max_replicas });
        }
        if desired == current {
            self.set(current, current, statuses, false);
            return problem.map_or(Ok(()), Err);
        }
        if let Err(error) = self.rescale(&path, &mut scale, desired).await {
            let message = format!("New size: {desired}; reason: {reason}; error: {error}");
            self.warning("FailedRescale", message);
            let message = format!("the HPA controller was unable to update the target scale: {error}");
            self.condition("AbleToScale", false, "FailedUpdateScale", message);
            self.set(current, self.status.desired_replicas, statuses, false);
            return Err(error.to_string());
        }
        let message = format!("the HPA controller was able to update the target scale to {desired}");
        self.condition("AbleToScale", true, "SucceededRescale", message);
        let message = format!("New size: {desired}; reason: {reason}");
        self.controller.recorder.normal(&about(&self.object), "SuccessfulRescale", message);
        let behavior = spec.behavior.as_ref();
        self.controller.remember(&uid, |memory| memory.changed(behavior, current, desired, self.now));
        self.set(current, desired, statuses, true);
        problem.map_or(Ok(()), Err)
    }

    fn set(&mut self, current: i32, desired: i32, metrics: Vec<MetricStatus>, rescaled: bool) {
        self.status.current_replicas = Some(current);
        self.status.desired_replicas = desired;
        self.status.current_metrics = Some(metrics);
        if rescaled {
            self.status.last_scale_time = api_time(self.now);
        }
    }

    fn limit(&mut self, wish: Wish) -> i32 {
        let uid = self.object.metadata.uid.clone().unwrap_or_default();
        let (behavior, now) = (self.object.spec.behavior.clone(), self.now);
        let limited = self.controller.remember(&uid, |memory| match &behavior {
            Some(behavior) => memory.limit_by(wish, behavior, now),
            None => memory.limit(wish, now),
        });
        self.condition("AbleToScale", true, limited.able.0, limited.able.1);
        self.condition("ScalingLimited", limited.is_limited, limited.limited.0, limited.limited.1);
        limited.replicas
    }

    /// What the metrics ask for: the most that one of them does. Fewer than now only if all of them could be read.
    async fn ask(&mut self, scale: &Scale) -> (Asked, Option<String>) {
        let mut asked = Asked { replicas: -1, metric: String::new(), statuses: Vec::new() };
        let (selector, pods) = match self.select(scale) {
            Ok(selected) => selected,
            Err(problem) => return (asked, Some(problem)),
        };
        let specs = self.object.spec.metrics.clone().unwrap_or_default();
        let current = scale.spec.as_ref().and_then(|s| s.replicas).unwrap_or_default();
        let running = scale.status.as_ref().map(|s| s.replicas).unwrap_or_default();
        let target = targets::Target { selector: &selector, pods: &pods, current, running };
        let (mut best, mut failed, mut first) = (0, 0, None);
        for spec in &specs {
            match self.of_metric(spec, &target).await {
                Ok(found) => {
                    asked.statuses.push(found.status);
                    let Proposal { replicas, .. } = found.proposal;
                    if best == 0 || replicas > best {
                        best = replicas;
                        asked.metric = found.name;
                    }
                }
                Err(failure) => {
                    self.warning(failure.reason, failure.cause.clone());
                    failed += 1;
                    asked.statuses.push(MetricStatus::default());
                    first.get_or_insert(failure);
                }
            }
        }
        let problem = first.as_ref().map(|failure| {
            format!(
                "invalid metrics ({failed} invalid out of {}), first error is: {}",
                specs.len(),
                failure.error
            )
        });
        if let Some(failure) = first.filter(|_| failed >= specs.len() || best < current) {
            let message = format!("the HPA was unable to compute the replica count: {}", failure.cause);
            self.condition("ScalingActive", false, failure.reason, message);
            return (asked, problem);
        }
        let message =
            format!("the HPA was able to successfully calculate a replica count from {}", asked.metric);
        self.condition("ScalingActive", true, "ValidMetricFound", message);
        asked.replicas = best;
        (asked, problem)
    }

    /// The selector of the target, and its pods; no other autoscaler may be in charge of them.
    fn select(&mut self, scale: &Scale) -> Result<(String, Vec<Arc<Pod>>), String> {
        let text = scale.status.as_ref().and_then(|s| s.selector.clone()).unwrap_or_default();
        if text.is_empty() {
            self.warning("SelectorRequired", "selector is required");
            let message = "the HPA target's scale is missing a selector";
            self.condition("ScalingActive", false, "InvalidSelector", message);
            return Err("selector is required".to_owned());
        }
        let parsed = match LabelSelector::parse(&text) {
            Ok(parsed) => parsed,
            Err(problem) => {
                let message = format!(
                    "couldn't convert selector into a corresponding internal selector object: {problem}"
                );
                self.warning("InvalidSelector", message.clone());
                self.condition("ScalingActive", false, "InvalidSelector", message.clone());
                return Err(message);
            }
        };
        let matches = |selector: &LabelSelector, pod: &Pod| {
            let labels = pod.metadata.labels.as_ref();
            selector.matches_with(|key| labels.and_then(|l| l.get(key)).map(String::as_str))
        };
        let mut pods = self.controller.pods.list(self.namespace());
        pods.retain(|pod| matches(&parsed, pod));
        let key = Key::of(&self.object.metadata);
        let mut selectors = self.controller.selectors.lock().expect("the lock is never poisoned");
        selectors.insert(key.clone(), parsed);
        let mut in_charge: Vec<&Key> = selectors
            .iter()
            .filter(|(other, selector)| {
                other.namespace == key.namespace && pods.iter().any(|pod| matches(selector, pod))
            })
            .map(|(other, _)| other)
            .collect();
        in_charge.sort();
        if in_charge.len() > 1 {
            let names: Vec<String> =
                in_charge.iter().map(|key| format!("{{{} {}}}", key.name, key.namespace)).collect();
            let message =
                format!("pods by selector {text} are controlled by multiple HPAs: [{}]", names.join(" "));
            drop(selectors);
            self.warning("AmbiguousSelector", message.clone());
            self.condition("ScalingActive", false, "AmbiguousSelector", message.clone());
            return Err(message);
        }
        drop(selectors);
        Ok((text, pods))
    }

    /// The target's scale, and where the target is served.
    async fn scale(&self) -> Result<(Scale, ResourcePath), String> {
        let target = self.object.spec.scale_target_ref.clone();
        let api_version = target.api_version.unwrap_or_default();
        let group = match api_version.matches('/').count() {
            0 => "",
            1 => api_version.split('/').next().unwrap_or_default(),
            _ => return Err(format!("unexpected GroupVersion string: {api_version}")),
        };
        let path = self.resource(group, &target.kind).await?;
        let url = path.url(self.namespace(), &target.name, "scale");
        let answer = self.controller.start.client.call(Method::GET, &url, &Value::Null).await;
        let answer = answer.map_err(|error| error.to_string())?;
        Ok((Scale::decode(&answer).map_err(|error| error.to_string())?, path))
    }

    /// Where a kind is served.
    pub(super) async fn resource(&self, group: &str, kind: &str) -> Result<ResourcePath, String> {
        let served = &self.controller.start.served;
        let mut row = served.of_kind(group, kind);
        if row.is_none() && served.refresh().await.is_ok() {
            row = served.of_kind(group, kind);
        }
        let unknown = || format!("no matches for kind \"{kind}\" in group \"{group}\"");
        row.map(|row| row.path).ok_or_else(unknown)
    }

    async fn rescale(&self, path: &ResourcePath, scale: &mut Scale, replicas: i32) -> Result<(), Error> {
        let client = &self.controller.start.client;
        let url = path.url(self.namespace(), &self.object.spec.scale_target_ref.name, "scale");
        let mut attempt = 0;
        loop {
            scale.spec.get_or_insert_default().replicas = Some(replicas);
            attempt += 1;
            match client.call(Method::PUT, &url, &scale.to_value()).await {
                Err(error) if error.is_conflict() && attempt < ATTEMPTS => {
                    let answer = client.call(Method::GET, &url, &Value::Null).await?;
                    *scale = Scale::decode(&answer).map_err(|e| Error::Protocol(e.to_string()))?;
                }
                result => return result.map(drop),
            }
        }
    }
}
