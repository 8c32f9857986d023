//! Admission policies: validating and mutating ones with bindings, parameters and variables; match conditions of
//! webhooks; what their expressions must be.

use crate::world::{World, request, via};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::Method;
use knarr_apiserver::webhook::testing::TestWebhook;
use serde_json::{Value, json};

const GROUP: &str = "admissionregistration.k8s.io";
const CONFIGMAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Creates an object of the group and waits until requests see it.
async fn register(world: &World, kind: &str, name: &str, spec: Value) {
    let plural = match kind.strip_suffix("Policy") {
        Some(start) => format!("{}policies", start.to_lowercase()),
        None => format!("{}s", kind.to_lowercase()),
    };
    let body =
        json!({"kind": kind, "apiVersion": format!("{GROUP}/v1"), "metadata": {"name": name}, "spec": spec});
    let made = world.post(&format!("/apis/{GROUP}/v1/{plural}"), &body).await.ok();
    let revision: u64 = made["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let reader = world.server.registry().reader();
    for _ in 0..100_000 {
        if reader.settled(GROUP, &plural) >= revision {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the watch cache did not come to {revision}");
}

fn configmaps() -> Value {
    json!({"resourceRules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}]})
}

async fn validating(world: &World, spec: Value, actions: &[&str]) {
    let mut policy = json!({"matchConstraints": configmaps()});
    for (key, value) in spec.as_object().unwrap() {
        policy[key] = value.clone();
    }
    register(world, "ValidatingAdmissionPolicy", "p", policy).await;
    let binding = json!({"policyName": "p", "validationActions": actions});
    register(world, "ValidatingAdmissionPolicyBinding", "b", binding).await;
}

fn configmap(name: &str, data: Value) -> Value {
    json!({"metadata": {"name": name}, "data": data})
}

#[tokio::test]
async fn validations_deny_warn_and_fail() {
    let denied =
        "configmaps \"c\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: ";
    for (spec, code, message) in [
        (
            json!({"validations": [{"expression": "object.data.n == '1'"}]}),
            422,
            "failed expression: object.data.n == '1'",
        ),
        (
            json!({"validations": [{"expression": "object.data.n == '1'", "message": "n must be 1", "reason": "Forbidden"}]}),
            403,
            "n must be 1",
        ),
        (
            json!({"variables": [{"name": "n", "expression": "object.data.n"}],
                "validations": [{"expression": "variables.n == '1'", "messageExpression": "'got ' + variables.n", "message": "x"}]}),
            422,
            "got 2",
        ),
        (
            json!({"validations": [{"expression": "object.data.none == '1'"}]}),
            422,
            "expression 'object.data.none == '1'' resulted in error: no such key: none",
        ),
        (
            json!({"validations": [{"expression": "request.operation != 'CREATE' || namespaceObject.metadata.name != 'default'"}]}),
            422,
            "failed expression: request.operation != 'CREATE' || namespaceObject.metadata.name != 'default'",
        ),
        (
            json!({"validations": [{"expression": "authorizer.group('').resource('secrets').namespace('default').check('get').allowed() == (request.userInfo.username != 'admin')"}]}),
            422,
            "failed expression: authorizer.group('').resource('secrets').namespace('default').check('get').allowed() == (request.userInfo.username != 'admin')",
        ),
        (
            json!({"matchConditions": [{"name": "m", "expression": "has(object.data)"}], "validations": [{"expression": "false"}]}),
            422,
            "failed expression: false",
        ),
    ] {
        let world = World::new().await;
        validating(&world, spec.clone(), &["Deny"]).await;
        let refused = world.post(CONFIGMAPS, &configmap("c", json!({"n": "2"}))).await;
        assert_eq!(
            refused.json()["details"]["causes"][0]["message"],
            refused.json()["message"].as_str().unwrap().replace("configmaps \"c\" is forbidden: ", "")
        );
        assert_eq!(refused.refused(code), format!("{denied}{message}"), "{spec}");
    }
    // Other objects, failed conditions, ignored failures and warnings let the write pass.
    for (spec, actions, warning) in [
        (json!({"validations": [{"expression": "object.data.n == '2'"}]}), ["Deny"], None),
        (
            json!({"failurePolicy": "Ignore", "validations": [{"expression": "object.data.none == '1'"}]}),
            ["Deny"],
            None,
        ),
        (
            json!({"matchConditions": [{"name": "m", "expression": "!has(object.data)"}], "validations": [{"expression": "false"}]}),
            ["Deny"],
            None,
        ),
        (
            json!({"validations": [{"expression": "false", "message": "careful"}]}),
            ["Warn"],
            Some("299 - \"Validation failed for ValidatingAdmissionPolicy 'p' with binding 'b': careful\""),
        ),
        (json!({"validations": [{"expression": "false"}]}), ["Audit"], None),
    ] {
        let world = World::new().await;
        validating(&world, spec, &actions).await;
        let passed = world.post(CONFIGMAPS, &configmap("c", json!({"n": "2"}))).await;
        assert_eq!(passed.headers.get("warning").map(|w| w.to_str().unwrap()), warning);
        passed.ok();
    }
}

#[tokio::test]
async fn bindings_select_and_bring_parameters() {
    let world = World::new().await;
    let mut policy = json!({"matchConstraints": configmaps(), "paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
        "validations": [{"expression": "object.metadata.name.startsWith('limits') || int(object.data.n) <= int(params.data.max)",
            "messageExpression": "'above ' + params.data.max + ' of ' + params.kind"}]});
    policy["matchConstraints"]["excludeResourceRules"] = json!([{"operations": ["*"], "apiGroups": [""],
        "apiVersions": ["v1"], "resources": ["configmaps"], "resourceNames": ["excluded"]}]);
    register(&world, "ValidatingAdmissionPolicy", "p", policy).await;
    let binding = json!({"policyName": "p", "validationActions": ["Deny"],
        "paramRef": {"name": "limits", "namespace": "default", "parameterNotFoundAction": "Deny"},
        "matchResources": {"objectSelector": {"matchExpressions": [{"key": "free", "operator": "DoesNotExist"}]}}});
    register(&world, "ValidatingAdmissionPolicyBinding", "b", binding).await;
    let denied = |name: &str, message: &str| {
        format!(
            "configmaps \"{name}\" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: {message}"
        )
    };
    assert_eq!(
        world.post(CONFIGMAPS, &configmap("c", json!({"n": "5"}))).await.refused(422),
        denied(
            "c",
            "failed to configure binding: no params found for policy binding with `Deny` parameterNotFoundAction"
        )
    );
    let mut limits = configmap("limits", json!({"max": "3"}));
    limits["metadata"]["labels"] = json!({"free": "yes"});
    world.post(CONFIGMAPS, &limits).await.ok();
    let refused = world.post(CONFIGMAPS, &configmap("c", json!({"n": "5"}))).await.refused(422);
    assert_eq!(refused, denied("c", "above 3 of ConfigMap"));
    world.post(CONFIGMAPS, &configmap("d", json!({"n": "3"}))).await.ok();
    world.post(CONFIGMAPS, &configmap("excluded", json!({"n": "5"}))).await.ok();
    // A deletion has no object, which the expression does not expect.
    let refused = world.delete(&format!("{CONFIGMAPS}/d")).await.refused(422);
    assert!(refused.contains("no such key: metadata") || refused.contains("resulted in error"), "{refused}");
    // The policy itself cannot be kept from being changed.
    world.delete(&format!("/apis/{GROUP}/v1/validatingadmissionpolicybindings/b")).await.ok();
}

#[tokio::test]
async fn mutations_apply_and_patch_and_are_made_again() {
    let world = World::new().await;
    let apply = json!({"matchConstraints": configmaps(), "reinvocationPolicy": "IfNeeded",
        "variables": [{"name": "seen", "expression": "has(object.data) && 'b' in object.data ? 'b' : 'nothing'"}],
        "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration":
            {"expression": "Object{metadata: Object.metadata{labels: {'made-by': request.userInfo.username, 'seen': variables.seen}}}"}}]});
    let patch = json!({"matchConstraints": configmaps(), "reinvocationPolicy": "Never",
        "matchConditions": [{"name": "new", "expression": "request.operation == 'CREATE'"}],
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression":
            "[JSONPatch{op: 'test', path: '/data/a', value: '1'}, JSONPatch{op: 'add', path: '/data/b', value: '2'}]"}}]});
    for (name, spec) in [("a", apply), ("b", patch)] {
        register(&world, "MutatingAdmissionPolicy", name, spec).await;
        register(&world, "MutatingAdmissionPolicyBinding", name, json!({"policyName": name})).await;
    }
    let made = world.post(CONFIGMAPS, &configmap("c", json!({"a": "1"}))).await.ok();
    assert_eq!(made["data"], json!({"a": "1", "b": "2"}));
    assert_eq!(made["metadata"]["labels"], json!({"made-by": "admin", "seen": "b"}));
    // The test in the patch says that it is not for this one.
    let other = world.post(CONFIGMAPS, &configmap("d", json!({"a": "x"}))).await.ok();
    assert_eq!(
        (&other["data"], &other["metadata"]["labels"]["seen"]),
        (&json!({"a": "x"}), &json!("nothing"))
    );
}

