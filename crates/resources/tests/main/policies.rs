//! What namespaces impose on pods, and the special ways of some kinds.

use crate::world::{World, request, via, yaml};
use http::Method;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";
const CSRS: &str = "/apis/certificates.k8s.io/v1/certificatesigningrequests";

fn pod(name: &str, container: Value) -> Value {
    let mut main = json!({"name": "main", "image": "busybox"});
    main.as_object_mut().unwrap().extend(container.as_object().unwrap().clone());
    json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [main]}})
}

fn fixture(resource: &str) -> Value {
    let def = knarr_resources::all().into_iter().find(|d| d.resource == resource).unwrap();
    yaml(def.fixture)
}

#[tokio::test]
async fn a_namespace_can_demand_restricted_pods() {
    let world = World::new().await;
    world.post(PODS, &pod("before", json!({}))).await.ok();
    let label = |level: &str| json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": level}}});
    let url = "/api/v1/namespaces/default";
    let bad = world.patch(url, "merge-patch+json", &label("strict")).await.refused(422);
    assert_eq!(
        bad,
        "Namespace \"default\" is invalid: metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"strict\": must be one of privileged, baseline, restricted"
    );
    let labelled = world.patch(url, "merge-patch+json", &label("restricted")).await;
    let warnings: Vec<_> = labelled.headers.get_all("warning").iter().map(|w| w.to_str().unwrap()).collect();
    assert!(warnings[0].contains("existing pods in namespace"), "{warnings:?}");
    assert!(warnings[1].contains("before: allowPrivilegeEscalation != false"), "{warnings:?}");

    let refused = world.post(PODS, &pod("a", json!({}))).await.refused(403);
    let start = "pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\": allowPrivilegeEscalation != false (container \"main\" must set securityContext.allowPrivilegeEscalation=false), unrestricted capabilities";
    assert!(refused.starts_with(start), "{refused}");
    let good = json!({"securityContext": {"allowPrivilegeEscalation": false, "runAsNonRoot": true,
        "capabilities": {"drop": ["ALL"]}, "seccompProfile": {"type": "RuntimeDefault"}}});
    world.post(PODS, &pod("b", good)).await.ok();
    // Templates are only warned about.
    let deployment = fixture("deployments");
    let answer = world.post("/apis/apps/v1/namespaces/default/deployments", &deployment).await;
    let warning = answer.headers["warning"].to_str().unwrap().to_owned();
    assert!(warning.contains("would violate PodSecurity"), "{warning}");
    answer.ok();
}

#[tokio::test]
async fn limit_ranges_give_defaults_and_bounds() {
    let world = World::new().await;
    world.post("/api/v1/namespaces/default/limitranges", &fixture("limitranges")).await.ok();
    let made = world.post(PODS, &pod("a", json!({}))).await.ok();
    let resources = &made["spec"]["containers"][0]["resources"];
    assert_eq!(resources, &json!({"limits": {"cpu": "2"}, "requests": {"cpu": "10m"}}));
    let big = pod("b", json!({"resources": {"limits": {"cpu": "17"}}}));
    assert_eq!(
        world.post(PODS, &big).await.refused(403),
        "pods \"b\" is forbidden: maximum cpu usage per Container is 16, but limit is 17"
    );
}

#[tokio::test]
async fn certificate_requests_are_approved_and_signed_once() {
    let world = World::new().await;
    let mut made = world.post(CSRS, &fixture("certificatesigningrequests")).await.ok();
    assert!(made["spec"]["username"].is_string(), "{made}");
    let url = format!("{CSRS}/fixture");
    let approved = json!([{"type": "Approved", "status": "True", "reason": "Test", "message": "fine"}]);
    made["status"]["conditions"] = approved.clone();
    // The status subresource decides nothing.
    let refused = world.put(&format!("{url}/status"), &made).await.refused(422);
    assert!(refused.contains("updates may not add a condition of type \"Approved\""), "{refused}");
    // Whoever may update the subresource must also hold the signer.
    let path = format!("{url}/approval");
    let node = world.as_user("system:node:alpha", &["system:nodes"]);
    let answer =
        via(&*node, request(Method::PUT, &path, "application/json", "application/json", &made)).await;
    assert_eq!(answer.code, 403);
    let done = world.put(&path, &made).await.ok();
    assert!(done["status"]["conditions"][0]["lastUpdateTime"].is_string(), "{done}");
    let mut failed = done;
    failed["status"]["conditions"] = json!([]);
    let refused = world.put(&path, &failed).await.refused(422);
    assert!(refused.contains("updates may not remove a condition of type \"Approved\""), "{refused}");
    let mut masters = fixture("certificatesigningrequests");
    masters["metadata"]["name"] = "legacy".into();
    masters["spec"]["signerName"] = "kubernetes.io/legacy-unknown".into();
    let refused = world.post(CSRS, &masters).await.refused(422);
    assert!(refused.contains("the legacy signerName is not allowed via this API version"), "{refused}");
}

