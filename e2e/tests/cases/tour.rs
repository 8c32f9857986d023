//! The tour: what people do with kubectl all day, with every version of it, against a control plane alone.

use knarr_e2e::kubectl::{self, Kubectl};
use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, cases, example, wait_for};

pub const CASES: &[Case] = cases![
    every_kubectl_reads_and_writes_objects,
    every_kubectl_prints_tables_and_templates,
    every_kubectl_explains_and_discovers,
    every_kubectl_rolls_a_deployment_forth_and_back,
    every_kubectl_applies_diffs_and_edits,
    every_kubectl_asks_what_it_may_do,
    watches_show_changes_as_they_happen,
    deleting_in_the_foreground_waits_for_dependents,
    deleting_with_orphan_leaves_dependents,
    a_deleted_namespace_takes_everything_with_it,
    a_service_account_may_do_only_what_it_was_given,
];

fn each(cluster: &Cluster, tour: impl Fn(&Namespace<'_>, &dyn Fn(&[&str]) -> String)) {
    for version in kubectl::all() {
        let namespace = cluster.namespace();
        println!("  kubectl 1.{}", version.minor);
        tour(&namespace, &|arguments| namespace.kubectl_of(version, arguments).ok());
    }
}

fn has(text: &str, wanted: &[&str]) {
    for word in wanted {
        assert!(text.contains(word), "{word:?} is missing in: {text}");
    }
}

fn every_kubectl_reads_and_writes_objects(cluster: &Cluster) {
    each(cluster, |_, k| {
        has(
            &k(&["create", "configmap", "colours", "--from-literal=sky=blue"]),
            &["configmap/colours created"],
        );
        k(&["label", "configmap", "colours", "tier=web"]);
        k(&["annotate", "configmap", "colours", "note=written by a test"]);
        has(&k(&["get", "configmaps", "-l", "tier=web", "-o", "name"]), &["configmap/colours"]);
        k(&["patch", "configmap", "colours", "-p", r#"{"data":{"sea":"green"}}"#]);
        k(&["patch", "configmap", "colours", "--type=merge", "-p", r#"{"data":{"sky":"grey"}}"#]);
        k(&[
            "patch",
            "configmap",
            "colours",
            "--type=json",
            "-p",
            r#"[{"op":"add","path":"/data/sun","value":"gold"}]"#,
        ]);
        let data = k(&["get", "configmap", "colours", "-o", "jsonpath={.data.sky} {.data.sea} {.data.sun}"]);
        assert_eq!(data, "grey green gold");
        k(&["create", "secret", "generic", "keys", "--from-literal=door=1234"]);
        assert_eq!(k(&["get", "secret", "keys", "-o", "jsonpath={.data.door}"]), "MTIzNA==");
        has(&k(&["describe", "secret", "keys"]), &["door:  4 bytes", "Opaque"]);
        k(&["create", "service", "clusterip", "plain", "--tcp=80:8080"]);
        k(&["create", "serviceaccount", "robot"]);
        k(&["create", "role", "reader", "--verb=get", "--resource=pods"]);
        k(&["create", "rolebinding", "robots-read", "--role=reader", "--serviceaccount=default:robot"]);
        k(&["create", "job", "once", "--image=busybox:1.35"]);
        has(&k(&["get", "all"]), &["service/plain", "job.batch/once"]);
        has(&k(&["delete", "configmap", "colours"]), &["configmap \"colours\" deleted"]);
        k(&["delete", "service,secret,job", "--all"]);
    });
}

fn every_kubectl_prints_tables_and_templates(cluster: &Cluster) {
    each(cluster, |namespace, k| {
        namespace.apply(&example("deployment.yaml"));
        k(&["wait", "deployment/hello", "--for=jsonpath={.status.replicas}=5", "--timeout=20s"]);
        has(&k(&["get", "deployments"]), &["NAME", "READY", "UP-TO-DATE", "AVAILABLE", "AGE", "0/5"]);
        has(
            &k(&["get", "deployments", "-o", "wide"]),
            &["CONTAINERS", "IMAGES", "SELECTOR", "busybox:1.35", "app=hello"],
        );
        has(&k(&["get", "replicasets"]), &["DESIRED", "CURRENT", "READY"]);
        has(&k(&["get", "pods", "--show-labels"]), &["STATUS", "RESTARTS", "Pending", "pod-template-hash="]);
        has(&k(&["get", "deployment", "hello", "-o", "yaml"]), &["apiVersion: apps/v1", "kind: Deployment"]);
        let names = k(&[
            "get",
            "pods",
            "-o",
            "custom-columns=NAME:.metadata.name,IMAGE:.spec.containers[0].image",
            "--sort-by=.metadata.name",
        ]);
        assert_eq!(names.matches("busybox:1.35").count(), 5, "{names}");
        assert_eq!(k(&["get", "pods", "-o", "go-template={{range .items}}x{{end}}"]), "xxxxx");
        assert_eq!(
            k(&[
                "get",
                "pods",
                "--field-selector=status.phase=Pending",
                "-o",
                "jsonpath={.items[*].status.phase}"
            ])
            .split(' ')
            .count(),
            5
        );
        assert_eq!(k(&["get", "pods", "--chunk-size=2", "-o", "name"]).lines().count(), 5);
        has(
            &k(&["describe", "deployment", "hello"]),
            &["RollingUpdateStrategy:", "25% max unavailable, 25% max surge", "ScalingReplicaSet"],
        );
        has(&k(&["describe", "pods"]), &["Controlled By:    ReplicaSet/hello-", "Node-Selectors:"]);
        has(&k(&["get", "events"]), &["SuccessfulCreate", "replicaset/hello-"]);
        has(&k(&["get", "namespaces"]), &["Active", "kube-system"]);
        has(&k(&["get", "services", "-A"]), &["CLUSTER-IP", "10.96.0.1", "443/TCP"]);
    });
}

fn every_kubectl_explains_and_discovers(cluster: &Cluster) {
    each(cluster, |_, k| {
        has(
            &k(&["api-resources"]),
            &["deployments", "deploy", "apps/v1", "configmaps", "cm", "clusterroles"],
        );
        has(&k(&["api-resources", "--namespaced=false", "-o", "name"]), &["nodes", "namespaces"]);
        has(&k(&["api-versions"]), &["apps/v1", "batch/v1", "rbac.authorization.k8s.io/v1"]);
        has(&k(&["explain", "pod.spec.containers"]), &["image", "livenessProbe", "KIND:"]);
        has(&k(&["explain", "deployment.spec.strategy", "--recursive"]), &["maxSurge", "maxUnavailable"]);
        has(&k(&["version"]), &["Server Version"]);
        has(&k(&["cluster-info"]), &["control plane"]);
        has(&k(&["get", "--raw", "/readyz?verbose"]), &["readyz check passed"]);
        has(&k(&["get", "--raw", "/healthz"]), &["ok"]);
        has(&k(&["get", "--raw", "/metrics"]), &["apiserver_request_total"]);
    });
}

fn every_kubectl_rolls_a_deployment_forth_and_back(cluster: &Cluster) {
    each(cluster, |_, k| {
        k(&["create", "deployment", "shop", "--image=busybox:1.35", "--replicas=2"]);
        k(&["set", "image", "deployment/shop", "busybox=busybox:latest"]);
        k(&["wait", "deployment/shop", "--for=jsonpath={.status.observedGeneration}=2", "--timeout=20s"]);
        k(&["annotate", "deployment/shop", "kubernetes.io/change-cause=the newest"]);
        has(&k(&["rollout", "history", "deployment/shop"]), &["REVISION", "CHANGE-CAUSE", "1", "2"]);
        has(&k(&["rollout", "status", "deployment/shop", "--watch=false"]), &["Waiting for deployment"]);
        has(&k(&["rollout", "undo", "deployment/shop"]), &["rolled back"]);
        assert_eq!(
            k(&["get", "deployment", "shop", "-o", "jsonpath={.spec.template.spec.containers[0].image}"]),
            "busybox:1.35"
        );
        k(&["rollout", "pause", "deployment/shop"]);
        k(&["rollout", "resume", "deployment/shop"]);
        k(&["rollout", "restart", "deployment/shop"]);
        k(&["scale", "deployment/shop", "--replicas=3"]);
        k(&["scale", "deployment/shop", "--current-replicas=3", "--replicas=1"]);
        k(&["wait", "deployment/shop", "--for=jsonpath={.spec.replicas}=1", "--timeout=5s"]);
        k(&["expose", "deployment", "shop", "--port=80", "--target-port=8080"]);
        has(&k(&["get", "service", "shop", "-o", "wide"]), &["80/TCP", "app=shop"]);
        has(&k(&["set", "env", "deployment/shop", "COLOUR=blue"]), &["env updated"]);
        has(&k(&["set", "resources", "deployment/shop", "--requests=cpu=10m"]), &["requirements updated"]);
        k(&["delete", "deployment", "shop"]);
    });
}

fn every_kubectl_applies_diffs_and_edits(cluster: &Cluster) {
    for version in kubectl::all() {
        println!("  kubectl 1.{}", version.minor);
        applies_diffs_and_edits(cluster, version);
    }
}

fn applies_diffs_and_edits(cluster: &Cluster, version: &Kubectl) {
    let namespace = cluster.namespace();
    let k = |arguments: &[&str]| namespace.kubectl_of(version, arguments).ok();
    let manifest =
        |replicas: u32| example("deployment.yaml").replace("replicas: 5", &format!("replicas: {replicas}"));
    let first = cluster.host.file("first.yaml", manifest(2));
    let second = cluster.host.file("second.yaml", manifest(3));
    has(&k(&["apply", "-f", &first, "--dry-run=server"]), &["created (server dry run)"]);
    has(&k(&["apply", "-f", &first]), &["deployment.apps/hello created"]);
    has(&k(&["apply", "-f", &first]), &["unchanged"]);
    let diff = namespace.kubectl_of(version, &["diff", "-f", &second]);
    assert_eq!(diff.code, 1, "{diff}");
    has(&diff.stdout, &["-  replicas: 2", "+  replicas: 3"]);
    has(&k(&["apply", "-f", &second]), &["configured"]);
    has(&k(&["apply", "view-last-applied", "deployment/hello"]), &["replicas: 3"]);
    has(&k(&["replace", "-f", &first]), &["replaced"]);
    has(&k(&["apply", "-f", &second, "--server-side", "--force-conflicts"]), &["serverside-applied"]);
    let fields = k(&["get", "deployment", "hello", "-o", "json", "--show-managed-fields"]);
    has(&fields, &["\"manager\": \"kubectl\"", "\"operation\": \"Apply\""]);
    let editor = cluster.host.file("editor", "sed -i 's/^  replicas: 3/  replicas: 4/' \"$1\"\n");
    let (program, editor) = (version.path.to_string_lossy(), format!("KUBE_EDITOR=sh {editor}"));
    let edit = ["env", &editor, &program, "-n", &namespace.name, "edit", "deployment", "hello"];
    has(&cluster.host.run(&edit).ok(), &["edited"]);
    assert_eq!(k(&["get", "deployment", "hello", "-o", "jsonpath={.spec.replicas}"]), "4");
    has(
        &k(&["apply", "-f", &first, "--prune", "--prune-allowlist=apps/v1/Deployment", "-l", "app=hello"]),
        &["configured"],
    );
    has(&k(&["delete", "-f", &first]), &["deleted"]);
    has(&k(&["create", "-f", &first, "--dry-run=client", "-o", "yaml"]), &["kind: Deployment"]);
}

fn every_kubectl_asks_what_it_may_do(cluster: &Cluster) {
    each(cluster, |namespace, k| {
        assert_eq!(k(&["auth", "can-i", "create", "pods"]).trim(), "yes");
        let robot = format!("--as=system:serviceaccount:{}:default", namespace.name);
        let denied = namespace.kubectl(&["auth", "can-i", "delete", "nodes", &robot]);
        assert_eq!(denied.stdout.trim(), "no", "{denied}");
        has(&k(&["auth", "can-i", "--list"]), &["Resources", "*.*"]);
    });
    let whoami = cluster.kubectl(&["auth", "whoami", "-o", "json"]).json();
    assert!(whoami["status"]["userInfo"]["groups"].to_string().contains("system:masters"), "{whoami}");
}

fn watches_show_changes_as_they_happen(cluster: &Cluster) {
    let namespace = cluster.namespace();
    let newest = kubectl::newest();
    let line = namespace.kubectl_line(newest, &["get", "configmaps", "-w", "--output-watch-events"]);
    let mut watch = cluster.host.spawn(&line);
    namespace.kubectl(&["create", "configmap", "seen"]).ok();
    watch.wait_for_text("ADDED", seconds(10));
    namespace.kubectl(&["label", "configmap", "seen", "a=b"]).ok();
    watch.wait_for_text("MODIFIED", seconds(10));
    namespace.kubectl(&["delete", "configmap", "seen"]).ok();
    watch.wait_for_text("DELETED", seconds(10));
}

fn deployment_of_two(namespace: &Namespace<'_>) {
    namespace.kubectl(&["create", "deployment", "two", "--image=busybox:1.35", "--replicas=2"]).ok();
    wait_for("two pods", seconds(20), || {
        let pods = namespace.kubectl(&["get", "pods", "-o", "name"]).result()?;
        if pods.lines().count() == 2 { Ok(()) } else { Err(pods) }
    });
}

fn deleting_in_the_foreground_waits_for_dependents(cluster: &Cluster) {
    let namespace = cluster.namespace();
    deployment_of_two(&namespace);
    namespace.kubectl(&["delete", "deployment", "two", "--cascade=foreground", "--timeout=30s"]).ok();
    let left = namespace.kubectl(&["get", "replicasets,pods", "-o", "name"]).ok();
    assert_eq!(left, "", "the owner went before its dependents");
}

fn deleting_with_orphan_leaves_dependents(cluster: &Cluster) {
    let namespace = cluster.namespace();
    deployment_of_two(&namespace);
    namespace.kubectl(&["delete", "deployment", "two", "--cascade=orphan", "--timeout=30s"]).ok();
    let sets = namespace.kubectl(&["get", "replicasets", "-o", "json"]).json();
    assert_eq!(sets["items"].as_array().map(Vec::len), Some(1), "{sets}");
    assert!(sets["items"][0]["metadata"]["ownerReferences"].is_null(), "{sets}");
    assert_eq!(namespace.kubectl(&["get", "pods", "-o", "name"]).ok().lines().count(), 2);
    namespace.kubectl(&["delete", "replicasets", "--all", "--timeout=30s"]).ok();
    wait_for("the garbage collector takes the pods", seconds(20), || {
        let pods = namespace.kubectl(&["get", "pods", "-o", "name"]).result()?;
        if pods.is_empty() { Ok(()) } else { Err(pods) }
    });
}

fn a_deleted_namespace_takes_everything_with_it(cluster: &Cluster) {
    let namespace = cluster.namespace();
    deployment_of_two(&namespace);
    namespace.kubectl(&["create", "configmap", "held"]).ok();
    namespace
        .kubectl(&["patch", "configmap", "held", "-p", r#"{"metadata":{"finalizers":["example.com/hold"]}}"#])
        .ok();
    cluster.kubectl(&["delete", "namespace", &namespace.name, "--wait=false"]).ok();
    let refused = namespace.kubectl(&["create", "configmap", "late"]).refused();
    has(&refused, &["because it is being terminated"]);
    wait_for("only what has a finalizer is left", seconds(30), || {
        let left =
            namespace.kubectl(&["get", "deployments,replicasets,pods,configmaps", "-o", "name"]).result()?;
        if left.trim() == "configmap/held" { Ok(()) } else { Err(left) }
    });
    wait_for("the namespace says what it waits for", seconds(20), || {
        let text = cluster.kubectl(&["get", "namespace", &namespace.name, "-o", "json"]).result()?;
        if text.contains("example.com/hold in 1 resource instances") { Ok(()) } else { Err(text) }
    });
    namespace
        .kubectl(&[
            "patch",
            "configmap",
            "held",
            "--type=json",
            "-p",
            r#"[{"op":"remove","path":"/metadata/finalizers"}]"#,
        ])
        .ok();
    wait_for("the namespace is gone", seconds(30), || {
        let seen = cluster.kubectl(&["get", "namespace", &namespace.name]);
        if seen.stderr.contains("NotFound") { Ok(()) } else { Err(seen.to_string()) }
    });
}

fn a_service_account_may_do_only_what_it_was_given(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.kubectl(&["create", "serviceaccount", "robot"]).ok();
    namespace.kubectl(&["create", "configmap", "colours", "--from-literal=sky=blue"]).ok();
    let token = namespace.kubectl(&["create", "token", "robot"]).ok();
    let bearer = format!("Authorization: Bearer {}", token.trim());
    let path = format!("/api/v1/namespaces/{}/configmaps/colours", namespace.name);
    let user = format!("system:serviceaccount:{}:robot", namespace.name);
    let (code, body) = cluster.curl(&["-H", &bearer], &path, b"");
    assert_eq!(code, 403, "{body}");
    has(
        &body,
        &[&format!(
            r#"configmaps \"colours\" is forbidden: User \"{user}\" cannot get resource \"configmaps\" in API group \"\" in the namespace \"{}\""#,
            namespace.name
        )],
    );
    namespace.kubectl(&["create", "role", "reader", "--verb=get", "--resource=configmaps"]).ok();
    namespace
        .kubectl(&[
            "create",
            "rolebinding",
            "robots",
            "--role=reader",
            &format!("--serviceaccount={}:robot", namespace.name),
        ])
        .ok();
    wait_for("the right is in force", seconds(10), || match cluster.curl(&["-H", &bearer], &path, b"") {
        (200, body) if body.contains("blue") => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let (code, body) = cluster.curl(&["-H", &bearer, "-X", "DELETE"], &path, b"");
    assert_eq!(code, 403, "{body}");
}
