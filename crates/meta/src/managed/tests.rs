//! Scenarios of several managers writing one object.

use super::*;
use crate::schema::testing::pod_like;
use serde_json::json;

const T1: &str = "2026-11-21T09:00:01Z";
const T2: &str = "2026-11-21T09:00:02Z";
const T3: &str = "2026-11-21T09:00:03Z";

/// An object and the writes it goes through.
struct Story {
    schema: Schema,
    ty: Type,
    object: Option<Value>,
}

impl Story {
    fn new() -> Self {
        let (schema, ty) = pod_like();
        Self { schema, ty, object: None }
    }

    fn manager<'a>(name: &'a str, operation: Operation, subresource: &'a str, time: &'a str) -> Manager<'a> {
        let reset = reset_fields(subresource);
        Manager {
            name,
            operation,
            api_version: "apps/v1",
            subresource,
            reset,
            custom: false,
            versions: ONE_FORM,
            time,
        }
    }

    fn normal(&self, mut value: Value) -> Value {
        value["apiVersion"] = "apps/v1".into();
        value["kind"] = "Thing".into();
        let report = check(&self.schema, &self.ty, &mut value, Mode::Report);
        assert_eq!(report, Default::default());
        value
    }

    /// Replaces the object (or creates it) as `who`.
    fn write(&mut self, who: &str, subresource: &str, time: &str, value: Value) {
        let mut new = self.normal(value);
        let manager = Self::manager(who, Operation::Update, subresource, time);
        update(&self.schema, &self.ty, self.object.as_ref(), &mut new, &manager);
        self.object = Some(new);
    }

    fn apply(&mut self, who: &str, time: &str, force: bool, mut applied: Value) -> Result<(), ApplyError> {
        applied["apiVersion"] = "apps/v1".into();
        applied["kind"] = "Thing".into();
        let manager = Self::manager(who, Operation::Apply, "", time);
        self.object = Some(apply(&self.schema, &self.ty, self.object.as_ref(), &applied, &manager, force)?);
        Ok(())
    }

    /// Each entry as `manager operation time fields`.
    fn owners(&self) -> Vec<(String, Value)> {
        let entries = object::managed_fields(self.object.as_ref().unwrap());
        let each = |entry: &Value| {
            let mut who =
                format!("{} {}", entry["manager"].as_str().unwrap(), entry["operation"].as_str().unwrap());
            for part in ["subresource", "time"] {
                who.push_str(&entry[part].as_str().map(|part| format!(" {part}")).unwrap_or_default());
            }
            assert_eq!((&entry["apiVersion"], &entry["fieldsType"]), (&json!("apps/v1"), &json!("FieldsV1")));
            (who, entry["fieldsV1"].clone())
        };
        entries.iter().map(each).collect()
    }

    fn spec(&self) -> &Value {
        &self.object.as_ref().unwrap()["spec"]
    }
}

fn owners(list: &[(&str, Value)]) -> Vec<(String, Value)> {
    list.iter().map(|(who, fields)| ((*who).to_owned(), fields.clone())).collect()
}

#[test]
fn a_create_owns_everything_but_what_the_server_decides() {
    let mut story = Story::new();
    story.write(
        "kubectl",
        "",
        T1,
        json!({
        "metadata": {"name": "a", "namespace": "b", "labels": {"x": "y"}, "generation": 1, "uid": "1"},
        "spec": {"replicas": 1, "containers": [{"name": "c", "image": "i"}]}, "status": {"phase": "x"}}),
    );
    assert_eq!(
        story.owners(),
        owners(&[(
            &format!("kubectl Update {T1}"),
            json!({
        "f:metadata": {"f:labels": {".": {}, "f:x": {}}},
        "f:spec": {".": {}, "f:replicas": {}, "f:containers": {".": {}, "k:{\"name\":\"c\"}": {
            ".": {}, "f:name": {}, "f:image": {}, "f:resources": {".": {}, "f:deep": {}}}}}})
        )])
    );
}

#[test]
fn an_object_without_fields_of_anybody_has_no_managers() {
    let mut story = Story::new();
    story.write("kubectl", "", T1, json!({"metadata": {"name": "a"}}));
    assert!(story.owners().is_empty());
}

