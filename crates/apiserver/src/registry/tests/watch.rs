//! watch.

use super::*;
use knarr_base::{Ctx, ManualClock};
use std::time::{Duration, SystemTime};

#[tokio::test]
async fn a_watch_tells_additions_changes_and_deletions_in_order() {
    let server = server();
    let created = server.post(MAPS, &map("a", json!({}))).await.expect(201);
    let mut from_start = server.watch(&format!("{MAPS}?watch=true&resourceVersion=0")).await;
    let mut after = server.watch(&format!("{MAPS}?watch=true&resourceVersion={}", version(&created))).await;
    let patched = server
        .patch("merge-patch+json", &format!("{MAPS}/a"), &json!({"data": {"x": "1"}}))
        .await
        .expect(200);
    server.post("/api/v1/namespaces/other/configmaps", &map("z", json!({}))).await.expect(201);
    server.delete(&format!("{MAPS}/a"), &Value::Null).await.expect(200);
    assert_eq!(from_start.names(3).await, ["ADDED a", "MODIFIED a", "DELETED a"]);
    let modified = after.next().await.unwrap();
    assert_eq!(modified, json!({"type": "MODIFIED", "object": patched}));
    let deleted = after.next().await.unwrap();
    assert_eq!((&deleted["type"], &deleted["object"]["data"]), (&json!("DELETED"), &json!({"x": "1"})));
    assert_eq!(version(&deleted["object"]), server.store.revision(), "a deletion has a revision of its own");
}

#[tokio::test]
async fn an_object_that_stops_matching_is_deleted_for_that_watch() {
    let server = server();
    let mut nodes = server.watch("/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn1").await;
    let mut labels = server.watch(&format!("{PODS}?watch=1&labelSelector=app%3Dp")).await;
    let mut one = server.watch(&format!("{PODS}?watch=1&fieldSelector=metadata.name%3Dp")).await;
    server.post(PODS, &pod("other", "n2")).await.expect(201);
    let created = server.post(PODS, &pod("p", "n1")).await.expect(201);
    let url = format!("{PODS}/p");
    server.patch("merge-patch+json", &url, &json!({"spec": {"nodeName": "n2"}})).await.expect(200);
    server.patch("merge-patch+json", &url, &json!({"metadata": {"labels": {"app": "x"}}})).await.expect(200);
    server.patch("merge-patch+json", &url, &json!({"spec": {"nodeName": "n1"}})).await.expect(200);
    assert_eq!(nodes.next().await.unwrap()["object"], created);
    let gone = nodes.next().await.unwrap();
    assert_eq!((&gone["type"], &gone["object"]["spec"]["nodeName"]), (&json!("DELETED"), &json!("n1")));
    assert_eq!(version(&gone["object"]), version(&created) + 1);
    assert_eq!(nodes.names(1).await, ["ADDED p"]);
    assert_eq!(labels.names(3).await, ["ADDED p", "MODIFIED p", "DELETED p"]);
    assert_eq!(one.names(4).await, ["ADDED p", "MODIFIED p", "MODIFIED p", "MODIFIED p"]);
}

#[tokio::test]
async fn a_watch_list_ends_its_state_with_a_bookmark() {
    let server = server();
    server.post(MAPS, &map("a", json!({}))).await.expect(201);
    server.post(MAPS, &map("b", json!({}))).await.expect(201);
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = server.watch(&format!("{MAPS}?{query}")).await;
    assert_eq!(watch.names(2).await, ["ADDED a", "ADDED b"]);
    let mark = watch.next().await.unwrap();
    assert_eq!(
        mark,
        json!({"type": "BOOKMARK", "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {
            "resourceVersion": server.store.revision().to_string(),
            "annotations": {"k8s.io/initial-events-end": "true"}}}})
    );
    server.post(MAPS, &map("c", json!({}))).await.expect(201);
    assert_eq!(watch.names(1).await, ["ADDED c"]);
    assert_eq!(
        server.get(&format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersion=5")).await.message(422),
        "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
    );
}

