//! Pods: defaults, admission, binding, deletion with grace, eviction.

use crate::world::{World, request, via, yaml};
use http::Method;
use serde_json::{Value, json};

const PODS: &str = "/api/v1/namespaces/default/pods";

fn pod(name: &str) -> Value {
    json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name,"labels":{"app":"a"}},
        "spec":{"containers":[{"name":"main","image":"busybox"}]}})
}

async fn bind(world: &World, name: &str) {
    let binding = json!({"apiVersion":"v1","kind":"Binding","metadata":{"name":name},
        "target":{"apiVersion":"v1","kind":"Node","name":"alpha"}});
    world.post(&format!("{PODS}/{name}/binding"), &binding).await.ok();
}

#[tokio::test]
async fn a_new_pod_has_upstreams_defaults_and_what_admission_adds() {
    let world = World::new().await;
    let pod = world.post(PODS, &pod("a")).await.ok();
    let spec = &pod["spec"];
    for (pointer, want) in [
        ("/restartPolicy", json!("Always")),
        ("/dnsPolicy", json!("ClusterFirst")),
        ("/terminationGracePeriodSeconds", json!(30)),
        ("/schedulerName", json!("default-scheduler")),
        ("/serviceAccountName", json!("default")),
        ("/serviceAccount", json!("default")),
        ("/enableServiceLinks", json!(true)),
        ("/priority", json!(0)),
        ("/preemptionPolicy", json!("PreemptLowerPriority")),
        ("/securityContext", json!({})),
        ("/containers/0/imagePullPolicy", json!("Always")),
        ("/containers/0/terminationMessagePath", json!("/dev/termination-log")),
        ("/containers/0/resources", json!({})),
        ("/containers/0/volumeMounts/0/mountPath", json!("/var/run/secrets/kubernetes.io/serviceaccount")),
        ("/volumes/0/projected/defaultMode", json!(420)),
        ("/tolerations/0/tolerationSeconds", json!(300)),
        ("/tolerations/1/key", json!("node.kubernetes.io/unreachable")),
    ] {
        assert_eq!(spec.pointer(pointer), Some(&want), "{pointer} in {spec}");
    }
    assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
    assert_eq!(pod["metadata"]["generation"], 1);
}

#[tokio::test]
async fn binding_assigns_a_pod_once() {
    let world = World::new().await;
    world.post(PODS, &pod("a")).await.ok();
    bind(&world, "a").await;
    let bound = world.get(&format!("{PODS}/a")).await.ok();
    assert_eq!(bound["spec"]["nodeName"], "alpha");
    assert_eq!(bound["status"]["conditions"][0]["type"], "PodScheduled");
    assert_eq!(bound["status"]["conditions"][0]["status"], "True");
    let binding = json!({"metadata":{"name":"a"},"target":{"kind":"Node","name":"beta"}});
    let again = world.post(&format!("{PODS}/a/binding"), &binding).await.refused(409);
    let want =
        "Operation cannot be fulfilled on pods/binding \"a\": pod a is already assigned to node \"alpha\"";
    assert_eq!(again, want);
    // The old way leads to the same place.
    world.post(PODS, &pod("b")).await.ok();
    let binding = json!({"apiVersion":"v1","kind":"Binding","metadata":{"name":"b"},"target":{"kind":"Node","name":"alpha"}});
    world.post("/api/v1/namespaces/default/bindings", &binding).await.ok();
    assert_eq!(world.get(&format!("{PODS}/b")).await.ok()["spec"]["nodeName"], "alpha");
}

