//! Tables over evaluators and checks, in upstream's words.

use crate::check::{Around, Limited, Refusal, Request, check};
use crate::{Amounts, Devices, Evaluator, Owned, Quota, amounts};
use knarr_api::Kind;
use knarr_api::core::v1::{ResourceQuota, ScopedResourceSelectorRequirement};
use knarr_api::resource::v1::ResourceClaim;
use serde_json::{Value, json};
use std::time::{Duration, SystemTime};

/// A class `gpu` that offers `example.com/gpu`.
struct OneClass;

impl Devices for OneClass {
    fn extended_resource(&self, class: &str) -> Option<String> {
        (class == "gpu").then(|| "example.com/gpu".to_owned())
    }
    fn has_class_for(&self, extended_resource: &str) -> bool {
        extended_resource == "example.com/gpu"
    }
    fn usage_of_owner(&self, claim: &ResourceClaim) -> Option<Amounts> {
        let counted = claim.metadata.name.as_deref() == Some("of-pod");
        counted.then(|| Amounts::from([("requests.example.com/gpu".to_owned(), amounts::whole(1))]))
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000)
}

fn pods() -> Evaluator {
    Evaluator::of("", "pods")
}

fn usage(evaluator: &Evaluator, object: Value) -> String {
    let object = evaluator.read(&object).expect("a well-formed object");
    amounts::text(&evaluator.usage(object.item(), &OneClass, now()))
}

fn quota(spec: Value, used: Value) -> Quota {
    let hard = spec["hard"].clone();
    let object =
        json!({ "metadata": { "name": "q" }, "spec": spec, "status": { "hard": hard, "used": used } });
    Quota::new(ResourceQuota::from_value(&object).expect("a quota"))
}

/// A pod with one container.
fn pod(requests: Value, limits: Value) -> Value {
    json!({ "metadata": { "name": "p" }, "spec": { "containers": [
        { "name": "main", "resources": { "requests": requests, "limits": limits } }] } })
}

#[test]
fn pods_use_what_their_containers_ask_for_together() {
    let amounts = json!({ "cpu": "500m", "memory": "1Gi", "hugepages-2Mi": "4Mi", "example.com/gpu": "2" });
    assert_eq!(
        usage(&pods(), pod(amounts.clone(), json!({ "cpu": "1", "ephemeral-storage": "2Gi" }))),
        "count/pods=1,cpu=500m,hugepages-2Mi=4Mi,limits.cpu=1,limits.ephemeral-storage=2Gi,memory=1Gi,pods=1,requests.cpu=500m,requests.example.com/gpu=2,requests.hugepages-2Mi=4Mi,requests.memory=1Gi"
    );
    // Init containers run before, sidecars beside; overhead comes on top; pod-level amounts stand for all.
    let mut many = pod(json!({ "cpu": "1" }), json!({ "cpu": "2" }));
    many["spec"]["initContainers"] = json!([
        { "name": "side", "restartPolicy": "Always", "resources": { "requests": { "cpu": "100m" } } },
        { "name": "big", "resources": { "requests": { "cpu": "3" } } },
    ]);
    many["spec"]["overhead"] = json!({ "cpu": "50m", "memory": "1Mi" });
    assert_eq!(
        usage(&pods(), many.clone()),
        "count/pods=1,cpu=3150m,limits.cpu=2050m,memory=1Mi,pods=1,requests.cpu=3150m,requests.memory=1Mi"
    );
    many["spec"]["resources"] = json!({ "requests": { "cpu": "5" } });
    assert!(usage(&pods(), many).contains("requests.cpu=5050m"));
    // A resize that is under way counts with what is greater; one that cannot be had does not.
    let mut resized = pod(json!({ "cpu": "2" }), json!({}));
    resized["status"] = json!({ "containerStatuses": [{ "name": "main", "image": "i", "imageID": "", "ready": true,
        "restartCount": 0, "allocatedResources": { "cpu": "1" }, "resources": { "requests": { "cpu": "1" } } }] });
    assert!(usage(&pods(), resized.clone()).contains("requests.cpu=2"));
    resized["status"]["conditions"] =
        json!([{ "type": "PodResizePending", "status": "True", "reason": "Infeasible" }]);
    assert!(usage(&pods(), resized).contains("requests.cpu=1"));
}

