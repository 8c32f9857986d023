//! Events about objects. Repeats of the same event raise its count instead of making new objects, as
//! client-go's correlator does. Recording never waits: what the server cannot take in time is dropped.

use crate::{Client, Patch};
use knarr_api::Kind;
use knarr_api::core::v1::{Event, EventSource, ObjectReference};
use knarr_api::meta::v1::ObjectMeta;
use knarr_meta::time::rfc3339;
use serde_json::json;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// Events waiting to be sent at most.
const BACKLOG: usize = 1000;
/// A repeat within this time counts up the earlier event.
const SAME_EVENT_WINDOW: Duration = Duration::from_secs(600);
/// Distinct events remembered for counting at most.
const REMEMBERED: usize = 4096;

/// What an event is about.
pub type ObjectRef = ObjectReference;

/// Annotations of an event.
pub type Annotations = std::collections::BTreeMap<String, String>;

/// A reference to `object`.
pub fn reference<K: Kind>(object: &K) -> ObjectRef {
    let meta = object.meta();
    ObjectRef {
        kind: Some(K::KIND.to_owned()),
        api_version: Some(K::API_VERSION.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        ..ObjectRef::default()
    }
}

struct Note {
    about: ObjectRef,
    warning: bool,
    reason: String,
    message: String,
    annotations: Annotations,
}

/// Records events under one component name.
#[derive(Clone)]
pub struct Recorder {
    send: mpsc::Sender<Note>,
}

impl Recorder {
    /// A recorder for `component` on `host` (empty if it belongs to no node).
    pub fn new(client: Client, component: &str, host: &str) -> Self {
        let (send, receive) = mpsc::channel(BACKLOG);
        let source = EventSource {
            component: Some(component.to_owned()),
            host: Some(host.to_owned()).filter(|h| !h.is_empty()),
        };
        let tasks = client.ctx().tasks.clone();
        tasks.spawn_until_stopped("event-recorder", run(client, source, receive));
        Self { send }
    }

    /// A normal event.
    pub fn normal(&self, about: &ObjectRef, reason: &str, message: impl Into<String>) {
        self.record(about, false, reason, message.into(), Annotations::new());
    }

    /// A warning.
    pub fn warning(&self, about: &ObjectRef, reason: &str, message: impl Into<String>) {
        self.record(about, true, reason, message.into(), Annotations::new());
    }

    /// A warning whose event gets annotations.
    pub fn annotated_warning(
        &self,
        about: &ObjectRef,
        annotations: Annotations,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.record(about, true, reason, message.into(), annotations);
    }

    fn record(
        &self,
        about: &ObjectRef,
        warning: bool,
        reason: &str,
        message: String,
        annotations: Annotations,
    ) {
        let note = Note { about: about.clone(), warning, reason: reason.to_owned(), message, annotations };
        if self.send.try_send(note).is_err() {
            tracing::warn!(reason, "event dropped: too many are waiting");
        }
    }
}

struct Seen {
    name: String,
    count: i32,
    last: Instant,
}

async fn run(client: Client, source: EventSource, mut receive: mpsc::Receiver<Note>) {
    let mut seen: HashMap<Arc<str>, Seen> = HashMap::new();
    while let Some(note) = receive.recv().await {
        let ctx = client.ctx();
        let about = &note.about;
        let key: Arc<str> = [&about.uid, &about.field_path, &about.name]
            .into_iter()
            .map(|part| part.as_deref().unwrap_or_default())
            .chain([note.reason.as_str(), note.message.as_str()])
            .collect::<Vec<_>>()
            .join("\u{1f}")
            .into();
        let now = ctx.clock.instant();
        let namespace =
            about.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".to_owned());
        if let Some(earlier) = seen.get_mut(&key).filter(|s| now - s.last < SAME_EVENT_WINDOW) {
            earlier.count += 1;
            earlier.last = now;
            let patch = json!({ "count": earlier.count, "lastTimestamp": rfc3339(ctx.clock.now()) });
            let patched =
                client.patch::<Event>(&namespace, &earlier.name, "", &Patch::Strategic(patch)).await;
            match patched {
                Err(error) if error.is_not_found() => {}
                Err(error) => {
                    tracing::debug!(%error, reason = note.reason, "event not counted");
                    continue;
                }
                Ok(_) => continue,
            }
        }
        let name = format!("{}.{:016x}", about.name.as_deref().unwrap_or_default(), ctx.rng.u64());
        match client.create(&event(&note, &source, &namespace, &name, ctx.clock.now())).await {
            Ok(_) => {
                if seen.len() >= REMEMBERED {
                    seen.retain(|_, s| now - s.last < SAME_EVENT_WINDOW / 10);
                }
                seen.insert(key, Seen { name, count: 1, last: now });
            }
            Err(error) => tracing::debug!(%error, reason = note.reason, "event not recorded"),
        }
    }
}

fn event(
    note: &Note,
    source: &EventSource,
    namespace: &str,
    name: &str,
    now: std::time::SystemTime,
) -> Event {
    let value = json!({
        "firstTimestamp": rfc3339(now),
        "lastTimestamp": rfc3339(now),
        "count": 1,
        "type": if note.warning { "Warning" } else { "Normal" },
        "reason": note.reason,
        "message": note.message,
        "metadata": { "name": name, "namespace": namespace },
        "involvedObject": {},
        "reportingComponent": source.component,
        "reportingInstance": source.host.as_deref().unwrap_or_default(),
    });
    let mut event = Event::from_value(&value).expect("an event made here is well formed");
    event.metadata = ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()),
        annotations: Some(note.annotations.clone()).filter(|all| !all.is_empty()),
        ..Default::default()
    };
    event.involved_object = note.about.clone();
    event.source = Some(source.clone());
    event
}
