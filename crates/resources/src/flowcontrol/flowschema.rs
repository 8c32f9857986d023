//! FlowSchemas (flowcontrol.apiserver.k8s.io/v1): pkg/registry/flowcontrol/flowschema.

use super::fixed_spec;
use crate::util::value::{ensure, list, number, object, set_default, text};
use crate::util::{Errs, Flag, Items, Text, cells};
use knarr_api::flowcontrol::v1::{
    FlowSchema, FlowSchemaSpec, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule, Subject,
};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::{Value, json};
use std::time::SystemTime;

const MAX_PRECEDENCE: i32 = 10_000;
const METHODS: &[&str] = &["ByNamespace", "ByUser"];
const VERBS: &[&str] =
    &["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

struct FlowSchemas;

impl Strategy for FlowSchemas {
    type Object = FlowSchema;

    fn default(&self, obj: &mut Value) {
        set_default(ensure(object(obj), "spec"), "matchingPrecedence", 1000);
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({}));
    }

    fn validate(&self, _cx: &RequestCx, obj: &FlowSchema) -> ErrorList {
        let name = obj.metadata.name.text();
        let spec = obj.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let mut errs = validate_spec(&spec, name, &path);
        let value = serde_json::to_value(&spec).unwrap_or_default();
        if fixed_spec("FlowSchema", name).is_some_and(|fixed| fixed != value) {
            errs.add_invalid(&path, value, format!("spec of '{name}' must equal the fixed value"));
        }
        errs.extend(status(obj));
        errs
    }

    fn validate_status_update(&self, _cx: &RequestCx, new: &FlowSchema, _old: &FlowSchema) -> ErrorList {
        status(new)
    }
}

fn status(obj: &FlowSchema) -> ErrorList {
    let kinds = obj.status.iter().flat_map(|s| s.conditions.items()).map(|c| c.type_.text());
    condition_types(kinds)
}

/// Errors of the types of conditions.
pub fn condition_types<'a>(kinds: impl Iterator<Item = &'a str>) -> ErrorList {
    let mut errs = ErrorList::default();
    let kinds: Vec<&str> = kinds.collect();
    for (i, kind) in kinds.iter().enumerate() {
        let at = Path::new("status").child("conditions").index(i).child("type");
        if kinds[..i].contains(kind) {
            errs.add_duplicate(&at, kind);
        }
        if kind.is_empty() {
            errs.add_required(&at, "");
        }
    }
    errs
}

fn validate_spec(spec: &FlowSchemaSpec, name: &str, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let (precedence, at) = (spec.matching_precedence.unwrap_or_default(), path.child("matchingPrecedence"));
    if precedence <= 0 {
        errs.add_invalid(&at, precedence, "must be a positive value");
    }
    if precedence > MAX_PRECEDENCE {
        errs.add_invalid(&at, precedence, format!("must not be greater than {MAX_PRECEDENCE}"));
    }
    if precedence == 1 && name != "exempt" {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errs.add_invalid(&at, precedence, detail);
    }
    if let Some(method) = &spec.distinguisher_method
        && !METHODS.contains(&method.type_.as_str())
    {
        let value = serde_json::to_value(method).unwrap_or_default();
        errs.add_not_supported(&path.child("distinguisherMethod").child("type"), value, METHODS);
    }
    let (level, at) =
        (&spec.priority_level_configuration.name, path.child("priorityLevelConfiguration").child("name"));
    if level.is_empty() {
        errs.add_required(&at, "must reference a priority level");
    } else {
        errs.add_all(&at, level, validate::dns1123_subdomain(level));
    }
    for (i, rule) in spec.rules.items().iter().enumerate() {
        validate_rule(&mut errs, rule, &path.child("rules").index(i));
    }
    errs
}

