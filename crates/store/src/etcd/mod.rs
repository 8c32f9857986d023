//! A real etcd cluster as the store (docs/adr/0018): etcd's v3 API over gRPC, several members, TLS. Keys and values are
//! laid out as upstream's kube-apiserver lays them out, so that the two can open the same etcd in turn, and several API
//! servers share one.

mod channel;
mod compact;
mod endpoints;
mod members;
mod messages;
mod tls;
mod watch;
mod wire;

use crate::{
    Compaction, Expect, Freshness, KeyValue, LeaseId, Outcome, Range, RangeResult, Revision, Stats, Store,
    StoreError, WatchStream, prefix_end,
};
use bytes::Bytes;
use channel::CallError;
use endpoints::Endpoints;
use futures_util::future::BoxFuture;
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use messages::{RangeRequest, RangeResponse, StatusResponse, TxnResponse, Write, call};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot};
use watch::Watching;

/// What keys start with in the program, and in etcd unless the options say otherwise.
pub const PREFIX: &str = "/registry";
/// How long the first member may take to answer.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Keys read in one message; the rest of a range follows in others, at the same revision.
const PAGE: usize = 2000;

/// Where the cluster is.
#[derive(Clone, Debug, Default)]
pub struct EtcdOptions {
    /// The members, each `http://HOST:PORT` or `https://HOST:PORT`.
    pub servers: Vec<String>,
    /// The CA of the members' certificates.
    pub ca_file: Option<PathBuf>,
    /// The certificate shown to them.
    pub cert_file: Option<PathBuf>,
    /// Its key.
    pub key_file: Option<PathBuf>,
    /// What takes the place of `/registry` in keys.
    pub prefix: String,
}

impl EtcdOptions {
    /// The usual options for these members.
    pub fn new(servers: Vec<String>) -> Self {
        Self { servers, prefix: PREFIX.into(), ..Self::default() }
    }

    /// What is wrong with them, if anything.
    pub fn check(&self) -> Result<(), String> {
        let addresses =
            self.servers.iter().map(|text| endpoints::Address::parse(text)).collect::<Result<Vec<_>, _>>()?;
        if addresses.iter().any(|address| address.secure) {
            tls::client_config(self)?;
        }
        Ok(())
    }
}

/// See the module's documentation.
pub struct EtcdStore(Arc<Shared>);

/// What the tasks of a store share.
struct Shared {
    ctx: Ctx,
    endpoints: Endpoints,
    names: Names,
    /// The latest revision that any answer told of.
    revision: AtomicU64,
    /// The latest compaction that is known of.
    compacted: AtomicU64,
    progress_in_order: AtomicBool,
    members: Mutex<Vec<Option<StatusResponse>>>,
    size_bytes: AtomicU64,
    keys: AtomicUsize,
    commits: AtomicU64,
    /// Who waits for the next answer to what the latest revision is.
    asking: mpsc::UnboundedSender<oneshot::Sender<Result<Revision, StoreError>>>,
}

impl EtcdStore {
    /// Connects to a cluster; fails when no member answers within a minute. Its tasks run in `ctx`'s scope.
    pub async fn connect(ctx: &Ctx, options: EtcdOptions) -> Result<Arc<dyn Store>, StoreError> {
        Self::connect_within(ctx, options, START_LIMIT).await
    }

