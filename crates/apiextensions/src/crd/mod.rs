//! CustomResourceDefinitions themselves (apiextensions.k8s.io/v1): defaults, validation and warnings, as upstream's
//! `apis/apiextensions/validation` and the strategy of `customresourcedefinitions` have them. The conditions of a
//! definition are in [`approval`] and with the controllers.

pub mod approval;
mod defaults;
mod dump;
pub(crate) mod fieldpath;
mod schema;
mod spec;

use crate::definition::Names;
use crate::schema::{Schema, structural};
use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::go;
use knarr_meta::object::{self, get_str};
use knarr_meta::validate::{dns1035_label, dns1123_subdomain, webhook_service, webhook_url};
use schema::invalid_go;
use serde_json::{Value, json};
use spec::{Part, Spec, SpecVersion};

/// How many fields may be selectable.
const MAX_SELECTABLE_FIELDS: usize = 8;
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

/// What is asked of a definition; old ones that are changed keep what was allowed once.
struct Options<'a> {
    recognized_reviews: bool,
    openapi_schema: bool,
    valid_types: bool,
    structural: bool,
    pruned_defaults: bool,
    atomic_sets: bool,
    map_keys: bool,
    any_ca_bundle: bool,
    /// Versions that keep too many selectable fields (none: all of them in common).
    many_selectable: Vec<&'a str>,
    /// Versions whose schema did not change: their rules cost what they cost.
    unchanged: Vec<&'a str>,
}

/// Fills in what a definition leaves out: singular name, kind of lists, conversion, port of the webhook's service, and
/// the first stored version.
pub fn default(crd: &mut Value) {
    let spec = &mut crd["spec"];
    if spec.is_object() {
        let kind = get_str(spec, &["names", "kind"]).to_owned();
        if get_str(spec, &["names", "singular"]).is_empty() && !kind.is_empty() {
            object::set_path(spec, &["names", "singular"], kind.to_lowercase().into());
        }
        if get_str(spec, &["names", "listKind"]).is_empty() && !kind.is_empty() {
            object::set_path(spec, &["names", "listKind"], format!("{kind}List").into());
        }
        if spec.get("conversion").is_none_or(Value::is_null) {
            object::set_path(spec, &["conversion"], json!({"strategy": "None"}));
        }
        let service = ["conversion", "webhook", "clientConfig", "service"];
        if let Some(service) = object::get_path_mut(spec, &service).and_then(Value::as_object_mut)
            && service.get("port").is_none_or(Value::is_null)
        {
            service.insert("port".into(), 443.into());
        }
    }
    if crd["status"]["storedVersions"].as_array().is_none_or(Vec::is_empty)
        && let Some(version) = storage_version(crd)
    {
        object::set_path(crd, &["status", "storedVersions"], json!([version]));
    }
}

fn storage_version(crd: &Value) -> Option<String> {
    let mut versions = crd["spec"]["versions"].as_array().into_iter().flatten();
    versions.find(|version| version["storage"] == true).map(|version| get_str(version, &["name"]).to_owned())
}

/// Adds the storage version to the stored ones, where it is missing.
pub fn mark_stored(crd: &mut Value) {
    let Some(version) = storage_version(crd) else { return };
    let mut stored = crd["status"]["storedVersions"].as_array().cloned().unwrap_or_default();
    if !stored.iter().any(|known| *known == version) {
        stored.push(version.into());
        object::set_path(crd, &["status", "storedVersions"], stored.into());
    }
}

/// All errors of a new definition, but for its metadata beyond its name.
pub fn validate(crd: &Value) -> ErrorList {
    let options = Options {
        recognized_reviews: true,
        openapi_schema: true,
        valid_types: true,
        structural: true,
        pruned_defaults: true,
        atomic_sets: true,
        map_keys: true,
        any_ca_bundle: true,
        many_selectable: Vec::new(),
        unchanged: Vec::new(),
    };
    let mut errors = ErrorList::new();
    let name = object::name(crd);
    let names = Names::parse(&crd["spec"]["names"]);
    if name != format!("{}.{}", names.plural, get_str(crd, &["spec", "group"])) {
        let path = Path::new("metadata").child("name");
        errors.push(field::invalid(&path, name, "must be spec.names.plural+\".\"+spec.group"));
    }
    with_spec(crd, &mut errors, |spec, errors| validate_spec(spec, options, errors));
    validate_rest(crd, None, &mut errors);
    errors
}

