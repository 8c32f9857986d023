//! Kinds that come, change and go while the server runs.

use super::*;
use crate::front::discovery::Discovery;
use crate::registry::Registry;
use http::header::{ACCEPT, ETAG, HeaderMap, IF_NONE_MATCH};

const WIDGETS: &str = "/apis/example.com/v1/namespaces/ns/widgets";

/// Leases under another name and group, which is as good as any other kind.
fn widgets(version: &'static str) -> ResourceDef {
    let mut def = ResourceDef::new(Leases);
    def.group = String::from("example.com").into();
    def.resource = String::from("widgets").into();
    def.storage_prefix = String::from("/registry/example.com/widgets").into();
    def.versions = vec![ServedVersion::hub(version)];
    def
}

fn widget(name: &str) -> Value {
    json!({"kind": "Lease", "metadata": {"name": name, "namespace": "ns"}})
}

#[tokio::test]
async fn a_kind_is_served_from_its_installation_to_its_removal() {
    let server = server();
    server.get(WIDGETS).await.expect(404);
    server.registry.install(vec![widgets("v1")]);
    server.post(WIDGETS, &widget("a")).await.expect(201);
    let mut watch = server.watch(&format!("{WIDGETS}?resourceVersion=0&watch=1")).await;
    assert_eq!(watch.names(1).await, ["ADDED a"]);

    // Another kind comes: nobody else notices.
    let mut other = widgets("v1");
    other.resource = "gadgets".into();
    server.registry.install(vec![other]);
    server.post(WIDGETS, &widget("b")).await.expect(201);
    assert_eq!(watch.names(1).await, ["ADDED b"]);

    // It is replaced: the watch ends, so that clients look again, and the objects are what they were.
    server.registry.install(vec![widgets("v2")]);
    assert_eq!(watch.next().await, None);
    assert_eq!(server.get(WIDGETS).await.message(404), "the server could not find the requested resource");
    let moved = WIDGETS.replace("v1", "v2");
    let list = server.get(&moved).await.expect(200);
    assert_eq!(list["items"].as_array().map(Vec::len), Some(2));
    assert_eq!(list["apiVersion"], "example.com/v2");

    let mut watch = server.watch(&format!("{moved}?watch=1&resourceVersion=0")).await;
    assert_eq!(watch.names(2).await, ["ADDED a", "ADDED b"]);
    server.registry.uninstall("example.com", "widgets");
    assert_eq!(watch.next().await, None);
    server.get(&moved).await.expect(404);
    server.get("/api/v1/namespaces/ns/configmaps").await.expect(200);
}

#[tokio::test]
async fn a_replaced_kind_keeps_the_cache_of_its_objects() {
    let server = server();
    server.registry.install(vec![widgets("v1")]);
    let created = server.post(WIDGETS, &widget("a")).await.expect(201);
    server.get(WIDGETS).await.expect(200);
    server.post(WIDGETS, &widget("b")).await.expect(201);
    let cache = |registry: &Registry| registry.resource("example.com", "widgets").unwrap().cache.clone();
    let before = cache(&server.registry);
    let mut changed = widgets("v1");
    changed.short = vec!["wd".into()];
    server.registry.install(vec![changed]);
    assert!(Arc::ptr_eq(&before, &cache(&server.registry)));
    // The window of past changes is still there, too.
    let since = created["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let mut watch = server.watch(&format!("{WIDGETS}?watch=1&resourceVersion={since}")).await;
    assert_eq!(watch.names(1).await, ["ADDED b"]);

    let gone = Arc::downgrade(&before);
    drop((before, watch));
    server.registry.uninstall("example.com", "widgets");
    assert!(gone.upgrade().is_none(), "nobody holds the cache of a kind that is gone");
}

#[tokio::test]
async fn discovery_follows_and_its_etag_tells() {
    let server = server();
    let resolver = Arc::new(crate::webhook::ClusterIps(server.registry.reader()));
    let aggregator = crate::front::aggregate::Aggregator::nobody(&server.ctx, resolver);
    let discovery = Discovery::new(server.registry.clone(), aggregator, "10.0.0.1:6443".to_owned());
    let mut headers = HeaderMap::new();
    headers.insert(
        ACCEPT,
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList".parse().unwrap(),
    );
    let tag = discovery.serve("/apis", &headers).unwrap().headers()[ETAG].clone();
    headers.insert(IF_NONE_MATCH, tag.clone());
    assert_eq!(discovery.serve("/apis", &headers).unwrap().status(), 304);
    assert!(discovery.serve("/apis/example.com/v1", &headers).is_none());

    server.registry.install(vec![widgets("v1"), {
        let mut beta = widgets("v1beta1");
        beta.short = vec!["w".into()];
        beta
    }]);
    let changed = discovery.serve("/apis", &headers).unwrap();
    assert_eq!(changed.status(), 200);
    assert_ne!(changed.headers()[ETAG], tag);
    let json = async |path: &str| -> Value {
        let body = discovery.serve(path, &HeaderMap::new()).unwrap().into_body().collect().await.unwrap();
        serde_json::from_slice(&body).unwrap()
    };
    let group = json("/apis/example.com").await;
    assert_eq!(group["preferredVersion"]["version"], "v1");
    assert_eq!(group["versions"].as_array().map(Vec::len), Some(2));
    assert_eq!(json("/apis/example.com/v1beta1").await["resources"][0]["shortNames"], json!(["w"]));

    server.registry.uninstall("example.com", "widgets");
    assert_eq!(discovery.serve("/apis", &headers).unwrap().status(), 304, "all is as it was");
}

#[tokio::test]
async fn whoever_waits_is_told_of_changes() {
    let server = server();
    let mut changes = server.registry.changes();
    let before = server.registry.generation();
    server.registry.uninstall("example.com", "widgets");
    assert!(!changes.has_changed().unwrap(), "nothing went");
    server.registry.install(vec![widgets("v1")]);
    assert_eq!(*changes.wait_for(|g| *g > before).await.unwrap(), before + 1);
    assert!(server.registry.defs().iter().any(|def| def.resource == "widgets"));
}
