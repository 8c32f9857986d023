//! The envelope of a stored object: its canonical JSON as the store holds it, and where kind, apiVersion and
//! resourceVersion are spliced in when it is handed out. Canonical means: kind and apiVersion first, then
//! `metadata` without a resourceVersion (upstream's etcd layout clears it too: the revision is known only
//! after the commit), then the rest. Objects that upstream wrote, as JSON or as `k8s\0` protobuf, are brought
//! into that form when they are read.

mod extract;

use crate::def::{Name, Selectable};
use bytes::{BufMut, Bytes, BytesMut};
use extract::{Extract, Node};
use knarr_meta::gvk::api_version;
use serde_json::Value;
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// Why a stored value cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ObjError {
    /// It is not JSON.
    #[error("unable to decode the stored object at {key}: {source}")]
    Json {
        /// The key.
        key: String,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// It is a protobuf envelope that cannot be read.
    #[error("unable to decode the stored object at {key}: {source}")]
    Proto {
        /// The key.
        key: String,
        /// What is wrong.
        source: knarr_api::proto::ProtoError,
    },
}

/// How the objects of one storage resource are laid out: their type and what selectors look at.
#[derive(Debug)]
pub struct Shape {
    /// Kind.
    pub kind: String,
    /// The stored `apiVersion`.
    pub api_version: String,
    /// What every canonical value starts with.
    head: String,
    /// The selectable fields beside name and namespace.
    fields: Vec<Selectable>,
    /// Fields, by index, that take the value of another where they are empty.
    fallbacks: Vec<(usize, usize)>,
    paths: Node,
}

impl Shape {
    /// The layout of a kind stored as `group/version`, with selectable fields as in a resource's declaration.
    pub fn new(group: &str, version: &str, kind: &str, selectable: &[Selectable]) -> Self {
        let api_version = api_version(group, version);
        let mut paths = Node::default();
        paths.insert(&["metadata", "labels"], |node| node.labels = true);
        paths.insert(&["metadata", "uid"], |node| node.uid = true);
        for (slot, field) in selectable.iter().enumerate() {
            let path: Vec<&str> = field.path.iter().map(|step| &**step).collect();
            paths.insert(&path, |node| node.slot = Some(slot));
        }
        let fallback = |(slot, field): (usize, &Selectable)| {
            let label = field.fallback.as_ref()?;
            Some((slot, selectable.iter().position(|other| other.label == *label)?))
        };
        Self {
            head: format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{api_version}\",\"metadata\":{{"),
            kind: kind.to_owned(),
            fields: selectable.to_vec(),
            fallbacks: selectable.iter().enumerate().filter_map(fallback).collect(),
            api_version,
            paths,
        }
    }

    /// The index of a selectable field beside name and namespace.
    pub fn field(&self, label: &str) -> Option<usize> {
        self.fields.iter().position(|field| *field.label == *label)
    }

    /// The index of the selectable field that stands at a path.
    pub fn field_at(&self, path: &[Name]) -> Option<usize> {
        self.fields.iter().position(|field| field.path == path)
    }

    /// The canonical bytes of `value`, whose kind and apiVersion are replaced by the stored ones.
    pub fn encode(&self, value: &Value) -> Stored {
        let mut out = Vec::with_capacity(1024);
        out.extend_from_slice(self.head.as_bytes());
        if let Some(metadata) = value.get("metadata").and_then(Value::as_object) {
            let mut first = true;
            for (key, value) in metadata.iter().filter(|(key, _)| *key != "resourceVersion") {
                put_member(&mut out, &mut first, key, value);
            }
        }
        out.push(b'}');
        if let Some(object) = value.as_object() {
            for (key, value) in object {
                if !matches!(key.as_str(), "kind" | "apiVersion" | "metadata") {
                    put_member(&mut out, &mut false, key, value);
                }
            }
        }
        out.push(b'}');
        out.shrink_to_fit();
        Stored { value: out.into(), tail: self.head.len(), revision: 0 }
    }

    /// Takes a value out of the store: as it is when it is canonical, re-encoded otherwise.
    pub fn adopt(&self, key: &[u8], value: Bytes, revision: u64) -> Result<Stored, ObjError> {
        if value.starts_with(self.head.as_bytes()) && value.ends_with(b"}") && value.len() > self.head.len() {
            return Ok(Stored { value, tail: self.head.len(), revision });
        }
        let name = || String::from_utf8_lossy(key).into_owned();
        let parsed = if value.starts_with(&knarr_api::proto::MAGIC) {
            knarr_api::proto::decode(&value).map_err(|source| ObjError::Proto { key: name(), source })?
        } else {
            serde_json::from_slice(&value).map_err(|source| ObjError::Json { key: name(), source })?
        };
        Ok(Stored { revision, ..self.encode(&parsed) })
    }
}

