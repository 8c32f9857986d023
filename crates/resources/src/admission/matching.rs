//! Which writes a webhook or a policy is about: rules, and selectors on the object and its namespace
//! (apiserver's `admission/plugin/webhook/predicates`).

use crate::util::value::{list, text};
use knarr_apiserver::admission::{Endpoint, Operation, Write};
use knarr_meta::gvk::GroupResource;
use knarr_meta::selector::LabelSelector;
use knarr_meta::status::Status;
use serde_json::Value;

/// One rule.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    resources: Vec<(String, String)>,
    scope: String,
    /// Names of objects; all when empty. Only policies have them.
    names: Vec<String>,
}

/// What rules are compared with.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub operation: Operation,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
}

impl<'a> Request<'a> {
    /// The request that brought a write.
    pub fn of(write: &'a Write<'_>) -> Self {
        let info = &write.cx.info;
        Self {
            operation: write.operation,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: write.namespace,
            name: write.name,
        }
    }

    /// The same as if it had come by another endpoint of the resource.
    pub fn by(self, endpoint: &'a Endpoint) -> Self {
        Self { group: &endpoint.group, version: &endpoint.version, resource: &endpoint.resource, ..self }
    }
}

impl Rule {
    /// Reads a valid, defaulted rule.
    pub fn new(rule: &Value) -> Self {
        let texts = |key: &str| -> Vec<String> {
            list(rule, &[key]).iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
        };
        let split = |whole: &String| match whole.split_once('/') {
            Some((resource, sub)) => (resource.to_owned(), sub.to_owned()),
            None => (whole.clone(), String::new()),
        };
        Self {
            operations: texts("operations"),
            groups: texts("apiGroups"),
            versions: texts("apiVersions"),
            resources: texts("resources").iter().map(split).collect(),
            scope: text(rule, &["scope"]).to_owned(),
            names: texts("resourceNames"),
        }
    }

    /// The rules of a list.
    pub fn all(rules: &[Value]) -> Vec<Self> {
        rules.iter().map(Self::new).collect()
    }

    /// Whether a request is what the rule is about.
    pub fn matches(&self, request: &Request<'_>) -> bool {
        let namespaces = (request.group, request.version, request.resource) == ("", "v1", "namespaces");
        let scope = match self.scope.as_str() {
            "" | "*" => true,
            "Namespaced" => !namespaces && !request.namespace.is_empty(),
            "Cluster" => namespaces || request.namespace.is_empty(),
            _ => false,
        };
        scope
            && has(&self.operations, request.operation.as_str())
            && has(&self.groups, request.group)
            && has(&self.versions, request.version)
            && self.resources.iter().any(|(resource, sub)| {
                (resource == "*" || resource == request.resource)
                    && (sub == "*" || sub == request.subresource)
            })
            && (self.names.is_empty() || self.names.iter().any(|name| name == request.name))
    }
}

fn has(items: &[String], wanted: &str) -> bool {
    items.iter().any(|item| item == "*" || item == wanted)
}

/// The endpoint whose form of the object is to be looked at: the request's own, or with `equivalent` another one
/// of the same resource that a rule names. None when no rule is about the request.
pub fn endpoint(write: &Write<'_>, rules: &[Rule], equivalent: bool) -> Option<Endpoint> {
    let request = Request::of(write);
    if rules.iter().any(|rule| rule.matches(&request)) {
        return Some(write.endpoint());
    }
    if !equivalent {
        return None;
    }
    let others = write.interfaces.equivalents();
    rules.iter().find_map(|rule| others.iter().find(|other| rule.matches(&request.by(other)))).cloned()
}

/// Selectors on the object and its namespace.
#[derive(Clone, Debug)]
pub struct Selectors {
    namespace: Result<LabelSelector, String>,
    object: Result<LabelSelector, String>,
}

impl Selectors {
    /// Reads `namespaceSelector` and `objectSelector`.
    pub fn new(of: &Value) -> Self {
        let selector = |key: &str| match of.get(key) {
            Some(selector) if selector.is_object() => {
                LabelSelector::from_label_selector(selector).map_err(|e| e.to_string())
            }
            _ => Ok(LabelSelector::everything()),
        };
        Self { namespace: selector("namespaceSelector"), object: selector("objectSelector") }
    }

