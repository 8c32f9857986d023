//! managedFields and server-side apply.

use super::*;

fn managers(object: &Value) -> Vec<String> {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, name: &str| entry[name].as_str().unwrap_or_default().to_owned();
    entries
        .iter()
        .map(|e| {
            format!(
                "{} {} {} {}",
                text(e, "manager"),
                text(e, "operation"),
                text(e, "apiVersion"),
                text(e, "subresource")
            )
        })
        .map(|line| line.trim_end().to_owned())
        .collect()
}

#[tokio::test]
async fn every_write_has_a_manager() {
    let server = server();
    let url = format!("{DEPLOYMENTS}/d");
    let created = server.post(DEPLOYMENTS, &deployment("d")).await.expect(201);
    assert_eq!(managers(&created), ["test Update apps/v1"]);
    let fields = &created["metadata"]["managedFields"][0]["fieldsV1"];
    assert!(fields["f:spec"]["f:selector"].is_object() && fields.get("f:status").is_none(), "{fields}");
    let named = format!("{url}?fieldManager=somebody");
    let patched =
        server.patch("merge-patch+json", &named, &json!({"spec": {"replicas": 2}})).await.expect(200);
    assert_eq!(managers(&patched), ["somebody Update apps/v1", "test Update apps/v1"]);
    let status = format!("{url}/status?fieldManager=controller");
    let status =
        server.patch("merge-patch+json", &status, &json!({"status": {"replicas": 2}})).await.expect(200);
    assert!(
        managers(&status).contains(&"controller Update apps/v1 status".to_owned()),
        "{:?}",
        managers(&status)
    );
    let scale = format!("{url}/scale?fieldManager=scaler");
    server.patch("merge-patch+json", &scale, &json!({"spec": {"replicas": 5}})).await.expect(200);
    let scaled = server.get(&url).await.expect(200);
    assert!(managers(&scaled).contains(&"scaler Update apps/v1 scale".to_owned()), "{:?}", managers(&scaled));
    let long = server.post(&format!("{MAPS}?fieldManager={}", "x".repeat(129)), &map("a", json!({}))).await;
    assert_eq!(
        long.message(422),
        "CreateOptions.meta.k8s.io \"\" is invalid: fieldManager: Too long: may not be more than 128 bytes"
    );
}

#[tokio::test]
async fn apply_creates_merges_and_asks_before_taking_fields() {
    let server = server();
    let url = |manager: &str| format!("{MAPS}/a?fieldManager={manager}");
    let yaml = |data: &str| format!("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: a\ndata:\n{data}");
    let media = [("content-type", "application/apply-patch+yaml")];
    let created =
        server.send("PATCH", &url("one"), &media, yaml("  x: \"1\"\n  y: \"1\"\n")).await.expect(201);
    assert_eq!(
        (&created["data"], managers(&created)),
        (&json!({"x": "1", "y": "1"}), vec!["one Apply v1".to_owned()])
    );
    let same = server.send("PATCH", &url("one"), &media, yaml("  x: \"1\"\n  y: \"1\"\n")).await.expect(200);
    assert_eq!(version(&same), version(&created));

    let conflict = server.send("PATCH", &url("two"), &media, yaml("  x: \"2\"\n")).await;
    let status = conflict.expect(409);
    assert_eq!(status["message"], "Apply failed with 1 conflict: conflict with \"one\": .data.x");
    assert_eq!(
        status["details"]["causes"],
        json!([{"reason": "FieldManagerConflict", "message": "conflict with \"one\"", "field": ".data.x"}])
    );
    let forced = format!("{}&force=true", url("two"));
    let taken = server.send("PATCH", &forced, &media, yaml("  x: \"2\"\n")).await.expect(200);
    assert_eq!(taken["data"], json!({"x": "2", "y": "1"}));
    let dropped = server.send("PATCH", &forced, &media, yaml("  z: \"3\"\n")).await.expect(200);
    assert_eq!(dropped["data"], json!({"y": "1", "z": "3"}));

    let unknown = server.send("PATCH", &url("one"), &media, yaml("  x: \"1\"\nnope: 1\n")).await;
    assert_eq!(
        unknown.message(500),
        "failed to create typed patch object (ns/a; v1, Kind=ConfigMap): .nope: field not declared in schema"
    );
}
