//! Holding an object against its schema: what Go's decoder would refuse, drop or rewrite on the way through a
//! typed object, in its words. Duplicate fields are found while parsing, before there is a value.

use super::{Field, ListType, Presence, Schema, StructId, Type};
use crate::patch::json_kind;
use crate::quantity::Quantity;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use std::fmt;

/// What to do beside refusing wrong types and dropping unknown fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// `fieldValidation=Ignore`: unknown fields are dropped silently.
    Ignore,
    /// `Warn` or `Strict`: they are reported too.
    #[default]
    Report,
    /// The configuration of a server-side apply: unknown fields are reported, and given zeros stay, because the
    /// applier owns what it mentions.
    Applied,
}

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckReport {
    /// Unknown fields, such as `spec.foo`.
    pub unknown: Vec<String>,
    /// The first value of a wrong type, in Go's words; the object must be refused.
    pub type_error: Option<String>,
}

/// Checks `value` and brings it into the form in which upstream would store it: unknown fields and nulls go, so
/// do zeros that Go leaves out; structs that Go always writes appear; quantities and times become canonical.
pub fn check(schema: &Schema, ty: &Type, value: &mut Value, mode: Mode) -> CheckReport {
    let mut checker = Checker { schema, mode, report: CheckReport::default() };
    checker.value(ty, value, &Path { parent: None, step: Step::Root });
    checker.report
}

/// The way to a value; it lives on the stack and is printed only when something is wrong.
struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Root,
    /// The struct and its field.
    Field(StructId, &'a str),
    Index(usize),
    Key(&'a str),
}

impl Path<'_> {
    /// The innermost struct, and the fields from the root to here without indices and keys, as Go names them.
    fn go_field(&self) -> Option<(StructId, String)> {
        let mut names = Vec::new();
        let mut innermost = None;
        let mut at = Some(self);
        while let Some(path) = at {
            if let Step::Field(id, name) = path.step {
                names.push(name);
                innermost = innermost.or(Some(id));
            }
            at = path.parent;
        }
        names.reverse();
        Some((innermost?, names.join(".")))
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parent = self.parent.filter(|parent| !matches!(parent.step, Step::Root));
        if let Some(parent) = parent {
            parent.fmt(f)?;
        }
        match self.step {
            Step::Root => Ok(()),
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Field(_, name) | Step::Key(name) => {
                if parent.is_some() {
                    f.write_str(".")?;
                }
                f.write_str(name)
            }
        }
    }
}

/// The type as Go's reflection prints it.
fn go_type(schema: &Schema, ty: &Type) -> String {
    match ty {
        Type::String => "string".into(),
        Type::Bool => "bool".into(),
        Type::Int32 => "int32".into(),
        Type::Int64 => "int64".into(),
        Type::Uint32 => "uint32".into(),
        Type::Uint64 => "uint64".into(),
        Type::Double => "float64".into(),
        Type::Bytes => "[]uint8".into(),
        Type::Quantity => "resource.Quantity".into(),
        Type::IntOrString => "intstr.IntOrString".into(),
        Type::Time => "v1.Time".into(),
        Type::MicroTime => "v1.MicroTime".into(),
        Type::Duration => "v1.Duration".into(),
        Type::Any => "runtime.RawExtension".into(),
        Type::FieldsV1 => "v1.FieldsV1".into(),
        Type::List(list) => format!("[]{}", go_type(schema, &list.elem)),
        Type::Map(elem) => format!("map[string]{}", go_type(schema, elem)),
        Type::Struct(id) => {
            let name = &schema.get(*id).name;
            let from = name.rmatch_indices('.').nth(1).map_or(0, |(at, _)| at + 1);
            name[from..].to_owned()
        }
    }
}

struct Checker<'s> {
    schema: &'s Schema,
    mode: Mode,
    report: CheckReport,
}

impl<'s> Checker<'s> {
    fn refuse(&mut self, message: impl FnOnce(&Schema) -> String) {
        if self.report.type_error.is_none() {
            self.report.type_error = Some(message(self.schema));
        }
    }

