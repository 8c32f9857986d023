//! CONTRACT. Admission: what may change or refuse a write between its decoding and its validation.

use crate::authorize::Authorizer;
use crate::request::RequestCx;
use futures_util::future::BoxFuture;
use knarr_meta::status::Status;
use serde_json::{Map, Value};
use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

/// The kind of write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// A new object, or a subresource's create (binding, eviction, token).
    Create,
    /// A changed object, by update, patch or apply.
    Update,
    /// A deletion.
    Delete,
    /// exec, attach, port-forward, proxy.
    Connect,
}

impl Operation {
    /// The name in rules and reviews.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// What a request brings along for admission, beside what it asks.
#[derive(Default)]
pub struct AdmissionCx {
    /// Who is asked whether a user may do something; none in tests of a registry without a front.
    pub authorizer: Option<Arc<dyn Authorizer>>,
    /// When the request will be given up.
    pub deadline: Option<Instant>,
    /// What admission has to say to the audit log, key and value; the first value of a key stays.
    pub annotations: Mutex<BTreeMap<String, String>>,
}

impl AdmissionCx {
    /// Notes something for the audit log.
    pub fn annotate(&self, key: impl Into<String>, value: impl Into<String>) {
        let mut annotations = self.annotations.lock().expect("no holder of the annotations panics");
        annotations.entry(key.into()).or_insert_with(|| value.into());
    }
}

/// One way of reaching a resource: where it is served and as what kind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoint {
    /// Group of the resource.
    pub group: String,
    /// Version of the resource.
    pub version: String,
    /// Plural name.
    pub resource: String,
    /// Group of the kind; another one than the resource's for some subresources.
    pub kind_group: String,
    /// Version of the kind.
    pub kind_version: String,
    /// Kind.
    pub kind: String,
}

impl Endpoint {
    /// The `apiVersion` of its objects.
    pub fn api_version(&self) -> String {
        knarr_meta::gvk::api_version(&self.kind_group, &self.kind_version)
    }
}

/// The object under admission in its other forms. Upstream's `ObjectInterfaces`.
pub trait ObjectInterfaces: Send + Sync {
    /// The other endpoints of the same resource.
    fn equivalents(&self) -> Vec<Endpoint>;
    /// An object as an endpoint shows it.
    fn convert<'a>(&'a self, object: &'a Value, to: &'a Endpoint) -> BoxFuture<'a, Result<Value, Status>>;
    /// An object that was changed in an endpoint's form, back in the form admission works on: held against the
    /// schema and defaulted.
    fn adopt<'a>(&'a self, object: Value, from: &'a Endpoint) -> BoxFuture<'a, Result<Value, Status>>;
    /// The schema of an endpoint's objects with the root type, where there is one.
    fn schema(&self, of: &Endpoint) -> Option<(crate::def::SchemaRef, knarr_meta::schema::Type)>;
}

/// What the mutating plugins of one write tell each other: a change of the object makes all of them run once
/// more. Upstream's `ReinvocationContext`.
#[derive(Default)]
pub struct Reinvocation {
    again: AtomicBool,
    wanted: AtomicBool,
    kept: Mutex<BTreeMap<&'static str, Box<dyn Any + Send>>>,
}

impl Reinvocation {
    /// Whether this is the second round.
    pub fn is_again(&self) -> bool {
        self.again.load(Ordering::Relaxed)
    }

    /// Asks for a second round.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Starts the second round if somebody asked for it.
    pub(crate) fn start_again(&self) -> bool {
        let wanted = self.wanted.load(Ordering::Relaxed);
        self.again.store(wanted, Ordering::Relaxed);
        wanted
    }

    /// What a plugin keeps between the rounds.
    pub fn keep<T: Default + Send + 'static, R>(
        &self,
        plugin: &'static str,
        work: impl FnOnce(&mut T) -> R,
    ) -> R {
        let mut kept = self.kept.lock().expect("no holder of the plugins' notes panics");
        let slot = kept.entry(plugin).or_insert_with(|| Box::new(T::default()));
        work(slot.downcast_mut().expect("a plugin keeps one type under its name"))
    }
}

