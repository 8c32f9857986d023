//! create: POST of a new object, and of the kinds that are only ever created (reviews).

use super::admit::{Chain, dedup_owners, ensure_namespace};
use super::body::Wanted;
use super::keep::wipe_system_fields;
use super::negotiate::body_media;
use super::options::{WriteKind, WriteOptions};
use super::render::Answer;
use super::resource::{Resource, Version};
use super::versions::Conversions;
use super::{Call, Registry};
use crate::admission::Operation;
use crate::def::{Handler, Reply, SubRequest};
use knarr_meta::object;
use knarr_meta::status::Status;

impl Resource {
    /// Whether objects may be created at the moment.
    pub(super) fn may_create(&self, name: &str) -> Result<(), Status> {
        match &self.def.no_creates {
            Some(reason) => Err(Status::forbidden(&self.gr, name, reason.as_str())),
            None => Ok(()),
        }
    }

    /// What a body of a version must be.
    pub(super) fn wanted<'a>(&'a self, version: &'a Version) -> Wanted<'a> {
        Wanted {
            kind: &self.def.kind,
            api_version: &version.api_version,
            ty: version.ty.as_ref(),
            schema: &self.schema,
            proto: version.proto,
            custom: self.def.is_custom().then_some(&*self.def.strategy),
        }
    }
}

impl Registry {
    /// Serves a create.
    pub(super) async fn create(&self, call: &Call<'_>) -> Result<Answer, Status> {
        let (cx, resource, version) = (call.cx, call.resource, call.version);
        body_media(&call.parts.headers, version.proto)?;
        let options = WriteOptions::read(cx, &call.parts.headers, WriteKind::Create)?;
        let body =
            resource.wanted(version).decode(cx, &call.parts.headers, &call.body, options.validation)?;
        let mut hub = resource.to_hub(version, body)?;
        resource.hooks().default(&mut hub);
        if !cx.info.name.is_empty() && object::name(&hub).is_empty() {
            object::set_name(&mut hub, &cx.info.name);
        }
        wipe_system_fields(&mut hub);
        ensure_namespace(resource, cx, &mut hub)?;
        dedup_owners(cx, &mut hub, false);
        // Nobody owns a status that the strategy is about to clear.
        let status = if resource.has_status() { object::remove_path(&mut hub, &["status"]) } else { None };
        self.track(cx, version, &options, &Conversions::of(resource), None, &mut hub)?;
        if let Some(status) = status {
            hub["status"] = status;
        }
        resource.may_create(object::name(&hub))?;
        let chain = Chain::new(self, cx, resource, Operation::Create);
        if !chain.is_empty() {
            let name = object::name(&hub).to_owned();
            chain.mutate(&mut hub, None, &name).await?;
            dedup_owners(cx, &mut hub, true);
        }
        self.insert(cx, resource, hub, &chain).await
    }

    /// Serves a create of a kind that is not stored.
    pub(super) async fn create_only(&self, call: &Call<'_>, handler: &dyn Handler) -> Result<Answer, Status> {
        let (cx, resource, version) = (call.cx, call.resource, call.version);
        let options = WriteOptions::read(cx, &call.parts.headers, WriteKind::Create)?;
        let mut body =
            resource.wanted(version).decode(cx, &call.parts.headers, &call.body, options.validation)?;
        resource.hooks().default(&mut body);
        ensure_namespace(resource, cx, &mut body)?;
        let chain = Chain::new(self, cx, resource, Operation::Create);
        chain.run(&mut body, None, "").await?;
        let parts = call.fresh_parts();
        let request = SubRequest { cx, parent: None, body, parts, raw: call.body.clone() };
        Ok(reply(handler.handle(request).await?))
    }
}

/// A handler's reply as an answer.
pub fn reply(reply: Reply) -> Answer {
    match reply {
        Reply::Object(code, value) => match Status::from_json(&value) {
            Some(mut status) => {
                status.code = if status.code == 0 { code } else { status.code };
                Answer::Status(status)
            }
            None => Answer::Plain(code, value),
        },
        Reply::Raw(response) => Answer::Raw(response),
    }
}
