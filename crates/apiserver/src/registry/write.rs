//! The two ways an object gets into the store: [`Registry::insert`] for a new one, [`Registry::modify`] for a
//! changed one. Each runs the strategy and admission inside one compare-and-set, so that no verb can persist
//! what was not validated (apiserver's `registry/generic/registry/store.go` and `registry/rest`).

use super::Registry;
use super::admit::{Chain, dedup_owners, ensure_namespace};
use super::keep::{keep_system_fields, keep_times, spec_changed, wipe_system_fields};
use super::options::WriteOptions;
use super::render::Answer;
use super::resource::{Resource, Version, encoded as with_bytes};
use super::versions::Conversions;
use crate::admission::Operation;
use crate::def::Reservation;
use crate::obj::Stored;
use crate::request::RequestCx;
use bytes::Bytes;
use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::managed::{self, Manager};
use knarr_meta::object;
use knarr_meta::status::{Reason, Status};
use knarr_meta::validate::{validate_object_meta, validate_object_meta_update};
use knarr_store::{Expect, KeyValue, LeaseId, Outcome, StoreError};
use serde_json::Value;

/// How often a generated name is tried.
const NAME_ATTEMPTS: usize = 8;
/// How often a write starts over because somebody else was faster.
pub const MODIFY_ATTEMPTS: usize = 64;
/// The largest object that is stored, etcd's default limit of a request.
const MAX_OBJECT_BYTES: usize = 1536 * 1024;
/// Upstream's words for a lost race.
pub const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Which part of an object a request may change.
#[derive(Clone, Copy)]
pub enum Part {
    /// Everything but status.
    Main,
    /// Status.
    Status,
    /// What a function lets through.
    Partial(fn(&RequestCx, &mut Value, &Value)),
}

/// What is done to an existing object.
pub struct Modify<'a> {
    /// The request.
    pub cx: &'a RequestCx,
    /// The resource.
    pub resource: &'a Resource,
    /// Which part of it.
    pub part: Part,
    /// The UID the object must have, if not empty.
    pub uid: &'a str,
    /// Whether the object is created when it does not exist, whatever the strategy says (apply).
    pub create: bool,
    /// Conversions that the change needs.
    pub conversions: &'a Conversions<'a>,
    /// Shown to admission in place of the object (scale).
    pub view: Option<View<'a>>,
}

/// Another kind that stands for an object.
pub struct View<'a> {
    /// Its group, version and kind.
    pub kind: (&'a str, &'a str, &'a str),
    /// The object as that kind.
    pub show: &'a (dyn Fn(&Value) -> Value + Send + Sync),
    /// Takes over what was changed in it.
    pub take: &'a (dyn Fn(&mut Value, &Value) + Send + Sync),
}

/// What a change makes of an object: from the stored form (`None` if there is none yet) to the stored form.
pub type Change<'a> = dyn Fn(Option<&Value>) -> Result<Value, Status> + Send + Sync + 'a;

impl Registry {
    /// Stores a new object. `hub` has been decoded, defaulted and admitted; its name may still be generated.
    pub(super) async fn insert(
        &self,
        cx: &RequestCx,
        resource: &Resource,
        hub: Value,
        chain: &Chain<'_>,
    ) -> Result<Answer, Status> {
        if object::name(&hub).is_empty() && !object::generate_name(&hub).is_empty() {
            for _ in 1..NAME_ATTEMPTS {
                match self.insert_once(cx, resource, hub.clone(), chain).await {
                    Err(status) if status.reason == Reason::AlreadyExists => {}
                    result => return result,
                }
            }
        }
        self.insert_once(cx, resource, hub, chain).await
    }

