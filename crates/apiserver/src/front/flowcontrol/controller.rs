//! Keeps flow control and its configuration objects together: takes over what changes, tells flow schemas whether
//! their level exists (`Dangling`), adjusts seats to demand, and keeps the mandatory and suggested objects as they
//! should be (upstream's config consumer and config producer).

use super::config::Dangling;
use super::{FlowControl, GROUP};
use http::Method;
use knarr_api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use knarr_client::informer::{Informer, Informers};
use knarr_client::{Client, Error, Patch, ResourcePath};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// How often seats are adjusted to demand.
const ADJUSTMENT: Duration = Duration::from_secs(10);
/// How often the initial objects are compared with what there is.
const ENSURE: Duration = Duration::from_secs(60);
/// A condition is written at most this often in a minute: other servers may see things differently.
const WRITES_A_MINUTE: usize = 6;
/// Who writes conditions.
const CONSUMER: &str = "api-priority-and-fairness-config-consumer-v1";
/// Who writes the initial objects.
const PRODUCER: &str = "api-priority-and-fairness-config-producer-v1";
/// Says whether an initial object's spec is kept as upstream's.
const AUTOUPDATE: &str = "apf.kubernetes.io/autoupdate-spec";

struct Objects {
    schemas: Informer<FlowSchema>,
    levels: Informer<PriorityLevelConfiguration>,
}

impl FlowControl {
    /// Adjusts seats, and follows the configuration if it is `served`. Never ends.
    pub async fn run(self: Arc<Self>, client: Client, served: bool) {
        if !served {
            loop {
                self.ctx.clock.sleep(ADJUSTMENT).await;
                self.levels().adjust();
            }
        }
        let changed = Arc::new(Notify::new());
        let informers = Informers::new(client.clone());
        let objects = Objects { schemas: informers.get(), levels: informers.get() };
        objects.schemas.synced().await;
        objects.levels.synced().await;
        let tell = changed.clone();
        objects.schemas.on_change(move |_| tell.notify_one());
        let tell = changed.clone();
        objects.levels.on_change(move |_| tell.notify_one());
        changed.notify_one();
        let mut written: HashMap<String, VecDeque<Instant>> = HashMap::new();
        let mut adjust = self.ctx.clock.sleep(ADJUSTMENT);
        let mut ensure = self.ctx.clock.sleep(ENSURE);
        loop {
            tokio::select! {
                () = changed.notified() => self.take(&client, &objects, &mut written).await,
                () = self.drained.notified() => changed.notify_one(),
                () = &mut adjust => {
                    adjust = self.ctx.clock.sleep(ADJUSTMENT);
                    self.levels().adjust();
                }
                () = &mut ensure => {
                    ensure = self.ctx.clock.sleep(ENSURE);
                    if let Err(error) = ensure_initial(&client, &objects).await {
                        tracing::warn!(%error, "initial flow control objects could not be written");
                    }
                    // Conditions that were put off or refused are tried again.
                    changed.notify_one();
                }
            }
        }
    }

    /// Takes over the objects as they are.
    async fn take(
        &self,
        client: &Client,
        objects: &Objects,
        written: &mut HashMap<String, VecDeque<Instant>>,
    ) {
        let (digest, dangling) = self.levels().digest(&objects.levels.list(""), &objects.schemas.list(""));
        self.digest.store(Arc::new(digest));
        for wanted in dangling {
            let now = self.ctx.clock.instant();
            let recent = written.entry(wanted.schema.clone()).or_default();
            recent.retain(|at| now.saturating_duration_since(*at) < Duration::from_secs(60));
            if recent.len() >= WRITES_A_MINUTE {
                continue;
            }
            recent.push_back(now);
            match client.patch::<FlowSchema>("", &wanted.schema, "status", &self.condition(&wanted)).await {
                Ok(_) => {}
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    tracing::warn!(%error, schema = wanted.schema, "a flow schema's condition could not be written");
                }
            }
        }
        written.retain(|_, recent| !recent.is_empty());
    }

    fn condition(&self, wanted: &Dangling) -> Patch {
        let now = knarr_meta::time::rfc3339(self.ctx.clock.now());
        let object = json!({
            "apiVersion": format!("{GROUP}/v1"),
            "kind": "FlowSchema",
            "metadata": {"name": wanted.schema},
            "status": {"conditions": [{
                "type": "Dangling",
                "status": wanted.status,
                "reason": wanted.reason,
                "message": wanted.message,
                "lastTransitionTime": now,
            }]},
        });
        Patch::Apply { object, field_manager: CONSUMER.to_owned(), force: true }
    }
}

