//! The scale subresource of custom resources (autoscaling/v1 Scale over three paths).

use crate::jsonpath::dotted;
use crate::objectmeta::go_type;
use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::go;
use knarr_meta::object::get_str;
use serde_json::{Map, Value, json};

/// Where a custom resource has its replicas.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scale {
    /// Path of the wanted replicas, with its dot.
    pub spec_replicas: String,
    /// Path of the observed replicas.
    pub status_replicas: String,
    /// Path of the selector as text.
    pub label_selector: Option<String>,
}

impl Scale {
    /// Reads `subresources.scale`.
    pub fn parse(json: &Value) -> Self {
        Self {
            spec_replicas: get_str(json, &["specReplicasPath"]).to_owned(),
            status_replicas: get_str(json, &["statusReplicasPath"]).to_owned(),
            label_selector: json["labelSelectorPath"].as_str().map(str::to_owned),
        }
    }

    /// The Scale of an object, and whether it says at all how many replicas it wants.
    ///
    /// # Errors
    /// A value on the paths has the wrong type.
    pub fn read(&self, object: &Value) -> Result<(Value, bool), String> {
        let empty = Map::new();
        let map = object.as_object().unwrap_or(&empty);
        let wanted = integer(map, &self.spec_replicas)?;
        let observed = integer(map, &self.status_replicas)?;
        let selector = match &self.label_selector {
            Some(path) if !path.is_empty() => text(map, path)?,
            _ => String::new(),
        };
        let mut metadata = Map::new();
        for name in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if let Some(value) = object["metadata"].get(name) {
                metadata.insert(name.to_owned(), value.clone());
            }
        }
        let mut scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata,
            "spec": {}, "status": {"replicas": observed.unwrap_or(0)}});
        // A Scale that wants nothing does not say so: the field is left out when zero.
        if wanted.unwrap_or(0) != 0 {
            scale["spec"]["replicas"] = wanted.into();
        }
        if !selector.is_empty() {
            scale["status"]["selector"] = selector.into();
        }
        Ok((scale, wanted.is_some()))
    }

    /// Sets the wanted replicas.
    ///
    /// # Errors
    /// Something on the path is no object.
    pub fn write(&self, object: &mut Value, replicas: i32) -> Result<(), String> {
        let path = self.spec_replicas.strip_prefix('.').unwrap_or(&self.spec_replicas);
        let names: Vec<&str> = path.split('.').collect();
        let mut at = object;
        for (index, name) in names.iter().enumerate() {
            let Value::Object(map) = at else {
                return Err(format!(
                    "value cannot be set because .{} is not a map[string]interface{{}}",
                    names[..index].join(".")
                ));
            };
            let last = index + 1 == names.len();
            let slot = map.entry(*name).or_insert_with(|| Value::Object(Map::new()));
            if last {
                *slot = replicas.into();
            }
            at = slot;
        }
        Ok(())
    }

    /// What is wrong with the wanted replicas of an object.
    pub(crate) fn validate_spec(&self, map: &Map<String, Value>, errors: &mut ErrorList) {
        replicas(map, &self.spec_replicas, errors);
    }

    /// What is wrong with what was observed.
    pub(crate) fn validate_status(&self, map: &Map<String, Value>, errors: &mut ErrorList) {
        replicas(map, &self.status_replicas, errors);
        if let Some(path) = &self.label_selector
            && let Err(error) = text(map, path)
        {
            errors.push(field::invalid(&Path::new(path.clone()), "", error));
        }
    }
}

fn replicas(map: &Map<String, Value>, path: &str, errors: &mut ErrorList) {
    let at = || Path::new(path.to_owned());
    match integer(map, path) {
        Err(error) => errors.push(field::invalid(&at(), 0, error)),
        Ok(Some(n)) if n < 0 => errors.push(field::invalid(&at(), n, "should be a non-negative integer")),
        Ok(Some(n)) if n > i64::from(i32::MAX) => {
            let detail = format!("should be less than or equal to {}", i32::MAX);
            errors.push(field::invalid(&at(), n, detail));
        }
        Ok(_) => {}
    }
}

fn wrong_type(path: &str, value: &Value, expected: &str) -> String {
    let path = path.strip_prefix('.').unwrap_or(path);
    format!(
        ".{path} accessor error: {} is of the type {}, expected {expected}",
        go::percent_v(value),
        go_type(value)
    )
}

fn integer(map: &Map<String, Value>, path: &str) -> Result<Option<i64>, String> {
    match dotted(map, path)? {
        None => Ok(None),
        Some(value) => value.as_i64().map(Some).ok_or_else(|| wrong_type(path, value, "int64")),
    }
}

fn text(map: &Map<String, Value>, path: &str) -> Result<String, String> {
    match dotted(map, path)? {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(value) => Err(wrong_type(path, value, "string")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale() -> Scale {
        Scale::parse(
            &json!({"specReplicasPath": ".spec.a.n", "statusReplicasPath": ".status.n", "labelSelectorPath": ".status.sel"}),
        )
    }

    #[test]
    fn a_scale_is_read_and_written() {
        let mut object = json!({"metadata": {"name": "x", "uid": "u", "labels": {}}, "spec": {"a": {"n": 3}},
            "status": {"n": 2, "sel": "a=b"}});
        let (value, found) = scale().read(&object).unwrap();
        assert!(found);
        assert_eq!(
            value,
            json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {"name": "x", "uid": "u"},
                "spec": {"replicas": 3}, "status": {"replicas": 2, "selector": "a=b"}})
        );
        scale().write(&mut object, 5).unwrap();
        assert_eq!(object["spec"]["a"]["n"], 5);
        let mut empty = json!({});
        assert!(!scale().read(&empty).unwrap().1);
        scale().write(&mut empty, 1).unwrap();
        assert_eq!(empty, json!({"spec": {"a": {"n": 1}}}));
        let wrong = json!({"spec": {"a": {"n": "x"}}});
        assert_eq!(
            scale().read(&wrong).unwrap_err(),
            ".spec.a.n accessor error: x is of the type string, expected int64"
        );
    }

    #[test]
    fn replicas_have_bounds() {
        let object = json!({"spec": {"a": {"n": -1}}, "status": {"n": 3_000_000_000_i64, "sel": 1}});
        let mut errors = ErrorList::new();
        scale().validate_spec(object.as_object().unwrap(), &mut errors);
        scale().validate_status(object.as_object().unwrap(), &mut errors);
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                ".spec.a.n: Invalid value: -1: should be a non-negative integer",
                ".status.n: Invalid value: 3000000000: should be less than or equal to 2147483647",
                ".status.sel: Invalid value: \"\": .status.sel accessor error: 1 is of the type int64, expected string",
            ]
        );
    }
}
