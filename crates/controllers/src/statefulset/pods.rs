//! A StatefulSet's pods: names, marks and claims that an ordinal keeps.

use crate::framework::history::REVISION_HASH;
use crate::framework::pod_control::{controller_ref, pod_from};
use knarr_api::Kind;
use knarr_api::apps::v1::StatefulSet;
use knarr_api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};

const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The ordinal in a pod's name, if it is one of this set's names.
pub fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let digits = pod.name().strip_prefix(set.name())?.strip_prefix('-')?;
    let ordinal: i32 = digits.parse().ok()?;
    (ordinal.to_string() == digits).then_some(ordinal)
}

fn claim_name(set: &StatefulSet, template: &str, ordinal: i32) -> String {
    format!("{template}-{}-{ordinal}", set.name())
}

/// The pod for an ordinal, from a template of this revision.
pub fn make(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let name = format!("{}-{ordinal}", set.name());
    let mut pod = pod_from(template, set.namespace(), controller_ref(set));
    pod.metadata.generate_name = None;
    pod.metadata.name = Some(name.clone());
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(POD_NAME.to_owned(), name.clone());
    labels.insert(POD_INDEX.to_owned(), ordinal.to_string());
    labels.insert(REVISION_HASH.to_owned(), revision.to_owned());
    let set_spec = set.spec.clone().unwrap_or_default();
    if let Some(spec) = &mut pod.spec {
        spec.hostname = Some(name);
        spec.subdomain = set_spec.service_name.filter(|n| !n.is_empty());
        let templates = set_spec.volume_claim_templates.iter().flatten();
        let claims: Vec<Volume> = templates
            .map(|claim| Volume {
                name: claim.name().to_owned(),
                persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                    claim_name: claim_name(set, claim.name(), ordinal),
                    read_only: None,
                }),
                ..Volume::default()
            })
            .collect();
        if !claims.is_empty() {
            let volumes = spec.volumes.get_or_insert_default();
            volumes.retain(|v| claims.iter().all(|c| c.name != v.name));
            volumes.extend(claims);
        }
    }
    pod
}

/// The claims of an ordinal. They outlive their pods, so that a pod that comes back finds its data.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let spec = set.spec.clone().unwrap_or_default();
    let templates = spec.volume_claim_templates.into_iter().flatten();
    let claim = |mut claim: PersistentVolumeClaim| {
        claim.metadata.name = Some(claim_name(set, claim.name(), ordinal));
        claim.metadata.namespace = set.metadata.namespace.clone();
        claim
            .metadata
            .labels
            .get_or_insert_default()
            .extend(spec.selector.match_labels.clone().unwrap_or_default());
        claim.status = None;
        claim
    };
    templates.map(claim).collect()
}
