//! ValidatingAdmissionWebhook: all webhooks at once, on the object as it would be stored (apiserver's
//! `plugin/webhook/validating`).

use super::call::{Refusal, ask, is_over, timed_out};
use super::hooks::{Hook, Hooks};
use super::mutating::shown;
use crate::admission::matching::is_exempt;
use futures_util::future::{BoxFuture, join_all};
use knarr_apiserver::admission::{Endpoint, Operation, Plugin, Write};
use knarr_apiserver::webhook::ClientManager;
use knarr_meta::status::Status;
use serde_json::Value;
use std::sync::Arc;

/// The plugin.
pub struct ValidatingAdmissionWebhook {
    hooks: Hooks,
    clients: ClientManager,
}

impl Default for ValidatingAdmissionWebhook {
    fn default() -> Self {
        Self { hooks: Hooks::new("validatingwebhookconfigurations"), clients: ClientManager::new() }
    }
}

impl Plugin for ValidatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn handles(&self, _operation: Operation, _group: &str, _resource: &str, _subresource: &str) -> bool {
        true
    }

    fn validate<'a>(&'a self, write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let hooks = self.hooks.current(write.cx);
        if hooks.is_empty() || is_exempt(write) {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(self.ask_all(write, hooks))
    }
}

/// The object and its predecessor in one form.
type Form = (Endpoint, Value, Value);

impl ValidatingAdmissionWebhook {
    async fn ask_all(&self, write: &Write<'_>, hooks: Arc<Vec<Arc<Hook>>>) -> Result<(), Status> {
        let mut forms: Vec<Form> = Vec::new();
        let mut wanted: Vec<(&Hook, usize)> = Vec::new();
        for hook in hooks.iter() {
            let Some(endpoint) = hook.wants(write)? else { continue };
            let known = forms.iter().position(|(known, ..)| *known == endpoint);
            let form = match known {
                Some(form) => form,
                None => {
                    forms.push(form(write, endpoint).await?);
                    forms.len() - 1
                }
            };
            let (endpoint, object, old) = &forms[form];
            if hook.passes(write, endpoint, object, old)? {
                wanted.push((hook, form));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        if is_over(write) {
            return Err(timed_out());
        }
        let asked = wanted.iter().map(|(hook, form)| {
            let (endpoint, object, old) = &forms[*form];
            ask(&self.clients, hook, write, endpoint, false, (object, old))
        });
        let answers = join_all(asked).await;
        let mut first = None;
        for (index, ((hook, _), answer)) in wanted.iter().zip(answers).enumerate() {
            let status = match answer {
                Ok(_) => continue,
                Err(Refusal::Call(why)) if hook.ignore => {
                    tracing::warn!(webhook = hook.name, "failing open: {why}");
                    let key =
                        format!("failed-open.validating.webhook.admission.k8s.io/round_0_index_{index}");
                    write.cx.admission.annotate(key, hook.name.as_str());
                    continue;
                }
                Err(refusal) => refusal.into_status(),
            };
            first.get_or_insert(status);
        }
        first.map_or(Ok(()), Err)
    }
}

async fn form(write: &Write<'_>, endpoint: Endpoint) -> Result<Form, Status> {
    let object = shown(write, write.object, &endpoint).await.map_err(Refusal::into_status)?;
    let old = match write.old {
        Some(old) => shown(write, old, &endpoint).await.map_err(Refusal::into_status)?,
        None => Value::Null,
    };
    Ok((endpoint, object, old))
}