#[tokio::test]
async fn a_bound_pod_goes_with_grace_and_an_unbound_one_at_once() {
    let world = World::new().await;
    world.post(PODS, &pod("free")).await.ok();
    world.delete(&format!("{PODS}/free")).await.ok();
    assert_eq!(world.get(&format!("{PODS}/free")).await.code, 404);

    world.post(PODS, &pod("bound")).await.ok();
    bind(&world, "bound").await;
    world.delete(&format!("{PODS}/bound")).await.ok();
    let going = world.get(&format!("{PODS}/bound")).await.ok();
    assert_eq!(going["metadata"]["deletionGracePeriodSeconds"], 30);
    assert!(going["metadata"]["deletionTimestamp"].is_string());
    let now = json!({"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0});
    world.send(Method::DELETE, &format!("{PODS}/bound"), &now).await.ok();
    assert_eq!(world.get(&format!("{PODS}/bound")).await.code, 404);
}

#[tokio::test]
async fn a_disruption_budget_holds_evictions_back() {
    let world = World::new().await;
    let eviction = |name: &str| json!({"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":name}});
    world.post(PODS, &pod("a")).await.ok();
    bind(&world, "a").await;
    let mut running = world.get(&format!("{PODS}/a")).await.ok();
    running["status"]["phase"] = "Running".into();
    running["status"]["conditions"] = json!([{"type":"Ready","status":"True"}]);
    world.put(&format!("{PODS}/a/status"), &running).await.ok();
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = json!({"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"b"},
        "spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"a"}}}});
    world.post(budgets, &budget).await.ok();
    let status = |allowed: i64| {
        json!({"status":{"observedGeneration":1,"disruptionsAllowed":allowed,"currentHealthy":1,
            "desiredHealthy":1,"expectedPods":1}})
    };
    world.patch(&format!("{budgets}/b/status"), "merge-patch+json", &status(0)).await.ok();
    let answer = world.post(&format!("{PODS}/a/eviction"), &eviction("a")).await;
    let cause = answer.json()["details"]["causes"][0]["message"].clone();
    let message = answer.refused(429);
    assert_eq!(message, "Cannot evict pod as it would violate the pod's disruption budget.");
    assert_eq!(cause, "The disruption budget b needs 1 healthy pods and has 1 currently");

    world.patch(&format!("{budgets}/b/status"), "merge-patch+json", &status(1)).await.ok();
    world.post(&format!("{PODS}/a/eviction"), &eviction("a")).await.ok();
    let evicted = world.get(&format!("{PODS}/a")).await.ok();
    assert!(evicted["metadata"]["deletionTimestamp"].is_string());
    let conditions = evicted["status"]["conditions"].as_array().unwrap();
    assert!(
        conditions.iter().any(|c| c["type"] == "DisruptionTarget" && c["status"] == "True"),
        "{conditions:?}"
    );
    let left = world.get(&format!("{budgets}/b")).await.ok();
    assert_eq!(left["status"]["disruptionsAllowed"], 0);
}

#[tokio::test]
async fn ephemeral_containers_are_added_by_their_subresource() {
    let world = World::new().await;
    world.post(PODS, &pod("a")).await.ok();
    let patch = json!({"spec":{"ephemeralContainers":[{"name":"debug","image":"busybox:1"}]}});
    let url = format!("{PODS}/a/ephemeralcontainers");
    let patched = world.patch(&url, "strategic-merge-patch+json", &patch).await.ok();
    assert_eq!(patched["spec"]["ephemeralContainers"][0]["name"], "debug");
    assert_eq!(patched["metadata"]["generation"], 2);
    let patch = json!({"spec":{"ephemeralContainers":[{"name":"debug","image":"other"}]}});
    let refused = world.patch(&url, "strategic-merge-patch+json", &patch).await.refused(422);
    assert!(refused.contains("existing ephemeral containers \"debug\" may not be changed"), "{refused}");
}

#[tokio::test]
async fn resize_changes_cpu_and_memory_alone() {
    let world = World::new().await;
    let mut sized = pod("a");
    sized["spec"]["containers"][0]["resources"] = json!({"requests":{"cpu":"100m"}});
    world.post(PODS, &sized).await.ok();
    let url = format!("{PODS}/a/resize");
    let patch = json!({"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":"200m"}}}]}});
    let resized = world.patch(&url, "strategic-merge-patch+json", &patch).await.ok();
    assert_eq!(resized["spec"]["containers"][0]["resources"]["requests"]["cpu"], "200m");
    let patch = json!({"spec":{"containers":[{"name":"main","resources":{"requests":{"cpu":null}}}]}});
    let refused = world.patch(&url, "strategic-merge-patch+json", &patch).await.refused(422);
    assert!(refused.contains("resource requests cannot be removed"), "{refused}");
}

#[tokio::test]
async fn field_selectors_find_pods_by_node_and_phase() {
    let world = World::new().await;
    world.post(PODS, &pod("a")).await.ok();
    world.post(PODS, &pod("b")).await.ok();
    bind(&world, "b").await;
    for (selector, want) in [
        ("spec.nodeName%3Dalpha", vec!["b"]),
        ("spec.nodeName%3D", vec!["a"]),
        ("status.phase%3DPending", vec!["a", "b"]),
        ("spec.hostNetwork%3Dtrue", vec![]),
        ("metadata.name%3Da", vec!["a"]),
    ] {
        let list = world.get(&format!("{PODS}?fieldSelector={selector}")).await.ok();
        let names: Vec<&str> =
            list["items"].as_array().unwrap().iter().filter_map(|i| i["metadata"]["name"].as_str()).collect();
        assert_eq!(names, want, "{selector}");
    }
}

