//! Levels with their seats, and requests that wait, give up or are let in, with the injected clock.

use crate::front::flowcontrol::config::{Dangling, Levels, Seats, initial_objects};
use crate::front::flowcontrol::{Admitted, FlowControl, Marks, Question, Refused, Sizes};
use crate::front::info::{parse_query, resolve};
use crate::request::UserInfo;
use futures_util::FutureExt;
use http::Method;
use knarr_api::flowcontrol::v1::{FlowSchema, PriorityLevelConfiguration};
use knarr_base::{Ctx, ManualClock};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::sync::Notify;

struct Nothing;
impl Sizes for Nothing {
    fn sizes(&self, _group: &str, _resource: &str) -> Option<(u64, u64)> {
        None
    }
}

fn surroundings() -> (Ctx, Arc<ManualClock>) {
    let clock = ManualClock::at(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    (Ctx { clock: clock.clone(), ..Ctx::system() }, clock)
}

fn level(name: &str, shares: i64, lendable: i64, response: Value) -> Arc<PriorityLevelConfiguration> {
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": {"type": "Limited",
            "limited": {"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response}}}))
        .unwrap(),
    )
}

fn schema(name: &str, level: &str, precedence: i64, method: &str, user: &str) -> Arc<FlowSchema> {
    let all = json!(["*"]);
    let mut object = json!({"metadata": {"name": name, "uid": format!("uid-{name}")}, "spec": {
        "priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence,
        "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}],
            "resourceRules": [{"verbs": all, "apiGroups": all, "resources": all, "namespaces": all, "clusterScope": true}]}]}});
    if !method.is_empty() {
        object["spec"]["distinguisherMethod"] = json!({"type": method});
    }
    Arc::new(serde_json::from_value(object).unwrap())
}

fn queue(queues: i64, hand: i64, length: i64) -> Value {
    json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": length}})
}

fn flow(
    ctx: &Ctx,
    total: u64,
    levels: &[Arc<PriorityLevelConfiguration>],
    schemas: &[Arc<FlowSchema>],
) -> Arc<FlowControl> {
    let flow = FlowControl::new(ctx, Arc::new(Nothing), total);
    let (digest, _) = flow.levels().digest(levels, schemas);
    flow.digest.store(Arc::new(digest));
    flow
}

