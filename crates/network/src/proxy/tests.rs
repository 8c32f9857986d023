//! Tables of cases: what services need, and the changes that lead there.

use super::plan::{Applied, Change, Desired, plan};
use super::rules::{Element, REJECT, Rule, ServiceRules, Shared, rules_of};
use crate::netlink::nft::{Data, Verdict};
use knarr_api::Kind;
use knarr_api::core::v1::Service;
use knarr_api::discovery::v1::EndpointSlice;
use knarr_client::informer::Key;
use serde_json::{Value, json};

const NODE: &str = "here";

fn service(spec: Value) -> Service {
    let mut service = json!({ "kind": "Service", "apiVersion": "v1",
        "metadata": { "name": "web", "namespace": "default" },
        "spec": { "clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
            "ports": [{ "name": "http", "port": 80, "protocol": "TCP", "nodePort": 30000 }] } });
    let fields = spec.as_object().unwrap();
    for (key, value) in fields.iter().filter(|(key, _)| *key != "status") {
        service["spec"][key] = value.clone();
    }
    service["status"] = spec["status"].clone();
    if service["status"].is_null() {
        service.as_object_mut().unwrap().remove("status");
    }
    Service::from_value(&service).unwrap()
}

/// A slice of endpoints: last byte of the address, node, ready, serving, terminating.
fn slice(endpoints: &[(u8, &str, bool, bool, bool)]) -> EndpointSlice {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(last, node, ready, serving, terminating)| {
            json!({ "addresses": [format!("10.244.0.{last}")], "nodeName": node,
                "conditions": { "ready": ready, "serving": serving, "terminating": terminating } })
        })
        .collect();
    EndpointSlice::from_value(&json!({ "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1",
        "metadata": { "name": "web-1", "namespace": "default" }, "addressType": "IPv4",
        "endpoints": endpoints, "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }] }))
    .unwrap()
}

fn rules(spec: Value, endpoints: &[(u8, &str, bool, bool, bool)]) -> ServiceRules {
    rules_of(&service(spec), [slice(endpoints)].iter(), NODE)
}

/// Where connections to a kind of address go, in words: last bytes of endpoints, `refused`, `dropped` or nothing.
fn leads(rules: &ServiceRules, live: Shared, dead: Shared) -> String {
    let target = |set| rules.elements.iter().find(|(e, _)| e.set == set).and_then(|(_, data)| data.clone());
    match (target(live), target(dead)) {
        (Some(Data::Verdict(Verdict::Goto(chain))), None) => words(rules, &chain),
        (None, Some(Data::Verdict(Verdict::Goto(chain)))) if chain == REJECT => "refused".to_owned(),
        (None, Some(Data::Verdict(Verdict::Drop))) => "dropped".to_owned(),
        (None, None) => "nothing".to_owned(),
        other => panic!("{other:?}"),
    }
}

fn words(rules: &ServiceRules, chain: &str) -> String {
    let last = |e: &super::rules::Endpoint| e.address.octets()[3].to_string();
    let word = |rule: &Rule| match rule {
        Rule::To(endpoint) => last(endpoint),
        Rule::ToOneOf(all) => all.iter().map(last).collect::<Vec<_>>().join("|"),
        Rule::IntoOneOf(all) => {
            all.iter().map(|c| format!("({})", words(rules, c))).collect::<Vec<_>>().join("|")
        }
        Rule::Remembered { chain, .. } => format!("remembered({})", words(rules, chain)),
        Rule::Remember(set) => format!("remember {}s", rules.clients[set]),
        Rule::Drop => "drop".to_owned(),
        Rule::From(range, chain) => format!("{range}({})", words(rules, chain)),
        Rule::FromCluster(chain) => format!("cluster({})", words(rules, chain)),
    };
    rules.chains[chain].iter().map(word).collect::<Vec<_>>().join(", ")
}

#[test]
fn connections_go_to_the_endpoints_that_policies_and_conditions_allow() {
    let ready = |last, node| (last, node, true, true, false);
    let (here, there) = (ready(2, NODE), ready(3, "there"));
    let local = |policy: &str| json!({ policy: "Local" });
    // Name, spec, endpoints, where the cluster address leads, where the node port leads.
    let cases = [
        ("one endpoint", json!({}), vec![here], "2", "2"),
        ("several", json!({}), vec![there, here], "2|3", "2|3"),
        ("none", json!({}), vec![], "refused", "refused"),
        ("one that is not ready", json!({}), vec![here, (4, NODE, false, true, false)], "2", "2"),
        ("only one that is not ready", json!({}), vec![(4, NODE, false, false, false)], "refused", "refused"),
        (
            "terminating ones only when no other is left",
            json!({}),
            vec![(4, NODE, false, true, true), (5, NODE, false, false, true)],
            "4",
            "4",
        ),
        ("terminating ones beside ready ones", json!({}), vec![here, (4, NODE, false, true, true)], "2", "2"),
        ("internal policy", local("internalTrafficPolicy"), vec![here, there], "2", "2|3"),
        ("internal policy, none here", local("internalTrafficPolicy"), vec![there], "dropped", "3"),
        ("internal policy, none at all", local("internalTrafficPolicy"), vec![], "refused", "refused"),
        ("external policy", local("externalTrafficPolicy"), vec![here, there], "2|3", "cluster(2|3), 2"),
        ("external policy, none here", local("externalTrafficPolicy"), vec![there], "3", "cluster(3), drop"),
        ("external policy, all here", local("externalTrafficPolicy"), vec![here], "2", "2"),
        (
            "affinity",
            json!({ "sessionAffinity": "ClientIP" }),
            vec![here, there],
            "remembered(remember 10800s, 2), remembered(remember 10800s, 3), \
             (remember 10800s, 2)|(remember 10800s, 3)",
            "remembered(remember 10800s, 2), remembered(remember 10800s, 3), \
             (remember 10800s, 2)|(remember 10800s, 3)",
        ),
        ("headless", json!({ "clusterIP": "None" }), vec![here], "nothing", "nothing"),
        ("external name", json!({ "type": "ExternalName", "clusterIP": "" }), vec![], "nothing", "nothing"),
    ];
    for (what, spec, endpoints, cluster, node_port) in cases {
        let rules = rules(spec, &endpoints);
        let found = leads(&rules, Shared::ServiceIps, Shared::DeadIps);
        assert_eq!(found, cluster, "{what}: cluster address");
        let found = leads(&rules, Shared::NodePorts, Shared::DeadNodePorts);
        assert_eq!(found, node_port, "{what}: node port");
    }
}

#[test]
fn addresses_of_balancers_and_external_addresses_are_served() {
    let spec = json!({ "externalIPs": ["192.0.2.1"], "status": { "loadBalancer": { "ingress": [
        { "ip": "192.0.2.2", "ipMode": "VIP" }, { "ip": "192.0.2.3", "ipMode": "Proxy" },
        { "hostname": "example.org" }] } } });
    let rules = rules(spec, &[(2, NODE, true, true, false)]);
    let keys = rules.elements.keys().filter(|e| e.set == Shared::ServiceIps);
    let addresses: Vec<&[u8]> = keys.map(|e| &e.key[..4]).collect();
    assert_eq!(addresses, [&[10u8, 96, 0, 1][..], &[192, 0, 2, 1], &[192, 0, 2, 2]]);
    let hairpin = Element { set: Shared::Hairpin, key: vec![10, 244, 0, 2, 10, 244, 0, 2] };
    assert!(rules.elements.contains_key(&hairpin));
}

#[test]
fn source_ranges_guard_the_balancers_address_alone() {
    let spec = json!({ "type": "LoadBalancer", "loadBalancerSourceRanges": ["198.51.100.0/24", "nonsense"],
        "status": { "loadBalancer": { "ingress": [{ "ip": "192.0.2.2" }] } } });
    let rules = rules(spec, &[(2, NODE, true, true, false)]);
    let to = |first: u8| {
        let found = rules.elements.iter().find(|(e, _)| e.set == Shared::ServiceIps && e.key[0] == first);
        match found {
            Some((_, Some(Data::Verdict(Verdict::Goto(chain))))) => words(&rules, chain),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(to(192), "198.51.100.0/24(2), drop");
    assert_eq!(to(10), "2");
    assert_eq!(leads(&rules, Shared::NodePorts, Shared::DeadNodePorts), "2");
}

fn key(name: &str) -> Key {
    Key::new("default", name)
}

#[test]
fn plans_touch_only_what_changes_and_in_an_order_the_kernel_takes() {
    let one = rules(json!({}), &[(2, NODE, true, true, false)]);
    let two = rules(json!({}), &[(2, NODE, true, true, false), (3, NODE, true, true, false)]);
    let sticky = rules(
        json!({ "sessionAffinity": "ClientIP" }),
        &[(2, NODE, true, true, false), (3, NODE, true, true, false)],
    );
    let mut applied = Applied::default();
    let mut step = |new: Option<&ServiceRules>| {
        let desired = Desired::from([(key("web"), new.cloned())]);
        let changes = plan(&applied, &desired);
        assert!(plan(&applied, &desired) == changes, "plans are repeatable");
        applied.accept(desired.clone());
        assert_eq!(plan(&applied, &desired), [], "what is applied needs nothing");
        let word = |change: &Change| match change {
            Change::AddClients(..) => "+set",
            Change::AddChain(_) => "+chain",
            Change::Flush(_) => "flush",
            Change::RemoveElement(_) => "-element",
            Change::Fill(..) => "fill",
            Change::AddElement(..) => "+element",
            Change::RemoveChain(_) => "-chain",
            Change::RemoveClients(_) => "-set",
        };
        changes.iter().map(word).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(step(Some(&one)), "+chain fill +element +element +element");
    assert_eq!(step(Some(&one)), "");
    assert_eq!(step(Some(&two)), "flush fill +element", "only the chain, and the new endpoint's hairpin");
    assert_eq!(step(Some(&sticky)), "+set +set +chain +chain flush fill fill fill");
    assert_eq!(step(Some(&one)), "flush flush flush -element fill -chain -chain -set -set");
    assert_eq!(step(None), "flush -element -element -element -chain");
    assert_eq!(step(None), "");
}

#[test]
fn an_element_that_two_services_want_goes_only_with_the_last_one() {
    let element = Element { set: Shared::Hairpin, key: vec![1; 8] };
    let external = Element { set: Shared::ServiceIps, key: vec![2; 12] };
    let wants = |chain: &str| ServiceRules {
        elements: [
            (element.clone(), None),
            (external.clone(), Some(Data::Verdict(Verdict::Goto(chain.to_owned())))),
        ]
        .into(),
        ..ServiceRules::default()
    };
    let mut applied = Applied::default();
    applied.accept([(key("b"), Some(wants("b")))].into());
    let also = Desired::from([(key("a"), Some(wants("a")))]);
    let moved = vec![
        Change::RemoveElement(external.clone()),
        Change::AddElement(external.clone(), wants("a").elements[&external].clone()),
    ];
    assert_eq!(plan(&applied, &also), moved, "the first one in order of name has it");
    applied.accept(also);
    let gone = Desired::from([(key("a"), None)]);
    let back = vec![
        Change::RemoveElement(external.clone()),
        Change::AddElement(external.clone(), wants("b").elements[&external].clone()),
    ];
    assert_eq!(plan(&applied, &gone), back);
    applied.accept(gone);
    let none = Desired::from([(key("b"), None)]);
    assert_eq!(plan(&applied, &none), [Change::RemoveElement(external), Change::RemoveElement(element)]);
}

#[test]
fn udp_endpoints_that_are_gone_are_told() {
    let udp = |endpoints: &[(u8, &str, bool, bool, bool)]| {
        let ports = json!([{ "name": "http", "port": 53, "protocol": "UDP" }]);
        let mut slice = slice(endpoints);
        slice.ports.as_mut().unwrap()[0].protocol = Some("UDP".to_owned());
        rules_of(&service(json!({ "ports": ports })), [slice].iter(), NODE)
    };
    let (two, three) = ((2, NODE, true, true, false), (3, NODE, true, true, false));
    let mut applied = Applied::default();
    assert!(applied.accept([(key("dns"), Some(udp(&[two, three])))].into()).is_empty());
    let gone = applied.accept([(key("dns"), Some(udp(&[three])))].into());
    assert_eq!(gone.iter().map(|e| (e.address.octets()[3], e.port)).collect::<Vec<_>>(), [(2, 8080)]);
    assert_eq!(applied.accept([(key("dns"), None)].into()).len(), 1);
}
