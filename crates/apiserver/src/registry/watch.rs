//! watch: a stream of frames round shared objects, with bookmarks (KEP-956), initial events (KEP-3157) and a
//! time limit, in JSON or protobuf, plain or as Tables and PartialObjectMetadata.

use super::negotiate::{Media, Transform};
use super::options::{ListOptions, parse_version};
use super::read::{cache_error, filter};
use super::render::{Answer, partial};
use super::resource::{Resource, Version};
use super::{Call, Registry, table};
use crate::cache::{CacheError, Event, Filter, Matched, Watch, WatchError, WatchStart, classify};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use knarr_api::proto;
use knarr_base::Ctx;
use knarr_base::clock::BoxFuture;
use knarr_client::Body;
use knarr_client::body::BodyError;
use knarr_meta::status::{Reason, Status};
use serde_json::{Value, json};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// A watch without a limit of its own ends after this long to twice as long, as upstream.
const MIN_LIMIT: Duration = Duration::from_secs(1800);
/// How far apart bookmarks are.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long before its end a watch says where it stands.
const BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);
/// What ends the initial events of a watch-list.
const INITIAL_END: &str = "k8s.io/initial-events-end";
/// Frames are gathered up to this size before they are handed on.
const BATCH_BYTES: usize = 64 * 1024;

impl Registry {
    /// Serves a watch.
    pub(super) async fn watch(&self, call: &Call<'_>) -> Result<Answer, Status> {
        let (cx, resource) = (call.cx, call.resource);
        let options = ListOptions::read(cx)?;
        let filter = filter(cx, resource)?;
        let include = table::include(cx)?;
        let initial = options.initial_events == Some(true);
        let revision = parse_version(&options.version);
        let revision = revision.map_err(|text| Status::new(500, Reason::Unknown, text))?;
        let limit = options.timeout.unwrap_or_else(|| MIN_LIMIT.mul_f64(1.0 + cx.ctx.rng.unit()));
        let maker = Frames {
            resource: call.resource_arc.clone(),
            version: call.version_index,
            media: call.accept.media,
            transform: call.accept.transform,
            include: match include {
                "None" => "None",
                "Object" => "Object",
                _ => "",
            },
            ctx: cx.ctx.clone(),
            headed: false,
        };
        let stream_name = call.accept.media.stream_name().unwrap_or("application/json");
        // Once there is something to watch, what goes wrong is an event of the watch.
        let watch = match self.start_watch(resource, filter, revision, initial).await {
            Ok(watch) => watch.map_err(|error| Status::expired(error.to_string())),
            Err(status) if status.code == 429 => return Err(status),
            Err(status) => Err(status),
        };
        let body = match watch {
            Ok(watch) => {
                let end_mark = initial && options.bookmarks;
                let mut running = Running::new(watch, maker, &cx.ctx, limit, options.bookmarks, end_mark);
                running.held = call.while_initializing();
                Body::stream(running.stream())
            }
            Err(status) => Body::full(maker.error(&status)),
        };
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(stream_name));
        Ok(Answer::Raw(response))
    }
}

impl Registry {
    /// Starts a watch where the client wants it to. The inner error is told on the stream.
    async fn start_watch(
        &self,
        resource: &Resource,
        filter: Filter,
        revision: Option<u64>,
        initial: bool,
    ) -> Result<Result<Watch, WatchError>, Status> {
        let (cache, namespaced) = (&resource.cache, resource.namespaced());
        let failed = |e: CacheError| cache_error(&e);
        // Whether the cache has what the client wants to start with, and if not, how new that must be.
        let (start, fresh, least) = match (revision, initial) {
            (None, true) => (WatchStart::State, cache.fresh().await.map_err(failed)?, 0),
            (None, false) => (WatchStart::Now, cache.fresh().await.map_err(failed)?, 0),
            (Some(0), true) => (WatchStart::State, true, 0),
            (Some(0), false) => (WatchStart::Now, true, 0),
            (Some(revision), true) => {
                (WatchStart::State, cache.reach(revision).await.map_err(failed)?, revision)
            }
            (Some(revision), false) => (WatchStart::After(revision), true, 0),
        };
        cache.wait_for(0).await.map_err(failed)?;
        if !fresh {
            if start == WatchStart::Now {
                let now = self.store.latest().await.map_err(|e| failed(e.into()))?;
                return Ok(cache.watch(filter, namespaced, WatchStart::After(now)));
            }
            let listed = self.read_all(resource, &filter, least).await?;
            return Ok(cache.watch_listed(filter, namespaced, listed.revision, listed.objs));
        }
        Ok(match (cache.watch(filter.clone(), namespaced, start), start) {
            (Err(_), WatchStart::After(revision)) => cache.replay(filter, namespaced, revision).await,
            (watch, _) => watch,
        })
    }
}

