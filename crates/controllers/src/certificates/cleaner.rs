//! csrcleaner: deletes requests that are done with: an hour after a decision, a day after the request when nobody
//! decides or signs, and when the certificate has expired.

use super::is_issued;
use crate::framework::time::system_time;
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::certificates::v1::CertificateSigningRequest;
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{DeleteOptions, Error, Informer, WorkQueue};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How long a decided request is kept.
const DECIDED: Duration = Duration::from_secs(3600);
/// How long one is kept that waits.
const WAITING: Duration = Duration::from_secs(24 * 3600);

struct Cleaner {
    start: Start,
    requests: Informer<CertificateSigningRequest>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let requests = start.informers.get::<CertificateSigningRequest>();
    let queue = WorkQueue::new(start.ctx.clone());
    let on_request = queue.clone();
    requests.on_change(move |change: &Change<CertificateSigningRequest>| {
        if change.new.is_some() {
            on_request.add(Key::of(&change.object().metadata));
        }
    });
    let ready = {
        let requests = requests.clone();
        async move { requests.synced().await }
    };
    let controller = Arc::new(Cleaner { start: start.clone(), requests });
    run(&start, "csrcleaner", 1, queue, ready, controller);
}

/// When the request is to go.
fn expiry(csr: &CertificateSigningRequest) -> Option<SystemTime> {
    let conditions = csr.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    if conditions.is_empty() {
        return csr.metadata.creation_timestamp.as_ref().map(|made| system_time(made) + WAITING);
    }
    let ends = conditions.iter().filter_map(|condition| {
        let kept = match condition.type_.as_str() {
            "Denied" | "Failed" => DECIDED,
            "Approved" if is_issued(csr) => DECIDED,
            "Approved" => WAITING,
            _ => return None,
        };
        Some(system_time(condition.last_update_time.as_ref()?) + kept)
    });
    let approved = conditions.iter().any(|c| c.type_ == "Approved");
    ends.chain(certificate_end(csr).filter(|_| approved)).min()
}

fn certificate_end(csr: &CertificateSigningRequest) -> Option<SystemTime> {
    let pem = csr.status.as_ref()?.certificate.as_ref()?;
    let (_, block) = x509_parser::pem::parse_x509_pem(&pem.0).ok()?;
    let end = block.parse_x509().ok()?.validity().not_after.timestamp();
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(end).unwrap_or_default()))
}

impl Reconcile for Cleaner {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(csr) = self.requests.get_key(key) else { return Ok(Next::Done) };
            let Some(expiry) = expiry(&csr) else { return Ok(Next::Done) };
            let left = expiry.duration_since(self.start.ctx.clock.now()).unwrap_or_default();
            if !left.is_zero() {
                return Ok(Next::After(left));
            }
            let options = DeleteOptions { uid: csr.metadata.uid.clone(), ..DeleteOptions::default() };
            match self.start.client.delete::<CertificateSigningRequest>("", &key.name, &options).await {
                Err(error) if !error.is_not_found() => Err(error),
                _ => Ok(Next::Done),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_api::Kind;
    use serde_json::json;

    #[test]
    fn requests_go_when_they_are_done_with() {
        let condition = |kind: &str| json!([{ "type": kind, "status": "True", "lastUpdateTime": "1970-01-01T10:00:00Z" }]);
        let hours = |hours: u64| Some(SystemTime::UNIX_EPOCH + Duration::from_secs(hours * 3600));
        let cases = [
            (json!({}), hours(24)),
            (json!({ "conditions": condition("Denied") }), hours(11)),
            (json!({ "conditions": condition("Failed") }), hours(11)),
            (json!({ "conditions": condition("Approved") }), hours(34)),
            (json!({ "conditions": condition("Approved"), "certificate": "eA==" }), hours(11)),
            (json!({ "conditions": condition("Noted") }), None),
        ];
        for (status, wanted) in cases {
            let csr = json!({ "metadata": { "name": "c", "creationTimestamp": "1970-01-01T00:00:00Z" },
                "spec": { "request": "", "signerName": "x.y/z" }, "status": status });
            let csr = CertificateSigningRequest::from_value(&csr).expect("a request");
            assert_eq!(expiry(&csr), wanted, "{csr:?}");
        }
    }
}
