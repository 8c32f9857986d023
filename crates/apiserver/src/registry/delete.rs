//! delete and deletecollection: preconditions, grace periods, finalizers and what becomes of dependents.

use super::admit::Chain;
use super::options::{DeleteOptions, Propagation};
use super::render::{Answer, ListAnswer};
use super::resource::Resource;
use super::write::store_error;
use super::{Call, Registry};
use crate::admission::Operation;
use crate::obj::Stored;
use crate::request::RequestCx;
use knarr_meta::object;
use knarr_meta::status::{Details, Status};
use knarr_meta::time::{parse, rfc3339};
use knarr_store::{Expect, KeyValue, Outcome};
use serde_json::Value;
use std::time::Duration;

const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";
/// Kinds whose deletion is answered with the object (upstream's `ReturnDeletedObject`); others get a Status.
const RETURNED: [&str; 7] = [
    "persistentvolumeclaims",
    "persistentvolumes",
    "pods",
    "podtemplates",
    "resourcequotas",
    "serviceaccounts",
    "services",
];
/// How often a deletion starts over because the object changed under it.
const ATTEMPTS: usize = 64;

/// What one look at an object decides.
enum Step {
    /// Nothing: it is being deleted already and this request changes nothing about that.
    Pending,
    /// It stays, changed, until somebody finishes.
    Store(Value),
    /// It is changed, and goes right after.
    StoreThenRemove(Value),
    /// It goes.
    Remove,
}

impl Registry {
    /// Serves a delete.
    pub(super) async fn delete(&self, call: &Call<'_>) -> Result<Answer, Status> {
        let options = DeleteOptions::read(call.cx, &call.parts.headers, &call.body)?;
        let answer = self.delete_one(call.cx, call.resource, &call.cx.info.name, &options).await?;
        Ok(match answer {
            // A client that asked not to orphan is told that the work goes on.
            Answer::Stored(_, stored) if options.orphan == Some(false) => Answer::Stored(202, stored),
            answer => answer,
        })
    }

