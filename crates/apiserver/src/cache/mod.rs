//! The watch cache: the current objects of one storage resource in key order and a bounded window of past
//! changes, fed by one watch of the store and started by the first who needs it. It is what upstream's
//! cacher (KEP-2340 consistent reads, KEP-3157 watch-list) is: lists and watches are answered from here, and
//! a read at the latest revision waits until the cache has seen it. How it knows that it has depends on the store
//! ([`knarr_store::Freshness`]).

mod ahead;
pub mod event;
pub mod filter;
mod parsed;
mod read;
mod state;
#[cfg(test)]
mod tests;
mod watch;
mod wishes;

pub use event::{Event, FrameKey, Window};
pub use filter::{Field, Filter, Requirement, Trigger, key};
pub use watch::{Matched, Watch, WatchError, WatchStart, classify};

use crate::def::Codec;
use crate::obj::{Forms, Obj, Shape};
use ahead::Ahead;
use bytes::Bytes;
use knarr_base::{Backoff, Ctx};
use knarr_meta::status::Status;
use knarr_store::{Freshness, Range, Store, StoreError, WatchBatch, WatchStream, prefix_end};
use read::FillError;
use serde_json::Value;
use state::State;
use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::time::Duration;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};
use wishes::{Waiting, Wishes};

/// How long a read waits for the cache to catch up before it fails, as upstream.
const FRESH_LIMIT: Duration = Duration::from_secs(3);

/// How many bytes of objects, as they are stored, a cache keeps parsed; that takes about eight times as many.
const PARSED_BYTES: usize = 128 << 10;

/// How many bytes of encodings the objects of a cache keep together.
const FORM_BYTES: usize = 8 << 20;

#[derive(Default)]
struct Formed {
    ring: VecDeque<(Weak<Forms>, usize)>,
    bytes: usize,
}

/// Why the cache cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum CacheError {
    /// The revision asked for has not happened, or has not arrived in time.
    #[error("Too large resource version: {asked}, current: {current}")]
    TooLarge {
        /// What was asked for.
        asked: u64,
        /// Where the cache is.
        current: u64,
    },
    /// The cache has not been filled, because the store does not answer.
    #[error("the watch cache is not ready")]
    NotReady,
    /// The objects cannot be brought into the version that is asked for.
    #[error("{}", .0.message)]
    Unreadable(Box<Status>),
    /// The store could not say what its latest revision is.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// See the module's documentation.
pub struct Cache {
    myself: Weak<Cache>,
    ctx: Ctx,
    store: Arc<dyn Store>,
    shape: Shape,
    /// The keys' prefix with its closing slash.
    prefix: Bytes,
    state: RwLock<State>,
    /// Every change up to this revision is in the state. 0 until it is filled.
    seen: AtomicU64,
    progress: tokio::sync::watch::Sender<u64>,
    /// The revision of the last change that has arrived here.
    changed: AtomicU64,
    /// The revision of the last change that this server itself has made, which may still be on its way here.
    written: AtomicU64,
    /// What those changes made of the objects, where the store does not tell its watches at once.
    ahead: Ahead,
    /// Who waits for the cache to come further.
    wishes: Arc<Wishes>,
    started: AtomicBool,
    /// Parsed objects that are kept for the next who asks.
    parsed: Mutex<parsed::Parsed>,
    /// Objects that keep encodings, the oldest first.
    formed: Mutex<Formed>,
    /// Ends its task with the last who holds it.
    unused: DropGuard,
    /// For kinds that may be stored in several versions.
    codec: Option<Arc<dyn Codec>>,
    /// Why the objects could not be read when that was last tried.
    failure: Mutex<Option<Status>>,
    /// Has it tried again at once.
    retry: Notify,
}

