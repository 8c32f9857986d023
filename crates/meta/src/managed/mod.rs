//! Which manager owns which field: `metadata.managedFields` and server-side apply (KEP-555, with the rules of
//! structured-merge-diff and of apimachinery's `managedfields`).
//!
//! Every manager's entry is taken to be written in the version of the type handed in; entries of other versions
//! are not converted.

mod fields;
mod managers;
mod merge;
mod set;
mod versions;

pub use set::{FieldSet, FieldsError};

use crate::object;
use crate::schema::{Mode, Schema, Type, check};
use crate::status::{Cause, Reason, Status};
use fields::{Difference, added, compare};
use managers::Entry;
use serde_json::{Map, Value};
use set::with_named_fields;
use std::collections::HashMap;

/// The annotation in which client-side apply keeps what it applied.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Metadata that nobody owns.
const NOT_OWNED: [&str; 8] = [
    "f:name",
    "f:namespace",
    "f:creationTimestamp",
    "f:selfLink",
    "f:uid",
    "f:generation",
    "f:managedFields",
    "f:resourceVersion",
];

/// How a manager writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Operation {
    /// Server-side apply.
    Apply,
    /// Every other write.
    Update,
}

/// Who writes.
#[derive(Clone, Copy, Debug)]
pub struct Manager<'a> {
    /// The field manager's name.
    pub name: &'a str,
    /// How it writes.
    pub operation: Operation,
    /// The version the object is written in, as `apiVersion` has it.
    pub api_version: &'a str,
    /// The subresource written to; empty for the object itself.
    pub subresource: &'a str,
    /// The top-level fields that such a write leaves as they were: nobody comes to own anything there by it
    /// (upstream's reset fields). See [`reset_fields`] for those of built-in kinds.
    pub reset: &'a [&'a str],
    /// Whether the object has no form but the one it is given in (custom resources): nothing of it is dropped for
    /// being empty.
    pub custom: bool,
    /// The object in the versions that other managers have written; [`ONE_FORM`] where fields are called the same in
    /// all of them.
    pub versions: &'a dyn Versions,
    /// When, as [`crate::time::rfc3339`] prints it.
    pub time: &'a str,
}

/// A field that an apply wants to change and another manager owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// The owner, as upstream describes it: `"kubectl" using v1`.
    pub manager: String,
    /// The field, such as `.spec.replicas`.
    pub field: String,
}

/// Why an apply is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Other managers own fields that it wants to change.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The object cannot be merged, such as a list with a key twice.
    #[error("{0}")]
    Invalid(String),
}

impl ApplyError {
    /// The answer to the client.
    pub fn status(&self) -> Status {
        match self {
            ApplyError::Invalid(message) => Status::new(500, Reason::Unknown, message.clone()),
            ApplyError::Conflicts(conflicts) => {
                let cause = |conflict: &Conflict| Cause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: format!("conflict with {}", conflict.manager),
                    field: conflict.field.clone(),
                };
                Status::apply_conflict(conflicts.iter().map(cause).collect(), self.to_string())
            }
        }
    }
}

fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field);
    }
    let mut lines = Vec::new();
    for (i, conflict) in conflicts.iter().enumerate() {
        if i == 0 || conflicts[i - 1].manager != conflict.manager {
            lines.push(format!("conflicts with {}:", conflict.manager));
        }
        lines.push(format!("- {}", conflict.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// An object in another version than the one that is written.
#[derive(Debug)]
pub enum View<'a> {
    /// Its fields are called the same there.
    Same,
    /// There is no such version any more.
    Gone,
    /// What it is there, with its type.
    Other(Value, &'a Schema, &'a Type),
}

/// Objects in the other versions of their kind. Managers own fields in the version that they wrote.
pub trait Versions: std::fmt::Debug + Send + Sync {
    /// The object in that version, by `apiVersion`.
    fn view(&self, object: &Value, api_version: &str) -> View<'_>;
}

/// The versions of a kind whose fields are called the same in all of them.
#[derive(Debug)]
pub struct OneForm;

/// See [`OneForm`].
pub const ONE_FORM: &OneForm = &OneForm;

impl Versions for OneForm {
    fn view(&self, _object: &Value, _api_version: &str) -> View<'_> {
        View::Same
    }
}

/// What a write changes and removes, in the version of each manager.
struct Changes<'a> {
    manager: &'a Manager<'a>,
    old: &'a Value,
    new: &'a Value,
    /// In the version that is written.
    own: (FieldSet, FieldSet),
    /// In others, as far as they have been looked at; none of those that are gone.
    others: HashMap<String, Option<(FieldSet, FieldSet)>>,
}

