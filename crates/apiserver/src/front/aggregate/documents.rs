//! What extension API servers say of themselves, fetched when an API service comes or changes and once a minute:
//! discovery (aggregated, or made of the legacy form), the index of their OpenAPI v3, and their OpenAPI v2. A server
//! that cannot be asked keeps what it said last, marked stale.

use super::availability::aggregator_user;
use super::service::{Remote, Service};
use super::{Aggregator, identity, openapi};
use crate::request::UserInfo;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use knarr_api::apiregistration::v1::APIService;
use knarr_client::{Informer, WorkQueue};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// How often the documents are looked at again; also the longest wait after a failure.
const REFRESH: Duration = Duration::from_secs(60);
/// The first wait after a failure.
const FIRST_RETRY: Duration = Duration::from_millis(500);
const DISCOVERY_LIMIT: Duration = Duration::from_secs(5);
const OPENAPI_LIMIT: Duration = Duration::from_secs(60);
const WORKERS: usize = 2;
const ACCEPT_DISCOVERY: HeaderValue = HeaderValue::from_static(
    "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
);
const ACCEPT_JSON: HeaderValue = HeaderValue::from_static("application/json");

/// The documents about one group version.
#[derive(Clone, Debug, Default)]
pub struct Fetched {
    /// The `resources` of its APIVersionDiscovery.
    pub resources: Option<Value>,
    /// Whether the last fetch succeeded.
    pub current: bool,
    /// OpenAPI v3: paths (`apis/<group>/<version>`) to URLs with hashes.
    pub v3: BTreeMap<String, String>,
    /// OpenAPI v2, this group version's part.
    pub v2: Option<Arc<Value>>,
    discovery_etag: Option<HeaderValue>,
    v2_etag: Option<HeaderValue>,
}

impl Fetched {
    /// The APIVersionDiscovery.
    pub fn version(&self, version: &str) -> Value {
        let freshness = if self.current { "Current" } else { "Stale" };
        match &self.resources {
            Some(resources) => json!({"version": version, "resources": resources, "freshness": freshness}),
            None => json!({"version": version, "freshness": freshness}),
        }
    }

    /// Whether clients would see a difference.
    fn says_the_same(&self, other: &Self) -> bool {
        let same_v2 = match (&self.v2, &other.v2) {
            (Some(one), Some(two)) => Arc::ptr_eq(one, two),
            (None, None) => true,
            _ => false,
        };
        self.resources == other.resources && self.current == other.current && self.v3 == other.v3 && same_v2
    }
}

struct Documents {
    aggregator: Arc<Aggregator>,
    queue: WorkQueue<String>,
}

/// Starts to fetch.
pub fn start(aggregator: &Arc<Aggregator>, services: &Informer<APIService>) {
    let queue = WorkQueue::new(aggregator.ctx.clone());
    let on_change = queue.clone();
    services
        .on_change(move |change| on_change.add(change.object().metadata.name.clone().unwrap_or_default()));
    let this = Arc::new(Documents { aggregator: aggregator.clone(), queue });
    for _ in 0..WORKERS {
        let this = this.clone();
        aggregator.ctx.tasks.spawn_until_stopped("documents of extension API servers", async move {
            this.work().await;
        });
    }
}

impl Documents {
    async fn work(&self) {
        while let Some(name) = self.queue.next().await {
            match self.sync(&name).await {
                Some(true) => {
                    self.queue.forget(&name);
                    self.queue.add_after(name.clone(), REFRESH);
                }
                Some(false) => {
                    let failures = self.queue.failures(&name);
                    self.queue.add_rate_limited(name.clone());
                    let wait = FIRST_RETRY.saturating_mul(1 << failures.min(10));
                    self.queue.add_after(name.clone(), wait.min(REFRESH));
                }
                None => self.queue.forget(&name),
            }
            self.queue.done(&name);
        }
    }

    /// Fetches what concerns one API service; `None` when nothing is to be fetched, else whether all went well.
    async fn sync(&self, name: &str) -> Option<bool> {
        let service = self.aggregator.service(name).filter(|service| service.remote.is_some());
        let Some((service, remote)) = service.as_ref().and_then(|s| Some((s, s.remote.as_ref()?))) else {
            self.aggregator.publish(name, None);
            return None;
        };
        let before = self.aggregator.fetched(name).unwrap_or_default();
        let mut now = Fetched::clone(&before);
        let discovered = discovery(service, remote, &mut now).await;
        if let Err(error) = &discovered {
            tracing::debug!(name, error, "discovery of an extension API server failed");
        }
        now.current = discovered.is_ok();
        // Discovery is there without waiting for the larger documents.
        if !now.says_the_same(&before) {
            self.aggregator.publish(name, Some(now.clone()));
        }
        let mut specified = Ok(());
        if remote.available {
            let shown = now.clone();
            specified = specifications(service, remote, &mut now).await;
            if let Err(error) = &specified {
                tracing::debug!(name, error, "OpenAPI of an extension API server failed");
            }
            if !now.says_the_same(&shown) {
                self.aggregator.publish(name, Some(now));
            }
        }
        Some(discovered.is_ok() && specified.is_ok())
    }
}

