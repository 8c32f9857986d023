//! Creating and deleting pods for an owner, with the events that go with it.

use futures_util::future::join_all;
use knarr_api::Kind;
use knarr_api::core::v1::{Pod, PodTemplateSpec};
use knarr_api::meta::v1::{ObjectMeta, OwnerReference};
use knarr_client::recorder::{ObjectRef, reference};
use knarr_client::{Client, DeleteOptions, Error, Recorder};

/// The reference by which `owner` controls what it makes.
pub fn controller_ref<K: Kind>(owner: &K) -> OwnerReference {
    let meta = owner.meta();
    OwnerReference {
        api_version: K::API_VERSION.to_owned(),
        kind: K::KIND.to_owned(),
        name: meta.name.clone().unwrap_or_default(),
        uid: meta.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: Some(true),
    }
}

/// The reference by which the object is controlled.
pub fn controller_of(meta: &ObjectMeta) -> Option<&OwnerReference> {
    meta.owner_references.as_ref()?.iter().find(|o| o.controller == Some(true))
}

/// A pod of `template`, named after its owner.
pub fn pod_from(template: &PodTemplateSpec, namespace: &str, owner: OwnerReference) -> Pod {
    let template_meta = template.metadata.clone().unwrap_or_default();
    Pod {
        metadata: ObjectMeta {
            generate_name: Some(format!("{}-", owner.name)),
            namespace: Some(namespace.to_owned()),
            labels: template_meta.labels,
            annotations: template_meta.annotations,
            finalizers: template_meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Makes and deletes pods, and says so.
pub struct PodControl {
    client: Client,
    recorder: Recorder,
}

impl PodControl {
    /// Acts through `client`.
    pub fn new(client: Client, recorder: Recorder) -> Self {
        Self { client, recorder }
    }

    /// Creates a pod; a refusal becomes an event of the owner.
    pub async fn create(&self, owner: &ObjectRef, pod: &Pod) -> Result<Pod, Error> {
        match self.client.create(pod).await {
            Ok(made) => {
                self.recorder.normal(owner, "SuccessfulCreate", format!("Created pod: {}", made.name()));
                Ok(made)
            }
            Err(error) => {
                // A namespace on its way out refuses everything; nobody needs to be told.
                if !super::namespace_goes(&error) {
                    self.recorder.warning(owner, "FailedCreate", format!("Error creating: {error}"));
                }
                Err(error)
            }
        }
    }

    /// Creates `count` pods: one, then two, then four and so on, until one fails, so that a refusal (a quota, say)
    /// is not met a thousand times. Returns how many were not tried or failed, and the first failure.
    pub async fn create_batch(
        &self,
        owner: &ObjectRef,
        count: usize,
        pod: impl Fn(usize) -> Pod,
    ) -> (usize, Option<Error>) {
        let (mut made, mut batch) = (0, 1);
        while made < count {
            let size = batch.min(count - made);
            let pods: Vec<Pod> = (made..made + size).map(&pod).collect();
            let results = join_all(pods.iter().map(|p| self.create(owner, p))).await;
            let succeeded = results.iter().filter(|r| r.is_ok()).count();
            made += succeeded;
            if let Some(error) = results.into_iter().find_map(Result::err) {
                return (count - made, Some(error));
            }
            batch *= 2;
        }
        (0, None)
    }

    /// Deletes a pod, if it is still the one that is meant.
    pub async fn delete(&self, owner: &ObjectRef, pod: &Pod) -> Result<(), Error> {
        let options = DeleteOptions { uid: pod.metadata.uid.clone(), ..DeleteOptions::default() };
        match self.client.delete::<Pod>(pod.namespace(), pod.name(), &options).await {
            Ok(()) => {
                self.recorder.normal(owner, "SuccessfulDelete", format!("Deleted pod: {}", pod.name()));
                Ok(())
            }
            Err(error) => {
                if !error.is_not_found() {
                    self.recorder.warning(owner, "FailedDelete", format!("Error deleting: {error}"));
                }
                Err(error)
            }
        }
    }
}

/// What an event of `owner` is about.
pub fn about<K: Kind>(owner: &K) -> ObjectRef {
    reference(owner)
}