/// All errors of a changed definition, but for its metadata.
pub fn validate_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let established = has_condition(old, "Established");
    match Spec::parse(&old["spec"]) {
        // What cannot be read cannot have been allowed.
        Err(_) => return validate(new),
        Ok(old_spec) => with_spec(new, &mut errors, |spec, errors| {
            let options = update_options(old, &old_spec, spec, established);
            validate_spec(spec, options, errors);
            let path = Path::new("spec");
            let names = path.child("names");
            let mut immutable = |path: Path, new: &str, old: &str| {
                if new != old {
                    errors.push(field::invalid(&path, new, "field is immutable"));
                }
            };
            if established {
                immutable(path.child("scope"), spec.scope, old_spec.scope);
                immutable(names.child("kind"), &spec.names.kind, &old_spec.names.kind);
            }
            immutable(path.child("group"), spec.group, old_spec.group);
            immutable(names.child("plural"), &spec.names.plural, &old_spec.names.plural);
        }),
    }
    validate_rest(new, Some(old), &mut errors);
    errors
}

/// All errors of a changed status.
pub fn validate_status_update(new: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    validate_names(&Names::parse(&new["status"]["acceptedNames"]), &accepted_path(), &mut errors);
    errors
}

/// Warnings about formats that mean nothing, on an update only about new ones.
pub fn warnings(new: &Value, old: Option<&Value>) -> Vec<String> {
    let known = old.map(unrecognized_formats).unwrap_or_default();
    let found = unrecognized_formats(new).into_iter().filter(|format| !known.contains(format));
    found.map(|format| format!("unrecognized format {}", go::quote(&format))).collect()
}

fn unrecognized_formats(crd: &Value) -> Vec<String> {
    fn collect(schema: &Schema, found: &mut Vec<String>) {
        let known = match schema.type_.as_str() {
            "" | "string" => schema.known_format.is_some(),
            "integer" => matches!(schema.format.as_str(), "int32" | "int64"),
            "number" => matches!(schema.format.as_str(), "float" | "double"),
            _ => false,
        };
        if !schema.format.is_empty() && !known {
            found.push(schema.format.clone());
        }
        schema.children().for_each(|schema| collect(schema, found));
    }
    let mut found = Vec::new();
    if let Ok(spec) = Spec::parse(&crd["spec"]) {
        spec.schemas().for_each(|schema| collect(schema, &mut found));
    }
    found
}

/// Whether a condition of a definition holds.
pub fn has_condition(crd: &Value, type_: &str) -> bool {
    let mut conditions = crd["status"]["conditions"].as_array().into_iter().flatten();
    conditions.any(|condition| condition["type"] == type_ && condition["status"] == "True")
}

/// What keeps some version's schema from being structural, as the condition `NonStructuralSchema` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NonStructural {
    /// `True`, or `Unknown` where a schema cannot be looked at.
    pub status: &'static str,
    /// `Violations` or `StructuralError`.
    pub reason: &'static str,
    /// All that is wrong.
    pub message: String,
}

/// What the condition `NonStructuralSchema` of a definition should say; nothing if all is well.
pub fn non_structural(crd: &Value) -> Option<NonStructural> {
    let mut errors = ErrorList::new();
    let spec = Path::new("spec");
    if crd["spec"]["preserveUnknownFields"] == true {
        errors.push(field::invalid(&spec.child("preserveUnknownFields"), true, "must be false"));
    }
    for (index, version) in crd["spec"]["versions"].as_array().into_iter().flatten().enumerate() {
        let given = &version["schema"]["openAPIV3Schema"];
        if given.is_null() {
            continue;
        }
        let parsed = Schema::parse(given).map_err(|error| error.to_string());
        match parsed.and_then(|schema| structural::convertible(&schema).map(|()| schema)) {
            Ok(schema) => {
                let path = spec.child("versions").index(index).child("schema").child("openAPIV3Schema");
                errors.extend(structural::validate(&schema, &path));
            }
            Err(error) => {
                let name = get_str(version, &["name"]);
                let message = format!("failed to check validation schema for version {name}: {error}");
                return Some(NonStructural { status: "Unknown", reason: "StructuralError", message });
            }
        }
    }
    if errors.is_empty() {
        return None;
    }
    Some(NonStructural { status: "True", reason: "Violations", message: errors.to_string() })
}

