//! How many replicas a metric asks for: upstream's replica calculator. Pods that are not ready, or that nobody measured,
//! are counted so that they never make the change larger.

use crate::framework::pods::{condition, phase};
use crate::framework::time::system_time;
use knarr_api::Kind;
use knarr_api::core::v1::{Container, Pod};
use knarr_meta::quantity::Quantity;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Upstream's default of --horizontal-pod-autoscaler-cpu-initialization-period.
const CPU_INITIALIZATION: Duration = Duration::from_secs(300);
/// Upstream's default of --horizontal-pod-autoscaler-initial-readiness-delay.
const INITIAL_READINESS_DELAY: Duration = Duration::from_secs(30);

/// What was measured of a pod.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// When.
    pub at: SystemTime,
    /// Over how long.
    pub window: Duration,
    /// In thousandths.
    pub value: i64,
}

/// What was measured, by pod name.
pub type Metrics = BTreeMap<String, Measured>;

/// How far from its target a ratio may be before anything is done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tolerances {
    /// Below the target.
    pub down: f64,
    /// Above it.
    pub up: f64,
}

impl Tolerances {
    /// Whether a ratio is near enough to 1.
    pub fn covers(self, ratio: f64) -> bool {
        (1.0 - self.down) <= ratio && ratio <= (1.0 + self.up)
    }
}

/// What a metric asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Proposal {
    /// Replicas.
    pub replicas: i32,
    /// The usage, in thousandths: of a pod on average, or in all.
    pub usage: i64,
    /// The usage in percent of what is requested, for targets in percent.
    pub utilization: Option<i32>,
}

/// The pods of a target, told apart by what can be said of them.
#[derive(Debug, Default, PartialEq)]
struct Groups {
    ready: usize,
    unready: BTreeSet<String>,
    missing: BTreeSet<String>,
    ignored: BTreeSet<String>,
}

fn group(pods: &[Arc<Pod>], metrics: &Metrics, resource: &str, now: SystemTime) -> Groups {
    let mut groups = Groups::default();
    for pod in pods {
        let name = pod.name().to_owned();
        if pod.metadata.deletion_timestamp.is_some() || phase(pod) == "Failed" {
            groups.ignored.insert(name);
        } else if phase(pod) == "Pending" {
            groups.unready.insert(name);
        } else if let Some(metric) = metrics.get(&name) {
            if resource == "cpu" && is_starting(pod, metric, now) {
                groups.unready.insert(name);
            } else {
                groups.ready += 1;
            }
        } else {
            groups.missing.insert(name);
        }
    }
    groups
}

/// Whether the processor time of a pod says nothing yet: it is still starting.
fn is_starting(pod: &Pod, metric: &Measured, now: SystemTime) -> bool {
    let started = pod.status.as_ref().and_then(|s| s.start_time.as_ref()).map(system_time);
    let (Some(ready), Some(started)) = (condition(pod, "Ready"), started) else { return true };
    let changed = ready.last_transition_time.as_ref().map_or(SystemTime::UNIX_EPOCH, system_time);
    if started + CPU_INITIALIZATION > now {
        ready.status == "False" || metric.at < changed + metric.window
    } else {
        ready.status == "False" && started + INITIAL_READINESS_DELAY > changed
    }
}

/// What each pod requests of a resource, in thousandths; of one container if it is named.
fn requests(pods: &[Arc<Pod>], container: &str, resource: &str) -> Result<BTreeMap<String, i64>, String> {
    pods.iter().map(|pod| Ok((pod.name().to_owned(), request(pod, container, resource)?))).collect()
}

