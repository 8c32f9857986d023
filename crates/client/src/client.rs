//! Typed and raw calls to the API.

use crate::path::push_query;
use crate::watch::Watcher;
use crate::{Body, Error, ResourcePath, Transport};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use knarr_api::Kind;
use knarr_base::Ctx;
use knarr_meta::status::Status;
use serde_json::Value;
use serde_json::value::RawValue;
use std::sync::Arc;

/// A client under one identity. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    transport: Arc<dyn Transport>,
    user_agent: Arc<str>,
    ctx: Ctx,
}

/// Which objects of a collection, and in what portions.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// Label selector, empty for all.
    pub label_selector: String,
    /// Field selector, empty for all.
    pub field_selector: String,
    /// At most this many; 0 for all.
    pub limit: usize,
    /// Continue token of the previous portion.
    pub continue_token: String,
    /// resourceVersion, empty for the latest.
    pub resource_version: String,
}

impl ListOptions {
    /// The options as query parameters of `url`.
    pub fn append_to(&self, url: &mut String) {
        let limit = if self.limit == 0 { String::new() } else { self.limit.to_string() };
        for (name, value) in [
            ("labelSelector", &self.label_selector),
            ("fieldSelector", &self.field_selector),
            ("limit", &limit),
            ("continue", &self.continue_token),
            ("resourceVersion", &self.resource_version),
        ] {
            if !value.is_empty() {
                push_query(url, name, value);
            }
        }
    }
}

/// A listed collection.
#[derive(Clone, Debug)]
pub struct List<T> {
    /// The objects.
    pub items: Vec<T>,
    /// The revision of the list, to watch from.
    pub resource_version: String,
    /// Token for the next portion, empty at the end.
    pub continue_token: String,
}

/// How an object is deleted.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Seconds until it must be gone.
    pub grace_period_seconds: Option<i64>,
    /// `Background`, `Foreground` or `Orphan`.
    pub propagation_policy: Option<&'static str>,
    /// Only if it has this UID.
    pub uid: Option<String>,
    /// Only if it has this resourceVersion.
    pub resource_version: Option<String>,
}

/// A change to an object.
#[derive(Clone, Debug)]
pub enum Patch {
    /// RFC 6902.
    Json(Value),
    /// RFC 7386.
    Merge(Value),
    /// Strategic merge.
    Strategic(Value),
    /// Server-side apply, taking over conflicting fields if `force`.
    Apply {
        /// The fields to own.
        object: Value,
        /// The owner.
        field_manager: String,
        /// Take over conflicting fields.
        force: bool,
    },
}

impl Client {
    /// A client that names itself `user_agent` (also the field manager of its writes).
    pub fn new(transport: Arc<dyn Transport>, user_agent: &str, ctx: Ctx) -> Self {
        Self { transport, user_agent: user_agent.into(), ctx }
    }

    /// Clock, random numbers and tasks of the owner.
    pub fn ctx(&self) -> &Ctx {
        &self.ctx
    }