impl<'a> Changes<'a> {
    fn new(manager: &'a Manager<'a>, old: &'a Value, new: &'a Value, own: (FieldSet, FieldSet)) -> Self {
        Self { manager, old, new, own, others: HashMap::new() }
    }

    /// What is changed and what is removed where the manager of an entry sees it; none if its version is gone.
    fn seen_by(&mut self, entry: &Entry) -> Option<&(FieldSet, FieldSet)> {
        if entry.api_version == self.manager.api_version {
            return Some(&self.own);
        }
        if !self.others.contains_key(&entry.api_version) {
            let view = |object: &Value| self.manager.versions.view(object, &entry.api_version);
            let seen = match (view(self.old), view(self.new)) {
                (View::Gone, _) | (_, View::Gone) => None,
                (View::Other(old, schema, ty), View::Other(new, ..)) => {
                    let mut difference = compare(schema, ty, &old, &new);
                    ignore_reset(&mut difference, self.manager.reset);
                    let mut changed = difference.modified;
                    changed.add(&difference.added);
                    strip(&mut changed);
                    strip(&mut difference.removed);
                    Some((changed, difference.removed))
                }
                _ => Some(self.own.clone()),
            };
            self.others.insert(entry.api_version.clone(), seen);
        }
        self.others.get(&entry.api_version).and_then(Option::as_ref)
    }

    /// Takes from each manager what it no longer owns; those without anything left go.
    fn lose(&mut self, entries: &mut Vec<Entry>) {
        entries.retain_mut(|entry| {
            let Some((changed, removed)) = self.seen_by(entry) else { return false };
            lose(entry, changed);
            lose(entry, removed);
            !entry.set.is_empty()
        });
    }
}

/// What a write to a built-in kind, or to its status, leaves as it was.
pub fn reset_fields(subresource: &str) -> &'static [&'static str] {
    match subresource {
        "" => &["status"],
        "status" => &["spec"],
        _ => &[],
    }
}

/// Takes out what nobody owns: the type, and metadata that the server or the request's path decides.
fn strip(set: &mut FieldSet) {
    let fields = &mut set.0;
    fields.remove("f:apiVersion");
    fields.remove("f:kind");
    if let Some(metadata) = fields.get_mut("f:metadata").and_then(Value::as_object_mut) {
        for name in NOT_OWNED {
            metadata.remove(name);
        }
        metadata.remove(set::SELF);
        if metadata.is_empty() {
            fields.remove("f:metadata");
        }
    }
}

fn take_managed_fields(obj: &mut Value) -> Option<Value> {
    obj.get_mut("metadata")?.as_object_mut()?.remove("managedFields")
}

