//! CONTRACT. A kind is one declaration: [`ResourceDef`] holds its storage identity, served versions, strategy,
//! subresources, columns and fixture. Routes, verbs, discovery, OpenAPI, tables, patches, watch, managedFields
//! and the tests over every kind derive from it.

pub use crate::name::Name;
use crate::request::RequestCx;
use bytes::Bytes;
use futures_util::future::BoxFuture;
use knarr_api::Kind;
use knarr_client::Body;
use knarr_meta::field::ErrorList;
use knarr_meta::schema::{Schema, Type};
use knarr_meta::status::Status;
use serde_json::Value;
use std::marker::PhantomData;
use std::ops::Deref;
use std::sync::Arc;
use std::time::SystemTime;

/// Whether objects live in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Cluster-wide.
    Cluster,
    /// In a namespace.
    Namespaced,
}

/// Behaviour of one kind. Mutating hooks work on the JSON value, validating hooks on the typed object (the
/// schema check has already refused wrong types and unknown fields). Names follow upstream's rest strategies.
pub trait Strategy: Send + Sync + 'static {
    /// The typed form (the hub version).
    type Object: Kind;

    /// Fills defaults that the facts' `default` column does not carry. Runs after every decode of a body.
    fn default(&self, _obj: &mut Value) {}
    /// Before validation of a create: clear status, set what the server sets.
    fn prepare_for_create(&self, _cx: &RequestCx, _obj: &mut Value) {}
    /// All errors of a new object's spec (metadata is validated generically).
    fn validate(&self, _cx: &RequestCx, _obj: &Self::Object) -> ErrorList {
        ErrorList::default()
    }
    /// Before validation of an update. The generic part already kept status (if there is a status
    /// subresource) and immutable metadata from `old`, and bumps metadata.generation when `spec` changed.
    fn prepare_for_update(&self, _cx: &RequestCx, _new: &mut Value, _old: &Value) {}
    /// All errors of a changed object, incl. immutable fields. Upstream's Validate…Update.
    fn validate_update(&self, cx: &RequestCx, new: &Self::Object, _old: &Self::Object) -> ErrorList {
        self.validate(cx, new)
    }
    /// Before validation of a status update. The generic part already kept everything but metadata and status
    /// from `old`; kinds whose status writers may not touch labels or owners take those from `old` here, as
    /// upstream's status strategies do.
    fn prepare_for_status_update(&self, _cx: &RequestCx, _new: &mut Value, _old: &Value) {}
    /// All errors of a changed status.
    fn validate_status_update(&self, _cx: &RequestCx, _new: &Self::Object, _old: &Self::Object) -> ErrorList {
        ErrorList::default()
    }
    /// Warnings for the client on create and update.
    fn warnings(&self, _cx: &RequestCx, _new: &Self::Object, _old: Option<&Self::Object>) -> Vec<String> {
        Vec::new()
    }
    /// Problems of `metadata.name`, in upstream's words.
    fn validate_name(&self, name: &str) -> Vec<String> {
        knarr_meta::validate::dns1123_subdomain(name)
    }
    /// Whether PUT may create.
    fn allow_create_on_update(&self) -> bool {
        false
    }
    /// Whether PUT without a resourceVersion is accepted.
    fn allow_unconditional_update(&self) -> bool {
        true
    }
    /// Whether the kind has metadata.generation (set to 1 on create, bumped when anything but metadata and
    /// status changes).
    fn has_generation(&self) -> bool {
        true
    }
    /// Seconds of grace before the object goes, `None` when it goes at once (all but pods). `requested` is
    /// DeleteOptions.gracePeriodSeconds.
    fn grace_period(&self, _cx: &RequestCx, _obj: &Value, _requested: Option<i64>) -> Option<i64> {
        None
    }
    /// Whether a deleted object must stay until somebody finishes: as long as it has finalizers (namespaces
    /// have more of them in their spec). Asked on delete, and on each update of an object being deleted.
    fn has_finalizers(&self, obj: &Value) -> bool {
        obj["metadata"]["finalizers"].as_array().is_some_and(|f| !f.is_empty())
    }
    /// The object is about to be stored with a deletionTimestamp for the first time (namespaces show it in
    /// their status).
    fn mark_deleted(&self, _cx: &RequestCx, _obj: &mut Value) {}
    /// Whether dependents are orphaned when the client does not say (replication controllers; legacy Job API).
    fn orphans_by_default(&self) -> bool {
        false
    }
    /// Reserves what a create needs beside the object (addresses, ports), and may fill the object in.
    /// The returned guard is committed once the write is durable and dropped (rolled back) otherwise.
    fn begin_create<'a>(
        &'a self,
        _cx: &'a RequestCx,
        _obj: &'a mut Value,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    /// The same for an update.
    fn begin_update<'a>(
        &'a self,
        _cx: &'a RequestCx,
        _new: &'a mut Value,
        _old: &'a Value,
    ) -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
        Box::pin(std::future::ready(Ok(None)))
    }
    /// Once the object is gone from the store.
    fn after_delete<'a>(&'a self, _cx: &'a RequestCx, _obj: &'a Value) -> BoxFuture<'a, ()> {
        Box::pin(std::future::ready(()))
    }
    /// Seconds after which the store forgets the object (events); `None` keeps it.
    fn ttl_seconds(&self, _obj: &Value) -> Option<u64> {
        None
    }
    /// For kinds that are read and not stored (component statuses): what makes their objects.
    fn computed(&self) -> Option<&dyn Computed> {
        None
    }
}

