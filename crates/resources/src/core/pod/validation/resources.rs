//! What containers and pods ask for: validateResourceRequirements, pod-level resources (KEP-2837) and claims
//! for devices (KEP-4381).

use crate::core::pod::aggregate;
use crate::core::resource;
use crate::util::value::Object;
use crate::util::{Errs, Items, Pairs};
use knarr_api::Quantity;
use knarr_api::core::v1::{PodResourceClaim, PodSpec, ResourceRequirements};
use knarr_api::meta::v1::ObjectMeta;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Errors of a container's resources.
pub fn container(requirements: &ResourceRequirements, claims: &BTreeSet<&str>, path: &Path) -> ErrorList {
    let mut errs = amounts(requirements, resource::validate_container_name, path);
    errs.extend(claim_names(requirements, claims, &path.child("claims")));
    errs
}

/// Errors of `spec.overhead`.
pub fn overhead(overhead: &Option<BTreeMap<String, Quantity>>, path: &Path) -> ErrorList {
    let requirements = ResourceRequirements { limits: overhead.clone(), ..Default::default() };
    amounts(&requirements, resource::validate_container_name, path)
}

fn amounts(
    requirements: &ResourceRequirements,
    name_errors: fn(&Path, &str) -> ErrorList,
    path: &Path,
) -> ErrorList {
    let mut errs = ErrorList::default();
    let (limits_path, requests_path) = (path.child("limits"), path.child("requests"));
    let (mut computes, mut huge_pages) = (false, false);
    for (name, amount) in requirements.limits.pairs() {
        let path = limits_path.key(name);
        errs.extend(name_errors(&path, name));
        errs.extend(resource::validate_value(&path, name, amount));
        if resource::is_huge_page(name) {
            huge_pages = true;
            errs.extend(resource::validate_huge_page_value(&path, name, amount));
        }
        computes |= matches!(name, "cpu" | "memory");
    }
    for (name, amount) in requirements.requests.pairs() {
        let path = requests_path.key(name);
        errs.extend(name_errors(&path, name));
        errs.extend(resource::validate_value(&path, name, amount));
        let overcommit = resource::is_overcommit_allowed(name);
        match requirements.limits.at(name) {
            Some(limit) => {
                let order = resource::parse(amount).cmp(&resource::parse(limit));
                if order.is_ne() && !overcommit {
                    let detail = format!("must be equal to {name} limit of {}", limit.0);
                    errs.add_invalid(&requests_path, &amount.0, detail);
                } else if order.is_gt() {
                    let detail = format!("must be less than or equal to {name} limit of {}", limit.0);
                    errs.add_invalid(&requests_path, &amount.0, detail);
                }
            }
            None if !overcommit => {
                errs.add_required(&limits_path, "Limit must be set for non overcommitable resources");
            }
            None => {}
        }
        if resource::is_huge_page(name) {
            huge_pages = true;
            errs.extend(resource::validate_huge_page_value(&path, name, amount));
        }
        computes |= matches!(name, "cpu" | "memory");
    }
    if huge_pages && !computes {
        errs.add_forbidden(path, "HugePages require cpu or memory");
    }
    errs
}

fn claim_names(requirements: &ResourceRequirements, claims: &BTreeSet<&str>, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let mut seen: BTreeSet<String> = BTreeSet::new();
    for (i, claim) in requirements.claims.items().iter().enumerate() {
        let path = path.index(i);
        let request = claim.request.as_deref().unwrap_or_default();
        if claim.name.is_empty() {
            errs.add_required(&path, "");
        } else if seen.contains(&claim.name) {
            errs.add_duplicate(&path, &claim.name);
        } else {
            let mut key = claim.name.clone();
            if !request.is_empty() {
                errs.add_all(&path.child("request"), request, validate::dns1123_label(request));
                key = format!("{key}/{request}");
            }
            if seen.contains(&key) {
                errs.add_duplicate(&path, &key);
            } else if request.is_empty() {
                let prefix = format!("{}/", claim.name);
                for _ in seen.iter().filter(|k| k.starts_with(&prefix)) {
                    errs.add_duplicate(&path, &claim.name);
                }
            }
            seen.insert(key);
        }
        if !claims.contains(claim.name.as_str()) {
            let names: Vec<&str> = claims.iter().copied().collect();
            let which = if names.is_empty() {
                " which is empty".to_owned()
            } else {
                format!(": {}", names.join(", "))
            };
            let detail = format!("must be one of the names in pod.spec.resourceClaims{which}");
            errs.add_not_found_because(&path, &claim.name, detail);
        }
    }
    errs
}

