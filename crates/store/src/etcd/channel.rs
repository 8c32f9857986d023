//! gRPC over one HTTP/2 connection (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>), on hyper, which
//! the rest of the program speaks HTTP with: calls with one message each way, and streams of messages both ways.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, header};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

/// An unanswered ping is sent this often; etcd closes connections that ping oftener than every five seconds.
const PING_EVERY: Duration = Duration::from_secs(10);
/// A connection whose ping is not answered within this time is given up.
const PING_LIMIT: Duration = Duration::from_secs(5);
/// What a message is preceded by: whether it is compressed, and its length.
const PREFIX: usize = 5;

/// Codes of a gRPC status that mean something here (<https://grpc.github.io/grpc/core/md_doc_statuscodes.html>).
pub(super) const DEADLINE_EXCEEDED: u32 = 4;
pub(super) const UNAVAILABLE: u32 = 14;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum CallError {
    /// There is no connection. The call was not made.
    #[error("cannot connect to etcd at {endpoint}: {detail}")]
    Connect {
        /// Where to.
        endpoint: String,
        /// What went wrong.
        detail: String,
    },
    /// The connection broke. What was asked may have been done.
    #[error("the connection to etcd broke: {0}")]
    Broken(String),
    /// No answer came. What was asked may have been done.
    #[error("etcd did not answer in time")]
    TimedOut,
    /// etcd said no.
    #[error("{message}")]
    Refused {
        /// gRPC's code.
        code: u32,
        /// etcd's words.
        message: String,
    },
    /// The answer makes no sense.
    #[error("etcd's answer cannot be read")]
    Malformed(#[from] super::wire::Malformed),
}

impl CallError {
    /// Whether another member may do better.
    pub fn is_of_this_member(&self) -> bool {
        match self {
            Self::Connect { .. } | Self::Broken(_) | Self::TimedOut => true,
            Self::Refused { code, .. } => matches!(*code, UNAVAILABLE | DEADLINE_EXCEEDED),
            Self::Malformed(_) => false,
        }
    }
}

fn broken(error: impl std::error::Error) -> CallError {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    CallError::Broken(text)
}

type RequestBody = UnsyncBoxBody<Bytes, Infallible>;

/// A connection to a member. Clones share it.
#[derive(Clone)]
pub(super) struct Channel {
    sender: SendRequest<RequestBody>,
    /// `http://host:port`.
    origin: String,
}

impl Channel {
    /// Speaks HTTP/2 over a plain connection.
    pub async fn plain(stream: TcpStream, origin: &str) -> Result<Self, CallError> {
        Self::handshake(TokioIo::new(stream), origin).await
    }

    /// Speaks HTTP/2 over TLS.
    pub async fn secure(
        stream: tokio_rustls::client::TlsStream<TcpStream>,
        origin: &str,
    ) -> Result<Self, CallError> {
        Self::handshake(TokioIo::new(stream), origin).await
    }

    async fn handshake<I>(io: I, origin: &str) -> Result<Self, CallError>
    where
        I: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    {
        let mut builder = Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .adaptive_window(true)
            .keep_alive_interval(PING_EVERY)
            .keep_alive_timeout(PING_LIMIT)
            .keep_alive_while_idle(true);
        let (sender, driver) = builder.handshake(io).await.map_err(broken)?;
        // The connection's driver ends by itself once its last sender and stream are gone.
        hyper::rt::Executor::execute(&TokioExecutor::new(), async move {
            let _ = driver.await;
        });
        Ok(Self { sender, origin: origin.to_owned() })
    }

    /// Whether it is of no more use.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    fn request(&self, path: &str, body: RequestBody) -> Request<RequestBody> {
        let mut request = Request::new(body);
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() =
            format!("{}{path}", self.origin).parse().expect("an origin and a path are a URI");
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::USER_AGENT, HeaderValue::from_static("knarr"));
        request
    }

    /// One message out, one back. `limit` is told to the member, which then gives up as well.
    pub async fn unary(&self, path: &str, message: &Bytes, limit: Duration) -> Result<Bytes, CallError> {
        let body = http_body_util::Full::new(framed(message)).boxed_unsync();
        let mut request = self.request(path, body);
        let limit = HeaderValue::try_from(format!("{}m", limit.as_millis())).expect("digits are a header");
        request.headers_mut().insert("grpc-timeout", limit);
        let response = self.sender.clone().send_request(request).await.map_err(broken)?;
        check_http(&response)?;
        check_status(response.headers(), false)?;
        let collected = response.into_body().collect().await.map_err(broken)?;
        check_status(collected.trailers().unwrap_or(&HeaderMap::new()), true)?;
        let mut body = collected.to_bytes();
        unframe(&mut body)?.ok_or(CallError::Malformed(super::wire::Malformed))
    }

    /// Opens a stream with its first message. `require_leader` has a member that lost the cluster end it.
    pub async fn stream(&self, path: &str, first: Bytes, require_leader: bool) -> Result<Stream, CallError> {
        let (sender, receiver) = mpsc::unbounded_channel::<Bytes>();
        let _ = sender.send(first);
        let frames = futures_util::stream::unfold(receiver, |mut receiver| async move {
            let message = receiver.recv().await?;
            Some((Ok(Frame::data(framed(&message))), receiver))
        });
        let mut request = self.request(path, StreamBody::new(frames).boxed_unsync());
        if require_leader {
            request.headers_mut().insert("hasleader", HeaderValue::from_static("true"));
        }
        let response = self.sender.clone().send_request(request).await.map_err(broken)?;
        check_http(&response)?;
        check_status(response.headers(), false)?;
        Ok(Stream { sender, body: response.into_body(), buffer: BytesMut::new() })
    }
}