#[tokio::test]
async fn admission_refuses_in_upstreams_words() {
    let world = World::new().await;
    let nowhere = world.post("/api/v1/namespaces/nowhere/pods", &pod("a")).await.refused(404);
    assert_eq!(nowhere, "namespaces \"nowhere\" not found");
    let mut other = pod("a");
    other["spec"]["serviceAccountName"] = "other".into();
    let refused = world.post(PODS, &other).await.refused(403);
    let want = "pods \"a\" is forbidden: error looking up service account default/other: serviceaccount \"other\" not found";
    assert_eq!(refused, want);
    let mut classy = pod("a");
    classy["spec"]["priorityClassName"] = "high".into();
    let refused = world.post(PODS, &classy).await.refused(403);
    assert_eq!(refused, "pods \"a\" is forbidden: no PriorityClass with name high was found");
    let refused = world.delete("/api/v1/namespaces/kube-system").await.refused(403);
    assert_eq!(refused, "namespaces \"kube-system\" is forbidden: this namespace may not be deleted");
}

#[tokio::test]
async fn a_namespace_goes_when_its_finalizers_are_gone_and_takes_nothing_new_meanwhile() {
    let world = World::new().await;
    let namespace = json!({"apiVersion":"v1","kind":"Namespace","metadata":{"name":"going"}});
    let made = world.post("/api/v1/namespaces", &namespace).await.ok();
    assert_eq!(made["metadata"]["labels"]["kubernetes.io/metadata.name"], "going");
    assert_eq!(made["spec"]["finalizers"], json!(["kubernetes"]));
    let one = "/api/v1/namespaces/going";
    world.delete(one).await.ok();
    let mut going = world.get(one).await.ok();
    assert_eq!(going["status"]["phase"], "Terminating");
    let map = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c"}});
    let refused = world.post(&format!("{one}/configmaps"), &map).await.refused(403);
    let want = "configmaps \"c\" is forbidden: unable to create new content in namespace going because it is being terminated";
    assert_eq!(refused, want);
    going["spec"]["finalizers"] = json!([]);
    world.put(&format!("{one}/finalize"), &going).await.ok();
    assert_eq!(world.get(one).await.code, 404);
}

#[tokio::test]
async fn a_node_changes_only_its_own_pods() {
    let world = World::new().await;
    let node = yaml("apiVersion: v1\nkind: Node\nmetadata: {name: alpha}\n");
    world.post("/api/v1/nodes", &node).await.ok();
    world.post(PODS, &pod("mine")).await.ok();
    bind(&world, "mine").await;
    world.post(PODS, &pod("free")).await.ok();
    let alpha = world.as_user("system:node:alpha", &["system:nodes"]);
    let status = json!({"status":{"phase":"Running"}});
    let patch = |name: &str| {
        let url = format!("{PODS}/{name}/status");
        request(Method::PATCH, &url, "application/json", "application/merge-patch+json", &status)
    };
    via(&*alpha, patch("mine")).await.ok();
    let refused = via(&*alpha, patch("free")).await.refused(403);
    assert!(refused.contains("pods \"free\" is forbidden"), "{refused}");
    let taint = json!({"spec":{"taints":[{"key":"k","effect":"NoSchedule"}]}});
    let change = request(
        Method::PATCH,
        "/api/v1/nodes/alpha",
        "application/json",
        "application/merge-patch+json",
        &taint,
    );
    let refused = via(&*alpha, change).await.refused(403);
    assert_eq!(refused, "nodes \"alpha\" is forbidden: node \"alpha\" is not allowed to modify taints");
}

#[tokio::test]
async fn a_pod_with_a_node_carries_its_zone() {
    let world = World::new().await;
    let node =
        json!({"metadata": {"name": "zoned", "labels": {"topology.kubernetes.io/zone": "a", "other": "b"}}});
    world.post("/api/v1/nodes", &node).await.ok();
    let pod = |name: &str, node: &str| {
        json!({"metadata": {"name": name},
        "spec": {"nodeName": node, "containers": [{"name": "main", "image": "i"}]}})
    };
    let labels = json!({"topology.kubernetes.io/zone": "a"});
    assert_eq!(world.post(PODS, &pod("set", "zoned")).await.ok()["metadata"]["labels"], labels);
    world.post(PODS, &pod("zonebound", "")).await.ok();
    let binding = json!({"metadata": {"name": "zonebound"}, "target": {"kind": "Node", "name": "zoned"}});
    world.post(&format!("{PODS}/zonebound/binding"), &binding).await.ok();
    assert_eq!(world.get(&format!("{PODS}/zonebound")).await.ok()["metadata"]["labels"], labels);
}
