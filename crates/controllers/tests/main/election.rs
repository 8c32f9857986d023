//! Of several candidates for a Lease one leads, by the clock of the test.

use crate::LIMIT;
use knarr_api::Kind;
use knarr_api::coordination::v1::Lease;
use knarr_base::clock::timeout;
use knarr_base::{Clock, Ctx, ManualClock};
use knarr_client::election::Election;
use knarr_testkit::{Cluster, wait_for};
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// How long a Lease is good for, and the longest wait between two tries of a candidate.
const DURATION: Duration = Duration::from_secs(15);
const TRY: Duration = Duration::from_millis(4_400);
const STEP: Duration = Duration::from_secs(1);

struct Office {
    cluster: Cluster,
    clock: Arc<ManualClock>,
}

impl Office {
    async fn open() -> Self {
        let cluster = Cluster::start().await;
        let clock = ManualClock::at(cluster.ctx.clock.now());
        Self { cluster, clock }
    }

    fn candidate(&self, name: &str) -> Election {
        let ctx = Ctx { clock: self.clock.clone(), ..self.cluster.ctx.clone() };
        let client = self.cluster.client_in(&ctx, "admin", &["system:masters"]);
        Election::new(client, "kube-system", "office", name)
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
                // Who woke has to have the time for its requests.
                self.cluster.ctx.clock.sleep(Duration::from_millis(20)).await;
                self.clock.advance(STEP);
            }
        };
        let raced = async {
            tokio::select! {
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