    async fn delete_one(
        &self,
        cx: &RequestCx,
        resource: &Resource,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Answer, Status> {
        let key = resource.key(&cx.info.namespace, name);
        let chain = Chain::new(self, cx, resource, Operation::Delete).with_options(options.to_value());
        // Upstream names the request to admission, and a deletecollection names no object.
        let named = cx.info.name.as_str();
        let mut options = options.clone();
        let mut changed = None;
        for _ in 0..ATTEMPTS {
            let kv = self.store.get(&key, None).await.map_err(|e| store_error(resource, "delete", e))?;
            let Some(kv) = kv else {
                // The object is gone between two steps of ours: what was wanted has happened.
                return match changed {
                    Some(last) => Ok(self.deleted(cx, resource, last).await),
                    None => Err(resource.not_found(name)),
                };
            };
            let stored = self.read(resource, &kv).await?;
            let old = stored.parse();
            check_preconditions(resource, &old, &options)?;
            if !chain.is_empty() {
                chain.run(&mut Value::Null, Some(&old), named).await?;
            }
            let step = if changed.is_some() { Step::Remove } else { self.plan(cx, resource, &old, &options) };
            match step {
                Step::Pending => return Ok(self.outcome(resource, &old)),
                Step::Store(new) => {
                    if let Some(answer) =
                        self.store_deletion(resource, kv, stored, &new, options.dry_run).await?
                    {
                        return Ok(answer);
                    }
                }
                Step::StoreThenRemove(new) => {
                    match self.store_deletion(resource, kv, stored, &new, options.dry_run).await? {
                        Some(Answer::Stored(_, stored)) => {
                            // The precondition was met; the version it named is the one before.
                            options.revision = None;
                            changed = Some(stored.parse());
                        }
                        Some(answer) => return Ok(answer),
                        None => {}
                    }
                }
                Step::Remove => {
                    if options.dry_run {
                        return Ok(self.outcome(resource, &old));
                    }
                    let outcome = self.remove(resource, kv.key, kv.mod_revision).await?;
                    match outcome {
                        Outcome::Done(revision) => {
                            let mut last = old;
                            object::set_resource_version(&mut last, &revision.to_string());
                            return Ok(self.deleted(cx, resource, last).await);
                        }
                        Outcome::Conflict(_) => {}
                    }
                }
            }
        }
        Err(Status::conflict(&resource.gr, name, super::write::MODIFIED))
    }

    async fn deleted(&self, cx: &RequestCx, resource: &Resource, last: Value) -> Answer {
        resource.hooks().after_delete(cx, &last).await;
        self.outcome(resource, &last)
    }

    /// What the client is told of an object that is gone (or as good as).
    fn outcome(&self, resource: &Resource, last: &Value) -> Answer {
        if resource.def.group.is_empty() && RETURNED.contains(&&*resource.def.resource) {
            return Answer::Hub(200, last.clone());
        }
        Answer::Status(Status::success(Some(Details {
            name: object::name(last).to_owned(),
            group: resource.def.group.to_string(),
            kind: resource.def.resource.to_string(),
            uid: object::uid(last).to_owned(),
            ..Details::default()
        })))
    }

    async fn store_deletion(
        &self,
        resource: &Resource,
        kv: KeyValue,
        stored: Stored,
        new: &Value,
        dry_run: bool,
    ) -> Result<Option<Answer>, Status> {
        if dry_run {
            return Ok(Some(Answer::Hub(200, new.clone())));
        }
        let encoded = resource.cache.shape().encode(new);
        if encoded.value == stored.value {
            return Ok(Some(Answer::Stored(200, stored)));
        }
        let expect = Expect::Unchanged(kv.mod_revision);
        let bytes = resource.to_store(new, &encoded).await?;
        let outcome = self.put(resource, kv.key, expect, bytes, kv.lease).await?;
        match outcome {
            Outcome::Done(revision) => Ok(Some(Answer::Stored(200, encoded.at(revision)))),
            Outcome::Conflict(_) => Ok(None),
        }
    }

    /// Decides what a deletion does to the object as it is now.
    fn plan(&self, cx: &RequestCx, resource: &Resource, old: &Value, options: &DeleteOptions) -> Step {
        let hooks = resource.hooks();
        let now = cx.ctx.clock.now();
        let requested = options.grace.map(|seconds| if seconds < 0 { 1 } else { seconds });
        let mut new = old.clone();
        let graceful = if object::is_deleting(old) {
            match (object::deletion_grace_period_seconds(old).map(|s| if s < 0 { 1 } else { s }), requested) {
                (None | Some(0), _) => None,
                // A grace period can only be shortened.
                (Some(current), Some(wanted)) if wanted < current => {
                    let started = parse(object::deletion_timestamp(old)).unwrap_or(now) - seconds(current);
                    let mut wanted = wanted;
                    let mut at = started + seconds(wanted);
                    if at < now {
                        at = now;
                        wanted = wanted.min(1);
                    }
                    object::set_deletion_timestamp(&mut new, &rfc3339(at));
                    object::set_deletion_grace_period_seconds(&mut new, Some(wanted));
                    Some(wanted)
                }
                _ => return Step::Pending,
            }
        } else {
            let grace = hooks.grace_period(cx, old, requested);
            if let Some(grace) = grace {
                object::set_deletion_timestamp(&mut new, &rfc3339(now + seconds(grace)));
                object::set_deletion_grace_period_seconds(&mut new, Some(grace));
                bump_generation(&mut new);
                hooks.mark_deleted(cx, &mut new);
            }
            grace
        };
        set_gc_finalizers(resource, &mut new, options);
        let held = hooks.has_finalizers(&new);
        match graceful {
            Some(grace) if held || grace > 0 => Step::Store(new),
            Some(_) => Step::StoreThenRemove(new),
            None if held => {
                if !object::is_deleting(old) {
                    bump_generation(&mut new);
                    object::set_deletion_timestamp(&mut new, &rfc3339(now));
                    hooks.mark_deleted(cx, &mut new);
                } else if parse(object::deletion_timestamp(old)).is_ok_and(|at| at > now) {
                    object::set_deletion_timestamp(&mut new, &rfc3339(now));
                }
                object::set_deletion_grace_period_seconds(&mut new, Some(0));
                Step::Store(new)
            }
            None => Step::Remove,
        }
    }

    /// Serves a deletecollection.
    pub(super) async fn delete_collection(&self, call: &Call<'_>) -> Result<Answer, Status> {
        let options = DeleteOptions::read(call.cx, &call.parts.headers, &call.body)?;
        let listed = self.list_objects(call).await?;
        for obj in &listed.listed.objs {
            // Each deletion has its own options, and a namespace of its own when the request names none.
            match self.delete_one(call.cx, call.resource, obj.name(), &options).await {
                Err(status) if status.code == 404 => {}
                result => {
                    result?;
                }
            }
        }
        // A client that asked for so many at a time goes on from there; otherwise all are gone.
        let limited = call.cx.query("limit").is_some_and(|limit| !matches!(limit, "" | "0"));
        Ok(Answer::List(if limited {
            listed
        } else {
            ListAnswer { token: String::new(), remaining: None, ..listed }
        }))
    }
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

fn bump_generation(new: &mut Value) {
    let generation = object::generation(new);
    if generation > 0 {
        object::set_generation(new, generation + 1);
    }
}

fn check_preconditions(resource: &Resource, old: &Value, options: &DeleteOptions) -> Result<(), Status> {
    let name = object::name(old);
    // Upstream's early check names the kind where a resource is expected.
    let gr = knarr_meta::gvk::GroupResource::new(&resource.def.group, &resource.def.kind);
    if let Some(uid) = options.uid.as_deref().filter(|uid| *uid != object::uid(old)) {
        let text = format!(
            "the UID in the precondition ({uid}) does not match the UID in record ({}). The object might have been deleted and then recreated",
            object::uid(old)
        );
        return Err(Status::conflict(&gr, name, text));
    }
    if let Some(revision) = options.revision.as_deref().filter(|r| *r != object::resource_version(old)) {
        let text = format!(
            "the ResourceVersion in the precondition ({revision}) does not match the ResourceVersion in record ({}). The object might have been modified",
            object::resource_version(old)
        );
        return Err(Status::conflict(&gr, name, text));
    }
    Ok(())
}

/// Finalizers that keep the owner until the garbage collector has seen to its dependents.
fn set_gc_finalizers(resource: &Resource, new: &mut Value, options: &DeleteOptions) {
    let before: Vec<String> = object::finalizers(new).into_iter().map(str::to_owned).collect();
    let asked = match (options.orphan, options.propagation) {
        (Some(true), _) => Some(Propagation::Orphan),
        (Some(false), _) => Some(Propagation::Background),
        (None, asked) => asked,
    };
    let held = before.iter().find_map(|finalizer| match finalizer.as_str() {
        ORPHAN => Some(Propagation::Orphan),
        FOREGROUND => Some(Propagation::Foreground),
        _ => None,
    });
    let default =
        if resource.hooks().orphans_by_default() { Propagation::Orphan } else { Propagation::Background };
    // Events cannot own anything.
    let wanted = if resource.def.resource == "events" {
        Propagation::Background
    } else {
        asked.or(held).unwrap_or(default)
    };
    let mut after: Vec<String> =
        before.iter().filter(|f| !matches!(f.as_str(), ORPHAN | FOREGROUND)).cloned().collect();
    match wanted {
        Propagation::Background => {}
        Propagation::Orphan => after.push(ORPHAN.to_owned()),
        Propagation::Foreground => after.push(FOREGROUND.to_owned()),
    }
    let same = before.len() == after.len() && before.iter().all(|finalizer| after.contains(finalizer));
    if !same {
        object::set_finalizers(new, after);
    }
}
