//! Conversions that managed fields turn out to need while a write is worked out. Working it out is synchronous and has no
//! effects, so it is done again once what it asked for has been converted.

use super::resource::Resource;
use crate::def::OtherVersion;
use knarr_meta::managed::{Versions, View};
use knarr_meta::object;
use knarr_meta::status::Status;
use serde_json::Value;
use std::fmt;
use std::sync::Mutex;

/// An object and the version that it is wanted in.
type Wanted = (Value, String);

/// The conversions of one write.
pub struct Conversions<'a> {
    resource: &'a Resource,
    known: Mutex<Vec<(Wanted, Value)>>,
    wanted: Mutex<Vec<Wanted>>,
}

/// How often a write is worked out at most: managers are few, and each asks for a handful of objects.
const ROUNDS: usize = 64;

impl<'a> Conversions<'a> {
    /// Of objects of a resource.
    pub fn of(resource: &'a Resource) -> Self {
        Self { resource, known: Mutex::default(), wanted: Mutex::default() }
    }

    /// The resource.
    pub fn resource(&self) -> &'a Resource {
        self.resource
    }

    /// Works something out, with every conversion that it needs.
    pub async fn settle<T>(&self, work: impl Fn() -> Result<T, Status>) -> Result<T, Status> {
        for _ in 0..ROUNDS {
            let result = work();
            let wanted = std::mem::take(&mut *self.wanted.lock().expect("no holder of the wishes panics"));
            let Some(codec) = self.resource.def.codec.as_ref().filter(|_| !wanted.is_empty()) else {
                return result;
            };
            for (object, version) in wanted {
                let converted = codec.convert(object.clone(), &version).await?;
                let mut known = self.known.lock().expect("no holder of the conversions panics");
                known.push(((object, version), converted));
            }
        }
        Err(Status::internal("the managed fields of the object need too many conversions"))
    }
}

impl fmt::Debug for Conversions<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conversions").finish_non_exhaustive()
    }
}

impl Versions for Conversions<'_> {
    fn view(&self, object: &Value, api_version: &str) -> View<'_> {
        let Some(codec) = &self.resource.def.codec else { return View::Same };
        if object::api_version(object) == api_version {
            return View::Same;
        }
        // An object that has been brought elsewhere comes back by the same way.
        let back = api_version == self.resource.hub_api_version;
        let (schema, ty) = match codec.other(api_version) {
            OtherVersion::Gone => return View::Gone,
            OtherVersion::Converted(schema, ty) => (schema, ty),
            OtherVersion::Same => match self.resource.def.types.as_ref().filter(|_| back) {
                Some(own) => (&*own.schema, &own.root),
                None => return View::Same,
            },
        };
        let known = self.known.lock().expect("no holder of the conversions panics");
        let found = known.iter().find(|((from, version), _)| version == api_version && from == object);
        if let Some((_, converted)) = found {
            return View::Other(converted.clone(), schema, ty);
        }
        let mut wanted = self.wanted.lock().expect("no holder of the wishes panics");
        if !wanted.iter().any(|(from, version)| version == api_version && from == object) {
            wanted.push((object.clone(), api_version.to_owned()));
        }
        // Whatever comes of this is thrown away.
        View::Same
    }
}
