//! How long the certificates are good for and how often none could be had, under the names of upstream's kubelet.

use super::{Identity, Use, facts};
use knarr_base::{ClockRef, Ctx};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use std::sync::{Arc, Weak};

/// Seconds left, worked out when somebody looks.
struct Left {
    identity: Weak<Identity>,
    clock: ClockRef,
}

impl std::fmt::Debug for Left {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Left(..)")
    }
}

/// Seconds until the certificate ends, negative if it has; infinite if there is none.
fn left(identity: &Identity, which: Use, clock: &ClockRef) -> f64 {
    let held = identity.held(which).get();
    let Some(Ok((_, until, _))) = held.as_deref().map(facts) else { return f64::INFINITY };
    let left = match until.duration_since(clock.now()) {
        Ok(left) => left.as_secs_f64(),
        Err(over) => -over.duration().as_secs_f64(),
    };
    left.trunc()
}

impl Collector for Left {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let Some(identity) = self.identity.upgrade() else { return Ok(()) };
        for (which, name, help) in [
            (
                Use::Client,
                "kubelet_certificate_manager_client_ttl_seconds",
                "Gauge of the TTL (time-to-live) of the Kubelet's client certificate",
            ),
            (
                Use::Server,
                "kubelet_certificate_manager_server_ttl_seconds",
                "Gauge of the shortest TTL (time-to-live) of the Kubelet's serving certificate",
            ),
        ] {
            let gauge = ConstGauge::new(left(&identity, which, &self.clock));
            gauge.encode(encoder.encode_descriptor(name, help, None, MetricType::Gauge)?)?;
        }
        Ok(())
    }
}

/// Registers them; the counts of failures of both, the client's first. They are gauges for the sake of their names, which
/// upstream's alerts go by: a counter's would get `_total`.
pub(super) fn register(identity: &Arc<Identity>, ctx: &Ctx) -> [Gauge; 2] {
    let left = Left { identity: Arc::downgrade(identity), clock: ctx.clock.clone() };
    ctx.metrics.register_collector(Box::new(left));
    ["kubelet_certificate_manager_client_expiration_renew_errors", "kubelet_server_expiration_renew_errors"]
        .map(|name| ctx.metrics.register(name, "Counter of certificate renewal errors", Gauge::default()))
}
