//! Garbage collection by owner references. A graph of all objects (their metadata only) follows the watches; an
//! object whose owners are all gone goes too, in the background; foreground deletion waits for dependents that
//! block it; orphaning takes the references away first. Owners are told from names by UID.

mod graph;

use crate::framework::served::Row;
use crate::framework::{Next, Reconcile, Start, run};
use graph::{Graph, Node};
use http::Method;
use knarr_api::meta::v1::{ObjectMeta, OwnerReference};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Key, Metadata};
use knarr_client::{Change, DeleteOptions, Error, Informer, Patch, ResourcePath, WorkQueue};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Upstream's default of --concurrent-gc-syncs.
const WORKERS: usize = 20;
/// How long what has just come to be served is waited for.
const SYNC_LIMIT: Duration = Duration::from_secs(30);
/// What waits for that is looked at again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Finalizer of an object that waits for its dependents.
const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an object whose dependents are to stay.
const ORPHAN: &str = "orphan";

struct Collector {
    start: Start,
    graph: Arc<Mutex<Graph>>,
    monitors: Arc<Mutex<Monitors>>,
    queue: WorkQueue<Key>,
}

/// The informers over what is looked after, with the time when each was opened.
type Monitors = HashMap<ResourcePath, (Informer<Metadata>, Instant)>;

/// Starts the controller. Keys of its queue are UIDs.
pub fn start(start: Start) {
    let graph = Arc::new(Mutex::new(Graph::default()));
    let queue: WorkQueue<Key> = WorkQueue::new(start.ctx.clone());
    let monitors = Arc::new(Mutex::new(Monitors::new()));
    let ready = {
        let (start, monitors, mut served) = (start.clone(), monitors.clone(), start.served.changes());
        async move {
            let _ = served.wait_for(|rows| !rows.is_empty()).await;
            // One resource that cannot be read (its conversion fails) must not keep all others from being collected.
            let synced = async {
                loop {
                    let opened: Vec<_> =
                        lock(&monitors).values().map(|(informer, _)| informer.clone()).collect();
                    if !opened.is_empty() {
                        for informer in opened {
                            informer.synced().await;
                        }
                        return;
                    }
                    start.ctx.clock.sleep(LOOK_AGAIN).await;
                }
            };
            let _ = knarr_base::clock::timeout(&*start.ctx.clock, SYNC_LIMIT, synced).await;
        }
    };
    let follow = follow(start.clone(), graph.clone(), queue.clone(), monitors.clone());
    start.ctx.tasks.spawn_until_stopped("garbagecollector resources", follow);
    let controller = Arc::new(Collector { start: start.clone(), graph, monitors, queue: queue.clone() });
    run(&start, "garbagecollector", WORKERS, queue, ready, controller);
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().expect("no holder of the collector's locks panics")
}

/// Opens informers over what comes to be served, and closes those over what goes.
async fn follow(
    start: Start,
    graph: Arc<Mutex<Graph>>,
    queue: WorkQueue<Key>,
    monitors: Arc<Mutex<Monitors>>,
) {
    let mut served = start.served.changes();
    loop {
        let rows = served.borrow_and_update().clone();
        // Events own nothing, and nothing owns them.
        let wanted: Vec<&ResourcePath> =
            rows.iter().map(|row| &row.path).filter(|path| path.resource != "events").collect();
        let gone: Vec<ResourcePath> =
            lock(&monitors).keys().filter(|path| !wanted.contains(path)).cloned().collect();
        for path in gone.iter().filter(|_| !rows.is_empty()) {
            lock(&monitors).remove(path);
            start.informers.forget_metadata(path);
            let orphans = lock(&graph).forget(path);
            orphans.iter().for_each(|uid| queue.add(by_uid(uid)));
        }
        for path in wanted {
            if lock(&monitors).contains_key(path) {
                continue;
            }
            let informer = start.informers.metadata(path.clone());
            let now = start.ctx.clock.instant();
            lock(&monitors).insert(path.clone(), (informer.clone(), now));
            let (graph, queue, path) = (graph.clone(), queue.clone(), Arc::new(path.clone()));
            let monitors = Arc::downgrade(&monitors);
            informer.on_change(move |change| {
                // What an informer says that is being closed counts no more.
                let open = monitors.upgrade().is_some_and(|monitors| lock(&monitors).contains_key(&path));
                if open {
                    observe(change, &path, &graph, &queue);
                }
            });
        }
        if served.changed().await.is_err() {
            return;
        }
    }
}

