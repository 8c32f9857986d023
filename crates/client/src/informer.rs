//! Informers: a local copy of a collection that follows the server, with indexes and change handlers.
//! One informer per collection is shared by everybody who was given the same [`Informers`].

use crate::reflector::{self, Sink, Source};
use crate::trim::without_managed_fields;
use crate::{Client, ResourcePath};
use bytes::Bytes;
use knarr_api::Kind;
use knarr_api::meta::v1::ObjectMeta;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, RwLock};
use tokio_util::sync::CancellationToken;

/// What an informer can hold.
pub trait Object: Send + Sync + 'static {
    /// Reads it from JSON; the error is for the log.
    fn read(json: &[u8]) -> Result<Self, String>
    where
        Self: Sized;
    /// Its metadata.
    fn metadata(&self) -> &ObjectMeta;
}

impl<K: Kind> Object for K {
    fn read(json: &[u8]) -> Result<Self, String> {
        // Nobody reads these from a copy, and an update without them keeps the server's.
        let mut object = K::decode(&without_managed_fields(json)).map_err(|e| e.to_string())?;
        object.meta_mut().managed_fields = None;
        Ok(object)
    }
    fn metadata(&self) -> &ObjectMeta {
        self.meta()
    }
}

/// The metadata of an object of any kind, from a metadata-only watch.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Metadata {
    /// The metadata.
    pub metadata: ObjectMeta,
}

impl Object for Metadata {
    fn read(json: &[u8]) -> Result<Self, String> {
        let json = without_managed_fields(json);
        let mut object: Self = serde_json::from_slice(&json).map_err(|e| e.to_string())?;
        object.metadata.managed_fields = None;
        Ok(object)
    }
    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
}

/// Namespace and name; the namespace is empty for cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Key {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
}

