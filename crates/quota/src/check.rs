//! Whether a write fits into the quotas of its namespace: upstream's `CheckRequest`.

use crate::amounts::{self, Amounts};
use crate::scopes;
use crate::{Devices, Evaluator, Item, Quota};
use knarr_api::core::v1::ScopedResourceSelectorRequirement;
use std::collections::BTreeSet;
use std::time::SystemTime;

/// What may be used only where a quota covers it (`limitedResources` of upstream's configuration of the plugin).
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Limited {
    /// API group of the resource.
    pub group: String,
    /// Plural name of the resource.
    pub resource: String,
    /// Amounts whose names contain one of these must be covered.
    pub match_contains: Vec<String>,
    /// Objects in one of these scopes must be covered.
    pub match_scopes: Vec<ScopedResourceSelectorRequirement>,
}

/// A write.
pub struct Request<'a> {
    /// API group of the resource.
    pub group: &'a str,
    /// Plural name of the resource.
    pub resource: &'a str,
    /// Subresource, or empty.
    pub subresource: &'a str,
    /// How its objects are measured.
    pub evaluator: &'a Evaluator,
    /// The object as it is to be.
    pub new: Item<'a>,
    /// The object as it is; `None` for a create.
    pub old: Option<Item<'a>>,
}

/// Why a write is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is forbidden, for this reason.
    Forbidden(String),
    /// An error that upstream reports as such, not as a refusal of the object.
    Error(String),
}

/// What surrounds a check.
pub struct Around<'a> {
    /// What is known of device classes and claims.
    pub devices: &'a dyn Devices,
    /// What must be covered.
    pub limited: &'a [Limited],
    /// Now.
    pub now: SystemTime,
}

/// The quotas as they are once the write has happened, or why it must not.
pub fn check(quotas: &[Quota], request: &Request<'_>, around: &Around<'_>) -> Result<Vec<Quota>, Refusal> {
    let (evaluator, devices) = (request.evaluator, around.devices);
    let mut relevant = Vec::new();
    let mut covered_names: BTreeSet<String> = BTreeSet::new();
    let mut covered_scopes = Vec::new();
    for (index, quota) in quotas.iter().enumerate() {
        let in_scope = |scope: &&ScopedResourceSelectorRequirement| evaluator.in_scope(scope, request.new);
        let scopes: Vec<_> = quota.scopes.iter().filter(in_scope).collect();
        covered_scopes.extend(scopes.iter().map(|scope| scope.scope_name.as_str()));
        let names = evaluator.matching(quota.hard.keys(), devices);
        if names.is_empty() || scopes.len() < quota.scopes.len() {
            continue;
        }
        if let Err(why) = evaluator.constraints(&names, request.new) {
            return Err(Refusal::Forbidden(format!("failed quota: {}: {why}", quota.name())));
        }
        if names.iter().any(|name| !quota.used.contains_key(name)) {
            let names = names.into_iter().collect::<Vec<_>>().join(",");
            let why = format!("status unknown for quota: {}, resources: {names}", quota.name());
            return Err(Refusal::Forbidden(why));
        }
        relevant.push(index);
        covered_names.extend(names);
    }

    let usage = evaluator.usage(request.new, devices, around.now);
    let negative: Vec<&str> =
        usage.iter().filter(|(_, amount)| amount.sign() < 0).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        let why = format!("quota usage is negative for resource(s): {}", negative.join(","));
        return Err(Refusal::Forbidden(why));
    }
    let growth = request.old.map(|old| amounts::growth(&usage, &evaluator.usage(old, devices, around.now)));
    // A quota that was not about the object before is charged with all of it.
    let charge = |quota: &Quota| {
        let was_in = |old| quota.scopes.iter().all(|scope| evaluator.in_scope(scope, old));
        match (&growth, request.old) {
            (Some(growth), Some(old)) if was_in(old) => amounts::without_zeros(growth),
            _ => amounts::without_zeros(&usage),
        }
    };
    let charges: Vec<(usize, Amounts)> = relevant
        .iter()
        .map(|index| (*index, charge(&quotas[*index])))
        .filter(|(_, charge)| !charge.is_empty())
        .collect();
    let nothing = match relevant.is_empty() {
        true => amounts::without_zeros(growth.as_ref().unwrap_or(&usage)).is_empty(),
        false => charges.is_empty(),
    };
    if nothing {
        return Ok(quotas.to_vec());
    }
    check_covered(request, around, &usage, &covered_names, &covered_scopes)?;

    let mut after = quotas.to_vec();
    for (index, charge) in charges {
        let quota = &mut after[index];
        let requested = amounts::mask(&charge, &quota.hard);
        let mut used = quota.used.clone();
        amounts::add(&mut used, &requested);
        if request.subresource != "status" {
            let exceeds = |name: &&String| used.get(*name) > quota.hard.get(*name);
            let exceeded: Amounts =
                requested.keys().filter(exceeds).map(|name| (name.clone(), Default::default())).collect();
            if !exceeded.is_empty() {
                let part = |amounts: &Amounts| amounts::text(&amounts::mask(amounts, &exceeded));
                return Err(Refusal::Forbidden(format!(
                    "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                    quota.name(),
                    part(&requested),
                    part(&quota.used),
                    part(&quota.hard)
                )));
            }
        }
        quota.used = used;
    }
    Ok(after)
}

fn check_covered(
    request: &Request<'_>,
    around: &Around<'_>,
    usage: &Amounts,
    names: &BTreeSet<String>,
    scopes: &[&str],
) -> Result<(), Refusal> {
    let of_resource = around.limited.iter();
    let of_resource = of_resource
        .filter(|limited| (&*limited.group, &*limited.resource) == (request.group, request.resource));
    let patterns: Vec<&String> = of_resource.flat_map(|limited| &limited.match_contains).collect();
    let uncovered: Vec<&str> = usage
        .iter()
        .filter(|(name, amount)| amount.sign() > 0 && !names.contains(*name))
        .filter(|(name, _)| patterns.iter().any(|pattern| name.contains(pattern.as_str())))
        .map(|(name, _)| name.as_str())
        .collect();
    if !uncovered.is_empty() {
        let why = format!("insufficient quota to consume: {}", uncovered.join(","));
        return Err(Refusal::Forbidden(why));
    }
    let limited = around.limited.iter().flat_map(|limited| &limited.match_scopes);
    let uncovered: Vec<ScopedResourceSelectorRequirement> = limited
        .filter(|scope| request.evaluator.in_scope(scope, request.new))
        .filter(|scope| !scopes.contains(&scope.scope_name.as_str()))
        .cloned()
        .collect();
    if !uncovered.is_empty() {
        let why = format!("insufficient quota to match these scopes: {}", scopes::text(&uncovered));
        return Err(Refusal::Error(why));
    }
    Ok(())
}
