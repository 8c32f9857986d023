//! What server-side apply and managed fields must know of a custom resource: its structural schema as a
//! [`knarr_meta::schema::Schema`] (kube-openapi's `schemaconv`).
//!
//! Scalars are of any type here: that they have the right one is told by validation, in its words.

use crate::schema::{Schema, SchemaOrBool};
use knarr_api::facts;
use knarr_meta::schema::{Field, ListKind, ListType, Schema as Types, StructType, Type};
use std::sync::LazyLock;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// The types of a custom resource, and the type of the resource itself.
pub(crate) fn schema(
    group: &str,
    version: &str,
    kind: &str,
    schema: Option<&Schema>,
    preserve: bool,
) -> (Types, Type) {
    let mut builder = Builder { types: OBJECT_META.clone(), metadata: Type::Any };
    builder.metadata = builder.types.type_named(&format!("{META}.ObjectMeta")).unwrap_or(Type::Any);
    let name = crate::openapi::definition_name(group, version, kind);
    let empty = Schema { type_: "object".into(), ..Schema::default() };
    let root = builder.object(schema.unwrap_or(&empty), &name, preserve, true);
    (builder.types, root)
}

/// The types of ObjectMeta alone.
static OBJECT_META: LazyLock<Types> = LazyLock::new(|| {
    let all = facts::schema();
    let mut types = Types::default();
    // Places must not change while structs mention each other, so all are declared first.
    let mut todo = vec![format!("{META}.ObjectMeta")];
    let mut names = Vec::new();
    while let Some(name) = todo.pop() {
        if names.contains(&name) {
            continue;
        }
        if let Some(id) = all.named(&name) {
            for field in &all.get(id).fields {
                mentioned(&field.ty, all, &mut todo);
            }
        }
        types.declare(&name);
        names.push(name);
    }
    for name in &names {
        let Some(id) = all.named(name) else { continue };
        let old = all.get(id);
        let fields = old.fields.iter().map(|field| {
            let mut field = field.clone();
            field.ty = moved(&field.ty, all, &types);
            field.inline = None;
            field
        });
        let mut new = StructType::new(name.clone(), fields.collect());
        new.atomic = old.atomic;
        types.insert(new);
    }
    types
});

fn mentioned(ty: &Type, all: &Types, names: &mut Vec<String>) {
    match ty {
        Type::Struct(id) => names.push(all.get(*id).name.clone()),
        Type::List(list) => mentioned(&list.elem, all, names),
        Type::Map(elem) => mentioned(elem, all, names),
        _ => {}
    }
}

fn moved(ty: &Type, all: &Types, types: &Types) -> Type {
    match ty {
        Type::Struct(id) => types.type_named(&all.get(*id).name).unwrap_or(Type::Any),
        Type::List(list) => {
            let mut list = list.clone();
            list.elem = moved(&list.elem, all, types);
            Type::List(list)
        }
        Type::Map(elem) => Type::Map(Box::new(moved(elem, all, types))),
        other => other.clone(),
    }
}

struct Builder {
    types: Types,
    metadata: Type,
}

impl Builder {
    fn value(&mut self, schema: &Schema, name: &str, preserve: bool) -> Type {
        let preserve = preserve || schema.preserves_unknown();
        match schema.type_.as_str() {
            "object" => self.object(schema, name, preserve, schema.embedded_resource),
            "array" => {
                let elem = schema
                    .items
                    .as_deref()
                    .map_or(Type::Any, |items| self.value(items, &format!("{name}.items"), preserve));
                let kind = match schema.list_type.as_deref() {
                    Some("set") => ListKind::Set,
                    Some("map") => ListKind::Map { keys: schema.list_map_keys.clone() },
                    _ => ListKind::Atomic,
                };
                Type::List(Box::new(ListType { kind, ..ListType::atomic(elem) }))
            }
            "" if !schema.properties.is_empty() => self.object(schema, name, preserve, false),
            _ => Type::Any,
        }
    }

