//! Protobuf <-> JSON for every built-in kind: the encoding that client-go's typed clients, the kubelet and
//! upstream's etcd use (`application/vnd.kubernetes.protobuf`). An object is the four bytes `k8s\0` and a
//! `runtime.Unknown` message with the type and the object's own message; a watch is a stream of frames, each
//! a length and a `meta.v1.WatchEvent`. See the API concepts page, "Alternate representations".
//!
//! The codec is driven by the facts (no generated code); the descriptors are built at first use. JSON is what
//! Go would write for the decoded object: absent optional fields stay absent, structs that upstream always
//! writes appear as `{}`, zero times as null.

mod decode;
mod descriptor;
mod encode;
mod scalar;
#[cfg(test)]
mod tests;
pub(crate) mod wire;

use descriptor::Descriptors;
use serde_json::Value;
use thiserror::Error;

/// The media type of protobuf bodies.
pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// What every protobuf object starts with.
pub const MAGIC: [u8; 4] = *b"k8s\0";

/// Why an object cannot be translated.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum ProtoError {
    /// The bytes do not start with the magic number.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoMagic,
    /// The envelope names no kind.
    #[error("Object 'Kind' is missing")]
    NoKind,
    /// The kind has no protobuf form here (custom resources have none).
    #[error("no kind \"{kind}\" is registered for version \"{api_version}\"")]
    UnknownKind {
        /// The `apiVersion`.
        api_version: String,
        /// The kind.
        kind: String,
    },
    /// The bytes end inside a field, or are not what the field's type allows.
    #[error("proto: malformed {0}")]
    Malformed(&'static str),
    /// The JSON of a field does not fit its type.
    #[error("{path}: expected {expected}")]
    Mismatch {
        /// The field's path.
        path: String,
        /// What it should be.
        expected: &'static str,
    },
    /// Messages nested deeper than any real object.
    #[error("proto: message nested too deeply")]
    TooDeep,
}

/// Reads an object in the `k8s\0` envelope, of any kind the facts know, into its JSON form.
pub fn decode(bytes: &[u8]) -> Result<Value, ProtoError> {
    decode::envelope(Descriptors::get(), bytes, ("", ""), 0)
}

/// Reads an object whose envelope may leave out its type, as bodies of requests may: it is then `default`,
/// an `apiVersion` and kind.
pub fn decode_or(bytes: &[u8], default: (&str, &str)) -> Result<Value, ProtoError> {
    decode::envelope(Descriptors::get(), bytes, default, 0)
}

/// Writes an object in the `k8s\0` envelope. Its `apiVersion` and `kind` say which message it is.
pub fn encode(object: &Value) -> Result<Vec<u8>, ProtoError> {
    let (api_version, kind) = type_meta(object)?;
    Ok(wrap(api_version, kind, &encode_body(api_version, kind, object)?))
}

/// Whether a kind has a protobuf form.
pub fn supports(api_version: &str, kind: &str) -> bool {
    Descriptors::get().root(api_version, kind).is_some()
}

/// Writes an object's own message without the envelope: what a list holds for each item.
pub fn encode_body(api_version: &str, kind: &str, object: &Value) -> Result<Vec<u8>, ProtoError> {
    let descriptors = Descriptors::get();
    let message = descriptors.root(api_version, kind).ok_or_else(|| ProtoError::UnknownKind {
        api_version: api_version.to_owned(),
        kind: kind.to_owned(),
    })?;
    encode::message(descriptors, message, object)
}

/// Puts an object's own message into the envelope.
pub fn wrap(api_version: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let mut type_meta = Vec::new();
    wire::put_bytes(&mut type_meta, 1, api_version.as_bytes());
    wire::put_bytes(&mut type_meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(body.len() + type_meta.len() + 16);
    out.extend_from_slice(&MAGIC);
    wire::put_bytes(&mut out, 1, &type_meta);
    wire::put_bytes(&mut out, 2, body);
    // Content encoding and type: upstream writes them even when they are empty.
    wire::put_bytes(&mut out, 3, b"");
    wire::put_bytes(&mut out, 4, b"");
    out
}

/// Writes a list from its metadata and the messages of its items ([`encode_body`]), in the envelope.
pub fn encode_list<'a>(
    api_version: &str,
    list_kind: &str,
    metadata: &Value,
    items: impl IntoIterator<Item = &'a [u8]>,
) -> Result<Vec<u8>, ProtoError> {
    let descriptors = Descriptors::get();
    let list_meta = descriptors.root("v1", "ListMeta").expect("the facts define ListMeta");
    let mut body = Vec::new();
    wire::put_bytes(&mut body, 1, &encode::message(descriptors, list_meta, metadata)?);
    for item in items {
        wire::put_bytes(&mut body, 2, item);
    }
    Ok(wrap(api_version, list_kind, &body))
}

/// A watch frame: four bytes of length, then a WatchEvent round an object that is already in its envelope.
pub fn watch_frame(event_type: &str, object: &[u8]) -> Vec<u8> {
    let mut raw_extension = Vec::with_capacity(object.len() + 6);
    wire::put_bytes(&mut raw_extension, 1, object);
    let mut event = Vec::with_capacity(raw_extension.len() + 24);
    wire::put_bytes(&mut event, 1, event_type.as_bytes());
    wire::put_bytes(&mut event, 2, &raw_extension);
    let mut frame = Vec::with_capacity(event.len() + 4);
    frame.extend_from_slice(&u32::try_from(event.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&event);
    frame
}

/// Reads the WatchEvent of one frame (without its length): the event's type and its object as JSON.
pub fn decode_watch_event(event: &[u8]) -> Result<(String, Value), ProtoError> {
    let descriptors = Descriptors::get();
    let message = descriptors.root("v1", "WatchEvent").expect("the facts define WatchEvent");
    let mut event = decode::message(descriptors, message, event, 0)?;
    let kind = event.get("type").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok((kind, event.get_mut("object").map(Value::take).unwrap_or_default()))
}

fn type_meta(object: &Value) -> Result<(&str, &str), ProtoError> {
    let text = |key| object.get(key).and_then(Value::as_str).filter(|s: &&str| !s.is_empty());
    match (text("apiVersion"), text("kind")) {
        (Some(api_version), Some(kind)) => Ok((api_version, kind)),
        _ => Err(ProtoError::NoKind),
    }
}
