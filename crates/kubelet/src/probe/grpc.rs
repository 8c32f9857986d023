//! gRPC checks: one call of the health-checking protocol (grpc.health.v1.Health/Check), written by hand over
//! HTTP/2: the message has one field.

use super::check::Outcome;
use crate::kubelet::Shared;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use knarr_base::clock::timeout;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// Probes once.
pub(super) async fn probe(
    kubelet: &Arc<Shared>,
    address: SocketAddr,
    service: &str,
    limit: Duration,
) -> Outcome {
    let limit_text = crate::util::go_duration(limit);
    match timeout(&*kubelet.ctx.clock, limit, call(kubelet, address, service)).await {
        Some(Ok(1)) => Outcome::Success,
        Some(Ok(status)) => {
            let name = match status {
                0 => "UNKNOWN",
                2 => "NOT_SERVING",
                3 => "SERVICE_UNKNOWN",
                _ => "?",
            };
            Outcome::Failure(format!("service unhealthy (responded with \"{name}\")"))
        }
        Some(Err(message)) => Outcome::Failure(message),
        None => Outcome::Failure(format!(
            "timeout: failed to connect service \"{address}\" within {limit_text}: context deadline exceeded"
        )),
    }
}

async fn call(kubelet: &Arc<Shared>, address: SocketAddr, service: &str) -> Result<u64, String> {
    let failed =
        |e: &dyn std::fmt::Display| format!("error: failed to connect service at \"{address}\": {e}");
    let stream = TcpStream::connect(address).await.map_err(|e| failed(&e))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .map_err(|e| failed(&e))?;
    kubelet.ctx.tasks.spawn_until_stopped("probe-connection", async move {
        let _ = connection.await;
    });
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "kube-probe/1.36")
        .body(Full::new(Bytes::from(message(service))))
        .map_err(|e| failed(&e))?;
    let response = sender.send_request(request).await.map_err(|e| failed(&e))?;
    let early = response.headers().get("grpc-status").and_then(|s| s.to_str().ok()).map(str::to_owned);
    let body = response.into_body().collect().await.map_err(|e| failed(&e))?;
    let late =
        body.trailers().and_then(|t| t.get("grpc-status")).and_then(|s| s.to_str().ok()).map(str::to_owned);
    match early.or(late).as_deref() {
        Some("0") | None => Ok(status(&body.to_bytes()).unwrap_or_default()),
        Some("12") => Err(
            "error: this server does not implement the grpc health protocol (grpc.health.v1.Health): unknown service grpc.health.v1.Health"
                .to_owned(),
        ),
        Some(code) => Err(format!("error: health rpc probe failed: rpc error: code = {code}")),
    }
}

/// The request with its frame: not compressed, length, field 1 = the service's name.
fn message(service: &str) -> Vec<u8> {
    let mut body = Vec::new();
    if !service.is_empty() {
        body.push(0x0a);
        varint(service.len() as u64, &mut body);
        body.extend_from_slice(service.as_bytes());
    }
    let mut frame = vec![0];
    frame.extend_from_slice(&(body.len() as u32).to_be_bytes());
    frame.append(&mut body);
    frame
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Field 1 of the answer; absent is 0.
fn status(frame: &[u8]) -> Option<u64> {
    match frame.get(5..)? {
        [0x08, value, ..] => Some(u64::from(*value)),
        _ => Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_protobuf() {
        assert_eq!(message(""), [0, 0, 0, 0, 0]);
        assert_eq!(message("ab"), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(1));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
    }
}
