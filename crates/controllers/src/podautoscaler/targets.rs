//! The kinds of metrics: what is read for each, what it asks for, and what the status says of it.

use super::calculator::{PerPod, PodTarget, Proposal, by_average, by_ratio};
use super::metrics::MetricsClient;
use super::round::Round;
use knarr_api::Quantity as ApiQuantity;
use knarr_api::autoscaling::v2::{
    ContainerResourceMetricStatus, ExternalMetricSource, ExternalMetricStatus, MetricIdentifier, MetricSpec,
    MetricStatus, MetricTarget, MetricValueStatus, ObjectMetricSource, ObjectMetricStatus, PodsMetricSource,
    PodsMetricStatus, ResourceMetricStatus,
};
use knarr_api::core::v1::Pod;
use knarr_meta::quantity::{Format, Quantity};
use knarr_meta::selector::LabelSelector;
use std::sync::Arc;

/// What is scaled.
pub struct Target<'a> {
    /// The selector of its pods.
    pub selector: &'a str,
    /// Its pods.
    pub pods: &'a [Arc<Pod>],
    /// Replicas that it is to have.
    pub current: i32,
    /// Replicas that it has.
    pub running: i32,
}

/// What a metric asks for.
pub struct Found {
    /// Replicas and usage.
    pub proposal: Proposal,
    /// How the metric is called in conditions.
    pub name: String,
    /// For the status.
    pub status: MetricStatus,
}

/// Why a metric could not be used.
pub struct Failure {
    /// For conditions and events.
    pub reason: &'static str,
    /// What happened.
    pub cause: String,
    /// The same, with the metric's name before it.
    pub error: String,
}

fn milli(quantity: &ApiQuantity) -> i64 {
    Quantity::parse(&quantity.0).unwrap_or_default().milli_value()
}

fn quantity(milli: i64, format: Format) -> Option<ApiQuantity> {
    Some(ApiQuantity(Quantity::from_milli(milli, format).to_string()))
}

/// A metric's own selector as a query parameter.
fn selector_of(metric: &MetricIdentifier) -> Result<String, String> {
    let Some(selector) = &metric.selector else { return Ok(String::new()) };
    let value = serde_json::to_value(selector).map_err(|e| e.to_string())?;
    LabelSelector::from_label_selector(&value).map(|s| s.to_string()).map_err(|e| e.to_string())
}

