//! Escalation checks of the RBAC kinds: who writes a role must hold its rules or the verb `escalate`; who
//! writes a binding must hold the role's rules or the verb `bind`. The strategies of the four kinds call these.

use super::rbac::{GROUP, Rbac};
use super::rules::Rule;
use crate::authorize::{Attributes, Authorizer, Decision};
use crate::request::{RequestCx, UserInfo};
use serde_json::Value;
use std::sync::Arc;

/// Whether the request's user may write a role with these rules (a JSON array of PolicyRules) in `namespace`
/// (empty for cluster roles): `Err` is the text for a Forbidden status.
pub fn confirm_role(cx: &RequestCx, rules: &Value) -> Result<(), String> {
    let rbac = Rbac::new(cx.reader.clone());
    let namespace = cx.info.namespace.as_str();
    if exempt(&cx.user) || permitted(&rbac, cx, "escalate", &cx.info.resource, namespace, &cx.info.name) {
        return Ok(());
    }
    let wanted: Vec<Rule> = rules.as_array().into_iter().flatten().map(Rule::from_value).collect();
    confirm_rules(&rbac, &cx.user, namespace, &wanted)
}

/// Whether the request's user may write a binding to `role_ref` in `namespace` (empty for cluster role
/// bindings): `Err` is the text for a Forbidden status.
pub fn confirm_binding(cx: &RequestCx, role_ref: &Value) -> Result<(), String> {
    let rbac = Rbac::new(cx.reader.clone());
    let (namespace, name) = (cx.info.namespace.as_str(), role_ref["name"].as_str().unwrap_or_default());
    let (resource, role_namespace) =
        if role_ref["kind"] == "Role" { ("roles", namespace) } else { ("clusterroles", "") };
    if exempt(&cx.user) || permitted(&rbac, cx, "bind", resource, namespace, name) {
        return Ok(());
    }
    let Some(role) = cx.reader.get(GROUP, resource, role_namespace, name) else {
        return Err(format!("{resource}.{GROUP} {} not found", super::quoted(name)));
    };
    confirm_rules(&rbac, &cx.user, namespace, &Rule::all_of(&role))
}

/// Whether the roles of the request's user allow a verb on a cluster-wide name that is no object (the signers
/// of certificates).
pub fn may(cx: &RequestCx, verb: &str, group: &str, resource: &str, name: &str) -> bool {
    let rbac = Rbac::new(cx.reader.clone());
    exempt(&cx.user) || allowed(&rbac, cx, verb, (group, resource), "", name)
}

/// Whether the user holds all of `wanted`; the error lists what is missing.
pub fn confirm_rules(rbac: &Rbac, user: &UserInfo, namespace: &str, wanted: &[Rule]) -> Result<(), String> {
    let (held, errors) = rbac.rules_for(user, namespace);
    let missing = uncovered(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = missing.iter().map(Rule::compact).collect();
    lines.sort();
    lines.dedup();
    let groups: Vec<String> = user.groups.iter().map(|g| super::quoted(g)).collect();
    let mut text = format!(
        "user {} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
        super::quoted(&user.name),
        groups.join(" "),
        lines.join("\n")
    );
    if !errors.is_empty() {
        text.push_str(&format!("; resolution errors: [{}]", errors.join(", ")));
    }
    Err(text)
}

/// The parts of `wanted` that no rule of `held` covers, put together again by resource.
fn uncovered(held: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let mut missing: Vec<Rule> = Vec::new();
    for part in wanted.iter().flat_map(Rule::split).filter(|part| !held.iter().any(|rule| rule.covers(part)))
    {
        let same = missing.iter_mut().find(|m| {
            m.groups == part.groups
                && m.resources == part.resources
                && m.names == part.names
                && m.paths == part.paths
        });
        match same {
            Some(rule) if !rule.verbs.contains(&part.verbs[0]) => rule.verbs.extend(part.verbs),
            Some(_) => {}
            None => missing.push(part),
        }
    }
    missing
}

fn exempt(user: &UserInfo) -> bool {
    user.in_group("system:masters")
}

fn permitted(rbac: &Rbac, cx: &RequestCx, verb: &str, resource: &str, namespace: &str, name: &str) -> bool {
    allowed(rbac, cx, verb, (GROUP, resource), namespace, name)
}

fn allowed(
    rbac: &Rbac,
    cx: &RequestCx,
    verb: &str,
    (group, resource): (&str, &str),
    namespace: &str,
    name: &str,
) -> bool {
    let attributes = Attributes {
        user: Arc::clone(&cx.user),
        verb: verb.into(),
        is_resource: true,
        group: group.into(),
        version: "*".into(),
        resource: resource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Attributes::default()
    };
    matches!(rbac.authorize(&attributes), Decision::Allow(_))
}
