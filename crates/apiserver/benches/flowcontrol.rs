//! What API Priority and Fairness costs a request that finds a free seat: classification, entry and leaving, by one
//! task and by two at once, for users that upstream's initial schemas put first and last.

#![allow(clippy::disallowed_methods)] // measures the machine itself

use knarr_apiserver::front::flowcontrol::{FlowControl, Question, Sizes, TOTAL_SEATS};
use knarr_apiserver::front::info;
use knarr_apiserver::request::UserInfo;
use knarr_base::Ctx;
use std::sync::Arc;
use std::time::{Duration, Instant};

struct Some100;
impl Sizes for Some100 {
    fn sizes(&self, _group: &str, _resource: &str) -> Option<(u64, u64)> {
        Some((100, 100_000))
    }
}

const ROUNDS: u32 = 1_000_000;

async fn rounds(flow: Arc<FlowControl>, user: UserInfo, method: http::Method, path: &'static str) {
    let request = info::resolve(&method, path, &[]);
    for _ in 0..ROUNDS {
        let limit = Duration::from_secs(15);
        let question = Question { info: &request, user: &user, query: &[], limit };
        assert!(flow.admit(question).await.1.is_ok());
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let flow = FlowControl::new(&Ctx::system(), Arc::new(Some100), TOTAL_SEATS);
    flow.use_initial_objects();
    let node = UserInfo::new("system:node:a", &["system:nodes"]);
    for (what, user, method, path) in [
        (
            "administrator, GET a pod",
            UserInfo::new("root", &["system:masters"]),
            http::Method::GET,
            "/api/v1/namespaces/a/pods/b",
        ),
        ("node, PATCH its status", node, http::Method::PATCH, "/api/v1/nodes/a/status"),
        ("anybody, POST a pod", UserInfo::new("alice", &[]), http::Method::POST, "/api/v1/namespaces/a/pods"),
        ("anybody, LIST pods", UserInfo::new("alice", &[]), http::Method::GET, "/api/v1/pods"),
    ] {
        for tasks in [1, 2] {
            let started = Instant::now();
            let mut all = tokio::task::JoinSet::new();
            for _ in 0..tasks {
                all.spawn(rounds(flow.clone(), user.clone(), method.clone(), path));
            }
            while all.join_next().await.is_some() {}
            let each = started.elapsed().as_nanos() as f64 / f64::from(ROUNDS);
            println!("{what:<26} {tasks} at once: {each:>6.0} ns a request and task");
        }
    }
}
