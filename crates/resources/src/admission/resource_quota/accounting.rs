//! Charging writes to quotas. Writes of one namespace that wait together are checked one after the other against the
//! same quotas, and what they use in all is written to the quotas' status at once, with the version that was read:
//! whoever was slower starts over. So concurrent writes never get more than there is, whatever server they meet.

use super::devices::Cached;
use knarr_api::Kind;
use knarr_api::core::v1::ResourceQuota;
use knarr_apiserver::request::{Reader, RequestCx};
use knarr_base::Ctx;
use knarr_client::{Client, ListOptions};
use knarr_meta::status::Status;
use knarr_quota::check::{Around, Limited, Refusal, Request, check};
use knarr_quota::{Evaluator, Owned, Quota};
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;

/// How often the quotas are read again because somebody else charged them. Upstream tries three times.
const RETRIES: usize = 10;
/// Upstream's limit of a write's waiting.
const PATIENCE: Duration = Duration::from_secs(10);
/// How many quotas are remembered beyond what the watch cache shows; more are forgotten, at the cost of a retry.
const REMEMBERED: usize = 1000;

/// A write to be charged.
pub struct Write {
    /// API group.
    pub group: String,
    /// Plural name of the resource.
    pub resource: String,
    /// Subresource, or empty.
    pub subresource: String,
    /// Whether it is only tried; then nothing is charged.
    pub dry_run: bool,
    /// How it is measured.
    pub evaluator: Evaluator,
    /// The object as it is to be.
    pub new: Owned,
    /// The object as it is.
    pub old: Option<Owned>,
}

/// What became of it.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// It fits and is charged.
    Fits,
    /// It does not, for this reason.
    Forbidden(String),
    /// Upstream reports this without naming the object.
    Error(String),
    /// The quotas could not be read or written.
    Status(Box<Status>),
}

struct Waiter {
    write: Write,
    answer: oneshot::Sender<Outcome>,
}

/// Charges writes.
#[derive(Default)]
pub struct Accountant {
    /// Writes that wait, by namespace. A namespace has an entry as long as somebody works on it.
    waiting: Mutex<HashMap<String, Vec<Waiter>>>,
    /// Quotas as they were last written here, by namespace and name: the watch cache may be behind.
    written: Mutex<HashMap<(String, String), ResourceQuota>>,
    /// What must be covered by a quota.
    limited: Vec<Limited>,
}

/// What the work on a namespace needs of the request that began it.
struct Surroundings {
    ctx: Ctx,
    reader: Arc<dyn Reader>,
    client: Client,
    namespace: String,
}

/// Takes the entry of a namespace away when its work ends before its time; who waits there is told.
struct Entry<'a> {
    accountant: &'a Accountant,
    namespace: &'a str,
    is_done: bool,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        if !self.is_done {
            self.accountant.lock().remove(self.namespace);
        }
    }
}