#[test]
fn updates_move_fields_from_one_manager_to_another() {
    let mut story = Story::new();
    story.write("a", "", T1, json!({"spec": {"replicas": 1, "nodeName": "n", "seconds": 1}}));
    story.write("b", "", T2, json!({"spec": {"replicas": 2, "nodeName": "n", "ratio": 1.5}}));
    assert_eq!(
        story.owners(),
        owners(&[
            (&format!("a Update {T1}"), json!({"f:spec": {".": {}, "f:nodeName": {}}})),
            (&format!("b Update {T2}"), json!({"f:spec": {"f:replicas": {}, "f:ratio": {}}})),
        ])
    );
    story.write("b", "", T3, json!({"spec": {"replicas": 2, "nodeName": "m", "ratio": 1.5}}));
    assert_eq!(
        story.owners(),
        owners(&[
            (&format!("a Update {T1}"), json!({"f:spec": {}})),
            (
                &format!("b Update {T3}"),
                json!({"f:spec": {"f:replicas": {}, "f:nodeName": {}, "f:ratio": {}}})
            ),
        ])
    );
    // Whoever owns nothing any more is gone.
    story.write("c", "", T3, json!({}));
    assert!(story.owners().is_empty());
}

#[test]
fn an_update_that_changes_nothing_keeps_the_old_time() {
    let mut story = Story::new();
    let object = json!({"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 1}});
    story.write("a", "", T1, object.clone());
    let before = story.owners();
    story.write("a", "", T2, object);
    assert_eq!(story.owners(), before);
    // Nor does a change of what nobody owns count, or of status by way of the object itself.
    story.write(
        "b",
        "",
        T3,
        json!({"metadata": {"resourceVersion": "2", "generation": 4}, "spec": {"replicas": 1},
        "status": {"phase": "x"}}),
    );
    assert_eq!(story.owners(), before);
}

#[test]
fn subresources_have_entries_of_their_own() {
    let mut story = Story::new();
    story.write("a", "", T1, json!({"spec": {"replicas": 1}}));
    story.write("a", "status", T2, json!({"spec": {"replicas": 1}, "status": {"phase": "x"}}));
    assert_eq!(
        story.owners(),
        owners(&[
            (&format!("a Update {T1}"), json!({"f:spec": {".": {}, "f:replicas": {}}})),
            (&format!("a Update status {T2}"), json!({"f:status": {"f:phase": {}}})),
        ])
    );
    // Managed fields cannot be written by way of a subresource.
    let mut object = story.object.clone().unwrap();
    object["metadata"]["managedFields"] = json!([{}]);
    story.write("a", "status", T3, object);
    assert_eq!(story.owners().len(), 2);
}

#[test]
fn clients_may_forget_and_rewrite_managed_fields() {
    let mut story = Story::new();
    story.write("a", "", T1, json!({"spec": {"replicas": 1}}));
    // An empty list is kept by the schema check, so that it is told from a missing one.
    story.write("a", "", T2, json!({"metadata": {"managedFields": []}, "spec": {"replicas": 2}}));
    assert!(story.owners().is_empty());
    // Without managers an update is not tracked,
    story.write("a", "", T2, json!({"spec": {"replicas": 3}}));
    assert!(story.owners().is_empty());
    // and an apply finds everything owned by whoever came before it.
    let error = story.apply("b", T3, false, json!({"spec": {"replicas": 4}})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"before-first-apply\" using apps/v1: .spec.replicas"
    );
}

#[test]
fn old_updates_are_merged_beyond_ten() {
    let mut story = Story::new();
    let mut labels = Map::new();
    for i in 0..14 {
        labels.insert(format!("l{i:02}"), "x".into());
        let object = json!({"metadata": {"labels": labels}});
        story.write(&format!("m{i:02}"), "", &format!("2026-11-21T09:00:{i:02}Z"), object);
    }
    let owners = story.owners();
    assert_eq!(owners.len(), 10);
    assert_eq!(owners[0].0, "ancient-changes Update 2026-11-21T09:00:04Z");
    assert_eq!(owners[0].1["f:metadata"]["f:labels"].as_object().unwrap().len(), 6);
    assert_eq!(owners[9].0, "m13 Update 2026-11-21T09:00:13Z");
}

#[test]
fn applying_owns_removes_and_shares() {
    let mut story = Story::new();
    story
        .apply(
            "a",
            T1,
            false,
            json!({"metadata": {"name": "x", "labels": {"k": "v"}},
        "spec": {"replicas": 1, "containers": [{"name": "c", "image": "1"}]}}),
        )
        .unwrap();
    assert_eq!(
        story.owners(),
        owners(&[(
            &format!("a Apply {T1}"),
            json!({
        "f:metadata": {"f:labels": {"f:k": {}}},
        "f:spec": {"f:replicas": {}, "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:name": {}, "f:image": {}}}}})
        )])
    );
    // The same value may be owned by several; the time stays, for nothing changed.
    story.apply("b", T2, false, json!({"spec": {"replicas": 1}})).unwrap();
    let shared = story.owners();
    assert_eq!(
        shared.iter().map(|(who, _)| who.as_str()).collect::<Vec<_>>(),
        ["b Apply", &format!("a Apply {T1}")]
    );
    // What is applied no more goes, unless somebody else owns it.
    story
        .apply("a", T3, false, json!({"metadata": {"name": "x"}, "spec": {"containers": [{"name": "c"}]}}))
        .unwrap();
    let object = story.object.clone().unwrap();
    assert_eq!(object["metadata"]["labels"], Value::Null);
    assert_eq!(
        *story.spec(),
        json!({"replicas": 1, "containers": [{"name": "c", "resources": {"deep": {}}}]})
    );
    story.apply("b", T3, false, json!({"metadata": {"name": "x"}})).unwrap();
    assert_eq!(story.spec()["replicas"], Value::Null);
}

