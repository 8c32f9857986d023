//! Mending default roles and bindings (upstream's RBAC reconciliation): what is missing is added, what was added by
//! others stays.

use serde_json::Value;

const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

/// The live object with what the default has and it lacks; `None` if it lacks nothing or is no role or binding.
pub fn mended(live: &Value, default: &Value) -> Option<Value> {
    let list = match default["kind"].as_str()? {
        "ClusterRole" | "Role" => "rules",
        "ClusterRoleBinding" | "RoleBinding" => "subjects",
        _ => return None,
    };
    if live["metadata"]["annotations"][AUTOUPDATE] == "false" {
        return None;
    }
    // The rules of an aggregated role are a controller's.
    if live.get("aggregationRule").is_some_and(|rule| !rule.is_null()) {
        return None;
    }
    let held = live[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = default[list].as_array().map(Vec::as_slice).unwrap_or_default();
    let missing: Vec<&Value> = wanted.iter().filter(|item| !held.contains(item)).collect();
    let labels_missing = default["metadata"]["labels"].as_object().is_some_and(|labels| {
        labels.iter().any(|(key, value)| live["metadata"]["labels"].get(key) != Some(value))
    });
    if missing.is_empty() && !labels_missing {
        return None;
    }
    let mut object = live.clone();
    object["apiVersion"] = default["apiVersion"].clone();
    object["kind"] = default["kind"].clone();
    let all: Vec<Value> = held.iter().chain(missing).cloned().collect();
    object[list] = all.into();
    for (key, value) in default["metadata"]["labels"].as_object().into_iter().flatten() {
        object["metadata"]["labels"][key.as_str()] = value.clone();
    }
    Some(object)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn lost_rules_come_back_and_added_ones_stay() {
        let default = json!({ "kind": "ClusterRole", "apiVersion": "v", "metadata": { "name": "view" }, "rules": [{ "verbs": ["get"] }] });
        let of = |rules: Value, annotations: Value| json!({ "metadata": { "name": "view", "annotations": annotations }, "rules": rules });
        assert_eq!(mended(&of(json!([{ "verbs": ["get"] }, { "verbs": ["x"] }]), json!({})), &default), None);
        let mended_role =
            mended(&of(json!([{ "verbs": ["x"] }]), json!({})), &default).expect("a rule is missing");
        assert_eq!(mended_role["rules"], json!([{ "verbs": ["x"] }, { "verbs": ["get"] }]));
        assert_eq!(mended(&of(json!([]), json!({ AUTOUPDATE: "false" })), &default), None);
        assert_eq!(mended(&json!({}), &json!({ "kind": "Namespace" })), None);
    }
}
