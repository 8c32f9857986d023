//! Images: imported, listed, removed, and pulled from a registry in the test host.

use knarr_e2e::cluster::REGISTRY;
use knarr_e2e::host::INSIDE;
use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Spawned, cases, repository, wait_for};

pub const CASES: &[Case] = cases![
    an_imported_image_is_listed_and_can_be_removed,
    images_are_saved_and_come_back_the_same,
    what_is_no_image_is_refused,
    a_pod_runs_an_image_pulled_from_a_registry,
    a_registry_that_wants_a_password_gets_it_from_the_pull_secret,
    a_program_of_the_node_gives_credentials_for_images,
    plain_http_is_spoken_only_where_it_is_configured,
];

/// A registry that serves the busybox archive as `tests/busybox:1`.
fn registry(cluster: &Cluster, arguments: &[&str]) -> Spawned {
    let script = repository().join("e2e/tests/registry.py").display().to_string();
    let archive = format!("{INSIDE}/files/busybox.tar");
    let address = format!("http://{REGISTRY}/v2/");
    let mut line = vec!["python3", &script, &archive, REGISTRY];
    line.extend(arguments);
    let served = cluster.host.spawn(&line);
    wait_for("the registry answers", seconds(20), || {
        let seen = cluster.host.run(&["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &address]);
        if matches!(seen.stdout.as_str(), "200" | "401") { Ok(()) } else { Err(served.said()) }
    });
    served
}

fn pod(name: &str, image: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{more}\n  containers:\n  - {{name: main, image: '{image}', imagePullPolicy: Always, command: [sleep, '3600']}}\n"
    )
}

fn an_imported_image_is_listed_and_can_be_removed(cluster: &Cluster) {
    let listed = cluster.knarr(&["image", "ls"]).ok();
    assert!(
        listed.contains("docker.io/library/busybox:1.35")
            && listed.contains("docker.io/library/busybox:latest"),
        "{listed}"
    );
    cluster.knarr(&["image", "rm", "busybox:latest"]).ok();
    let listed = cluster.knarr(&["image", "ls"]).ok();
    assert!(listed.contains("busybox:1.35") && !listed.contains("busybox:latest"), "{listed}");
    let refused = cluster.knarr(&["image", "rm", "busybox:none"]).refused();
    assert!(refused.contains("busybox:none"), "{refused}");
    cluster.import_busybox();
}

fn images_are_saved_and_come_back_the_same(cluster: &Cluster) {
    let ids = |name: &str| {
        let seen = cluster.knarr(&["image", "inspect", name]).ok();
        let seen: serde_json::Value = serde_json::from_str(&seen).expect("inspect prints JSON");
        (seen[0]["Id"].clone(), seen[0]["RootFS"]["Layers"].clone())
    };
    let before = ids("busybox:1.35");
    cluster.knarr(&["image", "tag", "busybox:1.35", "saved.test/one:v1"]).ok();
    for format in ["docker-archive", "oci-archive"] {
        let file = cluster.host.file(&format!("saved-{format}.tar"), "");
        cluster.knarr(&["image", "save", "--format", format, "-o", &file, "saved.test/one:v1"]).ok();
        cluster.knarr(&["image", "rm", "saved.test/one:v1"]).ok();
        // Through a pipe: the running cluster reads what the command was given.
        let script = "cat \"$0\" | gzip | \"$@\"";
        let mut line = vec!["sh", "-c", script, &file];
        line.extend(cluster.knarr_command(&["image", "import", "-"]));
        cluster.host.run(&line).ok();
        assert_eq!(ids("saved.test/one:v1"), before, "{format}");
    }
    let listed = cluster.knarr(&["image", "ls", "-o", "name"]).ok();
    assert!(listed.lines().any(|line| line == "saved.test/one:v1"), "{listed}");
    let refused = cluster.knarr(&["image", "save", "-o", "/nowhere/x.tar", "saved.test/one:v1"]).refused();
    assert!(refused.contains("/nowhere/x.tar"), "{refused}");
    let refused = cluster.knarr(&["image", "save", "-o", &format!("{INSIDE}/none.tar"), "saved.test/none"]);
    assert!(refused.refused().contains("not found"));
    cluster.knarr(&["image", "rm", "saved.test/one:v1"]).ok();
}

fn what_is_no_image_is_refused(cluster: &Cluster) {
    let file = cluster.host.file("not-an-image", "a text\n");
    let refused = cluster.knarr(&["image", "import", &file]).refused();
    assert!(refused.contains("not-an-image"), "{refused}");
    let refused = cluster.knarr(&["image", "import", "/no/such/file"]).refused();
    assert!(refused.contains("/no/such/file"), "{refused}");
    let refused = cluster.knarr(&["image", "pull", "Not A Name"]).refused();
    assert!(refused.contains("Not A Name"), "{refused}");
}

fn a_pod_runs_an_image_pulled_from_a_registry(cluster: &Cluster) {
    let registry = registry(cluster, &[]);
    let namespace = cluster.namespace();
    namespace.apply(&pod("pulled", &format!("{REGISTRY}/tests/busybox:1"), ""));
    let pod = namespace.wait_until_ready("pulled");
    let id = pod["status"]["containerStatuses"][0]["imageID"].as_str().unwrap_or_default();
    assert!(id.contains("@sha256:"), "{id}");
    let events = namespace.kubectl(&["get", "events"]).ok();
    assert!(events.contains("Pulling image") && events.contains("Successfully pulled image"), "{events}");
    cluster.knarr(&["image", "pull", &format!("{REGISTRY}/tests/busybox:1")]).ok();
    let refused = cluster.knarr(&["image", "pull", &format!("{REGISTRY}/tests/busybox:2")]).refused();
    assert!(refused.contains("not found"), "{refused} {}", registry.said());
}

fn a_registry_that_wants_a_password_gets_it_from_the_pull_secret(cluster: &Cluster) {
    let _registry = registry(cluster, &["carol", "secret"]);
    let namespace = cluster.namespace();
    let image = format!("{REGISTRY}/tests/busybox:1");
    namespace.apply(&pod("refused", &image, ""));
    wait_for("the refusal is told", seconds(30), || {
        let events = namespace.kubectl(&["get", "events"]).ok();
        if events.contains("401") || events.to_lowercase().contains("authorization") {
            Ok(())
        } else {
            Err(events)
        }
    });
    namespace
        .kubectl(&[
            "create",
            "secret",
            "docker-registry",
            "pull",
            &format!("--docker-server={REGISTRY}"),
            "--docker-username=carol",
            "--docker-password=secret",
        ])
        .ok();
    namespace.apply(&pod("let-in", &image, "  imagePullSecrets: [{name: pull}]"));
    namespace.wait_until_ready("let-in");
}

fn a_program_of_the_node_gives_credentials_for_images(cluster: &Cluster) {
    use std::os::unix::fs::PermissionsExt;
    let _registry = registry(cluster, &["carol", "secret"]);
    let answer = format!(
        "{{\"kind\":\"CredentialProviderResponse\",\"apiVersion\":\"credentialprovider.kubelet.k8s.io/v1\",\"cacheKeyType\":\"Registry\",\"auth\":{{\"{REGISTRY}\":{{\"username\":\"carol\",\"password\":\"secret\"}}}}}}"
    );
    cluster.host.file("tells", format!("#!/bin/sh\ncat >> {INSIDE}/files/asked\necho '{answer}'\n"));
    let executable = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(cluster.host.dir.join("files/tells"), executable)
        .expect("it can be made executable");
    let config = cluster.host.file(
        "providers.yaml",
        format!(
            "apiVersion: kubelet.config.k8s.io/v1\nkind: CredentialProviderConfig\nproviders:\n- name: tells\n  apiVersion: credentialprovider.kubelet.k8s.io/v1\n  matchImages: ['{REGISTRY}']\n  defaultCacheDuration: 1h\n"
        ),
    );
    let programs = format!("{INSIDE}/files");
    cluster.signal("TERM");
    cluster.start_with(&[
        "--image-credential-provider-config",
        &config,
        "--image-credential-provider-bin-dir",
        &programs,
    ]);
    let namespace = cluster.namespace();
    let image = format!("{REGISTRY}/tests/busybox:1");
    for name in ["first", "second"] {
        namespace.apply(&pod(name, &image, ""));
        namespace.wait_until_ready(name);
    }
    let asked = std::fs::read_to_string(cluster.host.dir.join("files/asked")).expect("it was asked");
    assert_eq!(asked.matches("CredentialProviderRequest").count(), 1, "{asked}");
    assert!(asked.contains(&format!("\"image\":\"{REGISTRY}/tests/busybox\"")), "{asked}");
    cluster.signal("TERM");
    cluster.start();
}

fn plain_http_is_spoken_only_where_it_is_configured(cluster: &Cluster) {
    let registry = registry(cluster, &[]);
    let asked = || registry.said().matches("GET /v2/").count();
    let before = asked();
    // The same registry at another address, which no flag names.
    let seen = cluster.host.http("http://10.244.0.1:5000/v2/");
    assert!(seen.is_ok() && asked() == before + 1, "{seen:?}");
    let refused = cluster.knarr(&["image", "pull", "10.244.0.1:5000/tests/busybox:1"]).refused();
    assert!(refused.contains("10.244.0.1:5000") && asked() == before + 1, "{refused} {}", registry.said());
}
