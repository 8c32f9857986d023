//! Custom resources from their definition on, over a registry in memory.

use super::convert::Outbound;
use crate::def::{ResourceDef, Strategy};
use crate::testing::Server;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::header::ACCEPT;
use knarr_api::apiextensions::v1::CustomResourceDefinition;
use serde_json::{Value, json};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/example.com/v1/namespaces/ns/tabs";
const TABS2: &str = "/apis/example.com/v2/namespaces/ns/tabs";

/// The kind of the definitions, whose own rules are tested with it.
struct Definitions;

impl Strategy for Definitions {
    type Object = CustomResourceDefinition;
}

/// A webhook that moves `spec.host` (v1) to `spec.address` (v2) and back.
#[derive(Default)]
struct Hosts {
    calls: AtomicUsize,
    sizes: Mutex<Vec<usize>>,
    broken: AtomicBool,
    /// Changes what it must not.
    greedy: AtomicBool,
}

impl Outbound for Hosts {
    fn call<'a>(&'a self, client_config: &'a Value, body: Bytes) -> BoxFuture<'a, Result<Bytes, String>> {
        Box::pin(async move {
            assert_eq!(client_config["url"], "https://example.com/convert");
            self.calls.fetch_add(1, Ordering::Relaxed);
            if self.broken.load(Ordering::Relaxed) {
                return Err("Post \"https://example.com/convert?timeout=30s\": no route".to_owned());
            }
            let review: Value = serde_json::from_slice(&body).unwrap();
            let request = &review["request"];
            let mut objects = request["objects"].as_array().unwrap().clone();
            self.sizes.lock().unwrap().push(objects.len());
            for object in &mut objects {
                object["apiVersion"] = request["desiredAPIVersion"].clone();
                let to_v2 = object["apiVersion"] == "example.com/v2";
                let (from, to) = if to_v2 { ("host", "address") } else { ("address", "host") };
                if let Some(value) = object["spec"].as_object_mut().and_then(|spec| spec.remove(from)) {
                    object["spec"][to] = value;
                }
                object["metadata"]["annotations"] = json!({"converted": "yes"});
                object["metadata"]["creationTimestamp"] = json!("2001-01-01T00:00:00Z");
                if self.greedy.load(Ordering::Relaxed) {
                    object["metadata"]["name"] = json!("other");
                }
            }
            let response =
                json!({"uid": request["uid"], "result": {"status": "Success"}, "convertedObjects": objects});
            let answer =
                json!({"kind": "ConversionReview", "apiVersion": review["apiVersion"], "response": response});
            Ok(serde_json::to_vec(&answer).unwrap().into())
        })
    }
}

fn server(outbound: Arc<Hosts>) -> Server {
    let definitions = ResourceDef::new(Definitions).status();
    Server::new(vec![definitions], Vec::new()).with_custom_resources(outbound)
}

fn version(name: &str, storage: bool, field: &str) -> Value {
    let text = json!({"type": "string"});
    let spec = json!({"type": "object", "properties": {
        field: text, "replicas": {"type": "integer", "minimum": 0, "default": 1},
        "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
            "items": {"type": "object", "required": ["name"], "properties": {"name": text, "port": {"type": "integer"}}}},
        "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}});
    json!({"name": name, "served": true, "storage": storage,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector"}},
        "selectableFields": [{"jsonPath": format!(".spec.{field}")}],
        "additionalPrinterColumns": [{"name": "Where", "type": "string", "jsonPath": format!(".spec.{field}")}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec,
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": text, "phase": text}}}}}})
}

fn definition(versions: Vec<Value>, conversion: &Value) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "tabs.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "versions": versions, "conversion": conversion,
            "names": {"plural": "tabs", "singular": "tab", "kind": "Tab", "listKind": "TabList", "shortNames": ["tb"]}}})
}

/// Does the work of the controllers that keep conditions.
async fn establish(server: &Server, crd: Value) -> Value {
    let created = server.post(CRDS, &crd).await.expect(201);
    set_status(server, created, "Established").await
}

async fn set_status(server: &Server, mut crd: Value, condition: &str) -> Value {
    let old = crd["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let mut conditions: Vec<Value> = old.into_iter().filter(|c| c["type"] != condition).collect();
    conditions.push(json!({"type": condition, "status": "True"}));
    crd["status"] =
        json!({"acceptedNames": crd["spec"]["names"], "storedVersions": ["v1"], "conditions": conditions});
    server.put(&format!("{CRDS}/tabs.example.com/status"), &crd).await.expect(200)
}

fn tab(version: &str, name: &str, spec: &Value) -> Value {
    json!({"apiVersion": format!("example.com/{version}"), "kind": "Tab", "metadata": {"name": name}, "spec": spec})
}

async fn single() -> Server {
    let server = server(Arc::default());
    establish(&server, definition(vec![version("v1", true, "host")], &json!({"strategy": "None"}))).await;
    server
}

#[tokio::test]
async fn an_established_definition_is_served_at_once() {
    let server = server(Arc::default());
    server.get(TABS).await.expect(404);
    let crd = definition(vec![version("v1", true, "host")], &json!({"strategy": "None"}));
    let crd = server.post(CRDS, &crd).await.expect(201);
    server.get(TABS).await.expect(404);
    set_status(&server, crd, "Established").await;
    // Nobody waits: whoever has seen the condition may ask.
    let created = server.post(TABS, &tab("v1", "a", &json!({"host": "h", "other": 1}))).await;
    assert_eq!(created.warnings(), ["unknown field \"spec.other\""]);
    let created = created.expect(201);
    assert_eq!(created["spec"], json!({"host": "h", "replicas": 1}));
    assert_eq!(created["metadata"]["generation"], 1);
    let list = server.get(TABS).await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("TabList"), &json!("example.com/v1")));
    assert_eq!(list["items"][0]["kind"], "Tab", "items of custom resources carry their type");
    assert!(server.store.get(&Bytes::from("/registry/example.com/tabs/ns/a"), None).await.unwrap().is_some());
}