    /// The same with another limit to the wait.
    pub async fn connect_within(
        ctx: &Ctx,
        options: EtcdOptions,
        limit: Duration,
    ) -> Result<Arc<dyn Store>, StoreError> {
        options.check().map_err(StoreError::Unavailable)?;
        let endpoints = Endpoints::new(ctx, &options).map_err(StoreError::Unavailable)?;
        let (asking, asked) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            ctx: ctx.clone(),
            names: Names::new(&options.prefix),
            revision: AtomicU64::new(0),
            compacted: AtomicU64::new(0),
            progress_in_order: AtomicBool::new(false),
            members: Mutex::new(vec![None; endpoints.len()]),
            size_bytes: AtomicU64::new(0),
            keys: AtomicUsize::new(0),
            commits: AtomicU64::new(0),
            endpoints,
            asking,
        });
        // Whoever opens the store knows where it stands.
        let started = async {
            loop {
                members::look(&shared).await;
                match shared.latest().await {
                    Ok(_) => return,
                    Err(error) => tracing::warn!(%error, "waiting for etcd"),
                }
            }
        };
        if timeout(&*ctx.clock, limit, started).await.is_none() {
            let servers = options.servers.join(", ");
            return Err(StoreError::Unavailable(format!("no etcd member answers at {servers}")));
        }
        shared.count().await;
        ctx.tasks.spawn_until_stopped("etcd-members", members::run(Arc::downgrade(&shared)));
        ctx.tasks.spawn_until_stopped("etcd-revision", tell_latest(Arc::downgrade(&shared), asked));
        Ok(Arc::new(Self(shared)))
    }
}

/// The place in `options.servers` of the member that leads, for tests.
#[cfg(any(test, feature = "testing"))]
pub(crate) async fn leader(ctx: &Ctx, options: &EtcdOptions) -> Option<usize> {
    let endpoints = Endpoints::new(ctx, options).ok()?;
    for index in 0..endpoints.len() {
        let answer = endpoints.ask(index, call::STATUS, &Bytes::new()).await;
        if let Ok(status) = answer.and_then(|message| Ok(StatusResponse::read(message)?))
            && status.leader != 0
            && status.leader == status.member
        {
            return Some(index);
        }
    }
    None
}

/// Answers what the latest revision is. Those who ask while a question is under way share the next one: an answer
/// is of use only to those who asked before its question.
async fn tell_latest(
    shared: std::sync::Weak<Shared>,
    mut asked: mpsc::UnboundedReceiver<oneshot::Sender<Result<Revision, StoreError>>>,
) {
    let mut waiting = Vec::new();
    while asked.recv_many(&mut waiting, usize::MAX).await > 0 {
        let Some(shared) = shared.upgrade() else { return };
        let answer = shared.latest().await;
        for sender in waiting.drain(..) {
            let _ = sender.send(answer.clone());
        }
    }
}

impl Shared {
    fn saw(&self, revision: Revision) {
        self.revision.fetch_max(revision, Ordering::AcqRel);
    }

    fn compacted_at(&self, revision: Revision) {
        self.compacted.fetch_max(revision, Ordering::AcqRel);
    }

    async fn range(&self, request: &RangeRequest) -> Result<RangeResponse, StoreError> {
        let at = (request.revision > 0).then_some(request.revision);
        let message = self.endpoints.read(call::RANGE, &request.write().finish()).await;
        let response = message.and_then(|message| Ok(RangeResponse::read(message)?));
        let response = response.map_err(|error| failed(self, error, at))?;
        self.saw(response.revision);
        Ok(response)
    }

    /// A read that a majority confirms, of nothing in particular.
    async fn latest(&self) -> Result<Revision, StoreError> {
        let key = self.names.out(PREFIX.as_bytes());
        Ok(self.range(&RangeRequest { key, count_only: true, ..RangeRequest::default() }).await?.revision)
    }

    /// Counts the keys, for the statistics.
    async fn count(&self) {
        let (key, end) = self.names.everything();
        if let Ok(counted) =
            self.range(&RangeRequest { key, end, count_only: true, ..RangeRequest::default() }).await
        {
            self.keys.store(usize::try_from(counted.count).unwrap_or(usize::MAX), Ordering::Relaxed);
        }
    }

    async fn transaction(&self, message: Bytes) -> Result<Outcome, StoreError> {
        let answer = self.endpoints.write(call::TXN, &message).await;
        let response = answer.and_then(|message| Ok(TxnResponse::read(message)?));
        let response = response.map_err(|error| failed(self, error, None))?;
        self.saw(response.revision);
        if response.succeeded {
            self.commits.fetch_add(1, Ordering::Relaxed);
            return Ok(Outcome::Done(response.revision));
        }
        Ok(Outcome::Conflict(response.current.map(|kv| self.names.inward(kv))))
    }
}

