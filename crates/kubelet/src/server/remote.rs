//! The far end of an exec or attach: up to five channels, over SPDY streams or one WebSocket
//! (remotecommand's v4 and v5 protocols).

use super::spdy;
use super::upgrade::{Io, Wanted};
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use knarr_base::Ctx;
use knarr_base::clock::timeout;
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role};

/// Sub-protocols over SPDY and WebSocket, best first.
pub(super) const SPDY: [&str; 3] = ["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io"];
pub(super) const WEBSOCKET: [&str; 3] = ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"];
/// The client must have opened its streams by then (upstream's own limit).
const STREAMS_LIMIT: Duration = Duration::from_secs(30);
const BACKLOG: usize = 64;
/// Number of v5's message that closes a channel.
const CLOSE: u8 = 255;

/// A channel by its number on a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Channel {
    Stdin = 0,
    Stdout = 1,
    Stderr = 2,
    Error = 3,
    Resize = 4,
}

impl Channel {
    fn of_number(number: u8) -> Option<Self> {
        [Self::Stdin, Self::Stdout, Self::Stderr, Self::Error, Self::Resize]
            .into_iter()
            .find(|c| *c as u8 == number)
    }

    fn of_stream(name: &str) -> Option<Self> {
        Some(match name {
            "stdin" => Self::Stdin,
            "stdout" => Self::Stdout,
            "stderr" => Self::Stderr,
            "error" => Self::Error,
            "resize" => Self::Resize,
            _ => return None,
        })
    }
}

/// Which channels a session has.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wants {
    pub(super) stdin: bool,
    pub(super) stdout: bool,
    pub(super) stderr: bool,
    pub(super) tty: bool,
}

/// The far end.
pub(super) struct Remote {
    /// What comes in: data, or `None` when the channel is closed. Ends when the client leaves.
    pub(super) incoming: mpsc::Receiver<(Channel, Option<Bytes>)>,
    /// What goes out: data, or `None` to close the channel. Dropping it ends the session.
    pub(super) outgoing: mpsc::Sender<(Channel, Option<Bytes>)>,
    /// Whether the end is told as a Status. Before v4 success was silence, and a failure its message alone.
    pub(super) tells_status: bool,
}

/// Waits for the upgrade and connects the channels.
pub(super) async fn connect(
    ctx: &Ctx,
    upgrade: OnUpgrade,
    wanted: Wanted,
    wants: Wants,
) -> Result<Remote, String> {
    let io = TokioIo::new(upgrade.await.map_err(|e| e.to_string())?);
    match wanted {
        Wanted::Spdy(protocol) => {
            let remote = over_spdy(ctx, io, wants).await?;
            Ok(Remote { tells_status: protocol.starts_with("v4"), ..remote })
        }
        Wanted::WebSocket(protocol) => {
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
            let remote = over_websocket(ctx, socket, protocol.starts_with("v5"), wants);
            Ok(Remote { tells_status: protocol.starts_with('v'), ..remote })
        }
    }
}

async fn over_spdy(ctx: &Ctx, io: Io, wants: Wants) -> Result<Remote, String> {
    let mut streams = spdy::serve(&ctx.tasks, io);
    let expected =
        1 + [wants.stdin, wants.stdout, wants.stderr && !wants.tty, wants.tty].iter().filter(|w| **w).count();
    let (send_in, incoming) = mpsc::channel(BACKLOG);
    let (outgoing, mut receive_out) = mpsc::channel::<(Channel, Option<Bytes>)>(BACKLOG);
    let mut writers: HashMap<Channel, spdy::Writer> = HashMap::new();
    let gather = async {
        while writers.len() < expected {
            let mut stream = streams.recv().await.ok_or("the client left before its streams were there")?;
            let Some(channel) = Channel::of_stream(stream.header("streamtype")) else {
                return Err(format!("invalid stream type \"{}\"", stream.header("streamtype")));
            };
            writers.insert(channel, stream.writer.clone());
            let send_in = send_in.clone();
            ctx.tasks.spawn_until_stopped("session-in", async move {
                while let Some(data) = stream.data.recv().await {
                    if send_in.send((channel, Some(data))).await.is_err() {
                        return;
                    }
                }
                let _ = send_in.send((channel, None)).await;
            });
        }
        Ok(())
    };
    timeout(&*ctx.clock, STREAMS_LIMIT, gather)
        .await
        .unwrap_or_else(|| Err("timed out waiting for client to create streams".to_owned()))?;
    ctx.tasks.spawn_until_stopped("session-out", async move {
        // Held so that the connection lives as long as the session.
        let _streams = streams;
        while let Some((channel, data)) = receive_out.recv().await {
            let Some(writer) = writers.get(&channel) else { continue };
            match data {
                Some(data) => drop(writer.send(data).await),
                None => writer.close().await,
            }
        }
        for writer in writers.values() {
            writer.close().await;
        }
    });
    Ok(Remote { incoming, outgoing, tells_status: true })
}

/// The end in good order: clients take any other for a failure.
pub(super) fn goodbye() -> Message {
    Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: Default::default() }))
}

fn over_websocket(ctx: &Ctx, socket: WebSocketStream<Io>, closes: bool, wants: Wants) -> Remote {
    let (mut sink, mut stream) = socket.split();
    let (send_in, incoming) = mpsc::channel(BACKLOG);
    let (outgoing, mut receive_out) = mpsc::channel::<(Channel, Option<Bytes>)>(BACKLOG);
    ctx.tasks.spawn_until_stopped("session-in", async move {
        while let Some(Ok(message)) = stream.next().await {
            let data: Bytes = match message {
                Message::Binary(data) => data,
                Message::Text(text) => Bytes::copy_from_slice(text.as_bytes()),
                Message::Close(_) => return,
                _ => continue,
            };
            let Some((number, rest)) = data.split_first() else { continue };
            let event = match (*number, rest) {
                (CLOSE, [closed, ..]) if closes => Channel::of_number(*closed).map(|c| (c, None)),
                (number, _) => Channel::of_number(number).map(|c| (c, Some(data.slice(1..)))),
            };
            if let Some(event) = event
                && send_in.send(event).await.is_err()
            {
                return;
            }
        }
    });
    ctx.tasks.spawn_until_stopped("session-out", async move {
        // Clients of the older protocols take an empty message on each channel as the word that all is set up.
        if !closes {
            for (channel, wanted) in [
                (Channel::Stdout, wants.stdout),
                (Channel::Stderr, wants.stderr && !wants.tty),
                (Channel::Error, true),
            ] {
                if wanted
                    && sink.send(Message::Binary(Bytes::copy_from_slice(&[channel as u8]))).await.is_err()
                {
                    return;
                }
            }
        }
        while let Some((channel, data)) = receive_out.recv().await {
            let mut message = BytesMut::new();
            match data {
                Some(data) => {
                    message.put_u8(channel as u8);
                    message.extend_from_slice(&data);
                }
                None if closes => message.extend_from_slice(&[CLOSE, channel as u8]),
                None => continue,
            }
            if sink.send(Message::Binary(message.freeze())).await.is_err() {
                return;
            }
        }
        let _ = sink.send(goodbye()).await;
        let _ = sink.close().await;
    });
    Remote { incoming, outgoing, tells_status: true }
}
