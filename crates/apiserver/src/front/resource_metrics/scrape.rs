//! The kubelets' readings. Nothing is asked while no client asks: the first client after a while waits a second for two
//! rounds of readings, the next ones get what was read then until it is ten seconds old, or two if something is missing.

use super::text;
use super::usage::{Batch, Usage, between};
use crate::front::stream::{Kubelets, Target};
use crate::request::Reader;
use futures_util::StreamExt;
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use serde_json::Value;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;

/// Readings are good for this long: autoscalers ask every fifteen seconds and are to see new ones each time.
const FRESH: Duration = Duration::from_secs(10);
/// For this long if something is missing in them: it may have started meanwhile.
const FRESH_INCOMPLETE: Duration = Duration::from_secs(2);
/// A reading that is older than this says nothing of what is used now.
const STALE: Duration = Duration::from_secs(90);
/// Between the two rounds when there is no earlier one.
const FIRST_WINDOW: Duration = Duration::from_secs(1);
/// How long a kubelet may take, as metrics-server's.
const LIMIT: Duration = Duration::from_secs(10);
/// Kubelets asked at once.
const AT_ONCE: usize = 32;
/// A kubelet's answer; the largest nodes' have some 200 KiB.
const ANSWER_LIMIT_BYTES: usize = 16 << 20;
const PATH: &str = "/metrics/resource";

/// Two rounds of readings.
#[derive(Clone, Default)]
pub struct Pair {
    previous: Arc<Batch>,
    last: Arc<Batch>,
}

impl Pair {
    /// Of an earlier and a later round.
    #[cfg(test)]
    pub fn new(previous: Batch, last: Batch) -> Self {
        Self { previous: Arc::new(previous), last: Arc::new(last) }
    }

    /// What a node uses.
    pub fn node(&self, name: &str) -> Option<Usage> {
        between(self.previous.nodes.get(name), self.last.nodes.get(name)?)
    }

    /// What a pod's containers use, by name; `None` unless it is known of all.
    pub fn pod(&self, namespace: &str, name: &str) -> Option<Vec<(&str, Usage)>> {
        let key = (namespace.to_owned(), name.to_owned());
        let (previous, last) = (self.previous.pods.get(&key), self.last.pods.get(&key)?);
        let usage =
            |(name, point)| Some((String::as_str(name), between(previous.and_then(|p| p.get(name)), point)?));
        last.iter().map(usage).collect()
    }
}

#[derive(Default)]
struct State {
    pair: Pair,
    /// When the last round was.
    read_at: Option<Instant>,
}

/// Reads when asked.
pub struct Scraper {
    ctx: Ctx,
    kubelets: Arc<Kubelets>,
    /// Held during a round: who comes meanwhile gets its result.
    state: Mutex<State>,
}

impl Scraper {
    /// Reaches the kubelets as the API server does.
    pub fn new(ctx: &Ctx, kubelets: &Arc<Kubelets>) -> Arc<Self> {
        Arc::new(Self { ctx: ctx.clone(), kubelets: kubelets.clone(), state: Mutex::default() })
    }

    /// Readings of the nodes that `reader` knows; `complete` says whether nothing is missing in them.
    pub async fn readings(&self, reader: &dyn Reader, complete: impl Fn(&Pair) -> bool + Send) -> Pair {
        let mut state = self.state.lock().await;
        let age = state.read_at.map(|at| self.ctx.clock.instant() - at);
        let fresh = age.is_some_and(|age| age < FRESH);
        if fresh && (age.is_some_and(|age| age < FRESH_INCOMPLETE) || complete(&state.pair)) {
            return state.pair.clone();
        }
        let nodes = reader.list("", "nodes", "");
        if age.is_none_or(|age| age > STALE) {
            state.pair.last = Arc::new(self.round(&nodes).await);
            self.ctx.clock.sleep(FIRST_WINDOW).await;
        }
        let last = Arc::new(self.round(&nodes).await);
        let replaced = std::mem::replace(&mut state.pair.last, last);
        // One that was to be good for longer is no beginning of a window: windows would be too short.
        if !fresh {
            state.pair.previous = replaced;
        }
        state.read_at = Some(self.ctx.clock.instant());
        state.pair.clone()
    }

    async fn round(&self, nodes: &[Arc<Value>]) -> Batch {
        let there: Vec<Arc<Value>> = nodes.iter().filter(|node| !is_lost(node)).cloned().collect();
        let asked = there.into_iter().map(|node| async move {
            let name = node["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            let answer = match self.kubelets.of_node(&node) {
                Ok(target) => self.ask(&target).await,
                Err(status) => Err(status.message),
            };
            (name, answer, self.ctx.clock.now())
        });
        let mut batch = Batch::default();
        let mut answers = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some((node, answer, now)) = answers.next().await {
            match answer {
                Ok(answer) => text::collect(&answer, &node, now, &mut batch),
                Err(error) => tracing::warn!(node, error, "a kubelet does not tell what is used"),
            }
        }
        batch
    }

    async fn ask(&self, target: &Target) -> Result<String, String> {
        match timeout(&*self.ctx.clock, LIMIT, self.kubelets.fetch(target, PATH, ANSWER_LIMIT_BYTES)).await {
            Some(answer) => answer,
            None => Err("context deadline exceeded".to_owned()),
        }
    }
}

/// Whether nobody has heard of the node's kubelet for some time: it would only be waited for.
fn is_lost(node: &Value) -> bool {
    let conditions = node["status"]["conditions"].as_array();
    conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "Unknown")
}
