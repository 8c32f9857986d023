//! The provisioner of the class `local-path`: a volume is a directory on the node that the scheduler chose for the
//! claim's first pod. Directories are made and removed by that node's kubelet, asked through the API server
//! (`nodes/proxy`), so this works for every node that has joined and needs nothing on the node but the kubelet. Sizes
//! are written down and not enforced. To the rest of the cluster it is what upstream calls an external provisioner,
//! with the events of sig-storage-lib-external-provisioner.

mod class;
mod node;
mod provision;
mod release;

use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim};
use knarr_api::storage::v1::StorageClass;
use knarr_api::volume::{PROVISIONED_BY, STORAGE_PROVISIONER, annotation};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{Client, Error, Informer, Recorder, WorkQueue};
use std::sync::Arc;

/// Name of the provisioner in classes.
pub const PROVISIONER: &str = "knarr.io/local-path";
/// Holds a volume until its directory is gone.
const FINALIZER: &str = "knarr.io/local-path";
/// On a volume: the node that has its directory.
const ON_NODE: &str = "knarr.io/provisioned-on";

struct LocalPath {
    client: Client,
    recorder: Recorder,
    claims: Informer<PersistentVolumeClaim>,
    volumes: Informer<PersistentVolume>,
    classes: Informer<StorageClass>,
    nodes: Informer<Node>,
}

/// Starts the controller, unless the configuration leaves local paths out.
pub fn start(start: Start) {
    if !start.config.local_path {
        return;
    }
    let informers = &start.informers;
    let controller = Arc::new(LocalPath {
        recorder: Recorder::new(start.client.clone(), PROVISIONER, ""),
        client: start.client.clone(),
        claims: informers.get(),
        volumes: informers.get(),
        classes: informers.get(),
        nodes: informers.get(),
    });
    let queue = WorkQueue::new(start.ctx.clone());
    let on_claim = queue.clone();
    controller.claims.on_change(move |change: &Change<PersistentVolumeClaim>| {
        if change
            .new
            .as_ref()
            .is_some_and(|c| annotation(&c.metadata, STORAGE_PROVISIONER) == Some(PROVISIONER))
        {
            on_claim.add(Key::of(&change.object().metadata));
        }
    });
    let on_volume = queue.clone();
    controller.volumes.on_change(move |change: &Change<PersistentVolume>| {
        if change.new.as_ref().is_some_and(|v| annotation(&v.metadata, PROVISIONED_BY) == Some(PROVISIONER)) {
            on_volume.add(Key::of(&change.object().metadata));
        }
    });
    let ready = {
        let c = controller.clone();
        async move {
            c.claims.synced().await;
            c.volumes.synced().await;
            c.classes.synced().await;
            c.nodes.synced().await;
            c.make_class().await;
        }
    };
    run(&start, "local-path-provisioner", 4, queue, ready, controller);
}

impl Reconcile for LocalPath {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            if key.namespace.is_empty() {
                if let Some(volume) = self.volumes.get_key(key) {
                    self.sync_volume(&volume).await?;
                }
            } else if let Some(claim) = self.claims.get_key(key) {
                self.sync_claim(&claim).await?;
            }
            Ok(Next::Done)
        })
    }
}
