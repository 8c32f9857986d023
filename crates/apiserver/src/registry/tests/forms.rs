//! Encodings and transformations of requests and answers.

use super::*;

#[tokio::test]
async fn bodies_and_answers_come_in_json_yaml_and_protobuf() {
    let server = server();
    let yaml = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: yaml\ndata:\n  k: \"1\"\n";
    let created = server.send("POST", MAPS, &[("content-type", "application/yaml")], yaml).await.expect(201);
    assert_eq!(created["data"], json!({"k": "1"}));
    let proto = "application/vnd.kubernetes.protobuf";
    let body = knarr_api::proto::encode(&map("p", json!({"k": "2"}))).unwrap();
    let reply = server.send("POST", MAPS, &[("content-type", proto), ("accept", proto)], body).await;
    assert_eq!((reply.code, reply.headers["content-type"].to_str().unwrap()), (201, proto));
    let decoded = knarr_api::proto::decode(&reply.body).unwrap();
    assert_eq!(decoded["data"], json!({"k": "2"}));

    let url = format!("{MAPS}/p");
    let json = server.get(&url).await.expect(200);
    let got = server.get_as(&url, proto).await;
    assert_eq!(knarr_api::proto::decode(&got.body).unwrap()["metadata"]["uid"], json["metadata"]["uid"]);
    let list = knarr_api::proto::decode(&server.get_as(MAPS, proto).await.body).unwrap();
    assert_eq!((&list["kind"], list["items"].as_array().unwrap().len()), (&json!("ConfigMapList"), 2));
    let yaml = server.get_as(&url, "application/yaml").await;
    assert!(
        String::from_utf8_lossy(&yaml.body)
            .starts_with("apiVersion: v1\ndata:\n  k: \"2\"\nkind: ConfigMap\n"),
        "{}",
        String::from_utf8_lossy(&yaml.body)
    );
    let missing = server.get_as(&format!("{MAPS}/none"), proto).await;
    let status = knarr_api::proto::decode(&missing.body).unwrap();
    assert_eq!((missing.code, &status["reason"]), (404, &json!("NotFound")));
    let pretty = server.get(&format!("{url}?pretty=true")).await;
    assert!(
        pretty
            .body
            .starts_with(b"{\n  \"kind\": \"ConfigMap\",\n  \"apiVersion\": \"v1\",\n  \"metadata\": {\n")
    );
    assert_eq!(pretty.json(), json);
    assert_eq!(
        server.get_as(&url, "text/html").await.message(406),
        "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf"
    );
}

#[tokio::test]
async fn tables_carry_cells_and_as_much_of_the_object_as_asked_for() {
    let server = server();
    let created = server.post(MAPS, &map("a", json!({"k": "v"}))).await.expect(201);
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    for (query, object) in [
        (
            "",
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": created["metadata"]}),
        ),
        ("?includeObject=None", Value::Null),
        ("?includeObject=Object", created.clone()),
    ] {
        for url in [MAPS.to_owned(), format!("{MAPS}/a")] {
            let reply = server.get_as(&format!("{url}{query}"), table).await.expect(200);
            assert_eq!((&reply["kind"], &reply["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
            assert_eq!(reply["rows"][0]["object"], object, "{url}{query}");
            assert_eq!(reply["rows"][0]["cells"][0], "a");
            let names: Vec<&str> = reply["columnDefinitions"]
                .as_array()
                .unwrap()
                .iter()
                .map(|c| c["name"].as_str().unwrap())
                .collect();
            assert_eq!(names, ["Name", "Data", "Age"]);
            assert!(version(&reply) > 0);
        }
    }
    assert_eq!(
        server.get_as(&format!("{MAPS}?includeObject=x"), table).await.message(400),
        "Unable to convert to Table as requested: includeObject: Invalid value: \"x\": must be 'Metadata', 'Object', 'None', or empty"
    );
    let beta = server.get_as(MAPS, "application/json;as=Table;v=v1beta1;g=meta.k8s.io").await.expect(200);
    assert_eq!(beta["apiVersion"], "meta.k8s.io/v1beta1");
}

#[tokio::test]
async fn metadata_can_be_had_alone() {
    let server = server();
    let created = server.post(MAPS, &map("a", json!({"k": "v"}))).await.expect(201);
    let one = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let list = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let partial = json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": created["metadata"]});
    assert_eq!(server.get_as(&format!("{MAPS}/a"), one).await.expect(200), partial);
    let listed = server.get_as(MAPS, list).await.expect(200);
    assert_eq!((&listed["kind"], &listed["items"]), (&json!("PartialObjectMetadataList"), &json!([partial])));
    assert_eq!(server.get_as(MAPS, one).await.code, 406);
    assert_eq!(server.get_as(&format!("{MAPS}/a"), list).await.code, 406);
    let proto = "application/vnd.kubernetes.protobuf;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let bytes = server.get_as(&format!("{MAPS}/a"), proto).await.body;
    assert_eq!(knarr_api::proto::decode(&bytes).unwrap()["metadata"]["name"], "a");
}

#[tokio::test]
async fn what_is_not_served_is_said_to_be() {
    let server = server();
    assert_eq!(server.get("/api/v1/namespaces/ns/nothing").await.code, 404);
    assert_eq!(server.get("/apis/apps/v2/namespaces/ns/deployments").await.code, 404);
    server.post(MAPS, &map("a", json!({}))).await.expect(201);
    assert_eq!(server.get(&format!("{MAPS}/a/status")).await.code, 404);
    let method = server.put(MAPS, &map("a", json!({}))).await;
    assert_eq!((method.code, &method.json()["reason"]), (405, &json!("MethodNotAllowed")));
}