/// etcd's words for what has a name here. `at` is the revision that was asked for.
fn failed(shared: &Shared, error: CallError, at: Option<Revision>) -> StoreError {
    let CallError::Refused { code, message } = &error else {
        return StoreError::Unavailable(error.to_string());
    };
    if message.contains("required revision has been compacted") {
        // etcd does not say where; what was asked for is before it.
        let compacted = shared.compacted.load(Ordering::Acquire).max(at.map_or(0, |at| at + 1));
        return StoreError::Compacted { compacted };
    }
    if message.contains("required revision is a future revision") {
        return StoreError::Future {
            asked: at.unwrap_or(0),
            current: shared.revision.load(Ordering::Acquire),
        };
    }
    if message.contains("database space exceeded") {
        return StoreError::NoSpace;
    }
    if message.contains("requested lease not found") {
        return StoreError::NoLease;
    }
    match *code {
        channel::UNAVAILABLE | channel::DEADLINE_EXCEEDED => StoreError::Unavailable(message.clone()),
        _ => StoreError::Backend(message.clone()),
    }
}

/// How keys are called in etcd: another prefix takes the place of `/registry`, where one is configured.
struct Names {
    /// `None` when they are the same.
    prefix: Option<Bytes>,
}

impl Names {
    fn new(prefix: &str) -> Self {
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.starts_with('/') { prefix.to_owned() } else { format!("/{prefix}") };
        Self { prefix: (prefix != PREFIX).then(|| prefix.into()) }
    }

    fn out(&self, key: &[u8]) -> Bytes {
        let renamed = self.prefix.as_ref().zip(key.strip_prefix(PREFIX.as_bytes()));
        renamed.map_or_else(|| Bytes::copy_from_slice(key), |(prefix, rest)| [prefix, rest].concat().into())
    }

    fn inward(&self, kv: KeyValue) -> KeyValue {
        let rest = self.prefix.as_ref().and_then(|prefix| kv.key.strip_prefix(&prefix[..]));
        match rest {
            Some(rest) => KeyValue { key: [PREFIX.as_bytes(), rest].concat().into(), ..kv },
            None => kv,
        }
    }

    /// The range of all keys.
    fn everything(&self) -> (Bytes, Bytes) {
        let start = self.out(format!("{PREFIX}/").as_bytes());
        let end = prefix_end(&start);
        (start, end)
    }
}

