//! The service proxy: watches services and endpoint slices and keeps an nftables table that leads connections to
//! service addresses on to endpoints. A change touches only the service's own chains and elements; the table is
//! written as a whole at the start and when somebody has removed it.

pub mod plan;
pub mod rules;
pub mod table;
#[cfg(test)]
mod tests;

use crate::host::TABLE;
use crate::netlink::{NetlinkError, Socket, conntrack, firewall};
use crate::range::Range;
use crate::view::ServiceView;
use knarr_base::Ctx;
use knarr_client::informer::Key;
use plan::{Applied, Desired, plan};
use rules::{Endpoint, ServiceRules, rules_of};
use std::collections::BTreeSet;
use std::net::SocketAddrV4;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use table::Ranges;
use tokio::sync::{Notify, watch};

/// How long changes are gathered: a rollout's come in bursts.
const GATHER: Duration = Duration::from_millis(2);
/// How often the table is looked at: somebody may have flushed all rules.
const CHECK_EVERY: Duration = Duration::from_secs(10);
/// How long to wait after the kernel refused.
const RETRY: Duration = Duration::from_secs(1);

/// What the proxy has to know.
#[derive(Clone, Debug)]
pub struct ProxyConfig {
    /// The range of this node's pods.
    pub pod_cidr: Range,
    /// The range of all nodes' pods.
    pub cluster_cidr: Range,
    /// The range of service addresses.
    pub service_cidr: Range,
    /// This node's name, for traffic policies that keep to it.
    pub node_name: String,
    /// Where this node's own DNS server is: it serves `kube-dns` here, as long as no pods do.
    pub local_dns: Option<SocketAddrV4>,
}

/// A running proxy.
#[derive(Clone)]
pub struct ServiceProxy {
    synced: watch::Receiver<bool>,
}

struct Shared {
    dirty: Mutex<BTreeSet<Key>>,
    wake: Notify,
}

impl ServiceProxy {
    /// Starts the proxy in the tasks of `ctx`, in the network namespace of the calling thread.
    pub fn start(ctx: &Ctx, view: &ServiceView, config: ProxyConfig) -> Result<Self, NetlinkError> {
        let socket = Socket::netfilter()?;
        let shared = Arc::new(Shared { dirty: Mutex::default(), wake: Notify::new() });
        let marks = shared.clone();
        view.on_change(move |key| {
            marks.dirty.lock().expect("the proxy's lock is never poisoned").insert(key.clone());
            marks.wake.notify_one();
        });
        let (done, synced) = watch::channel(false);
        let worker = Worker {
            ranges: Ranges {
                local: config.pod_cidr,
                pods: config.cluster_cidr,
                services: config.service_cidr,
            },
            node: config.node_name,
            local_dns: config.local_dns,
            view: view.clone(),
            shared,
            applied: Applied::default(),
            whole: true,
            socket,
        };
        let clock = ctx.clock.clone();
        ctx.tasks.spawn_until_stopped("service-proxy", async move { worker.run(clock, done).await });
        Ok(Self { synced })
    }

    /// Resolves once the kernel has all services that were there at the start.
    pub async fn synced(&self) {
        let mut synced = self.synced.clone();
        let _ = synced.wait_for(|done| *done).await;
    }
}

struct Worker {
    ranges: Ranges,
    node: String,
    local_dns: Option<SocketAddrV4>,
    view: ServiceView,
    shared: Arc<Shared>,
    applied: Applied,
    /// Whether the table must be written as a whole.
    whole: bool,
    socket: Socket,
}

impl Worker {
    async fn run(mut self, clock: knarr_base::ClockRef, done: watch::Sender<bool>) {
        self.view.synced().await;
        loop {
            let worker = tokio::task::spawn_blocking(move || {
                let result = self.sync();
                (self, result)
            });
            let Ok((worker, result)) = worker.await else { return };
            self = worker;
            if let Err(error) = result {
                tracing::error!(%error, "cannot write the services' rules; trying again");
                clock.sleep(RETRY).await;
                continue;
            }
            done.send_replace(true);
            tokio::select! {
                () = self.shared.wake.notified() => clock.sleep(GATHER).await,
                () = clock.sleep(CHECK_EVERY) => self.check(),
            }
        }
    }

    /// Looks whether the table is still there.
    fn check(&mut self) {
        match firewall::has_table(&mut self.socket, TABLE) {
            Ok(true) => {}
            Ok(false) => {
                tracing::warn!(table = TABLE, "somebody removed the nftables table; writing it again");
                self.whole = true;
            }
            Err(error) => tracing::warn!(%error, "cannot look at the nftables table"),
        }
    }

    /// Brings the kernel to where the API is.
    fn sync(&mut self) -> Result<(), NetlinkError> {
        let dirty =
            std::mem::take(&mut *self.shared.dirty.lock().expect("the proxy's lock is never poisoned"));
        if self.whole {
            let desired: Desired = self.view.keys().into_iter().map(|key| self.desired(key)).collect();
            let mut ids = 100;
            let changes = plan(&Applied::default(), &desired);
            let mut messages = table::anew(TABLE, &self.ranges);
            messages.append(&mut table::messages(TABLE, &self.ranges, &changes, &mut ids));
            self.socket.transaction(messages, "write the nftables table")?;
            self.whole = false;
            let mut applied = Applied::default();
            applied.accept(desired);
            let before = std::mem::replace(&mut self.applied, applied);
            self.forget(before.udp().difference(&self.applied.udp()).copied().collect());
            return Ok(());
        }
        let desired: Desired = dirty.into_iter().map(|key| self.desired(key)).collect();
        let changes = plan(&self.applied, &desired);
        if !changes.is_empty() {
            let messages = table::messages(TABLE, &self.ranges, &changes, &mut 0);
            if let Err(error) = self.socket.transaction(messages, "change the nftables table") {
                // Whatever is in the kernel is not what we thought.
                self.whole = true;
                tracing::warn!(%error, "writing the nftables table anew");
                return self.sync();
            }
        }
        let gone = self.applied.accept(desired);
        self.forget(gone);
        Ok(())
    }

    fn desired(&self, key: Key) -> (Key, Option<ServiceRules>) {
        let entry = self.view.get(&key);
        let rules = entry.and_then(|entry| {
            let service = entry.service.as_deref()?;
            let entry = match self.local_dns {
                Some(at) => crate::dns::objects::localized(&entry, at),
                None => entry.clone(),
            };
            Some(rules_of(service, entry.slices.values().map(|s| &**s), &self.node))
        });
        (key, rules)
    }

    /// Forgets the flows to UDP endpoints that are gone.
    fn forget(&mut self, gone: BTreeSet<Endpoint>) {
        if gone.is_empty() {
            return;
        }
        let gone = gone.into_iter().map(|e| (e.address, e.port)).collect();
        if let Err(error) = conntrack::forget_udp(&mut self.socket, &gone) {
            tracing::warn!(%error, "clients may keep talking to UDP endpoints that are gone");
        }
    }
}
