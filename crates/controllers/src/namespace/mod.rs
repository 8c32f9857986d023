//! namespace: once a namespace is being deleted, everything in it is deleted, what is left is told in its
//! conditions, and at last its finalizer goes.

use crate::framework::time::api_time;
use crate::framework::{Next, Reconcile, Start, run};
use futures_util::future::join_all;
use knarr_api::Kind;
use knarr_api::core::v1::{Namespace, NamespaceCondition, Pod};
use knarr_base::clock::BoxFuture;
use knarr_client::client::METADATA_LIST;
use knarr_client::informer::{Key, Metadata, Object};
use knarr_client::{DeleteOptions, Error, Informer, ListOptions, ResourcePath, WorkQueue};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Upstream's default of --concurrent-namespace-syncs.
const WORKERS: usize = 10;
/// Content that is still on its way out is looked at again after this; there is no watch over everything.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

struct Namespaces {
    start: Start,
    namespaces: Informer<Namespace>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let namespaces = start.informers.get::<Namespace>();
    let queue = WorkQueue::new(start.ctx.clone());
    let on_namespace = queue.clone();
    namespaces.on_change(move |change| {
        if change.new.as_ref().is_some_and(|n| n.metadata.deletion_timestamp.is_some()) {
            on_namespace.add(Key::new("", change.object().name()));
        }
    });
    // The last pod of a namespace takes its grace period; its end is seen at once.
    let (pods, on_pod, known) = (start.informers.get::<Pod>(), queue.clone(), namespaces.clone());
    pods.on_change(move |change| {
        let namespace = change.object().namespace();
        if change.new.is_none()
            && known.get("", namespace).is_some_and(|n| n.metadata.deletion_timestamp.is_some())
        {
            on_pod.add(Key::new("", namespace));
        }
    });
    let ready = {
        let namespaces = namespaces.clone();
        async move { namespaces.synced().await }
    };
    let controller = Arc::new(Namespaces { start: start.clone(), namespaces });
    run(&start, "namespace", WORKERS, queue, ready, controller);
}

/// What one round of deletion left.
#[derive(Default)]
struct Left {
    /// `pods.` or `deployments.apps` with how many instances there are.
    resources: BTreeMap<String, usize>,
    /// Finalizers that hold them, each in how many objects.
    finalizers: BTreeMap<String, usize>,
    /// Refused deletions.
    failures: Vec<String>,
}

impl Reconcile for Namespaces {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(self.reconcile(key))
    }
}