/// One write under admission. Group, resource, subresource, namespace, name and user are in `cx`.
pub struct Write<'a> {
    /// The request.
    pub cx: &'a RequestCx,
    /// What it does. (An update that creates is a Create.)
    pub operation: Operation,
    /// The object's kind.
    pub kind: &'a str,
    /// The group of the kind in the request.
    pub group: &'a str,
    /// The version of the kind in the request.
    pub version: &'a str,
    /// The object's namespace (from the path, or the object itself for Namespace).
    pub namespace: &'a str,
    /// The object's name; empty while generateName has not been resolved, and for each object of a
    /// deletecollection.
    pub name: &'a str,
    /// The new object, or the options for Connect; `Null` for Delete.
    pub object: &'a mut Value,
    /// The object before the write, `None` for Create and Connect.
    pub old: Option<&'a Value>,
    /// The options of a Delete; `Null` for others, whose options are made out of the query when asked for.
    pub delete_options: &'a Value,
    /// The object's other forms.
    pub interfaces: &'a dyn ObjectInterfaces,
    /// Notes of the mutating plugins.
    pub reinvocation: &'a Reinvocation,
}

impl Write<'_> {
    /// The endpoint that the request came by.
    pub fn endpoint(&self) -> Endpoint {
        let info = &self.cx.info;
        Endpoint {
            group: info.group.clone(),
            version: info.version.clone(),
            resource: info.resource.clone(),
            kind_group: self.group.to_owned(),
            kind_version: self.version.to_owned(),
            kind: self.kind.to_owned(),
        }
    }

    /// CreateOptions, UpdateOptions or DeleteOptions as an object; `Null` for Connect.
    pub fn options(&self) -> Value {
        let kind = match self.operation {
            Operation::Create => "CreateOptions",
            Operation::Update => "UpdateOptions",
            Operation::Delete => "DeleteOptions",
            Operation::Connect => return Value::Null,
        };
        let mut options = match self.delete_options {
            Value::Object(options) => options.clone(),
            _ => Map::new(),
        };
        options.insert("kind".to_owned(), kind.into());
        options.insert("apiVersion".to_owned(), "meta.k8s.io/v1".into());
        if self.operation != Operation::Delete {
            for key in ["fieldManager", "fieldValidation"] {
                if let Some(value) = self.cx.query(key).filter(|value| !value.is_empty()) {
                    options.insert(key.to_owned(), value.into());
                }
            }
        }
        if self.cx.dry_run {
            options.insert("dryRun".to_owned(), vec!["All"].into());
        }
        Value::Object(options)
    }

    /// Whether nothing may be persisted, by the query or by a deletion's options.
    pub fn dry_run(&self) -> bool {
        let options = self.delete_options["dryRun"].as_array();
        self.cx.dry_run || options.is_some_and(|list| !list.is_empty())
    }

    /// The user as `authentication.k8s.io/v1` UserInfo.
    pub fn user_info(&self) -> Value {
        let user = &self.cx.user;
        let mut info = Map::new();
        for (key, text) in [("username", &user.name), ("uid", &user.uid)] {
            if !text.is_empty() {
                info.insert(key.to_owned(), text.as_str().into());
            }
        }
        if !user.groups.is_empty() {
            info.insert("groups".to_owned(), user.groups.clone().into());
        }
        if !user.extra.is_empty() {
            let extra: Map<String, Value> =
                user.extra.iter().map(|(key, values)| (key.clone(), values.clone().into())).collect();
            info.insert("extra".to_owned(), Value::Object(extra));
        }
        Value::Object(info)
    }
}

/// One admission plugin. Mutating runs for all plugins before validating does.
pub trait Plugin: Send + Sync {
    /// Upstream's plugin name, for example `NamespaceLifecycle`.
    fn name(&self) -> &'static str;
    /// Whether the plugin wants to see such writes at all (cheap; keeps other writes free of it).
    fn handles(&self, operation: Operation, group: &str, resource: &str, subresource: &str) -> bool;
    /// May change the object.
    fn mutate<'a>(&'a self, _write: &'a mut Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
    /// May refuse it.
    fn validate<'a>(&'a self, _write: &'a Write<'_>) -> BoxFuture<'a, Result<(), Status>> {
        Box::pin(std::future::ready(Ok(())))
    }
}
