//! DefaultStorageClass and DefaultIngressClass: what names no class gets the default one, the newest if there
//! are several.

use crate::core::persistentvolumeclaim::STORAGE_CLASS_ANNOTATION;
use crate::storage::storageclass::DEFAULT_ANNOTATIONS;
use crate::util::value::{ensure, object, text};
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Operation, Plugin, Write};
use knarr_meta::status::Status;
use serde_json::Value;
use std::cmp::Reverse;

const INGRESS_CLASS: &str = "kubernetes.io/ingress.class";
const DEFAULT_INGRESS: &[&str] = &["ingressclass.kubernetes.io/is-default-class"];

/// The plugin for claims.
pub struct DefaultStorageClass;

impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Create
            && group.is_empty()
            && resource == "persistentvolumeclaims"
            && subresource.is_empty()
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        set(
            write,
            STORAGE_CLASS_ANNOTATION,
            "storageClassName",
            ("storage.k8s.io", "storageclasses"),
            DEFAULT_ANNOTATIONS,
        );
        Box::pin(std::future::ready(Ok(())))
    }
}

/// The plugin for ingresses.
pub struct DefaultIngressClass;

impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool {
        operation == Operation::Create
            && group == "networking.k8s.io"
            && resource == "ingresses"
            && subresource.is_empty()
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        set(
            write,
            INGRESS_CLASS,
            "ingressClassName",
            ("networking.k8s.io", "ingressclasses"),
            DEFAULT_INGRESS,
        );
        Box::pin(std::future::ready(Ok(())))
    }
}

fn set(
    write: &mut Write<'_>,
    annotation: &str,
    field: &str,
    (group, resource): (&str, &str),
    marks: &[&str],
) {
    let annotated = write.object["metadata"]["annotations"].get(annotation).is_some();
    let named = write.object["spec"].get(field).is_some_and(|v| !v.is_null());
    if annotated || named {
        return;
    }
    let is_default =
        |class: &Value| marks.iter().any(|m| text(class, &["metadata", "annotations", m]) == "true");
    let classes = write.cx.reader.list(group, resource, "");
    let newest = classes.iter().filter(|class| is_default(class)).min_by_key(|class| {
        (Reverse(text(class, &["metadata", "creationTimestamp"])), text(class, &["metadata", "name"]))
    });
    if let Some(class) = newest {
        let name = class["metadata"]["name"].clone();
        ensure(object(write.object), "spec").insert(field.to_owned(), name);
    }
}