    /// Whether both select the write. An error counts only when the rules match too, so it is handed back as a
    /// value of its own.
    pub fn select(&self, write: &Write<'_>) -> Result<bool, Status> {
        let by_namespace = self.by_namespace(write);
        if matches!(by_namespace, Ok(false)) {
            return Ok(false);
        }
        let by_object = self.by_object(write);
        if matches!(by_object, Ok(false)) {
            return Ok(false);
        }
        by_namespace?;
        by_object
    }

    fn by_namespace(&self, write: &Write<'_>) -> Result<bool, Status> {
        let info = &write.cx.info;
        if write.namespace.is_empty() && info.resource != "namespaces" {
            return Ok(true);
        }
        let selector = self.namespace.as_ref().map_err(Status::internal)?;
        if selector.is_empty() {
            return Ok(true);
        }
        let itself = info.resource == "namespaces"
            && info.subresource.is_empty()
            && matches!(write.operation, Operation::Create | Operation::Update);
        if itself {
            return Ok(selector.matches_object(write.object));
        }
        match write.cx.reader.get("", "namespaces", "", write.namespace) {
            Some(namespace) => Ok(selector.matches_object(&namespace)),
            None => Err(Status::not_found(&GroupResource::new("", "namespaces"), write.namespace)),
        }
    }

    fn by_object(&self, write: &Write<'_>) -> Result<bool, Status> {
        let selector = self.object.as_ref().map_err(Status::internal)?;
        if selector.is_empty() {
            return Ok(true);
        }
        let selects = |object: &Value| object.get("metadata").is_some() && selector.matches_object(object);
        Ok(selects(write.object) || write.old.is_some_and(selects))
    }
}

/// Whether a write is about the configuration of admission itself, which must stay reachable whatever it says.
pub fn is_exempt(write: &Write<'_>) -> bool {
    write.group == "admissionregistration.k8s.io"
        && matches!(
            write.kind,
            "ValidatingWebhookConfiguration"
                | "MutatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_match_as_upstreams_do() {
        let pod = Request {
            operation: Operation::Create,
            group: "",
            version: "v1",
            resource: "pods",
            subresource: "",
            namespace: "ns",
            name: "p",
        };
        let status = Request { subresource: "status", operation: Operation::Update, ..pod };
        let namespace = Request { resource: "namespaces", namespace: "ns", name: "ns", ..pod };
        let node = Request { resource: "nodes", namespace: "", ..pod };
        let rule =
            |operations: &str, groups: &str, versions: &str, resources: &str, scope: &str, names: &[&str]| {
                Rule::new(
                    &json!({"operations": [operations], "apiGroups": [groups], "apiVersions": [versions],
                "resources": [resources], "scope": scope, "resourceNames": names}),
                )
            };
        for (rule, request, wanted) in [
            (rule("CREATE", "", "v1", "pods", "*", &[]), pod, true),
            (rule("*", "*", "*", "*", "*", &[]), pod, true),
            (rule("*", "*", "*", "*", "*", &[]), status, false),
            (rule("*", "*", "*", "*/*", "*", &[]), status, true),
            (rule("*", "*", "*", "pods/*", "*", &[]), pod, true),
            (rule("*", "*", "*", "*/status", "*", &[]), pod, false),
            (rule("UPDATE", "", "v1", "pods", "*", &[]), pod, false),
            (rule("CREATE", "apps", "v1", "pods", "*", &[]), pod, false),
            (rule("CREATE", "", "v2", "pods", "*", &[]), pod, false),
            (rule("*", "*", "*", "*", "Namespaced", &[]), pod, true),
            (rule("*", "*", "*", "*", "Cluster", &[]), pod, false),
            (rule("*", "*", "*", "*", "Namespaced", &[]), namespace, false),
            (rule("*", "*", "*", "*", "Cluster", &[]), namespace, true),
            (rule("*", "*", "*", "*", "Cluster", &[]), node, true),
            (rule("*", "*", "*", "*", "*", &["q"]), pod, false),
            (rule("*", "*", "*", "*", "*", &["q", "p"]), pod, true),
        ] {
            assert_eq!(rule.matches(&request), wanted, "{rule:?}");
        }
    }
}
