//! The documents over everything upstream serves: whole, without dangling references, and with what kubectl
//! looks for.

use super::*;
use crate::facts;
use crate::proto::wire::{Payload, Reader};

fn served() -> Vec<Served> {
    facts::resources().iter().map(Served::from).collect()
}

fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("$ref").and_then(Value::as_str));
            map.values().for_each(|value| references(value, found));
        }
        Value::Array(list) => list.iter().for_each(|value| references(value, found)),
        _ => {}
    }
}

#[test]
fn every_document_is_whole() {
    let served = served();
    let index = v3_index(&served);
    let documents = index["paths"].as_object().unwrap();
    assert_eq!(documents.len(), 22);
    for (path, entry) in documents {
        let document = v3(&served, path).unwrap();
        let mut found = Vec::new();
        references(&document, &mut found);
        for reference in found {
            let name = reference.strip_prefix("#/components/schemas/").unwrap();
            assert!(document["components"]["schemas"].get(name).is_some(), "{path}: {name} is missing");
        }
        let url = entry["serverRelativeURL"].as_str().unwrap();
        assert!(url.starts_with(&format!("/openapi/v3/{path}?hash=")), "{url}");
    }
    assert!(v3(&served, "apis/nothing/v1").is_none());
    let document = v2(&served);
    let mut found = Vec::new();
    references(&document, &mut found);
    for reference in found {
        let name = reference.strip_prefix("#/definitions/").unwrap();
        assert!(document["definitions"].get(name).is_some(), "{name} is missing");
    }
}

#[test]
fn operation_ids_are_unique_and_named_as_upstream_does() {
    let document = v2(&served());
    let mut ids = Vec::new();
    for item in document["paths"].as_object().unwrap().values() {
        let operations = item.as_object().unwrap().values();
        ids.extend(operations.filter_map(|op| op.get("operationId")?.as_str().map(str::to_owned)));
    }
    let count = ids.len();
    for expected in [
        "listCoreV1PodForAllNamespaces",
        "createCoreV1NamespacedPod",
        "readCoreV1NamespacedPodLog",
        "connectCoreV1GetNamespacedPodExec",
        "createCoreV1NamespacedPodEviction",
        "replaceCoreV1NamespaceFinalize",
        "patchAppsV1NamespacedDeploymentScale",
        "deleteRbacAuthorizationV1CollectionNamespacedRole",
        "createAuthorizationV1SubjectAccessReview",
        "getAppsV1APIResources",
    ] {
        assert!(ids.iter().any(|id| id == expected), "{expected} is missing");
    }
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), count);
}

