//! Between the store and a served version of a custom resource: what is stored in whichever version is pruned,
//! defaulted and converted on its way out, and converted to the storage version on its way in (the codec that
//! upstream's `crdConversionRESTOptionsGetter` makes).

use super::convert::Converter;
use crate::def::{Codec, OtherVersion};
use futures_util::future::BoxFuture;
use knarr_apiextensions::{Coerce, Definition, Version};
use knarr_meta::gvk::{api_version, parse_api_version};
use knarr_meta::object;
use knarr_meta::status::{Reason, Status};
use serde_json::Value;
use std::sync::Arc;

/// What all versions of one definition share.
pub struct Family {
    /// The definition.
    pub definition: Definition,
    /// How its objects are converted.
    pub converter: Converter,
    /// Tells definitions apart whose objects look different when they are read.
    pub fingerprint: String,
    /// Tells definitions apart that differ in anything that clients may notice.
    pub incarnation: String,
}

impl Family {
    fn version(&self, given: &str) -> Result<&Version, Status> {
        let (group, name) = parse_api_version(given);
        let known = self.definition.version(name).filter(|_| group == self.definition.group);
        known.ok_or_else(|| {
            let text = format!("request to convert CR from an invalid group/version: {given}");
            Status::new(500, Reason::Unknown, text)
        })
    }

    /// Converts an object, and brings it into the form that the version's schema gives it.
    async fn convert(&self, objects: Vec<Value>, wanted: &Version) -> Result<Vec<Value>, Status> {
        let api_version = api_version(&wanted.group, &wanted.name);
        let mut objects = self.converter.convert(objects, &api_version).await?;
        for object in &mut objects {
            coerce(wanted, object, Coerce::request(false))?;
        }
        Ok(objects)
    }
}

fn coerce(version: &Version, object: &mut Value, how: Coerce) -> Result<(), Status> {
    version.coerce(object, how).map(drop).map_err(|why| Status::new(500, Reason::Unknown, why))
}

/// The codec of one served version.
pub struct VersionCodec {
    family: Arc<Family>,
    /// The version's place in the definition.
    version: usize,
    fingerprint: String,
}

impl VersionCodec {
    /// For the version at that place in the definition.
    pub fn new(family: &Arc<Family>, version: usize) -> Self {
        let name = &family.definition.versions[version].name;
        let fingerprint = format!("{name} {}", family.fingerprint);
        Self { family: family.clone(), version, fingerprint }
    }

    fn own(&self) -> &Version {
        &self.family.definition.versions[self.version]
    }
}

impl Codec for VersionCodec {
    fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    fn decode(&self, mut stored: Vec<Value>) -> BoxFuture<'_, Result<Vec<Value>, Status>> {
        Box::pin(async move {
            let own = self.own();
            let mut foreign = Vec::new();
            for (index, object) in stored.iter_mut().enumerate() {
                let version = self.family.version(object::api_version(object))?;
                coerce(version, object, Coerce::stored())?;
                version.default(object);
                if version.name != own.name {
                    foreign.push(index);
                }
            }
            if foreign.is_empty() {
                return Ok(stored);
            }
            // One call for all of them, whatever versions they come from.
            let objects = foreign.iter().map(|index| stored[*index].take()).collect();
            let converted = self.family.convert(objects, own).await?;
            for (index, object) in foreign.into_iter().zip(converted) {
                stored[index] = object;
            }
            Ok(stored)
        })
    }

    fn encode(&self, object: Value) -> BoxFuture<'_, Result<Value, Status>> {
        Box::pin(async move {
            let storage = self.family.definition.storage();
            if storage.name == self.own().name {
                return Ok(object);
            }
            let mut converted = self.family.convert(vec![object], storage).await?;
            Ok(converted.pop().unwrap_or_default())
        })
    }

    fn stored_version(&self) -> &str {
        &self.family.definition.storage().name
    }

    fn other(&self, version: &str) -> OtherVersion<'_> {
        match (self.family.version(version), &self.family.converter) {
            (Err(_), _) => OtherVersion::Gone,
            (Ok(_), Converter::None) => OtherVersion::Same,
            (Ok(other), Converter::Webhook(_)) if other.name == self.own().name => OtherVersion::Same,
            (Ok(other), Converter::Webhook(_)) => {
                let (schema, root) = other.apply_schema();
                OtherVersion::Converted(schema, root)
            }
        }
    }

    fn convert<'a>(&'a self, object: Value, version: &'a str) -> BoxFuture<'a, Result<Value, Status>> {
        Box::pin(async move {
            let wanted = self.family.version(version)?;
            if object::api_version(&object) == version {
                return Ok(object);
            }
            let mut converted = self.family.convert(vec![object], wanted).await?;
            Ok(converted.pop().unwrap_or_default())
        })
    }
}
