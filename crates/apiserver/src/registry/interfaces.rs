//! The object under admission in its other forms ([`ObjectInterfaces`]), by way of the served resources: other
//! versions of its kind, and other groups that show the same objects (events).

use super::Registry;
use super::options::FieldValidation;
use super::resource::{Resource, Version};
use crate::admission::{Endpoint, ObjectInterfaces};
use crate::def::SchemaRef;
use futures_util::future::BoxFuture;
use knarr_meta::object;
use knarr_meta::schema::Type;
use knarr_meta::status::Status;
use serde_json::Value;
use std::sync::Arc;

/// See the module's documentation.
pub struct Interfaces<'a> {
    /// Where the other forms are served.
    pub registry: &'a Registry,
    /// The resource of the request.
    pub resource: &'a Resource,
    /// The subresource of the request, or empty.
    pub subresource: &'a str,
    /// Whether the object is of another kind than the resource's (scale, binding, options of a connection).
    pub foreign: bool,
}

impl Interfaces<'_> {
    /// The resource that serves an endpoint of the same objects, and the version in it.
    fn served(&self, at: &Endpoint) -> Option<Served<'_>> {
        if self.resource.def.group == at.group
            && let Some(version) = self.resource.versions.iter().find(|v| v.name == at.version)
        {
            return Some(Served::Own(version));
        }
        let table = self.registry.catalog.load();
        let (other, version) = table.version(&at.group, &at.resource, &at.version)?;
        Some(Served::Other(other.clone(), version))
    }

    async fn shown_at(&self, value: &Value, to: &Endpoint) -> Result<Value, Status> {
        if self.foreign {
            let mut value = value.clone();
            object::set_type(&mut value, &to.api_version(), &to.kind);
            return Ok(value);
        }
        match (self.served(to).ok_or_else(|| unknown(to))?, &self.resource.def.codec) {
            (Served::Own(version), _) => self.resource.serve_from_hub(version, value.clone()),
            (Served::Other(..), Some(codec)) => codec.convert(value.clone(), &to.api_version()).await,
            (Served::Other(other, version), None) => {
                other.serve_from_hub(&other.versions[version], value.clone())
            }
        }
    }

    async fn taken_from(&self, mut value: Value, from: &Endpoint) -> Result<Value, Status> {
        if self.foreign {
            object::set_type(&mut value, &from.api_version(), &from.kind);
            return Ok(value);
        }
        let served = self.served(from).ok_or_else(|| unknown(from))?;
        let (resource, version) = match &served {
            Served::Own(version) => (self.resource, *version),
            Served::Other(other, version) => (&**other, &other.versions[*version]),
        };
        let report = resource.wanted(version).check(&mut value, FieldValidation::Ignore);
        if let Some(error) = report.type_error {
            return Err(Status::internal(error));
        }
        let mut hub = resource.to_hub(version, value)?;
        resource.hooks().default(&mut hub);
        if let (Served::Other(..), Some(codec)) = (&served, &self.resource.def.codec) {
            hub = codec.convert(hub, &self.resource.hub_api_version).await?;
            self.resource.hooks().default(&mut hub);
        }
        object::set_type(&mut hub, &self.resource.hub_api_version, &self.resource.def.kind);
        Ok(hub)
    }
}

enum Served<'a> {
    Own(&'a Version),
    Other(Arc<Resource>, usize),
}

fn unknown(at: &Endpoint) -> Status {
    let Endpoint { group, version, resource, .. } = at;
    Status::internal(format!("unable to convert to {group}/{version}, Resource={resource}: unknown kind"))
}

impl ObjectInterfaces for Interfaces<'_> {
    fn equivalents(&self) -> Vec<Endpoint> {
        let table = self.registry.catalog.load();
        let prefix = &self.resource.def.storage_prefix;
        let mut found = Vec::new();
        for def in table.defs().iter().filter(|def| def.storage_prefix == *prefix && !prefix.is_empty()) {
            let sub = def.subresources.iter().find(|sub| sub.name == self.subresource);
            if sub.is_none() && !self.subresource.is_empty() {
                continue;
            }
            for served in &def.versions {
                let (group, version, kind) = match sub.filter(|_| self.foreign) {
                    Some(sub) => sub.kind_in(def, &served.version),
                    None => (&*def.group, &*served.version, &*def.kind),
                };
                found.push(Endpoint {
                    kind_group: group.to_owned(),
                    kind_version: version.to_owned(),
                    kind: kind.to_owned(),
                    group: def.group.to_string(),
                    version: served.version.to_string(),
                    resource: def.resource.to_string(),
                });
            }
        }
        found
    }

    fn convert<'a>(&'a self, object: &'a Value, to: &'a Endpoint) -> BoxFuture<'a, Result<Value, Status>> {
        Box::pin(self.shown_at(object, to))
    }

    fn adopt<'a>(&'a self, object: Value, from: &'a Endpoint) -> BoxFuture<'a, Result<Value, Status>> {
        Box::pin(self.taken_from(object, from))
    }

    fn schema(&self, of: &Endpoint) -> Option<(SchemaRef, Type)> {
        if self.foreign {
            let ty = knarr_api::facts::root(&of.kind_group, &of.kind_version, &of.kind)?;
            return Some((SchemaRef::Facts(knarr_api::facts::schema()), ty));
        }
        match self.served(of)? {
            Served::Own(version) => Some((self.resource.schema.clone(), version.ty.clone()?)),
            Served::Other(other, version) => {
                Some((other.schema.clone(), other.versions[version].ty.clone()?))
            }
        }
    }
}
