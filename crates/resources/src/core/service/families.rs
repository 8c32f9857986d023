//! The dual-stack fields: clusterIP and clusterIPs, ipFamilies, ipFamilyPolicy (KEP-563).

use super::addresses::family_of;
use super::needs_cluster_ip;
use super::validation::cluster_ips;
use crate::util::value::{ensure, list, object, text};
use crate::util::{Errs, ip};
use knarr_api::Kind;
use knarr_api::core::v1::Service;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::status::Status;
use serde_json::{Value, json};

fn strings<'a>(service: &'a Value, field: &str) -> Vec<&'a str> {
    list(service, &["spec", field]).iter().filter_map(Value::as_str).collect()
}

fn set(service: &mut Value, field: &str, value: Value) {
    ensure(object(service), "spec").insert(field.to_owned(), value);
}

fn unset(service: &mut Value, field: &str) {
    ensure(object(service), "spec").remove(field);
}

/// Clients that know only one of `clusterIP` and `clusterIPs` get the other along.
pub fn normalize(new: &mut Value, old: Option<&Value>) {
    let single = text(new, &["spec", "clusterIP"]).to_owned();
    let none = list(new, &["spec", "clusterIPs"]).is_empty();
    let Some(old) = old else {
        if !single.is_empty() && none {
            set(new, "clusterIPs", json!([single]));
        }
        return;
    };
    let old_single = text(old, &["spec", "clusterIP"]);
    if !list(old, &["spec", "clusterIPs"]).is_empty() && none && old_single == single {
        set(new, "clusterIPs", old["spec"]["clusterIPs"].clone());
    }
    if old_single != single && strings(new, "clusterIPs") == strings(old, "clusterIPs") {
        if !old_single.is_empty() && single.is_empty() {
            unset(new, "clusterIPs");
        } else {
            set(new, "clusterIPs", json!([single]));
        }
    }
}

/// A client that writes a service without the values it was given keeps them.
pub fn keep_allocated(new: &mut Value, old: &Value) {
    if needs_cluster_ip(old) && needs_cluster_ip(new) {
        if text(new, &["spec", "clusterIP"]).is_empty() && !text(old, &["spec", "clusterIP"]).is_empty() {
            set(new, "clusterIP", old["spec"]["clusterIP"].clone());
        }
        if list(new, &["spec", "clusterIPs"]).is_empty() && !list(old, &["spec", "clusterIPs"]).is_empty() {
            set(new, "clusterIPs", old["spec"]["clusterIPs"].clone());
        }
    }
}

/// Fills in families and policy for the families the cluster has, or says why that cannot be.
pub fn init(new: &mut Value, old: Option<&Value>, configured: &[&'static str]) -> Result<(), Status> {
    if !needs_cluster_ip(new) || old.is_some_and(|old| unchanged_prefer_dual(new, old)) {
        return Ok(());
    }
    let headless = text(new, &["spec", "clusterIP"]) == "None";
    let selectorless = new["spec"]["selector"].as_object().is_none_or(serde_json::Map::is_empty);
    if text(new, &["spec", "ipFamilyPolicy"]).is_empty() {
        let inherited = old.map(|o| text(o, &["spec", "ipFamilyPolicy"])).unwrap_or_default();
        let policy = match inherited {
            "" if headless && selectorless => "RequireDualStack",
            "" => "SingleStack",
            inherited => inherited,
        }
        .to_owned();
        set(new, "ipFamilyPolicy", policy.into());
    }
    let typed = |v: &Value| Service::from_value(v).map_err(|e| Status::bad_request(e.to_string()));
    let old_typed = old.map(typed).transpose()?;
    let name = text(new, &["metadata", "name"]).to_owned();
    let refuse = |errs: ErrorList| {
        if errs.is_empty() { Ok(()) } else { Err(Status::invalid("", "Service", &name, errs)) }
    };
    refuse(cluster_ips(&typed(new)?, old_typed.as_ref()))?;

    let policy = text(new, &["spec", "ipFamilyPolicy"]).to_owned();
    let spec = Path::new("spec");
    let policy_path = spec.child("ipFamilyPolicy");
    let mut errs = ErrorList::default();
    if let Some(old) = old {
        for (field, what) in [("clusterIPs", "cluster IP"), ("ipFamilies", "IP family")] {
            let (now, before) = (strings(new, field), strings(old, field));
            if policy == "SingleStack" {
                if now == before && now.len() > 1 {
                    let first = now[0].to_owned();
                    set(new, field, json!([first]));
                }
            } else if !now.is_empty() && now.len() < before.len() {
                errs.add_invalid(
                    &policy_path,
                    &policy,
                    format!("must be 'SingleStack' to release the secondary {what}"),
                );
            }
        }
    }
    if policy == "SingleStack" {
        for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if strings(new, field).len() == 2 {
                let detail = format!(
                    "must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"
                );
                errs.add_invalid(&policy_path, &policy, detail);
            }
        }
    }
    let mut families: Vec<String> = strings(new, "ipFamilies").into_iter().map(str::to_owned).collect();
    let addresses: Vec<String> = strings(new, "clusterIPs").into_iter().map(str::to_owned).collect();
    for (i, address) in addresses.iter().enumerate().take_while(|(_, a)| *a != "None") {
        let family = ip::parse_sloppy(address).map(|ip| family_of(&ip)).unwrap_or("unknown");
        if i < families.len() {
            continue;
        }
        if configured.contains(&family) {
            families.push(family.to_owned());
        } else {
            let detail = format!("{family} is not configured on this cluster");
            errs.add_invalid(&spec.child("clusterIPs").index(i), &addresses, detail);
        }
    }
    refuse(std::mem::take(&mut errs))?;

    let default = configured.first().copied().unwrap_or("IPv4");
    if headless && selectorless {
        if families.is_empty() {
            families.push(default.to_owned());
        }
        if families.len() < 2 && policy != "SingleStack" {
            let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
            families.push(other.to_owned());
        }
        set(new, "ipFamilies", json!(families));
        return Ok(());
    }
    if policy == "RequireDualStack" && configured.len() < 2 {
        errs.add_invalid(&policy_path, &policy, "this cluster is not configured for dual-stack services");
    }
    for (i, family) in families.iter().enumerate() {
        if !configured.contains(&family.as_str()) {
            errs.add_invalid(&spec.child("ipFamilies").index(i), family, "not configured on this cluster");
        }
    }
    refuse(errs)?;
    if families.is_empty() {
        families.push(default.to_owned());
    }
    if policy != "SingleStack" && families.len() == 1 && configured.len() == 2 {
        let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
        families.push(other.to_owned());
    }
    set(new, "ipFamilies", json!(families));
    Ok(())
}

/// A service that prefers two families, and has what it has, is left alone when the cluster changes.
pub fn unchanged_prefer_dual(new: &Value, old: &Value) -> bool {
    let policy = |s: &Value| text(s, &["spec", "ipFamilyPolicy"]).to_owned();
    let kind = text(new, &["spec", "type"]);
    policy(new) == "PreferDualStack"
        && (policy(old).is_empty() || policy(old) == "PreferDualStack")
        && kind == text(old, &["spec", "type"])
        && matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer")
        && strings(new, "clusterIPs") == strings(old, "clusterIPs")
        && strings(new, "ipFamilies") == strings(old, "ipFamilies")
}
