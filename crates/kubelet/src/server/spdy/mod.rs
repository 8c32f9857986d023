//! SPDY/3.1 as far as Kubernetes' streaming needs it (draft-mbelshe-httpbis-spdy-00 and 3.1's session window,
//! which its clients do not enforce): streams opened by the client, data both ways, pings.

mod frame;

use bytes::{Bytes, BytesMut};
use frame::{Codec, Frame};
use knarr_base::Tasks;
use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

/// Pieces of data that wait in a stream, and frames that wait to be sent, at most.
const BACKLOG: usize = 128;
/// A stream's data is sent in frames of at most this many bytes.
const PIECE: usize = 32 << 10;
/// Why a stream was reset: CANCEL.
const CANCEL: u32 = 5;

/// A stream that the client opened.
pub(super) struct Stream {
    /// Its headers, names in lower case.
    pub(super) headers: Vec<(String, String)>,
    /// What the client sends; ends when the client closes its half.
    pub(super) data: mpsc::Receiver<Bytes>,
    /// The way back.
    pub(super) writer: Writer,
}

impl Stream {
    /// The value of a header, empty if there is none.
    pub(super) fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }
}

/// Sends on a stream.
#[derive(Clone)]
pub(super) struct Writer {
    id: u32,
    out: mpsc::Sender<Frame>,
}

impl Writer {
    /// Sends data; false when the connection is gone.
    pub(super) async fn send(&self, data: Bytes) -> bool {
        let mut rest = data;
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE));
            if self.out.send(Frame::Data { id: self.id, fin: false, data: piece }).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Closes this half.
    pub(super) async fn close(&self) {
        let _ = self.out.send(Frame::Data { id: self.id, fin: true, data: Bytes::new() }).await;
    }

    /// Ends the stream at once.
    pub(super) async fn reset(&self) {
        let _ = self.out.send(Frame::Reset { id: self.id, status: CANCEL }).await;
    }
}

/// Speaks SPDY on `io`; the streams that the client opens come out, and the connection ends when the
/// receiver and all streams are dropped or the client leaves.
pub(super) fn serve(
    tasks: &Tasks,
    io: impl AsyncRead + AsyncWrite + Send + 'static,
) -> mpsc::Receiver<Stream> {
    let (mut read, mut write) = tokio::io::split(io);
    let (opened, streams) = mpsc::channel(BACKLOG);
    let (out, mut frames) = mpsc::channel::<Frame>(BACKLOG);
    let codec = Arc::new(Mutex::new(Codec::default()));
    let encoder = codec.clone();
    tasks.spawn_until_stopped("spdy-writer", async move {
        let mut buffer = BytesMut::new();
        while let Some(frame) = frames.recv().await {
            encoder.lock().expect("codec lock is never poisoned").encode(&frame, &mut buffer);
            // What is ready now goes out together.
            while buffer.len() < 2 * PIECE {
                let Ok(frame) = frames.try_recv() else { break };
                encoder.lock().expect("codec lock is never poisoned").encode(&frame, &mut buffer);
            }
            if write.write_all(&buffer.split()).await.is_err() || write.flush().await.is_err() {
                return;
            }
        }
        let _ = write.shutdown().await;
    });
    tasks.spawn_until_stopped("spdy-reader", async move {
        let mut buffer = BytesMut::with_capacity(PIECE);
        let mut open: HashMap<u32, mpsc::Sender<Bytes>> = HashMap::new();
        loop {
            let decoded = codec.lock().expect("codec lock is never poisoned").decode(&mut buffer);
            let frame = match decoded {
                Ok(Some(frame)) => frame,
                Ok(None) => match read.read_buf(&mut buffer).await {
                    Ok(n) if n > 0 => continue,
                    _ => return,
                },
                Err(error) => return tracing::debug!(error, "a SPDY client sent nonsense"),
            };
            match frame {
                Frame::Open { id, headers, fin } => {
                    let (send, data) = mpsc::channel(BACKLOG);
                    if !fin {
                        open.insert(id, send);
                    }
                    let _ = out.send(Frame::Reply { id }).await;
                    let stream = Stream { headers, data, writer: Writer { id, out: out.clone() } };
                    if opened.send(stream).await.is_err() {
                        return;
                    }
                }
                Frame::Data { id, fin, data } => {
                    let gone = match open.get(&id) {
                        Some(sender) if !data.is_empty() => sender.send(data).await.is_err(),
                        _ => false,
                    };
                    if fin || gone {
                        open.remove(&id);
                    }
                }
                Frame::Reset { id, .. } => drop(open.remove(&id)),
                Frame::Ping { id } => {
                    // Odd numbers are the client's: they are answered by echo.
                    let _ = out.send(Frame::Ping { id }).await;
                }
                Frame::Goodbye => return,
                Frame::Reply { .. } | Frame::Other => {}
            }
        }
    });
    streams
}

#[cfg(test)]
mod tests {
    use super::*;
    use knarr_base::Ctx;

    #[tokio::test]
    async fn streams_carry_data_both_ways_and_pings_are_echoed() {
        let ctx = Ctx::system();
        let (near, mut far) = tokio::io::duplex(1 << 16);
        let mut streams = serve(&ctx.tasks, near);
        let mut client = Codec::default();
        let mut bytes = BytesMut::new();
        let headers =
            vec![("streamtype".to_owned(), "data".to_owned()), ("port".to_owned(), "80".to_owned())];
        client.encode(&Frame::Open { id: 1, headers, fin: false }, &mut bytes);
        client.encode(&Frame::Data { id: 1, fin: false, data: "ping".into() }, &mut bytes);
        client.encode(&Frame::Data { id: 1, fin: true, data: Bytes::new() }, &mut bytes);
        client.encode(&Frame::Ping { id: 7 }, &mut bytes);
        // However the network cuts it.
        for piece in bytes.chunks(5) {
            far.write_all(piece).await.unwrap();
        }
        let mut stream = streams.recv().await.unwrap();
        assert_eq!((stream.header("streamtype"), stream.header("port")), ("data", "80"));
        assert_eq!(stream.data.recv().await.unwrap(), "ping");
        assert!(stream.data.recv().await.is_none());
        assert!(stream.writer.send(Bytes::from("pong")).await);
        stream.writer.close().await;
        let mut seen = Vec::new();
        let mut incoming = BytesMut::new();
        while seen.len() < 4 {
            match client.decode(&mut incoming).unwrap() {
                Some(frame) => seen.push(frame),
                None => drop(far.read_buf(&mut incoming).await.unwrap()),
            }
        }
        assert!(matches!(seen[0], Frame::Reply { id: 1 }));
        assert!(seen.iter().any(|f| matches!(f, Frame::Ping { id: 7 })));
        assert!(seen.iter().any(|f| matches!(f, Frame::Data { id: 1, fin: false, data } if data == "pong")));
        assert!(seen.iter().any(|f| matches!(f, Frame::Data { id: 1, fin: true, .. })));
    }
}
