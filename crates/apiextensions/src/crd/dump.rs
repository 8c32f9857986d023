//! Upstream's internal types as Go's encoder writes them inside error texts: fields in the order of their declaration,
//! under their Go names.

use super::spec::{Part, SpecVersion};
use crate::schema::{Rule, Schema, SchemaOrBool};
use knarr_meta::go;
use serde_json::Value;

/// Go's structs, field by field.
struct Writer(String);

impl Writer {
    fn new() -> Self {
        Self("{".into())
    }

    fn raw(mut self, name: &str, value: &str) -> Self {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&format!("\"{name}\":{value}"));
        self
    }

    fn put(self, name: &str, value: impl Into<Value>) -> Self {
        self.raw(name, &go::json(&value.into()))
    }

    fn optional(self, name: &str, value: Option<impl Into<Value>>) -> Self {
        self.put(name, value.map_or(Value::Null, Into::into))
    }

    fn done(mut self) -> String {
        self.0.push('}');
        self.0
    }
}

fn array(items: impl IntoIterator<Item = String>) -> String {
    let items: Vec<String> = items.into_iter().collect();
    if items.is_empty() { "null".into() } else { format!("[{}]", items.join(",")) }
}

fn number(float: f64) -> Value {
    crate::number::normalized(&serde_json::json!(float))
}

/// A `ValidationRule`.
pub(super) fn rule(rule: &Rule) -> String {
    Writer::new()
        .put("Rule", rule.rule.as_str())
        .put("Message", rule.message.as_str())
        .put("MessageExpression", rule.message_expression.as_str())
        .optional("Reason", rule.reason.as_deref())
        .put("FieldPath", rule.field_path.as_str())
        .optional("OptionalOldSelf", rule.optional_old_self)
        .done()
}

/// A `JSONSchemaProps`.
pub(super) fn schema(s: &Schema) -> String {
    let texts = |list: &[String]| if list.is_empty() { Value::Null } else { list.to_vec().into() };
    let map = if s.properties.is_empty() {
        "null".to_owned()
    } else {
        let entries: Vec<String> = s
            .properties
            .iter()
            .map(|(name, value)| format!("{}:{}", go::json(&name.as_str().into()), schema(value)))
            .collect();
        format!("{{{}}}", entries.join(","))
    };
    let items = match (&s.items, s.unsupported.items_list.as_slice()) {
        (None, []) => "null".to_owned(),
        (one, many) => Writer::new()
            .raw("Schema", &one.as_deref().map_or("null".into(), schema))
            .raw("JSONSchemas", &array(many.iter().map(schema)))
            .done(),
    };
    let additional = match &s.additional_properties {
        None => "null".to_owned(),
        Some(SchemaOrBool::Bool(allows)) => Writer::new().put("Allows", *allows).raw("Schema", "null").done(),
        Some(SchemaOrBool::Schema(other)) => {
            Writer::new().put("Allows", true).raw("Schema", &schema(other)).done()
        }
    };
    let docs = s.external_docs.as_ref().map_or("null".into(), |(about, url)| {
        Writer::new().put("Description", about.as_str()).put("URL", url.as_str()).done()
    });
    Writer::new()
        .put("ID", "")
        .put("Schema", "")
        .put("Ref", Value::Null)
        .put("Description", s.description.as_str())
        .put("Type", s.type_.as_str())
        .put("Nullable", s.nullable)
        .put("Format", s.format.as_str())
        .put("Title", s.title.as_str())
        .optional("Default", s.default.clone())
        .optional("Maximum", s.maximum.map(number))
        .put("ExclusiveMaximum", s.exclusive_maximum)
        .optional("Minimum", s.minimum.map(number))
        .put("ExclusiveMinimum", s.exclusive_minimum)
        .optional("MaxLength", s.max_length)
        .optional("MinLength", s.min_length)
        .put("Pattern", s.pattern.as_ref().map_or("", |pattern| pattern.text()))
        .optional("MaxItems", s.max_items)
        .optional("MinItems", s.min_items)
        .put("UniqueItems", s.unique_items)
        .optional("MultipleOf", s.multiple_of.map(number))
        .put("Enum", if s.enum_.is_empty() { Value::Null } else { s.enum_.clone().into() })
        .optional("MaxProperties", s.max_properties)
        .optional("MinProperties", s.min_properties)
        .put("Required", texts(&s.required))
        .raw("Items", &items)
        .raw("AllOf", &array(s.all_of.iter().map(schema)))
        .raw("OneOf", &array(s.one_of.iter().map(schema)))
        .raw("AnyOf", &array(s.any_of.iter().map(schema)))
        .raw("Not", &s.not.as_deref().map_or("null".into(), schema))
        .raw("Properties", &map)
        .raw("AdditionalProperties", &additional)
        .put("PatternProperties", Value::Null)
        .put("Dependencies", Value::Null)
        .put("AdditionalItems", Value::Null)
        .put("Definitions", Value::Null)
        .raw("ExternalDocs", &docs)
        .optional("Example", s.example.clone())
        .optional("XPreserveUnknownFields", s.preserve_unknown_fields)
        .put("XEmbeddedResource", s.embedded_resource)
        .put("XIntOrString", s.int_or_string)
        .put("XListMapKeys", texts(&s.list_map_keys))
        .optional("XListType", s.list_type.as_deref())
        .optional("XMapType", s.map_type.as_deref())
        .raw("XValidations", &array(s.validations.iter().map(rule)))
        .done()
}

