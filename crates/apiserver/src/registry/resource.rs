//! One served resource as the registry works on it: its declaration with what is derived from it once (cache,
//! schema types, the forms of its served versions).

use super::negotiate::{Media, Transform};
use crate::cache::{Cache, key};
use crate::def::{Encoded, Name, ResourceDef, SchemaRef, ServedVersion, UntypedHooks};
use crate::obj::{Obj, Shape, Stored};
use bytes::Bytes;
use knarr_meta::gvk::{GroupResource, api_version};
use knarr_meta::schema::Type;
use knarr_meta::status::Status;
use serde_json::Value;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// See the module's documentation.
pub struct Resource {
    /// The declaration.
    pub def: Arc<ResourceDef>,
    /// The cache, shared by resources over the same keys.
    pub cache: Arc<Cache>,
    /// For messages.
    pub gr: GroupResource,
    /// The schema its types are in.
    pub schema: SchemaRef,
    /// The `apiVersion` of the stored form.
    pub hub_api_version: String,
    /// The served versions, in the declaration's order.
    pub versions: Vec<Version>,
    /// How objects are laid out in the store, where that is another version than the one requests work on.
    stored_shape: Option<Shape>,
    /// Cancelled once it is no longer what is served under its name.
    retired: CancellationToken,
}

/// One served version.
pub struct Version {
    /// Its place in the declaration.
    index: usize,
    /// The name.
    pub name: Name,
    /// `group/version`.
    pub api_version: String,
    /// The type of objects in this version.
    pub ty: Option<Type>,
    /// Whether stored bytes can be handed out with nothing but their apiVersion replaced.
    pub identical: bool,
    /// Whether it has a protobuf form.
    pub proto: bool,
    /// The columns of its Tables.
    pub columns: Vec<Value>,
    /// A number that no other version over the same cache has, for shared frames.
    pub form: u32,
}

impl Resource {
    /// Derives everything from the declaration. `forms` numbers the versions.
    pub fn new(def: Arc<ResourceDef>, cache: Arc<Cache>, forms: &mut u32) -> Self {
        let versions = def
            .versions
            .iter()
            .enumerate()
            .map(|(index, served)| {
                *forms += 1;
                let (group, version) = (&def.group, &served.version);
                let api_version = api_version(group, version);
                let facts = def.types.is_none();
                Version {
                    index,
                    name: version.clone(),
                    ty: match &def.types {
                        None => knarr_api::facts::root(group, version, &def.kind),
                        Some(own) => Some(own.root.clone()),
                    },
                    identical: served.from_hub.is_none(),
                    proto: facts && knarr_api::proto::supports(&api_version, &def.kind),
                    columns: def
                        .columns
                        .clone()
                        .unwrap_or_else(|| super::table::columns(group, version, &def.resource)),
                    form: *forms * 64,
                    api_version,
                }
            })
            .collect();
        Self {
            gr: GroupResource::new(&def.group, &def.resource),
            hub_api_version: api_version(&def.storage_group, &def.storage_version),
            schema: match &def.types {
                None => SchemaRef::Facts(knarr_api::facts::schema()),
                Some(own) => SchemaRef::Own(own.schema.clone()),
            },
            stored_shape: def
                .codec
                .as_ref()
                .filter(|codec| codec.stored_version() != &*def.storage_version)
                .map(|codec| Shape::new(&def.storage_group, codec.stored_version(), &def.kind, &[])),
            retired: CancellationToken::new(),
            versions,
            cache,
            def,
        }
    }

    fn served(&self, version: &Version) -> &ServedVersion {
        &self.def.versions[version.index]
    }

    /// Turns an object of a served version into the stored form.
    pub fn to_hub(&self, version: &Version, value: Value) -> Result<Value, Status> {
        let mut value = match self.served(version).to_hub {
            Some(convert) => convert(value)?,
            None => value,
        };
        knarr_meta::object::set_type(&mut value, &self.hub_api_version, &self.def.kind);
        Ok(value)
    }

