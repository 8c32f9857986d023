//! A volume for a claim, and more room for a claim that has one.

use super::{FINALIZER, LocalPath, ON_NODE, PROVISIONER};
use crate::expand::granted;
use knarr_api::Kind;
use knarr_api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use knarr_api::storage::v1::StorageClass;
use knarr_api::volume::{self, PROVISIONED_BY, SELECTED_NODE, annotation};
use knarr_client::Error;
use knarr_client::recorder::reference;
use serde_json::{Value, json};

const HOSTNAME: &str = "kubernetes.io/hostname";

/// What keeps a claim from getting a volume.
#[derive(Debug, PartialEq, Eq)]
enum Refusal {
    /// It never will.
    Spec(String),
    /// There is no node to make it on at the moment.
    NoNode,
    /// The chosen node is gone; another must be chosen.
    NodeGone,
}

impl LocalPath {
    pub(super) async fn sync_claim(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        if claim.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        if !volume::volume_name(claim).is_empty() {
            return self.expand(claim).await;
        }
        let name = format!("pvc-{}", claim.uid());
        let Some(class) = self.classes.get("", volume::class_of_claim(claim)) else { return Ok(()) };
        if class.provisioner != PROVISIONER || self.volumes.get("", &name).is_some() {
            return Ok(());
        }
        let about = reference(claim);
        let failed = |why: &str| {
            let message = format!("failed to provision volume with StorageClass {:?}: {why}", class.name());
            self.recorder.warning(&about, "ProvisioningFailed", message);
        };
        let node = match refusal(claim, &class).map_or_else(|| self.node_for(claim, &class), Err) {
            Ok(Some(node)) => node,
            Ok(None) => return Ok(()),
            Err(Refusal::Spec(why)) => {
                failed(&why);
                return Ok(());
            }
            Err(Refusal::NoNode) => {
                failed("no node is ready for it");
                return Err(Error::Protocol("no node is ready for a volume".to_owned()));
            }
            Err(Refusal::NodeGone) => {
                failed("the selected node is gone");
                let mut changed = claim.clone();
                changed.metadata.annotations.get_or_insert_default().remove(SELECTED_NODE);
                return self.client.update(&changed).await.map(drop);
            }
        };
        let text = format!(
            "External provisioner is provisioning volume for claim \"{}/{}\"",
            claim.namespace(),
            claim.name()
        );
        self.recorder.normal(&about, "Provisioning", text);
        let path = match self.make_directory(node.name(), &name).await {
            Ok(path) => path,
            Err(error) => {
                failed(&error.to_string());
                return Err(error);
            }
        };
        let volume = new_volume(&name, &path, claim, &class, &node);
        let volume = PersistentVolume::from_value(&volume).map_err(|e| Error::Protocol(e.to_string()))?;
        match self.client.create(&volume).await {
            Ok(_) => {
                self.recorder.normal(
                    &about,
                    "ProvisioningSucceeded",
                    format!("Successfully provisioned volume {name}"),
                );
                Ok(())
            }
            Err(error) if error.is_conflict() => Ok(()),
            Err(error) => {
                failed(&error.to_string());
                let _ = self.remove_directory(node.name(), &name).await;
                Err(error)
            }
        }
    }

    /// The node to make the volume on; `None` while the scheduler has not chosen.
    fn node_for(
        &self,
        claim: &PersistentVolumeClaim,
        class: &StorageClass,
    ) -> Result<Option<std::sync::Arc<Node>>, Refusal> {
        if let Some(chosen) = annotation(&claim.metadata, SELECTED_NODE) {
            return self.nodes.get("", chosen).map(Some).ok_or(Refusal::NodeGone);
        }
        if volume::waits_for_consumer(Some(class)) {
            return Ok(None);
        }
        // Nobody waits for a consumer: the node that has the fewest.
        let on = |node: &Node| {
            let volumes = self.volumes.list("");
            volumes.iter().filter(|v| annotation(&v.metadata, ON_NODE) == Some(node.name())).count()
        };
        let nodes = self.nodes.list("").into_iter().filter(|node| takes(node, class));
        let best = nodes.min_by_key(|node| (on(node), node.name().to_owned()));
        best.map(Some).ok_or(Refusal::NoNode)
    }

    /// The room of a directory is what its volume says, so that more of it needs nothing but to be written down.
    async fn expand(&self, claim: &PersistentVolumeClaim) -> Result<(), Error> {
        let Some(volume) = self.volumes.get("", volume::volume_name(claim)) else { return Ok(()) };
        let wanted = volume::requested(claim);
        let ours = annotation(&volume.metadata, PROVISIONED_BY) == Some(PROVISIONER)
            && volume::claim_ref(&volume).is_some_and(|r| r.uid.as_deref() == Some(claim.uid()));
        if !ours || volume::claim_phase(claim) != "Bound" || wanted <= granted(claim) {
            return Ok(());
        }
        let amount = wanted.to_json();
        if volume::capacity(&volume) < wanted {
            let mut changed = (*volume).clone();
            let text = amount.as_str().unwrap_or_default().to_owned();
            let capacity = changed.spec.get_or_insert_default().capacity.get_or_insert_default();
            capacity.insert("storage".to_owned(), knarr_api::Quantity(text));
            self.client.update(&changed).await?;
        }
        let mut changed = claim.clone();
        let text = amount.as_str().unwrap_or_default().to_owned();
        let capacity = changed.status.get_or_insert_default().capacity.get_or_insert_default();
        capacity.insert("storage".to_owned(), knarr_api::Quantity(text));
        self.client.update_status(&changed).await?;
        self.recorder.normal(&reference(claim), "VolumeResizeSuccessful", "Resize volume succeeded");
        Ok(())
    }
}

