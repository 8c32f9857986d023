//! Request bodies: decoded from JSON, YAML or protobuf, held against the schema, with unknown and duplicate
//! fields treated as `fieldValidation` says (KEP-2885), and refused in upstream's words.

use super::negotiate::{Media, body_media};
use super::options::FieldValidation;
use super::parse::{self, Parsed};
use super::strict::{self, Problems};
use crate::def::ErasedStrategy;
use crate::request::RequestCx;
use bytes::Bytes;
use http::HeaderMap;
use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::gvk::parse_api_version;
use knarr_meta::object;
use knarr_meta::schema::{self, CheckReport, Schema, Type};
use knarr_meta::status::Status;
use serde_json::Value;

/// What a body must be.
#[derive(Clone, Copy)]
pub struct Wanted<'a> {
    /// The kind.
    pub kind: &'a str,
    /// The `apiVersion` it is taken for when it says none.
    pub api_version: &'a str,
    /// Its type; bodies of kinds without one are taken as they are.
    pub ty: Option<&'a Type>,
    /// The schema of that type.
    pub schema: &'a Schema,
    /// Whether it may come in protobuf.
    pub proto: bool,
    /// Decides in place of the type, for custom resources.
    pub custom: Option<&'a dyn ErasedStrategy>,
}

/// The scheme that upstream names in errors about kinds it does not know.
const SCHEME: &str = "pkg/api/legacyscheme/scheme.go:30";

