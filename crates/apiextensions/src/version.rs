//! One version of a custom resource: what happens to objects of it on their way in and out (upstream's custom resource
//! strategy and schema coercer).

use crate::columns::Columns;
use crate::defaulting;
use crate::listtype;
use crate::number;
use crate::objectmeta;
use crate::prune;
use crate::rules::{self, Findings, Validator};
use crate::scale::Scale;
use crate::schema::Schema;
use crate::select::SelectableField;
use crate::validate::{self, Correlation, Use};
use knarr_meta::field::{self, ErrorList, FieldError, Path};
use knarr_meta::go;
use knarr_meta::object;
use knarr_meta::schema::{Schema as Types, Type};
use knarr_meta::table::ColumnDefinition;
use knarr_meta::validate::qualified_name;
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

/// One version of a custom resource.
#[derive(Clone, Debug)]
pub struct Version {
    /// Its name, such as `v1`.
    pub name: String,
    /// The API group.
    pub group: String,
    /// The kind.
    pub kind: String,
    /// Whether objects live in namespaces.
    pub namespaced: bool,
    /// Whether requests may use it.
    pub served: bool,
    /// Whether objects are stored in it.
    pub storage: bool,
    /// What clients are told when the version is deprecated.
    pub deprecation_warning: Option<String>,
    /// The structural schema, its defaults pruned.
    pub schema: Option<Schema>,
    /// Whether there is a `status` subresource.
    pub status: bool,
    /// The `scale` subresource.
    pub scale: Option<Scale>,
    /// What field selectors may name beside name and namespace.
    pub selectable_fields: Vec<SelectableField>,
    pub(crate) columns: Columns,
    pub(crate) preserve_unknown_fields: bool,
    pub(crate) apply: (Types, Type),
    pub(crate) rules: Rules,
}

/// The rules of a schema, compiled when the first object comes: most definitions are compiled far more often than
/// anybody writes their objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    /// The schema as written, if there are rules in it.
    source: Option<Arc<Value>>,
    compiled: Arc<OnceLock<Option<Validator>>>,
}

impl Rules {
    pub(crate) fn new(schema: Option<&Schema>, json: &Value) -> Self {
        let source = schema.filter(|schema| rules::has_rules(schema)).map(|_| Arc::new(json.clone()));
        Self { source, compiled: Arc::default() }
    }

    fn validator(&self, schema: &Schema) -> Option<&Validator> {
        let source = self.source.as_ref()?;
        self.compiled.get_or_init(|| Validator::new(schema, source, true)).as_ref()
    }
}

/// How an object is taken up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coerce {
    drop_invalid: bool,
    repair_generation: bool,
    track: bool,
}

impl Coerce {
    /// From a request, a patch or a conversion webhook: malformed metadata is refused. `track` asks for the unknown
    /// fields.
    pub fn request(track: bool) -> Self {
        Self { drop_invalid: false, repair_generation: false, track }
    }

    /// From the store: malformed metadata is dropped, and a generation is made up where there is none.
    pub fn stored() -> Self {
        Self { drop_invalid: true, repair_generation: true, track: false }
    }
}

impl Version {
    /// Brings an object into the form in which it is processed: unknown fields and nulls that are no values go,
    /// metadata takes its typed form, numbers take Go's. Answers with the unknown fields if they were asked for.
    ///
    /// # Errors
    /// What is malformed, in Go's words.
    pub fn coerce(&self, object: &mut Value, options: Coerce) -> Result<Vec<String>, String> {
        if !object.is_object() {
            return Err(format!(
                "cannot restore slice from map: expected object, got {}",
                objectmeta::go_type(object)
            ));
        }
        objectmeta::root_fields(object)?;
        let mut unknown = Vec::new();
        number::normalize(object);
        if let Some(metadata) = object.get_mut("metadata") {
            let dropped = objectmeta::typed(metadata, options.drop_invalid)?;
            if options.track {
                unknown.extend(dropped.into_iter().map(|name| format!("metadata.{name}")));
            }
        }
        let own_group =
            object::api_version(object).strip_prefix(&self.group).is_some_and(|rest| rest.starts_with('/'));
        if own_group && object::kind(object) == self.kind {
            if !self.preserve_unknown_fields {
                unknown.extend(self.prune(object, options.track));
                self.prune_nulls(object);
            }
            let paths = self
                .coerce_embedded(object, options.drop_invalid, options.track)
                .map_err(|e| e.to_string())?;
            unknown.extend(paths);
            if options.repair_generation
                && object::generation(object) == 0
                && object.get("metadata").is_some()
            {
                object::set_generation(object, 1);
            }
        }
        Ok(unknown)
    }

