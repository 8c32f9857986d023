//! Sends a pod's status to the API in order, the latest only, and its deletion after that.

use super::static_pods::is_static;
use crate::kubelet::Shared;
use knarr_api::Kind;
use knarr_api::core::v1::Pod;
use knarr_base::Backoff;
use knarr_base::clock::timeout;
use knarr_client::{DeleteOptions, Error, Patch};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// A status that is about to be out of date waits this long for its successor: what takes longer than a start
/// does (a pull, say) is told, what does not costs no write.
const PATIENCE: Duration = Duration::from_millis(100);
/// The same for a container that is being started anew by the kubelet's own wish: upstream's kubelet, which looks at
/// containers once a second, mostly does not notice that one was gone.
const RESTART_PATIENCE: Duration = Duration::from_secs(1);

enum Out {
    /// A status, and how long it may wait.
    Status(Value, Option<Duration>),
    Delete,
}

/// A pod's way to the API.
pub(super) struct Outbox(mpsc::UnboundedSender<Out>);

impl Outbox {
    /// Starts sending for a pod; ends when the outbox is dropped.
    pub(super) fn start(kubelet: &Arc<Shared>, pod: &Pod) -> Self {
        let (send, receive) = mpsc::unbounded_channel();
        let (namespace, name, uid) =
            (pod.namespace().to_owned(), pod.name().to_owned(), pod.uid().to_owned());
        let mirrored = is_static(pod);
        let sender = Sender { kubelet: kubelet.clone(), namespace, name, uid, mirrored };
        kubelet.ctx.tasks.spawn_until_stopped("pod-status", sender.run(receive));
        Self(send)
    }

    /// `restarting`: a container was ended to be started anew, and that is not done yet.
    pub(super) fn status(&self, status: Value, restarting: bool) {
        let patience = match restarting {
            true => Some(RESTART_PATIENCE),
            false => Some(PATIENCE).filter(|_| is_passing(&status)),
        };
        let _ = self.0.send(Out::Status(status, patience));
    }

    pub(super) fn delete(&self) {
        let _ = self.0.send(Out::Delete);
    }
}

/// Whether the status says no more than that the pod is being made.
fn is_passing(status: &Value) -> bool {
    let lists = ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"];
    let mut containers = lists.iter().flat_map(|list| status[*list].as_array().into_iter().flatten());
    status["phase"] == "Pending"
        && containers.all(|c| {
            let reason = c["state"]["waiting"]["reason"].as_str();
            matches!(reason, Some("ContainerCreating" | "PodInitializing")) && c["restartCount"] == 0
        })
}

/// Puts a status in the place of one that was not sent. What that one would have deleted is still to be deleted.
fn supersede(held: &mut Option<Value>, mut new: Value) {
    let old = held.take().unwrap_or_default();
    if let Some(conditions) = new.get_mut("conditions").and_then(Value::as_array_mut) {
        for gone in old["conditions"].as_array().into_iter().flatten().filter(|c| c["$patch"] == "delete") {
            if !conditions.iter().any(|c| c["type"] == gone["type"]) {
                conditions.push(gone.clone());
            }
        }
    }
    *held = Some(new);
}

/// Waits for a status that says more; passing ones replace what is held. Whether the deletion came instead.
async fn successor(receive: &mut mpsc::UnboundedReceiver<Out>, held: &mut Option<Value>) -> bool {
    loop {
        match receive.recv().await {
            Some(Out::Status(new, patience)) => {
                supersede(held, new);
                if patience.is_none() {
                    return false;
                }
            }
            Some(Out::Delete) => return true,
            None => return false,
        }
    }
}

struct Sender {
    kubelet: Arc<Shared>,
    namespace: String,
    name: String,
    uid: String,
    /// The API knows the pod by its mirror.
    mirrored: bool,
}

