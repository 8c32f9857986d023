//! /configz: what this kubelet goes by, as a KubeletConfiguration (kubelet.config.k8s.io/v1beta1). Fields that mean
//! nothing here (those of dockershim's and CRI's times) are left out.

use super::auth::{ALLOWED_TTL, REFUSED_TTL, TOKEN_TTL};
use crate::kubelet::Shared;
use crate::util::go_duration;
use http::Response;
use knarr_client::Body;
use serde_json::{Value, json};

/// The document.
pub(super) fn serve(kubelet: &Shared) -> Response<Body> {
    super::json(&json!({ "kubeletconfig": configuration(kubelet) }))
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
        "podPidsLimit": -1,
        "podLogsDir": config.log_dir.to_string_lossy(),
        "containerLogMaxSize": config.log_max_bytes.to_string(),
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
        "serializeImagePulls": false,
        "localStorageCapacityIsolation": true,
        "streamingConnectionIdleTimeout": "4h0m0s",
    });
    if let Some(path) = &config.static_pods {
        all["staticPodPath"] = path.to_string_lossy().into();
    }
    all
}