#[test]
fn pods_that_have_ended_or_are_stuck_do_not_count() {
    let mut done = pod(json!({ "cpu": "1" }), json!({}));
    done["status"] = json!({ "phase": "Succeeded" });
    assert_eq!(usage(&pods(), done), "count/pods=1");
    let mut going = pod(json!({ "cpu": "1" }), json!({}));
    going["metadata"]["deletionGracePeriodSeconds"] = 30.into();
    for (deleted, counts) in [("1970-01-12T13:46:30Z", true), ("1970-01-12T13:46:09Z", false)] {
        going["metadata"]["deletionTimestamp"] = deleted.into();
        assert_eq!(usage(&pods(), going.clone()).contains("cpu"), counts, "{deleted}");
    }
}

#[test]
fn services_and_claims_use() {
    let service = |spec: Value| usage(&Evaluator::of("", "services"), json!({ "spec": spec }));
    let ports = json!([{ "port": 1, "nodePort": 30001 }, { "port": 2 }]);
    let cases = [
        (json!({ "type": "ClusterIP", "ports": ports }), 0, 0),
        (json!({ "type": "NodePort", "ports": ports }), 2, 0),
        (json!({ "type": "LoadBalancer", "ports": ports }), 2, 1),
        (json!({ "type": "LoadBalancer", "ports": ports, "allocateLoadBalancerNodePorts": false }), 1, 1),
    ];
    for (spec, node_ports, balancers) in cases {
        assert_eq!(
            service(spec),
            format!(
                "count/services=1,services=1,services.loadbalancers={balancers},services.nodeports={node_ports}"
            )
        );
    }
    let claims = Evaluator::of("", "persistentvolumeclaims");
    let claim = json!({ "spec": { "storageClassName": "gold", "resources": { "requests": { "storage": "1500m" } } },
        "status": { "allocatedResources": { "storage": "1" } } });
    assert_eq!(
        usage(&claims, claim),
        "count/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/persistentvolumeclaims=1,gold.storageclass.storage.k8s.io/requests.storage=2,persistentvolumeclaims=1,requests.storage=2"
    );
    assert!(claims.is_about("gold.storageclass.storage.k8s.io/requests.storage", &OneClass));
    assert!(!claims.is_about("requests.cpu", &OneClass));
    let secrets = Evaluator::of("", "secrets");
    assert_eq!(usage(&secrets, json!({})), "count/secrets=1,secrets=1");
    assert_eq!(usage(&Evaluator::of("example.com", "gadgets"), json!({})), "count/gadgets.example.com=1");
}

#[test]
fn device_claims_use_the_worst_of_their_alternatives_and_what_their_classes_offer() {
    let evaluator = Evaluator::of("resource.k8s.io", "resourceclaims");
    let mut claim = json!({ "metadata": { "name": "c" }, "spec": { "devices": { "requests": [
        { "name": "a", "exactly": { "deviceClassName": "gpu", "allocationMode": "ExactCount", "count": 2 } },
        { "name": "b", "firstAvailable": [
            { "name": "x", "deviceClassName": "nic", "allocationMode": "All" },
            { "name": "y", "deviceClassName": "nic", "allocationMode": "ExactCount", "count": 1 },
        ] },
    ] } } });
    let nic = "nic.deviceclass.resource.k8s.io/devices=32";
    assert_eq!(
        usage(&evaluator, claim.clone()),
        format!(
            "count/resourceclaims.resource.k8s.io=1,gpu.deviceclass.resource.k8s.io/devices=2,{nic},requests.deviceclass.resource.kubernetes.io/gpu=2,requests.deviceclass.resource.kubernetes.io/nic=32,requests.example.com/gpu=2"
        )
    );
    // What the pod that it was made for counts already is not counted twice.
    claim["metadata"]["name"] = "of-pod".into();
    assert!(usage(&evaluator, claim).contains("requests.example.com/gpu=1"));
    assert!(evaluator.is_about("requests.example.com/gpu", &OneClass));
    assert!(!evaluator.is_about("requests.example.com/dongle", &OneClass));
}

