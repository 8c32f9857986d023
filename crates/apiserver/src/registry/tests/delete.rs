//! delete and deletecollection.

use super::*;

#[tokio::test]
async fn preconditions_hold_a_deletion_back() {
    let server = server();
    let created = server.post(MAPS, &map("a", json!({}))).await.expect(201);
    let url = format!("{MAPS}/a");
    let uid = created["metadata"]["uid"].as_str().unwrap();
    for (preconditions, message) in [
        (
            json!({"uid": "other"}),
            format!(
                "Operation cannot be fulfilled on ConfigMap \"a\": the UID in the precondition (other) does not match the UID in record ({uid}). The object might have been deleted and then recreated"
            ),
        ),
        (
            json!({"resourceVersion": "1"}),
            format!(
                "Operation cannot be fulfilled on ConfigMap \"a\": the ResourceVersion in the precondition (1) does not match the ResourceVersion in record ({}). The object might have been modified",
                version(&created)
            ),
        ),
    ] {
        let reply = server.delete(&url, &json!({"preconditions": preconditions})).await;
        assert_eq!(reply.message(409), message);
    }
    server.delete(&url, &json!({"preconditions": {"uid": uid}})).await.expect(200);
    assert_eq!(
        server.delete(&url, &json!({"propagationPolicy": "x"})).await.message(422),
        "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: \"x\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\""
    );
}

#[tokio::test]
async fn finalizers_keep_an_object_until_the_last_is_gone() {
    let server = server();
    let mut held = map("a", json!({}));
    held["metadata"]["finalizers"] = json!(["example.com/f"]);
    server.post(MAPS, &held).await.expect(201);
    let url = format!("{MAPS}/a");
    let deleting = server.delete(&url, &Value::Null).await.expect(200);
    assert!(deleting["metadata"]["deletionTimestamp"].is_string());
    assert_eq!(deleting["metadata"]["deletionGracePeriodSeconds"], 0);
    let again = server.post(MAPS, &map("a", json!({}))).await;
    assert_eq!(again.message(409), "object is being deleted: configmaps \"a\" already exists");
    let more = json!({"metadata": {"finalizers": ["example.com/f", "example.com/g"]}});
    assert_eq!(server.patch("merge-patch+json", &url, &more).await.code, 422);
    let last =
        server.patch("merge-patch+json", &url, &json!({"metadata": {"finalizers": []}})).await.expect(200);
    assert_eq!(last["metadata"]["name"], "a");
    server.get(&url).await.expect(404);
}

#[tokio::test]
async fn propagation_is_told_to_the_garbage_collector_by_finalizers() {
    let server = server();
    let url = format!("{DEPLOYMENTS}/d");
    for (options, finalizers) in [
        (json!({"propagationPolicy": "Foreground"}), Some(json!(["foregroundDeletion"]))),
        (json!({"propagationPolicy": "Orphan"}), Some(json!(["orphan"]))),
        (json!({"orphanDependents": true}), Some(json!(["orphan"]))),
        (json!({"propagationPolicy": "Background"}), None),
        (Value::Null, None),
    ] {
        server.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
        let reply = server.delete(&url, &options).await.expect(200);
        let Some(finalizers) = finalizers else {
            assert_eq!(
                (&reply["status"], &reply["details"]["kind"], &reply["details"]["group"]),
                (&json!("Success"), &json!("deployments"), &json!("apps"))
            );
            server.get(&url).await.expect(404);
            continue;
        };
        assert_eq!(reply["metadata"]["finalizers"], finalizers, "{options}");
        assert_eq!(reply["metadata"]["generation"], 2);
        server.patch("merge-patch+json", &url, &json!({"metadata": {"finalizers": null}})).await.expect(200);
        server.get(&url).await.expect(404);
    }
}

#[tokio::test]
async fn a_grace_period_can_only_be_shortened() {
    let server = server();
    let url = format!("{PODS}/p");
    server.post(PODS, &pod("p", "node")).await.expect(201);
    let first = server.delete(&url, &Value::Null).await.expect(200);
    assert_eq!(
        (&first["kind"], &first["metadata"]["deletionGracePeriodSeconds"]),
        (&json!("Pod"), &json!(30))
    );
    let longer = server.delete(&url, &json!({"gracePeriodSeconds": 60})).await.expect(200);
    assert_eq!(version(&longer), version(&first));
    let shorter = server.delete(&url, &json!({"gracePeriodSeconds": 5})).await.expect(200);
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    assert!(
        shorter["metadata"]["deletionTimestamp"].as_str() < first["metadata"]["deletionTimestamp"].as_str()
    );
    let mut watch = server.watch(&format!("{PODS}?watch=1&resourceVersion={}", version(&shorter))).await;
    let last = server.delete(&url, &json!({"gracePeriodSeconds": 0})).await.expect(200);
    assert_eq!(last["metadata"]["name"], "p");
    server.get(&url).await.expect(404);
    assert_eq!(watch.names(2).await, ["MODIFIED p", "DELETED p"]);

    server.post(PODS, &pod("q", "")).await.expect(201);
    server.delete(&format!("{PODS}/q"), &Value::Null).await.expect(200);
    server.get(&format!("{PODS}/q")).await.expect(404);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = server();
    for name in ["a", "b", "c"] {
        let mut labelled = map(name, json!({}));
        labelled["metadata"]["labels"] = json!({"keep": if name == "c" { "yes" } else { "no" }});
        server.post(MAPS, &labelled).await.expect(201);
    }
    let deleted = server.delete(&format!("{MAPS}?labelSelector=keep%3Dno"), &Value::Null).await.expect(200);
    assert_eq!((&deleted["kind"], deleted["items"].as_array().unwrap().len()), (&json!("ConfigMapList"), 2));
    let left = server.get(MAPS).await.expect(200);
    assert_eq!(left["items"].as_array().unwrap().len(), 1);
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
}
