//! The generic registry: every verb of every kind that a [`ResourceDef`] declares, over one store. A request
//! is routed here ([`Registry::serve`]), reads are in [`read`] and [`watch`], writes in [`write`], and what
//! is answered is put into the form the client asked for by [`render`].

mod admit;
mod body;
mod change;
mod computed;
mod connect;
mod continue_token;
mod create;
mod delete;
mod interfaces;
mod keep;
mod leases;
mod negotiate;
mod options;
mod parse;
mod patch;
mod read;
mod reader;
mod render;
mod resource;
mod served;
mod sizes;
mod strict;
mod subresource;
mod table;
#[cfg(test)]
mod tests;
mod update;
mod versions;
mod warnings;
mod watch;
mod write;

pub use negotiate::{Accept, Media};
pub use render::{ordered_json, pretty, status_response, to_yaml};

use crate::admission::Plugin;
use crate::authorize::{Attributes, Authorizer, Decision};
use crate::cache::Cache;
use crate::custom::CustomResources;
use crate::def::ResourceDef;
use crate::request::{Reader, RequestCx};
use bytes::Bytes;
use http::{Method, Response};
use knarr_base::Ctx;
use knarr_client::Body;
use knarr_meta::status::Status;
use knarr_store::Store;
use negotiate::Offers;
use render::{Answer, Rendering, status_in};
use resource::{Resource, Version};
use served::Catalog;
use std::sync::{Arc, OnceLock, Weak};
use write::Part;

/// All served kinds over one store. See the module's documentation.
pub struct Registry {
    ctx: Ctx,
    store: Arc<dyn Store>,
    catalog: Catalog,
    plugins: Vec<Arc<dyn Plugin>>,
    leases: leases::Leases,
    authorizer: OnceLock<Arc<dyn Authorizer>>,
    custom: OnceLock<Arc<CustomResources>>,
    myself: Weak<Registry>,
}

/// One request with what has been found out about it.
struct Call<'a> {
    cx: &'a RequestCx,
    resource: &'a Resource,
    resource_arc: &'a Arc<Resource>,
    version: &'a Version,
    version_index: usize,
    accept: Accept,
    parts: &'a http::request::Parts,
    /// The request's extensions, for handlers that take over the connection.
    extensions: std::sync::Mutex<http::Extensions>,
    body: Bytes,
}

impl Call<'_> {
    /// The request's head for a handler, extensions included (the first time).
    fn fresh_parts(&self) -> http::request::Parts {
        let mut request = http::Request::new(());
        *request.method_mut() = self.parts.method.clone();
        *request.uri_mut() = self.parts.uri.clone();
        *request.version_mut() = self.parts.version;
        *request.headers_mut() = self.parts.headers.clone();
        let mut extensions = self.extensions.lock().expect("no holder of the extensions panics");
        *request.extensions_mut() = std::mem::take(&mut *extensions);
        request.into_parts().0
    }

    /// 405: built-in kinds have no route for it; custom resources say what they are.
    fn not_allowed(&self) -> Status {
        if self.version.proto {
            return Status::method_not_allowed();
        }
        Status::method_not_supported(&self.resource.gr, &self.cx.info.verb)
    }

    /// What is to be held until the initial events of a watch have been sent.
    fn while_initializing(&self) -> Option<Box<dyn Send>> {
        let mut extensions = self.extensions.lock().expect("no holder of the extensions panics");
        extensions.remove::<crate::request::WhileInitializing>()?.take()
    }
}

impl Registry {
    /// A registry that serves `defs` out of `store`, with the admission plugins in the order they run.
    pub fn new(
        ctx: &Ctx,
        store: Arc<dyn Store>,
        defs: Vec<ResourceDef>,
        plugins: Vec<Arc<dyn Plugin>>,
    ) -> Arc<Self> {
        let catalog = Catalog::new(ctx, store.clone());
        catalog.install(defs);
        Arc::new_cyclic(|myself| Self {
            ctx: ctx.clone(),
            store,
            catalog,
            plugins,
            leases: leases::Leases::default(),
            authorizer: OnceLock::new(),
            custom: OnceLock::new(),
            myself: myself.clone(),
        })
    }

    /// What is served at the moment, built-in kinds first.
    pub fn defs(&self) -> Arc<[Arc<ResourceDef>]> {
        self.catalog.load().defs().clone()
    }

    /// Grows whenever [`Registry::defs`] changes.
    pub fn generation(&self) -> u64 {
        self.catalog.load().generation()
    }

    /// The generation and what is served in it.
    pub fn snapshot(&self) -> (u64, Arc<[Arc<ResourceDef>]>) {
        let served = self.catalog.load();
        (served.generation(), served.defs().clone())
    }

    /// Tells the generation whenever it grows.
    pub fn changes(&self) -> tokio::sync::watch::Receiver<u64> {
        self.catalog.changes()
    }