#[tokio::test]
async fn a_revision_that_is_forgotten_is_gone() {
    let server = server();
    for name in ["a", "b", "c"] {
        server.post(MAPS, &map(name, json!({}))).await.expect(201);
    }
    // The cache starts now, so it knows nothing of what was before.
    server.get(MAPS).await.expect(200);
    let mut late = server.watch(&format!("{MAPS}?watch=1&resourceVersion=2")).await;
    assert_eq!(late.names(2).await, ["ADDED b", "ADDED c"], "the store still knows");
    server.post(MAPS, &map("d", json!({}))).await.expect(201);
    assert_eq!(late.names(1).await, ["ADDED d"]);
    server.store.compact(server.store.revision()).await.unwrap();
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion=2")).await;
    let error = watch.next().await.unwrap();
    assert_eq!(
        (&error["type"], &error["object"]["code"], &error["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    assert_eq!(
        error["object"]["message"],
        format!("too old resource version: 2 ({})", server.store.revision())
    );
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn bookmarks_come_each_minute_and_before_the_end() {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH);
    let ctx = Ctx { clock: clock.clone(), ..Ctx::system() };
    let server = Server::with(ctx, defs(), Vec::new());
    server.post(MAPS, &map("a", json!({}))).await.expect(201);
    let url = format!("{MAPS}?watch=1&resourceVersion=0&allowWatchBookmarks=true&timeoutSeconds=100");
    let mut watch = server.watch(&url).await;
    assert_eq!(watch.names(1).await, ["ADDED a"]);
    let end = watch.next().await.unwrap();
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    server.post(PODS, &pod("p", "")).await.expect(201);
    let revision = server.store.revision();
    server.get(MAPS).await.expect(200);
    let mut next = Box::pin(watch.next());
    assert!(futures_util::poll!(&mut next).is_pending());
    clock.advance(Duration::from_secs(76));
    let bookmark = next.await.unwrap();
    assert_eq!((&bookmark["type"], version(&bookmark["object"])), (&json!("BOOKMARK"), revision));
    server.post(MAPS, &map("b", json!({}))).await.expect(201);
    assert_eq!(watch.names(1).await, ["ADDED b"]);
    server.post(PODS, &pod("q", "")).await.expect(201);
    server.get(MAPS).await.expect(200);
    let mut next = Box::pin(watch.next());
    assert!(futures_util::poll!(&mut next).is_pending());
    clock.advance(Duration::from_secs(23));
    let last = next.await.unwrap();
    assert_eq!((&last["type"], version(&last["object"])), (&json!("BOOKMARK"), server.store.revision()));
    let mut next = Box::pin(watch.next());
    assert!(futures_util::poll!(&mut next).is_pending());
    clock.advance(Duration::from_secs(2));
    assert!(next.await.is_none());
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_off() {
    let server = server();
    let mut watch = server.watch(&format!("{MAPS}?watch=1")).await;
    server.post(MAPS, &map("a", json!({}))).await.expect(201);
    for i in 0..1200 {
        let patch = json!({"data": {"n": i.to_string()}});
        server.patch("merge-patch+json", &format!("{MAPS}/a"), &patch).await.expect(200);
        if i % 100 == 0 {
            server.get(MAPS).await.expect(200);
        }
    }
    server.get(MAPS).await.expect(200);
    let mut events = 0;
    while watch.next().await.is_some() {
        events += 1;
    }
    assert!((1000..1200).contains(&events), "{events} events before the end");
}

#[tokio::test]
async fn watches_speak_protobuf_and_tables() {
    let server = server();
    let created = server.post(MAPS, &map("a", json!({"k": "v"}))).await.expect(201);
    let url = format!("{MAPS}?watch=1&resourceVersion=0");
    let mut proto = server.watch_as(&url, "application/vnd.kubernetes.protobuf;stream=watch").await;
    let (kind, object) = proto.next_proto().await.unwrap();
    assert_eq!((kind.as_str(), &object["data"]), ("ADDED", &created["data"]));
    assert_eq!(object["metadata"]["resourceVersion"], created["metadata"]["resourceVersion"]);
    let mut table = server.watch_as(&url, "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let first = table.next().await.unwrap();
    assert_eq!(
        (&first["object"]["kind"], &first["object"]["rows"][0]["cells"][0]),
        (&json!("Table"), &json!("a"))
    );
    assert!(first["object"]["columnDefinitions"].is_array());
    let mut partial =
        server.watch_as(&url, "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io").await;
    let meta = partial.next().await.unwrap();
    assert_eq!(meta["object"]["metadata"], created["metadata"]);
    server.post(MAPS, &map("b", json!({}))).await.expect(201);
    assert_eq!(table.next().await.unwrap()["object"]["columnDefinitions"], Value::Null);
    assert_eq!(proto.next_proto().await.unwrap().1["metadata"]["name"], "b");
    assert_eq!(partial.names(1).await, ["ADDED b"]);
}
