//! ETags of documents, and the 304 that they save (RFC 9110 section 13).

use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use knarr_client::Body;
use sha2::{Digest, Sha256};

/// A strong ETag over the bytes.
pub fn etag(bytes: &[u8]) -> HeaderValue {
    let hash: String = Sha256::digest(bytes).iter().map(|b| format!("{b:02X}")).collect();
    HeaderValue::from_str(&format!("\"{hash}\"")).expect("hex digits are valid in a header")
}

/// 304 when the client has this version already, else the whole.
pub fn with_etag(
    headers: &HeaderMap,
    etag: &HeaderValue,
    whole: impl FnOnce() -> Response<Body>,
) -> Response<Body> {
    let bare = etag.to_str().unwrap_or_default();
    let known = headers
        .get_all(header::IF_NONE_MATCH)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','));
    let mut response = if known.map(str::trim).any(|tag| tag == "*" || tag.trim_start_matches("W/") == bare) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        whole()
    };
    response.headers_mut().insert(header::ETAG, etag.clone());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_has_the_document_gets_304() {
        let tag = etag(b"x");
        let mut headers = HeaderMap::new();
        assert_eq!(with_etag(&headers, &tag, || Response::new(Body::empty())).status(), 200);
        headers.insert(header::IF_NONE_MATCH, tag.clone());
        let response = with_etag(&headers, &tag, || unreachable!("the client has it"));
        assert_eq!((response.status().as_u16(), &response.headers()[header::ETAG]), (304, &tag));
    }
}