impl Wanted<'_> {
    /// Decodes and checks a body.
    pub fn decode(
        &self,
        cx: &RequestCx,
        headers: &HeaderMap,
        body: &Bytes,
        validation: FieldValidation,
    ) -> Result<Value, Status> {
        let media = body_media(headers, self.proto)?;
        let parsed = match media {
            Media::Json => parse::json(body).map_err(|e| {
                self.unrecognized(&format!("couldn't get version/kind; json parse error: {e}"), body)
            })?,
            Media::Yaml => parse::yaml(body)
                .map_err(|e| self.unrecognized(&format!("error converting YAML to JSON: {e}"), body))?,
            Media::Proto => {
                let value =
                    knarr_api::proto::decode(body).map_err(|e| self.unrecognized(&e.to_string(), body))?;
                Parsed { value, duplicates: Vec::new() }
            }
        };
        let Parsed { mut value, duplicates } = parsed;
        if !value.is_object() {
            let what = match &value {
                Value::Array(_) => "array",
                Value::String(_) => "string",
                Value::Number(_) => "number",
                Value::Bool(_) => "bool",
                _ => "null",
            };
            let text = format!(
                "couldn't get version/kind; json parse error: json: cannot unmarshal {what} into Go value of type struct {{ APIVersion string \"json:\\\"apiVersion,omitempty\\\"\"; Kind string \"json:\\\"kind,omitempty\\\"\" }}"
            );
            return Err(self.unrecognized(&text, body));
        }
        self.settle_type(&mut value)?;
        let report = self.check(&mut value, validation);
        if let Some(error) = report.type_error {
            return Err(self.unusable(&error));
        }
        let problems = match media {
            _ if self.custom.is_some() => {
                // These are decoded first, and held against their schema after that.
                let mut problems = match media {
                    Media::Yaml => strict::in_yaml(body, &[], &duplicates),
                    _ => strict::in_json(body, &[], &duplicates),
                };
                for text in strict::unknown_texts(&report.unknown) {
                    problems.warnings.push(text.clone());
                    problems.errors.push(text);
                }
                problems
            }
            Media::Yaml => strict::in_yaml(body, &report.unknown, &duplicates),
            _ => strict::in_json(body, &report.unknown, &duplicates),
        };
        self.settle(cx, validation, problems, |text| self.unusable(text))?;
        Ok(value)
    }

    /// Holds a value against the type.
    pub fn check(&self, value: &mut Value, validation: FieldValidation) -> CheckReport {
        let report = validation != FieldValidation::Ignore;
        if let Some(coerced) = self.custom.and_then(|strategy| strategy.coerce(value, report)) {
            return match coerced {
                Ok(unknown) => CheckReport { unknown, type_error: None },
                Err(error) => CheckReport { unknown: Vec::new(), type_error: Some(error) },
            };
        }
        let mode = match validation {
            FieldValidation::Ignore => schema::Mode::Ignore,
            FieldValidation::Warn | FieldValidation::Strict => schema::Mode::Report,
        };
        self.ty.map(|ty| schema::check(self.schema, ty, value, mode)).unwrap_or_default()
    }

    /// Warns of unknown and duplicate fields, or refuses them by way of `refuse`.
    pub fn settle(
        &self,
        cx: &RequestCx,
        validation: FieldValidation,
        problems: Problems,
        refuse: impl FnOnce(&str) -> Status,
    ) -> Result<(), Status> {
        if problems.is_empty() {
            return Ok(());
        }
        match validation {
            FieldValidation::Ignore => Ok(()),
            FieldValidation::Warn => {
                problems.warnings.into_iter().for_each(|problem| cx.warn(problem));
                Ok(())
            }
            FieldValidation::Strict => {
                Err(refuse(&format!("strict decoding error: {}", problems.errors.join(", "))))
            }
        }
    }

    /// Kind and version of the body must be those of the endpoint; missing ones are filled in.
    fn settle_type(&self, value: &mut Value) -> Result<(), Status> {
        let (kind, api_version) = (object::kind(value), object::api_version(value));
        if kind == self.kind && api_version == self.api_version {
            return Ok(());
        }
        let kind = if kind.is_empty() { self.kind } else { kind };
        let api_version = if api_version.is_empty() { self.api_version } else { api_version };
        let (group, version) = parse_api_version(api_version);
        if self.custom.is_some() && api_version == self.api_version && kind != self.kind {
            let mut errors = ErrorList::new();
            errors.push(field::invalid(&Path::new("kind"), kind, format!("must be {}", self.kind)));
            return Err(Status::invalid(group, self.kind, object::name(value), errors));
        }
        if kind != self.kind || api_version != self.api_version {
            let known = self.custom.is_some() || knarr_api::facts::root(group, version, kind).is_some();
            if !known {
                return Err(Status::bad_request(format!(
                    "{kind} in version {} cannot be handled as a {}: no kind \"{kind}\" is registered for version \"{api_version}\" in scheme \"{SCHEME}\"",
                    knarr_meta::go::quote(version),
                    self.kind
                )));
            }
            if kind != self.kind && self.custom.is_none() {
                let (own_group, _) = parse_api_version(self.api_version);
                let package =
                    own_group.split('.').next().filter(|p| !p.is_empty()).unwrap_or("core").to_owned();
                return Err(Status::bad_request(format!(
                    "{kind} in version {} cannot be handled as a {}: converting (v1.{kind}) to ({package}.{}): unknown conversion",
                    knarr_meta::go::quote(version),
                    self.kind,
                    self.kind
                )));
            }
            return Err(Status::bad_request(format!(
                "the API version in the data ({api_version}) does not match the expected API version ({})",
                self.api_version
            )));
        }
        object::set_type(value, self.api_version, self.kind);
        Ok(())
    }

    /// The body is none of the kind at all.
    fn unrecognized(&self, why: &str, body: &[u8]) -> Status {
        let shown = &body[..body.len().min(30)];
        let more = if body.len() > 30 { " ..." } else { "" };
        let summary = match body.first() {
            None => "<empty>".to_owned(),
            Some(b'{') => format!("{}{more}", String::from_utf8_lossy(shown)),
            Some(_) => {
                let hex: String = shown.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{hex}{more}")
            }
        };
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {why} ({summary})",
            self.kind
        ))
    }

    /// The body is of the kind, but malformed.
    fn unusable(&self, why: &str) -> Status {
        let (_, version) = parse_api_version(self.api_version);
        Status::bad_request(format!(
            "{} in version {} cannot be handled as a {}: {why}",
            self.kind,
            knarr_meta::go::quote(version),
            self.kind
        ))
    }
}
