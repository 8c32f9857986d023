//! update: PUT of a whole object.

use super::keep::keep_other_parts;
use super::options::{WriteKind, WriteOptions};
use super::render::Answer;
use super::versions::Conversions;
use super::write::{Modify, Part};
use super::{Call, Registry};
use knarr_meta::object;
use knarr_meta::status::Status;
use serde_json::Value;

impl Registry {
    /// Serves an update of a part of an object.
    pub(super) async fn update(&self, call: &Call<'_>, part: Part) -> Result<Answer, Status> {
        let (cx, resource, version) = (call.cx, call.resource, call.version);
        let options = WriteOptions::read(cx, &call.parts.headers, WriteKind::Update)?;
        let body =
            resource.wanted(version).decode(cx, &call.parts.headers, &call.body, options.validation)?;
        let mut hub = resource.to_hub(version, body)?;
        resource.hooks().default(&mut hub);
        super::admit::ensure_namespace(resource, cx, &mut hub)?;
        if object::name(&hub).is_empty() {
            let text = format!(
                "the name of the object ({} based on URL) was undeterminable: name must be provided",
                cx.info.name
            );
            return Err(Status::bad_request(text));
        }
        super::admit::dedup_owners(cx, &mut hub, false);
        let uid = object::uid(&hub).to_owned();
        let conversions = &Conversions::of(resource);
        let what = Modify { cx, resource, part, uid: &uid, create: false, conversions, view: None };
        let change = |old: Option<&Value>| {
            let mut new = hub.clone();
            if let Some(old) = old {
                keep_other_parts(cx, resource, part, &mut new, old);
            }
            self.track(cx, version, &options, conversions, old, &mut new)?;
            Ok(new)
        };
        self.modify(what, &change).await
    }
}
