//! API Priority and Fairness (KEP-1040): every request is put under a flow schema and so into a priority level,
//! which has a number of seats. What finds none waits in a fair queue or is refused with 429. Watches take a seat
//! only while they begin; streams take none; the server's own calls are never held up.
//!
//! A request that finds a seat takes one short lock to enter and one to leave.

mod allocation;
pub mod config;
mod controller;
mod debug;
mod dropped;
pub mod estimate;
pub mod level;
mod metrics;
pub mod queueset;
mod schema;
pub mod shuffle;
pub mod stats;
#[cfg(test)]
mod tests;

pub use estimate::{Counted, Sizes};
pub use level::Seat;

use crate::request::{RequestInfo, UserInfo};
use arc_swap::ArcSwap;
use config::{Digest, Levels};
use estimate::Watches;
use http::HeaderValue;
use knarr_base::Ctx;
use stats::{READ_WRITE, TimingRatio};
use std::hash::{DefaultHasher, Hasher};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// The group of the configuration objects.
pub const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Seats of the whole server: upstream's defaults of --max-requests-inflight and
/// --max-mutating-requests-inflight together.
pub const TOTAL_SEATS: u64 = 600;
/// No request waits for a seat longer than this.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// See the module's documentation.
pub struct FlowControl {
    ctx: Ctx,
    epoch: Instant,
    /// So that nobody outside can tell which flows share queues.
    seed: u64,
    digest: ArcSwap<Digest>,
    levels: Mutex<Levels>,
    watches: Arc<Watches>,
    sizes: Arc<dyn Sizes>,
    dropped: dropped::Dropped,
    /// Told when a level that is to go is empty.
    drained: Arc<Notify>,
    read_write: Arc<Mutex<ReadWrite>>,
}

/// Requests waiting and served, readers and writers apart: [waiting, executing] by [readOnly, mutating].
struct ReadWrite([[TimingRatio; 2]; 2]);

/// What a request asks of flow control.
pub struct Question<'a> {
    /// What it is about.
    pub info: &'a RequestInfo,
    /// Who asks.
    pub user: &'a UserInfo,
    /// Its query.
    pub query: &'a [(String, String)],
    /// How long it may wait.
    pub limit: Duration,
}

/// Under what a request was put, for the answer's headers.
pub struct Marks {
    /// `X-Kubernetes-PF-FlowSchema-UID`.
    pub schema_uid: HeaderValue,
    /// `X-Kubernetes-PF-PriorityLevel-UID`.
    pub level_uid: HeaderValue,
}

/// A request that is being served. Dropping it gives its seats back.
pub struct Admitted {
    _seat: Seat,
    _executing: Noted,
}

/// A request is refused; it may come again after so many seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Seconds.
    pub retry_after: u64,
}

/// Counts a request as waiting or executing while it lives.
struct Noted {
    read_write: Arc<Mutex<ReadWrite>>,
    ctx: Ctx,
    epoch: Instant,
    phase: usize,
    mutating: usize,
}

impl Noted {
    fn add(&self, delta: f64) {
        let now = self.ctx.clock.instant().saturating_duration_since(self.epoch).as_nanos();
        let mut read_write = self.read_write.lock().expect("no holder of the request counts panics");
        read_write.0[self.phase][self.mutating].add(u64::try_from(now).unwrap_or(u64::MAX), delta);
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        self.add(-1.0);
    }
}

impl FlowControl {
    /// With the mandatory configuration; [`FlowControl::run`] follows the objects.
    pub fn new(ctx: &Ctx, sizes: Arc<dyn Sizes>, total_seats: u64) -> Arc<Self> {
        let epoch = ctx.clock.instant();
        let drained = Arc::new(Notify::new());
        let mut levels = Levels::new(ctx, epoch, total_seats, drained.clone());
        let (digest, _) = levels.digest(&[], &[]);
        let ratio = || TimingRatio::new(READ_WRITE, 0);
        let this = Arc::new(Self {
            ctx: ctx.clone(),
            epoch,
            seed: ctx.rng.u64(),
            digest: ArcSwap::from_pointee(digest),
            levels: Mutex::new(levels),
            watches: Arc::default(),
            sizes,
            dropped: dropped::Dropped::default(),
            drained,
            read_write: Arc::new(Mutex::new(ReadWrite([[ratio(), ratio()], [ratio(), ratio()]]))),
        });
        metrics::register(&this);
        this
    }

    /// Takes the objects of an empty cluster for its configuration, without a server that stores them.
    pub fn use_initial_objects(&self) {
        let (levels, schemas) = config::initial_objects();
        let (digest, _) = self.levels().digest(&levels, &schemas);
        self.digest.store(Arc::new(digest));
    }

    /// Lets a request in, now or when its turn comes, or refuses it.
    pub async fn admit(&self, question: Question<'_>) -> (Marks, Result<Admitted, Refused>) {
        let Question { info, user, query, limit } = question;
        let digest = self.digest.load();
        let found = digest.find(info, user);
        let (level, flow) = (found.level.clone(), found.flow);
        let marks = Marks { schema_uid: found.schema_uid.clone(), level_uid: found.level_uid.clone() };
        let hash = if found.hashed {
            let mut hasher = DefaultHasher::new();
            hasher.write_u64(self.seed);
            hasher.write(found.schema.name.as_bytes());
            hasher.write_u8(0);
            hasher.write(found.schema.distinguish(info, user).as_bytes());
            hasher.finish()
        } else {
            0
        };
        drop(digest);
        let (width, watchers) =
            estimate::estimate(info, query, level.max_seats(), &*self.sizes, &self.watches);
        let mutating = usize::from(!matches!(info.verb.as_str(), "get" | "list" | "watch"));
        let waits = || Box::new(self.note(0, mutating)) as Box<dyn Send>;
        let watch = info.verb == "watch";
        let entered = level.enter(width, hash, flow, watch, watchers, limit.min(MAX_WAIT), waits).await;
        let result = match entered {
            Ok(seat) => Ok(Admitted { _seat: seat, _executing: self.note(1, mutating) }),
            Err(reason) => {
                tracing::debug!(level = level.name, ?reason, "a request is refused");
                let now = self.ctx.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                Err(Refused { retry_after: self.dropped.record(&level.name, now.as_secs()) })
            }
        };
        (marks, result)
    }

    /// Counts a watch for the width of writes while the result lives.
    pub fn count_watch(&self, info: &RequestInfo, query: &[(String, String)]) -> Option<Counted> {
        self.watches.count(info, query)
    }

    fn note(&self, phase: usize, mutating: usize) -> Noted {
        let noted = Noted {
            read_write: self.read_write.clone(),
            ctx: self.ctx.clone(),
            epoch: self.epoch,
            phase,
            mutating,
        };
        noted.add(1.0);
        noted
    }

    fn levels(&self) -> std::sync::MutexGuard<'_, Levels> {
        self.levels.lock().expect("no holder of the levels panics")
    }
}