fn request(pod: &Pod, container: &str, resource: &str) -> Result<i64, String> {
    let name = pod.name();
    let spec = pod.spec.clone().unwrap_or_default();
    let pod_level = spec.resources.as_ref().and_then(|r| r.requests.as_ref()).filter(|r| !r.is_empty());
    if container.is_empty() && pod_level.is_some() {
        let all = knarr_quota::pod_requests(pod);
        let amount = all.get(resource).map(Quantity::milli_value);
        return amount.ok_or_else(|| format!("missing pod-level request for {resource} in Pod {name}"));
    }
    let is_sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
    let sidecars = spec.init_containers.iter().flatten().filter(is_sidecar);
    let mut sum = 0;
    for c in spec.containers.iter().chain(sidecars) {
        if !container.is_empty() && container != c.name {
            continue;
        }
        let amount = c.resources.as_ref().and_then(|r| r.requests.as_ref()?.get(resource));
        let amount = amount
            .ok_or_else(|| format!("missing request for {resource} in container {} of Pod {name}", c.name))?;
        sum += Quantity::parse(&amount.0).unwrap_or_default().milli_value();
        if !container.is_empty() {
            return Ok(sum);
        }
    }
    if container.is_empty() { Ok(sum) } else { Err(format!("container {container} not found in Pod {name}")) }
}

/// A ratio of what is used to what is wanted, with the usage.
type Ratio = (f64, i64, Option<i32>);

fn utilization_ratio(
    metrics: &Metrics,
    requests: &BTreeMap<String, i64>,
    target: i32,
) -> Result<Ratio, String> {
    let (mut used, mut requested, mut count) = (0i64, 0i64, 0i64);
    for (name, metric) in metrics {
        let Some(request) = requests.get(name) else { continue };
        used += metric.value;
        requested += request;
        count += 1;
    }
    if requested == 0 {
        return Err("no metrics returned matched known pods".to_owned());
    }
    let percent = i32::try_from(used.saturating_mul(100) / requested).unwrap_or(i32::MAX);
    Ok((f64::from(percent) / f64::from(target), used / count, Some(percent)))
}

fn usage_ratio(metrics: &Metrics, target: i64) -> Ratio {
    let total: i64 = metrics.values().map(|metric| metric.value).sum();
    let usage = total / i64::try_from(metrics.len()).unwrap_or(i64::MAX).max(1);
    (usage as f64 / target as f64, usage, None)
}

/// What is asked for by a metric of each pod.
pub struct PodTarget<'a> {
    /// The pods of the target.
    pub pods: &'a [Arc<Pod>],
    /// Its replicas.
    pub current: i32,
    /// `cpu` is treated with care for starting pods; empty for custom metrics.
    pub resource: &'a str,
    /// The container that is meant, empty for all.
    pub container: &'a str,
    /// How near is near enough.
    pub tolerances: Tolerances,
    /// Now.
    pub now: SystemTime,
}

/// What each pod is to use.
#[derive(Clone, Copy, Debug)]
pub enum PerPod {
    /// Percent of what it requests.
    Utilization(i32),
    /// An amount in thousandths.
    Value(i64),
}

