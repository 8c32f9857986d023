//! ControllerRevisions: the templates that a StatefulSet or DaemonSet had, as patches that bring them back, which is
//! what `kubectl rollout undo` sends.

use super::claim::Claim;
use super::pod_control::{controller_of, controller_ref};
use knarr_api::Kind;
use knarr_api::apps::v1::ControllerRevision;
use knarr_api::core::v1::PodTemplateSpec;
use knarr_api::meta::v1::{LabelSelector, ObjectMeta};
use knarr_client::informer::Key;
use knarr_client::{Client, DeleteOptions, Error, Informer, ListOptions, WorkQueue};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Label of a revision with the hash of its data.
const HASH: &str = "controller.kubernetes.io/hash";
/// Label of pods with the revision that they are made from.
pub const REVISION_HASH: &str = "controller-revision-hash";
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// The revision that a pod is made from.
pub fn revision_of(meta: &ObjectMeta) -> Option<&str> {
    meta.labels.as_ref()?.get(REVISION_HASH).map(String::as_str)
}

/// The hash in a revision's labels.
pub fn hash_of(revision: &ControllerRevision) -> &str {
    revision.metadata.labels.as_ref().and_then(|l| l.get(HASH)).map(String::as_str).unwrap_or_default()
}

/// The template that a revision holds.
pub fn template_of(revision: &ControllerRevision) -> Option<PodTemplateSpec> {
    let mut template = revision.data.as_ref()?.0.pointer("/spec/template")?.clone();
    template.as_object_mut()?.remove("$patch");
    serde_json::from_value(template).ok()
}

fn data(template: &PodTemplateSpec) -> Value {
    let mut template = serde_json::to_value(template).unwrap_or_default();
    template["$patch"] = "replace".into();
    json!({ "spec": { "template": template } })
}