fn with_spec(crd: &Value, errors: &mut ErrorList, f: impl FnOnce(&Spec<'_>, &mut ErrorList)) {
    match Spec::parse(&crd["spec"]) {
        Ok(spec) => f(&spec, errors),
        // The decoder has refused wrong types already, except where JSON is free.
        Err(error) => {
            errors.push(field::invalid(&Path::new("spec").child("versions"), "", error.to_string()))
        }
    }
}

fn accepted_path() -> Path {
    Path::new("status").child("acceptedNames")
}

/// Status, stored versions, approval, and what v1 no longer allows.
fn validate_rest(crd: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    validate_names(&Names::parse(&crd["status"]["acceptedNames"]), &accepted_path(), errors);
    stored_versions(crd, errors);
    errors.extend(approval::validate(crd, old));
    let preserves = |crd: &Value| crd["spec"]["preserveUnknownFields"] == true;
    if preserves(crd) && !old.is_some_and(preserves) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead";
        errors.push(field::invalid(&Path::new("spec").child("preserveUnknownFields"), true, detail));
    }
}

fn stored_versions(crd: &Value, errors: &mut ErrorList) {
    let path = Path::new("status").child("storedVersions");
    let stored = crd["status"]["storedVersions"].as_array().map(Vec::as_slice).unwrap_or_default();
    if stored.is_empty() {
        errors.push(field::invalid(&path, Value::Null, "must have at least one stored version"));
        return;
    }
    let versions = crd["spec"]["versions"].as_array().map(Vec::as_slice).unwrap_or_default();
    for version in versions.iter().filter(|version| version["storage"] == true) {
        if !stored.contains(&version["name"]) {
            let detail = format!("must have the storage version {}", get_str(version, &["name"]));
            errors.push(field::invalid(&path, stored, detail));
        }
    }
    for (index, name) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version["name"] == *name) {
            let shown = name.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {shown} was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in {shown} and removes {shown} from status.storedVersions"
            );
            errors.push(field::invalid(&path.index(index), shown, detail));
        }
    }
}

fn update_options<'a>(old: &Value, old_spec: &Spec<'_>, new: &Spec<'a>, established: bool) -> Options<'a> {
    let reviews = &old["spec"]["conversion"]["webhook"]["conversionReviewVersions"];
    let reviews = reviews.as_array().map(Vec::as_slice).unwrap_or_default();
    let bundle = get_str(old, &["spec", "conversion", "webhook", "clientConfig", "caBundle"]);
    let mut many_selectable = Vec::new();
    let stays = |new: &Part<'_>, old: &Part<'_>| {
        old.selectable.len() > MAX_SELECTABLE_FIELDS && new.selectable == old.selectable
    };
    if stays(&new.common, &old_spec.common) {
        many_selectable.push("");
    }
    for version in &new.versions {
        let before = old_spec.versions.iter().find(|old| old.name == version.name);
        if before.is_some_and(|old| stays(&version.own, &old.own)) {
            many_selectable.push(version.name);
        }
    }
    let is_structural = |schema: &Schema| {
        structural::convertible(schema).is_ok() && structural::validate(schema, &Path::nil()).is_empty()
    };
    let all_have_schemas = old_spec.versions.iter().all(|version| old_spec.schema_of(version).is_some());
    Options {
        recognized_reviews: reviews.is_empty() || reviews.iter().any(is_review_version),
        openapi_schema: all_have_schemas,
        valid_types: !old_spec
            .any_schema(|s| !s.type_.is_empty() && !schema::TYPES.contains(&s.type_.as_str())),
        structural: old_spec.schemas().all(is_structural),
        pruned_defaults: !old_spec
            .schemas()
            .filter(|schema| is_structural(schema))
            .any(has_unpruned_defaults),
        atomic_sets: !old_spec.any_schema(|s| schema::non_atomic_set(s).is_some()),
        map_keys: !old_spec.any_schema(|s| !schema::keys_and_sets(s, &Path::nil()).is_empty()),
        any_ca_bundle: !established || ca_bundle_problem(bundle).is_some(),
        many_selectable,
        unchanged: (new.versions.iter())
            .filter(|version| {
                let before = old_spec.versions.iter().find(|old| old.name == version.name);
                before.is_some_and(|before| new.json_of(version) == old_spec.json_of(before))
            })
            .map(|version| version.name)
            .collect(),
    }
}

