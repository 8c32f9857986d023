//! Keeps a sink equal to a collection: list, watch from there, list again when the watch says that its
//! resourceVersion is too old (client-go's Reflector). The loop knows no types.

use crate::client::{METADATA_LIST, METADATA_ONLY};
use crate::watch::WatchEvent;
use crate::{Client, Error, ListOptions, ResourcePath};
use bytes::Bytes;
use knarr_base::Backoff;
use std::sync::Arc;
use std::time::Duration;

/// What a reflector feeds. Called from one task only.
pub trait Sink: Send + Sync + 'static {
    /// The whole collection, each object as JSON.
    fn replace(&self, items: Vec<Bytes>);
    /// One object is new or changed.
    fn set(&self, object: Bytes);
    /// One object is gone; this is what it was.
    fn remove(&self, object: Bytes);
}

/// What to reflect.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// The resource.
    pub path: ResourcePath,
    /// Namespace, empty for all.
    pub namespace: String,
    /// Label selector.
    pub label_selector: String,
    /// Field selector.
    pub field_selector: String,
    /// Only metadata.
    pub metadata_only: bool,
}

/// Reflects `source` into `sink` for ever.
pub async fn run(client: Client, source: Source, sink: Arc<dyn Sink>) {
    let ctx = client.ctx().clone();
    let mut backoff = Backoff::new(Duration::from_millis(50), 2.0, Duration::from_secs(30));
    let mut version = String::new();
    loop {
        let outcome = if version.is_empty() {
            list(&client, &source, &*sink, &mut version).await
        } else {
            watch(&client, &source, &*sink, &mut version, &mut backoff).await
        };
        match outcome {
            Ok(()) => {}
            Err(error) if error.is_expired() => version.clear(),
            Err(error) => {
                let pause = backoff.step_jittered(&*ctx.rng, 0.5);
                tracing::debug!(resource = source.path.resource, %error, ?pause, "list or watch failed");
                ctx.clock.sleep(pause).await;
            }
        }
    }
}

/// A watch that ends sooner than this without an event is a failure, so that a server that accepts and ends
/// watches at once (one that is shutting down) is not asked again without a pause.
const SHORTEST_WATCH: Duration = Duration::from_secs(1);

fn options(source: &Source, version: &str) -> ListOptions {
    ListOptions {
        label_selector: source.label_selector.clone(),
        field_selector: source.field_selector.clone(),
        resource_version: version.to_owned(),
        ..ListOptions::default()
    }
}

async fn list(client: &Client, source: &Source, sink: &dyn Sink, version: &mut String) -> Result<(), Error> {
    let accept = if source.metadata_only { METADATA_LIST } else { crate::client::JSON };
    let list = client.list_raw(&source.path, &source.namespace, &options(source, ""), accept).await?;
    sink.replace(list.items);
    *version = list.resource_version;
    Ok(())
}

async fn watch(
    client: &Client,
    source: &Source,
    sink: &dyn Sink,
    version: &mut String,
    backoff: &mut Backoff,
) -> Result<(), Error> {
    let accept = if source.metadata_only { METADATA_ONLY } else { crate::client::JSON };
    let clock = client.ctx().clock.clone();
    let started = clock.instant();
    let mut told = false;
    let mut watcher =
        client.watch(&source.path, &source.namespace, &options(source, version), accept).await?;
    while let Some(event) = watcher.next().await {
        told = true;
        let object = match event? {
            WatchEvent::Error(status) => return Err(Error::Api(status)),
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                sink.set(object.clone());
                object
            }
            WatchEvent::Deleted(object) => {
                sink.remove(object.clone());
                object
            }
            WatchEvent::Bookmark(object) => object,
        };
        if let Some(seen) = resource_version(&object) {
            *version = seen;
            backoff.reset();
        }
    }
    if !told && clock.instant() - started < SHORTEST_WATCH {
        return Err(Error::Protocol("the watch ended at once".into()));
    }
    Ok(())
}

fn resource_version(object: &[u8]) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Partial {
        metadata: Meta,
    }
    #[derive(serde::Deserialize)]
    struct Meta {
        #[serde(rename = "resourceVersion")]
        resource_version: Option<String>,
    }
    serde_json::from_slice::<Partial>(object).ok()?.metadata.resource_version
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Body, Transport};
    use futures_util::future::BoxFuture;
    use knarr_base::{Ctx, ManualClock};
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Lists nothing and ends every watch at once.
    #[derive(Default)]
    struct Ending(AtomicUsize);

    impl Transport for Ending {
        fn send(
            &self,
            request: http::Request<Bytes>,
        ) -> BoxFuture<'static, Result<http::Response<Body>, Error>> {
            let watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            self.0.fetch_add(usize::from(watch), Ordering::SeqCst);
            let list = Bytes::from_static(b"{\"metadata\":{\"resourceVersion\":\"5\"},\"items\":[]}");
            let body = if watch { Body::empty() } else { Body::full(list) };
            Box::pin(std::future::ready(Ok(http::Response::new(body))))
        }
        fn server(&self) -> String {
            "ending".into()
        }
    }

    struct Ignored;
    impl Sink for Ignored {
        fn replace(&self, _: Vec<Bytes>) {}
        fn set(&self, _: Bytes) {}
        fn remove(&self, _: Bytes) {}
    }

    #[tokio::test]
    async fn a_server_that_ends_watches_at_once_is_not_asked_again_without_a_pause() {
        let clock = ManualClock::at(std::time::SystemTime::UNIX_EPOCH);
        let ctx = Ctx { clock: clock.clone(), ..Ctx::system() };
        let server = Arc::new(Ending::default());
        let client = Client::new(server.clone(), "test", ctx);
        let path = ResourcePath { group: String::new(), version: "v1".into(), resource: "pods".into() };
        let source = Source {
            path,
            namespace: String::new(),
            label_selector: String::new(),
            field_selector: String::new(),
            metadata_only: false,
        };
        let mut reflecting = Box::pin(run(client, source, Arc::new(Ignored)));
        for watches in 1..4 {
            // Nothing here waits for anything but the clock, so one poll goes as far as it can.
            assert!(futures_util::poll!(reflecting.as_mut()).is_pending());
            assert_eq!(server.0.load(Ordering::SeqCst), watches);
            clock.advance(Duration::from_secs(60));
        }
    }
}
