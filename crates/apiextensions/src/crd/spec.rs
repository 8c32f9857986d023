//! A definition's spec as upstream's internal version has it, on which its validation works and by which its errors
//! name fields: what all versions have in common stands at the top and is gone from the versions.

use crate::definition::Names;
use crate::schema::{ParseError, Schema};
use knarr_meta::object::get_str;
use serde_json::Value;

/// The spec.
pub(super) struct Spec<'a> {
    pub group: &'a str,
    pub scope: &'a str,
    pub names: Names,
    /// The first version's name.
    pub version: &'a str,
    pub versions: Vec<SpecVersion<'a>>,
    pub preserve_unknown_fields: bool,
    /// What is the same in all versions.
    pub common: Part<'a>,
    pub conversion: &'a Value,
}

/// One of `spec.versions`.
pub(super) struct SpecVersion<'a> {
    pub name: &'a str,
    pub served: bool,
    pub storage: bool,
    pub deprecated: bool,
    pub deprecation_warning: Option<&'a str>,
    pub own: Part<'a>,
}

/// What may stand with each version, or once for all.
#[derive(Default)]
pub(super) struct Part<'a> {
    /// `schema`, in it `openAPIV3Schema`.
    pub schema: Option<Option<Schema>>,
    /// `openAPIV3Schema` as written.
    pub json: Option<&'a Value>,
    pub subresources: Option<&'a Value>,
    pub columns: &'a [Value],
    pub selectable: &'a [Value],
}

impl Part<'_> {
    pub fn openapi(&self) -> Option<&Schema> {
        self.schema.as_ref().and_then(Option::as_ref)
    }
}

fn given<'a>(json: &'a Value, name: &str) -> Option<&'a Value> {
    json.get(name).filter(|value| !value.is_null())
}

fn list<'a>(json: &'a Value, name: &str) -> &'a [Value] {
    json[name].as_array().map(Vec::as_slice).unwrap_or_default()
}

impl<'a> Spec<'a> {
    /// Reads `spec`.
    pub fn parse(spec: &'a Value) -> Result<Self, ParseError> {
        let versions = list(spec, "versions");
        let first = versions.first();
        let same = |name: &str| {
            first.is_some_and(|first| versions.iter().all(|v| given(v, name) == given(first, name)))
        };
        let part = |json: &'a Value, wanted: &dyn Fn(&str) -> bool| -> Result<Part<'a>, ParseError> {
            let schema = given(json, "schema").filter(|_| wanted("schema"));
            let raw = schema.and_then(|schema| given(schema, "openAPIV3Schema"));
            let schema = schema.map(|schema| given(schema, "openAPIV3Schema").map(Schema::parse).transpose());
            let pick = |name: &str| if wanted(name) { list(json, name) } else { &[] };
            Ok(Part {
                schema: schema.transpose()?,
                json: raw,
                subresources: given(json, "subresources").filter(|_| wanted("subresources")),
                columns: pick("additionalPrinterColumns"),
                selectable: pick("selectableFields"),
            })
        };
        Ok(Self {
            group: get_str(spec, &["group"]),
            scope: get_str(spec, &["scope"]),
            names: Names::parse(&spec["names"]),
            version: first.map_or("", |first| get_str(first, &["name"])),
            versions: versions
                .iter()
                .map(|json| {
                    Ok(SpecVersion {
                        name: get_str(json, &["name"]),
                        served: json["served"] == true,
                        storage: json["storage"] == true,
                        deprecated: json["deprecated"] == true,
                        deprecation_warning: json["deprecationWarning"].as_str(),
                        own: part(json, &|name| !same(name))?,
                    })
                })
                .collect::<Result<_, _>>()?,
            preserve_unknown_fields: spec["preserveUnknownFields"] == true,
            common: first.map_or(Ok(Part::default()), |first| part(first, &same))?,
            conversion: &spec["conversion"],
        })
    }

    /// Every schema of the spec.
    pub fn schemas(&self) -> impl Iterator<Item = &Schema> {
        self.common
            .openapi()
            .into_iter()
            .chain(self.versions.iter().filter_map(|version| version.own.openapi()))
    }

    /// Whether some schema, or one within, satisfies `f`.
    pub fn any_schema(&self, f: impl Fn(&Schema) -> bool) -> bool {
        self.schemas().any(|schema| schema.any(&f))
    }

    /// The schema of a version, wherever it stands.
    pub fn schema_of(&self, version: &SpecVersion<'_>) -> Option<Schema> {
        self.common.openapi().or(version.own.openapi()).cloned()
    }

    /// The same as it was written.
    pub fn json_of(&self, version: &SpecVersion<'a>) -> Option<&'a Value> {
        self.common.json.or(version.own.json)
    }
}