    fn wrong_type(&mut self, what: &str, ty: &Type, path: &Path<'_>) {
        self.refuse(|schema| {
            let ty = go_type(schema, ty);
            match path.go_field() {
                Some((id, fields)) => {
                    let name = schema.get(id).short_name();
                    format!("json: cannot unmarshal {what} into Go struct field {name}.{fields} of type {ty}")
                }
                None => format!("json: cannot unmarshal {what} into Go value of type {ty}"),
            }
        });
    }

    /// Checks a value that is not null.
    fn value(&mut self, ty: &'s Type, value: &mut Value, path: &Path<'_>) {
        match (ty, &mut *value) {
            (Type::String, Value::String(_)) | (Type::Bool, Value::Bool(_)) => {}
            (Type::Double, Value::Number(_)) => {}
            (Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64, Value::Number(number)) => {
                let fits = match ty {
                    Type::Int32 => number.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
                    Type::Int64 => number.is_i64(),
                    Type::Uint32 => number.as_u64().is_some_and(|n| u32::try_from(n).is_ok()),
                    _ => number.is_u64(),
                };
                if !fits {
                    let what = format!("number {number}");
                    self.wrong_type(&what, ty, path);
                }
            }
            (Type::Bytes, Value::String(text)) => self.bytes(text),
            (Type::Quantity, _) => match Quantity::from_json(value) {
                Ok(quantity) => {
                    let text = quantity.to_string();
                    if value.as_str() != Some(&text) {
                        *value = Value::String(text);
                    }
                }
                Err(error) => self.refuse(|_| error.to_string()),
            },
            (Type::IntOrString, Value::String(_)) => {}
            (Type::IntOrString, Value::Number(number)) => {
                if number.as_i64().is_none_or(|n| i32::try_from(n).is_err()) {
                    let what = format!("number {number}");
                    self.refuse(|_| format!("json: cannot unmarshal {what} into Go value of type int32"));
                }
            }
            (Type::Time | Type::MicroTime, Value::String(text)) => match crate::time::parse(text) {
                Ok(time) => {
                    *text = if *ty == Type::Time {
                        crate::time::rfc3339(time)
                    } else {
                        crate::time::rfc3339_micro(time)
                    };
                }
                Err(error) => {
                    let text = match ty {
                        Type::MicroTime => error.to_string().replace("05Z07:00", "05.000000Z07:00"),
                        _ => error.to_string(),
                    };
                    self.refuse(|_| text);
                }
            },
            (Type::Duration, Value::String(text)) => match crate::duration::canonical(text) {
                Ok(canonical) => *text = canonical,
                Err(error) => self.refuse(|_| error),
            },
            (Type::Any, _) | (Type::FieldsV1, Value::Object(_)) => {}
            (Type::Struct(id), Value::Object(map)) => self.fields(*id, map, path),
            (Type::List(list), Value::Array(elements)) => self.elements(list, elements, path),
            (Type::Map(elem), Value::Object(map)) => self.entries(elem, map, path),
            // Types with a decoder of their own do not say where they stand.
            (Type::IntOrString, other) => {
                let what = json_kind(other);
                self.refuse(|_| format!("json: cannot unmarshal {what} into Go value of type int32"));
            }
            (Type::Time | Type::MicroTime | Type::Duration, other) => {
                let what = json_kind(other);
                self.refuse(|_| format!("json: cannot unmarshal {what} into Go value of type string"));
            }
            (_, other) => {
                let what = json_kind(other);
                self.wrong_type(what, ty, path);
            }
        }
    }

    fn bytes(&mut self, text: &mut String) {
        // Go's decoder skips line breaks.
        if text.contains(['\r', '\n']) {
            text.retain(|c| c != '\r' && c != '\n');
        }
        if let Err(error) = STANDARD.decode(text.as_bytes()) {
            let at = match error {
                base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                _ => text.len() / 4 * 4,
            };
            self.refuse(|_| format!("illegal base64 data at input byte {at}"));
        }
    }

