//! CSIDrivers (storage.k8s.io/v1): pkg/registry/storage/csidriver.

use crate::util::value::{ensure, flag, list, object, set_absent, sub, text};
use crate::util::{Errs, Items, cells};
use knarr_api::storage::v1::{CSIDriver, TokenRequest};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::{Value, json};
use std::time::SystemTime;

const GROUP_POLICIES: &[&str] = &["File", "None", "ReadWriteOnceWithFSType"];
const LIFECYCLES: &[&str] = &["Persistent", "Ephemeral"];
const MIN_TOKEN_SECONDS: i64 = 600;
const MAX_TOKEN_SECONDS: i64 = 1 << 32;
const MIN_UPDATE_PERIOD: i64 = 10;

struct CsiDrivers;

impl Strategy for CsiDrivers {
    type Object = CSIDriver;

    fn default(&self, obj: &mut Value) {
        let spec = ensure(object(obj), "spec");
        set_absent(spec, "attachRequired", true);
        set_absent(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        for field in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            set_absent(spec, field, false);
        }
        if spec.get("volumeLifecycleModes").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            spec.insert("volumeLifecycleModes".to_owned(), json!(["Persistent"]));
        }
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        // The gate VolumeLimitScaling is off.
        if let Some(spec) = sub(object(obj), "spec") {
            spec.remove("preventPodSchedulingIfMissing");
        }
    }

    fn validate(&self, _cx: &RequestCx, obj: &CSIDriver) -> ErrorList {
        let mut errs = ErrorList::default();
        let (spec, path) = (&obj.spec, Path::new("spec"));
        if let Some(policy) = &spec.fs_group_policy
            && !GROUP_POLICIES.contains(&policy.as_str())
        {
            errs.add_not_supported(&path.child("fsGroupPolicy"), policy, GROUP_POLICIES);
        }
        let requests = spec.token_requests.items();
        token_requests(&mut errs, requests, &path.child("tokenRequests"));
        for mode in spec.volume_lifecycle_modes.items() {
            if !LIFECYCLES.contains(&mode.as_str()) {
                errs.add_not_supported(&path.child("volumeLifecycleModes"), mode, LIFECYCLES);
            }
        }
        if let Some(period) = spec.node_allocatable_update_period_seconds
            && period < MIN_UPDATE_PERIOD
        {
            let at = path.child("nodeAllocatableUpdatePeriodSeconds");
            errs.add_invalid(&at, period, "must be greater than or equal to 10 seconds");
        }
        if spec.service_account_token_in_secrets.is_some() && requests.is_empty() {
            let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
            let at = path.child("serviceAccountTokenInSecrets");
            errs.add_invalid(&at, spec.service_account_token_in_secrets, detail);
        }
        errs
    }

    fn validate_update(&self, cx: &RequestCx, new: &CSIDriver, old: &CSIDriver) -> ErrorList {
        let mut errs = self.validate(cx, new);
        let path = Path::new("spec");
        let (new, old) = (&new.spec, &old.spec);
        errs.add_changed(&path.child("attachedRequired"), &new.attach_required, &old.attach_required);
        let at = path.child("volumeLifecycleModes");
        errs.add_changed(&at, &new.volume_lifecycle_modes, &old.volume_lifecycle_modes);
        errs
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }
}

fn token_requests(errs: &mut ErrorList, requests: &[TokenRequest], path: &Path) {
    for (i, request) in requests.iter().enumerate() {
        let path = path.index(i);
        if requests[..i].iter().any(|r| r.audience == request.audience) {
            errs.add_duplicate(&path.child("audience"), &request.audience);
            continue;
        }
        let Some(seconds) = request.expiration_seconds else { continue };
        let at = path.child("expirationSeconds");
        if seconds < MIN_TOKEN_SECONDS {
            errs.add_invalid(&at, seconds, "may not specify a duration less than 10 minutes");
        }
        if seconds > MAX_TOKEN_SECONDS {
            errs.add_invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
        }
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let flag = |field: &str| Value::from(flag(obj, &["spec", field]));
    let modes: Vec<&str> =
        list(obj, &["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
    let tokens = match obj["spec"]["tokenRequests"].as_array() {
        None => "<unset>".to_owned(),
        Some(requests) => requests.iter().map(|r| text(r, &["audience"])).collect::<Vec<_>>().join(","),
    };
    vec![
        cells::name(obj),
        obj["spec"]["attachRequired"].as_bool().unwrap_or(true).into(),
        flag("podInfoOnMount"),
        flag("storageCapacity"),
        tokens.into(),
        flag("requiresRepublish"),
        cells::or_none(modes.join(",")),
        cells::age(obj, now),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(CsiDrivers).cells(cells).fixture(include_str!("testdata/csidriver.yaml"))
}
