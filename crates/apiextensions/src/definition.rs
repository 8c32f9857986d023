//! A CustomResourceDefinition (apiextensions.k8s.io/v1) in a form that requests can be served from.

use crate::apply;
use crate::columns::Columns;
use crate::defaulting;
use crate::kubeversion;
use crate::scale::Scale;
use crate::schema::{ParseError, Schema, structural};
use crate::select::SelectableField;
use crate::version::Rules;
use crate::version::Version;
use knarr_meta::object::{get_str, name as object_name, uid as object_uid};
use serde_json::Value;
use thiserror::Error;

/// Why a definition cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum CompileError {
    /// A schema is no schema.
    #[error("read the schema of version {version}: {source}")]
    Schema {
        /// The version.
        version: String,
        /// What is wrong.
        source: ParseError,
    },
    /// A schema has what no served schema may have.
    #[error("the server could not properly serve the CR schema: version {version}: {reason}")]
    Structure {
        /// The version.
        version: String,
        /// What is wrong, in upstream's words.
        reason: String,
    },
    /// No version is stored.
    #[error("the definition has no storage version")]
    NoStorageVersion,
}

/// Whether objects live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Cluster-wide.
    Cluster,
    /// In a namespace.
    Namespaced,
}

/// The names of a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The resource, as in paths.
    pub plural: String,
    /// One of it.
    pub singular: String,
    /// The kind.
    pub kind: String,
    /// The kind of lists.
    pub list_kind: String,
    /// What users may write instead.
    pub short_names: Vec<String>,
    /// Groups of resources such as `all`.
    pub categories: Vec<String>,
}

impl Names {
    /// Reads `spec.names` or `status.acceptedNames`.
    pub fn parse(json: &Value) -> Self {
        let text = |name: &str| get_str(json, &[name]).to_owned();
        let texts = |name: &str| -> Vec<String> {
            json[name].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            plural: text("plural"),
            singular: text("singular"),
            kind: text("kind"),
            list_kind: text("listKind"),
            short_names: texts("shortNames"),
            categories: texts("categories"),
        }
    }

    /// The names as JSON.
    pub fn to_value(&self) -> Value {
        let mut json = serde_json::Map::new();
        json.insert("plural".into(), self.plural.as_str().into());
        json.insert("kind".into(), self.kind.as_str().into());
        for (name, text) in [("singular", &self.singular), ("listKind", &self.list_kind)] {
            if !text.is_empty() {
                json.insert(name.into(), text.as_str().into());
            }
        }
        for (name, list) in [("shortNames", &self.short_names), ("categories", &self.categories)] {
            if !list.is_empty() {
                json.insert(name.into(), list.clone().into());
            }
        }
        Value::Object(json)
    }
}

/// How objects get from one version to another.
#[derive(Clone, Debug, PartialEq)]
pub enum Conversion {
    /// Only `apiVersion` changes.
    None,
    /// A webhook does it.
    Webhook {
        /// `conversion.webhook.clientConfig`.
        client_config: Value,
        /// The versions of ConversionReview that the webhook speaks, the preferred first.
        review_versions: Vec<String>,
    },
}

/// A definition that can be served from.
#[derive(Clone, Debug)]
pub struct Definition {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// The API group.
    pub group: String,
    /// Whether objects live in namespaces.
    pub scope: Scope,
    /// The names that are asked for.
    pub names: Names,
    /// The names that are granted: what is served and shown in discovery.
    pub accepted: Names,
    /// All versions in the order of the definition.
    pub versions: Vec<Version>,
    /// How objects are converted.
    pub conversion: Conversion,
    /// Whether fields without a schema are kept (only definitions that were once v1beta1).
    pub preserve_unknown_fields: bool,
    /// Versions in which objects may be stored.
    pub stored_versions: Vec<String>,
    conditions: Vec<(String, bool)>,
}