/// Whether a client asks to forget all managers: an empty list, or one empty entry.
fn is_reset(entries: &[Value]) -> bool {
    match entries {
        [] => true,
        [one] => one.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// Sets `new.metadata.managedFields` to what it is after this write. It belongs before admission, on the object as
/// the client wants it to be; `old` is none for a create.
///
/// Managers lose the fields that this write changes or removes, and the writer gains those it changes or adds. A
/// write that changes nothing leaves every entry and its time alone.
pub fn update(schema: &Schema, ty: &Type, old: Option<&Value>, new: &mut Value, manager: &Manager<'_>) {
    let given = take_managed_fields(new);
    let Some(old) = old else {
        if let Some(set) = new_fields(schema, ty, new, manager.reset) {
            let time = Some(manager.time.to_owned());
            let entry = Entry { time, ..Entry::new(manager, set) };
            object::set_managed_fields(new, managers::encode(vec![entry]));
        }
        return;
    };
    let given = given.as_ref().and_then(Value::as_array).filter(|_| manager.subresource.is_empty());
    let live = object::managed_fields(old);
    let given = match given {
        // What a client read it may send back.
        Some(entries) if entries == live => None,
        Some(entries) if is_reset(entries) => return,
        Some(entries) => managers::decode(entries).ok().filter(|entries| !entries.is_empty()),
        None => None,
    };
    let is_given = given.is_some();
    let mut difference = compare(schema, ty, old, new);
    ignore_reset(&mut difference, manager.reset);
    // Nothing of what managers own has changed: the entries stay as they are.
    let mut changed = difference.modified;
    changed.add(&difference.added);
    strip(&mut changed);
    strip(&mut difference.removed);
    if !is_given && changed.is_empty() && difference.removed.is_empty() {
        object::set_managed_fields(new, live.to_vec());
        return;
    }
    let mut entries = given.unwrap_or_else(|| managers::decode(live).unwrap_or_default());
    if entries.is_empty() {
        // Nobody's fields are known, so they are not tracked before the first apply.
        return;
    }
    let own = (changed.clone(), difference.removed);
    Changes::new(manager, old, new, own).lose(&mut entries);
    if !changed.is_empty() {
        let mut entry = Entry::new(manager, changed);
        entry.time = Some(manager.time.to_owned());
        match entries.iter_mut().find(|other| other.is_same_manager(&entry)) {
            Some(other) => {
                entry.set.add(&other.set);
                *other = entry;
            }
            None => entries.push(entry),
        }
    }
    managers::cap(&mut entries);
    object::set_managed_fields(new, managers::encode(entries));
}

fn lose(entry: &mut Entry, fields: &FieldSet) {
    if !fields.is_empty() && !entry.set.is_empty() {
        entry.set = entry.set.difference(fields);
    }
}

fn ignore_reset(difference: &mut Difference, reset: &[&str]) {
    for reset in reset.iter().map(|name| format!("f:{name}")) {
        for set in [&mut difference.removed, &mut difference.modified, &mut difference.added] {
            set.0.remove(&reset);
        }
    }
}

/// All fields of an object that nobody has written before, built in one pass: creates are the hot path.
fn new_fields(schema: &Schema, ty: &Type, object: &Value, reset: &[&str]) -> Option<FieldSet> {
    let mut set = FieldSet(added(schema, ty, false, object, true)?);
    strip(&mut set);
    for reset in reset {
        set.0.remove(&format!("f:{reset}"));
    }
    (!set.is_empty()).then_some(set)
}

/// Merges `applied` into `live` (none: it is created) and answers with the new object and its managed fields.
///
/// `applied` is checked against the schema before, in [`Mode::Applied`]. The result has the form in which it is
/// stored, and is not defaulted yet.
pub fn apply(
    schema: &Schema,
    ty: &Type,
    live: Option<&Value>,
    applied: &Value,
    manager: &Manager<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    if applied
        .get("metadata")
        .and_then(|meta| meta.get("managedFields"))
        .is_some_and(|fields| !fields.is_null())
    {
        return Err(ApplyError::Invalid("metadata.managedFields must be nil".into()));
    }
    refuse_duplicates(schema, ty, applied)?;
    let mut old = live.cloned().unwrap_or_else(|| Value::Object(Map::new()));
    let known = take_managed_fields(&mut old).unwrap_or(Value::Null);
    let mut entries = managers::decode(known.as_array().map_or(&[], Vec::as_slice))
        .map_err(|error| ApplyError::Invalid(format!("failed to decode managed fields: {error}")))?;
    if entries.is_empty() && live.is_some() {
        let before = Manager { name: "before-first-apply", operation: Operation::Update, ..*manager };
        if let Some(set) = new_fields(schema, ty, &old, manager.reset) {
            let time = Some(manager.time.to_owned());
            entries.push(Entry { time, ..Entry::new(&before, set) });
        }
    }
    let outcome = match apply_once(schema, ty, &old, applied, manager, force, entries.clone()) {
        Err(Failure::Conflicts(conflicts)) if manager.name == "kubectl" => {
            // What client-side apply wrote and nobody has changed since may be taken over.
            let Some(allowed) = unchanged_since_last_applied(schema, ty, &old, manager.api_version) else {
                return Err(describe(conflicts));
            };
            let left: Vec<(Entry, FieldSet)> = conflicts
                .into_iter()
                .map(|(entry, fields)| (entry, fields.difference(&allowed)))
                .filter(|(_, fields)| !fields.is_empty())
                .collect();
            if !left.is_empty() {
                return Err(describe(left));
            }
            apply_once(schema, ty, &old, applied, manager, true, entries)
        }
        other => other,
    };
    let (mut result, entries) = outcome.map_err(|failure| match failure {
        Failure::Conflicts(conflicts) => describe(conflicts),
        Failure::Other(message) => ApplyError::Invalid(message),
    })?;
    if !manager.custom {
        check(schema, ty, &mut result, Mode::Ignore);
    }
    if manager.name == "kubectl"
        && object::annotation(&result, LAST_APPLIED).is_some_and(|text| !text.is_empty())
    {
        keep_last_applied(&mut result, applied);
    }
    object::set_managed_fields(&mut result, managers::encode(entries));
    Ok(result)
}

fn refuse_duplicates(schema: &Schema, ty: &Type, applied: &Value) -> Result<(), ApplyError> {
    let found = merge::duplicates(schema, ty, applied);
    if found.is_empty() {
        return Ok(());
    }
    let (group, version) = crate::gvk::parse_api_version(object::api_version(applied));
    let found = match found.as_slice() {
        [one] => one.clone(),
        many => format!("errors:\n  {}", many.join("\n  ")),
    };
    Err(ApplyError::Invalid(format!(
        "failed to create typed patch object ({}/{}; {group}/{version}, Kind={}): {found}",
        object::namespace(applied),
        object::name(applied),
        object::kind(applied)
    )))
}

enum Failure {
    /// The owners and what they own of that which the apply wants to change.
    Conflicts(Vec<(Entry, FieldSet)>),
    Other(String),
}

fn describe(mut conflicts: Vec<(Entry, FieldSet)>) -> ApplyError {
    conflicts.sort_by(|(a, _), (b, _)| {
        (&a.manager, a.operation, &a.api_version, &a.subresource).cmp(&(
            &b.manager,
            b.operation,
            &b.api_version,
            &b.subresource,
        ))
    });
    let each = |(entry, fields): (Entry, FieldSet)| {
        let manager = entry.description();
        fields.paths().into_iter().map(move |field| Conflict { manager: manager.clone(), field })
    };
    ApplyError::Conflicts(conflicts.into_iter().flat_map(each).collect())
}

fn apply_once(
    schema: &Schema,
    ty: &Type,
    old: &Value,
    applied: &Value,
    manager: &Manager<'_>,
    force: bool,
    mut entries: Vec<Entry>,
) -> Result<(Value, Vec<Entry>), Failure> {
    let merged = merge::merge(schema, ty, old, applied)
        .map_err(|error| Failure::Other(format!("failed to merge config: {error}")))?;
    let mut set = FieldSet::of(schema, ty, applied);
    for reset in manager.reset {
        set.0.remove(&format!("f:{reset}"));
    }
    let mut entry = Entry::new(manager, set);
    let mine = entries.iter().position(|other| other.is_same_manager(&entry));
    let last = mine.map(|at| entries.remove(at));
    entry.time = last.as_ref().and_then(|last| last.time.clone());
    let new = match &last {
        Some(last) if !last.set.is_empty() => {
            let one_form = std::iter::once(last)
                .chain(&entries)
                .all(|other| is_same_form(manager, &merged, &other.api_version));
            if one_form {
                prune(schema, ty, merged, &entry, &entries, last)
            } else {
                versions::prune(Form { schema, ty }, manager, merged, &entry, &entries, last)
            }
        }
        _ => merged,
    };
    let mut difference = compare(schema, ty, old, &new);
    ignore_reset(&mut difference, manager.reset);
    let mut changed = difference.modified;
    changed.add(&difference.added);
    let mut changes = Changes::new(manager, old, &new, (changed, difference.removed));
    let mut conflicts: Vec<(Entry, FieldSet)> = Vec::new();
    for other in &entries {
        let fields = changes.seen_by(other).map(|(changed, _)| other.set.intersection(changed));
        if let Some(fields) = fields.filter(|fields| !fields.is_empty()) {
            conflicts.push((other.clone(), fields));
        }
    }
    if !force && !conflicts.is_empty() {
        return Err(Failure::Conflicts(conflicts));
    }
    changes.lose(&mut entries);
    strip(&mut entry.set);
    if new != *old {
        entry.time = Some(manager.time.to_owned());
    }
    if !entry.set.is_empty() {
        entries.push(entry);
    }
    Ok((new, entries))
}

/// A type and the schema it is in.
#[derive(Clone, Copy)]
struct Form<'a> {
    schema: &'a Schema,
    ty: &'a Type,
}

/// Whether fields are called the same in that version.
fn is_same_form(manager: &Manager<'_>, object: &Value, api_version: &str) -> bool {
    api_version == manager.api_version || matches!(manager.versions.view(object, api_version), View::Same)
}

/// Removes what the applier applied last time, does not apply now, and nobody else owns.
fn prune(schema: &Schema, ty: &Type, merged: Value, entry: &Entry, others: &[Entry], last: &Entry) -> Value {
    let named = |set: &FieldSet| with_named_fields(schema, Some(ty), set);
    let last = named(&last.set);
    let mentioned = |value: &Value| named(&FieldSet::of(schema, ty, value));
    let mut owned = entry.set.clone();
    for other in others {
        owned.add(&other.set);
    }
    let all = mentioned(&merged);
    let pruned = merge::remove(schema, ty, merged.clone(), &last.0);
    // What was taken out and is owned comes back,
    let kept = mentioned(&pruned).union(&named(&owned));
    let pruned = merge::remove(schema, ty, merged.clone(), &all.difference(&kept).0);
    // and so does what was never this applier's.
    let gone = all.difference(&mentioned(&pruned)).intersection(&last);
    merge::remove(schema, ty, merged, &gone.0)
}

/// The fields of the last client-side apply that the live object still has as they were applied.
fn unchanged_since_last_applied(
    schema: &Schema,
    ty: &Type,
    live: &Value,
    api_version: &str,
) -> Option<FieldSet> {
    let text = object::annotation(live, LAST_APPLIED)?;
    let mut applied: Value = serde_json::from_str(text).ok()?;
    if object::api_version(&applied) != api_version {
        return None;
    }
    if check(schema, ty, &mut applied, Mode::Applied).type_error.is_some() {
        return None;
    }
    let difference = compare(schema, ty, &applied, live);
    let fields = FieldSet::of(schema, ty, &applied);
    Some(
        fields.difference(&difference.modified).difference(&difference.added).difference(&difference.removed),
    )
}

/// Keeps client-side apply's annotation in step, so that its next run finds what was applied last.
fn keep_last_applied(result: &mut Value, applied: &Value) {
    let mut applied = applied.clone();
    object::remove_annotation(&mut applied, LAST_APPLIED);
    // Upstream's encoder ends with a newline, and so does the annotation.
    let text = format!("{applied}\n");
    let size: usize = object::annotations(result)
        .into_iter()
        .flatten()
        .filter(|(key, _)| *key != LAST_APPLIED)
        .map(|(key, value)| key.len() + value.as_str().map_or(0, str::len))
        .sum();
    if size + LAST_APPLIED.len() + text.len() > 256 << 10 {
        object::remove_annotation(result, LAST_APPLIED);
    } else {
        object::set_annotation(result, LAST_APPLIED, &text);
    }
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod version_tests;