/// Makes frames in the form a watch was asked for.
struct Frames {
    resource: Arc<Resource>,
    version: usize,
    media: Media,
    transform: Option<(Transform, &'static str)>,
    include: &'static str,
    ctx: Ctx,
    /// Whether the columns of a Table have been sent.
    headed: bool,
}

impl Frames {
    fn version(&self) -> &Version {
        &self.resource.versions[self.version]
    }

    /// The frame of an event, shared with other watches of the same form (Tables are not: the first differs).
    fn of(&mut self, event: &Event, matched: Matched<'_>) -> Result<Bytes, Status> {
        let revision = event.revision();
        if matches!(self.transform, Some((Transform::Table, _))) {
            return self.make(matched, revision);
        }
        let key = (matched.name(), self.version().frame_form(self.media, self.transform));
        event.frame(key, || self.make(matched, revision))
    }

    fn make(&mut self, matched: Matched<'_>, revision: u64) -> Result<Bytes, Status> {
        let name = matched.name();
        let stored = matched.obj().stored.at(revision);
        if self.media == Media::Json && self.transform.is_none() && self.version().identical {
            let mut out = BytesMut::with_capacity(stored.value.len() + 128);
            out.put_slice(b"{\"type\":\"");
            out.put_slice(name.as_bytes());
            out.put_slice(b"\",\"object\":");
            stored.put_full(&mut out, &self.version().api_version, &self.resource.def.kind);
            out.put_slice(b"}\n");
            return Ok(out.freeze());
        }
        if self.media == Media::Proto && self.transform.is_none() {
            // A deletion shows the object at another revision, which nobody else asks for.
            let moved = (matched.obj().revision() != revision).then(|| matched.obj().at(revision));
            let obj = moved.as_ref().unwrap_or(matched.obj());
            let body = self.resource.proto_body(self.version(), obj)?;
            let object = proto::wrap(&self.version().api_version, &self.resource.def.kind, &body);
            return Ok(proto::watch_frame(name, &object).into());
        }
        if let (Media::Json, Some((Transform::Partial | Transform::PartialList, version))) =
            (self.media, self.transform)
        {
            let mut out = BytesMut::with_capacity(1024);
            out.put_slice(b"{\"type\":\"");
            out.put_slice(name.as_bytes());
            out.put_slice(b"\",\"object\":");
            stored.put_partial(&mut out, version);
            out.put_slice(b"}\n");
            return Ok(out.freeze());
        }
        let object = self.shape(stored.parse())?;
        Ok(self.frame(name, &object))
    }

    /// Brings an object of the stored form into the one asked for.
    fn shape(&mut self, mut hub: Value) -> Result<Value, Status> {
        match self.transform {
            None => self.resource.serve_from_hub(self.version(), hub),
            Some((Transform::Partial | Transform::PartialList, version)) => Ok(partial(&mut hub, version)),
            Some((Transform::Table, version)) => {
                let metadata = json!({"resourceVersion": hub["metadata"]["resourceVersion"]});
                let cells = (self.resource.def.cells)(&hub, self.ctx.clock.now());
                let object = match self.include {
                    "None" => Value::Null,
                    "Object" => self.resource.serve_from_hub(self.version(), hub)?,
                    _ => partial(&mut hub, version),
                };
                Ok(self.table(version, &metadata, json!({"cells": cells, "object": object})))
            }
        }
    }

    fn table(&mut self, version: &str, metadata: &Value, row: Value) -> Value {
        let mut table = table::table(&self.version().columns, version, metadata, vec![row]);
        if std::mem::replace(&mut self.headed, true) {
            table["columnDefinitions"] = Value::Null;
        }
        table
    }

    /// Puts an object into a frame.
    fn frame(&self, name: &'static str, object: &Value) -> Bytes {
        if self.media == Media::Proto {
            let object = proto::encode(object)
                .or_else(|e| proto::encode(&Status::internal(e).to_json()))
                .unwrap_or_default();
            return proto::watch_frame(name, &object).into();
        }
        let mut out = format!("{{\"type\":\"{name}\",\"object\":").into_bytes();
        out.extend_from_slice(&super::render::ordered_json(object));
        out.extend_from_slice(b"}\n");
        out.into()
    }

    fn error(&self, status: &Status) -> Bytes {
        if self.media == Media::Proto {
            return self.frame("ERROR", &status.to_json());
        }
        let mut out = b"{\"type\":\"ERROR\",\"object\":".to_vec();
        out.extend_from_slice(&status.to_bytes());
        out.extend_from_slice(b"}\n");
        out.into()
    }

    fn bookmark(&mut self, revision: u64, ends_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if ends_initial {
            metadata["annotations"] = json!({INITIAL_END: "true"});
        }
        let (api_version, kind) = (self.version().api_version.clone(), &self.resource.def.kind);
        let mut object = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata});
        match self.transform {
            None => {}
            Some((Transform::Partial | Transform::PartialList, version)) => {
                object = partial(&mut object, version)
            }
            Some((Transform::Table, version)) => {
                let metadata = json!({"resourceVersion": revision.to_string()});
                let cells = (self.resource.def.cells)(&object, self.ctx.clock.now());
                let object_cell = match self.include {
                    "None" if !ends_initial => Value::Null,
                    "Object" => object.take(),
                    _ => partial(&mut object, version),
                };
                object = self.table(version, &metadata, json!({"cells": cells, "object": object_cell}));
            }
        }
        self.frame("BOOKMARK", &object)
    }
}

