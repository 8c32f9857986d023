//! Streams: logs, exec, attach, cp and port-forward, over SPDY (the oldest kubectl) and WebSocket (the newest).

use knarr_e2e::kubectl::{self, Kubectl};
use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, Namespace, cases, wait_for};
use std::io::Write;

pub const CASES: &[Case] = cases![
    logs_follow_as_lines_are_written,
    logs_know_tails_times_and_containers,
    exec_carries_input_output_and_exit_code,
    exec_gives_a_terminal,
    attach_joins_a_running_container,
    cp_goes_both_ways,
    port_forward_carries_many_connections,
    a_large_stream_arrives_whole,
];

const POD: &str = r#"apiVersion: v1
kind: Pod
metadata: {name: talker}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: talker
    image: busybox:1.35
    stdin: true
    command: [sh, -c, 'hostname > /www/index.html; httpd -p 8080 -h /www; echo ready; while read line; do echo heard $line; done; sleep 3600']
  - name: ticker
    image: busybox:1.35
    command: [sh, -c, 'i=0; while :; do echo tick $i; i=$((i+1)); sleep 1; done']
"#;

fn talker(cluster: &Cluster) -> Namespace<'_> {
    let namespace = cluster.namespace();
    namespace.apply(POD);
    namespace.wait_until_ready("talker");
    namespace
}

fn both() -> [&'static Kubectl; 2] {
    [kubectl::oldest(), kubectl::newest()]
}

fn logs_follow_as_lines_are_written(cluster: &Cluster) {
    let namespace = talker(cluster);
    let line = namespace.kubectl_line(kubectl::newest(), &["logs", "-f", "talker", "-c", "ticker"]);
    let mut follow = cluster.host.spawn(&line);
    let said = follow.wait_for_text("tick 4", seconds(20));
    let wanted: Vec<String> = (0..said.lines().count()).map(|i| format!("tick {i}")).collect();
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted);
    namespace.kubectl(&["delete", "pod", "talker", "--wait=false"]).ok();
    assert_eq!(follow.wait_for_end(seconds(20)), 0, "following ends with the container");
}

fn logs_know_tails_times_and_containers(cluster: &Cluster) {
    let namespace = talker(cluster);
    let refused = namespace.kubectl(&["logs", "talker", "-c", "nobody"]).refused();
    assert!(refused.contains("container nobody is not valid for pod talker"), "{refused}");
    wait_for("three ticks", seconds(20), || {
        let said = namespace.kubectl(&["logs", "talker", "-c", "ticker"]).result()?;
        if said.lines().count() >= 3 { Ok(()) } else { Err(said) }
    });
    assert_eq!(namespace.kubectl(&["logs", "talker", "-c", "ticker", "--tail=1"]).ok().lines().count(), 1);
    assert_eq!(namespace.kubectl(&["logs", "talker", "-c", "talker", "--limit-bytes=3"]).ok(), "rea");
    let times = namespace.kubectl(&["logs", "talker", "-c", "talker", "--timestamps"]).ok();
    assert!(times.starts_with("20") && times.trim_end().ends_with("Z ready"), "{times}");
    let all = namespace.kubectl(&["logs", "talker", "--all-containers", "--prefix"]).ok();
    assert!(all.contains("[pod/talker/talker] ready") && all.contains("[pod/talker/ticker] tick 0"), "{all}");
    let since = namespace.kubectl(&["logs", "talker", "-c", "talker", "--since=1h"]).ok();
    assert_eq!(since, "ready\n");
    let refused = namespace.kubectl(&["logs", "talker", "-c", "talker", "--previous"]).refused();
    assert!(
        refused.contains("previous terminated container \"talker\" in pod \"talker\" not found"),
        "{refused}"
    );
}

fn exec_carries_input_output_and_exit_code(cluster: &Cluster) {
    let namespace = talker(cluster);
    for version in both() {
        let line = |arguments: &[&str], input: &str| {
            let mut all = vec!["--namespace", &namespace.name, "exec"];
            all.extend(arguments);
            cluster.kubectl_with(version, &all, input.as_bytes(), seconds(20))
        };
        let seen = line(
            &["talker", "-c", "talker", "-i", "--", "sh", "-c", "tr a-z A-Z; echo problem >&2; exit 42"],
            "hello\n",
        );
        assert_eq!((seen.code, seen.stdout.as_str()), (42, "HELLO\n"), "1.{}: {seen}", version.minor);
        assert!(seen.stderr.contains("problem\n"), "1.{}: {seen}", version.minor);
        let seen = line(&["talker", "-c", "talker", "--", "/no/such/program"], "");
        assert!(
            seen.code != 0 && seen.stderr.contains("no such file or directory"),
            "1.{}: {seen}",
            version.minor
        );
        let seen = line(&["talker", "-c", "nobody", "--", "true"], "");
        assert!(seen.code != 0 && seen.stderr.contains("nobody"), "1.{}: {seen}", version.minor);
    }
}

