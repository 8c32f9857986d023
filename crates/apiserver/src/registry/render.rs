//! Answers on their way out: JSON, YAML or protobuf, whole objects, lists, Tables and PartialObjectMetadata
//! (apiserver's `responsewriters` and `handlers/response.go`).

use super::negotiate::{Accept, Media, Transform, accept_for_error};
use super::resource::{Resource, Version};
use super::table;
use crate::cache::Listed;
use crate::obj::Stored;
use bytes::{BufMut, Bytes, BytesMut};
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use knarr_api::proto;
use knarr_client::Body;
use knarr_meta::status::Status;
use serde_json::{Map, Value, json};
use std::time::SystemTime;

/// From this size on an object's bytes are sent as they are, without copying them next to their neighbours.
const SHARE_FROM: usize = 2048;

/// What a verb has to say.
pub enum Answer {
    /// A stored object.
    Stored(u16, Stored),
    /// An object in the stored form, resourceVersion included, that is not (or no longer) in the store.
    Hub(u16, Value),
    /// An object of whatever kind in the form it is to be sent in.
    Plain(u16, Value),
    /// A list of stored objects.
    List(ListAnswer),
    /// A list of objects in the stored form that are not in the store.
    Computed(Vec<Value>),
    /// A status.
    Status(Status),
    /// Whatever a custom handler made.
    Raw(Response<Body>),
}

/// A list and its metadata.
pub struct ListAnswer {
    /// The objects and the revision.
    pub listed: Listed,
    /// Where to go on, or empty.
    pub token: String,
    /// How many there are after these, if that can be told.
    pub remaining: Option<usize>,
}

impl ListAnswer {
    fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.listed.revision.to_string()});
        if !self.token.is_empty() {
            metadata["continue"] = self.token.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = remaining.into();
        }
        metadata
    }
}

/// What an answer is rendered for.
pub struct Rendering<'a> {
    /// The resource.
    pub resource: &'a Resource,
    /// The version it is served in.
    pub version: &'a Version,
    /// The form.
    pub accept: Accept,
    /// For ages in tables.
    pub now: SystemTime,
    /// `includeObject` of Tables.
    pub include: &'a str,
}

/// A response of one buffer.
pub fn respond(code: u16, media: Media, body: impl Into<Bytes>) -> Response<Body> {
    respond_body(code, media.name(), Body::full(body))
}

fn respond_body(code: u16, media: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() =
        http::StatusCode::from_u16(code).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(media));
    response
}

/// A response that carries `status`, in the form the `Accept` header asks for (JSON when it asks for none
/// that is served).
pub fn status_response(status: &Status, accept: Option<&str>) -> Response<Body> {
    status_in(status, accept_for_error(accept))
}