    fn fields(&mut self, id: StructId, map: &mut Map<String, Value>, path: &Path<'_>) {
        let schema = self.schema;
        let ty = schema.get(id);
        map.retain(|name, value| {
            let path = Path { parent: Some(path), step: Step::Field(id, name) };
            match (ty.field(name), &ty.others) {
                (Some(field), _) => self.field(field, value, &path),
                (None, Some(others)) => {
                    if !value.is_null() {
                        self.value(others, value, &path);
                    }
                    true
                }
                (None, None) => {
                    if self.mode != Mode::Ignore {
                        self.report.unknown.push(path.to_string());
                    }
                    false
                }
            }
        });
        if self.mode == Mode::Applied {
            return;
        }
        for field in ty.always_structs() {
            if !map.contains_key(&field.name) {
                let mut empty = Map::new();
                if let Type::Struct(id) = field.ty {
                    self.fields(id, &mut empty, path);
                }
                map.insert(field.name.clone(), Value::Object(empty));
            }
        }
    }

    /// Checks a field's value; whether it stays.
    fn field(&mut self, field: &'s Field, value: &mut Value, path: &Path<'_>) -> bool {
        if value.is_null() {
            return false;
        }
        self.value(&field.ty, value, path);
        if self.mode == Mode::Applied {
            return true;
        }
        match (field.presence, &*value) {
            (Presence::Always, _) => true,
            // An empty list of managed fields asks to forget them.
            (_, Value::Array(list)) => {
                !list.is_empty() || field.ty == Type::Any || field.name == "managedFields"
            }
            (_, Value::Object(map)) => !map.is_empty() || !matches!(field.ty, Type::Map(_)),
            (Presence::OmitZero, Value::String(text)) => !text.is_empty(),
            (Presence::OmitZero, Value::Bool(is)) => *is,
            (Presence::OmitZero, Value::Number(number)) => number.as_f64() != Some(0.0),
            (_, Value::String(text)) => !(text.is_empty() && field.ty == Type::Bytes),
            _ => true,
        }
    }

    fn elements(&mut self, list: &'s ListType, elements: &mut [Value], path: &Path<'_>) {
        for (index, element) in elements.iter_mut().enumerate() {
            if element.is_null() {
                *element = zero(&list.elem);
            }
            if !element.is_null() {
                self.value(&list.elem, element, &Path { parent: Some(path), step: Step::Index(index) });
            }
        }
    }

    fn entries(&mut self, elem: &'s Type, map: &mut Map<String, Value>, path: &Path<'_>) {
        for (key, value) in map.iter_mut() {
            if value.is_null() {
                *value = zero(elem);
            }
            if !value.is_null() {
                self.value(elem, value, &Path { parent: Some(path), step: Step::Key(key) });
            }
        }
    }
}

