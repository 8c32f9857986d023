//! Scopes: which objects a quota is about.

use knarr_api::core::v1::{ResourceQuotaSpec, ScopedResourceSelectorRequirement};

/// A quota's scopes and its selector as one list.
pub fn requirements(spec: Option<&ResourceQuotaSpec>) -> Vec<ScopedResourceSelectorRequirement> {
    let scopes = spec.and_then(|s| s.scopes.as_ref()).into_iter().flatten();
    let named = scopes.map(|scope| ScopedResourceSelectorRequirement {
        scope_name: scope.clone(),
        operator: "Exists".to_owned(),
        values: None,
    });
    let selector = spec.and_then(|s| s.scope_selector.as_ref()).and_then(|s| s.match_expressions.as_ref());
    named.chain(selector.into_iter().flatten().cloned()).collect()
}

/// Whether a class that an object may have meets a requirement.
pub fn meets(requirement: &ScopedResourceSelectorRequirement, class: Option<&str>) -> bool {
    let listed = class.is_some_and(|class| requirement.values.iter().flatten().any(|v| v == class));
    match requirement.operator.as_str() {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => class.is_some(),
        "DoesNotExist" => class.is_none(),
        _ => false,
    }
}

/// Requirements as Go prints a slice of them.
pub fn text(requirements: &[ScopedResourceSelectorRequirement]) -> String {
    let one = |r: &ScopedResourceSelectorRequirement| {
        let values: Vec<&str> = r.values.iter().flatten().map(String::as_str).collect();
        format!("{{{} {} [{}]}}", r.scope_name, r.operator, values.join(" "))
    };
    format!("[{}]", requirements.iter().map(one).collect::<Vec<_>>().join(" "))
}
