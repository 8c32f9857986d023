//! Everything that is not a resource: discovery, version, health, metrics, OpenAPI, the keys of
//! service-account tokens, and the list of paths.

use super::authn::{Tokens, is_health_path};
use super::discovery::Discovery;
use super::flowcontrol::FlowControl;
use super::health::Health;
use super::openapi::OpenApi;
use super::respond;
use crate::registry::Registry;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode};
use knarr_base::Ctx;
use knarr_client::Body;
use knarr_meta::status::Status;
use serde_json::{Value, json};
use std::sync::Arc;

/// The Kubernetes version that is served.
pub const GIT_VERSION: &str = concat!("v1.36.0+knarr.", env!("CARGO_PKG_VERSION"));

/// The non-resource documents.
pub struct Documents {
    pub(crate) ctx: Ctx,
    pub(crate) registry: Arc<Registry>,
    pub(crate) discovery: Discovery,
    pub(crate) flow: Arc<FlowControl>,
    pub(crate) openapi: OpenApi,
    pub(crate) health: Health,
    pub(crate) tokens: Arc<Tokens>,
    /// Where the JSON Web Key Set is reached, for the OpenID configuration.
    pub(crate) jwks_uri: String,
}

impl Documents {
    /// The answer to a path that is no resource.
    pub async fn serve(
        &self,
        method: &Method,
        path: &str,
        query: &[(String, String)],
        headers: &HeaderMap,
    ) -> Response<Body> {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let known = self.get(path, query, headers).await.is_some();
            if known {
                let resource = knarr_meta::gvk::GroupResource::default();
                let action = method.as_str().to_ascii_lowercase();
                return respond::status(&Status::method_not_supported(&resource, &action), headers);
            }
            return not_found();
        }
        self.get(path, query, headers).await.unwrap_or_else(not_found)
    }

    async fn get(
        &self,
        path: &str,
        query: &[(String, String)],
        headers: &HeaderMap,
    ) -> Option<Response<Body>> {
        if is_health_path(path) {
            return Some(self.health.serve(path, query).await);
        }
        match path.trim_end_matches('/') {
            "" | "/index.html" => Some(respond::json(&self.paths())),
            "/version" => Some(respond::json(&version())),
            "/metrics" => Some(respond::bytes(
                "application/openmetrics-text; version=1.0.0; charset=utf-8",
                self.ctx.metrics.encode(),
            )),
            "/.well-known/openid-configuration" => Some(cached(respond::json(&self.openid_configuration()))),
            "/openid/v1/jwks" => {
                let keys = serde_json::to_vec(&self.tokens.jwks()).expect("a JSON value always serializes");
                Some(cached(respond::bytes("application/jwk-set+json", keys)))
            }
            "/openapi/v2" => {
                self.registry.settle().await;
                Some(self.openapi.v2(headers).await)
            }
            other if other == "/openapi/v3" || other.starts_with("/openapi/v3/") => {
                self.registry.settle().await;
                self.openapi.v3(other, query, headers).await
            }
            other => match other.strip_prefix("/debug/api_priority_and_fairness/") {
                Some(table) => self.flow.dump(table).map(|text| respond::text(StatusCode::OK, text)),
                None => {
                    self.registry.settle().await;
                    self.discovery.serve(other, headers)
                }
            },
        }
    }

    fn paths(&self) -> Value {
        let mut paths = self.discovery.paths();
        for path in [
            "/.well-known/openid-configuration",
            "/healthz",
            "/healthz/etcd",
            "/healthz/log",
            "/healthz/ping",
            "/livez",
            "/livez/etcd",
            "/livez/log",
            "/livez/ping",
            "/metrics",
            "/openapi/v2",
            "/openapi/v3",
            "/openid/v1/jwks",
            "/readyz",
            "/readyz/etcd",
            "/readyz/log",
            "/readyz/ping",
            "/version",
        ] {
            paths.push(path.to_owned());
        }
        paths.sort();
        json!({"paths": paths})
    }

    fn openid_configuration(&self) -> Value {
        json!({
            "issuer": self.tokens.issuer(),
            "jwks_uri": self.jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })
    }
}

/// Whoever verifies tokens may keep the keys for an hour, as upstream says.
fn cached(mut response: Response<Body>) -> Response<Body> {
    let value = HeaderValue::from_static("public, max-age=3600");
    response.headers_mut().insert(header::CACHE_CONTROL, value);
    response
}

fn not_found() -> Response<Body> {
    respond::text(StatusCode::NOT_FOUND, "404 page not found\n")
}

/// The version document.
fn version() -> Value {
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    json!({
        "major": "1",
        "minor": "36",
        "emulationMajor": "1",
        "emulationMinor": "36",
        "minCompatibilityMajor": "1",
        "minCompatibilityMinor": "35",
        "gitVersion": GIT_VERSION,
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "",
        "goVersion": "",
        "compiler": "rustc",
        "platform": format!("linux/{architecture}"),
    })
}
