//! What claims, volumes and classes mean to each other, asked by the controllers, the scheduler and the kubelet alike
//! (upstream keeps these questions in component-helpers/storage/volume).

use crate::Kind;
use crate::core::v1::{
    NodeSelector, NodeSelectorTerm, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, Volume,
};
use crate::meta::v1::{LabelSelector, ObjectMeta};
use crate::storage::v1::StorageClass;
use knarr_meta::quantity::Quantity;
use std::collections::{BTreeMap, BTreeSet};

/// On a claim: its binding was finished once.
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// On a claim or volume: the control plane chose the other side, nobody else.
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
/// On a volume: who made it.
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// On a claim: who is to make a volume for it.
pub const STORAGE_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";
/// The same as long as older provisioners look for it.
pub const BETA_STORAGE_PROVISIONER: &str = "volume.beta.kubernetes.io/storage-provisioner";
/// On a claim: the node for which the scheduler wants a volume.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// On a class: claims without one get it.
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";
const BETA_DEFAULT_CLASS: &str = "storageclass.beta.kubernetes.io/is-default-class";

/// An annotation.
pub fn annotation<'a>(meta: &'a ObjectMeta, key: &str) -> Option<&'a str> {
    meta.annotations.as_ref()?.get(key).map(String::as_str)
}

/// The class of a claim; empty for none.
pub fn class_of_claim(claim: &PersistentVolumeClaim) -> &str {
    let spec = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    annotation(&claim.metadata, BETA_CLASS).or(spec).unwrap_or_default()
}

/// Whether the claim says anything about its class, be it that it wants none.
pub fn claim_has_class(claim: &PersistentVolumeClaim) -> bool {
    annotation(&claim.metadata, BETA_CLASS).is_some()
        || claim.spec.as_ref().is_some_and(|s| s.storage_class_name.is_some())
}

/// The class of a volume; empty for none.
pub fn class_of_volume(volume: &PersistentVolume) -> &str {
    let spec = volume.spec.as_ref().and_then(|s| s.storage_class_name.as_deref());
    annotation(&volume.metadata, BETA_CLASS).or(spec).unwrap_or_default()
}

/// The class for claims that name none: the youngest of those marked, then the first by name.
pub fn default_class<'a>(classes: impl Iterator<Item = &'a StorageClass>) -> Option<&'a StorageClass> {
    let marked = |class: &&StorageClass| {
        [DEFAULT_CLASS, BETA_DEFAULT_CLASS].iter().any(|key| annotation(&class.metadata, key) == Some("true"))
    };
    let time = |class: &StorageClass| class.metadata.creation_timestamp.as_ref().map(|t| t.0);
    classes.filter(marked).min_by(|a, b| time(b).cmp(&time(a)).then_with(|| a.name().cmp(b.name())))
}

/// Whether claims of the class wait until a pod needs them.
pub fn waits_for_consumer(class: Option<&StorageClass>) -> bool {
    class.and_then(|c| c.volume_binding_mode.as_deref()) == Some("WaitForFirstConsumer")
}

/// The claim's phase.
pub fn claim_phase(claim: &PersistentVolumeClaim) -> &str {
    claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// The volume's phase.
pub fn volume_phase(volume: &PersistentVolume) -> &str {
    volume.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("Pending")
}

/// Name of the volume that the claim is bound to or asks for; empty for none.
pub fn volume_name(claim: &PersistentVolumeClaim) -> &str {
    claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).unwrap_or_default()
}

/// Whether a claim is bound for good.
pub fn is_fully_bound(claim: &PersistentVolumeClaim) -> bool {
    !volume_name(claim).is_empty() && annotation(&claim.metadata, BIND_COMPLETED).is_some()
}

/// The claim that a volume refers to.
pub fn claim_ref(volume: &PersistentVolume) -> Option<&ObjectReference> {
    volume.spec.as_ref()?.claim_ref.as_ref()
}

/// Whether the volume is meant for the claim: by name, and by UID where it says one.
pub fn is_for_claim(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    claim_ref(volume).is_some_and(|reference| {
        reference.name.as_deref() == Some(claim.name())
            && reference.namespace.as_deref().unwrap_or_default() == claim.namespace()
            && reference.uid.as_deref().is_none_or(|uid| uid.is_empty() || uid == claim.uid())
    })
}

/// Bytes that a claim asks for.
pub fn requested(claim: &PersistentVolumeClaim) -> Quantity {
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    quantity(requests)
}

/// Bytes that a volume has.
pub fn capacity(volume: &PersistentVolume) -> Quantity {
    quantity(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()))
}

