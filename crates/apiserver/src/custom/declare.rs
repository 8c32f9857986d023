//! From a definition to what the registry serves: one declaration for each served version.

use super::codec::{Family, VersionCodec};
use super::strategy::CustomStrategy;
use crate::def::{
    Name, OWN_KIND, OwnOpenApi, OwnTypes, ResourceDef, Scope, Selectable, ServedVersion, SubKind, Subresource,
};
use knarr_apiextensions::{Definition, Scope as CrdScope, Version, openapi};
use serde_json::Value;
use std::sync::Arc;

/// In upstream's order.
const VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "patch", "create", "update", "watch"];
/// What discovery shows while the definition is being deleted.
const TERMINATING_VERBS: &[&str] = &["delete", "deletecollection", "get", "list", "watch"];

/// The declarations of a definition, the preferred version first.
pub fn declare(family: &Arc<Family>) -> Vec<ResourceDef> {
    let definition = &family.definition;
    let place = |version: &Version| definition.versions.iter().position(|other| other.name == version.name);
    definition.served().filter_map(place).map(|at| declare_version(family, at)).collect()
}

fn names(list: &[String]) -> Vec<Name> {
    list.iter().map(|name| name.clone().into()).collect()
}

fn declare_version(family: &Arc<Family>, at: usize) -> ResourceDef {
    let definition = &family.definition;
    let (version, accepted) = (&definition.versions[at], &definition.accepted);
    let (schema, root) = version.apply_schema();
    let of_cells = family.clone();
    let terminating = definition.is_terminating();
    ResourceDef {
        group: definition.group.clone().into(),
        resource: accepted.plural.clone().into(),
        singular: accepted.singular.clone().into(),
        kind: accepted.kind.clone().into(),
        list_kind: accepted.list_kind.clone().into(),
        short: names(&accepted.short_names),
        categories: names(&accepted.categories),
        scope: match definition.scope {
            CrdScope::Namespaced => Scope::Namespaced,
            CrdScope::Cluster => Scope::Cluster,
        },
        versions: vec![ServedVersion::hub(version.name.clone())],
        storage_version: version.name.clone().into(),
        storage_group: definition.group.clone().into(),
        storage_prefix: format!("/registry/{}/{}", definition.group, accepted.plural).into(),
        verbs: VERBS,
        discovery_verbs: terminating.then_some(TERMINATING_VERBS),
        strategy: Box::new(CustomStrategy { family: family.clone(), version: at }),
        subresources: subresources(version),
        cells: Arc::new(move |object, now| of_cells.definition.versions[at].cells(object, now)),
        columns: Some(columns(version)),
        types: Some(OwnTypes { schema: Arc::new(schema.clone()), root: root.clone() }),
        selectable: selectable(version),
        create_only: None,
        codec: Some(Arc::new(VersionCodec::new(family, at))),
        openapi: Some(Arc::new(Published { family: family.clone(), version: at })),
        deprecation: version.deprecation_warning.clone().map(Name::from),
        no_creates: terminating
            .then(|| "create not allowed while custom resource definition is terminating".into()),
        incarnation: family.incarnation.clone().into(),
        fixture: "",
    }
}

fn columns(version: &Version) -> Vec<Value> {
    let json = |column| serde_json::to_value(column).expect("a column always serializes");
    version.column_definitions().iter().map(json).collect()
}

/// The steps of a simple path such as `.spec.replicas`.
fn steps(path: &str) -> Vec<Name> {
    path.trim_start_matches('.').split('.').map(|step| step.to_owned().into()).collect()
}

fn selectable(version: &Version) -> Vec<Selectable> {
    let field = |field: &knarr_apiextensions::SelectableField| Selectable {
        label: field.name.clone().into(),
        path: steps(&field.name),
        absent: Name::default(),
        fallback: None,
    };
    version.selectable_fields.iter().map(field).collect()
}

fn subresources(version: &Version) -> Vec<Subresource> {
    let verbs = &["get", "patch", "update"];
    let mut all = Vec::new();
    if version.status {
        all.push(Subresource { name: "status", kind: OWN_KIND, verbs, serve: SubKind::Status });
    }
    if let Some(scale) = &version.scale {
        let selector = scale.label_selector.as_deref().filter(|path| !path.is_empty());
        all.push(Subresource {
            name: "scale",
            kind: ("autoscaling", "v1", "Scale"),
            verbs,
            serve: SubKind::Scale {
                spec: steps(&scale.spec_replicas),
                status: steps(&scale.status_replicas),
                selector: selector.map(steps).unwrap_or_default(),
            },
        });
    }
    all
}

/// What a version brings into the OpenAPI documents.
struct Published {
    family: Arc<Family>,
    version: usize,
}

impl OwnOpenApi for Published {
    fn definitions(&self, v2: bool) -> Vec<(String, Value)> {
        let flavor = if v2 { openapi::Flavor::V2 } else { openapi::Flavor::V3 };
        let definition: &Definition = &self.family.definition;
        openapi::definitions(definition, &definition.versions[self.version], flavor)
    }

    fn identity(&self) -> &str {
        &self.family.incarnation
    }
}
