//! What quotas count: informers over the resources that some quota is about, opened when the first one is, and the
//! quotas that a change wakes.

use crate::framework::Start;
use futures_util::future::BoxFuture;
use knarr_api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, Service};
use knarr_api::resource::v1::{DeviceClass, ResourceClaim};
use knarr_base::clock::{ClockRef, timeout};
use knarr_client::informer::{Change, Key, Metadata, Object};
use knarr_client::{Informer, ResourcePath, WorkQueue};
use knarr_quota::{Amounts, Devices, Evaluator, Item, Quota, amounts};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// How long a count waits for the first list of a resource.
const FIRST_LIST: Duration = Duration::from_secs(5);
/// A quota over a resource that is not served, or cannot be listed, looks again after this long; upstream asks
/// discovery as often.
const UNKNOWN: Duration = Duration::from_secs(30);

/// The informers, each made at its first use.
#[derive(Default)]
struct Opened {
    pods: Option<Informer<Pod>>,
    services: Option<Informer<Service>>,
    claims: Option<Informer<PersistentVolumeClaim>>,
    resource_claims: Option<Informer<ResourceClaim>>,
    device_classes: Option<Informer<DeviceClass>>,
    counted: HashMap<ResourcePath, Informer<Metadata>>,
}

/// Counts what quotas are about.
pub struct Monitors {
    start: Start,
    quotas: Informer<ResourceQuota>,
    queue: WorkQueue<Key>,
    opened: Mutex<Opened>,
}

/// What was counted.
pub struct Count {
    /// What is used, of everything that could be counted.
    pub used: Amounts,
    /// When to count again if something could not.
    pub again: Option<Duration>,
}

impl Monitors {
    /// None are opened yet. Changes put quotas of `quotas` on `queue`.
    pub fn new(start: &Start, quotas: Informer<ResourceQuota>, queue: WorkQueue<Key>) -> Arc<Self> {
        let opened = Mutex::default();
        let this = Arc::new(Self { start: start.clone(), quotas, queue, opened });
        // Quotas may be about kinds that come later; what is closed when they go is opened anew when they come back.
        let (monitors, mut served) = (Arc::downgrade(&this), start.served.changes());
        start.ctx.tasks.spawn_until_stopped("resourcequota monitors", async move {
            while served.changed().await.is_ok() {
                let Some(monitors) = monitors.upgrade() else { return };
                monitors.follow_served();
            }
        });
        this
    }

    /// Counts what a quota is about, of the names in `wanted`.
    pub async fn count(self: &Arc<Self>, quota: &Quota, wanted: &Amounts) -> Count {
        let mut count = Count { used: Amounts::new(), again: None };
        let namespace = quota.object().metadata.namespace.as_deref().unwrap_or_default();
        let devices = self.known_devices(wanted).await;
        for (evaluator, path) in self.evaluators(wanted, &devices).await {
            let names = evaluator.matching(wanted.keys(), &devices);
            if names.is_empty() {
                continue;
            }
            let Some(path) = path else {
                count.again = Some(UNKNOWN);
                continue;
            };
            match self.of_resource(&evaluator, path, quota, namespace, &devices).await {
                Some(mut used) => {
                    used.retain(|name, _| names.contains(name));
                    for name in names {
                        used.entry(name).or_insert_with(|| amounts::whole(0));
                    }
                    amounts::add(&mut count.used, &used);
                }
                None => count.again = Some(UNKNOWN),
            }
        }
        count
    }

    /// The evaluators for names, each with where its resource is served.
    async fn evaluators(&self, wanted: &Amounts, devices: &Known) -> Vec<(Evaluator, Option<ResourcePath>)> {
        let mut found: BTreeMap<(String, String), Evaluator> = BTreeMap::new();
        let special = [
            ("", "pods"),
            ("", "services"),
            ("", "persistentvolumeclaims"),
            ("resource.k8s.io", "resourceclaims"),
        ];
        let counted = wanted.keys().filter_map(|name| Evaluator::counted_by(name));
        for (group, resource) in special.into_iter().chain(counted) {
            if !knarr_quota::is_ignored(group, resource) {
                let evaluator = Evaluator::of(group, resource);
                found.insert((group.to_owned(), resource.to_owned()), evaluator);
            }
        }
        let mut out = Vec::new();
        for ((group, resource), evaluator) in found {
            if wanted.keys().any(|name| evaluator.is_about(name, devices)) {
                let mut path = self.path(&group, &resource);
                if path.is_none() && self.start.served.refresh().await.is_ok() {
                    path = self.path(&group, &resource);
                }
                out.push((evaluator, path));
            }
        }
        out
    }

