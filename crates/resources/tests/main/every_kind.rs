//! What holds for every kind: it can be created from its fixture, read, listed, watched, patched in each way,
//! applied, given a status, tried without effect, printed, stored under upstream's key and deleted.

use crate::world::{World, collection, request, yaml};
use http::Method;
use knarr_apiserver::def::ResourceDef;
use serde_json::{Value, json};

/// Kinds (group/resource) that a check does not hold for, and why. To shrink.
const EXEMPT: &[(&str, &str, &str)] = &[];

fn exempt(check: &str, def: &ResourceDef) -> bool {
    let name = format!("{}/{}", def.group, def.resource);
    EXEMPT.iter().any(|(c, kind, _)| *c == check && *kind == name)
}

/// The stored kinds with their fixtures.
fn kinds() -> Vec<(ResourceDef, Value)> {
    knarr_resources::all()
        .into_iter()
        .filter(|def| def.create_only.is_none())
        .map(|def| {
            assert!(!def.fixture.is_empty(), "{} has no fixture", def.kind);
            let object = yaml(def.fixture);
            (def, object)
        })
        .collect()
}

/// Runs a check over every kind, and fails with all that went wrong.
struct Failures(Vec<String>);

impl Failures {
    fn check(&mut self, def: &ResourceDef, what: &str, good: bool, seen: impl std::fmt::Debug) {
        if !good && !exempt(what, def) {
            self.0.push(format!("{}/{}: {what}: {seen:?}", def.group, def.resource));
        }
    }

    fn finish(self) {
        assert!(self.0.is_empty(), "\n{}", self.0.join("\n"));
    }
}

