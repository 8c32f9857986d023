//! The generic registry: every verb of every kind that a [`ResourceDef`] declares, over one store.

use crate::admission::Plugin;
use crate::def::ResourceDef;
use crate::request::{Reader, RequestCx};
use bytes::Bytes;
use knarr_base::Ctx;
use knarr_client::Body;
use knarr_meta::status::Status;
use knarr_store::Store;
use std::sync::Arc;

/// All served kinds over one store. See the module's documentation.
pub struct Registry {
    defs: Vec<Arc<ResourceDef>>,
}

impl Registry {
    /// A registry that serves `defs` out of `store`, with the admission plugins in the order they run.
    pub fn new(
        _ctx: &Ctx,
        _store: Arc<dyn Store>,
        defs: Vec<ResourceDef>,
        _plugins: Vec<Arc<dyn Plugin>>,
    ) -> Arc<Self> {
        Arc::new(Self { defs: defs.into_iter().map(Arc::new).collect() })
    }

    /// What is served.
    pub fn defs(&self) -> &[Arc<ResourceDef>] {
        &self.defs
    }

    /// Serves one request on a resource. Never fails: an error is rendered as a Status.
    pub async fn serve(
        self: &Arc<Self>,
        _cx: RequestCx,
        parts: http::request::Parts,
        _body: Bytes,
    ) -> http::Response<Body> {
        let accept = parts.headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok());
        status_response(&Status::internal("the registry is not ready".to_owned()), accept)
    }

    /// Reads out of the watch cache, for authorizers and admission.
    pub fn reader(self: &Arc<Self>) -> Arc<dyn Reader> {
        Arc::new(NoReader)
    }
}

struct NoReader;

impl Reader for NoReader {
    fn get(&self, _: &str, _: &str, _: &str, _: &str) -> Option<Arc<serde_json::Value>> {
        None
    }
    fn list(&self, _: &str, _: &str, _: &str) -> Vec<Arc<serde_json::Value>> {
        Vec::new()
    }
    fn revision(&self, _: &str, _: &str) -> u64 {
        0
    }
}

/// A response that carries `status`, in the form the `Accept` header asks for (JSON when it asks for none
/// that is served).
pub fn status_response(status: &Status, _accept: Option<&str>) -> http::Response<Body> {
    let json = serde_json::to_vec(&status.to_json()).expect("a JSON value always serializes");
    http::Response::builder()
        .status(status.code)
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Body::full(json))
        .expect("a status is a valid response")
}
