//! Custom resources among all others: collected as owners and dependents, deleted with their namespace and with
//! their definition.

use super::{LIMIT, Running};
use http::Method;
use knarr_controllers::apiextensions;
use knarr_testkit::wait_for;
use serde_json::{Value, json};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const TABS: &str = "/apis/example.com/v1/namespaces/default/tabs";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

async fn start() -> Running {
    let running = Running::start().await;
    apiextensions::start(&running.cluster.ctx, running.cluster.admin());
    running.post(CRDS, definition("tabs", "Tab")).await;
    let url = format!("{CRDS}/tabs.example.com");
    wait_for("the definition to be established", LIMIT, || async {
        let crd = running.get(&url).await.ok_or("gone")?;
        let conditions = crd["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let established = conditions.iter().any(|c| c["type"] == "Established" && c["status"] == "True");
        if established { Ok(()) } else { Err(crd["status"].to_string()) }
    })
    .await;
    running
}

fn definition(plural: &str, kind: &str) -> Value {
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.example.com")},
        "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}})
}

fn tab(name: &str) -> Value {
    json!({"apiVersion": "example.com/v1", "kind": "Tab", "metadata": {"name": name}})
}

fn owned_by(mut object: Value, owner: &Value) -> Value {
    object["metadata"]["ownerReferences"] = json!([{"apiVersion": owner["apiVersion"], "kind": owner["kind"],
        "name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"], "blockOwnerDeletion": true}]);
    object
}

fn map(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}})
}

impl Running {
    async fn post(&self, url: &str, object: Value) -> Value {
        let answer = self.client.call(Method::POST, url, &object).await.expect("it can be created");
        serde_json::from_slice(&answer).expect("the server answers JSON")
    }

    async fn get(&self, url: &str) -> Option<Value> {
        match self.client.call(Method::GET, url, &Value::Null).await {
            Ok(answer) => Some(serde_json::from_slice(&answer).expect("the server answers JSON")),
            Err(error) if error.is_not_found() => None,
            Err(error) => panic!("{error}"),
        }
    }

    async fn delete(&self, url: &str, policy: &str) {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "propagationPolicy": policy});
        self.client.call(Method::DELETE, url, &options).await.expect("it can be deleted");
    }

    async fn gone(&self, url: &str) {
        wait_for(&format!("{url} to go"), LIMIT, || async {
            match self.get(url).await {
                None => Ok(()),
                Some(object) => Err(object["metadata"].to_string()),
            }
        })
        .await;
    }
}

#[tokio::test]
async fn custom_resources_own_and_are_owned() {
    let running = start().await;
    // Background: a custom resource owns a ConfigMap, and is owned by another.
    let root = running.post(MAPS, map("root")).await;
    let middle = running.post(TABS, owned_by(tab("middle"), &root)).await;
    running.post(MAPS, owned_by(map("leaf"), &middle)).await;
    running.delete(&format!("{MAPS}/root"), "Background").await;
    running.gone(&format!("{TABS}/middle")).await;
    running.gone(&format!("{MAPS}/leaf")).await;

    // Foreground: the owner waits for its dependent.
    let owner = running.post(TABS, tab("owner")).await;
    running.post(TABS, owned_by(tab("part"), &owner)).await;
    running.delete(&format!("{TABS}/owner"), "Foreground").await;
    running.gone(&format!("{TABS}/owner")).await;
    assert_eq!(running.get(&format!("{TABS}/part")).await, None, "the dependent went first");

    // Orphan: the dependent stays, without its owner.
    let owner = running.post(TABS, tab("owner")).await;
    running.post(TABS, owned_by(tab("part"), &owner)).await;
    running.delete(&format!("{TABS}/owner"), "Orphan").await;
    running.gone(&format!("{TABS}/owner")).await;
    let part = running.get(&format!("{TABS}/part")).await.expect("the dependent stays");
    assert_eq!(part["metadata"].get("ownerReferences"), None);
}

#[tokio::test]
async fn a_namespace_and_a_definition_take_their_objects_with_them() {
    let running = start().await;
    running.post("/api/v1/namespaces", json!({"metadata": {"name": "other"}})).await;
    running.post(&TABS.replace("default", "other"), tab("a")).await;
    running.post(TABS, tab("b")).await;
    running.delete("/api/v1/namespaces/other", "Background").await;
    running.gone("/api/v1/namespaces/other").await;
    let all = running.get("/apis/example.com/v1/tabs").await.expect("the resource is served");
    assert_eq!(all["items"].as_array().map(Vec::len), Some(1));

    running.delete(&format!("{CRDS}/tabs.example.com"), "Background").await;
    running.gone(&format!("{CRDS}/tabs.example.com")).await;
    running.gone("/apis/example.com/v1/tabs").await;
    let groups = running.get("/apis").await.expect("there are groups").to_string();
    assert!(groups.contains("apiextensions.k8s.io") && !groups.contains("example.com"), "{groups}");
}
