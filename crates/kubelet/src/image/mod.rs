//! Images for pods: pull policies, credentials, turns at pulling, and who may use what is here, with events in the
//! words of upstream's image manager. Back-off is the pod worker's.

mod keyring;
mod provider;
mod records;

pub use provider::CredentialProviders;
pub(crate) use records::Records;

use crate::kubelet::Shared;
use crate::objects::What;
use crate::pod::start::Failure;
use crate::util::{about, go_duration};
use keyring::Keyring;
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_client::ObjectRef;
use knarr_image::{Auth, Image, PullError, Reference};
use records::Source;
use std::sync::Arc;

/// The image that a pod asks for, pulled if the policy or its credentials need it. `about` is what events are about.
pub(crate) async fn ensure(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    about: &ObjectRef,
    name: &str,
    policy: &str,
) -> Result<Image, Failure> {
    let recorder = &kubelet.recorder;
    let parsed = match Reference::parse(name) {
        Ok(parsed) => parsed,
        Err(error) => {
            let message = format!(
                "Failed to apply default image tag \"{name}\": couldn't parse image name \"{name}\": {error}"
            );
            recorder.warning(about, "InspectFailed", message.clone());
            return Err(Failure::Before("InvalidImageName", message));
        }
    };
    let default = if parsed.is_latest() { "Always" } else { "IfNotPresent" };
    let policy = if policy.is_empty() { default } else { policy };
    let mut present = kubelet.config.images.resolve(name);
    // What has no registry cannot be pulled: having it is as good as having pulled it.
    if policy == "Always" && !parsed.is_local() {
        return pull(kubelet, pod, about, name, &parsed, None).await;
    }
    let repository = parsed.repository();
    let mut found = None;
    // What came without credentials is what most ask for, and needs none looked up.
    if let Some(image) = &present
        && kubelet.pulls.must_ask(&image.id, &repository, &[])
    {
        let shown = credentials(kubelet, pod, &parsed).await;
        let sources: Vec<_> = shown.iter().filter_map(|(source, _)| source.clone()).collect();
        if kubelet.pulls.must_ask(&image.id, &repository, &sources) {
            present = None;
        }
        found = Some(shown);
    }
    match (policy, present) {
        (_, Some(image)) => {
            let message = format!(
                "Container image \"{name}\" already present on machine and can be accessed by the pod"
            );
            recorder.normal(about, "Pulled", message);
            Ok(image)
        }
        ("Never", None) => {
            let message = format!("Container image \"{name}\" is not present with pull policy of Never");
            recorder.warning(about, "ErrImageNeverPull", message.clone());
            Err(Failure::Before("ErrImageNeverPull", message))
        }
        _ => pull(kubelet, pod, about, name, &parsed, found).await,
    }
}

async fn pull(
    kubelet: &Arc<Shared>,
    pod: &Pod,
    about: &ObjectRef,
    name: &str,
    parsed: &Reference,
    found: Option<Vec<(Option<Source>, Auth)>>,
) -> Result<Image, Failure> {
    let recorder = &kubelet.recorder;
    let found = match found {
        Some(found) => found,
        None => credentials(kubelet, pod, parsed).await,
    };
    recorder.normal(about, "Pulling", format!("Pulling image \"{name}\""));
    let clock = &kubelet.ctx.clock;
    let asked = clock.instant();
    let intent = kubelet.pulls.intend(&parsed.to_string());
    let turn = kubelet.config.images.turn().await;
    let began = clock.instant();
    let pulled = pull_with(kubelet, name, found).await;
    drop(turn);
    match pulled {
        Ok((image, source)) => {
            kubelet.pulls.pulled(&image.id, &parsed.repository(), source);
            drop(intent);
            kubelet.node_changed.notify_one();
            let now = clock.instant();
            let message = format!(
                "Successfully pulled image \"{name}\" in {} ({} including waiting). Image size: {} bytes.",
                go_duration(now - began),
                go_duration(now - asked),
                image.size_bytes
            );
            recorder.normal(about, "Pulled", message);
            Ok(image)
        }
        Err(message) => {
            recorder.warning(about, "Failed", format!("Failed to pull image \"{name}\": {message}"));
            Err(Failure::Pull { image: name.to_owned(), message })
        }
    }
}

/// Pulls with the first credentials that the registry takes, or without any if there are none. What went wrong with
/// each is in the error, each text once, as upstream aggregates errors.
async fn pull_with(
    kubelet: &Shared,
    name: &str,
    found: Vec<(Option<Source>, Auth)>,
) -> Result<(Image, Option<Source>), String> {
    let images = &kubelet.config.images;
    let text = |error: PullError| format!("rpc error: code = {} desc = {error}", error.code());
    if found.is_empty() {
        return images.pull(name, None, knarr_image::silent()).await.map(|i| (i, None)).map_err(text);
    }
    let mut messages: Vec<String> = Vec::new();
    for (source, auth) in found {
        match images.pull(name, Some(auth), knarr_image::silent()).await {
            Ok(image) => return Ok((image, source)),
            Err(error) => {
                let message = text(error);
                if !messages.contains(&message) {
                    messages.push(message);
                }
            }
        }
    }
    Err(match &messages[..] {
        [only] => only.clone(),
        _ => format!("[{}]", messages.join(", ")),
    })
}

/// The credentials for a repository among the pod's image pull secrets, the most specific first; after them what providers
/// of the node give, which every pod may use.
async fn credentials(kubelet: &Arc<Shared>, pod: &Pod, reference: &Reference) -> Vec<(Option<Source>, Auth)> {
    let mut keyring = Keyring::default();
    for secret in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
        let data = kubelet.objects.get(What::Secret, pod.namespace(), &secret.name, pod.uid()).await;
        let Ok(Some(data)) = data else {
            let message = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                secret.name
            );
            kubelet.recorder.warning(&about(pod, None), "FailedToRetrieveImagePullSecret", message);
            continue;
        };
        let source = |auth: &Auth| Source::new(&data.uid, pod.namespace(), &secret.name, auth);
        keyring.add(&data.data, source);
    }
    let (domain, path) = (&reference.domain, &reference.path);
    let own = kubelet.config.credential_providers.lookup(&kubelet.ctx.clock, domain, path).await;
    let mut found = keyring.lookup(domain, path);
    found.extend(own.into_iter().map(|auth| (None, auth)));
    found
}