    /// Drops unknown fields (unless the definition keeps them); answers with them if `track` is set.
    pub fn prune(&self, object: &mut Value, track: bool) -> Vec<String> {
        if self.preserve_unknown_fields {
            return Vec::new();
        }
        prune::prune(object, self.schema.as_ref(), true, track)
    }

    /// Drops nulls that are neither allowed nor replaced by a default.
    pub fn prune_nulls(&self, object: &mut Value) {
        if !self.preserve_unknown_fields {
            prune::prune_nulls(object, self.schema.as_ref());
        }
    }

    /// Coerces the metadata of embedded resources.
    ///
    /// # Errors
    /// The first malformed field, unless `drop_invalid` is set.
    pub fn coerce_embedded(
        &self,
        object: &mut Value,
        drop_invalid: bool,
        track: bool,
    ) -> Result<Vec<String>, FieldError> {
        let options = objectmeta::Options { drop_invalid, track };
        objectmeta::coerce(object, self.schema.as_ref(), false, options)
    }

    /// Fills in defaults.
    pub fn default(&self, object: &mut Value) {
        if let Some(schema) = &self.schema {
            defaulting::default(object, schema);
        }
    }

    /// Before a new object is validated.
    pub fn prepare_for_create(&self, object: &mut Value) {
        if self.status {
            object::remove_path(object, &["status"]);
        }
        object::set_generation(object, 1);
    }

    /// Before a changed object is validated.
    pub fn prepare_for_update(&self, new: &mut Value, old: &Value) {
        if self.status
            && let Value::Object(map) = &mut *new
        {
            match old.get("status") {
                Some(status) => map.insert("status".into(), status.clone()),
                None => map.remove("status"),
            };
        }
        if !equal_but_metadata(new, old) {
            object::set_generation(new, object::generation(old) + 1);
        }
    }

    /// Before a changed status is validated: everything else is the old object's, save who owns which field.
    pub fn prepare_for_status_update(&self, new: &mut Value, old: &Value) {
        let status = new.get_mut("status").map(Value::take);
        let managed = object::managed_fields(new).to_vec();
        let mut merged = old.clone();
        object::set_managed_fields(&mut merged, managed);
        if let Value::Object(map) = &mut merged {
            match status {
                Some(status) => map.insert("status".into(), status),
                None => map.remove("status"),
            };
        }
        *new = merged;
    }

    /// All errors of a new object, but for its own metadata.
    pub fn validate(&self, object: &Value) -> ErrorList {
        let mut errors = self.type_meta(object);
        let Some(map) = object.as_object().filter(|_| errors.is_empty()) else { return errors };
        if let Some(schema) = &self.schema {
            errors.extend(validate::validate(object, schema, Use::Resource, &Path::nil()));
        }
        self.scale_errors(map, true, &mut errors);
        if let Some(schema) = &self.schema {
            errors.extend(objectmeta::validate_embedded(object, Some(schema), false, &Path::nil()));
            errors.extend(listtype::validate(object, schema, &Path::nil()));
        }
        self.run_rules(object, None, &mut errors);
        errors
    }

    /// Runs the rules unless what they would see is malformed; warnings are about what did not change.
    fn run_rules(&self, new: &Value, old: Option<&Value>, errors: &mut ErrorList) -> Vec<String> {
        let Some(schema) = &self.schema else { return Vec::new() };
        let Some(validator) = self.rules.validator(schema) else { return Vec::new() };
        if rules::blocked_by(errors) {
            errors.push(rules::not_checked());
            return Vec::new();
        }
        let correlation = old.map(|old| Correlation::new(old, schema));
        let Findings { errors: found, warnings } = validator.validate(new, old, correlation, &Path::nil());
        errors.extend(found);
        warnings
    }