    async fn insert_once(
        &self,
        cx: &RequestCx,
        resource: &Resource,
        mut hub: Value,
        chain: &Chain<'_>,
    ) -> Result<Answer, Status> {
        let hooks = resource.hooks();
        wipe_system_fields(&mut hub);
        object::set_uid(&mut hub, &cx.ctx.rng.uuid());
        object::set_creation_timestamp(&mut hub, &knarr_meta::time::rfc3339(cx.ctx.clock.now()));
        let base = object::generate_name(&hub);
        let generated = !base.is_empty();
        if generated && object::name(&hub).is_empty() {
            let name = knarr_meta::names::generate_name(base, |len| cx.ctx.rng.name_suffix(len));
            object::set_name(&mut hub, &name);
        }
        let reservation = hooks.begin_create(cx, &mut hub).await?;
        ensure_namespace(resource, cx, &mut hub)?;
        if hooks.has_generation() {
            object::set_generation(&mut hub, 1);
        }
        hooks.prepare_for_create(cx, &mut hub);
        // Go writes the status of built-in kinds even when it is empty.
        if resource.has_status() && hub["status"].is_null() && resource.versions[0].proto {
            hub["status"] = Value::Object(serde_json::Map::new());
        }
        let stored = resource.cache.shape().encode(&hub);
        let name = object::name(&hub).to_owned();
        let mut errors = self.check_meta(resource, &hub);
        let (more, warnings) = resource.def.strategy.validate(cx, with_bytes(&hub, &stored))?;
        errors.extend(more);
        if !errors.is_empty() {
            return Err(Status::invalid(&resource.def.group, &resource.def.kind, &name, errors));
        }
        warnings.into_iter().for_each(|warning| cx.warn(warning));
        chain.validate(&mut hub, None, &name).await?;
        if !matches!(object::resource_version(&hub), "" | "0") {
            let text = "resourceVersion should not be set on objects to be created";
            return Err(Status::new(500, Reason::Unknown, text));
        }
        check_size(&stored)?;
        let key = resource.key(object::namespace(&hub), &name);
        if cx.dry_run {
            if let Some(existing) =
                self.store.get(&key, None).await.map_err(|e| store_error(resource, "create", e))?
            {
                return Err(self.exists(resource, &name, generated, Some(&existing)).await);
            }
            return Ok(Answer::Hub(201, hub));
        }
        let lease = self.lease_for(resource, &hub).await?;
        let bytes = resource.to_store(&hub, &stored).await?;
        let outcome = self.put(resource, key, Expect::Absent, bytes, lease).await?;
        match outcome {
            Outcome::Done(revision) => {
                commit(reservation).await;
                Ok(Answer::Stored(201, stored.at(revision)))
            }
            Outcome::Conflict(existing) => {
                Err(self.exists(resource, &name, generated, existing.as_ref()).await)
            }
        }
    }

    async fn exists(
        &self,
        resource: &Resource,
        name: &str,
        generated: bool,
        existing: Option<&KeyValue>,
    ) -> Status {
        let mut status = if generated {
            Status::generate_name_conflict(&resource.gr, name, 1)
        } else {
            Status::already_exists(&resource.gr, name)
        };
        let deleting = match existing {
            Some(kv) => self.read(resource, kv).await.ok(),
            None => None,
        };
        if deleting.is_some_and(|stored| object::is_deleting(&stored.parse())) {
            status.message = format!("object is being deleted: {}", status.message);
        }
        status
    }

    fn check_meta(&self, resource: &Resource, hub: &Value) -> ErrorList {
        let hooks = resource.hooks();
        let path = Path::new("metadata");
        validate_object_meta(&hub["metadata"], resource.namespaced(), |name| hooks.validate_name(name), &path)
    }

    /// Writes a key if `expect` holds.
    pub(super) async fn put(
        &self,
        resource: &Resource,
        key: Bytes,
        expect: Expect,
        value: Bytes,
        lease: LeaseId,
    ) -> Result<Outcome, Status> {
        let operation = if expect == Expect::Absent { "create" } else { "update" };
        let outcome = self
            .store
            .put(key.clone(), expect, value.clone(), lease)
            .await
            .map_err(|e| store_error(resource, operation, e))?;
        if let Outcome::Done(revision) = &outcome {
            resource.cache.wrote(&key, *revision, Some(&value));
        }
        Ok(outcome)
    }

    /// Deletes a key if it was last changed at `expect`.
    pub(super) async fn remove(
        &self,
        resource: &Resource,
        key: Bytes,
        expect: u64,
    ) -> Result<Outcome, Status> {
        let deleted = self.store.delete(key.clone(), expect).await;
        let outcome = deleted.map_err(|e| store_error(resource, "delete", e))?;
        if let Outcome::Done(revision) = &outcome {
            resource.cache.wrote(&key, *revision, None);
        }
        Ok(outcome)
    }