fn hash(data: &Value, collisions: i32) -> String {
    let mut bytes = data.to_string().into_bytes();
    bytes.extend_from_slice(&collisions.to_le_bytes());
    let hash =
        bytes.iter().fold(0x811c_9dc5u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    hash.to_string().bytes().map(|digit| ALPHABET[usize::from(digit) % ALPHABET.len()] as char).collect()
}

/// A set's revisions, in order, the last being that of its template; and the collision count, if it rose.
pub struct History {
    /// All, the newest last.
    pub revisions: Vec<Arc<ControllerRevision>>,
    /// Two templates with one hash were told apart by it.
    pub collisions: Option<i32>,
}

impl History {
    /// The revision of the set's template.
    pub fn newest(&self) -> &Arc<ControllerRevision> {
        self.revisions.last().expect("the template's own revision is always there")
    }

    /// A revision by name.
    pub fn named(&self, name: &str) -> Option<&Arc<ControllerRevision>> {
        self.revisions.iter().find(|r| r.name() == name)
    }
}

/// Has sets of a kind looked at when their revisions change: their order may have been given without the newest.
pub fn wake<K: Kind>(revisions: &Informer<ControllerRevision>, queue: &WorkQueue<Key>) {
    let queue = queue.clone();
    revisions.on_change(move |change| {
        let revision = change.object();
        if let Some(owner) = controller_of(&revision.metadata).filter(|o| o.kind == K::KIND) {
            queue.add(Key::new(revision.namespace(), &owner.name));
        }
    });
}

/// What to do so that the newest revision is the template's.
#[derive(Debug, PartialEq)]
enum Step {
    /// It is.
    Keep,
    /// An older one has the same template: it becomes the newest, with this number.
    Raise(usize, i64),
    /// There is none: one is made with this number.
    Make(i64),
}

fn step(revisions: &[Arc<ControllerRevision>], data: &Value) -> Step {
    let next = revisions.iter().map(|r| r.revision).max().unwrap_or_default() + 1;
    match revisions.iter().rposition(|r| r.data.as_ref().is_some_and(|d| d.0 == *data)) {
        None => Step::Make(next),
        Some(index) if index + 1 == revisions.len() => Step::Keep,
        Some(index) => Step::Raise(index, next),
    }
}

/// Brings the history of `set` up to date with its template.
pub async fn keep<K: Kind>(
    client: &Client,
    all: &Informer<ControllerRevision>,
    set: &K,
    selector: &LabelSelector,
    template: &PodTemplateSpec,
    collisions: Option<i32>,
) -> Result<History, Error> {
    let owner = controller_ref(set);
    let claim = Claim {
        client,
        namespace: set.namespace(),
        owner: &owner,
        selector,
        deleting: set.meta().deletion_timestamp.is_some(),
        finalizer: None,
    };
    let fresh = || async {
        let live = client.get::<K>(set.namespace(), set.name()).await?;
        Ok(live.meta().uid == set.meta().uid && live.meta().deletion_timestamp.is_none())
    };
    let sort = |revisions: &mut Vec<Arc<ControllerRevision>>| {
        revisions.sort_by_key(|r| (r.revision, r.name().to_owned()));
    };
    let mut revisions = claim.objects(all, fresh).await?;
    sort(&mut revisions);
    let data = data(template);
    if step(&revisions, &data) != Step::Keep {
        // Numbers are given by all that are there, and the informer may not have heard of the newest.
        let live = client.list::<ControllerRevision>(set.namespace(), &ListOptions::default()).await?;
        let is_own = |r: &ControllerRevision| controller_of(&r.metadata).is_some_and(|o| o.uid == owner.uid);
        revisions = live.items.into_iter().filter(is_own).map(Arc::new).collect();
        sort(&mut revisions);
    }
    match step(&revisions, &data) {
        Step::Keep => Ok(History { revisions, collisions }),
        Step::Raise(index, number) => {
            let mut raised = (*revisions.remove(index)).clone();
            raised.revision = number;
            revisions.push(Arc::new(client.update(&raised).await?));
            Ok(History { revisions, collisions })
        }
        Step::Make(number) => {
            let mut collisions = collisions;
            loop {
                let hash = hash(&data, collisions.unwrap_or_default());
                let mut labels: BTreeMap<String, String> =
                    template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default();
                labels.insert(HASH.to_owned(), hash.clone());
                let revision = ControllerRevision {
                    metadata: ObjectMeta {
                        name: Some(format!("{}-{hash}", set.name())),
                        namespace: Some(set.namespace().to_owned()),
                        labels: Some(labels),
                        annotations: set.meta().annotations.clone(),
                        owner_references: Some(vec![owner.clone()]),
                        ..ObjectMeta::default()
                    },
                    data: Some(knarr_api::RawExtension(data.clone())),
                    revision: number,
                };
                match client.create(&revision).await {
                    Ok(made) => {
                        revisions.push(Arc::new(made));
                        return Ok(History { revisions, collisions });
                    }
                    Err(error) if error.is_conflict() => {
                        let held = client.get::<ControllerRevision>(set.namespace(), revision.name()).await?;
                        if held.data == revision.data {
                            revisions.retain(|r| r.metadata.uid != held.metadata.uid);
                            revisions.push(Arc::new(held));
                            return Ok(History { revisions, collisions });
                        }
                        collisions = Some(collisions.unwrap_or_default() + 1);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
    }
}

/// Deletes the oldest revisions beyond `limit` that nothing uses.
pub async fn truncate(
    client: &Client,
    history: &History,
    limit: Option<i32>,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Result<(), Error> {
    let unused: Vec<_> =
        history.revisions[..history.revisions.len() - 1].iter().filter(|r| !in_use(r)).collect();
    let limit = usize::try_from(limit.unwrap_or(10)).unwrap_or_default();
    for revision in unused.iter().take(unused.len().saturating_sub(limit)) {
        let options = DeleteOptions { uid: revision.metadata.uid.clone(), ..DeleteOptions::default() };
        match client.delete::<ControllerRevision>(revision.namespace(), revision.name(), &options).await {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(image: &str) -> PodTemplateSpec {
        serde_json::from_value(json!({ "spec": { "containers": [{ "name": "c", "image": image }] } }))
            .expect("a template")
    }

    fn revision(number: i64, image: &str) -> Arc<ControllerRevision> {
        let data = Some(knarr_api::RawExtension(data(&template(image))));
        Arc::new(ControllerRevision { data, revision: number, ..ControllerRevision::default() })
    }

    #[test]
    fn a_template_that_comes_back_has_its_revision_raised() {
        let held = [revision(1, "one"), revision(2, "two")];
        assert_eq!(step(&held, &data(&template("two"))), Step::Keep);
        assert_eq!(step(&held, &data(&template("one"))), Step::Raise(0, 3));
        assert_eq!(step(&held, &data(&template("three"))), Step::Make(3));
        assert_eq!(template_of(&held[0]), Some(template("one")));
        assert_ne!(hash(&data(&template("one")), 0), hash(&data(&template("one")), 1));
    }
}