/// What of the claim a directory cannot be.
fn refusal(claim: &PersistentVolumeClaim, class: &StorageClass) -> Option<Refusal> {
    let spec = claim.spec.as_ref()?;
    let modes = || spec.access_modes.iter().flatten().map(String::as_str);
    let why = if spec.volume_mode.as_deref() == Some("Block") {
        "block volumes are not supported"
    } else if modes().any(|mode| !matches!(mode, "ReadWriteOnce" | "ReadWriteOncePod")) {
        "only the access modes ReadWriteOnce and ReadWriteOncePod are supported"
    } else if spec.selector.is_some() {
        "claim.Spec.Selector is not supported"
    } else if spec.data_source.is_some() || spec.data_source_ref.is_some() {
        "data sources are not supported"
    } else if class.mount_options.as_ref().is_some_and(|options| !options.is_empty()) {
        "mount options are not supported"
    } else {
        return None;
    };
    Some(Refusal::Spec(why.to_owned()))
}

/// Whether a volume of the class may be made on the node that nobody chose.
fn takes(node: &Node, class: &StorageClass) -> bool {
    let spec = node.spec.as_ref();
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let ready = conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True");
    let label = |key: &str| node.metadata.labels.as_ref().and_then(|l| l.get(key));
    let mut terms = class.allowed_topologies.iter().flatten().peekable();
    let allowed = terms.peek().is_none()
        || terms.any(|term| {
            let wanted = term.match_label_expressions.iter().flatten();
            wanted.into_iter().all(|r| label(&r.key).is_some_and(|v| r.values.contains(v)))
        });
    ready && allowed && spec.and_then(|s| s.unschedulable) != Some(true)
}

fn new_volume(
    name: &str,
    path: &str,
    claim: &PersistentVolumeClaim,
    class: &StorageClass,
    node: &Node,
) -> Value {
    let hostname = node.metadata.labels.as_ref().and_then(|l| l.get(HOSTNAME));
    let hostname = hostname.map_or(node.name(), String::as_str);
    let spec = claim.spec.as_ref();
    json!({
        "metadata": {
            "name": name,
            "annotations": { PROVISIONED_BY: PROVISIONER, ON_NODE: node.name() },
            "finalizers": [FINALIZER],
        },
        "spec": {
            "capacity": { "storage": volume::requested(claim).to_json() },
            "accessModes": spec.and_then(|s| s.access_modes.clone()),
            "persistentVolumeReclaimPolicy": class.reclaim_policy.as_deref().unwrap_or("Delete"),
            "storageClassName": class.name(),
            "volumeMode": "Filesystem",
            "claimRef": {
                "kind": PersistentVolumeClaim::KIND, "apiVersion": PersistentVolumeClaim::API_VERSION,
                "namespace": claim.namespace(), "name": claim.name(), "uid": claim.uid(),
                "resourceVersion": claim.resource_version(),
            },
            "local": { "path": path },
            "nodeAffinity": { "required": { "nodeSelectorTerms": [
                { "matchExpressions": [{ "key": HOSTNAME, "operator": "In", "values": [hostname] }] }] } },
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_directory_cannot_be_is_refused() {
        let class = |more: Value| {
            let mut class = json!({"metadata": {"name": "c"}, "provisioner": PROVISIONER});
            class.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            StorageClass::from_value(&class).unwrap()
        };
        let claim =
            |spec: Value| PersistentVolumeClaim::from_value(&json!({"metadata": {}, "spec": spec})).unwrap();
        let once = json!({"accessModes": ["ReadWriteOnce"]});
        for (spec, options, fine) in [
            (once.clone(), json!({}), true),
            (json!({"accessModes": ["ReadWriteOncePod"]}), json!({}), true),
            (json!({"accessModes": ["ReadWriteOnce", "ReadWriteMany"]}), json!({}), false),
            (json!({"accessModes": ["ReadWriteOnce"], "volumeMode": "Block"}), json!({}), false),
            (json!({"accessModes": ["ReadWriteOnce"], "selector": {}}), json!({}), false),
            (once, json!({"mountOptions": ["noatime"]}), false),
        ] {
            assert_eq!(refusal(&claim(spec.clone()), &class(options)).is_none(), fine, "{spec}");
        }
    }

    #[test]
    fn a_volume_nobody_waits_for_is_made_where_the_class_allows_it() {
        let node = |zone: &str, ready: &str, cordoned: bool| {
            Node::from_value(&json!({"metadata": {"name": "n", "labels": {"zone": zone}},
                "spec": {"unschedulable": cordoned},
                "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
            .unwrap()
        };
        let class = StorageClass::from_value(&json!({"metadata": {}, "provisioner": PROVISIONER,
            "allowedTopologies": [{"matchLabelExpressions": [{"key": "zone", "values": ["a"]}]}]}))
        .unwrap();
        assert!(takes(&node("a", "True", false), &class));
        assert!(!takes(&node("b", "True", false), &class));
        assert!(!takes(&node("a", "Unknown", false), &class));
        assert!(!takes(&node("a", "True", true), &class));
    }
}
