//! What strict field validation finds in a body (KEP-2885), in upstream's words and order: JSON decoders report
//! as they go, YAML is searched for duplicate keys first. Only called when there is something to report.

use super::parse;
use serde_saphyr::granit_parser::{Event, Parser};
use std::collections::HashSet;

/// Findings as warnings, and as the parts of an error.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Problems {
    /// One text a warning.
    pub warnings: Vec<String>,
    /// What `strict decoding error: ` is followed by.
    pub errors: Vec<String>,
}

impl Problems {
    /// Findings whose warnings and errors are the same.
    pub fn new(texts: Vec<String>) -> Self {
        Self { warnings: texts.clone(), errors: texts }
    }

    /// Whether there is nothing to report.
    pub fn is_empty(&self) -> bool {
        self.errors.is_empty()
    }
}

/// The text about unknown fields.
pub fn unknown_texts(unknown: &[String]) -> impl Iterator<Item = String> {
    unknown.iter().map(|path| format!("unknown field \"{path}\""))
}

/// The text about fields that occur twice.
pub fn duplicate_texts(duplicates: &[String]) -> impl Iterator<Item = String> {
    duplicates.iter().map(|path| format!("duplicate field \"{path}\""))
}

/// Findings in a JSON body, in the order in which a decoder comes by them. A field that is unknown is not also
/// reported as a duplicate, nor is anything in it.
pub fn in_json(body: &[u8], unknown: &[String], duplicates: &[String]) -> Problems {
    if unknown.is_empty() && duplicates.is_empty() {
        return Problems::default();
    }
    let order = parse::key_paths(body);
    let first = |path: &str| order.iter().position(|seen| seen == path).unwrap_or(usize::MAX);
    let second = |path: &str| {
        let start = first(path).saturating_add(1);
        let later = order.get(start..).and_then(|rest| rest.iter().position(|seen| seen == path));
        later.map_or(usize::MAX, |at| start + at)
    };
    let below = |path: &str| {
        unknown.iter().any(|u| {
            path.strip_prefix(u.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    };
    let mut found: Vec<(usize, String)> =
        unknown.iter().map(|path| first(path)).zip(unknown_texts(unknown)).collect();
    let duplicates: Vec<String> = duplicates.iter().filter(|path| !below(path)).cloned().collect();
    found.extend(duplicates.iter().map(|path| second(path)).zip(duplicate_texts(&duplicates)));
    found.sort_by_key(|(at, _)| *at);
    Problems::new(found.into_iter().map(|(_, text)| text).collect())
}

/// Findings in a YAML body.
pub fn in_yaml(body: &[u8], unknown: &[String], duplicates: &[String]) -> Problems {
    let mut problems = Problems::default();
    if !duplicates.is_empty() {
        let lines = duplicate_lines(&String::from_utf8_lossy(body));
        if !lines.is_empty() {
            let list: String = lines.iter().map(|line| format!("\n  {line}")).collect();
            problems.errors.push(format!("error converting YAML to JSON: yaml: unmarshal errors:{list}"));
        }
        problems.warnings = lines;
    }
    problems.warnings.extend(unknown_texts(unknown));
    problems.errors.extend(unknown_texts(unknown));
    problems
}

/// Where keys are set again.
fn duplicate_lines(text: &str) -> Vec<String> {
    enum Open {
        List,
        Map { keys: HashSet<String>, value_next: bool },
    }
    let mut open: Vec<Open> = Vec::new();
    let mut lines = Vec::new();
    for event in Parser::new_from_str(text) {
        let Ok((event, span)) = event else { break };
        // What stands where a value is expected completes its key.
        let is_node = matches!(
            event,
            Event::Scalar(..) | Event::Alias(_) | Event::SequenceStart(..) | Event::MappingStart(..)
        );
        if let (true, Some(Open::Map { keys, value_next })) = (is_node, open.last_mut()) {
            if let (false, Event::Scalar(key, ..)) = (*value_next, &event)
                && !keys.insert(key.to_string())
            {
                lines.push(format!("line {}: key \"{key}\" already set in map", span.start.line()));
            }
            *value_next = !*value_next;
        }
        match event {
            Event::SequenceStart(..) => open.push(Open::List),
            Event::MappingStart(..) => open.push(Open::Map { keys: HashSet::new(), value_next: false }),
            Event::SequenceEnd | Event::MappingEnd => {
                open.pop();
            }
            _ => {}
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(list: &[&str]) -> Vec<String> {
        list.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn json_is_reported_in_the_order_of_the_document() {
        let body = br#"{"spec":{"unknown1":1,"dupe":1,"dupe":2,"paused":true,"paused":false,
            "containers":[{"nested":{"x":1,"x":2},"policy":"a","policy":"b"}]}}"#;
        let unknown = texts(&["spec.containers[0].nested", "spec.dupe", "spec.unknown1"]);
        let duplicates = parse::json(body).unwrap().duplicates;
        assert_eq!(
            in_json(body, &unknown, &duplicates).errors,
            [
                "unknown field \"spec.unknown1\"",
                "unknown field \"spec.dupe\"",
                "duplicate field \"spec.paused\"",
                "unknown field \"spec.containers[0].nested\"",
                "duplicate field \"spec.containers[0].policy\"",
            ]
        );
    }

    #[test]
    fn yaml_is_searched_for_duplicates_first() {
        let body =
            b"a: 1\nspec:\n  dupe: x\n  dupe: y\n  list:\n  - k: 1\n    k: 2\n  - {k: 1}\nunknown: 1\n";
        let duplicates = parse::yaml(body).unwrap().duplicates;
        let problems = in_yaml(body, &texts(&["unknown"]), &duplicates);
        assert_eq!(
            problems.warnings,
            [
                "line 4: key \"dupe\" already set in map",
                "line 7: key \"k\" already set in map",
                "unknown field \"unknown\""
            ]
        );
        assert_eq!(
            problems.errors,
            [
                "error converting YAML to JSON: yaml: unmarshal errors:\n  line 4: key \"dupe\" already set in map\n  line 7: key \"k\" already set in map",
                "unknown field \"unknown\""
            ]
        );
    }
}
