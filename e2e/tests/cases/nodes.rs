//! Two machines, joined by a cable: one joins the other's cluster, pods and services work across, and a machine that is
//! lost is noticed, replaced and taken back.

use knarr_e2e::cluster::THRESHOLDS;
use knarr_e2e::host::{INSIDE, KNARR};
use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, Spawned, TestHost, cases, snapshot, wait_for};
use serde_json::Value;

pub const CASES: &[Case] = cases![
    a_second_machine_joins_and_leaves,
    an_agent_waits_for_its_server,
    certificates_are_renewed_while_an_agent_runs,
    a_machine_behind_a_router_joins,
    a_lost_node_is_noticed_and_taken_back,
];

const FIRST: &str = "192.0.2.1";
const SECOND: &str = "192.0.2.2";

/// The second machine.
struct Beta {
    host: TestHost,
    process: Option<Spawned>,
}

impl Beta {
    fn line<'a>(&'a self, command: &[&'a str]) -> Vec<&'a str> {
        let mut line =
            vec![KNARR, command[0], "--data-dir", "/srv/host/data", "--cgroup-root", &self.host.cgroup];
        line.extend(THRESHOLDS);
        line.extend(&command[1..]);
        line
    }

    /// Starts the agent and waits until it is ready; what it said.
    fn start(&mut self, arguments: &[&str]) -> String {
        let mut command = vec!["agent"];
        command.extend(arguments);
        let mut spawned = self.host.spawn(&self.line(&command));
        let said = spawned.wait_for_text("Ready after", seconds(60));
        self.process = Some(spawned);
        said
    }

    fn join(cluster: &Cluster) -> Self {
        Self::join_with(cluster, &[])
    }

    /// Joins a cluster that is started with these flags.
    fn join_with(cluster: &Cluster, flags: &[&str]) -> Self {
        let host = TestHost::new("beta");
        cluster.host.connect("wire", &format!("{FIRST}/24"), &host, &format!("{SECOND}/24"));
        Self::join_from(cluster, host, SECOND, flags)
    }

    /// Joins from a machine that reaches the first one.
    fn join_from(cluster: &Cluster, host: TestHost, address: &str, flags: &[&str]) -> Self {
        cluster.start_with(&[&["--node-ip", FIRST], flags].concat());
        cluster.import_busybox();
        let mut beta = Self { host, process: None };
        let token =
            wait_for("a token", seconds(10), || cluster.knarr(&["token", "create", "--ttl=1h"]).result());
        let server = format!("https://{FIRST}:6443");
        beta.start(&["--server", &server, "--token", token.trim(), "--node-ip", address]);
        std::fs::copy(cluster.host.dir.join("files/busybox.tar"), beta.host.dir.join("files/busybox.tar"))
            .expect("the image was made");
        beta.host.run(&beta.line(&["image", "import", &format!("{INSIDE}/files/busybox.tar")])).ok();
        beta
    }
}

/// A pod on a node that answers HTTP with its name.
fn answerer(namespace: &Namespace<'_>, name: &str, node: &str) {
    namespace.apply(&format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  nodeName: {node}\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, 'echo started; hostname > /www/index.html; exec httpd -f -p 8080 -h /www']\n    readinessProbe: {{tcpSocket: {{port: 8080}}, periodSeconds: 1}}\n---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec:\n  type: NodePort\n  selector: {{app: {name}}}\n  ports: [{{port: 80, targetPort: 8080}}]\n"
    ));
}

fn ask(namespace: &Namespace<'_>, pod: &str, url: &str) -> String {
    wait_for(&format!("{pod} asks {url}"), seconds(20), || {
        namespace.exec(pod, &["timeout", "4", "wget", "-qO-", url]).result()
    })
}