impl Accountant {
    /// Charges a write to the quotas of its namespace.
    pub async fn charge(self: &Arc<Self>, cx: &RequestCx, write: Write) -> Outcome {
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter { write, answer };
        let namespace = &cx.info.namespace;
        let is_first = {
            let mut waiting = self.lock();
            let is_first = !waiting.contains_key(namespace);
            waiting.entry(namespace.clone()).or_default().push(waiter);
            is_first
        };
        if is_first {
            let around = Surroundings {
                ctx: cx.ctx.clone(),
                reader: cx.reader.clone(),
                client: cx.loopback.clone(),
                namespace: namespace.clone(),
            };
            // Not within the request: its client may go away while others wait for the same work.
            let this = self.clone();
            cx.ctx.tasks.spawn("resource quota", async move { this.work(around).await });
        }
        match knarr_base::clock::timeout(&*cx.ctx.clock, PATIENCE, answered).await {
            Some(Ok(outcome)) => outcome,
            _ => Outcome::Status(Box::new(Status::internal("resource quota evaluation timed out"))),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Vec<Waiter>>> {
        self.waiting.lock().expect("quota accounting lock is never poisoned")
    }

    async fn work(&self, around: Surroundings) {
        let mut entry = Entry { accountant: self, namespace: &around.namespace, is_done: false };
        loop {
            let batch = {
                let mut waiting = self.lock();
                let batch = waiting.get_mut(&around.namespace).map(std::mem::take).unwrap_or_default();
                if batch.is_empty() {
                    waiting.remove(&around.namespace);
                    entry.is_done = true;
                    return;
                }
                batch
            };
            self.settle(&around, batch).await;
        }
    }

    /// Checks and charges writes that came together.
    async fn settle(&self, around: &Surroundings, mut waiters: Vec<Waiter>) {
        let mut quotas = self.quotas(around);
        for retry in 0.. {
            let before = quotas.clone();
            waiters = self.check(around, waiters, &mut quotas);
            if waiters.is_empty() {
                return;
            }
            let (mut failed, mut problem) = (Vec::new(), None);
            for (quota, _) in quotas.iter().zip(&before).filter(|(now, was)| now.used != was.used) {
                match around.client.update_status(&quota.with_status(&quota.hard, &quota.used)).await {
                    Ok(written) => self.remember(&around.namespace, written),
                    Err(error) => {
                        failed.push(quota.name().to_owned());
                        problem = Some(error);
                    }
                }
            }
            let Some(problem) = problem else {
                waiters.into_iter().for_each(|waiter| waiter.answer(Outcome::Fits));
                return;
            };
            // The others are charged already; only these are looked at again. One that is gone limits nothing.
            match around.client.list::<ResourceQuota>(&around.namespace, &ListOptions::default()).await {
                Ok(listed) if retry < RETRIES => {
                    let now = listed.items.into_iter().map(Quota::new);
                    quotas = now.filter(|quota| failed.iter().any(|name| name == quota.name())).collect();
                }
                _ => {
                    let status = match problem.status() {
                        Some(status) => status.clone(),
                        None => Status::internal(problem),
                    };
                    let outcome = Outcome::Status(Box::new(status));
                    waiters.into_iter().for_each(|waiter| waiter.answer(outcome.clone()));
                    return;
                }
            }
        }
    }

    /// Tells those that do not fit, and those that use nothing; the others are charged to `quotas` and returned.
    fn check(&self, around: &Surroundings, waiters: Vec<Waiter>, quotas: &mut Vec<Quota>) -> Vec<Waiter> {
        let now = around.ctx.clock.now();
        let devices = Cached { reader: around.reader.clone(), now };
        let surroundings = Around { devices: &devices, limited: &self.limited, now };
        let mut charged = Vec::new();
        for waiter in waiters {
            let write = &waiter.write;
            let request = Request {
                group: &write.group,
                resource: &write.resource,
                subresource: &write.subresource,
                evaluator: &write.evaluator,
                new: write.new.item(),
                old: write.old.as_ref().map(Owned::item),
            };
            match check(quotas, &request, &surroundings) {
                Err(Refusal::Forbidden(why)) => waiter.answer(Outcome::Forbidden(why)),
                Err(Refusal::Error(why)) => waiter.answer(Outcome::Error(why)),
                Ok(_) if write.dry_run => waiter.answer(Outcome::Fits),
                Ok(after) if quotas.iter().zip(&after).all(|(was, is)| was.used == is.used) => {
                    waiter.answer(Outcome::Fits);
                }
                Ok(after) => {
                    *quotas = after;
                    charged.push(waiter);
                }
            }
        }
        charged
    }

    /// The quotas of the namespace, as new as they are known.
    fn quotas(&self, around: &Surroundings) -> Vec<Quota> {
        let mut written = self.written.lock().expect("quota memory lock is never poisoned");
        let listed = around.reader.list("", "resourcequotas", &around.namespace);
        let quotas = listed.iter().filter_map(|object| ResourceQuota::from_value(object).ok());
        quotas
            .map(|listed| {
                let key = (around.namespace.clone(), listed.metadata.name.clone().unwrap_or_default());
                match written.get(&key) {
                    Some(ours)
                        if version(ours) > version(&listed) && ours.metadata.uid == listed.metadata.uid =>
                    {
                        ours.clone()
                    }
                    Some(_) => {
                        written.remove(&key);
                        listed
                    }
                    None => listed,
                }
            })
            .map(Quota::new)
            .collect()
    }

    fn remember(&self, namespace: &str, quota: ResourceQuota) {
        let mut written = self.written.lock().expect("quota memory lock is never poisoned");
        if written.len() >= REMEMBERED {
            written.clear();
        }
        written.insert((namespace.to_owned(), quota.metadata.name.clone().unwrap_or_default()), quota);
    }
}

impl Waiter {
    /// Nobody listens any more if the client went away.
    fn answer(self, outcome: Outcome) {
        let _ = self.answer.send(outcome);
    }
}

fn version(quota: &ResourceQuota) -> u64 {
    quota.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or_default()
}