/// Makes the objects of a kind that is not stored.
pub trait Computed: Send + Sync {
    /// All of them in the stored form without a resourceVersion, or at least those in the request's namespace.
    fn list<'a>(&'a self, cx: &'a RequestCx) -> BoxFuture<'a, Vec<Value>>;
    /// What to say where there is none of the name that is asked for; `None` for the usual words.
    fn missing(&self, _cx: &RequestCx) -> Option<Status> {
        None
    }
}

/// What a create or update holds while its write is under way.
pub trait Reservation: Send {
    /// The write is durable. (Dropping without this call gives everything back.)
    fn commit(self: Box<Self>) -> BoxFuture<'static, ()>;
}

/// A strategy without its type, as the registry calls it: typed hooks decode from JSON bytes.
pub trait ErasedStrategy: Send + Sync {
    /// The untyped hooks.
    fn untyped(&self) -> &dyn UntypedHooks;
    /// Validation of a create.
    fn validate(&self, cx: &RequestCx, new: Encoded<'_>) -> Result<(ErrorList, Vec<String>), Status>;
    /// Validation of an update.
    fn validate_update(
        &self,
        cx: &RequestCx,
        new: Encoded<'_>,
        old: Encoded<'_>,
    ) -> Result<(ErrorList, Vec<String>), Status>;
    /// Validation of a status update.
    fn validate_status_update(
        &self,
        cx: &RequestCx,
        new: Encoded<'_>,
        old: Encoded<'_>,
    ) -> Result<ErrorList, Status>;
    /// For kinds without types in the program: drops what the kind does not know from a decoded body, and tells it
    /// if `report` is set; the error says why the body is none of the kind. `None` where the schema decides.
    fn coerce(&self, _obj: &mut Value, _report: bool) -> Option<Result<Vec<String>, String>> {
        None
    }
}

/// An object as it is about to be stored, in the form that requests work on.
#[derive(Clone, Copy)]
pub struct Encoded<'a> {
    /// The object.
    pub value: &'a Value,
    /// The same as JSON.
    pub json: &'a [u8],
}

