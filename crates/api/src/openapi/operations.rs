//! The operations on served resources, without the form of either specification.

use super::Served;
use super::schemas::Library;

/// What is sent or answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// A kind by group, version, name.
    Kind(String, String, String),
    /// A type of meta/v1.
    Meta(&'static str),
    /// Plain text.
    Text,
}

/// One method of one path.
#[derive(Clone, Debug)]
pub(super) struct Operation {
    pub path: String,
    pub method: &'static str,
    pub id: String,
    pub tag: String,
    /// `x-kubernetes-action`.
    pub action: &'static str,
    /// `x-kubernetes-group-version-kind`: group, version, kind; none for discovery.
    pub kind: Option<(String, String, String)>,
    /// Query parameters by name and JSON type.
    pub query: Vec<(&'static str, &'static str)>,
    pub body: Option<Body>,
    pub answer: Body,
    pub codes: &'static [&'static str],
    /// Whether it is on a custom resource.
    pub custom: bool,
}

const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];
const WRITE: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];
const DELETE: &[(&str, &str)] = &[
    ("dryRun", "string"),
    ("gracePeriodSeconds", "integer"),
    ("ignoreStoreReadErrorWithClusterBreakingPotential", "boolean"),
    ("orphanDependents", "boolean"),
    ("propagationPolicy", "string"),
];
const LOG: &[(&str, &str)] = &[
    ("container", "string"),
    ("follow", "boolean"),
    ("insecureSkipTLSVerifyBackend", "boolean"),
    ("limitBytes", "integer"),
    ("previous", "boolean"),
    ("sinceSeconds", "integer"),
    ("stream", "string"),
    ("tailLines", "integer"),
    ("timestamps", "boolean"),
];

impl Operation {
    /// The definitions this operation mentions.
    pub(super) fn roots(&self, library: &Library) -> Vec<String> {
        let bodies = self.body.iter().chain([&self.answer]);
        let watch = (self.action == "list").then(|| library.meta("WatchEvent"));
        bodies.filter_map(|body| body.definition(library)).chain(watch).collect()
    }
}

impl Body {
    /// The definition's name; none for text and for kinds the facts do not have.
    pub(super) fn definition(&self, library: &Library) -> Option<String> {
        match self {
            Self::Kind(group, version, kind) => library.definition(group, version, kind),
            Self::Meta(name) => Some(library.meta(name)),
            Self::Text => None,
        }
    }
}

/// Every operation on these resources, and the discovery of their groups and versions.
pub(super) fn all(served: &[&Served]) -> Vec<Operation> {
    let mut all: Vec<Operation> = Vec::new();
    for one in served {
        let discovery = format!("/{}/", one.group_version_path());
        if !all.iter().any(|op| op.path == discovery) {
            all.push(Operation {
                path: discovery,
                method: "get",
                id: format!("get{}APIResources", group_version_id(one)),
                tag: tag(one),
                action: "",
                kind: None,
                query: Vec::new(),
                body: None,
                answer: Body::Meta("APIResourceList"),
                codes: &["200"],
                custom: false,
            });
        }
        resource(one, &mut all);
    }
    all
}

