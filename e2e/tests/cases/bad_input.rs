//! Bad input: each mistake has its status code, and says everything that is wrong at once.

use knarr_e2e::kubectl;
use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, cases};
use serde_json::{Value, json};

pub const CASES: &[Case] = cases![
    malformed_json_and_yaml_are_400,
    unknown_and_duplicate_fields_are_told_by_field_validation,
    an_invalid_object_is_422_with_every_mistake,
    an_unknown_kind_or_name_is_404,
    what_exists_already_or_is_stale_is_409,
    without_credentials_401_without_the_right_403,
    what_cannot_be_answered_in_the_wanted_form_is_406,
    a_broken_continue_token_is_400_and_a_future_revision_504,
    a_body_beyond_the_limit_is_413,
    a_body_of_an_unknown_type_is_415,
    a_wrong_method_is_405,
];

const JSON: &str = "Content-Type: application/json";
const YAML: &str = "Content-Type: application/yaml";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn post(cluster: &Cluster, path: &str, kind: &str, body: &[u8]) -> (u16, Value) {
    let (code, text) = cluster.raw(&["-X", "POST", "-H", kind, "--data-binary", "@-"], path, body);
    (code, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}: {text}")))
}

#[track_caller]
fn status(answer: &(u16, Value), code: u16, reason: &str) {
    let (found, body) = answer;
    assert_eq!(*found, code, "{body}");
    assert_eq!(
        (body["kind"].as_str(), body["code"].as_u64(), body["reason"].as_str()),
        (Some("Status"), Some(code.into()), Some(reason)),
        "{body}"
    );
}

fn malformed_json_and_yaml_are_400(cluster: &Cluster) {
    for (kind, body) in [
        (JSON, "{\"kind\": "),
        (JSON, "[]"),
        (JSON, ""),
        (YAML, "a: [b"),
        (YAML, "- x: : y\n\t"),
        (JSON, "{\"apiVersion\":\"v1\",\"kind\":\"ConfigMap\",\"metadata\":7}"),
    ] {
        let answer = post(cluster, MAPS, kind, body.as_bytes());
        status(&answer, 400, "BadRequest");
    }
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert_eq!(post(cluster, MAPS, JSON, deep.as_bytes()).0, 400);
    let other = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}});
    status(&post(cluster, MAPS, JSON, other.to_string().as_bytes()), 400, "BadRequest");
    let elsewhere =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x", "namespace": "other"}});
    let answer = post(cluster, MAPS, JSON, elsewhere.to_string().as_bytes());
    status(&answer, 400, "BadRequest");
    assert_eq!(
        answer.1["message"],
        "the namespace of the provided object does not match the namespace sent on the request"
    );
    status(
        &post(cluster, &format!("{MAPS}?dryRun=Some"), JSON, br#"{"metadata":{"name":"x"}}"#),
        422,
        "Invalid",
    );
}

