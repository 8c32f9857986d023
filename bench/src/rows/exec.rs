//! From the request of an exec to the exit status of its command, as a client library sees it: a connection of its own,
//! a WebSocket with the protocol v5.channel.k8s.io (KEP-4006).

use crate::bench::Bench;
use anyhow::{Context, Result, bail, ensure};
use knarr_base::clock::timeout;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};

/// An answer that has not come after this long does not come.
const PATIENCE: Duration = Duration::from_secs(10);
/// The channel of the protocol that says how the command has ended, as a Status.
const ERROR_CHANNEL: u8 = 3;

/// Runs `command` in a pod's only container; how long that took, the connection included.
pub async fn once(bench: &Bench, pod: &str, command: &str) -> Result<Duration> {
    let started = bench.ctx.clock.instant();
    let status = timeout(&*bench.ctx.clock, PATIENCE, status_of(bench, pod, command)).await;
    let status = status.context("the command does not end")??;
    ensure!(status.contains("\"Success\""), "the command failed: {status}");
    Ok(bench.ctx.clock.instant() - started)
}

async fn status_of(bench: &Bench, pod: &str, command: &str) -> Result<String> {
    let mut stream = BufReader::new(bench.https.connect_http1().await?);
    let path = bench.path("pods");
    let head = format!(
        "GET {path}/{pod}/exec?command={command}&stdout=true&stderr=true HTTP/1.1\r\n\
         Host: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
        knarr_client::Transport::server(&bench.https),
    );
    stream.write_all(head.as_bytes()).await?;
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(stream.read_u8().await?);
    }
    let answer = String::from_utf8_lossy(&answer);
    ensure!(answer.starts_with("HTTP/1.1 101"), "no stream: {answer}");
    loop {
        let payload = frame(&mut stream).await?;
        if let [ERROR_CHANNEL, status @ ..] = payload.as_slice() {
            return Ok(String::from_utf8_lossy(status).into_owned());
        }
    }
}

/// The payload of the next frame; a server's frames are not masked (RFC 6455, 5.1).
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    const CLOSE: u8 = 8;
    let kind = stream.read_u8().await?;
    if kind & 0x0f == CLOSE {
        bail!("the stream was closed before the command's status came");
    }
    let length = match stream.read_u8().await? {
        126 => u64::from(stream.read_u16().await?),
        127 => stream.read_u64().await?,
        short => u64::from(short),
    };
    ensure!(length < 1 << 20, "a frame of {length} bytes");
    let mut payload = vec![0; usize::try_from(length)?];
    stream.read_exact(&mut payload).await?;
    Ok(payload)
}