fn put_member(out: &mut Vec<u8>, first: &mut bool, key: &str, value: &Value) {
    if !std::mem::take(first) {
        out.push(b',');
    }
    serde_json::to_writer(&mut *out, key).expect("writing to memory succeeds");
    out.push(b':');
    serde_json::to_writer(&mut *out, value).expect("a JSON value always serializes");
}

/// Canonical bytes at a revision.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The canonical JSON.
    pub value: Bytes,
    /// Where the content of `metadata` begins.
    tail: usize,
    /// The revision of its last change, the object's resourceVersion.
    pub revision: u64,
}

impl Stored {
    /// The same value as of another revision.
    pub fn at(&self, revision: u64) -> Self {
        Self { revision, ..self.clone() }
    }

    /// Writes the object with kind, apiVersion and resourceVersion: what a GET answers.
    pub fn put_full(&self, out: &mut BytesMut, api_version: &str, kind: &str) {
        out.reserve(self.value.len() + api_version.len() + 64);
        self.put_head(out, api_version, kind);
        out.put_slice(&self.value[self.tail..]);
    }

    /// Writes what precedes [`Stored::tail`] in an object of its own.
    pub fn put_head(&self, out: &mut BytesMut, api_version: &str, kind: &str) {
        out.put_slice(b"{\"kind\":\"");
        out.put_slice(kind.as_bytes());
        out.put_slice(b"\",\"apiVersion\":\"");
        out.put_slice(api_version.as_bytes());
        out.put_slice(b"\",\"metadata\":{");
        self.put_revision(out);
    }

    /// The same value in a buffer that is shared already, if it holds exactly these bytes.
    pub fn sharing(self, buffer: &Bytes) -> Self {
        if self.value == *buffer { Self { value: buffer.clone(), ..self } } else { self }
    }

    /// Writes what precedes [`Stored::tail`] in a list of built-in kinds, whose items omit kind and apiVersion.
    pub fn put_item_head(&self, out: &mut BytesMut) {
        out.put_slice(b"{\"metadata\":{");
        self.put_revision(out);
    }

    /// Writes only kind and metadata, as PartialObjectMetadata of a version of `meta.k8s.io`.
    pub fn put_partial(&self, out: &mut BytesMut, version: &str) {
        let metadata = &self.value[self.tail..object_end(&self.value, self.tail)];
        out.reserve(metadata.len() + 128);
        out.put_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/");
        out.put_slice(version.as_bytes());
        out.put_slice(b"\",\"metadata\":{");
        self.put_revision(out);
        out.put_slice(metadata);
        out.put_slice(b"}");
    }

    fn put_revision(&self, out: &mut BytesMut) {
        out.put_slice(b"\"resourceVersion\":\"");
        put_decimal(out, self.revision);
        out.put_slice(if self.value[self.tail] == b'}' { b"\"" } else { b"\"," });
    }

    /// The bytes from the content of `metadata` to the end of the object, shared with the store.
    pub fn tail(&self) -> Bytes {
        self.value.slice(self.tail..)
    }

    /// The length of [`Stored::tail`].
    pub fn tail_len(&self) -> usize {
        self.value.len() - self.tail
    }

    /// The object as a value, with kind, apiVersion (of the stored version) and resourceVersion. What is damaged
    /// reads as null.
    pub fn parse(&self) -> Value {
        let mut value: Value = serde_json::from_slice(&self.value).unwrap_or_else(|error| {
            tracing::error!(%error, revision = self.revision, "a stored object is damaged");
            Value::Null
        });
        if let Some(metadata) = value.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.insert("resourceVersion".to_owned(), self.revision.to_string().into());
        }
        value
    }
}

