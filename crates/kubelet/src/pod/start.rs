//! Starting one container: image, spec, create, start, postStart; and what went wrong, in upstream's words.

use super::worker::Msg;
use crate::container::image_volume;
use crate::container::spec::{self, Making};
use crate::image::ensure;
use crate::kubelet::{Entry, Shared};
use crate::pod::sizes::Size;
use crate::util::{Def, about};
use crate::volume::Prepared;
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_image::Image;
use knarr_runtime::RuntimeError;
use knarr_runtime::spec::User;
use std::net::IpAddr;
use std::sync::Arc;

/// A container to start.
pub(crate) struct Start {
    pub(crate) pod: Arc<Pod>,
    pub(crate) def: Def,
    pub(crate) id: String,
    pub(crate) attempt: u32,
    /// The run before it, to be forgotten by the runtime.
    pub(crate) previous: Option<String>,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) volumes: Arc<Prepared>,
    /// The target of an ephemeral container: its identifier, or a message when it does not run.
    pub(crate) target: Result<Option<String>, String>,
}

/// Why a container did not start.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Nothing was created: reason and message.
    Before(&'static str, String),
    /// An image cannot be had; a back-off follows.
    Pull { image: String, message: String },
    /// It was created from this image, but its process could not be started.
    Run { image: String, image_id: String, user: Option<User>, message: String },
}

impl Failure {
    /// As a waiting container's reason.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Before(reason, _) => reason,
            Self::Pull { .. } => "ErrImagePull",
            Self::Run { .. } => "RunContainerError",
        }
    }
}

/// As whom a container that could not be started would have run, if that was found out.
fn user_of(kubelet: &Shared, pod: &Pod, id: &str) -> Option<User> {
    let known = kubelet.config.runtime.sandbox(pod.uid())?.containers;
    known.into_iter().find(|container| container.id == id)?.user
}

/// What a started container is.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) started_at_ns: i64,
    pub(crate) image: String,
    pub(crate) image_id: String,
    pub(crate) user: Option<User>,
    /// The size it was started with.
    pub(crate) size: Size,
}

/// Starts the container and tells the worker, first that it runs and then that its postStart hook is done.
pub(crate) async fn run(kubelet: Arc<Shared>, entry: Arc<Entry>, start: Start) {
    let result = start_container(&kubelet, &start).await;
    let ok = result.is_ok();
    let name = start.def.spec.name.clone();
    entry.send(Msg::StartDone { name: name.clone(), id: start.id.clone(), attempt: start.attempt, result });
    if !ok {
        let _ = kubelet.config.images.release(&start.id);
        return;
    }
    let hook = start.def.spec.lifecycle.as_ref().and_then(|l| l.post_start.clone());
    let Some(hook) = hook else { return };
    let result =
        crate::probe::hook::run(&kubelet, &start.pod, &start.def, &start.id, &start.ips, &hook).await;
    if result.is_err() {
        // What the hook said may be secret, so the event does not tell.
        let about = about(&start.pod, Some(&start.def));
        kubelet.recorder.warning(&about, "FailedPostStartHook", "PostStartHook failed");
    }
    entry.send(Msg::HookDone { name, id: start.id, result });
}

