//! The options of a connection as the object that admission sees: upstream decodes the query into them.

use crate::front::info::truthy;
use crate::request::RequestCx;
use serde_json::{Map, Value};

/// Builds them; `kind` is the subresource's, for example `PodExecOptions`.
pub fn options(kind: &str, cx: &RequestCx) -> Value {
    let mut options = Map::new();
    options.insert("kind".to_owned(), kind.into());
    options.insert("apiVersion".to_owned(), "v1".into());
    let all = |key: &str| -> Vec<&str> {
        cx.query.iter().filter(|(name, _)| name == key).map(|(_, value)| value.as_str()).collect()
    };
    match kind {
        "PodExecOptions" | "PodAttachOptions" => {
            for key in ["stdin", "stdout", "stderr", "tty"] {
                if cx.query(key).is_some_and(truthy) {
                    options.insert(key.to_owned(), true.into());
                }
            }
            if let Some(container) = cx.query("container").filter(|name| !name.is_empty()) {
                options.insert("container".to_owned(), container.into());
            }
            if kind == "PodExecOptions" {
                options.insert("command".to_owned(), all("command").into());
            }
        }
        "PodPortForwardOptions" => {
            let ports = all("ports").into_iter().flat_map(|list| list.split(','));
            let ports: Vec<i32> = ports.filter_map(|port| port.parse().ok()).collect();
            if !ports.is_empty() {
                options.insert("ports".to_owned(), ports.into());
            }
        }
        _ => {
            let path = cx.query("path").unwrap_or(&cx.info.rest);
            if !path.is_empty() {
                options.insert("path".to_owned(), path.into());
            }
        }
    }
    Value::Object(options)
}
