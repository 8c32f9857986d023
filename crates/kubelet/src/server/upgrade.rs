//! Leaving HTTP for SPDY or WebSocket (RFC 9110, 7.8; RFC 6455).

use super::text;
use http::{HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use knarr_client::Body;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

/// The connection after the upgrade.
pub(super) type Io = TokioIo<Upgraded>;

/// What the client wants to speak.
pub(super) enum Wanted {
    /// SPDY/3.1 with this sub-protocol.
    Spdy(String),
    /// WebSocket with this sub-protocol.
    WebSocket(String),
}

/// Chooses protocol and sub-protocol; gives the answer and the connection to come, or the refusal.
pub(super) fn accept(
    mut request: Request<Incoming>,
    spdy: &[&str],
    websocket: &[&str],
) -> Result<(Response<Body>, OnUpgrade, Wanted), Box<Response<Body>>> {
    let refuse = |message: String| Box::new(text(StatusCode::BAD_REQUEST, message));
    let tokens = |name: &str| -> Vec<String> {
        let all = request.headers().get_all(name).iter().filter_map(|v| v.to_str().ok());
        all.flat_map(|v| v.split(',')).map(|t| t.trim().to_owned()).filter(|t| !t.is_empty()).collect()
    };
    let upgrade = tokens("upgrade");
    let is = |wanted: &str| upgrade.iter().any(|u| u.eq_ignore_ascii_case(wanted));
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    let wanted = if is("websocket") {
        let offered = tokens("sec-websocket-protocol");
        let Some(chosen) = websocket.iter().find(|p| offered.iter().any(|o| o == **p)) else {
            return Err(refuse(format!(
                "unable to negotiate protocol: client supports {offered:?}, server accepts {websocket:?}"
            )));
        };
        let Some(key) = request.headers().get("sec-websocket-key") else {
            return Err(refuse("a WebSocket upgrade without Sec-WebSocket-Key".to_owned()));
        };
        let accept = derive_accept_key(key.as_bytes());
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert("sec-websocket-accept", HeaderValue::from_str(&accept).expect("base64 is plain text"));
        headers
            .insert("sec-websocket-protocol", HeaderValue::from_str(chosen).expect("names are plain text"));
        Wanted::WebSocket((*chosen).to_owned())
    } else if is("SPDY/3.1") {
        let offered = tokens("x-stream-protocol-version");
        let chosen = spdy.iter().find(|p| offered.iter().any(|o| o == **p));
        let Some(chosen) = chosen.or(spdy.last().filter(|_| offered.is_empty())) else {
            let message = format!(
                "unable to upgrade: unable to negotiate protocol: client supports {offered:?}, server accepts {spdy:?}"
            );
            return Err(Box::new(text(StatusCode::FORBIDDEN, message)));
        };
        headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        headers.insert(
            "x-stream-protocol-version",
            HeaderValue::from_str(chosen).expect("names are plain text"),
        );
        Wanted::Spdy((*chosen).to_owned())
    } else {
        return Err(refuse("Upgrade request required".to_owned()));
    };
    Ok((response, hyper::upgrade::on(&mut request), wanted))
}
