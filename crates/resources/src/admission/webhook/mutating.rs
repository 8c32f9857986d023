//! MutatingAdmissionWebhook: webhooks one after the other, each on what those before it made of the object, and
//! again where the object changed after them and they ask for it (apiserver's `plugin/webhook/mutating`).

use super::call::{Refusal, ask, is_over, timed_out};
use super::hooks::{Hook, Hooks};
use super::review::Verdict;
use crate::admission::matching::is_exempt;
use futures_util::future::BoxFuture;
use knarr_apiserver::admission::{Endpoint, Operation, Plugin, Write};
use knarr_apiserver::webhook::ClientManager;
use knarr_meta::status::Status;
use knarr_meta::{go, patch};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::Arc;

const NAME: &str = "MutatingAdmissionWebhook";

/// The plugin.
pub struct MutatingAdmissionWebhook {
    hooks: Hooks,
    clients: ClientManager,
}

impl Default for MutatingAdmissionWebhook {
    fn default() -> Self {
        Self { hooks: Hooks::new("mutatingwebhookconfigurations"), clients: ClientManager::new() }
    }
}

/// What is kept between the two rounds of a write.
#[derive(Default)]
pub struct Rounds {
    /// The object as the plugin left it.
    last: Option<Value>,
    /// Those that were asked, want to be asked again, and have seen no change since.
    invoked: BTreeSet<String>,
    /// Those to ask in the second round.
    again: BTreeSet<String>,
}

impl Rounds {
    /// The object has changed: whoever was asked before and wants it is to be asked again.
    pub fn changed(&mut self) {
        self.again.append(&mut self.invoked);
    }

    /// The second round begins: what other plugins did since counts as a change.
    pub fn begin_again(&mut self, object: &Value) {
        if self.last.as_ref() != Some(object) {
            self.changed();
        }
    }

    /// Whether somebody is to be asked in the second round.
    pub fn is_due(&self, uid: &str) -> bool {
        self.again.contains(uid)
    }

    /// Somebody who wants to be asked again was asked.
    pub fn invoked(&mut self, uid: &str) {
        self.invoked.insert(uid.to_owned());
    }

    /// The plugin leaves the object like this.
    pub fn leave(&mut self, object: &Value) {
        self.last = Some(object.clone());
    }
}

impl Plugin for MutatingAdmissionWebhook {
    fn name(&self) -> &'static str {
        NAME
    }

    fn handles(&self, _operation: Operation, _group: &str, _resource: &str, _subresource: &str) -> bool {
        true
    }

    fn mutate<'a>(&'a self, write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        let hooks = self.hooks.current(write.cx);
        if hooks.is_empty() || is_exempt(write) {
            return Box::pin(std::future::ready(Ok(())));
        }
        Box::pin(self.ask_all(write, hooks))
    }
}

