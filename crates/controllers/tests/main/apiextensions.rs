//! CustomResourceDefinitions through a whole API server: they are established, wait for names, and go.

use http::Method;
use knarr_controllers::apiextensions;
use knarr_testkit::Cluster;
use serde_json::{Value, json};
use std::time::Duration;

const URL: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const LIMIT: Duration = Duration::from_secs(20);

fn definition(plural: &str, kind: &str) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": format!("{plural}.test.example.com")},
        "spec": {"group": "test.example.com", "scope": "Namespaced", "names": {"plural": plural, "kind": kind},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema":
                {"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}]}})
}

struct World {
    cluster: Cluster,
}

impl World {
    async fn start() -> Self {
        let cluster = Cluster::start().await;
        apiextensions::start(&cluster.ctx, cluster.admin());
        Self { cluster }
    }

    async fn call(&self, method: Method, url: &str, body: &Value) -> Result<Value, knarr_client::Error> {
        let bytes = self.cluster.admin().call(method, url, body).await?;
        Ok(serde_json::from_slice(&bytes).expect("the server answers JSON"))
    }

    /// Waits until what is at `url` (none: it is gone) satisfies `good`.
    async fn wait(&self, url: &str, good: impl Fn(Option<&Value>) -> bool) -> Option<Value> {
        let clock = self.cluster.ctx.clock.clone();
        let start = clock.instant();
        loop {
            let seen = self.call(Method::GET, url, &Value::Null).await.ok();
            if good(seen.as_ref()) {
                return seen;
            }
            assert!(clock.instant() - start < LIMIT, "{url}: {seen:#?}");
            clock.sleep(Duration::from_millis(20)).await;
        }
    }
}

fn condition(crd: Option<&Value>, type_: &str) -> String {
    let conditions = crd.and_then(|crd| crd["status"]["conditions"].as_array()).into_iter().flatten();
    let found = conditions.into_iter().find(|condition| condition["type"] == type_);
    let text = |condition: &Value, name: &str| condition[name].as_str().unwrap_or_default().to_owned();
    found.map_or_else(String::new, |found| format!("{} {}", text(found, "status"), text(found, "reason")))
}

#[tokio::test]
async fn a_definition_is_established_and_stays_until_its_objects_are_gone() {
    let world = World::start().await;
    let created = world.call(Method::POST, URL, &definition("tabs", "Tab")).await.unwrap();
    assert_eq!(created["status"]["storedVersions"], json!(["v1"]));
    let one = format!("{URL}/tabs.test.example.com");
    let crd =
        world.wait(&one, |crd| condition(crd, "Established") == "True InitialNamesAccepted").await.unwrap();
    assert_eq!(condition(Some(&crd), "NamesAccepted"), "True NoConflicts");
    assert_eq!(
        crd["status"]["acceptedNames"],
        json!({"plural": "tabs", "singular": "tab", "kind": "Tab", "listKind": "TabList"})
    );
    let deleted = world.call(Method::DELETE, &one, &Value::Null).await.unwrap();
    assert_eq!(deleted["metadata"]["finalizers"], json!([apiextensions::FINALIZER]));
    assert_eq!(condition(Some(&deleted), "Terminating"), "True InstanceDeletionPending");
    world.wait(&one, |crd| crd.is_none()).await;
}

#[tokio::test]
async fn objects_go_before_their_definition() {
    let world = World::start().await;
    world.call(Method::POST, URL, &definition("tabs", "Tab")).await.unwrap();
    let one = format!("{URL}/tabs.test.example.com");
    world.wait(&one, |crd| condition(crd, "Established").starts_with("True")).await;
    let tabs = "/apis/test.example.com/v1/namespaces/default/tabs";
    world.wait(tabs, |list| list.is_some()).await;
    let tab = json!({"apiVersion": "test.example.com/v1", "kind": "Tab",
        "metadata": {"name": "held", "finalizers": ["test.example.com/hold"]}});
    world.call(Method::POST, tabs, &tab).await.unwrap();
    world.call(Method::DELETE, &one, &Value::Null).await.unwrap();
    let held = format!("{tabs}/held");
    let mut tab = world
        .wait(&held, |tab| tab.is_some_and(|tab| tab["metadata"]["deletionTimestamp"].is_string()))
        .await
        .unwrap();
    world.wait(&one, |crd| condition(crd, "Terminating") == "True InstanceDeletionInProgress").await;
    tab["metadata"]["finalizers"] = json!([]);
    world.call(Method::PUT, &held, &tab).await.unwrap();
    world.wait(&one, |crd| crd.is_none()).await;
    world.wait(&held, |tab| tab.is_none()).await;
}

#[tokio::test]
async fn a_name_that_is_taken_is_granted_once_it_is_free() {
    let world = World::start().await;
    let mut first = definition("tabs", "Tab");
    first["spec"]["names"]["shortNames"] = json!(["t"]);
    world.call(Method::POST, URL, &first).await.unwrap();
    let first = format!("{URL}/tabs.test.example.com");
    let mut held = world.wait(&first, |crd| condition(crd, "Established").starts_with("True")).await.unwrap();
    let mut second = definition("tubs", "Tub");
    second["spec"]["names"]["shortNames"] = json!(["t"]);
    world.call(Method::POST, URL, &second).await.unwrap();
    let second = format!("{URL}/tubs.test.example.com");
    let crd = world.wait(&second, |crd| condition(crd, "NamesAccepted").starts_with("False")).await;
    assert_eq!(condition(crd.as_ref(), "NamesAccepted"), "False ShortNamesConflict");
    assert_eq!(condition(crd.as_ref(), "Established"), "False NotAccepted");
    held["spec"]["names"]["shortNames"] = json!([]);
    world.call(Method::PUT, &first, &held).await.unwrap();
    world.wait(&second, |crd| condition(crd, "Established") == "True InitialNamesAccepted").await;
    // One that never was served goes without a look for its objects.
    world.call(Method::POST, URL, &definition("tibs", "Tab")).await.unwrap();
    let third = format!("{URL}/tibs.test.example.com");
    let crd = world.wait(&third, |crd| condition(crd, "NamesAccepted").starts_with("False")).await;
    assert_eq!(condition(crd.as_ref(), "NamesAccepted"), "False ListKindConflict");
    world.call(Method::DELETE, &third, &Value::Null).await.unwrap();
    world.wait(&third, |crd| crd.is_none()).await;
}
