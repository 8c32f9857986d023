//! Affinity, tolerations and topology spread constraints.

use crate::core::node::validate_taint_effect;
use crate::util::{Errs, Items, Pairs, Text};
use knarr_api::core::v1::{
    Affinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, PodAffinityTerm, Toleration,
    TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use knarr_api::meta::v1::LabelSelector;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::validate;

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Errors of `spec.affinity`.
pub fn affinity(affinity: &Affinity, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    if let Some(node) = &affinity.node_affinity {
        let path = path.child("nodeAffinity");
        if let Some(selector) = &node.required_during_scheduling_ignored_during_execution {
            errs.extend(node_selector(selector, &path.child(REQUIRED)));
        }
        let preferred = node.preferred_during_scheduling_ignored_during_execution.items();
        for (i, term) in preferred.iter().enumerate() {
            let path = path.child(PREFERRED).index(i);
            if !(1..=100).contains(&term.weight) {
                errs.add_invalid(&path.child("weight"), term.weight, "must be in the range 1-100");
            }
            errs.extend(node_selector_term(&term.preference, true, &path.child("preference")));
        }
    }
    if let Some(pod) = &affinity.pod_affinity {
        errs.extend(pod_terms(
            pod.required_during_scheduling_ignored_during_execution.items(),
            pod.preferred_during_scheduling_ignored_during_execution.items(),
            &path.child("podAffinity"),
        ));
    }
    if let Some(pod) = &affinity.pod_anti_affinity {
        errs.extend(pod_terms(
            pod.required_during_scheduling_ignored_during_execution.items(),
            pod.preferred_during_scheduling_ignored_during_execution.items(),
            &path.child("podAntiAffinity"),
        ));
    }
    errs
}

/// Errors of a node selector.
pub fn node_selector(selector: &NodeSelector, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = path.child("nodeSelectorTerms");
    if selector.node_selector_terms.is_empty() {
        errs.add_required(&path, "must have at least one node selector term");
    }
    for (i, term) in selector.node_selector_terms.iter().enumerate() {
        errs.extend(node_selector_term(term, false, &path.index(i)));
    }
    errs
}

fn node_selector_term(term: &NodeSelectorTerm, any_value: bool, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, requirement) in term.match_expressions.items().iter().enumerate() {
        node_requirement(&mut errs, requirement, any_value, &path.child("matchExpressions").index(i));
    }
    for (i, requirement) in term.match_fields.items().iter().enumerate() {
        let path = path.child("matchFields").index(i);
        let values = requirement.values.items();
        match requirement.operator.as_str() {
            "In" | "NotIn" => {
                if values.len() != 1 {
                    let detail =
                        "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
                    errs.add_required(&path.child("values"), detail);
                }
            }
            other => errs.add_invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        if requirement.key == "metadata.name" {
            for (j, value) in values.iter().enumerate() {
                errs.add_all(&path.child("values").index(j), value, validate::dns1123_subdomain(value));
            }
        } else {
            errs.add_invalid(&path.child("key"), &requirement.key, "not a valid field selector key");
        }
    }
    errs
}

fn node_requirement(errs: &mut ErrorList, r: &NodeSelectorRequirement, any_value: bool, path: &Path) {
    let values = r.values.items();
    let values_path = path.child("values");
    match r.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errs.add_required(&values_path, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            errs.add_forbidden(&values_path, detail);
        }
        "Gt" | "Lt" if values.len() != 1 => {
            let detail = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            errs.add_required(&values_path, detail);
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        other => errs.add_invalid(&path.child("operator"), other, "not a valid selector operator"),
    }
    errs.add_all(&path.child("key"), &r.key, validate::qualified_name(&r.key));
    if !any_value {
        for (i, value) in values.iter().enumerate() {
            errs.add_all_at(|| values_path.index(i), value, validate::label_value(value));
        }
    }
}

fn pod_terms(required: &[PodAffinityTerm], preferred: &[WeightedPodAffinityTerm], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, term) in required.iter().enumerate() {
        errs.extend(pod_term(term, &path.child(REQUIRED).index(i)));
    }
    for (i, weighted) in preferred.iter().enumerate() {
        let path = path.child(PREFERRED).index(i);
        if !(1..=100).contains(&weighted.weight) {
            errs.add_invalid(&path.child("weight"), weighted.weight, "must be in the range 1-100");
        }
        errs.extend(pod_term(&weighted.pod_affinity_term, &path.child("podAffinityTerm")));
    }
    errs
}

fn pod_term(term: &PodAffinityTerm, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    errs.extend(label_selector(term.label_selector.as_ref(), &path.child("labelSelector")));
    errs.extend(label_selector(term.namespace_selector.as_ref(), &path.child("namespaceSelector")));
    for namespace in term.namespaces.items() {
        errs.add_all(&path.child("namespace"), namespace, validate::dns1123_label(namespace));
    }
    let (matching, mismatching) = (term.match_label_keys.items(), term.mismatch_label_keys.items());
    errs.extend(label_keys(matching, mismatching, term.label_selector.as_ref(), path));
    if term.topology_key.is_empty() {
        errs.add_required(&path.child("topologyKey"), "can not be empty");
    }
    errs.add_all(
        &path.child("topologyKey"),
        &term.topology_key,
        validate::qualified_name(&term.topology_key),
    );
    errs
}

