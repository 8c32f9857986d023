//! /configz: what this kubelet goes by, as a KubeletConfiguration (kubelet.config.k8s.io/v1beta1). Fields that mean
//! nothing here are left out: those of CRI, iptables and klog, of work that is not done at intervals here, and of what is
//! not limited and upstream knows no word for that.

use super::auth::{ALLOWED_TTL, REFUSED_TTL, TOKEN_TTL};
use crate::eviction::threshold::{Amount, Housekeeping, Signal, Threshold};
use crate::kubelet::Shared;
use crate::pod::model::LONGEST_BACKOFF;
use crate::pod::static_pods::SAFETY_NET;
use crate::shutdown::{NodeShutdown, PriorityGrace};
use crate::util::go_duration;
use http::Response;
use knarr_client::Body;
use knarr_meta::quantity::{Format, Quantity};
use serde_json::{Map, Value, json};

/// The document.
pub(super) fn serve(kubelet: &Shared) -> Response<Body> {
    super::json(&json!({ "kubeletconfig": configuration(kubelet) }))
}

fn binary(amount: u64) -> String {
    Quantity::from_value(i64::try_from(amount).unwrap_or(i64::MAX), Format::BinarySi).to_string()
}

/// Amounts by signal, as upstream writes them in a configuration.
fn amounts<'a>(all: impl Iterator<Item = (Signal, Amount)> + 'a) -> Value {
    let text = |amount: Amount| match amount {
        Amount::Absolute(amount) => binary(amount),
        Amount::Share(share) => format!("{}%", share * 100.0),
    };
    all.map(|(signal, amount)| (signal.name().to_owned(), Value::from(text(amount))))
        .collect::<Map<_, _>>()
        .into()
}

/// Eviction, reserves and image garbage collection.
fn housekeeping(keep: &Housekeeping) -> Map<String, Value> {
    let (hard, soft): (Vec<&Threshold>, Vec<&Threshold>) =
        keep.thresholds.iter().partition(|t| t.grace.is_zero());
    let graces: Map<String, Value> =
        soft.iter().map(|t| (t.signal.name().to_owned(), go_duration(t.grace).into())).collect();
    let reclaim = keep.thresholds.iter().filter_map(|t| Some((t.signal, t.min_reclaim?)));
    let mut all = Map::new();
    let mut set = |name: &str, value: Value| drop(all.insert(name.to_owned(), value));
    set("evictionHard", amounts(hard.iter().map(|t| (t.signal, t.value))));
    // As upstream, what is not set is left out.
    if !soft.is_empty() {
        set("evictionSoft", amounts(soft.iter().map(|t| (t.signal, t.value))));
        set("evictionSoftGracePeriod", graces.into());
    }
    let reclaim = amounts(reclaim);
    if reclaim.as_object().is_some_and(|all| !all.is_empty()) {
        set("evictionMinimumReclaim", reclaim);
    }
    set("evictionPressureTransitionPeriod", go_duration(keep.pressure_transition).into());
    set("evictionMaxPodGracePeriod", keep.soft_pod_grace.as_secs().into());
    set("imageMinimumGCAge", go_duration(keep.image_min_age).into());
    set("imageMaximumGCAge", go_duration(keep.image_max_age).into());
    set("imageGCHighThresholdPercent", keep.image_gc_high_percent.into());
    set("imageGCLowThresholdPercent", keep.image_gc_low_percent.into());
    // What is kept for Kubernetes itself is counted in: the two are one amount here.
    let mut reserved = Map::new();
    if keep.reserved_cpu_millicores > 0 {
        reserved.insert("cpu".to_owned(), format!("{}m", keep.reserved_cpu_millicores).into());
    }
    for (name, bytes) in
        [("memory", keep.reserved_memory_bytes), ("ephemeral-storage", keep.reserved_ephemeral_storage_bytes)]
    {
        if bytes > 0 {
            reserved.insert(name.to_owned(), binary(bytes).into());
        }
    }
    if !reserved.is_empty() {
        set("systemReserved", reserved.into());
    }
    all
}

/// Graceful node shutdown.
fn shutdown(shutdown: &NodeShutdown) -> Map<String, Value> {
    let mut all = Map::new();
    let mut set = |name: &str, value: Value| drop(all.insert(name.to_owned(), value));
    set("shutdownGracePeriod", go_duration(shutdown.grace_period).into());
    set("shutdownGracePeriodCriticalPods", go_duration(shutdown.grace_period_critical_pods).into());
    if !shutdown.by_pod_priority.is_empty() {
        let one = |p: &PriorityGrace| json!({ "priority": p.priority, "shutdownGracePeriodSeconds": p.grace.as_secs() });
        set("shutdownGracePeriodByPodPriority", shutdown.by_pod_priority.iter().map(one).collect());
    }
    all
}

/// How many images are pulled at once.
fn pulls(at_once: usize) -> Map<String, Value> {
    let mut all = Map::new();
    all.insert("serializeImagePulls".to_owned(), (at_once == 1).into());
    all.insert("maxParallelImagePulls".to_owned(), at_once.into());
    all
}

