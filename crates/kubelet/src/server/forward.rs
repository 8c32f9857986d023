//! Port-forward: pairs of streams (`data` and `error`) that share a request id, over SPDY, or over SPDY
//! within a WebSocket.

use super::spdy::{self, Stream};
use super::text;
use super::upgrade::{self, Wanted};
use super::websocket::tunnel;
use crate::kubelet::Shared;
use crate::util::host_network;
use bytes::{Bytes, BytesMut};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use knarr_api::Kind;
use knarr_base::clock::timeout;
use knarr_client::Body;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::Role;

const SPDY: [&str; 1] = ["portforward.k8s.io"];
const WEBSOCKET: [&str; 1] = ["SPDY/3.1+portforward.k8s.io"];
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const PIECE: usize = 32 << 10;

/// Half of a pair, waiting for the other.
#[derive(Default)]
struct Pair {
    data: Option<Stream>,
    error: Option<Stream>,
}

/// `/portForward`.
pub(super) fn serve(
    kubelet: &Arc<Shared>,
    request: Request<Incoming>,
    namespace: &str,
    pod: &str,
    uid: Option<&str>,
) -> Response<Body> {
    let entry = match uid {
        Some(uid) => kubelet.entry(uid),
        None => kubelet.by_name(namespace, pod),
    };
    let Some(entry) = entry else { return text(StatusCode::NOT_FOUND, "pod does not exist") };
    let pod = entry.view().pod;
    let sandbox = kubelet.config.runtime.sandbox(pod.uid()).filter(|s| s.ready);
    let Some(sandbox) = sandbox else {
        return text(StatusCode::INTERNAL_SERVER_ERROR, "unable to find running sandbox for the pod");
    };
    let netns = (!host_network(&pod)).then_some(sandbox.netns);
    let (response, upgrade, wanted) = match upgrade::accept(request, &SPDY, &WEBSOCKET) {
        Ok(accepted) => accepted,
        Err(refusal) => return *refusal,
    };
    let kubelet = kubelet.clone();
    let tasks = kubelet.ctx.tasks.clone();
    let name = pod.name().to_owned();
    tasks.clone().spawn_until_stopped("port-forward", async move {
        let Ok(upgraded) = upgrade.await else { return };
        let io = TokioIo::new(upgraded);
        let mut streams = match wanted {
            Wanted::Spdy(_) => spdy::serve(&tasks, io),
            Wanted::WebSocket(_) => {
                let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
                spdy::serve(&tasks, tunnel(&tasks, socket))
            }
        };
        let mut pairs: HashMap<String, Pair> = HashMap::new();
        while let Some(stream) = streams.recv().await {
            let id = stream.header("requestid").to_owned();
            let pair = pairs.entry(id.clone()).or_default();
            match stream.header("streamtype") {
                "data" => pair.data = Some(stream),
                "error" => pair.error = Some(stream),
                _ => stream.writer.reset().await,
            }
            if let Some(Pair { data: Some(_), error: Some(_) }) = pairs.get(&id)
                && let Some(Pair { data: Some(data), error: Some(error) }) = pairs.remove(&id)
            {
                let run = forward(kubelet.clone(), name.clone(), netns.clone(), data, error);
                tasks.spawn_until_stopped("forwarded", run);
            }
        }
    });
    response
}

async fn forward(kubelet: Arc<Shared>, pod: String, netns: Option<PathBuf>, data: Stream, error: Stream) {
    let port = data.header("port").parse::<u16>().unwrap_or_default();
    let result = match timeout(&*kubelet.ctx.clock, CONNECT_LIMIT, dial(netns, port)).await {
        Some(Ok(socket)) => copy(socket, data).await,
        Some(Err(source)) => {
            data.writer.reset().await;
            Err(source)
        }
        None => {
            data.writer.reset().await;
            Err(io::Error::new(io::ErrorKind::TimedOut, "connection timed out"))
        }
    };
    if let Err(source) = result {
        let message = format!(
            "an error occurred forwarding {port} -> {port}: error forwarding port {port} to pod {pod}: {source}"
        );
        error.writer.send(Bytes::from(message)).await;
    }
    error.writer.close().await;
}

/// Connects to the port on the pod's loopback, IPv4 first.
async fn dial(netns: Option<PathBuf>, port: u16) -> io::Result<TcpStream> {
    let addresses =
        [SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SocketAddr::from((Ipv6Addr::LOCALHOST, port))];
    let Some(netns) = netns else { return TcpStream::connect(&addresses[..]).await };
    let connect = move || crate::sys::in_netns(&netns, move || std::net::TcpStream::connect(&addresses[..]));
    let socket = tokio::task::spawn_blocking(connect).await.map_err(io::Error::other)??;
    socket.set_nonblocking(true)?;
    TcpStream::from_std(socket)
}

async fn copy(socket: TcpStream, stream: Stream) -> io::Result<()> {
    let _ = socket.set_nodelay(true);
    let Stream { mut data, writer, .. } = stream;
    let (mut read, mut write) = socket.into_split();
    let to_pod = async {
        while let Some(piece) = data.recv().await {
            write.write_all(&piece).await?;
        }
        write.shutdown().await
    };
    let from_pod = async {
        let mut buffer = BytesMut::with_capacity(PIECE);
        loop {
            match read.read_buf(&mut buffer).await? {
                0 => break,
                n => {
                    if !writer.send(buffer.split_to(n).freeze()).await {
                        break;
                    }
                    buffer.reserve(PIECE);
                }
            }
        }
        writer.close().await;
        Ok::<(), io::Error>(())
    };
    // Either half may end first; the client's end alone does not end the answer.
    let (up, down) = futures_util::future::join(to_pod, from_pod).await;
    match (up, down) {
        (_, Err(error)) => Err(error),
        // A pod that closes while the client still sends is no failure of the forwarding.
        _ => Ok(()),
    }
}
