//! Pods that come and go: probes, hooks, exec, logs, restarts, deletions with and without grace, restarts of the
//! daemon. At the end the host is as it was; where it ran for minutes, the daemon has the memory and the open files it
//! had early on. `KNARR_CHURN_MINUTES` says for how long; `30` is the promise's measure.
#![allow(clippy::disallowed_methods)] // outside of any control plane, as the harness

use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, cases, snapshot, wait_for};
use std::time::{Duration, Instant};

pub const CASES: &[Case] = cases![after_a_churn_of_pods_the_host_is_as_it_was_and_memory_flat];

/// How long it runs where nothing is said: a few rounds, each of them with a restart of the daemon.
const SHORT: Duration = Duration::from_secs(20);
/// Shorter runs say nothing about memory: what is kept for good is still growing to its size.
const ENOUGH_FOR_MEMORY: Duration = Duration::from_secs(120);

/// Pods of one round: a deployment behind a service, one that probes and fails, one that ends, one that is deaf.
fn round_of_pods(round: usize) -> String {
    let deployment = format!(
        r#"apiVersion: apps/v1
kind: Deployment
metadata: {{name: web-{round}}}
spec:
  replicas: 3
  selector: {{matchLabels: {{app: web-{round}}}}}
  template:
    metadata: {{labels: {{app: web-{round}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      initContainers: [{{name: init, image: busybox:1.35, command: [sh, -c, 'echo {round} > /v/index.html'], volumeMounts: [{{name: v, mountPath: /v}}]}}]
      containers:
      - name: main
        image: busybox:1.35
        command: [httpd, -f, -p, '8080', -h, /v]
        readinessProbe: {{httpGet: {{port: 8080, path: /index.html}}, periodSeconds: 1}}
        livenessProbe: {{exec: {{command: [cat, /v/index.html]}}, periodSeconds: 1}}
        resources: {{requests: {{cpu: 1m, memory: 8Mi}}, limits: {{memory: 64Mi}}}}
        volumeMounts: [{{name: v, mountPath: /v}}, {{name: m, mountPath: /m}}]
      volumes: [{{name: v, emptyDir: {{}}}}, {{name: m, emptyDir: {{medium: Memory}}}}]
---
apiVersion: v1
kind: Service
metadata: {{name: web-{round}}}
spec: {{selector: {{app: web-{round}}}, ports: [{{port: 80, targetPort: 8080}}]}}
"#
    );
    let pod = |name: &str, command: &str, more: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}-{round}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, \"{command}\"]\n{more}\n"
        )
    };
    let fails = "    livenessProbe: {exec: {command: ['false']}, periodSeconds: 1, failureThreshold: 1}";
    [
        deployment,
        pod("fails", "sleep 1000", fails),
        pod("ends", "echo done; exit 3", "  restartPolicy: OnFailure"),
        pod("deaf", "trap '' TERM; while :; do sleep 1; done", ""),
    ]
    .concat()
}

fn one_round(namespace: &Namespace<'_>, round: usize) {
    namespace.apply(&round_of_pods(round));
    namespace.kubectl(&["rollout", "status", &format!("deployment/web-{round}"), "--timeout=60s"]).ok();
    let deaf = format!("deaf-{round}");
    namespace.wait_until_ready(&deaf);
    for _ in 0..3 {
        assert_eq!(namespace.exec(&deaf, &["echo", "heard"]).ok(), "heard\n");
    }
    wait_for("the log of a pod that ended", seconds(45), || {
        let said = namespace.kubectl(&["logs", &format!("ends-{round}"), "--tail=1"]).result()?;
        if said == "done\n" { Ok(()) } else { Err(said) }
    });
    let restarts = "{.status.containerStatuses[0].restartCount}";
    wait_for("a failed probe restarts its container", seconds(60), || {
        let path = format!("jsonpath={restarts}");
        let count = namespace.kubectl(&["get", "pod", &format!("fails-{round}"), "-o", &path]).result()?;
        if count.parse::<u32>().is_ok_and(|n| n > 0) { Ok(()) } else { Err(count) }
    });
    namespace.kubectl(&["delete", "pod", &deaf, "--grace-period=0", "--force", "--wait=false"]).ok();
    let all = "deployment,service,pod";
    namespace.kubectl(&["delete", all, "--all", "--wait=false"]).ok();
    wait_for("the round's pods are gone", seconds(60), || {
        let left = namespace.kubectl(&["get", "pods", "-o", "name"]).result()?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

/// The daemon's own share of memory in KiB, and how many files it has open.
fn weight(cluster: &Cluster) -> (u64, usize) {
    let pid = cluster.pid();
    let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("the daemon runs");
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("the kernel says it");
    let kib = line.trim().trim_end_matches(" kB").parse().expect("a number");
    (kib, std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the daemon runs").count())
}

/// How long it is to run: the environment's wish, which must be a number of minutes.
fn duration() -> Duration {
    let Ok(text) = std::env::var("KNARR_CHURN_MINUTES") else { return SHORT };
    let minutes: f64 = text.parse().unwrap_or_else(|_| panic!("KNARR_CHURN_MINUTES={text} is no number"));
    Duration::from_secs_f64(60.0 * minutes)
}

fn after_a_churn_of_pods_the_host_is_as_it_was_and_memory_flat(cluster: &Cluster) {
    let whole = duration();
    let before = snapshot::of_pods(&cluster.host);
    let (mut round, mut early) = (0, None);
    {
        let namespace = cluster.namespace();
        let begun = Instant::now();
        while begun.elapsed() < whole {
            one_round(&namespace, round);
            round += 1;
            let passed = begun.elapsed();
            if early.is_none() {
                // The daemon is restarted in the first fifth; its memory is followed from then on.
                if passed < whole / 6 || whole < ENOUGH_FOR_MEMORY {
                    cluster.signal(if round % 2 == 0 { "KILL" } else { "TERM" });
                    cluster.start();
                } else if passed >= whole / 5 {
                    early = Some(weight(cluster));
                }
            }
        }
    }
    assert!(round > 0, "KNARR_CHURN_MINUTES leaves no time for a round");
    println!("churn: {round} rounds of 6 pods in {:.1} min", whole.as_secs_f64() / 60.0);
    if whole >= ENOUGH_FOR_MEMORY {
        let (early, late) = (early.expect("a round is shorter than a fifth of the time"), weight(cluster));
        println!(
            "churn: PSS {} KiB and {} files after a fifth, {} KiB and {} at the end",
            early.0, early.1, late.0, late.1
        );
        assert!(late.0 <= early.0 + early.0 / 4 + (8 << 10), "memory grew: {early:?} {late:?}");
        assert!(late.1 <= early.1 + 16, "open files grew: {early:?} {late:?}");
    }
    snapshot::wait_until_as_before(&cluster.host, &before, seconds(60));
    cluster.signal("KILL");
    cluster.start();
    snapshot::wait_until_as_before(&cluster.host, &before, seconds(60));
}