    /// Serves `defs` from now on, in place of whatever is served under the same groups and plural names. Requests
    /// under way finish as they began; watches of what is replaced end.
    pub fn install(&self, defs: Vec<ResourceDef>) {
        self.catalog.install(defs);
    }

    /// Stops serving a resource in all its versions. Requests under way finish; its watches end.
    pub fn uninstall(&self, group: &str, resource: &str) {
        self.catalog.remove(group, resource);
    }

    /// The declaration that serves a version of a resource.
    pub fn def(&self, group: &str, resource: &str, version: &str) -> Option<Arc<ResourceDef>> {
        self.catalog.load().version(group, resource, version).map(|(resource, _)| resource.def.clone())
    }

    /// Who is asked whether a user may create an object by update or apply. Until this is set, who may update
    /// or patch may.
    pub fn set_authorizer(&self, authorizer: Arc<dyn Authorizer>) {
        let _ = self.authorizer.set(authorizer);
    }

    /// Who serves custom resources. A request for something unknown waits for definitions that are being taken up.
    pub fn set_custom_resources(&self, custom: Arc<CustomResources>) {
        let _ = self.custom.set(custom);
    }

    /// Waits a moment for definitions of custom resources that this server has written and does not serve yet.
    pub async fn settle(&self) {
        if let Some(custom) = self.custom.get() {
            custom.settle().await;
        }
    }

    /// Whether a resource is served that is no custom one.
    pub fn is_built_in(&self, group: &str, resource: &str) -> bool {
        self.catalog.load().resource(group, resource).is_some_and(|resource| !resource.def.is_custom())
    }

    /// The cache of a resource.
    pub(crate) fn cache_of(&self, group: &str, resource: &str) -> Option<Arc<Cache>> {
        self.catalog.load().resource(group, resource).map(|resource| resource.cache.clone())
    }

    /// Fills the caches of these resources (group, resource), so that [`Registry::reader`] answers at once.
    pub async fn warm(&self, resources: &[(&str, &str)]) {
        for (group, name) in resources {
            if let Some(resource) = self.resource(group, name) {
                resource.cache.filled().await;
            }
        }
    }

    /// Fills all caches, however long that takes. Where the store is elsewhere the server's own reads rely on them.
    pub async fn warm_all(&self) {
        let caches = self.catalog.load().caches();
        for cache in &caches {
            cache.start();
        }
        for cache in &caches {
            cache.filled().await;
        }
    }

    fn resource(&self, group: &str, name: &str) -> Option<Arc<Resource>> {
        self.catalog.load().resource(group, name).cloned()
    }

    /// Reads out of the watch cache, for authorizers and admission.
    pub fn reader(self: &Arc<Self>) -> Arc<dyn Reader> {
        Arc::new(reader::RegistryReader(self.myself.clone()))
    }

    /// Serves one request on a resource. Never fails: an error is rendered as a Status.
    pub async fn serve(
        self: &Arc<Self>,
        cx: RequestCx,
        mut parts: http::request::Parts,
        body: Bytes,
    ) -> Response<Body> {
        let extensions = std::sync::Mutex::new(std::mem::take(&mut parts.extensions));
        if let Some(text) = deprecation(&cx.info) {
            cx.warn(text);
        }
        let mut response = self.answer(&cx, &parts, extensions, body).await;
        let warnings = std::mem::take(&mut *cx.warnings.lock().expect("warnings lock is never poisoned"));
        warnings::append(response.headers_mut(), &warnings);
        response
    }

    async fn answer(
        &self,
        cx: &RequestCx,
        parts: &http::request::Parts,
        extensions: std::sync::Mutex<http::Extensions>,
        body: Bytes,
    ) -> Response<Body> {
        let info = &cx.info;
        let refuse = |status: &Status| {
            let accept = parts.headers.get(http::header::ACCEPT).and_then(|v| v.to_str().ok());
            status_response(status, accept)
        };
        let find = || {
            let found = self.catalog.load();
            let found = found.version(&info.group, &info.resource, &info.version);
            found.map(|(resource, version)| (resource.clone(), version))
        };
        let mut found = find();
        if found.as_ref().is_none_or(|(resource, _)| resource.def.is_custom())
            && let Some(custom) = self.custom.get()
        {
            custom.settle().await;
            found = find();
        }
        let Some((resource, version_index)) = found else {
            return refuse(&Status::no_such_path());
        };
        let resource = &resource;
        if let Some(text) = &resource.def.deprecation {
            cx.warn(text.as_str());
        }
        let version = &resource.versions[version_index];
        let offers = Offers {
            proto: version.proto,
            tables: resource.def.create_only.is_none(),
            transforms: true,
            stream: info.subresource.is_empty() && is_watch(cx),
        };
        // Streams of another kind are nobody's to negotiate here.
        let accept = match negotiate::accept(&parts.headers, cx.query("pretty"), offers) {
            Ok(accept) => accept,
            Err(_) if !info.subresource.is_empty() => Accept::JSON,
            Err(status) => return refuse(&status),
        };
        let call = Call {
            cx,
            resource,
            resource_arc: resource,
            version,
            version_index,
            accept,
            parts,
            extensions,
            body,
        };
        let include = match accept.transform {
            None => "",
            Some(_) => match table::include(cx) {
                Ok(include) => include,
                Err(status) => return refuse(&status),
            },
        };
        match self.route(&call).await {
            Ok(answer) => {
                let now = self.ctx.clock.now();
                Rendering { resource, version, accept, now, include }.render(answer)
            }
            Err(status) => status_in(&status, Accept { transform: None, ..accept }),
        }
    }