/// Creates initial objects that are missing, brings those back to their spec that are to be kept, and removes
/// those that are no longer among them.
async fn ensure_initial(client: &Client, objects: &Objects) -> Result<(), Error> {
    let mut held: HashMap<(&str, String), Value> = HashMap::new();
    let value = |object: Result<Value, serde_json::Error>| object.unwrap_or_default();
    for schema in objects.schemas.list("") {
        let name = schema.metadata.name.clone().unwrap_or_default();
        held.insert(("FlowSchema", name), value(serde_json::to_value(&*schema)));
    }
    for level in objects.levels.list("") {
        let name = level.metadata.name.clone().unwrap_or_default();
        held.insert(("PriorityLevelConfiguration", name), value(serde_json::to_value(&*level)));
    }
    let initial = knarr_api::facts::initial_objects().into_iter();
    let initial: Vec<Value> = initial.filter(|o| o["apiVersion"] == format!("{GROUP}/v1")).collect();
    for wanted in &initial {
        let kind = wanted["kind"].as_str().unwrap_or_default();
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let write = match held.remove(&(kind, name.clone())) {
            None => Some((Method::POST, url(kind, ""), without_status(wanted))),
            Some(live) => revised(wanted, &live).map(|object| (Method::PUT, url(kind, &name), object)),
        };
        if let Some((method, url, object)) = write {
            allow_race(client.call(method, &format!("{url}?fieldManager={PRODUCER}"), &object).await)?;
        }
    }
    for ((kind, name), live) in held {
        if live["metadata"]["annotations"][AUTOUPDATE].as_str().and_then(truth) == Some(true) {
            allow_race(client.call(Method::DELETE, &url(kind, &name), &Value::Null).await)?;
        }
    }
    Ok(())
}

/// Somebody else was quicker, which is as good.
fn allow_race<T>(result: Result<T, Error>) -> Result<(), Error> {
    match result {
        Err(error) if !error.is_conflict() && !error.is_not_found() => Err(error),
        _ => Ok(()),
    }
}

fn url(kind: &str, name: &str) -> String {
    let resource =
        if kind == "FlowSchema" { "flowschemas" } else { "prioritylevelconfigurations" }.to_owned();
    ResourcePath { group: GROUP.to_owned(), version: "v1".to_owned(), resource }.url("", name, "")
}

fn without_status(object: &Value) -> Value {
    let mut object = object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.remove("status");
    }
    object
}

/// How Go reads a boolean.
fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// The live object with what it should have; `None` if it is as it should be.
fn revised(wanted: &Value, live: &Value) -> Option<Value> {
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let mandatory = matches!(name, super::config::EXEMPT | super::config::CATCH_ALL);
    let annotated = live["metadata"]["annotations"][AUTOUPDATE].as_str().and_then(truth);
    // Whoever changed a suggested object without saying so keeps it.
    let untouched = live["metadata"]["generation"].as_i64() == Some(1);
    let keep = mandatory || annotated.unwrap_or(untouched);
    let mut spec = wanted["spec"].clone();
    if name == super::config::EXEMPT && live["spec"]["exempt"].is_object() {
        // How much it may lend is the administrator's.
        spec["exempt"] = live["spec"]["exempt"].clone();
    }
    let differs = keep && spec != live["spec"];
    if !differs && annotated == Some(keep) {
        return None;
    }
    let mut object = live.clone();
    object["kind"] = wanted["kind"].clone();
    object["apiVersion"] = wanted["apiVersion"].clone();
    if differs {
        object["spec"] = spec;
    }
    if !object["metadata"]["annotations"].is_object() {
        object["metadata"]["annotations"] = json!({});
    }
    object["metadata"]["annotations"][AUTOUPDATE] = keep.to_string().into();
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mandatory_objects_are_mended_and_suggested_ones_unless_somebody_changed_them() {
        let object = |name: &str, annotation: Option<&str>, generation: i64, spec: Value| {
            let annotations = annotation.map_or(json!({}), |text| json!({AUTOUPDATE: text}));
            json!({"kind": "FlowSchema", "apiVersion": "v", "spec": spec,
                "metadata": {"name": name, "annotations": annotations, "generation": generation}})
        };
        let (right, wrong) = (json!({"matchingPrecedence": 1}), json!({"matchingPrecedence": 2}));
        // name, annotation, generation, spec -> spec and annotation written, if anything
        for (name, annotation, generation, spec, want) in [
            ("catch-all", Some("true"), 1, &right, None),
            ("catch-all", Some("false"), 2, &wrong, Some((&right, "true"))),
            ("global-default", Some("true"), 2, &right, None),
            ("global-default", Some("true"), 2, &wrong, Some((&right, "true"))),
            ("global-default", Some("false"), 2, &wrong, None),
            ("global-default", None, 2, &wrong, Some((&wrong, "false"))),
            ("global-default", None, 1, &wrong, Some((&right, "true"))),
            ("global-default", Some("maybe"), 1, &right, Some((&right, "true"))),
        ] {
            let wanted = object(name, Some("true"), 0, right.clone());
            let written = revised(&wanted, &object(name, annotation, generation, spec.clone()));
            let written =
                written.map(|o| (o["spec"].clone(), o["metadata"]["annotations"][AUTOUPDATE].clone()));
            assert_eq!(
                written,
                want.map(|(spec, text)| (spec.clone(), text.into())),
                "{name} {annotation:?} {generation} {spec}"
            );
        }
        let wanted = json!({"metadata": {"name": "exempt"}, "spec": {"type": "Exempt", "exempt": {"lendablePercent": 0}}});
        let live = json!({"metadata": {"name": "exempt", "annotations": {AUTOUPDATE: "true"}}, "spec": {"type": "Exempt", "exempt": {"lendablePercent": 50}}});
        assert_eq!(revised(&wanted, &live), None, "what exempt lends is the administrator's");
    }
}
