//! Devices, as the selectors of device classes and resource claims see them (KEP-4381): the variable `device`.

use super::DeclType;
use crate::env::Env;
use crate::error::EvalError;
use crate::lib_fns::opaque::Opaque;
use crate::lib_fns::semver::Semver;
use crate::value::{Key, Map, MapRepr, MapValue, Text, Value};
use knarr_meta::quantity::Quantity;
use serde_json::Value as Json;
use std::sync::Arc;

/// How many attributes, and how many capacities, a device can have.
const MAX_ENTRIES: i64 = 32;

impl DeclType {
    /// `kubernetes.DRADevice`: the type of `device`.
    pub fn device() -> Arc<Self> {
        let domain = || Self::string().sized(63);
        let entries = |elem| {
            let inner = Self::map(Self::string().sized(32), elem, MAX_ENTRIES);
            Self::map(domain(), inner, MAX_ENTRIES)
        };
        Self::object(
            "kubernetes.DRADevice",
            [
                ("driver", domain()),
                ("allowMultipleAllocations", Self::bool().sized(1)),
                ("attributes", entries(Self::any().sized(64))),
                ("capacity", entries(Self::quantity())),
            ],
        )
    }
}

impl Env {
    /// The environment of device selectors: the variable `device`, and `cel.bind`. Their results are of the type
    /// `bool` or [`crate::Type::Any`]; their costs are those that [`crate::Ast::estimate_cost_of`] gives for `device`
    /// and [`DeclType::device`].
    pub fn device_selectors() -> Self {
        Self::kubernetes().with_bindings().with_declared("device", &DeclType::device())
    }
}

impl<'a> Value<'a> {
    /// The variable `device` for a device of a resource slice, as its JSON has it, of this driver.
    pub fn device(driver: &'a str, device: &'a Json) -> Result<Self, EvalError> {
        let multiple = device["allowMultipleAllocations"].as_bool().unwrap_or_default();
        let attributes = by_domain(driver, &device["attributes"], |name, value| {
            attribute(value).map_err(|problem| EvalError::new(format!("attribute {name}: {problem}")))
        })?;
        let capacity = by_domain(driver, &device["capacity"], |_, value| {
            let text = value["value"].as_str().map(str::to_owned);
            let text = text.unwrap_or_else(|| value["value"].to_string());
            let quantity = Quantity::parse(&text).map_err(|problem| EvalError::new(problem.to_string()))?;
            Ok(Value::opaque(Opaque::Quantity(quantity)))
        })?;
        let fields = [
            ("driver", Value::String(Text::Borrowed(driver))),
            ("allowMultipleAllocations", Value::Bool(multiple)),
            ("attributes", attributes),
            ("capacity", capacity),
        ];
        let key = |name| Key::String(Text::Borrowed(name));
        Ok(Value::map(fields.into_iter().map(|(name, value)| (key(name), value)).collect()))
    }
}

/// Entries with qualified names, by their domains; names without one are in the driver's.
fn by_domain<'a>(
    driver: &'a str,
    entries: &'a Json,
    convert: impl Fn(&str, &'a Json) -> Result<Value<'a>, EvalError>,
) -> Result<Value<'a>, EvalError> {
    let mut domains: std::collections::BTreeMap<&'a str, Map<'a>> = Default::default();
    for (name, value) in entries.as_object().into_iter().flatten() {
        let (domain, id) = name.split_once('/').unwrap_or((driver, name));
        domains.entry(domain).or_default().insert(Key::String(Text::Borrowed(id)), convert(name, value)?);
    }
    let domains =
        domains.into_iter().map(|(domain, map)| (Key::String(Text::Borrowed(domain)), Value::map(map)));
    Ok(Value::Map(MapValue(MapRepr::Defaulted(Arc::new(domains.collect())))))
}

fn attribute(json: &Json) -> Result<Value<'_>, String> {
    if let Some(number) = json["int"].as_i64() {
        return Ok(Value::Int(number));
    }
    if let Some(value) = json["bool"].as_bool() {
        return Ok(Value::Bool(value));
    }
    if let Some(text) = json["string"].as_str() {
        return Ok(Value::String(Text::Borrowed(text)));
    }
    match json["version"].as_str().map(Semver::parse) {
        Some(Ok(version)) => Ok(Value::opaque(Opaque::Semver(version))),
        Some(Err(problem)) => Err(format!("parse semantic version: {problem}")),
        None => Err("unsupported attribute value".to_owned()),
    }
}
