//! ephemeral-volume: the claims of generic ephemeral volumes (KEP-1698), which belong to their pod and go with it.

use crate::framework::pod_control::controller_ref;
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::Kind;
use knarr_api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use knarr_api::meta::v1::ObjectMeta;
use knarr_api::volume::{claim_name, is_for_pod};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::recorder::reference;
use knarr_client::{Client, Error, Informer, Recorder, WorkQueue};
use std::sync::Arc;

struct Ephemeral {
    client: Client,
    recorder: Recorder,
    pods: Informer<Pod>,
    claims: Informer<PersistentVolumeClaim>,
}

/// Starts the controller.
pub fn start(start: Start) {
    let (pods, claims) = (start.informers.get::<Pod>(), start.informers.get::<PersistentVolumeClaim>());
    let queue = WorkQueue::new(start.ctx.clone());
    let on_pod = queue.clone();
    pods.on_change(move |change: &Change<Pod>| {
        if change.old.is_none() && ephemeral(change.object()).next().is_some() {
            on_pod.add(Key::of(&change.object().metadata));
        }
    });
    // One that was deleted is made again while its pod lives.
    let on_claim = queue.clone();
    claims.on_change(move |change: &Change<PersistentVolumeClaim>| {
        let owners = change.object().metadata.owner_references.iter().flatten();
        if change.new.is_none() {
            let pods = owners.filter(|o| o.controller == Some(true) && o.kind == "Pod");
            pods.for_each(|o| on_claim.add(Key::new(change.object().namespace(), &o.name)));
        }
    });
    let controller = Arc::new(Ephemeral {
        recorder: Recorder::new(start.client.clone(), "ephemeral_volume", ""),
        client: start.client.clone(),
        pods,
        claims,
    });
    let ready = {
        let c = controller.clone();
        async move {
            c.pods.synced().await;
            c.claims.synced().await;
        }
    };
    run(&start, "ephemeral-volume", 2, queue, ready, controller);
}

fn ephemeral(pod: &Pod) -> impl Iterator<Item = &Volume> {
    pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).filter(|v| v.ephemeral.is_some())
}

impl Ephemeral {
    async fn make(&self, pod: &Pod, volume: &Volume) -> Result<(), String> {
        let Some(name) = claim_name(pod, volume) else { return Ok(()) };
        if let Some(held) = self.claims.get(pod.namespace(), &name) {
            return is_for_pod(pod, &held);
        }
        let Some(template) = volume.ephemeral.as_ref().and_then(|e| e.volume_claim_template.as_ref()) else {
            return Ok(());
        };
        let meta = template.metadata.clone().unwrap_or_default();
        let claim = PersistentVolumeClaim {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: pod.metadata.namespace.clone(),
                labels: meta.labels,
                annotations: meta.annotations,
                owner_references: Some(vec![controller_ref(pod)]),
                ..ObjectMeta::default()
            },
            spec: Some(template.spec.clone()),
            status: None,
        };
        match self.client.create(&claim).await {
            Ok(_) => Ok(()),
            // The copy was behind; whose it is shows in the next round.
            Err(error) if error.is_conflict() => {
                let live = self.client.get_opt::<PersistentVolumeClaim>(pod.namespace(), &name).await;
                match live.map_err(|e| e.to_string())? {
                    Some(held) => is_for_pod(pod, &held),
                    None => Err(format!("create PVC {name}: {error}")),
                }
            }
            Err(error) => Err(format!("create PVC {name}: {error}")),
        }
    }
}

impl Reconcile for Ephemeral {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(pod) = self.pods.get_key(key) else { return Ok(Next::Done) };
            if pod.metadata.deletion_timestamp.is_some() {
                return Ok(Next::Done);
            }
            for volume in ephemeral(&pod) {
                if let Err(why) = self.make(&pod, volume).await {
                    let message = format!("ephemeral volume {}: {why}", volume.name);
                    self.recorder.warning(&reference(&*pod), "FailedBinding", message.clone());
                    return Err(Error::Protocol(message));
                }
            }
            Ok(Next::Done)
        })
    }
}
