//! What keeps the conditions of CustomResourceDefinitions, and deletes the objects of those that go. Upstream runs
//! these controllers inside its API server (apiextensions-apiserver's `controller/{status,establish,
//! nonstructuralschema,apiapproval,finalizer}`), whatever else runs beside it; so they are no part of
//! [`crate::manager::ALL`] and start with the server.
//!
//! One worker looks at one definition after another: names are granted to whoever asks first.

mod plan;

use crate::framework::{Next, Reconcile, run_in};
use knarr_apiextensions::Names;
use knarr_base::Ctx;
use knarr_base::clock::BoxFuture;
use knarr_client::client::METADATA_LIST;
use knarr_client::informer::Key;
use knarr_client::reflector::{self, Sink, Source};
use knarr_client::{Client, DeleteOptions, Error, ListOptions, Patch, ResourcePath, WorkQueue};
use knarr_meta::object::{self, get_str};
use plan::{Used, set_condition};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The finalizer that every definition gets when it is deleted.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";
/// How soon objects with finalizers of their own are counted again.
const RECOUNT: Duration = Duration::from_secs(1);
/// Definitions that would delete what is not theirs.
const BUILT_IN: [(&str, &str); 2] =
    [("apiregistration.k8s.io", "apiservices"), ("apiextensions.k8s.io", "customresourcedefinitions")];

/// Starts the controllers in the task scope of `ctx`, under the identity of `client`.
pub fn start(ctx: &Ctx, client: Client) {
    let ctx = ctx.child("apiextensions");
    let queue = WorkQueue::new(ctx.clone());
    let seen = Arc::new(Seen {
        queue: queue.clone(),
        held: Mutex::default(),
        synced: tokio::sync::watch::channel(false).0,
    });
    let source = Source {
        path: definitions(),
        namespace: String::new(),
        label_selector: String::new(),
        field_selector: String::new(),
        metadata_only: false,
    };
    ctx.tasks.spawn_until_stopped("definitions", reflector::run(client.clone(), source, seen.clone()));
    let mut synced = seen.synced.subscribe();
    let ready = async move {
        // The sender lives as long as the controller.
        let _ = synced.wait_for(|synced| *synced).await;
    };
    run_in(&ctx, "apiextensions", 1, queue, ready, Arc::new(Definitions { client, seen }));
}

fn definitions() -> ResourcePath {
    ResourcePath {
        group: "apiextensions.k8s.io".into(),
        version: "v1".into(),
        resource: "customresourcedefinitions".into(),
    }
}

/// What is remembered of a definition; schemas are large and are read when they are needed.
struct Held {
    version: u64,
    group: String,
    accepted: Names,
}

struct Seen {
    queue: WorkQueue<Key>,
    held: Mutex<HashMap<String, Held>>,
    synced: tokio::sync::watch::Sender<bool>,
}

impl Seen {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a definition up unless a newer one is known.
    fn remember(&self, crd: &Value) {
        let new = Held {
            version: object::resource_version(crd).parse().unwrap_or_default(),
            group: get_str(crd, &["spec", "group"]).to_owned(),
            accepted: Names::parse(&crd["status"]["acceptedNames"]),
        };
        let mut held = self.lock();
        if held.get(object::name(crd)).is_none_or(|known| known.version <= new.version) {
            held.insert(object::name(crd).to_owned(), new);
        }
    }

    fn used(&self, group: &str) -> Used {
        let mut used = Used::default();
        self.lock().values().filter(|held| held.group == group).for_each(|held| used.add(&held.accepted));
        used
    }

    /// Looks at the other definitions of a group again: their names may have come free.
    fn wake_others(&self, group: &str, name: &str) {
        let held = self.lock();
        for other in
            held.iter().filter(|(other, held)| *other != name && held.group == group).map(|(name, _)| name)
        {
            self.queue.add(Key::new("", other));
        }
    }
}

impl Sink for Seen {
    fn replace(&self, items: Vec<bytes::Bytes>) {
        self.lock().clear();
        for item in items {
            self.set(item);
        }
        self.synced.send_replace(true);
    }

    fn set(&self, object: bytes::Bytes) {
        let Ok(crd) = serde_json::from_slice::<Value>(&object) else { return };
        self.remember(&crd);
        self.queue.add(Key::new("", object::name(&crd)));
    }

    fn remove(&self, object: bytes::Bytes) {
        let Ok(crd) = serde_json::from_slice::<Value>(&object) else { return };
        self.lock().remove(object::name(&crd));
        self.wake_others(get_str(&crd, &["spec", "group"]), object::name(&crd));
    }
}

struct Definitions {
    client: Client,
    seen: Arc<Seen>,
}

impl Reconcile for Definitions {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(self.sync_one(&key.name))
    }
}

impl Definitions {
    async fn sync_one(&self, name: &str) -> Result<Next, Error> {
        let Some(crd) = self.read(name).await? else { return Ok(Next::Done) };
        self.seen.remember(&crd);
        let group = get_str(&crd, &["spec", "group"]);
        let crd = match plan::status(&crd, &self.seen.used(group), &self.now()) {
            None => crd,
            Some(status) => {
                let changed = self.write(&crd, status, None).await?;
                if crd["status"]["acceptedNames"] != changed["status"]["acceptedNames"] {
                    self.seen.wake_others(group, name);
                }
                changed
            }
        };
        if object::is_deleting(&crd) && object::has_finalizer(&crd, FINALIZER) {
            return self.finalize(crd).await;
        }
        Ok(Next::Done)
    }