fn has_unpruned_defaults(schema: &Schema) -> bool {
    fn all<'a>(schema: &'a Schema, found: &mut Vec<&'a Option<Value>>) {
        found.push(&schema.default);
        schema.children().for_each(|schema| all(schema, found));
    }
    let mut pruned = schema.clone();
    crate::defaulting::prune_defaults(&mut pruned);
    let (mut before, mut after) = (Vec::new(), Vec::new());
    all(schema, &mut before);
    all(&pruned, &mut after);
    before != after
}

fn is_review_version(version: &Value) -> bool {
    *version == "v1" || *version == "v1beta1"
}

fn validate_spec(spec: &Spec<'_>, mut options: Options<'_>, errors: &mut ErrorList) {
    let path = Path::new("spec");
    let group_path = path.child("group");
    if spec.group.is_empty() {
        errors.push(field::required(&group_path, ""));
    } else {
        let problems = dns1123_subdomain(spec.group);
        if !problems.is_empty() {
            errors.push(field::invalid(&group_path, spec.group, problems.join(",")));
        } else if !spec.group.contains('.') {
            errors.push(field::invalid(&group_path, spec.group, "should be a domain with at least one dot"));
        }
    }
    one_of(spec.scope, &["Cluster", "Namespaced"], &path.child("scope"), errors);
    let preserves = spec.preserve_unknown_fields;
    options.structural |= !preserves;
    for (index, version) in spec.versions.iter().enumerate() {
        if spec.common.openapi().is_some() || version.own.openapi().is_some() {
            continue;
        }
        let at = path.child("versions").index(index).child("schema").child("openAPIV3Schema");
        if options.openapi_schema {
            errors.push(field::required(&at, ""));
        } else if !preserves && version.served {
            errors.push(field::required(&at, "because otherwise all fields are pruned"));
        }
    }
    if spec.any_schema(|s| s.default.is_some()) {
        options.structural = true;
        if preserves {
            let detail = "must be false in order to use defaults in the schema";
            errors.push(field::invalid(&path.child("preserveUnknownFields"), true, detail));
        }
    }
    options.structural |= spec.any_schema(|s| {
        s.embedded_resource
            || s.preserve_unknown_fields.is_some()
            || s.int_or_string
            || !s.list_map_keys.is_empty()
            || s.list_type.is_some()
            || !s.validations.is_empty()
    });
    for (index, version) in spec.versions.iter().enumerate() {
        let path = path.child("versions").index(index);
        let problems = dns1035_label(version.name);
        if !problems.is_empty() {
            errors.push(field::invalid(&path.child("name"), version.name, problems.join(",")));
        }
        validate_version(spec, version, &options, &path, errors);
    }
    // Upstream also refuses what stands both at the top and with versions, or identically with all of them: neither
    // can be, as what is identical has moved to the top.
    let versions_path = path.child("versions");
    let unique = (1..spec.versions.len())
        .all(|index| !spec.versions[..index].iter().any(|earlier| earlier.name == spec.versions[index].name));
    let shown = || dump::versions(&spec.versions);
    if !unique {
        errors.push(invalid_go(&versions_path, shown(), "must contain unique version names"));
    }
    if spec.versions.iter().filter(|version| version.storage).count() != 1 {
        let detail = "must have exactly one version marked as storage version";
        errors.push(invalid_go(&versions_path, shown(), detail));
    }
    if !spec.version.is_empty() {
        let problems = dns1035_label(spec.version);
        if !problems.is_empty() {
            errors.push(field::invalid(&path.child("version"), spec.version, problems.join(",")));
        }
    }
    let names_path = path.child("names");
    let names = &spec.names;
    for (name, text) in [
        ("plural", &names.plural),
        ("singular", &names.singular),
        ("kind", &names.kind),
        ("listKind", &names.list_kind),
    ] {
        if text.is_empty() {
            errors.push(field::required(&names_path.child(name), ""));
        }
    }
    validate_names(names, &names_path, errors);
    let has_status = |part: &Part<'_>| part.subresources.is_some_and(|given| !given["status"].is_null());
    let any_status = has_status(&spec.common) || spec.versions.iter().any(|version| has_status(&version.own));
    if spec.common.schema.is_some() {
        errors.extend(schema::validate(
            &spec.common,
            spec.version,
            any_status,
            &options,
            &path.child("validation"),
        ));
    }
    validate_part(&spec.common, &path, errors);
    if !spec.common.selectable.is_empty() {
        match spec.common.openapi() {
            None => {
                let detail = "may only be set when validations.schema is included";
                errors.push(field::invalid(&path.child("selectableFields"), "", detail));
            }
            Some(schema) => selectable(spec.common.selectable, schema, "", &options, &path, errors),
        }
    }
    let strategy = get_str(spec.conversion, &["strategy"]);
    let conversion_path = path.child("conversion");
    if !spec.conversion.is_null() && strategy != "None" && preserves {
        let detail = "must be None if spec.preserveUnknownFields is true";
        errors.push(field::invalid(&conversion_path.child("strategy"), strategy, detail));
    }
    validate_conversion(spec.conversion, &options, &conversion_path, errors);
}