fn request(path: &str, user: &UserInfo, accept: HeaderValue) -> Result<Request<()>, String> {
    let mut request = Request::new(());
    *request.uri_mut() = path.parse().map_err(|e| format!("{path}: {e}"))?;
    request.headers_mut().insert(header::ACCEPT, accept);
    identity::set(request.headers_mut(), user)?;
    Ok(request)
}

async fn fetch(remote: &Remote, request: Request<()>, limit: Duration) -> Result<Response<Bytes>, String> {
    let backend = remote.backend.as_ref().map_err(Clone::clone)?;
    backend.fetch(request, limit, false).await
}

fn json_of(response: &Response<Bytes>) -> Result<Value, String> {
    serde_json::from_slice(response.body()).map_err(|e| e.to_string())
}

fn is_aggregated(response: &Response<Bytes>) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    let parameters: Vec<&str> = content_type.unwrap_or_default().split(';').map(str::trim).collect();
    parameters.contains(&"g=apidiscovery.k8s.io")
        && parameters.contains(&"as=APIGroupDiscoveryList")
        && (parameters.contains(&"v=v2") || parameters.contains(&"v=v2beta1"))
}

/// The aggregated document, or else the legacy one of the group version.
async fn discovery(service: &Service, remote: &Remote, fetched: &mut Fetched) -> Result<(), String> {
    let mut asking = request("/apis", &aggregator_user(), ACCEPT_DISCOVERY)?;
    if let Some(etag) = fetched.discovery_etag.as_ref().filter(|_| fetched.resources.is_some()) {
        asking.headers_mut().insert(header::IF_NONE_MATCH, etag.clone());
    }
    let response = fetch(remote, asking, DISCOVERY_LIMIT).await?;
    match response.status() {
        StatusCode::NOT_MODIFIED => return Ok(()),
        StatusCode::SERVICE_UNAVAILABLE => return Err("non-success response code: 503".to_owned()),
        StatusCode::OK if is_aggregated(&response) => {
            let document = json_of(&response)?;
            fetched.resources = resources_of(document, &service.group, &service.version);
            fetched.discovery_etag = response.headers().get(header::ETAG).cloned();
            return Ok(());
        }
        _ => {}
    }
    let user = UserInfo { name: "system:kube-aggregator".to_owned(), ..UserInfo::default() };
    let path = service.discovery_path();
    let response = fetch(remote, request(&path, &user, ACCEPT_JSON)?, DISCOVERY_LIMIT).await?;
    if response.status() != StatusCode::OK {
        return Err(format!(
            "failed to download legacy discovery for {path}: {}",
            response.status().as_u16()
        ));
    }
    fetched.resources = Some(from_legacy(&json_of(&response)?)?);
    fetched.discovery_etag = None;
    Ok(())
}

/// The resources of one group version in an APIGroupDiscoveryList.
fn resources_of(mut document: Value, group: &str, version: &str) -> Option<Value> {
    let groups = document["items"].as_array_mut()?;
    let of_group = groups.iter_mut().find(|g| g["metadata"]["name"].as_str().unwrap_or_default() == group)?;
    let versions = of_group["versions"].as_array_mut()?;
    let of_version = versions.iter_mut().find(|v| v["version"] == version)?;
    let mut resources = of_version.get_mut("resources")?.take();
    // Old clients stumble over entries without a kind.
    for resource in resources.as_array_mut().into_iter().flatten() {
        with_kind(resource);
        let subresources = resource.get_mut("subresources").and_then(Value::as_array_mut);
        subresources.into_iter().flatten().for_each(with_kind);
    }
    Some(resources)
}

fn with_kind(entry: &mut Value) {
    if let Some(entry) = entry.as_object_mut()
        && !entry.get("responseKind").is_some_and(Value::is_object)
    {
        entry.insert("responseKind".to_owned(), json!({"group": "", "version": "", "kind": ""}));
    }
}

/// The resources of an APIResourceList in the aggregated form.
fn from_legacy(list: &Value) -> Result<Value, String> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let scope = |r: &Value| if r["namespaced"] == true { "Namespaced" } else { "Cluster" };
    let kind = |r: &Value| json!({"group": text(&r["group"]), "version": text(&r["version"]), "kind": text(&r["kind"])});
    let all = list["resources"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut resources: Vec<Map<String, Value>> = Vec::new();
    for resource in all.iter().filter(|r| !text(&r["name"]).contains('/')) {
        let mut entry = Map::new();
        entry.insert("resource".to_owned(), resource["name"].clone());
        entry.insert("responseKind".to_owned(), kind(resource));
        entry.insert("scope".to_owned(), scope(resource).into());
        entry.insert("singularResource".to_owned(), text(&resource["singularName"]).into());
        entry.insert("verbs".to_owned(), resource["verbs"].clone());
        for field in ["shortNames", "categories"] {
            if resource[field].is_array() {
                entry.insert(field.to_owned(), resource[field].clone());
            }
        }
        resources.push(entry);
    }
    for resource in all {
        let name = text(&resource["name"]);
        let Some((parent, sub)) = name.split_once('/') else { continue };
        let at = resources.iter().position(|r| r["resource"] == parent).unwrap_or_else(|| {
            let orphan = json!({
                "resource": parent,
                "scope": scope(resource),
                "responseKind": {"group": "", "version": "", "kind": ""},
                "singularResource": "",
                "verbs": [],
            });
            resources.push(orphan.as_object().cloned().unwrap_or_default());
            resources.len() - 1
        });
        if resources[at]["scope"] != scope(resource) {
            return Err(format!(
                "Error: Parent {parent} (scope: {}) and subresource {sub} (scope: {}) scope do not match",
                text(&resources[at]["scope"]),
                scope(resource)
            ));
        }
        let of_kind = match text(&resource["kind"]).is_empty() {
            true => json!({"group": "", "version": "", "kind": ""}),
            false => kind(resource),
        };
        let entry = json!({"subresource": sub, "responseKind": of_kind, "verbs": resource["verbs"]});
        let list = resources[at].entry("subresources").or_insert_with(|| json!([]));
        if let Some(list) = list.as_array_mut() {
            list.push(entry);
        }
    }
    Ok(resources.into_iter().map(Value::Object).collect())
}