/// The same in a form already negotiated.
pub fn status_in(status: &Status, accept: Accept) -> Response<Body> {
    let code = if status.code == 0 { 200 } else { status.code };
    let mut response = match accept.media {
        Media::Json => {
            let mut bytes = status.to_bytes();
            if accept.pretty {
                bytes = pretty(&bytes);
            }
            bytes.push(b'\n');
            respond(code, Media::Json, bytes)
        }
        media => encode_value(code, media, false, &status.to_json()),
    };
    if let Some(seconds) = status.retry_after() {
        response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

/// A value in the given encoding.
fn encode_value(code: u16, media: Media, indent: bool, value: &Value) -> Response<Body> {
    match media {
        Media::Json => {
            let mut bytes = ordered_json(value);
            if indent {
                bytes = pretty(&bytes);
            }
            bytes.push(b'\n');
            respond(code, media, bytes)
        }
        Media::Yaml => respond(code, media, to_yaml(value)),
        Media::Proto => match proto::encode(value) {
            Ok(bytes) => respond(code, media, bytes),
            Err(error) => status_in(&Status::internal(error), Accept::JSON),
        },
    }
}

/// JSON with kind, apiVersion and metadata first, as upstream writes objects.
pub fn ordered_json(value: &Value) -> Vec<u8> {
    const FIRST: [&str; 3] = ["kind", "apiVersion", "metadata"];
    let Some(object) = value.as_object().filter(|object| object.contains_key("kind")) else {
        return serde_json::to_vec(value).expect("a JSON value always serializes");
    };
    let first = FIRST.iter().filter_map(|key| object.get_key_value(*key));
    let rest = object.iter().filter(|(key, _)| !FIRST.contains(&key.as_str()));
    let mut out = vec![b'{'];
    for (key, value) in first.chain(rest) {
        if out.len() > 1 {
            out.push(b',');
        }
        serde_json::to_writer(&mut out, key).expect("writing to memory succeeds");
        out.push(b':');
        serde_json::to_writer(&mut out, value).expect("a JSON value always serializes");
    }
    out.push(b'}');
    out
}

/// YAML with sorted keys, as upstream writes it.
pub fn to_yaml(value: &Value) -> Vec<u8> {
    serde_saphyr::to_string(value).map(String::into_bytes).unwrap_or_default()
}

/// Indents compact JSON by two spaces without re-ordering it.
pub fn pretty(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    let newline = |out: &mut Vec<u8>, depth: usize| {
        out.push(b'\n');
        out.extend(std::iter::repeat_n(b' ', depth * 2));
    };
    for (at, &byte) in json.iter().enumerate() {
        if in_string {
            out.push(byte);
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => {
                in_string = true;
                out.push(byte);
            }
            b'{' | b'[' => {
                out.push(byte);
                if matches!(json.get(at + 1), Some(b'}' | b']')) {
                    continue;
                }
                depth += 1;
                newline(&mut out, depth);
            }
            b'}' | b']' => {
                if !matches!(json.get(at.wrapping_sub(1)), Some(b'{' | b'[')) {
                    depth = depth.saturating_sub(1);
                    newline(&mut out, depth);
                }
                out.push(byte);
            }
            b',' => {
                out.push(byte);
                newline(&mut out, depth);
            }
            b':' => out.extend_from_slice(b": "),
            _ => out.push(byte),
        }
    }
    out
}

/// PartialObjectMetadata of an object.
pub fn partial(value: &mut Value, version: &str) -> Value {
    json!({
        "kind": "PartialObjectMetadata",
        "apiVersion": format!("meta.k8s.io/{version}"),
        "metadata": value.get_mut("metadata").map(Value::take).unwrap_or_else(|| Value::Object(Map::new())),
    })
}

impl Rendering<'_> {
    /// Renders an answer.
    pub fn render(&self, answer: Answer) -> Response<Body> {
        self.try_render(answer)
            .unwrap_or_else(|status| status_in(&status, Accept { transform: None, ..self.accept }))
    }

    fn try_render(&self, answer: Answer) -> Result<Response<Body>, Status> {
        match answer {
            Answer::Raw(response) => Ok(response),
            Answer::Status(status) => Ok(status_in(&status, self.accept)),
            Answer::Plain(code, value) => self.plain(code, value),
            Answer::List(list) => self.list(list),
            Answer::Computed(objects) => self.computed(objects),
            Answer::Stored(code, stored) => {
                if self.accept.transform.is_none()
                    && self.accept.media == Media::Json
                    && self.version.identical
                {
                    let mut out = BytesMut::new();
                    stored.put_full(&mut out, &self.version.api_version, &self.resource.def.kind);
                    if self.accept.pretty {
                        out = BytesMut::from(&pretty(&out)[..]);
                    }
                    out.put_u8(b'\n');
                    return Ok(respond(code, Media::Json, out.freeze()));
                }
                self.object(code, stored.parse())
            }
            Answer::Hub(code, value) => self.object(code, value),
        }
    }

    fn object(&self, code: u16, hub: Value) -> Result<Response<Body>, Status> {
        let value = match self.accept.transform {
            None => self.resource.serve_from_hub(self.version, hub)?,
            Some((Transform::Partial, version)) => partial(&mut { hub }, version),
            Some((Transform::PartialList, _)) => {
                let message = "you requested PartialObjectMetadataList, but the requested object is not a list (*runtime.Object)";
                return Err(Status::not_acceptable(message));
            }
            Some((Transform::Table, version)) => {
                let metadata = json!({"resourceVersion": hub["metadata"]["resourceVersion"]});
                let row = self.row(hub, version)?;
                table::table(self.columns(), version, &metadata, vec![row])
            }
        };
        Ok(encode_value(code, self.accept.media, self.accept.pretty, &value))
    }

    /// A reply of another kind: transformations apply where they make sense.
    fn plain(&self, code: u16, mut value: Value) -> Result<Response<Body>, Status> {
        match self.accept.transform {
            Some((Transform::Table, version)) if value["kind"] != "Status" => {
                let metadata = json!({"resourceVersion": value["metadata"]["resourceVersion"]});
                let cells = crate::def::name_and_age(&value, self.now);
                let object = partial(&mut value, version);
                let row = json!({"cells": cells, "object": object});
                let table = table::table(&table::default_columns(), version, &metadata, vec![row]);
                Ok(encode_value(code, self.accept.media, self.accept.pretty, &table))
            }
            _ => {
                let media = match self.accept.media {
                    Media::Proto if !is_proto(&value) => Media::Json,
                    media => media,
                };
                Ok(encode_value(code, media, self.accept.pretty, &value))
            }
        }
    }

    fn list(&self, list: ListAnswer) -> Result<Response<Body>, Status> {
        let list_kind = self.resource.def.list_kind.to_string();
        match (self.accept.transform, self.accept.media) {
            (None, Media::Json) if self.version.identical => {
                let body = self.concatenate(&list, &list_kind);
                if self.accept.pretty {
                    let bytes: Vec<u8> = body.concat();
                    let mut bytes = pretty(&bytes);
                    bytes.push(b'\n');
                    return Ok(respond(200, Media::Json, bytes));
                }
                Ok(respond_body(200, Media::Json.name(), Body::chunks(body)))
            }
            (None, Media::Proto) => self.proto_list(&list, &list_kind),
            (None, _) => {
                let items = self.items(&list)?;
                let custom = self.resource.def.is_custom();
                let items = items.into_iter().map(|mut item| {
                    if let Some(object) = item.as_object_mut().filter(|_| !custom) {
                        object.remove("kind");
                        object.remove("apiVersion");
                    }
                    item
                });
                let value = json!({
                    "kind": list_kind,
                    "apiVersion": self.version.api_version,
                    "metadata": list.metadata(),
                    "items": items.collect::<Vec<_>>(),
                });
                Ok(encode_value(200, self.accept.media, self.accept.pretty, &value))
            }
            (Some((Transform::Partial, _)), _) => Err(Status::not_acceptable(format!(
                "you requested PartialObjectMetadata, but the requested object is a list (*v1.{list_kind})"
            ))),
            (Some((Transform::PartialList, version)), media) => self.partial_list(&list, version, media),
            (Some((Transform::Table, version)), _) => {
                let rows = list.listed.objs.iter().map(|obj| self.row(obj.stored.parse(), version));
                let rows = rows.collect::<Result<Vec<_>, _>>()?;
                let table = table::table(self.columns(), version, &list.metadata(), rows);
                Ok(encode_value(200, self.accept.media, self.accept.pretty, &table))
            }
        }
    }

    fn computed(&self, objects: Vec<Value>) -> Result<Response<Body>, Status> {
        let list_kind = &self.resource.def.list_kind;
        let metadata = json!({});
        let value = match self.accept.transform {
            Some((Transform::Partial, _)) => {
                return Err(Status::not_acceptable(format!(
                    "you requested PartialObjectMetadata, but the requested object is a list (*v1.{list_kind})"
                )));
            }
            Some((Transform::PartialList, version)) => json!({
                "kind": "PartialObjectMetadataList",
                "apiVersion": format!("meta.k8s.io/{version}"),
                "metadata": metadata,
                "items": objects.into_iter().map(|mut o| partial(&mut o, version)).collect::<Vec<_>>(),
            }),
            Some((Transform::Table, version)) => {
                let rows =
                    objects.into_iter().map(|o| self.row(o, version)).collect::<Result<Vec<_>, _>>()?;
                table::table(self.columns(), version, &metadata, rows)
            }
            None => {
                let items = objects.into_iter().map(|o| {
                    let mut item = self.resource.serve_from_hub(self.version, o)?;
                    if let Some(item) = item.as_object_mut() {
                        item.remove("kind");
                        item.remove("apiVersion");
                    }
                    Ok::<_, Status>(item)
                });
                json!({
                    "kind": list_kind,
                    "apiVersion": self.version.api_version,
                    "metadata": metadata,
                    "items": items.collect::<Result<Vec<_>, _>>()?,
                })
            }
        };
        Ok(encode_value(200, self.accept.media, self.accept.pretty, &value))
    }

    fn items(&self, list: &ListAnswer) -> Result<Vec<Value>, Status> {
        list.listed
            .objs
            .iter()
            .map(|obj| self.resource.serve_from_hub(self.version, obj.stored.parse()))
            .collect()
    }

    /// The list as JSON: large objects are the store's own buffers, small ones are copied into a shared one.
    fn concatenate(&self, list: &ListAnswer, list_kind: &str) -> Vec<Bytes> {
        let objs = &list.listed.objs;
        let small: usize = objs
            .iter()
            .map(|obj| obj.stored.tail_len())
            .filter(|len| *len < SHARE_FROM)
            .map(|len| len + 64)
            .sum();
        let mut out = BytesMut::with_capacity(small + objs.len() * 48 + 256);
        let mut chunks = Vec::new();
        out.put_slice(b"{\"kind\":\"");
        out.put_slice(list_kind.as_bytes());
        out.put_slice(b"\",\"apiVersion\":\"");
        out.put_slice(self.version.api_version.as_bytes());
        out.put_slice(b"\",\"metadata\":");
        out.put_slice(&serde_json::to_vec(&list.metadata()).expect("a JSON value always serializes"));
        out.put_slice(b",\"items\":[");
        for (index, obj) in objs.iter().enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            if self.resource.def.is_custom() {
                obj.stored.put_head(&mut out, &self.version.api_version, &self.resource.def.kind);
            } else {
                obj.stored.put_item_head(&mut out);
            }
            if obj.stored.tail_len() < SHARE_FROM {
                out.put_slice(&obj.stored.tail());
            } else {
                chunks.push(out.split().freeze());
                chunks.push(obj.stored.tail());
            }
        }
        out.put_slice(b"]}\n");
        chunks.push(out.freeze());
        chunks
    }

    fn proto_list(&self, list: &ListAnswer, list_kind: &str) -> Result<Response<Body>, Status> {
        let objs = list.listed.objs.iter();
        let bodies =
            objs.map(|obj| self.resource.proto_body(self.version, obj)).collect::<Result<Vec<_>, _>>()?;
        let metadata = list.metadata();
        let bodies = bodies.iter().map(|body| &body[..]);
        let bytes = proto::encode_list(&self.version.api_version, list_kind, &metadata, bodies);
        Ok(respond(200, Media::Proto, bytes.map_err(Status::internal)?))
    }

    fn partial_list(&self, list: &ListAnswer, version: &str, media: Media) -> Result<Response<Body>, Status> {
        let api_version = format!("meta.k8s.io/{version}");
        let items: Vec<Value> =
            list.listed.objs.iter().map(|obj| partial(&mut obj.stored.parse(), version)).collect();
        if media == Media::Proto {
            let bodies = items
                .iter()
                .map(|item| proto::encode_body(&api_version, "PartialObjectMetadata", item))
                .collect::<Result<Vec<_>, _>>()
                .map_err(Status::internal)?;
            let bodies = bodies.iter().map(Vec::as_slice);
            let bytes =
                proto::encode_list(&api_version, "PartialObjectMetadataList", &list.metadata(), bodies);
            return Ok(respond(200, media, bytes.map_err(Status::internal)?));
        }
        let value = json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": api_version,
            "metadata": list.metadata(),
            "items": items,
        });
        Ok(encode_value(200, media, self.accept.pretty, &value))
    }

    /// The columns of the resource's table.
    pub fn columns(&self) -> &[Value] {
        &self.version.columns
    }

    /// One row of a table, for an object in the stored form.
    pub fn row(&self, hub: Value, version: &str) -> Result<Value, Status> {
        let mut hub = hub;
        let cells = (self.resource.def.cells)(&hub, self.now);
        let object = match self.include {
            "None" => Value::Null,
            "Object" => self.resource.serve_from_hub(self.version, hub)?,
            _ => partial(&mut hub, version),
        };
        Ok(json!({"cells": cells, "object": object}))
    }
}

