//! The types of all built-in kinds as a [`Schema`], for checks, patches and managed fields.

use super::decl::{self, Field as FieldDecl, Message, Package, Shape};
use knarr_meta::schema::{
    Field, InlinePart, ListKind, ListType, PatchStrategy, Presence, Schema, StructId, Type,
};
use std::collections::HashMap;
use std::sync::LazyLock;

struct Types {
    schema: Schema,
    packages: Vec<Package>,
}

static TYPES: LazyLock<Types> = LazyLock::new(build);

/// The types of every built-in kind, of the options and of what else travels in requests and answers. Built
/// when it is first asked for (a few milliseconds).
pub fn schema() -> &'static Schema {
    &TYPES.schema
}

/// The type of a kind. The options and events of meta/v1 (DeleteOptions, WatchEvent, ...) are kinds of every
/// group and version.
pub fn root(group: &str, version: &str, kind: &str) -> Option<Type> {
    let types = &*TYPES;
    let package = types.packages.iter().find(|p| p.group == group && p.version == version);
    let own = package.and_then(|p| types.schema.type_named(&format!("{}.{kind}", p.prefix)));
    own.or_else(|| meta_type(kind))
}

/// The type of a struct of `meta.v1`, for example `ObjectMeta`.
pub fn meta_type(name: &str) -> Option<Type> {
    TYPES.schema.type_named(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}"))
}

fn build() -> Types {
    let messages = decl::messages();
    let packages = decl::packages(&messages);
    let mut builder = Builder { schema: Schema::default(), ids: HashMap::new(), messages: HashMap::new() };
    for message in &messages {
        let id = builder.schema.declare(&format!("{}.{}", message.package.prefix, message.name));
        builder.ids.insert((message.package.alias, message.name), id);
        builder.messages.insert((message.package.alias, message.name), message);
    }
    for message in &messages {
        let mut fields = Vec::with_capacity(message.fields.len() + 2);
        if message.type_meta {
            fields.push(text_field("apiVersion"));
            fields.push(text_field("kind"));
        }
        builder.add_fields(message, None, &mut fields);
        let id = builder.ids[&(message.package.alias, message.name)];
        let ty = &mut builder.schema.structs[id.0 as usize];
        ty.atomic = message.atomic;
        fields.shrink_to_fit();
        ty.set_fields(fields);
    }
    Types { schema: builder.schema, packages }
}

fn text_field(name: &str) -> Field {
    Field { presence: Presence::OmitZero, ..Field::new(name, Type::String, 0) }
}

struct Builder<'a> {
    schema: Schema,
    ids: HashMap<(&'static str, &'static str), StructId>,
    messages: HashMap<(&'static str, &'static str), &'a Message>,
}

impl Builder<'_> {
    fn add_fields(&self, message: &Message, inline: Option<&InlinePart>, fields: &mut Vec<Field>) {
        for field in &message.fields {
            if field.inline {
                let name = resolve(message, field.ty);
                let part = InlinePart { number: field.number, of: self.ids[&name] };
                self.add_fields(self.messages[&name], Some(&part), fields);
            } else {
                fields.push(self.field(message, field, inline));
            }
        }
    }

    fn field(&self, message: &Message, decl: &FieldDecl, inline: Option<&InlinePart>) -> Field {
        let one = self.one(message, decl.ty);
        let patch = PatchStrategy {
            merge: decl.patch_merge,
            retain_keys: decl.retain_keys,
            merge_key: decl.merge_key.map(str::to_owned),
        };
        let kind = match decl.list {
            Some("set") => ListKind::Set,
            Some("map") => ListKind::Map { keys: decl.list_keys.iter().map(|k| (*k).to_owned()).collect() },
            _ => ListKind::Atomic,
        };
        Field {
            name: decl.name.to_owned(),
            ty: match decl.shape {
                Shape::One => one,
                Shape::List => Type::List(Box::new(ListType { elem: one, kind, patch })),
                Shape::Map => Type::Map(Box::new(one)),
            },
            number: decl.number,
            required: decl.required,
            atomic: decl.atomic_map,
            inline: inline.cloned(),
            default: decl.default.map(|d| serde_json::from_str(d).expect("a default of the facts is JSON")),
            retain_keys: decl.retain_keys && decl.shape == Shape::One,
            replace: decl.patch_replace,
            presence: match (decl.pointer, decl.always, decl.shape) {
                (true, _, _) => Presence::OmitMissing,
                (_, true, _) => Presence::Always,
                (_, _, Shape::One) => Presence::OmitZero,
                _ => Presence::OmitMissing,
            },
        }
    }

    fn one(&self, message: &Message, code: &'static str) -> Type {
        match code {
            "s" => Type::String,
            "b" => Type::Bool,
            "i" => Type::Int32,
            "l" => Type::Int64,
            "d" => Type::Double,
            "y" => Type::Bytes,
            "Q" => Type::Quantity,
            "I" => Type::IntOrString,
            "T" => Type::Time,
            "M" => Type::MicroTime,
            "D" => Type::Duration,
            "F" => Type::FieldsV1,
            // Any JSON; the alternatives of CRD schemas (a schema or a bool, ...) are untyped in OpenAPI too.
            "R" | "J" | "A" | "B" | "S" => Type::Any,
            "V" => Type::List(Box::new(ListType::atomic(Type::String))),
            name => Type::Struct(self.ids[&resolve(message, name)]),
        }
    }
}

