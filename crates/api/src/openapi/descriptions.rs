//! The prose of types and fields, collected at build time (`build.rs`). It is read anew for each document, so
//! that a server which nobody asks for `explain` keeps none of it in memory.

use std::collections::HashMap;

/// Every distinct text, then what it describes.
pub(super) const TEXT: &str = include_str!(concat!(env!("OUT_DIR"), "/descriptions.txt"));

/// All descriptions, by definition and field.
pub(super) struct Descriptions {
    texts: Vec<&'static str>,
    subjects: HashMap<(&'static str, &'static str), usize>,
}

impl Descriptions {
    /// Reads the table.
    pub(super) fn load() -> Self {
        let (texts, index) = TEXT.split_once("\n\n").unwrap_or_default();
        let mut subjects = HashMap::new();
        let mut definition = "";
        for line in index.lines() {
            let (name, number) = line.split_once(' ').unwrap_or((line, ""));
            let field = match name.strip_prefix('=') {
                Some(name) => {
                    definition = name;
                    ""
                }
                None => name,
            };
            if let Ok(number) = number.parse() {
                subjects.insert((definition, field), number);
            }
        }
        Self { texts: texts.lines().collect(), subjects }
    }

    /// The description of a type (`field` empty), or of one of its fields.
    pub(super) fn find(&self, definition: &str, field: &str) -> Option<String> {
        let number = self.subjects.get(&(definition, field))?;
        let text = self.texts.get(*number)?;
        let mut plain = String::with_capacity(text.len());
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some('n') => plain.push('\n'),
                    other => plain.extend(other),
                },
                _ => plain.push(c),
            }
        }
        Some(plain)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_and_fields_are_found_by_their_json_names() {
        let all = Descriptions::load();
        let spec = "io.k8s.api.core.v1.PodSpec";
        let find = |field| all.find(spec, field).unwrap_or_default();
        assert!(find("").contains("pod"), "{:?}", find(""));
        assert!(find("hostPID").contains("pid namespace"), "{:?}", find("hostPID"));
        assert_eq!(all.find(spec, "host_pid"), None);
        let type_meta = all.find("io.k8s.apimachinery.pkg.apis.meta.v1.TypeMeta", "kind");
        assert!(type_meta.is_some_and(|text| text.starts_with("Kind is a string")));
        assert!(all.find("io.k8s.api.core.v1.ServiceSpec", "type").is_some(), "a Rust keyword");
        let escaped = all.find("io.k8s.api.core.v1.ResourceRequirements", "claims").unwrap_or_default();
        assert!(escaped.contains("\n\n"), "paragraphs survive: {escaped:?}");
    }
}
