//! The socket's serving side.

use super::{Answer, ImageRequest, Request, Status, descriptor, images};
use anyhow::{Context, Result};
use knarr_base::Ctx;
use knarr_image::ImageStore;
use knarr_store::embedded::{Engine, snapshot};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};

/// A request is this long at most.
const LONGEST_REQUEST: usize = 64 * 1024;

/// What the socket answers from.
pub struct Served {
    /// How the cluster is.
    pub status: Box<dyn Fn() -> Status + Send + Sync>,
    /// The image store; `None` without a node.
    pub images: Option<Arc<ImageStore>>,
    /// The embedded store; `None` on etcd.
    pub engine: Option<Engine>,
    /// Raised when somebody asks to stop.
    pub stop: watch::Sender<bool>,
    /// Raised once the cluster has stopped.
    pub stopped: watch::Receiver<bool>,
}

/// Listens at `path` in the task scope of `ctx`.
pub fn start(ctx: &Ctx, path: &Path, served: Served) -> Result<()> {
    let _ = std::fs::remove_file(path); // of a process that is gone: the data directory is ours
    let listener =
        UnixListener::bind(path).with_context(|| format!("cannot listen at {}", path.display()))?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    let (tasks, served) = (ctx.tasks.clone(), Arc::new(served));
    ctx.tasks.spawn_until_stopped("socket", async move {
        while let Ok((stream, _)) = listener.accept().await {
            let served = served.clone();
            tasks.spawn("socket request", async move {
                if let Err(error) = serve(stream, &served).await {
                    tracing::debug!(%error, "a local request broke off");
                }
            });
        }
    });
    Ok(())
}

async fn serve(stream: UnixStream, served: &Served) -> Result<()> {
    let (text, file) = descriptor::receive(&stream, LONGEST_REQUEST).await?;
    let mut stream = stream;
    let (send, mut receive) = mpsc::unbounded_channel();
    let work = async {
        let last = match serde_json::from_slice(&text) {
            Ok(request) => match carry_out(request, file, served, &send).await {
                Ok(()) => Answer::Done,
                Err(error) => Answer::Failed(format!("{error:#}")),
            },
            Err(error) => Answer::Failed(format!("not a request: {error}")),
        };
        let _ = send.send(last);
        drop(send);
    };
    let answer = async {
        while let Some(answer) = receive.recv().await {
            let last = matches!(answer, Answer::Done | Answer::Failed(_));
            let mut line = serde_json::to_string(&answer)?;
            line.push('\n');
            stream.write_all(line.as_bytes()).await?;
            if last {
                break;
            }
        }
        Ok::<(), anyhow::Error>(())
    };
    tokio::join!(work, answer).1
}

async fn carry_out(
    request: Request,
    file: Option<OwnedFd>,
    served: &Served,
    send: &mpsc::UnboundedSender<Answer>,
) -> Result<()> {
    match request {
        Request::Status => {
            let _ = send.send(Answer::Status((served.status)()));
            Ok(())
        }
        Request::Stop => {
            served.stop.send_replace(true);
            let mut stopped = served.stopped.clone();
            let _ = stopped.wait_for(|done| *done).await;
            Ok(())
        }
        Request::Image(request) => image(request, file, served, send).await,
        Request::SaveSnapshot { file } => {
            let engine = served.engine.clone();
            let engine =
                engine.context("the cluster's data are in etcd: save a snapshot there, with etcdctl")?;
            let saved = tokio::task::spawn_blocking(move || snapshot::save(&engine, &file)).await?;
            for line in crate::commands::snapshot::lines(&saved?) {
                let _ = send.send(Answer::Line(line));
            }
            Ok(())
        }
    }
}

async fn image(
    request: ImageRequest,
    file: Option<OwnedFd>,
    served: &Served,
    send: &mpsc::UnboundedSender<Answer>,
) -> Result<()> {
    let store =
        served.images.as_ref().context("this cluster has no node on this machine, and so no images")?;
    let send = send.clone();
    images::serve(store, request, file.map(File::from), move |answer| drop(send.send(answer))).await
}
