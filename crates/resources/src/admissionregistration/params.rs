//! Who writes a policy or a binding must be allowed to read the parameters it names: a policy's verdict tells of
//! them (pkg/registry/admissionregistration/*/authz.go).

use knarr_api::admissionregistration::v1::{ParamKind, ParamRef};
use knarr_apiserver::authorize::{Attributes, Decision};
use knarr_apiserver::request::RequestCx;
use knarr_meta::gvk::parse_api_version;
use serde_json::Value;

const GROUP: &str = "admissionregistration.k8s.io";

/// Whether the user may read all objects of a policy's paramKind; the error is the text for the field.
pub fn of_policy(cx: &RequestCx, kind: &ParamKind) -> Result<(), String> {
    let (api_version, kind_name) =
        (kind.api_version.as_deref().unwrap_or_default(), kind.kind.as_deref().unwrap_or_default());
    let (group, version) = parse_api_version(api_version);
    let resource = cx.reader.resource_of(group, version, kind_name).map_or("*".to_owned(), |(name, _)| name);
    if permitted(cx, "get", ("*", "*"), (group, version, &resource)) {
        return Ok(());
    }
    Err(format!(
        "user {} must have \"get\" permission on all objects of the referenced paramKind (kind={kind_name}, apiVersion={api_version})",
        shown_user(cx)
    ))
}

/// Whether the user may read what a binding's paramRef names; the error is the text for the field. `resource` is
/// that of the policies.
pub fn of_binding(cx: &RequestCx, resource: &str, policy: &str, param: &ParamRef) -> Result<(), String> {
    let found = cx.reader.get(GROUP, resource, "", policy);
    let kind = found.as_ref().and_then(|policy| policy["spec"].get("paramKind"));
    let text = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let mut unresolved = false;
    let place = match kind {
        None => ("*".to_owned(), "*".to_owned(), "*".to_owned()),
        Some(kind) => {
            let api_version = text(kind, "apiVersion");
            let (group, version) = parse_api_version(&api_version);
            let resource = cx.reader.resource_of(group, version, &text(kind, "kind"));
            unresolved = resource.is_none();
            let resource = resource.map_or("*".to_owned(), |(name, _)| name);
            (group.to_owned(), version.to_owned(), resource)
        }
    };
    let (name, namespace) =
        (param.name.as_deref().unwrap_or_default(), param.namespace.as_deref().unwrap_or_default());
    let verb = if name.is_empty() { "list" } else { "get" };
    if permitted(cx, verb, (namespace, name), (&place.0, &place.1, &place.2)) {
        return Ok(());
    }
    let user = shown_user(cx);
    let everything = format!(
        "to determine minimum required permissions and user {user} does not have \"{verb}\" permission for all groups, versions and resources"
    );
    Err(match kind {
        _ if found.is_none() => format!("unable to get policy {policy} {everything}"),
        Some(kind) if unresolved => {
            let shown =
                format!("&ParamKind{{APIVersion:{},Kind:{},}}", text(kind, "apiVersion"), text(kind, "kind"));
            format!("unable to resolve paramKind {shown} {everything}")
        }
        _ => format!("user {user} does not have \"{verb}\" permission on the object referenced by paramRef"),
    })
}

fn permitted(
    cx: &RequestCx,
    verb: &str,
    (namespace, name): (&str, &str),
    (group, version, resource): (&str, &str, &str),
) -> bool {
    if cx.user.in_group("system:masters") {
        return true;
    }
    let Some(authorizer) = &cx.admission.authorizer else { return true };
    let attributes = Attributes {
        user: cx.user.clone(),
        verb: verb.to_owned(),
        is_resource: true,
        group: group.to_owned(),
        version: version.to_owned(),
        resource: resource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        ..Attributes::default()
    };
    matches!(authorizer.authorize(&attributes), Decision::Allow(_))
}

/// The user as Go prints its struct.
fn shown_user(cx: &RequestCx) -> String {
    let user = &cx.user;
    let extra: Vec<String> =
        user.extra.iter().map(|(key, values)| format!("{key}:[{}]", values.join(" "))).collect();
    format!("&{{{} {} [{}] map[{}]}}", user.name, user.uid, user.groups.join(" "), extra.join(" "))
}
