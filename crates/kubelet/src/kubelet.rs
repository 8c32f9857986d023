//! The kubelet as a value: what its parts share, and starting them.

use crate::config::{KubeletConfig, KubeletError};
use crate::eviction::Eviction;
use crate::image::Records;
use crate::metrics::KubeletMetrics;
use crate::objects::Objects;
use crate::pod::book::Book;
use crate::pod::static_pods::Mirrors;
use crate::pod::subids;
use crate::pod::users::Ranges;
use crate::pod::worker::Msg;
use crate::shutdown::Shutdown;
use crate::volume::claim::Claims;
use crate::volume::token::Tokens;
use knarr_api::Kind;
use knarr_api::core::v1::{Node, Pod, Service};
use knarr_api::node::v1::RuntimeClass;
use knarr_base::Ctx;
use knarr_client::{Client, Informer, Informers, Recorder};
use serde_json::Value;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, mpsc};

/// What the parts of a kubelet share.
pub(crate) struct Shared {
    pub(crate) ctx: Ctx,
    pub(crate) config: KubeletConfig,
    pub(crate) client: Client,
    pub(crate) recorder: Recorder,
    pub(crate) objects: Objects,
    pub(crate) tokens: Tokens,
    /// Who may use the images that are here.
    pub(crate) pulls: Records,
    pub(crate) claims: Claims,
    /// One image volume is mounted at a time.
    pub(crate) image_volumes: tokio::sync::Mutex<()>,
    /// By which handlers are found.
    pub(crate) runtime_classes: Informer<RuntimeClass>,
    /// This node's object.
    pub(crate) nodes: Informer<Node>,
    /// Whether the kernel has AppArmor.
    pub(crate) apparmor: bool,
    /// The mirrors of static pods.
    pub(crate) mirrors: Mirrors,
    /// UID of the Node object, once it is registered.
    pub(crate) node_uid: Mutex<String>,
    /// Who was given how much of the node.
    pub(crate) book: Book,
    /// Which pod has which ids of the host.
    pub(crate) users: Ranges,
    /// Pressures of the node.
    pub(crate) eviction: Eviction,
    /// Whether the machine goes down.
    pub(crate) shutdown: Shutdown,
    pub(crate) metrics: KubeletMetrics,
    pub(crate) services: Informer<Service>,
    /// The host's own name.
    pub(crate) hostname: String,
    /// The node's status may have changed.
    pub(crate) node_changed: Notify,
    /// By pod UID.
    pub(crate) pods: Arc<Mutex<HashMap<String, Arc<Entry>>>>,
    /// Containers whose start is under way: their root file systems are not orphans.
    pub(crate) starting: Mutex<HashSet<String>>,
}

/// A pod's place in the kubelet: how to reach its worker, and what others may see of it.
pub(crate) struct Entry {
    inbox: mpsc::UnboundedSender<Msg>,
    pub(crate) view: Mutex<View>,
    /// Why the pod was not let in, if it was not.
    pub(crate) refused: Option<(String, String)>,
    /// Counts changes of the view.
    pub(crate) changed: tokio::sync::watch::Sender<u64>,
}

/// What the server and others see of a pod.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) pod: Arc<Pod>,
    /// The status as last worked out.
    pub(crate) status: Value,
    /// By container name.
    pub(crate) containers: HashMap<String, ContainerView>,
    pub(crate) ips: Vec<std::net::IpAddr>,
    /// Nothing of it is left on the node but its logs: neither sandbox nor volumes.
    pub(crate) released: bool,
}

/// What others see of a container.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerView {
    pub(crate) id: String,
    pub(crate) running: bool,
    pub(crate) attempt: u32,
    /// Whether this attempt's container was made.
    pub(crate) made: bool,
    /// Why it waits.
    pub(crate) waiting: Option<String>,
}

impl Entry {
    pub(crate) fn new(
        pod: Arc<Pod>,
        refused: Option<(String, String)>,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Msg>) {
        let (inbox, messages) = mpsc::unbounded_channel();
        let view =
            View { pod, status: Value::Null, containers: HashMap::new(), ips: Vec::new(), released: false };
        (Arc::new(Self { inbox, view: Mutex::new(view), refused, changed: Default::default() }), messages)
    }

    /// Tells the worker. A worker that ended hears nothing.
    pub(crate) fn send(&self, message: Msg) {
        let _ = self.inbox.send(message);
    }

    pub(crate) fn view(&self) -> View {
        self.view.lock().expect("view lock is never poisoned").clone()
    }
}

