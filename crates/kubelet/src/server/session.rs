//! Exec and attach.

use super::remote::{self, Channel, Remote, Wants};
use super::{Query, text, upgrade};
use crate::kubelet::{Entry, Shared};
use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use knarr_api::Kind as _;
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use knarr_client::Body;
use knarr_runtime::spec::ExecSpec;
use knarr_runtime::{RuntimeError, Session};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Output that a background process holds open is waited for this long after the command has ended.
const DRAIN_LIMIT: Duration = Duration::from_secs(2);
const PIECE: usize = 32 << 10;
/// Output of a command that `/run` passes on, of each stream.
const RUN_LIMIT_BYTES: u64 = 16 << 20;

/// The container that a path names.
#[derive(Clone, Copy)]
pub(super) struct Place<'a> {
    namespace: &'a str,
    pod: &'a str,
    uid: Option<&'a str>,
    container: &'a str,
}

impl<'a> Place<'a> {
    /// Reads `NAMESPACE/POD[/UID]/CONTAINER`.
    pub(super) fn read(segments: &[&'a str]) -> Option<Self> {
        match *segments {
            [namespace, pod, container] => Some(Self { namespace, pod, uid: None, container }),
            [namespace, pod, uid, container] => Some(Self { namespace, pod, uid: Some(uid), container }),
            _ => None,
        }
    }
}

struct Target {
    uid: String,
    id: String,
}

/// The running container of a name.
fn target(kubelet: &Shared, of: Place<'_>) -> Result<Target, Box<Response<Body>>> {
    let Place { namespace, pod, uid, container } = of;
    let refuse = |status, message: String| Box::new(text(status, message));
    let entry: Option<Arc<Entry>> = match uid {
        Some(uid) => kubelet.entry(uid),
        None => kubelet.by_name(namespace, pod),
    };
    let Some(entry) = entry else {
        return Err(refuse(StatusCode::NOT_FOUND, "pod does not exist".to_owned()));
    };
    let view = entry.view();
    match view.containers.get(container).filter(|c| c.running) {
        Some(found) => Ok(Target { uid: view.pod.uid().to_owned(), id: found.id.clone() }),
        None => {
            Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, format!("container not found (\"{container}\")")))
        }
    }
}

fn wants(query: &Query) -> Wants {
    let tty = query.is_set("tty");
    Wants {
        stdin: query.is_set("input"),
        stdout: query.is_set("output"),
        stderr: query.is_set("error") && !tty,
        tty,
    }
}

/// Which session a client asks for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// `/exec`: with a command of its own.
    Exec,
    /// `/attach`: with the container's process.
    Attach,
}

/// `/exec` and `/attach`.
pub(super) async fn open(
    kind: Kind,
    kubelet: &Arc<Shared>,
    request: Request<Incoming>,
    of: Place<'_>,
    query: &Query,
) -> Response<Body> {
    let target = match target(kubelet, of) {
        Ok(target) => target,
        Err(refusal) => return *refusal,
    };
    let wants = wants(query);
    let args = query.all("command");
    let (response, upgrade, wanted) = match upgrade::accept(request, &remote::SPDY, &remote::WEBSOCKET) {
        Ok(accepted) => accepted,
        Err(refusal) => return *refusal,
    };
    let kubelet = kubelet.clone();
    let tasks = kubelet.ctx.tasks.clone();
    tasks.spawn_until_stopped("session", async move {
        let Ok(remote) = remote::connect(&kubelet.ctx, upgrade, wanted, wants).await else { return };
        let Wants { stdin, stdout, stderr, tty } = wants;
        let (runtime, Target { uid, id }) = (&kubelet.config.runtime, &target);
        let session = match kind {
            Kind::Exec => runtime.exec(uid, id, ExecSpec { args, tty, stdin, stdout, stderr }).await,
            Kind::Attach => runtime.attach(uid, id, stdin, stdout, stderr).await,
        };
        run(&kubelet.ctx, remote, session, kind == Kind::Exec).await;
    });
    response
}

/// `/run`: a command, split at spaces, to its end; the answer is what it wrote. One that fails is an error that begins
/// with that.
pub(super) async fn run_once(kubelet: &Arc<Shared>, of: Place<'_>, query: &Query) -> Response<Body> {
    let target = match target(kubelet, of) {
        Ok(target) => target,
        Err(refusal) => return *refusal,
    };
    let args = query.get("cmd").unwrap_or_default().split(' ').map(str::to_owned).collect();
    let spec = ExecSpec { args, tty: false, stdin: false, stdout: true, stderr: true };
    let failed = |error: String| text(StatusCode::INTERNAL_SERVER_ERROR, error);
    let session = match kubelet.config.runtime.exec(&target.uid, &target.id, spec).await {
        Ok(session) => session,
        Err(error) => return failed(error.to_string()),
    };
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (mut stdout, mut stderr) = (session.stdout, session.stderr);
    let read = async |stream: &mut Option<Box<dyn AsyncRead + Send + Unpin>>, into: &mut Vec<u8>| {
        if let Some(stream) = stream {
            let _ = stream.take(RUN_LIMIT_BYTES).read_to_end(into).await;
        }
    };
    futures_util::future::join(read(&mut stdout, &mut out), read(&mut stderr, &mut err)).await;
    // A command that writes more is stopped by its pipe closing.
    drop((stdout, stderr));
    out.append(&mut err);
    match session.exit.await {
        Ok(0) => text(StatusCode::OK, String::from_utf8_lossy(&out)),
        Ok(code) => failed(format!("{}\ncommand exited with {code}", String::from_utf8_lossy(&out))),
        Err(error) => failed(error.to_string()),
    }
}

