//! What fuzzers and bounded tests feed bytes to, with the real kinds: see `knarr_meta::fuzzing`.

use crate::{facts, proto};
use knarr_meta::fuzzing;
use serde_json::Value;

/// Kinds whose messages have a bit of everything.
const KINDS: [(&str, &str); 8] = [
    ("v1", "Pod"),
    ("apps/v1", "Deployment"),
    ("v1", "Secret"),
    ("v1", "Node"),
    ("rbac.authorization.k8s.io/v1", "ClusterRole"),
    ("discovery.k8s.io/v1", "EndpointSlice"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
    ("v1", "DeleteOptions"),
];

/// Protobuf: an envelope, or the message of a kind. What is read is written and read again as the same.
pub fn protobuf(data: &[u8]) {
    let _ = proto::decode_watch_event(data);
    let _ = proto::decode(data);
    let Some((first, body)) = data.split_first() else { return };
    let (api_version, kind) = KINDS[usize::from(*first) % KINDS.len()];
    let Ok(object) = proto::decode(&proto::wrap(api_version, kind, body)) else { return };
    // What cannot be said in JSON (a text that is no UTF-8, a time beyond all years) may be refused on the way back.
    let Ok(bytes) = proto::encode(&object) else { return };
    let again = proto::decode(&bytes).map(without_nulls);
    assert_eq!(again, Ok(without_nulls(object)), "{kind} written and read again");
}

/// A pointer to a time that is zero reads as null, which is written as nothing.
fn without_nulls(mut value: Value) -> Value {
    match &mut value {
        Value::Object(map) => {
            map.retain(|_, member| !member.is_null());
            map.values_mut().for_each(|member| *member = without_nulls(member.take()));
        }
        Value::Array(list) => list.iter_mut().for_each(|member| *member = without_nulls(member.take())),
        _ => {}
    }
    value
}

/// Patches of pods.
pub fn patches(data: &[u8]) {
    let pod = facts::root("", "v1", "Pod").expect("pods are known");
    fuzzing::patches(facts::schema(), &pod, data);
}

/// Field sets and applies of pods.
pub fn apply(data: &[u8]) {
    let pod = facts::root("", "v1", "Pod").expect("pods are known");
    fuzzing::apply(facts::schema(), &pod, data);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn any_bytes_are_read_or_refused() {
        let pod = json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a", "labels": {"k": "l"},
            "creationTimestamp": "2026-11-21T09:00:00Z"}, "spec": {"containers": [{"name": "c", "image": "i",
            "resources": {"limits": {"cpu": "1"}}, "ports": [{"containerPort": 80}]}], "nodeName": "n"}});
        let envelope = proto::encode(&pod).unwrap();
        let mut body = vec![0];
        body.extend(proto::encode_body("v1", "Pod", &pod).unwrap());
        let frame = proto::watch_frame("ADDED", &envelope);
        fuzzing::drive(&[&envelope, &body, &frame[4..]], 20_000, protobuf);
    }

    #[test]
    fn any_patch_of_a_pod_is_applied_or_refused() {
        let seed = b"\x00{\"spec\":{\"containers\":[{\"name\":\"a\",\"ports\":[{\"containerPort\":1}]}]}}\x00\x00{\"spec\":{\"containers\":[{\"name\":\"a\",\"$patch\":\"delete\"}]}}\x00";
        fuzzing::drive(
            &[&seed[..], &[5, 32, 3, 200, 7, 9, 100, 44, 21, 80, 5, 0, 1, 2, 60][..]],
            10_000,
            patches,
        );
    }

    #[test]
    fn any_apply_of_a_pod_is_done_or_refused() {
        let sets = b"\x00{\"f:spec\":{\"f:containers\":{\"k:{\\\"name\\\":\\\"a\\\"}\":{\".\":{},\"f:image\":{}}}}}\x00{\"f:metadata\":{\"v:1\":{},\"i:0\":{}}}\x00";
        let objects = b"\x01\x00{\"spec\":{\"containers\":[{\"name\":\"a\",\"image\":\"x\"}]}}\x00\x00{\"spec\":{\"containers\":[{\"name\":\"a\",\"image\":\"y\"}]}}\x00\x00{}\x00";
        fuzzing::drive(&[&sets[..], &objects[..]], 5_000, apply);
    }
}