    /// All errors of a changed object, but for its own metadata. What was wrong before and did not change is forgiven.
    pub fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        self.check_update(new, old).0
    }

    /// [`Version::validate_update`], and warnings about rules that fail in parts that did not change.
    pub fn check_update(&self, new: &Value, old: &Value) -> (ErrorList, Vec<String>) {
        let mut errors = self.type_meta(new);
        let Some(map) = new.as_object().filter(|_| errors.is_empty()) else { return (errors, Vec::new()) };
        if let Some(schema) = &self.schema {
            let correlation = Correlation::new(old, schema);
            errors.extend(validate::validate_update(new, schema, Use::Resource, &Path::nil(), &correlation));
        }
        self.scale_errors(map, true, &mut errors);
        if let Some(schema) = &self.schema {
            errors.extend(objectmeta::validate_embedded(new, Some(schema), false, &Path::nil()));
            let found = listtype::validate(new, schema, &Path::nil());
            if !found.is_empty() && listtype::validate(old, schema, &Path::nil()).is_empty() {
                errors.extend(found);
            }
        }
        let warnings = self.run_rules(new, Some(old), &mut errors);
        (errors, warnings)
    }

    /// All errors of a changed status.
    pub fn validate_status_update(&self, new: &Value, old: &Value) -> ErrorList {
        self.check_status_update(new, old).0
    }

    /// [`Version::validate_status_update`], and warnings about rules that fail in parts that did not change.
    pub fn check_status_update(&self, new: &Value, old: &Value) -> (ErrorList, Vec<String>) {
        let mut errors = self.type_meta(new);
        let Some(map) = new.as_object().filter(|_| errors.is_empty()) else { return (errors, Vec::new()) };
        if let (Some(schema), Some(status)) = (&self.schema, map.get("status"))
            && let Some(part) = schema.properties.get("status")
        {
            let path = Path::new("status");
            errors.extend(match Correlation::new(old, schema).key("status") {
                Some(correlation) => {
                    validate::validate_update(status, part, Use::Status, &path, &correlation)
                }
                None => validate::validate(status, part, Use::Status, &path),
            });
        }
        self.scale_errors(map, false, &mut errors);
        if let Some(schema) = &self.schema {
            let found = listtype::validate(new, schema, &Path::nil());
            if !found.is_empty() && listtype::validate(old, schema, &Path::nil()).is_empty() {
                errors.extend(found);
            }
        }
        let warnings = self.run_rules(new, Some(old), &mut errors);
        (errors, warnings)
    }

    fn type_meta(&self, object: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (kind, api_version) = (object::kind(object), object::api_version(object));
        if kind != self.kind {
            errors.push(field::invalid(&Path::new("kind"), kind, format!("must be {}", self.kind)));
        }
        let wanted = format!("{}/{}", self.group, self.name);
        if api_version != wanted {
            errors.push(field::invalid(&Path::new("apiVersion"), api_version, format!("must be {wanted}")));
        }
        errors
    }

    fn scale_errors(&self, map: &Map<String, Value>, spec: bool, errors: &mut ErrorList) {
        if let Some(scale) = &self.scale {
            if spec {
                scale.validate_spec(map, errors);
            }
            scale.validate_status(map, errors);
        }
    }

    /// Warnings about finalizers that are new (not asked for on status updates).
    pub fn warnings(&self, new: &Value, old: Option<&Value>) -> Vec<String> {
        let before: Vec<&str> = old.map(object::finalizers).unwrap_or_default();
        let added: BTreeSet<&str> =
            object::finalizers(new).into_iter().filter(|name| !before.contains(name)).collect();
        let mut warnings = Vec::new();
        for name in added {
            let quoted = go::quote(name);
            let mut warn = |text: &str| warnings.push(format!("metadata.finalizers: {quoted}: {text}"));
            qualified_name(name).iter().for_each(|problem| warn(problem));
            if name.contains('/') || matches!(name, "orphan" | "foregroundDeletion" | "kubernetes") {
                continue;
            }
            let path = if name.contains('.') { " including a path (/)" } else { "" };
            warn(&format!(
                "prefer a domain-qualified finalizer name{path} to avoid accidental conflicts with other finalizer writers"
            ));
        }
        warnings
    }

    /// The columns of tables.
    pub fn column_definitions(&self) -> &[ColumnDefinition] {
        self.columns.definitions()
    }

    /// One row of a table.
    pub fn cells(&self, object: &Value, now: SystemTime) -> Vec<Value> {
        self.columns.cells(object, now)
    }

    /// What field selectors are held against, beside name and namespace.
    pub fn selectable(&self, object: &Value) -> Vec<(String, String)> {
        self.selectable_fields.iter().map(|field| (field.name.clone(), field.value(object))).collect()
    }

    /// The types for managed fields and apply. They know nothing of what is stored: do not hold requests against them
    /// with `check` other than in its mode for applied configurations.
    pub fn apply_schema(&self) -> &(Types, Type) {
        &self.apply
    }
}

fn equal_but_metadata(a: &Value, b: &Value) -> bool {
    let (Value::Object(a), Value::Object(b)) = (a, b) else { return a == b };
    let rest = |map: &'_ Map<String, Value>| map.len() - usize::from(map.contains_key("metadata"));
    rest(a) == rest(b) && a.iter().all(|(name, value)| name == "metadata" || b.get(name) == Some(value))
}

#[cfg(test)]
mod tests;