async fn start_container(kubelet: &Arc<Shared>, start: &Start) -> Result<Started, Failure> {
    let Start { pod, def, id, .. } = start;
    let recorder = &kubelet.recorder;
    let about = about(pod, Some(def));
    image_volumes(kubelet, start).await?;
    let image = ensure_image(kubelet, start).await?;
    let failed = |failure: Failure| {
        let message = match &failure {
            Failure::Before(_, message) | Failure::Pull { message, .. } | Failure::Run { message, .. } => {
                message
            }
        };
        recorder.warning(&about, "Failed", format!("Error: {message}"));
        failure
    };
    let target = start.target.as_ref();
    let target =
        target.map_err(|m| failed(Failure::Before("CreateContainerConfigError", m.clone())))?.as_deref();
    let making = Making {
        pod,
        def,
        id,
        attempt: start.attempt,
        image: &image,
        ips: &start.ips,
        volumes: &start.volumes,
        target,
    };
    let built = spec::build(kubelet, &making).await;
    let built = built.map_err(|(reason, message)| failed(Failure::Before(reason, message)))?;
    let runtime = &kubelet.config.runtime;
    if let Some(previous) = &start.previous {
        if let Err(error) = runtime.remove_container(pod.uid(), previous).await {
            tracing::debug!(%error, container = previous, "cannot forget the previous run");
        }
        let _ = kubelet.config.images.release(previous);
    }
    forget_old_logs(kubelet, start);
    let create_error = |e: RuntimeError| Failure::Before("CreateContainerError", e.to_string());
    runtime.create_container(pod.uid(), built).await.map_err(|e| failed(create_error(e)))?;
    recorder.normal(&about, "Created", "Container created");
    match runtime.start_container(pod.uid(), id).await {
        Ok(status) => {
            recorder.normal(&about, "Started", "Container started");
            Ok(Started {
                started_at_ns: status.started_at_ns,
                image: spec::shown_image(&image, def),
                image_id: spec::shown_image_id(&image),
                user: status.user,
                size: Size::of(def.spec.resources.as_ref()),
            })
        }
        Err(error @ RuntimeError::MustNotBeRoot) => {
            let _ = runtime.remove_container(pod.uid(), id).await;
            let message =
                format!("{error} (pod: \"{}\", container: {})", crate::util::format_pod(pod), def.spec.name);
            Err(failed(Failure::Before("CreateContainerConfigError", message)))
        }
        Err(error) => Err(failed(Failure::Run {
            image: spec::shown_image(&image, def),
            image_id: spec::shown_image_id(&image),
            user: user_of(kubelet, pod, id),
            message: error.to_string(),
        })),
    }
}

/// Logs of the run before the previous one go.
fn forget_old_logs(kubelet: &Shared, start: &Start) {
    let Some(old) = start.attempt.checked_sub(2) else { return };
    let dir = spec::log_dir(&kubelet.config.log_dir, &start.pod, &start.def.spec.name);
    let prefix = format!("{old}.log");
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

async fn ensure_image(kubelet: &Arc<Shared>, start: &Start) -> Result<Image, Failure> {
    let Start { pod, def, .. } = start;
    let about = about(pod, Some(def));
    let name = def.spec.image.as_deref().unwrap_or_default();
    let policy = def.spec.image_pull_policy.as_deref().unwrap_or_default();
    let image = ensure(kubelet, pod, &about, name, policy).await;
    image.inspect_err(|failure| {
        kubelet.recorder.warning(&about, "Failed", format!("Error: {}", failure.reason()));
    })
}

/// Pulls and mounts the images that the container has as volumes. Their events are the pod's.
async fn image_volumes(kubelet: &Arc<Shared>, start: &Start) -> Result<(), Failure> {
    let Start { pod, def, .. } = start;
    let volumes: Vec<_> = pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()).collect();
    for wanted in def.spec.volume_mounts.iter().flatten() {
        let volume = volumes.iter().find(|v| v.name == wanted.name);
        let Some(source) = volume.and_then(|v| v.image.as_ref()) else { continue };
        kubelet.metrics.image_volumes_requested.inc();
        let name = source.reference.as_deref().unwrap_or_default();
        let policy = source.pull_policy.as_deref().unwrap_or_default();
        let mounted = async {
            let image = ensure(kubelet, pod, &about(pod, None), name, policy).await?;
            let mounted = image_volume::mount(kubelet, pod, &wanted.name, &image).await;
            match mounted {
                Ok(()) => drop(kubelet.metrics.image_volumes_mounted.inc()),
                Err(_) => drop(kubelet.metrics.image_volumes_failed.inc()),
            }
            mounted.map_err(|message| Failure::Before("CreateContainerError", message))
        };
        mounted.await.inspect_err(|failure: &Failure| {
            kubelet.recorder.warning(
                &about(pod, Some(def)),
                "Failed",
                format!("Error: {}", failure.reason()),
            );
        })?;
    }
    Ok(())
}