    /// Turns an object of the stored form into a served version.
    pub fn serve_from_hub(&self, version: &Version, value: Value) -> Result<Value, Status> {
        let mut value = match self.served(version).from_hub {
            Some(convert) => convert(value)?,
            None => value,
        };
        knarr_meta::object::set_type(&mut value, &version.api_version, &self.def.kind);
        Ok(value)
    }

    /// Whether its objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.def.namespaced()
    }

    /// Whether `def` is this declaration to whoever watches.
    pub fn is_same_incarnation(&self, def: &ResourceDef) -> bool {
        let same = !def.incarnation.is_empty() && self.def.incarnation == def.incarnation;
        same && self.def.storage_version == def.storage_version && self.def.resource == def.resource
    }

    /// Takes the place of another, whose watches go on.
    pub fn succeed(&mut self, other: &Self) {
        self.retired = other.retired.clone();
    }

    /// The bytes that are stored of an object: those that requests work on, or their form in another version.
    pub async fn to_store(&self, object: &Value, encoded: &Stored) -> Result<Bytes, Status> {
        match (&self.def.codec, &self.stored_shape) {
            (Some(codec), Some(shape)) => {
                let mut object = object.clone();
                knarr_meta::object::set_type(&mut object, &self.hub_api_version, &self.def.kind);
                Ok(shape.encode(&codec.encode(object).await?).value)
            }
            _ => Ok(encoded.value.clone()),
        }
    }

    /// Something else (or nothing) is served under its name from now on: its watches end.
    pub fn retire(&self) {
        self.retired.cancel();
    }

    /// Ends when it is no longer what is served under its name.
    pub fn retirement(&self) -> CancellationToken {
        self.retired.clone()
    }

    /// The untyped hooks of its strategy.
    pub fn hooks(&self) -> &dyn UntypedHooks {
        self.def.strategy.untyped()
    }

    /// The key of an object.
    pub fn key(&self, namespace: &str, name: &str) -> Bytes {
        key(self.cache.prefix(), if self.namespaced() { namespace } else { "" }, name)
    }

    /// Whether it has a status that only the subresource changes.
    pub fn has_status(&self) -> bool {
        self.def.subresources.iter().any(|sub| matches!(sub.serve, crate::def::SubKind::Status))
    }

    /// The top-level fields that a write to the object or one of its subresources leaves as they were, so that
    /// nobody comes to own anything there (upstream's reset fields).
    pub fn reset_fields(&self, subresource: &str) -> &'static [&'static str] {
        match (subresource, self.def.is_custom()) {
            ("", false) => &["status"],
            ("", true) if self.has_status() => &["status"],
            ("status", false) => &["spec"],
            ("status", true) => &["metadata", "spec"],
            _ => &[],
        }
    }

    /// 404 for an object.
    pub fn not_found(&self, name: &str) -> Status {
        Status::not_found(&self.gr, name)
    }
}

impl Resource {
    /// The protobuf message of an object in a version, without its envelope, shared by all who need it.
    pub fn proto_body(&self, version: &Version, obj: &Obj) -> Result<Bytes, Status> {
        self.cache.form(obj, version.form, || {
            let value = self.serve_from_hub(version, obj.stored.parse())?;
            let body = knarr_api::proto::encode_body(&version.api_version, &self.def.kind, &value);
            body.map(Bytes::from).map_err(Status::internal)
        })
    }
}

/// An object with its bytes, for a strategy.
pub fn encoded<'a>(value: &'a Value, stored: &'a Stored) -> Encoded<'a> {
    Encoded { value, json: &stored.value }
}

impl Version {
    /// The number of a form of watch frames.
    pub fn frame_form(&self, media: Media, transform: Option<(Transform, &'static str)>) -> u32 {
        let media = match media {
            Media::Json => 0,
            Media::Yaml => 1,
            Media::Proto => 2,
        };
        let transform = match transform {
            None => 0,
            Some((Transform::Table, version)) => 1 + u32::from(version != "v1"),
            Some((_, version)) => 3 + u32::from(version != "v1"),
        };
        self.form + media * 8 + transform
    }
}
