//! Watches over WebSocket (RFC 6455): browsers cannot read a response bit by bit, so a watch that asks for an upgrade
//! gets one message an event, text for JSON and binary for protobuf, as upstream's watch handler does. A container's
//! log is handed on as it comes, after an empty message (upstream's wsstream.Reader).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use knarr_base::Ctx;
use knarr_client::Body;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;

/// A protocol of this kind is a token, not something to agree on.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";

/// The protocol of streams of bytes whose messages are text.
const BASE64: &str = "base64.binary.k8s.io";

/// An upgrade that a request asks for.
pub struct Wanted {
    accept: HeaderValue,
    protocol: Option<HeaderValue>,
    connection: OnUpgrade,
}

fn has_token(headers: &HeaderMap, name: header::HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(token))
}

/// Takes the upgrade out of a request that asks for a WebSocket.
pub fn wanted(parts: &mut http::request::Parts) -> Option<Wanted> {
    let headers = &parts.headers;
    if !has_token(headers, header::CONNECTION, "upgrade") || !has_token(headers, header::UPGRADE, "websocket")
    {
        return None;
    }
    let key = headers.get(header::SEC_WEBSOCKET_KEY)?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).ok()?;
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let mut offered = offered.flat_map(|value| value.split(',')).map(str::trim);
    let protocol = offered.find(|name| !name.is_empty() && !name.starts_with(BEARER));
    let protocol = protocol.and_then(|name| HeaderValue::from_str(name).ok());
    Some(Wanted { accept, protocol, connection: parts.extensions.remove::<OnUpgrade>()? })
}

/// Hands the frames of a watch on as messages. What is no stream is answered as it is.
pub fn upgrade(response: Response<Body>, wanted: Wanted, ctx: &Ctx) -> Response<Body> {
    let (mut parts, body) = response.into_parts();
    if parts.status != StatusCode::OK {
        return Response::from_parts(parts, body);
    }
    let framing = match parts.headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes) {
        Some(b"text/plain") if wanted.protocol.as_ref().is_some_and(|p| p == BASE64) => Framing::Base64,
        Some(b"text/plain") => Framing::Bytes,
        Some(b"application/json") | None => Framing::Lines,
        Some(_) => Framing::Lengths,
    };
    let connection = wanted.connection;
    ctx.tasks.spawn_until_stopped("response over websocket", async move {
        match connection.await {
            Ok(upgraded) => send(TokioIo::new(upgraded), body, framing).await,
            Err(error) => tracing::debug!(%error, "a response was not upgraded"),
        }
    });
    parts.status = StatusCode::SWITCHING_PROTOCOLS;
    parts.headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    parts.headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    parts.headers.insert(header::SEC_WEBSOCKET_ACCEPT, wanted.accept);
    if let Some(protocol) = wanted.protocol {
        parts.headers.insert(header::SEC_WEBSOCKET_PROTOCOL, protocol);
    }
    Response::from_parts(parts, Body::full(Bytes::new()))
}

/// Where messages begin and end in a response.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Each line is an event of JSON.
    Lines,
    /// Each event of protobuf comes after its length.
    Lengths,
    /// Bytes as they come.
    Bytes,
    /// The same in base64.
    Base64,
}

async fn send(
    io: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    mut body: Body,
    framing: Framing,
) {
    let (mut out, mut heard) = WebSocketStream::from_raw_socket(io, Role::Server, None).await.split();
    let mut held = BytesMut::new();
    if matches!(framing, Framing::Bytes | Framing::Base64)
        && out.send(Message::binary(Bytes::new())).await.is_err()
    {
        return;
    }
    loop {
        let chunk = tokio::select! {
            chunk = body.next() => chunk,
            message = heard.next() => match message {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                // Nothing that a client says means anything; pings are answered below this.
                Some(Ok(_)) => continue,
            },
        };
        let Some(Ok(chunk)) = chunk else { break };
        held.extend_from_slice(&chunk);
        while let Some(frame) = take(&mut held, framing) {
            let message = match framing {
                Framing::Base64 => Message::text(STANDARD.encode(frame)),
                Framing::Lines => match String::from_utf8(frame.to_vec()) {
                    Ok(text) => Message::text(text),
                    Err(_) => Message::binary(frame),
                },
                Framing::Lengths | Framing::Bytes => Message::binary(frame),
            };
            if out.send(message).await.is_err() {
                return;
            }
        }
    }
    let _ = out.send(Message::Close(None)).await;
    let _ = out.close().await;
}

