//! APIServices (apiregistration.k8s.io/v1): kube-aggregator's pkg/registry/apiservice and
//! pkg/apis/apiregistration/validation.

use crate::util::value::{keep, keep_at, list, object, set_absent, sub, text};
use crate::util::{Errs, Flag, Items, Text, cells};
use knarr_api::apiregistration::v1::{APIService, APIServiceSpec};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::{go, time, validate};
use serde_json::{Value, json};
use std::time::SystemTime;

const MAX_GROUP_PRIORITY: i32 = 20_000;
const MAX_VERSION_PRIORITY: i32 = 1_000;
const DEFAULT_PORT: i32 = 443;
const STATUSES: &[&str] = &["True", "False", "Unknown"];

struct ApiServices;

impl Strategy for ApiServices {
    type Object = APIService;

    fn default(&self, obj: &mut Value) {
        if let Some(service) = sub(object(obj), "spec").and_then(|spec| sub(spec, "service")) {
            set_absent(service, "port", DEFAULT_PORT);
        }
    }

    fn prepare_for_create(&self, cx: &RequestCx, obj: &mut Value) {
        // What this server answers itself is available at once.
        let status = if obj["spec"]["service"].is_object() {
            json!({})
        } else {
            json!({"conditions": [{
                "type": "Available",
                "status": "True",
                "lastTransitionTime": time::rfc3339(cx.ctx.clock.now()),
                "reason": "Local",
                "message": "Local APIServices are always available",
            }]})
        };
        object(obj).insert("status".to_owned(), status);
    }

    fn validate(&self, _cx: &RequestCx, obj: &APIService) -> ErrorList {
        let spec = obj.spec.clone().unwrap_or_default();
        let mut errs = ErrorList::default();
        let (group, version) = (spec.group.text(), spec.version.text());
        let (name, wanted) = (obj.metadata.name.text(), format!("{version}.{group}"));
        if name != wanted && validate::path_segment_name(name).is_empty() {
            let detail = format!("must be `spec.version+\".\"+spec.group`: {}", go::quote(&wanted));
            errs.add_invalid(&Path::new("metadata").child("name"), name, detail);
        }
        let path = Path::new("spec");
        if group.is_empty() {
            if version != "v1" {
                let detail = "only v1 may have an empty group and it better be legacy kube";
                errs.add_required(&path.child("group"), detail);
            }
        } else {
            errs.add_all(&path.child("group"), group, validate::dns1123_subdomain(group));
        }
        errs.add_all(&path.child("version"), version, validate::dns1035_label(version));
        if !(1..=MAX_GROUP_PRIORITY).contains(&spec.group_priority_minimum) {
            let detail = "must be positive and less than 20000";
            errs.add_invalid(&path.child("groupPriorityMinimum"), spec.group_priority_minimum, detail);
        }
        if !(1..=MAX_VERSION_PRIORITY).contains(&spec.version_priority) {
            let detail = "must be positive and less than 1000";
            errs.add_invalid(&path.child("versionPriority"), spec.version_priority, detail);
        }
        backend(&mut errs, &spec, &path);
        errs
    }

    fn prepare_for_status_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        keep(new, old, "spec");
        for field in ["labels", "annotations", "finalizers", "ownerReferences"] {
            keep_at(new, old, &["metadata", field]);
        }
    }

    fn validate_status_update(&self, _cx: &RequestCx, new: &APIService, _old: &APIService) -> ErrorList {
        let mut errs = ErrorList::default();
        let path = Path::new("status").child("conditions");
        let conditions = new.status.as_ref().map(|s| s.conditions.items()).unwrap_or_default();
        for (i, condition) in conditions.iter().enumerate() {
            if !STATUSES.contains(&condition.status.as_str()) {
                errs.add_not_supported(&path.index(i).child("status"), &condition.status, STATUSES);
            }
        }
        errs
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        validate::path_segment_name(name)
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn has_generation(&self) -> bool {
        false
    }
}

/// Errors of where the group version is served and how that is verified.
fn backend(errs: &mut ErrorList, spec: &APIServiceSpec, path: &Path) {
    let ca_len = spec.ca_bundle.as_ref().map_or(0, |bundle| bundle.0.len());
    let unverified = spec.insecure_skip_tls_verify.on();
    let at = path.child("insecureSkipTLSVerify");
    let Some(service) = &spec.service else {
        if ca_len > 0 {
            let value = format!("{ca_len} bytes");
            errs.add_invalid(&path.child("caBundle"), value, "local APIServices may not have a caBundle");
        }
        if unverified {
            errs.add_invalid(&at, true, "local APIServices may not have insecureSkipTLSVerify");
        }
        return;
    };
    let of_service = path.child("service");
    if service.namespace.text().is_empty() {
        errs.add_required(&of_service.child("namespace"), "");
    }
    if service.name.text().is_empty() {
        errs.add_required(&of_service.child("name"), "");
    }
    let port = service.port.unwrap_or_default();
    let problems = validate::port_num(port.into());
    if !problems.is_empty() {
        let detail = format!("port is not valid: {}", problems.join(", "));
        errs.add_invalid(&of_service.child("port"), port, detail);
    }
    if unverified && ca_len > 0 {
        errs.add_invalid(&at, true, "may not be true if caBundle is present");
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let service = &obj["spec"]["service"];
    let service = match service.is_object() {
        true => format!("{}/{}", text(service, &["namespace"]), text(service, &["name"])),
        false => "Local".to_owned(),
    };
    let conditions = list(obj, &["status", "conditions"]);
    let available = match conditions.iter().find(|c| c["type"] == "Available") {
        None => "Unknown".to_owned(),
        Some(condition) => {
            let (status, reason) = (text(condition, &["status"]), text(condition, &["reason"]));
            let plain = status == "True" || reason.is_empty();
            if plain { status.to_owned() } else { format!("{status} ({reason})") }
        }
    };
    vec![cells::name(obj), service.into(), available.into(), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(ApiServices).status().cells(cells).fixture(include_str!("testdata/apiservice.yaml"))
}
