//! OpenAPI v2 of extension API servers: the part that concerns one group version, merged into this server's document as
//! kube-openapi's aggregator does. Definitions and parameters that differ under one name are renamed (`..._v2`).

use serde_json::{Map, Value};
use std::collections::{BTreeMap, BTreeSet};

const GVKS: &str = "x-kubernetes-group-version-kind";
/// What is referred to by name, with the beginning of a reference.
const SECTIONS: [(&str, &str); 2] = [("definitions", "#/definitions/"), ("parameters", "#/parameters/")];

/// The document with the paths under `prefix` only, and what they refer to. `None` when there are none.
pub fn filter(mut document: Value, prefix: &str) -> Option<Value> {
    let paths = document.get_mut("paths")?.as_object_mut()?;
    paths.retain(|path, _| path.starts_with(prefix));
    if paths.is_empty() {
        return None;
    }
    prune(&mut document);
    Some(document)
}

/// Drops definitions and parameters that nothing refers to.
fn prune(document: &mut Value) {
    let mut used: BTreeSet<String> = BTreeSet::new();
    let mut open = Vec::new();
    references(&document["paths"], &mut |reference| open.push(reference.to_owned()));
    while let Some(reference) = open.pop() {
        if used.contains(&reference) {
            continue;
        }
        if let Some((section, name)) = split(&reference) {
            references(&document[section][name], &mut |found| open.push(found.to_owned()));
        }
        used.insert(reference);
    }
    for (section, prefix) in SECTIONS {
        if let Some(Value::Object(all)) = document.get_mut(section) {
            all.retain(|name, _| used.contains(&format!("{prefix}{name}")));
        }
    }
}

fn split(reference: &str) -> Option<(&'static str, &str)> {
    SECTIONS.iter().find_map(|(section, prefix)| Some((*section, reference.strip_prefix(prefix)?)))
}

/// Calls `found` with each `$ref` in a value.
fn references(value: &Value, found: &mut impl FnMut(&str)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "$ref" => found(text),
                    value => references(value, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        _ => {}
    }
}

fn rename(value: &mut Value, names: &BTreeMap<String, String>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                match value {
                    Value::String(text) if key == "$ref" => {
                        if let Some(new) = names.get(text) {
                            new.clone_into(text);
                        }
                    }
                    value => rename(value, names),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, names)),
        _ => {}
    }
}

/// Takes what `source` has and `document` has not into `document`. Paths that are there already stay as they are.
pub fn merge(document: &mut Value, source: &Value) {
    let mut source = source.clone();
    let known = |path: &String| document["paths"].get(path).is_some();
    let Some(paths) = source.get_mut("paths").and_then(Value::as_object_mut) else { return };
    let before = paths.len();
    paths.retain(|path, _| !known(path));
    if paths.is_empty() {
        return;
    }
    if paths.len() < before {
        prune(&mut source);
    }
    let mut names = BTreeMap::new();
    for (section, prefix) in SECTIONS {
        let (Some(theirs), none) = (source.get(section).and_then(Value::as_object), Map::new()) else {
            continue;
        };
        let ours = document.get(section).and_then(Value::as_object).unwrap_or(&none);
        let mut taken: BTreeSet<String> = BTreeSet::new();
        for (name, value) in theirs {
            if ours.get(name).is_none_or(|existing| same(existing, value)) {
                continue;
            }
            let mut number = 2;
            let new = loop {
                let candidate = format!("{name}_v{number}");
                let free = match ours.get(&candidate) {
                    Some(existing) => same(existing, value),
                    None => !taken.contains(&candidate) && !theirs.contains_key(&candidate),
                };
                if free {
                    break candidate;
                }
                number += 1;
            };
            taken.insert(new.clone());
            names.insert(format!("{prefix}{name}"), format!("{prefix}{new}"));
        }
    }
    rename(&mut source, &names);
    for (section, prefix) in SECTIONS {
        let Some(Value::Object(theirs)) = source.get_mut(section).map(Value::take) else { continue };
        let ours = entry(document, section);
        for (name, value) in theirs {
            let new = names.get(&format!("{prefix}{name}")).map(|new| new[prefix.len()..].to_owned());
            let name = new.unwrap_or(name);
            match ours.get_mut(&name) {
                Some(existing) => join_gvks(existing, &value),
                None => {
                    ours.insert(name, value);
                }
            }
        }
    }
    if let Some(Value::Object(theirs)) = source.get_mut("paths").map(Value::take) {
        entry(document, "paths").extend(theirs);
    }
}