    fn object(&mut self, schema: &Schema, name: &str, preserve: bool, embedded: bool) -> Type {
        let preserve = preserve || schema.preserves_unknown();
        let atomic = schema.map_type.as_deref() == Some("atomic");
        let others = match &schema.additional_properties {
            Some(SchemaOrBool::Schema(other)) => Some(self.value(other, &format!("{name}.values"), preserve)),
            Some(SchemaOrBool::Bool(true)) => Some(Type::Any),
            Some(SchemaOrBool::Bool(false)) => None,
            None => (preserve || (schema.properties.is_empty() && !embedded)).then_some(Type::Any),
        };
        if schema.properties.is_empty() && !embedded && !atomic {
            return match others {
                Some(Type::Any) | None => Type::Any,
                Some(elem) => Type::Map(Box::new(elem)),
            };
        }
        let mut fields = Vec::with_capacity(schema.properties.len() + 3);
        if embedded {
            fields.push(Field::new("apiVersion", Type::String, 0));
            fields.push(Field::new("kind", Type::String, 0));
            fields.push(Field::new("metadata", self.metadata.clone(), 0));
        }
        for (field, schema) in &schema.properties {
            if embedded && matches!(field.as_str(), "apiVersion" | "kind" | "metadata") {
                continue;
            }
            let ty = self.value(schema, &format!("{name}.{field}"), preserve);
            let atomic = schema.map_type.as_deref() == Some("atomic");
            fields.push(Field {
                atomic,
                default: schema.default.clone(),
                ..Field::new(field.clone(), ty, 0)
            });
        }
        let mut new = StructType::new(name, fields);
        new.atomic = atomic;
        new.others = others;
        Type::Struct(self.types.insert(new))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn structure_becomes_types() {
        let given = Schema::parse(&json!({"type": "object", "properties": {"spec": {"type": "object", "properties": {
            "n": {"type": "integer"}, "any": {"x-kubernetes-preserve-unknown-fields": true},
            "map": {"type": "object", "additionalProperties": {"type": "object", "properties": {"x": {"type": "string"}}}},
            "free": {"type": "object"}, "whole": {"type": "object", "x-kubernetes-map-type": "atomic", "properties": {"y": {"type": "string"}}},
            "ports": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["p"],
                "items": {"type": "object", "properties": {"p": {"type": "integer", "default": 80}}}},
            "set": {"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}}}}}))
        .unwrap();
        let (types, root) = schema("x.io", "v1", "Tab", Some(&given), false);
        let Type::Struct(root) = root else { panic!("{root:?}") };
        let root = types.get(root);
        assert_eq!(root.name, "io.x.v1.Tab");
        let metadata = root.field("metadata").unwrap();
        let Type::Struct(metadata) = metadata.ty else { panic!("{metadata:?}") };
        let finalizers = &types.get(metadata).field("finalizers").unwrap().ty;
        assert!(matches!(finalizers, Type::List(list) if list.kind == ListKind::Set));
        assert!(root.others.is_none() && root.field("kind").is_some());
        let Type::Struct(spec) = root.field("spec").unwrap().ty else { panic!() };
        let spec = types.get(spec);
        assert_eq!(spec.field("n").unwrap().ty, Type::Any);
        assert_eq!(
            (&spec.field("any").unwrap().ty, &spec.field("free").unwrap().ty),
            (&Type::Any, &Type::Any)
        );
        assert!(
            matches!(&spec.field("map").unwrap().ty, Type::Map(elem) if matches!(**elem, Type::Struct(_)))
        );
        assert!(spec.field("whole").unwrap().atomic);
        let Type::List(ports) = &spec.field("ports").unwrap().ty else { panic!() };
        assert_eq!(ports.kind, ListKind::Map { keys: vec!["p".into()] });
        let Type::Struct(port) = ports.elem else { panic!() };
        assert_eq!(types.get(port).field("p").unwrap().default, Some(json!(80)));
        assert!(matches!(&spec.field("set").unwrap().ty, Type::List(list) if list.kind == ListKind::Set));
    }

    #[test]
    fn without_a_schema_everything_else_is_unknown_or_kept() {
        for preserve in [false, true] {
            let (types, root) = schema("x.io", "v1", "Tab", None, preserve);
            let Type::Struct(root) = root else { panic!() };
            assert_eq!(types.get(root).others.is_some(), preserve);
        }
    }
}