/// Brings objects of a kind that may be stored in any of several versions from and to the store. Requests work on
/// one of the versions, the one that they ask for.
pub trait Codec: Send + Sync {
    /// Codecs of the same text make the same of the same stored objects.
    fn fingerprint(&self) -> &str;
    /// Brings objects as they are stored into the version that requests work on: all of them, or none.
    fn decode(&self, stored: Vec<Value>) -> BoxFuture<'_, Result<Vec<Value>, Status>>;
    /// Brings an object into the version that is stored.
    fn encode(&self, object: Value) -> BoxFuture<'_, Result<Value, Status>>;
    /// The version that is stored.
    fn stored_version(&self) -> &str;
    /// How another version, by its `apiVersion`, calls the fields of an object.
    fn other(&self, version: &str) -> OtherVersion<'_>;
    /// Brings an object into another version, by its `apiVersion`.
    fn convert<'a>(&'a self, object: Value, version: &'a str) -> BoxFuture<'a, Result<Value, Status>>;
}

/// Another version of a kind as seen from one.
pub enum OtherVersion<'a> {
    /// Fields are called the same there.
    Same,
    /// There is no such version.
    Gone,
    /// It takes a conversion to tell; objects there are of this type.
    Converted(&'a Schema, &'a Type),
}

/// What a kind that the facts do not know brings into the OpenAPI documents.
pub trait OwnOpenApi: Send + Sync {
    /// The definitions of the kind and its list by name, for OpenAPI v2 or v3.
    fn definitions(&self, v2: bool) -> Vec<(String, Value)>;
    /// Changes whenever the definitions do.
    fn identity(&self) -> &str;
}

macro_rules! untyped_hooks {
    ($($(#[$doc:meta])* fn $name:ident(&self $(, $arg:ident: $ty:ty)*) $(-> $ret:ty)?;)*) => {
        /// The hooks of [`Strategy`] that do not mention its type.
        pub trait UntypedHooks: Send + Sync {
            $($(#[$doc])* fn $name(&self $(, $arg: $ty)*) $(-> $ret)?;)*
            /// See [`Strategy::begin_create`].
            fn begin_create<'a>(&'a self, cx: &'a RequestCx, obj: &'a mut Value)
                -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>>;
            /// See [`Strategy::begin_update`].
            fn begin_update<'a>(&'a self, cx: &'a RequestCx, new: &'a mut Value, old: &'a Value)
                -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>>;
            /// See [`Strategy::after_delete`].
            fn after_delete<'a>(&'a self, cx: &'a RequestCx, obj: &'a Value) -> BoxFuture<'a, ()>;
        }
        impl<S: Strategy> UntypedHooks for S {
            $(fn $name(&self $(, $arg: $ty)*) $(-> $ret)? { Strategy::$name(self $(, $arg)*) })*
            fn begin_create<'a>(&'a self, cx: &'a RequestCx, obj: &'a mut Value)
                -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
                Strategy::begin_create(self, cx, obj)
            }
            fn begin_update<'a>(&'a self, cx: &'a RequestCx, new: &'a mut Value, old: &'a Value)
                -> BoxFuture<'a, Result<Option<Box<dyn Reservation>>, Status>> {
                Strategy::begin_update(self, cx, new, old)
            }
            fn after_delete<'a>(&'a self, cx: &'a RequestCx, obj: &'a Value) -> BoxFuture<'a, ()> {
                Strategy::after_delete(self, cx, obj)
            }
        }
    };
}