/// What is the same on every node.
fn fixed() -> Value {
    json!({
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "healthzPort": 0,
        "tlsMinVersion": "VersionTLS12",
        "fileCheckFrequency": go_duration(SAFETY_NET),
        "crashLoopBackOff": { "maxContainerRestartPeriod": go_duration(LONGEST_BACKOFF) },
        "imagePullCredentialsVerificationPolicy": "NeverVerifyPreloadedImages",
        "enforceNodeAllocatable": ["pods"],
        "mergeDefaultEvictionSettings": false,
        "userNamespaces": { "idsPerPod": crate::pod::users::LENGTH },
        "memorySwap": {},
    })
}

fn configuration(kubelet: &Shared) -> Value {
    let config = &kubelet.config;
    let capacity = crate::node::capacity(config);
    let dns: Vec<String> = config.cluster_dns.iter().map(ToString::to_string).collect();
    let mut all = json!({
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "enableServer": true,
        "address": config.listen.ip().to_string(),
        "port": config.listen.port(),
        "authentication": {
            "x509": {},
            "webhook": { "enabled": true, "cacheTTL": go_duration(TOKEN_TTL) },
            "anonymous": { "enabled": false },
        },
        "authorization": {
            "mode": "Webhook",
            "webhook": {
                "cacheAuthorizedTTL": go_duration(ALLOWED_TTL),
                "cacheUnauthorizedTTL": go_duration(REFUSED_TTL),
            },
        },
        "registerNode": true,
        "nodeStatusReportFrequency": "5m0s",
        "nodeStatusUpdateFrequency": "10s",
        "nodeLeaseDurationSeconds": 40,
        "nodeStatusMaxImages": 50,
        "clusterDomain": config.cluster_domain,
        "clusterDNS": dns,
        "resolvConf": config.resolv_conf.to_string_lossy(),
        "cgroupsPerQOS": true,
        "cgroupDriver": "cgroupfs",
        "cpuManagerPolicy": "none",
        "memoryManagerPolicy": "None",
        "topologyManagerPolicy": "none",
        "topologyManagerScope": "container",
        "cpuCFSQuota": true,
        "cpuCFSQuotaPeriod": "100ms",
        "maxPods": capacity.pods,
        "podPidsLimit": config.pod_max_pids.map_or(-1, i64::from),
        "podLogsDir": config.log_dir.to_string_lossy(),
        "containerLogMaxSize": binary(config.log_max_bytes),
        "containerLogMaxFiles": config.log_max_files,
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        "enableControllerAttachDetach": true,
        "enableDebuggingHandlers": true,
        "enableSystemLogHandler": true,
        "enableSystemLogQuery": false,
        "enableProfilingHandler": false,
        "enableDebugFlagsHandler": false,
        "failSwapOn": false,
        "failCgroupV1": false,
        "seccompDefault": false,
        "localStorageCapacityIsolation": true,
        "streamingConnectionIdleTimeout": "4h0m0s",
    });
    let fields = all.as_object_mut().expect("it is one");
    fields.extend(fixed().as_object_mut().map(std::mem::take).into_iter().flatten());
    fields.extend(housekeeping(&config.housekeeping));
    fields.extend(shutdown(&config.shutdown));
    fields.extend(pulls(config.images.parallel_pulls()));
    if let Some(path) = &config.static_pods {
        all["staticPodPath"] = path.to_string_lossy().into();
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eviction::threshold::thresholds;
    use std::time::Duration;

    #[test]
    fn what_is_set_is_shown_as_upstream_shows_it() {
        let mut keep = Housekeeping {
            thresholds: thresholds(
                "memory.available<100Mi,nodefs.available<10%",
                "memory.available<1Gi",
                "memory.available=1m30s",
                "nodefs.available=500Mi",
            )
            .unwrap(),
            image_gc_high_percent: 70,
            image_gc_low_percent: 60,
            soft_pod_grace: Duration::from_secs(30),
            ..Housekeeping::default()
        };
        keep.reserve("cpu=100m,memory=1Gi").unwrap();
        assert_eq!(
            Value::Object(housekeeping(&keep)),
            json!({
                "evictionHard": { "memory.available": "100Mi", "nodefs.available": "10%" },
                "evictionSoft": { "memory.available": "1Gi" },
                "evictionSoftGracePeriod": { "memory.available": "1m30s" },
                "evictionMinimumReclaim": { "nodefs.available": "500Mi" },
                "evictionPressureTransitionPeriod": "5m0s",
                "evictionMaxPodGracePeriod": 30,
                "imageMinimumGCAge": "2m0s",
                "imageMaximumGCAge": "0s",
                "imageGCHighThresholdPercent": 70,
                "imageGCLowThresholdPercent": 60,
                "systemReserved": { "cpu": "100m", "memory": "1Gi" },
            })
        );
        for (at_once, serial) in [(1, true), (2, false), (5, false)] {
            let shown = json!({ "serializeImagePulls": serial, "maxParallelImagePulls": at_once });
            assert_eq!(Value::Object(pulls(at_once)), shown);
        }
        let mut settings = NodeShutdown { grace_period: Duration::from_secs(30), ..Default::default() };
        assert_eq!(
            Value::Object(shutdown(&settings)),
            json!({ "shutdownGracePeriod": "30s", "shutdownGracePeriodCriticalPods": "0s" })
        );
        settings.by_pod_priority = NodeShutdown::by_priority("5=7").unwrap();
        assert_eq!(
            shutdown(&settings)["shutdownGracePeriodByPodPriority"],
            json!([{ "priority": 5, "shutdownGracePeriodSeconds": 7 }])
        );
    }
}