fn a_second_machine_joins_and_leaves(cluster: &Cluster) {
    let before = snapshot::take(&cluster.host);
    let mut beta = Beta::join(cluster);
    let nodes = cluster.kubectl(&["get", "nodes", "-o", "json"]).json();
    let ranges: Vec<&Value> =
        nodes["items"].as_array().into_iter().flatten().map(|n| &n["spec"]["podCIDR"]).collect();
    assert_eq!(ranges, ["10.244.1.0/24", "10.244.0.0/24"], "beta, then nodes");
    let namespace = cluster.namespace();
    answerer(&namespace, "here", "nodes");
    answerer(&namespace, "there", "beta");
    let ip = |pod: &str| {
        namespace.wait_until_ready(pod)["status"]["podIP"].as_str().unwrap_or_default().to_owned()
    };
    let (here, there) = (ip("here"), ip("there"));
    assert!(there.starts_with("10.244.1.") && here.starts_with("10.244.0."), "{here} {there}");
    for (from, to, to_ip) in [("here", "there", &there), ("there", "here", &here)] {
        assert_eq!(ask(&namespace, from, &format!("http://{to_ip}:8080")).trim(), to);
        // By name: each node's own DNS, and the service proxy.
        assert_eq!(ask(&namespace, from, &format!("http://{to}")).trim(), to);
    }
    // Node ports on either node lead to either pod, from inside and from the other machine.
    for pod in ["here", "there"] {
        let service = namespace.get(&format!("service/{pod}"));
        let port = service["spec"]["ports"][0]["nodePort"].as_u64().expect("a node port");
        for (host, node) in
            [(&cluster.host, SECOND), (&beta.host, FIRST), (&beta.host, SECOND), (&cluster.host, FIRST)]
        {
            let url = format!("http://{node}:{port}");
            let heard = wait_for(&url, seconds(20), || host.http(&url));
            assert_eq!(heard.trim(), pod, "{url}");
        }
    }
    // The API server reaches the other kubelet, and trusts its certificate by the cluster's CA.
    let logs =
        wait_for("logs of the other node", seconds(20), || namespace.kubectl(&["logs", "there"]).result());
    assert_eq!(logs.trim(), "started");
    assert_eq!(namespace.exec("there", &["hostname"]).ok().trim(), "there");
    let requests = cluster.kubectl(&["get", "csr", "--no-headers"]).ok();
    assert_eq!(requests.matches("Approved,Issued").count(), 2, "{requests}");

    // A restart needs no token, and the pods live through it.
    let mut process = beta.process.take().expect("it runs");
    process.signal("TERM");
    process.wait_for_end(seconds(30));
    beta.start(&[]);
    assert_eq!(ask(&namespace, "here", &format!("http://{there}:8080")).trim(), "there");
    let again = cluster.kubectl(&["get", "csr", "--no-headers"]).ok();
    assert_eq!(again.lines().count(), 2, "no new certificates: {again}");

    beta.host.run(&beta.line(&["down", "--purge"])).ok();
    let left = snapshot::take(&beta.host);
    let ours: Vec<&String> = left
        .iter()
        .filter(|line| ["knarr", "10.244", "10.96", " kn"].iter().any(|word| line.contains(word)))
        .filter(|line| !line.starts_with("mount:"))
        .collect();
    assert!(ours.is_empty(), "{ours:#?}");
    cluster.kubectl(&["delete", "node", "beta"]).ok();
    wait_for("no route to the node that is gone", seconds(10), || {
        let routes = cluster.host.run(&["ip", "route"]).result()?;
        if routes.contains("10.244.1.0/24") { Err(routes) } else { Ok(()) }
    });
    drop(namespace);
    cluster.knarr(&["down", "--purge"]).ok();
    drop(beta);
    let after = snapshot::take(&cluster.host);
    // The cable goes with the other machine.
    let left: Vec<&String> = after.difference(&before).filter(|line| !line.contains("wire")).collect();
    assert!(left.is_empty(), "{left:#?}");
}