untyped_hooks! {
    /// See [`Strategy::default`].
    fn default(&self, obj: &mut Value);
    /// See [`Strategy::prepare_for_create`].
    fn prepare_for_create(&self, cx: &RequestCx, obj: &mut Value);
    /// See [`Strategy::prepare_for_update`].
    fn prepare_for_update(&self, cx: &RequestCx, new: &mut Value, old: &Value);
    /// See [`Strategy::prepare_for_status_update`].
    fn prepare_for_status_update(&self, cx: &RequestCx, new: &mut Value, old: &Value);
    /// See [`Strategy::validate_name`].
    fn validate_name(&self, name: &str) -> Vec<String>;
    /// See [`Strategy::allow_create_on_update`].
    fn allow_create_on_update(&self) -> bool;
    /// See [`Strategy::allow_unconditional_update`].
    fn allow_unconditional_update(&self) -> bool;
    /// See [`Strategy::has_generation`].
    fn has_generation(&self) -> bool;
    /// See [`Strategy::grace_period`].
    fn grace_period(&self, cx: &RequestCx, obj: &Value, requested: Option<i64>) -> Option<i64>;
    /// See [`Strategy::has_finalizers`].
    fn has_finalizers(&self, obj: &Value) -> bool;
    /// See [`Strategy::mark_deleted`].
    fn mark_deleted(&self, cx: &RequestCx, obj: &mut Value);
    /// See [`Strategy::orphans_by_default`].
    fn orphans_by_default(&self) -> bool;
    /// See [`Strategy::ttl_seconds`].
    fn ttl_seconds(&self, obj: &Value) -> Option<u64>;
    /// See [`Strategy::computed`].
    fn computed(&self) -> Option<&dyn Computed>;
}

impl<S: Strategy> ErasedStrategy for S {
    fn untyped(&self) -> &dyn UntypedHooks {
        self
    }
    fn validate(&self, cx: &RequestCx, new: Encoded<'_>) -> Result<(ErrorList, Vec<String>), Status> {
        let new = decode::<S::Object>(new.json)?;
        Ok((Strategy::validate(self, cx, &new), Strategy::warnings(self, cx, &new, None)))
    }
    fn validate_update(
        &self,
        cx: &RequestCx,
        new: Encoded<'_>,
        old: Encoded<'_>,
    ) -> Result<(ErrorList, Vec<String>), Status> {
        let (new, old) = (decode::<S::Object>(new.json)?, decode::<S::Object>(old.json)?);
        Ok((Strategy::validate_update(self, cx, &new, &old), Strategy::warnings(self, cx, &new, Some(&old))))
    }
    fn validate_status_update(
        &self,
        cx: &RequestCx,
        new: Encoded<'_>,
        old: Encoded<'_>,
    ) -> Result<ErrorList, Status> {
        let (new, old) = (decode::<S::Object>(new.json)?, decode::<S::Object>(old.json)?);
        Ok(Strategy::validate_status_update(self, cx, &new, &old))
    }
}

fn decode<K: Kind>(json: &[u8]) -> Result<K, Status> {
    K::decode(json).map_err(|e| {
        Status::bad_request(format!(
            "{} in version \"{}\" cannot be handled as a {}: {e}",
            K::KIND,
            K::VERSION,
            K::KIND
        ))
    })
}

/// A served version and how it differs from the stored (hub) version.
pub struct ServedVersion {
    /// Version name, for example `v1`.
    pub version: Name,
    /// From this version to the hub; `None` where they are the same.
    pub to_hub: Option<fn(Value) -> Result<Value, Status>>,
    /// From the hub to this version.
    pub from_hub: Option<fn(Value) -> Result<Value, Status>>,
}

impl ServedVersion {
    /// A version that is the stored one.
    pub fn hub(version: impl Into<Name>) -> Self {
        Self { version: version.into(), to_hub: None, from_hub: None }
    }
}

/// Replies of custom subresources and of kinds that are not stored.
pub enum Reply {
    /// A JSON object (kind and apiVersion set), sent in the negotiated form.
    Object(u16, Value),
    /// Anything else: streams, upgrades, plain text.
    Raw(http::Response<Body>),
}

/// A request to a custom subresource (or a create-only kind).
pub struct SubRequest<'a> {
    /// The request.
    pub cx: &'a RequestCx,
    /// The parent object from the store, `None` for create-only kinds.
    pub parent: Option<Value>,
    /// The decoded, schema-checked and defaulted body, `Null` if there is none.
    pub body: Value,
    /// Method, headers and (for upgrades) the connection's upgrade handle in its extensions.
    pub parts: http::request::Parts,
    /// The body as it came.
    pub raw: Bytes,
}