/// The names of the fields of a schema that are set, in the order of their declaration.
pub(super) fn set_fields(s: &Schema) -> Vec<&'static str> {
    let unsupported = &s.unsupported;
    let fields = [
        ("ID", unsupported.id),
        ("Schema", unsupported.schema),
        ("Ref", unsupported.reference),
        ("Description", !s.description.is_empty()),
        ("Type", !s.type_.is_empty()),
        ("Nullable", s.nullable),
        ("Format", !s.format.is_empty()),
        ("Title", !s.title.is_empty()),
        ("Default", s.default.is_some()),
        ("Maximum", s.maximum.is_some()),
        ("ExclusiveMaximum", s.exclusive_maximum),
        ("Minimum", s.minimum.is_some()),
        ("ExclusiveMinimum", s.exclusive_minimum),
        ("MaxLength", s.max_length.is_some()),
        ("MinLength", s.min_length.is_some()),
        ("Pattern", s.pattern.is_some()),
        ("MaxItems", s.max_items.is_some()),
        ("MinItems", s.min_items.is_some()),
        ("UniqueItems", s.unique_items),
        ("MultipleOf", s.multiple_of.is_some()),
        ("Enum", !s.enum_.is_empty()),
        ("MaxProperties", s.max_properties.is_some()),
        ("MinProperties", s.min_properties.is_some()),
        ("Required", !s.required.is_empty()),
        ("Items", s.items.is_some() || !unsupported.items_list.is_empty()),
        ("AllOf", !s.all_of.is_empty()),
        ("OneOf", !s.one_of.is_empty()),
        ("AnyOf", !s.any_of.is_empty()),
        ("Not", s.not.is_some()),
        ("Properties", !s.properties.is_empty()),
        ("AdditionalProperties", s.additional_properties.is_some()),
        ("PatternProperties", unsupported.pattern_properties),
        ("Dependencies", unsupported.dependencies),
        ("AdditionalItems", unsupported.additional_items),
        ("Definitions", unsupported.definitions),
        ("ExternalDocs", s.external_docs.is_some()),
        ("Example", s.example.is_some()),
        ("XPreserveUnknownFields", s.preserve_unknown_fields.is_some()),
        ("XEmbeddedResource", s.embedded_resource),
        ("XIntOrString", s.int_or_string),
        ("XListMapKeys", !s.list_map_keys.is_empty()),
        ("XListType", s.list_type.is_some()),
        ("XMapType", s.map_type.is_some()),
        ("XValidations", !s.validations.is_empty()),
    ];
    fields.into_iter().filter(|(_, set)| *set).map(|(name, _)| name).collect()
}

/// `spec.versions`.
pub(super) fn versions(versions: &[SpecVersion<'_>]) -> String {
    array(versions.iter().map(|version| {
        Writer::new()
            .put("Name", version.name)
            .put("Served", version.served)
            .put("Storage", version.storage)
            .put("Deprecated", version.deprecated)
            .optional("DeprecationWarning", version.deprecation_warning)
            .raw("Schema", &validation(&version.own))
            .raw("Subresources", &version.own.subresources.map_or("null".into(), subresources))
            .raw("AdditionalPrinterColumns", &array(version.own.columns.iter().map(column)))
            .raw(
                "SelectableFields",
                &array(
                    version
                        .own
                        .selectable
                        .iter()
                        .map(|field| Writer::new().put("JSONPath", field["jsonPath"].clone()).done()),
                ),
            )
            .done()
    }))
}

fn validation(part: &Part<'_>) -> String {
    match &part.schema {
        None => "null".into(),
        Some(given) => {
            Writer::new().raw("OpenAPIV3Schema", &given.as_ref().map_or("null".into(), schema)).done()
        }
    }
}

fn subresources(json: &Value) -> String {
    let scale = &json["scale"];
    let scale = if scale.is_null() {
        "null".into()
    } else {
        Writer::new()
            .put("SpecReplicasPath", scale["specReplicasPath"].clone())
            .put("StatusReplicasPath", scale["statusReplicasPath"].clone())
            .put("LabelSelectorPath", scale["labelSelectorPath"].clone())
            .done()
    };
    let status = if json["status"].is_null() { "null" } else { "{}" };
    Writer::new().raw("Status", status).raw("Scale", &scale).done()
}

fn column(json: &Value) -> String {
    let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
    Writer::new()
        .put("Name", text("name"))
        .put("Type", text("type"))
        .put("Format", text("format"))
        .put("Description", text("description"))
        .put("Priority", json["priority"].as_i64().unwrap_or(0))
        .put("JSONPath", text("jsonPath"))
        .done()
}
