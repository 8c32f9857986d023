//! Managers that write different versions of one object: `spec.host` of v1 is `spec.address` of v2.

use super::*;
use crate::schema::{Field, StructType};
use serde_json::json;

#[derive(Debug)]
struct Renamed {
    schema: Schema,
    ty: Type,
}

impl Renamed {
    fn new() -> Self {
        let mut schema = Schema::default();
        let text = |name: &str| Field::new(name, Type::String, 0);
        let spec = StructType::new("Spec", vec![text("host"), text("address"), text("size"), text("color")]);
        let spec = schema.insert(spec);
        let meta = schema.insert(StructType::new("Meta", vec![text("name")]));
        let fields = vec![
            text("apiVersion"),
            text("kind"),
            Field::new("metadata", Type::Struct(meta), 0),
            Field::new("spec", Type::Struct(spec), 0),
        ];
        let ty = Type::Struct(schema.insert(StructType::new("Thing", fields)));
        Self { schema, ty }
    }

    fn convert(object: &Value, api_version: &str) -> Value {
        let mut object = object.clone();
        let (from, to) = if api_version == "x/v2" { ("host", "address") } else { ("address", "host") };
        object["apiVersion"] = api_version.into();
        if let Some(value) = object["spec"].as_object_mut().and_then(|spec| spec.remove(from)) {
            object["spec"][to] = value;
        }
        object
    }

    fn manager<'a>(&'a self, name: &'a str, operation: Operation, api_version: &'a str) -> Manager<'a> {
        let time = "2026-11-21T09:00:01Z";
        Manager {
            name,
            operation,
            api_version,
            subresource: "",
            reset: &[],
            custom: true,
            versions: self,
            time,
        }
    }

    fn apply(
        &self,
        live: Option<&Value>,
        who: &str,
        version: &str,
        spec: Value,
    ) -> Result<Value, ApplyError> {
        let applied =
            json!({"apiVersion": version, "kind": "Thing", "metadata": {"name": "a"}, "spec": spec});
        let live = live.map(|live| Self::convert(live, version));
        let manager = self.manager(who, Operation::Apply, version);
        apply(&self.schema, &self.ty, live.as_ref(), &applied, &manager, false)
    }
}

impl Versions for Renamed {
    fn view(&self, object: &Value, api_version: &str) -> View<'_> {
        match api_version {
            _ if object["apiVersion"] == api_version => View::Same,
            "x/v1" | "x/v2" => View::Other(Self::convert(object, api_version), &self.schema, &self.ty),
            _ => View::Gone,
        }
    }
}

fn owned(object: &Value, who: &str) -> Value {
    let entry = object::managed_fields(object).iter().find(|entry| entry["manager"] == who);
    entry.map_or(Value::Null, |entry| entry["fieldsV1"]["f:spec"].clone())
}

#[test]
fn an_update_is_seen_in_the_version_of_each_manager() {
    let kind = Renamed::new();
    let first = kind.apply(None, "one", "x/v1", json!({"host": "h", "size": "s"})).unwrap();
    assert_eq!(owned(&first, "one"), json!({"f:host": {}, "f:size": {}}));
    // Somebody changes the address, which is the host to the first.
    let old = Renamed::convert(&first, "x/v2");
    let mut new = old.clone();
    new["spec"]["address"] = "other".into();
    update(&kind.schema, &kind.ty, Some(&old), &mut new, &kind.manager("two", Operation::Update, "x/v2"));
    assert_eq!(owned(&new, "one"), json!({"f:size": {}}));
    assert_eq!(owned(&new, "two"), json!({"f:address": {}}));
}

#[test]
fn conflicts_are_told_in_the_version_of_the_owner() {
    let kind = Renamed::new();
    let first = kind.apply(None, "one", "x/v1", json!({"host": "h"})).unwrap();
    let conflict = kind.apply(Some(&first), "two", "x/v2", json!({"address": "other"})).unwrap_err();
    assert_eq!(conflict.to_string(), "Apply failed with 1 conflict: conflict with \"one\": .spec.host");
    assert!(kind.apply(Some(&first), "two", "x/v2", json!({"address": "h", "color": "c"})).is_ok());
}

#[test]
fn what_was_applied_in_another_version_is_dropped_and_what_others_own_stays() {
    let kind = Renamed::new();
    let first = kind.apply(None, "one", "x/v1", json!({"host": "h", "size": "s"})).unwrap();
    let second = kind.apply(Some(&first), "two", "x/v2", json!({"address": "h"})).unwrap();
    // The first comes back with the new version and neither of its fields: one of them has another owner.
    let third = kind.apply(Some(&second), "one", "x/v2", json!({"color": "c"})).unwrap();
    assert_eq!(third["spec"], json!({"address": "h", "color": "c"}));
    assert_eq!(owned(&third, "one"), json!({"f:color": {}}));
}

#[test]
fn managers_of_versions_that_are_gone_are_forgotten() {
    let kind = Renamed::new();
    let mut first = kind.apply(None, "one", "x/v1", json!({"host": "h"})).unwrap();
    first["metadata"]["managedFields"][0]["apiVersion"] = "x/v0".into();
    let second = kind.apply(Some(&first), "two", "x/v1", json!({"host": "other"})).unwrap();
    assert_eq!(owned(&second, "one"), Value::Null);
    assert_eq!(second["spec"]["host"], "other");
}
