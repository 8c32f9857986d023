//! Two servers over one store that tells them of changes late: nothing that a client is told to be the latest may
//! be older than what somebody was answered before, and the server's own parts see what the server has written.

use super::*;
use knarr_base::Ctx;
use knarr_store::Freshness;
use knarr_store::memory::MemoryStore;
use knarr_store::testing::remote::Remote;

/// Two servers that share a store, and their ways to it.
struct Pair {
    one: Server,
    other: Server,
    to_one: Arc<Remote>,
    to_other: Arc<Remote>,
}

async fn pair(freshness: Freshness) -> Pair {
    let ctx = Ctx::system();
    let shared = MemoryStore::new(&ctx);
    let server = || {
        let remote = Remote::new(&ctx, shared.clone(), freshness);
        (Server::over(ctx.clone(), remote.clone(), defs(), Vec::new()), remote)
    };
    let ((one, to_one), (other, to_other)) = (server(), server());
    one.registry.warm_all().await;
    other.registry.warm_all().await;
    Pair { one, other, to_one, to_other }
}

const MODES: [Freshness; 2] = [Freshness::OnRequest, Freshness::ByReading];

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(object::name).collect()
}

#[tokio::test]
async fn a_consistent_list_has_what_another_server_has_answered() {
    for mode in MODES {
        let Pair { one, other, .. } = pair(mode).await;
        for round in 0..20 {
            let name = format!("m{round:02}");
            let created = one.post(MAPS, &map(&name, json!({}))).await.expect(201);
            // Changes of another kind move the revision on, of which the maps' watch hears nothing.
            one.post(PODS, &pod(&name, "n1")).await.expect(201);
            let list = other.get(MAPS).await.expect(200);
            assert_eq!(names(&list).len(), round + 1, "{mode:?}");
            assert!(version(&list) > version(&created), "{mode:?}");
            let limited = other.get(&format!("{MAPS}?limit=3")).await.expect(200);
            assert_eq!(names(&limited).len(), 3.min(round + 1));
            let selected = other.get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn1")).await.expect(200);
            assert_eq!(names(&selected).len(), round + 1);
            assert_eq!(other.get(&format!("{MAPS}/{name}")).await.expect(200), created);
        }
        let url = format!("{MAPS}/m00");
        one.delete(&url, &Value::Null).await.expect(200);
        assert_eq!(other.get(&url).await.code, 404);
        assert_eq!(names(&other.get(MAPS).await.expect(200)).len(), 19, "{mode:?}");
    }
}

#[tokio::test]
async fn a_consistent_list_does_not_wait_for_a_watch_that_hangs() {
    for mode in MODES {
        let Pair { one, other, to_other, .. } = pair(mode).await;
        to_other.hold();
        let created = one.post(MAPS, &map("a", json!({}))).await.expect(201);
        assert_eq!(names(&other.get(MAPS).await.expect(200)), ["a"], "{mode:?}");
        assert_eq!(names(&other.get(&format!("{MAPS}?resourceVersion=0")).await.expect(200)), [""; 0]);
        let least = format!("{MAPS}?resourceVersion={}", version(&created));
        if mode == Freshness::ByReading {
            assert_eq!(names(&other.get(&least).await.expect(200)), ["a"]);
            let future = format!("{MAPS}?resourceVersion={}", version(&created) + 9);
            assert!(other.get(&future).await.message(504).contains("Too large resource version"));
        }
        to_other.release();
        assert_eq!(names(&other.get(&least).await.expect(200)), ["a"]);
    }
}

#[tokio::test]
async fn pages_of_a_list_are_of_one_moment() {
    for mode in MODES {
        let Pair { one, other, .. } = pair(mode).await;
        for name in ["a", "b", "c", "d"] {
            one.post(MAPS, &map(name, json!({}))).await.expect(201);
        }
        let first = other.get(&format!("{MAPS}?limit=2")).await.expect(200);
        assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(2)));
        one.post(MAPS, &map("bb", json!({}))).await.expect(201);
        one.delete(&format!("{MAPS}/d"), &Value::Null).await.expect(200);
        let token = first["metadata"]["continue"].as_str().unwrap();
        let second = one.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
        assert_eq!((names(&second), version(&second)), (vec!["c", "d"], version(&first)), "{mode:?}");
    }
}