    /// Where a resource is served.
    fn path(&self, group: &str, resource: &str) -> Option<ResourcePath> {
        let rows = self.start.served.rows();
        let row = rows.iter().find(|row| row.path.group == group && row.path.resource == resource);
        row.filter(|row| row.namespaced).map(|row| row.path.clone())
    }

    /// Lets go of what is no longer served, and wakes the quotas that count something by its full name.
    fn follow_served(&self) {
        let rows = self.start.served.rows();
        let is_served = |path: &ResourcePath| rows.iter().any(|row| row.path == *path);
        let mut opened = self.opened.lock().expect("the lock is never poisoned");
        opened.counted.retain(|path, _| is_served(path));
        drop(opened);
        self.wake_where("", |hard| knarr_quota::counted(hard).is_some());
    }

    /// What the objects of one resource use of a quota; `None` while they cannot be listed.
    async fn of_resource(
        self: &Arc<Self>,
        evaluator: &Evaluator,
        path: ResourcePath,
        quota: &Quota,
        namespace: &str,
        devices: &Known,
    ) -> Option<Amounts> {
        let tally = Tally { evaluator, quota, devices, now: self.start.ctx.clock.now() };
        let clock = &self.start.ctx.clock;
        match evaluator {
            Evaluator::Pods => {
                let informer = self.pods();
                is_listed(clock, &informer)
                    .await
                    .then(|| tally.of(&informer.list(namespace), |p| Item::Pod(p)))
            }
            Evaluator::Services => {
                let informer = self.typed(|o| &mut o.services, evaluator, |s| Item::Service(s));
                let listed = is_listed(clock, &informer).await;
                listed.then(|| tally.of(&informer.list(namespace), |s| Item::Service(s)))
            }
            Evaluator::Claims => {
                let informer = self.typed(|o| &mut o.claims, evaluator, |c| Item::Claim(c));
                let listed = is_listed(clock, &informer).await;
                listed.then(|| tally.of(&informer.list(namespace), |c| Item::Claim(c)))
            }
            Evaluator::ResourceClaims => {
                let informer = self.resource_claims();
                let listed = is_listed(clock, &informer).await;
                listed.then(|| tally.of(&informer.list(namespace), |c| Item::ResourceClaim(c)))
            }
            Evaluator::Count(_) => {
                let informer = self.counted(evaluator, path);
                let listed = is_listed(clock, &informer).await;
                listed.then(|| tally.of(&informer.list(namespace), |_| Item::Counted))
            }
        }
    }

    fn pods(self: &Arc<Self>) -> Informer<Pod> {
        self.typed(|o| &mut o.pods, &Evaluator::Pods, |p| Item::Pod(p))
    }

    fn resource_claims(self: &Arc<Self>) -> Informer<ResourceClaim> {
        self.typed(|o| &mut o.resource_claims, &Evaluator::ResourceClaims, |c| Item::ResourceClaim(c))
    }

    fn typed<K: knarr_api::Kind>(
        self: &Arc<Self>,
        slot: fn(&mut Opened) -> &mut Option<Informer<K>>,
        evaluator: &Evaluator,
        item: fn(&K) -> Item<'_>,
    ) -> Informer<K> {
        let mut opened = self.opened.lock().expect("the lock is never poisoned");
        let slot = slot(&mut opened);
        if let Some(informer) = slot {
            return informer.clone();
        }
        let informer = self.start.informers.get::<K>();
        *slot = Some(informer.clone());
        drop(opened);
        self.follow(&informer, evaluator, item);
        informer
    }

    fn counted(self: &Arc<Self>, evaluator: &Evaluator, path: ResourcePath) -> Informer<Metadata> {
        let mut opened = self.opened.lock().expect("the lock is never poisoned");
        if let Some(informer) = opened.counted.get(&path) {
            return informer.clone();
        }
        let informer = self.start.informers.metadata(path.clone());
        opened.counted.insert(path, informer.clone());
        drop(opened);
        self.follow(&informer, evaluator, |_| Item::Counted);
        informer
    }