#[tokio::test]
async fn bodies_are_held_against_the_schema() {
    let server = single().await;
    let strict = format!("{TABS}?fieldValidation=Strict");
    let bad = tab("v1", "a", &json!({"host": "h", "x": 1, "ports": [{"name": "p", "y": 2}]}));
    assert_eq!(
        server.post(&strict, &bad).await.message(400),
        "Tab in version \"v1\" cannot be handled as a Tab: strict decoding error: unknown field \"spec.ports[0].y\", unknown field \"spec.x\""
    );
    let kept = tab("v1", "a", &json!({"free": {"any": [1, {"x": null}]}}));
    let created = server.post(&strict, &kept).await.expect(201);
    assert_eq!(created["spec"]["free"], json!({"any": [1, {"x": null}]}));
    let invalid = server.post(TABS, &tab("v1", "b", &json!({"replicas": -1, "host": 3}))).await;
    let message = invalid.message(422);
    assert!(message.starts_with("Tab.example.com \"b\" is invalid: ["), "{message}");
    assert!(
        message.contains(
            "spec.replicas: Invalid value: -1: spec.replicas in body should be greater than or equal to 0"
        ),
        "{message}"
    );
    let other = server.post(TABS, &tab("v2", "b", &json!({}))).await;
    assert_eq!(
        other.message(400),
        "the API version in the data (example.com/v2) does not match the expected API version (example.com/v1)"
    );
    let kind = json!({"apiVersion": "example.com/v1", "kind": "Other", "metadata": {"name": "b"}});
    assert_eq!(
        server.post(TABS, &kind).await.message(422),
        "Tab.example.com \"b\" is invalid: kind: Invalid value: \"Other\": must be Tab"
    );
}

#[tokio::test]
async fn patches_and_the_two_halves_of_an_object() {
    let server = single().await;
    server.post(TABS, &tab("v1", "a", &json!({"host": "h"}))).await.expect(201);
    let url = format!("{TABS}/a");
    let merged = server
        .patch("merge-patch+json", &url, &json!({"spec": {"host": "i"}, "status": {"phase": "x"}}))
        .await;
    let merged = merged.expect(200);
    assert_eq!((&merged["spec"]["host"], &merged["metadata"]["generation"]), (&json!("i"), &json!(2)));
    assert!(merged.get("status").is_none(), "the status is another endpoint's");
    assert_eq!(
        server.patch("strategic-merge-patch+json", &url, &json!({})).await.message(415),
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
    );
    let status =
        json!({"metadata": {"labels": {"l": "x"}}, "spec": {"host": "z"}, "status": {"phase": "up"}});
    let patched = server.patch("merge-patch+json", &format!("{url}/status"), &status).await.expect(200);
    assert_eq!((&patched["status"]["phase"], &patched["spec"]["host"]), (&json!("up"), &json!("i")));
    assert_eq!((&patched["metadata"]["generation"], patched["metadata"].get("labels")), (&json!(2), None));
    let mut stale = patched.clone();
    stale["metadata"]["resourceVersion"] = merged["metadata"]["resourceVersion"].clone();
    server.put(&format!("{url}/status"), &stale).await.expect(409);
    let mut unversioned = patched.clone();
    unversioned["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    assert_eq!(
        server.put(&url, &unversioned).await.message(422),
        "tabs.example.com \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
    let scale = server.get(&format!("{url}/scale")).await.expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(1)));
    let scaled =
        server.patch("merge-patch+json", &format!("{url}/scale"), &json!({"spec": {"replicas": 4}})).await;
    assert_eq!(scaled.expect(200)["spec"]["replicas"], 4);
    assert_eq!(server.get(&url).await.expect(200)["spec"]["replicas"], 4);
}

