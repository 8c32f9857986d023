//! Clients that create, change, delete, read and list a few objects at random, and what they were answered.

use crate::checker::{self, Call, Operation, Reply, Value as Id};
use crate::servers::Server;
use http::Method;
use knarr_base::rng::SeededRng;
use knarr_base::{Ctx, Rng, clock::timeout};
use knarr_client::{Client, Error, Transport, kubeconfig};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Where the objects are.
pub const URL: &str = "/api/v1/namespaces/lin/configmaps";
/// An answer that takes longer counts as none.
const PATIENCE: Duration = Duration::from_secs(4);
/// Objects that are written to at a time.
const KEYS: u64 = 4;

/// What the clients share.
pub struct World {
    kubeconfigs: Vec<PathBuf>,
    ctx: Ctx,
    order: AtomicU64,
    ids: AtomicU64,
    epoch: AtomicU64,
    /// The latest revision that anybody was answered.
    floor: AtomicU64,
    stop: AtomicBool,
    running: AtomicUsize,
    histories: Mutex<BTreeMap<String, Vec<Operation>>>,
    /// Revision -> (object, value; 0 for a deletion), of writes that were answered.
    acknowledged: Mutex<BTreeMap<u64, (String, Id)>>,
    problems: Mutex<Vec<String>>,
}

/// What a history amounts to.
pub struct Report {
    pub answered: usize,
    pub unknown: usize,
    pub objects: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} answers, {} unknown, {} objects", self.answered, self.unknown, self.objects)
    }
}

/// The revision and value of a ConfigMap.
pub fn read(object: &Value) -> (String, u64, Id) {
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
    (name, number(&object["metadata"]["resourceVersion"]), number(&object["data"]["id"]))
}