/// A custom subresource.
pub trait Handler: Send + Sync {
    /// Serves one request that has passed authorization; admission is run by the registry before it for `create`.
    fn handle<'a>(&'a self, request: SubRequest<'a>) -> BoxFuture<'a, Result<Reply, Status>>;
}

/// How a subresource is served.
pub enum SubKind {
    /// `status`: the generic split of spec and status.
    Status,
    /// Another view on the whole object with rules of its own (pods/resize, pods/ephemeralcontainers):
    /// prepares `new` from `old`, keeping all that the subresource may not change.
    Partial(fn(&RequestCx, &mut Value, &Value)),
    /// `scale` (autoscaling/v1): JSON paths of spec.replicas, status.replicas and the selector.
    Scale {
        /// Path of the wanted replicas.
        spec: Vec<Name>,
        /// Path of the observed replicas.
        status: Vec<Name>,
        /// Path of the selector (a label-selector object, or a plain map as replication controllers have); empty
        /// where there is none.
        selector: Vec<Name>,
    },
    /// A create that changes its parent within the registry's one compare-and-set loop (pods/binding): is
    /// given the body (schema-checked, defaulted, admitted) and the parent with its resourceVersion, and is
    /// called again on a conflict. The changed parent is stored without its strategy's update hooks, and as
    /// upstream without a manager of the changed fields; the client is answered `201` and a Status of success.
    Change(fn(&RequestCx, &Value, &mut Value) -> Result<(), Status>),
    /// Anything else.
    Custom(Box<dyn Handler>),
}

/// One subresource.
pub struct Subresource {
    /// Path segment, for example `status`, `binding`.
    pub name: &'static str,
    /// Group, version and kind of its body; [`OWN_KIND`] where it is the resource's own, in the version that is
    /// asked for.
    pub kind: (&'static str, &'static str, &'static str),
    /// Verbs for discovery and routing.
    pub verbs: &'static [&'static str],
    /// How it is served.
    pub serve: SubKind,
}

/// The kind of a subresource that is a view on the object itself (`status`).
pub const OWN_KIND: (&str, &str, &str) = ("", "", "");

impl Subresource {
    /// Group, version and kind of its body where its resource is asked for in `version`.
    pub fn kind_in<'a>(&'a self, def: &'a ResourceDef, version: &'a str) -> (&'a str, &'a str, &'a str) {
        let (group, declared, kind) = self.kind;
        if self.kind == OWN_KIND {
            return (&def.group, version, &def.kind);
        }
        // Another kind of the resource's group follows the version it is served in.
        let follows = def.group == group && def.storage_version == declared;
        (group, if follows { version } else { declared }, kind)
    }
}

/// One printer column's definition (upstream's names, see the facts).
pub use knarr_meta::table::ColumnDefinition;

/// Cells of one row; the registry supplies name, labels and the object itself.
pub type Cells = Arc<dyn Fn(&Value, SystemTime) -> Vec<Value> + Send + Sync>;

/// A field selector beside metadata.name and metadata.namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selectable {
    /// How selectors call it.
    pub label: Name,
    /// Where the value stands.
    pub path: Vec<Name>,
    /// The value of an absent field (`false` for booleans).
    pub absent: Name,
    /// The label of the field that stands in for this one where it is empty.
    pub fallback: Option<Name>,
}

impl Selectable {
    /// A table of constants: label, path, and the value of an absent field.
    pub fn table(fields: &'static [(&'static str, &'static [&'static str], &'static str)]) -> Vec<Self> {
        let one = |(label, path, absent): &(&'static str, &'static [&'static str], &'static str)| Self {
            label: (*label).into(),
            path: names(path),
            absent: (*absent).into(),
            fallback: None,
        };
        fields.iter().map(one).collect()
    }
}