fn quantity(list: Option<&BTreeMap<String, crate::Quantity>>) -> Quantity {
    list.and_then(|l| l.get("storage")).and_then(|q| Quantity::parse(&q.0).ok()).unwrap_or_default()
}

fn modes_of_volume(volume: &PersistentVolume) -> BTreeSet<&str> {
    let modes = volume.spec.as_ref().and_then(|s| s.access_modes.as_ref());
    modes.into_iter().flatten().map(String::as_str).collect()
}

/// Whether the volume has every access mode that the claim asks for.
pub fn covers_access_modes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let has = modes_of_volume(volume);
    let wanted = claim.spec.as_ref().and_then(|s| s.access_modes.as_ref());
    wanted.into_iter().flatten().all(|mode| has.contains(mode.as_str()))
}

/// Whether one is a file system and the other a block device.
pub fn modes_mismatch(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|s| s.volume_mode.as_deref());
    of_volume.unwrap_or("Filesystem") != of_claim.unwrap_or("Filesystem")
}

fn same_attributes(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> bool {
    let of_volume = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    let of_claim = claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.as_deref());
    of_volume.unwrap_or_default() == of_claim.unwrap_or_default()
}

/// Whether a volume that the claim asks for by name can be bound to it; else why not, in upstream's words.
pub fn check(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Result<(), &'static str> {
    if capacity(volume) < requested(claim) {
        Err("requested PV is too small")
    } else if class_of_volume(volume) != class_of_claim(claim) {
        Err("storageClassName does not match")
    } else if !same_attributes(volume, claim) {
        Err("volumeAttributesClassName does not match")
    } else if modes_mismatch(volume, claim) {
        Err("incompatible volumeMode")
    } else if !covers_access_modes(volume, claim) {
        Err("incompatible accessMode")
    } else {
        Ok(())
    }
}

/// The volume for a claim among `volumes`: one that is meant for it, else the smallest that will do, among those with
/// the fewest access modes. The binder asks without a node and leaves claims that wait for a consumer
/// (`delayed`) to the scheduler, which asks with one.
pub fn find_match<'a>(
    claim: &PersistentVolumeClaim,
    volumes: impl Iterator<Item = &'a PersistentVolume>,
    node: Option<&dyn Fn(&PersistentVolume) -> bool>,
    delayed: bool,
) -> Option<&'a PersistentVolume> {
    let (wanted, class) = (requested(claim), class_of_claim(claim));
    let selector = claim.spec.as_ref().and_then(|s| s.selector.as_ref());
    let fits = |volume: &&PersistentVolume| {
        capacity(volume) >= wanted
            && covers_access_modes(volume, claim)
            && !modes_mismatch(volume, claim)
            && same_attributes(volume, claim)
            && volume.metadata.deletion_timestamp.is_none()
    };
    let mut best: Option<(usize, Quantity, &PersistentVolume)> = None;
    for volume in volumes.filter(fits) {
        let near = node.is_none_or(|near| near(volume));
        if is_for_claim(volume, claim) {
            return near.then_some(volume);
        }
        if claim_ref(volume).is_some()
            || (node.is_none() && delayed)
            || !near
            || volume_phase(volume) != "Available"
            || class_of_volume(volume) != class
            || selector.is_some_and(|s| !selects(s, volume.metadata.labels.as_ref()))
        {
            continue;
        }
        let rank = (modes_of_volume(volume).len(), capacity(volume), volume);
        let better = |held: &(usize, Quantity, &PersistentVolume)| {
            (rank.0, &rank.1, rank.2.name()) < (held.0, &held.1, held.2.name())
        };
        if best.as_ref().is_none_or(better) {
            best = Some(rank);
        }
    }
    best.map(|(.., volume)| volume)
}

/// The volume bound to the claim; `None` if it is already.
pub fn bound_to_claim(volume: &PersistentVolume, claim: &PersistentVolumeClaim) -> Option<PersistentVolume> {
    let chosen = !is_for_claim(volume, claim);
    let mut changed = volume.clone();
    let mut dirty = false;
    if claim_ref(volume).is_none_or(|r| r.uid.as_deref() != Some(claim.uid())) || chosen {
        let reference = ObjectReference {
            kind: Some(PersistentVolumeClaim::KIND.to_owned()),
            api_version: Some(PersistentVolumeClaim::API_VERSION.to_owned()),
            namespace: claim.metadata.namespace.clone(),
            name: claim.metadata.name.clone(),
            uid: claim.metadata.uid.clone(),
            resource_version: claim.metadata.resource_version.clone(),
            field_path: None,
        };
        changed.spec.get_or_insert_default().claim_ref = Some(reference);
        dirty = true;
    }
    if chosen && annotation(&volume.metadata, BOUND_BY_CONTROLLER).is_none() {
        let annotations = changed.metadata.annotations.get_or_insert_default();
        annotations.insert(BOUND_BY_CONTROLLER.to_owned(), "yes".to_owned());
        dirty = true;
    }
    dirty.then_some(changed)
}