#[test]
fn kubectl_finds_the_kind_its_merge_keys_and_the_parameters_of_patch() {
    let document = v3(&served(), "apis/apps/v1").unwrap();
    let item = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"];
    let patch = &item["patch"];
    assert_eq!(patch["x-kubernetes-action"], "patch");
    let kind = json!({ "group": "apps", "version": "v1", "kind": "Deployment" });
    assert_eq!(patch["x-kubernetes-group-version-kind"], kind);
    let parameters = patch["parameters"].as_array().unwrap();
    for name in ["dryRun", "fieldValidation", "fieldManager", "force"] {
        assert!(parameters.iter().any(|p| p["name"] == name && p["in"] == "query"), "{name} is missing");
    }
    let schemas = &document["components"]["schemas"];
    assert_eq!(schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"], json!([kind]));
    let mut containers = schemas["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"].clone();
    containers.as_object_mut().unwrap().remove("description");
    let item = "#/components/schemas/io.k8s.api.core.v1.Container";
    let expected = json!({ "type": "array", "items": { "allOf": [{ "$ref": item }], "default": {} },
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
        "x-kubernetes-patch-strategy": "merge", "x-kubernetes-patch-merge-key": "name" });
    assert_eq!(containers, expected);
    assert_eq!(schemas["io.k8s.api.core.v1.PodSpec"]["required"], json!(["containers"]));
    assert_eq!(
        schemas["io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector"]["x-kubernetes-map-type"],
        "atomic"
    );
}

#[test]
fn types_and_fields_have_descriptions() {
    let document = v3(&served(), "api/v1").unwrap();
    let pod = &document["components"]["schemas"]["io.k8s.api.core.v1.Pod"];
    for described in [pod, &pod["properties"]["spec"], &pod["properties"]["kind"]] {
        assert!(described["description"].as_str().is_some_and(|text| text.len() > 20), "{described}");
    }
}

#[test]
fn hashes_change_with_what_is_served() {
    let all = served();
    let fewer: Vec<Served> = all.iter().filter(|s| s.resource != "deployments/scale").cloned().collect();
    assert_ne!(v3_hashes(&all)["apis/apps/v1"], v3_hashes(&fewer)["apis/apps/v1"]);
    assert_eq!(v3_hashes(&all)["api/v1"], v3_hashes(&all)["api/v1"]);
}

#[test]
fn the_protobuf_form_has_every_path_and_definition() {
    let document = v2(&served());
    let bytes = v2_proto(&document);
    let count = |bytes: &[u8], wanted: u32| {
        let mut fields = Reader::new(bytes);
        let mut found = Vec::new();
        while let Some((number, payload)) = fields.next().unwrap() {
            if let (true, Payload::Bytes(bytes)) = (number == wanted, payload) {
                found.push(bytes.to_vec());
            }
        }
        found
    };
    let paths = count(&bytes, 8).remove(0);
    assert_eq!(count(&paths, 2).len(), document["paths"].as_object().unwrap().len());
    let definitions = count(&bytes, 9).remove(0);
    let definitions = count(&definitions, 1);
    assert_eq!(definitions.len(), document["definitions"].as_object().unwrap().len());
    let swagger = count(&bytes, 1).remove(0);
    assert_eq!(swagger, b"2.0");
}

#[test]
fn kinds_of_their_own_are_published_with_what_they_bring() {
    let own = Own {
        kind: "com.example.v1.Tab".into(),
        list_kind: "TabList".into(),
        list: "com.example.v1.TabList".into(),
        identity: "1".into(),
        make: Arc::new(|v2| {
            let place = if v2 { "#/definitions/" } else { "#/components/schemas/" };
            let reference = |name: &str| json!({"$ref": format!("{place}{name}")});
            let meta = |name: &str| reference(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"));
            let items = json!({"type": "array", "items": reference("com.example.v1.Tab")});
            vec![
                (
                    "com.example.v1.Tab".into(),
                    json!({"type": "object", "properties": {"metadata": meta("ObjectMeta")}}),
                ),
                (
                    "com.example.v1.TabList".into(),
                    json!({"properties": {"metadata": meta("ListMeta"), "items": items}}),
                ),
            ]
        }),
    };
    let tabs = Served {
        group: "example.com".into(),
        version: "v1".into(),
        resource: "tabs".into(),
        namespaced: true,
        kind_group: "example.com".into(),
        kind_version: "v1".into(),
        kind: "Tab".into(),
        verbs: ["get", "list", "patch"].map(str::to_owned).to_vec(),
        custom: true,
        own: Some(own),
    };
    let mut all = served();
    let before = v3_hashes(&all);
    all.push(tabs.clone());
    let after = v3_hashes(&all);
    assert!(
        before.iter().all(|(path, hash)| after[path] == *hash),
        "documents of built-in kinds stay as they are"
    );
    let document = v3(&all, "apis/example.com/v1").unwrap();
    let path = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/tabs"]["get"];
    let answer = &path["responses"]["200"]["content"];
    assert_eq!(
        answer.as_object().unwrap().keys().collect::<Vec<_>>(),
        ["application/json", "application/yaml"]
    );
    assert_eq!(answer["application/json"]["schema"]["$ref"], "#/components/schemas/com.example.v1.TabList");
    let patches = &document["paths"]["/apis/example.com/v1/namespaces/{namespace}/tabs/{name}"]["patch"];
    assert_eq!(
        patches["requestBody"]["content"].as_object().map(Map::len),
        Some(3),
        "no strategic merge patch"
    );
    for (document, place) in [
        (&document["components"]["schemas"], "#/components/schemas/"),
        (&v2(&all)["definitions"], "#/definitions/"),
    ] {
        let mut found = Vec::new();
        references(&document["com.example.v1.TabList"], &mut found);
        assert_eq!(found.len(), 2);
        for name in found {
            assert!(document.get(name.strip_prefix(place).unwrap()).is_some(), "{name}");
        }
    }
    // Another schema of the same kind is another document.
    let mut changed = tabs;
    changed.own.as_mut().unwrap().identity = "2".into();
    all.pop();
    all.push(changed);
    assert_ne!(v3_hashes(&all)["apis/example.com/v1"], after["apis/example.com/v1"]);
}