/// The schema that the types of a resource are in.
#[derive(Clone)]
pub enum SchemaRef {
    /// That of the built-in kinds.
    Facts(&'static Schema),
    /// One of its own.
    Own(Arc<Schema>),
}

impl Deref for SchemaRef {
    type Target = Schema;
    fn deref(&self) -> &Schema {
        match self {
            Self::Facts(schema) => schema,
            Self::Own(schema) => schema,
        }
    }
}

/// The types of a kind that the facts do not know.
#[derive(Clone)]
pub struct OwnTypes {
    /// The schema.
    pub schema: Arc<Schema>,
    /// The type of the kind in it.
    pub root: Type,
}

/// The declaration of one kind.
pub struct ResourceDef {
    /// API group, empty for core.
    pub group: Name,
    /// Plural name.
    pub resource: Name,
    /// Singular name.
    pub singular: Name,
    /// Kind.
    pub kind: Name,
    /// The kind of its lists.
    pub list_kind: Name,
    /// Short names.
    pub short: Vec<Name>,
    /// Categories.
    pub categories: Vec<Name>,
    /// Scope.
    pub scope: Scope,
    /// Served versions, the preferred first. Its stored (hub) version is `storage_version`. Versions that differ
    /// in more than a conversion (those of custom resources: schema, strategy, subresources) are declarations of
    /// their own under the same name.
    pub versions: Vec<ServedVersion>,
    /// The version objects are stored in; with a codec, the one that requests work on.
    pub storage_version: Name,
    /// Group whose apiVersion is written to the store, where it differs from `group` (events.k8s.io over core).
    pub storage_group: Name,
    /// Key prefix, for example `/registry/pods`.
    pub storage_prefix: Name,
    /// Verbs.
    pub verbs: &'static [&'static str],
    /// What discovery shows in their place.
    pub discovery_verbs: Option<&'static [&'static str]>,
    /// Behaviour.
    pub strategy: Box<dyn ErasedStrategy>,
    /// Subresources.
    pub subresources: Vec<Subresource>,
    /// Cells for a Table.
    pub cells: Cells,
    /// The columns of its Tables, as JSON; those of the facts when there are none here.
    pub columns: Option<Vec<Value>>,
    /// The types of its objects; those of the facts when there are none here.
    pub types: Option<OwnTypes>,
    /// Field selectors beside metadata.name and metadata.namespace.
    pub selectable: Vec<Selectable>,
    /// For kinds that are not stored (reviews): serves create.
    pub create_only: Option<Box<dyn Handler>>,
    /// For kinds that may be stored in other versions than the one that requests work on.
    pub codec: Option<Arc<dyn Codec>>,
    /// What it brings into the OpenAPI documents, where the facts do not know it.
    pub openapi: Option<Arc<dyn OwnOpenApi>>,
    /// What every request for it is warned of.
    pub deprecation: Option<Name>,
    /// Why nothing can be created at the moment.
    pub no_creates: Option<Name>,
    /// A declaration that replaces one of the same incarnation leaves watches running; empty ones end them.
    pub incarnation: Name,
    /// A minimal valid object as YAML, for the tests over every kind.
    pub fixture: &'static str,
}

impl ResourceDef {
    /// A kind served and stored in one version, with names, scope, verbs and storage key taken from the facts
    /// (`knarr_api::facts`). Panics when the facts do not know it: a mistake in a static table.
    pub fn new<S: Strategy>(strategy: S) -> Self {
        Self::from_facts(
            <S::Object as Kind>::GROUP,
            <S::Object as Kind>::VERSION,
            <S::Object as Kind>::PLURAL,
            Box::new(strategy),
            PhantomData::<S::Object>,
        )
    }