fn by_uid(uid: &str) -> Key {
    Key::new("", uid)
}

fn observe(
    change: &Change<Metadata>,
    path: &Arc<ResourcePath>,
    graph: &Mutex<Graph>,
    queue: &WorkQueue<Key>,
) {
    let meta = &change.object().metadata;
    let uid = meta.uid.clone().unwrap_or_default();
    let mut graph = graph.lock().expect("graph lock is never poisoned");
    if change.new.is_none() {
        if graph.has_dependents(&uid) {
            graph.bury(&uid);
        }
        let owners: Vec<String> = meta.owner_references.iter().flatten().map(|o| o.uid.clone()).collect();
        for dependent in graph.remove(&uid) {
            queue.add(by_uid(&dependent));
        }
        // An owner in foreground deletion waits for this one.
        owners.iter().for_each(|owner| queue.add(by_uid(owner)));
        return;
    }
    let deleting = meta.deletion_timestamp.is_some();
    let has_owners = meta.owner_references.as_ref().is_some_and(|o| !o.is_empty());
    let finalizer = meta.finalizers.iter().flatten().any(|f| f == FOREGROUND || f == ORPHAN);
    graph.set(Node::of(path.clone(), meta));
    if has_owners || (deleting && finalizer) {
        queue.add(by_uid(&uid));
    }
    // A dependent that no longer blocks, or has another owner, may free its owner.
    if let Some(old) = &change.old {
        for owner in old.metadata.owner_references.iter().flatten() {
            if old.metadata.owner_references != meta.owner_references {
                queue.add(by_uid(&owner.uid));
            }
        }
    }
}

impl Reconcile for Collector {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(self.reconcile(&key.name))
    }
}

/// Where the owners of an object stand.
#[derive(Default)]
struct Owners<'a> {
    /// There, and staying.
    solid: Vec<&'a OwnerReference>,
    /// Gone.
    dangling: Vec<&'a OwnerReference>,
    /// In foreground deletion, waiting for this object.
    waiting: Vec<&'a OwnerReference>,
}

impl Collector {
    /// Whether all dependents there are can have been seen: what has just come to be served may hold some. A
    /// resource that cannot be read is not waited for.
    fn knows_all(&self) -> bool {
        let now = self.start.ctx.clock.instant();
        lock(&self.monitors)
            .values()
            .all(|(informer, opened)| informer.has_synced() || now.duration_since(*opened) > SYNC_LIMIT)
    }

    async fn reconcile(&self, uid: &str) -> Result<Next, Error> {
        let Some(node) = self.graph().get(uid) else { return Ok(Next::Done) };
        let Some(live) = self.read(&node.path, &node.namespace, &node.name).await? else {
            return Ok(Next::Done);
        };
        if live.uid.as_deref() != Some(uid) {
            return Ok(Next::Done);
        }
        let has = |finalizer: &str| live.finalizers.iter().flatten().any(|f| f == finalizer);
        if live.deletion_timestamp.is_some() {
            if has(ORPHAN) {
                return self.orphan_dependents(&node, &live).await;
            }
            if has(FOREGROUND) {
                return self.delete_dependents(&node, &live).await;
            }
            return Ok(Next::Done); // on its way
        }
        let references = live.owner_references.clone().unwrap_or_default();
        if references.is_empty() {
            return Ok(Next::Done);
        }
        let mut owners = Owners::default();
        for reference in &references {
            match self.owner(reference, &node.namespace).await? {
                None => owners.dangling.push(reference),
                Some(owner) => {
                    let foreground = owner.deletion_timestamp.is_some()
                        && owner.finalizers.iter().flatten().any(|f| f == FOREGROUND);
                    if foreground { owners.waiting.push(reference) } else { owners.solid.push(reference) }
                }
            }
        }
        self.act(&node, &live, owners).await
    }

