//! PodTopologyLabels (KEP-4742): a pod that has a node carries the node's zone and region, so that the downward API can
//! show them.

use crate::util::value::{ensure, object, text};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::status::Status;

const COPIED: &[&str] = &["topology.kubernetes.io/zone", "topology.kubernetes.io/region"];

/// The plugin.
pub struct PodTopologyLabels;

impl Plugin for PodTopologyLabels {
    fn name(&self) -> &'static str {
        "PodTopologyLabels"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Create
            && (group, resource) == ("", "pods")
            && matches!(subresource, "" | "binding")
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let is_binding = write.cx.info.subresource == "binding";
        let node = match is_binding {
            true if text(write.object, &["target", "kind"]) == "Node" => {
                text(write.object, &["target", "name"])
            }
            true => "",
            false => text(write.object, &["spec", "nodeName"]),
        };
        if !node.is_empty()
            && let Some(node) = write.cx.reader.get("", "nodes", "", node)
        {
            for label in COPIED {
                if let Some(value) = node["metadata"]["labels"].get(*label) {
                    let meta = ensure(object(write.object), "metadata");
                    ensure(meta, "labels").insert((*label).to_owned(), value.clone());
                }
            }
        }
        Box::pin(std::future::ready(Ok(())))
    }
}
