//! The columns of custom resources in Tables (upstream's `tableconvertor`): the name, then what the definition adds,
//! or the age if it adds nothing.

use crate::jsonpath::{JsonPath, printed};
use knarr_api::openapi::description;
use knarr_meta::object::{get_i64, get_str};
use knarr_meta::table::ColumnDefinition;
use knarr_meta::time;
use serde_json::Value;
use std::sync::LazyLock;
use std::time::SystemTime;

/// What upstream says about the two columns that are not the definition's. The table of descriptions is read anew at
/// each look, and definitions are compiled often.
static DESCRIPTIONS: LazyLock<[String; 2]> = LazyLock::new(|| {
    ["name", "creationTimestamp"].map(|field| description(OBJECT_META, field).unwrap_or_default())
});

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

/// Headers and what they show.
#[derive(Clone, Debug)]
pub struct Columns {
    headers: Vec<ColumnDefinition>,
    paths: Vec<Option<JsonPath>>,
}

impl Columns {
    /// Reads `additionalPrinterColumns`.
    pub fn parse(json: &Value) -> Self {
        let mut headers = vec![ColumnDefinition {
            name: "Name".into(),
            type_: "string".into(),
            format: "name".into(),
            description: DESCRIPTIONS[0].clone().into(),
            priority: 0,
        }];
        let mut paths = Vec::new();
        for column in json.as_array().into_iter().flatten() {
            let text = |name: &str| get_str(column, &[name]).to_owned();
            let path = text("jsonPath");
            let mut about = text("description");
            if about.is_empty() {
                about = format!("Custom resource definition column (in JSONPath format): {path}");
            }
            headers.push(ColumnDefinition {
                name: text("name").into(),
                type_: text("type").into(),
                format: text("format").into(),
                description: about.into(),
                priority: get_i64(column, &["priority"]).and_then(|n| i32::try_from(n).ok()).unwrap_or(0),
            });
            paths.push(JsonPath::parse(&path).ok());
        }
        if paths.is_empty() {
            headers.push(ColumnDefinition {
                name: "Age".into(),
                type_: "date".into(),
                format: "".into(),
                description: DESCRIPTIONS[1].clone().into(),
                priority: 0,
            });
            paths.push(JsonPath::parse(".metadata.creationTimestamp").ok());
        }
        Self { headers, paths }
    }

    /// The headers.
    pub fn definitions(&self) -> &[ColumnDefinition] {
        &self.headers
    }

    /// One row.
    pub fn cells(&self, object: &Value, now: SystemTime) -> Vec<Value> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let columns = self.headers[1..].iter().zip(&self.paths);
        let cells = columns.map(|(header, path)| {
            let found = path.as_ref().and_then(|path| path.first(object));
            found.map_or(Value::Null, |value| cell(&header.type_, &value, now))
        });
        std::iter::once(name.into()).chain(cells).collect()
    }
}

fn cell(type_: &str, value: &Value, now: SystemTime) -> Value {
    match (type_, value) {
        ("string", value) => printed(value).into(),
        ("integer", Value::Number(number)) => match number.as_i64() {
            Some(n) => n.into(),
            None => number.as_f64().map_or(Value::Null, |float| crate::number::truncate(float).into()),
        },
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match time::parse(text) {
            Ok(_) => time::age(Some(text), now).into(),
            Err(_) => "<invalid>".into(),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn cells_have_the_type_of_their_column() {
        let columns = Columns::parse(&json!([
            {"name": "S", "type": "string", "jsonPath": ".spec.s"}, {"name": "O", "type": "string", "jsonPath": ".spec.o"},
            {"name": "N", "type": "string", "jsonPath": ".spec.i"}, {"name": "I", "type": "integer", "jsonPath": ".spec.i", "priority": 1},
            {"name": "F", "type": "integer", "jsonPath": ".spec.f"}, {"name": "D", "type": "date", "jsonPath": ".spec.d"},
            {"name": "B", "type": "boolean", "jsonPath": ".spec.s"}, {"name": "M", "type": "string", "jsonPath": ".spec.missing"},
            {"name": "X", "type": "date", "jsonPath": ".spec.s", "description": "mine"}]));
        let object = json!({"metadata": {"name": "n"}, "spec": {"s": "x", "o": {"a": 1}, "i": 3, "f": 2.7, "d": "2026-01-01T00:00:00Z"}});
        let now = time::parse("2026-01-01T00:05:00Z").unwrap();
        assert_eq!(
            columns.cells(&object, now),
            [
                json!("n"),
                json!("x"),
                json!("{\"a\":1}"),
                json!("3"),
                json!(3),
                json!(2),
                json!("5m"),
                json!(null),
                json!(null),
                json!("<invalid>")
            ]
        );
        let header = &columns.definitions()[4];
        assert_eq!((&*header.name, header.priority), ("I", 1));
        assert_eq!(header.description, "Custom resource definition column (in JSONPath format): .spec.i");
        assert_eq!(columns.definitions()[9].description, "mine");
    }

    #[test]
    fn without_columns_there_is_the_age() {
        let columns = Columns::parse(&Value::Null);
        let names: Vec<&str> = columns.definitions().iter().map(|column| &*column.name).collect();
        assert_eq!(names, ["Name", "Age"]);
        let now = time::parse("2026-01-01T00:05:00Z").unwrap();
        let object = json!({"metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        assert_eq!(columns.cells(&object, now), [json!("n"), json!("5m")]);
    }
}