/// A running watch as a stream of buffers.
struct Running {
    watch: Watch,
    frames: Frames,
    ctx: Ctx,
    deadline: Instant,
    end: BoxFuture<'static, ()>,
    /// When to say where the watch stands, if it was asked to.
    bookmark: Option<BoxFuture<'static, ()>>,
    /// The resource is no longer served as it was.
    retired: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Whether the initial events are still to be closed by a bookmark.
    end_mark: bool,
    initial_done: bool,
    /// Dropped when the initial events have been handed on.
    held: Option<Box<dyn Send>>,
    last_bookmark: u64,
    over: bool,
}

/// When the next bookmark is due for a watch with `left` to run.
fn next_bookmark(ctx: &Ctx, left: Duration) -> Duration {
    let regular = BOOKMARK_EVERY.mul_f64(1.0 + 0.25 * ctx.rng.unit());
    match left.checked_sub(BOOKMARK_BEFORE_END) {
        Some(last) if !last.is_zero() => regular.min(last),
        _ => regular,
    }
}

impl Running {
    fn new(
        watch: Watch,
        frames: Frames,
        ctx: &Ctx,
        limit: Duration,
        bookmarks: bool,
        end_mark: bool,
    ) -> Self {
        Self {
            deadline: ctx.clock.instant() + limit,
            end: ctx.clock.sleep(limit),
            bookmark: bookmarks.then(|| ctx.clock.sleep(next_bookmark(ctx, limit))),
            end_mark,
            initial_done: false,
            held: None,
            last_bookmark: 0,
            over: false,
            ctx: ctx.clone(),
            retired: Box::pin(frames.resource.retirement().cancelled_owned()),
            watch,
            frames,
        }
    }

    fn stream(self) -> impl futures_util::Stream<Item = Result<Bytes, BodyError>> + Send + 'static {
        stream::unfold(self, |mut running| async move {
            let buffer = running.next().await?;
            Some((Ok(buffer), running))
        })
    }

    async fn next(&mut self) -> Option<Bytes> {
        if self.over {
            return None;
        }
        if !self.initial_done {
            let mut out = BytesMut::new();
            while out.len() < BATCH_BYTES {
                let Some(event) = self.watch.next_initial() else {
                    self.initial_done = true;
                    self.held = None;
                    if std::mem::take(&mut self.end_mark) {
                        self.last_bookmark = self.watch.started_at;
                        out.put_slice(&self.frames.bookmark(self.watch.started_at, true));
                    }
                    break;
                };
                self.put(&mut out, &event);
                if self.over {
                    break;
                }
            }
            if !out.is_empty() {
                return Some(out.freeze());
            }
        }
        loop {
            let event = tokio::select! {
                biased;
                event = self.watch.recv() => Some(event?),
                () = &mut self.end => return None,
                () = &mut self.retired => return None,
                () = async { match &mut self.bookmark { Some(due) => due.await, None => std::future::pending().await } } => None,
            };
            let Some(event) = event else {
                let left = self.deadline.saturating_duration_since(self.ctx.clock.instant());
                self.bookmark = Some(self.ctx.clock.sleep(next_bookmark(&self.ctx, left)));
                match self.watch.bookmark().filter(|revision| *revision > self.last_bookmark) {
                    Some(revision) => {
                        self.last_bookmark = revision;
                        return Some(self.frames.bookmark(revision, false));
                    }
                    None => continue,
                }
            };
            let mut first = BytesMut::new();
            if let Some(frame) = self.single(&event) {
                // Alone in the queue: the shared frame goes out as it is.
                let Some(next) = self.watch.try_recv() else { return Some(frame) };
                first.put_slice(&frame);
                self.put(&mut first, &next);
            }
            while first.len() < BATCH_BYTES && !self.over {
                let Some(next) = self.watch.try_recv() else { break };
                self.put(&mut first, &next);
            }
            if !first.is_empty() {
                return Some(first.freeze());
            }
            if self.over {
                return None;
            }
        }
    }

    fn put(&mut self, out: &mut BytesMut, event: &Arc<Event>) {
        if let Some(frame) = self.single(event) {
            out.put_slice(&frame);
        }
    }

    /// The frame of an event, if it means anything to this watch.
    fn single(&mut self, event: &Arc<Event>) -> Option<Bytes> {
        // A watch that starts in the future is not told of what is before it.
        if self.initial_done && event.revision() <= self.watch.started_at {
            return None;
        }
        let matched = classify(self.watch.filter(), event)?;
        match self.frames.of(event, matched) {
            Ok(frame) => Some(frame),
            Err(status) => {
                self.over = true;
                Some(self.frames.error(&status))
            }
        }
    }
}