#[test]
fn elements_of_others_stay() {
    let mut story = Story::new();
    story.apply("a", T1, false, json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}})).unwrap();
    story
        .apply("sidecar", T2, false, json!({"spec": {"containers": [{"name": "s", "image": "x"}]}}))
        .unwrap();
    story.apply("a", T3, false, json!({"spec": {"containers": [{"name": "b"}]}})).unwrap();
    let names: Vec<&str> =
        story.spec()["containers"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["b", "s"]);
}

#[test]
fn a_field_that_was_updated_by_others_is_left_alone() {
    let mut story = Story::new();
    story.apply("a", T1, false, json!({"spec": {"replicas": 1, "seconds": 5}})).unwrap();
    // A scaler takes the replicas over; giving them up does not remove them.
    let mut object = story.object.clone().unwrap();
    object["spec"]["replicas"] = 3.into();
    story.write("scaler", "scale", T2, object);
    story.apply("a", T3, false, json!({"spec": {"seconds": 5}})).unwrap();
    assert_eq!(*story.spec(), json!({"replicas": 3, "seconds": 5}));
}

#[test]
fn conflicts_are_reported_in_upstreams_words_and_forced() {
    let mut story = Story::new();
    story.write("kubectl", "", T1, json!({"spec": {"replicas": 1, "nodeName": "n"}}));
    let error = story.apply("b", T2, false, json!({"spec": {"replicas": 2}})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 1 conflict: conflict with \"kubectl\" using apps/v1: .spec.replicas"
    );
    let status = error.status().to_json();
    assert_eq!((&status["code"], &status["reason"]), (&json!(409), &json!("Conflict")));
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"kubectl\" using apps/v1", "field": ".spec.replicas"}])
    );
    let error = story.apply("b", T2, false, json!({"spec": {"replicas": 2, "nodeName": "m"}})).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl\" using apps/v1:\n- .spec.nodeName\n- .spec.replicas"
    );
    story.apply("b", T2, true, json!({"spec": {"replicas": 2}})).unwrap();
    assert_eq!(
        story.owners(),
        owners(&[
            (&format!("b Apply {T2}"), json!({"f:spec": {"f:replicas": {}}})),
            (&format!("kubectl Update {T1}"), json!({"f:spec": {".": {}, "f:nodeName": {}}})),
        ])
    );
    let error = story.apply("c", T3, false, json!({"spec": {"replicas": 3}})).unwrap_err();
    assert_eq!(error.to_string(), "Apply failed with 1 conflict: conflict with \"b\": .spec.replicas");
}

#[test]
fn kubectl_takes_over_from_client_side_apply() {
    let mut story = Story::new();
    let last = json!({"apiVersion": "apps/v1", "kind": "Thing", "spec": {"replicas": 1, "nodeName": "n"}})
        .to_string();
    let object =
        json!({"metadata": {"annotations": {LAST_APPLIED: last}}, "spec": {"replicas": 1, "nodeName": "n"}});
    story.write("kubectl-client-side-apply", "", T1, object);
    assert!(story.apply("other", T2, false, json!({"spec": {"replicas": 2}})).is_err());
    story.apply("kubectl", T2, false, json!({"spec": {"replicas": 2}})).unwrap();
    assert_eq!(story.spec()["replicas"], 2);
    let annotation = object::annotation(story.object.as_ref().unwrap(), LAST_APPLIED).unwrap();
    assert_eq!(annotation, "{\"apiVersion\":\"apps/v1\",\"kind\":\"Thing\",\"spec\":{\"replicas\":2}}\n");
}

#[test]
fn what_cannot_be_merged_is_refused() {
    let mut story = Story::new();
    let twice = json!({"metadata": {"name": "x", "namespace": "y"}, "spec": {"containers": [{"name": "a"}, {"name": "a"}]}});
    assert_eq!(
        story.apply("a", T1, false, twice).unwrap_err().to_string(),
        "failed to create typed patch object (y/x; apps/v1, Kind=Thing): .spec.containers: duplicate entries for key [name=\"a\"]"
    );
    let managed = json!({"metadata": {"managedFields": [{"manager": "a"}]}});
    assert_eq!(
        story.apply("a", T1, false, managed).unwrap_err().to_string(),
        "metadata.managedFields must be nil"
    );
}