    async fn act(&self, node: &Node, live: &ObjectMeta, owners: Owners<'_>) -> Result<Next, Error> {
        if !owners.solid.is_empty() {
            let gone: Vec<&str> =
                owners.dangling.iter().chain(&owners.waiting).map(|o| o.uid.as_str()).collect();
            if !gone.is_empty() {
                self.drop_references(node, live, &gone).await?;
            }
            return Ok(Next::Done);
        }
        let dependents = self.graph().dependents(live.uid.as_deref().unwrap_or_default());
        let foreground = !owners.waiting.is_empty() && !dependents.is_empty();
        if foreground && dependents.iter().any(|d| d.deleting && d.finalizers.iter().any(|f| f == FOREGROUND))
        {
            // A circle of owners that wait for each other: this one waits for nobody.
            self.unblock_owners(node, live).await?;
        }
        let policy = if foreground {
            "Foreground"
        } else if live.finalizers.iter().flatten().any(|f| f == ORPHAN) {
            "Orphan"
        } else if live.finalizers.iter().flatten().any(|f| f == FOREGROUND) {
            "Foreground"
        } else {
            "Background"
        };
        tracing::debug!(
            resource = node.path.resource,
            namespace = node.namespace,
            name = node.name,
            policy,
            "collecting"
        );
        self.collect(node, live, policy).await
    }

    /// Deletes an object as it was seen. Whatever else changed meanwhile, its owners must be the same.
    async fn collect(&self, node: &Node, seen: &ObjectMeta, policy: &'static str) -> Result<Next, Error> {
        let mut options = DeleteOptions {
            uid: seen.uid.clone(),
            resource_version: seen.resource_version.clone(),
            propagation_policy: Some(policy),
            ..DeleteOptions::default()
        };
        let delete = async |options: &DeleteOptions| {
            self.start.client.delete_raw(&node.path, &node.namespace, &node.name, options).await
        };
        let mut outcome = delete(&options).await;
        if outcome.as_ref().is_err_and(|error| error.is_conflict()) {
            let Some(live) = self.read(&node.path, &node.namespace, &node.name).await? else {
                return Ok(Next::Done);
            };
            if live.uid == seen.uid && live.owner_references == seen.owner_references {
                options.resource_version = None;
                outcome = delete(&options).await;
            }
        }
        self.gone_is_fine(outcome)
    }

    /// The owner's metadata, `None` if it is gone: no object of that name, or another one by now.
    async fn owner(&self, reference: &OwnerReference, namespace: &str) -> Result<Option<ObjectMeta>, Error> {
        let held = self.graph().get(&reference.uid);
        if let Some(owner) = held
            && (owner.namespace.is_empty() || owner.namespace == namespace)
        {
            return Ok(Some(owner.meta()));
        }
        // Not seen: perhaps not yet. Only the server knows.
        let (group, version) = reference.api_version.split_once('/').unwrap_or(("", &reference.api_version));
        if self.graph().is_buried(&reference.uid) {
            return Ok(None);
        }
        let Some(Row { path, namespaced, .. }) = self.start.served.of_kind(group, &reference.kind) else {
            tracing::debug!(
                kind = reference.kind,
                version,
                "an owner of a kind that is not served keeps its dependents"
            );
            return Ok(Some(ObjectMeta::default()));
        };
        if namespaced && namespace.is_empty() {
            // An object of the cluster cannot be owned by one of a namespace: which one would it be?
            tracing::debug!(kind = reference.kind, "an owner that cannot be found keeps its dependents");
            return Ok(Some(ObjectMeta::default()));
        }
        let namespace = if namespaced { namespace } else { "" };
        let live = self.read(&path, namespace, &reference.name).await?;
        Ok(live.filter(|meta| meta.uid.as_deref() == Some(&reference.uid)))
    }