fn exec_gives_a_terminal(cluster: &Cluster) {
    let namespace = talker(cluster);
    for version in both() {
        let path = version.path.display();
        let command = format!(
            "{path} --namespace {} exec -it talker -c talker -- sh -c 'tty; [ -t 0 ] && echo terminal; until stty size 2>/dev/null | grep 33; do usleep 50000; done'",
            namespace.name
        );
        let line = format!("stty rows 33 cols 99; {command}");
        let seen = cluster.host.run(&["script", "-qec", &line, "/dev/null"]);
        assert!(
            seen.stdout.contains("terminal\r\n") && seen.stdout.contains("/dev/pts/"),
            "1.{}: {seen}",
            version.minor
        );
        assert!(seen.stdout.contains("33 99"), "1.{}: the size came over: {seen}", version.minor);
    }
}

fn attach_joins_a_running_container(cluster: &Cluster) {
    for version in both() {
        let namespace = talker(cluster);
        let line = namespace.kubectl_line(version, &["attach", "-i", "talker", "-c", "talker"]);
        let (mut attached, mut stdin) = cluster.host.spawn_with_stdin(&line);
        stdin.write_all(b"one\n").expect("it reads");
        attached.wait_for_text("heard one", seconds(15));
        stdin.write_all(b"two\n").expect("it reads");
        attached.wait_for_text("heard two", seconds(15));
        let said = namespace.kubectl(&["logs", "talker", "-c", "talker"]).ok();
        assert!(said.ends_with("ready\nheard one\nheard two\n"), "1.{}: {said}", version.minor);
    }
}

fn cp_goes_both_ways(cluster: &Cluster) {
    let namespace = talker(cluster);
    let text = "carried over\n".repeat(50_000);
    let here = cluster.host.file("carried", &text);
    for version in both() {
        let back = format!("{here}.back");
        let k = |arguments: &[&str]| namespace.kubectl_of(version, arguments).ok();
        k(&["cp", &here, "talker:/tmp/carried", "-c", "talker"]);
        k(&["cp", "talker:/tmp/carried", &back, "-c", "talker"]);
        let outside =
            std::fs::read_to_string(cluster.host.dir.join("files/carried.back")).unwrap_or_default();
        assert!(outside == text, "1.{}: {} of {} bytes came back", version.minor, outside.len(), text.len());
        let _ = std::fs::remove_file(cluster.host.dir.join("files/carried.back"));
    }
}

fn port_forward_carries_many_connections(cluster: &Cluster) {
    let namespace = talker(cluster);
    for (version, port) in both().into_iter().zip(["18181", "18182"]) {
        let ports = format!("{port}:8080");
        let line = namespace.kubectl_line(version, &["port-forward", "pod/talker", &ports]);
        let mut forward = cluster.host.spawn(&line);
        forward.wait_for_text("Forwarding from", seconds(15));
        for _ in 0..10 {
            let heard = cluster.host.http(&format!("http://127.0.0.1:{port}/"));
            assert_eq!(heard.as_deref(), Ok("talker\n"), "1.{}: {}", version.minor, forward.said());
        }
        let refused = namespace.kubectl_line(version, &["port-forward", "pod/talker", "18190:9"]);
        let mut forward = cluster.host.spawn(&refused);
        forward.wait_for_text("Forwarding from", seconds(15));
        assert!(cluster.host.http("http://127.0.0.1:18190/").is_err(), "nobody listens there");
        forward.wait_for_text("error forwarding port 9 to pod", seconds(15));
    }
}

fn a_large_stream_arrives_whole(cluster: &Cluster) {
    let namespace = talker(cluster);
    for version in both() {
        let arguments = [
            "--namespace",
            &namespace.name,
            "exec",
            "talker",
            "-c",
            "talker",
            "--",
            "sh",
            "-c",
            "seq 1 300000",
        ];
        let seen = cluster.kubectl_with(version, &arguments, b"", seconds(60));
        let lines = seen.stdout.lines().count();
        assert!(
            seen.code == 0 && lines == 300_000 && seen.stdout.ends_with("300000\n"),
            "1.{}: {lines} lines, {}",
            version.minor,
            seen.stderr
        );
    }
}
