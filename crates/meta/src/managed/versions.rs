//! Pruning where managers have written other versions than the one that is applied (structured-merge-diff's
//! `Updater.prune`): what the applier dropped is taken out in the version it applied last time, and what somebody owns
//! in whichever version comes back.

use super::managers::Entry;
use super::set::with_named_fields;
use super::{FieldSet, Form, Manager, View, merge};
use serde_json::Value;
use std::collections::BTreeMap;

/// An object in some version.
struct Seen<'a> {
    object: Value,
    form: Form<'a>,
}

fn fields(seen: &Seen<'_>) -> FieldSet {
    let Form { schema, ty } = seen.form;
    with_named_fields(schema, Some(ty), &FieldSet::of(schema, ty, &seen.object))
}

fn without(seen: Seen<'_>, gone: &FieldSet) -> Value {
    merge::remove(seen.form.schema, seen.form.ty, seen.object, &gone.0)
}

/// The object in a version; none if that is gone.
fn seen<'a>(manager: &'a Manager<'_>, object: &Value, form: Form<'a>, api_version: &str) -> Option<Seen<'a>> {
    match manager.versions.view(object, api_version) {
        View::Gone => None,
        View::Same => Some(Seen { object: object.clone(), form }),
        View::Other(object, schema, ty) => Some(Seen { object, form: Form { schema, ty } }),
    }
}

/// Removes what the applier applied last time, does not apply now, and nobody else owns.
pub(super) fn prune(
    own: Form<'_>,
    manager: &Manager<'_>,
    merged: Value,
    entry: &Entry,
    others: &[Entry],
    last: &Entry,
) -> Value {
    // In the version that was applied last time.
    let Some(all) = seen(manager, &merged, own, &last.api_version) else { return merged };
    let there = all.form;
    let last_set = with_named_fields(there.schema, Some(there.ty), &last.set);
    let mut pruned = merge::remove(there.schema, there.ty, all.object.clone(), &last_set.0);
    let mut owned: BTreeMap<&str, FieldSet> = BTreeMap::new();
    for entry in others.iter().chain([entry]) {
        owned.entry(&entry.api_version).or_default().add(&entry.set);
    }
    for (api_version, owned) in owned {
        let whole = seen(manager, &all.object, there, api_version);
        let part = seen(manager, &pruned, there, api_version);
        let (Some(whole), Some(part)) = (whole, part) else { continue };
        let owned = with_named_fields(whole.form.schema, Some(whole.form.ty), &owned);
        let (everything, form) = (fields(&whole), whole.form);
        let gone = everything.difference(&fields(&part).union(&owned));
        let restored = without(whole, &gone);
        if let Some(back) = seen(manager, &restored, form, &last.api_version) {
            pruned = back.object;
        }
    }
    // What was never this applier's comes back, too.
    let everything = fields(&all);
    let left = fields(&Seen { object: pruned, form: there });
    let gone = everything.difference(&left).intersection(&last_set);
    let result = without(all, &gone);
    seen(manager, &result, there, manager.api_version).map_or(merged, |own| own.object)
}