fn is_proto(value: &Value) -> bool {
    proto::supports(knarr_meta::object::api_version(value), knarr_meta::object::kind(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indented_json_keeps_its_order() {
        let compact = br#"{"kind":"A","a":[1,{"b":"x,{\"y"}],"e":{},"l":[]}"#;
        let indented = String::from_utf8(pretty(compact)).unwrap();
        assert_eq!(
            indented,
            "{\n  \"kind\": \"A\",\n  \"a\": [\n    1,\n    {\n      \"b\": \"x,{\\\"y\"\n    }\n  ],\n  \"e\": {},\n  \"l\": []\n}"
        );
        let parsed: Value = serde_json::from_str(&indented).unwrap();
        assert_eq!(parsed, serde_json::from_slice::<Value>(compact).unwrap());
    }

    #[test]
    fn the_type_comes_first() {
        let value = json!({"apiVersion": "v1", "data": {}, "kind": "X", "metadata": {"name": "n"}});
        assert_eq!(
            ordered_json(&value),
            br#"{"kind":"X","apiVersion":"v1","metadata":{"name":"n"},"data":{}}"#
        );
    }

    #[test]
    fn strings_that_look_like_other_types_are_quoted_in_yaml() {
        let value = json!({"a": "true", "b": "1", "c": "null", "d": "yes", "e": "", "f": "1e3", "g": "x: y", "h": "on"});
        let yaml = to_yaml(&value);
        assert_eq!(
            super::super::parse::yaml(&yaml).unwrap().value,
            value,
            "{}",
            String::from_utf8_lossy(&yaml)
        );
    }
}
