//! Authentication: client certificates, service-account tokens, and anonymous requests on the health paths.

pub mod impersonate;
pub mod tokens;
pub mod x509;

use crate::request::{Reader, RequestInfo, UserInfo};
use http::HeaderMap;
use std::sync::Arc;
use std::time::SystemTime;
pub use tokens::Tokens;
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
            return Some(certificate.user.clone());
        }
        if let Some(token) = bearer(headers) {
            let verified = self.tokens.authenticate(&token, self.tokens.audiences(), now, reader)?;
            return Some(Arc::new(verified.user));
        }
        if !info.is_resource && is_health_path(&info.path) {
            return Some(Arc::new(anonymous()));
        }
        None
    }
}

/// Who asks without credentials.
pub fn anonymous() -> UserInfo {
    UserInfo {
        name: "system:anonymous".into(),
        groups: vec!["system:unauthenticated".into()],
        ..UserInfo::default()
    }
}

/// The paths that need no credentials and no permission.
pub fn is_health_path(path: &str) -> bool {
    ["/healthz", "/livez", "/readyz"]
        .iter()
        .any(|root| path.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

/// The bearer token of a request: the Authorization header, or the subprotocol browsers' WebSocket clients use
/// (`base64url.bearer.authorization.k8s.io.<token>`).
fn bearer(headers: &HeaderMap) -> Option<String> {
    if let Some(value) = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        let (scheme, token) = value.trim().split_once(' ')?;
        let token = token.trim_start();
        return (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty()).then(|| token.to_owned());
    }
    let protocols = headers.get_all(http::header::SEC_WEBSOCKET_PROTOCOL);
    let mut offered =
        protocols.iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(',')).map(str::trim);
    let encoded = offered.find_map(|p| p.strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    String::from_utf8(tokens::unbase64(encoded)?).ok()
}
