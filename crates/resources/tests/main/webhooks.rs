//! Admission webhooks: what they are told, what becomes of their answers, and what their registration must be.

use crate::world::World;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use knarr_apiserver::webhook::testing::{Answer, TestWebhook};
use serde_json::{Value, json};

const GROUP: &str = "admissionregistration.k8s.io";
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server whose decisions are made by the path of the webhook.
async fn server() -> TestWebhook {
    TestWebhook::start(&["127.0.0.1"], decide).await
}

fn decide(path: &str, review: &Value) -> Answer {
    let patch = |operations: Value| json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(operations.to_string())});
    let object = &review["request"]["object"];
    let response = match path.split('?').next().unwrap_or_default() {
        "/allow" => json!({"allowed": true}),
        "/deny" => {
            json!({"allowed": false, "status": {"message": "not this one", "code": 403, "reason": "Forbidden"}})
        }
        "/warn" => json!({"allowed": true, "warnings": ["take care"], "auditAnnotations": {"k": "v"}}),
        "/add-a" if object["data"]["a"].is_null() => {
            patch(json!([{"op": "add", "path": "/data", "value": {"a": "1"}}]))
        }
        "/add-a" if !object["data"]["b"].is_null() && object["data"]["seen"].is_null() => {
            patch(json!([{"op": "add", "path": "/data/seen", "value": "b"}]))
        }
        "/add-a" => json!({"allowed": true}),
        "/add-b" => patch(json!([{"op": "add", "path": "/data/b", "value": "2"}])),
        "/break" => patch(json!([{"op": "add", "path": "/data", "value": {"a b": "no such key"}}])),
        "/mistype" => patch(json!([{"op": "add", "path": "/data", "value": "text"}])),
        "/nowhere" => patch(json!([{"op": "remove", "path": "/no/such"}])),
        "/replicas" => patch(json!([{"op": "replace", "path": "/spec/replicas", "value": 3}])),
        "/mislabel" => {
            patch(json!([{"op": "add", "path": "/metadata/managedFields", "value": [{"manager": "x"}]}]))
        }
        "/other-uid" => {
            return Some((
                200,
                json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1",
                "response": {"uid": "other", "allowed": true}})
                .to_string(),
            ));
        }
        "/hang" => return None,
        _ => return Some((500, "broken".to_owned())),
    };
    let mut response = response;
    response["uid"] = review["request"]["uid"].clone();
    let answer = json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response});
    Some((200, answer.to_string()))
}

/// A webhook on a path, for everything that is done to a resource; `more` is laid over it.
fn hook(webhook: &TestWebhook, path: &str, resource: &str, more: &Value) -> Value {
    let (group, resource) = resource.rsplit_once('.').map_or(("", resource), |(r, g)| (g, r));
    let group = if group == "autoscaling" || group.is_empty() { group } else { "*" };
    let mut hook = json!({
        "name": format!("h{}.example.com", path.replace('/', "-")),
        "clientConfig": {"url": webhook.url(path), "caBundle": webhook.ca_bundle()},
        "rules": [{"operations": ["*"], "apiGroups": [group], "apiVersions": ["v1"], "resources": [resource]}],
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    });
    for (key, value) in more.as_object().into_iter().flatten() {
        hook[key] = value.clone();
    }
    hook
}

