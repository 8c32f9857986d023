//! The ConfigMaps and Secrets that pods of this node refer to, each followed by a watch of its own: the
//! Node authorizer lets a kubelet see no others. A pod hears of a change at once.

use bytes::Bytes;
use knarr_api::Kind;
use knarr_api::core::v1::{ConfigMap, Secret};
use knarr_base::clock::timeout;
use knarr_client::reflector::{self, Sink, Source};
use knarr_client::{Client, ResourcePath};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How long a first read may take.
const SYNC_LIMIT: Duration = Duration::from_secs(5);

/// Which kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum What {
    ConfigMap,
    Secret,
}

impl What {
    /// As messages name it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::ConfigMap => "configmap",
            Self::Secret => "secret",
        }
    }
}

/// What is in a ConfigMap or Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Data {
    /// The object's UID.
    pub(crate) uid: String,
    /// By key; text and binary data alike.
    pub(crate) data: BTreeMap<String, Vec<u8>>,
}

type Key = (What, String, String);
type Slot = Option<Option<Arc<Data>>>;

/// Hears the UID of a pod one of whose objects changed.
pub(crate) type OnChange = Arc<dyn Fn(&str) + Send + Sync>;

/// The objects being followed.
pub(crate) struct Objects {
    client: Client,
    on_change: OnChange,
    followed: Mutex<HashMap<Key, Arc<Followed>>>,
}

struct Followed {
    what: What,
    slot: watch::Sender<Slot>,
    users: Mutex<HashSet<String>>,
    stop: CancellationToken,
    on_change: OnChange,
}

impl Objects {
    pub(crate) fn new(client: Client, on_change: OnChange) -> Self {
        Self { client, on_change, followed: Mutex::default() }
    }

    /// The object as it is now, `None` if it does not exist. The pod `uid` hears of changes from now on.
    pub(crate) async fn get(
        &self,
        what: What,
        namespace: &str,
        name: &str,
        uid: &str,
    ) -> Result<Option<Arc<Data>>, String> {
        let followed = self.follow(what, namespace, name);
        followed.users.lock().expect("user lock is never poisoned").insert(uid.to_owned());
        let mut slot = followed.slot.subscribe();
        let clock = &self.client.ctx().clock;
        let found = timeout(&**clock, SYNC_LIMIT, slot.wait_for(Option::is_some)).await;
        match found {
            Some(Ok(slot)) => Ok(slot.clone().expect("it was waited for")),
            _ => Err(format!("failed to sync {} cache: timed out waiting for the condition", what.word())),
        }
    }

    fn follow(&self, what: What, namespace: &str, name: &str) -> Arc<Followed> {
        let mut all = self.followed.lock().expect("object lock is never poisoned");
        let key = (what, namespace.to_owned(), name.to_owned());
        if let Some(followed) = all.get(&key) {
            return followed.clone();
        }
        let followed = Arc::new(Followed {
            what,
            slot: watch::Sender::new(None),
            users: Mutex::default(),
            stop: CancellationToken::new(),
            on_change: self.on_change.clone(),
        });
        let path = match what {
            What::ConfigMap => ResourcePath::of::<ConfigMap>(),
            What::Secret => ResourcePath::of::<Secret>(),
        };
        let source = Source {
            path,
            namespace: namespace.to_owned(),
            label_selector: String::new(),
            field_selector: format!("metadata.name={name}"),
            metadata_only: false,
        };
        let run = reflector::run(self.client.clone(), source, followed.clone());
        let stop = followed.stop.clone();
        self.client.ctx().tasks.spawn_until_stopped("object-watch", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = run => {}
            }
        });
        all.insert(key, followed.clone());
        followed
    }

    /// The pod is gone: what only it used is followed no longer.
    pub(crate) fn release(&self, uid: &str) {
        let mut all = self.followed.lock().expect("object lock is never poisoned");
        all.retain(|_, followed| {
            let mut users = followed.users.lock().expect("user lock is never poisoned");
            if users.remove(uid) && users.is_empty() {
                followed.stop.cancel();
                return false;
            }
            true
        });
    }
}

impl Followed {
    fn put(&self, data: Option<Data>) {
        let changed = self.slot.send_if_modified(|slot| {
            if slot.as_ref().is_some_and(|held| held.as_deref() == data.as_ref()) {
                return false;
            }
            *slot = Some(data.map(Arc::new));
            true
        });
        if changed {
            let users: Vec<String> =
                self.users.lock().expect("user lock is never poisoned").iter().cloned().collect();
            users.iter().for_each(|uid| (self.on_change)(uid));
        }
    }

    fn read(&self, json: &[u8]) -> Option<Data> {
        match self.what {
            What::ConfigMap => {
                let map = ConfigMap::decode(json).ok()?;
                let mut data: BTreeMap<String, Vec<u8>> =
                    map.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.into_bytes())).collect();
                data.extend(map.binary_data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)));
                Some(Data { uid: map.metadata.uid.unwrap_or_default(), data })
            }
            What::Secret => {
                let secret = Secret::decode(json).ok()?;
                Some(Data {
                    uid: secret.metadata.uid.unwrap_or_default(),
                    data: secret.data.unwrap_or_default().into_iter().map(|(k, v)| (k, v.0)).collect(),
                })
            }
        }
    }
}

impl Sink for Followed {
    fn replace(&self, items: Vec<Bytes>) {
        self.put(items.first().and_then(|item| self.read(item)));
    }
    fn set(&self, object: Bytes) {
        if let Some(data) = self.read(&object) {
            self.put(Some(data));
        }
    }
    fn remove(&self, _: Bytes) {
        self.put(None);
    }
}
