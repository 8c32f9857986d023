//! StatefulSets (apps/v1): pkg/registry/apps/statefulset.

use super::workload;
use crate::core::persistentvolumeclaim as claims;
use crate::core::pod::validation::scheduling::label_selector;
use crate::core::pod::validation::{label_map, template as validate_template};
use crate::core::pod::{defaults, warnings};
use crate::util::value::{each, ensure, object, set_absent, set_default, sub};
use crate::util::{Errs, Items, Number, Pairs, Text, cells};
use knarr_api::apps::v1::{RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetSpec};
use knarr_api::core::v1::{PersistentVolumeClaimVolumeSource, PodTemplateSpec, Volume};
use knarr_apiserver::def::{ResourceDef, Strategy};
use knarr_apiserver::request::RequestCx;
use knarr_meta::field::{ErrorList, Path};
use knarr_meta::selector::LabelSelector as Selector;
use knarr_meta::validate;
use serde_json::{Value, json};
use std::time::SystemTime;

const POLICIES: &[&str] = &["Retain", "Delete"];

struct StatefulSets;

/// What only new objects must fulfil.
#[derive(Clone, Copy, PartialEq)]
enum Stage {
    Create,
    Update,
}

impl Strategy for StatefulSets {
    type Object = StatefulSet;

    fn default(&self, obj: &mut Value) {
        let spec = ensure(object(obj), "spec");
        set_default(spec, "podManagementPolicy", "OrderedReady");
        let strategy = ensure(spec, "updateStrategy");
        if strategy.get("type").is_none_or(|t| t == "" || t.is_null()) {
            strategy.insert("type".to_owned(), "RollingUpdate".into());
            ensure(strategy, "rollingUpdate");
        }
        if strategy["type"] == "RollingUpdate"
            && let Some(rolling) = sub(strategy, "rollingUpdate")
        {
            set_absent(rolling, "partition", 0);
        }
        let retention = ensure(spec, "persistentVolumeClaimRetentionPolicy");
        set_default(retention, "whenDeleted", "Retain");
        set_default(retention, "whenScaled", "Retain");
        set_absent(spec, "replicas", 1);
        set_absent(spec, "revisionHistoryLimit", 10);
        defaults::template(ensure(spec, "template"));
        each(spec, "volumeClaimTemplates", |claim| {
            claims::default(claim);
            claim.insert("apiVersion".to_owned(), "v1".into());
            claim.insert("kind".to_owned(), "PersistentVolumeClaim".into());
        });
    }

    fn prepare_for_create(&self, _cx: &RequestCx, obj: &mut Value) {
        let obj = object(obj);
        obj.insert("status".to_owned(), json!({"replicas": 0, "availableReplicas": 0}));
        drop_max_unavailable(obj);
    }

    fn prepare_for_update(&self, _cx: &RequestCx, new: &mut Value, old: &Value) {
        if old["spec"]["updateStrategy"]["rollingUpdate"].get("maxUnavailable").is_none() {
            drop_max_unavailable(object(new));
        }
    }

    fn validate(&self, _cx: &RequestCx, obj: &StatefulSet) -> ErrorList {
        obj.spec.as_ref().map(|spec| validate_spec(spec, Stage::Create)).unwrap_or_default()
    }

    fn validate_update(&self, _cx: &RequestCx, new: &StatefulSet, old: &StatefulSet) -> ErrorList {
        let (Some(spec), Some(was)) = (&new.spec, &old.spec) else { return ErrorList::default() };
        let mut errs = validate_spec(spec, Stage::Update);
        let kept = StatefulSetSpec {
            replicas: was.replicas,
            template: was.template.clone(),
            update_strategy: was.update_strategy.clone(),
            min_ready_seconds: was.min_ready_seconds,
            ordinals: was.ordinals.clone(),
            revision_history_limit: was.revision_history_limit,
            persistent_volume_claim_retention_policy: was.persistent_volume_claim_retention_policy.clone(),
            ..spec.clone()
        };
        if kept != *was {
            let detail = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden";
            errs.add_forbidden(&Path::new("spec"), detail);
        }
        errs
    }

