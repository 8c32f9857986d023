//! get and list.

use super::*;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

async fn filled() -> Server {
    let server = server();
    for name in ["a", "b", "c", "d", "e"] {
        server.post(MAPS, &map(name, json!({"n": name}))).await.expect(201);
    }
    server.post("/api/v1/namespaces/other/configmaps", &map("z", json!({}))).await.expect(201);
    server
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_list_is_a_concatenation_at_the_latest_revision() {
    let server = filled().await;
    let list = server.get(MAPS).await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert_eq!(names(&list), ["a", "b", "c", "d", "e"]);
    assert!(list["items"][0].get("kind").is_none() && list["items"][0].get("apiVersion").is_none());
    let mut first = server.get(&format!("{MAPS}/a")).await.expect(200);
    let first = first.as_object_mut().unwrap();
    first.remove("kind");
    first.remove("apiVersion");
    assert_eq!(list["items"][0], json!(first));
    assert_eq!(version(&list), server.store.revision());
    assert_eq!(names(&server.get("/api/v1/configmaps").await.expect(200)).len(), 6);
    let empty = server.get("/api/v1/namespaces/none/configmaps").await.expect(200);
    assert_eq!(empty["items"], json!([]));
}

#[tokio::test]
async fn large_objects_are_shared_into_lists_whole() {
    let server = server();
    let text = "x".repeat(5000);
    for name in ["a", "b"] {
        server.post(MAPS, &map(name, json!({"t": text}))).await.expect(201);
    }
    let list = server.get(MAPS).await.expect(200);
    assert_eq!(names(&list), ["a", "b"]);
    assert_eq!(list["items"][1]["data"]["t"], json!(text));
}

#[tokio::test]
async fn pages_show_the_revision_of_the_first_one() {
    let server = filled().await;
    let first = server.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(3)));
    server.delete(&format!("{MAPS}/c"), &Value::Null).await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    let decoded: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).unwrap()).unwrap();
    assert_eq!(decoded, json!({"v": "meta.k8s.io/v1", "rv": version(&first), "start": "b\0"}));
    let second = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!((names(&second), version(&second)), (vec!["c", "d"], version(&first)));
    assert_eq!(second["metadata"]["remainingItemCount"], 1);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&third), ["e"]);
    assert!(
        third["metadata"].get("continue").is_none() && third["metadata"].get("remainingItemCount").is_none()
    );
    let selected = server.get(&format!("{MAPS}?limit=1&fieldSelector=metadata.name!%3Da")).await.expect(200);
    assert_eq!(names(&selected), ["b"]);
    assert!(selected["metadata"].get("remainingItemCount").is_none());
    assert!(
        server
            .get(&format!("{MAPS}?continue=x"))
            .await
            .message(400)
            .starts_with("invalid continue token: continue key is not valid")
    );
}

#[tokio::test]
async fn a_token_outlives_compaction_only_inconsistently() {
    let server = filled().await;
    let first = server.get(&format!("{MAPS}?limit=2")).await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    server.post(MAPS, &map("b2", json!({}))).await.expect(201);
    server.store.compact(server.store.revision()).await.unwrap();
    let gone = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(410);
    assert_eq!(gone["reason"], "Expired");
    assert!(
        gone["message"]
            .as_str()
            .unwrap()
            .starts_with("The provided continue parameter is too old to display a consistent list result.")
    );
    let token = gone["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{MAPS}?continue={token}")).await.expect(200);
    assert_eq!(names(&rest), ["b2", "c", "d", "e"]);
    let old = format!("{MAPS}?resourceVersion=2&resourceVersionMatch=Exact");
    assert_eq!(server.get(&old).await.message(410), "The resourceVersion for the provided list is too old.");
}

