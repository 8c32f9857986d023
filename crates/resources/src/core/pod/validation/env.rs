//! Environment variables and what they are taken from.

use super::volumes::path_no_backsteps;
use crate::util::{Errs, Items, Text};
use knarr_api::core::v1::{
    EnvFromSource, EnvVar, FileKeySelector, ObjectFieldSelector, PodSpec, ResourceFieldSelector,
};
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;

const FIELDS: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const RESOURCES: &[&str] = &[
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];
const BYTE_DIVISORS: &[&str] =
    &["1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"];

/// Errors of `env`.
pub fn variables(vars: &[EnvVar], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, var) in vars.iter().enumerate() {
        let at = path.index(i);
        if var.name.is_empty() {
            errs.add_required(&at.child("name"), "");
        } else {
            errs.add_all_at(|| at.child("name"), &var.name, validate::env_var_name(&var.name));
        }
        errs.extend(value_from(var, &at.child("valueFrom")));
    }
    errs
}

fn value_from(var: &EnvVar, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(from) = &var.value_from else { return errs };
    let mut sources = 0;
    if let Some(field) = &from.field_ref {
        sources += 1;
        errs.extend(field_ref(field, FIELDS, &path.child("fieldRef")));
    }
    if let Some(resource) = &from.resource_field_ref {
        sources += 1;
        errs.extend(resource_ref(resource, false, &path.child("resourceFieldRef")));
    }
    let keys = [
        ("configMapKeyRef", from.config_map_key_ref.as_ref().map(|r| (&r.name, &r.key))),
        ("secretKeyRef", from.secret_key_ref.as_ref().map(|r| (&r.name, &r.key))),
    ];
    for (field, name_and_key) in keys {
        let Some((name, key)) = name_and_key else { continue };
        sources += 1;
        let path = path.child(field);
        errs.add_all_at(|| path.child("name"), name, validate::dns1123_subdomain(name));
        if key.is_empty() {
            errs.add_required(&path.child("key"), "");
        } else {
            errs.add_all_at(|| path.child("key"), key, validate::config_map_key(key));
        }
    }
    if let Some(file) = &from.file_key_ref {
        sources += 1;
        errs.extend(file_key(file, &path.child("fileKeyRef")));
    }
    if sources == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`";
        errs.add_invalid(path, "", detail);
    } else if !var.value.text().is_empty() {
        errs.add_invalid(path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errs.add_invalid(path, "", "may not have more than one field specified at a time");
    }
    errs
}

/// Errors of a reference to a field of the pod.
pub fn field_ref(field: &ObjectFieldSelector, fields: &[&str], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let version = field.api_version.text();
    if version.is_empty() {
        errs.add_required(&path.child("apiVersion"), "");
        return errs;
    }
    if field.field_path.is_empty() {
        errs.add_required(&path.child("fieldPath"), "");
        return errs;
    }
    let wanted = field.field_path.as_str();
    let subscript = wanted.strip_suffix(']').and_then(|rest| rest.split_once("['"));
    let subscript = subscript.and_then(|(name, key)| Some((name, key.strip_suffix('\'')?)));
    let label = subscript.map_or(wanted, |(name, _)| name);
    const KNOWN: &[&str] = &[
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.serviceAccountName",
        "spec.schedulerName",
        "status.phase",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
        "spec.host",
    ];
    let problem = if version != "v1" {
        Some(format!("unsupported pod version: {version}"))
    } else if subscript.is_some() && !matches!(label, "metadata.annotations" | "metadata.labels") {
        Some(format!("field label does not support subscript: {label}"))
    } else if !KNOWN.contains(&label) {
        Some(format!("field label not supported: {label}"))
    } else {
        None
    };
    if let Some(problem) = problem {
        errs.add_invalid(&path.child("fieldPath"), wanted, format!("error converting fieldPath: {problem}"));
        return errs;
    }
    match subscript {
        Some(("metadata.annotations", key)) => {
            let key = key.to_lowercase();
            errs.add_all(path, &key, validate::qualified_name(&key));
        }
        Some((_, key)) => errs.add_all(path, key, validate::qualified_name(key)),
        None if !fields.contains(&wanted) => {
            errs.add_not_supported(&path.child("fieldPath"), wanted, fields);
        }
        None => {}
    }
    errs
}

/// Errors of a reference to a container's resource.
pub fn resource_ref(selector: &ResourceFieldSelector, in_volume: bool, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let resource = selector.resource.as_str();
    let huge = resource.starts_with("limits.hugepages-") || resource.starts_with("requests.hugepages-");
    if in_volume && selector.container_name.text().is_empty() {
        errs.add_required(&path.child("containerName"), "");
    } else if resource.is_empty() {
        errs.add_required(&path.child("resource"), "");
    } else if !RESOURCES.contains(&resource) && !huge {
        errs.add_not_supported(&path.child("resource"), resource, RESOURCES);
    }
    let divisor = selector.divisor.as_ref().map(|d| d.0.as_str()).unwrap_or_default();
    if divisor.is_empty() || divisor == "0" {
        return errs;
    }
    let path = path.child("divisor");
    let list = "1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei";
    let kind = match resource {
        "limits.cpu" | "requests.cpu" => {
            if !["1m", "1"].contains(&divisor) {
                let detail = "only divisor's values 1m and 1 are supported with the cpu resource";
                errs.add_invalid(&path, resource, detail);
            }
            return errs;
        }
        "limits.memory" | "requests.memory" => "memory resource",
        "limits.ephemeral-storage" | "requests.ephemeral-storage" => "local ephemeral storage resource",
        _ if huge => "hugepages resource",
        _ => return errs,
    };
    if !BYTE_DIVISORS.contains(&divisor) {
        errs.add_invalid(
            &path,
            resource,
            format!("only divisor's values {list} are supported with the {kind}"),
        );
    }
    errs
}

fn file_key(file: &FileKeySelector, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    if file.key.is_empty() {
        errs.add_required(&path.child("key"), "");
    } else {
        errs.add_all(&path.child("key"), &file.key, validate::env_var_name(&file.key));
    }
    if file.volume_name.is_empty() {
        errs.add_required(&path.child("volumeName"), "");
    } else {
        errs.add_all(
            &path.child("volumeName"),
            &file.volume_name,
            validate::dns1123_label(&file.volume_name),
        );
    }
    if file.path.is_empty() {
        errs.add_required(&path.child("path"), "");
    } else {
        path_no_backsteps(&mut errs, &file.path, &path.child("path"));
    }
    errs
}

/// Errors of `envFrom`.
pub fn from(sources: &[EnvFromSource], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, source) in sources.iter().enumerate() {
        let at = path.index(i);
        let prefix = source.prefix.text();
        if !prefix.is_empty() {
            errs.add_all(&at.child("prefix"), prefix, validate::env_var_name(prefix));
        }
        let refs = [
            ("configMapRef", source.config_map_ref.as_ref().map(|r| &r.name)),
            ("secretRef", source.secret_ref.as_ref().map(|r| &r.name)),
        ];
        let mut count = 0;
        for (field, name) in refs {
            let Some(name) = name else { continue };
            count += 1;
            let path = at.child(field).child("name");
            if name.is_empty() {
                errs.add_required(&path, "");
            } else {
                errs.add_all(&path, name, validate::dns1123_subdomain(name));
            }
        }
        if count == 0 {
            errs.add_invalid(path, "", "must specify one of: `configMapRef` or `secretRef`");
        } else if count > 1 {
            errs.add_invalid(path, "", "may not have more than one field specified at a time");
        }
    }
    errs
}

/// Variables out of files name an emptyDir volume of the pod.
pub fn file_keys_have_volumes(spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let uses =
        |c: &[EnvVar]| c.iter().any(|e| e.value_from.as_ref().is_some_and(|f| f.file_key_ref.is_some()));
    let any = spec.containers.iter().chain(spec.init_containers.items()).any(|c| uses(c.env.items()))
        || spec.ephemeral_containers.items().iter().any(|c| uses(c.env.items()));
    if !any {
        return errs;
    }
    for (container, at) in super::visit(spec, path) {
        for (i, var) in container.env.items().iter().enumerate() {
            let Some(file) = var.value_from.as_ref().and_then(|f| f.file_key_ref.as_ref()) else { continue };
            let path = at.child("env").index(i).child("valueFrom").child("fileKeyRef").child("volumeName");
            match spec.volumes.items().iter().find(|v| v.name == file.volume_name) {
                None => errs.add_not_found(&path, &file.volume_name),
                Some(volume) if volume.empty_dir.is_none() => {
                    let detail = "referenced volume must be of type emptyDir";
                    errs.add_invalid(&path, &file.volume_name, detail);
                }
                Some(_) => {}
            }
        }
    }
    errs
}