impl Namespaces {
    async fn reconcile(&self, key: &Key) -> Result<Next, Error> {
        let Some(held) = self.namespaces.get_key(key) else { return Ok(Next::Done) };
        let finalizing = held
            .spec
            .as_ref()
            .and_then(|s| s.finalizers.as_ref())
            .is_some_and(|f| f.iter().any(|f| f == "kubernetes"));
        if held.metadata.deletion_timestamp.is_none() || !finalizing {
            return Ok(Next::Done);
        }
        let left = self.delete_content(&key.name).await;
        self.tell(&held, &left).await?;
        if !left.failures.is_empty() || !left.resources.is_empty() {
            return Ok(Next::After(LOOK_AGAIN));
        }
        let Some(mut live) = self.start.client.get_opt::<Namespace>("", &key.name).await? else {
            return Ok(Next::Done);
        };
        if live.metadata.uid != held.metadata.uid {
            return Ok(Next::Done);
        }
        if let Some(finalizers) = live.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != "kubernetes");
        }
        let url = ResourcePath::of::<Namespace>().url("", &key.name, "finalize");
        match self.start.client.call(http::Method::PUT, &url, &live.to_value()).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(Next::Done),
        }
    }

    /// Deletes what there is, first the pods, with their grace period, then all else at once, and counts what is left.
    async fn delete_content(&self, namespace: &str) -> Left {
        // Asked each time: what was defined a moment ago may hold objects already.
        let rows = match self.start.served.refresh().await {
            Ok(rows) => rows,
            Err(error) => return Left { failures: vec![error.to_string()], ..Left::default() },
        };
        // Events come under two groups; one is enough.
        let twice = |path: &ResourcePath| path.resource == "events" && !path.group.is_empty();
        let namespaced = rows.iter().filter(|row| row.namespaced && !twice(&row.path)).map(|row| &row.path);
        let (pods, others): (Vec<_>, Vec<_>) =
            namespaced.partition(|path| path.resource == "pods" && path.group.is_empty());
        // What confines pods must outlive them (KEP-5080).
        let left = self.delete_resources(&pods, namespace).await;
        if !left.resources.is_empty() || !left.failures.is_empty() {
            return left;
        }
        self.delete_resources(&others, namespace).await
    }

    async fn delete_resources(&self, paths: &[&ResourcePath], namespace: &str) -> Left {
        let rounds = join_all(
            paths.iter().map(|path| async move { (path, self.delete_resource(path, namespace).await) }),
        )
        .await;
        let mut left = Left::default();
        for (path, round) in rounds {
            match round {
                Ok(objects) if objects.is_empty() => {}
                Ok(objects) => {
                    left.resources.insert(format!("{}.{}", path.resource, path.group), objects.len());
                    for finalizer in objects.iter().flat_map(|o| o.metadata.finalizers.iter().flatten()) {
                        *left.finalizers.entry(finalizer.clone()).or_default() += 1;
                    }
                }
                // Not served (yet, or any more): nothing of it can be there.
                Err(error) if error.is_not_found() || error.code() == 405 => {}
                Err(error) => left.failures.push(error.to_string()),
            }
        }
        left
    }

    async fn delete_resource(&self, path: &ResourcePath, namespace: &str) -> Result<Vec<Metadata>, Error> {
        let before = self.list(path, namespace).await?;
        if before.is_empty() {
            return Ok(before);
        }
        let options = DeleteOptions { propagation_policy: Some("Background"), ..DeleteOptions::default() };
        self.start.client.delete_raw(path, namespace, "", &options).await?;
        self.list(path, namespace).await
    }

    async fn list(&self, path: &ResourcePath, namespace: &str) -> Result<Vec<Metadata>, Error> {
        let list =
            self.start.client.list_raw(path, namespace, &ListOptions::default(), METADATA_LIST).await?;
        Ok(list.items.iter().filter_map(|item| Metadata::read(item).ok()).collect())
    }

    /// Writes the conditions by which `kubectl get ns -o yaml` explains a namespace that does not go.
    async fn tell(&self, namespace: &Namespace, left: &Left) -> Result<(), Error> {
        let now = api_time(self.start.ctx.clock.now());
        let list = |counts: &BTreeMap<String, usize>, what: &str| {
            let parts: Vec<String> =
                counts.iter().map(|(name, n)| format!("{name} has {n} {what}")).collect();
            parts.join(", ")
        };
        let instances = list(&left.resources, "resource instances");
        let held = list(&left.finalizers, "in finalizers")
            .replace(" has ", " in ")
            .replace(" in finalizers", " resource instances");
        let rows = [
            (
                "NamespaceDeletionDiscoveryFailure",
                false,
                "ResourcesDiscovered",
                "All resources successfully discovered".to_owned(),
            ),
            (
                "NamespaceDeletionGroupVersionParsingFailure",
                false,
                "ParsedGroupVersions",
                "All legacy kube types successfully parsed".to_owned(),
            ),
            if left.failures.is_empty() {
                (
                    "NamespaceDeletionContentFailure",
                    false,
                    "ContentDeleted",
                    "All content successfully deleted, may be waiting on finalization".to_owned(),
                )
            } else {
                (
                    "NamespaceDeletionContentFailure",
                    true,
                    "ContentDeletionFailed",
                    format!(
                        "Failed to delete all resource types, {} remaining: {}",
                        left.failures.len(),
                        left.failures.join(", ")
                    ),
                )
            },
            if left.resources.is_empty() {
                (
                    "NamespaceContentRemaining",
                    false,
                    "ContentRemoved",
                    "All content successfully removed".to_owned(),
                )
            } else {
                (
                    "NamespaceContentRemaining",
                    true,
                    "SomeResourcesRemain",
                    format!("Some resources are remaining: {instances}"),
                )
            },
            if left.finalizers.is_empty() {
                (
                    "NamespaceFinalizersRemaining",
                    false,
                    "ContentHasNoFinalizers",
                    "All content-preserving finalizers finished".to_owned(),
                )
            } else {
                (
                    "NamespaceFinalizersRemaining",
                    true,
                    "SomeFinalizersRemain",
                    format!("Some content in the namespace has finalizers remaining: {held}"),
                )
            },
        ];
        let old = namespace.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        let mut conditions = old.clone();
        conditions.retain(|c| rows.iter().all(|r| r.0 != c.type_));
        for (kind, holds, reason, message) in rows {
            let status = if holds { "True" } else { "False" };
            let before = old.iter().find(|c| c.type_ == kind);
            let same = before.filter(|c| c.status == status && c.message.as_deref() == Some(&message));
            conditions.push(same.cloned().unwrap_or_else(|| NamespaceCondition {
                type_: kind.to_owned(),
                status: status.to_owned(),
                reason: Some(reason.to_owned()),
                message: Some(message),
                last_transition_time: now.clone(),
            }));
        }
        if conditions == old {
            return Ok(());
        }
        let mut changed = namespace.clone();
        changed.status.get_or_insert_default().conditions = Some(conditions);
        match self.start.client.update_status(&changed).await {
            Err(error) if !error.is_not_found() => Err(error),
            _ => Ok(()),
        }
    }
}
