//! TaintNodesByCondition: a new node takes no pods until the node controller has seen it ready.

use crate::util::value::{ensure, list, object, text};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::status::Status;
use serde_json::{Value, json};

const TAINT: &str = "node.kubernetes.io/not-ready";

/// The plugin.
pub struct TaintNodesByCondition;

impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Create && group.is_empty() && resource == "nodes" && subresource.is_empty()
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let has = list(write.object, &["spec", "taints"])
            .iter()
            .any(|t| text(t, &["key"]) == TAINT && text(t, &["effect"]) == "NoSchedule");
        if !has {
            let taints = ensure(object(write.object), "spec").entry("taints").or_insert_with(|| json!([]));
            if let Value::Array(taints) = taints {
                taints.push(json!({"key": TAINT, "effect": "NoSchedule"}));
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