impl PodTarget<'_> {
    /// How many replicas bring the pods to `wanted` each.
    pub fn propose(&self, mut metrics: Metrics, wanted: PerPod) -> Result<Proposal, String> {
        if self.pods.is_empty() {
            return Err("no pods returned by selector while calculating replica count".to_owned());
        }
        let groups = group(self.pods, &metrics, self.resource, self.now);
        metrics.retain(|name, _| !groups.ignored.contains(name) && !groups.unready.contains(name));
        if metrics.is_empty() {
            return Err("did not receive metrics for targeted pods (pods might be unready)".to_owned());
        }
        let requests = match wanted {
            PerPod::Utilization(_) => requests(self.pods, self.container, self.resource)?,
            PerPod::Value(_) => BTreeMap::new(),
        };
        let ratio = |metrics: &Metrics| match wanted {
            PerPod::Utilization(target) => utilization_ratio(metrics, &requests, target),
            PerPod::Value(target) => Ok(usage_ratio(metrics, target)),
        };
        let (first, usage, utilization) = ratio(&metrics)?;
        let proposal = |replicas: i32| Proposal { replicas, usage, utilization };
        let grows_unready = !groups.unready.is_empty() && first > 1.0;
        if !grows_unready && groups.missing.is_empty() {
            let replicas = match self.tolerances.covers(first) {
                true => self.current,
                false => ceil(first * groups.ready as f64),
            };
            return Ok(proposal(replicas));
        }
        // Pods that nobody measured use nothing when there are to be more, and all they may when there are to be
        // fewer.
        let assumed = |name: &String| match wanted {
            PerPod::Value(target) => target,
            PerPod::Utilization(target) => {
                requests.get(name).copied().unwrap_or_default() * i64::from(target.max(100)) / 100
            }
        };
        let nothing = Measured { at: self.now, window: Duration::ZERO, value: 0 };
        for name in &groups.missing {
            if first < 1.0 {
                metrics.insert(name.clone(), Measured { value: assumed(name), ..nothing });
            } else if first > 1.0 {
                metrics.insert(name.clone(), nothing);
            }
        }
        if grows_unready {
            metrics.extend(groups.unready.iter().map(|name| (name.clone(), nothing)));
        }
        let (second, _, _) = ratio(&metrics)?;
        let turned = (first < 1.0 && second > 1.0) || (first > 1.0 && second < 1.0);
        if self.tolerances.covers(second) || turned {
            return Ok(proposal(self.current));
        }
        let replicas = ceil(second * metrics.len() as f64);
        let wrong_way =
            (second < 1.0 && replicas > self.current) || (second > 1.0 && replicas < self.current);
        Ok(proposal(if wrong_way { self.current } else { replicas }))
    }
}

/// The next whole number, within what replicas can be.
pub fn ceil(value: f64) -> i32 {
    // A cast keeps to the range, and makes 0 of what is no number.
    value.ceil() as i32
}

/// How many replicas bring a metric of something else to `target` (in thousandths).
pub fn by_ratio(
    pods: &[Arc<Pod>],
    current: i32,
    usage: i64,
    target: i64,
    tolerances: Tolerances,
) -> Result<i32, String> {
    let ratio = usage as f64 / target as f64;
    if current == 0 {
        return Ok(ceil(ratio));
    }
    if tolerances.covers(ratio) {
        return Ok(current);
    }
    if pods.is_empty() {
        let why = "no pods returned by selector while calculating replica count";
        return Err(format!("unable to calculate ready pods: {why}"));
    }
    let ready = pods.iter().filter(|pod| phase(pod) == "Running" && crate::framework::pods::is_ready(pod));
    Ok(ceil(ratio * ready.count() as f64))
}

