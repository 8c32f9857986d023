//! Field selectors: equalities over the few fields a kind offers.

use super::SelectorError;
use std::fmt;

/// One condition of a field selector.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FieldRequirement {
    /// The field, such as `metadata.name`.
    pub field: String,
    /// Whether the value must differ.
    pub negated: bool,
    /// The value, unescaped.
    pub value: String,
}

/// A conjunction of equalities; without any it matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct FieldSelector {
    requirements: Vec<FieldRequirement>,
}

impl FieldSelector {
    /// Matches every object.
    pub fn everything() -> Self {
        Self::default()
    }

    /// Matches objects whose field has a value.
    pub fn equal(field: impl Into<String>, value: impl Into<String>) -> Self {
        let requirement = FieldRequirement { field: field.into(), negated: false, value: value.into() };
        Self { requirements: vec![requirement] }
    }

    /// Reads `metadata.name=x,status.phase!=Running`; commas, equals signs and backslashes in values are escaped
    /// by a backslash.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        let mut terms = split_terms(text);
        terms.sort_unstable();
        let mut requirements = Vec::new();
        for term in terms.into_iter().filter(|term| !term.is_empty()) {
            let Some((field, negated, value)) = split_term(term) else {
                return Err(SelectorError(format!("invalid selector: '{text}'; can't understand '{term}'")));
            };
            let value = unescape(value)?;
            // Upstream forgets terms with neither field nor value.
            if !(field.is_empty() && value.is_empty()) {
                requirements.push(FieldRequirement { field: field.to_owned(), negated, value });
            }
        }
        Ok(Self { requirements })
    }

    /// Adds a condition.
    pub fn add(&mut self, requirement: FieldRequirement) {
        self.requirements.push(requirement);
    }

    /// Whether the fields behind a lookup meet every condition. A field that is missing is empty.
    pub fn matches<'a>(&self, mut lookup: impl FnMut(&str) -> Option<&'a str>) -> bool {
        self.requirements
            .iter()
            .all(|one| (lookup(&one.field).unwrap_or_default() == one.value) != one.negated)
    }

    /// Whether it matches everything.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// The conditions.
    pub fn requirements(&self) -> &[FieldRequirement] {
        &self.requirements
    }

    /// The one value that a field must have, if the selector asks for one.
    pub fn exact(&self, field: &str) -> Option<&str> {
        self.requirements.iter().find(|one| !one.negated && one.field == field).map(|one| one.value.as_str())
    }
}

fn split_terms(text: &str) -> Vec<&str> {
    let mut terms = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            ',' => {
                terms.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    terms.push(&text[start..]);
    terms
}

fn split_term(term: &str) -> Option<(&str, bool, &str)> {
    for (at, _) in term.char_indices() {
        for (operator, negated) in [("!=", true), ("==", false), ("=", false)] {
            if let Some(value) = term[at..].strip_prefix(operator) {
                return Some((&term[..at], negated, value));
            }
        }
    }
    None
}

fn unescape(value: &str) -> Result<String, SelectorError> {
    let mut out = String::with_capacity(value.len());
    let mut chars = value.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c @ ('\\' | ',' | '=')) => out.push(c),
                Some(other) => {
                    let message = format!("invalid field selector: invalid escape sequence: \\{other}");
                    return Err(SelectorError(message));
                }
                None => {
                    return Err(SelectorError(
                        "invalid field selector: invalid escape sequence: \\".to_owned(),
                    ));
                }
            },
            ',' | '=' => {
                let message = format!("invalid field selector: unescaped character in value: {}", c as u32);
                return Err(SelectorError(message));
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

/// A value as it is written inside a field selector.
pub fn escape(value: &str) -> String {
    value.replace('\\', "\\\\").replace(',', "\\,").replace('=', "\\=")
}

impl fmt::Display for FieldSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, one) in self.requirements.iter().enumerate() {
            let operator = if one.negated { "!=" } else { "=" };
            let comma = if i > 0 { "," } else { "" };
            write!(f, "{comma}{}{operator}{}", one.field, escape(&one.value))?;
        }
        Ok(())
    }
}

impl std::str::FromStr for FieldSelector {
    type Err = SelectorError;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_read_and_printed() {
        for (text, want) in [
            ("", ""),
            ("metadata.name=x", "metadata.name=x"),
            ("b==1,a!=2", "a!=2,b=1"),
            ("a=", "a="),
            (r"a=x\,y\=z\\", r"a=x\,y\=z\\"),
            (",", ""),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap().to_string(), want, "{text}");
        }
        for (text, want) in [
            ("a", "invalid selector: 'a'; can't understand 'a'"),
            (r"a=\x", r"invalid field selector: invalid escape sequence: \x"),
            (r"a=b=c", "invalid field selector: unescaped character in value: 61"),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap_err().to_string(), want);
        }
    }

    #[test]
    fn selectors_match() {
        let lookup = |field: &str| match field {
            "metadata.name" => Some("x"),
            "status.phase" => Some("Running"),
            _ => None,
        };
        for (text, want) in [
            ("", true),
            ("metadata.name=x", true),
            ("metadata.name=y", false),
            ("metadata.name=x,status.phase!=Running", false),
            ("metadata.name=x,status.phase!=Failed", true),
            ("spec.nodeName=", true),
        ] {
            assert_eq!(FieldSelector::parse(text).unwrap().matches(lookup), want, "{text}");
        }
        let selector = FieldSelector::parse("metadata.name=x,status.phase!=y").unwrap();
        assert_eq!((selector.exact("metadata.name"), selector.exact("status.phase")), (Some("x"), None));
    }
}
