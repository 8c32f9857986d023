//! One webhook is asked: dry runs it does not support, time limits, errors in upstream's words.

use super::hooks::Hook;
use super::review::{self, Verdict};
use knarr_apiserver::admission::{Endpoint, Write};
use knarr_apiserver::webhook::client::DEFAULT_TIMEOUT;
use knarr_apiserver::webhook::{ClientManager, ClusterIps};
use knarr_meta::go;
use knarr_meta::status::{Reason, Status};
use serde_json::Value;
use std::time::Duration;

/// Why a webhook has not let a write pass.
#[derive(Debug)]
pub enum Refusal {
    /// It could not be asked, or its answer is of no use. What that means is the failure policy's to say.
    Call(String),
    /// It refused, or must not be asked at all.
    Status(Status),
}

impl Refusal {
    /// The failure of a call, in upstream's words.
    pub fn calling(hook: &Hook, why: impl std::fmt::Display) -> Self {
        Self::Call(format!("failed calling webhook {}: {why}", go::quote(&hook.name)))
    }

    /// The answer to the request, whatever the failure policy says.
    pub fn into_status(self) -> Status {
        match self {
            Self::Call(why) => Status::internal(why),
            Self::Status(status) => status,
        }
    }
}

/// Asks. `object` and `old` are in the endpoint's form.
pub async fn ask(
    clients: &ClientManager,
    hook: &Hook,
    write: &Write<'_>,
    endpoint: &Endpoint,
    mutating: bool,
    (object, old): (&Value, &Value),
) -> Result<Verdict, Refusal> {
    if write.dry_run() && !matches!(hook.side_effects.as_str(), "None" | "NoneOnDryRun") {
        if hook.side_effects.is_empty() {
            return Err(Refusal::calling(hook, "Webhook SideEffects is nil"));
        }
        let text = format!("admission webhook {} does not support dry run", go::quote(&hook.name));
        return Err(Refusal::Status(Status::bad_request(text)));
    }
    let Some(version) = review::version(&hook.versions) else {
        let why = "could not create admission objects: webhook does not accept known AdmissionReview versions (v1, v1beta1)";
        return Err(Refusal::calling(hook, why));
    };
    let ctx = &write.cx.ctx;
    let uid = ctx.rng.uuid();
    let request = review::request(write, endpoint, version, &uid, (object, old)).to_string();
    let resolver = ClusterIps(write.cx.reader.clone());
    let limit = limit(hook, write);
    let answer = clients.call(ctx, &resolver, &hook.client, request.into(), limit).await;
    let answer = answer.map_err(|e| Refusal::calling(hook, format_args!("failed to call webhook: {e}")))?;
    let review: Value = serde_json::from_slice(&answer).map_err(|e| {
        let why = format_args!("failed to call webhook: couldn't get version/kind; json parse error: {e}");
        Refusal::calling(hook, why)
    })?;
    let verdict = review::verdict(version, &uid, mutating, &review)
        .map_err(|e| Refusal::calling(hook, format_args!("received invalid webhook response: {e}")))?;
    for (key, value) in &verdict.annotations {
        write.cx.admission.annotate(format!("{}/{key}", hook.name), value.clone());
    }
    for warning in &verdict.warnings {
        write.cx.warn(warning.clone());
    }
    if verdict.allowed {
        return Ok(verdict);
    }
    Err(Refusal::Status(denied(&hook.name, &verdict.result)))
}

/// What is left of the webhook's time and the request's.
fn limit(hook: &Hook, write: &Write<'_>) -> Duration {
    let own = hook.timeout.unwrap_or(DEFAULT_TIMEOUT);
    let now = write.cx.ctx.clock.instant();
    let left = write.cx.admission.deadline.map(|deadline| deadline.saturating_duration_since(now));
    left.map_or(own, |left| own.min(left))
}

/// Whether the request itself has run out of time.
pub fn is_over(write: &Write<'_>) -> bool {
    let now = write.cx.ctx.clock.instant();
    write.cx.admission.deadline.is_some_and(|deadline| deadline <= now)
}

/// Upstream's answer to a request that ran out of time in admission.
pub fn timed_out() -> Status {
    Status::timeout("request did not complete within requested timeout", 0)
}

/// The status of a refusal: the webhook's own, made a failure if it is none, its message introduced.
fn denied(hook: &str, result: &Value) -> Status {
    let mut object = result.as_object().cloned().unwrap_or_default();
    object.insert("kind".to_owned(), "Status".into());
    object.insert("apiVersion".to_owned(), "v1".into());
    object.insert("status".to_owned(), "Failure".into());
    let code = result["code"].as_u64().filter(|code| (400..=599).contains(code)).unwrap_or(400);
    object.insert("code".to_owned(), code.into());
    let mut status = Status::from_json(&Value::Object(object))
        .unwrap_or_else(|| Status::new(400, Reason::Unknown, String::new()));
    let reason = result["reason"].as_str().unwrap_or_default();
    let by = format!("admission webhook {} denied the request", go::quote(hook));
    status.message = match (status.message.as_str(), reason) {
        ("", "") => format!("{by} without explanation"),
        ("", why) | (why, _) => format!("{by}: {why}"),
    };
    status
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn refusals_carry_the_webhooks_status() {
        for (result, code, message) in [
            (json!(null), 400, "admission webhook \"h\" denied the request without explanation"),
            (json!({"message": "no"}), 400, "admission webhook \"h\" denied the request: no"),
            (json!({"reason": "Forbidden"}), 400, "admission webhook \"h\" denied the request: Forbidden"),
            (
                json!({"code": 403, "reason": "Forbidden", "message": "no", "status": "Success"}),
                403,
                "admission webhook \"h\" denied the request: no",
            ),
            (json!({"code": 200, "message": "no"}), 400, "admission webhook \"h\" denied the request: no"),
        ] {
            let status = denied("h", &result);
            assert_eq!((status.code, status.message.as_str()), (code, message));
            assert_eq!(status.to_json()["status"], "Failure");
        }
    }
}