/// How many replicas bring a metric of something else to `target` (in thousandths) for each, and what each has now.
pub fn by_average(running: i32, usage: i64, target: i64, tolerances: Tolerances) -> (i32, i64) {
    let ratio = usage as f64 / (target as f64 * f64::from(running));
    let replicas = if tolerances.covers(ratio) { running } else { ceil(usage as f64 / target as f64) };
    (replicas, (usage as f64 / f64::from(running)).ceil() as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const NOW: Duration = Duration::from_secs(10_000);

    fn now() -> SystemTime {
        SystemTime::UNIX_EPOCH + NOW
    }

    fn pod(name: &str, phase: &str, ready: &str) -> Arc<Pod> {
        let pod = json!({ "metadata": { "name": name },
            "spec": { "containers": [{ "name": "c", "resources": { "requests": { "cpu": "1" } } }] },
            "status": { "phase": phase, "startTime": "1970-01-01T00:00:00Z", "conditions": [
                { "type": "Ready", "status": ready, "lastTransitionTime": "1970-01-01T00:00:10Z" }] } });
        Arc::new(Pod::from_value(&pod).expect("a pod"))
    }

    fn metrics(values: &[(&str, i64)]) -> Metrics {
        let measured = |value| Measured { at: now(), window: Duration::from_secs(60), value };
        values.iter().map(|(name, value)| ((*name).to_owned(), measured(*value))).collect()
    }

    const TENTH: Tolerances = Tolerances { down: 0.1, up: 0.1 };

    fn propose(pods: &[Arc<Pod>], measured: &[(&str, i64)], wanted: PerPod) -> Result<(i32, i64), String> {
        let current = i32::try_from(pods.len()).expect("few");
        let target =
            PodTarget { pods, current, resource: "cpu", container: "", tolerances: TENTH, now: now() };
        target.propose(metrics(measured), wanted).map(|proposal| (proposal.replicas, proposal.usage))
    }

    #[test]
    fn replicas_follow_the_ratio() {
        let pods = [pod("a", "Running", "True"), pod("b", "Running", "True")];
        let half = PerPod::Utilization(50);
        // 100 % of what is requested, 50 % wanted; near enough; less than wanted.
        assert_eq!(propose(&pods, &[("a", 1000), ("b", 1000)], half), Ok((4, 1000)));
        assert_eq!(propose(&pods, &[("a", 540), ("b", 540)], half), Ok((2, 540)));
        assert_eq!(propose(&pods, &[("a", 200), ("b", 300)], half), Ok((1, 250)));
        assert_eq!(propose(&pods, &[("a", 900), ("b", 900)], PerPod::Value(300)), Ok((6, 900)));
        let none = "did not receive metrics for targeted pods (pods might be unready)";
        assert_eq!(propose(&pods, &[], half), Err(none.to_owned()));
        let none = "no pods returned by selector while calculating replica count";
        assert_eq!(propose(&[], &[("a", 1)], half), Err(none.to_owned()));
        let mut bare = (*pods[0]).clone();
        bare.spec.as_mut().expect("a spec").containers[0].resources = None;
        let missing = "missing request for cpu in container c of Pod a";
        assert_eq!(propose(&[Arc::new(bare)], &[("a", 1)], half), Err(missing.to_owned()));
    }

    #[test]
    fn pods_that_say_nothing_damp_the_change() {
        let half = PerPod::Utilization(50);
        // One that is pending uses nothing when there are to be more.
        let pods = [pod("a", "Running", "True"), pod("b", "Pending", "False")];
        assert_eq!(propose(&pods, &[("a", 1000)], half), Ok((2, 1000)));
        // One without a measurement uses all it may when there are to be fewer.
        let pods = [pod("a", "Running", "True"), pod("b", "Running", "True"), pod("c", "Running", "True")];
        assert_eq!(propose(&pods, &[("a", 100), ("b", 100)], half), Ok((3, 100)));
        // Those on their way out do not count.
        let mut going = pod("b", "Running", "True").to_value();
        going["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
        let going = Arc::new(Pod::from_value(&going).expect("a pod"));
        assert_eq!(
            propose(&[pod("a", "Running", "True"), going], &[("a", 1000), ("b", 0)], half),
            Ok((2, 1000))
        );
        // A pod that has just started is not judged by its processor time.
        let mut fresh = pod("b", "Running", "False").to_value();
        fresh["status"]["startTime"] = Value::from("1970-01-01T02:46:00Z");
        let fresh = Arc::new(Pod::from_value(&fresh).expect("a pod"));
        assert_eq!(
            propose(&[pod("a", "Running", "True"), fresh], &[("a", 500), ("b", 9000)], half),
            Ok((2, 500))
        );
    }

    #[test]
    fn metrics_of_something_else() {
        let pods = [pod("a", "Running", "True"), pod("b", "Running", "True")];
        assert_eq!(by_ratio(&pods, 2, 3000, 1000, TENTH), Ok(6));
        assert_eq!(by_ratio(&pods, 2, 1050, 1000, TENTH), Ok(2));
        assert_eq!(by_ratio(&pods, 0, 2500, 1000, TENTH), Ok(3));
        assert_eq!(by_average(2, 9000, 1000, TENTH), (9, 4500));
        assert_eq!(by_average(2, 2000, 1000, TENTH), (2, 1000));
    }
}
