//! create, update and patch.

use super::*;

#[tokio::test]
async fn an_object_lives_through_create_get_update_patch_and_delete() {
    let server = server();
    let created = server.post(MAPS, &map("a", json!({"x": "1"}))).await.expect(201);
    assert_eq!((&created["kind"], &created["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    assert_eq!(created["metadata"]["namespace"], "ns");
    assert_eq!(created["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert!(created["metadata"]["creationTimestamp"].is_string());
    let url = format!("{MAPS}/a");
    assert_eq!(server.get(&url).await.expect(200), created);

    let mut changed = created.clone();
    changed["data"]["x"] = json!("2");
    let updated = server.put(&url, &changed).await.expect(200);
    assert!(version(&updated) > version(&created));
    assert_eq!(
        server.put(&url, &changed).await.message(409),
        "Operation cannot be fulfilled on configmaps \"a\": the object has been modified; please apply your changes to the latest version and try again"
    );
    let merged = server.patch("merge-patch+json", &url, &json!({"data": {"y": "3"}})).await.expect(200);
    assert_eq!(merged["data"], json!({"x": "2", "y": "3"}));

    let deleted = server.delete(&url, &Value::Null).await.expect(200);
    assert_eq!(
        (&deleted["status"], &deleted["details"]),
        (&json!("Success"), &json!({"name": "a", "kind": "configmaps", "uid": created["metadata"]["uid"]}))
    );
    assert_eq!(server.get(&url).await.message(404), "configmaps \"a\" not found");
    assert_eq!(server.delete(&url, &Value::Null).await.message(404), "configmaps \"a\" not found");
}

#[tokio::test]
async fn bad_objects_are_refused_in_upstreams_words() {
    let server = server();
    let named = |name: &str| map(name, json!({}));
    server.post(MAPS, &named("taken")).await.expect(201);
    let mut elsewhere = named("a");
    elsewhere["metadata"]["namespace"] = json!("other");
    let mut versioned = named("a");
    versioned["metadata"]["resourceVersion"] = json!("5");
    for (object, code, message) in [
        (named("taken"), 409, "configmaps \"taken\" already exists"),
        (
            elsewhere,
            400,
            "the namespace of the provided object does not match the namespace sent on the request",
        ),
        (versioned, 500, "resourceVersion should not be set on objects to be created"),
        (
            map("a", json!({"bad": "1"})),
            422,
            "ConfigMap \"a\" is invalid: data[bad]: Invalid value: \"bad\": is bad",
        ),
        (
            json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {}}),
            422,
            "ConfigMap \"\" is invalid: metadata.name: Required value: name or generateName is required",
        ),
        (
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}}),
            400,
            "Pod in version \"v1\" cannot be handled as a ConfigMap: converting (v1.Pod) to (core.ConfigMap): unknown conversion",
        ),
        (
            json!({"kind": "ConfigMap", "apiVersion": "v2", "metadata": {"name": "a"}}),
            400,
            "ConfigMap in version \"v2\" cannot be handled as a ConfigMap: no kind \"ConfigMap\" is registered for version \"v2\" in scheme \"pkg/api/legacyscheme/scheme.go:30\"",
        ),
        (
            map("a", json!({"x": 1})),
            400,
            "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
    ] {
        let reply = server.post(MAPS, &object).await;
        assert_eq!(reply.message(code), message, "{object}");
    }
    let cut = server.send("POST", MAPS, &[], "{\"kind\":").await;
    assert_eq!(
        cut.message(400),
        "the object provided is unrecognized (must be of type ConfigMap): couldn't get version/kind; json parse error: unexpected end of JSON input ({\"kind\":)"
    );
    let text = server.send("POST", MAPS, &[("content-type", "text/plain")], "x").await;
    assert_eq!(
        text.message(415),
        "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
    let other =
        server.send("PATCH", &format!("{MAPS}/taken"), &[("content-type", "application/json")], "{}").await;
    assert_eq!(
        other.message(415),
        "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml"
    );
}

#[tokio::test]
async fn names_are_generated_and_missing_types_filled_in() {
    let server = server();
    let created = server.post(MAPS, &json!({"metadata": {"generateName": "web-"}})).await.expect(201);
    let name = created["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("web-") && name.len() == 9, "{name}");
    assert_eq!(created["kind"], "ConfigMap");
}

#[tokio::test]
async fn unknown_and_duplicate_fields_are_dropped_warned_of_or_refused() {
    let server = server();
    let body = r#"{"metadata":{"name":"a","name":"a"},"data":{"k":"v"},"nope":1}"#;
    let post = async |query: &str| server.send("POST", &format!("{MAPS}?dryRun=All{query}"), &[], body).await;
    let warned = post("").await;
    assert_eq!(warned.expect(201).get("nope"), None);
    assert_eq!(warned.warnings(), ["duplicate field \"metadata.name\"", "unknown field \"nope\""]);
    let ignored = post("&fieldValidation=Ignore").await;
    ignored.expect(201);
    assert!(ignored.warnings().is_empty());
    assert_eq!(
        post("&fieldValidation=Strict").await.message(400),
        "ConfigMap in version \"v1\" cannot be handled as a ConfigMap: strict decoding error: duplicate field \"metadata.name\", unknown field \"nope\""
    );
    assert_eq!(
        post("&fieldValidation=x").await.message(422),
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldValidation: Unsupported value: \"x\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\""
    );
    let yaml = "metadata:\n  name: a\n  name: a\nnope: 1\n";
    let url = format!("{MAPS}?dryRun=All");
    let warned = server.send("POST", &url, &[("content-type", "application/yaml")], yaml).await;
    assert_eq!(warned.warnings(), ["line 3: key \"name\" already set in map", "unknown field \"nope\""]);
    let odd = server.post(MAPS, &map("odd", json!({"odd": "1"}))).await;
    assert_eq!(odd.warnings(), ["data[odd]: is odd"]);
}

#[tokio::test]
async fn a_dry_run_answers_like_the_write_and_stores_nothing() {
    let server = server();
    let dry = format!("{MAPS}?dryRun=All");
    let created = server.post(&dry, &map("a", json!({}))).await.expect(201);
    assert!(created["metadata"]["uid"].is_string() && created["metadata"]["resourceVersion"].is_null());
    server.get(&format!("{MAPS}/a")).await.expect(404);
    let stored = server.post(MAPS, &map("a", json!({"x": "1"}))).await.expect(201);
    assert_eq!(server.post(&dry, &map("a", json!({}))).await.code, 409);
    let url = format!("{MAPS}/a?dryRun=All");
    let patched = server.patch("merge-patch+json", &url, &json!({"data": {"x": "2"}})).await.expect(200);
    assert_eq!(patched["data"]["x"], "2");
    server.delete(&url, &Value::Null).await.expect(200);
    server.delete(&format!("{MAPS}/a"), &json!({"dryRun": ["All"]})).await.expect(200);
    assert_eq!(server.get(&format!("{MAPS}/a")).await.expect(200), stored);
}

#[tokio::test]
async fn an_update_that_changes_nothing_keeps_the_version() {
    let server = server();
    let created = server.post(MAPS, &map("a", json!({"x": "1"}))).await.expect(201);
    let url = format!("{MAPS}/a");
    for reply in [
        server.put(&url, &created).await,
        server.patch("merge-patch+json", &url, &json!({"data": {"x": "1"}})).await,
        server.patch("json-patch+json", &url, &json!([])).await,
        server.patch("strategic-merge-patch+json", &url, &json!({})).await,
    ] {
        assert_eq!(version(&reply.expect(200)), version(&created));
    }
}

#[tokio::test]
async fn updates_keep_what_only_the_server_sets() {
    let server = server();
    let created = server.post(MAPS, &map("a", json!({}))).await.expect(201);
    let url = format!("{MAPS}/a");
    let mut bare = map("a", json!({"x": "1"}));
    let updated = server.put(&url, &bare).await.expect(200);
    for name in ["uid", "creationTimestamp"] {
        assert_eq!(updated["metadata"][name], created["metadata"][name], "{name}");
    }
    bare["metadata"]["uid"] = json!("other");
    let message = server.put(&url, &bare).await.message(409);
    assert!(
        message.ends_with(&format!(
            "Precondition failed: UID in precondition: other, UID in object meta: {}",
            created["metadata"]["uid"].as_str().unwrap()
        )),
        "{message}"
    );
    assert_eq!(
        server.put(&url, &map("b", json!({}))).await.message(400),
        "the name of the object (b) does not match the name on the URL (a)"
    );
    assert_eq!(server.put(&format!("{MAPS}/none"), &map("none", json!({}))).await.code, 404);
}

#[tokio::test]
async fn kinds_may_allow_creation_by_update_and_insist_on_a_version() {
    let server = server();
    let lease = json!({"kind": "Lease", "apiVersion": "coordination.k8s.io/v1", "metadata": {"name": "a"},
        "spec": {"holderIdentity": "x"}});
    let url = format!("{LEASES}/a");
    let created = server.put(&url, &lease).await.expect(201);
    assert_eq!(created["metadata"]["namespace"], "ns");
    assert_eq!(
        server.put(&url, &lease).await.message(422),
        "leases.coordination.k8s.io \"a\" is invalid: metadata.resourceVersion: Invalid value: 0: must be specified for an update"
    );
    server.put(&url, &created).await.expect(200);
}

#[tokio::test]
async fn status_and_spec_are_written_apart_and_generation_counts_the_spec() {
    let server = server();
    let url = format!("{DEPLOYMENTS}/d");
    let mut given = deployment("d");
    given["status"] = json!({"replicas": 9});
    let created = server.post(DEPLOYMENTS, &given).await.expect(201);
    assert_eq!((&created["metadata"]["generation"], &created["status"]), (&json!(1), &json!({})));
    assert_eq!(created["spec"]["replicas"], 1);

    let status = server
        .patch(
            "merge-patch+json",
            &format!("{url}/status"),
            &json!({"status": {"replicas": 2}, "spec": {"replicas": 7}}),
        )
        .await
        .expect(200);
    assert_eq!((&status["status"]["replicas"], &status["spec"]["replicas"]), (&json!(2), &json!(1)));
    assert_eq!(status["metadata"]["generation"], 1);

    let spec = server
        .patch(
            "strategic-merge-patch+json",
            &url,
            &json!({"spec": {"replicas": 3}, "status": {"replicas": 5}}),
        )
        .await
        .expect(200);
    assert_eq!((&spec["status"]["replicas"], &spec["spec"]["replicas"]), (&json!(2), &json!(3)));
    assert_eq!(spec["metadata"]["generation"], 2);
    let labelled = server.patch("merge-patch+json", &url, &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(labelled.expect(200)["metadata"]["generation"], 2);
}

#[tokio::test]
async fn a_scale_is_a_view_on_its_parent() {
    let server = server();
    server.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    let url = format!("{DEPLOYMENTS}/d/scale");
    let scale = server.get(&url).await.expect(200);
    assert_eq!((&scale["kind"], &scale["apiVersion"]), (&json!("Scale"), &json!("autoscaling/v1")));
    assert_eq!((&scale["spec"], &scale["status"]["selector"]), (&json!({"replicas": 1}), &json!("app=d")));
    let mut wanted = scale.clone();
    wanted["spec"]["replicas"] = json!(4);
    let put = server.put(&url, &wanted).await.expect(200);
    assert_eq!(put["spec"]["replicas"], 4);
    assert_eq!(server.put(&url, &wanted).await.code, 409);
    let patched = server.patch("merge-patch+json", &url, &json!({"spec": {"replicas": 6}})).await.expect(200);
    assert_eq!(patched["spec"]["replicas"], 6);
    let parent = server.get(&format!("{DEPLOYMENTS}/d")).await.expect(200);
    assert_eq!((&parent["spec"]["replicas"], &parent["metadata"]["generation"]), (&json!(6), &json!(3)));
    let negative = server.patch("merge-patch+json", &url, &json!({"spec": {"replicas": -1}})).await;
    assert_eq!(
        negative.message(422),
        "Scale.autoscaling \"d\" is invalid: spec.replicas: Invalid value: -1: must be greater than or equal to 0"
    );
}

#[tokio::test]
async fn every_kind_of_patch_is_applied_and_checked() {
    let server = server();
    server.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    let url = format!("{DEPLOYMENTS}/d");
    let ops = json!([{"op": "replace", "path": "/spec/replicas", "value": 5}]);
    assert_eq!(server.patch("json-patch+json", &url, &ops).await.expect(200)["spec"]["replicas"], 5);
    let containers = json!({"spec": {"template": {"spec": {"containers": [{"name": "d", "image": "j"}]}}}});
    let merged = server.patch("strategic-merge-patch+json", &url, &containers).await.expect(200);
    assert_eq!(merged["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 2);
    let replaced = server.patch("merge-patch+json", &url, &containers).await.expect(200);
    assert_eq!(replaced["spec"]["template"]["spec"]["containers"].as_array().unwrap().len(), 1);

    let wrong = server.patch("merge-patch+json", &url, &json!({"spec": {"replicas": "x"}})).await;
    assert!(
        wrong.message(422).contains("json: cannot unmarshal string into Go struct field"),
        "{}",
        wrong.message(422)
    );
    let unknown = json!({"spec": {"foo": 1}});
    let warned = server.patch("merge-patch+json", &format!("{url}?dryRun=All"), &unknown).await;
    assert_eq!(warned.warnings(), ["unknown field \"spec.foo\""]);
    let strict = server.patch("merge-patch+json", &format!("{url}?fieldValidation=Strict"), &unknown).await;
    assert!(
        strict.message(422).ends_with("strict decoding error: unknown field \"spec.foo\""),
        "{}",
        strict.message(422)
    );
    let odd = r#"[{"op":"add","path":"/x","path":"/spec/foo","value":1,"why":2}]"#;
    let odd = server
        .send("PATCH", &format!("{url}?dryRun=All"), &[("content-type", "application/json-patch+json")], odd)
        .await;
    assert_eq!(
        odd.warnings(),
        [
            "json patch unknown field \"[0].why\"",
            "json patch duplicate field \"[0].path\"",
            "unknown field \"spec.foo\""
        ]
    );
    let stale = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 1}});
    assert_eq!(server.patch("merge-patch+json", &url, &stale).await.code, 409);
    assert_eq!(server.patch("merge-patch+json", &format!("{DEPLOYMENTS}/none"), &json!({})).await.code, 404);
    assert_eq!(
        server
            .send("PATCH", &url, &[("content-type", "application/merge-patch+json")], "{")
            .await
            .message(400),
        "error decoding patch: unexpected end of JSON input"
    );
    let force = server.patch("merge-patch+json", &format!("{url}?force=true"), &json!({})).await;
    assert_eq!(
        force.message(422),
        "PatchOptions.meta.k8s.io \"\" is invalid: force: Forbidden: may not be specified for non-apply patch"
    );
    let nameless = server.patch("apply-patch+yaml", &url, &deployment("d")).await;
    assert_eq!(
        nameless.message(422),
        "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch"
    );
}

#[tokio::test]
async fn concurrent_patches_all_succeed() {
    let server = server();
    server.post(MAPS, &map("a", json!({}))).await.expect(201);
    let patches = (0..16).map(|i| {
        let server = server.clone();
        async move {
            let patch = json!({"data": {format!("k{i}"): "v"}});
            server.patch("merge-patch+json", &format!("{MAPS}/a"), &patch).await.code
        }
    });
    let codes = futures_util::future::join_all(patches).await;
    assert!(codes.iter().all(|code| *code == 200), "{codes:?}");
    let data = server.get(&format!("{MAPS}/a")).await.expect(200)["data"].take();
    assert_eq!(data.as_object().unwrap().len(), 16);
}

#[tokio::test]
async fn admission_changes_and_refuses_writes_of_every_kind() {
    let server = admitting_server();
    let marked = |value: &Value| value["metadata"]["annotations"]["marked"].clone();
    let created = server.post(MAPS, &map("a", json!({}))).await.expect(201);
    assert_eq!(marked(&created), "Create");
    let url = format!("{MAPS}/a");
    let patched = server.patch("merge-patch+json", &url, &json!({"data": {"x": "1"}})).await.expect(200);
    assert_eq!(marked(&patched), "Update");
    let refuse = json!({"metadata": {"labels": {"refuse": "me"}}});
    assert_eq!(
        server.patch("merge-patch+json", &url, &refuse).await.message(403),
        "configmaps \"a\" is forbidden: marked for refusal"
    );
    let mut refused = map("b", json!({}));
    refused["metadata"]["labels"] = json!({"refuse": "me"});
    assert_eq!(server.post(MAPS, &refused).await.code, 403);
    server.delete(&url, &Value::Null).await.expect(200);
}

#[tokio::test]
async fn two_groups_share_the_objects_of_one_key() {
    let server = server();
    let core = "/api/v1/namespaces/ns/events";
    let new = "/apis/events.k8s.io/v1/namespaces/ns/events";
    let event = json!({"kind": "Event", "apiVersion": "v1", "metadata": {"name": "e"}, "message": "hello",
        "involvedObject": {"kind": "Pod", "name": "p"}});
    let created = server.post(core, &event).await.expect(201);
    let seen = server.get(&format!("{new}/e")).await.expect(200);
    assert_eq!((&seen["apiVersion"], &seen["note"]), (&json!("events.k8s.io/v1"), &json!("hello")));
    assert_eq!(version(&seen), version(&created));
    let list = server.get(new).await.expect(200);
    assert_eq!(
        (&list["items"][0]["note"], &list["apiVersion"]),
        (&json!("hello"), &json!("events.k8s.io/v1"))
    );
    let changed = server.patch("merge-patch+json", &format!("{new}/e"), &json!({"note": "bye"})).await;
    assert_eq!(changed.expect(200)["note"], "bye");
    let seen = server.get(&format!("{core}/e")).await.expect(200);
    assert_eq!(seen["message"], "bye");
    let managers = seen["metadata"]["managedFields"].as_array().unwrap();
    let by: Vec<&Value> = managers.iter().map(|entry| &entry["apiVersion"]).collect();
    assert_eq!(by, ["events.k8s.io/v1", "v1"], "fields belong to the version they were written in");
    let kv = server.store.get(b"/registry/events/ns/e", None).await.unwrap().unwrap();
    assert_ne!(kv.lease, 0, "events are forgotten after a while");
}

#[tokio::test]
async fn a_binding_changes_the_pod_it_is_created_under() {
    let server = server();
    server.post(PODS, &pod("p", "")).await.expect(201);
    let url = format!("{PODS}/p/binding");
    let binding = json!({"kind": "Binding", "apiVersion": "v1", "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n1"}});
    server.post(&format!("{url}?dryRun=All"), &binding).await.expect(201);
    assert_eq!(
        server.post(&url, &binding).await.expect(201),
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201})
    );
    assert_eq!(server.get(&format!("{PODS}/p")).await.expect(200)["spec"]["nodeName"], "n1");
    assert_eq!(server.post(&url, &binding).await.message(400), "bound already");
    assert_eq!(server.post(&format!("{PODS}/none/binding"), &binding).await.code, 404);
    assert_eq!(server.get(&url).await.code, 405);
}
