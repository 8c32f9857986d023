//! How a request reaches an API server: in the same process, or over HTTPS.

use crate::{Body, Error};
use bytes::Bytes;
use futures_util::future::BoxFuture;

/// Carries one request to an API server under the identity it was made with. The URI is path and query only.
pub trait Transport: Send + Sync + 'static {
    /// Sends `request`; resolves when the response's head is there.
    fn send(&self, request: http::Request<Bytes>) -> BoxFuture<'static, Result<http::Response<Body>, Error>>;

    /// Who is at the other end, for messages.
    fn server(&self) -> String;
}
