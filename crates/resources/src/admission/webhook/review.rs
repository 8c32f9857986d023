//! AdmissionReview: what a webhook is told, and what is made of its answer (apiserver's
//! `admission/plugin/webhook/request`).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use knarr_apiserver::admission::{Endpoint, Write};
use knarr_meta::go;
use knarr_meta::gvk::parse_api_version;
use serde_json::{Map, Value, json};

/// The versions this server speaks.
const SPOKEN: [&str; 2] = ["v1", "v1beta1"];

/// Its group.
const GROUP: &str = "admission.k8s.io";

/// The first version that both sides speak.
pub fn version(versions: &[String]) -> Option<&'static str> {
    versions.iter().find_map(|version| SPOKEN.into_iter().find(|spoken| spoken == version))
}

/// The request. `object` and `old` are in the endpoint's form.
pub fn request(
    write: &Write<'_>,
    endpoint: &Endpoint,
    version: &str,
    uid: &str,
    (object, old): (&Value, &Value),
) -> Value {
    let info = &write.cx.info;
    let own = write.endpoint();
    let mut request = Map::new();
    let mut set = |key: &str, value: Value| {
        request.insert(key.to_owned(), value);
    };
    set("uid", uid.into());
    set(
        "kind",
        json!({"group": endpoint.kind_group, "version": endpoint.kind_version, "kind": endpoint.kind}),
    );
    set(
        "resource",
        json!({"group": endpoint.group, "version": endpoint.version, "resource": endpoint.resource}),
    );
    set("requestKind", json!({"group": own.kind_group, "version": own.kind_version, "kind": own.kind}));
    set("requestResource", json!({"group": own.group, "version": own.version, "resource": own.resource}));
    for (key, text) in [
        ("subResource", info.subresource.as_str()),
        ("requestSubResource", info.subresource.as_str()),
        ("name", write.name),
        ("namespace", write.namespace),
    ] {
        if !text.is_empty() {
            set(key, text.into());
        }
    }
    set("operation", write.operation.as_str().into());
    set("userInfo", write.user_info());
    set("object", object.clone());
    set("oldObject", old.clone());
    set("dryRun", write.dry_run().into());
    set("options", write.options());
    json!({"kind": "AdmissionReview", "apiVersion": format!("{GROUP}/{version}"), "request": request})
}

/// What a webhook said.
#[derive(Debug, Default)]
pub struct Verdict {
    pub allowed: bool,
    /// The JSON patch, still encoded; empty for none.
    pub patch: Vec<u8>,
    pub patch_type: String,
    pub result: Value,
    pub annotations: Vec<(String, String)>,
    pub warnings: Vec<String>,
}

/// Reads an answer; the error says what is wrong with it.
pub fn verdict(version: &str, uid: &str, mutating: bool, review: &Value) -> Result<Verdict, String> {
    let response = &review["response"];
    if !response.is_object() {
        return Err("webhook response was absent".to_owned());
    }
    let text = |key: &str| response[key].as_str().unwrap_or_default();
    let (patch, patch_type) = (text("patch"), response["patchType"].as_str());
    if version == "v1" {
        if text("uid") != uid {
            return Err(format!("expected response.uid={}, got {}", go::quote(uid), go::quote(text("uid"))));
        }
        let kind = review["kind"].as_str().unwrap_or_default();
        let api_version = review["apiVersion"].as_str().unwrap_or_default();
        if (kind, api_version) != ("AdmissionReview", "admission.k8s.io/v1") {
            let (group, version) = parse_api_version(api_version);
            return Err(format!(
                "expected webhook response of {GROUP}/v1, Kind=AdmissionReview, got {group}/{version}, Kind={kind}"
            ));
        }
        check_patch(mutating, patch, patch_type)?;
    }
    let patch = STANDARD.decode(patch).map_err(|e| format!("illegal base64 data: {e}"))?;
    let patch_type = match version {
        "v1" => patch_type.unwrap_or_default(),
        // Never said in v1beta1.
        _ if patch.is_empty() => "",
        _ => "JSONPatch",
    };
    let annotations = response["auditAnnotations"].as_object().into_iter().flatten();
    let warnings = response["warnings"].as_array().into_iter().flatten();
    Ok(Verdict {
        allowed: response["allowed"] == true,
        patch_type: patch_type.to_owned(),
        patch: if mutating { patch } else { Vec::new() },
        result: response["status"].clone(),
        annotations: annotations
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        warnings: warnings.filter_map(|w| w.as_str().map(str::to_owned)).collect(),
    })
}

fn check_patch(mutating: bool, patch: &str, patch_type: Option<&str>) -> Result<(), String> {
    let problem = match (mutating, patch.is_empty(), patch_type) {
        (true, false, None) => "webhook returned response.patch but not response.patchType",
        (true, true, Some(_)) => "webhook returned response.patchType but not response.patch",
        (true, false, Some("")) => "webhook returned invalid response.patchType of \"\"",
        (false, false, _) => "validating webhook may not return response.patch",
        (false, true, Some(_)) => "validating webhook may not return response.patchType",
        _ => return Ok(()),
    };
    Err(problem.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_held_against_the_request() {
        let v1 = |response: Value| json!({"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "response": response});
        for (mutating, review, wanted) in [
            (true, json!({}), "webhook response was absent"),
            (true, v1(json!({"uid": "2"})), "expected response.uid=\"1\", got \"2\""),
            (
                true,
                json!({"response": {"uid": "1"}}),
                "expected webhook response of admission.k8s.io/v1, Kind=AdmissionReview, got /, Kind=",
            ),
            (
                true,
                v1(json!({"uid": "1", "patch": "W10="})),
                "webhook returned response.patch but not response.patchType",
            ),
            (
                true,
                v1(json!({"uid": "1", "patchType": "JSONPatch"})),
                "webhook returned response.patchType but not response.patch",
            ),
            (
                true,
                v1(json!({"uid": "1", "patch": "W10=", "patchType": ""})),
                "webhook returned invalid response.patchType of \"\"",
            ),
            (
                false,
                v1(json!({"uid": "1", "patch": "W10=", "patchType": "JSONPatch"})),
                "validating webhook may not return response.patch",
            ),
            (
                false,
                v1(json!({"uid": "1", "patchType": "JSONPatch"})),
                "validating webhook may not return response.patchType",
            ),
        ] {
            assert_eq!(verdict("v1", "1", mutating, &review).unwrap_err(), wanted);
        }
        let good = verdict("v1", "1", true, &v1(json!({"uid": "1", "allowed": true}))).unwrap();
        assert!(good.allowed);
        let older = json!({"response": {"allowed": true, "patch": "W10="}});
        let older = verdict("v1beta1", "1", true, &older).unwrap();
        assert_eq!((older.patch.as_slice(), older.patch_type.as_str()), (&b"[]"[..], "JSONPatch"));
    }
}
