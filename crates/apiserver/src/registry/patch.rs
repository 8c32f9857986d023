//! patch: JSON patch, merge patch, strategic merge patch and server-side apply (KEP-555), each applied to
//! the object as it is at the moment of the write.

use super::body::Wanted;
use super::keep::keep_other_parts;
use super::negotiate::unsupported;
use super::options::{FieldValidation, WriteKind, WriteOptions};
use super::parse::{self, Parsed};
use super::render::Answer;
use super::resource::Version;
use super::strict::{self, Problems, duplicate_texts, unknown_texts};
use super::versions::Conversions;
use super::write::{Modify, Part};
use super::{Call, Registry};
use crate::request::RequestCx;
use bytes::Bytes;
use http::HeaderMap;
use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::managed::{self, ApplyError, Manager, Versions};
use knarr_meta::schema::{Schema, Type};
use knarr_meta::status::{Cause, Reason, Status};
use knarr_meta::{object, patch};
use serde_json::Value;

/// More operations are refused, as upstream does.
const MAX_OPERATIONS: usize = 10_000;

/// The kinds of patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Upstream's own, by the types' merge keys.
    Strategic,
    /// Server-side apply.
    Apply,
}

const TYPES: [(&str, PatchType); 4] = [
    ("application/json-patch+json", PatchType::Json),
    ("application/merge-patch+json", PatchType::Merge),
    ("application/strategic-merge-patch+json", PatchType::Strategic),
    ("application/apply-patch+yaml", PatchType::Apply),
];

/// A patch that has been read.
pub struct Patch {
    /// How it is applied.
    pub kind: PatchType,
    parsed: Parsed,
    /// As it came.
    body: Bytes,
    /// The options.
    pub options: WriteOptions,
}

impl Patch {
    /// Reads type, options and body of a patch.
    pub fn read(cx: &RequestCx, headers: &HeaderMap, body: &Bytes, has_schema: bool) -> Result<Self, Status> {
        let header =
            headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let name = header.split(';').next().unwrap_or_default().trim();
        let offered = TYPES.iter().filter(|(_, kind)| has_schema || *kind != PatchType::Strategic);
        let Some((_, kind)) = offered.clone().find(|(media, _)| *media == name) else {
            return Err(unsupported(&offered.map(|(media, _)| *media).collect::<Vec<_>>()));
        };
        let options = if *kind == PatchType::Apply { WriteKind::Apply } else { WriteKind::Patch };
        let options = WriteOptions::read(cx, headers, options)?;
        let parsed = match kind {
            PatchType::Apply => {
                parse::yaml(body).map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?
            }
            _ => parse::json(body).map_err(|error| {
                // Strategic merge patches are read without a word of what they are.
                let lenient = options.validation == FieldValidation::Ignore;
                Status::bad_request(match kind {
                    PatchType::Merge if lenient => "Invalid JSON Patch".to_owned(),
                    PatchType::Json | PatchType::Merge if !lenient => {
                        format!("error decoding patch: {error}")
                    }
                    _ => error,
                })
            })?,
        };
        match kind {
            PatchType::Json => match parsed.value.as_array() {
                Some(list) if list.len() > MAX_OPERATIONS => {
                    return Err(Status::too_large(format!(
                        "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {}",
                        list.len()
                    )));
                }
                Some(_) => {}
                None => {
                    let text = "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp";
                    return Err(Status::bad_request(text));
                }
            },
            _ if !parsed.value.is_object() => {
                return Err(Status::bad_request(
                    "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}",
                ));
            }
            _ => {}
        }
        Ok(Self { kind: *kind, parsed, body: body.clone(), options })
    }

