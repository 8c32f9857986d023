//! What a Job's podFailurePolicy (KEP-3329, KEP-3850) and successPolicy (KEP-3998) say.

use super::indexes::Indexes;
use knarr_api::Kind;
use knarr_api::batch::v1::{JobSpec, PodFailurePolicyOnExitCodesRequirement};
use knarr_api::core::v1::{ContainerStatus, Pod};

/// What follows from the failure of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It counts towards the back-off limit.
    Count,
    /// It does not count.
    Ignore,
    /// Its index has failed for good.
    FailIndex,
    /// The whole Job has failed, for this reason.
    FailJob(String),
}

impl Verdict {
    /// Whether the failure counts towards the back-off limit.
    pub fn counts(&self) -> bool {
        *self != Self::Ignore
    }
}

/// The verdict of the first rule that matches a failed pod; without one the failure counts.
pub fn on_failure(spec: &JobSpec, pod: &Pod) -> Verdict {
    let rules = spec.pod_failure_policy.iter().flat_map(|p| &p.rules);
    for (index, rule) in rules.enumerate() {
        let at = format!("{}/{}", pod.namespace(), pod.name());
        let matched = if let Some(requirement) = &rule.on_exit_codes {
            exited(pod, requirement).map(|(container, code)| {
                format!(
                    "Container {container} for pod {at} failed with exit code {code} matching {} rule at index {index}",
                    rule.action
                )
            })
        } else {
            let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
            let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
            let mut met = conditions.filter(|c| {
                let wanted = |status: &Option<String>| status.as_deref().unwrap_or("True") == c.status;
                patterns.iter().any(|p| p.type_ == c.type_ && wanted(&p.status))
            });
            met.next().map(|c| {
                format!("Pod {at} has condition {} matching {} rule at index {index}", c.type_, rule.action)
            })
        };
        if let Some(message) = matched {
            match rule.action.as_str() {
                "Ignore" => return Verdict::Ignore,
                "Count" => return Verdict::Count,
                "FailIndex" if spec.backoff_limit_per_index.is_some() => return Verdict::FailIndex,
                "FailJob" => return Verdict::FailJob(message),
                _ => {} // an action of a later version: as if the rule were not there
            }
        }
    }
    Verdict::Count
}

/// The container that ended as required, with its exit code.
fn exited<'a>(pod: &'a Pod, requirement: &PodFailurePolicyOnExitCodesRequirement) -> Option<(&'a str, i32)> {
    let status = pod.status.as_ref()?;
    let meets = |container: &'a ContainerStatus| {
        let code = container.state.as_ref()?.terminated.as_ref()?.exit_code;
        let named = requirement.container_name.as_ref().is_none_or(|n| *n == container.name);
        let listed = requirement.values.contains(&code);
        let matching = match requirement.operator.as_str() {
            "In" => listed,
            "NotIn" => !listed,
            _ => false,
        };
        (named && code != 0 && matching).then_some((container.name.as_str(), code))
    };
    let of = |list: &'a Option<Vec<ContainerStatus>>| list.iter().flatten().find_map(meets);
    of(&status.container_statuses).or_else(|| of(&status.init_container_statuses))
}

/// The message of the first success rule that the succeeded indexes meet.
pub fn on_success(spec: &JobSpec, succeeded: &Indexes) -> Option<String> {
    let completions = spec.completions.unwrap_or_default();
    if succeeded.total() == 0 {
        return None;
    }
    let rules = spec.success_policy.iter().flat_map(|p| &p.rules);
    let met = rules.enumerate().find(|(_, rule)| match &rule.succeeded_indexes {
        Some(wanted) => {
            let wanted = Indexes::parse(wanted, completions);
            let common = wanted.common(succeeded);
            let enough = rule.succeeded_count.is_some_and(|count| common >= count);
            wanted.total() > 0 && (common == wanted.total() || enough)
        }
        None => rule.succeeded_count.is_some_and(|count| succeeded.total() >= count),
    });
    met.map(|(index, _)| format!("Matched rules at index {index}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn spec(value: Value) -> JobSpec {
        let mut spec = json!({ "template": {}, "completions": 10, "backoffLimitPerIndex": 1 });
        spec.as_object_mut().expect("an object").extend(value.as_object().expect("an object").clone());
        serde_json::from_value(spec).expect("a spec")
    }

    fn pod(exit_code: i32, condition: &str) -> Pod {
        Pod::from_value(&json!({
            "metadata": { "name": "p", "namespace": "n" },
            "status": { "phase": "Failed",
                "conditions": [{ "type": condition, "status": "True" }],
                "containerStatuses": [{ "name": "main", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                    "state": { "terminated": { "exitCode": exit_code } } }] },
        }))
        .expect("a pod")
    }

    #[test]
    fn the_first_matching_rule_decides() {
        let spec = spec(json!({ "podFailurePolicy": { "rules": [
            { "action": "Ignore", "onPodConditions": [{ "type": "DisruptionTarget", "status": "True" }] },
            { "action": "FailIndex", "onExitCodes": { "operator": "In", "values": [7] } },
            { "action": "FailJob", "onExitCodes": { "containerName": "main", "operator": "NotIn", "values": [1, 7] } },
        ] } }));
        let message = "Container main for pod n/p failed with exit code 42 matching FailJob rule at index 2";
        for (exit_code, condition, verdict) in [
            (42, "DisruptionTarget", Verdict::Ignore),
            (1, "Ready", Verdict::Count),
            (0, "Ready", Verdict::Count),
            (7, "Ready", Verdict::FailIndex),
            (42, "Ready", Verdict::FailJob(message.to_owned())),
        ] {
            assert_eq!(on_failure(&spec, &pod(exit_code, condition)), verdict, "{exit_code} {condition}");
        }
    }

    #[test]
    fn success_needs_the_indexes_the_count_or_both() {
        for (rules, succeeded, met) in [
            (json!([{ "succeededIndexes": "0-2" }]), "0-1", None),
            (json!([{ "succeededIndexes": "0-2" }]), "0-3", Some(0)),
            (json!([{ "succeededCount": 3 }]), "4,6,8", Some(0)),
            (
                json!([{ "succeededCount": 4 }, { "succeededIndexes": "0-5", "succeededCount": 1 }]),
                "5-7",
                Some(1),
            ),
            (json!([{ "succeededIndexes": "junk" }]), "0-9", None),
            (json!([{ "succeededCount": 1 }]), "", None),
        ] {
            let spec = spec(json!({ "successPolicy": { "rules": rules } }));
            let message = met.map(|index: i32| format!("Matched rules at index {index}"));
            assert_eq!(on_success(&spec, &Indexes::parse(succeeded, 10)), message, "{rules} {succeeded}");
        }
    }
}
