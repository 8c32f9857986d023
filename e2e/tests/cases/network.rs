//! The network: services of every type, names, and who can reach whom.

use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, cases, example, wait_for};

pub const CASES: &[Case] = cases![
    a_web_tier_calls_its_app_tier_by_name,
    a_service_spreads_and_sticks_as_told,
    names_resolve_as_upstream_has_them,
    a_headless_service_names_its_pods,
    a_service_without_selector_leads_where_its_endpoints_say,
    pods_nodes_and_services_reach_each_other,
    a_pod_reaches_the_api_with_its_token,
    a_dead_service_refuses_at_once,
    a_host_port_leads_to_its_pod,
];

/// A pod to ask from, and one that answers its name over HTTP.
fn asker(namespace: &Namespace<'_>) {
    namespace.apply(&example("pod.yaml"));
    namespace.wait_until_ready("hello");
}

fn answerer(namespace: &Namespace<'_>, name: &str) {
    namespace.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: answers}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  hostname: {name}\n  subdomain: answers\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, 'hostname > /www/index.html; exec httpd -f -p 8080 -h /www']\n    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}\n"
    ));
}

/// Debian's busybox crashes at its own `wget -T`, so `timeout` ends it; its exit code is then 143.
fn ask(namespace: &Namespace<'_>, url: &str) -> Result<String, String> {
    namespace.exec("hello", &["timeout", "4", "wget", "-qO-", url]).result()
}

fn wait_for_answer(namespace: &Namespace<'_>, url: &str) -> String {
    wait_for(url, seconds(20), || ask(namespace, url))
}

fn a_web_tier_calls_its_app_tier_by_name(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply(&example("two-tier.yaml"));
    for tier in ["app", "web"] {
        namespace.kubectl(&["rollout", "status", &format!("deployment/{tier}"), "--timeout=60s"]).ok();
    }
    let service = namespace.get("service/web");
    let port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("a node port");
    let node = cluster
        .kubectl(&[
            "get",
            "nodes",
            "-o",
            "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}",
        ])
        .ok();
    for address in [node.as_str(), "127.0.0.1"] {
        let url = format!("http://{address}:{port}/cgi-bin/ask");
        let heard = wait_for(&url, seconds(20), || cluster.host.http(&url));
        assert!(heard.contains("The web tier heard:\nHello from app-"), "{heard}");
    }
}

