//! What selectors look at in an object, found in its bytes in one pass without building a value.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// A tree of the paths whose values are extracted.
#[derive(Debug, Default)]
pub(super) struct Node {
    children: Vec<(String, Node)>,
    /// It is the selectable field of this index.
    pub(super) slot: Option<usize>,
    pub(super) labels: bool,
    pub(super) uid: bool,
}

impl Node {
    pub(super) fn insert(&mut self, path: &[&str], mark: impl FnOnce(&mut Node)) {
        let Some((first, rest)) = path.split_first() else { return mark(self) };
        let at = match self.children.iter().position(|(name, _)| name == first) {
            Some(at) => at,
            None => {
                self.children.push(((*first).to_owned(), Node::default()));
                self.children.len() - 1
            }
        };
        self.children[at].1.insert(rest, mark);
    }
}

/// A piece of an object's bytes, or of what was read out of them that does not stand there as it is.
#[derive(Clone, Copy, Debug, Default)]
struct Text {
    start: u32,
    len: u32,
}

/// What was read out of an object once, for selectors: mostly where it stands in the object's bytes.
#[derive(Debug, Default)]
pub(super) struct Extract {
    uid: Text,
    labels: Box<[(Text, Text)]>,
    fields: Box<[Text]>,
    /// What was escaped there, or is the default of what is absent; counted from the end of the object's bytes on.
    other: Box<str>,
}

impl Extract {
    /// Reads an object's JSON: what the tree of paths names. A field that is not there has the value of `absent`, and an
    /// empty one that of the field that `fallbacks` pairs it with.
    pub(super) fn read<'f>(
        paths: &Node,
        absent: impl Iterator<Item = &'f str>,
        fallbacks: &[(usize, usize)],
        bytes: &[u8],
    ) -> Result<Self, serde_json::Error> {
        let (fields, other) = (Vec::new(), String::new());
        let mut out = Gather { bytes, uid: Text::default(), labels: Vec::new(), fields, other };
        for absent in absent {
            let text = out.text(absent);
            out.fields.push(text);
        }
        let mut json = serde_json::Deserializer::from_slice(bytes);
        Scan { node: paths, out: &mut out }.deserialize(&mut json)?;
        for (slot, other) in fallbacks {
            if out.fields[*slot].len == 0 {
                out.fields[*slot] = out.fields[*other];
            }
        }
        let Gather { uid, labels, fields, other, .. } = out;
        Ok(Self { uid, labels: labels.into(), fields: fields.into(), other: other.into_boxed_str() })
    }

    /// The UID. `bytes` is what was read, here and below.
    pub(super) fn uid<'a>(&'a self, bytes: &'a [u8]) -> &'a str {
        self.text(bytes, self.uid)
    }

    /// A label's value.
    pub(super) fn label<'a>(&'a self, bytes: &'a [u8], key: &str) -> Option<&'a str> {
        let found = self.labels.iter().find(|(k, _)| self.text(bytes, *k) == key);
        found.map(|(_, value)| self.text(bytes, *value))
    }

    /// The value of the field of an index.
    pub(super) fn field<'a>(&'a self, bytes: &'a [u8], index: usize) -> &'a str {
        self.fields.get(index).map_or("", |field| self.text(bytes, *field))
    }

    /// The values of the fields, in their order.
    pub(super) fn fields<'a>(&'a self, bytes: &'a [u8]) -> impl Iterator<Item = &'a str> {
        self.fields.iter().map(move |field| self.text(bytes, *field))
    }

    fn text<'a>(&'a self, bytes: &'a [u8], text: Text) -> &'a str {
        let (start, len) = (text.start as usize, text.len as usize);
        let text = match start.checked_sub(bytes.len()) {
            None => &bytes[start..start + len],
            Some(start) => &self.other.as_bytes()[start..start + len],
        };
        std::str::from_utf8(text).unwrap_or_default()
    }
}

/// Makes an [`Extract`] of an object's bytes.
struct Gather<'a> {
    bytes: &'a [u8],
    uid: Text,
    labels: Vec<(Text, Text)>,
    fields: Vec<Text>,
    other: String,
}

impl Gather<'_> {
    /// Remembers a text, without copying it where it is a part of the object's bytes.
    fn text(&mut self, text: &str) -> Text {
        if text.is_empty() {
            return Text::default();
        }
        let offset = text.as_ptr().addr().wrapping_sub(self.bytes.as_ptr().addr());
        let inside = offset < self.bytes.len() && offset + text.len() <= self.bytes.len();
        let start = if inside { offset } else { self.bytes.len() + self.other.len() };
        if !inside {
            self.other.push_str(text);
        }
        let fits = |number| u32::try_from(number).expect("an object fits in a request");
        Text { start: fits(start), len: fits(text.len()) }
    }
}

/// Walks a JSON document and keeps what the tree of paths names; everything else is skipped unparsed.
struct Scan<'a, 'b> {
    node: &'a Node,
    out: &'a mut Gather<'b>,
}

impl<'de> DeserializeSeed<'de> for Scan<'_, '_> {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.node.labels {
            return deserializer.deserialize_option(Labels(self.out));
        }
        deserializer.deserialize_any(self)
    }
}

impl Scan<'_, '_> {
    fn keep(self, text: &str) {
        if self.node.uid {
            self.out.uid = self.out.text(text);
        }
        if let Some(slot) = self.node.slot {
            self.out.fields[slot] = self.out.text(text);
        }
    }
}

impl<'de> Visitor<'de> for Scan<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(child) = map.next_key_seed(Child(self.node))? {
            match child {
                Some(node) => map.next_value_seed(Scan { node, out: &mut *self.out })?,
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.keep(text);
        Ok(())
    }
    fn visit_bool<E>(self, value: bool) -> Result<(), E> {
        self.keep(if value { "true" } else { "false" });
        Ok(())
    }
    fn visit_i64<E>(self, value: i64) -> Result<(), E> {
        self.keep(&value.to_string());
        Ok(())
    }
    fn visit_u64<E>(self, value: u64) -> Result<(), E> {
        self.keep(&value.to_string());
        Ok(())
    }
    fn visit_f64<E>(self, value: f64) -> Result<(), E> {
        self.keep(&value.to_string());
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

/// Finds a key's child in the tree without allocating it.
struct Child<'a>(&'a Node);

impl<'de, 'a> DeserializeSeed<'de> for Child<'a> {
    type Value = Option<&'a Node>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'a> Visitor<'_> for Child<'a> {
    type Value = Option<&'a Node>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }
    fn visit_str<E>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.0.children.iter().find(|(name, _)| name == key).map(|(_, node)| node))
    }
}

/// Keeps a map of labels, which may be null.
struct Labels<'a, 'b>(&'a mut Gather<'b>);

impl<'de> Visitor<'de> for Labels<'_, '_> {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels")
    }
    fn visit_none<E>(self) -> Result<(), E> {
        Ok(())
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key_seed(One(self.0))? {
            let value = map.next_value_seed(One(self.0))?;
            self.0.labels.push((key, value));
        }
        Ok(())
    }
}

/// Keeps one string.
struct One<'a, 'b>(&'a mut Gather<'b>);

impl<'de> DeserializeSeed<'de> for One<'_, '_> {
    type Value = Text;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Text, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for One<'_, '_> {
    type Value = Text;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }
    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(self.0.text(text))
    }
}
