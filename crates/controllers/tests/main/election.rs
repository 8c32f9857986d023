//! Leader election over a real API server in this process, on a clock that the test moves.

use knarr_base::{Clock, Ctx, ManualClock, SystemClock};
use knarr_client::Election;
use knarr_testkit::Cluster;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn candidate(cluster: &Cluster, identity: &str) -> Election {
    Election::new(cluster.admin(), "kube-system", "kube-scheduler", identity)
}

async fn lease(cluster: &Cluster) -> Value {
    let url = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/kube-scheduler";
    let body = cluster.admin().call(http::Method::GET, url, &Value::Null).await.unwrap();
    serde_json::from_slice(&body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_leads_until_it_gives_up_or_stops_renewing() {
    let clock = ManualClock::at(SystemClock::new().now());
    let cluster = Cluster::start_with(Ctx { clock: clock.clone(), ..Ctx::system() }).await;
    let mut first = candidate(&cluster, "first");
    first.acquire().await;
    let held = lease(&cluster).await;
    assert_eq!((&held["spec"]["holderIdentity"], &held["spec"]["leaseDurationSeconds"]), (&"first".into(), &15.into()));

    // Nobody renews: the second leads once the Lease has not changed for its duration by its own clock.
    let mut second = candidate(&cluster, "second");
    let start = clock.instant();
    {
        let acquiring = second.acquire();
        tokio::pin!(acquiring);
        while tokio::time::timeout(Duration::from_millis(5), &mut acquiring).await.is_err() {
            clock.advance(Duration::from_millis(500));
            assert!(clock.instant() - start < Duration::from_secs(40), "an abandoned Lease is taken over");
        }
    }
    assert!(clock.instant() - start >= Duration::from_secs(15), "and not before");
    let held = lease(&cluster).await;
    assert_eq!((&held["spec"]["holderIdentity"], &held["spec"]["leaseTransitions"]), (&"second".into(), &1.into()));

    // The first notices that it leads no more.
    {
        let holding = first.hold();
        tokio::pin!(holding);
        let start = clock.instant();
        while tokio::time::timeout(Duration::from_millis(5), &mut holding).await.is_err() {
            clock.advance(Duration::from_millis(500));
            assert!(clock.instant() - start < Duration::from_secs(30), "a leader that was replaced notices");
        }
    }
    // Given up, the Lease is free at once.
    second.release().await;
    tokio::time::timeout(Duration::from_secs(10), first.acquire()).await.expect("it is free");
    assert_eq!(lease(&cluster).await["spec"]["holderIdentity"], "first");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_runs_only_where_the_lease_is() {
    let cluster = Cluster::start().await;
    let running = Arc::new(AtomicUsize::new(0));
    let scope = cluster.ctx.child("candidates");
    for identity in ["a", "b", "c"] {
        let running = running.clone();
        let work = move |ctx: &Ctx| {
            running.fetch_add(1, Ordering::SeqCst);
            ctx.tasks.spawn_until_stopped("work", std::future::pending());
        };
        scope.tasks.spawn("candidate", candidate(&cluster, identity).run(scope.clone(), work));
    }
    let started = || async { if running.load(Ordering::SeqCst) > 0 { Ok(()) } else { Err("nobody".to_owned()) } };
    knarr_testkit::wait_for("a leader", Duration::from_secs(20), started).await;
    assert_eq!(running.load(Ordering::SeqCst), 1);
    assert!(scope.tasks.shutdown(Duration::from_secs(10)).await, "candidates end with their scope");
    assert_eq!(lease(&cluster).await["spec"]["holderIdentity"], "", "and give the Lease up");
}