fn one_of(value: &str, accepted: &[&str], path: &Path, errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(field::required(path, ""));
    } else if !accepted.contains(&value) {
        errors.push(field::not_supported(path, value, accepted));
    }
}

fn validate_version(
    spec: &Spec<'_>,
    version: &SpecVersion<'_>,
    options: &Options<'_>,
    path: &Path,
    errors: &mut ErrorList,
) {
    for problem in deprecation_problems(version.deprecated, version.deprecation_warning) {
        let shown = version.deprecation_warning.map_or(Value::Null, Value::from);
        errors.push(field::invalid(&path.child("deprecationWarning"), shown, problem));
    }
    if version.own.schema.is_some() {
        let subresources = if spec.versions.iter().any(|version| version.own.subresources.is_some()) {
            version.own.subresources
        } else {
            spec.common.subresources
        };
        let status = subresources.is_some_and(|given| !given["status"].is_null());
        errors.extend(schema::validate(&version.own, version.name, status, options, &path.child("schema")));
    }
    validate_part(&version.own, path, errors);
    if !version.own.selectable.is_empty() {
        match version.own.openapi() {
            None => {
                let detail = "may only be set when `version.schema.openAPIV3Schema` is not included";
                errors.push(field::invalid(&path.child("selectableFields"), "", detail));
            }
            Some(schema) => selectable(version.own.selectable, schema, version.name, options, path, errors),
        }
    }
}

fn deprecation_problems(deprecated: bool, warning: Option<&str>) -> Vec<String> {
    let Some(warning) = warning else { return Vec::new() };
    if !deprecated {
        return vec!["can only be set for deprecated versions".into()];
    }
    let mut problems = Vec::new();
    if warning.len() > 256 {
        problems.push("must be <= 256 characters long".into());
    }
    if warning.is_empty() {
        problems.push("must not be an empty string".into());
    }
    // What Go quotes with an escape is not printable; of spaces only the plain one is.
    let printable = |c: char| matches!(c, '"' | '\\') || go::quote(&c.to_string()).len() == c.len_utf8() + 2;
    if let Some((index, _)) = warning.char_indices().find(|(_, c)| !printable(*c)) {
        problems.push(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {index}"
        ));
    }
    problems
}

