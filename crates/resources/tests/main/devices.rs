//! API services and the kinds of dynamic resource allocation: refusals in upstream's words, and who may write the status
//! of a claim.

use crate::world::{World, request, via, yaml};
use http::Method;
use serde_json::{Value, json};

const SERVICES: &str = "/apis/apiregistration.k8s.io/v1/apiservices";
const CLAIMS: &str = "/apis/resource.k8s.io/v1/namespaces/default/resourceclaims";
const SLICES: &str = "/apis/resource.k8s.io/v1/resourceslices";
const CLASSES: &str = "/apis/resource.k8s.io/v1/deviceclasses";

fn fixture(resource: &str) -> Value {
    yaml(knarr_resources::all().into_iter().find(|d| d.resource == resource).unwrap().fixture)
}

#[tokio::test]
async fn refusals_are_in_upstreams_words() {
    let world = World::new().await;
    let request = |exactly: Value| json!([{"name": "gpu", "exactly": exactly}]);
    let class = "fixture.example.com";
    // The collection, what is changed in the fixture and to what, what the refusal says.
    let cases: &[(&str, &str, Value, &str)] = &[
        (
            SERVICES,
            "/metadata/name",
            json!("v2.fixture.example.com"),
            "metadata.name: Invalid value: \"v2.fixture.example.com\": must be `spec.version+\".\"+spec.group`: \"v1.fixture.example.com\"",
        ),
        (
            SERVICES,
            "/spec/groupPriorityMinimum",
            json!(20001),
            "spec.groupPriorityMinimum: Invalid value: 20001: must be positive and less than 20000",
        ),
        (
            SERVICES,
            "/spec/versionPriority",
            json!(0),
            "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
        ),
        (
            SERVICES,
            "/spec/caBundle",
            json!("eA=="),
            "spec.insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present",
        ),
        (
            SERVICES,
            "/spec/service",
            Value::Null,
            "spec.insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
        ),
        (
            SERVICES,
            "/spec/service/port",
            json!(70000),
            "spec.service.port: Invalid value: 70000: port is not valid: must be between 1 and 65535, inclusive",
        ),
        (
            CLAIMS,
            "/spec/devices/requests",
            json!([{"name": "gpu"}]),
            "spec.devices.requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
        ),
        (
            CLAIMS,
            "/spec/devices/requests",
            request(json!({"deviceClassName": class, "allocationMode": "All", "count": 2})),
            "spec.devices.requests[0].exactly.count: Invalid value: 2: must not be specified when allocationMode is 'All'",
        ),
        (
            CLAIMS,
            "/spec/devices/requests",
            request(json!({"deviceClassName": class, "allocationMode": "Some"})),
            "spec.devices.requests[0].exactly.allocationMode: Unsupported value: \"Some\": supported values: \"All\", \"ExactCount\"",
        ),
        (
            CLAIMS,
            "/spec/devices/requests",
            request(json!({"deviceClassName": class, "adminAccess": true})),
            "spec.devices.requests[0].adminAccess: Forbidden: admin access to devices requires the `resource.kubernetes.io/admin-access: true` label on the containing namespace",
        ),
        (
            CLAIMS,
            "/spec/devices/constraints",
            json!([{"requests": ["other"], "matchAttribute": "model"}]),
            "spec.devices.constraints[0].requests[0]: Invalid value: \"other\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
        ),
        (
            CLAIMS,
            "/spec/devices/constraints",
            json!([{"requests": ["gpu"], "matchAttribute": "model"}]),
            "spec.devices.constraints[0].matchAttribute: Invalid value: \"model\": a fully qualified name must be a domain and a name separated by a slash",
        ),
        (
            CLAIMS,
            "/spec/devices/config",
            json!([{"opaque": {"driver": "d.example.com", "parameters": [1]}}]),
            "spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object",
        ),
        (
            CLASSES,
            "/spec/extendedResourceName",
            json!("gpu"),
            "spec.extendedResourceName: Invalid value: \"gpu\": must be a valid extended resource name",
        ),
        (
            SLICES,
            "/spec/allNodes",
            json!(true),
            "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
        ),
        (
            SLICES,
            "/spec/pool/resourceSliceCount",
            json!(0),
            "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
        ),
        (
            SLICES,
            "/spec/devices",
            json!([{"name": "a"}, {"name": "a"}]),
            "spec.devices[1]: Duplicate value: \"a\"",
        ),
        (
            SLICES,
            "/spec/devices/0/attributes",
            json!({"driver": {"version": "1.2"}}),
            "spec.devices[0].attributes[driver].version: Invalid value: \"1.2\": must be a string compatible with semver.org spec 2.0.0",
        ),
        (
            SLICES,
            "/spec/devices/0/attributes",
            json!({"driver": {"string": "1", "int": 2}}),
            "spec.devices[0].attributes[driver]: Invalid value: {\"int\":2,\"string\":\"1\"}: exactly one value must be specified",
        ),
        (
            SLICES,
            "/spec/devices/0/capacity/memory/requestPolicy",
            json!({"default": "1Gi"}),
            "spec.devices[0].capacity[memory].requestPolicy: Forbidden: allowMultipleAllocations must be true",
        ),
        (
            SLICES,
            "/spec/devices/0/taints",
            json!([{"key": "k", "effect": "Never"}]),
            "spec.devices[0].taints[0].effect: Unsupported value: \"Never\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
        ),
        (
            SLICES,
            "/spec/devices/0/bindingConditions",
            json!(["ready"]),
            "spec.devices[0].bindingFailureConditions: Invalid value: null: bindingFailureConditions are required to use bindingConditions",
        ),
    ];
    let mut failures = Vec::new();
    for (url, pointer, value, want) in cases {
        let mut object = fixture(url.rsplit('/').next().unwrap());
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        let parent = object.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        match value {
            Value::Null => parent.remove(key),
            value => parent.insert(key.to_owned(), value.clone()),
        };
        let answer = world.post(url, &object).await;
        let message = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        if answer.code != 422 || !message.contains(want) {
            failures.push(format!("{url}{pointer}\n  want {want}\n  got  {} {message}", answer.code));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[tokio::test]
async fn a_local_api_service_is_available_at_once() {
    let world = World::new().await;
    let local = json!({"metadata": {"name": "v9.example.com"}, "spec": {
        "group": "example.com", "version": "v9", "groupPriorityMinimum": 10, "versionPriority": 10}});
    let made = world.post(SERVICES, &local).await.ok();
    let condition = &made["status"]["conditions"][0];
    assert_eq!((&condition["type"], &condition["reason"]), (&json!("Available"), &json!("Local")));
    assert_eq!(condition["message"], "Local APIServices are always available");
    let remote = world.post(SERVICES, &fixture("apiservices")).await.ok();
    assert_eq!(remote["spec"]["service"]["port"], 443);
    assert!(remote["status"]["conditions"].is_null(), "{remote}");
}

#[tokio::test]
async fn devices_are_allocated_by_who_may_and_their_status_is_told_by_their_driver() {
    let world = World::new().await;
    let claim = world.post(CLAIMS, &fixture("resourceclaims")).await.ok();
    assert_eq!(claim["spec"]["devices"]["requests"][0]["exactly"]["count"], 1);
    let url = format!("{CLAIMS}/fixture");
    let mut changed = claim.clone();
    changed["spec"]["devices"]["requests"][0]["name"] = "other".into();
    let refused = world.put(&url, &changed).await.refused(422);
    assert!(refused.contains("field is immutable"), "{refused}");

    // The right to write claims' status is not the right to allocate.
    let rules = |resources: Value, verbs: Value| json!([{"apiGroups": ["resource.k8s.io"], "resources": resources, "verbs": verbs}]);
    let grant = async |name: &str, user: &str, rules: Value| {
        let role = json!({"metadata": {"name": name}, "rules": rules});
        world.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).await.ok();
        let binding = json!({"metadata": {"name": name},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "name": user}]});
        world.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await.ok();
    };
    grant("status", "driver", rules(json!(["resourceclaims/status"]), json!(["update"]))).await;
    let driver = world.as_user("driver", &[]);
    let status = format!("{url}/status");
    let put = async |object: &Value| {
        let json = "application/json";
        via(&*driver, request(Method::PUT, &status, json, json, object)).await
    };
    let mut allocated = claim.clone();
    allocated["status"] = json!({"allocation": {"devices": {"results": [
        {"request": "gpu", "driver": "d.example.com", "pool": "alpha", "device": "gpu-0"}]}}});
    let refused = put(&allocated).await.refused(422);
    assert!(
        refused.contains("status.allocation: Forbidden: changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"update\" permission: resourceclaims.resource.k8s.io is forbidden: User \"driver\" cannot update resource \"resourceclaims/binding\" in API group \"resource.k8s.io\" at the cluster scope"),
        "{refused}"
    );
    let mut allocated = world.put(&status, &allocated).await.ok();

    // Nor to speak for any driver.
    allocated["status"]["devices"] = json!([{"driver": "d.example.com", "pool": "alpha", "device": "gpu-1"}]);
    let refused = put(&allocated).await.refused(422);
    assert!(refused.contains("verb=\"[arbitrary-node:update]\" permission: "), "{refused}");
    let told = "status.devices[0]: Invalid value: d.example.com/alpha/gpu-1: must be an allocated device in the claim";
    assert!(refused.contains(told), "{refused}");
    grant("any", "driver", rules(json!(["resourceclaims/driver"]), json!(["arbitrary-node:update"]))).await;
    allocated["status"]["devices"][0]["device"] = "gpu-0".into();
    let told = crate::world::Answer::ok(put(&allocated).await);
    assert_eq!(told["status"]["devices"][0]["device"], "gpu-0");

    // What was allocated stays as it is; once it goes, so does what was said of it.
    let mut other = told.clone();
    other["status"]["allocation"]["devices"]["results"][0]["device"] = "gpu-2".into();
    let refused = world.put(&status, &other).await.refused(422);
    assert!(refused.contains("status.allocation: Invalid value:"), "{refused}");
    let mut freed = told;
    freed["status"].as_object_mut().unwrap().remove("allocation");
    let freed = world.put(&status, &freed).await.ok();
    assert!(freed["status"]["devices"].is_null(), "{freed}");
}
