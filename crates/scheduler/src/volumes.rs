//! What the scheduler knows of claims, volumes and classes, and what a pod's claims mean for a node: which volumes
//! it would take there and which would have to be made (upstream's volume binder).

use crate::cache::{NodeInfo, PodInfo};
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolume, PersistentVolumeClaim, TopologySelectorTerm};
use knarr_api::storage::v1::StorageClass;
use knarr_api::volume::{self, SELECTED_NODE, annotation, claim_name};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// Volumes of a class with this provisioner are made by hand.
const NOBODY: &str = "kubernetes.io/no-provisioner";

/// Claims, volumes and classes as they are, and which volumes pods were promised that are not bound yet.
#[derive(Default)]
pub struct Volumes {
    claims: HashMap<(String, String), Arc<PersistentVolumeClaim>>,
    volumes: BTreeMap<String, Arc<PersistentVolume>>,
    classes: HashMap<String, Arc<StorageClass>>,
    /// By volume: the UID of the claim that is to have it.
    promised: HashMap<String, String>,
}

/// What must be done before a pod may be bound to a node.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// Volumes to be bound to claims.
    pub bind: Vec<(Arc<PersistentVolume>, Arc<PersistentVolumeClaim>)>,
    /// Claims that volumes must be made for.
    pub provision: Vec<Arc<PersistentVolumeClaim>>,
}

impl Plan {
    /// Whether nothing is to be done.
    pub fn is_empty(&self) -> bool {
        self.bind.is_empty() && self.provision.is_empty()
    }

    /// The claims that must be bound.
    pub fn claims(&self) -> impl Iterator<Item = &Arc<PersistentVolumeClaim>> {
        self.bind.iter().map(|(_, claim)| claim).chain(&self.provision)
    }
}

/// Why a node cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Conflict {
    /// A bound volume cannot be reached from there.
    Node,
    /// There is no volume for a claim, and none can be made.
    NoMatch,
    /// A bound volume is gone.
    Gone,
}

impl Conflict {
    /// Upstream's words.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Node => "node(s) didn't match PersistentVolume's node affinity",
            Self::NoMatch => "node(s) didn't find available persistent volumes to bind",
            Self::Gone => "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
        }
    }
}

impl Volumes {
    /// A claim came, changed or went.
    pub fn set_claim(&mut self, name: (String, String), claim: Option<Arc<PersistentVolumeClaim>>) {
        match claim {
            Some(claim) => drop(self.claims.insert(name, claim)),
            None => drop(self.claims.remove(&name)),
        }
    }

    /// A volume came, changed or went.
    pub fn set_volume(&mut self, name: &str, volume: Option<Arc<PersistentVolume>>) {
        if volume.as_ref().is_none_or(|v| volume::claim_ref(v).is_some()) {
            self.promised.remove(name);
        }
        match volume {
            Some(volume) => drop(self.volumes.insert(name.to_owned(), volume)),
            None => drop(self.volumes.remove(name)),
        }
    }

    /// A class came, changed or went.
    pub fn set_class(&mut self, name: &str, class: Option<Arc<StorageClass>>) {
        match class {
            Some(class) => drop(self.classes.insert(name.to_owned(), class)),
            None => drop(self.classes.remove(name)),
        }
    }

    /// A claim.
    pub fn claim(&self, namespace: &str, name: &str) -> Option<&Arc<PersistentVolumeClaim>> {
        self.claims.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// A volume.
    pub fn volume(&self, name: &str) -> Option<&Arc<PersistentVolume>> {
        self.volumes.get(name)
    }

    /// Keeps a plan's volumes for its claims until that shows in the volumes.
    pub fn promise(&mut self, plan: &Plan) {
        for (volume, claim) in &plan.bind {
            self.promised.insert(volume.name().to_owned(), claim.uid().to_owned());
        }
    }

    /// Takes that back.
    pub fn break_promise(&mut self, plan: &Plan) {
        plan.bind.iter().for_each(|(volume, _)| drop(self.promised.remove(volume.name())));
    }

    /// The pod's claims with the volumes they are for; one that is missing or unusable is an error in upstream's words.
    pub fn claims_of(&self, pod: &PodInfo) -> Result<Vec<&Arc<PersistentVolumeClaim>>, String> {
        let object = &*pod.pod;
        let mut claims = Vec::new();
        for wanted in pod.spec().volumes.iter().flatten() {
            let Some(name) = claim_name(object, wanted) else { continue };
            let own = wanted.ephemeral.is_some();
            let claim = self.claim(object.namespace(), &name).ok_or_else(|| match own {
                true => format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim {name:?}"
                ),
                false => format!("persistentvolumeclaim {name:?} not found"),
            })?;
            if volume::claim_phase(claim) == "Lost" {
                let lost = volume::volume_name(claim);
                return Err(format!(
                    "persistentvolumeclaim {name:?} bound to non-existent persistentvolume {lost:?}"
                ));
            }
            if claim.metadata.deletion_timestamp.is_some() {
                return Err(format!("persistentvolumeclaim {name:?} is being deleted"));
            }
            if own {
                volume::is_for_pod(object, claim)?;
            }
            claims.push(claim);
        }
        Ok(claims)
    }

