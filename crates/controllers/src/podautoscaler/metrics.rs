//! The metrics APIs (metrics.k8s.io, custom.metrics.k8s.io, external.metrics.k8s.io), which others serve through the
//! aggregator. Where nobody does, the API server's 404 is the error.

use super::calculator::{Measured, Metrics};
use http::Method;
use knarr_client::path::{encode, push_query};
use knarr_client::{Client, Error};
use knarr_meta::quantity::Quantity;
use serde_json::Value;
use std::time::{Duration, SystemTime};

/// What a metrics server averages over if it does not say.
const WINDOW: Duration = Duration::from_secs(60);

/// Reads metrics.
pub struct MetricsClient<'a> {
    /// Asks for them.
    pub client: &'a Client,
    /// Where the target is.
    pub namespace: &'a str,
}

fn milli(value: &Value) -> Option<i64> {
    Quantity::from_json(value).ok().filter(|_| !value.is_null()).map(|q| q.milli_value())
}

fn time(value: &Value) -> SystemTime {
    let parsed = value.as_str().and_then(|text| knarr_meta::time::parse(text).ok());
    parsed.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// A duration as Go writes it: `30s`, `1m0s`, `15.5s`.
fn duration(value: &Value) -> Duration {
    let text = value.as_str().unwrap_or_default();
    let (mut total, mut number) = (0.0, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() || c == '.' {
            number.push(c);
            continue;
        }
        let amount: f64 = std::mem::take(&mut number).parse().unwrap_or_default();
        total += match c {
            'h' => amount * 3600.0,
            'm' => amount * 60.0,
            's' => amount,
            _ => 0.0,
        };
    }
    Duration::from_secs_f64(total)
}

/// What a client of upstream's metrics APIs says of an error: nobody serves a path that is answered without a Status.
fn text(error: &Error, api: &str) -> String {
    match error {
        Error::Api(status) if status.code != 404 => status.message.clone(),
        Error::Protocol(text) if !text.starts_with("HTTP 404") => text.clone(),
        Error::Api(_) | Error::Protocol(_) if api == "resource" => {
            "the server could not find the requested resource (get pods.metrics.k8s.io)".to_owned()
        }
        Error::Api(_) | Error::Protocol(_) => {
            format!("no {api} metrics API ({api}.metrics.k8s.io) registered")
        }
        other => other.to_string(),
    }
}

impl MetricsClient<'_> {
    async fn items(&self, url: &str, api: &str) -> Result<Vec<Value>, String> {
        let fail = |why: String| format!("unable to fetch metrics from {api} metrics API: {why}");
        let answer =
            self.client.call(Method::GET, url, &Value::Null).await.map_err(|e| fail(text(&e, api)))?;
        let answer: Value = serde_json::from_slice(&answer).map_err(|e| fail(e.to_string()))?;
        match answer["items"].as_array() {
            Some(items) if !items.is_empty() => Ok(items.clone()),
            _ => Err(format!("no metrics returned from {api} metrics API")),
        }
    }

    /// The use of a resource by pods, or by one of their containers if it is named.
    pub async fn of_pods(&self, resource: &str, selector: &str, container: &str) -> Result<Metrics, String> {
        let mut url = format!("/apis/metrics.k8s.io/v1beta1/namespaces/{}/pods", encode(self.namespace));
        push_query(&mut url, "labelSelector", selector);
        let items = self.items(&url, "resource").await?;
        Ok(items.iter().filter_map(|item| of_pod(item, resource, container)).collect())
    }

    /// A custom metric of pods.
    pub async fn custom(&self, metric: &str, selector: &str, of_metric: &str) -> Result<Metrics, String> {
        let mut url = format!(
            "/apis/custom.metrics.k8s.io/v1beta2/namespaces/{}/pods/*/{}",
            encode(self.namespace),
            encode(metric)
        );
        push_query(&mut url, "labelSelector", selector);
        if !of_metric.is_empty() {
            push_query(&mut url, "metricLabelSelector", of_metric);
        }
        let items = self.items(&url, "custom").await?;
        let measured = items.iter().filter_map(|item| {
            let window = item["windowSeconds"].as_u64().map_or(WINDOW, Duration::from_secs);
            let measured = Measured { at: time(&item["timestamp"]), window, value: milli(&item["value"])? };
            Some((item["describedObject"]["name"].as_str()?.to_owned(), measured))
        });
        Ok(measured.collect())
    }

    /// A custom metric of one object: its resource (`deployments.apps`) and name.
    pub async fn of_object(
        &self,
        metric: &str,
        resource: &str,
        name: &str,
        of_metric: &str,
    ) -> Result<i64, String> {
        let place = match resource {
            "namespaces" => format!("namespaces/{}/metrics", encode(self.namespace)),
            _ => format!("namespaces/{}/{}/{}", encode(self.namespace), encode(resource), encode(name)),
        };
        let mut url = format!("/apis/custom.metrics.k8s.io/v1beta2/{place}/{}", encode(metric));
        if !of_metric.is_empty() {
            push_query(&mut url, "metricLabelSelector", of_metric);
        }
        let items = self.items(&url, "custom").await?;
        let value = items.first().and_then(|item| milli(&item["value"]));
        value.ok_or_else(|| "no metrics returned from custom metrics API".to_owned())
    }

    /// The sum of an external metric's values.
    pub async fn external(&self, metric: &str, of_metric: &str) -> Result<i64, String> {
        let mut url = format!(
            "/apis/external.metrics.k8s.io/v1beta1/namespaces/{}/{}",
            encode(self.namespace),
            encode(metric)
        );
        if !of_metric.is_empty() {
            push_query(&mut url, "labelSelector", of_metric);
        }
        let items = self.items(&url, "external").await?;
        Ok(items.iter().filter_map(|item| milli(&item["value"])).fold(0, i64::saturating_add))
    }
}

/// Name and use of a pod whose containers were all measured.
fn of_pod(item: &Value, resource: &str, container: &str) -> Option<(String, Measured)> {
    let containers = item["containers"].as_array().filter(|containers| !containers.is_empty())?;
    let usage = |c: &Value| milli(&c["usage"][resource]);
    let value = if container.is_empty() {
        containers.iter().map(usage).sum::<Option<i64>>()?
    } else {
        usage(containers.iter().find(|c| c["name"] == container)?)?
    };
    let measured = Measured { at: time(&item["timestamp"]), window: duration(&item["window"]), value };
    Some((item["metadata"]["name"].as_str()?.to_owned(), measured))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pods_that_were_not_measured_whole_are_left_out() {
        let item = json!({ "metadata": { "name": "p" }, "timestamp": "1970-01-01T00:01:00Z", "window": "1m0.5s",
            "containers": [{ "name": "a", "usage": { "cpu": "100m" } }, { "name": "b", "usage": { "cpu": "2", "memory": "1Ki" } }] });
        let (name, measured) = of_pod(&item, "cpu", "").expect("measured");
        assert_eq!(
            (name.as_str(), measured.value, measured.window),
            ("p", 2100, Duration::from_millis(60_500))
        );
        assert_eq!(of_pod(&item, "cpu", "a").map(|(_, m)| m.value), Some(100));
        assert!(of_pod(&item, "memory", "").is_none());
        assert!(of_pod(&item, "cpu", "c").is_none());
    }
}
