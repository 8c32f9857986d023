//! What a node asks of a pod before it lets it in, besides room (upstream's lifecycle admit handlers): that it is
//! for this node, tolerates its NoExecute taints, wants no forbidden sysctl, and no AppArmor where there is none.

use super::static_pods::is_static;
use crate::util::host_network;
use knarr_api::core::v1::{NodeSelectorTerm, Pod, Taint, Toleration};
use std::collections::BTreeMap;

/// What of the node is asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct NodeFacts {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) taints: Vec<Taint>,
    pub(crate) apparmor: bool,
}

/// Sysctls that are the pod's own and disturb no other.
const SAFE_SYSCTLS: [&str; 12] = [
    "kernel.shm_rmid_forced",
    "net.ipv4.ip_local_port_range",
    "net.ipv4.tcp_syncookies",
    "net.ipv4.ping_group_range",
    "net.ipv4.ip_unprivileged_port_start",
    "net.ipv4.ip_local_reserved_ports",
    "net.ipv4.tcp_keepalive_time",
    "net.ipv4.tcp_fin_timeout",
    "net.ipv4.tcp_keepalive_intvl",
    "net.ipv4.tcp_keepalive_probes",
    "net.ipv4.tcp_rmem",
    "net.ipv4.tcp_wmem",
];

/// Reason and message of a refusal.
pub(crate) fn refusal(pod: &Pod, node: &NodeFacts) -> Option<(String, String)> {
    let refused = |reason: &str, message: &str| Some((reason.to_owned(), message.to_owned()));
    let spec = pod.spec.as_ref()?;
    if pod.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/os")).is_some_and(|os| os != "linux") {
        return refused(
            "PodOSSelectorNodeLabelDoesNotMatch",
            "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label",
        );
    }
    if spec.os.as_ref().is_some_and(|os| os.name != "linux") {
        return refused("PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS");
    }
    if !selected(pod, node) {
        return refused(
            "NodeAffinity",
            "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector",
        );
    }
    let tolerations = spec.tolerations.as_deref().unwrap_or_default();
    let tolerated = |taint: &&Taint| tolerations.iter().any(|t| covers(t, taint));
    if !is_static(pod) && !node.taints.iter().filter(|t| t.effect == "NoExecute").all(|t| tolerated(&t)) {
        return refused(
            "TaintToleration",
            "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate",
        );
    }
    for sysctl in spec.security_context.iter().flat_map(|c| c.sysctls.iter().flatten()) {
        if let Err(why) = sysctl_allowed(&sysctl.name, host_network(pod), spec.host_ipc == Some(true)) {
            return Some(("SysctlForbidden".to_owned(), format!("forbidden sysctl: {why}")));
        }
    }
    if !node.apparmor && wants_apparmor(pod) {
        return refused("AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host");
    }
    None
}

fn sysctl_allowed(name: &str, host_network: bool, host_ipc: bool) -> Result<(), String> {
    // The separator that comes first tells which of the two is meant.
    let name = match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'/' => {
            name.replace('.', "\0").replace('/', ".").replace('\0', "/")
        }
        _ => name.to_owned(),
    };
    if !SAFE_SYSCTLS.contains(&name.as_str()) {
        return Err(format!("{name:?} not allowlisted"));
    }
    match name.starts_with("net.") {
        true if host_network => Err(format!("{name:?} not allowed with host net enabled")),
        false if host_ipc => Err(format!("{name:?} not allowed with host ipc enabled")),
        _ => Ok(()),
    }
}

fn wants_apparmor(pod: &Pod) -> bool {
    let Some(spec) = &pod.spec else { return false };
    let of_pod = spec.security_context.as_ref().and_then(|c| c.app_armor_profile.as_ref());
    let of_containers = crate::util::defs(pod)
        .into_iter()
        .filter_map(|d| d.spec.security_context.and_then(|c| c.app_armor_profile));
    of_pod.cloned().into_iter().chain(of_containers).any(|p| p.type_ != "Unconfined")
}

fn selected(pod: &Pod, node: &NodeFacts) -> bool {
    let Some(spec) = &pod.spec else { return true };
    let labels = &node.labels;
    let affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
    spec.node_selector.iter().flatten().all(|(name, value)| labels.get(name) == Some(value))
        && required.is_none_or(|r| r.node_selector_terms.iter().any(|t| term_matches(t, node)))
}

