//! Defaults within schemas must be valid values themselves (upstream's `defaulting.ValidateDefaults`).

use crate::defaulting::surround;
use crate::objectmeta::{self, Options};
use crate::prune::prune;
use crate::rules::Validator;
use crate::schema::Schema;
use crate::validate::{self, Use};
use knarr_cel::RUNTIME_COST_BUDGET;
use knarr_meta::field::{self, ErrorList, Path};
use serde_json::Value;

/// Checks every default of a resource's schema. `pruned` says that defaults may have no unknown fields.
pub(super) fn validate(schema: &Schema, json: &Value, path: &Path, pruned: bool) -> ErrorList {
    let mut checker = Checker { pruned, budget: RUNTIME_COST_BUDGET as i64, errors: ErrorList::new() };
    checker.check(&At { schema, json, embedded: true, is_root: true }, schema, &[], false, path);
    checker.errors
}

/// A schema on the way down.
struct At<'a> {
    schema: &'a Schema,
    /// As it was written.
    json: &'a Value,
    embedded: bool,
    /// Whether it is the schema of the resource, or of an embedded one.
    is_root: bool,
}

/// A step from the surrounding resource; none is an element of a list.
type Step = Option<String>;

struct Checker {
    pruned: bool,
    /// What rules may still cost; negative once it is used up, which ends the check.
    budget: i64,
    errors: ErrorList,
}

impl Checker {
    fn check(&mut self, here: &At<'_>, root: &Schema, steps: &[Step], inside_meta: bool, path: &Path) {
        let schema = here.schema;
        let (root, steps, inside_meta) =
            if here.embedded { (schema, &[] as &[Step], false) } else { (root, steps, inside_meta) };
        if let Some(default) = &schema.default {
            let at = path.child("default");
            let before = self.errors.len();
            if inside_meta {
                self.in_metadata(default, schema, root, steps, &at);
            } else {
                self.plain(default, schema, here.embedded, &at);
            }
            if self.errors.len() == before {
                self.rules(default, here, &at);
            }
        }
        if self.budget < 0 {
            return;
        }
        // Defaults below additionalProperties are refused elsewhere.
        let deeper = |step: Step| -> Vec<Step> { steps.iter().cloned().chain([step]).collect() };
        if let Some(items) = &schema.items {
            let below = At {
                schema: items,
                json: &here.json["items"],
                embedded: items.embedded_resource,
                is_root: items.embedded_resource,
            };
            self.check(&below, root, &deeper(None), inside_meta, &path.child("items"));
        }
        for (name, field) in &schema.properties {
            let meta =
                inside_meta || (here.embedded && matches!(name.as_str(), "metadata" | "apiVersion" | "kind"));
            let at = path.child("properties").key(name);
            let below = At {
                schema: field,
                json: &here.json["properties"][name],
                embedded: field.embedded_resource,
                is_root: field.embedded_resource,
            };
            self.check(&below, root, &deeper(Some(name.clone())), meta, &at);
        }
    }

    /// A default must satisfy rules both as a value that stays and as one that is new.
    fn rules(&mut self, default: &Value, here: &At<'_>, at: &Path) {
        let Some(validator) = Validator::new(here.schema, here.json, here.is_root) else { return };
        let (mut stays, mut comes) = (self.budget, self.budget);
        let found = validator.validate_within(default, Some(default), None, at, &mut stays).errors;
        if found.is_empty() {
            self.errors.extend(validator.validate_within(default, None, None, at, &mut comes).errors);
        }
        self.errors.extend(found);
        self.budget = stays.min(comes);
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