    fn now(&self) -> String {
        knarr_meta::time::rfc3339(self.client.ctx().clock.now())
    }

    async fn read(&self, name: &str) -> Result<Option<Value>, Error> {
        match self.client.call(http::Method::GET, &definitions().url("", name, ""), &Value::Null).await {
            Ok(bytes) => Ok(Some(parse(&bytes)?)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes a status, and finalizers if they change, over exactly the definition that was read.
    async fn write(&self, crd: &Value, status: Value, finalizers: Option<Vec<&str>>) -> Result<Value, Error> {
        let mut metadata = json!({"resourceVersion": object::resource_version(crd)});
        if let Some(finalizers) = finalizers {
            metadata["finalizers"] = finalizers.into();
        }
        let mut names = status["acceptedNames"].clone();
        // A merge keeps what a patch does not mention.
        for gone in crd["status"]["acceptedNames"].as_object().into_iter().flat_map(|held| held.keys()) {
            if names.get(gone).is_none() {
                names[gone] = Value::Null;
            }
        }
        let parts = json!({"acceptedNames": names, "conditions": status["conditions"]});
        let patch = Patch::Merge(json!({"metadata": metadata, "status": parts}));
        let answer = self.client.patch_raw(&definitions(), "", object::name(crd), "status", &patch).await?;
        let changed = parse(&answer)?;
        self.seen.remember(&changed);
        Ok(changed)
    }

    /// Deletes the objects of a definition that goes, then lets it go.
    async fn finalize(&self, crd: Value) -> Result<Next, Error> {
        let mut status = crd["status"].clone();
        let now = self.now();
        let mut terminating = |is: &str, reason: &str, message: &str| {
            set_condition(&mut status, "Terminating", is, reason, message, &now);
            status.clone()
        };
        let group = get_str(&crd, &["spec", "group"]);
        let plural = get_str(&crd, &["spec", "names", "plural"]);
        let done = if BUILT_IN.contains(&(group, plural)) {
            terminating(
                "False",
                "OverlappingBuiltInResource",
                "instances overlap with built-in resources in storage",
            )
        } else if !knarr_apiextensions::crd::has_condition(&crd, "Established") {
            terminating("False", "NeverEstablished", "resource was never established")
        } else {
            let status =
                terminating("True", "InstanceDeletionInProgress", "CustomResource deletion is in progress");
            let crd =
                if status == crd["status"] { crd.clone() } else { self.write(&crd, status, None).await? };
            match self.delete_objects(&crd).await {
                Ok(0) => terminating("False", "InstanceDeletionCompleted", "removed all instances"),
                Ok(_) => return Ok(Next::After(RECOUNT)),
                Err((message, error)) => {
                    let status = terminating("True", "InstanceDeletionFailed", &message);
                    if status != crd["status"] {
                        self.write(&crd, status, None).await?;
                    }
                    return Err(error);
                }
            }
        };
        let Some(crd) = self.read(object::name(&crd)).await? else { return Ok(Next::Done) };
        let rest = object::finalizers(&crd).into_iter().filter(|name| *name != FINALIZER).collect();
        self.write(&crd, done, Some(rest)).await?;
        Ok(Next::Done)
    }

    /// Asks for the deletion of all objects; how many are still there.
    async fn delete_objects(&self, crd: &Value) -> Result<usize, (String, Error)> {
        let accepted = get_str(crd, &["status", "acceptedNames", "plural"]);
        let versions = crd["spec"]["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
        let served = || versions.iter().filter(|version| version["served"] == true);
        // Objects need no conversion in the version they are stored in.
        let version = served().find(|version| version["storage"] == true).or_else(|| served().next());
        let path = ResourcePath {
            group: get_str(crd, &["spec", "group"]).to_owned(),
            version: version.map_or("", |version| get_str(version, &["name"])).to_owned(),
            resource: accepted.to_owned(),
        };
        let list = || async {
            let options = ListOptions::default();
            let list = self.client.list_raw(&path, "", &options, METADATA_LIST).await;
            list.map_err(|error| (format!("could not list instances: {error}"), error))
        };
        let namespaces: BTreeSet<String> = list()
            .await?
            .items
            .iter()
            .filter_map(|item| serde_json::from_slice::<Value>(item).ok())
            .map(|item| object::namespace(&item).to_owned())
            .collect();
        if namespaces.is_empty() {
            return Ok(0);
        }
        for namespace in &namespaces {
            let deleted = self.client.delete_raw(&path, namespace, "", &DeleteOptions::default()).await;
            deleted.map_err(|error| (format!("could not issue all deletes: {error}"), error))?;
        }
        Ok(list().await?.items.len())
    }
}

fn parse(bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes).map_err(|error| Error::Protocol(format!("a definition: {error}")))
}