#[tokio::test]
async fn lists_can_be_of_a_revision_or_newer() {
    let server = filled().await;
    let early = version(&server.get(&format!("{MAPS}/b")).await.expect(200));
    let exact =
        server.get(&format!("{MAPS}?resourceVersion={early}&resourceVersionMatch=Exact")).await.expect(200);
    assert_eq!((names(&exact), version(&exact)), (vec!["a", "b"], early));
    let limited = server.get(&format!("{MAPS}?resourceVersion={early}&limit=1")).await.expect(200);
    assert_eq!((names(&limited), version(&limited)), (vec!["a"], early));
    for query in [
        format!("resourceVersion={early}"),
        "resourceVersion=0".to_owned(),
        "resourceVersion=0&limit=2".to_owned(),
    ] {
        assert_eq!(names(&server.get(&format!("{MAPS}?{query}")).await.expect(200)).len(), 5, "{query}");
    }
    let future = format!("{MAPS}?resourceVersion=1000&resourceVersionMatch=Exact");
    assert_eq!(
        server.get(&future).await.message(504),
        format!("Timeout: Too large resource version: 1000, current: {}", server.store.revision())
    );
    for (query, message) in [
        (
            "resourceVersionMatch=Exact",
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        ("sendInitialEvents=true", "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
    ] {
        let expected = format!("ListOptions.meta.k8s.io \"\" is invalid: {message}");
        assert_eq!(server.get(&format!("{MAPS}?{query}")).await.message(422), expected);
    }
}

#[tokio::test]
async fn selectors_choose_by_labels_and_fields() {
    let server = server();
    for (name, node) in [("a", "n1"), ("b", "n2"), ("c", "n1")] {
        server.post(PODS, &pod(name, node)).await.expect(201);
    }
    for (query, expected) in [
        ("labelSelector=app%3Da", vec!["a"]),
        ("labelSelector=app%20in%20(a,b)", vec!["a", "b"]),
        ("labelSelector=app!%3Da,app", vec!["b", "c"]),
        ("labelSelector=!app", vec![]),
        ("fieldSelector=spec.nodeName%3Dn1", vec!["a", "c"]),
        ("fieldSelector=spec.nodeName!%3Dn1", vec!["b"]),
        ("fieldSelector=metadata.name%3Db", vec!["b"]),
        ("fieldSelector=metadata.namespace%3Dns,status.phase%3DPending", vec!["a", "b", "c"]),
        ("fieldSelector=metadata.name%3Da,spec.nodeName%3Dn2", vec![]),
    ] {
        let list = server.get(&format!("{PODS}?{query}")).await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
    }
    let all =
        server.get("/api/v1/pods?fieldSelector=metadata.name%3Da,metadata.namespace%3Dns").await.expect(200);
    assert_eq!(names(&all), ["a"]);
    assert_eq!(
        server.get(&format!("{PODS}?fieldSelector=spec.x%3D1")).await.message(400),
        "field label not supported: spec.x"
    );
    assert_eq!(server.get(&format!("{PODS}?labelSelector=a%20in%20x")).await.code, 400);
}

#[tokio::test]
async fn what_upstream_stored_is_served() {
    let server = server();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "p", "namespace": "ns", "uid": "u"}, "data": {"k": "v"}});
    let values = [knarr_api::proto::encode(&object).unwrap(), object.to_string().into_bytes()];
    for (name, value) in ["p", "q"].iter().zip(values) {
        let key = format!("/registry/configmaps/ns/{name}");
        server.store.put(key.into(), knarr_store::Expect::Absent, value.into(), 0).await.unwrap();
        let got = server.get(&format!("{MAPS}/{name}")).await.expect(200);
        assert_eq!((&got["data"], &got["kind"]), (&json!({"k": "v"}), &json!("ConfigMap")));
    }
    assert_eq!(server.get(MAPS).await.expect(200)["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_servers_own_reads_see_every_write_at_once() {
    let server = server();
    let reader = server.registry.reader();
    assert!(reader.get("", "configmaps", "ns", "a").is_none());
    let created = server.post(MAPS, &map("a", json!({}))).await.expect(201);
    assert_eq!(*reader.get("", "configmaps", "ns", "a").unwrap(), created);
    assert_eq!(reader.list("", "configmaps", "").len(), 1);
    assert_eq!(reader.list("", "configmaps", "other").len(), 0);
    server.registry.warm(&[("", "configmaps")]).await;
    assert_eq!(reader.revision("", "configmaps"), version(&created));
    for (name, node) in [("p", "n1"), ("q", "n2"), ("r", "n1")] {
        server.post(PODS, &pod(name, node)).await.expect(201);
        let listed = reader.list_where("", "pods", "ns", "spec.nodeName", "n1");
        assert!(listed.iter().all(|pod| pod["spec"]["nodeName"] == "n1"));
    }
    server.registry.warm(&[("", "pods")]).await;
    for node in ["n1", "n2", "n3"] {
        let moved = json!({"spec": {"nodeName": node}});
        server.patch("merge-patch+json", &format!("{PODS}/p"), &moved).await.expect(200);
        let names = |node: &str| {
            let listed = reader.list_where("", "pods", "", "spec.nodeName", node);
            listed.iter().map(|pod| object::name(pod).to_owned()).collect::<Vec<_>>()
        };
        assert!(names(node).contains(&"p".to_owned()), "p is on {node}");
        assert_eq!(names("n1").contains(&"p".to_owned()), node == "n1");
        assert!(names("n1").contains(&"r".to_owned()) && names("none").is_empty());
    }
    assert!(reader.get("", "nothing", "", "a").is_none() && reader.list("x", "y", "").is_empty());
}
