//! Requests and answers to the letter: options in every combination, methods without a route, and texts, as
//! upstream's handlers, storage and cacher have them.

use super::*;

async fn filled() -> Server {
    let server = server();
    for name in ["a", "b", "c"] {
        server.post(MAPS, &map(name, json!({"n": name}))).await.expect(201);
    }
    server.post(PODS, &pod("p", "")).await.expect(201);
    server
}

const INVALID: &str = "ListOptions.meta.k8s.io \"\" is invalid: ";

#[tokio::test]
async fn what_a_read_may_ask_for_and_what_it_is_told_otherwise() {
    let server = filled().await;
    let bad_version =
        "resourceVersion: Invalid value: \"x\": strconv.ParseUint: parsing \"x\": invalid syntax";
    let too_big = "resourceVersion: Invalid value: \"18446744073709551616\": strconv.ParseUint: parsing \"18446744073709551616\": value out of range";
    let token = "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6LTEsInN0YXJ0IjoiYVx1MDAwMCJ9";
    let lists: Vec<(String, u16, String)> = [
        ("", 200, ""),
        ("resourceVersion=0", 200, ""),
        ("resourceVersion=1", 200, ""),
        ("resourceVersion=0&resourceVersionMatch=NotOlderThan", 200, ""),
        ("resourceVersion=2&resourceVersionMatch=Exact", 200, ""),
        ("limit=1&resourceVersion=2", 200, ""),
        ("limit=-1", 200, ""),
        ("limit=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
        ("limit=9223372036854775808", 400, "strconv.ParseInt: parsing \"9223372036854775808\": value out of range"),
        ("timeoutSeconds=x", 400, "strconv.ParseInt: parsing \"x\": invalid syntax"),
        (
            "resourceVersionMatch=Exact",
            422,
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            422,
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Other",
            422,
            "resourceVersionMatch: Unsupported value: \"Other\": supported values: \"Exact\", \"NotOlderThan\", \"\"",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Exact&continue=x",
            422,
            "resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden when continue is provided",
        ),
        ("sendInitialEvents=true", 422, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        ("sendInitialEvents=false", 422, "sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        (
            "continue=%2A",
            400,
            "invalid continue token: continue key is not valid: illegal base64 data at input byte 0",
        ),
        ("fieldSelector=spec.odd%3Da", 400, "\"spec.odd\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""),
    ]
    .into_iter()
    .map(|(query, code, text)| {
        let text = if code == 422 { format!("{INVALID}{text}") } else { text.to_owned() };
        (format!("{MAPS}?{query}"), code, text)
    })
    .collect();
    let others = [
        (format!("{MAPS}?resourceVersion=x"), 400, format!("invalid resource version: {bad_version}")),
        (
            format!("{MAPS}?resourceVersion=18446744073709551616"),
            400,
            format!("invalid resource version: {too_big}"),
        ),
        (format!("{MAPS}?continue={token}"), 200, String::new()),
        (format!("{MAPS}?continue={token}&resourceVersion=0"), 200, String::new()),
        (
            format!("{MAPS}?continue={token}&resourceVersion=1"),
            400,
            "specifying resource version is not allowed when using continue".to_owned(),
        ),
        (format!("{MAPS}/a?resourceVersion=x"), 500, bad_version.to_owned()),
        (format!("{MAPS}/a?resourceVersion=0"), 200, String::new()),
        (format!("{MAPS}/a?export=false"), 200, String::new()),
        (
            format!("{MAPS}/a?export=true"),
            400,
            "the export parameter, deprecated since v1.14, is no longer supported".to_owned(),
        ),
        (format!("{MAPS}?watch=1&resourceVersion=x"), 500, bad_version.to_owned()),
        (
            format!("{MAPS}?watch=1&sendInitialEvents=true"),
            422,
            format!(
                "{INVALID}resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            ),
        ),
        (
            format!("{MAPS}?watch=1&resourceVersionMatch=NotOlderThan"),
            422,
            format!(
                "{INVALID}resourceVersionMatch: Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
            ),
        ),
        (
            format!("{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=Exact"),
            422,
            format!(
                "{INVALID}[resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan, resourceVersionMatch: Unsupported value: \"Exact\": supported values: \"NotOlderThan\"]"
            ),
        ),
        (
            "/api/v1/watch/namespaces/ns/configmaps/a?fieldSelector=metadata.name%3Db".to_owned(),
            400,
            "fieldSelector metadata.name doesn't match requested name".to_owned(),
        ),
        (
            // The old path is a watch whose options are those of a list.
            "/api/v1/watch/namespaces/ns/configmaps?sendInitialEvents=true".to_owned(),
            422,
            format!("{INVALID}sendInitialEvents: Forbidden: sendInitialEvents is forbidden for list"),
        ),
    ];
    for (url, code, text) in lists.into_iter().chain(others) {
        let reply = server.get(&url).await;
        let message = if code == 200 {
            String::new()
        } else {
            reply.json()["message"].as_str().unwrap_or_default().to_owned()
        };
        assert_eq!((reply.code, message), (code, text), "{url}");
    }
}

#[tokio::test]
async fn a_watch_that_cannot_go_on_says_so_in_the_stream() {
    let server = filled().await;
    let future = server.store.revision() + 1000;
    let url = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion={future}"
    );
    let mut watch = server.watch(&url).await;
    let frame = watch.next().await.unwrap();
    let status = &frame["object"];
    assert_eq!(
        (&frame["type"], &status["code"], &status["reason"]),
        (&json!("ERROR"), &json!(504), &json!("Timeout"))
    );
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    assert_eq!(
        status["message"],
        format!("Timeout: Too large resource version: {future}, current: {}", server.store.revision())
    );
    assert!(watch.next().await.is_none());
    // A time that is over already ends a watch at once; the old paths show what there is first.
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion=1&timeoutSeconds=-1")).await;
    while watch.next().await.is_some() {}
    let mut watch = server.watch("/api/v1/watch/namespaces/ns/configmaps").await;
    assert_eq!(watch.names(3).await, ["ADDED a", "ADDED b", "ADDED c"]);
}

#[tokio::test]
async fn methods_without_a_route_and_paths_without_a_resource() {
    let server = filled().await;
    let no_method = "the server does not allow this method on the requested resource";
    let no_path = "the server could not find the requested resource";
    for (method, url, code, text) in [
        ("POST", format!("{MAPS}/a"), 405, no_method),
        ("PUT", MAPS.to_owned(), 405, no_method),
        ("PATCH", MAPS.to_owned(), 405, no_method),
        ("POST", "/api/v1/configmaps".to_owned(), 405, no_method),
        ("DELETE", "/api/v1/configmaps".to_owned(), 405, no_method),
        ("OPTIONS", MAPS.to_owned(), 405, no_method),
        ("TRACE", format!("{MAPS}/a"), 405, no_method),
        ("DELETE", format!("{PODS}/p/status"), 405, no_method),
        ("POST", format!("{PODS}/p/status"), 405, no_method),
        ("GET", format!("{PODS}/p/binding"), 405, no_method),
        ("GET", format!("{PODS}/p/nothing"), 404, no_path),
        ("GET", "/api/v1/nothing".to_owned(), 404, no_path),
        ("GET", "/api/v2/configmaps".to_owned(), 404, no_path),
        ("GET", "/apis/apps/v1/configmaps".to_owned(), 404, no_path),
        ("GET", "/api/v1/configmaps/a".to_owned(), 404, no_path),
    ] {
        let reply = server.send(method, &url, &[], "").await;
        let body = reply.json();
        assert_eq!(
            (reply.code, body["message"].as_str(), &body["details"]),
            (code, Some(text), &json!({})),
            "{method} {url}"
        );
    }
    assert_eq!(server.send("HEAD", &format!("{MAPS}/a"), &[], "").await.code, 405);
}

#[tokio::test]
async fn options_of_writes_in_every_verb() {
    let server = filled().await;
    let long = "x".repeat(129);
    let json_patch = "application/json-patch+json";
    let merge = "application/merge-patch+json";
    let strategic = "application/strategic-merge-patch+json";
    let apply = "application/apply-patch+yaml";
    let object = map("a", json!({"x": "y"})).to_string();
    let text = |kind: &str, rest: &str| format!("{kind}.meta.k8s.io \"\" is invalid: {rest}");
    let dry = "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"";
    for (method, query, media, body, code, message) in [
        ("POST", "dryRun=Some", "application/json", object.as_str(), 422, text("CreateOptions", dry)),
        ("POST", "dryRun=Some", "text/plain", "", 415, "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf".to_owned()),
        ("PUT", "dryRun=Some", "application/json", &object, 422, text("UpdateOptions", dry)),
        ("PATCH", "dryRun=Some", merge, "{}", 422, text("PatchOptions", dry)),
        ("PATCH", "force=false", merge, "{}", 422, text("PatchOptions", "force: Forbidden: may not be specified for non-apply patch")),
        ("PATCH", "", apply, "{}", 422, text("PatchOptions", "fieldManager: Required value: is required for apply patch")),
        ("PUT", "fieldValidation=Odd", "application/json", &object, 422, text("UpdateOptions", "fieldValidation: Unsupported value: \"Odd\": supported values: \"\", \"Ignore\", \"Strict\", \"Warn\"")),
        ("PUT", &format!("fieldManager={long}"), "application/json", &object, 422, text("UpdateOptions", "fieldManager: Too long: may not be more than 128 bytes")),
        ("PATCH", "", "application/json", "{}", 415, format!("the body of the request was in an unknown format - accepted media types include: {json_patch}, {merge}, {strategic}, {apply}")),
        ("PATCH", "", merge, "{", 400, "error decoding patch: unexpected end of JSON input".to_owned()),
        ("PATCH", "fieldValidation=Ignore", merge, "{", 400, "Invalid JSON Patch".to_owned()),
        ("PATCH", "", strategic, "{", 400, "unexpected end of JSON input".to_owned()),
        ("PATCH", "", json_patch, "[", 400, "error decoding patch: unexpected end of JSON input".to_owned()),
        ("PATCH", "fieldValidation=Ignore", json_patch, "[", 400, "unexpected end of JSON input".to_owned()),
        ("PATCH", "", merge, r#"{"metadata":{"name":"b"}}"#, 400, "the name of the object (b) does not match the name on the URL (a)".to_owned()),
        ("PATCH", "", merge, r#"{"metadata":{"namespace":"b"}}"#, 400, "the namespace of the provided object does not match the namespace sent on the request".to_owned()),
        ("PUT", "", "application/json", r#"{"metadata":{"name":"b"}}"#, 400, "the name of the object (b) does not match the name on the URL (a)".to_owned()),
        ("PUT", "", "application/json", "{}", 400, "the name of the object (a based on URL) was undeterminable: name must be provided".to_owned()),
        ("DELETE", "dryRun=Some", "application/json", "", 422, text("DeleteOptions", dry)),
        ("DELETE", "", "application/json", r#"{"dryRun":["Some"]}"#, 422, text("DeleteOptions", dry)),
        ("DELETE", "gracePeriodSeconds=x", "application/json", "", 400, "strconv.ParseInt: parsing \"x\": invalid syntax".to_owned()),
        ("DELETE", "", "application/json", r#"{"propagationPolicy":"Odd"}"#, 422, text("DeleteOptions", "propagationPolicy: Unsupported value: \"Odd\": supported values: \"Foreground\", \"Background\", \"Orphan\", \"nil\"")),
        ("DELETE", "", "application/json", r#"{"propagationPolicy":"Orphan","orphanDependents":true}"#, 422, text("DeleteOptions", "propagationPolicy: Invalid value: \"Orphan\": orphanDependents and deletionPropagation cannot be both set")),
        ("DELETE", "", "application/json", r#"{"kind":"Pod","apiVersion":"v1"}"#, 400, "decoded object cannot be converted to DeleteOptions".to_owned()),
        ("DELETE", "", "text/plain", "{}", 415, "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf".to_owned()),
    ] {
        let name = if method == "POST" { "" } else { "/a" };
        let url = format!("{MAPS}{name}?{query}");
        let reply = server.send(method, &url, &[("content-type", media)], body.to_owned()).await;
        let got = reply.json()["message"].as_str().unwrap_or_default().to_owned();
        assert_eq!((reply.code, got), (code, message), "{method} {url} {media} {body}");
    }
    // Nothing of all that has changed anything.
    assert_eq!(server.get(&format!("{MAPS}/a")).await.expect(200)["data"], json!({"n": "a"}));
}

#[tokio::test]
async fn a_collection_is_deleted_as_far_as_the_limit() {
    let server = filled().await;
    let deleted = server.send("DELETE", &format!("{MAPS}?limit=2"), &[], "").await.expect(200);
    assert_eq!(deleted["items"].as_array().unwrap().len(), 2);
    assert!(deleted["metadata"]["continue"].is_string() && deleted["metadata"]["remainingItemCount"] == 1);
    let left = server.get(MAPS).await.expect(200);
    assert_eq!(left["items"][0]["metadata"]["name"], "c");
    let deleted = server.send("DELETE", MAPS, &[], "").await.expect(200);
    assert!(deleted["metadata"].get("continue").is_none());
}

#[tokio::test]
async fn an_applied_document_that_sets_a_key_twice_is_told_the_line() {
    let server = filled().await;
    let body = "\napiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n  foo: one\n  foo: two\n";
    let apply = [("content-type", "application/apply-patch+yaml")];
    let send = |validation: &str| {
        let url = format!("{MAPS}/a?fieldManager=m&force=1&fieldValidation={validation}");
        let server = server.clone();
        async move { server.send("PATCH", &url, &apply, body).await }
    };
    assert_eq!(
        send("Strict").await.message(400),
        "error strict decoding YAML: error converting YAML to JSON: yaml: unmarshal errors:\n  line 8: key \"foo\" already set in map"
    );
    let warned = send("Warn").await;
    assert_eq!(
        (warned.code, warned.warnings()),
        (200, vec!["line 8: key \"foo\" already set in map".to_owned()])
    );
    let ignored = send("Ignore").await;
    assert_eq!((ignored.code, ignored.warnings()), (200, Vec::new()));
    assert_eq!(ignored.json()["data"]["foo"], "two");
}
