//! RBAC rules (rbac.authorization.k8s.io/v1 PolicyRule): what one permits, whether it covers another, and how
//! they are written in messages.

use crate::authorize::Attributes;
use serde_json::{Value, json};

/// One PolicyRule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Verbs; `*` is all.
    pub verbs: Vec<String>,
    /// API groups; `*` is all.
    pub groups: Vec<String>,
    /// Resources, `resource/subresource`, `*/subresource` or `*`.
    pub resources: Vec<String>,
    /// Names; empty is all.
    pub names: Vec<String>,
    /// Paths; a trailing `*` matches what follows.
    pub paths: Vec<String>,
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

impl Rule {
    /// Reads a rule from JSON.
    pub fn from_value(value: &Value) -> Self {
        Self {
            verbs: strings(&value["verbs"]),
            groups: strings(&value["apiGroups"]),
            resources: strings(&value["resources"]),
            names: strings(&value["resourceNames"]),
            paths: strings(&value["nonResourceURLs"]),
        }
    }

    /// The rules of a role.
    pub fn all_of(role: &Value) -> Vec<Self> {
        role["rules"].as_array().into_iter().flatten().map(Self::from_value).collect()
    }

    /// A rule over resources, for tables of rules in code.
    pub fn resources(verbs: &[&str], group: &str, resources: &[&str]) -> Self {
        let own = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Self {
            verbs: own(verbs),
            groups: vec![group.to_owned()],
            resources: own(resources),
            ..Self::default()
        }
    }

    /// Whether the rule permits this.
    pub fn allows(&self, a: &Attributes) -> bool {
        if !has(&self.verbs, &a.verb) {
            return false;
        }
        if !a.is_resource {
            return self.paths.iter().any(|pattern| path_matches(pattern, &a.path));
        }
        has(&self.groups, &a.group)
            && self.resources.iter().any(|r| resource_matches(r, &a.resource, &a.subresource))
            && (self.names.is_empty() || self.names.contains(&a.name))
    }

    /// The rule split so that each part has one verb and one resource or path: what escalation checks compare.
    pub fn split(&self) -> Vec<Self> {
        let mut parts = Vec::new();
        for verb in &self.verbs {
            for path in &self.paths {
                parts.push(Self { verbs: vec![verb.clone()], paths: vec![path.clone()], ..Self::default() });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let one = Self {
                        verbs: vec![verb.clone()],
                        groups: vec![group.clone()],
                        resources: vec![resource.clone()],
                        ..Self::default()
                    };
                    if self.names.is_empty() {
                        parts.push(one.clone());
                    }
                    for name in &self.names {
                        parts.push(Self { names: vec![name.clone()], ..one.clone() });
                    }
                }
            }
        }
        parts
    }

    /// Whether this rule permits all that `part` (made by [`Rule::split`]) does.
    pub fn covers(&self, part: &Self) -> bool {
        if !part.verbs.iter().all(|verb| has(&self.verbs, verb)) {
            return false;
        }
        if !part.paths.is_empty() {
            return part.paths.iter().all(|path| self.paths.iter().any(|own| path_covers(own, path)));
        }
        part.groups.iter().all(|group| has(&self.groups, group))
            && part
                .resources
                .iter()
                .all(|resource| self.resources.iter().any(|own| resource_covers(own, resource)))
            && (self.names.is_empty()
                || (!part.names.is_empty() && part.names.iter().all(|name| self.names.contains(name))))
    }

    /// The rule as it stands in upstream's escalation messages.
    pub fn compact(&self) -> String {
        let mut parts = Vec::new();
        let mut add = |label: &str, list: &[String]| {
            if !list.is_empty() {
                let items: Vec<String> = list.iter().map(|s| super::quoted(s)).collect();
                parts.push(format!("{label}:[{}]", items.join(" ")));
            }
        };
        add("APIGroups", &self.groups);
        add("Resources", &self.resources);
        add("ResourceNames", &self.names);
        add("NonResourceURLs", &self.paths);
        add("Verbs", &self.verbs);
        format!("{{{}}}", parts.join(", "))
    }

    /// The rule as SelfSubjectRulesReview lists it.
    pub fn to_review(&self) -> Value {
        let mut rule = json!({"verbs": self.verbs});
        let mut set = |key: &str, list: &[String]| {
            if !list.is_empty() {
                rule[key] = json!(list);
            }
        };
        set("apiGroups", &self.groups);
        set("resources", &self.resources);
        set("resourceNames", &self.names);
        set("nonResourceURLs", &self.paths);
        rule
    }
}

fn has(list: &[String], item: &str) -> bool {
    list.iter().any(|entry| entry == "*" || entry == item)
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    match rule.split_once('/') {
        None => subresource.is_empty() && rule == resource,
        Some((r, s)) => !subresource.is_empty() && s == subresource && (r == "*" || r == resource),
    }
}

/// Whether the entry `own` includes the entry `other` of another rule.
fn resource_covers(own: &str, other: &str) -> bool {
    own == "*" || own == other || {
        let subresource = |entry: &str| entry.split_once('/').map(|(_, s)| s.to_owned());
        own.starts_with("*/") && subresource(own) == subresource(other)
    }
}

fn path_matches(pattern: &str, path: &str) -> bool {
    pattern == "*"
        || pattern == path
        || pattern.strip_suffix('*').is_some_and(|prefix| path.starts_with(prefix))
}

fn path_covers(own: &str, other: &str) -> bool {
    own == other || own == "*" || own.strip_suffix('*').is_some_and(|prefix| other.starts_with(prefix))
}