    fn validate_status_update(&self, _cx: &RequestCx, new: &StatefulSet, old: &StatefulSet) -> ErrorList {
        let (status, old) = (new.status.clone().unwrap_or_default(), old.status.clone().unwrap_or_default());
        let mut errs = ErrorList::default();
        let path = Path::new("status");
        let replicas = i64::from(status.replicas);
        let bounded = [
            ("readyReplicas", status.ready_replicas.number()),
            ("currentReplicas", status.current_replicas.number()),
            ("updatedReplicas", status.updated_replicas.number()),
            ("availableReplicas", status.available_replicas.number()),
        ];
        errs.add_negative(&path.child("replicas"), replicas);
        for (field, count) in bounded {
            errs.add_negative(&path.child(field), count);
        }
        errs.add_negative(&path.child("observedGeneration"), status.observed_generation.number());
        errs.add_negative(&path.child("collisionCount"), status.collision_count.number());
        for (field, count) in bounded {
            if count > replicas {
                errs.add_invalid(&path.child(field), count, "cannot be greater than status.replicas");
            }
        }
        let available = status.available_replicas.number();
        if available > status.ready_replicas.number() {
            let detail = "cannot be greater than status.readyReplicas";
            errs.add_invalid(&path.child("availableReplicas"), available, detail);
        }
        workload::not_decremented(&mut errs, status.collision_count, old.collision_count);
        errs
    }

    fn warnings(&self, _cx: &RequestCx, new: &StatefulSet, old: Option<&StatefulSet>) -> Vec<String> {
        let Some(spec) = &new.spec else { return Vec::new() };
        let path = Path::new("spec");
        let mut out = Vec::new();
        if old.is_none_or(|old| old.spec != new.spec) {
            out.extend(warnings::of_template(&spec.template, &path.child("template")));
        }
        for (i, claim) in spec.volume_claim_templates.items().iter().enumerate() {
            let at = path.child("volumeClaimTemplates").index(i);
            let at = if old.is_some() { at.child("Spec") } else { at };
            out.extend(claim.spec.iter().flat_map(|spec| claims::spec_warnings(spec, &at)));
        }
        if spec.revision_history_limit.number() < 0 {
            out.push("spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended".to_owned());
        }
        out
    }
}

/// The gate MaxUnavailableStatefulSet is off.
fn drop_max_unavailable(obj: &mut serde_json::Map<String, Value>) {
    let strategy = sub(obj, "spec").and_then(|spec| sub(spec, "updateStrategy"));
    if let Some(rolling) = strategy.and_then(|s| sub(s, "rollingUpdate")) {
        rolling.remove("maxUnavailable");
    }
}

fn validate_spec(spec: &StatefulSetSpec, stage: Stage) -> ErrorList {
    let mut errs = ErrorList::default();
    let path = Path::new("spec");
    let at = path.child("podManagementPolicy");
    match spec.pod_management_policy.text() {
        "" => errs.add_required(&at, ""),
        policy => workload::must_be(&mut errs, policy, "OrderedReady", "Parallel", &at),
    }
    update_strategy(&mut errs, spec, &path.child("updateStrategy"));
    if let Some(policy) = &spec.persistent_volume_claim_retention_policy {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for (field, value) in [("whenDeleted", &policy.when_deleted), ("whenScaled", &policy.when_scaled)] {
            if !POLICIES.contains(&value.text()) {
                errs.add_not_supported(&path.child(field), value.text(), POLICIES);
            }
        }
    }
    if stage == Stage::Create {
        for (i, claim) in spec.volume_claim_templates.items().iter().enumerate() {
            let path = path.child("volumeClaimTemplates").index(i).child("spec");
            errs.extend(claims::validate_spec(&claim.spec.clone().unwrap_or_default(), &path));
        }
    }
    errs.add_negative(&path.child("replicas"), spec.replicas.number());
    errs.add_negative(&path.child("minReadySeconds"), spec.min_ready_seconds.number());
    if let Some(ordinals) = &spec.ordinals {
        errs.add_negative(&path.child("ordinals.start"), ordinals.start.number());
    }
    let service = spec.service_name.text();
    if stage == Stage::Create && !service.is_empty() {
        errs.add_all(&path.child("serviceName"), service, validate::dns1123_label(service));
    }
    let at = path.child("selector");
    errs.extend(label_selector(Some(&spec.selector), &at));
    if workload::is_empty(&spec.selector) {
        let detail = "empty selector is invalid for statefulset";
        errs.add_invalid(&at, workload::selector_value(&spec.selector), detail);
    }
    if Selector::from_label_selector(&workload::selector_value(&spec.selector)).is_err() {
        errs.add_invalid(&at, workload::selector_value(&spec.selector), "");
    } else {
        let path = path.child("template");
        let template = with_claims(spec);
        if !workload::is_empty(&spec.selector) {
            workload::selects_template(&mut errs, &spec.selector, &template, &path);
        }
        errs.extend(validate_template(&template, &path));
        if let Some(meta) = &template.metadata {
            errs.extend(label_map(meta.labels.pairs(), &path.child("labels")));
        }
    }
    workload::always_restarts(&mut errs, &spec.template, "StatefulSet", &path.child("template"));
    errs
}