/// The next whole message: a line of JSON, a protobuf message without its length, or what there is.
fn take(held: &mut BytesMut, framing: Framing) -> Option<Bytes> {
    match framing {
        Framing::Lines => {
            let end = held.iter().position(|byte| *byte == b'\n')?;
            return Some(held.split_to(end + 1).freeze());
        }
        Framing::Bytes | Framing::Base64 => {
            return Some(held.split().freeze()).filter(|bytes| !bytes.is_empty());
        }
        Framing::Lengths => {}
    }
    let length = u32::from_be_bytes(*held.first_chunk::<4>()?) as usize;
    if held.len() < 4 + length {
        return None;
    }
    Some(held.split_to(4 + length).freeze().slice(4..))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use tokio_tungstenite::tungstenite::client::IntoClientRequest;

    /// What a client gets whose watch was answered with these chunks.
    async fn messages(content_type: &'static str, chunks: &'static [&'static [u8]]) -> Vec<Message> {
        let ctx = Ctx::system();
        let (near, far) = tokio::io::duplex(64 << 10);
        let tasks = ctx.tasks.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let ctx = ctx.clone();
            async move {
                let (mut parts, _) = request.into_parts();
                let wanted = wanted(&mut parts).expect("the client asks for an upgrade");
                let chunks = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk)));
                let mut response = Response::new(Body::stream(futures_util::stream::iter(chunks)));
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
                Ok::<_, std::convert::Infallible>(upgrade(response, wanted, &ctx))
            }
        });
        tasks.spawn("server", async move {
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(far), service).with_upgrades().await;
        });
        let mut request = "ws://server/api/v1/pods?watch=1".into_client_request().unwrap();
        let protocols = "base64url.bearer.authorization.k8s.io.dG9rZW4, base64.binary.k8s.io";
        request.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(protocols));
        let (mut socket, response) = tokio_tungstenite::client_async(request, near).await.unwrap();
        assert_eq!(response.headers()[header::SEC_WEBSOCKET_PROTOCOL], "base64.binary.k8s.io");
        let mut all = Vec::new();
        while let Some(Ok(message)) = socket.next().await {
            match message {
                Message::Close(_) => break,
                message => all.push(message),
            }
        }
        all
    }

    #[tokio::test]
    async fn every_event_is_a_message() {
        assert_eq!(
            messages("application/json", &[b"{\"type\":\"ADDED\"}\n{\"ty", b"pe\":\"DELETED\"}\n"]).await,
            [Message::text("{\"type\":\"ADDED\"}\n"), Message::text("{\"type\":\"DELETED\"}\n")]
        );
        let proto = "application/vnd.kubernetes.protobuf;stream=watch";
        assert_eq!(
            messages(proto, &[&[0, 0, 0, 2, 8, 1, 0, 0], &[0, 1, 9]]).await,
            [Message::binary(vec![8, 1]), Message::binary(vec![9])]
        );
        assert_eq!(
            messages("text/plain", &[b"one\ntwo", b"\n"]).await,
            [Message::binary(Bytes::new()), Message::text("b25lCnR3bw=="), Message::text("Cg==")]
        );
    }

    #[test]
    fn other_requests_are_left_alone() {
        for (name, value) in [("accept", "*/*"), ("upgrade", "websocket"), ("connection", "upgrade")] {
            let (mut parts, ()) = Request::get("/").header(name, value).body(()).unwrap().into_parts();
            assert!(wanted(&mut parts).is_none(), "{name}");
        }
    }
}