fn name(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn create_read_list_patch_and_delete() {
    let world = World::new().await;
    let mut failures = Failures(Vec::new());
    for (def, fixture) in kinds() {
        let url = collection(&def);
        let one = format!("{url}/{}", name(&fixture));

        let dry = world.post(&format!("{url}?dryRun=All"), &fixture).await;
        failures.check(&def, "dry run of create", dry.code == 201, dry.json());
        let absent = world.get(&one).await;
        failures.check(&def, "a dry run stores nothing", absent.code == 404, absent.code);

        let created = world.post(&url, &fixture).await;
        failures.check(&def, "create", created.code == 201, created.json());
        if created.code != 201 {
            continue;
        }
        let created = created.json();
        let manager = created["metadata"]["managedFields"][0]["operation"].as_str();
        failures.check(&def, "managedFields on create", manager == Some("Update"), &created["metadata"]);
        let uid = created["metadata"]["uid"].as_str().unwrap_or_default();
        failures.check(&def, "uid", uid.len() == 36, uid);
        let again = world.post(&url, &fixture).await;
        failures.check(&def, "create again", again.code == 409, again.json());

        let read = world.get(&one).await.json();
        failures.check(&def, "get is what create answered", read == created, (&read, &created));
        let list = world.get(&url).await.json();
        let listed =
            list["items"].as_array().is_some_and(|items| items.iter().any(|i| name(i) == name(&read)));
        failures.check(&def, "list", listed, &list["kind"]);
        failures.check(&def, "list kind", list["kind"] == format!("{}List", def.kind), &list["kind"]);

        // A read object can be written back, and nothing changes by it.
        let back = world.put(&one, &read).await;
        let unchanged = back.code == 200
            && back.json()["metadata"]["resourceVersion"] == read["metadata"]["resourceVersion"];
        failures.check(&def, "put of what was read", unchanged, back.json());

        for (kind, key, patch) in [
            ("merge-patch+json", "merge", json!({"metadata": {"labels": {"merge": "1"}}})),
            ("strategic-merge-patch+json", "strategic", json!({"metadata": {"labels": {"strategic": "1"}}})),
            (
                "json-patch+json",
                "json",
                json!([{"op": "add", "path": "/metadata/labels/json", "value": "1"}]),
            ),
        ] {
            let patched = world.patch(&one, kind, &patch).await;
            let good = patched.code == 200 && patched.json()["metadata"]["labels"][key] == "1";
            failures.check(&def, kind, good, patched.json());
        }
        let applied = json!({"apiVersion": fixture["apiVersion"], "kind": fixture["kind"],
            "metadata": {"name": name(&fixture), "labels": {"applied": "1"}}});
        let applied = world.patch(&format!("{one}?fieldManager=tester"), "apply-patch+yaml", &applied).await;
        let good = applied.code == 200 && applied.json()["metadata"]["labels"]["applied"] == "1";
        failures.check(&def, "apply", good, applied.json());

        let dry = world.delete(&format!("{one}?dryRun=All")).await;
        failures.check(&def, "dry run of delete", dry.code == 200, dry.json());
        let still = world.get(&one).await;
        failures.check(&def, "a dry run deletes nothing", still.code == 200, still.code);
        let deleted = world.delete(&one).await;
        failures.check(&def, "delete", deleted.code == 200, deleted.json());
        let gone = world.get(&one).await;
        let terminating = gone.json()["metadata"]["deletionTimestamp"].is_string();
        failures.check(&def, "gone or going", gone.code == 404 || terminating, gone.json());
    }
    failures.finish();
}

#[tokio::test]
async fn tables_have_upstreams_columns() {
    let world = World::new().await;
    let mut failures = Failures(Vec::new());
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    for (def, fixture) in kinds() {
        let url = collection(&def);
        world.post(&url, &fixture).await;
        let one = format!("{url}/{}", name(&fixture));
        let answer = world.raw(request(Method::GET, &one, table, "", &Value::Null)).await.json();
        let columns: Vec<&str> = answer["columnDefinitions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|c| c["name"].as_str())
            .collect();
        let facts = knarr_api::facts::columns(&def.group, def.preferred(), &def.resource);
        let wanted: Vec<&str> = facts.iter().map(|c| c.name).collect();
        failures.check(&def, "columns", columns == wanted || facts.is_empty(), (&columns, &wanted));
        let cells = answer["rows"][0]["cells"].as_array().map_or(0, Vec::len);
        failures.check(&def, "cells", cells == columns.len(), &answer["rows"]);
        let shown = answer["rows"][0]["cells"].as_array().is_some_and(|c| {
            let plain = name(&fixture);
            c.iter().any(|c| c.as_str().is_some_and(|c| c == plain || c.starts_with(&format!("{plain} "))))
        });
        failures.check(&def, "the name is shown", shown, &answer["rows"]);
    }
    failures.finish();
}

#[tokio::test]
async fn protobuf_says_the_same_as_json() {
    let world = World::new().await;
    let mut failures = Failures(Vec::new());
    for (def, fixture) in kinds() {
        let url = collection(&def);
        let created = world.post(&url, &fixture).await.json();
        let one = format!("{url}/{}", name(&fixture));
        let proto = "application/vnd.kubernetes.protobuf";
        let answer = world.raw(request(Method::GET, &one, proto, "", &Value::Null)).await;
        let decoded = knarr_api::proto::decode(&answer.body);
        match decoded {
            Ok(decoded) => {
                let again = knarr_api::proto::encode(&decoded).unwrap();
                let again = knarr_api::proto::decode(&again).unwrap();
                failures.check(&def, "protobuf round trip", again == decoded, (&again, &decoded));
                let same = strip(&decoded) == strip(&created);
                failures.check(&def, "protobuf and JSON", same, (strip(&decoded), strip(&created)));
            }
            Err(err) => failures.check(&def, "protobuf", false, err.to_string()),
        }
    }
    failures.finish();
}

/// Without what only one of the two forms writes out: empty objects, lists and zero values.
fn strip(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().map(|(k, v)| (k.clone(), strip(v))).filter(|(_, v)| !is_empty(v));
            Value::Object(kept.collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(strip).collect()),
        other => other.clone(),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Object(map) => map.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
    }
}

#[tokio::test]
async fn objects_are_stored_under_upstreams_keys() {
    let world = World::new().await;
    let mut failures = Failures(Vec::new());
    for (def, fixture) in kinds() {
        let url = collection(&def);
        let created = world.post(&url, &fixture).await.json();
        let fact = knarr_api::facts::storage_key(&def.group, def.preferred(), &def.resource);
        let Some(fact) = fact else {
            failures.check(&def, "the key is in the facts", false, "");
            continue;
        };
        let key = match created["metadata"]["namespace"].as_str() {
            Some(namespace) => format!("{}/{namespace}/{}", fact.prefix, name(&fixture)),
            None => format!("{}/{}", fact.prefix, name(&fixture)),
        };
        let stored = world.store.get(key.as_bytes(), None).await.unwrap();
        let Some(stored) = stored else {
            failures.check(&def, "storage key", false, key);
            continue;
        };
        let stored: Value = serde_json::from_slice(&stored.value).unwrap();
        failures.check(&def, "kind is stored", stored["kind"] == def.kind, &stored["kind"]);
        let version = stored["metadata"].get("resourceVersion").is_none();
        failures.check(&def, "no resourceVersion is stored", version, &stored["metadata"]);
    }
    failures.finish();
}

#[tokio::test]
async fn unknown_fields_are_ignored_warned_of_or_refused() {
    let world = World::new().await;
    let mut failures = Failures(Vec::new());
    for (def, fixture) in kinds() {
        let url = collection(&def);
        let mut object = fixture.clone();
        object["metadata"]["unheardOf"] = "x".into();
        let strict = world.post(&format!("{url}?dryRun=All&fieldValidation=Strict"), &object).await;
        let told = strict.json()["message"]
            .as_str()
            .unwrap_or_default()
            .contains("unknown field \"metadata.unheardOf\"");
        failures.check(&def, "strict", strict.code == 400 && told, strict.json());
        let warned = world.post(&format!("{url}?dryRun=All&fieldValidation=Warn"), &object).await;
        let warning = warned
            .headers
            .get_all("warning")
            .iter()
            .any(|w| w.to_str().is_ok_and(|w| w.contains("unknown field \\\"metadata.unheardOf\\\"")));
        failures.check(&def, "warned", warned.code == 201 && warning, &warned);
        let ignored = world.post(&format!("{url}?dryRun=All&fieldValidation=Ignore"), &object).await;
        failures.check(&def, "ignored", ignored.code == 201, ignored.json());
    }
    failures.finish();
}

#[tokio::test]
async fn status_is_written_by_its_subresource_alone() {
    let world = World::new().await;
    let mut failures = Failures(Vec::new());
    for (def, fixture) in kinds() {
        if !def.subresources.iter().any(|s| s.name == "status") {
            continue;
        }
        let url = collection(&def);
        let one = format!("{url}/{}", name(&fixture));
        world.post(&url, &fixture).await;
        let mut read = world.get(&one).await.json();
        read["metadata"]["labels"]["through-status"] = "1".into();
        let answer = world.put(&format!("{one}/status"), &read).await;
        failures.check(&def, "put status", answer.code == 200, answer.json());
        let got = world.get(&format!("{one}/status")).await;
        failures.check(&def, "get status", got.code == 200, got.json());
        let before = world.get(&one).await.json();
        let mut wiped = before.clone();
        wiped["status"] = json!({});
        world.put(&one, &wiped).await;
        let after = world.get(&one).await.json();
        failures.check(&def, "put keeps the status", after["status"] == before["status"], (&before, &after));
    }
    failures.finish();
}

#[tokio::test]
async fn a_watch_tells_of_every_kind() {
    use futures_util::StreamExt;
    let world = World::new().await;
    let mut failures = Failures(Vec::new());
    for (def, fixture) in kinds() {
        let url = collection(&def);
        let list = world.get(&url).await.json();
        let version = list["metadata"]["resourceVersion"].as_str().unwrap_or_default().to_owned();
        let watch = format!("{url}?watch=1&resourceVersion={version}");
        let response = world
            .admin
            .send(request(Method::GET, &watch, "application/json", "", &Value::Null))
            .await
            .unwrap();
        let created = world.post(&url, &fixture).await.json();
        let mut body = response.into_body();
        let mut text = Vec::new();
        let event: Value = loop {
            match body.next().await {
                Some(Ok(chunk)) => text.extend_from_slice(&chunk),
                other => panic!("the watch of {} ended: {}", def.resource, other.is_some()),
            }
            if let Some(end) = text.iter().position(|b| *b == b'\n') {
                break serde_json::from_slice(&text[..end]).unwrap();
            }
        };
        let good = event["type"] == "ADDED" && event["object"] == created;
        failures.check(&def, "watch", good, (&event, &created));
    }
    let _ = futures_util::stream::empty::<()>().next().await;
    failures.finish();
}