/// What Go makes of null where there must be a value: the type's zero.
fn zero(ty: &Type) -> Value {
    match ty {
        Type::String => Value::String(String::new()),
        Type::Bool => Value::Bool(false),
        Type::Int32 | Type::Int64 | Type::Uint32 | Type::Uint64 | Type::Double | Type::IntOrString => {
            0.into()
        }
        Type::Quantity => Value::String("0".into()),
        Type::Struct(_) => Value::Object(Map::new()),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::pod_like;
    use super::*;
    use serde_json::json;

    fn checked(value: Value, mode: Mode) -> (Value, CheckReport) {
        let (schema, ty) = pod_like();
        let mut value = value;
        let report = check(&schema, &ty, &mut value, mode);
        (value, report)
    }

    #[test]
    fn objects_take_the_form_in_which_they_are_stored() {
        let (value, report) = checked(
            json!({"apiVersion": "apps/v1", "kind": "Thing",
                "metadata": {"name": "a", "namespace": "", "labels": {}, "annotations": {"x": null}, "generation": 0,
                    "creationTimestamp": "2026-11-21T10:00:00+01:00", "deletionTimestamp": null},
                "spec": {"replicas": 0, "hostNetwork": false, "nodeName": null, "data": {"k": "YWJj"},
                    "containers": [{"name": "", "image": "", "limits": {"cpu": "1000m", "memory": 5, "x": "0.5"}, "args": [],
                        "ports": [{"containerPort": 80, "protocol": ""}], "probe": "http"}, null],
                    "extra": {"anything": [1, null, {"a": {}}]}, "renewTime": "2026-11-21T10:00:00.5Z",
                    "timeout": "90s", "volumes": [{"name": "v", "emptyDir": {}}]},
                "status": {"phase": ""}}),
            Mode::Report,
        );
        assert_eq!(report, CheckReport::default());
        assert_eq!(
            value,
            json!({"apiVersion": "apps/v1", "kind": "Thing",
                "metadata": {"name": "a", "annotations": {"x": ""}, "creationTimestamp": "2026-11-21T09:00:00Z"},
                "spec": {"replicas": 0, "data": {"k": "YWJj"},
                    "containers": [{"name": "", "limits": {"cpu": "1", "memory": "5", "x": "500m"},
                        "ports": [{"containerPort": 80}], "probe": "http", "resources": {"deep": {}}},
                        {"resources": {"deep": {}}}],
                    "extra": {"anything": [1, null, {"a": {}}]}, "renewTime": "2026-11-21T10:00:00.500000Z",
                    "timeout": "1m30s", "volumes": [{"name": "v", "emptyDir": {}}]},
                "status": {}})
        );
        let (value, _) = checked(json!({"spec": {"hostNetwork": false, "args": null}}), Mode::Applied);
        assert_eq!(
            value,
            json!({"spec": {"hostNetwork": false}}),
            "an applied zero stays, and nothing is filled in"
        );
        let (value, _) = checked(json!({}), Mode::Ignore);
        assert_eq!(value, json!({"metadata": {}, "status": {}}));
    }

    #[test]
    fn unknown_fields_are_reported_and_dropped() {
        let object = json!({"metadata": {"nam": "a"}, "spec": {"replica": 1, "containers": [{"name": "a", "imag": "b"}]}});
        let (value, report) = checked(object.clone(), Mode::Report);
        assert_eq!(report.unknown, ["metadata.nam", "spec.containers[0].imag", "spec.replica"]);
        assert_eq!(value["metadata"], json!({}));
        assert_eq!(checked(object, Mode::Ignore).1, CheckReport::default());
    }

    #[test]
    fn wrong_types_are_refused_in_gos_words() {
        for (object, want) in [
            (
                json!({"spec": {"replicas": "3"}}),
                "json: cannot unmarshal string into Go struct field ThingSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"replicas": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field ThingSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"replicas": 2147483648_i64}}),
                "json: cannot unmarshal number 2147483648 into Go struct field ThingSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"containers": [{"image": 5}]}}),
                "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string",
            ),
            (
                json!({"spec": {"containers": {}}}),
                "json: cannot unmarshal object into Go struct field ThingSpec.spec.containers of type []v1.Container",
            ),
            (
                json!({"spec": "x"}),
                "json: cannot unmarshal string into Go struct field Thing.spec of type v1.ThingSpec",
            ),
            (
                json!({"metadata": {"labels": {"a": true}}}),
                "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
            ),
            (
                json!({"metadata": {"labels": ["a"]}}),
                "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
            ),
            (
                json!({"metadata": {"creationTimestamp": "x"}}),
                "parsing time \"x\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"x\" as \"2006\"",
            ),
            (json!({"spec": {"renewTime": 1}}), "json: cannot unmarshal number into Go value of type string"),
            (
                json!({"spec": {"renewTime": "x"}}),
                "parsing time \"x\" as \"2006-01-02T15:04:05.000000Z07:00\": cannot parse \"x\" as \"2006\"",
            ),
            (json!({"spec": {"timeout": "x"}}), "time: invalid duration \"x\""),
            (json!({"spec": {"data": {"a": "%%"}}}), "illegal base64 data at input byte 0"),
            (
                json!({"spec": {"containers": [{"limits": {"cpu": "a"}}]}}),
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            ),
            (
                json!({"spec": {"containers": [{"probe": true}]}}),
                "json: cannot unmarshal bool into Go value of type int32",
            ),
            (json!([]), "json: cannot unmarshal array into Go value of type v1.Thing"),
        ] {
            assert_eq!(checked(object.clone(), Mode::Report).1.type_error.as_deref(), Some(want), "{object}");
        }
    }
}