/// The answer to a list.
#[derive(Debug)]
pub struct Listed {
    /// The matching objects, at most as many as asked for.
    pub objs: Vec<Arc<Obj>>,
    /// The revision the list is of.
    pub revision: u64,
    /// Whether there are objects after the last one that was looked at.
    pub more: bool,
    /// How many objects are left after the limit (regardless of selectors).
    pub remaining: usize,
}

impl Cache {
    /// A cache of the keys under `prefix` (without closing slash). Nothing is read before it is needed.
    pub fn new(ctx: &Ctx, store: Arc<dyn Store>, shape: Shape, prefix: &str) -> Arc<Self> {
        Self::coded(ctx, store, shape, prefix, None)
    }

    /// The same of objects that a codec brings into the form of `shape`.
    pub fn coded(
        ctx: &Ctx,
        store: Arc<dyn Store>,
        shape: Shape,
        prefix: &str,
        codec: Option<Arc<dyn Codec>>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|myself| Self {
            myself: myself.clone(),
            ctx: ctx.clone(),
            shape,
            prefix: format!("{prefix}/").into(),
            state: RwLock::new(State::new(store.freshness() != Freshness::Told)),
            store,
            seen: AtomicU64::new(0),
            progress: tokio::sync::watch::Sender::new(0),
            changed: AtomicU64::new(0),
            written: AtomicU64::new(0),
            ahead: Ahead::default(),
            wishes: Arc::default(),
            started: AtomicBool::new(false),
            parsed: Mutex::default(),
            formed: Mutex::default(),
            unused: CancellationToken::new().drop_guard(),
            codec,
            failure: Mutex::default(),
            retry: Notify::new(),
        })
    }

    /// How its objects are laid out.
    pub fn shape(&self) -> &Shape {
        &self.shape
    }

    /// The keys' prefix with its closing slash.
    pub fn prefix(&self) -> &Bytes {
        &self.prefix
    }

    /// Starts the cache if nobody has yet.
    pub fn start(&self) {
        if self.started.load(Ordering::Acquire) || self.started.swap(true, Ordering::AcqRel) {
            return;
        }
        let (cache, ctx, unused) = (self.myself.clone(), self.ctx.clone(), self.unused.token().clone());
        self.ctx.tasks.spawn_until_stopped("watch-cache", async move {
            tokio::select! {
                () = unused.cancelled() => {}
                () = Self::run(cache, ctx) => {}
            }
        });
    }

    /// Whether it holds the objects already.
    pub fn is_ready(&self) -> bool {
        self.seen.load(Ordering::Acquire) > 0
    }

    /// Keeps the state current until the scope stops or nobody holds the cache any more.
    async fn run(cache: Weak<Self>, ctx: Ctx) {
        let mut backoff = Backoff::new(Duration::from_millis(50), 2.0, Duration::from_secs(5));
        loop {
            let Some(this) = cache.upgrade() else { return };
            match this.fill().await {
                Ok(mut stream) => {
                    let (store, wishes) = (this.store.clone(), this.wishes.clone());
                    drop(this);
                    backoff.reset();
                    while let Some(mut batch) = wishes.next_batch(&ctx, &*store, &mut stream).await {
                        // One lock for whatever has gathered meanwhile.
                        while let Ok(next) = stream.try_recv() {
                            batch.events.extend(next.events);
                            batch.revision = next.revision;
                        }
                        let Some(this) = cache.upgrade() else { return };
                        if let Err(status) = this.apply(batch).await {
                            this.fail(status);
                            break;
                        }
                    }
                }
                Err(FillError::Unreadable(status)) => this.fail(status),
                Err(FillError::Store(error)) => {
                    tracing::warn!(prefix = %String::from_utf8_lossy(&this.prefix), %error, "watch cache cannot be filled");
                }
            }
            let Some(this) = cache.upgrade() else { return };
            tokio::select! {
                () = this.retry.notified() => {}
                () = ctx.clock.sleep(backoff.step_jittered(&*ctx.rng, 0.5)) => {}
            }
        }
    }

    /// Reads everything and starts the watch after it.
    async fn fill(&self) -> Result<WatchStream, FillError> {
        let end = prefix_end(&self.prefix);
        let range = Range { start: self.prefix.clone(), end: end.clone(), ..Range::default() };
        let result = self.store.range(range).await?;
        let stream = self.store.watch(self.prefix.clone(), end, result.revision + 1).await?;
        let mut objs = BTreeMap::new();
        let mut changed = 0;
        for kv in &result.kvs {
            changed = changed.max(kv.mod_revision);
        }
        for obj in self.read(result.kvs).await.map_err(FillError::Unreadable)? {
            match obj {
                Ok(obj) => {
                    objs.insert(obj.key.clone(), Arc::new(obj));
                }
                Err(error) => tracing::error!(%error, "an object in the store is left out"),
            }
        }
        let mut state = self.state.write().expect("no holder of the cache lock panics");
        state.replace(objs, result.revision);
        self.ahead.forget(result.revision);
        self.changed.fetch_max(changed, Ordering::AcqRel);
        drop(state);
        self.reached(result.revision);
        Ok(stream)
    }

    fn reached(&self, revision: u64) {
        self.seen.store(revision, Ordering::Release);
        self.progress.send_replace(revision);
    }

    async fn apply(&self, batch: WatchBatch) -> Result<(), Status> {
        // What takes a conversion is read before the lock is taken.
        let mut read = match &self.codec {
            None => None,
            Some(_) => {
                let stored = batch.events.iter().filter(|change| !change.deleted);
                Some(self.read(stored.map(|change| change.kv.clone()).collect()).await?.into_iter())
            }
        };
        let mut state = self.state.write().expect("no holder of the cache lock panics");
        let state = &mut *state;
        for change in batch.events {
            let revision = change.kv.mod_revision;
            let obj = match &mut read {
                Some(read) if !change.deleted => read.next(),
                _ => None,
            };
            if revision <= state.revision {
                continue;
            }
            let event = if change.deleted {
                let Some(prev) = state.remove(&change.kv.key) else { continue };
                self.parsed().forget(&prev.key);
                Event::new(Arc::new(prev.at(revision)), Some(prev), true)
            } else {
                let key = change.kv.key.clone();
                let obj = obj.unwrap_or_else(|| {
                    Obj::new(&self.shape, &self.prefix, change.kv.key, change.kv.value, revision)
                });
                match obj {
                    Ok(obj) => {
                        let obj = Arc::new(obj);
                        let prev = state.insert(obj.clone());
                        Event::new(obj, prev, false)
                    }
                    Err(error) => {
                        tracing::error!(%error, "an object in the store is left out");
                        let Some(prev) = state.remove(&key) else { continue };
                        Event::new(Arc::new(prev.at(revision)), Some(prev), true)
                    }
                }
            };
            let event = Arc::new(event);
            self.changed.store(revision, Ordering::Release);
            state.window.push(event.clone());
            state.watchers.dispatch(&event);
        }
        state.revision = batch.revision.max(state.revision);
        let revision = state.revision;
        self.ahead.forget(revision);
        self.reached(revision);
        Ok(())
    }

    /// The objects cannot be read: nobody is answered out of the cache until they can.
    fn fail(&self, status: Status) {
        tracing::warn!(prefix = %String::from_utf8_lossy(&self.prefix), error = status.message, "objects cannot be read");
        self.state.write().expect("no holder of the cache lock panics").watchers.clear();
        *self.failure() = Some(status);
        self.reached(0);
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Option<Status>> {
        self.failure.lock().expect("no holder of the failure panics")
    }

    /// Waits until every change up to `revision` is here (0: until the cache is filled).
    pub async fn wait_for(&self, revision: u64) -> Result<(), CacheError> {
        self.start();
        let wanted = revision.max(1);
        if self.seen.load(Ordering::Acquire) >= wanted {
            return Ok(());
        }
        if self.failure().take().is_some() {
            // It may be over: whoever asks has it looked at.
            self.retry.notify_one();
        }
        let mut progress = self.progress.subscribe();
        let _waiting = Waiting::new(&self.wishes);
        let wait = progress.wait_for(|seen| *seen >= wanted || self.failure().is_some());
        let arrived = knarr_base::clock::timeout(&*self.ctx.clock, FRESH_LIMIT, wait).await.map(|_| ());
        match (arrived, self.seen.load(Ordering::Acquire)) {
            (Some(()), seen) if seen >= wanted => Ok(()),
            (Some(()), _) => match &*self.failure() {
                Some(status) => Err(CacheError::Unreadable(Box::new(status.clone()))),
                None => Err(CacheError::NotReady),
            },
            (_, 0) => Err(CacheError::NotReady),
            (_, current) => Err(CacheError::TooLarge { asked: revision, current }),
        }
    }

    /// Waits until the cache has seen all that is committed now. False when it cannot tell, or is too far behind:
    /// then only the store can answer.
    pub async fn fresh(&self) -> Result<bool, CacheError> {
        self.start();
        match self.store.freshness() {
            Freshness::Told => self.wait_for(self.store.revision()).await.map(|()| true),
            Freshness::OnRequest => match self.wait_for(self.store.latest().await?).await {
                Ok(()) => Ok(true),
                Err(error @ CacheError::Unreadable(_)) => Err(error),
                Err(_) => Ok(false),
            },
            Freshness::ByReading => Ok(false),
        }
    }

    /// Waits until the cache has seen `revision`. False when it may never tell that it has.
    pub async fn reach(&self, revision: u64) -> Result<bool, CacheError> {
        if self.store.freshness() == Freshness::ByReading && revision > self.revision() {
            self.start();
            return Ok(false);
        }
        self.wait_for(revision).await.map(|()| true)
    }

    /// Waits until the cache is filled, however long that takes.
    pub async fn filled(&self) {
        self.start();
        let _ = self.progress.subscribe().wait_for(|seen| *seen > 0).await;
    }

    /// The revision it has seen.
    pub fn revision(&self) -> u64 {
        self.seen.load(Ordering::Acquire)
    }

    /// The revision of the last change of its objects, those of this server included that have not arrived yet.
    pub fn changed(&self) -> u64 {
        self.changed.load(Ordering::Acquire).max(self.written.load(Ordering::Acquire))
    }

    /// Notes a change that this server has made; `value` is `None` for a deletion.
    pub fn wrote(&self, key: &Bytes, revision: u64, value: Option<&Bytes>) {
        if self.is_remote() {
            self.note(key, revision, value);
        }
        self.written.fetch_max(revision, Ordering::AcqRel);
    }

    /// Notes what a key was at a revision that the cache may not have seen yet.
    pub fn note(&self, key: &Bytes, revision: u64, value: Option<&Bytes>) {
        // Objects that take a conversion are left to the watch.
        if revision <= self.revision() || self.codec.is_some() {
            return;
        }
        let read = |value: &Bytes| {
            Obj::new(&self.shape, &self.prefix, key.clone(), value.clone(), revision).ok().map(Arc::new)
        };
        self.ahead.note(key, revision, value.and_then(read));
        // The cache may have come here meanwhile.
        self.ahead.forget(self.state.read().expect("no holder of the cache lock panics").revision);
    }

    /// Whether the store may be changed by others without this server being told at once.
    pub fn is_remote(&self) -> bool {
        self.store.freshness() != Freshness::Told
    }

    /// One object as this server knows it: with its own changes that have not arrived yet.
    pub fn known(&self, key: &[u8]) -> Option<Arc<Obj>> {
        self.ahead.get(key).unwrap_or_else(|| self.get(key))
    }

    /// The objects of a namespace (of all when it is empty) as this server knows them.
    pub fn list_known(&self, filter: &Filter, namespaced: bool) -> Vec<Arc<Obj>> {
        let ahead = self.ahead.below(&self.scope(filter, namespaced));
        let mut objs = self.list(filter, namespaced, &[], 0).objs;
        if !ahead.is_empty() {
            objs.retain(|obj| !ahead.iter().any(|(key, _)| *key == obj.key));
            objs.extend(ahead.into_iter().filter_map(|(_, obj)| obj).filter(|obj| filter.matches(obj)));
            objs.sort_by(|a, b| a.key.cmp(&b.key));
        }
        objs
    }

    /// Whether it holds the objects, with every change that this server has made.
    pub fn is_current(&self) -> bool {
        self.is_ready() && self.revision() >= self.written.load(Ordering::Acquire)
    }

    /// How many objects there are and how many bytes they have together, once the cache is filled.
    pub fn sizes(&self) -> Option<(usize, usize)> {
        self.is_ready().then(|| self.state.read().expect("no holder of the cache lock panics").sizes())
    }

    /// One object.
    pub fn get(&self, key: &[u8]) -> Option<Arc<Obj>> {
        self.state.read().expect("no holder of the cache lock panics").get(key).cloned()
    }

    /// An object as a value; the most recently parsed ones are kept.
    pub fn value(&self, obj: &Obj) -> Arc<Value> {
        let (value, fresh) = obj.value();
        if fresh {
            self.parsed().keep(obj, value.clone(), PARSED_BYTES);
        }
        value
    }

    fn parsed(&self) -> std::sync::MutexGuard<'_, parsed::Parsed> {
        self.parsed.lock().expect("no holder of the parsed objects panics")
    }

    /// An encoding of an object, made by the first who asks and shared with the next; the oldest ones are dropped.
    pub fn form<E>(&self, obj: &Obj, form: u32, make: impl FnOnce() -> Result<Bytes, E>) -> Result<Bytes, E> {
        let mut forms = obj.forms().lock().expect("no maker of an encoding panics");
        if let Some((_, bytes)) = forms.iter().find(|(key, _)| *key == form) {
            return Ok(bytes.clone());
        }
        let bytes = make()?;
        forms.push((form, bytes.clone()));
        drop(forms);
        let mut formed = self.formed.lock().expect("no holder of the encodings panics");
        formed.bytes += bytes.len();
        formed.ring.push_back((Arc::downgrade(obj.forms()), bytes.len()));
        while formed.bytes > FORM_BYTES {
            let Some((oldest, len)) = formed.ring.pop_front() else { break };
            formed.bytes -= len;
            if let Some(forms) = oldest.upgrade() {
                forms.lock().expect("no maker of an encoding panics").clear();
            }
        }
        Ok(bytes)
    }

    /// The keys that a filter's namespace leaves.
    fn scope(&self, filter: &Filter, namespaced: bool) -> Bytes {
        key(&self.prefix, if namespaced { &filter.namespace } else { "" }, "")
    }

    /// The matching objects in key order, `limit` of them at most (0: all), from `start` on (if not empty).
    pub fn list(&self, filter: &Filter, namespaced: bool, start: &[u8], limit: usize) -> Listed {
        let (scope, trigger) = (self.scope(filter, namespaced), filter.trigger(&self.prefix, namespaced));
        self.prepare(&trigger);
        let state = self.state.read().expect("no holder of the cache lock panics");
        state.select(&scope, &trigger, filter, start, limit)
    }

    /// Sees to the index that a look-up by a field needs.
    fn prepare(&self, trigger: &Trigger) {
        let Trigger::Field(slot, _) = trigger else { return };
        let indexed = self.state.read().expect("no holder of the cache lock panics").is_indexed(*slot);
        if !indexed {
            self.state.write().expect("no holder of the cache lock panics").index(*slot);
        }
    }
}