#[tokio::test]
async fn mutations_of_a_deployment_merge_lists_by_their_keys() {
    let world = World::new().await;
    let rules = json!({"resourceRules": [{"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]});
    let spec = json!({"matchConstraints": rules, "reinvocationPolicy": "Never", "mutations": [{"patchType": "ApplyConfiguration",
        "applyConfiguration": {"expression": "Object{spec: Object.spec{replicas: object.spec.replicas + 1, template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'c', workingDir: '/x'}, Object.spec.template.spec.containers{name: 'new', image: 'i'}]}}}}"}}]});
    register(&world, "MutatingAdmissionPolicy", "m", spec).await;
    register(&world, "MutatingAdmissionPolicyBinding", "m", json!({"policyName": "m"})).await;
    let url = "/apis/apps/v1/namespaces/default/deployments";
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 1, "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
    let made = world.post(url, &deployment).await.ok();
    let containers = made["spec"]["template"]["spec"]["containers"].as_array().unwrap();
    let names: Vec<&str> = containers.iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(
        (names, &containers[0]["workingDir"], &containers[0]["image"]),
        (vec!["c", "new"], &json!("/x"), &json!("i"))
    );
    assert_eq!(containers[1]["imagePullPolicy"], "Always", "what was added is defaulted");
    assert_eq!(made["spec"]["replicas"], 2);
    assert!(made["metadata"]["managedFields"].is_array());

    for (expression, wanted) in [
        (
            "Object{spec: Object.spec{template: Object.spec.template{spec: Object.spec.template.spec{containers: [Object.spec.template.spec.containers{name: 'c', command: ['x']}]}}}}",
            "error applying patch: invalid ApplyConfiguration: may not mutate atomic arrays, maps or structs: .spec.template.spec.containers[0].command",
        ),
        (
            "Object{spec: Object.spec{nonsense: 1}}",
            "error applying patch: failed to convert patch object to typed object: .spec.nonsense: field not declared in schema",
        ),
        (
            "Object{metadata: Object.metadata{name: object.none}}",
            "expression 'Object{metadata: Object.metadata{name: object.none}}' resulted in error: no such key: none",
        ),
    ] {
        let world = World::new().await;
        let spec = json!({"matchConstraints": rules, "reinvocationPolicy": "Never",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": expression}}]});
        register(&world, "MutatingAdmissionPolicy", "m", spec).await;
        register(&world, "MutatingAdmissionPolicyBinding", "m", json!({"policyName": "m"})).await;
        let refused = world.post(url, &deployment).await;
        assert_eq!(refused.json()["reason"], "Invalid");
        assert_eq!(refused.refused(403), format!("policy 'm' with binding 'm' denied request: {wanted}"));
    }
}

#[tokio::test]
async fn webhooks_have_match_conditions() {
    let world = World::new().await;
    let webhook = TestWebhook::start(&["127.0.0.1"], |_, review| {
        let patch = STANDARD.encode(json!([{"op": "add", "path": "/data", "value": {"hooked": "yes"}}]).to_string());
        let response = json!({"uid": review["request"]["uid"], "allowed": true, "patchType": "JSONPatch", "patch": patch});
        Some((200, json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response}).to_string()))
    })
    .await;
    let hook = |expression: &str| {
        json!({"kind": "MutatingWebhookConfiguration", "apiVersion": format!("{GROUP}/v1"), "metadata": {"name": "m"}, "webhooks": [{
            "name": "h.example.com", "clientConfig": {"url": webhook.url("/"), "caBundle": webhook.ca_bundle()},
            "rules": [{"operations": ["*"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["configmaps"]}],
            "matchConditions": [{"name": "c", "expression": expression}], "sideEffects": "None", "admissionReviewVersions": ["v1"]}]})
    };
    let url = format!("/apis/{GROUP}/v1/mutatingwebhookconfigurations");
    for (expression, wanted) in [
        ("object.metadata", "must evaluate to bool but got dyn"),
        ("has(params.x)", "undeclared reference to 'params'"),
        ("1 +", "compilation failed: ERROR: <input>:1:4: Syntax error"),
    ] {
        let refused = world.post(&url, &hook(expression)).await.refused(422);
        assert!(refused.contains("webhooks[0].matchConditions[0].expression: Invalid value: "), "{refused}");
        assert!(refused.contains(wanted), "{refused}");
    }
    let made = world.post(&url, &hook("object.metadata.name != 'skip-me'")).await.ok();
    let revision: u64 = made["metadata"]["resourceVersion"].as_str().unwrap().parse().unwrap();
    let reader = world.server.registry().reader();
    while reader.settled(GROUP, "mutatingwebhookconfigurations") < revision {
        tokio::task::yield_now().await;
    }
    let hooked = world.post(CONFIGMAPS, &json!({"metadata": {"name": "c"}})).await.ok();
    assert_eq!(hooked["data"]["hooked"], "yes");
    let skipped = world.post(CONFIGMAPS, &json!({"metadata": {"name": "skip-me"}})).await.ok();
    assert!(skipped["data"].is_null());
    // What fails to be evaluated refuses the write, as the failure policy is Fail.
    let failing = json!({"webhooks": [{"name": "h.example.com", "matchConditions": [{"name": "c", "expression": "object.none == 'x'"}]}]});
    world.patch(&format!("{url}/m"), "strategic-merge-patch+json", &failing).await.ok();
    let mut refused = world.post(CONFIGMAPS, &json!({"metadata": {"generateName": "d"}})).await;
    while refused.code == 201 {
        tokio::task::yield_now().await;
        refused = world.post(CONFIGMAPS, &json!({"metadata": {"generateName": "d"}})).await;
    }
    let text = refused.refused(403);
    assert!(
        text.ends_with("is forbidden: expression 'object.none == 'x'' resulted in error: no such key: none"),
        "{text}"
    );
}

#[tokio::test]
async fn expressions_of_policies_are_compiled_when_they_are_stored() {
    let world = World::new().await;
    let url = format!("/apis/{GROUP}/v1/validatingadmissionpolicies");
    for (more, field, wanted) in [
        (
            json!({"validations": [{"expression": "object."}]}),
            "spec.validations[0].expression",
            "compilation failed: ERROR: <input>:1:8: Syntax error",
        ),
        (
            json!({"validations": [{"expression": "1"}]}),
            "spec.validations[0].expression",
            "must evaluate to bool but got int",
        ),
        (
            json!({"validations": [{"expression": "true", "messageExpression": "1"}]}),
            "spec.validations[0].messageExpression",
            "must evaluate to string but got int",
        ),
        (
            json!({"validations": [{"expression": "true", "messageExpression": "string(authorizer.path('/x').check('get').allowed())"}]}),
            "spec.validations[0].messageExpression",
            "undeclared reference to 'authorizer'",
        ),
        (
            json!({"validations": [{"expression": "variables.a"}]}),
            "spec.validations[0].expression",
            "undeclared reference to 'variables'",
        ),
        (
            json!({"variables": [{"name": "a", "expression": "true +"}], "validations": [{"expression": "true"}]}),
            "spec.variables[0].expression",
            "compilation failed: ",
        ),
        (
            json!({"validations": [{"expression": "true"}], "auditAnnotations": [{"key": "k", "valueExpression": "true"}]}),
            "spec.auditAnnotations[0].valueExpression",
            "must evaluate to one of [string null_type] but got bool",
        ),
    ] {
        let mut spec = more;
        spec["matchConstraints"] = configmaps();
        let refused = world.post(&url, &json!({"metadata": {"name": "p"}, "spec": spec})).await.refused(422);
        assert!(refused.contains(&format!("is invalid: {field}: Invalid value: ")), "{refused}");
        assert!(refused.contains(wanted), "{refused}");
    }
}

#[tokio::test]
async fn parameters_are_only_named_by_who_may_read_them() {
    let world = World::new().await;
    let role = json!({"metadata": {"name": "policies"}, "rules": [{"apiGroups": [GROUP], "resources": ["*"], "verbs": ["*"]}]});
    world.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.ok();
    let binding = json!({"metadata": {"name": "policies"}, "subjects": [{"kind": "User", "name": "eve", "apiGroup": "rbac.authorization.k8s.io"}],
        "roleRef": {"kind": "ClusterRole", "name": "policies", "apiGroup": "rbac.authorization.k8s.io"}});
    world.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.ok();
    let eve = world.as_user("eve", &[]);
    let spec = json!({"matchConstraints": configmaps(), "validations": [{"expression": "true"}], "paramKind": {"apiVersion": "v1", "kind": "Secret"}});
    let body = json!({"metadata": {"name": "p"}, "spec": spec});
    let url = format!("/apis/{GROUP}/v1/validatingadmissionpolicies");
    let send = |url: String, body: Value| {
        let request = request(Method::POST, &url, "application/json", "application/json", &body);
        let eve = eve.clone();
        async move { via(&*eve, request).await }
    };
    assert_eq!(
        send(url.clone(), body.clone()).await.refused(422),
        format!(
            "ValidatingAdmissionPolicy.{GROUP} \"p\" is invalid: spec.paramKind: Forbidden: user &{{eve  [system:authenticated] map[]}} must have \"get\" permission on all objects of the referenced paramKind (kind=Secret, apiVersion=v1)"
        )
    );
    world.post(&url, &body).await.ok();
    let binding = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"],
        "paramRef": {"name": "s", "namespace": "default", "parameterNotFoundAction": "Deny"}}});
    assert_eq!(
        send(format!("/apis/{GROUP}/v1/validatingadmissionpolicybindings"), binding).await.refused(422),
        format!(
            "ValidatingAdmissionPolicyBinding.{GROUP} \"b\" is invalid: spec.paramRef: Forbidden: user &{{eve  [system:authenticated] map[]}} does not have \"get\" permission on the object referenced by paramRef"
        )
    );
}
