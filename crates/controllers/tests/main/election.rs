//! Of several candidates for a Lease one leads, by the clock of the test. It stands still while a request is under
//! way, so that a busy machine costs a candidate no time.

use crate::LIMIT;
use bytes::Bytes;
use knarr_api::Kind;
use knarr_api::coordination::v1::Lease;
use knarr_base::clock::{BoxFuture, timeout};
use knarr_base::{Clock, Ctx, ManualClock};
use knarr_client::election::Election;
use knarr_client::{Body, Client, Error, Transport};
use knarr_testkit::{Cluster, wait_for};
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// How long a Lease is good for, and the longest wait between two tries of a candidate.
const DURATION: Duration = Duration::from_secs(15);
const TRY: Duration = Duration::from_millis(4_400);
const STEP: Duration = Duration::from_secs(1);

/// Knows how many requests are under way, to the end of their answers.
struct Counting {
    inner: Arc<dyn Transport>,
    under_way: Arc<AtomicUsize>,
}

/// One of them, also if it is given up.
struct UnderWay(Arc<AtomicUsize>);

impl UnderWay {
    fn of(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Transport for Counting {
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, Error>> {
        let (under_way, answer) = (UnderWay::of(&self.under_way), self.inner.send(request));
        Box::pin(async move {
            let _under_way = under_way;
            let (head, body) = answer.await?.into_parts();
            let body = body.collect().await.map_err(|e| Error::Protocol(e.to_string()))?;
            Ok(http::Response::from_parts(head, Body::full(body)))
        })
    }

    fn server(&self) -> String {
        self.inner.server()
    }
}

struct Office {
    cluster: Cluster,
    clock: Arc<ManualClock>,
    under_way: Arc<AtomicUsize>,
}

impl Office {
    async fn open() -> Self {
        let cluster = Cluster::start().await;
        let clock = ManualClock::at(cluster.ctx.clock.now());
        Self { cluster, clock, under_way: Arc::default() }
    }

    fn candidate(&self, name: &str) -> Election {
        let ctx = Ctx { clock: self.clock.clone(), ..self.cluster.ctx.clone() };
        let inner = self.cluster.transport("admin", &["system:masters"]);
        let transport = Counting { inner, under_way: self.under_way.clone() };
        Election::new(Client::new(Arc::new(transport), "test", ctx), "kube-system", "office", name)
    }

    async fn lease(&self) -> Value {
        let lease = self.cluster.admin().get::<Lease>("kube-system", "office").await;
        serde_json::to_value(lease.unwrap_or_else(|e| panic!("{} office: {e}", Lease::KIND)))
            .expect("it is JSON")
    }

    async fn holder(&self) -> String {
        self.lease().await["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }

    /// Moves the clock while `work` goes on; how far it was moved.
    async fn pass_until(&self, work: impl Future<Output = ()>) -> Duration {
        let start = self.clock.instant();
        let moving = async {
            loop {
                self.cluster.ctx.clock.sleep(Duration::from_millis(1)).await;
                if self.under_way.load(Ordering::SeqCst) == 0 {
                    self.clock.advance(STEP);
                }
            }
        };
        let raced = async {
            // In this order: whom the clock woke has come to its next request or sleep before the clock moves again.
            tokio::select! {
                biased;
                () = work => {}
                () = moving => {}
            }
        };
        timeout(&*self.cluster.ctx.clock, LIMIT, raced).await.expect("it does not take for ever");
        self.clock.instant() - start
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_leads_and_the_next_takes_over() {
    let office = Office::open().await;
    let (mut first, mut second) = (office.candidate("first"), office.candidate("second"));
    first.acquire().await;
    assert_eq!(office.holder().await, "first");

    // As long as it renews, nobody else gets in: well beyond the Lease's duration.
    let tenure = async {
        let end = office.clock.now() + 3 * DURATION;
        wait_for("the first renewing", LIMIT, || async {
            if office.clock.now() > end { Ok(()) } else { Err("time has not passed".to_owned()) }
        })
        .await;
    };
    let reign = async {
        tokio::select! {
            () = first.hold() => panic!("a leader that renews stays"),
            () = second.acquire() => panic!("the office is taken"),
            () = tenure => {}
        }
    };
    office.pass_until(reign).await;
    let lease = office.lease().await;
    assert_eq!(lease["spec"]["holderIdentity"], "first");
    assert_eq!(lease["spec"]["leaseTransitions"], 0);
    assert_ne!(lease["spec"]["renewTime"], lease["spec"]["acquireTime"], "it was renewed");

    // The first is gone without a word: the second waits for the Lease's end, and not much longer.
    let waited = office.pass_until(second.acquire()).await;
    assert!(waited >= DURATION - TRY - 2 * STEP && waited <= DURATION + 3 * TRY, "waited {waited:?}");
    let lease = office.lease().await;
    assert_eq!(
        (&lease["spec"]["holderIdentity"], &lease["spec"]["leaseTransitions"]),
        (&"second".into(), &1.into())
    );

    // Given up, the office is free at once.
    second.release().await;
    assert_eq!(office.holder().await, "");
    first.acquire().await;
    assert_eq!(office.holder().await, "first");

    // Whoever was pushed out learns of it within the renewal's deadline.
    let noticed = office.pass_until(second.hold()).await;
    assert!(noticed <= Duration::from_secs(10) + TRY + STEP, "noticed after {noticed:?}");
    office.cluster.stop().await;
}
