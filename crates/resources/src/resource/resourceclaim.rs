//! ResourceClaims (resource.k8s.io/v1): pkg/registry/resource/resourceclaim. Who writes the status needs permissions of
//! its own for the allocation (`resourceclaims/binding`) and for each driver's devices (`resourceclaims/driver`),
//! KEP-4817 and KEP-5304.

use super::validation::allocation::{device_id, results, status, status_id};
use super::validation::claim::{self, RequestNames};
use crate::util::value::{Object, keep, keep_at, object, sub, text};
use crate::util::{Errs, Items, cells};
use knarr_api::resource::v1::{
    AllocatedDeviceStatus, DeviceClaim, ResourceClaim, ResourceClaimSpec, ResourceClaimStatus,
};
use knarr_apiserver::authorize::{Attributes, Authorizer, Decision};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::front::authz;
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::status::Status;
use knarr_meta::validate;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::SystemTime;

/// The label of namespaces whose claims may ask for devices that others use.
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

struct Claims;

impl Strategy for Claims {
    type Object = ResourceClaim;

    fn default(&self, obj: &mut Value) {
        if let Some(spec) = sub(object(obj), "spec") {
            super::default_claim_spec(spec);
        }
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), Value::Object(Object::new()));
    }

    fn validate(&self, cx: &RequestCx, obj: &ResourceClaim) -> ErrorList {
        let mut errs = admin_access(cx, &obj.spec);
        claim::spec(&mut errs, &obj.spec, &Path::new("spec"));
        errs
    }

    fn validate_update(&self, _cx: &RequestCx, new: &ResourceClaim, old: &ResourceClaim) -> ErrorList {
        let mut errs = ErrorList::default();
        errs.add_changed(&Path::new("spec"), &new.spec, &old.spec);
        errs
    }

    fn prepare_for_status_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        for field in
            ["deletionTimestamp", "generation", "labels", "annotations", "finalizers", "ownerReferences"]
        {
            keep_at(new, old, &["metadata", field]);
        }
        drop_deallocated(new, old);
    }

    fn validate_status_update(&self, cx: &RequestCx, new: &ResourceClaim, old: &ResourceClaim) -> ErrorList {
        let none = (ResourceClaimStatus::default(), DeviceClaim::default());
        let (of_new, of_old) =
            (new.status.as_ref().unwrap_or(&none.0), old.status.as_ref().unwrap_or(&none.0));
        let mut errs = admin_access_of_status(cx, of_new, of_old);
        let path = Path::new("status");
        permission_to_bind(cx, &mut errs, of_new, of_old, &path.child("allocation"));
        if of_new.allocation.is_some() {
            permission_for_devices(cx, &mut errs, of_new, of_old, &path.child("devices"));
        }
        let names = RequestNames::of(new.spec.devices.as_ref().unwrap_or(&none.1));
        let deleting = new.metadata.deletion_timestamp.is_some();
        errs.extend(status(of_new, of_old, deleting, &names, &path));
        errs
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// Refuses access to devices in use where the namespace does not allow it.
pub(super) fn admin_access(cx: &RequestCx, spec: &ResourceClaimSpec) -> ErrorList {
    let requests = spec.devices.as_ref().map(|d| d.requests.items()).unwrap_or_default();
    let asks = requests.iter().position(|r| r.exactly.as_ref().is_some_and(|e| e.admin_access == Some(true)));
    let at = |i| Path::new("spec").child("devices").child("requests").index(i).child("adminAccess");
    allowed_by_namespace(cx, asks.map(at))
}

fn admin_access_of_status(cx: &RequestCx, new: &ResourceClaimStatus, old: &ResourceClaimStatus) -> ErrorList {
    let granted =
        |status: &ResourceClaimStatus| results(status).iter().position(|r| r.admin_access == Some(true));
    if granted(old).is_some() {
        return ErrorList::default();
    }
    let path = Path::new("status").child("allocation").child("devices").child("results");
    allowed_by_namespace(cx, granted(new).map(|i| path.index(i).child("adminAccess")))
}

fn allowed_by_namespace(cx: &RequestCx, asked: Option<Path>) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(path) = asked else { return errs };
    match cx.reader.get("", "namespaces", "", &cx.info.namespace) {
        None => {
            let gr = knarr_meta::gvk::GroupResource::new("", "namespaces");
            let missing = Status::not_found(&gr, &cx.info.namespace).message;
            let detail = format!("could not retrieve namespace to verify admin access: {missing}");
            errs.push(knarr_meta::field::internal(&path, detail));
        }
        Some(namespace) if namespace["metadata"]["labels"][ADMIN_LABEL] == "true" => {}
        Some(_) => {
            let detail = format!(
                "admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"
            );
            errs.add_forbidden(&path, detail);
        }
    }
    errs
}