    async fn read(
        &self,
        path: &ResourcePath,
        namespace: &str,
        name: &str,
    ) -> Result<Option<ObjectMeta>, Error> {
        match self.start.client.call(Method::GET, &path.url(namespace, name, ""), &Value::Null).await {
            Ok(json) => {
                let object: Metadata =
                    serde_json::from_slice(&json).map_err(|e| Error::Protocol(e.to_string()))?;
                Ok(Some(object.metadata))
            }
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn delete_dependents(&self, node: &Node, live: &ObjectMeta) -> Result<Next, Error> {
        if !self.knows_all() {
            return Ok(Next::After(LOOK_AGAIN));
        }
        let uid = live.uid.clone().unwrap_or_default();
        let blocking = self.graph().blocking_dependents(&uid);
        if blocking.is_empty() {
            return self.remove_finalizer(node, live, FOREGROUND).await;
        }
        // Each is looked at by itself, as it is by then: it may have got another owner a moment ago.
        for dependent in blocking {
            let waits = dependent.deleting && dependent.finalizers.iter().any(|f| f == FOREGROUND);
            if !waits {
                self.queue.add(by_uid(&dependent.uid));
            }
        }
        Ok(Next::Done)
    }

    async fn orphan_dependents(&self, node: &Node, live: &ObjectMeta) -> Result<Next, Error> {
        if !self.knows_all() {
            return Ok(Next::After(LOOK_AGAIN));
        }
        let uid = live.uid.clone().unwrap_or_default();
        let dependents = self.graph().dependents(&uid);
        for dependent in dependents {
            let meta = dependent.meta();
            self.drop_references(&dependent, &meta, &[&uid]).await?;
        }
        self.remove_finalizer(node, live, ORPHAN).await
    }

    /// Takes owner references out of an object, if it is still the one that is meant.
    async fn drop_references(&self, node: &Node, live: &ObjectMeta, uids: &[&str]) -> Result<(), Error> {
        let references: Vec<Value> =
            uids.iter().map(|uid| json!({ "$patch": "delete", "uid": uid })).collect();
        let keep = |owner: &OwnerReference| (!uids.contains(&owner.uid.as_str())).then(|| owner.clone());
        self.patch_references(node, live, references, keep).await
    }

    /// Lets the owners of an object be deleted before it.
    async fn unblock_owners(&self, node: &Node, live: &ObjectMeta) -> Result<(), Error> {
        let blocking = node.owners.iter().filter(|o| o.block_owner_deletion == Some(true));
        let references = blocking.map(|o| json!({ "uid": o.uid, "blockOwnerDeletion": false })).collect();
        let unblocked =
            |o: &OwnerReference| Some(OwnerReference { block_owner_deletion: Some(false), ..o.clone() });
        self.patch_references(node, live, references, unblocked).await
    }

    /// Changes owner references by a strategic merge; kinds that know none (custom resources) get the whole list as
    /// `change` leaves it.
    async fn patch_references(
        &self,
        node: &Node,
        live: &ObjectMeta,
        references: Vec<Value>,
        change: impl Fn(&OwnerReference) -> Option<OwnerReference>,
    ) -> Result<(), Error> {
        let send = async |patch: Patch| {
            self.start.client.patch_raw(&node.path, &node.namespace, &node.name, "", &patch).await
        };
        let strategic = json!({ "metadata": { "uid": live.uid, "ownerReferences": references } });
        let mut answer = send(Patch::Strategic(strategic)).await;
        if answer.as_ref().is_err_and(|error| error.code() == 415) {
            let Some(live) = self.read(&node.path, &node.namespace, &node.name).await? else { return Ok(()) };
            let left: Vec<_> = live.owner_references.iter().flatten().filter_map(&change).collect();
            answer = send(Patch::Merge(json!({ "metadata": {
                "uid": node.uid, "resourceVersion": live.resource_version, "ownerReferences": left } })))
            .await;
        }
        self.gone_is_fine(answer).map(drop)
    }

    async fn remove_finalizer(&self, node: &Node, live: &ObjectMeta, finalizer: &str) -> Result<Next, Error> {
        let kept: Vec<&String> = live.finalizers.iter().flatten().filter(|f| *f != finalizer).collect();
        let patch = Patch::Merge(json!({ "metadata": {
            "uid": live.uid, "resourceVersion": live.resource_version, "finalizers": kept } }));
        self.gone_is_fine(
            self.start.client.patch_raw(&node.path, &node.namespace, &node.name, "", &patch).await,
        )
    }

    fn gone_is_fine<T>(&self, answer: Result<T, Error>) -> Result<Next, Error> {
        match answer {
            // 409 here means that the name belongs to another object by now, or that the object changed; in the
            // latter case its event brings it back.
            Err(error) if !error.is_not_found() && !error.is_conflict() => Err(error),
            _ => Ok(Next::Done),
        }
    }

    fn graph(&self) -> std::sync::MutexGuard<'_, Graph> {
        self.graph.lock().expect("graph lock is never poisoned")
    }
}
