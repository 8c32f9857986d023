//! validatingadmissionpolicy-status: checks the types of a policy's expressions against the schemas of the resources
//! that it is about, and says in its status what looks wrong. A warning changes nothing about the policy (KEP-3488;
//! upstream's `pkg/controller/validatingadmissionpolicystatus`).

mod check;
mod schemas;

use crate::framework::{Next, Reconcile, Start, run};
use check::warnings;
use knarr_api::Kind;
use knarr_api::admissionregistration::v1::ValidatingAdmissionPolicy;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::Key;
use knarr_client::{Error, Informer, Patch, WorkQueue};
use schemas::Schemas;
use serde_json::json;
use std::sync::Arc;

/// Upstream's number.
const WORKERS: usize = 5;
/// Upstream's field manager.
const MANAGER: &str = "validatingadmissionpolicy-status";

struct Statuses {
    start: Start,
    policies: Informer<ValidatingAdmissionPolicy>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let policies = start.informers.get::<ValidatingAdmissionPolicy>();
    let queue = WorkQueue::new(start.ctx.clone());
    let changed = queue.clone();
    policies.on_change(move |change| {
        if let Some(policy) = &change.new {
            changed.add(Key::new("", policy.name()));
        }
    });
    let ready = {
        let policies = policies.clone();
        async move { policies.synced().await }
    };
    let controller = Arc::new(Statuses { start: start.clone(), policies });
    run(&start, MANAGER, WORKERS, queue, ready, controller);
}

impl Reconcile for Statuses {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(policy) = self.policies.get_key(key) else { return Ok(Next::Done) };
            let generation = policy.metadata.generation.unwrap_or_default();
            let observed = policy.status.as_ref().and_then(|status| status.observed_generation);
            if generation <= observed.unwrap_or_default() {
                return Ok(Next::Done);
            }
            let spec = policy.spec.clone().unwrap_or_default();
            let types = Schemas::new(&self.start.client).of_policy(&spec).await?;
            let warnings = warnings(&spec, &types);
            let checking = match warnings.is_empty() {
                true => json!({}),
                false => json!({"expressionWarnings": warnings}),
            };
            let patch = Patch::Apply {
                object: json!({ "apiVersion": ValidatingAdmissionPolicy::API_VERSION,
                    "kind": ValidatingAdmissionPolicy::KIND, "metadata": { "name": key.name },
                    "status": { "observedGeneration": generation, "typeChecking": checking } }),
                field_manager: MANAGER.to_owned(),
                force: true,
            };
            let client = &self.start.client;
            match client.patch::<ValidatingAdmissionPolicy>("", &key.name, "status", &patch).await {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(Next::Done),
            }
        })
    }
}