fn scope(name: &str, operator: &str, values: &[&str]) -> ScopedResourceSelectorRequirement {
    let values = values.iter().map(|v| (*v).to_owned()).collect();
    ScopedResourceSelectorRequirement {
        scope_name: name.into(),
        operator: operator.into(),
        values: Some(values),
    }
}

#[test]
fn scopes() {
    let plain = pod(json!({}), json!({}));
    let mut cpu = pod(json!({ "cpu": "1" }), json!({}));
    cpu["spec"]["activeDeadlineSeconds"] = 0.into();
    cpu["spec"]["priorityClassName"] = "high".into();
    cpu["spec"]["affinity"] = json!({ "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [
        { "weight": 1, "podAffinityTerm": { "topologyKey": "k", "namespaces": ["other"] } }] } });
    let cases: &[(&str, &str, &[&str], bool, bool)] = &[
        ("Terminating", "Exists", &[], false, true),
        ("NotTerminating", "Exists", &[], true, false),
        ("BestEffort", "Exists", &[], true, false),
        ("NotBestEffort", "Exists", &[], false, true),
        ("PriorityClass", "Exists", &[], false, true),
        ("PriorityClass", "DoesNotExist", &[], true, false),
        ("PriorityClass", "In", &["high"], false, true),
        ("PriorityClass", "In", &["low"], false, false),
        ("PriorityClass", "NotIn", &["high"], true, false),
        ("PriorityClass", "NotIn", &["low"], true, true),
        ("CrossNamespacePodAffinity", "Exists", &[], false, true),
        ("VolumeAttributesClass", "Exists", &[], false, false),
    ];
    let read = |pod: &Value| pods().read(pod).expect("a pod");
    for (name, operator, values, of_plain, of_cpu) in cases {
        let scope = scope(name, operator, values);
        let is_in = |pod: &Owned| pods().in_scope(&scope, pod.item());
        assert_eq!((is_in(&read(&plain)), is_in(&read(&cpu))), (*of_plain, *of_cpu), "{scope:?}");
    }
    let claims = Evaluator::of("", "persistentvolumeclaims");
    let claim = json!({ "spec": { "volumeAttributesClassName": "fast" },
        "status": { "currentVolumeAttributesClassName": "slow" } });
    let claim = claims.read(&claim).expect("a claim");
    for (values, is_in) in [(["fast"], true), (["slow"], true), (["other"], false)] {
        assert_eq!(claims.in_scope(&scope("VolumeAttributesClass", "In", &values), claim.item()), is_in);
    }
}

struct Case {
    quotas: Vec<Quota>,
    limited: Vec<Limited>,
    resource: &'static str,
    new: Value,
    old: Option<Value>,
}

impl Case {
    fn new(quotas: Vec<Quota>, new: Value) -> Self {
        Self { quotas, limited: Vec::new(), resource: "pods", new, old: None }
    }

    /// What is used of each quota afterwards, or the refusal.
    fn run(&self) -> Result<Vec<String>, Refusal> {
        let evaluator = Evaluator::of("", self.resource);
        let read = |object: &Value| evaluator.read(object).expect("a well-formed object");
        let (new, old) = (read(&self.new), self.old.as_ref().map(read));
        let request = Request {
            group: "",
            resource: self.resource,
            subresource: "",
            evaluator: &evaluator,
            new: new.item(),
            old: old.as_ref().map(Owned::item),
        };
        let around = Around { devices: &OneClass, limited: &self.limited, now: now() };
        let after = check(&self.quotas, &request, &around)?;
        Ok(after.iter().map(|quota| amounts::text(&quota.used)).collect())
    }
}

fn forbidden(why: &str) -> Result<Vec<String>, Refusal> {
    Err(Refusal::Forbidden(why.to_owned()))
}