/// An open stream. Dropping it ends the call.
pub(super) struct Stream {
    sender: mpsc::UnboundedSender<Bytes>,
    body: Incoming,
    buffer: BytesMut,
}

impl Stream {
    /// Sends a message.
    pub fn send(&self, message: Bytes) {
        // A broken stream shows when it is read.
        let _ = self.sender.send(message);
    }

    /// The next message; `None` at an orderly end. May be dropped and called again.
    pub async fn next(&mut self) -> Result<Option<Bytes>, CallError> {
        loop {
            if let Some(message) = unframe_buffer(&mut self.buffer)? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            match frame.map_err(broken)?.into_data() {
                Ok(data) => self.buffer.put(data),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        check_status(&trailers, true)?;
                    }
                }
            }
        }
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(PREFIX + message.len());
    out.put_u8(0);
    out.put_u32(u32::try_from(message.len()).expect("messages are far below 4 GB"));
    out.put_slice(message);
    out.freeze()
}

fn unframe(body: &mut Bytes) -> Result<Option<Bytes>, CallError> {
    let Some(len) = frame_len(body)? else { return Ok(None) };
    body.advance(PREFIX);
    Ok(Some(body.split_to(len)))
}

fn unframe_buffer(buffer: &mut BytesMut) -> Result<Option<Bytes>, CallError> {
    let Some(len) = frame_len(buffer)? else {
        return Ok(None);
    };
    buffer.advance(PREFIX);
    Ok(Some(buffer.split_to(len).freeze()))
}

/// The length of the message that `bytes` start with, if they hold all of it.
fn frame_len(bytes: &[u8]) -> Result<Option<usize>, CallError> {
    let Some((prefix, rest)) = bytes.split_at_checked(PREFIX) else { return Ok(None) };
    if prefix[0] != 0 {
        return Err(CallError::Malformed(super::wire::Malformed));
    }
    let len = u32::from_be_bytes(prefix[1..].try_into().expect("four bytes")) as usize;
    Ok((rest.len() >= len).then_some(len))
}

fn check_http<B>(response: &http::Response<B>) -> Result<(), CallError> {
    if response.status() == http::StatusCode::OK {
        return Ok(());
    }
    let message = format!("HTTP status {}", response.status().as_u16());
    Err(CallError::Refused { code: UNAVAILABLE, message })
}

/// What the headers or trailers say of the call's end.
fn check_status(headers: &HeaderMap, is_due: bool) -> Result<(), CallError> {
    let Some(code) = headers.get("grpc-status") else {
        return if is_due { Err(CallError::Broken("the answer has no end".into())) } else { Ok(()) };
    };
    let code = code.to_str().ok().and_then(|code| code.parse().ok()).unwrap_or(2);
    if code == 0 {
        return Ok(());
    }
    let message =
        headers.get("grpc-message").map(|text| percent_decoded(text.as_bytes())).unwrap_or_default();
    Err(CallError::Refused { code, message })
}

fn percent_decoded(text: &[u8]) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while at < text.len() {
        let hex = text.get(at + 1..at + 3).filter(|_| text[at] == b'%');
        let byte = hex.and_then(|hex| u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok());
        out.push(byte.unwrap_or(text[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_of_a_buffer_whole_or_not_at_all() {
        let framed = [framed(b"one"), framed(b"")].concat();
        for cut in 0..framed.len() {
            let mut buffer = BytesMut::from(&framed[..cut]);
            let mut whole = 0;
            while let Some(message) = unframe_buffer(&mut buffer).unwrap() {
                assert_eq!(message, if whole == 0 { &b"one"[..] } else { b"" });
                whole += 1;
            }
            assert_eq!(whole, usize::from(cut >= 8), "cut at {cut}");
        }
        assert!(frame_len(&[1, 0, 0, 0, 0]).is_err(), "compression was not asked for");
    }

    #[test]
    fn a_status_is_read_from_its_headers() {
        let mut headers = HeaderMap::new();
        assert!(check_status(&headers, false).is_ok());
        assert!(matches!(check_status(&headers, true), Err(CallError::Broken(_))));
        headers.insert("grpc-status", HeaderValue::from_static("0"));
        assert!(check_status(&headers, true).is_ok());
        headers.insert("grpc-status", HeaderValue::from_static("14"));
        headers.insert("grpc-message", HeaderValue::from_static("50%25 %zz no leader"));
        let error = check_status(&headers, true).unwrap_err();
        assert!(error.is_of_this_member());
        assert_eq!(error.to_string(), "50% %zz no leader");
    }
}
