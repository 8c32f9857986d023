//! Tables (`meta.k8s.io/v1` and `v1beta1`): what `kubectl get` shows.

use crate::request::RequestCx;
use knarr_meta::status::Status;
use serde_json::{Value, json};

/// The columns of a resource as JSON, out of the facts.
pub fn columns(group: &str, version: &str, resource: &str) -> Vec<Value> {
    let facts = knarr_api::facts::columns(group, version, resource);
    if facts.is_empty() {
        return default_columns();
    }
    let column = |fact: &knarr_api::facts::ColumnFact| {
        json!({
            "name": fact.name,
            "type": fact.ty,
            "format": fact.format,
            "description": "",
            "priority": fact.priority,
        })
    };
    facts.iter().map(column).collect()
}

/// The columns of kinds that declare none.
pub fn default_columns() -> Vec<Value> {
    let column = |name: &str, ty: &str, format: &str| json!({"name": name, "type": ty, "format": format, "description": "", "priority": 0});
    vec![column("Name", "string", "name"), column("Created At", "date", "")]
}

/// A Table.
pub fn table(columns: &[Value], version: &str, metadata: &Value, rows: Vec<Value>) -> Value {
    json!({
        "kind": "Table",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": metadata,
        "columnDefinitions": columns,
        "rows": rows,
    })
}

/// `includeObject` of a request for a Table.
pub fn include(cx: &RequestCx) -> Result<&str, Status> {
    let include = cx.query("includeObject").unwrap_or_default();
    match include {
        "" | "Metadata" | "None" | "Object" => Ok(include),
        other => Err(Status::bad_request(format!(
            "Unable to convert to Table as requested: includeObject: Invalid value: {}: must be 'Metadata', 'Object', 'None', or empty",
            knarr_meta::go::quote(other)
        ))),
    }
}