fn a_service_spreads_and_sticks_as_told(cluster: &Cluster) {
    let namespace = cluster.namespace();
    asker(&namespace);
    for name in ["one", "two", "three"] {
        answerer(&namespace, name);
    }
    for name in ["one", "two", "three"] {
        namespace.wait_until_ready(name);
    }
    namespace.kubectl(&["create", "service", "clusterip", "answers", "--tcp=80:8080"]).ok();
    wait_for_answer(&namespace, "http://answers");
    let heard = || {
        let script =
            "for i in $(seq 40); do timeout 4 wget -qO- http://answers; done | sort | uniq -c | wc -l";
        namespace.exec("hello", &["sh", "-c", script]).ok().trim().parse::<u32>().expect("a number")
    };
    wait_for("all three answer", seconds(20), || match heard() {
        3 => Ok(()),
        n => Err(n.to_string()),
    });
    namespace
        .kubectl(&["patch", "service", "answers", "-p", r#"{"spec":{"sessionAffinity":"ClientIP"}}"#])
        .ok();
    wait_for("one answers", seconds(20), || match heard() {
        1 => Ok(()),
        n => Err(n.to_string()),
    });
}

fn names_resolve_as_upstream_has_them(cluster: &Cluster) {
    let namespace = cluster.namespace();
    asker(&namespace);
    let resolv = namespace.exec("hello", &["cat", "/etc/resolv.conf"]).ok();
    assert!(
        resolv.contains(&format!(
            "search {}.svc.cluster.local svc.cluster.local cluster.local",
            namespace.name
        )),
        "{resolv}"
    );
    assert!(resolv.contains("nameserver 10.96.0.10") && resolv.contains("options ndots:5"), "{resolv}");
    let lookup = |name: &str| namespace.exec("hello", &["nslookup", name]);
    wait_for("kubernetes.default", seconds(20), || {
        let answer = lookup("kubernetes.default.svc.cluster.local");
        if answer.stdout.contains("10.96.0.1") { Ok(()) } else { Err(answer.to_string()) }
    });
    let srv = namespace
        .exec("hello", &["nslookup", "-type=srv", "_https._tcp.kubernetes.default.svc.cluster.local"]);
    assert!(
        srv.stdout.contains("0 100 443 kubernetes.default.svc.cluster.local") || srv.stdout.contains("443"),
        "{srv}"
    );
    let absent = lookup("nobody.default.svc.cluster.local");
    assert!(absent.stdout.contains("NXDOMAIN") || absent.stderr.contains("NXDOMAIN"), "{absent}");
    let ip = namespace.get("pod/hello")["status"]["podIP"].as_str().expect("an address").to_owned();
    let dashed = lookup(&format!("{}.{}.pod.cluster.local", ip.replace('.', "-"), namespace.name));
    assert!(dashed.stdout.contains(&ip), "{dashed}");
    let reverse = lookup("10.96.0.1");
    assert!(reverse.stdout.contains("kubernetes.default.svc.cluster.local"), "{reverse}");
    namespace.apply(&example("external.yaml"));
    wait_for("the external name", seconds(20), || {
        let answer = namespace.exec(
            "hello",
            &["nslookup", "-type=cname", &format!("outside.{}.svc.cluster.local", namespace.name)],
        );
        if answer.stdout.contains("www.example.com") { Ok(()) } else { Err(answer.to_string()) }
    });
}

fn a_headless_service_names_its_pods(cluster: &Cluster) {
    let namespace = cluster.namespace();
    asker(&namespace);
    namespace.apply("apiVersion: v1\nkind: Service\nmetadata: {name: answers}\nspec: {clusterIP: None, selector: {app: answers}, ports: [{name: http, port: 8080}]}\n");
    answerer(&namespace, "one");
    answerer(&namespace, "two");
    let (one, two) = (namespace.wait_until_ready("one"), namespace.wait_until_ready("two"));
    let ip = |pod: &serde_json::Value| pod["status"]["podIP"].as_str().expect("an address").to_owned();
    wait_for("both addresses", seconds(20), || {
        let answer =
            namespace.exec("hello", &["nslookup", &format!("answers.{}.svc.cluster.local", namespace.name)]);
        if answer.stdout.contains(&ip(&one)) && answer.stdout.contains(&ip(&two)) {
            Ok(())
        } else {
            Err(answer.to_string())
        }
    });
    let heard = wait_for_answer(&namespace, "http://two.answers:8080");
    assert_eq!(heard, "two\n");
}

fn a_service_without_selector_leads_where_its_endpoints_say(cluster: &Cluster) {
    let namespace = cluster.namespace();
    asker(&namespace);
    answerer(&namespace, "one");
    let ip = namespace.wait_until_ready("one")["status"]["podIP"].as_str().expect("an address").to_owned();
    namespace.apply(&example("external.yaml").replace("192.0.2.10", &ip));
    assert_eq!(wait_for_answer(&namespace, "http://elsewhere"), "one\n");
    let slices = namespace
        .kubectl(&["get", "endpointslices", "-l", "kubernetes.io/service-name=elsewhere", "-o", "json"])
        .json();
    assert_eq!(
        slices["items"][0]["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"],
        "endpointslicemirroring-controller.k8s.io"
    );
}

fn pods_nodes_and_services_reach_each_other(cluster: &Cluster) {
    let namespace = cluster.namespace();
    asker(&namespace);
    answerer(&namespace, "one");
    let one = namespace.wait_until_ready("one");
    namespace.kubectl(&["expose", "pod", "one", "--port=80", "--target-port=8080"]).ok();
    let ip = one["status"]["podIP"].as_str().expect("an address");
    let service = namespace.get("service/one")["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    let direct = format!("http://{ip}:8080");
    assert_eq!(ask(&namespace, &direct), Ok("one\n".to_owned()), "pod to pod");
    assert_eq!(cluster.host.http(&direct), Ok("one\n".to_owned()), "node to pod");
    wait_for_answer(&namespace, &format!("http://{service}"));
    assert_eq!(cluster.host.http(&format!("http://{service}")), Ok("one\n".to_owned()), "node to service");
    let itself = namespace.exec("one", &["timeout", "4", "wget", "-qO-", &format!("http://{service}")]).ok();
    assert_eq!(itself, "one\n", "a pod to itself through its service");
    let outside = namespace.exec("hello", &["ping", "-c", "1", "-W", "2", ip]);
    assert_eq!(outside.code, 0, "{outside}");
}

fn a_pod_reaches_the_api_with_its_token(cluster: &Cluster) {
    let namespace = cluster.namespace();
    // busybox's own TLS knows no modern suite, so the pod borrows the machine's curl.
    let folders = ["usr", "lib", "lib64"];
    let mounts: String =
        folders.iter().map(|f| format!("{{name: {f}, mountPath: /{f}, readOnly: true}}, ")).collect();
    let volumes: String =
        folders.iter().map(|f| format!("{{name: {f}, hostPath: {{path: /{f}}}}}, ")).collect();
    namespace.apply(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: hello}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - {{name: main, image: 'busybox:1.35', command: [sleep, '3600'], volumeMounts: [{mounts}]}}\n  volumes: [{volumes}]\n"));
    namespace.wait_until_ready("hello");
    let dir = "/var/run/secrets/kubernetes.io/serviceaccount";
    let files = namespace
        .exec("hello", &["sh", "-c", &format!("cat {dir}/namespace; echo; head -1 {dir}/ca.crt")])
        .ok();
    assert_eq!(files, format!("{}\n-----BEGIN CERTIFICATE-----\n", namespace.name));
    let script = format!(
        "/usr/bin/curl -sS -m 5 --cacert {dir}/ca.crt -H \"Authorization: Bearer $(cat {dir}/token)\" -H 'Content-Type: application/json' --data '{{\"apiVersion\":\"authentication.k8s.io/v1\",\"kind\":\"SelfSubjectReview\"}}' https://kubernetes.default/apis/authentication.k8s.io/v1/selfsubjectreviews"
    );
    let heard = wait_for("the API answers the pod", seconds(20), || {
        namespace.exec("hello", &["sh", "-c", &script]).result()
    });
    assert!(heard.contains(&format!("system:serviceaccount:{}:default", namespace.name)), "{heard}");
    assert!(heard.contains("authentication.kubernetes.io/pod-name"), "{heard}");
    let environment = namespace.exec("hello", &["env"]).ok();
    assert!(
        environment.contains("KUBERNETES_SERVICE_HOST=10.96.0.1")
            && environment.contains("KUBERNETES_SERVICE_PORT=443"),
        "{environment}"
    );
}

fn a_dead_service_refuses_at_once(cluster: &Cluster) {
    let namespace = cluster.namespace();
    asker(&namespace);
    namespace.kubectl(&["create", "service", "clusterip", "nobody", "--tcp=80:8080"]).ok();
    wait_for("the connection is refused", seconds(20), || {
        let seen = namespace.exec("hello", &["timeout", "4", "wget", "-qO-", "http://nobody"]);
        if seen.stderr.contains("refused") { Ok(()) } else { Err(seen.to_string()) }
    });
    let seen = namespace.exec("hello", &["timeout", "4", "wget", "-qO-", "http://10.96.200.200"]);
    assert!(!matches!(seen.code, 0 | 143), "an address nobody has: {seen}");
    let seen = namespace.exec("hello", &["timeout", "4", "wget", "-qO-", "http://10.244.0.250"]);
    assert!(!matches!(seen.code, 0 | 143), "a pod nobody is: {seen}");
}

fn a_host_port_leads_to_its_pod(cluster: &Cluster) {
    let namespace = cluster.namespace();
    namespace.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: own}\nspec:\n  hostNetwork: true\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, 'hostname > /www/index.html; exec httpd -f -p 18080 -h /www']\n");
    namespace.wait_until_ready("own");
    let heard = wait_for("the host's network", seconds(10), || cluster.host.http("http://127.0.0.1:18080"));
    assert_eq!(heard, format!("{}\n", cluster.host.name));
    namespace.kubectl(&["delete", "pod", "own", "--timeout=20s"]).ok();
    namespace.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: port}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, 'hostname > /www/index.html; exec httpd -f -p 8080 -h /www']\n    ports: [{containerPort: 8080, hostPort: 18081}]\n");
    namespace.wait_until_ready("port");
    let node = cluster
        .kubectl(&[
            "get",
            "nodes",
            "-o",
            "jsonpath={.items[0].status.addresses[?(@.type=='InternalIP')].address}",
        ])
        .ok();
    let url = format!("http://{node}:18081");
    assert_eq!(wait_for(&url, seconds(20), || cluster.host.http(&url)), "port\n");
}
