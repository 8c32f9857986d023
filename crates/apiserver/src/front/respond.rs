//! Responses: Statuses, documents, media ranges of the Accept header, and compression of large bodies.

use crate::registry::status_response;
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use knarr_client::Body;
use knarr_meta::status::Status;
use serde_json::Value;
use std::io::Write;

/// Responses smaller than this are sent as they are, as upstream does: compressing them costs more than it saves.
const GZIP_THRESHOLD_BYTES: u64 = 128 * 1024;

/// The Accept header as text.
pub fn accept(headers: &HeaderMap) -> Option<&str> {
    headers.get(header::ACCEPT).and_then(|value| value.to_str().ok())
}

/// A Status as a response.
pub fn status(status: &Status, headers: &HeaderMap) -> Response<Body> {
    status_response(status, accept(headers))
}

/// A response with a body of that type.
pub fn bytes(content_type: &str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Body::full(body));
    if let Ok(value) = HeaderValue::from_str(content_type) {
        response.headers_mut().insert(header::CONTENT_TYPE, value);
    }
    response
}

/// Plain text.
pub fn text(code: StatusCode, text: impl Into<String>) -> Response<Body> {
    let mut response = bytes("text/plain; charset=utf-8", text.into());
    *response.status_mut() = code;
    response.headers_mut().insert("x-content-type-options", HeaderValue::from_static("nosniff"));
    response
}

/// A JSON document.
pub fn json(value: &Value) -> Response<Body> {
    bytes("application/json", serde_json::to_vec(value).expect("a JSON value always serializes"))
}

/// Whether a media range of the Accept header names `media_type`; without a header nothing is named.
pub fn names(headers: &HeaderMap, media_type: &str) -> bool {
    ranges(headers)
        .any(|range| range.split(';').next().is_some_and(|t| t.trim().eq_ignore_ascii_case(media_type)))
}

/// The media ranges of the Accept headers in order.
pub fn ranges(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    headers
        .get_all(header::ACCEPT)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .map(str::trim)
}

/// Whether the client takes gzip.
pub fn takes_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|e| {
            let mut parts = e.split(';');
            let refused = |q: &str| q.trim().strip_prefix("q=").is_some_and(|q| q.parse::<f32>() == Ok(0.0));
            parts.next().is_some_and(|name| name.trim().eq_ignore_ascii_case("gzip")) && !parts.any(refused)
        })
}

/// Compresses a large body of known length. The work is done off the threads that serve.
pub async fn compress(response: Response<Body>) -> Response<Body> {
    let large = response.body().known_len().is_some_and(|len| len > GZIP_THRESHOLD_BYTES);
    if !large
        || response.headers().contains_key(header::CONTENT_ENCODING)
        || response.status() != StatusCode::OK
    {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let Body::Chunks(chunks) = body else { return Response::from_parts(parts, body) };
    let kept = chunks.clone();
    let compressed = tokio::task::spawn_blocking(move || {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::new(1));
        for chunk in &chunks {
            encoder.write_all(chunk)?;
        }
        encoder.finish()
    })
    .await;
    match compressed {
        Ok(Ok(compressed)) => {
            parts.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            parts.headers.append(header::VARY, HeaderValue::from_static("Accept-Encoding"));
            parts.headers.remove(header::CONTENT_LENGTH);
            Response::from_parts(parts, Body::full(compressed))
        }
        _ => Response::from_parts(parts, Body::Chunks(kept)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_taken_only_when_named_and_not_refused() {
        for (value, takes) in
            [("gzip", true), ("deflate, gzip;q=1.0", true), ("gzip;q=0", false), ("identity", false)]
        {
            let headers = HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]);
            assert_eq!(takes_gzip(&headers), takes, "{value}");
        }
    }

    #[tokio::test]
    async fn large_bodies_shrink_and_small_ones_stay() {
        let large = compress(bytes("application/json", vec![b'x'; 200_000])).await;
        assert_eq!(large.headers()[header::CONTENT_ENCODING], "gzip");
        assert!(large.body().known_len().unwrap() < 10_000);
        let small = compress(bytes("application/json", vec![b'x'; 100_000])).await;
        assert!(!small.headers().contains_key(header::CONTENT_ENCODING));
    }
}
