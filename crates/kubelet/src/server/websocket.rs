//! A WebSocket that carries a plain byte stream in binary messages: port-forward's tunnel (KEP-4006).

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use knarr_base::Tasks;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::upgrade::Io;

const BUFFER: usize = 64 << 10;

/// The byte stream within a WebSocket.
pub(super) fn tunnel(tasks: &Tasks, socket: WebSocketStream<Io>) -> DuplexStream {
    let (near, far) = tokio::io::duplex(BUFFER);
    let (mut read, mut write) = tokio::io::split(far);
    let (mut send, mut receive) = socket.split();
    tasks.spawn_until_stopped("tunnel-in", async move {
        while let Some(Ok(message)) = receive.next().await {
            match message {
                Message::Binary(data) if write.write_all(&data).await.is_err() => break,
                Message::Close(_) => break,
                _ => {}
            }
        }
        let _ = write.shutdown().await;
    });
    tasks.spawn_until_stopped("tunnel-out", async move {
        let mut buffer = vec![0; BUFFER];
        while let Ok(n @ 1..) = read.read(&mut buffer).await {
            if send.send(Message::Binary(Bytes::copy_from_slice(&buffer[..n]))).await.is_err() {
                return;
            }
        }
        let _ = send.send(super::remote::goodbye()).await;
        let _ = send.close().await;
    });
    near
}