impl Store for EtcdStore {
    fn get<'a>(
        &'a self,
        key: &'a [u8],
        at: Option<Revision>,
    ) -> BoxFuture<'a, Result<Option<KeyValue>, StoreError>> {
        Box::pin(async move {
            let request = RangeRequest {
                key: self.0.names.out(key),
                revision: at.unwrap_or(0),
                ..RangeRequest::default()
            };
            let found = self.0.range(&request).await?.kvs.pop();
            Ok(found.map(|kv| self.0.names.inward(kv)))
        })
    }

    fn range(&self, range: Range) -> BoxFuture<'_, Result<RangeResult, StoreError>> {
        Box::pin(async move {
            let mut request = RangeRequest {
                key: self.0.names.out(&range.start),
                end: self.0.names.out(&range.end),
                limit: range.limit as u64,
                revision: range.at.unwrap_or(0),
                count_only: range.count_only,
            };
            if !range.end.is_empty() && range.end[..] != [0] && range.start >= range.end {
                // etcd refuses what cannot hold anything; the revisions are checked all the same.
                request.end = Bytes::new();
                request.count_only = true;
                let revision = self.0.range(&request).await?.revision;
                return Ok(RangeResult { revision, ..RangeResult::default() });
            }
            let whole = range.limit == 0 && !range.count_only && !range.end.is_empty();
            if whole {
                request.limit = PAGE as u64;
            }
            let mut result = RangeResult::default();
            loop {
                let page = self.0.range(&request).await?;
                if result.revision == 0 {
                    result.count = usize::try_from(page.count).unwrap_or(usize::MAX);
                    result.revision = page.revision;
                    if request.revision == 0 {
                        request.revision = page.revision;
                    }
                }
                let last = page.kvs.last().map(|kv| kv.key.clone());
                result.kvs.extend(page.kvs.into_iter().map(|kv| self.0.names.inward(kv)));
                match last.filter(|_| whole && result.kvs.len() < result.count) {
                    Some(last) => request.key = [&last[..], b"\0"].concat().into(),
                    None => return Ok(result),
                }
            }
        })
    }

    fn put(
        &self,
        key: Bytes,
        expect: Expect,
        value: Bytes,
        lease: LeaseId,
    ) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        let message = messages::conditional(&self.0.names.out(&key), expect, &Write::Put(value, lease));
        Box::pin(self.0.transaction(message))
    }

    fn delete(&self, key: Bytes, expect: Revision) -> BoxFuture<'_, Result<Outcome, StoreError>> {
        let expect = Expect::Unchanged(expect);
        let message = messages::conditional(&self.0.names.out(&key), expect, &Write::Delete);
        Box::pin(self.0.transaction(message))
    }

    fn watch(
        &self,
        start: Bytes,
        end: Bytes,
        from: Revision,
    ) -> BoxFuture<'_, Result<WatchStream, StoreError>> {
        Box::pin(async move {
            let shared = self.0.clone();
            let (start, end) = (shared.names.out(&start), shared.names.out(&end));
            let watching = Watching { shared, start, end, next: from.max(1) };
            let stream = watching.open().await?;
            let (sender, receiver) = mpsc::unbounded_channel();
            let progress = Arc::new(Notify::new());
            let run = watching.run(stream, sender, progress.clone());
            self.0.ctx.tasks.spawn_until_stopped("etcd-watch", run);
            Ok(WatchStream::remote(receiver, progress))
        })
    }

    fn revision(&self) -> Revision {
        self.0.revision.load(Ordering::Acquire)
    }

    fn latest(&self) -> BoxFuture<'_, Result<Revision, StoreError>> {
        Box::pin(async move {
            let (sender, answer) = oneshot::channel();
            let gone = || StoreError::Unavailable("the store is closed".into());
            self.0.asking.send(sender).map_err(|_| gone())?;
            answer.await.map_err(|_| gone())?
        })
    }

    fn freshness(&self) -> Freshness {
        if self.0.progress_in_order.load(Ordering::Acquire) {
            Freshness::OnRequest
        } else {
            Freshness::ByReading
        }
    }

    fn compact(&self, revision: Revision) -> BoxFuture<'_, Result<(), StoreError>> {
        Box::pin(compact::compact(&self.0, revision))
    }

    fn compact_in_turn<'a>(&'a self, state: &'a mut Compaction) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(compact::turn(&self.0, state))
    }

    fn grant_lease(&self, ttl_seconds: u64) -> BoxFuture<'_, Result<LeaseId, StoreError>> {
        Box::pin(async move {
            let message = messages::lease_grant(ttl_seconds);
            let answer = self.0.endpoints.write(call::LEASE_GRANT, &message).await;
            let granted = answer.and_then(|message| Ok(messages::lease_granted(message)?));
            granted.map_err(|error| failed(&self.0, error, None))
        })
    }

    fn stats(&self) -> Stats {
        Stats {
            revision: self.revision(),
            compacted: self.0.compacted.load(Ordering::Acquire),
            keys: self.0.keys.load(Ordering::Relaxed),
            size_bytes: self.0.size_bytes.load(Ordering::Relaxed),
            commits: self.0.commits.load(Ordering::Relaxed),
            ..Stats::default()
        }
    }
}