    async fn route(&self, call: &Call<'_>) -> Result<Answer, Status> {
        let (info, def) = (&call.cx.info, &call.resource.def);
        let namespaced = call.resource.namespaced();
        if def.is_custom() && namespaced && info.namespace.is_empty() && !is_list(call.cx) {
            return Err(Status::no_such_path());
        }
        let outside = !namespaced && !info.namespace.is_empty() && def.resource != "namespaces";
        if outside || (namespaced && info.namespace.is_empty() && !info.name.is_empty() && !is_list(call.cx))
        {
            return Err(Status::no_such_path());
        }
        if namespaced && info.namespace.is_empty() && call.parts.method != Method::GET {
            // Writes need a namespace; reviews and the like of namespaced kinds do too.
            return Err(call.not_allowed());
        }
        if !info.subresource.is_empty() {
            let Some(sub) = def.subresources.iter().find(|sub| sub.name == info.subresource) else {
                return Err(Status::no_such_path());
            };
            return self.subresource(call, sub).await;
        }
        if let Some(handler) = &def.create_only {
            return match call.parts.method {
                Method::POST => self.create_only(call, &**handler).await,
                _ => Err(call.not_allowed()),
            };
        }
        let verb = match (&call.parts.method, info.name.is_empty()) {
            (&Method::GET, _) if is_watch(call.cx) => "watch",
            (&Method::GET, true) => "list",
            (&Method::GET, false) if info.verb == "list" => "list",
            (&Method::GET, false) => "get",
            (&Method::POST, true) => "create",
            (&Method::PUT, false) => "update",
            (&Method::PATCH, false) => "patch",
            (&Method::DELETE, false) => "delete",
            (&Method::DELETE, true) => "deletecollection",
            _ => "",
        };
        if verb.is_empty() || !def.verbs.contains(&verb) {
            return Err(call.not_allowed());
        }
        if let Some(computed) = call.resource.hooks().computed() {
            return computed::read(call, computed, verb).await;
        }
        match verb {
            "watch" => self.watch(call).await,
            "list" => self.list(call).await,
            "get" => self.get(call).await,
            "create" => self.create(call).await,
            "update" => self.update(call, Part::Main).await,
            "patch" => self.patch(call, Part::Main).await,
            "delete" => self.delete(call).await,
            _ => self.delete_collection(call).await,
        }
    }

    /// Whether the user may create what an update or apply is about to create.
    fn authorize_create(&self, cx: &RequestCx) -> Result<(), Status> {
        let Some(authorizer) = self.authorizer.get() else { return Ok(()) };
        let info = &cx.info;
        let attributes = Attributes {
            user: cx.user.clone(),
            verb: "create".to_owned(),
            is_resource: true,
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            subresource: info.subresource.clone(),
            namespace: info.namespace.clone(),
            name: info.name.clone(),
            path: info.path.clone(),
            ..Attributes::default()
        };
        let reason = match authorizer.authorize(&attributes) {
            Decision::Allow(_) => return Ok(()),
            Decision::Deny(reason) | Decision::NoOpinion(reason) => reason,
        };
        let gr = knarr_meta::gvk::GroupResource::new(info.group.clone(), info.resource.clone());
        let place = if info.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace \"{}\"", info.namespace)
        };
        let mut text = format!(
            "User \"{}\" cannot create resource \"{}\" in API group \"{}\" {place}",
            cx.user.name, info.resource, info.group
        );
        if !reason.is_empty() {
            text.push_str(": ");
            text.push_str(&reason);
        }
        Err(Status::forbidden(&gr, &info.name, text))
    }
}

/// What upstream warns of on every request for a resource that is on its way out.
fn deprecation(info: &crate::request::RequestInfo) -> Option<&'static str> {
    match (info.group.as_str(), info.version.as_str(), info.resource.as_str()) {
        ("", "v1", "endpoints") => {
            Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice")
        }
        ("", "v1", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+"),
        _ => None,
    }
}

/// Whether a request is a watch: by its verb, or by the query the way clients ask.
fn is_watch(cx: &RequestCx) -> bool {
    cx.info.verb == "watch"
}

/// Whether a request is about a collection although it carries a name (a `metadata.name` field selector).
fn is_list(cx: &RequestCx) -> bool {
    is_watch(cx) || cx.info.verb == "list"
}