impl MutatingAdmissionWebhook {
    async fn ask_all(&self, write: &mut Write<'_>, hooks: Arc<Vec<Arc<Hook>>>) -> Result<(), Status> {
        let notes = write.reinvocation;
        if notes.is_again() {
            notes.keep(NAME, |rounds: &mut Rounds| rounds.begin_again(write.object));
        }
        for (index, hook) in hooks.iter().enumerate() {
            let Some(endpoint) = hook.wants(write)? else { continue };
            let shown = shown(write, write.object, &endpoint).await.map_err(Refusal::into_status)?;
            let old = match write.old {
                Some(old) => self::shown(write, old, &endpoint).await.map_err(Refusal::into_status)?,
                None => Value::Null,
            };
            if !hook.passes(write, &endpoint, &shown, &old)? {
                continue;
            }
            if notes.is_again() && !notes.keep(NAME, |rounds: &mut Rounds| rounds.is_due(&hook.uid)) {
                continue;
            }
            let round = u8::from(notes.is_again());
            let result = self.ask_one(write, hook, &endpoint, (shown, old), (round, index)).await;
            let changed = matches!(result, Ok(true));
            if changed {
                notes.keep(NAME, |rounds: &mut Rounds| rounds.changed());
                notes.want();
            }
            if hook.reinvoke {
                notes.keep(NAME, |rounds: &mut Rounds| rounds.invoked(&hook.uid));
            }
            let value =
                json!({"configuration": hook.configuration, "webhook": hook.name, "mutated": changed});
            let place = format!("round_{round}_index_{index}");
            let audit = &write.cx.admission;
            audit.annotate(format!("mutation.webhook.admission.k8s.io/{place}"), value.to_string());
            match result {
                Ok(_) => {}
                Err(Refusal::Call(why)) if hook.ignore => {
                    tracing::warn!(webhook = hook.name, "failing open: {why}");
                    let key = format!("failed-open.mutation.webhook.admission.k8s.io/{place}");
                    audit.annotate(key, hook.name.as_str());
                    if is_over(write) {
                        return Err(timed_out());
                    }
                }
                Err(Refusal::Call(why)) => return Err(Status::internal(why)),
                Err(Refusal::Status(status)) => return Err(status),
            }
        }
        notes.keep(NAME, |rounds: &mut Rounds| rounds.leave(write.object));
        Ok(())
    }

    /// Asks one webhook and applies its patch; says whether that changed the object.
    async fn ask_one(
        &self,
        write: &mut Write<'_>,
        hook: &Hook,
        endpoint: &Endpoint,
        (shown, old): (Value, Value),
        place: (u8, usize),
    ) -> Result<bool, Refusal> {
        let verdict = ask(&self.clients, hook, write, endpoint, true, (&shown, &old)).await?;
        let Some(patch) = operations(hook, &verdict)? else { return Ok(false) };
        if shown.is_null() {
            let text = format!(
                "admission webhook {} attempted to modify the object, which is not supported for this operation",
                go::quote(&hook.name)
            );
            return Err(Refusal::Status(Status::internal(text)));
        }
        if verdict.patch_type != "JSONPatch" {
            let why = format!("unsupported patch type {}", go::quote(&verdict.patch_type));
            return Err(Refusal::calling(hook, why));
        }
        let mut patched = shown.clone();
        patch::json::apply(&mut patched, &patch).map_err(|e| Refusal::Status(Status::internal(e)))?;
        let changed = patched != shown;
        let value = json!({"configuration": hook.configuration, "webhook": hook.name, "patch": patch,
            "patchType": "JSONPatch"});
        let key = format!("patch.webhook.admission.k8s.io/round_{}_index_{}", place.0, place.1);
        write.cx.admission.annotate(key, value.to_string());
        if changed {
            *write.object = write.interfaces.adopt(patched, endpoint).await.map_err(Refusal::Status)?;
        }
        Ok(changed)
    }
}

/// An object as an endpoint shows it.
pub async fn shown(write: &Write<'_>, object: &Value, endpoint: &Endpoint) -> Result<Value, Refusal> {
    if object.is_null() {
        return Ok(Value::Null);
    }
    let converted = write.interfaces.convert(object, endpoint).await;
    converted.map_err(|status| Refusal::Status(Status::internal(status.message)))
}

/// The operations of a patch, none when there is nothing to do.
fn operations(hook: &Hook, verdict: &Verdict) -> Result<Option<Value>, Refusal> {
    if verdict.patch.is_empty() {
        return Ok(None);
    }
    let patch: Value = serde_json::from_slice(&verdict.patch).map_err(|e| {
        Refusal::calling(hook, format_args!("received undecodable patch in webhook response: {e}"))
    })?;
    match patch.as_array() {
        Some(list) if list.is_empty() => Ok(None),
        Some(_) => Ok(Some(patch)),
        None if patch.is_null() => Ok(None),
        None => {
            let why = "received undecodable patch in webhook response: json: cannot unmarshal object into Go value of type jsonpatch.Patch";
            Err(Refusal::calling(hook, why))
        }
    }
}