/// Errors of `spec.resourceClaims`.
pub fn claims(meta: Option<&ObjectMeta>, claims: &[PodResourceClaim], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, claim) in claims.iter().enumerate() {
        if meta.is_some_and(|m| m.annotations.at(super::MIRROR_ANNOTATION).is_some()) {
            errs.add_forbidden(&Path::new(""), "static pods do not support resource claims");
            continue;
        }
        let at = path.index(i);
        if claim.name.is_empty() {
            errs.add_required(&at.child("name"), "");
        } else if claims[..i].iter().any(|c| c.name == claim.name) {
            errs.add_duplicate(&at.child("name"), &claim.name);
        } else {
            errs.add_all(&at.child("name"), &claim.name, validate::dns1123_label(&claim.name));
        }
        let mut value = json!({"name": claim.name});
        for (field, name) in [
            ("resourceClaimName", &claim.resource_claim_name),
            ("resourceClaimTemplateName", &claim.resource_claim_template_name),
        ] {
            if let Some(name) = name {
                value[field] = name.as_str().into();
            }
        }
        match (&claim.resource_claim_name, &claim.resource_claim_template_name) {
            (Some(_), Some(_)) => {
                let detail =
                    "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified";
                errs.add_invalid(&at, value, detail);
            }
            (None, None) => {
                let detail = "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`";
                errs.add_invalid(&at, value, detail);
            }
            _ => {}
        }
        for (field, name) in [
            ("resourceClaimName", &claim.resource_claim_name),
            ("resourceClaimTemplateName", &claim.resource_claim_template_name),
        ] {
            if let Some(name) = name {
                errs.add_all(&at.child(field), name, validate::dns1123_subdomain(name));
            }
        }
    }
    errs
}

/// Errors of `spec.resources`.
pub fn pod_level(spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(requirements) = &spec.resources else { return errs };
    let path = path.child("resources");
    if spec.os.as_ref().is_some_and(|os| os.name == "windows") {
        errs.add_forbidden(&path, "may not be set for a windows pod");
        return errs;
    }
    if requirements.claims.is_some() {
        errs.add_forbidden(&path.child("claims"), "claims may not be set for Resources at pod-level");
    }
    errs.extend(amounts(requirements, resource::validate_pod_name, &path));

    let containers = as_object(spec);
    for (name, total) in aggregate::total(&containers, "requests") {
        if let Some(amount) = requirements.requests.at(&name)
            && total > resource::parse(amount)
        {
            let detail = format!("must be greater than or equal to aggregate container requests of {total}");
            errs.add_invalid(&path.child("requests").key(&name), &amount.0, detail);
        }
    }
    for (name, total) in aggregate::total(&containers, "limits") {
        if let Some(amount) = requirements.limits.at(&name)
            && resource::is_huge_page(&name)
            && total > resource::parse(amount)
        {
            let detail = format!("must be greater than or equal to aggregate container limits of {total}");
            errs.add_invalid(&path.child("limits").key(&name), &amount.0, detail);
        }
    }
    for (i, container) in spec.containers.iter().enumerate() {
        let limits = container.resources.as_ref().map(|r| &r.limits);
        for (name, limit) in limits.into_iter().flat_map(|l| l.pairs()) {
            if let Some(amount) = requirements.limits.at(name)
                && resource::parse(limit) > resource::parse(amount)
            {
                let path = path.child("containers").index(i).key(name).child("limits");
                let detail = format!("must be less than or equal to pod limits of {}", amount.0);
                errs.add_invalid(&path, &limit.0, detail);
            }
        }
    }
    errs
}

/// The containers' amounts as JSON, the form that is summed up elsewhere.
fn as_object(spec: &PodSpec) -> Object {
    let amounts = |map: &Option<BTreeMap<String, Quantity>>| -> Value {
        map.pairs()
            .map(|(name, amount)| (name.to_owned(), Value::from(amount.0.clone())))
            .collect::<Object>()
            .into()
    };
    let list = |containers: &[knarr_api::core::v1::Container]| -> Value {
        let all = containers.iter().map(|c| {
            let empty = ResourceRequirements::default();
            let r = c.resources.as_ref().unwrap_or(&empty);
            json!({"restartPolicy": c.restart_policy,
                "resources": {"requests": amounts(&r.requests), "limits": amounts(&r.limits)}})
        });
        all.collect::<Vec<_>>().into()
    };
    let mut map = Object::new();
    map.insert("containers".to_owned(), list(&spec.containers));
    map.insert("initContainers".to_owned(), list(spec.init_containers.items()));
    map
}