#[tokio::test]
async fn apply_merges_by_the_schema() {
    let server = single().await;
    let url = format!("{TABS}/a?fieldManager=m");
    let ports = |list: Value| json!({"apiVersion": "example.com/v1", "kind": "Tab", "spec": {"ports": list}});
    let applied = ports(json!([{"name": "x", "port": 1}]));
    server.patch("apply-patch+yaml", &url, &applied).await.expect(201);
    let other = url.replace("=m", "=n");
    let both =
        server.patch("apply-patch+yaml", &other, &ports(json!([{"name": "y", "port": 2}]))).await.expect(200);
    assert_eq!(both["spec"]["ports"].as_array().map(Vec::len), Some(2));
    let conflict = server.patch("apply-patch+yaml", &other, &ports(json!([{"name": "x", "port": 3}]))).await;
    assert_eq!(
        conflict.message(409),
        "Apply failed with 1 conflict: conflict with \"m\": .spec.ports[name=\"x\"].port"
    );
    let unknown = json!({"apiVersion": "example.com/v1", "kind": "Tab", "spec": {"nope": 1}});
    let text = server.patch("apply-patch+yaml", &url, &unknown).await.message(500);
    assert!(text.contains(".spec.nope: field not declared in schema"), "{text}");
    let twice = "apiVersion: example.com/v1\nkind: Tab\nspec:\n  host: a\n  host: b\n";
    let headers = [("content-type", "application/apply-patch+yaml")];
    let warned = server.send("PATCH", &url, &headers, twice).await;
    assert_eq!(
        (warned.code, warned.warnings()),
        (200, vec!["line 5: key \"host\" already set in map".to_owned()])
    );
    let refused = server.send("PATCH", &format!("{url}&fieldValidation=Strict"), &headers, twice).await;
    assert_eq!(
        refused.message(400),
        "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 5: key \"host\" already set in map"
    );
}

#[tokio::test]
async fn tables_metadata_selectors_and_forms() {
    let server = single().await;
    for (name, host) in [("a", "x"), ("b", "y")] {
        server.post(TABS, &tab("v1", name, &json!({"host": host}))).await.expect(201);
    }
    let table = server.get_as(TABS, "application/json;as=Table;g=meta.k8s.io;v=v1").await.expect(200);
    let heads: Vec<&str> =
        table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(heads, ["Name", "Where"]);
    assert_eq!(table["rows"][1]["cells"], json!(["b", "y"]));
    let selected = server.get(&format!("{TABS}?fieldSelector=spec.host%3Dy")).await.expect(200);
    assert_eq!(selected["items"].as_array().map(Vec::len), Some(1));
    assert_eq!(
        server.get(&format!("{TABS}?fieldSelector=spec.other%3Dy")).await.message(400),
        "field label not supported: spec.other"
    );
    let partial = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    assert_eq!(server.get_as(TABS, partial).await.expect(200)["kind"], "PartialObjectMetadataList");
    let proto = "application/vnd.kubernetes.protobuf";
    assert_eq!(server.get_as(TABS, proto).await.code, 406);
    let metadata = format!("{proto};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let reply = server.send("GET", TABS, &[(ACCEPT.as_str(), &metadata)], "").await;
    assert_eq!((reply.code, &reply.body[..4]), (200, &b"k8s\0"[..]));
    let reply = server.send("POST", TABS, &[("content-type", proto)], "k8s\0").await;
    assert_eq!(reply.code, 415);
}

#[tokio::test]
async fn changes_of_a_definition_end_watches_and_those_of_its_conditions_do_not() {
    let server = server(Arc::default());
    let crd =
        establish(&server, definition(vec![version("v1", true, "host")], &json!({"strategy": "None"}))).await;
    server.post(TABS, &tab("v1", "a", &json!({}))).await.expect(201);
    let watch_url = format!("{TABS}?watch=1&resourceVersion=0");
    let mut watch = server.watch(&watch_url).await;
    assert_eq!(watch.names(1).await, ["ADDED a"]);

    let mut crd = set_status(&server, crd, "Terminating").await;
    let refused = server.post(TABS, &tab("v1", "b", &json!({}))).await;
    assert_eq!(
        refused.message(403),
        "tabs.example.com \"b\" is forbidden: create not allowed while custom resource definition is terminating"
    );
    server.patch("merge-patch+json", &format!("{TABS}/a"), &json!({"spec": {"host": "h"}})).await.expect(200);
    assert_eq!(watch.names(1).await, ["MODIFIED a"]);

    // A default that comes later is there when objects are read.
    let property = &mut crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]
        ["host"];
    property["default"] = json!("fresh");
    server.put(&format!("{CRDS}/tabs.example.com"), &crd).await.expect(200);
    assert_eq!(watch.next().await, None);
    let remove = json!([{"op": "remove", "path": "/spec/host"}]);
    server.patch("json-patch+json", &format!("{TABS}/a"), &remove).await.expect(200);
    assert_eq!(server.get(&format!("{TABS}/a")).await.expect(200)["spec"]["host"], "fresh");

    let mut watch = server.watch(&watch_url).await;
    assert_eq!(watch.names(1).await, ["ADDED a"]);
    server.delete(&format!("{CRDS}/tabs.example.com"), &Value::Null).await.expect(200);
    assert_eq!(watch.next().await, None);
    server.get(TABS).await.expect(404);
}

