//! Fields of custom resources that field selectors may name (`selectableFields`, KEP-4358).

use crate::jsonpath::{JsonPath, printed};
use serde_json::Value;

/// A selectable field.
#[derive(Clone, Debug)]
pub struct SelectableField {
    /// The name in selectors: the path without its first dot.
    pub name: String,
    path: Option<JsonPath>,
}

impl SelectableField {
    /// A field by its JSON path. A path that does not parse selects nothing; validation refuses it.
    pub fn new(path: &str) -> Self {
        let name = path.strip_prefix('.').unwrap_or(path).to_owned();
        Self { name, path: JsonPath::parse(path).ok() }
    }

    /// The value that selectors are held against; empty where there is none.
    pub fn value(&self, object: &Value) -> String {
        let found = self.path.as_ref().and_then(|path| path.first(object));
        found.filter(|value| !value.is_null()).map(|value| printed(&value)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_print_as_in_go() {
        let object = json!({"spec": {"t": "x", "n": 3, "b": true, "f": 1.5, "z": null}});
        for (path, want) in [
            (".spec.t", "x"),
            (".spec.n", "3"),
            (".spec.b", "true"),
            (".spec.f", "1.5"),
            (".spec.z", ""),
            (".spec.q", ""),
        ] {
            let field = SelectableField::new(path);
            assert_eq!((field.name.as_str(), field.value(&object).as_str()), (&path[1..], want));
        }
    }
}