/// What drivers said of devices that are not allocated any more goes with them.
fn drop_deallocated(new: &mut Value, old: &Value) {
    let id = |value: &Value| {
        let share = value["shareID"].as_str().map(str::to_owned);
        let of = |field: &str| text(value, &[field]).to_owned();
        device_id(&of("driver"), &of("pool"), &of("device"), share.as_ref())
    };
    let allocated = |claim: &Value| -> BTreeSet<String> {
        let results = claim["status"]["allocation"]["devices"]["results"].as_array();
        results.into_iter().flatten().map(id).collect()
    };
    let (before, now) = (allocated(old), allocated(new));
    let Some(status) = sub(object(new), "status") else { return };
    let Some(Value::Array(devices)) = status.get_mut("devices") else { return };
    devices.retain(|device| {
        let id = id(device);
        !before.contains(&id) || now.contains(&id)
    });
    if devices.is_empty() {
        status.remove("devices");
    }
}

/// The permission to change what is allocated and for whom.
fn permission_to_bind(
    cx: &RequestCx,
    errs: &mut ErrorList,
    new: &ResourceClaimStatus,
    old: &ResourceClaimStatus,
    path: &Path,
) {
    if new.allocation == old.allocation && new.reserved_for == old.reserved_for {
        return;
    }
    let verb = cx.info.verb.as_str();
    if let Err(refusal) = permitted(cx, verb, "binding", "", "") {
        errs.add_forbidden(
            path,
            format!(
                "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {refusal}"
            ),
        );
    }
}

/// The permission to tell of a driver's devices: on the node of the allocation, or on any.
fn permission_for_devices(
    cx: &RequestCx,
    errs: &mut ErrorList,
    new: &ResourceClaimStatus,
    old: &ResourceClaimStatus,
    path: &Path,
) {
    let mut verbs = vec![format!("arbitrary-node:{}", cx.info.verb)];
    if on_allocated_node(cx, new) {
        verbs.insert(0, format!("associated-node:{}", cx.info.verb));
    }
    for driver in changed_drivers(new, old) {
        let answers = verbs.iter().map(|verb| permitted(cx, verb, "driver", &cx.info.namespace, driver));
        let mut first = None;
        let mut allowed = false;
        for answer in answers {
            match answer {
                Ok(()) => {
                    allowed = true;
                    break;
                }
                Err(refusal) => first = first.or(Some(refusal)),
            }
        }
        if let Some(refusal) = first.filter(|_| !allowed) {
            errs.add_forbidden(
                path,
                format!(
                    "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {refusal}",
                    verbs.join(" ")
                ),
            );
        }
    }
}

/// The drivers whose entries were added, changed or removed.
fn changed_drivers<'a>(new: &'a ResourceClaimStatus, old: &'a ResourceClaimStatus) -> BTreeSet<&'a str> {
    let differs = |one: &AllocatedDeviceStatus, others: &[AllocatedDeviceStatus]| {
        others.iter().find(|other| status_id(other) == status_id(one)) != Some(one)
    };
    let (new, old) = (new.devices.items(), old.devices.items());
    let changed = new.iter().filter(|d| differs(d, old)).chain(old.iter().filter(|d| differs(d, new)));
    changed.map(|d| d.driver.as_str()).collect()
}

/// Whether the user is a service account whose token is bound to the node that the claim is allocated on.
fn on_allocated_node(cx: &RequestCx, status: &ResourceClaimStatus) -> bool {
    let selector = status.allocation.as_ref().and_then(|a| a.node_selector.as_ref());
    let Some([term]) = selector.map(|s| s.node_selector_terms.as_slice()) else { return false };
    let ([field], true) = (term.match_fields.items(), term.match_expressions.items().is_empty()) else {
        return false;
    };
    let ([node], "metadata.name", "In") = (field.values.items(), field.key.as_str(), field.operator.as_str())
    else {
        return false;
    };
    let own = cx.user.extra.get(NODE_NAME).map(Vec::as_slice).unwrap_or_default();
    cx.user.name.starts_with("system:serviceaccount:")
        && own == [node.clone()]
        && validate::dns1123_subdomain(node).is_empty()
}

/// Whether the user may do `verb` with a subresource that exists for permissions only; else the refusal.
fn permitted(
    cx: &RequestCx,
    verb: &str,
    subresource: &str,
    namespace: &str,
    name: &str,
) -> Result<(), String> {
    let question = Attributes {
        user: cx.user.clone(),
        verb: verb.to_owned(),
        is_resource: true,
        group: cx.info.group.clone(),
        version: cx.info.version.clone(),
        resource: cx.info.resource.clone(),
        subresource: subresource.to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        path: cx.info.path.clone(),
        ..Attributes::default()
    };
    match authz::Chain::new(cx.reader.clone()).authorize(&question) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => {
            Err(authz::forbidden(&question, &reason).message)
        }
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let mut state = Vec::new();
    let deleted = obj["metadata"]["deletionTimestamp"].is_string();
    if deleted {
        state.push("deleted");
    }
    if obj["status"]["allocation"].is_object() {
        state.push("allocated");
        if obj["status"]["reservedFor"].as_array().is_some_and(|list| !list.is_empty()) {
            state.push("reserved");
        }
    } else if !deleted {
        state.push("pending");
    }
    vec![cells::name(obj), state.join(",").into(), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(Claims).status().cells(cells).fixture(include_str!("testdata/resourceclaim.yaml"))
}
