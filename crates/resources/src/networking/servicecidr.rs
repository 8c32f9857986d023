//! ServiceCIDRs (networking.k8s.io/v1, KEP-1880): pkg/registry/networking/servicecidr.

use crate::util::value::{list, object};
use crate::util::{Errs, Items, cells, ip};
use knarr_api::networking::v1::ServiceCIDR;
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use serde_json::{Value, json};
use std::time::SystemTime;

struct ServiceCidrs;

impl Strategy for ServiceCidrs {
    type Object = ServiceCIDR;

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        object(obj).insert("status".to_owned(), json!({}));
    }

    fn validate(&self, _cx: &RequestCx, obj: &ServiceCIDR) -> ErrorList {
        validate_cidrs(obj.spec.as_ref().map(|s| s.cidrs.items()).unwrap_or_default())
    }

    fn validate_update(&self, _cx: &RequestCx, new: &ServiceCIDR, old: &ServiceCIDR) -> ErrorList {
        let mut errs = ErrorList::default();
        let cidrs = |c: &ServiceCIDR| c.spec.as_ref().map(|s| s.cidrs.items().to_vec()).unwrap_or_default();
        let (new, old) = (cidrs(new), cidrs(old));
        let path = Path::new("spec").child("cidrs");
        let grows = old.len() == 1 && new.len() == 2;
        if new.len() != old.len() && !grows {
            errs.add_invalid(&path, &new, "field is immutable");
            return errs;
        }
        for (i, (new, _)) in new.iter().zip(&old).enumerate().filter(|(_, (n, o))| n != o) {
            errs.add_invalid(&path.index(i), new, "field is immutable");
        }
        if grows {
            errs.extend(validate_cidrs(&new));
        }
        errs
    }

    fn has_generation(&self) -> bool {
        false
    }
}

fn validate_cidrs(cidrs: &[String]) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("spec").child("cidrs");
    if cidrs.is_empty() {
        errs.add_required(&path, "at least one CIDR required");
        return errs;
    }
    if cidrs.len() > 2 {
        errs.add_invalid(&path, json!({"cidrs": cidrs}), "may only hold up to 2 values");
        return errs;
    }
    for (i, cidr) in cidrs.iter().enumerate() {
        errs.extend(ip::validate_cidr(&path.index(i), cidr));
    }
    let families: Vec<bool> =
        cidrs.iter().filter_map(|c| ip::Cidr::parse(c)).map(|c| c.network.is_ipv4()).collect();
    if let [a, b] = families[..]
        && a == b
    {
        let detail =
            "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
        errs.add_invalid(&path, cidrs, detail);
    }
    errs
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let cidrs: Vec<&str> = list(obj, &["spec", "cidrs"]).iter().filter_map(Value::as_str).collect();
    vec![cells::name(obj), cidrs.join(",").into(), cells::age(obj, now)]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(ServiceCidrs).status().cells(cells).fixture(include_str!("testdata/servicecidr.yaml"))
}
