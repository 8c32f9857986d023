//! Refusals in upstream's words.

use crate::world::{World, collection, yaml};
use knarr_apiserver::def::ResourceDef;
use serde_json::{Value, json};

fn kind(resource: &str) -> (ResourceDef, Value) {
    let def = knarr_resources::all().into_iter().find(|d| d.resource == resource).unwrap();
    let object = yaml(def.fixture);
    (def, object)
}

/// Sets the value under a JSON pointer, `Null` removes it.
fn set(object: &mut Value, pointer: &str, value: Value) {
    let (parent, key) = pointer.rsplit_once('/').unwrap();
    let parent = object.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer}"));
    match parent {
        Value::Object(map) if value.is_null() => {
            map.remove(key);
        }
        Value::Object(map) => {
            map.insert(key.to_owned(), value);
        }
        Value::Array(list) => list[key.parse::<usize>().unwrap()] = value,
        _ => panic!("{pointer}"),
    }
}

#[tokio::test]
async fn invalid_objects_are_refused_in_upstreams_words() {
    let world = World::new().await;
    let cases: Vec<(&str, &str, Value, &str)> = vec![
        (
            "pods",
            "/spec/containers",
            json!([]),
            "Pod \"fixture\" is invalid: spec.containers: Required value",
        ),
        ("pods", "/spec/containers/0/image", json!(""), "spec.containers[0].image: Required value"),
        (
            "pods",
            "/spec/containers/0/name",
            json!("Main"),
            "spec.containers[0].name: Invalid value: \"Main\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        (
            "pods",
            "/spec/restartPolicy",
            json!("Sometimes"),
            "spec.restartPolicy: Unsupported value: \"Sometimes\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            "pods",
            "/spec/containers/0/ports/0/containerPort",
            json!(70000),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "pods",
            "/spec/containers/0/volumeMounts",
            json!([{"name":"v","mountPath":"/v"}]),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            "pods",
            "/spec/volumes",
            json!([{"name":"v","emptyDir":{},"hostPath":{"path":"/x"}}]),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            "pods",
            "/spec/containers/0/resources",
            json!({"requests":{"cpu":"2"},"limits":{"cpu":"1"}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            "pods",
            "/spec/containers/0/livenessProbe",
            json!({"periodSeconds": 5}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            "pods",
            "/spec/tolerations",
            json!([{"operator":"Equal","value":"x"}]),
            "spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        ),
        (
            "pods",
            "/spec/ephemeralContainers",
            json!([{"name":"d","image":"i"}]),
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
        (
            "deployments",
            "/spec/selector/matchLabels/app",
            json!("other"),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"fixture\"}: `selector` does not match template `labels`",
        ),
        (
            "deployments",
            "/spec/replicas",
            json!(-1),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            "deployments",
            "/spec/strategy",
            json!({"type":"Recreate","rollingUpdate":{"maxSurge":1}}),
            "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
        ),
        (
            "jobs",
            "/spec/template/spec/restartPolicy",
            json!("Always"),
            "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
        ),
        ("services", "/spec/ports", json!([]), "spec.ports: Required value"),
        (
            "services",
            "/spec/clusterIP",
            json!("10.1.2.3"),
            "spec.clusterIPs: Invalid value: [\"10.1.2.3\"]: failed to allocate IP 10.1.2.3: the provided network does not match the current range",
        ),
        (
            "services",
            "/spec/clusterIP",
            json!("10.96.0.1"),
            "spec.clusterIPs: Invalid value: [\"10.96.0.1\"]: failed to allocate IP 10.96.0.1: provided IP is already allocated",
        ),
        (
            "services",
            "/spec/ports/0/nodePort",
            json!(30080),
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            "secrets",
            "/type",
            json!("kubernetes.io/tls"),
            "[data[tls.crt]: Required value, data[tls.key]: Required value]",
        ),
        (
            "configmaps",
            "/data",
            json!({"a b": "c"}),
            "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
        ),
        (
            "roles",
            "/rules/0/verbs",
            json!([]),
            "rules[0].verbs: Required value: verbs must contain at least one value",
        ),
        (
            "rolebindings",
            "/roleRef/kind",
            json!("Group"),
            "roleRef.kind: Unsupported value: \"Group\": supported values: \"Role\", \"ClusterRole\"",
        ),
        (
            "priorityclasses",
            "/value",
            json!(1_000_000_001),
            "value: Forbidden: maximum allowed value of a user defined priority is 1000000000",
        ),
        (
            "leases",
            "/spec/leaseDurationSeconds",
            json!(0),
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        ),
        (
            "endpointslices",
            "/addressType",
            json!("Mail"),
            "addressType: Unsupported value: \"Mail\": supported values: \"FQDN\", \"IPv4\", \"IPv6\"",
        ),
        (
            "endpointslices",
            "/endpoints/0/addresses",
            json!(["127.0.0.1"]),
            "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
        ),
        (
            "statefulsets",
            "/spec/selector/matchLabels/app",
            json!("other"),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"fixture\"}: `selector` does not match template `labels`",
        ),
        (
            "statefulsets",
            "/spec/podManagementPolicy",
            json!("Random"),
            "spec.podManagementPolicy: Invalid value: \"Random\": must be 'OrderedReady' or 'Parallel'",
        ),
        (
            "daemonsets",
            "/spec/updateStrategy",
            json!({"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":0}}),
            "spec.updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
        ),
        (
            "cronjobs",
            "/spec/schedule",
            json!("61 * * * *"),
            "spec.schedule: Invalid value: \"61 * * * *\": end of range (61) above maximum (59): 61",
        ),
        (
            "cronjobs",
            "/spec/timeZone",
            json!("../etc"),
            "spec.timeZone: Invalid value: \"../etc\": unknown time zone ../etc",
        ),
        (
            "poddisruptionbudgets",
            "/spec/minAvailable",
            json!("120%"),
            "spec.minAvailable: Invalid value: \"120%\": must not be greater than 100%",
        ),
        (
            "persistentvolumeclaims",
            "/spec/accessModes",
            json!(["ReadWriteOncePod", "ReadWriteMany"]),
            "spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
        ),
        ("persistentvolumeclaims", "/spec/resources", json!({}), "spec.resources[storage]: Required value"),
        (
            "persistentvolumes",
            "/spec/nfs",
            json!({"server":"a","path":"/b"}),
            "spec.nfs: Forbidden: may not specify more than 1 volume type",
        ),
        (
            "persistentvolumes",
            "/spec/hostPath",
            json!(null),
            "spec: Required value: must specify a volume type",
        ),
        (
            "storageclasses",
            "/volumeBindingMode",
            json!("Never"),
            "volumeBindingMode: Unsupported value: \"Never\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
        ),
        (
            "ingresses",
            "/spec/rules/0/http/paths/0/path",
            json!("x"),
            "spec.rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path",
        ),
        (
            "ingresses",
            "/spec/rules/0/host",
            json!("1.2.3.4"),
            "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
        ),
        (
            "ingressclasses",
            "/spec/controller",
            json!("nginx"),
            "spec.controller: Invalid value: \"nginx\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        ),
        (
            "networkpolicies",
            "/spec/ingress/0/from/0/ipBlock/except/0",
            json!("10.0.0.0/8"),
            "spec.ingress[0].from[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
        ),
        (
            "limitranges",
            "/spec/limits/0/defaultRequest/cpu",
            json!("3"),
            "spec.limits[0].defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than default limit value 2",
        ),
        (
            "resourcequotas",
            "/spec/scopes",
            json!(["BestEffort", "NotBestEffort"]),
            "spec.scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\"]: conflicting scopes",
        ),
        (
            "horizontalpodautoscalers",
            "/spec/maxReplicas",
            json!(0),
            "spec.maxReplicas: Required value: must be set and greater than 0",
        ),
        (
            "horizontalpodautoscalers",
            "/spec/scaleTargetRef/apiVersion",
            json!("v1"),
            "spec.scaleTargetRef.apiVersion: Invalid value: \"v1\": apiVersion must specify API group",
        ),
        (
            "certificatesigningrequests",
            "/spec/request",
            json!("bm90IGEgcmVxdWVzdA=="),
            "PEM block type must be CERTIFICATE REQUEST",
        ),
        (
            "certificatesigningrequests",
            "/spec/usages",
            json!(["client auth", "flying"]),
            "spec.usages[1]: Unsupported value: \"flying\": supported values: \"any\", \"cert sign\"",
        ),
        (
            "runtimeclasses",
            "/handler",
            json!("A B"),
            "handler: Invalid value: \"A B\": a lowercase RFC 1123 label",
        ),
        (
            "csidrivers",
            "/spec/fsGroupPolicy",
            json!("Maybe"),
            "spec.fsGroupPolicy: Unsupported value: \"Maybe\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
        ),
        (
            "nodes",
            "/spec/taints",
            json!([{"key":"a","effect":"Never"}]),
            "metadata.taints[0].effect: Unsupported value: \"Never\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        ),
    ];
    let mut failures = Vec::new();
    for (resource, pointer, value, want) in cases {
        let (def, mut object) = kind(resource);
        set(&mut object, pointer, value);
        let answer = world.post(&format!("{}?dryRun=All", collection(&def)), &object).await;
        let message = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        if answer.code != 422 || !message.contains(want) {
            failures.push(format!("{resource}{pointer}\n  want {want}\n  got  {} {message}", answer.code));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[tokio::test]
async fn immutable_fields_stay() {
    let world = World::new().await;
    let cases: Vec<(&str, &str, Value, &str)> = vec![
        (
            "deployments",
            "/spec/selector/matchLabels",
            json!({"app":"fixture","x":"y"}),
            "spec.selector: Invalid value: {\"matchLabels\":{\"app\":\"fixture\",\"x\":\"y\"}}: field is immutable",
        ),
        ("secrets", "/type", json!("x/y"), "type: Invalid value: \"x/y\": field is immutable"),
        ("priorityclasses", "/value", json!(5), "value: Forbidden: may not be changed in an update."),
        (
            "services",
            "/spec/clusterIP",
            json!("10.96.0.9"),
            "spec.clusterIPs[0]: Invalid value: [\"10.96.0.9\"]: may not change once set",
        ),
        (
            "endpointslices",
            "/addressType",
            json!("IPv6"),
            "addressType: Invalid value: \"IPv6\": field is immutable",
        ),
        ("jobs", "/spec/completions", json!(3), "spec.completions: Invalid value: 3: field is immutable"),
        (
            "rolebindings",
            "/roleRef/name",
            json!("edit"),
            "roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\"name\":\"edit\"}: cannot change roleRef",
        ),
        (
            "pods",
            "/spec/containers/0/command",
            json!(["true"]),
            "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n",
        ),
    ];
    let mut failures = Vec::new();
    for (resource, pointer, value, want) in cases {
        let (def, fixture) = kind(resource);
        let url = collection(&def);
        let name = fixture["metadata"]["name"].as_str().unwrap();
        world.post(&url, &fixture).await;
        let mut object = world.get(&format!("{url}/{name}")).await.ok();
        set(&mut object, pointer, value);
        let answer = world.put(&format!("{url}/{name}"), &object).await;
        let message = answer.json()["message"].as_str().unwrap_or_default().to_owned();
        if answer.code != 422 || !message.contains(want) {
            failures.push(format!("{resource}{pointer}\n  want {want}\n  got  {} {message}", answer.code));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}