fn resource(one: &Served, all: &mut Vec<Operation>) {
    let (resource, subresource) = one.resource.split_once('/').unwrap_or((&one.resource, ""));
    let base = format!("/{}", one.group_version_path());
    let scope = if one.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{base}{scope}/{resource}");
    let item = format!("{collection}/{{name}}");
    let own = Body::Kind(one.kind_group.clone(), one.kind_version.clone(), one.kind.clone());
    let list_kind = one.own.as_ref().map_or_else(|| format!("{}List", one.kind), |own| own.list_kind.clone());
    let list = Body::Kind(one.kind_group.clone(), one.kind_version.clone(), list_kind);
    let connects = one.kind.ends_with("Options");
    let (group_version, scoped) = (group_version_id(one), if one.namespaced { "Namespaced" } else { "" });
    let noun = match subresource {
        "" => one.kind.clone(),
        // Upstream names a subresource's operation after the kind of its parent, which is the singular here.
        _ => format!("{}{}", parent_kind(one, resource), capital(subresource)),
    };
    let id = |verb: &str, middle: &str| format!("{verb}{group_version}{middle}{scoped}{noun}");
    let mut push = |path: &str, method, id: String, action, query: Vec<_>, body, answer: &Body, codes| {
        let mut query = query;
        query.push(("pretty", "string"));
        all.push(Operation {
            path: path.to_owned(),
            method,
            id,
            tag: tag(one),
            action,
            kind: Some((one.kind_group.clone(), one.kind_version.clone(), one.kind.clone())),
            query,
            body,
            answer: answer.clone(),
            codes,
            custom: one.custom,
        });
    };
    let target = if subresource.is_empty() { item.clone() } else { format!("{item}/{subresource}") };
    for verb in &one.verbs {
        if connects {
            let (method, name) = match verb.as_str() {
                "create" => ("post", "Post"),
                "get" => ("get", "Get"),
                "update" => ("put", "Put"),
                "patch" => ("patch", "Patch"),
                "delete" => ("delete", "Delete"),
                _ => continue,
            };
            let id = id("connect", name);
            push(&target, method, id.clone(), "connect", Vec::new(), None, &Body::Text, &["200"]);
            if subresource == "proxy" {
                let path = format!("{target}/{{path}}");
                push(
                    &path,
                    method,
                    format!("{id}WithPath"),
                    "connect",
                    Vec::new(),
                    None,
                    &Body::Text,
                    &["200"],
                );
            }
            continue;
        }
        match verb.as_str() {
            "list" => {
                let query = LIST.to_vec();
                push(&collection, "get", id("list", ""), "list", query.clone(), None, &list, &["200"]);
                if one.namespaced {
                    let all_id = format!("list{group_version}{noun}ForAllNamespaces");
                    push(&format!("{base}/{resource}"), "get", all_id, "list", query, None, &list, &["200"]);
                }
            }
            "deletecollection" => {
                let mut query = DELETE.to_vec();
                query.extend(
                    LIST.iter().filter(|(name, _)| !matches!(*name, "allowWatchBookmarks" | "watch")),
                );
                let options = Some(Body::Meta("DeleteOptions"));
                let id = id("delete", "Collection");
                push(
                    &collection,
                    "delete",
                    id,
                    "deletecollection",
                    query,
                    options,
                    &Body::Meta("Status"),
                    &["200"],
                );
            }
            "create" => {
                let path = if subresource.is_empty() { &collection } else { &target };
                let codes = &["200", "201", "202"];
                push(path, "post", id("create", ""), "post", WRITE.to_vec(), Some(own.clone()), &own, codes);
            }
            "get" if subresource == "log" => {
                push(&target, "get", id("read", ""), "get", LOG.to_vec(), None, &Body::Text, &["200"]);
            }
            "get" => push(&target, "get", id("read", ""), "get", Vec::new(), None, &own, &["200"]),
            "update" => {
                let codes = &["200", "201"];
                push(
                    &target,
                    "put",
                    id("replace", ""),
                    "put",
                    WRITE.to_vec(),
                    Some(own.clone()),
                    &own,
                    codes,
                );
            }
            "patch" => {
                let mut query = WRITE.to_vec();
                query.push(("force", "boolean"));
                let patch = Some(Body::Meta("Patch"));
                push(&target, "patch", id("patch", ""), "patch", query, patch, &own, &["200", "201"]);
            }
            "delete" => {
                let options = Some(Body::Meta("DeleteOptions"));
                let (id, status) = (id("delete", ""), Body::Meta("Status"));
                push(&target, "delete", id, "delete", DELETE.to_vec(), options, &status, &["200", "202"]);
            }
            _ => {}
        }
    }
}

/// The kind of the resource a subresource belongs to: its own kind, unless that is another's (Scale, Eviction).
fn parent_kind(one: &Served, resource: &str) -> String {
    let kind = one.kind.to_lowercase();
    if resource.starts_with(&kind)
        || kind.starts_with(resource.trim_end_matches('s')) && !kind.ends_with("options")
    {
        return one.kind.clone();
    }
    crate::facts::resources()
        .iter()
        .find(|fact| fact.group == one.group && fact.version == one.version && fact.resource == resource)
        .map_or_else(|| one.kind.clone(), |fact| fact.kind.to_owned())
}

/// `CoreV1`, `AppsV1`, `RbacAuthorizationV1`: how operation ids name a group and version.
fn group_version_id(one: &Served) -> String {
    format!("{}{}", group_words(one).concat(), capital(&one.version))
}

/// `core_v1`, `apps_v1`, `rbacAuthorization_v1`.
fn tag(one: &Served) -> String {
    let words = group_words(one).concat();
    let (first, rest) = words.split_at(1);
    format!("{}{rest}_{}", first.to_lowercase(), one.version)
}

fn group_words(one: &Served) -> Vec<String> {
    if one.group.is_empty() {
        return vec!["Core".to_owned()];
    }
    let name = one.group.strip_suffix(".k8s.io").unwrap_or(&one.group);
    name.split('.').map(capital).collect()
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}