fn entry<'a>(document: &'a mut Value, section: &str) -> &'a mut Map<String, Value> {
    if !document[section].is_object() {
        document[section] = Value::Object(Map::new());
    }
    document[section].as_object_mut().expect("it has just been made an object")
}

/// Whether two definitions say the same, whatever kinds they say it of.
fn same(one: &Value, other: &Value) -> bool {
    let (Some(one), Some(other)) = (one.as_object(), other.as_object()) else { return one == other };
    let rest = |map: &Map<String, Value>| map.iter().filter(|(key, _)| *key != GVKS).count();
    rest(one) == rest(other)
        && one.iter().filter(|(key, _)| *key != GVKS).all(|(key, value)| other.get(key) == Some(value))
}

/// Adds the kinds that the other definition is of.
fn join_gvks(existing: &mut Value, other: &Value) {
    let Some(theirs) = other.get(GVKS).and_then(Value::as_array) else { return };
    let Some(existing) = existing.as_object_mut() else { return };
    let ours = existing.entry(GVKS).or_insert_with(|| Value::Array(Vec::new()));
    if let Some(ours) = ours.as_array_mut() {
        for gvk in theirs {
            if !ours.contains(gvk) {
                ours.push(gvk.clone());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_group_versions_part_is_cut_out_with_what_it_needs() {
        let document = json!({
            "paths": {
                "/apis/a/v1/things": {"get": {"schema": {"$ref": "#/definitions/Thing"}, "parameters": [{"$ref": "#/parameters/p"}]}},
                "/apis/b/v1/others": {"get": {"schema": {"$ref": "#/definitions/Other"}}},
            },
            "definitions": {"Thing": {"x": {"$ref": "#/definitions/Part"}}, "Part": {}, "Other": {}},
            "parameters": {"p": {"name": "p"}, "q": {"name": "q"}},
        });
        let cut = filter(document.clone(), "/apis/a/v1/").unwrap();
        assert_eq!(cut["definitions"], json!({"Thing": {"x": {"$ref": "#/definitions/Part"}}, "Part": {}}));
        assert_eq!(cut["parameters"], json!({"p": {"name": "p"}}));
        assert_eq!(cut["paths"].as_object().unwrap().len(), 1);
        assert!(filter(document, "/apis/c/v1/").is_none());
    }

    #[test]
    fn what_differs_under_one_name_is_renamed_and_kinds_are_joined() {
        let gvk = |group: &str| json!([{"group": group, "kind": "DeleteOptions", "version": "v1"}]);
        let mut ours = json!({
            "paths": {"/api/v1/a": {"$ref": "#/definitions/Meta"}},
            "definitions": {"Meta": {"type": "object"}, "Options": {"type": "object", GVKS: gvk("a")}},
        });
        let theirs = json!({
            "paths": {"/api/v1/a": {}, "/apis/b/v1/b": {"x": {"$ref": "#/definitions/Meta"}, "y": {"$ref": "#/definitions/Options"}}},
            "definitions": {"Meta": {"type": "string"}, "Options": {"type": "object", GVKS: gvk("b")}, "Unused": {}},
        });
        merge(&mut ours, &theirs);
        assert_eq!(ours["paths"]["/api/v1/a"], json!({"$ref": "#/definitions/Meta"}));
        assert_eq!(ours["paths"]["/apis/b/v1/b"]["x"]["$ref"], "#/definitions/Meta_v2");
        assert_eq!(ours["definitions"]["Meta"], json!({"type": "object"}));
        assert_eq!(ours["definitions"]["Meta_v2"], json!({"type": "string"}));
        assert_eq!(ours["definitions"]["Options"][GVKS].as_array().unwrap().len(), 2);
        assert!(ours["definitions"].get("Unused").is_none());
        // Once more, nothing new comes.
        let before = ours.clone();
        merge(&mut ours, &theirs);
        assert_eq!(ours, before);
    }
}