/// The first machine is away when the agent starts: what runs on goes on, and the agent is ready once it is back.
fn an_agent_waits_for_its_server(cluster: &Cluster) {
    let mut beta = Beta::join(cluster);
    let namespace = cluster.namespace();
    answerer(&namespace, "there", "beta");
    let ip = namespace.wait_until_ready("there")["status"]["podIP"].as_str().unwrap_or_default().to_owned();
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    let before = id(&namespace.get("pod/there"));
    let mut process = beta.process.take().expect("it runs");
    process.signal("KILL");
    process.wait_for_end(seconds(30));
    cluster.signal("TERM");
    let mut agent = beta.host.spawn(&beta.line(&["agent"]));
    // The pod answers on its own machine although neither agent nor server are there.
    let url = format!("http://{ip}:8080");
    assert_eq!(wait_for(&url, seconds(20), || beta.host.http(&url)).trim(), "there");
    cluster.start_with(&["--node-ip", FIRST]);
    agent.wait_for_text("Ready after", seconds(60));
    beta.process = Some(agent);
    answerer(&namespace, "late", "beta");
    namespace.wait_until_ready("late");
    assert_eq!(id(&namespace.wait_until_ready("there")), before, "it was not restarted");
    leave(cluster, beta, namespace);
}

/// The signer gives certificates a minute: the agent goes on beyond the end of its first ones, and starts with later ones.
fn certificates_are_renewed_while_an_agent_runs(cluster: &Cluster) {
    let mut beta = Beta::join_with(cluster, &["--cluster-signing-duration", "1m"]);
    let namespace = cluster.namespace();
    let pki = format!("{INSIDE}/data/pki");
    let first = format!("{INSIDE}/files/first.pem");
    beta.host.run(&["cp", &format!("{pki}/kubelet-client.pem"), &first]).ok();
    let is_over = |file: &str| {
        let checked = beta.host.run(&["openssl", "x509", "-noout", "-checkend", "0", "-in", file]);
        checked.result().is_err()
    };
    let shown = || {
        let ask = format!("openssl s_client -connect {SECOND}:10250 </dev/null 2>&1 | openssl x509 -text");
        cluster.host.run(&["sh", "-c", &ask]).result()
    };
    assert!(!is_over(&first));
    let served = wait_for("a serving certificate", seconds(20), shown);
    wait_for("the end of the first certificate", seconds(90), || {
        if is_over(&first) { Ok(()) } else { Err("not yet".to_owned()) }
    });
    // The kubelet is heard, hears, and is trusted.
    answerer(&namespace, "there", "beta");
    namespace.wait_until_ready("there");
    assert_eq!(namespace.kubectl(&["logs", "there"]).ok().trim(), "started");
    assert!(!is_over(&format!("{pki}/kubelet-client.pem")));
    assert_ne!(shown().expect("it serves"), served);
    let said = beta.process.as_ref().map(Spawned::said).unwrap_or_default();
    assert!(!said.contains("no new certificate yet"), "{said}");

    let mut process = beta.process.take().expect("it runs");
    process.signal("TERM");
    process.wait_for_end(seconds(30));
    beta.start(&[]);
    answerer(&namespace, "later", "beta");
    namespace.wait_until_ready("later");
    assert_eq!(namespace.kubectl(&["logs", "later"]).ok().trim(), "started");
    leave(cluster, beta, namespace);
}