    /// Whether the scheduler is to find a volume for the claim.
    pub fn is_delayed(&self, claim: &PersistentVolumeClaim) -> bool {
        !volume::is_fully_bound(claim)
            && volume::volume_name(claim).is_empty()
            && volume::waits_for_consumer(self.class_of(claim))
    }

    fn class_of(&self, claim: &PersistentVolumeClaim) -> Option<&StorageClass> {
        self.classes.get(volume::class_of_claim(claim)).map(|c| &**c)
    }

    /// What would have to be done for the pod on the node.
    pub fn plan(&self, pod: &PodInfo, node: &NodeInfo) -> Result<Plan, Vec<Conflict>> {
        // What cannot be told is told before any node is looked at.
        let claims = self.claims_of(pod).unwrap_or_default();
        let reaches = |v: &PersistentVolume| volume::reaches(v, node.labels(), node.name());
        let (mut plan, mut conflicts) = (Plan::default(), Vec::new());
        let (bound, mut open): (Vec<_>, Vec<_>) =
            claims.into_iter().partition(|claim| volume::is_fully_bound(claim));
        for claim in bound {
            match self.volume(volume::volume_name(claim)) {
                None => conflicts.push(Conflict::Gone),
                Some(volume) if !reaches(volume) => conflicts.push(Conflict::Node),
                Some(_) => {}
            }
        }
        open.sort_by_key(|claim| volume::requested(claim));
        let mut taken: HashSet<&str> = HashSet::new();
        for claim in open {
            let chosen = annotation(&claim.metadata, SELECTED_NODE);
            if chosen.is_some_and(|chosen| chosen != node.name()) {
                conflicts.push(Conflict::NoMatch);
                continue;
            }
            let free = self.volumes.values().filter(|v| {
                !taken.contains(v.name()) && self.promised.get(v.name()).is_none_or(|uid| uid == claim.uid())
            });
            // One that is being made already must not be forgotten for another.
            let found = match chosen {
                Some(_) => None,
                None => volume::find_match(claim, free.map(|v| &**v), Some(&reaches), true),
            };
            match found.and_then(|found| self.volumes.get(found.name())) {
                Some(volume) => {
                    taken.insert(volume.name());
                    plan.bind.push((volume.clone(), claim.clone()));
                }
                None if self.can_be_made(claim, node) => plan.provision.push(claim.clone()),
                None => conflicts.push(Conflict::NoMatch),
            }
        }
        conflicts.sort();
        conflicts.dedup();
        if conflicts.is_empty() { Ok(plan) } else { Err(conflicts) }
    }

    fn can_be_made(&self, claim: &PersistentVolumeClaim, node: &NodeInfo) -> bool {
        self.class_of(claim).is_some_and(|class| {
            !class.provisioner.is_empty()
                && class.provisioner != NOBODY
                && allows(class.allowed_topologies.as_deref().unwrap_or_default(), node.labels())
        })
    }
}

fn allows(terms: &[TopologySelectorTerm], labels: &BTreeMap<String, String>) -> bool {
    terms.is_empty()
        || terms.iter().any(|term| {
            let wanted = term.match_label_expressions.iter().flatten();
            wanted.into_iter().all(|r| labels.get(&r.key).is_some_and(|v| r.values.contains(v)))
        })
}
