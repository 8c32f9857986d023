//! Authentication: the front proxy's headers, client certificates, service-account and bootstrap tokens, and anonymous
//! requests on the health paths.

pub mod bootstrap;
pub mod front_proxy;
pub mod impersonate;
pub mod tokens;
pub mod x509;

use crate::request::{Reader, RequestInfo, UserInfo};
use http::header::{self, HeaderMap, HeaderValue};
use std::sync::Arc;
use std::time::SystemTime;
pub use tokens::{Tokens, Verified};
pub use x509::CertificateUser;

/// Establishes who asks.
pub struct Authenticator {
    /// Service-account tokens.
    pub tokens: Arc<Tokens>,
}

impl Authenticator {
    /// The user of a request, `None` for 401. A bearer token that is not valid refuses the request even
    /// where anonymous ones are let in, as upstream does.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        certificate: Option<&CertificateUser>,
        info: &RequestInfo,
        reader: &dyn Reader,
        now: SystemTime,
    ) -> Option<Arc<UserInfo>> {
        if let Some(certificate) = certificate.filter(|c| now < c.expires) {
            if !certificate.is_front_proxy {
                return Some(certificate.user.clone());
            }
            if let Some(user) = front_proxy::authenticate(headers) {
                return Some(Arc::new(user));
            }
        }
        if let Some(token) = bearer(headers) {
            let verified = verify_token(&self.tokens, &token, self.tokens.audiences(), now, reader)?;
            return Some(Arc::new(verified.user));
        }
        if (!info.is_resource && is_health_path(&info.path)) || info.path == CLUSTER_INFO {
            return Some(Arc::new(anonymous()));
        }
        None
    }

    /// Looks for what the token of a request refers to. True when authenticating again may end otherwise.
    pub async fn look_for(&self, headers: &HeaderMap, reader: &dyn Reader) -> bool {
        match bearer(headers) {
            Some(token) => self.tokens.look_for(&token, reader).await,
            None => false,
        }
    }
}

/// The user of a bearer token of any kind that is good for one of `audiences` now.
pub fn verify_token(
    tokens: &Tokens,
    token: &str,
    audiences: &[String],
    now: SystemTime,
    reader: &dyn Reader,
) -> Option<Verified> {
    if let Some(verified) = tokens.authenticate(token, audiences, now, reader) {
        return Some(verified);
    }
    // Bootstrap tokens know of no audience: they are for this server.
    let shared: Vec<String> = audiences.iter().filter(|a| tokens.audiences().contains(a)).cloned().collect();
    let user = bootstrap::authenticate(token, now, reader).filter(|_| !shared.is_empty())?;
    Some(Verified { user, audiences: shared })
}

/// Who asks without credentials.
pub fn anonymous() -> UserInfo {
    UserInfo {
        name: "system:anonymous".into(),
        groups: vec!["system:unauthenticated".into()],
        ..UserInfo::default()
    }
}

/// What a machine that joins reads first, to find the cluster's CA. Whether it may is a matter of permissions (kubeadm's
/// role for it), as for everybody else.
const CLUSTER_INFO: &str = "/api/v1/namespaces/kube-public/configmaps/cluster-info";

/// The paths that need no credentials and no permission.
pub fn is_health_path(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// What precedes a token among WebSocket subprotocols, where browsers can put nothing else.
const SUBPROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Takes the credentials out of a request, so that nobody it is passed on to sees them.
pub fn strip_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    front_proxy::strip(headers);
    let mut offered = protocols(headers).peekable();
    if offered.peek().is_none() || !protocols(headers).any(|p| p.starts_with(SUBPROTOCOL_PREFIX)) {
        return;
    }
    let kept: Vec<&str> = offered.filter(|p| !p.starts_with(SUBPROTOCOL_PREFIX)).collect();
    let kept = HeaderValue::from_str(&kept.join(", "));
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Ok(kept) = kept {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, kept);
    }
}

fn protocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let all = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    all.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim)
}

/// The bearer token of a request: the Authorization header, or the subprotocol browsers' WebSocket clients use.
fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim_start();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let encoded = protocols(headers).find_map(|p| p.strip_prefix(SUBPROTOCOL_PREFIX))?;
    String::from_utf8(tokens::unbase64(encoded)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_among_subprotocols_is_read_and_not_passed_on() {
        let mut headers = HeaderMap::new();
        let offered = "base64url.bearer.authorization.k8s.io.c2VjcmV0, v5.channel.k8s.io";
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(offered));
        assert_eq!(bearer(&headers).as_deref(), Some("secret"));
        strip_credentials(&mut headers);
        assert_eq!(headers[header::SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        assert_eq!(bearer(&headers), None);
    }

    #[test]
    fn only_health_paths_are_open_to_all() {
        for (path, open) in [
            ("/healthz", true),
            ("/readyz/etcd", true),
            ("/livezz", false),
            ("/", false),
            ("/version", false),
        ] {
            assert_eq!(is_health_path(path), open, "{path}");
        }
    }
}