/// Subresources and columns.
fn validate_part(part: &Part<'_>, path: &Path, errors: &mut ErrorList) {
    if let Some(scale) = part.subresources.map(|given| &given["scale"]).filter(|scale| !scale.is_null()) {
        let path = path.child("subresources");
        for (name, required, prefixes, detail) in [
            ("specReplicasPath", true, &[".spec."] as &[&str], "should be a json path under .spec"),
            ("statusReplicasPath", true, &[".status."], "should be a json path under .status"),
            (
                "labelSelectorPath",
                false,
                &[".spec.", ".status."],
                "should be a json path under either .spec or .status",
            ),
        ] {
            let at = path.child(format!("scale.{name}"));
            let given = get_str(scale, &[name]);
            if given.is_empty() {
                if required {
                    errors.push(field::required(&at, ""));
                }
            } else if !given.starts_with('.') {
                errors.push(field::invalid(&at, given, "must be a simple json path starting with ."));
            } else if !prefixes.iter().any(|prefix| given.starts_with(prefix)) {
                errors.push(field::invalid(&at, given, detail));
            }
        }
    }
    for (index, column) in part.columns.iter().enumerate() {
        let path = path.child("additionalPrinterColumns").index(index);
        let text = |name: &str| get_str(column, &[name]);
        if text("name").is_empty() {
            errors.push(field::required(&path.child("name"), ""));
        }
        let types = format!("must be one of {}", COLUMN_TYPES.join(","));
        match text("type") {
            "" => errors.push(field::required(&path.child("type"), types)),
            given if !COLUMN_TYPES.contains(&given) => {
                errors.push(field::invalid(&path.child("type"), given, types));
            }
            _ => {}
        }
        let format = text("format");
        if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
            let detail = format!("must be one of {}", COLUMN_FORMATS.join(","));
            errors.push(field::invalid(&path.child("format"), format, detail));
        }
        let at = path.child("JSONPath");
        match text("jsonPath") {
            "" => errors.push(field::required(&at, "")),
            given if !given.starts_with('.') => {
                errors.push(field::invalid(&at, given, "must be a simple json path starting with ."));
            }
            _ => {}
        }
    }
}

fn selectable(
    fields: &[Value],
    schema: &Schema,
    version: &str,
    options: &Options<'_>,
    path: &Path,
    errors: &mut ErrorList,
) {
    if let Err(error) = structural::convertible(schema) {
        errors.push(field::invalid(&path.child("schema.openAPIV3Schema"), "", error));
        return;
    }
    let list_path = path.child("selectableFields");
    let mut seen: Vec<String> = Vec::new();
    for (index, field) in fields.iter().enumerate() {
        let at = list_path.index(index).child("jsonPath");
        let given = get_str(field, &["jsonPath"]);
        if given.is_empty() {
            errors.push(field::required(&at, ""));
            continue;
        }
        let (found, leaf) = match fieldpath::follow(given, schema, false) {
            Ok(found) => found,
            Err(error) => {
                errors.push(field::invalid(&at, given, format!("is an invalid path: {error}")));
                continue;
            }
        };
        let found = found.map(|path| path.to_string()).unwrap_or_default();
        if found.split(['.', '[']).next() == Some("metadata") {
            errors.push(field::invalid(&at, given, "must not point to fields in metadata"));
        }
        if !leaf.is_some_and(|leaf| matches!(leaf.type_.as_str(), "string" | "boolean" | "integer")) {
            let detail = "must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed.";
            errors.push(field::invalid(&at, given, detail));
        }
        if seen.contains(&found) {
            errors.push(field::duplicate(&at, given));
        } else {
            seen.push(found);
        }
    }
    if seen.len() > MAX_SELECTABLE_FIELDS && !options.many_selectable.contains(&version) {
        errors.push(field::too_many(&list_path, seen.len(), MAX_SELECTABLE_FIELDS));
    }
}

fn validate_names(names: &Names, path: &Path, errors: &mut ErrorList) {
    let mut label = |path: Path, shown: &str, text: &str, prefix: &str| {
        let problems = dns1035_label(text);
        if !text.is_empty() && !problems.is_empty() {
            errors.push(field::invalid(&path, shown, format!("{prefix}{}", problems.join(","))));
        }
    };
    let mixed = "may have mixed case, but should otherwise match: ";
    label(path.child("plural"), &names.plural, &names.plural, "");
    label(path.child("singular"), &names.singular, &names.singular, "");
    label(path.child("kind"), &names.kind, &names.kind.to_lowercase(), mixed);
    label(path.child("listKind"), &names.list_kind, &names.list_kind.to_lowercase(), mixed);
    let each = |name: &'static str, list: &[String], errors: &mut ErrorList| {
        for (index, text) in list.iter().enumerate() {
            let problems = dns1035_label(text);
            if !problems.is_empty() {
                errors.push(field::invalid(&path.child(name).index(index), text, problems.join(",")));
            }
        }
    };
    each("shortNames", &names.short_names, errors);
    if !names.kind.is_empty() && names.kind == names.list_kind {
        let detail = "kind and listKind may not be the same";
        errors.push(field::invalid(&path.child("listKind"), &names.list_kind, detail));
    }
    each("categories", &names.categories, errors);
}