    /// Wakes quotas when objects go, or change so that they use something else.
    fn follow<T: Object>(
        self: &Arc<Self>,
        informer: &Informer<T>,
        evaluator: &Evaluator,
        item: fn(&T) -> Item<'_>,
    ) {
        let (this, evaluator, clock) =
            (Arc::downgrade(self), evaluator.clone(), self.start.ctx.clock.clone());
        informer.on_change(move |change: &Change<T>| {
            let matters = match (&change.old, &change.new) {
                (Some(old), Some(new)) => evaluator.frees(item(old), item(new), clock.now()),
                (Some(_), None) => true,
                _ => false,
            };
            let Some(this) = this.upgrade().filter(|_| matters) else { return };
            let namespace = change.object().metadata().namespace.clone().unwrap_or_default();
            let devices = this.known_now();
            this.wake_where(&namespace, |name| evaluator.is_about(name, &devices));
        });
    }

    /// Wakes the quotas of a namespace (of all when it is empty) that limit such a name.
    fn wake_where(&self, namespace: &str, is_meant: impl Fn(&str) -> bool) {
        for quota in self.quotas.list(namespace) {
            let hard = quota.spec.as_ref().and_then(|s| s.hard.as_ref());
            if hard.into_iter().flatten().any(|(name, _)| is_meant(name)) {
                self.queue.add(Key::of(&quota.metadata));
            }
        }
    }

    /// What is known of devices; the informers are opened only for names that may be about them.
    async fn known_devices(self: &Arc<Self>, wanted: &Amounts) -> Known {
        let concerned = wanted.keys().any(|name| knarr_quota::devices::may_concern(name));
        if concerned && self.path("resource.k8s.io", "resourceclaims").is_some() {
            let classes = {
                let mut opened = self.opened.lock().expect("the lock is never poisoned");
                opened.device_classes.get_or_insert_with(|| self.start.informers.get()).clone()
            };
            is_listed(&self.start.ctx.clock, &classes).await;
            is_listed(&self.start.ctx.clock, &self.resource_claims()).await;
            is_listed(&self.start.ctx.clock, &self.pods()).await;
        }
        self.known_now()
    }

    fn known_now(&self) -> Known {
        let opened = self.opened.lock().expect("the lock is never poisoned");
        Known {
            classes: opened.device_classes.clone(),
            claims: opened.resource_claims.clone(),
            pods: opened.pods.clone(),
            now: self.start.ctx.clock.now(),
        }
    }
}

fn is_listed<'a, T: Object>(clock: &'a ClockRef, informer: &'a Informer<T>) -> BoxFuture<'a, bool> {
    Box::pin(async move {
        informer.has_synced() || timeout(&**clock, FIRST_LIST, informer.synced()).await.is_some()
    })
}

/// Sums what objects use of a quota.
struct Tally<'a> {
    evaluator: &'a Evaluator,
    quota: &'a Quota,
    devices: &'a Known,
    now: SystemTime,
}

impl Tally<'_> {
    fn of<T>(&self, objects: &[Arc<T>], item: fn(&T) -> Item<'_>) -> Amounts {
        let mut used = Amounts::new();
        for object in objects {
            let item = item(object);
            if self.quota.scopes.iter().all(|scope| self.evaluator.in_scope(scope, item)) {
                amounts::add(&mut used, &self.evaluator.usage(item, self.devices, self.now));
            }
        }
        used
    }
}

/// Device classes, claims and their pods, as far as somebody asked for them.
struct Known {
    classes: Option<Informer<DeviceClass>>,
    claims: Option<Informer<ResourceClaim>>,
    pods: Option<Informer<Pod>>,
    now: SystemTime,
}

impl Devices for Known {
    fn extended_resource(&self, class: &str) -> Option<String> {
        let class = self.classes.as_ref()?.get("", class)?;
        class.spec.extended_resource_name.clone().filter(|name| !name.is_empty())
    }

    fn has_class_for(&self, extended_resource: &str) -> bool {
        let classes = self.classes.iter().flat_map(|classes| classes.list(""));
        classes
            .into_iter()
            .any(|class| class.spec.extended_resource_name.as_deref() == Some(extended_resource))
    }

    fn usage_of_owner(&self, claim: &ResourceClaim) -> Option<Amounts> {
        let (name, _) = knarr_quota::devices::owner(claim)?;
        let namespace = claim.metadata.namespace.as_deref().unwrap_or_default();
        let pod = self.pods.as_ref()?.get(namespace, name)?;
        let siblings = self.claims.as_ref()?.list(namespace);
        knarr_quota::devices::usage_of_owner(claim, &pod, siblings.iter().map(|c| &**c), self.now)
    }
}
