//! Defaults within schemas must be valid values themselves (upstream's `defaulting.ValidateDefaults`).

use crate::defaulting::surround;
use crate::objectmeta::{self, Options};
use crate::prune::prune;
use crate::schema::Schema;
use crate::validate::{self, Use};
use knarr_meta::field::{self, ErrorList, Path};
use serde_json::Value;

/// Checks every default of a resource's schema. `pruned` says that defaults may have no unknown fields.
pub(super) fn validate(schema: &Schema, path: &Path, pruned: bool) -> ErrorList {
    let mut checker = Checker { pruned, errors: ErrorList::new() };
    checker.check(schema, true, schema, &[], false, path);
    checker.errors
}

/// A step from the surrounding resource; none is an element of a list.
type Step = Option<String>;

struct Checker {
    pruned: bool,
    errors: ErrorList,
}

impl Checker {
    fn check(
        &mut self,
        schema: &Schema,
        embedded: bool,
        root: &Schema,
        steps: &[Step],
        inside_meta: bool,
        path: &Path,
    ) {
        let (root, steps, inside_meta) =
            if embedded { (schema, &[] as &[Step], false) } else { (root, steps, inside_meta) };
        if let Some(default) = &schema.default {
            let at = path.child("default");
            if inside_meta {
                self.in_metadata(default, schema, root, steps, &at);
            } else {
                self.plain(default, schema, embedded, &at);
            }
        }
        // Defaults below additionalProperties are refused elsewhere.
        let deeper = |step: Step| -> Vec<Step> { steps.iter().cloned().chain([step]).collect() };
        if let Some(items) = &schema.items {
            self.check(
                items,
                items.embedded_resource,
                root,
                &deeper(None),
                inside_meta,
                &path.child("items"),
            );
        }
        for (name, field) in &schema.properties {
            let meta =
                inside_meta || (embedded && matches!(name.as_str(), "metadata" | "apiVersion" | "kind"));
            let at = path.child("properties").key(name);
            self.check(field, field.embedded_resource, root, &deeper(Some(name.clone())), meta, &at);
        }
    }

    fn in_metadata(&mut self, default: &Value, schema: &Schema, root: &Schema, steps: &[Step], at: &Path) {
        let mut object = surround(default.clone(), steps.iter().map(Option::as_deref));
        if let Value::Object(map) = &mut object {
            map.entry("kind").or_insert_with(|| "Validation".into());
            map.entry("apiVersion").or_insert_with(|| "validation/v1".into());
        }
        let options = Options { drop_invalid: false, track: false };
        if let Err(error) = objectmeta::coerce(&mut object, Some(root), true, options) {
            self.errors.push(field::invalid(at, default, format!("must result in valid metadata: {error}")));
            return;
        }
        let found = objectmeta::validate_embedded(&object, Some(root), true, &Path::nil());
        if !found.is_empty() {
            self.errors.push(field::invalid(at, default, format!("must result in valid metadata: {found}")));
            return;
        }
        self.errors.extend(validate::validate(default, schema, Use::Default, at));
    }

    fn plain(&mut self, default: &Value, schema: &Schema, embedded: bool, at: &Path) {
        if self.pruned {
            let mut pruned = default.clone();
            prune(&mut pruned, Some(schema), embedded, false);
            if pruned != *default {
                self.errors.push(field::invalid(at, default, "must not have unknown fields"));
            }
        }
        let mut value = default.clone();
        let options = Options { drop_invalid: false, track: false };
        if let Err(error) = objectmeta::coerce_at(&mut value, Some(schema), embedded, options, at) {
            self.errors.push(error);
            return;
        }
        let found = objectmeta::validate_embedded(&value, Some(schema), embedded, at);
        let found =
            if found.is_empty() { validate::validate(&value, schema, Use::Default, at) } else { found };
        self.errors.extend(found);
    }
}