/// Package alias and name of the message that `code` means inside `home`.
fn resolve(home: &Message, code: &'static str) -> (&'static str, &'static str) {
    code.rsplit_once('.').unwrap_or((home.package.alias, code))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts;

    fn field(ty: &str, name: &str) -> Field {
        let id = schema().named(ty).unwrap_or_else(|| panic!("{ty} is not in the schema"));
        schema().get(id).field(name).unwrap_or_else(|| panic!("{ty} has no {name}")).clone()
    }

    #[test]
    fn every_served_resource_has_a_type() {
        for resource in facts::resources() {
            let found = root(resource.kind_group, resource.kind_version, resource.kind);
            assert!(found.is_some(), "{} has no type", resource.kind);
        }
        for options in ["DeleteOptions", "Status", "WatchEvent", "PartialObjectMetadataList"] {
            assert_eq!(root("apps", "v1", options), meta_type(options));
        }
        assert!(root("apps", "v1", "Nothing").is_none());
    }

    #[test]
    fn lists_carry_their_merge_rules() {
        let Type::List(ports) = field("io.k8s.api.core.v1.Container", "ports").ty else { panic!("no list") };
        assert_eq!(ports.kind, ListKind::Map { keys: vec!["containerPort".into(), "protocol".into()] });
        assert_eq!((ports.patch.merge, ports.patch.merge_key.as_deref()), (true, Some("containerPort")));
        let protocol = field("io.k8s.api.core.v1.ContainerPort", "protocol");
        assert_eq!(protocol.default, Some("TCP".into()));
        let Type::List(volumes) = field("io.k8s.api.core.v1.PodSpec", "volumes").ty else {
            panic!("no list")
        };
        assert!(volumes.patch.merge && volumes.patch.retain_keys);
        assert!(field("io.k8s.api.core.v1.PodSpec", "nodeSelector").atomic);
    }

    #[test]
    fn inlined_messages_are_flattened_and_remember_their_number() {
        let image = field("io.k8s.api.core.v1.EphemeralContainer", "image");
        assert_eq!((image.number, image.inline.map(|part| part.number)), (2, Some(1)));
        assert_eq!(field("io.k8s.api.core.v1.Volume", "emptyDir").inline.map(|part| part.number), Some(2));
        let webhook_rule = field("io.k8s.api.admissionregistration.v1.NamedRuleWithOperations", "apiGroups");
        assert!(webhook_rule.inline.is_some(), "two messages deep");
    }

    #[test]
    fn presence_follows_gos_types() {
        assert_eq!(field("io.k8s.api.apps.v1.DeploymentSpec", "replicas").presence, Presence::OmitMissing);
        assert_eq!(field("io.k8s.api.apps.v1.DeploymentSpec", "paused").presence, Presence::OmitZero);
        assert_eq!(field("io.k8s.api.apps.v1.DeploymentSpec", "strategy").presence, Presence::Always);
        assert!(field("io.k8s.api.apps.v1.DeploymentSpec", "template").required);
        let id = schema().named("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector").unwrap();
        assert!(schema().get(id).atomic);
    }

    #[test]
    fn every_list_map_key_is_a_field_of_the_element() {
        for ty in &schema().structs {
            for field in &ty.fields {
                let Type::List(list) = &field.ty else { continue };
                let Type::Struct(elem) = list.elem else { continue };
                let keys = match &list.kind {
                    ListKind::Map { keys } => keys.clone(),
                    _ => Vec::new(),
                };
                for key in keys.iter().chain(&list.patch.merge_key) {
                    assert!(schema().get(elem).field(key).is_some(), "{}.{}: {key}", ty.name, field.name);
                }
            }
        }
    }
}
