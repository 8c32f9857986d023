//! What is said of an API service, case by case. The whole way of a request is tested where the kinds are
//! (`crates/resources/tests`).

mod extension;
mod whole;

use super::availability::{Verdict, judge, with_condition};
use super::service::{Place, Remote};
use knarr_api::Kind;
use knarr_api::apiregistration::v1::APIService;
use knarr_api::core::v1::Service;
use knarr_api::discovery::v1::EndpointSlice;
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

fn remote() -> Remote {
    Remote {
        backend: Err("nothing is asked here".to_owned()),
        place: Place {
            namespace: "ns".into(),
            service: "ext".into(),
            port: 443,
            ca_bundle: Vec::new(),
            insecure: false,
        },
        available: false,
    }
}

fn service(spec: Value) -> Service {
    Service::from_value(&json!({"metadata": {"name": "ext", "namespace": "ns"}, "spec": spec})).unwrap()
}

fn slice(endpoints: Value, ports: Value) -> Arc<EndpointSlice> {
    let value = json!({"metadata": {"name": "ext-1", "namespace": "ns"}, "addressType": "IPv4",
        "endpoints": endpoints, "ports": ports});
    Arc::new(EndpointSlice::from_value(&value).unwrap())
}

#[test]
fn the_clusters_own_objects_are_judged_in_upstreams_words() {
    let usual = json!({"type": "ClusterIP", "ports": [{"name": "https", "port": 443}]});
    let ready = json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": true}}]);
    let unready = json!([{"addresses": ["10.0.0.1"], "conditions": {"ready": false}}]);
    let unsaid = json!([{"addresses": ["10.0.0.1"]}]);
    let https = json!([{"name": "https", "port": 8443}]);
    // service, slices (endpoints, ports), reason and message
    type Row = (Option<Value>, Vec<(Value, Value)>, Option<(&'static str, &'static str)>);
    let rows: Vec<Row> = vec![
        (None, vec![], Some(("ServiceNotFound", "service/ext in \"ns\" is not present"))),
        (
            Some(json!({"type": "ClusterIP", "ports": [{"port": 80}]})),
            vec![],
            Some(("ServicePortError", "service/ext in \"ns\" is not listening on port 443")),
        ),
        (
            Some(usual.clone()),
            vec![],
            Some(("EndpointsNotFound", "cannot find endpointslices for service/ext in \"ns\"")),
        ),
        (
            Some(usual.clone()),
            vec![(unready, https.clone()), (ready.clone(), json!([{"name": "http", "port": 80}]))],
            Some((
                "MissingEndpoints",
                "endpointslices for service/ext in \"ns\" have no addresses with port name \"https\"",
            )),
        ),
        (Some(usual.clone()), vec![(ready, https.clone())], None),
        (Some(usual), vec![(unsaid, https)], None),
        (Some(json!({"type": "ExternalName", "externalName": "ext.example.com"})), vec![], None),
    ];
    for (spec, slices, expected) in rows {
        let found = spec.map(service);
        let slices: Vec<_> = slices.into_iter().map(|(endpoints, ports)| slice(endpoints, ports)).collect();
        let verdict = judge(&remote(), found.as_ref(), &slices);
        let said = verdict.as_ref().map(|v| (v.reason, v.message.as_str()));
        assert_eq!(said, expected);
        assert!(verdict.is_none_or(|v| v.status == "False"));
    }
}

#[test]
fn the_time_of_transition_moves_with_the_status_alone() {
    let at = |seconds| super::api_time(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds));
    let verdict = |status, message: &str| Verdict { status, reason: "R", message: message.to_owned() };
    let mut object = APIService::from_value(&json!({"metadata": {"name": "v1.a"},
        "status": {"conditions": [{"type": "Other", "status": "True"}]}}))
    .unwrap();
    let mut say = |verdict: Verdict, seconds| {
        let status = with_condition(&object, &verdict, at(seconds))?;
        object.status = Some(status.clone());
        Some(serde_json::to_value(status.conditions).unwrap())
    };
    let first = say(verdict("False", "a"), 1).unwrap();
    assert_eq!(first[0]["type"], "Other");
    assert_eq!(first[1]["lastTransitionTime"], "1970-01-01T00:00:01Z");
    assert_eq!(say(verdict("False", "a"), 2), None);
    let second = say(verdict("False", "b"), 3).unwrap();
    assert_eq!(second[1]["lastTransitionTime"], "1970-01-01T00:00:01Z");
    assert_eq!(second[1]["message"], "b");
    let third = say(verdict("True", "b"), 4).unwrap();
    assert_eq!(third[1]["lastTransitionTime"], "1970-01-01T00:00:04Z");
}