/// Errors of a label selector, none for an absent one.
pub fn label_selector(selector: Option<&LabelSelector>, path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    let Some(selector) = selector else { return errs };
    errs.extend(super::label_map(selector.match_labels.pairs(), &path.child("matchLabels")));
    for (i, r) in selector.match_expressions.items().iter().enumerate() {
        let path = path.child("matchExpressions").index(i);
        let values = r.values.items();
        match r.operator.as_str() {
            "In" | "NotIn" if values.is_empty() => {
                errs.add_required(
                    &path.child("values"),
                    "must be specified when `operator` is 'In' or 'NotIn'",
                );
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                let detail = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
                errs.add_forbidden(&path.child("values"), detail);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errs.add_invalid(&path.child("operator"), other, "not a valid selector operator"),
        }
        errs.add_all(&path.child("key"), &r.key, validate::qualified_name(&r.key));
        for (j, value) in values.iter().enumerate() {
            errs.add_all_at(|| path.child("values").index(j), value, validate::label_value(value));
        }
    }
    errs
}

fn label_keys(
    matching: &[String],
    mismatching: &[String],
    selector: Option<&LabelSelector>,
    path: &Path,
) -> ErrorList {
    let mut errs = ErrorList::default();
    for (field, keys) in [("matchLabelKeys", matching), ("mismatchLabelKeys", mismatching)] {
        if keys.is_empty() {
            continue;
        }
        if selector.is_none() {
            errs.add_forbidden(&path.child(field), "must not be specified when labelSelector is not set");
            continue;
        }
        for (i, key) in keys.iter().enumerate() {
            errs.add_all(&path.child(field).index(i), key, validate::qualified_name(key));
        }
    }
    if let Some(selector) = selector {
        let mut seen: Vec<&str> = selector.match_labels.pairs().map(|(k, _)| k).collect();
        for requirement in selector.match_expressions.items() {
            let key = requirement.key.as_str();
            if let Some(i) = matching.iter().position(|k| k == key)
                && seen.contains(&key)
            {
                errs.add_invalid(&path.index(i), key, "exists in both matchLabelKeys and labelSelector");
            }
            seen.push(key);
        }
    }
    for (i, key) in matching.iter().enumerate().filter(|(_, k)| mismatching.contains(k)) {
        let detail = "exists in both matchLabelKeys and mismatchLabelKeys";
        errs.add_invalid(&path.child("matchLabelKeys").index(i), key, detail);
    }
    errs
}

/// Errors of `spec.tolerations`.
pub fn tolerations(tolerations: &[Toleration], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, t) in tolerations.iter().enumerate() {
        let path = path.index(i);
        let (key, operator, value) = (t.key.text(), t.operator.text(), t.value.text());
        if !key.is_empty() {
            errs.add_all_at(|| path.child("key"), key, validate::qualified_name(key));
        } else if operator != "Exists" {
            let detail =
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
            errs.add_invalid(&path.child("operator"), operator, detail);
        }
        if t.toleration_seconds.is_some() && t.effect.text() != "NoExecute" {
            let detail = "effect must be 'NoExecute' when `tolerationSeconds` is set";
            errs.add_invalid(&path.child("effect"), t.effect.text(), detail);
        }
        let at = path.child("operator");
        match operator {
            "Equal" | "" => {
                let problems = validate::label_value(value);
                if !problems.is_empty() {
                    errs.add_invalid(&at, value, problems.join(";"));
                }
            }
            "Exists" => {
                if !value.is_empty() {
                    errs.add_invalid(&at, value, "value must be empty when `operator` is 'Exists'");
                }
            }
            "Lt" | "Gt" => errs.add_not_supported(&at, operator, &["Equal", "Exists", "Lt", "Gt"]),
            other => errs.add_not_supported(&at, other, &["Equal", "Exists"]),
        }
        if !t.effect.text().is_empty() {
            validate_taint_effect(&mut errs, t.effect.text(), &path.child("effect"));
        }
    }
    errs
}

/// Errors of `spec.topologySpreadConstraints`.
pub fn topology_spread(constraints: &[TopologySpreadConstraint], path: &Path) -> ErrorList {
    let mut errs = ErrorList::default();
    for (i, c) in constraints.iter().enumerate() {
        let path = path.index(i);
        if c.max_skew <= 0 {
            errs.add_invalid(&path.child("maxSkew"), c.max_skew, "must be greater than zero");
        }
        if c.topology_key.is_empty() {
            errs.add_required(&path.child("topologyKey"), "can not be empty");
        }
        let action = c.when_unsatisfiable.as_str();
        let actions = &["DoNotSchedule", "ScheduleAnyway"];
        if !actions.contains(&action) {
            errs.add_not_supported(&path.child("whenUnsatisfiable"), action, actions);
        }
        let repeats =
            |o: &TopologySpreadConstraint| o.topology_key == c.topology_key && o.when_unsatisfiable == action;
        if constraints[i + 1..].iter().any(repeats) {
            let path = path.child("{topologyKey, whenUnsatisfiable}");
            errs.add_duplicate(&path, format!("{{{}, {action}}}", c.topology_key));
        }
        if let Some(domains) = c.min_domains {
            let path = path.child("minDomains");
            if domains <= 0 {
                errs.add_invalid(&path, domains, "must be greater than zero");
            }
            if action != "DoNotSchedule" {
                let detail =
                    format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {action}");
                errs.add_invalid(&path, domains, detail);
            }
        }
        for (field, policy) in
            [("nodeAffinityPolicy", &c.node_affinity_policy), ("nodeTaintsPolicy", &c.node_taints_policy)]
        {
            if let Some(policy) = policy
                && !["Honor", "Ignore"].contains(&policy.as_str())
            {
                errs.add_not_supported(&path.child(field), policy, &["Honor", "Ignore"]);
            }
        }
        errs.extend(label_keys(c.match_label_keys.items(), &[], c.label_selector.as_ref(), &path));
        errs.extend(label_selector(c.label_selector.as_ref(), &path.child("labelSelector")));
    }
    errs
}