/// A term without requirements matches nothing.
fn term_matches(term: &NodeSelectorTerm, node: &NodeFacts) -> bool {
    let labels = term.match_expressions.iter().flatten().map(|r| (r, node.labels.get(&r.key)));
    let fields = term
        .match_fields
        .iter()
        .flatten()
        .map(|r| (r, Some(&node.name).filter(|_| r.key == "metadata.name")));
    let mut all = labels.chain(fields).peekable();
    all.peek().is_some()
        && all.all(|(requirement, value)| {
            let values = requirement.values.as_deref().unwrap_or_default();
            let number = |text: &String| text.parse::<i64>().ok();
            let pair = || value.and_then(number).zip(values.first().and_then(number));
            match requirement.operator.as_str() {
                "In" => value.is_some_and(|v| values.contains(v)),
                "NotIn" => value.is_none_or(|v| !values.contains(v)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                "Gt" => pair().is_some_and(|(a, b)| a > b),
                "Lt" => pair().is_some_and(|(a, b)| a < b),
                _ => false,
            }
        })
}

/// Whether the toleration is for the taint.
pub(crate) fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let given = |text: &Option<String>| text.clone().filter(|t| !t.is_empty());
    if given(&toleration.effect).is_some_and(|effect| effect != taint.effect) {
        return false;
    }
    let exists = toleration.operator.as_deref() == Some("Exists");
    match given(&toleration.key) {
        None => exists,
        Some(key) if key != taint.key => false,
        Some(_) => exists || given(&toleration.value) == given(&taint.value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::phase::tests::pod;
    use serde_json::{Value, json};

    fn reason(spec: Value, node: &NodeFacts) -> Option<(String, String)> {
        let mut spec = spec;
        spec["containers"] = json!([{"name": "c"}]);
        refusal(&pod(spec), node)
    }

    #[test]
    fn pods_that_are_not_for_this_node_are_refused_in_upstreams_words() {
        let node = NodeFacts {
            name: "n".into(),
            labels: BTreeMap::from([("zone".to_owned(), "a".to_owned())]),
            taints: vec![Taint { key: "k".into(), effect: "NoExecute".into(), ..Taint::default() }],
            apparmor: false,
        };
        let all = json!([{"operator": "Exists"}]);
        let affinity = |key: &str| {
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
                {"matchFields": [{"key": key, "operator": "In", "values": ["n"]}]}]}}})
        };
        for (spec, expected) in [
            (json!({"tolerations": all}), None),
            (json!({}), Some("TaintToleration")),
            (json!({"tolerations": all, "nodeSelector": {"zone": "b"}}), Some("NodeAffinity")),
            (json!({"tolerations": all, "nodeSelector": {"zone": "a"}}), None),
            (json!({"tolerations": all, "affinity": affinity("metadata.name")}), None),
            (json!({"tolerations": all, "affinity": affinity("other")}), Some("NodeAffinity")),
            (json!({"tolerations": all, "os": {"name": "windows"}}), Some("PodOSNotSupported")),
            (
                json!({"tolerations": all, "securityContext": {"appArmorProfile": {"type": "RuntimeDefault"}}}),
                Some("AppArmor"),
            ),
        ] {
            assert_eq!(reason(spec.clone(), &node).map(|r| r.0), expected.map(str::to_owned), "{spec}");
        }
    }

    #[test]
    fn only_sysctls_that_are_the_pods_own_are_let_through() {
        for (name, net, ipc, expected) in [
            ("kernel.shm_rmid_forced", true, false, Ok(())),
            (
                "kernel/shm_rmid_forced",
                false,
                true,
                Err("\"kernel.shm_rmid_forced\" not allowed with host ipc enabled"),
            ),
            (
                "net.ipv4.tcp_rmem",
                true,
                false,
                Err("\"net.ipv4.tcp_rmem\" not allowed with host net enabled"),
            ),
            ("kernel.msgmax", false, false, Err("\"kernel.msgmax\" not allowlisted")),
        ] {
            assert_eq!(sysctl_allowed(name, net, ipc), expected.map_err(str::to_owned));
        }
    }
}