impl Definition {
    /// Compiles a stored definition.
    ///
    /// # Errors
    /// Stored definitions have been validated; an error says that this one was written by something else.
    pub fn compile(crd: &Value) -> Result<Self, CompileError> {
        let spec = &crd["spec"];
        let status = &crd["status"];
        let group = get_str(spec, &["group"]).to_owned();
        let names = Names::parse(&spec["names"]);
        let scope = if spec["scope"] == "Namespaced" { Scope::Namespaced } else { Scope::Cluster };
        let preserve_unknown_fields = spec["preserveUnknownFields"] == true;
        let list = spec["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let versions = list
            .iter()
            .map(|json| version(json, list, &group, &names, scope, preserve_unknown_fields))
            .collect::<Result<Vec<_>, _>>()?;
        if !versions.iter().any(|version| version.storage) {
            return Err(CompileError::NoStorageVersion);
        }
        let conversion = &spec["conversion"];
        let conditions = status["conditions"].as_array().into_iter().flatten();
        let texts = |json: &Value| -> Vec<String> {
            json.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Ok(Self {
            name: object_name(crd).to_owned(),
            uid: object_uid(crd).to_owned(),
            group,
            scope,
            names,
            accepted: Names::parse(&status["acceptedNames"]),
            versions,
            conversion: if conversion["strategy"] == "Webhook" {
                Conversion::Webhook {
                    client_config: conversion["webhook"]["clientConfig"].clone(),
                    review_versions: texts(&conversion["webhook"]["conversionReviewVersions"]),
                }
            } else {
                Conversion::None
            },
            preserve_unknown_fields,
            stored_versions: texts(&status["storedVersions"]),
            conditions: conditions
                .map(|condition| (get_str(condition, &["type"]).to_owned(), condition["status"] == "True"))
                .collect(),
        })
    }

    /// A version, served or not.
    pub fn version(&self, name: &str) -> Option<&Version> {
        self.versions.iter().find(|version| version.name == name)
    }

    /// The served versions, the preferred first: stable before beta before alpha, higher before lower.
    pub fn served(&self) -> impl Iterator<Item = &Version> {
        let mut served: Vec<&Version> = self.versions.iter().filter(|version| version.served).collect();
        served.sort_by(|a, b| kubeversion::compare(&b.name, &a.name));
        served.into_iter()
    }

    /// The version in which objects are stored.
    pub fn storage(&self) -> &Version {
        self.versions
            .iter()
            .find(|version| version.storage)
            .expect("a compiled definition has a storage version")
    }

    fn has(&self, condition: &str) -> bool {
        self.conditions.iter().any(|(type_, holds)| type_ == condition && *holds)
    }

    /// Whether the resource is to be served.
    pub fn is_established(&self) -> bool {
        self.has("Established")
    }

    /// Whether the names are free.
    pub fn names_accepted(&self) -> bool {
        self.has("NamesAccepted")
    }

    /// Whether the objects are being deleted, so that no new ones may come.
    pub fn is_terminating(&self) -> bool {
        self.has("Terminating")
    }
}

fn version(
    json: &Value,
    all: &[Value],
    group: &str,
    names: &Names,
    scope: Scope,
    preserve_unknown_fields: bool,
) -> Result<Version, CompileError> {
    let name = get_str(json, &["name"]).to_owned();
    let given = &json["schema"]["openAPIV3Schema"];
    let raw = if given.is_null() {
        None
    } else {
        let version = || name.clone();
        let schema =
            Schema::parse(given).map_err(|source| CompileError::Schema { version: version(), source })?;
        if !preserve_unknown_fields && let Err(reason) = structural::convertible(&schema) {
            return Err(CompileError::Structure { version: version(), reason });
        }
        Some(schema)
    };
    let mut schema = raw;
    if !preserve_unknown_fields && let Some(schema) = &mut schema {
        defaulting::prune_defaults(schema);
    }
    let subresources = &json["subresources"];
    let kind = names.kind.clone();
    let deprecation_warning =
        (json["deprecated"] == true).then(|| match json["deprecationWarning"].as_str() {
            Some(text) => text.to_owned(),
            None => deprecation_warning(&name, all, group, &kind),
        });
    let apply = apply::schema(group, &name, &kind, schema.as_ref(), preserve_unknown_fields);
    Ok(Version {
        group: group.to_owned(),
        kind,
        namespaced: scope == Scope::Namespaced,
        served: json["served"] == true,
        storage: json["storage"] == true,
        deprecation_warning,
        status: subresources.get("status").is_some_and(|status| !status.is_null()),
        scale: subresources.get("scale").filter(|scale| !scale.is_null()).map(Scale::parse),
        selectable_fields: json["selectableFields"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|field| SelectableField::new(get_str(field, &["jsonPath"])))
            .collect(),
        columns: Columns::parse(&json["additionalPrinterColumns"]),
        preserve_unknown_fields,
        apply,
        rules: Rules::new(schema.as_ref(), given),
        schema,
        name,
    })
}

/// The text for a deprecated version without one of its own: the best version to go to, if there is a better one.
fn deprecation_warning(name: &str, all: &[Value], group: &str, kind: &str) -> String {
    let better = all
        .iter()
        .filter(|version| version["served"] == true && version["deprecated"] != true)
        .map(|version| get_str(version, &["name"]))
        .filter(|other| kubeversion::compare(name, other).is_lt())
        .max_by(|a, b| kubeversion::compare(a, b));
    let message = format!("{group}/{name} {kind} is deprecated");
    match better {
        Some(better) => format!("{message}; use {group}/{better} {kind}"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_definition_is_compiled() {
        let crd = json!({"metadata": {"name": "tabs.x.io", "uid": "u"}, "spec": {"group": "x.io", "scope": "Namespaced",
            "names": {"plural": "tabs", "singular": "tab", "kind": "Tab", "listKind": "TabList", "shortNames": ["t"]},
            "conversion": {"strategy": "Webhook", "webhook": {"clientConfig": {"url": "https://x"}, "conversionReviewVersions": ["v1"]}},
            "versions": [
                {"name": "v1alpha1", "served": true, "storage": false, "deprecated": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
                {"name": "v1beta1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}},
                {"name": "v1", "served": true, "storage": false, "subresources": {"status": {}, "scale":
                    {"specReplicasPath": ".spec.n", "statusReplicasPath": ".status.n"}}, "schema": {"openAPIV3Schema": {"type": "object"}}},
                {"name": "v2", "served": false, "storage": false, "deprecated": true, "deprecationWarning": "no", "schema": {"openAPIV3Schema": {"type": "object"}}}]},
            "status": {"acceptedNames": {"plural": "tabs", "kind": "Tab"}, "storedVersions": ["v1beta1"],
                "conditions": [{"type": "Established", "status": "True"}, {"type": "Terminating", "status": "False"}]}});
        let definition = Definition::compile(&crd).unwrap();
        let served: Vec<&str> = definition.served().map(|version| version.name.as_str()).collect();
        assert_eq!(served, ["v1", "v1beta1", "v1alpha1"]);
        assert_eq!(definition.storage().name, "v1beta1");
        assert!(definition.is_established() && !definition.is_terminating() && !definition.names_accepted());
        let warning = |name: &str| definition.version(name).unwrap().deprecation_warning.clone();
        assert_eq!(warning("v1alpha1").as_deref(), Some("x.io/v1alpha1 Tab is deprecated; use x.io/v1 Tab"));
        assert_eq!((warning("v2").as_deref(), warning("v1")), (Some("no"), None));
        let v1 = definition.version("v1").unwrap();
        assert!(v1.status && v1.scale.is_some() && !definition.storage().status);
        assert!(
            matches!(&definition.conversion, Conversion::Webhook { review_versions, .. } if review_versions == &["v1"])
        );
    }

    #[test]
    fn what_cannot_be_served_is_told() {
        let with = |schema: Value| json!({"spec": {"versions": [{"name": "v1", "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
        for (crd, want) in [
            (json!({}), "the definition has no storage version"),
            (with(json!({"type": 1})), "read the schema of version v1: schema field type is no string"),
            (
                with(json!({"$ref": "x"})),
                "the server could not properly serve the CR schema: version v1: OpenAPIV3Schema '$ref' is not supported",
            ),
        ] {
            assert_eq!(Definition::compile(&crd).unwrap_err().to_string(), want);
        }
    }
}
