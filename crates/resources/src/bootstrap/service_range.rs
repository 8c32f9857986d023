//! The ServiceCIDR `kubernetes`: the cluster's own range is ready from the start.

use crate::util::value::{list, text};
use http::Method;
use knarr_base::Ctx;
use knarr_client::{Client, Error};
use knarr_meta::time;
use serde_json::{Value, json};

const URL: &str = "/apis/networking.k8s.io/v1/servicecidrs/kubernetes";

/// Marks the range as ready, if nobody has.
pub async fn mark_ready(ctx: &Ctx, client: &Client) -> Result<(), Error> {
    let range = match client.call(Method::GET, URL, &Value::Null).await {
        Ok(json) => json,
        Err(err) if err.is_not_found() => return Ok(()),
        Err(err) => return Err(err),
    };
    let mut range: Value = serde_json::from_slice(&range).map_err(|e| Error::Protocol(e.to_string()))?;
    if list(&range, &["status", "conditions"]).iter().any(|c| text(c, &["type"]) == "Ready") {
        return Ok(());
    }
    range["status"] = json!({"conditions": [{
        "type": "Ready", "status": "True", "reason": "",
        "lastTransitionTime": time::rfc3339(ctx.clock.now()), "message": "Kubernetes Service CIDR is ready",
    }]});
    match client.call(Method::PUT, &format!("{URL}/status"), &range).await {
        Err(err) if !err.is_conflict() => Err(err),
        _ => Ok(()),
    }
}