/// Name of the claim that a pod's volume uses, be it one of its own (a generic ephemeral volume, KEP-1698).
pub fn claim_name(pod: &Pod, volume: &Volume) -> Option<String> {
    match (&volume.persistent_volume_claim, &volume.ephemeral) {
        (Some(source), _) => Some(source.claim_name.clone()),
        (None, Some(_)) => Some(format!("{}-{}", pod.name(), volume.name)),
        _ => None,
    }
}

/// Whether a claim was made for the pod; else upstream's words.
pub fn is_for_pod(pod: &Pod, claim: &PersistentVolumeClaim) -> Result<(), String> {
    let owners = claim.metadata.owner_references.iter().flatten();
    let mut controllers = owners.filter(|o| o.controller == Some(true));
    if controllers.any(|o| o.uid == pod.uid()) {
        return Ok(());
    }
    Err(format!(
        "PVC {}/{} was not created for pod {}/{} (pod is not owner)",
        claim.namespace(),
        claim.name(),
        pod.namespace(),
        pod.name()
    ))
}

/// Whether a node with these labels and this name can reach the volume.
pub fn reaches(volume: &PersistentVolume, labels: &BTreeMap<String, String>, node: &str) -> bool {
    let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
    affinity.and_then(|a| a.required.as_ref()).is_none_or(|required| selects_node(required, labels, node))
}

/// Whether a node meets a selector: one of its terms.
pub fn selects_node(selector: &NodeSelector, labels: &BTreeMap<String, String>, node: &str) -> bool {
    selector.node_selector_terms.iter().any(|term| meets_term(term, labels, node))
}

fn meets_term(term: &NodeSelectorTerm, labels: &BTreeMap<String, String>, node: &str) -> bool {
    let expressions = term.match_expressions.iter().flatten();
    let fields = term.match_fields.iter().flatten();
    let mut all = expressions
        .map(|r| meets(labels.get(&r.key).map(String::as_str), &r.operator, r.values.as_deref()))
        .chain(
            fields
                .map(|r| meets((r.key == "metadata.name").then_some(node), &r.operator, r.values.as_deref())),
        )
        .peekable();
    all.peek().is_some() && all.all(|met| met)
}

fn meets(value: Option<&str>, operator: &str, values: Option<&[String]>) -> bool {
    let values = values.unwrap_or_default();
    let listed = value.is_some_and(|v| values.iter().any(|w| w == v));
    let compared = || {
        let number = |text: &str| text.parse::<i64>().ok();
        Some(number(value?)?.cmp(&number(values.first()?)?))
    };
    match operator {
        "In" => listed,
        "NotIn" => !listed,
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compared() == Some(std::cmp::Ordering::Greater),
        "Lt" => compared() == Some(std::cmp::Ordering::Less),
        _ => false,
    }
}

fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let value = |key: &str| labels.and_then(|l| l.get(key)).map(String::as_str);
    selector.match_labels.iter().flatten().all(|(k, v)| value(k) == Some(v))
        && selector
            .match_expressions
            .iter()
            .flatten()
            .all(|r| meets(value(&r.key), &r.operator, r.values.as_deref()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(spec: Value) -> PersistentVolumeClaim {
        let mut spec = spec;
        let fields = spec.as_object_mut().unwrap();
        fields.entry("accessModes").or_insert(json!(["ReadWriteOnce"]));
        fields.entry("resources").or_insert(json!({"requests": {"storage": "1Gi"}}));
        let object = json!({"metadata": {"name": "data", "namespace": "ns", "uid": "u1"}, "spec": spec});
        Kind::from_value(&object).unwrap()
    }

    fn volume(name: &str, size: &str, spec: Value) -> PersistentVolume {
        let mut spec = spec;
        let fields = spec.as_object_mut().unwrap();
        fields.entry("accessModes").or_insert(json!(["ReadWriteOnce"]));
        fields.insert("capacity".to_owned(), json!({"storage": size}));
        let labels = spec["labels"].clone();
        let object = json!({"metadata": {"name": name, "labels": labels}, "spec": spec,
            "status": {"phase": "Available"}});
        Kind::from_value(&object).unwrap()
    }

    #[test]
    fn the_smallest_volume_that_will_do_is_found() {
        let to = |name: &str, uid: &str| json!({"claimRef": {"namespace": "ns", "name": name, "uid": uid}});
        let many = json!({"accessModes": ["ReadWriteOnce", "ReadWriteMany"]});
        let cases: Vec<(&str, PersistentVolumeClaim, Vec<PersistentVolume>, Option<&str>)> = vec![
            (
                "the smallest",
                claim(json!({})),
                vec![volume("a", "3Gi", json!({})), volume("b", "2Gi", json!({}))],
                Some("b"),
            ),
            ("one too small", claim(json!({})), vec![volume("a", "512Mi", json!({}))], None),
            (
                "fewer access modes go before size",
                claim(json!({})),
                vec![volume("a", "1Gi", many.clone()), volume("b", "5Gi", json!({}))],
                Some("b"),
            ),
            (
                "all access modes are needed",
                claim(json!({"accessModes": ["ReadWriteMany"]})),
                vec![volume("a", "1Gi", json!({})), volume("b", "5Gi", many)],
                Some("b"),
            ),
            (
                "one that is meant for the claim goes first",
                claim(json!({})),
                vec![volume("a", "1Gi", json!({})), volume("b", "9Gi", to("data", ""))],
                Some("b"),
            ),
            ("one meant for a namesake", claim(json!({})), vec![volume("a", "1Gi", to("data", "u0"))], None),
            ("one meant for another", claim(json!({})), vec![volume("a", "1Gi", to("other", ""))], None),
            (
                "classes must be the same",
                claim(json!({"storageClassName": "fast"})),
                vec![volume("a", "1Gi", json!({})), volume("b", "2Gi", json!({"storageClassName": "fast"}))],
                Some("b"),
            ),
            (
                "modes must be the same",
                claim(json!({"volumeMode": "Block"})),
                vec![volume("a", "1Gi", json!({}))],
                None,
            ),
            (
                "the selector",
                claim(json!({"selector": {"matchLabels": {"tier": "x"}}})),
                vec![volume("a", "1Gi", json!({})), volume("b", "2Gi", json!({"labels": {"tier": "x"}}))],
                Some("b"),
            ),
        ];
        for (what, claim, volumes, expected) in cases {
            let found = find_match(&claim, volumes.iter(), None, false);
            assert_eq!(found.map(Kind::name), expected, "{what}");
        }
        let volumes = [volume("a", "1Gi", json!({}))];
        assert!(find_match(&claim(json!({})), volumes.iter(), None, true).is_none(), "the scheduler's");
        assert!(find_match(&claim(json!({})), volumes.iter(), Some(&|_| false), true).is_none());
        assert!(find_match(&claim(json!({})), volumes.iter(), Some(&|_| true), true).is_some());
    }

    #[test]
    fn a_binding_says_who_chose() {
        let claim = claim(json!({}));
        let by_us = bound_to_claim(&volume("a", "1Gi", json!({})), &claim).unwrap();
        assert_eq!(annotation(&by_us.metadata, BOUND_BY_CONTROLLER), Some("yes"));
        assert_eq!(claim_ref(&by_us).unwrap().uid.as_deref(), Some("u1"));
        assert!(bound_to_claim(&by_us, &claim).is_none());
        let by_user = volume("a", "1Gi", json!({"claimRef": {"namespace": "ns", "name": "data"}}));
        let bound = bound_to_claim(&by_user, &claim).unwrap();
        assert_eq!(annotation(&bound.metadata, BOUND_BY_CONTROLLER), None);
        assert_eq!(claim_ref(&bound).unwrap().uid.as_deref(), Some("u1"));
    }

    #[test]
    fn the_youngest_default_class_counts() {
        let class = |name: &str, marked: &str, time: &str| -> StorageClass {
            let meta = json!({"name": name, "creationTimestamp": time,
                "annotations": {"storageclass.kubernetes.io/is-default-class": marked}});
            Kind::from_value(&json!({"metadata": meta, "provisioner": "p"})).unwrap()
        };
        let classes = [
            class("old", "true", "2020-01-01T00:00:00Z"),
            class("new-b", "true", "2021-01-01T00:00:00Z"),
            class("new-a", "true", "2021-01-01T00:00:00Z"),
            class("unmarked", "false", "2022-01-01T00:00:00Z"),
        ];
        assert_eq!(default_class(classes.iter()).map(Kind::name), Some("new-a"));
    }
}