#[tokio::test]
async fn versions_without_a_converter_differ_in_name_and_schema() {
    let server = server(Arc::default());
    let versions = vec![version("v1", true, "host"), version("v2", false, "address")];
    establish(&server, definition(versions, &json!({"strategy": "None"}))).await;
    server.post(TABS, &tab("v1", "a", &json!({"host": "h"}))).await.expect(201);
    let second = server.get(&format!("{TABS2}/a")).await.expect(200);
    assert_eq!((&second["apiVersion"], &second["spec"]), (&json!("example.com/v2"), &json!({"replicas": 1})));
    server.post(TABS2, &tab("v2", "b", &json!({"address": "x"}))).await.expect(201);
    let stored =
        server.store.get(&Bytes::from("/registry/example.com/tabs/ns/b"), None).await.unwrap().unwrap();
    let stored: Value = serde_json::from_slice(&stored.value).unwrap();
    assert_eq!(stored["apiVersion"], "example.com/v1", "stored in the storage version");
    let mut watch = server.watch(&format!("{TABS2}?watch=1&resourceVersion=0")).await;
    let event = watch.next().await.unwrap();
    assert_eq!(event["object"]["apiVersion"], "example.com/v2");
}

#[tokio::test]
async fn a_webhook_converts_once_for_all_and_may_not_touch_the_metadata() {
    let hosts = Arc::new(Hosts::default());
    let server = server(hosts.clone());
    let versions = vec![version("v1", true, "host"), version("v2", false, "address")];
    let config = json!({"url": "https://example.com/convert"});
    let conversion = json!({"strategy": "Webhook", "webhook": {"clientConfig": config, "conversionReviewVersions": ["v2", "v1"]}});
    establish(&server, definition(versions, &conversion)).await;
    for name in ["a", "b", "c"] {
        server.post(TABS, &tab("v1", name, &json!({"host": name}))).await.expect(201);
    }
    assert_eq!(hosts.calls.load(Ordering::Relaxed), 0, "nothing to convert so far");
    let list = server.get(TABS2).await.expect(200);
    assert_eq!(list["items"][1]["spec"], json!({"address": "b", "replicas": 1}));
    assert_eq!(list["items"][1]["metadata"]["annotations"], json!({"converted": "yes"}));
    assert_ne!(list["items"][1]["metadata"]["creationTimestamp"], "2001-01-01T00:00:00Z");
    assert_eq!(*hosts.sizes.lock().unwrap(), [3], "one call for the list");
    server.get(TABS2).await.expect(200);
    server.get(&format!("{TABS2}/a")).await.expect(200);
    assert_eq!(hosts.calls.load(Ordering::Relaxed), 1, "what has been converted is kept");

    // Writes in the other version are stored in the storage version, and selectors see what is served.
    server.post(TABS2, &tab("v2", "d", &json!({"address": "far"}))).await.expect(201);
    assert_eq!(server.get(&format!("{TABS}/d")).await.expect(200)["spec"]["host"], "far");
    let found = server.get(&format!("{TABS2}?fieldSelector=spec.address%3Dfar")).await.expect(200);
    assert_eq!(found["items"].as_array().map(Vec::len), Some(1));

    hosts.greedy.store(true, Ordering::Relaxed);
    assert_eq!(
        server.post(TABS2, &tab("v2", "e", &json!({}))).await.message(500),
        "conversion webhook for example.com/v2, Kind=Tab returned invalid object: must have the same name: e != other"
    );
    hosts.greedy.store(false, Ordering::Relaxed);
    hosts.broken.store(true, Ordering::Relaxed);
    server.post(TABS, &tab("v1", "f", &json!({}))).await.expect(201);
    let failed = "conversion webhook for example.com/v1, Kind=Tab failed: Post \"https://example.com/convert?timeout=30s\": no route";
    assert_eq!(server.get(&format!("{TABS2}/f")).await.message(500), failed);
    assert_eq!(server.get(TABS2).await.message(500), failed);
    hosts.broken.store(false, Ordering::Relaxed);
    let healed = server.get(TABS2).await.expect(200);
    assert_eq!(healed["items"].as_array().map(Vec::len), Some(5));

    // The storage version changes: what is stored is read as before, and written anew by any update.
    let mut crd = server.get(&format!("{CRDS}/tabs.example.com")).await.expect(200);
    crd["spec"]["versions"][0]["storage"] = json!(false);
    crd["spec"]["versions"][1]["storage"] = json!(true);
    server.put(&format!("{CRDS}/tabs.example.com"), &crd).await.expect(200);
    let key = Bytes::from("/registry/example.com/tabs/ns/a");
    let stored_as = async || -> Value {
        let stored = server.store.get(&key, None).await.unwrap().unwrap();
        serde_json::from_slice::<Value>(&stored.value).unwrap()["apiVersion"].take()
    };
    let same = server.get(&format!("{TABS}/a")).await.expect(200);
    assert_eq!(stored_as().await, "example.com/v1");
    let object = server.get(&format!("{TABS}/a")).await.expect(200);
    server.put(&format!("{TABS}/a"), &object).await.expect(200);
    assert_eq!(stored_as().await, "example.com/v2");
    assert_eq!(server.get(&format!("{TABS}/a")).await.expect(200)["spec"], same["spec"]);
}