impl World {
    /// Makes the namespace.
    pub async fn start(ctx: &Ctx, servers: &[Server]) -> Self {
        let this = Self {
            kubeconfigs: servers.iter().map(Server::kubeconfig).collect(),
            ctx: ctx.clone(),
            order: AtomicU64::new(1),
            ids: AtomicU64::new(1),
            epoch: AtomicU64::new(0),
            floor: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            running: AtomicUsize::new(0),
            histories: Mutex::default(),
            acknowledged: Mutex::default(),
            problems: Mutex::default(),
        };
        let namespace = json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "lin"}});
        let made = this.client(0).call(Method::POST, "/api/v1/namespaces", &namespace).await;
        made.expect("a namespace can be made");
        this
    }

    /// A client of a server.
    pub fn client(&self, server: usize) -> Client {
        let transport: Arc<dyn Transport> =
            Arc::new(kubeconfig::load(&self.kubeconfigs[server]).expect("the kubeconfig is there"));
        Client::new(transport, "linearizability", self.ctx.clone())
    }

    /// Goes on to other objects.
    pub fn next_epoch(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    fn now(&self) -> u64 {
        self.order.fetch_add(1, Ordering::SeqCst)
    }

    /// Starts a client.
    pub fn spawn_client(self: Arc<Self>, ctx: &Ctx, number: usize, seed: u64) {
        self.running.fetch_add(1, Ordering::SeqCst);
        let server = number % self.kubeconfigs.len();
        ctx.tasks.spawn("client", async move {
            let rng = SeededRng::new(seed);
            let mut client = self.client(server);
            let mut known: BTreeMap<String, (Id, u64)> = BTreeMap::new();
            while !self.stop.load(Ordering::SeqCst) {
                if !self.act(&client, &rng, &mut known).await {
                    // A fresh connection, and not at once again: the server may be down.
                    self.ctx.clock.sleep(Duration::from_millis(20)).await;
                    client = self.client(server);
                }
            }
            self.running.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// Waits until all clients have stopped.
    pub async fn stop_clients(&self, ctx: &Ctx) {
        self.stop.store(true, Ordering::SeqCst);
        while self.running.load(Ordering::SeqCst) > 0 {
            ctx.clock.sleep(Duration::from_millis(10)).await;
        }
    }

    /// Makes an object that everybody must see in the end; its revision.
    pub async fn write_end(&self, ctx: &Ctx) -> u64 {
        let object = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"generateName": "end-"}});
        for _ in 0..100 {
            if let Ok(body) = self.client(0).call(Method::POST, URL, &object).await {
                return read(&serde_json::from_slice(&body).expect("the answer is JSON")).1;
            }
            ctx.clock.sleep(Duration::from_millis(200)).await;
        }
        panic!("the server takes no more writes");
    }

    /// One operation; false when there was no answer.
    async fn act(&self, client: &Client, rng: &dyn Rng, known: &mut BTreeMap<String, (Id, u64)>) -> bool {
        let epoch = self.epoch.load(Ordering::SeqCst);
        let name = format!("e{epoch}-{}", rng.below(KEYS));
        let url = format!("{URL}/{name}");
        let id = self.ids.fetch_add(1, Ordering::SeqCst);
        let object = |version: Option<u64>| {
            let mut object = json!({"kind": "ConfigMap", "apiVersion": "v1",
                "metadata": {"name": name}, "data": {"id": id.to_string()}});
            if let Some(version) = version {
                object["metadata"]["resourceVersion"] = json!(version.to_string());
            }
            object
        };
        let seen = known.get(&name).copied();
        let (method, target, body, call) = match (rng.below(10), seen) {
            (0, _) => return self.list(client, epoch).await,
            (1..4, _) => (Method::GET, &*url, Value::Null, Call::Read),
            (4..8, Some((from, version))) => {
                (Method::PUT, &*url, object(Some(version)), Call::Update(from, id))
            }
            (8, Some((from, version))) => {
                let options = json!({"kind": "DeleteOptions", "apiVersion": "v1",
                    "preconditions": {"resourceVersion": version.to_string()}});
                (Method::DELETE, &*url, options, Call::Delete(from))
            }
            _ => (Method::POST, URL, object(None), Call::Create(id)),
        };
        let called = self.now();
        let answer = timeout(&*self.ctx.clock, PATIENCE, client.call(method, target, &body)).await;
        let answered = self.now();
        let reply = match answer {
            Some(Ok(body)) => {
                let value: Value = serde_json::from_slice(&body).unwrap_or_default();
                let (_, version, id) = read(&value);
                match &call {
                    Call::Read => {
                        known.insert(name.clone(), (id, version));
                        self.saw(version);
                        Reply::Read(Some(id))
                    }
                    Call::Delete(_) => {
                        known.remove(&name);
                        Reply::Done
                    }
                    Call::Create(_) | Call::Update(..) => {
                        known.insert(name.clone(), (id, version));
                        self.saw(version);
                        let mut acknowledged = self.acknowledged.lock().expect("nobody panics holding it");
                        acknowledged.insert(version, (name.clone(), id));
                        Reply::Done
                    }
                }
            }
            Some(Err(error)) => match (error.code(), &call) {
                (404, Call::Read) => {
                    known.remove(&name);
                    Reply::Read(None)
                }
                (404, _) => {
                    known.remove(&name);
                    Reply::Missing
                }
                (409, _) => Reply::Refused,
                (0 | 429 | 500..=599, _) => Reply::Unknown,
                _ => {
                    self.problem(format!("{call:?} of {name}: {error}"));
                    Reply::Unknown
                }
            },
            None => Reply::Unknown,
        };
        let has_answer = reply != Reply::Unknown;
        self.record(&name, Operation { call, reply, called, answered });
        has_answer
    }

    /// A consistent list counts as a read of every object.
    async fn list(&self, client: &Client, epoch: u64) -> bool {
        let floor = self.floor.load(Ordering::SeqCst);
        let called = self.now();
        let answer = timeout(&*self.ctx.clock, PATIENCE, client.call(Method::GET, URL, &Value::Null)).await;
        let answered = self.now();
        let list: Value = match answer {
            Some(Ok(body)) => serde_json::from_slice(&body).unwrap_or_default(),
            Some(Err(Error::Api(status))) if !matches!(status.code, 429 | 500..=599) => {
                self.problem(format!("a list: {status}"));
                return false;
            }
            _ => return false,
        };
        let revision = read(&list).1;
        if revision < floor {
            self.problem(format!("a list is of revision {revision}, and {floor} had been answered before"));
        }
        self.saw(revision);
        let items = list["items"].as_array().cloned().unwrap_or_default();
        let items: BTreeMap<String, Id> = items.iter().map(|item| (read(item).0, read(item).2)).collect();
        for key in 0..KEYS {
            let name = format!("e{epoch}-{key}");
            let reply = Reply::Read(items.get(&name).copied());
            self.record(&name, Operation { call: Call::Read, reply, called, answered });
        }
        true
    }

    fn saw(&self, revision: u64) {
        self.floor.fetch_max(revision, Ordering::SeqCst);
    }

    fn record(&self, name: &str, operation: Operation) {
        let mut histories = self.histories.lock().expect("nobody panics holding it");
        histories.entry(name.to_owned()).or_default().push(operation);
    }

    /// Notes something that must not happen.
    pub fn problem(&self, problem: String) {
        self.problems.lock().expect("nobody panics holding it").push(problem);
    }

    /// Writes that were answered, by revision.
    pub fn acknowledged(&self) -> BTreeMap<u64, (String, Id)> {
        self.acknowledged.lock().expect("nobody panics holding it").clone()
    }

    /// Checks every object's history; panics when one cannot be explained.
    pub fn check(&self) -> Report {
        let problems = self.problems.lock().expect("nobody panics holding it");
        assert!(problems.is_empty(), "{problems:#?}");
        let histories = self.histories.lock().expect("nobody panics holding it");
        let mut report = Report { answered: 0, unknown: 0, objects: histories.len() };
        for (name, history) in &*histories {
            let unknown = history.iter().filter(|operation| operation.reply == Reply::Unknown).count();
            report.unknown += unknown;
            report.answered += history.len() - unknown;
            if let Err(error) = checker::check(history) {
                panic!("{name}: {error}");
            }
        }
        report
    }
}