/// Registers webhooks and waits until requests see them.
async fn register(world: &World, sort: &str, name: &str, hooks: Vec<Value>) {
    let resource = format!("{}webhookconfigurations", sort.to_lowercase());
    let url = format!("/apis/{GROUP}/v1/{resource}");
    let body = json!({"kind": format!("{sort}WebhookConfiguration"), "apiVersion": format!("{GROUP}/v1"),
        "metadata": {"name": name}, "webhooks": hooks});
    let made = world.post(&url, &body).await.ok();
    let revision: u64 = made["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let reader = world.server.registry().reader();
    for _ in 0..100_000 {
        if reader.settled(GROUP, &resource) >= revision {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the watch cache did not come to {revision}");
}

fn configmap(name: &str) -> Value {
    json!({"metadata": {"name": name}})
}

#[tokio::test]
async fn mutations_are_applied_in_order_and_asked_again() {
    let (world, webhook) = (World::new().await, server().await);
    let again = json!({"reinvocationPolicy": "IfNeeded"});
    let hooks = vec![
        hook(&webhook, "/add-a", "configmaps", &again),
        hook(&webhook, "/add-b", "configmaps", &json!({})),
    ];
    register(&world, "Mutating", "m", hooks).await;
    let made = world.post(&format!("{CONFIGMAPS}?fieldManager=me"), &configmap("c")).await.ok();
    assert_eq!(made["data"], json!({"a": "1", "b": "2", "seen": "b"}));
    let paths: Vec<String> = webhook.calls().into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["/add-a?timeout=10s", "/add-b?timeout=10s", "/add-a?timeout=10s"]);
    let (_, review) = &webhook.calls()[1];
    let request = &review["request"];
    assert_eq!(review["apiVersion"], "admission.k8s.io/v1");
    assert_eq!(request["object"]["data"], json!({"a": "1"}), "the second sees what the first did");
    assert_eq!(
        (&request["object"]["kind"], &request["object"]["apiVersion"]),
        (&json!("ConfigMap"), &json!("v1"))
    );
    assert_eq!(request["oldObject"], Value::Null);
    assert_eq!(request["operation"], "CREATE");
    assert_eq!(request["kind"], json!({"group": "", "version": "v1", "kind": "ConfigMap"}));
    assert_eq!(request["requestResource"], json!({"group": "", "version": "v1", "resource": "configmaps"}));
    assert_eq!((&request["name"], &request["namespace"]), (&json!("c"), &json!("default")));
    assert_eq!(request["dryRun"], false);
    assert_eq!(request["userInfo"]["username"], "admin");
    let options = json!({"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1", "fieldManager": "me"});
    assert_eq!(request["options"], options);

    webhook.forget();
    let url = format!("{CONFIGMAPS}/c");
    let patched =
        world.patch(&url, "merge-patch+json", &json!({"metadata": {"labels": {"x": "y"}}})).await.ok();
    assert_eq!(patched["metadata"]["labels"]["x"], "y");
    let (_, review) = &webhook.calls()[0];
    assert_eq!(review["request"]["operation"], "UPDATE");
    assert_eq!(review["request"]["options"]["kind"], "UpdateOptions");
    assert_eq!(review["request"]["oldObject"]["data"]["a"], "1");
}

#[tokio::test]
async fn changed_objects_are_checked_again() {
    let (world, webhook) = (World::new().await, server().await);
    for (path, code, wanted) in [
        ("/break", 422, "a valid config key must consist of alphanumeric characters"),
        ("/mistype", 500, "Internal error occurred: "),
        ("/nowhere", 500, "Internal error occurred: "),
    ] {
        register(&world, "Mutating", "m", vec![hook(&webhook, path, "configmaps", &json!({}))]).await;
        let refused = world.post(CONFIGMAPS, &configmap("c")).await.refused(code);
        assert!(refused.contains(wanted), "{path}: {refused}");
        world.delete(&format!("/apis/{GROUP}/v1/mutatingwebhookconfigurations/m")).await.ok();
    }
    register(&world, "Mutating", "mend", vec![hook(&webhook, "/mislabel", "configmaps", &json!({}))]).await;
    let made = world.post(&format!("{CONFIGMAPS}?fieldManager=me"), &configmap("d")).await;
    let warning = made.headers.get("warning").unwrap().to_str().unwrap().to_owned();
    assert!(warning.contains(".metadata.managedFields was in an invalid state after admission"), "{warning}");
    assert!(made.ok()["metadata"]["managedFields"].is_null());
}

#[tokio::test]
async fn refusals_and_failures() {
    let (world, webhook) = (World::new().await, server().await);
    let url = |path: &str, seconds: u8| webhook.url(&format!("{path}?timeout={seconds}s"));
    // Bound, so that nobody else gets the port, but nobody listens.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let unreachable = taken.local_addr().unwrap();
    let nowhere =
        json!({"name": "gone.example.com", "clientConfig": {"url": format!("https://{unreachable}/x")}});
    let service = json!({"name": "svc.example.com",
        "clientConfig": {"service": {"namespace": "default", "name": "hook", "path": "/x"}}});
    let internal = "Internal error occurred: failed calling webhook";
    for (path, more, code, wanted) in [
        (
            "/deny",
            json!({}),
            403,
            "admission webhook \"h-deny.example.com\" denied the request: not this one".to_owned(),
        ),
        (
            "/500",
            json!({}),
            500,
            format!(
                "{internal} \"h-500.example.com\": failed to call webhook: an error on the server (\"unknown\") has prevented the request from succeeding"
            ),
        ),
        (
            "/hang",
            json!({"timeoutSeconds": 1}),
            500,
            format!(
                "{internal} \"h-hang.example.com\": failed to call webhook: Post \"{}\": context deadline exceeded",
                url("/hang", 1)
            ),
        ),
        (
            "/x",
            nowhere,
            500,
            format!(
                "{internal} \"gone.example.com\": failed to call webhook: Post \"https://{unreachable}/x?timeout=10s\": dial tcp {unreachable}: connect: connection refused"
            ),
        ),
        (
            "/x",
            service,
            500,
            format!(
                "{internal} \"svc.example.com\": failed to call webhook: Post \"https://hook.default.svc:443/x?timeout=10s\": service \"hook\" not found"
            ),
        ),
    ] {
        for sort in ["Mutating", "Validating"] {
            register(&world, sort, "v", vec![hook(&webhook, path, "configmaps", &more)]).await;
            let refused = world.post(CONFIGMAPS, &configmap("c")).await.refused(code);
            assert_eq!(refused, wanted, "{sort} {path}");
            let one = format!("/apis/{GROUP}/v1/{}webhookconfigurations/v", sort.to_lowercase());
            world.delete(&one).await.ok();
        }
    }
    let uid = hook(&webhook, "/other-uid", "configmaps", &json!({}));
    let open = hook(&webhook, "/500", "configmaps", &json!({"failurePolicy": "Ignore"}));
    let warn = hook(&webhook, "/warn", "configmaps", &json!({"admissionReviewVersions": ["v2", "v1beta1"]}));
    register(&world, "Validating", "open", vec![open, warn]).await;
    let made = world.post(CONFIGMAPS, &configmap("c")).await;
    assert_eq!(made.headers.get("warning").unwrap(), "299 - \"take care\"");
    made.ok();
    let beta = webhook.calls().into_iter().find(|(path, _)| path.starts_with("/warn")).unwrap().1;
    assert_eq!(beta["apiVersion"], "admission.k8s.io/v1beta1");
    register(&world, "Validating", "uid", vec![uid]).await;
    let refused = world.post(CONFIGMAPS, &configmap("d")).await.refused(500);
    let start = format!(
        "{internal} \"h-other-uid.example.com\": received invalid webhook response: expected response.uid=\""
    );
    assert!(refused.starts_with(&start) && refused.ends_with("\", got \"other\""), "{refused}");
}

#[tokio::test]
async fn selectors_scopes_and_the_configuration_itself() {
    let (world, webhook) = (World::new().await, server().await);
    world
        .post("/api/v1/namespaces", &json!({"metadata": {"name": "free", "labels": {"free": "yes"}}}))
        .await
        .ok();
    let everything = json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*/*"]}],
        "namespaceSelector": {"matchExpressions": [{"key": "free", "operator": "DoesNotExist"}]},
        "objectSelector": {"matchLabels": {"judge": "me"}}});
    register(&world, "Validating", "v", vec![hook(&webhook, "/deny", "x", &everything)]).await;
    let judged = |name: &str| json!({"metadata": {"name": name, "labels": {"judge": "me"}}});
    world.post(CONFIGMAPS, &configmap("unlabelled")).await.ok();
    world.post(CONFIGMAPS, &judged("labelled")).await.refused(403);
    world.post("/api/v1/namespaces/free/configmaps", &judged("labelled")).await.ok();
    world.post("/api/v1/namespaces", &judged("new")).await.refused(403);
    let free = json!({"metadata": {"name": "new", "labels": {"judge": "me", "free": "yes"}}});
    world.post("/api/v1/namespaces", &free).await.ok();
    // The configuration of admission is out of its own reach.
    let url = format!("/apis/{GROUP}/v1/validatingwebhookconfigurations");
    let mut own = hook(&webhook, "/allow", "x", &json!({}));
    own["rules"][0]["resources"] = json!(["y"]);
    world
        .post(&url, &json!({"metadata": {"name": "w", "labels": {"judge": "me"}}, "webhooks": [own]}))
        .await
        .ok();
    world.delete(&format!("{url}/w")).await.ok();
}

#[tokio::test]
async fn other_versions_subresources_deletions_and_dry_runs() {
    let (world, webhook) = (World::new().await, server().await);
    // A rule on v1 sees a v2 object converted.
    let hpas = hook(&webhook, "/allow", "horizontalpodautoscalers.autoscaling", &json!({}));
    register(&world, "Validating", "hpa", vec![hpas]).await;
    let body = json!({"metadata": {"name": "h"}, "spec": {"maxReplicas": 2,
        "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"},
        "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}]}});
    world.post("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", &body).await.ok();
    let request = &webhook.calls()[0].1["request"];
    assert_eq!(request["kind"]["version"], "v1");
    assert_eq!(request["requestKind"]["version"], "v2");
    assert_eq!(request["object"]["apiVersion"], "autoscaling/v1");
    assert_eq!(request["object"]["spec"]["targetCPUUtilizationPercentage"], 50);

    // Scale is an object of its own, and its mutation counts.
    let scale = json!({"rules": [{"operations": ["UPDATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments/scale"]}]});
    register(&world, "Mutating", "scale", vec![hook(&webhook, "/replicas", "x", &scale)]).await;
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let url = "/apis/apps/v1/namespaces/default/deployments";
    world.post(url, &deployment).await.ok();
    webhook.forget();
    let scaled = world
        .patch(&format!("{url}/d/scale"), "merge-patch+json", &json!({"spec": {"replicas": 7}}))
        .await
        .ok();
    assert_eq!(scaled["spec"]["replicas"], 3);
    let request = &webhook.calls()[0].1["request"];
    assert_eq!(request["kind"], json!({"group": "autoscaling", "version": "v1", "kind": "Scale"}));
    assert_eq!(
        (&request["subResource"], &request["object"]["spec"]["replicas"]),
        (&json!("scale"), &json!(7))
    );

    // Deletions show what goes, and a collection's carry no name.
    register(&world, "Validating", "cm", vec![hook(&webhook, "/allow", "configmaps", &json!({}))]).await;
    world.post(&format!("{CONFIGMAPS}?dryRun=All"), &configmap("a")).await.ok();
    let calls = webhook.calls();
    let dry = &calls.last().unwrap().1["request"];
    assert_eq!((&dry["dryRun"], &dry["options"]["dryRun"]), (&json!(true), &json!(["All"])));
    world.post(CONFIGMAPS, &configmap("a")).await.ok();
    world.post(CONFIGMAPS, &configmap("b")).await.ok();
    webhook.forget();
    world
        .send(Method::DELETE, &format!("{CONFIGMAPS}/a"), &json!({"propagationPolicy": "Background"}))
        .await
        .ok();
    let request = webhook.calls()[0].1["request"].clone();
    assert_eq!((&request["operation"], &request["object"]), (&json!("DELETE"), &Value::Null));
    assert_eq!((&request["name"], &request["oldObject"]["metadata"]["name"]), (&json!("a"), &json!("a")));
    let options =
        json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1", "propagationPolicy": "Background"});
    assert_eq!(request["options"], options);
    webhook.forget();
    world.delete(&format!("{CONFIGMAPS}?fieldSelector=metadata.name=b")).await.ok();
    let request = &webhook.calls()[0].1["request"];
    assert_eq!((request.get("name"), &request["oldObject"]["metadata"]["name"]), (None, &json!("b")));

    // Connections show their options.
    let attach = json!({"rules": [{"operations": ["CONNECT"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods/attach"]}]});
    register(&world, "Validating", "attach", vec![hook(&webhook, "/deny", "x", &attach)]).await;
    let pod = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    world.post("/api/v1/namespaces/default/pods", &pod).await.ok();
    webhook.forget();
    let attach = "/api/v1/namespaces/default/pods/p/attach?container=c&stdin=true&stdout=true";
    assert_eq!(
        world.post(attach, &Value::Null).await.refused(403),
        "admission webhook \"h-deny.example.com\" denied the request: not this one"
    );
    let request = &webhook.calls()[0].1["request"];
    assert_eq!((&request["operation"], &request["options"]), (&json!("CONNECT"), &Value::Null));
    let wanted = json!({"kind": "PodAttachOptions", "apiVersion": "v1", "container": "c", "stdin": true, "stdout": true});
    assert_eq!(request["object"], wanted);
}

#[tokio::test]
async fn registrations_are_validated_in_upstreams_words() {
    let world = World::new().await;
    let good = json!({"name": "a.example.com", "clientConfig": {"url": "https://a/"}, "sideEffects": "None",
        "admissionReviewVersions": ["v1"]});
    let rule = json!({"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["*"], "resources": ["*"]});
    let with = |more: Value| {
        let mut hook = good.clone();
        for (key, value) in more.as_object().unwrap() {
            hook[key] = value.clone();
        }
        hook
    };
    let with_rule = |more: Value| {
        let mut changed = rule.clone();
        for (key, value) in more.as_object().unwrap() {
            changed[key] = value.clone();
        }
        with(json!({"rules": [changed]}))
    };
    let url = format!("/apis/{GROUP}/v1/validatingwebhookconfigurations");
    for (hook, wanted) in [
        (
            with(json!({"name": "short.name"})),
            "webhooks[0].name: Invalid value: \"short.name\": should be a domain with at least three segments separated by dots",
        ),
        (
            with(json!({"sideEffects": "Some"})),
            "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
        ),
        (
            with(json!({"timeoutSeconds": 31})),
            "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
        ),
        (
            with(json!({"clientConfig": {}})),
            "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
        ),
        (
            with(json!({"clientConfig": {"url": "http://a"}})),
            "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
        ),
        (
            with(json!({"admissionReviewVersions": ["v2"]})),
            "webhooks[0].admissionReviewVersions: Invalid value: [\"v2\"]: must include at least one of v1, v1beta1",
        ),
        (
            with(json!({"admissionReviewVersions": ["v1", "v1"]})),
            "webhooks[0].admissionReviewVersions[1]: Invalid value: \"v1\": duplicate version",
        ),
        (
            with(json!({"failurePolicy": "Maybe"})),
            "webhooks[0].failurePolicy: Unsupported value: \"Maybe\": supported values: \"Fail\", \"Ignore\"",
        ),
        (
            with(json!({"matchConditions": [{"name": "", "expression": ""}]})),
            "[webhooks[0].matchConditions[0].expression: Required value, webhooks[0].matchConditions[0].name: Required value]",
        ),
        (with_rule(json!({"operations": []})), "webhooks[0].rules[0].operations: Required value"),
        (
            with_rule(json!({"operations": ["*", "CREATE"]})),
            "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
        ),
        (
            with_rule(json!({"operations": ["READ"]})),
            "webhooks[0].rules[0].operations[0]: Unsupported value: \"READ\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"DELETE\", \"UPDATE\"",
        ),
        (
            with_rule(json!({"resources": ["*/*", "a"]})),
            "webhooks[0].rules[0].resources: Invalid value: [\"*/*\",\"a\"]: if '*/*' is present, must not specify other resources",
        ),
        (
            with_rule(json!({"resources": ["a/*", "a/x"]})),
            "webhooks[0].rules[0].resources[1]: Invalid value: \"a/x\": if 'a/*' is present, must not specify a/x",
        ),
        (
            with_rule(json!({"scope": "Some"})),
            "webhooks[0].rules[0].scope: Unsupported value: \"Some\": supported values: \"*\", \"Cluster\", \"Namespaced\"",
        ),
    ] {
        let refused =
            world.post(&url, &json!({"metadata": {"name": "v"}, "webhooks": [hook]})).await.refused(422);
        assert_eq!(refused, format!("ValidatingWebhookConfiguration.{GROUP} \"v\" is invalid: {wanted}"));
    }
    let twice = json!({"metadata": {"name": "v"}, "webhooks": [good, good]});
    let refused = world.post(&url, &twice).await.refused(422);
    assert!(refused.ends_with("webhooks[1].name: Duplicate value: \"a.example.com\""), "{refused}");
    let made =
        world.post(&url, &json!({"metadata": {"name": "v"}, "webhooks": [with_rule(json!({}))]})).await.ok();
    let hook = &made["webhooks"][0];
    assert_eq!(
        (&hook["failurePolicy"], &hook["matchPolicy"], &hook["timeoutSeconds"]),
        (&json!("Fail"), &json!("Equivalent"), &json!(10))
    );
    assert_eq!((&hook["namespaceSelector"], &hook["rules"][0]["scope"]), (&json!({}), &json!("*")));
    assert!(hook.get("reinvocationPolicy").is_none());
}