fn validate_rule(errs: &mut ErrorList, rule: &PolicyRulesWithSubjects, path: &Path) {
    if rule.subjects.is_empty() {
        errs.add_required(&path.child("subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in rule.subjects.iter().enumerate() {
        validate_subject(errs, subject, &path.child("subjects").index(i));
    }
    let (resources, urls) = (rule.resource_rules.items(), rule.non_resource_rules.items());
    if resources.is_empty() && urls.is_empty() {
        errs.add_required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, rule) in resources.iter().enumerate() {
        resource_rule(errs, rule, &path.child("resourceRules").index(i));
    }
    for (i, rule) in urls.iter().enumerate() {
        url_rule(errs, rule, &path.child("nonResourceRules").index(i));
    }
}

fn validate_subject(errs: &mut ErrorList, subject: &Subject, path: &Path) {
    let kinds = ["Group", "ServiceAccount", "User"];
    let kind = subject.kind.as_str();
    if !kinds.contains(&kind) {
        errs.add_not_supported(&path.child("kind"), kind, &kinds);
        return;
    }
    let field = |kind: &str| match kind {
        "Group" => "group",
        "User" => "user",
        _ => "serviceAccount",
    };
    let at = path.child(field(kind));
    let name = match kind {
        "Group" => subject.group.as_ref().map(|g| g.name.as_str()),
        "User" => subject.user.as_ref().map(|u| u.name.as_str()),
        _ => subject.service_account.as_ref().map(|a| a.name.as_str()),
    };
    match name {
        None => {
            errs.add_required(&at, format!("{} is required when subject kind is '{kind}'", field(kind)));
        }
        Some("") => errs.add_required(&at.child("name"), ""),
        Some(name) if kind == "ServiceAccount" && name != "*" => {
            errs.add_all(&at.child("name"), name, validate::dns1123_subdomain(name));
        }
        Some(_) => {}
    }
    if kind == "ServiceAccount"
        && let Some(account) = &subject.service_account
    {
        let namespace = account.namespace.as_str();
        if namespace.is_empty() {
            errs.add_required(&at.child("namespace"), "must specify namespace for service account");
        } else {
            errs.add_all(&at.child("namespace"), namespace, validate::dns1123_label(namespace));
        }
    }
    let set = [
        ("ServiceAccount", subject.service_account.is_some()),
        ("User", subject.user.is_some()),
        ("Group", subject.group.is_some()),
    ];
    for (other, _) in set.into_iter().filter(|(other, set)| *set && *other != kind) {
        let field = field(other);
        let detail = format!("{field} is forbidden when subject kind is not '{other}'");
        errs.add_forbidden(&path.child(field), detail);
    }
}

fn verbs(errs: &mut ErrorList, verbs: &[String], path: &Path) {
    let path = path.child("verbs");
    if verbs.is_empty() {
        errs.add_required(&path, "verbs must contain at least one value");
    } else if verbs.iter().any(|v| v == "*") {
        if verbs.len() > 1 {
            errs.add_invalid(&path, verbs, "if '*' is present, must not specify other verbs");
        }
    } else if !verbs.iter().all(|v| VERBS.contains(&v.as_str())) {
        errs.add_not_supported(&path, verbs, VERBS);
    }
}

fn resource_rule(errs: &mut ErrorList, rule: &ResourcePolicyRule, path: &Path) {
    verbs(errs, &rule.verbs, path);
    for (field, items, one, others) in [
        ("apiGroups", &rule.api_groups, "api group", "api groups"),
        ("resources", &rule.resources, "resource", "resources"),
    ] {
        let at = path.child(field);
        if items.is_empty() {
            errs.add_required(&at, format!("resource rules must supply at least one {one}"));
        } else if items.len() > 1 && items.iter().any(|item| item == "*") {
            errs.add_invalid(&at, items, format!("if '*' is present, must not specify other {others}"));
        }
    }
    let (namespaces, at) = (rule.namespaces.items(), path.child("namespaces"));
    if namespaces.is_empty() && !rule.cluster_scope.on() {
        let detail = "resource rules that are not cluster scoped must supply at least one namespace";
        errs.add_required(&at, detail);
    } else if namespaces.iter().any(|n| n == "*") {
        if namespaces.len() > 1 {
            errs.add_invalid(&at, namespaces, "if '*' is present, must not specify other namespaces");
        }
    } else {
        for (i, namespace) in namespaces.iter().enumerate() {
            for problem in validate::dns1123_label(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {problem}");
                errs.add_invalid(&at.index(i), namespace, detail);
            }
        }
    }
}

fn url_rule(errs: &mut ErrorList, rule: &NonResourcePolicyRule, path: &Path) {
    verbs(errs, &rule.verbs, path);
    let (urls, at) = (&rule.non_resource_urls, path.child("nonResourceURLs"));
    if urls.is_empty() {
        errs.add_required(&at, "nonResourceURLs must contain at least one value");
    } else if urls.iter().any(|url| url == "*") {
        if urls.len() > 1 {
            errs.add_invalid(&at, urls, "if '*' is present, must not specify other non-resource URLs");
        }
    } else {
        for (i, url) in urls.iter().enumerate() {
            if let Some(problem) = url_problem(url) {
                errs.add_invalid(&at.index(i), url, problem);
            }
        }
    }
}

fn url_problem(url: &str) -> Option<&'static str> {
    let stars = url.matches('*').count();
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        _ if !url.starts_with('/') => Some("must start with slash"),
        _ if url.contains(' ') => Some("must not contain white-space"),
        _ if url.contains("//") => Some("must not contain double slash"),
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => {
            Some("wildcard can only do suffix matching")
        }
        _ => None,
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let dangling = list(obj, &["status", "conditions"]).iter().find(|c| text(c, &["type"]) == "Dangling");
    vec![
        cells::name(obj),
        text(obj, &["spec", "priorityLevelConfiguration", "name"]).into(),
        number(obj, &["spec", "matchingPrecedence"]).into(),
        cells::or_none(text(obj, &["spec", "distinguisherMethod", "type"])),
        cells::age(obj, now),
        dangling.map_or("?", |c| text(c, &["status"])).into(),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(FlowSchemas).status().cells(cells).fixture(include_str!("testdata/flowschema.yaml"))
}