impl Shared {
    pub(crate) fn entry(&self, uid: &str) -> Option<Arc<Entry>> {
        self.pods.lock().expect("pod lock is never poisoned").get(uid).cloned()
    }

    /// The pod of a name, the one that is not yet gone if there are two.
    pub(crate) fn by_name(&self, namespace: &str, name: &str) -> Option<Arc<Entry>> {
        let pods = self.pods.lock().expect("pod lock is never poisoned");
        let fits = |e: &&Arc<Entry>| {
            let view = e.view.lock().expect("view lock is never poisoned");
            view.pod.name() == name && view.pod.namespace() == namespace
        };
        let mut all: Vec<Arc<Entry>> = pods.values().filter(fits).cloned().collect();
        all.sort_by_key(|e| e.view().pod.metadata.creation_timestamp.clone());
        all.pop()
    }
}

/// A node's agent.
pub struct Kubelet {
    shared: Arc<Shared>,
    pods: Informer<Pod>,
}

impl Kubelet {
    /// A kubelet that does nothing yet but to follow its pods and the services.
    pub fn new(ctx: &Ctx, config: KubeletConfig) -> Result<Self, KubeletError> {
        for path in [config.root_dir.join("pods"), config.log_dir.clone()] {
            std::fs::create_dir_all(&path).map_err(|source| KubeletError::Directory { path, source })?;
        }
        let slots = subids::slots(crate::node::capacity(&config).pods).map_err(KubeletError::Users)?;
        let ctx = ctx.child("kubelet");
        let client = config.client.clone();
        let informers = Informers::new(client.clone());
        let pods = informers.filtered("", "", &format!("spec.nodeName={}", config.node_name));
        let by_uid: Arc<Mutex<HashMap<String, Arc<Entry>>>> = Arc::default();
        let told = by_uid.clone();
        let objects = Objects::new(
            client.clone(),
            Arc::new(move |uid| {
                if let Some(entry) = told.lock().expect("pod lock is never poisoned").get(uid) {
                    entry.send(Msg::ObjectsChanged);
                }
            }),
        );
        let hostname = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let shared = Shared {
            recorder: Recorder::new(client.clone(), "kubelet", &config.node_name),
            services: informers.get(),
            runtime_classes: informers.get(),
            nodes: informers.filtered("", "", &format!("metadata.name={}", config.node_name)),
            apparmor: std::fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|b| b.starts_with(b"Y")),
            objects,
            tokens: Tokens::default(),
            pulls: Records::read(&config.root_dir, &config.images),
            claims: Claims::default(),
            image_volumes: tokio::sync::Mutex::default(),
            mirrors: Mirrors::default(),
            node_uid: Mutex::default(),
            book: Book::default(),
            users: Ranges::read(&config.root_dir, slots, config.runtime.sandboxes().iter().map(|s| &s.spec)),
            eviction: Eviction::default(),
            shutdown: Shutdown::default(),
            metrics: KubeletMetrics::new(&ctx.metrics),
            hostname,
            node_changed: Notify::new(),
            pods: by_uid,
            starting: Mutex::default(),
            client,
            ctx,
            config,
        };
        Ok(Self { shared: Arc::new(shared), pods })
    }

    /// Starts everything. The gate `kubelet` of the task scope opens once the node is registered.
    pub async fn start(&self) -> Result<(), KubeletError> {
        let tasks = &self.shared.ctx.tasks;
        let gate = tasks.ready_gate("kubelet");
        let node = crate::eviction::node_ref(&self.shared.config);
        self.shared.recorder.normal(&node, "Starting", "Starting kubelet.");
        let (keep, capacity) = (&self.shared.config.housekeeping, crate::node::capacity(&self.shared.config));
        if let Some(why) = crate::node::allocatable::objection(keep, &capacity) {
            return Err(KubeletError::Reserves(why));
        }
        crate::server::start(&self.shared).await?;
        tasks.spawn_until_stopped("node", crate::node::run(self.shared.clone(), gate));
        tasks.spawn_until_stopped("allocatable", crate::node::allocatable::enforce(self.shared.clone()));
        tasks.spawn_until_stopped("system-oom", crate::node::oom::watch(self.shared.clone()));
        tasks.spawn_until_stopped("image-gc", crate::eviction::images::run(self.shared.clone()));
        tasks.spawn_until_stopped("shutdown", crate::shutdown::run(self.shared.clone()));
        tasks.spawn_until_stopped("eviction", crate::eviction::run(self.shared.clone()));
        tasks.spawn_until_stopped("pods", crate::pod::manager::run(self.shared.clone(), self.pods.clone()));
        Ok(())
    }
}
