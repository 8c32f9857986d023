//! Adopting orphans that a selector matches and releasing what it matches no more (upstream's
//! ControllerRefManager).

use knarr_api::Kind;
use knarr_api::meta::v1::{LabelSelector, OwnerReference};
use knarr_client::{Client, Error, Informer, Patch};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Whether labels meet a selector.
pub fn selects(selector: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let value = |key: &str| labels.and_then(|l| l.get(key));
    selector.match_labels.iter().flatten().all(|(k, v)| value(k) == Some(v))
        && selector.match_expressions.iter().flatten().all(|r| {
            let listed = value(&r.key).is_some_and(|v| r.values.iter().flatten().any(|w| w == v));
            match r.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value(&r.key).is_some(),
                "DoesNotExist" => value(&r.key).is_none(),
                _ => false,
            }
        })
}

/// Whether the selector has any requirement; one without matches everything, which no workload means.
pub fn is_empty(selector: &LabelSelector) -> bool {
    selector.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && selector.match_expressions.as_ref().is_none_or(Vec::is_empty)
}

/// Who claims objects.
pub struct Claim<'a> {
    /// Acts for the owner.
    pub client: &'a Client,
    /// The owner's namespace.
    pub namespace: &'a str,
    /// The reference that its objects carry.
    pub owner: &'a OwnerReference,
    /// What it selects.
    pub selector: &'a LabelSelector,
    /// Whether the owner is being deleted; then nothing is taken on or let go.
    pub deleting: bool,
    /// Finalizer that comes and goes with the ownership, if any.
    pub finalizer: Option<&'a str>,
}

impl Claim<'_> {
    /// The objects that belong to the owner: those it controls and still selects, and orphans it takes on. `fresh`
    /// says whether the owner itself, read anew, is still the same and not being deleted; it is asked at most once,
    /// and only before an adoption.
    pub async fn objects<K: Kind, F>(
        &self,
        all: &Informer<K>,
        fresh: impl FnOnce() -> F,
    ) -> Result<Vec<Arc<K>>, Error>
    where
        F: Future<Output = Result<bool, Error>>,
    {
        let mut mine = Vec::new();
        let mut orphans = Vec::new();
        for object in all.controlled_by(&self.owner.uid) {
            if selects(self.selector, object.meta().labels.as_ref()) {
                mine.push(object);
            } else if !self.deleting {
                self.release(&*object).await?;
            }
        }
        if !self.deleting && !is_empty(self.selector) {
            orphans = all.list(self.namespace);
            orphans.retain(|object| {
                let meta = object.meta();
                meta.deletion_timestamp.is_none()
                    && super::pod_control::controller_of(meta).is_none()
                    && selects(self.selector, meta.labels.as_ref())
            });
        }
        if !orphans.is_empty() && fresh().await? {
            for orphan in orphans {
                match self.adopt(&*orphan).await {
                    Ok(adopted) => mine.push(Arc::new(adopted)),
                    Err(error) if error.is_not_found() || error.code() == 422 => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(mine)
    }

    async fn adopt<K: Kind>(&self, object: &K) -> Result<K, Error> {
        let owner = self.owner;
        let mut patch = json!({ "metadata": { "uid": object.meta().uid, "ownerReferences": [{
            "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name, "uid": owner.uid,
            "controller": true, "blockOwnerDeletion": true,
        }] } });
        if let Some(finalizer) = self.finalizer {
            patch["metadata"]["finalizers"] = json!([finalizer]);
        }
        self.client.patch::<K>(object.namespace(), object.name(), "", &Patch::Strategic(patch)).await
    }

    async fn release<K: Kind>(&self, object: &K) -> Result<(), Error> {
        let mut patch = json!({ "metadata": { "uid": object.meta().uid,
            "ownerReferences": [{ "$patch": "delete", "uid": self.owner.uid }] } });
        if let Some(finalizer) = self.finalizer {
            patch["metadata"]["$deleteFromPrimitiveList/finalizers"] = json!([finalizer]);
        }
        match self.client.patch::<K>(object.namespace(), object.name(), "", &Patch::Strategic(patch)).await {
            Err(error) if !error.is_not_found() && error.code() != 422 => Err(error),
            _ => Ok(()),
        }
    }
}