/// The index of OpenAPI v3, and OpenAPI v2.
async fn specifications(service: &Service, remote: &Remote, fetched: &mut Fetched) -> Result<(), String> {
    let user = UserInfo { name: "system:aggregator".to_owned(), ..UserInfo::default() };
    let response = fetch(remote, request("/openapi/v3", &user, ACCEPT_JSON)?, OPENAPI_LIMIT).await?;
    match response.status() {
        StatusCode::OK => {
            let index = json_of(&response)?;
            let paths = index["paths"].as_object().into_iter().flatten();
            fetched.v3 = paths
                .filter_map(|(path, entry)| {
                    Some((path.clone(), entry["serverRelativeURL"].as_str()?.to_owned()))
                })
                .collect();
        }
        StatusCode::NOT_FOUND => fetched.v3.clear(),
        other => return Err(format!("/openapi/v3: {}", other.as_u16())),
    }
    let mut asking = request("/openapi/v2", &user, ACCEPT_JSON)?;
    if let Some(etag) = fetched.v2_etag.as_ref().filter(|_| fetched.v2.is_some()) {
        asking.headers_mut().insert(header::IF_NONE_MATCH, etag.clone());
    }
    let response = fetch(remote, asking, OPENAPI_LIMIT).await?;
    match response.status() {
        StatusCode::NOT_MODIFIED => {}
        StatusCode::OK => {
            let prefix = format!("{}/", service.discovery_path());
            let part = openapi::filter(json_of(&response)?, &prefix);
            if part.as_ref() != fetched.v2.as_deref() {
                fetched.v2 = part.map(Arc::new);
            }
            fetched.v2_etag = response.headers().get(header::ETAG).cloned();
        }
        StatusCode::NOT_FOUND => fetched.v2 = None,
        other => return Err(format!("/openapi/v2: {}", other.as_u16())),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_legacy_form_becomes_the_aggregated_one() {
        let list = json!({"resources": [
            {"name": "flunders", "singularName": "flunder", "namespaced": true, "kind": "Flunder",
             "verbs": ["get", "list"], "shortNames": ["fl"]},
            {"name": "flunders/status", "singularName": "", "namespaced": true, "kind": "Flunder", "verbs": ["get"]},
            {"name": "orphans/scale", "singularName": "", "namespaced": false, "kind": "Scale",
             "group": "autoscaling", "version": "v1", "verbs": ["get"]},
        ]});
        let resources = from_legacy(&list).unwrap();
        assert_eq!(
            resources[0],
            json!({"resource": "flunders", "singularResource": "flunder", "scope": "Namespaced",
                "responseKind": {"group": "", "version": "", "kind": "Flunder"}, "verbs": ["get", "list"],
                "shortNames": ["fl"],
                "subresources": [{"subresource": "status", "verbs": ["get"],
                    "responseKind": {"group": "", "version": "", "kind": "Flunder"}}]})
        );
        assert_eq!(resources[1]["resource"], "orphans");
        assert_eq!(resources[1]["subresources"][0]["responseKind"]["group"], "autoscaling");
        let odd = json!({"resources": [
            {"name": "a", "namespaced": true, "verbs": []}, {"name": "a/b", "namespaced": false, "verbs": []}]});
        assert!(from_legacy(&odd).unwrap_err().contains("scope do not match"));
    }

    #[test]
    fn a_group_version_is_found_in_the_aggregated_document() {
        let document = json!({"items": [
            {"metadata": {"name": "a"}, "versions": [{"version": "v1", "resources": [{"resource": "x"}]}]},
            {"metadata": {"name": "b"}, "versions": [
                {"version": "v1", "resources": [{"resource": "y", "subresources": [{"subresource": "z"}]}]}]},
        ]});
        let found = resources_of(document.clone(), "b", "v1").unwrap();
        assert_eq!(found[0]["resource"], "y");
        assert_eq!(found[0]["subresources"][0]["responseKind"]["kind"], "");
        assert!(resources_of(document, "b", "v2").is_none());
    }
}
