//! DefaultTolerationSeconds: pods stay five minutes on nodes that are not ready or cannot be reached.

use crate::util::value::{ensure, list, object, text};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::status::Status;
use serde_json::{Value, json};

const SECONDS: i64 = 300;
const TAINTS: &[&str] = &["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];

/// The plugin.
pub struct DefaultTolerationSeconds;

impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        matches!(operation, Operation::Create | Operation::Update)
            && group.is_empty()
            && resource == "pods"
            && subresource.is_empty()
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        add(write.object);
        Box::pin(std::future::ready(Ok(())))
    }
}

fn add(pod: &mut Value) {
    let tolerates = |pod: &Value, taint: &str| {
        list(pod, &["spec", "tolerations"]).iter().any(|t| {
            let (key, effect) = (text(t, &["key"]), text(t, &["effect"]));
            (key.is_empty() || key == taint) && (effect.is_empty() || effect == "NoExecute")
        })
    };
    let missing: Vec<&&str> = TAINTS.iter().filter(|t| !tolerates(pod, t)).collect();
    let spec = ensure(object(pod), "spec");
    for taint in missing {
        let tolerations = spec.entry("tolerations").or_insert_with(|| json!([]));
        if let Value::Array(tolerations) = tolerations {
            tolerations.push(json!({
                "key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": SECONDS,
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_pod_says_itself_stands() {
        let mut pod = json!({"spec":{"tolerations":[
            {"key":"node.kubernetes.io/not-ready","operator":"Exists","effect":"NoExecute","tolerationSeconds":5}]}});
        add(&mut pod);
        let tolerations = list(&pod, &["spec", "tolerations"]);
        assert_eq!(tolerations.len(), 2);
        assert_eq!(tolerations[1]["key"], "node.kubernetes.io/unreachable");
        let mut pod = json!({"spec":{"tolerations":[{"operator":"Exists"}]}});
        add(&mut pod);
        assert_eq!(list(&pod, &["spec", "tolerations"]).len(), 1);
    }
}