#[tokio::test]
async fn watches_start_where_they_should_and_miss_nothing() {
    for mode in MODES {
        let Pair { one, other, to_other, .. } = pair(mode).await;
        let first = one.post(MAPS, &map("a", json!({}))).await.expect(201);
        to_other.hold();
        one.post(MAPS, &map("b", json!({}))).await.expect(201);
        let query =
            "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
        if mode == Freshness::OnRequest {
            // There the state of another server's answer is waited for, and read from the store in the end.
            to_other.release();
        }
        let mut state = other.watch(&format!("{MAPS}?{query}")).await;
        assert_eq!(state.names(2).await, ["ADDED a", "ADDED b"], "{mode:?}");
        let mark = state.next().await.unwrap();
        assert_eq!(mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
        to_other.release();
        let mut after = other.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&first))).await;
        let mut now = other.watch(&format!("{MAPS}?watch=1")).await;
        let last = one.post(MAPS, &map("c", json!({}))).await.expect(201);
        assert_eq!(state.names(1).await, ["ADDED c"]);
        assert_eq!(after.names(2).await, ["ADDED b", "ADDED c"], "{mode:?}");
        assert_eq!(now.names(3).await, ["ADDED a", "ADDED b", "ADDED c"], "{mode:?}");
        let mut same = one.watch(&format!("{MAPS}?watch=1&resourceVersion={}", version(&last))).await;
        one.delete(&format!("{MAPS}/a"), &Value::Null).await.expect(200);
        for watch in [&mut state, &mut after, &mut now, &mut same] {
            assert_eq!(watch.names(1).await, ["DELETED a"], "{mode:?}");
        }
    }
}

#[tokio::test]
async fn a_server_believes_its_own_writes_and_looks_for_those_of_others() {
    for mode in MODES {
        let Pair { one, other, to_one, to_other } = pair(mode).await;
        to_one.hold();
        to_other.hold();
        let (mine, theirs) = (one.registry.reader(), other.registry.reader());
        let created = one.post(PODS, &pod("p", "n1")).await.expect(201);
        assert_eq!(*mine.get("", "pods", "ns", "p").unwrap(), created);
        assert_eq!(mine.list("", "pods", "ns").len(), 1);
        assert_eq!(mine.list("", "pods", "elsewhere").len(), 0);
        assert_eq!(mine.list_where("", "pods", "", "spec.nodeName", "n1").len(), 1);
        assert_eq!(mine.revision("", "pods"), version(&created));

        assert!(theirs.get("", "pods", "ns", "p").is_none(), "nobody has told the other yet");
        assert!(theirs.look_for("", "pods", "ns", "p").await);
        assert_eq!(*theirs.get("", "pods", "ns", "p").unwrap(), created);
        assert!(!theirs.look_for("", "pods", "ns", "nothing").await);

        one.delete(&format!("{PODS}/p?gracePeriodSeconds=0"), &Value::Null).await.expect(200);
        assert!(mine.get("", "pods", "ns", "p").is_none());
        assert_eq!(mine.list("", "pods", "").len(), 0);
        to_one.release();
        to_other.release();
        let list = other.get(&format!("{PODS}?resourceVersion={}", one.store.revision())).await;
        assert_eq!(names(&list.expect(200)).len(), 0);
        let again = one.post(PODS, &pod("p", "n2")).await.expect(201);
        assert_eq!(*mine.get("", "pods", "ns", "p").unwrap(), again, "{mode:?}");
    }
}

#[tokio::test]
async fn two_servers_that_change_one_object_lose_no_change() {
    for mode in MODES {
        let Pair { one, other, .. } = pair(mode).await;
        one.post(MAPS, &map("shared", json!({}))).await.expect(201);
        let patch = async |server: &Server, who: &str| {
            for n in 0..25 {
                let data = json!({"data": {format!("{who}{n}"): "x"}});
                let url = format!("{MAPS}/shared");
                server.patch("merge-patch+json", &url, &data).await.expect(200);
            }
        };
        tokio::join!(patch(&one, "a"), patch(&other, "b"));
        let end = other.get(&format!("{MAPS}/shared")).await.expect(200);
        assert_eq!(end["data"].as_object().unwrap().len(), 50, "{mode:?}");
    }
}
