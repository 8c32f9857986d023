//! The demo: `knarr up --demo` on a bare machine ends with an answer.

use knarr_e2e::wait::seconds;
use knarr_e2e::{Case, Cluster, cases, wait_for};

pub const CASES: &[Case] = cases![
    the_demo_answers_at_the_address_it_prints,
    both_versions_of_the_app_tier_answer,
    the_demo_runs_from_an_image_that_was_not_pulled,
    it_tells_where_the_kubeconfig_is_and_merges_a_context,
];

/// The node's stable address, the first of the pod range.
const ADDRESS: &str = "http://10.244.0.1:30080";

fn the_demo_answers_at_the_address_it_prints(cluster: &Cluster) {
    let said = cluster.said();
    let printed = said.split_whitespace().find(|word| word.starts_with("http://") && word.contains(":30080"));
    let address = printed.unwrap_or_else(|| panic!("no address in {said}")).trim_end_matches(['.', ',']);
    let heard = cluster.host.http(address).expect("it answers as soon as it is printed");
    assert!(heard.contains("asked the app tier and heard") && heard.contains("Hello from app v"), "{heard}");
}

fn both_versions_of_the_app_tier_answer(cluster: &Cluster) {
    let mut heard = String::new();
    wait_for("both versions", seconds(20), || {
        heard += &cluster.host.http(ADDRESS)?;
        if heard.contains("Hello from app v1") && heard.contains("Hello from app v2") {
            Ok(())
        } else {
            Err(heard.clone())
        }
    });
}

fn the_demo_runs_from_an_image_that_was_not_pulled(cluster: &Cluster) {
    let pods = cluster.kubectl(&["get", "pods", "-n", "demo", "-o", "json"]).json();
    let items = pods["items"].as_array().cloned().unwrap_or_default();
    assert_eq!(items.len(), 3);
    for pod in &items {
        assert_eq!(pod["spec"]["containers"][0]["imagePullPolicy"], "Never");
        assert_eq!(pod["status"]["containerStatuses"][0]["restartCount"], 0, "{pod}");
    }
    let images = cluster.knarr(&["image", "ls"]).ok();
    assert!(images.contains("knarr.local/demo:latest"), "{images}");
}

fn it_tells_where_the_kubeconfig_is_and_merges_a_context(cluster: &Cluster) {
    let said = cluster.said();
    assert!(said.contains("/srv/host/data/admin.kubeconfig"), "{said}");
    assert_eq!(cluster.kubectl(&["config", "current-context"]).ok(), "knarr\n");
    assert!(
        cluster
            .kubectl(&["--kubeconfig", "/srv/host/data/admin.kubeconfig", "get", "nodes"])
            .ok()
            .contains("Ready")
    );
    let mode = cluster
        .host
        .run(&["stat", "-c", "%a", "/srv/host/data/admin.kubeconfig", "/srv/host/home/.kube/config"])
        .ok();
    assert_eq!(mode, "600\n600\n");
}