    /// Applies a JSON, merge or strategic merge patch to an object of the wanted version and checks the outcome.
    pub fn apply_to(&self, cx: &RequestCx, wanted: &Wanted<'_>, mut target: Value) -> Result<Value, Status> {
        let patch = &self.parsed.value;
        match (self.kind, wanted.ty) {
            (PatchType::Json, _) => patch::json::apply(&mut target, patch),
            (PatchType::Strategic, Some(ty)) => {
                patch::strategic::apply(wanted.schema, ty, &mut target, patch)
            }
            _ => patch::merge::apply(&mut target, patch),
        }
        .map_err(|e| e.status())?;
        object::set_type(&mut target, wanted.api_version, wanted.kind);
        let shown = match self.kind {
            PatchType::Strategic => knarr_meta::go::percent_v(patch),
            _ => String::new(),
        };
        let before =
            if self.options.validation == FieldValidation::Strict { Some(target.clone()) } else { None };
        let report = wanted.check(&mut target, self.options.validation);
        let refuse = |text: &str| {
            let shown = if self.kind == PatchType::Strategic {
                shown.clone()
            } else {
                let object = before.as_ref().unwrap_or(&target);
                String::from_utf8_lossy(&super::render::ordered_json(object)).into_owned()
            };
            let mut errors = ErrorList::new();
            errors.push(field::invalid(&Path::new("patch"), shown, text));
            Status::invalid("", "", "", errors)
        };
        if let Some(error) = report.type_error {
            return Err(refuse(&error));
        }
        // The patch's own oddities come first, then those of the object it makes.
        let found = match self.kind {
            PatchType::Json => self.odd_operations(),
            _ => duplicate_texts(&self.parsed.duplicates).collect(),
        };
        let found = Problems::new(found.into_iter().chain(unknown_texts(&report.unknown)).collect());
        wanted.settle(cx, self.options.validation, found, refuse)?;
        Ok(target)
    }

    /// Members of JSON patch operations that mean nothing or occur twice.
    fn odd_operations(&self) -> Vec<String> {
        let operations = self.parsed.value.as_array().map_or(&[][..], Vec::as_slice);
        let mut found = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            let keys = operation.as_object().into_iter().flat_map(|operation| operation.keys());
            let unknown = keys.filter(|key| !matches!(key.as_str(), "op" | "path" | "from" | "value"));
            found.extend(unknown.map(|key| format!("json patch unknown field \"[{index}].{key}\"")));
            let prefix = format!("[{index}].");
            // The value is nobody's to check before it is in the object.
            let own =
                |path: &&String| path.strip_prefix(&prefix).is_some_and(|key| !key.contains(['.', '[']));
            let doubles = self.parsed.duplicates.iter().filter(own);
            found.extend(doubles.map(|path| format!("json patch duplicate field \"{path}\"")));
        }
        found
    }

    /// Applies a server-side apply to the live object.
    pub fn apply_live(&self, live: Option<&Value>, by: &Applying<'_>) -> Result<Value, Status> {
        let Applying { cx, kind, api_version, ty, schema, time, .. } = by;
        let mut applied = self.parsed.value.clone();
        for (key, wanted) in [("kind", *kind), ("apiVersion", *api_version)] {
            let given = applied[key].as_str().unwrap_or_default();
            if given.is_empty() {
                let text = format!(
                    "Object '{}' is missing in '{}'",
                    if key == "kind" { "Kind" } else { "apiVersion" },
                    applied
                );
                return Err(Status::bad_request(text));
            }
            if given != wanted {
                return Err(Status::bad_request(format!(
                    "failed to create manager for applied patch: incorrect {key} specified: {given}, expected {wanted}"
                )));
            }
        }
        if !object::managed_fields(&applied).is_empty() {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        if object::name(&applied).is_empty() {
            object::set_name(&mut applied, &cx.info.name);
        }
        let report = knarr_meta::schema::check(schema, ty, &mut applied, knarr_meta::schema::Mode::Applied);
        let about = format!(
            "failed to create typed patch object ({}/{}; {api_version}, Kind={kind})",
            cx.info.namespace, cx.info.name
        );
        if let Some(error) = report.type_error {
            return Err(Status::new(500, Reason::Unknown, format!("{about}: {error}")));
        }
        if let Some(path) = report.unknown.first() {
            let text = match report.unknown.len() {
                1 => format!("{about}: .{path}: field not declared in schema"),
                _ => {
                    let lines: Vec<String> = report
                        .unknown
                        .iter()
                        .map(|path| format!("\n  .{path}: field not declared in schema"))
                        .collect();
                    format!("{about}: errors:{}", lines.concat())
                }
            };
            return Err(Status::new(500, Reason::Unknown, text));
        }
        // Applied configurations are YAML to upstream, even those that are JSON.
        let found = match self.options.validation {
            FieldValidation::Ignore => Problems::default(),
            _ => strict::in_yaml(&self.body, &[], &self.parsed.duplicates),
        };
        if self.options.validation == FieldValidation::Strict && !found.is_empty() {
            let text = format!("error strict decoding YAML: {}", found.errors.join(", "));
            return Err(Status::bad_request(text));
        }
        found.warnings.into_iter().for_each(|warning| cx.warn(warning));
        let manager = Manager {
            name: &self.options.manager,
            operation: managed::Operation::Apply,
            api_version,
            subresource: &cx.info.subresource,
            reset: by.reset,
            custom: by.custom,
            versions: by.versions,
            time,
        };
        managed::apply(schema, ty, live, &applied, &manager, self.options.force).map_err(apply_error)
    }
}