/// Where no cable leads from node to node, pods reach each other through a tunnel (VXLAN).
fn a_machine_behind_a_router_joins(cluster: &Cluster) {
    const FAR: &str = "198.51.100.2";
    let (router, host) = (TestHost::new("router"), TestHost::new("beta"));
    cluster.host.connect("near", &format!("{FIRST}/24"), &router, "192.0.2.254/24");
    host.connect("far", &format!("{FAR}/24"), &router, "198.51.100.254/24");
    router.run(&["sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"]).ok();
    cluster.host.run(&["ip", "route", "add", "198.51.100.0/24", "via", "192.0.2.254"]).ok();
    host.run(&["ip", "route", "add", "192.0.2.0/24", "via", "198.51.100.254"]).ok();
    let beta = Beta::join_from(cluster, host, FAR, &[]);
    let namespace = cluster.namespace();
    answerer(&namespace, "here", "nodes");
    answerer(&namespace, "there", "beta");
    let ip = |pod: &str| {
        namespace.wait_until_ready(pod)["status"]["podIP"].as_str().unwrap_or_default().to_owned()
    };
    for (from, to, to_ip) in [("here", "there", ip("there")), ("there", "here", ip("here"))] {
        assert_eq!(ask(&namespace, from, &format!("http://{to_ip}:8080")).trim(), to);
        assert_eq!(ask(&namespace, from, &format!("http://{to}")).trim(), to);
    }
    // More than a packet: what does not fit through the tunnel would hang here.
    namespace.exec("there", &["sh", "-c", "head -c 300000 /dev/zero > /www/much"]).ok();
    let much = format!("http://{}:8080/much", ip("there"));
    let read = namespace.exec("here", &["sh", "-c", &format!("timeout 10 wget -qO- {much} | wc -c")]);
    assert_eq!(read.ok().trim(), "300000");
    leave(cluster, beta, namespace);
    cluster.host.run(&["ip", "link", "delete", "near"]).ok();
}

/// Takes both machines down.
fn leave(cluster: &Cluster, beta: Beta, namespace: Namespace<'_>) {
    beta.host.run(&beta.line(&["down", "--purge"])).ok();
    drop(namespace);
    cluster.knarr(&["down", "--purge"]).ok();
}

fn condition(node: &Value) -> (String, String) {
    let conditions = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let ready = conditions.into_iter().find(|c| c["type"] == "Ready").unwrap_or_default();
    let text = |key: &str| ready[key].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}

fn a_lost_node_is_noticed_and_taken_back(cluster: &Cluster) {
    let mut beta = Beta::join(cluster);
    let namespace = cluster.namespace();
    // Patient for two seconds only, and rather on beta.
    namespace.apply(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 1\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      terminationGracePeriodSeconds: 1\n      affinity:\n        nodeAffinity:\n          preferredDuringSchedulingIgnoredDuringExecution:\n          - weight: 100\n            preference: {matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [beta]}]}\n      tolerations:\n      - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 2}\n      containers: [{name: main, image: busybox:1.35, command: [sleep, '3600']}]\n",
    );
    namespace.kubectl(&["rollout", "status", "deployment/web", "--timeout=60s"]).ok();
    let nodes_of = || {
        let line = ["get", "pods", "-o", "jsonpath={range .items[*]}{.spec.nodeName}={.status.phase} {end}"];
        namespace.kubectl(&line).ok()
    };
    assert_eq!(nodes_of().trim(), "beta=Running");

    drop(beta.process.take()); // killed; its pods run on
    let lost = namespace.wait_until("node/beta", seconds(90), |node| condition(node).0 == "Unknown");
    assert_eq!(condition(&lost).1, "NodeStatusUnknown");
    namespace.wait_until("node/beta", seconds(20), |node| {
        let taints = node["spec"]["taints"].as_array().cloned().unwrap_or_default();
        ["NoSchedule", "NoExecute"].iter().all(|effect| {
            taints.iter().any(|t| t["key"] == "node.kubernetes.io/unreachable" && t["effect"] == *effect)
        })
    });
    wait_for("the pod is replaced", seconds(30), || {
        let seen = nodes_of();
        if seen.contains("nodes=Running") { Ok(()) } else { Err(seen) }
    });
    // The old one cannot be confirmed dead: it stays, on its way out.
    assert!(nodes_of().contains("beta="), "{}", nodes_of());

    beta.start(&[]);
    namespace.wait_until("node/beta", seconds(20), |node| {
        condition(node).0 == "True" && node["spec"]["taints"].is_null()
    });
    wait_for("the old pod is gone", seconds(20), || {
        let seen = nodes_of();
        if seen.trim() == "nodes=Running" { Ok(()) } else { Err(seen) }
    });
    beta.host.run(&beta.line(&["down", "--purge"])).ok();
    cluster.knarr(&["down", "--purge"]).ok();
}