impl Round<'_> {
    fn metrics(&self) -> MetricsClient<'_> {
        MetricsClient { client: &self.controller.start.client, namespace: self.namespace() }
    }

    /// What one metric asks for.
    pub async fn of_metric(&self, spec: &MetricSpec, target: &Target<'_>) -> Result<Found, Failure> {
        let failed = |reason: &'static str, what: String| {
            move |cause: String| Failure {
                reason,
                error: format!("failed to get {what} value: {cause}"),
                cause,
            }
        };
        match (spec.type_.as_str(), spec) {
            ("Resource", MetricSpec { resource: Some(source), .. }) => {
                let what = format!("{} resource metric", source.name);
                let found = self.of_resource(&source.name, "", &source.target, target).await;
                let (proposal, current) = found.map_err(failed("FailedGetResourceMetric", what))?;
                let name = match proposal.utilization {
                    Some(_) => format!("{} resource utilization (percentage of request)", source.name),
                    None => format!("{} resource", source.name),
                };
                let resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
                Ok(Found {
                    proposal,
                    name,
                    status: MetricStatus { type_: "Resource".into(), resource, ..Default::default() },
                })
            }
            ("ContainerResource", MetricSpec { container_resource: Some(source), .. }) => {
                let what = format!("{} container metric", source.container);
                let found = self.of_resource(&source.name, &source.container, &source.target, target).await;
                let (proposal, current) = found.map_err(failed("FailedGetContainerResourceMetric", what))?;
                let name = match proposal.utilization {
                    Some(_) => {
                        format!("{} container resource utilization (percentage of request)", source.name)
                    }
                    None => format!("{} resource", source.name),
                };
                let (container, resource) = (source.container.clone(), source.name.clone());
                let status = ContainerResourceMetricStatus { container, name: resource, current };
                let (type_, container_resource) = ("ContainerResource".into(), Some(status));
                Ok(Found {
                    proposal,
                    name,
                    status: MetricStatus { type_, container_resource, ..Default::default() },
                })
            }
            ("Pods", MetricSpec { pods: Some(source), .. }) => {
                let found = self.of_pods(source, target).await;
                found.map_err(failed("FailedGetPodsMetric", "pods metric".into()))
            }
            ("Object", MetricSpec { object: Some(source), .. }) => {
                let found = self.of_object(source, target).await;
                found.map_err(failed("FailedGetObjectMetric", "object metric".into()))
            }
            ("External", MetricSpec { external: Some(source), .. }) => {
                let what = format!("{} external metric", source.metric.name);
                self.of_external(source, target).await.map_err(failed("FailedGetExternalMetric", what))
            }
            (kind, _) => {
                let cause = format!("unknown metric source type \"{kind}\"");
                Err(Failure { reason: "InvalidMetricSourceType", error: cause.clone(), cause })
            }
        }
    }

    fn pod_target<'t>(&self, target: &Target<'t>, resource: &'t str, container: &'t str) -> PodTarget<'t> {
        let (pods, current) = (target.pods, target.current);
        PodTarget { pods, current, resource, container, tolerances: self.tolerances(), now: self.now }
    }

    async fn of_resource(
        &self,
        resource: &str,
        container: &str,
        wanted: &MetricTarget,
        target: &Target<'_>,
    ) -> Result<(Proposal, MetricValueStatus), String> {
        let (per_pod, what) = match (&wanted.average_value, wanted.average_utilization) {
            (Some(value), _) => (PerPod::Value(milli(value)), "usage"),
            (None, Some(percent)) => (PerPod::Utilization(percent), "utilization"),
            (None, None) => {
                return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".into());
            }
        };
        let fail = |why: String| format!("failed to get {resource} {what}: {why}");
        let metrics = self.metrics().of_pods(resource, target.selector, container).await;
        let metrics =
            metrics.map_err(|why| fail(format!("unable to get metrics for resource {resource}: {why}")))?;
        let proposal =
            self.pod_target(target, resource, container).propose(metrics, per_pod).map_err(fail)?;
        let format = if resource == "memory" { Format::BinarySi } else { Format::DecimalSi };
        let current = MetricValueStatus {
            average_utilization: proposal.utilization,
            average_value: quantity(proposal.usage, format),
            value: None,
        };
        Ok((proposal, current))
    }

    async fn of_pods(&self, source: &PodsMetricSource, target: &Target<'_>) -> Result<Found, String> {
        let name = &source.metric.name;
        let of_metric = selector_of(&source.metric)?;
        let metrics = self.metrics().custom(name, target.selector, &of_metric).await;
        let metrics = metrics.map_err(|why| format!("unable to get metric {name}: {why}"))?;
        let wanted = source.target.average_value.as_ref().map(milli).unwrap_or_default();
        let proposal = self.pod_target(target, "", "").propose(metrics, PerPod::Value(wanted))?;
        let average_value = quantity(proposal.usage, Format::DecimalSi);
        let current = MetricValueStatus { average_value, ..Default::default() };
        let pods = Some(PodsMetricStatus { metric: source.metric.clone(), current });
        let status = MetricStatus { type_: "Pods".into(), pods, ..Default::default() };
        Ok(Found { proposal, name: format!("pods metric {name}"), status })
    }

    /// Replicas for a value in all or for each, with what the status says.
    fn of_value(
        &self,
        usage: i64,
        wanted: &MetricTarget,
        target: &Target<'_>,
    ) -> Result<Option<(Proposal, MetricValueStatus)>, String> {
        let proposal = |replicas, usage| Proposal { replicas, usage, utilization: None };
        if let Some(average) = &wanted.average_value {
            let (replicas, each) = by_average(target.running, usage, milli(average), self.tolerances());
            let average_value = quantity(each, Format::DecimalSi);
            return Ok(Some((
                proposal(replicas, each),
                MetricValueStatus { average_value, ..Default::default() },
            )));
        }
        let Some(value) = &wanted.value else { return Ok(None) };
        let replicas = by_ratio(target.pods, target.current, usage, milli(value), self.tolerances())?;
        let value = quantity(usage, Format::DecimalSi);
        Ok(Some((proposal(replicas, usage), MetricValueStatus { value, ..Default::default() })))
    }

    async fn of_object(&self, source: &ObjectMetricSource, target: &Target<'_>) -> Result<Found, String> {
        let (name, object) = (&source.metric.name, &source.described_object);
        let of_metric = selector_of(&source.metric)?;
        let api_version = object.api_version.clone().unwrap_or_default();
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let path = self.resource(group, &object.kind).await?;
        let resource = if group.is_empty() { path.resource } else { format!("{}.{group}", path.resource) };
        let usage = self.metrics().of_object(name, &resource, &object.name, &of_metric).await;
        let usage = usage.map_err(|why| {
            let (kind, namespace) = (&object.kind, self.namespace());
            format!("unable to get metric {name}: {kind} on {namespace} {}/{why}", object.name)
        })?;
        let found = self.of_value(usage, &source.target, target)?;
        let (proposal, current) = found.ok_or(
            "invalid object metric source: neither a value target nor an average value target was set",
        )?;
        let (metric, described_object) = (source.metric.clone(), object.clone());
        let status = Some(ObjectMetricStatus { current, described_object, metric });
        let status = MetricStatus { type_: "Object".into(), object: status, ..Default::default() };
        Ok(Found { proposal, name: format!("{} metric {name}", object.kind), status })
    }

    async fn of_external(&self, source: &ExternalMetricSource, target: &Target<'_>) -> Result<Found, String> {
        let name = &source.metric.name;
        let of_metric = selector_of(&source.metric)?;
        let fail = |why: String| format!("failed to get {name} external metric: {why}");
        let usage = self.metrics().external(name, &of_metric).await;
        let namespace = self.namespace();
        let usage = usage.map_err(|why| {
            fail(format!("unable to get external metric {namespace}/{name}/{of_metric}: {why}"))
        })?;
        let found = self.of_value(usage, &source.target, target).map_err(fail)?;
        let (proposal, current) = found.ok_or(
            "invalid external metric source: neither a value target nor an average value target was set",
        )?;
        let external = Some(ExternalMetricStatus { current, metric: source.metric.clone() });
        let status = MetricStatus { type_: "External".into(), external, ..Default::default() };
        Ok(Found { proposal, name: format!("external metric {name}"), status })
    }
}