/// Moves bytes until the session ends, then says how.
async fn run(ctx: &Ctx, remote: Remote, session: Result<Session, RuntimeError>, is_exec: bool) {
    let Remote { mut incoming, outgoing, tells_status } = remote;
    let session = match session {
        Ok(session) => session,
        Err(error) => {
            finish(&outgoing, &failure(&error.to_string()), tells_status).await;
            return;
        }
    };
    let Session { mut stdin, stdout, stderr, exit, control } = session;
    let (gone, client_gone) = tokio::sync::oneshot::channel::<()>();
    ctx.tasks.spawn_until_stopped("session-input", async move {
        while let Some((channel, data)) = incoming.recv().await {
            match (channel, data) {
                (Channel::Stdin, Some(data)) => {
                    if let Some(pipe) = &mut stdin
                        && (pipe.write_all(&data).await.is_err() || pipe.flush().await.is_err())
                    {
                        stdin = None;
                    }
                }
                (Channel::Stdin, None) => stdin = None,
                (Channel::Resize, Some(data)) => {
                    if let Some((width, height)) = terminal_size(&data) {
                        control.resize(width, height);
                    }
                }
                _ => {}
            }
        }
        let _ = gone.send(());
    });
    let output = async {
        futures_util::future::join(
            pump(stdout, Channel::Stdout, &outgoing),
            pump(stderr, Channel::Stderr, &outgoing),
        )
        .await;
    };
    let mut output = std::pin::pin!(output);
    let mut output_done = false;
    let mut exit = exit;
    let mut client_gone = client_gone;
    let code = loop {
        tokio::select! {
            biased;
            code = &mut exit => break code,
            () = &mut output, if !output_done => output_done = true,
            // Nobody is there any more to see how it ends.
            _ = &mut client_gone => return,
        }
    };
    if !output_done {
        let _ = timeout(&*ctx.clock, DRAIN_LIMIT, output).await;
    }
    let status = match code {
        Ok(0) => json!({ "metadata": {}, "status": "Success" }),
        Ok(code) if is_exec => exit_status(code),
        Ok(_) => json!({ "metadata": {}, "status": "Success" }),
        Err(error) => failure(&error.to_string()),
    };
    finish(&outgoing, &status, tells_status).await;
}

async fn pump(
    stream: Option<Box<dyn AsyncRead + Send + Unpin>>,
    channel: Channel,
    out: &mpsc::Sender<(Channel, Option<Bytes>)>,
) {
    let Some(mut stream) = stream else { return };
    let mut buffer = BytesMut::with_capacity(PIECE);
    while let Ok(n @ 1..) = stream.read_buf(&mut buffer).await {
        let piece = buffer.split_to(n).freeze();
        if out.send((channel, Some(piece))).await.is_err() {
            return;
        }
        buffer.reserve(PIECE);
    }
}

async fn finish(outgoing: &mpsc::Sender<(Channel, Option<Bytes>)>, status: &Value, tells_status: bool) {
    let text = match tells_status {
        true => status.to_string(),
        false if status["status"] == "Success" => return,
        false => status["message"].as_str().unwrap_or_default().to_owned(),
    };
    let _ = outgoing.send((Channel::Error, Some(Bytes::from(text)))).await;
}

/// remotecommand v4's word for an exit code other than 0.
fn exit_status(code: i32) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("command terminated with non-zero exit code: error executing command, exit code {code}"),
        "reason": "NonZeroExitCode",
        "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
    })
}

fn failure(message: &str) -> Value {
    json!({
        "metadata": {},
        "status": "Failure",
        "message": format!("error executing command in container: {message}"),
        "reason": "InternalError",
        "details": { "causes": [{ "message": message }] },
        "code": 500,
    })
}

fn terminal_size(data: &[u8]) -> Option<(u16, u16)> {
    let size: Value = serde_json::from_slice(data).ok()?;
    Some((u16::try_from(size["Width"].as_u64()?).ok()?, u16::try_from(size["Height"].as_u64()?).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sizes_and_exit_codes_have_remotecommands_form() {
        assert_eq!(terminal_size(br#"{"Width":80,"Height":24}"#), Some((80, 24)));
        assert_eq!(terminal_size(b"{}"), None);
        assert_eq!(exit_status(3)["details"]["causes"][0], json!({"reason": "ExitCode", "message": "3"}));
    }
}