impl Key {
    /// A key.
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// The key of an object with this metadata.
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

/// A change to the local copy: created (no `old`), deleted (no `new`) or updated.
pub struct Change<T> {
    /// Before.
    pub old: Option<Arc<T>>,
    /// After.
    pub new: Option<Arc<T>>,
}

impl<T> Change<T> {
    /// The object as it is, or as it was when it is gone.
    pub fn object(&self) -> &Arc<T> {
        self.new.as_ref().or(self.old.as_ref()).expect("a change has a before or an after")
    }
}

type Handler<T> = Box<dyn Fn(&Change<T>) + Send + Sync>;

struct Held<T> {
    objects: BTreeMap<Key, Arc<T>>,
    by_owner: HashMap<String, BTreeSet<Key>>,
}

struct Shared<T> {
    held: RwLock<Held<T>>,
    // Held while handlers run, so that a handler added meanwhile neither misses nor repeats a change.
    handlers: Mutex<Vec<Handler<T>>>,
    synced: tokio::sync::watch::Sender<bool>,
}

/// A local copy of a collection. Cheap to clone.
pub struct Informer<T>(Arc<Shared<T>>);

impl<T> Clone for Informer<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<T: Object> Informer<T> {
    fn empty() -> Self {
        Self(Arc::new(Shared {
            held: RwLock::new(Held { objects: BTreeMap::new(), by_owner: HashMap::new() }),
            handlers: Mutex::default(),
            synced: tokio::sync::watch::Sender::new(false),
        }))
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<T>> {
        self.read().objects.get(&Key::new(namespace, name)).cloned()
    }

    /// One object by key.
    pub fn get_key(&self, key: &Key) -> Option<Arc<T>> {
        self.read().objects.get(key).cloned()
    }

    /// All objects of a namespace, or of all when it is empty, in order of namespace and name.
    pub fn list(&self, namespace: &str) -> Vec<Arc<T>> {
        let held = self.read();
        if namespace.is_empty() {
            return held.objects.values().cloned().collect();
        }
        held.objects
            .range(Key::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// The objects whose controlling owner has this UID.
    pub fn controlled_by(&self, uid: &str) -> Vec<Arc<T>> {
        let held = self.read();
        let keys = held.by_owner.get(uid).into_iter().flatten();
        keys.filter_map(|key| held.objects.get(key).cloned()).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Calls `handler` for every object there is, as created, and then for every change, in order, from the
    /// informer's task. It must be quick: put a key on a queue.
    pub fn on_change(&self, handler: impl Fn(&Change<T>) + Send + Sync + 'static) {
        let mut handlers = self.0.handlers.lock().expect("handler lock is never poisoned");
        for object in self.list("") {
            handler(&Change { old: None, new: Some(object) });
        }
        handlers.push(Box::new(handler));
    }

    /// Resolves once the first list is in.
    pub async fn synced(&self) {
        let mut synced = self.0.synced.subscribe();
        // The sender lives as long as `self`.
        let _ = synced.wait_for(|done| *done).await;
    }

    /// Whether the first list is in.
    pub fn has_synced(&self) -> bool {
        *self.0.synced.borrow()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Held<T>> {
        self.0.held.read().expect("informer lock is never poisoned")
    }

    fn apply(&self, changes: Vec<(Key, Option<Arc<T>>)>) {
        let handlers = self.0.handlers.lock().expect("handler lock is never poisoned");
        for (key, new) in changes {
            let mut held = self.0.held.write().expect("informer lock is never poisoned");
            let old = match &new {
                Some(object) => held.objects.insert(key.clone(), object.clone()),
                None => held.objects.remove(&key),
            };
            let (was, is) = (old.as_deref().and_then(controller), new.as_deref().and_then(controller));
            if was != is {
                if let Some(uid) = was
                    && let Some(keys) = held.by_owner.get_mut(uid)
                {
                    keys.remove(&key);
                    if keys.is_empty() {
                        held.by_owner.remove(uid);
                    }
                }
                if let Some(uid) = is {
                    held.by_owner.entry(uid.to_owned()).or_default().insert(key);
                }
            }
            drop(held);
            if old.is_some() || new.is_some() {
                // A name that now belongs to another object: its predecessor is gone.
                let changes = match (old, new) {
                    (Some(old), Some(new)) if old.metadata().uid != new.metadata().uid => {
                        vec![Change { old: Some(old), new: None }, Change { old: None, new: Some(new) }]
                    }
                    (old, new) => vec![Change { old, new }],
                };
                for change in &changes {
                    handlers.iter().for_each(|handler| handler(change));
                }
            }
        }
    }

    fn decode(json: &[u8]) -> Option<(Key, T)> {
        match T::read(json) {
            Ok(object) => Some((Key::of(object.metadata()), object)),
            Err(error) => {
                tracing::error!(%error, kind = std::any::type_name::<T>(), "skipping an object that cannot be read");
                None
            }
        }
    }
}

fn controller<T: Object>(object: &T) -> Option<&str> {
    let owners = object.metadata().owner_references.as_ref()?;
    owners.iter().find(|o| o.controller == Some(true)).map(|o| o.uid.as_str())
}

impl<T: Object> Sink for Informer<T> {
    fn replace(&self, items: Vec<Bytes>) {
        let items: BTreeMap<Key, T> = items.iter().filter_map(|json| Self::decode(json)).collect();
        let gone: Vec<Key> =
            self.read().objects.keys().filter(|key| !items.contains_key(key)).cloned().collect();
        let unchanged = |key: &Key, object: &T| {
            let version = &object.metadata().resource_version;
            self.get_key(key).is_some_and(|held| held.metadata().resource_version == *version)
        };
        let changes = items.into_iter().filter(|(key, object)| !unchanged(key, object));
        let changes = changes.map(|(key, object)| (key, Some(Arc::new(object))));
        self.apply(gone.into_iter().map(|key| (key, None)).chain(changes).collect());
        self.0.synced.send_replace(true);
    }

    fn set(&self, object: Bytes) {
        if let Some((key, object)) = Self::decode(&object) {
            self.apply(vec![(key, Some(Arc::new(object)))]);
        }
    }

    fn remove(&self, object: Bytes) {
        if let Some((key, _)) = Self::decode(&object) {
            self.apply(vec![(key, None)]);
        }
    }
}

/// Hands out shared informers under one client.
#[derive(Clone)]
pub struct Informers {
    client: Client,
    made: Arc<Mutex<HashMap<Source, Made>>>,
}

/// An informer of some type, with what ends its task.
struct Made {
    informer: Box<dyn Any + Send + Sync>,
    end: CancellationToken,
}

impl Informers {
    /// A set of informers that read through `client` and live in its task scope.
    pub fn new(client: Client) -> Self {
        Self { client, made: Arc::default() }
    }

    /// The client they read through.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The informer over all objects of a kind.
    pub fn get<K: Kind>(&self) -> Informer<K> {
        self.filtered("", "", "")
    }

    /// The informer over a namespace (empty for all) with selectors (empty for none).
    pub fn filtered<K: Kind>(
        &self,
        namespace: &str,
        label_selector: &str,
        field_selector: &str,
    ) -> Informer<K> {
        self.open(Source {
            path: ResourcePath::of::<K>(),
            namespace: namespace.to_owned(),
            label_selector: label_selector.to_owned(),
            field_selector: field_selector.to_owned(),
            metadata_only: false,
        })
    }

    /// The informer over the metadata of any resource.
    pub fn metadata(&self, path: ResourcePath) -> Informer<Metadata> {
        self.open(Self::metadata_of(path))
    }

    fn metadata_of(path: ResourcePath) -> Source {
        Source {
            path,
            namespace: String::new(),
            label_selector: String::new(),
            field_selector: String::new(),
            metadata_only: true,
        }
    }

    /// Ends the informer over the metadata of a resource that is no longer served. Its copy stays what it was for
    /// whoever still has it; the next who asks gets a new one.
    pub fn forget_metadata(&self, path: &ResourcePath) {
        let mut made = self.made.lock().expect("informer table is never poisoned");
        let removed = made.remove(&Self::metadata_of(path.clone()));
        removed.into_iter().for_each(|made| made.end.cancel());
    }

    fn open<T: Object>(&self, source: Source) -> Informer<T> {
        let mut made = self.made.lock().expect("informer table is never poisoned");
        let known = made.get(&source).and_then(|made| made.informer.downcast_ref::<Informer<T>>());
        if let Some(informer) = known {
            return informer.clone();
        }
        let (informer, end) = (Informer::<T>::empty(), CancellationToken::new());
        made.insert(source.clone(), Made { informer: Box::new(informer.clone()), end: end.clone() });
        let name = format!("informer/{}", source.path.resource);
        let run = reflector::run(self.client.clone(), source, Arc::new(informer.clone()));
        self.client.ctx().tasks.spawn_until_stopped(&name, async move {
            tokio::select! {
                () = end.cancelled() => {}
                () = run => {}
            }
        });
        informer
    }
}