fn unknown_and_duplicate_fields_are_told_by_field_validation(cluster: &Cluster) {
    let body = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"odd","colour":"red"},"data":{"a":"1","a":"2"},"extra":1}"#;
    let answer = post(cluster, &format!("{MAPS}?fieldValidation=Strict&dryRun=All"), JSON, body);
    status(&answer, 400, "BadRequest");
    let message = answer.1["message"].as_str().unwrap_or_default();
    for part in [
        "strict decoding error",
        r#"unknown field "metadata.colour""#,
        r#"unknown field "extra""#,
        r#"duplicate field "data.a""#,
    ] {
        assert!(message.contains(part), "{part:?} is missing in {message}");
    }
    let (code, text) = cluster.raw(
        &["-i", "-X", "POST", "-H", JSON, "--data-binary", "@-"],
        &format!("{MAPS}?fieldValidation=Warn&dryRun=All"),
        body,
    );
    assert_eq!(code, 201, "{text}");
    assert!(text.to_lowercase().contains("warning: 299 - \"unknown field \\\"extra\\\"\""), "{text}");
    let (code, text) = cluster.raw(
        &["-i", "-X", "POST", "-H", JSON, "--data-binary", "@-"],
        &format!("{MAPS}?fieldValidation=Ignore&dryRun=All"),
        body,
    );
    assert!(code == 201 && !text.to_lowercase().contains("warning:"), "{code} {text}");
    let namespace = cluster.namespace();
    let manifest = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n  containers:\n  - {name: c, image: busybox, imagePullPolice: Always}\n";
    let refused = namespace.kubectl_stdin(&["apply", "--validate=strict", "-f", "-"], manifest).refused();
    assert!(refused.contains(r#"unknown field "spec.containers[0].imagePullPolice""#), "{refused}");
    let warned =
        namespace.kubectl_stdin(&["apply", "--validate=warn", "-f", "-", "--dry-run=server"], manifest);
    assert!(warned.code == 0 && warned.stderr.contains("Warning: unknown field"), "{warned}");
}

fn an_invalid_object_is_422_with_every_mistake(cluster: &Cluster) {
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "Bad_Name"},
        "spec": {
            "restartPolicy": "Sometimes",
            "containers": [
                {"name": "a", "image": "busybox", "ports": [{"containerPort": 99999}]},
                {"name": "a", "image": ""},
                {"name": "b", "image": "busybox", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}},
                {"name": "c", "image": "busybox", "volumeMounts": [{"name": "missing", "mountPath": "/x"}]},
            ],
        },
    });
    let answer = post(cluster, "/api/v1/namespaces/default/pods", JSON, pod.to_string().as_bytes());
    status(&answer, 422, "Invalid");
    let causes = answer.1["details"]["causes"].as_array().cloned().unwrap_or_default();
    for (field, reason) in [
        ("metadata.name", "FieldValueInvalid"),
        ("spec.restartPolicy", "FieldValueNotSupported"),
        ("spec.containers[0].ports[0].containerPort", "FieldValueInvalid"),
        ("spec.containers[1].name", "FieldValueDuplicate"),
        ("spec.containers[1].image", "FieldValueRequired"),
        ("spec.containers[2].resources.requests", "FieldValueInvalid"),
        ("spec.containers[3].volumeMounts[0].name", "FieldValueNotFound"),
    ] {
        let found = causes.iter().any(|cause| cause["field"] == field && cause["reason"] == reason);
        assert!(found, "no {reason} for {field}: {:#}", answer.1);
    }
    let message = answer.1["message"].as_str().unwrap_or_default();
    assert!(message.starts_with("Pod \"Bad_Name\" is invalid: ["), "{message}");
    assert!(message.contains(r#"spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never""#), "{message}");
    let namespace = cluster.namespace();
    let refused = namespace.kubectl_stdin(&["create", "-f", "-"], "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec:\n  selector: {matchLabels: {a: b}}\n  template:\n    metadata: {labels: {a: c}}\n    spec: {containers: [{name: c, image: i}]}\n").refused();
    assert!(
        refused.contains("spec.template.metadata.labels: Invalid value")
            && refused.contains("`selector` does not match template `labels`"),
        "{refused}"
    );
}

fn an_unknown_kind_or_name_is_404(cluster: &Cluster) {
    let refused = cluster.kubectl(&["get", "unicorns"]).refused();
    assert!(refused.contains("the server doesn't have a resource type \"unicorns\""), "{refused}");
    let refused = cluster.kubectl(&["get", "pod", "nobody"]).refused();
    assert_eq!(refused.trim(), "Error from server (NotFound): pods \"nobody\" not found");
    for path in ["/api/v1/unicorns", "/apis/none.example.com/v1", "/apis/apps/v9/deployments", "/nowhere"] {
        let (code, body) = cluster.raw(&[], path, b"");
        assert!(code == 404, "{path}: {code} {body}");
    }
    let namespace = cluster.namespace();
    let refused = namespace
        .kubectl_stdin(
            &["apply", "-f", "-"],
            "apiVersion: example.com/v1\nkind: Unicorn\nmetadata: {name: u}\n",
        )
        .refused();
    assert!(refused.contains("no matches for kind \"Unicorn\" in version \"example.com/v1\""), "{refused}");
    status(
        &post(cluster, "/api/v1/namespaces/nobody/configmaps", JSON, br#"{"metadata":{"name":"x"}}"#),
        404,
        "NotFound",
    );
}

fn what_exists_already_or_is_stale_is_409(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let maps = format!("/api/v1/namespaces/{}/configmaps", namespace.name);
    let body = br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"}}"#;
    let (code, first) = post(cluster, &maps, JSON, body);
    assert_eq!(code, 201);
    status(&post(cluster, &maps, JSON, body), 409, "AlreadyExists");
    namespace.kubectl(&["label", "configmap", "x", "a=b"]).ok();
    let put = |object: &Value| {
        let (code, text) = cluster.raw(
            &["-X", "PUT", "-H", JSON, "--data-binary", "@-"],
            &format!("{maps}/x"),
            object.to_string().as_bytes(),
        );
        (code, serde_json::from_str::<Value>(&text).unwrap_or_default())
    };
    let answer = put(&first);
    status(&answer, 409, "Conflict");
    let message = answer.1["message"].as_str().unwrap_or_default();
    assert!(
        message.contains(
            "the object has been modified; please apply your changes to the latest version and try again"
        ),
        "{message}"
    );
    let mut other = namespace.get("configmap/x");
    other["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
    status(&put(&other), 409, "Conflict");
    let options = r#"{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"00000000-0000-0000-0000-000000000000"}}"#;
    let (code, text) =
        cluster.raw(&["-X", "DELETE", "-H", JSON, "--data-binary", options], &format!("{maps}/x"), b"");
    assert_eq!(code, 409, "{text}");
    namespace
        .kubectl_stdin(
            &["apply", "--server-side", "-f", "-", "--field-manager=one"],
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: z}\ndata: {k: one}\n",
        )
        .ok();
    let refused = namespace
        .kubectl_stdin(
            &["apply", "--server-side", "-f", "-", "--field-manager=two"],
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: z}\ndata: {k: two}\n",
        )
        .refused();
    assert!(refused.contains("Apply failed with 1 conflict: conflict with \"one\": .data.k"), "{refused}");
}

fn without_credentials_401_without_the_right_403(cluster: &Cluster) {
    let (code, body) = cluster.curl(&["-H", "Authorization: Bearer nonsense"], "/api/v1/pods", b"");
    assert!(code == 401 && body.contains("Unauthorized"), "{code} {body}");
    // Nobody is anonymous but where health is asked.
    let (code, body) = cluster.curl(&[], "/api/v1/pods", b"");
    assert!(code == 401 && body.contains("Unauthorized"), "{code} {body}");
    let (code, body) = cluster.curl(&[], "/readyz", b"");
    assert!(code == 200 && body == "ok", "{code} {body}");
    let refused = cluster.kubectl(&["get", "secrets", "--as=somebody"]).refused();
    assert_eq!(
        refused.trim(),
        r#"Error from server (Forbidden): secrets is forbidden: User "somebody" cannot list resource "secrets" in API group "" in the namespace "default""#
    );
    let refused =
        cluster.kubectl(&["get", "pods", "--as=somebody", "--as-group=system:masters", "--as-uid=1"]);
    assert_eq!(refused.code, 0, "an admin may be anybody: {refused}");
}

fn what_cannot_be_answered_in_the_wanted_form_is_406(cluster: &Cluster) {
    let (code, body) = cluster.raw(&["-H", "Accept: text/csv"], MAPS, b"");
    assert_eq!(code, 406, "{body}");
    assert!(body.contains("only the following media types are accepted"), "{body}");
    let (code, body) =
        cluster.raw(&["-H", "Accept: application/yaml"], &format!("{MAPS}/kube-root-ca.crt"), b"");
    assert!(code == 200 && body.contains("kind: ConfigMap"), "{code} {body}");
    let (code, _) = cluster.raw(&["-H", "Accept: text/csv, */*"], MAPS, b"");
    assert_eq!(code, 200);
}

fn a_broken_continue_token_is_400_and_a_future_revision_504(cluster: &Cluster) {
    let (code, body) = cluster.raw(&[], &format!("{MAPS}?continue=nonsense"), b"");
    assert_eq!(code, 400, "{body}");
    let (code, body) = cluster.raw(
        &["--max-time", "15"],
        &format!("{MAPS}?resourceVersion=99999999&resourceVersionMatch=Exact"),
        b"",
    );
    assert!(code == 504 && body.contains("Too large resource version"), "{code} {body}");
}

fn a_body_beyond_the_limit_is_413(cluster: &Cluster) {
    let big = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"big"}},"data":{{"a":"{}"}}}}"#,
        "x".repeat(4 << 20)
    );
    let (code, text) = cluster.raw(&["-X", "POST", "-H", JSON, "--data-binary", "@-"], MAPS, big.as_bytes());
    status(&(code, serde_json::from_str(&text).unwrap_or_default()), 413, "RequestEntityTooLarge");
    let refused = cluster
        .kubectl_with(
            kubectl::newest(),
            &["create", "--validate=false", "-f", "-"],
            big.as_bytes(),
            seconds(30),
        )
        .refused();
    assert!(refused.contains("Request entity too large: limit is 3145728"), "{refused}");
    // Below that limit, but beyond what a ConfigMap may hold.
    let large = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"big"}},"data":{{"a":"{}"}}}}"#,
        "x".repeat(1 << 20 | 1)
    );
    let answer = post(cluster, MAPS, JSON, large.as_bytes());
    status(&answer, 422, "Invalid");
    assert!(
        answer.1["message"]
            .as_str()
            .unwrap_or_default()
            .contains("Too long: may not be more than 1048576 bytes"),
        "{}",
        answer.1["message"]
    );
}

fn a_body_of_an_unknown_type_is_415(cluster: &Cluster) {
    status(&post(cluster, MAPS, "Content-Type: text/csv", b"a,b"), 415, "UnsupportedMediaType");
    let (code, body) = cluster.raw(
        &["-X", "PATCH", "-H", JSON, "--data-binary", "{}"],
        &format!("{MAPS}/kube-root-ca.crt"),
        b"",
    );
    assert!(
        code == 415 && body.contains("the body of the request was in an unknown format"),
        "{code} {body}"
    );
}

fn a_wrong_method_is_405(cluster: &Cluster) {
    for (method, path) in [
        ("POST", "/api/v1/namespaces/default/configmaps/x"),
        ("PUT", MAPS),
        ("PATCH", MAPS),
        ("DELETE", "/version"),
    ] {
        let (code, body) = cluster.raw(&["-X", method, "-H", JSON, "--data-binary", "{}"], path, b"");
        assert!(code == 405, "{method} {path}: {code} {body}");
    }
}