    /// What a key holds, in the canonical form.
    pub(super) async fn read(&self, resource: &Resource, kv: &KeyValue) -> Result<Stored, Status> {
        resource.cache.read_one(kv).await
    }

    /// The current object, or 404.
    pub(super) async fn fetch(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Stored, Status> {
        let key = resource.key(namespace, name);
        let kv = self.store.get(&key, None).await.map_err(|e| store_error(resource, "get", e))?;
        self.read(resource, &kv.ok_or_else(|| resource.not_found(name))?).await
    }

    /// Changes an object, starting over while others are faster and the change does not insist on a version.
    pub(super) async fn modify(&self, what: Modify<'_>, change: &Change<'_>) -> Result<Answer, Status> {
        let (cx, resource) = (what.cx, what.resource);
        let name = cx.info.name.as_str();
        let key = resource.key(&cx.info.namespace, name);
        for _ in 0..MODIFY_ATTEMPTS {
            let kv = self.store.get(&key, None).await.map_err(|e| store_error(resource, "update", e))?;
            let done = match kv {
                None => match self.create_instead(&what, change).await {
                    Err(status) if status.reason == Reason::AlreadyExists => None,
                    result => Some(result?),
                },
                Some(kv) => self.modify_once(&what, change, kv).await?,
            };
            if let Some(answer) = done {
                return Ok(answer);
            }
        }
        Err(Status::conflict(&resource.gr, name, MODIFIED))
    }

    /// An update or apply of an object that does not exist.
    async fn create_instead(&self, what: &Modify<'_>, change: &Change<'_>) -> Result<Answer, Status> {
        let (cx, resource) = (what.cx, what.resource);
        let name = cx.info.name.as_str();
        let main = matches!(what.part, Part::Main) && what.view.is_none();
        if !main || !(what.create || resource.hooks().allow_create_on_update()) {
            return Err(resource.not_found(name));
        }
        if !what.uid.is_empty() {
            let key = resource.key(&cx.info.namespace, name);
            return Err(Status::conflict(&resource.gr, name, uid_mismatch(&key, what.uid, "")));
        }
        let mut hub = what.conversions.settle(|| change(None)).await?;
        if !object::uid(&hub).is_empty() {
            let uid = object::uid(&hub);
            return Err(Status::conflict(
                &resource.gr,
                name,
                format!(
                    "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                ),
            ));
        }
        self.authorize_create(cx)?;
        resource.may_create(name)?;
        ensure_namespace(resource, cx, &mut hub)?;
        check_name(cx, &hub)?;
        let chain = Chain::new(self, cx, resource, Operation::Create);
        chain.mutate(&mut hub, None, name).await?;
        dedup_owners(cx, &mut hub, true);
        object::set_resource_version(&mut hub, "");
        self.insert_once(cx, resource, hub, &chain).await
    }

    /// One try; `None` when somebody else was faster.
    async fn modify_once(
        &self,
        what: &Modify<'_>,
        change: &Change<'_>,
        kv: KeyValue,
    ) -> Result<Option<Answer>, Status> {
        let (cx, resource) = (what.cx, what.resource);
        let (hooks, name) = (resource.hooks(), cx.info.name.as_str());
        let stored = self.read(resource, &kv).await?;
        let old = stored.parse();
        if !what.uid.is_empty() && what.uid != object::uid(&old) {
            return Err(Status::conflict(
                &resource.gr,
                name,
                uid_mismatch(&kv.key, what.uid, object::uid(&old)),
            ));
        }
        let mut new = what.conversions.settle(|| change(Some(&old))).await?;
        ensure_namespace(resource, cx, &mut new)?;
        check_name(cx, &new)?;
        let mut chain = Chain::new(self, cx, resource, Operation::Update);
        if let Some(view) = &what.view {
            chain = chain.of_kind(view.kind);
        }
        if !chain.is_empty() {
            match &what.view {
                None => chain.mutate(&mut new, Some(&old), name).await?,
                Some(view) => {
                    let mut shown = (view.show)(&new);
                    chain.mutate(&mut shown, Some(&(view.show)(&old)), name).await?;
                    (view.take)(&mut new, &shown);
                }
            }
        }
        dedup_owners(cx, &mut new, true);
        self.check_version(resource, name, &mut new, &old)?;
        object::set_generation(&mut new, object::generation(&old));
        let reservation = match what.part {
            Part::Main => hooks.begin_update(cx, &mut new, &old).await?,
            _ => None,
        };
        match what.part {
            Part::Main => hooks.prepare_for_update(cx, &mut new, &old),
            Part::Status => hooks.prepare_for_status_update(cx, &mut new, &old),
            Part::Partial(prepare) => prepare(cx, &mut new, &old),
        }
        keep_system_fields(&mut new, &old);
        if hooks.has_generation() && !matches!(what.part, Part::Status) && spec_changed(&new, &old) {
            object::set_generation(&mut new, object::generation(&old) + 1);
        }
        let mut encoded = resource.cache.shape().encode(&new);
        self.validate_change(what, &new, &old, &encoded, &stored)?;
        if keep_times(&mut new, &old) {
            encoded = resource.cache.shape().encode(&new);
        }
        if !chain.is_empty() {
            match &what.view {
                None => chain.validate(&mut new, Some(&old), name).await?,
                Some(view) => {
                    chain.validate(&mut (view.show)(&new), Some(&(view.show)(&old)), name).await?;
                }
            }
        }
        if object::is_deleting(&old)
            && !hooks.has_finalizers(&new)
            && object::deletion_grace_period_seconds(&old).unwrap_or(0) == 0
        {
            return self.delete_now(what, new, kv).await;
        }
        let unchanged = encoded.value == stored.value;
        if unchanged && !resource.def.is_custom() {
            commit(reservation).await;
            return Ok(Some(Answer::Stored(200, stored)));
        }
        check_size(&encoded)?;
        if cx.dry_run {
            return Ok(Some(Answer::Hub(200, new)));
        }
        let bytes = resource.to_store(&new, &encoded).await?;
        // What is stored in an older version is written anew even where nothing else changes: that is how all
        // objects are brought into the storage version.
        if unchanged && bytes == kv.value {
            return Ok(Some(Answer::Stored(200, stored)));
        }
        let lease = match hooks.ttl_seconds(&new) {
            None => kv.lease,
            Some(_) => self.lease_for(resource, &new).await?,
        };
        let expect = Expect::Unchanged(kv.mod_revision);
        let outcome = self.put(resource, kv.key, expect, bytes, lease).await?;
        match outcome {
            Outcome::Done(revision) => {
                commit(reservation).await;
                Ok(Some(Answer::Stored(200, encoded.at(revision))))
            }
            Outcome::Conflict(_) => Ok(None),
        }
    }

    /// The last finalizer of an object being deleted went away with this update.
    async fn delete_now(
        &self,
        what: &Modify<'_>,
        new: Value,
        kv: KeyValue,
    ) -> Result<Option<Answer>, Status> {
        if !what.cx.dry_run {
            match self.remove(what.resource, kv.key, kv.mod_revision).await? {
                Outcome::Done(_) => what.resource.hooks().after_delete(what.cx, &new).await,
                // Somebody else deleted it: that is what was wanted.
                Outcome::Conflict(None) => {}
                Outcome::Conflict(Some(_)) => return Ok(None),
            }
        }
        Ok(Some(Answer::Hub(200, new)))
    }

    fn validate_change(
        &self,
        what: &Modify<'_>,
        new: &Value,
        old: &Value,
        encoded: &Stored,
        stored: &Stored,
    ) -> Result<(), Status> {
        let (cx, resource) = (what.cx, what.resource);
        let mut errors = self.check_meta_update(resource, new, old);
        let strategy = &resource.def.strategy;
        let warnings = match what.part {
            Part::Main | Part::Partial(_) => {
                let (more, warnings) =
                    strategy.validate_update(cx, with_bytes(new, encoded), with_bytes(old, stored))?;
                errors.extend(more);
                warnings
            }
            Part::Status => {
                errors.extend(strategy.validate_status_update(
                    cx,
                    with_bytes(new, encoded),
                    with_bytes(old, stored),
                )?);
                Vec::new()
            }
        };
        if !errors.is_empty() {
            return Err(Status::invalid(&resource.def.group, &resource.def.kind, &cx.info.name, errors));
        }
        warnings.into_iter().for_each(|warning| cx.warn(warning));
        Ok(())
    }

    fn check_meta_update(&self, resource: &Resource, new: &Value, old: &Value) -> ErrorList {
        // The name cannot change, so it is not held against rules that may have become stricter since.
        let path = Path::new("metadata");
        let names = knarr_meta::validate::path_segment_name;
        let mut errors = validate_object_meta(&new["metadata"], resource.namespaced(), names, &path);
        errors.extend(validate_object_meta_update(&new["metadata"], &old["metadata"], &path));
        errors
    }

    /// Optimistic concurrency: the version the client read must still be the current one.
    fn check_version(
        &self,
        resource: &Resource,
        name: &str,
        new: &mut Value,
        old: &Value,
    ) -> Result<(), Status> {
        let current = object::resource_version(old);
        match object::resource_version(new) {
            "" | "0" if resource.hooks().allow_unconditional_update() => {
                let current = current.to_owned();
                object::set_resource_version(new, &current);
                Ok(())
            }
            "" | "0" => {
                let path = Path::new("metadata").child("resourceVersion");
                let mut errors = ErrorList::new();
                errors.push(field::invalid(&path, 0, "must be specified for an update"));
                Err(Status::invalid(&resource.def.group, &resource.def.resource, name, errors))
            }
            given if given == current => Ok(()),
            given if given.parse::<u64>().is_err() => {
                let quoted = knarr_meta::go::quote(given);
                let text = format!("strconv.ParseUint: parsing {quoted}: invalid syntax");
                Err(Status::new(500, Reason::Unknown, text))
            }
            _ => Err(Status::conflict(&resource.gr, name, MODIFIED)),
        }
    }

    /// Records who changed which fields, in the version the client wrote. `old` is `None` for a create.
    pub(super) fn track(
        &self,
        cx: &RequestCx,
        version: &Version,
        options: &WriteOptions,
        conversions: &Conversions<'_>,
        old: Option<&Value>,
        new: &mut Value,
    ) -> Result<(), Status> {
        let resource = conversions.resource();
        let time = knarr_meta::time::rfc3339(cx.ctx.clock.now());
        let manager = Manager {
            name: &options.manager,
            operation: managed::Operation::Update,
            api_version: &version.api_version,
            subresource: &cx.info.subresource,
            reset: resource.reset_fields(&cx.info.subresource),
            custom: resource.def.is_custom(),
            versions: conversions,
            time: &time,
        };
        let Some(ty) = &version.ty else { return Ok(()) };
        if version.identical {
            managed::update(&resource.schema, ty, old, new, &manager);
            return Ok(());
        }
        let old = old.map(|old| resource.serve_from_hub(version, old.clone())).transpose()?;
        let mut served = resource.serve_from_hub(version, new.clone())?;
        managed::update(&resource.schema, ty, old.as_ref(), &mut served, &manager);
        object::set_managed_fields(new, object::managed_fields(&served).to_vec());
        Ok(())
    }
}

fn check_name(cx: &RequestCx, hub: &Value) -> Result<(), Status> {
    let (given, wanted) = (object::name(hub), cx.info.name.as_str());
    if given.is_empty() {
        return Err(Status::bad_request(format!(
            "the name of the object ({wanted} based on URL) was undeterminable: name must be provided"
        )));
    }
    if given != wanted {
        return Err(Status::bad_request(format!(
            "the name of the object ({given}) does not match the name on the URL ({wanted})"
        )));
    }
    Ok(())
}

fn check_size(stored: &Stored) -> Result<(), Status> {
    if stored.value.len() > MAX_OBJECT_BYTES {
        return Err(Status::too_large(format!("limit is {MAX_OBJECT_BYTES}")));
    }
    Ok(())
}

/// Upstream's words for a UID that is not the object's.
pub fn uid_mismatch(key: &[u8], wanted: &str, current: &str) -> String {
    format!(
        "StorageError: invalid object, Code: 4, Key: {}, ResourceVersion: 0, AdditionalErrorMsg: Precondition failed: UID in precondition: {wanted}, UID in object meta: {current}",
        String::from_utf8_lossy(key)
    )
}

async fn commit(reservation: Option<Box<dyn Reservation>>) {
    if let Some(reservation) = reservation {
        reservation.commit().await;
    }
}

/// A failure of the store as clients see it.
pub fn store_error(resource: &Resource, operation: &str, error: StoreError) -> Status {
    match error {
        StoreError::Unavailable(_) => Status::server_timeout(&resource.gr, operation, 2),
        error => Status::internal(error),
    }
}
