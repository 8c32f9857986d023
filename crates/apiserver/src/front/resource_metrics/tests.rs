//! Readings in metrics-server's shapes.

use super::*;
use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};
use usage::{Batch, Point};

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn point(seconds: u64, cpu_seconds: f64, memory_bytes: u64) -> Point {
    Point { time: at(seconds), cpu_seconds, memory_bytes, started: Some(at(1)) }
}

fn batch(seconds: u64, containers: &[(&str, f64)]) -> Batch {
    let points = containers.iter().map(|(name, cpu)| ((*name).to_owned(), point(seconds, *cpu, 3 << 20)));
    let pods = [(("ns".to_owned(), "pod".to_owned()), points.collect::<BTreeMap<_, _>>())];
    let node = Point { started: None, ..point(seconds, seconds as f64 / 4.0, 5_000) };
    Batch { nodes: [("alpha".to_owned(), node)].into(), pods: pods.into() }
}

#[test]
fn nodes_and_pods_are_shown_as_metrics_server_shows_them() {
    let pair = Pair::new(batch(100, &[("a", 1.0), ("b", 2.0)]), batch(115, &[("a", 1.0), ("b", 3.5)]));
    let node = json!({"metadata": {"name": "alpha", "labels": {"os": "linux"}, "uid": "1"}});
    let shown = of_node(&pair, &node, at(120)).unwrap();
    assert_eq!(
        shown,
        json!({
            "kind": "NodeMetrics",
            "apiVersion": "metrics.k8s.io/v1beta1",
            "metadata": {"name": "alpha", "creationTimestamp": "1970-01-01T00:02:00Z", "labels": {"os": "linux"}},
            "timestamp": "1970-01-01T00:01:55Z",
            "window": "15s",
            "usage": {"cpu": "250m", "memory": "5000"},
        })
    );
    let pod = json!({"metadata": {"name": "pod", "namespace": "ns"}});
    let shown = of_pod(&pair, &pod, at(120)).unwrap();
    assert_eq!(
        shown["containers"],
        json!([
            {"name": "a", "usage": {"cpu": "0", "memory": "3Mi"}},
            {"name": "b", "usage": {"cpu": "100m", "memory": "3Mi"}},
        ])
    );
    assert_eq!(cells(&shown, at(120)), [json!("pod"), json!("100m"), json!("6Mi"), json!("15s")]);
    assert_eq!(shown["metadata"]["namespace"], "ns");
}

#[test]
fn what_was_read_once_is_not_shown_unless_its_start_is_known() {
    let mut last = batch(115, &[("a", 1.0), ("b", 3.5)]);
    let pod = json!({"metadata": {"name": "pod", "namespace": "ns"}});
    let since_start = Pair::new(Batch::default(), last.clone());
    assert_eq!(of_pod(&since_start, &pod, at(120)).unwrap()["window"], "1m54s");
    let node = json!({"metadata": {"name": "alpha"}});
    assert!(of_node(&since_start, &node, at(120)).is_none(), "a node's counter has no start");
    let containers = last.pods.values_mut().next().unwrap();
    containers.get_mut("b").unwrap().started = None;
    assert!(of_pod(&Pair::new(Batch::default(), last), &pod, at(120)).is_none(), "all containers or none");
}