async fn ask(
    flow: &FlowControl,
    user: &str,
    groups: &[&str],
    method: Method,
    url: &str,
    limit: Duration,
) -> (Marks, Result<Admitted, Refused>) {
    let (path, query) = url.split_once('?').unwrap_or((url, ""));
    let query = parse_query(query);
    let info = resolve(&method, path, &query);
    flow.admit(Question { info: &info, user: &UserInfo::new(user, groups), query: &query, limit }).await
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn requests_are_put_where_upstream_puts_them() {
    let (ctx, _) = surroundings();
    let (levels, schemas) = initial_objects();
    let flow = flow(&ctx, 600, &levels, &schemas);
    let account = "system:serviceaccount:kube-system:generic-garbage-collector";
    for (user, groups, method, url, schema, level) in [
        ("root", &["system:masters"][..], "GET", "/api/v1/pods", "exempt", "exempt"),
        ("alice", &[], "GET", "/livez", "probes", "exempt"),
        ("alice", &[], "GET", "/api/v1/pods", "global-default", "global-default"),
        (
            "system:node:a",
            &["system:nodes"],
            "PATCH",
            "/api/v1/nodes/a/status",
            "system-node-high",
            "node-high",
        ),
        (
            "system:node:a",
            &["system:nodes"],
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/a",
            "system-node-high",
            "node-high",
        ),
        ("system:node:a", &["system:nodes"], "GET", "/api/v1/pods", "system-nodes", "system"),
        ("system:kube-scheduler", &[], "GET", "/api/v1/pods", "kube-scheduler", "workload-high"),
        (
            "system:kube-scheduler",
            &[],
            "PUT",
            "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases/a",
            "system-leader-election",
            "leader-election",
        ),
        (
            "system:kube-controller-manager",
            &[],
            "POST",
            "/api/v1/namespaces/a/pods",
            "kube-controller-manager",
            "workload-high",
        ),
        (
            account,
            &["system:serviceaccounts"],
            "DELETE",
            "/api/v1/namespaces/a/pods/b",
            "kube-system-service-accounts",
            "workload-high",
        ),
        (
            "system:serviceaccount:a:b",
            &["system:serviceaccounts"],
            "GET",
            "/api/v1/pods",
            "service-accounts",
            "workload-low",
        ),
    ] {
        let info = resolve(&method.parse().unwrap(), url, &[]);
        let digest = flow.digest.load();
        let found = digest.find(&info, &UserInfo::new(user, groups));
        assert_eq!(
            (found.schema.name.as_str(), found.level.name.as_str()),
            (schema, level),
            "{user} {method} {url}"
        );
    }
    // Nobody at all still has somewhere to go.
    let nobody = UserInfo { name: "nobody".into(), ..UserInfo::default() };
    assert_eq!(flow.digest.load().find(&resolve(&Method::GET, "/x", &[]), &nobody).schema.name, "catch-all");
}

fn seats_of(levels: &Levels, name: &str) -> Seats {
    levels.all().into_iter().find(|(known, ..)| known == name).map(|(_, _, seats, _)| seats).unwrap()
}

#[tokio::test]
async fn shares_become_seats_and_follow_demand_between_their_bounds() {
    let (ctx, clock) = surroundings();
    let (objects, schemas) = initial_objects();
    let flow = flow(&ctx, 600, &objects, &schemas);
    let seats = |name: &str| seats_of(&flow.levels(), name);
    // Upstream's figures for its default configuration.
    for (name, nominal, lower, upper) in [
        ("exempt", 0, 0, 600),
        ("catch-all", 13, 13, 613),
        ("system", 74, 50, 674),
        ("node-high", 98, 73, 698),
        ("leader-election", 25, 25, 625),
        ("workload-high", 98, 49, 698),
        ("workload-low", 245, 24, 845),
        ("global-default", 49, 24, 649),
    ] {
        let seats = seats(name);
        assert_eq!((seats.nominal, seats.lower, seats.upper), (nominal, lower, upper), "{name}");
    }
    // One user takes all there is of its level for a minute: it is lent seats of the others.
    let mut held = Vec::new();
    while let Some((_, Ok(admitted))) =
        ask(&flow, "alice", &[], Method::GET, "/api/v1/pods", SECOND).now_or_never()
    {
        held.push(admitted);
    }
    let before = held.len() as u64;
    let mut waiting: Vec<_> = (0..250)
        .map(|_| Box::pin(ask(&flow, "alice", &[], Method::GET, "/api/v1/pods", 90 * SECOND)))
        .collect();
    for _ in 0..6 {
        let mut still = Vec::new();
        for mut one in waiting {
            match futures_util::poll!(one.as_mut()) {
                std::task::Poll::Ready((_, admitted)) => held.extend(admitted.ok()),
                std::task::Poll::Pending => still.push(one),
            }
        }
        waiting = still;
        clock.advance(10 * SECOND);
        flow.levels().adjust();
    }
    let after = seats("global-default").current;
    assert!(before < 60 && after > 200, "{before} seats, then {after}");
    assert!(seats("workload-low").current < 245 && seats("workload-low").current >= 24);
    assert!(seats("leader-election").current >= 25, "it lends nothing");
    let total: u64 = flow.levels().all().iter().map(|(_, _, seats, _)| seats.current).sum();
    assert!((595..=610).contains(&total), "{total}");
}

#[tokio::test]
async fn a_request_waits_for_a_seat_at_most_its_time_and_then_is_told_when_to_come_again() {
    let (ctx, clock) = surroundings();
    let levels = [level("one", 1, 0, queue(1, 1, 2)), level("none", 0, 0, json!({"type": "Reject"}))];
    let schemas = [schema("s", "one", 5, "", "alice"), schema("n", "none", 5, "", "bob")];
    // All but one share is the mandatory catch-all's.
    let flow = flow(&ctx, 1, &levels, &schemas);
    let url = "/api/v1/namespaces/a/configmaps";
    let (marks, first) = ask(&flow, "alice", &[], Method::GET, url, SECOND).await;
    let first = first.ok().unwrap();
    assert_eq!((marks.schema_uid.as_bytes(), marks.level_uid.as_bytes()), (&b"uid-s"[..], &b"uid-one"[..]));
    let mut second = Box::pin(ask(&flow, "alice", &[], Method::GET, url, 15 * SECOND));
    let mut third = Box::pin(ask(&flow, "alice", &[], Method::GET, url, 5 * SECOND));
    assert!(
        futures_util::poll!(second.as_mut()).is_pending() && futures_util::poll!(third.as_mut()).is_pending()
    );
    let full = ask(&flow, "alice", &[], Method::GET, url, SECOND).now_or_never();
    assert!(matches!(full, Some((_, Err(Refused { retry_after: 1 })))), "the queue is full");
    clock.advance(5 * SECOND);
    assert!(third.await.1.is_err(), "waited as long as it may");
    let mut fourth = Box::pin(ask(&flow, "alice", &[], Method::GET, url, 15 * SECOND));
    assert!(futures_util::poll!(fourth.as_mut()).is_pending(), "its place is free");
    drop(second);
    drop(first);
    let (_, admitted) = fourth.await;
    assert!(admitted.is_ok(), "who has gone away is passed over");
    let (_, alone) = ask(&flow, "bob", &[], Method::GET, url, SECOND).await;
    assert!(alone.is_ok(), "wider than its level, but alone");
    let refused = ask(&flow, "bob", &[], Method::GET, url, SECOND).now_or_never();
    assert!(matches!(refused, Some((_, Err(_)))), "a level without queues");
    drop(admitted);
    let text = ctx.metrics.encode();
    for line in [
        r#"apiserver_flowcontrol_rejected_requests_total{priority_level="one",flow_schema="s",reason="queue-full"} 1"#,
        r#"apiserver_flowcontrol_rejected_requests_total{priority_level="one",flow_schema="s",reason="time-out"} 2"#,
        r#"apiserver_flowcontrol_rejected_requests_total{priority_level="none",flow_schema="n",reason="concurrency-limit"} 1"#,
        r#"apiserver_flowcontrol_dispatched_requests_total{priority_level="one",flow_schema="s"} 2"#,
        r#"apiserver_flowcontrol_current_executing_requests{priority_level="one",flow_schema="s"} 0"#,
        r#"apiserver_flowcontrol_nominal_limit_seats{priority_level="one"} 1"#,
        r#"apiserver_flowcontrol_request_execution_seconds_count{priority_level="one",flow_schema="s",type="regular"} 2"#,
        r#"apiserver_flowcontrol_priority_level_seat_utilization_bucket{le="+Inf",phase="executing",priority_level="one"} 5000000000"#,
    ] {
        assert!(
            text.contains(line),
            "{line} is not in\n{}",
            text.lines().filter(|l| l.contains("flowcontrol")).collect::<Vec<_>>().join("\n")
        );
    }
}

#[tokio::test]
async fn masters_are_never_held_up() {
    let (ctx, _) = surroundings();
    let flow = FlowControl::new(&ctx, Arc::new(Nothing), 1);
    let ask = |user: &'static str, groups: &'static [&'static str]| {
        let flow = &flow;
        async move { ask(flow, user, groups, Method::GET, "/api/v1/pods", SECOND).await.1 }
    };
    let held: Vec<_> = [ask("alice", &[]).await].into_iter().collect();
    assert!(
        held[0].is_ok() && ask("alice", &[]).await.is_err(),
        "there is one seat, and catch-all has no queue"
    );
    for _ in 0..100 {
        assert!(ask("root", &["system:masters"]).await.is_ok());
    }
}

#[tokio::test]
async fn lingering_seats_are_given_to_who_waits_when_their_time_is_over() {
    let (ctx, clock) = surroundings();
    let levels = [level("one", 1, 0, queue(1, 1, 10))];
    let schemas = [schema("s", "one", 5, "ByUser", "*")];
    let flow = flow(&ctx, 1, &levels, &schemas);
    let query = parse_query("watch=1");
    let watch = resolve(&Method::GET, "/api/v1/namespaces/a/configmaps", &query);
    let _watches: Vec<_> = (0..20).map(|_| flow.count_watch(&watch, &query)).collect();
    let url = "/api/v1/namespaces/a/configmaps";
    let (_, write) = ask(&flow, "alice", &[], Method::POST, url, SECOND).await;
    drop(write);
    let mut next = Box::pin(ask(&flow, "bob", &[], Method::GET, url, SECOND));
    assert!(futures_util::poll!(next.as_mut()).is_pending(), "watchers are being told");
    // The timer's task is asleep before the clock moves.
    tokio::task::yield_now().await;
    clock.advance(Duration::from_millis(10));
    assert!(next.await.1.is_ok());
}

#[tokio::test]
async fn a_level_that_goes_drains_and_schemas_say_whether_theirs_is_there() {
    let (ctx, _) = surroundings();
    let drained = Arc::new(Notify::new());
    let mut levels = Levels::new(&ctx, ctx.clock.instant(), 10, drained.clone());
    let there = [level("one", 1, 0, queue(1, 1, 10))];
    let schemas = [schema("s", "one", 5, "", "alice"), schema("t", "two", 5, "", "alice")];
    let (digest, dangling) = levels.digest(&there, &schemas);
    let condition = |schema: &str, status, reason, level: &str, rest: &str| Dangling {
        schema: schema.into(),
        status,
        reason,
        message: format!(
            "This FlowSchema references the PriorityLevelConfiguration object named \"{level}\" {rest}"
        ),
    };
    assert_eq!(
        dangling,
        [
            condition("s", "False", "Found", "one", "and it exists"),
            condition("t", "True", "NotFound", "two", "but there is no such object")
        ]
    );
    let names = |digest: &crate::front::flowcontrol::config::Digest| {
        digest.schemas.iter().map(|m| m.schema.name.clone()).collect::<Vec<String>>()
    };
    assert_eq!(names(&digest), ["exempt", "s", "catch-all"], "a dangling schema is not asked");
    let one = digest.schemas[1].level.clone();
    let seat = one
        .enter(
            crate::front::flowcontrol::queueset::Width::seats(1),
            0,
            digest.schemas[1].flow,
            false,
            None,
            SECOND,
            || Box::new(()),
        )
        .await;
    let (digest, dangling) = levels.digest(&[], &schemas);
    assert_eq!(dangling.iter().filter(|d| d.status == "True").count(), 2);
    assert_eq!(names(&digest), ["exempt", "catch-all"]);
    let quiescing = |levels: &Levels| {
        levels.all().iter().map(|(name, _, _, quiescing)| (name.clone(), *quiescing)).collect::<Vec<_>>()
    };
    assert!(quiescing(&levels).contains(&("one".into(), true)), "it has a request yet");
    drop(seat);
    assert!(drained.notified().now_or_never().is_some(), "the last one has left");
    levels.digest(&[], &schemas);
    assert_eq!(quiescing(&levels), [("catch-all".into(), false), ("exempt".into(), false)]);
}