#[tokio::test]
async fn policies_and_bindings_are_validated_in_upstreams_words() {
    let world = World::new().await;
    let policy = |spec: Value| json!({"metadata": {"name": "p"}, "spec": spec});
    let constraints = json!({"resourceRules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
    let validating = format!("/apis/{GROUP}/v1/validatingadmissionpolicies");
    let refused = world.post(&validating, &policy(json!({}))).await.refused(422);
    let nothing = "validations or auditAnnotations must contain at least one item";
    assert_eq!(
        refused,
        format!(
            "ValidatingAdmissionPolicy.{GROUP} \"p\" is invalid: [spec.matchConstraints: Required value, spec.validations: Required value: {nothing}, spec.auditAnnotations: Required value: {nothing}]"
        )
    );
    for (more, wanted) in [
        (
            json!({"validations": [{"expression": ""}]}),
            "spec.validations[0].expression: Required value: expression is not specified",
        ),
        (
            json!({"validations": [{"expression": "true", "reason": "Because"}]}),
            "spec.validations[0].reason: Unsupported value: \"Because\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\"",
        ),
        (
            json!({"validations": [{"expression": "true", "message": "a\nb"}]}),
            "spec.validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
        ),
        (
            json!({"validations": [{"expression": "true"}], "variables": [{"name": "if", "expression": "true"}]}),
            "spec.variables[0].name: Invalid value: \"if\": must be a valid CEL identifier",
        ),
        (
            json!({"validations": [{"expression": "true"}], "paramKind": {"apiVersion": "a/b/c", "kind": "K"}}),
            "spec.paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
        ),
        (
            json!({"validations": [{"expression": "true"}], "auditAnnotations": [{"key": "k", "valueExpression": " "}]}),
            "spec.auditAnnotations[0].valueExpression: Required value: valueExpression is not specified",
        ),
    ] {
        let mut spec = more;
        spec["matchConstraints"] = constraints.clone();
        let refused = world.post(&validating, &policy(spec)).await.refused(422);
        assert_eq!(refused, format!("ValidatingAdmissionPolicy.{GROUP} \"p\" is invalid: {wanted}"));
    }
    let mutating = format!("/apis/{GROUP}/v1/mutatingadmissionpolicies");
    let spec = json!({"matchConstraints": {"resourceRules": [{"operations": ["DELETE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]},
        "reinvocationPolicy": "Never", "mutations": [{"patchType": "JSONPatch", "applyConfiguration": {"expression": "Object{}"}}]});
    let refused = world.post(&mutating, &policy(spec)).await.refused(422);
    assert_eq!(
        refused,
        format!(
            "MutatingAdmissionPolicy.{GROUP} \"p\" is invalid: [spec.matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CONNECT\", \"CREATE\", \"UPDATE\", spec.mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch, spec.mutations[0].applyConfiguration: Invalid value: \"{{applyConfiguration}}\": must not be specified when patchType is JSONPatch]"
        )
    );
    let bindings = format!("/apis/{GROUP}/v1/validatingadmissionpolicybindings");
    for (spec, wanted) in [
        (
            json!({"policyName": "p", "validationActions": []}),
            "spec.validationActions: Required value: at least one validation action is required",
        ),
        (
            json!({"policyName": "p", "validationActions": ["Deny", "Warn"]}),
            "spec.validationActions: Invalid value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
        ),
        (
            json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {"name": "n", "selector": {}, "parameterNotFoundAction": "Deny"}}),
            "[spec.paramRef.name: Forbidden: name and selector are mutually exclusive, spec.paramRef.selector: Forbidden: name and selector are mutually exclusive]",
        ),
        (
            json!({"policyName": "p", "validationActions": ["Deny"], "paramRef": {}}),
            "[spec.paramRef: Required value: one of name or selector must be specified, spec.paramRef.parameterNotFoundAction: Required value]",
        ),
    ] {
        let refused =
            world.post(&bindings, &json!({"metadata": {"name": "b"}, "spec": spec})).await.refused(422);
        assert_eq!(refused, format!("ValidatingAdmissionPolicyBinding.{GROUP} \"b\" is invalid: {wanted}"));
    }
}