    fn from_facts<K: Kind>(
        group: &'static str,
        version: &'static str,
        resource: &'static str,
        strategy: Box<dyn ErasedStrategy>,
        _kind: PhantomData<K>,
    ) -> Self {
        let facts = knarr_api::facts::resources();
        let fact = facts
            .iter()
            .find(|fact| fact.group == group && fact.version == version && fact.resource == resource)
            .expect("a declared kind is in the facts");
        let storage = knarr_api::facts::storage_key(group, version, resource);
        Self {
            group: group.into(),
            resource: resource.into(),
            singular: fact.singular.into(),
            kind: fact.kind.into(),
            list_kind: format!("{}List", fact.kind).into(),
            short: names(&fact.short),
            categories: names(&fact.categories),
            scope: if fact.namespaced { Scope::Namespaced } else { Scope::Cluster },
            versions: vec![ServedVersion::hub(version)],
            storage_version: version.into(),
            storage_group: group.into(),
            storage_prefix: storage.map_or("", |key| key.prefix).into(),
            verbs: &fact.verbs,
            strategy,
            subresources: Vec::new(),
            cells: Arc::new(name_and_age),
            columns: None,
            types: None,
            selectable: Vec::new(),
            create_only: None,
            discovery_verbs: None,
            codec: None,
            openapi: None,
            deprecation: None,
            no_creates: None,
            incarnation: Name::default(),
            fixture: "",
        }
    }

    /// Adds the `status` subresource.
    pub fn status(self) -> Self {
        self.subresource(Subresource {
            name: "status",
            kind: OWN_KIND,
            verbs: &["get", "patch", "update"],
            serve: SubKind::Status,
        })
    }

    /// Adds the `scale` subresource.
    pub fn scale(
        self,
        spec: &'static [&'static str],
        status: &'static [&'static str],
        selector: &'static [&'static str],
    ) -> Self {
        self.subresource(Subresource {
            name: "scale",
            kind: ("autoscaling", "v1", "Scale"),
            verbs: &["get", "patch", "update"],
            serve: SubKind::Scale { spec: names(spec), status: names(status), selector: names(selector) },
        })
    }

    /// Adds a subresource.
    pub fn subresource(mut self, subresource: Subresource) -> Self {
        self.subresources.push(subresource);
        self
    }

    /// Sets how table rows are made.
    pub fn cells(mut self, cells: impl Fn(&Value, SystemTime) -> Vec<Value> + Send + Sync + 'static) -> Self {
        self.cells = Arc::new(cells);
        self
    }

    /// Lets another selectable field stand in where `label`'s is empty.
    pub fn selectable_fallback(mut self, label: &str, fallback: &'static str) -> Self {
        for field in self.selectable.iter_mut().filter(|field| &*field.label == label) {
            field.fallback = Some(fallback.into());
        }
        self
    }

    /// Sets the selectable fields.
    pub fn selectable(
        mut self,
        fields: &'static [(&'static str, &'static [&'static str], &'static str)],
    ) -> Self {
        self.selectable = Selectable::table(fields);
        self
    }

    /// Whether its objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether it is a custom resource: any JSON that its definition lets through, in one of several versions.
    pub fn is_custom(&self) -> bool {
        self.codec.is_some()
    }

    /// The preferred version.
    pub fn preferred(&self) -> &str {
        self.versions.first().map_or("", |version| &version.version)
    }

    /// Sets the fixture.
    pub fn fixture(mut self, yaml: &'static str) -> Self {
        self.fixture = yaml;
        self
    }
}

/// Constants as names.
fn names(list: &[&'static str]) -> Vec<Name> {
    list.iter().map(|name| (*name).into()).collect()
}

/// The cells of kinds without columns of their own: name and creation time, as the default table has.
pub fn name_and_age(obj: &Value, _now: SystemTime) -> Vec<Value> {
    let meta = &obj["metadata"];
    vec![meta["name"].clone(), meta["creationTimestamp"].clone()]
}