impl Sender {
    async fn run(self, mut receive: mpsc::UnboundedReceiver<Out>) {
        let (mut status, mut delete) = (None, false);
        let mut backoff = Backoff::new(Duration::from_millis(50), 2.0, Duration::from_secs(10));
        loop {
            let next =
                if status.is_none() && !delete { receive.recv().await } else { receive.try_recv().ok() };
            match next {
                Some(Out::Status(new, patience)) => {
                    supersede(&mut status, new);
                    if let Some(patience) = patience.filter(|_| !delete) {
                        let next =
                            timeout(&*self.kubelet.ctx.clock, patience, successor(&mut receive, &mut status));
                        delete = next.await == Some(true);
                    }
                    continue;
                }
                Some(Out::Delete) => {
                    delete = true;
                    continue;
                }
                None if status.is_none() && !delete => return,
                None => {}
            }
            let result = match &status {
                Some(new) => self.patch(new).await,
                None => self.delete().await,
            };
            match result {
                Ok(()) if status.is_some() => status = None,
                Ok(()) => delete = false,
                // Another pod has the name now, or none: there is nobody to report on.
                Err(error) if error.is_not_found() || error.is_conflict() => {
                    status = None;
                    delete = false;
                }
                Err(error) if matches!(error.code(), 400 | 422) => {
                    tracing::error!(pod = self.name, %error, "the API refuses the pod's status");
                    status = None;
                }
                Err(error) => {
                    tracing::debug!(pod = self.name, %error, "cannot report the pod's status yet");
                    self.kubelet.ctx.clock.sleep(backoff.step()).await;
                    continue;
                }
            }
            backoff.reset();
        }
    }

    async fn patch(&self, status: &Value) -> Result<(), Error> {
        let uid = match self.mirrored {
            false => Some(self.uid.clone()),
            true => self.kubelet.mirrors.of(&self.namespace, &self.name, &self.uid),
        };
        // A mirror that is made later is told everything then.
        let Some(uid) = uid else { return Ok(()) };
        // The UID makes sure that it is this pod, not a successor of the same name.
        let patch = Patch::Strategic(json!({ "metadata": { "uid": uid }, "status": status }));
        let path = knarr_client::ResourcePath::of::<Pod>();
        self.kubelet.client.patch_raw(&path, &self.namespace, &self.name, "status", &patch).await.map(drop)
    }

    async fn delete(&self) -> Result<(), Error> {
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            uid: Some(self.uid.clone()),
            ..Default::default()
        };
        self.kubelet.client.delete::<Pod>(&self.namespace, &self.name, &options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pod_that_is_being_made_may_wait() {
        let status = |phase: &str, state: Value| json!({ "phase": phase, "containerStatuses": [{ "restartCount": 0, "state": state }] });
        let waiting = |reason: &str| json!({ "waiting": { "reason": reason } });
        assert!(is_passing(&status("Pending", waiting("ContainerCreating"))));
        assert!(!is_passing(&status("Pending", waiting("ErrImagePull"))));
        assert!(!is_passing(&status("Pending", json!({ "running": {} }))));
        assert!(!is_passing(&status("Running", waiting("ContainerCreating"))));
    }

    #[test]
    fn a_deletion_outlives_the_status_that_told_of_it() {
        let gone = json!({ "type": "A", "$patch": "delete" });
        let mut held = Some(json!({ "conditions": [gone] }));
        supersede(&mut held, json!({ "conditions": [{ "type": "B" }] }));
        assert_eq!(held, Some(json!({ "conditions": [{ "type": "B" }, gone] })));
        supersede(&mut held, json!({ "conditions": [{ "type": "A", "status": "True" }] }));
        assert_eq!(held, Some(json!({ "conditions": [{ "type": "A", "status": "True" }] })));
    }

    #[tokio::test]
    async fn what_comes_meanwhile_replaces_what_waits() {
        let (send, mut receive) = mpsc::unbounded_channel();
        for (text, passing) in [("b", true), ("c", false), ("d", false)] {
            send.send(Out::Status(text.into(), Some(PATIENCE).filter(|_| passing)))
                .unwrap_or_else(|_| panic!("it is open"));
        }
        let mut held = Some("a".into());
        assert!(!successor(&mut receive, &mut held).await);
        assert_eq!(held, Some("c".into()));
        send.send(Out::Delete).unwrap_or_else(|_| panic!("it is open"));
        assert!(!successor(&mut receive, &mut held).await, "d comes first");
        assert!(successor(&mut receive, &mut held).await);
    }
}