#[tokio::test]
async fn autoscalers_are_served_in_both_versions() {
    let world = World::new().await;
    let (v1, v2) = ("/apis/autoscaling/v1/namespaces/default", "/apis/autoscaling/v2/namespaces/default");
    let object = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "a"}, "spec": {"maxReplicas": 4, "targetCPUUtilizationPercentage": 60,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}}});
    let made = world.post(&format!("{v1}/horizontalpodautoscalers"), &object).await.ok();
    assert_eq!(made["apiVersion"], "autoscaling/v1");
    assert_eq!(made["spec"]["minReplicas"], 1);
    assert_eq!(made["spec"]["targetCPUUtilizationPercentage"], 60);
    let newer = world.get(&format!("{v2}/horizontalpodautoscalers/a")).await.ok();
    assert_eq!(newer["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"], 60);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let url = format!("{v2}/horizontalpodautoscalers/a");
    let table = world.raw(request(Method::GET, &url, table, "", &Value::Null)).await.json();
    let cells = &table["rows"][0]["cells"];
    assert_eq!(cells[1], "Deployment/d");
    assert_eq!(cells[2], "cpu: <unknown>/60%");
    assert_eq!(cells[3], "1");
}

#[tokio::test]
async fn what_is_immutable_stays() {
    let world = World::new().await;
    let cases: Vec<(&str, &str, Value, &str)> = vec![
        (
            "/apis/apps/v1/namespaces/default/statefulsets",
            "statefulsets",
            json!({"spec": {"serviceName": "other"}}),
            "StatefulSet.apps \"fixture\" is invalid: spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        ),
        (
            "/api/v1/namespaces/default/persistentvolumeclaims",
            "persistentvolumeclaims",
            json!({"spec": {"accessModes": ["ReadOnlyMany"]}}),
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ),
        (
            "/apis/storage.k8s.io/v1/storageclasses",
            "storageclasses",
            json!({"provisioner": "example.com/other"}),
            "provisioner: Invalid value: \"example.com/other\": field is immutable",
        ),
        (
            "/apis/networking.k8s.io/v1/ingressclasses",
            "ingressclasses",
            json!({"spec": {"controller": "example.com/other"}}),
            "spec.controller: Invalid value: \"example.com/other\": field is immutable",
        ),
        (
            "/apis/node.k8s.io/v1/runtimeclasses",
            "runtimeclasses",
            json!({"handler": "other"}),
            "handler: Invalid value: \"other\": field is immutable",
        ),
    ];
    for (url, resource, patch, want) in cases {
        world.post(url, &fixture(resource)).await.ok();
        let refused = world.patch(&format!("{url}/fixture"), "merge-patch+json", &patch).await.refused(422);
        assert!(refused.contains(want), "{refused}");
    }
}

#[tokio::test]
async fn a_daemon_sets_template_generation_is_the_servers() {
    let world = World::new().await;
    let url = "/apis/apps/v1/namespaces/default/daemonsets";
    let key = "deprecated.daemonset.template.generation";
    let made = world.post(url, &fixture("daemonsets")).await.ok();
    assert_eq!(made["metadata"]["annotations"][key], "1");
    let patch = json!({"spec": {"template": {"metadata": {"labels": {"more": "1"}}}}});
    let changed = world.patch(&format!("{url}/fixture"), "merge-patch+json", &patch).await.ok();
    assert_eq!(changed["metadata"]["annotations"][key], "2");
    assert_eq!(changed["metadata"]["generation"], 2);
}

#[tokio::test]
async fn default_and_runtime_classes_are_filled_in() {
    let world = World::new().await;
    let mut class = fixture("storageclasses");
    class["metadata"]["annotations"] = json!({"storageclass.kubernetes.io/is-default-class": "true"});
    world.post("/apis/storage.k8s.io/v1/storageclasses", &class).await.ok();
    let claims = "/api/v1/namespaces/default/persistentvolumeclaims";
    let claim = world.post(claims, &fixture("persistentvolumeclaims")).await.ok();
    assert_eq!(claim["spec"]["storageClassName"], "fixture");
    assert_eq!(claim["spec"]["volumeMode"], "Filesystem");
    let bound = json!({"status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}});
    let status = format!("{claims}/fixture/status");
    world.patch(&status, "merge-patch+json", &bound).await.ok();
    let more = json!({"spec": {"resources": {"requests": {"storage": "2Gi"}}}});
    let refused = world.patch(&format!("{claims}/fixture"), "merge-patch+json", &more).await.refused(403);
    let want = "persistentvolumeclaims \"fixture\" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize";
    assert_eq!(refused, want);

    let mut runtime = fixture("runtimeclasses");
    runtime["overhead"] = json!({"podFixed": {"cpu": "10m"}});
    runtime["scheduling"] = json!({"nodeSelector": {"fast": "yes"}});
    world.post("/apis/node.k8s.io/v1/runtimeclasses", &runtime).await.ok();
    let mut made = pod("a", json!({}));
    made["spec"]["runtimeClassName"] = "fixture".into();
    let made = world.post(PODS, &made).await.ok();
    assert_eq!(made["spec"]["overhead"], json!({"cpu": "10m"}));
    assert_eq!(made["spec"]["nodeSelector"], json!({"fast": "yes"}));
    let mut lost = pod("b", json!({}));
    lost["spec"]["runtimeClassName"] = "absent".into();
    let refused = world.post(PODS, &lost).await.refused(403);
    assert_eq!(refused, "pods \"b\" is forbidden: pod rejected: RuntimeClass \"absent\" not found");
}