/// Where the object ends, closing brace included, whose content begins at `at`.
fn object_end(json: &[u8], mut at: usize) -> usize {
    let mut depth = 1usize;
    while depth > 0 && at < json.len() {
        match json[at] {
            b'"' => {
                at += 1;
                while at < json.len() && json[at] != b'"' {
                    at += if json[at] == b'\\' { 2 } else { 1 };
                }
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
    }
    at.min(json.len())
}

/// Writes a number in decimal without allocating.
fn put_decimal(out: &mut BytesMut, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.put_slice(&digits[at..]);
}

/// One object at one revision, as the watch cache holds it.
#[derive(Debug)]
pub struct Obj {
    /// Its key in the store.
    pub key: Bytes,
    /// Its bytes and revision.
    pub stored: Stored,
    namespace: (u32, u32),
    name: u32,
    extract: Arc<Extract>,
    value: Mutex<Weak<Value>>,
    /// Few objects have any.
    forms: OnceLock<Arc<Forms>>,
}

/// Encodings made of an object, by a number for each.
pub type Forms = Mutex<Vec<(u32, Bytes)>>;

impl Obj {
    /// Reads an object of `shape` whose key starts with `prefix` (which ends in a slash).
    pub fn new(
        shape: &Shape,
        prefix: &[u8],
        key: Bytes,
        value: Bytes,
        revision: u64,
    ) -> Result<Self, ObjError> {
        let stored = shape.adopt(&key, value, revision)?;
        Self::of(shape, prefix, key, stored)
    }

    /// The same of an object that has been read already.
    pub fn of(shape: &Shape, prefix: &[u8], key: Bytes, stored: Stored) -> Result<Self, ObjError> {
        let rest = key.get(prefix.len()..).unwrap_or_default();
        let slash = rest.iter().position(|b| *b == b'/');
        let start = key.len() - rest.len();
        let (namespace, name) = match slash {
            Some(at) => ((start, start + at), start + at + 1),
            None => ((start, start), start),
        };
        let absent = shape.fields.iter().map(|field| &*field.absent);
        let extract = Extract::read(&shape.paths, absent, &shape.fallbacks, &stored.value)
            .map_err(|source| ObjError::Json { key: String::from_utf8_lossy(&key).into_owned(), source })?;
        Ok(Self {
            stored,
            namespace: (namespace.0 as u32, namespace.1 as u32),
            name: name as u32,
            extract: Arc::new(extract),
            value: Mutex::default(),
            forms: OnceLock::new(),
            key,
        })
    }

    /// The same object as of another revision (a deletion's).
    pub fn at(&self, revision: u64) -> Self {
        Self {
            key: self.key.clone(),
            stored: self.stored.at(revision),
            namespace: self.namespace,
            name: self.name,
            extract: self.extract.clone(),
            value: Mutex::default(),
            forms: OnceLock::new(),
        }
    }

    /// The revision of its last change.
    pub fn revision(&self) -> u64 {
        self.stored.revision
    }

    /// Its namespace, empty for cluster-scoped kinds.
    pub fn namespace(&self) -> &str {
        std::str::from_utf8(&self.key[self.namespace.0 as usize..self.namespace.1 as usize])
            .unwrap_or_default()
    }

    /// Its name.
    pub fn name(&self) -> &str {
        std::str::from_utf8(&self.key[self.name as usize..]).unwrap_or_default()
    }

    /// Its UID.
    pub fn uid(&self) -> &str {
        self.extract.uid(&self.stored.value)
    }

    /// A label's value.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.extract.label(&self.stored.value, key)
    }

    /// The value of a selectable field, by its index in the shape.
    pub fn field(&self, index: usize) -> &str {
        self.extract.field(&self.stored.value, index)
    }

    /// All values of selectable fields.
    pub fn fields(&self) -> impl Iterator<Item = &str> {
        self.extract.fields(&self.stored.value)
    }

    /// Its encodings.
    pub fn forms(&self) -> &Arc<Forms> {
        self.forms.get_or_init(Arc::default)
    }

    /// The object as a value, shared with whoever else holds it; the flag tells whether it was parsed anew.
    pub fn value(&self) -> (Arc<Value>, bool) {
        let mut shared = self.value.lock().expect("no parser of a stored object panics");
        if let Some(value) = shared.upgrade() {
            return (value, false);
        }
        let value = Arc::new(self.stored.parse());
        *shared = Arc::downgrade(&value);
        (value, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shape() -> Shape {
        Shape::new(
            "",
            "v1",
            "Pod",
            &Selectable::table(&[
                ("spec.nodeName", &["spec", "nodeName"], ""),
                ("spec.hostNetwork", &["spec", "hostNetwork"], "false"),
            ]),
        )
    }

    #[test]
    fn a_value_is_stored_with_its_type_first_and_handed_out_with_its_revision() {
        let shape = shape();
        let pod = json!({"spec": {"nodeName": "n1"}, "apiVersion": "v1", "kind": "Pod",
            "metadata": {"uid": "u", "name": "a", "resourceVersion": "7", "labels": {"x": "y"}}});
        let stored = shape.encode(&pod);
        assert_eq!(
            std::str::from_utf8(&stored.value).unwrap(),
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"labels":{"x":"y"},"name":"a","uid":"u"},"spec":{"nodeName":"n1"}}"#
        );
        let key = Bytes::from_static(b"/registry/pods/ns/a");
        let obj = Obj::new(&shape, b"/registry/pods/", key, stored.value.clone(), 42).unwrap();
        assert_eq!((obj.namespace(), obj.name(), obj.uid()), ("ns", "a", "u"));
        assert_eq!((obj.label("x"), obj.label("z")), (Some("y"), None));
        assert_eq!((obj.field(0), obj.field(1)), ("n1", "false"));
        let mut full = BytesMut::new();
        obj.stored.put_full(&mut full, "v1", "Pod");
        let full: Value = serde_json::from_slice(&full).unwrap();
        assert_eq!(full["metadata"]["resourceVersion"], "42");
        assert_eq!((&full, &full["spec"]), (&obj.stored.parse(), &json!({"nodeName": "n1"})));
        assert!(stored.value.as_ptr() == obj.stored.value.as_ptr(), "canonical bytes are not copied");
    }

    #[test]
    fn what_selectors_look_at_is_read_however_it_is_written() {
        for (spec, fields) in [
            (json!({"nodeName": "n1", "hostNetwork": true}), ["n1", "true"]),
            (json!({"nodeName": "quo\"te\u{e9}"}), ["quo\"te\u{e9}", "false"]),
            (json!({"nodeName": 7, "hostNetwork": null}), ["7", "false"]),
            (json!({"nodeName": ""}), ["", "false"]),
        ] {
            let labels = json!({"plain": "x", "empty": "", "back\\slash": "tab\t"});
            let pod = json!({"metadata": {"uid": "u\"1", "labels": labels}, "spec": spec});
            let stored = shape().encode(&pod);
            let obj = Obj::new(&shape(), b"/p/", Bytes::from_static(b"/p/ns/a"), stored.value, 3).unwrap();
            assert_eq!(obj.fields().collect::<Vec<_>>(), fields);
            assert_eq!(obj.uid(), "u\"1");
            let values = ["plain", "empty", "back\\slash", "none"].map(|key| obj.label(key));
            assert_eq!(values, [Some("x"), Some(""), Some("tab\t"), None]);
            assert_eq!(obj.at(4).field(0), fields[0], "at another revision too");
        }
        let pod = json!({"metadata": {"labels": null}});
        let stored = shape().encode(&pod);
        let obj = Obj::new(&shape(), b"/p/", Bytes::from_static(b"/p/ns/a"), stored.value, 3).unwrap();
        assert_eq!(obj.label("plain"), None);
    }

    #[test]
    fn metadata_alone_is_cut_out_of_the_stored_bytes() {
        for metadata in [
            json!({}),
            json!({"name": "a"}),
            json!({"annotations": {"x": "}]\"\\"}, "managedFields": [{"fieldsV1": {"f:a": {}}}], "name": "a"}),
        ] {
            let pod = json!({"kind": "Pod", "metadata": metadata, "spec": {"metadata": {"name": "b"}}});
            let mut out = BytesMut::new();
            shape().encode(&pod).at(42).put_partial(&mut out, "v1");
            let partial: Value = serde_json::from_slice(&out).unwrap();
            let mut wanted = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata});
            wanted["metadata"]["resourceVersion"] = "42".into();
            assert_eq!(partial, wanted);
        }
    }

    #[test]
    fn values_in_another_layout_or_in_protobuf_are_read() {
        let shape = shape();
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"},
            "spec": {"nodeName": "n2", "containers": []}});
        let proto = knarr_api::proto::encode(&pod).unwrap();
        let json = serde_json::to_vec(&pod).unwrap();
        for value in [proto, json] {
            let obj = Obj::new(&shape, b"/p/", Bytes::from_static(b"/p/ns/a"), value.into(), 3).unwrap();
            assert_eq!(obj.field(0), "n2");
            assert!(obj.stored.value.starts_with(shape.head.as_bytes()));
        }
        assert!(
            Obj::new(&shape, b"/p/", Bytes::from_static(b"/p/ns/a"), Bytes::from_static(b"no"), 3).is_err()
        );
    }

    #[test]
    fn empty_metadata_is_spliced_without_a_comma() {
        let stored = shape().encode(&json!({}));
        let mut full = BytesMut::new();
        stored.put_full(&mut full, "v1", "Pod");
        assert_eq!(&full[..], br#"{"kind":"Pod","apiVersion":"v1","metadata":{"resourceVersion":"0"}}"#);
    }
}
