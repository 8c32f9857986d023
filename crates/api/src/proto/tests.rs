//! Every kind with every field set survives the way to protobuf and back; the bytes of small objects are those
//! of upstream.

use super::descriptor::Descriptors;
use super::*;
use crate::facts::decl;
use crate::facts::sample::{kind_sample, kinds};
use serde_json::json;

#[test]
fn every_kind_with_every_field_set_survives_the_round_trip() {
    let all = decl::messages();
    let mut count = 0;
    for message in kinds(&all) {
        let object = kind_sample(&all, message);
        let bytes = encode(&object).unwrap_or_else(|e| panic!("{}: {e}", message.name));
        let mut again = decode(&bytes).unwrap_or_else(|e| panic!("{}: {e}", message.name));
        // A type that also stands inside others (PersistentVolumeClaim) carries its own kind only at the top.
        assert_eq!(encode(&again).unwrap(), bytes, "{} changes its bytes", message.name);
        drop_completed(&mut again, &object);
        assert_eq!(again, object, "{}", message.name);
        count += 1;
    }
    assert!(count > 150, "only {count} kinds in the facts");
}

/// Removes what decoding adds because Go always writes it, where the sample was cut short.
fn drop_completed(value: &mut Value, like: &Value) {
    match (value, like) {
        (Value::Object(map), Value::Object(like)) => {
            map.retain(|key, value| like.contains_key(key) || !(value.is_null() || is_hollow(value)));
            for (key, value) in map {
                if let Some(like) = like.get(key) {
                    drop_completed(value, like);
                }
            }
        }
        (Value::Array(list), Value::Array(like)) => {
            list.iter_mut().zip(like).for_each(|(value, like)| drop_completed(value, like));
        }
        _ => {}
    }
}

fn is_hollow(value: &Value) -> bool {
    match value {
        Value::Object(map) => map.values().all(is_hollow),
        Value::Null => true,
        other => *other == json!("") || *other == json!(0) || *other == json!(false) || *other == json!("0"),
    }
}

#[test]
fn a_small_object_has_upstreams_bytes() {
    let object = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","creationTimestamp":
        "1970-01-01T00:00:07Z"},"data":{"k":"v"},"binaryData":{"b":"Aw=="},"immutable":true});
    let bytes = encode(&object).unwrap();
    let body = b"\x0a\x09\x0a\x01a\x42\x04\x08\x07\x10\x00\x12\x06\x0a\x01k\x12\x01v\x1a\x06\x0a\x01b\x12\x01\x03\x20\x01";
    let mut expected = b"k8s\0\x0a\x0f\x0a\x02v1\x12\x09ConfigMap\x12".to_vec();
    expected.push(u8::try_from(body.len()).unwrap());
    expected.extend_from_slice(body);
    expected.extend_from_slice(b"\x1a\x00\x22\x00");
    assert_eq!(bytes, expected);
    assert_eq!(decode(&bytes).unwrap(), object);
}

#[test]
fn absent_and_zero_are_told_apart_only_where_go_does() {
    let body = b"\x0a\x00\x12\x02\x08\x00"; // metadata {}, spec { replicas: 0 }
    let scale = decode(&wrap("autoscaling/v1", "Scale", body)).unwrap();
    assert_eq!(scale["spec"], json!({}), "replicas of a Scale is no pointer and omitted when zero");
    let deployment = decode(&wrap("apps/v1", "Deployment", body)).unwrap();
    assert_eq!(deployment["spec"]["replicas"], json!(0));
    assert_eq!(deployment["spec"]["strategy"], json!({}));
    assert_eq!(deployment["spec"]["selector"], json!(null));
    assert!(deployment["spec"].get("paused").is_none());
}