#[test]
fn checks_in_upstreams_words() {
    let two = |used: Value| quota(json!({ "hard": { "cpu": "2", "pods": "3", "secrets": "1" } }), used);
    let one = json!({ "cpu": "1", "memory": "1Gi" });
    let fits = Case::new(vec![two(json!({ "cpu": "500m", "pods": "1" }))], pod(one.clone(), json!({})));
    assert_eq!(fits.run(), Ok(vec!["cpu=1500m,pods=2".to_owned()]));
    let over = Case::new(vec![two(json!({ "cpu": "1500m", "pods": "3" }))], pod(one.clone(), json!({})));
    assert_eq!(
        over.run(),
        forbidden(
            "exceeded quota: q, requested: cpu=1,pods=1, used: cpu=1500m,pods=3, limited: cpu=2,pods=3"
        )
    );
    // A limit that was lowered below what is used stops only what asks for more of it.
    let lowered =
        Case::new(vec![two(json!({ "cpu": "5", "pods": "1" }))], pod(json!({ "cpu": "0" }), json!({})));
    assert_eq!(lowered.run(), Ok(vec!["cpu=5,pods=2".to_owned()]));
    let silent = Case::new(vec![two(json!({ "cpu": "0", "pods": "0" }))], pod(json!({}), json!({})));
    assert_eq!(silent.run(), forbidden("failed quota: q: must specify cpu for: main"));
    let limits = quota(
        json!({ "hard": { "limits.cpu": "2", "requests.memory": "2" } }),
        json!({ "limits.cpu": "0", "requests.memory": "0" }),
    );
    let mut many = pod(json!({}), json!({ "cpu": "1" }));
    many["spec"]["initContainers"] = json!([{ "name": "init" }]);
    let silent = Case::new(vec![limits], many);
    assert_eq!(
        silent.run(),
        forbidden("failed quota: q: must specify limits.cpu for: init; requests.memory for: init,main")
    );
    let unknown = Case::new(vec![two(json!({ "pods": "0" }))], pod(one.clone(), json!({})));
    assert_eq!(unknown.run(), forbidden("status unknown for quota: q, resources: cpu,pods"));
    // Scopes keep quotas out of it.
    let best_effort =
        quota(json!({ "hard": { "pods": "1" }, "scopes": ["BestEffort"] }), json!({ "pods": "1" }));
    let not_meant = Case::new(vec![best_effort.clone()], pod(one.clone(), json!({})));
    assert_eq!(not_meant.run(), Ok(vec!["pods=1".to_owned()]));
    let meant = Case::new(vec![best_effort], pod(json!({}), json!({})));
    assert_eq!(meant.run(), forbidden("exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"));
    // An update is charged with what it adds, or with all of it when the quota was not about it before.
    let resize = Case {
        old: Some(pod(json!({ "cpu": "500m" }), json!({}))),
        ..Case::new(vec![two(json!({ "cpu": "500m", "pods": "3" }))], pod(one, json!({})))
    };
    assert_eq!(resize.run(), Ok(vec!["cpu=1,pods=3".to_owned()]));
    let mut ending = pod(json!({}), json!({}));
    ending["spec"]["activeDeadlineSeconds"] = 5.into();
    let terminating =
        quota(json!({ "hard": { "pods": "5" }, "scopes": ["Terminating"] }), json!({ "pods": "1" }));
    let enters = Case { old: Some(pod(json!({}), json!({}))), ..Case::new(vec![terminating], ending) };
    assert_eq!(enters.run(), Ok(vec!["pods=2".to_owned()]));
}

#[test]
fn what_must_be_covered_by_a_quota() {
    let limited = Limited {
        group: String::new(),
        resource: "pods".into(),
        match_contains: vec!["requests.memory".into()],
        match_scopes: vec![scope("PriorityClass", "In", &["high", "higher"])],
    };
    let mut case = Case::new(Vec::new(), pod(json!({ "memory": "1" }), json!({})));
    case.limited = vec![limited];
    assert_eq!(case.run(), forbidden("insufficient quota to consume: requests.memory"));
    case.new = pod(json!({}), json!({}));
    assert_eq!(case.run(), Ok(vec![]));
    case.new["spec"]["priorityClassName"] = "high".into();
    let why = "insufficient quota to match these scopes: [{PriorityClass In [high higher]}]";
    assert_eq!(case.run(), Err(Refusal::Error(why.to_owned())));
    let selector = json!({ "matchExpressions": [
        { "scopeName": "PriorityClass", "operator": "In", "values": ["high"] }] });
    case.quotas =
        vec![quota(json!({ "hard": { "pods": "1" }, "scopeSelector": selector }), json!({ "pods": "0" }))];
    assert_eq!(case.run(), Ok(vec!["pods=1".to_owned()]));
}
