//! Quotas against the whole chain of admission: texts, dry runs, and writes that come at once. The status that the
//! controller would write is written by hand.

use crate::world::World;
use futures_util::future::join_all;
use serde_json::{Value, json};

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A quota whose use has been counted.
async fn quota(world: &World, name: &str, hard: Value, used: Value) {
    let quota = json!({ "metadata": { "name": name }, "spec": { "hard": hard } });
    world.post(QUOTAS, &quota).await.ok();
    let status = json!({ "status": { "hard": hard, "used": used } });
    world.patch(&format!("{QUOTAS}/{name}/status"), "merge-patch+json", &status).await.ok();
}

async fn used(world: &World, name: &str) -> Value {
    world.get(&format!("{QUOTAS}/{name}")).await.ok()["status"]["used"].clone()
}

#[tokio::test]
async fn writes_are_charged_and_refused() {
    let world = World::new().await;
    quota(
        &world,
        "a",
        json!({ "pods": "2", "requests.cpu": "1" }),
        json!({ "pods": "0", "requests.cpu": "0" }),
    )
    .await;
    let pods = "/api/v1/namespaces/default/pods";
    let pod = |name: &str, cpu: &str| {
        json!({ "metadata": { "name": name }, "spec": { "containers": [
            { "name": "main", "image": "i", "resources": { "requests": { "cpu": cpu } } }] } })
    };
    world.post(&format!("{pods}?dryRun=All"), &pod("dry", "700m")).await.ok();
    assert_eq!(used(&world, "a").await, json!({ "pods": "0", "requests.cpu": "0" }));
    world.post(pods, &pod("one", "700m")).await.ok();
    assert_eq!(used(&world, "a").await, json!({ "pods": "1", "requests.cpu": "700m" }));
    let refused = world.post(pods, &pod("two", "700m")).await.refused(403);
    assert_eq!(
        refused,
        "pods \"two\" is forbidden: exceeded quota: a, requested: requests.cpu=700m, used: requests.cpu=700m, limited: requests.cpu=1"
    );
    let mut silent = pod("three", "0");
    silent["spec"]["containers"][0]["resources"] = json!({});
    assert_eq!(
        world.post(pods, &silent).await.refused(403),
        "pods \"three\" is forbidden: failed quota: a: must specify requests.cpu for: main"
    );
    let refused = world.post(&format!("{pods}?dryRun=All"), &pod("dry", "700m")).await.refused(403);
    assert!(refused.contains("exceeded quota"), "{refused}");
    // One that nobody has counted yet holds writes up.
    let fresh = json!({ "metadata": { "name": "b" }, "spec": { "hard": { "configmaps": "1" } } });
    world.post(QUOTAS, &fresh).await.ok();
    world.post(CONFIG_MAPS, &json!({ "metadata": { "name": "free" } })).await.ok();
    let hard = json!({ "status": { "hard": { "configmaps": "1" } } });
    world.patch(&format!("{QUOTAS}/b/status"), "merge-patch+json", &hard).await.ok();
    let refused = world.post(CONFIG_MAPS, &json!({ "metadata": { "name": "held" } })).await.refused(403);
    assert_eq!(
        refused,
        "configmaps \"held\" is forbidden: status unknown for quota: b, resources: configmaps"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_come_at_once_never_exceed() {
    let world = World::new().await;
    let hard = json!({ "count/configmaps": "10" });
    quota(&world, "a", hard, json!({ "count/configmaps": "0" })).await;
    quota(&world, "b", json!({ "configmaps": "25" }), json!({ "configmaps": "0" })).await;
    let create = |i: usize| {
        let world = &world;
        async move {
            // Somebody else changes the quota meanwhile, so that charges meet conflicts.
            if i.is_multiple_of(8) {
                let label = json!({ "metadata": { "labels": { "turn": i.to_string() } } });
                world.patch(&format!("{QUOTAS}/a"), "merge-patch+json", &label).await.ok();
            }
            world.post(CONFIG_MAPS, &json!({ "metadata": { "generateName": "c-" } })).await
        }
    };
    let answers = join_all((0..64).map(create)).await;
    assert_eq!(answers.iter().filter(|a| a.code == 201).count(), 10);
    assert!(answers.iter().all(|a| matches!(a.code, 201 | 403)));
    assert_eq!(used(&world, "a").await, json!({ "count/configmaps": "10" }));
    let listed = world.get(CONFIG_MAPS).await.ok();
    let made = listed["items"].as_array().unwrap().iter();
    assert_eq!(made.filter(|c| c["metadata"]["name"].as_str().unwrap().starts_with("c-")).count(), 10);
}