    /// Sends any request; `url` is path and query. Error statuses come back as [`Error::Api`].
    pub async fn request(
        &self,
        method: Method,
        url: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Response<Body>, Error> {
        self.request_as(method, url, JSON, content_type, body).await
    }

    async fn request_as(
        &self,
        method: Method,
        url: &str,
        accept: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<Response<Body>, Error> {
        let mut request = Request::builder()
            .method(method)
            .uri(url)
            .header(header::USER_AGENT, &*self.user_agent)
            .header(header::ACCEPT, accept);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(body).map_err(|e| Error::Config(format!("request to {url}: {e}")))?;
        let response = self.transport.send(request).await?;
        if response.status().is_success() || response.status() == http::StatusCode::SWITCHING_PROTOCOLS {
            return Ok(response);
        }
        let code = response.status().as_u16();
        let body = self.collect(response).await?;
        Err(match serde_json::from_slice::<Value>(&body).ok().and_then(|v| Status::from_json(&v)) {
            Some(status) => status.into(),
            None => Error::Protocol(format!("HTTP {code} from {url}: {}", String::from_utf8_lossy(&body))),
        })
    }

    async fn collect(&self, response: Response<Body>) -> Result<Bytes, Error> {
        let server = self.transport.server();
        response.into_body().collect().await.map_err(|source| Error::Connect { server, source })
    }

    /// The document at a path, in the form that `accept` asks for.
    pub async fn get_as(&self, url: &str, accept: &str) -> Result<Bytes, Error> {
        let response = self.request_as(Method::GET, url, accept, "", Bytes::new()).await?;
        self.collect(response).await
    }

    /// Sends a JSON body (`Null` for none) and reads the whole answer.
    pub async fn call(&self, method: Method, url: &str, body: &Value) -> Result<Bytes, Error> {
        let body = if body.is_null() { Bytes::new() } else { encode(body) };
        let response = self.request(method, url, "application/json", body).await?;
        self.collect(response).await
    }

    async fn send<K: Kind>(
        &self,
        method: Method,
        url: &str,
        content_type: &str,
        body: Bytes,
    ) -> Result<K, Error> {
        let response = self.request(method, url, content_type, body).await?;
        decode(&self.collect(response).await?)
    }

    /// One object.
    pub async fn get<K: Kind>(&self, namespace: &str, name: &str) -> Result<K, Error> {
        let url = ResourcePath::of::<K>().url(namespace, name, "");
        self.send(Method::GET, &url, "", Bytes::new()).await
    }

    /// One object, `None` if it does not exist.
    pub async fn get_opt<K: Kind>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        match self.get(namespace, name).await {
            Ok(object) => Ok(Some(object)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A collection (all namespaces when `namespace` is empty).
    pub async fn list<K: Kind>(&self, namespace: &str, options: &ListOptions) -> Result<List<K>, Error> {
        let raw = self.list_raw(&ResourcePath::of::<K>(), namespace, options, JSON).await?;
        let items = raw.items.iter().map(|item| decode(item)).collect::<Result<_, _>>()?;
        Ok(List { items, resource_version: raw.resource_version, continue_token: raw.continue_token })
    }

    /// A collection, each item as JSON text without kind and apiVersion.
    pub async fn list_raw(
        &self,
        path: &ResourcePath,
        namespace: &str,
        options: &ListOptions,
        accept: &str,
    ) -> Result<List<Bytes>, Error> {
        #[derive(serde::Deserialize)]
        struct RawList<'a> {
            #[serde(default)]
            metadata: ListMeta,
            #[serde(borrow)]
            items: Option<Vec<&'a RawValue>>,
        }
        #[derive(serde::Deserialize, Default)]
        #[serde(default, rename_all = "camelCase")]
        struct ListMeta {
            resource_version: String,
            r#continue: String,
        }
        let mut url = path.url(namespace, "", "");
        options.append_to(&mut url);
        let response = self.request_as(Method::GET, &url, accept, "", Bytes::new()).await?;
        let body = self.collect(response).await?;
        let list: RawList =
            serde_json::from_slice(&body).map_err(|e| Error::Protocol(format!("list at {url}: {e}")))?;
        let items =
            list.items.unwrap_or_default().iter().map(|raw| body.slice_ref(raw.get().as_bytes())).collect();
        Ok(List {
            items,
            resource_version: list.metadata.resource_version,
            continue_token: list.metadata.r#continue,
        })
    }

    /// Creates an object. Its namespace (empty for cluster-scoped kinds) is taken from the object.
    pub async fn create<K: Kind>(&self, object: &K) -> Result<K, Error> {
        let url = ResourcePath::of::<K>().url(object.namespace(), "", "");
        self.send(Method::POST, &url, "application/json", object.encode().into()).await
    }

    /// Creates something under an object, such as a binding, an eviction or a token request.
    pub async fn create_subresource<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        body: &Value,
    ) -> Result<Value, Error> {
        let url = ResourcePath::of::<K>().url(namespace, name, subresource);
        let answer = self.call(Method::POST, &url, body).await?;
        serde_json::from_slice(&answer).map_err(|e| Error::Protocol(format!("{url}: {e}")))
    }

    /// Replaces an object; a conflict if its resourceVersion is not the latest.
    pub async fn update<K: Kind>(&self, object: &K) -> Result<K, Error> {
        self.put(object, "").await
    }

    /// Replaces an object's status.
    pub async fn update_status<K: Kind>(&self, object: &K) -> Result<K, Error> {
        self.put(object, "status").await
    }

    async fn put<K: Kind>(&self, object: &K, subresource: &str) -> Result<K, Error> {
        let url = ResourcePath::of::<K>().url(object.namespace(), object.name(), subresource);
        self.send(Method::PUT, &url, "application/json", object.encode().into()).await
    }

    /// Patches an object, or its `subresource` if that is not empty.
    pub async fn patch<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Patch,
    ) -> Result<K, Error> {
        let answer = self.patch_raw(&ResourcePath::of::<K>(), namespace, name, subresource, patch).await?;
        decode(&answer)
    }

    /// [`Client::patch`] for any resource.
    pub async fn patch_raw(
        &self,
        path: &ResourcePath,
        namespace: &str,
        name: &str,
        subresource: &str,
        patch: &Patch,
    ) -> Result<Bytes, Error> {
        let mut url = path.url(namespace, name, subresource);
        let (content_type, body) = match patch {
            Patch::Json(body) => ("application/json-patch+json", body),
            Patch::Merge(body) => ("application/merge-patch+json", body),
            Patch::Strategic(body) => ("application/strategic-merge-patch+json", body),
            Patch::Apply { object, field_manager, force } => {
                push_query(&mut url, "fieldManager", field_manager);
                push_query(&mut url, "force", if *force { "true" } else { "false" });
                ("application/apply-patch+yaml", object)
            }
        };
        let response = self.request(Method::PATCH, &url, content_type, encode(body)).await?;
        self.collect(response).await
    }

    /// Deletes an object.
    pub async fn delete<K: Kind>(
        &self,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        self.delete_raw(&ResourcePath::of::<K>(), namespace, name, options).await
    }

    /// [`Client::delete`] for any resource; with an empty `name` the whole collection.
    pub async fn delete_raw(
        &self,
        path: &ResourcePath,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<(), Error> {
        let mut body = serde_json::json!({ "kind": "DeleteOptions", "apiVersion": "v1" });
        if let Some(seconds) = options.grace_period_seconds {
            body["gracePeriodSeconds"] = seconds.into();
        }
        if let Some(policy) = options.propagation_policy {
            body["propagationPolicy"] = policy.into();
        }
        if let Some(uid) = &options.uid {
            body["preconditions"]["uid"] = uid.as_str().into();
        }
        if let Some(version) = &options.resource_version {
            body["preconditions"]["resourceVersion"] = version.as_str().into();
        }
        self.call(Method::DELETE, &path.url(namespace, name, ""), &body).await.map(drop)
    }

    /// Watches a collection from `options.resource_version` on, with bookmarks. `accept` chooses the form of
    /// the objects; [`JSON`] is the usual one.
    pub async fn watch(
        &self,
        path: &ResourcePath,
        namespace: &str,
        options: &ListOptions,
        accept: &str,
    ) -> Result<Watcher, Error> {
        let mut url = path.url(namespace, "", "");
        push_query(&mut url, "watch", "true");
        push_query(&mut url, "allowWatchBookmarks", "true");
        options.append_to(&mut url);
        let response = self.request_as(Method::GET, &url, accept, "", Bytes::new()).await?;
        Ok(Watcher::new(response.into_body(), self.transport.server()))
    }
}

/// Full objects as JSON.
pub const JSON: &str = "application/json";
/// Only the objects' metadata, as PartialObjectMetadata (and lists of them).
pub const METADATA_ONLY: &str = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
/// The same for a list.
pub const METADATA_LIST: &str = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";

fn encode(value: &Value) -> Bytes {
    serde_json::to_vec(value).expect("a JSON value always encodes").into()
}

fn decode<K: Kind>(json: &[u8]) -> Result<K, Error> {
    K::decode(json).map_err(|e| Error::Protocol(format!("{}: {e}", K::KIND)))
}