#[test]
fn schemas_and_ports_keep_their_alternatives() {
    let crd = json!({"apiVersion":"apiextensions.k8s.io/v1","kind":"CustomResourceDefinition",
        "metadata":{},"spec":{"group":"g","names":{"kind":"K","plural":"ks"},"scope":"Cluster","versions":[{
        "name":"v1","served":true,"storage":false,"schema":{"openAPIV3Schema":{
            "items":{"type":"string"},"additionalProperties":false,"additionalItems":{"type":"integer"},
            "dependencies":{"a":["x"],"b":{"type":"object"}},"maximum":2.5,"minimum":3,"default":null,"enum":[1,"x"]}}}]},
        "status":{"conditions":null,"acceptedNames":{"kind":"","plural":""},"storedVersions":null}});
    let mut again = decode(&encode(&crd).unwrap()).unwrap();
    // A null default cannot be told from none.
    let schema = &mut again["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    assert!(schema.get("default").is_none());
    schema["default"] = Value::Null;
    assert_eq!(again, crd);
    for port in [json!(80), json!("http")] {
        let probe = json!({"apiVersion":"v1","kind":"Pod","metadata":{},"status":{},"spec":{"containers":[{
            "name":"c","resources":{},"livenessProbe":{"httpGet":{"port":port}}}]}});
        assert_eq!(decode(&encode(&probe).unwrap()).unwrap(), probe);
    }
}

#[test]
fn options_and_status_are_part_of_every_group() {
    let options = json!({"apiVersion":"apps/v1","kind":"DeleteOptions","gracePeriodSeconds":0,
        "propagationPolicy":"Foreground","preconditions":{"uid":"u"}});
    assert_eq!(decode(&encode(&options).unwrap()).unwrap(), options);
    let bare = decode_or(&wrap("", "", b"\x08\x1e"), ("v1", "DeleteOptions")).unwrap();
    assert_eq!(bare, json!({"apiVersion":"v1","kind":"DeleteOptions","gracePeriodSeconds":30}));
    let status = json!({"apiVersion":"v1","kind":"Status","metadata":{},"status":"Failure","code":404,
        "reason":"NotFound","message":"m","details":{"name":"n","kind":"pods"}});
    assert_eq!(decode(&encode(&status).unwrap()).unwrap(), status);
}

#[test]
fn lists_and_watch_frames_are_made_of_ready_parts() {
    let item = json!({"metadata":{"name":"a"},"data":{"k":"v"}});
    let body = encode_body("v1", "ConfigMap", &item).unwrap();
    let list =
        encode_list("v1", "ConfigMapList", &json!({"resourceVersion":"5"}), [&body[..], &body]).unwrap();
    let expected = json!({"apiVersion":"v1","kind":"ConfigMapList","metadata":{"resourceVersion":"5"},
        "items":[item, item]});
    assert_eq!(decode(&list).unwrap(), expected);
    assert_eq!(encode(&expected).unwrap(), list);

    let object = wrap("v1", "ConfigMap", &body);
    let frame = watch_frame("ADDED", &object);
    let (len, event) = frame.split_at(4);
    assert_eq!(u32::from_be_bytes(len.try_into().unwrap()) as usize, event.len());
    let (kind, value) = decode_watch_event(event).unwrap();
    assert_eq!((kind.as_str(), &value["kind"]), ("ADDED", &json!("ConfigMap")));
    assert_eq!(value["data"], item["data"]);
}

#[test]
fn bad_input_is_an_error() {
    assert_eq!(decode(b"{}"), Err(ProtoError::NoMagic));
    assert_eq!(decode(b"k8s\0"), Err(ProtoError::NoKind));
    let unknown = decode(&wrap("x/v1", "Nothing", b"")).unwrap_err();
    assert_eq!(unknown.to_string(), r#"no kind "Nothing" is registered for version "x/v1""#);
    let good =
        encode(&json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":"x","labels":{"a":"b"}}})).unwrap();
    for len in 0..good.len() {
        // Cut anywhere, it is refused or shorter; it never panics.
        let _ = decode(&good[..len]);
        let mut flipped = good.clone();
        flipped[len] ^= 0x55;
        let _ = decode(&flipped);
    }
    let err = encode(
        &json!({"apiVersion":"v1","kind":"Pod","spec":{"containers":[{"ports":[{"containerPort":"x"}]}]}}),
    );
    assert_eq!(
        err.unwrap_err().to_string(),
        "spec.containers[0].ports[0].containerPort: expected an integer"
    );
    let mut deep = Vec::new();
    for _ in 0..5000 {
        let mut outer = Vec::new();
        wire::put_bytes(&mut outer, 28, &deep); // JSONSchemaProps.not
        deep = outer;
    }
    let d = Descriptors::get();
    let id = d.root("apiextensions.k8s.io/v1", "JSONSchemaProps").unwrap();
    assert_eq!(decode::message(d, id, &deep, 0), Err(ProtoError::TooDeep));
}
