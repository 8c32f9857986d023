//! clusterrole-aggregation: a ClusterRole with an aggregationRule has the rules of all roles that its selectors match.

use crate::framework::claim::selects;
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::rbac::v1::{ClusterRole, PolicyRule};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Error, Informer, Patch, WorkQueue};
use serde_json::json;
use std::sync::Arc;

/// Upstream's number.
const WORKERS: usize = 5;

struct Aggregation {
    start: Start,
    roles: Informer<ClusterRole>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let roles = start.informers.get::<ClusterRole>();
    let queue = WorkQueue::new(start.ctx.clone());
    let (on_role, known) = (queue.clone(), roles.clone());
    roles.on_change(move |change| {
        // Any role may be part of any other that aggregates; those are few.
        for role in known.list("").into_iter().chain(change.new.clone()) {
            if role.aggregation_rule.is_some() {
                on_role.add(Key::new("", role.name()));
            }
        }
    });
    let ready = {
        let roles = roles.clone();
        async move { roles.synced().await }
    };
    let controller = Arc::new(Aggregation { start: start.clone(), roles });
    run(&start, "clusterrole-aggregation", WORKERS, queue, ready, controller);
}

/// The rules that an aggregating role should have: those of the matching roles in order of name, each once.
fn aggregated(role: &ClusterRole, all: &[Arc<ClusterRole>]) -> Vec<PolicyRule> {
    let mut rules: Vec<PolicyRule> = Vec::new();
    let selectors = role.aggregation_rule.iter().flat_map(|r| r.cluster_role_selectors.iter().flatten());
    for selector in selectors {
        for part in all.iter().filter(|r| selects(selector, r.metadata.labels.as_ref())) {
            if part.name() == role.name() {
                continue;
            }
            for rule in part.rules.iter().flatten() {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    rules
}

impl Reconcile for Aggregation {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(role) = self.roles.get_key(key).filter(|r| r.aggregation_rule.is_some()) else {
                return Ok(Next::Done);
            };
            let rules = aggregated(&role, &self.roles.list(""));
            if role.rules.as_deref().unwrap_or_default() == rules {
                return Ok(Next::Done);
            }
            // Applied, as upstream's, so that whoever applies the role's selectors does not fight over its rules.
            let patch = Patch::Apply {
                object: json!({ "apiVersion": ClusterRole::API_VERSION, "kind": ClusterRole::KIND,
                    "metadata": { "name": key.name }, "rules": rules }),
                field_manager: "clusterrole-aggregation-controller".to_owned(),
                force: true,
            };
            match self.start.client.patch::<ClusterRole>("", &key.name, "", &patch).await {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(Next::Done),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn role(name: &str, label: &str, resources: &[&str]) -> Arc<ClusterRole> {
        let rules: Vec<Value> =
            resources.iter().map(|r| json!({ "resources": [r], "verbs": ["get"] })).collect();
        let role = json!({ "metadata": { "name": name, "labels": { "to": label } }, "rules": rules });
        Arc::new(ClusterRole::from_value(&role).expect("a role"))
    }

    #[test]
    fn rules_come_from_every_matching_role_once() {
        let mut view = (*role("view", "edit", &["old"])).clone();
        view.aggregation_rule = serde_json::from_value(json!({ "clusterRoleSelectors": [
            { "matchLabels": { "to": "view" } }, { "matchLabels": { "to": "edit" } }] }))
        .expect("a rule");
        let all = [
            role("a", "view", &["pods", "nodes"]),
            role("b", "other", &["secrets"]),
            role("c", "edit", &["pods", "services"]),
            Arc::new(view.clone()),
        ];
        let resources: Vec<String> =
            aggregated(&view, &all).into_iter().flat_map(|r| r.resources.unwrap_or_default()).collect();
        assert_eq!(resources, ["pods", "nodes", "services"]);
    }
}