fn validate_conversion(conversion: &Value, options: &Options<'_>, path: &Path, errors: &mut ErrorList) {
    if conversion.is_null() {
        return;
    }
    let strategy = get_str(conversion, &["strategy"]);
    one_of(strategy, &["None", "Webhook"], &path.child("strategy"), errors);
    let webhook = &conversion["webhook"];
    let config = &webhook["clientConfig"];
    let reviews = webhook["conversionReviewVersions"].as_array().map(Vec::as_slice).unwrap_or_default();
    let (config_path, reviews_path) =
        (path.child("webhookClientConfig"), path.child("conversionReviewVersions"));
    if strategy != "Webhook" {
        let detail = "should not be set when strategy is not set to Webhook";
        if !config.is_null() {
            errors.push(field::forbidden(&config_path, detail));
        }
        if !reviews.is_empty() {
            errors.push(field::forbidden(&reviews_path, detail));
        }
        return;
    }
    if config.is_null() {
        errors.push(field::required(&config_path, "required when strategy is set to Webhook"));
    } else {
        let service = &config["service"];
        match (config["url"].as_str(), service.is_null()) {
            (Some(url), true) => errors.extend(webhook_url(url, &config_path.child("url"))),
            (None, false) => {
                let text = |name: &str| get_str(service, &[name]);
                let (path, port) = (service["path"].as_str(), service["port"].as_i64().unwrap_or(443));
                let at = config_path.child("service");
                errors.extend(webhook_service(text("name"), text("namespace"), path, port, &at));
            }
            _ => errors.push(field::required(&config_path, "exactly one of url or service is required")),
        }
        let bundle = get_str(config, &["caBundle"]);
        if !options.any_ca_bundle
            && let Some(problem) = ca_bundle_problem(bundle)
        {
            errors.push(field::invalid(&config_path.child("caBundle"), bundle, problem));
        }
    }
    if reviews.is_empty() {
        errors.push(field::required(&reviews_path, ""));
        return;
    }
    let mut accepted = false;
    for (index, version) in reviews.iter().enumerate() {
        let (at, text) = (reviews_path.index(index), version.as_str().unwrap_or_default());
        if reviews[..index].contains(version) {
            errors.push(field::invalid(&at, text, "duplicate version"));
            continue;
        }
        errors.invalid_each(&at, text, dns1035_label(text));
        accepted |= is_review_version(version);
    }
    if options.recognized_reviews && !accepted {
        errors.push(field::invalid(&reviews_path, reviews, "must include at least one of v1, v1beta1"));
    }
}

/// What keeps base64 text from being a bundle of certificates in PEM, in Go's words; an empty one is fine.
pub fn ca_bundle_problem(bundle: &str) -> Option<&'static str> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    const NO_BLOCK: &str = "unable to load root certificates: unable to parse bytes as PEM block";
    const MALFORMED: &str =
        "unable to load root certificates: failed to parse certificate: x509: malformed certificate";
    let bytes = STANDARD.decode(bundle).unwrap_or_default();
    if bundle.is_empty() {
        return None;
    }
    let text = String::from_utf8_lossy(&bytes);
    let mut problem = NO_BLOCK;
    let mut rest = &*text;
    while let Some((_, after)) = rest.split_once("-----BEGIN CERTIFICATE-----") {
        let Some((body, after)) = after.split_once("-----END CERTIFICATE-----") else { break };
        rest = after;
        let body: String = body.split_whitespace().collect();
        // A certificate is a DER sequence; more is for those who use it. One is enough.
        if STANDARD.decode(body).is_ok_and(|der| der.first() == Some(&0x30)) {
            return None;
        }
        problem = MALFORMED;
    }
    Some(problem)
}

#[cfg(test)]
mod tests;
