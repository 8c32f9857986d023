//! Strategic merge patches of every directive, by table.

use super::*;
use crate::schema::testing::pod_like;
use serde_json::json;

fn patched(target: Value, patch: Value) -> Result<Value> {
    let (schema, ty) = pod_like();
    let mut got = target;
    apply(&schema, &ty, &mut got, &patch)?;
    Ok(got)
}

#[test]
fn patches_merge_as_upstream() {
    let containers =
        json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}});
    for (what, target, patch, want) in [
        (
            "fields merge",
            json!({"spec": {"nodeName": "x"}}),
            json!({"spec": {"hostNetwork": true}}),
            json!({"spec": {"nodeName": "x", "hostNetwork": true}}),
        ),
        (
            "null removes",
            json!({"spec": {"nodeName": "x"}}),
            json!({"spec": {"nodeName": null}}),
            json!({"spec": {}}),
        ),
        (
            "null that removes nothing vanishes",
            json!({}),
            json!({"spec": {"nodeName": null, "a": {"b": null}}}),
            json!({"spec": {"a": {}}}),
        ),
        (
            "maps merge",
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"b": null, "c": "3"}}}),
            json!({"metadata": {"labels": {"a": "1", "c": "3"}}}),
        ),
        (
            "elements merge by key",
            containers.clone(),
            json!({"spec": {"containers": [{"name": "b", "image": "3"}]}}),
            json!({"spec": {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "3"}]}}),
        ),
        (
            "a new element comes first",
            containers.clone(),
            json!({"spec": {"containers": [{"name": "c"}]}}),
            json!({"spec": {"containers": [{"name": "c"}, {"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}}),
        ),
        (
            "an element is deleted",
            containers.clone(),
            json!({"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "2"}]}}),
        ),
        (
            "all elements are replaced",
            containers.clone(),
            json!({"spec": {"containers": [{"name": "c"}, {"$patch": "replace"}]}}),
            json!({"spec": {"containers": [{"name": "c"}]}}),
        ),
        (
            "elements are put in order",
            containers.clone(),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                "containers": [{"name": "a", "image": "9"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "2"}, {"name": "a", "image": "9"}]}}),
        ),
        (
            "order with a deletion",
            containers.clone(),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}],
                "containers": [{"name": "a", "$patch": "delete"}]}}),
            json!({"spec": {"containers": [{"name": "b", "image": "2"}]}}),
        ),
        (
            "order keeps what others added",
            json!({"spec": {"containers": [{"name": "x"}, {"name": "a"}, {"name": "b"}]}}),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "c"}],
                "containers": [{"name": "c"}]}}),
            json!({"spec": {"containers": [{"name": "x"}, {"name": "b"}, {"name": "a"}, {"name": "c"}]}}),
        ),
        (
            "a list without strategy is replaced",
            json!({"spec": {"tolerations": [{"key": "a"}, {"key": "b"}]}}),
            json!({"spec": {"tolerations": [{"key": "c"}]}}),
            json!({"spec": {"tolerations": [{"key": "c"}]}}),
        ),
        (
            "scalars merge as a set",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"finalizers": ["c", "a"]}}),
            json!({"metadata": {"finalizers": ["c", "a", "b"]}}),
        ),
        (
            "scalars are deleted",
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
            json!({"metadata": {"finalizers": ["b"]}}),
        ),
        (
            "scalars are deleted and ordered",
            json!({"metadata": {"finalizers": ["a", "b", "c"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"],
                "$setElementOrder/finalizers": ["c", "b"]}}),
            json!({"metadata": {"finalizers": ["c", "b"]}}),
        ),
        (
            "a map is replaced",
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}),
            json!({"metadata": {"labels": {"b": "2"}}}),
        ),
        (
            "a map is emptied",
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "delete"}}}),
            json!({"metadata": {"labels": {}}}),
        ),
        (
            "other keys go",
            json!({"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}),
            json!({"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}),
            json!({"spec": {"strategy": {"type": "Recreate"}}}),
        ),
        (
            "other keys of an element go",
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/x"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/x"}}]}}),
        ),
        (
            "another type replaces",
            json!({"spec": {"strategy": "x"}}),
            json!({"spec": {"strategy": {"type": "y"}}}),
            json!({"spec": {"strategy": {"type": "y"}}}),
        ),
        (
            "directives never stay",
            json!({}),
            json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "$patch": "delete"}]}}),
            json!({"spec": {"containers": [{"name": "a"}]}}),
        ),
    ] {
        assert_eq!(patched(target, patch), Ok(want), "{what}");
    }
}

#[test]
fn wrong_patches_are_refused_in_upstreams_words() {
    let target = json!({"metadata": {"finalizers": ["a"]},
        "spec": {"containers": [{"name": "a"}], "strategy": {"type": "x"}}});
    for (patch, code, want) in [
        (
            json!([]),
            400,
            "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}",
        ),
        (
            json!({"spec": {"containers": [{"image": "a"}]}}),
            500,
            "map: map[image:a] does not contain declared merge key: name",
        ),
        (json!({"spec": {"strategy": {"$patch": "x"}}}), 500, "unknown patch type: x in map: map[$patch:x]"),
        (
            json!({"spec": {"containers": [{"name": "a", "$patch": "merge"}]}}),
            500,
            "merging lists cannot yet be specified in the patch",
        ),
        (json!({"spec": {"strategy": {"$retainKeys": "x"}}}), 400, "invalid patch format of retainKeys"),
        (
            json!({"spec": {"strategy": {"$retainKeys": [], "type": "y"}}}),
            400,
            "invalid patch format of retainKeys",
        ),
        (
            json!({"metadata": {"$deleteFromPrimitiveList": ["a"]}}),
            400,
            "invalid patch format of primitive list",
        ),
        (
            json!({"metadata": {"$setElementOrder": ["a"]}}),
            400,
            "invalid patch format of setElementOrder list",
        ),
        (
            json!({"spec": {"$setElementOrder/containers": {}}}),
            500,
            "expected a []interface {}, but received a map[string]interface {}",
        ),
        (
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}], "containers": [{"name": "c"}]}}),
            500,
            "The order in patch list:\n[map[name:c]]\n doesn't match $setElementOrder list:\n[map[name:b]]\n",
        ),
    ] {
        let error = patched(target.clone(), patch).unwrap_err();
        assert_eq!((error.status().code, error.to_string().as_str()), (code, want));
    }
    let nested = patched(target, json!({"metadata": {"finalizers": [["a"]]}})).unwrap_err();
    assert_eq!(nested.status().code, 422);
}
