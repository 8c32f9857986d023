//! The kinds that a policy is about and their schemas, out of discovery and the OpenAPI documents of the server.

use knarr_api::admissionregistration::v1::ValidatingAdmissionPolicySpec;
use knarr_cel::DeclType;
use knarr_client::{Client, Error};
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// More kinds of one policy are not checked.
const MAX_KINDS: usize = 10;

/// A kind that expressions are checked against.
pub struct Checked {
    /// `group/version, Kind=kind`.
    pub name: String,
    /// Its type, none when anything goes.
    pub decl: Option<Arc<DeclType>>,
}

/// What a policy's expressions see.
pub struct Types {
    /// The kinds of `object`.
    pub checked: Vec<Checked>,
    /// The type of `params`, if there are any.
    pub params: Option<Option<Arc<DeclType>>>,
}

/// Reads documents, each once.
pub struct Schemas<'a> {
    client: &'a Client,
    documents: HashMap<String, Option<Value>>,
}

impl<'a> Schemas<'a> {
    /// Nothing has been read yet.
    pub fn new(client: &'a Client) -> Self {
        Self { client, documents: HashMap::new() }
    }

    /// The types of a policy. Kinds without a schema are passed over.
    pub async fn of_policy(&mut self, spec: &ValidatingAdmissionPolicySpec) -> Result<Types, Error> {
        let mut checked = Vec::new();
        for (group, version, kind) in self.kinds(spec).await? {
            if let Some(decl) = self.declared(&group, &version, &kind).await? {
                checked.push(Checked { name: format!("{group}/{version}, Kind={kind}"), decl });
            }
        }
        let params = match &spec.param_kind {
            None => None,
            Some(kind) => {
                let api_version = kind.api_version.as_deref().unwrap_or_default();
                let (group, version) = knarr_meta::gvk::parse_api_version(api_version);
                let kind = kind.kind.as_deref().unwrap_or_default();
                Some(self.declared(group, version, kind).await?.flatten())
            }
        };
        Ok(Types { checked, params })
    }

    async fn kinds(
        &mut self,
        spec: &ValidatingAdmissionPolicySpec,
    ) -> Result<BTreeSet<(String, String, String)>, Error> {
        let mut kinds = BTreeSet::new();
        for (group, version, resource) in named(spec) {
            let served = self.document(&base("", &group, &version)).await?;
            let served = served.and_then(|list| list["resources"].as_array()).map_or(&[][..], Vec::as_slice);
            let found = served.iter().find(|r| r["name"] == resource.as_str());
            if let Some(kind) = found.and_then(|r| r["kind"].as_str()) {
                kinds.insert((group, version, kind.to_owned()));
                if kinds.len() == MAX_KINDS {
                    break;
                }
            }
        }
        Ok(kinds)
    }

    /// The declared type of a kind; the outer none when there is no schema of it.
    async fn declared(
        &mut self,
        group: &str,
        version: &str,
        kind: &str,
    ) -> Result<Option<Option<Arc<DeclType>>>, Error> {
        let Some(document) = self.document(&base("/openapi/v3", group, version)).await? else {
            return Ok(None);
        };
        let Some(components) = document["components"]["schemas"].as_object() else { return Ok(None) };
        let is_it = |schema: &&Value| {
            let kinds = schema["x-kubernetes-group-version-kind"].as_array();
            kinds
                .into_iter()
                .flatten()
                .any(|k| k["group"] == group && k["version"] == version && k["kind"] == kind)
        };
        let Some(schema) = components.values().find(is_it) else { return Ok(None) };
        let resolved = resolve(components, schema, &mut Vec::new());
        let decl = DeclType::from_schema(&resolved, true);
        Ok(Some(decl.map(|decl| decl.assign_type_name(&format!("{kind}0")))))
    }

    /// A document of the server, none when there is no such.
    async fn document(&mut self, url: &str) -> Result<Option<&Value>, Error> {
        if !self.documents.contains_key(url) {
            let read = match self.client.get_as(url, "application/json").await {
                Ok(bytes) => {
                    let parsed = serde_json::from_slice(&bytes);
                    Some(parsed.map_err(|e| Error::Protocol(format!("{url}: {e}")))?)
                }
                Err(error) if error.is_not_found() => None,
                Err(error) => return Err(error),
            };
            self.documents.insert(url.to_owned(), read);
        }
        Ok(self.documents.get(url).and_then(Option::as_ref))
    }
}

/// The resources that a policy's rules name, without wildcards and subresources.
fn named(spec: &ValidatingAdmissionPolicySpec) -> Vec<(String, String, String)> {
    let mut all = Vec::new();
    let constraints = spec.match_constraints.as_ref();
    for rule in constraints.and_then(|c| c.resource_rules.as_ref()).into_iter().flatten() {
        let sorted = |items: &Option<Vec<String>>| {
            let mut items = items.clone().unwrap_or_default();
            items.sort();
            items
        };
        let (groups, versions) = (sorted(&rule.api_groups), sorted(&rule.api_versions));
        if groups.iter().chain(&versions).any(|name| name.contains('*')) {
            continue;
        }
        let mut resources = sorted(&rule.resources);
        resources.retain(|name| !name.contains(['*', '/']));
        for group in &groups {
            for version in &versions {
                all.extend(resources.iter().map(|r| (group.clone(), version.clone(), r.clone())));
            }
        }
    }
    all
}

fn base(prefix: &str, group: &str, version: &str) -> String {
    match group {
        "" => format!("{prefix}/api/{version}"),
        group => format!("{prefix}/apis/{group}/{version}"),
    }
}

/// A schema with its references filled in. One that contains itself ends where it would begin again.
fn resolve(components: &Map<String, Value>, schema: &Value, within: &mut Vec<String>) -> Value {
    let reference = schema["$ref"].as_str().or_else(|| schema["allOf"][0]["$ref"].as_str());
    let name = reference.and_then(|reference| reference.rsplit('/').next());
    if let Some(name) = name {
        let Some(target) = components.get(name).filter(|_| !within.iter().any(|n| n == name)) else {
            return Value::Object(Map::new());
        };
        within.push(name.to_owned());
        let resolved = resolve(components, target, within);
        within.pop();
        return resolved;
    }
    let Value::Object(map) = schema else { return schema.clone() };
    let mut resolved = Map::new();
    for (key, value) in map {
        let value = match (key.as_str(), value) {
            ("properties", Value::Object(fields)) => {
                let each =
                    |(name, field): (&String, &Value)| (name.clone(), resolve(components, field, within));
                Value::Object(fields.iter().map(each).collect())
            }
            ("items" | "additionalProperties", nested) => resolve(components, nested, within),
            // Not looked into: they only narrow what the rest says.
            ("oneOf" | "anyOf" | "allOf" | "description" | "default", _) => continue,
            _ => value.clone(),
        };
        resolved.insert(key.clone(), value);
    }
    if map.get("format").is_some_and(|format| format == "int-or-string") {
        resolved.insert("x-kubernetes-int-or-string".to_owned(), true.into());
    }
    Value::Object(resolved)
}
