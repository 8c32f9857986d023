//! The types of the resource metrics API for the OpenAPI documents.

use crate::def::OwnOpenApi;
use serde_json::{Value, json};

/// What a kind brings into the documents.
pub struct Published(pub &'static str);

impl OwnOpenApi for Published {
    fn definitions(&self, v2: bool) -> Vec<(String, Value)> {
        let place = if v2 { "#/definitions/" } else { "#/components/schemas/" };
        let reference = |name: &str| match v2 {
            true => json!({ "$ref": format!("{place}{name}") }),
            // Defaults stand beside references only in version 3, which wraps them.
            false => json!({ "allOf": [{ "$ref": format!("{place}{name}") }] }),
        };
        let own = |kind: &str| format!("io.k8s.metrics.v1beta1.{kind}");
        let meta = |kind: &str| reference(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"));
        let text = |description: &str| json!({ "type": "string", "description": description });
        let quantities = json!({
            "type": "object",
            "description": "The memory usage is the memory working set.",
            "additionalProperties": reference("io.k8s.apimachinery.pkg.api.resource.Quantity"),
        });
        let head = |kind: Value| {
            json!({
                "apiVersion": text("The version of this representation of an object."),
                "kind": text("The kind of this object."),
                "metadata": kind,
            })
        };
        let gvk = |kind: &str| json!([{ "group": super::GROUP, "version": super::VERSION, "kind": kind }]);
        let mut properties = head(meta("ObjectMeta"));
        properties["timestamp"] = meta("Time");
        properties["window"] =
            text("The metrics were collected within the interval [timestamp - window, timestamp].");
        let mut definitions = Vec::new();
        if self.0 == "PodMetrics" {
            let container = json!({
                "type": "object",
                "description": "What a container uses.",
                "required": ["name", "usage"],
                "properties": { "name": text("The container's name."), "usage": quantities },
            });
            definitions.push((own("ContainerMetrics"), container));
            properties["containers"] = json!({
                "type": "array",
                "description": "What all containers use, within the same interval.",
                "items": reference(&own("ContainerMetrics")),
            });
        } else {
            properties["usage"] = quantities;
        }
        let list = format!("{}List", self.0);
        let mut list_properties = head(meta("ListMeta"));
        list_properties["items"] = json!({ "type": "array", "items": reference(&own(self.0)) });
        definitions.push((
            own(self.0),
            json!({
                "type": "object",
                "description": "What a node or a pod uses.",
                "properties": properties,
                "x-kubernetes-group-version-kind": gvk(self.0),
            }),
        ));
        definitions.push((
            own(&list),
            json!({
                "type": "object",
                "description": format!("A list of {}.", self.0),
                "required": ["items"],
                "properties": list_properties,
                "x-kubernetes-group-version-kind": gvk(&list),
            }),
        ));
        definitions
    }

    fn identity(&self) -> &str {
        self.0
    }
}
