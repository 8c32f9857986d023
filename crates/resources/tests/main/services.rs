//! Services: addresses, node ports, changes of type, and events in both groups.

use crate::world::World;
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn service(name: &str, spec: Value) -> Value {
    let mut object = json!({"apiVersion":"v1","kind":"Service","metadata":{"name":name},
        "spec":{"selector":{"app":"a"},"ports":[{"port":80}]}});
    for (key, value) in spec.as_object().unwrap() {
        object["spec"][key] = value.clone();
    }
    object
}

#[tokio::test]
async fn a_service_gets_an_address_that_is_given_back() {
    let world = World::new().await;
    let made = world.post(SERVICES, &service("a", json!({}))).await.ok();
    let address = made["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(address.starts_with("10.96."), "{address}");
    assert_eq!(made["spec"]["clusterIPs"], json!([address]));
    assert_eq!(made["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(made["spec"]["ipFamilyPolicy"], "SingleStack");
    assert_eq!(made["spec"]["internalTrafficPolicy"], "Cluster");
    assert_eq!(made["spec"]["ports"][0]["targetPort"], 80);
    assert_eq!(made["spec"]["sessionAffinity"], "None");
    let held = world.get(&format!("{ADDRESSES}/{address}")).await.ok();
    let parent = json!({"resource":"services","namespace":"default","name":"a"});
    assert_eq!(held["spec"]["parentRef"], parent);
    world.delete(&format!("{SERVICES}/a")).await.ok();
    assert_eq!(world.get(&format!("{ADDRESSES}/{address}")).await.code, 404);
}

#[tokio::test]
async fn a_refused_or_tried_service_holds_no_address() {
    let world = World::new().await;
    let before = world.get(ADDRESSES).await.ok()["items"].as_array().unwrap().len();
    let invalid = service("a", json!({"ports":[{"port":0}]}));
    world.post(SERVICES, &invalid).await.refused(422);
    world.post(&format!("{SERVICES}?dryRun=All"), &service("a", json!({}))).await.ok();
    let count = || async { world.get(ADDRESSES).await.ok()["items"].as_array().unwrap().len() };
    // The address of a refused write is given back beside it.
    for _ in 0..1000 {
        if count().await == before {
            return;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(count().await, before);
}

#[tokio::test]
async fn node_ports_are_given_kept_and_refused() {
    let world = World::new().await;
    let made = world.post(SERVICES, &service("a", json!({"type":"NodePort"}))).await.ok();
    let port = made["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30000..=32767).contains(&port));
    assert_eq!(made["spec"]["externalTrafficPolicy"], "Cluster");
    let taken = service("b", json!({"type":"NodePort","ports":[{"port":80,"nodePort":port}]}));
    let refused = world.post(SERVICES, &taken).await.refused(422);
    let want = format!("spec.ports[0].nodePort: Invalid value: {port}: provided port is already allocated");
    assert!(refused.contains(&want), "{refused}");
    let outside = service("b", json!({"type":"NodePort","ports":[{"port":80,"nodePort":80}]}));
    let refused = world.post(SERVICES, &outside).await.refused(422);
    assert!(
        refused.contains("provided port is not in the valid range. The range of valid ports is 30000-32767"),
        "{refused}"
    );
    // A client that knows nothing of node ports keeps them.
    let mut plain = service("a", json!({"type":"NodePort"}));
    plain["metadata"]["labels"] = json!({"x": "y"});
    let kept = world.put(&format!("{SERVICES}/a"), &plain).await.ok();
    assert_eq!(kept["spec"]["ports"][0]["nodePort"], port);
    assert_eq!(kept["spec"]["clusterIP"], made["spec"]["clusterIP"]);
}

#[tokio::test]
async fn a_service_changes_its_type() {
    let world = World::new().await;
    let made = world.post(SERVICES, &service("a", json!({"type":"NodePort"}))).await.ok();
    let address = made["spec"]["clusterIP"].as_str().unwrap();
    let url = format!("{SERVICES}/a");
    let merge = "merge-patch+json";
    let inner = world.patch(&url, merge, &json!({"spec":{"type":"ClusterIP"}})).await.ok();
    assert!(inner["spec"]["ports"][0].get("nodePort").is_none(), "{inner}");
    assert!(inner["spec"].get("externalTrafficPolicy").is_none(), "{inner}");
    let change = json!({"spec":{"type":"ExternalName","externalName":"example.com","clusterIP":null,"clusterIPs":null}});
    let named = world.patch(&url, merge, &change).await.ok();
    assert!(named["spec"].get("clusterIP").is_none(), "{named}");
    assert_eq!(world.get(&format!("{ADDRESSES}/{address}")).await.code, 404);
    let back = json!({"spec":{"type":"ClusterIP","externalName":null}});
    let back = world.patch(&url, merge, &back).await.ok();
    assert!(back["spec"]["clusterIP"].as_str().is_some_and(|a| a.starts_with("10.96.")), "{back}");
}

#[tokio::test]
async fn headless_and_named_services_have_no_address() {
    let world = World::new().await;
    let headless = world.post(SERVICES, &service("h", json!({"clusterIP":"None"}))).await.ok();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    assert_eq!(headless["spec"]["ipFamilies"], json!(["IPv4"]));
    let named = json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"n"},
        "spec":{"type":"ExternalName","externalName":"example.com"}});
    let named = world.post(SERVICES, &named).await.ok();
    assert!(named["spec"].get("clusterIP").is_none() && named["spec"].get("ipFamilies").is_none(), "{named}");
}

#[tokio::test]
async fn many_services_get_different_addresses_at_once() {
    let world = World::new().await;
    let all: Vec<Value> = (0..40).map(|i| service(&format!("s{i}"), json!({"type":"NodePort"}))).collect();
    let made = futures_util::future::join_all(all.iter().map(|s| world.post(SERVICES, s))).await;
    let made: Vec<Value> = made.into_iter().map(|m| m.ok()).collect();
    let addresses: std::collections::BTreeSet<&str> =
        made.iter().filter_map(|m| m["spec"]["clusterIP"].as_str()).collect();
    let ports: std::collections::BTreeSet<i64> =
        made.iter().filter_map(|m| m["spec"]["ports"][0]["nodePort"].as_i64()).collect();
    assert_eq!((addresses.len(), ports.len()), (40, 40));
}

#[tokio::test]
async fn the_kubernetes_service_is_there_from_the_start() {
    let world = World::new().await;
    let service = world.get(&format!("{SERVICES}/kubernetes")).await.ok();
    assert_eq!(service["spec"]["clusterIP"], "10.96.0.1");
    let slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    assert_eq!(world.get(slices).await.ok()["endpoints"][0]["addresses"], json!(["10.0.0.1"]));
    let range = world.get("/apis/networking.k8s.io/v1/servicecidrs/kubernetes").await.ok();
    assert_eq!(range["status"]["conditions"][0]["status"], "True");
}

#[tokio::test]
async fn an_event_is_the_same_in_both_groups() {
    let world = World::new().await;
    let event = json!({"apiVersion":"v1","kind":"Event","metadata":{"name":"e","namespace":"default"},
        "involvedObject":{"kind":"Pod","name":"p","namespace":"default"},"reason":"Started","message":"m",
        "type":"Normal","count":2});
    world.post("/api/v1/namespaces/default/events", &event).await.ok();
    let newer = world.get("/apis/events.k8s.io/v1/namespaces/default/events/e").await.ok();
    assert_eq!(newer["apiVersion"], "events.k8s.io/v1");
    assert_eq!(newer["note"], "m");
    assert_eq!(newer["regarding"]["name"], "p");
    assert_eq!(newer["deprecatedCount"], 2);
    let mut of_the_newer = event.clone();
    of_the_newer["metadata"]["name"] = json!("f");
    of_the_newer["reportingComponent"] = json!("c");
    world.post("/api/v1/namespaces/default/events", &of_the_newer).await.ok();
    for (group, selector, names) in [
        ("/api/v1", "involvedObject.name%3Dp,reason%3DStarted", &["e", "f"][..]),
        ("/api/v1", "source%3Dc", &["f"]),
        ("/apis/events.k8s.io/v1", "regarding.name%3Dp", &["e", "f"]),
        ("/apis/events.k8s.io/v1", "reportingController%3Dc", &["f"]),
    ] {
        let path = format!("{group}/namespaces/default/events?fieldSelector={selector}");
        let found = world.get(&path).await.ok();
        let found: Vec<_> =
            found["items"].as_array().unwrap().iter().map(|e| &e["metadata"]["name"]).collect();
        assert_eq!(found, names, "{path}");
    }
}
