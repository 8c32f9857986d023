//! PriorityLevelConfigurations (flowcontrol.apiserver.k8s.io/v1):
//! pkg/registry/flowcontrol/prioritylevelconfiguration.

use super::fixed_spec;
use super::flowschema::condition_types;
use crate::util::value::{at, ensure, object, set_absent, set_default, sub, text};
use crate::util::{Errs, Items, Text, cells};
use knarr_api::flowcontrol::v1::{
    LimitResponse, LimitedPriorityLevelConfiguration, PriorityLevelConfiguration,
    PriorityLevelConfigurationSpec, QueuingConfiguration,
};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::front::flowcontrol::shuffle;
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::{Value, json};
use std::time::SystemTime;

const MAX_QUEUES: i32 = 10_000_000;

struct PriorityLevels;

impl Strategy for PriorityLevels {
    type Object = PriorityLevelConfiguration;

    fn default(&self, obj: &mut Value) {
        let spec = ensure(object(obj), "spec");
        if let Some(exempt) = sub(spec, "exempt") {
            set_absent(exempt, "nominalConcurrencyShares", 0);
            set_absent(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = sub(spec, "limited") {
            set_absent(limited, "nominalConcurrencyShares", 30);
            set_absent(limited, "lendablePercent", 0);
            if let Some(queuing) = sub(limited, "limitResponse").and_then(|r| sub(r, "queuing")) {
                set_default(queuing, "handSize", 8);
                set_default(queuing, "queues", 64);
                set_default(queuing, "queueLengthLimit", 50);
            }
        }
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({}));
    }

    fn validate(&self, _cx: &RequestCx, obj: &PriorityLevelConfiguration) -> ErrorList {
        let name = obj.metadata.name.text();
        let spec = obj.spec.clone().unwrap_or_default();
        let path = Path::new("spec");
        let mut errs = validate_spec(&spec, name, &path);
        if let Some(mut fixed) = fixed_spec("PriorityLevelConfiguration", name) {
            let value = serde_json::to_value(&spec).unwrap_or_default();
            let but = if name == "exempt" { " except the 'spec.exempt' field" } else { "" };
            if name == "exempt" {
                fixed["exempt"] = value["exempt"].clone();
            }
            if fixed != value {
                let detail = format!("spec of '{name}'{but} must equal the fixed value");
                errs.add_invalid(&path, value, detail);
            }
        }
        errs.extend(status(obj));
        errs
    }

    fn validate_status_update(
        &self,
        _cx: &RequestCx,
        new: &PriorityLevelConfiguration,
        _old: &PriorityLevelConfiguration,
    ) -> ErrorList {
        status(new)
    }
}

fn status(obj: &PriorityLevelConfiguration) -> ErrorList {
    let kinds = obj.status.iter().flat_map(|s| s.conditions.items()).map(|c| c.type_.text());
    condition_types(kinds)
}

fn validate_spec(spec: &PriorityLevelConfigurationSpec, name: &str, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let (kind, at) = (spec.type_.as_str(), path.child("type"));
    if (name == "exempt") != (kind == "Exempt") {
        errs.add_invalid(&at, kind, "must be 'Exempt' if and only if `name` is 'exempt'");
    }
    match kind {
        "Exempt" => {
            if spec.limited.is_some() {
                errs.add_forbidden(&path.child("limited"), "must be nil if the type is not Limited");
            }
            if let Some(exempt) = &spec.exempt {
                let shares = exempt.nominal_concurrency_shares;
                limits(&mut errs, shares, exempt.lendable_percent, &path.child("exempt"));
            }
        }
        "Limited" => {
            if spec.exempt.is_some() {
                errs.add_forbidden(&path.child("exempt"), "must be nil if the type is Limited");
            }
            match &spec.limited {
                Some(limited) => validate_limited(&mut errs, limited, &path.child("limited")),
                None => {
                    let detail = "must not be empty when type is Limited";
                    errs.add_required(&path.child("limited"), detail);
                }
            }
        }
        _ => errs.add_not_supported(&at, kind, &["Exempt", "Limited"]),
    }
    errs
}

fn shares_at_least_zero(errs: &mut ErrorList, shares: Option<i32>, path: &Path) {
    if let Some(shares) = shares.filter(|s| *s < 0) {
        let at = path.child("nominalConcurrencyShares");
        errs.add_invalid(&at, shares, "must be a non-negative integer");
    }
}

fn percentage(errs: &mut ErrorList, percent: Option<i32>, path: &Path) {
    if let Some(percent) = percent.filter(|p| !(0..=100).contains(p)) {
        let at = path.child("lendablePercent");
        errs.add_invalid(&at, percent, "must be between 0 and 100, inclusive");
    }
}

fn limits(errs: &mut ErrorList, shares: Option<i32>, percent: Option<i32>, path: &Path) {
    shares_at_least_zero(errs, shares, path);
    percentage(errs, percent, path);
}

fn validate_limited(errs: &mut ErrorList, limited: &LimitedPriorityLevelConfiguration, path: &Path) {
    shares_at_least_zero(errs, limited.nominal_concurrency_shares, path);
    let response = limited.limit_response.clone().unwrap_or_default();
    limit_response(errs, &response, &path.child("limitResponse"));
    percentage(errs, limited.lendable_percent, path);
    if let Some(percent) = limited.borrowing_limit_percent.filter(|p| *p < 0) {
        let at = path.child("borrowingLimitPercent");
        errs.add_invalid(&at, percent, "if specified, must be a non-negative integer");
    }
}

fn limit_response(errs: &mut ErrorList, response: &LimitResponse, path: &Path) {
    let at = path.child("queuing");
    match (response.type_.as_str(), &response.queuing) {
        ("Reject", Some(_)) => {
            errs.add_forbidden(&at, "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Queue", None) => {
            errs.add_required(&at, "must not be empty if limited.limitResponse.type is Limited");
        }
        ("Queue", Some(queuing)) => validate_queuing(errs, queuing, &at),
        ("Reject", None) => {}
        (other, _) => errs.add_not_supported(&path.child("type"), other, &["Queue", "Reject"]),
    }
}

fn validate_queuing(errs: &mut ErrorList, queuing: &QueuingConfiguration, path: &Path) {
    let queues = queuing.queues.unwrap_or_default();
    let hand = queuing.hand_size.unwrap_or_default();
    let length = queuing.queue_length_limit.unwrap_or_default();
    if length <= 0 {
        errs.add_invalid(&path.child("queueLengthLimit"), length, "must be positive");
    }
    if queues <= 0 {
        errs.add_invalid(&path.child("queues"), queues, "must be positive");
    } else if queues > MAX_QUEUES {
        let detail = format!("must not be greater than {MAX_QUEUES}");
        errs.add_invalid(&path.child("queues"), queues, detail);
    }
    let at = path.child("handSize");
    if hand <= 0 {
        errs.add_invalid(&at, hand, "must be positive");
    } else if hand > queues {
        errs.add_invalid(&at, hand, format!("should not be greater than queues ({queues})"));
    } else {
        let bits = shuffle::entropy_bits(queues.unsigned_abs() as usize, hand.unsigned_abs() as usize);
        if bits > shuffle::MAX_HASH_BITS {
            let detail = format!(
                "required entropy bits of deckSize {queues} and handSize {hand} should not be greater than {}",
                shuffle::MAX_HASH_BITS
            );
            errs.add_invalid(&at, hand, detail);
        }
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let limited = |path: &[&str]| {
        let value = at(obj, &["spec", "limited"]).and_then(|limited| at(limited, path));
        value.cloned().unwrap_or_else(|| cells::NONE.into())
    };
    vec![
        cells::name(obj),
        text(obj, &["spec", "type"]).into(),
        limited(&["nominalConcurrencyShares"]),
        limited(&["limitResponse", "queuing", "queues"]),
        limited(&["limitResponse", "queuing", "handSize"]),
        limited(&["limitResponse", "queuing", "queueLengthLimit"]),
        cells::age(obj, now),
    ]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(PriorityLevels)
        .status()
        .cells(cells)
        .fixture(include_str!("testdata/prioritylevelconfiguration.yaml"))
}
