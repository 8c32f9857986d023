//! A small hand-made schema for the tests of this crate: a kind with a bit of everything.

use super::{Field, ListKind, ListType, PatchStrategy, Presence, Schema, StructType, Type};

fn field(name: &str, ty: Type) -> Field {
    Field::new(name, ty, 0)
}

fn zero(name: &str, ty: Type) -> Field {
    Field { presence: Presence::OmitZero, ..Field::new(name, ty, 0) }
}

fn always(name: &str, ty: Type) -> Field {
    Field { presence: Presence::Always, ..Field::new(name, ty, 0) }
}

fn list(list: ListType) -> Type {
    Type::List(Box::new(list))
}

fn map(elem: Type) -> Type {
    Type::Map(Box::new(elem))
}

/// A kind between Pod and Deployment.
pub(crate) fn pod_like() -> (Schema, Type) {
    let mut schema = Schema::default();
    let owner = schema.insert(StructType {
        atomic: true,
        ..StructType::new(
            "io.k8s.apimachinery.pkg.apis.meta.v1.OwnerReference",
            ["apiVersion", "kind", "name", "uid"].map(|name| field(name, Type::String)).to_vec(),
        )
    });
    let meta = schema.insert(StructType::new(
        "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta",
        vec![
            zero("name", Type::String),
            zero("generateName", Type::String),
            zero("namespace", Type::String),
            zero("selfLink", Type::String),
            zero("uid", Type::String),
            zero("resourceVersion", Type::String),
            zero("generation", Type::Int64),
            field("creationTimestamp", Type::Time),
            field("deletionTimestamp", Type::Time),
            field("labels", map(Type::String)),
            field("annotations", map(Type::String)),
            field("ownerReferences", list(ListType::map(Type::Struct(owner), &["uid"]))),
            field("finalizers", list(ListType::set(Type::String))),
            field("managedFields", list(ListType::atomic(Type::Any))),
        ],
    ));
    let port = schema.insert(StructType::new(
        "io.k8s.api.core.v1.ContainerPort",
        vec![
            zero("name", Type::String),
            field("containerPort", Type::Int32),
            Field { default: Some("TCP".into()), ..zero("protocol", Type::String) },
        ],
    ));
    let deep = schema.insert(StructType::new("io.k8s.api.core.v1.Deep", vec![zero("a", Type::String)]));
    let resources = schema
        .insert(StructType::new("io.k8s.api.core.v1.Resources", vec![always("deep", Type::Struct(deep))]));
    let container = schema.insert(StructType::new(
        "io.k8s.api.core.v1.Container",
        vec![
            Field { required: true, presence: Presence::Always, ..field("name", Type::String) },
            zero("image", Type::String),
            field("args", list(ListType::atomic(Type::String))),
            field("ports", list(ListType::map(Type::Struct(port), &["containerPort", "protocol"]))),
            field("limits", map(Type::Quantity)),
            field("probe", Type::IntOrString),
            always("resources", Type::Struct(resources)),
        ],
    ));
    let path =
        schema.insert(StructType::new("io.k8s.api.core.v1.HostPath", vec![zero("path", Type::String)]));
    let empty =
        schema.insert(StructType::new("io.k8s.api.core.v1.EmptyDir", vec![zero("medium", Type::String)]));
    let volume = schema.insert(StructType::new(
        "io.k8s.api.core.v1.Volume",
        vec![
            field("name", Type::String),
            field("hostPath", Type::Struct(path)),
            field("emptyDir", Type::Struct(empty)),
        ],
    ));
    let rolling = schema
        .insert(StructType::new("io.k8s.api.apps.v1.Rolling", vec![field("maxSurge", Type::IntOrString)]));
    let strategy = schema.insert(StructType::new(
        "io.k8s.api.apps.v1.Strategy",
        vec![zero("type", Type::String), field("rollingUpdate", Type::Struct(rolling))],
    ));
    let toleration =
        schema.insert(StructType::new("io.k8s.api.core.v1.Toleration", vec![zero("key", Type::String)]));
    let volumes = ListType {
        elem: Type::Struct(volume),
        kind: ListKind::Map { keys: vec!["name".into()] },
        patch: PatchStrategy { merge: true, retain_keys: true, merge_key: Some("name".into()) },
    };
    let spec = schema.insert(StructType::new(
        "io.k8s.api.apps.v1.ThingSpec",
        vec![
            field("replicas", Type::Int32),
            zero("nodeName", Type::String),
            zero("hostNetwork", Type::Bool),
            field("seconds", Type::Int64),
            field("ratio", Type::Double),
            field("data", map(Type::Bytes)),
            field("containers", list(ListType::map(Type::Struct(container), &["name"]))),
            field("volumes", list(volumes)),
            Field { retain_keys: true, ..field("strategy", Type::Struct(strategy)) },
            field("tolerations", list(ListType::atomic(Type::Struct(toleration)))),
            Field { atomic: true, ..field("selector", map(Type::String)) },
            field("extra", Type::Any),
            field("renewTime", Type::MicroTime),
            field("timeout", Type::Duration),
        ],
    ));
    let status = schema.insert(StructType::new(
        "io.k8s.api.apps.v1.ThingStatus",
        vec![zero("phase", Type::String), zero("replicas", Type::Int32)],
    ));
    let root = schema.insert(StructType::new(
        "io.k8s.api.apps.v1.Thing",
        vec![
            zero("apiVersion", Type::String),
            zero("kind", Type::String),
            always("metadata", Type::Struct(meta)),
            field("spec", Type::Struct(spec)),
            always("status", Type::Struct(status)),
        ],
    ));
    (schema, Type::Struct(root))
}
