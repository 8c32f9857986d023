//! Whether a node's kubelet is heard of: it renews a lease every ten seconds and posts a status now and then
//! (KEP-589). Times are those at which this controller saw a change, so clocks of nodes do not matter.

use crate::framework::time::api_time;
use knarr_api::coordination::v1::Lease;
use knarr_api::core::v1::{Node, NodeCondition};
use std::time::{Duration, Instant, SystemTime};

/// A kubelet that is silent for longer is taken for lost (--node-monitor-grace-period).
pub const GRACE: Duration = Duration::from_secs(50);
/// The same before it posted its first status (--node-startup-grace-period).
pub const STARTUP_GRACE: Duration = Duration::from_secs(60);
/// Conditions that only the kubelet knows.
const KUBELETS: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// What was last heard of a node.
#[derive(Clone, Debug, PartialEq)]
pub struct Health {
    /// The node's UID: a new node of the same name starts anew.
    pub uid: String,
    /// Whether the pods on it were told last that it is ready; `None` if nothing is known.
    pub was_ready: Option<bool>,
    heard: Instant,
    heartbeat: Option<String>,
    renewal: Option<String>,
}

/// One of a node's conditions.
pub fn condition<'a>(node: &'a Node, kind: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == kind)
}

/// The status of a node's Ready condition.
pub fn readiness(node: &Node) -> Option<&str> {
    condition(node, "Ready").map(|c| c.status.as_str())
}

impl Health {
    /// A node that was not known before.
    pub fn new(node: &Node, lease: Option<&Lease>, now: Instant) -> Self {
        Self {
            uid: node.metadata.uid.clone().unwrap_or_default(),
            was_ready: None,
            heard: now,
            heartbeat: heartbeat(node),
            renewal: lease.and_then(renewal),
        }
    }

    /// A sign of life is one that differs from the last.
    pub fn observe(&mut self, node: &Node, lease: Option<&Lease>, now: Instant) {
        let (heartbeat, renewal) = (heartbeat(node), lease.and_then(renewal));
        if heartbeat.is_some() && heartbeat != self.heartbeat {
            (self.heartbeat, self.heard) = (heartbeat, now);
        }
        if renewal.is_some() && renewal != self.renewal {
            (self.renewal, self.heard) = (renewal, now);
        }
    }

    /// As if the node had just been heard of.
    pub fn reset(&mut self, now: Instant) {
        self.heard = now;
    }

    /// How long the node may stay silent from `now` on; zero if it has been silent for too long.
    pub fn left(&self, node: &Node, now: Instant) -> Duration {
        let grace = if condition(node, "Ready").is_some() { GRACE } else { STARTUP_GRACE };
        grace.saturating_sub(now.saturating_duration_since(self.heard))
    }
}

fn heartbeat(node: &Node) -> Option<String> {
    condition(node, "Ready")?.last_heartbeat_time.as_ref().map(|t| t.0.to_string())
}

fn renewal(lease: &Lease) -> Option<String> {
    lease.spec.as_ref()?.renew_time.as_ref().map(|t| t.0.to_string())
}

/// The node with the kubelet's conditions unknown; `None` if they are already.
pub fn with_unknown_conditions(node: &Node, now: SystemTime) -> Option<Node> {
    let mut changed = node.clone();
    let conditions = changed.status.get_or_insert_default().conditions.get_or_insert_default();
    for kind in KUBELETS {
        match conditions.iter_mut().find(|c| c.type_ == kind) {
            Some(held) if held.status == "Unknown" => {}
            Some(held) => {
                held.status = "Unknown".to_owned();
                held.reason = Some("NodeStatusUnknown".to_owned());
                held.message = Some("Kubelet stopped posting node status.".to_owned());
                held.last_transition_time = api_time(now);
            }
            None => conditions.push(NodeCondition {
                type_: kind.to_owned(),
                status: "Unknown".to_owned(),
                reason: Some("NodeStatusNeverUpdated".to_owned()),
                message: Some("Kubelet never posted node status.".to_owned()),
                last_heartbeat_time: node.metadata.creation_timestamp.clone(),
                last_transition_time: api_time(now),
            }),
        }
    }
    (changed != *node).then_some(changed)
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use knarr_api::Kind;
    use serde_json::json;

    /// A node with a Ready condition of this status, and a heartbeat at this second.
    pub fn node(name: &str, ready: &str, second: u8) -> Node {
        Node::from_value(&json!({ "metadata": { "name": name, "uid": name }, "status": { "conditions": [
            { "type": "Ready", "status": ready, "lastHeartbeatTime": format!("2026-01-01T00:00:{second:02}Z") }] } }))
        .expect("a node")
    }

    fn lease(second: u8) -> Lease {
        let renewed = format!("2026-01-01T00:00:{second:02}.000000Z");
        Lease::from_value(&json!({ "metadata": { "name": "n" }, "spec": { "renewTime": renewed } }))
            .expect("a lease")
    }

    #[test]
    fn only_a_new_lease_or_status_is_a_sign_of_life() {
        use knarr_base::Clock;
        let zero = knarr_base::SystemClock::new().instant();
        let at = |seconds: u64| zero + Duration::from_secs(seconds);
        let mut health = Health::new(&node("n", "True", 0), Some(&lease(0)), zero);
        health.observe(&node("n", "True", 0), Some(&lease(0)), at(10));
        assert_eq!(health.left(&node("n", "True", 0), at(10)).as_secs(), 40);
        health.observe(&node("n", "True", 0), Some(&lease(10)), at(20));
        assert_eq!(health.left(&node("n", "True", 0), at(30)).as_secs(), 40);
        health.observe(&node("n", "True", 30), None, at(40));
        assert_eq!(health.left(&node("n", "True", 30), at(79)).as_secs(), 11);
        assert!(health.left(&node("n", "True", 30), at(90)).is_zero());
        assert_eq!(health.left(&Node::default(), at(90)).as_secs(), 10);
    }

    #[test]
    fn a_silent_kubelet_s_conditions_become_unknown() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let lost = with_unknown_conditions(&node("n", "True", 0), now).expect("it changes");
        let text = |kind: &str| {
            let c = condition(&lost, kind).expect("the condition");
            (c.status.clone(), c.reason.clone().unwrap_or_default(), c.message.clone().unwrap_or_default())
        };
        let of = |reason: &str, message: &str| ("Unknown".to_owned(), reason.to_owned(), message.to_owned());
        assert_eq!(text("Ready"), of("NodeStatusUnknown", "Kubelet stopped posting node status."));
        assert_eq!(text("PIDPressure"), of("NodeStatusNeverUpdated", "Kubelet never posted node status."));
        assert_eq!(with_unknown_conditions(&lost, now), None);
    }
}