/// The template as its pods will be: with the volumes of the claim templates; names come from the set.
fn with_claims(spec: &StatefulSetSpec) -> PodTemplateSpec {
    let mut template = spec.template.clone();
    let pod = template.spec.get_or_insert_default();
    (pod.subdomain, pod.hostname) = (None, None);
    let claims = spec.volume_claim_templates.items();
    if !claims.is_empty() {
        let names: Vec<&str> = claims.iter().map(|c| c.metadata.name.text()).collect();
        let mut volumes: Vec<Volume> = Vec::new();
        for name in &names {
            if !volumes.iter().any(|v| v.name == *name) {
                let source =
                    PersistentVolumeClaimVolumeSource { claim_name: (*name).to_owned(), read_only: None };
                volumes.push(Volume {
                    name: (*name).to_owned(),
                    persistent_volume_claim: Some(source),
                    ..Volume::default()
                });
            }
        }
        let own = pod.volumes.take().unwrap_or_default();
        volumes.extend(own.into_iter().filter(|v| !names.contains(&v.name.as_str())));
        pod.volumes = Some(volumes);
    }
    template
}

fn update_strategy(errs: &mut ErrorList, spec: &StatefulSetSpec, path: &Path) {
    let strategy = spec.update_strategy.clone().unwrap_or_default();
    match (strategy.type_.text(), &strategy.rolling_update) {
        ("", _) => errs.add_required(path, ""),
        ("OnDelete", Some(rolling)) => {
            let value = serde_json::to_value(rolling).unwrap_or_default();
            let detail = "only allowed for updateStrategy 'RollingUpdate'";
            errs.add_invalid(&path.child("rollingUpdate"), value, detail);
        }
        ("RollingUpdate", Some(rolling)) => rolling_update(errs, rolling, &path.child("rollingUpdate")),
        ("OnDelete" | "RollingUpdate", None) => {}
        _ => {
            let value = serde_json::to_value(&strategy).unwrap_or_default();
            errs.add_invalid(path, value, "must be 'RollingUpdate' or 'OnDelete'");
        }
    }
}

fn rolling_update(errs: &mut ErrorList, rolling: &RollingUpdateStatefulSetStrategy, path: &Path) {
    errs.add_negative(&path.child("partition"), rolling.partition.number());
    if let Some(value) = &rolling.max_unavailable {
        let path = path.child("maxUnavailable");
        workload::positive_int_or_percent(errs, value, &path);
        if workload::amount(Some(value)) == 0 {
            errs.add_invalid(&path, workload::int_or_string(value), "cannot be 0");
        }
        workload::at_most_100_percent(errs, value, &path);
    }
}

fn cells(obj: &Value, now: SystemTime) -> Vec<Value> {
    let (names, images) = cells::containers(&obj["spec"]["template"]["spec"]);
    let ready = format!(
        "{}/{}",
        cells::count(obj, &["status", "readyReplicas"]),
        cells::count(obj, &["spec", "replicas"])
    );
    vec![cells::name(obj), ready.into(), cells::age(obj, now), names, images]
}

/// The declaration.
pub fn def() -> ResourceDef {
    ResourceDef::new(StatefulSets)
        .status()
        .scale(&["spec", "replicas"], &["status", "replicas"], &["spec", "selector"])
        .cells(cells)
        .fixture(include_str!("testdata/statefulset.yaml"))
}