#[tokio::test]
async fn deprecated_versions_warn() {
    let server = server(Arc::default());
    let mut old = version("v1", true, "host");
    old["deprecated"] = json!(true);
    let versions = vec![old, version("v2", false, "host")];
    establish(&server, definition(versions, &json!({"strategy": "None"}))).await;
    assert_eq!(
        server.get(TABS).await.warnings(),
        ["example.com/v1 Tab is deprecated; use example.com/v2 Tab"]
    );
    assert!(server.get(TABS2).await.warnings().is_empty());
}

#[tokio::test]
async fn managers_own_fields_in_the_version_they_wrote() {
    let server = server(Arc::default());
    let versions = vec![version("v1", true, "host"), version("v2", false, "address")];
    let config = json!({"url": "https://example.com/convert"});
    let webhook = json!({"clientConfig": config, "conversionReviewVersions": ["v1"]});
    establish(&server, definition(versions, &json!({"strategy": "Webhook", "webhook": webhook}))).await;
    let apply = async |url: &str, who: &str, version: &str, spec: Value| {
        let applied = json!({"apiVersion": format!("example.com/{version}"), "kind": "Tab", "spec": spec});
        server.patch("apply-patch+yaml", &format!("{url}/a?fieldManager={who}"), &applied).await
    };
    apply(TABS, "one", "v1", json!({"host": "h", "free": {"x": 1}})).await.expect(201);
    let conflict = apply(TABS2, "two", "v2", json!({"address": "i"})).await;
    assert_eq!(conflict.message(409), "Apply failed with 1 conflict: conflict with \"one\": .spec.host");
    let patch = json!({"spec": {"address": "i"}});
    let url = format!("{TABS2}/a?fieldManager=three");
    let patched = server.patch("merge-patch+json", &url, &patch).await.expect(200);
    let owned = |object: &Value, who: &str| {
        let entries = object["metadata"]["managedFields"].as_array().unwrap();
        let entry = entries.iter().find(|entry| entry["manager"] == who);
        entry.map_or(Value::Null, |entry| entry["fieldsV1"]["f:spec"].clone())
    };
    assert_eq!(owned(&patched, "one"), json!({"f:free": {"f:x": {}}}));
    assert_eq!(owned(&patched, "three"), json!({"f:address": {}}));
    // The first goes on in the other version, without what it owned.
    let moved = apply(TABS2, "one", "v2", json!({"replicas": 3})).await.expect(200);
    assert_eq!(moved["spec"], json!({"address": "i", "replicas": 3}));
}