/// What a server-side apply is about.
pub struct Applying<'a> {
    /// The request.
    pub cx: &'a RequestCx,
    /// The kind.
    pub kind: &'a str,
    /// The version.
    pub api_version: &'a str,
    /// The type.
    pub ty: &'a Type,
    /// Its schema.
    pub schema: &'a Schema,
    /// What the write leaves as it was.
    pub reset: &'a [&'a str],
    /// Whether it is a custom resource.
    pub custom: bool,
    /// Its other versions.
    pub versions: &'a dyn Versions,
    /// Now.
    pub time: &'a str,
}

fn apply_error(error: ApplyError) -> Status {
    let message = error.to_string();
    match error {
        ApplyError::Conflicts(conflicts) => {
            let causes = conflicts
                .into_iter()
                .map(|conflict| Cause {
                    reason: "FieldManagerConflict".to_owned(),
                    message: format!("conflict with {}", conflict.manager),
                    field: conflict.field,
                })
                .collect();
            Status::apply_conflict(causes, message)
        }
        ApplyError::Invalid(_) => Status::new(500, Reason::Unknown, message),
    }
}

impl Registry {
    /// Serves a patch of a part of an object.
    pub(super) async fn patch(&self, call: &Call<'_>, part: Part) -> Result<Answer, Status> {
        let (cx, resource, version) = (call.cx, call.resource, call.version);
        let typed = version.ty.is_some() && !resource.def.is_custom();
        let patch = Patch::read(cx, &call.parts.headers, &call.body, typed)?;
        let options = &patch.options;
        let create = patch.kind == PatchType::Apply;
        let conversions = &Conversions::of(resource);
        let what = Modify { cx, resource, part, uid: "", create, conversions, view: None };
        let change = |old: Option<&Value>| {
            let mut new = if create {
                self.apply_patch(cx, version, &patch, conversions, old)?
            } else {
                let old = old.ok_or_else(|| resource.not_found(&cx.info.name))?;
                let served = resource.serve_from_hub(version, old.clone())?;
                resource.to_hub(version, patch.apply_to(cx, &resource.wanted(version), served)?)?
            };
            resource.hooks().default(&mut new);
            if let Some(old) = old {
                keep_other_parts(cx, resource, part, &mut new, old);
            }
            if !create {
                self.track(cx, version, options, conversions, old, &mut new)?;
            }
            Ok(new)
        };
        self.modify(what, &change).await
    }

    fn apply_patch(
        &self,
        cx: &RequestCx,
        version: &Version,
        patch: &Patch,
        conversions: &Conversions<'_>,
        live: Option<&Value>,
    ) -> Result<Value, Status> {
        let resource = conversions.resource();
        let Some(ty) = &version.ty else {
            return Err(Status::internal("server-side apply needs the type of the object"));
        };
        let live = live.map(|live| resource.serve_from_hub(version, live.clone())).transpose()?;
        let time = knarr_meta::time::rfc3339(cx.ctx.clock.now());
        let by = Applying {
            cx,
            kind: &resource.def.kind,
            api_version: &version.api_version,
            ty,
            schema: &resource.schema,
            reset: resource.reset_fields(&cx.info.subresource),
            custom: resource.def.is_custom(),
            versions: conversions,
            time: &time,
        };
        resource.to_hub(version, patch.apply_live(live.as_ref(), &by)?)
    }
}
