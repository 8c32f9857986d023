//! Who may do what, in tables: RBAC, the node authorizer, escalation, and the words of refusals.

use super::*;
use rules::Rule;
use serde_json::{Value, json};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A reader over objects in memory; every change raises the revision.
#[derive(Default)]
pub(crate) struct Objects {
    list: Mutex<Vec<(String, String, Arc<Value>)>>,
    revision: AtomicU64,
}

impl Objects {
    pub(crate) fn of(list: &[(&str, &str, Value)]) -> Arc<Self> {
        let objects = Arc::new(Self::default());
        for (group, resource, value) in list {
            objects.add(group, resource, value.clone());
        }
        objects
    }

    pub(crate) fn add(&self, group: &str, resource: &str, value: Value) {
        self.list.lock().unwrap().push((group.into(), resource.into(), Arc::new(value)));
        self.revision.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn clear(&self, resource: &str) {
        self.list.lock().unwrap().retain(|(_, r, _)| r != resource);
        self.revision.fetch_add(1, Ordering::SeqCst);
    }
}

impl Reader for Objects {
    fn get(&self, group: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
        self.list(group, resource, namespace).into_iter().find(|o| {
            o["metadata"]["name"] == name
                && o["metadata"]["namespace"].as_str().unwrap_or_default() == namespace
        })
    }
    fn list(&self, group: &str, resource: &str, namespace: &str) -> Vec<Arc<Value>> {
        let list = self.list.lock().unwrap();
        let wanted = list.iter().filter(|(g, r, o)| {
            g == group && r == resource && (namespace.is_empty() || o["metadata"]["namespace"] == namespace)
        });
        wanted.map(|(_, _, o)| o.clone()).collect()
    }
    fn revision(&self, _: &str, _: &str) -> u64 {
        self.revision.load(Ordering::SeqCst)
    }
}

/// `verb group/resource/subresource namespace name`, `-` for nothing.
fn ask(user: &Arc<UserInfo>, question: &str) -> Attributes {
    let own = |text: &str| if text == "-" { String::new() } else { text.to_owned() };
    let words: Vec<&str> = question.split(' ').collect();
    if let [verb, path] = words.as_slice() {
        return Attributes { user: user.clone(), verb: own(verb), path: own(path), ..Attributes::default() };
    }
    let mut resource = words[1].split('/');
    let mut next = || own(resource.next().unwrap_or("-"));
    Attributes {
        user: user.clone(),
        verb: own(words[0]),
        is_resource: true,
        group: next(),
        resource: next(),
        subresource: next(),
        namespace: own(words[2]),
        name: own(words.get(3).copied().unwrap_or("-")),
        fields: words.get(4).map(|fields| exact_fields(fields)).unwrap_or_default(),
        ..Attributes::default()
    }
}

fn allowed(authorizer: &dyn Authorizer, user: &Arc<UserInfo>, question: &str) -> bool {
    matches!(authorizer.authorize(&ask(user, question)), Decision::Allow(_))
}

fn rbac_objects() -> Arc<Objects> {
    let binding = |kind: &str, name: &str, namespace: &str, role: Value, subject: Value| {
        (
            rbac::GROUP,
            if kind == "ClusterRoleBinding" { "clusterrolebindings" } else { "rolebindings" },
            json!({"metadata": {"name": name, "namespace": namespace}, "roleRef": role, "subjects": [subject]}),
        )
    };
    let cluster_role = |name: &str, rules: Value| {
        (rbac::GROUP, "clusterroles", json!({"metadata": {"name": name}, "rules": rules}))
    };
    Objects::of(&[
        cluster_role(
            "reader",
            json!([
                {"verbs": ["get", "list"], "apiGroups": [""], "resources": ["pods", "pods/log"]},
                {"verbs": ["get"], "nonResourceURLs": ["/metrics", "/docs/*"]},
            ]),
        ),
        cluster_role("scaler", json!([{"verbs": ["update"], "apiGroups": ["*"], "resources": ["*/scale"]}])),
        cluster_role(
            "one",
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["secrets"], "resourceNames": ["only"]}]),
        ),
        (
            rbac::GROUP,
            "roles",
            json!({"metadata": {"name": "edit", "namespace": "dev"}, "rules": [{"verbs": ["*"], "apiGroups": ["apps"], "resources": ["*"]}]}),
        ),
        binding(
            "ClusterRoleBinding",
            "readers",
            "",
            json!({"kind": "ClusterRole", "name": "reader"}),
            json!({"kind": "Group", "name": "team"}),
        ),
        binding(
            "ClusterRoleBinding",
            "scalers",
            "",
            json!({"kind": "ClusterRole", "name": "scaler"}),
            json!({"kind": "User", "name": "bob"}),
        ),
        binding(
            "RoleBinding",
            "editors",
            "dev",
            json!({"kind": "Role", "name": "edit"}),
            json!({"kind": "User", "name": "bob"}),
        ),
        binding(
            "RoleBinding",
            "robots",
            "dev",
            json!({"kind": "ClusterRole", "name": "one"}),
            json!({"kind": "ServiceAccount", "name": "robot", "namespace": "ci"}),
        ),
        binding(
            "RoleBinding",
            "broken",
            "dev",
            json!({"kind": "Role", "name": "gone"}),
            json!({"kind": "User", "name": "carol"}),
        ),
    ])
}

#[test]
fn rbac_grants_what_bindings_say_and_nothing_else() {
    let chain = Chain::new(rbac_objects());
    let ann = Arc::new(UserInfo::new("ann", &["team"]));
    let bob = Arc::new(UserInfo::new("bob", &[]));
    let robot = Arc::new(UserInfo::new("system:serviceaccount:ci:robot", &[]));
    let admin = Arc::new(UserInfo::new("root", &["system:masters"]));
    for (user, question, want) in [
        (&ann, "get /pods dev x", true),
        (&ann, "list /pods -", true),
        (&ann, "get /pods/log dev x", true),
        (&ann, "get /pods/exec dev x", false),
        (&ann, "delete /pods dev x", false),
        (&ann, "get apps/pods dev x", false),
        (&ann, "get /metrics", true),
        (&ann, "get /docs/a/b", true),
        (&ann, "get /docs", false),
        (&ann, "get /healthz", true),
        (&ann, "get /healthzz", false),
        (&bob, "update apps/deployments/scale prod x", true),
        (&bob, "update apps/deployments prod x", false),
        (&bob, "delete apps/deployments dev x", true),
        (&bob, "delete apps/deployments prod x", false),
        (&bob, "list apps/deployments -", false),
        (&robot, "get /secrets dev only", true),
        (&robot, "get /secrets dev other", false),
        (&robot, "list /secrets dev", false),
        (&robot, "get /secrets ci only", false),
        (&admin, "delete /nodes - x", true),
    ] {
        assert_eq!(allowed(&chain, user, question), want, "{} {question}", user.name);
    }
}

#[test]
fn refusals_are_worded_as_upstream_words_them() {
    let chain = Chain::new(rbac_objects());
    let refuse = |user: &str, question: &str| {
        let question = ask(&Arc::new(UserInfo::new(user, &[])), question);
        let Decision::NoOpinion(reason) = chain.authorize(&question) else {
            panic!("{user} is permitted {question:?}")
        };
        forbidden(&question, &reason).message
    };
    for (user, question, message) in [
        (
            "x",
            "list /pods default",
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#,
        ),
        (
            "x",
            "get apps/deployments/scale default web",
            r#"deployments.apps "web" is forbidden: User "x" cannot get resource "deployments/scale" in API group "apps" in the namespace "default""#,
        ),
        (
            "x",
            "list /nodes -",
            r#"nodes is forbidden: User "x" cannot list resource "nodes" in API group "" at the cluster scope"#,
        ),
        ("x", "get /metrics", r#"forbidden: User "x" cannot get path "/metrics""#),
        (
            "carol",
            "list /pods dev",
            r#"pods is forbidden: User "carol" cannot list resource "pods" in API group "" in the namespace "dev": RBAC: role.rbac.authorization.k8s.io "gone" not found"#,
        ),
    ] {
        assert_eq!(refuse(user, question), message);
    }
    let bob = Arc::new(UserInfo::new("bob", &[]));
    assert_eq!(
        chain.authorize(&ask(&bob, "delete apps/deployments dev x")),
        Decision::Allow(r#"RBAC: allowed by RoleBinding "editors/dev" of Role "edit" to User "bob""#.into())
    );
}

#[test]
fn a_changed_binding_counts_at_the_next_request() {
    let objects = rbac_objects();
    let chain = Chain::new(objects.clone());
    let ann = Arc::new(UserInfo::new("ann", &["team"]));
    assert!(allowed(&chain, &ann, "get /pods dev x"));
    objects.clear("clusterrolebindings");
    assert!(!allowed(&chain, &ann, "get /pods dev x"));
}

#[test]
fn a_node_reaches_only_what_its_own_pods_need() {
    let pod = |name: &str, node: &str, secret: &str| {
        (
            "",
            "pods",
            json!({
                "metadata": {"name": name, "namespace": "dev"},
                "spec": {
                    "nodeName": node, "serviceAccountName": format!("{name}-sa"),
                    "containers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": format!("{name}-env")}}}], "envFrom": [{"secretRef": {"name": format!("{name}-all")}}]}],
                    "volumes": [{"name": "a", "secret": {"secretName": secret}}, {"name": "b", "persistentVolumeClaim": {"claimName": format!("{name}-claim")}},
                        {"name": "c", "projected": {"sources": [{"configMap": {"name": format!("{name}-projected")}}]}}],
                    "imagePullSecrets": [{"name": "registry"}],
                },
            }),
        )
    };
    let chain = Chain::new(Objects::of(&[
        pod("mine", "alpha", "tls"),
        pod("other", "beta", "theirs"),
        (
            "",
            "persistentvolumes",
            json!({"metadata": {"name": "pv"}, "spec": {"claimRef": {"namespace": "dev", "name": "mine-claim"}, "csi": {"nodeStageSecretRef": {"name": "stage", "namespace": "csi"}}}}),
        ),
        (
            "",
            "persistentvolumes",
            json!({"metadata": {"name": "pv2"}, "spec": {"claimRef": {"namespace": "dev", "name": "other-claim"}}}),
        ),
    ]));
    let alpha = Arc::new(UserInfo::new("system:node:alpha", &["system:nodes"]));
    for (question, want) in [
        ("get /secrets dev tls", true),
        ("get /secrets dev mine-all", true),
        ("watch /secrets dev registry", true),
        ("get /secrets csi stage", true),
        ("get /secrets dev theirs", false),
        ("get /secrets prod tls", false),
        ("list /secrets dev", false),
        ("update /secrets dev tls", false),
        ("get /configmaps dev mine-env", true),
        ("get /configmaps dev mine-projected", true),
        ("get /configmaps dev other-env", false),
        ("get /persistentvolumeclaims dev mine-claim", true),
        ("get /persistentvolumes - pv", true),
        ("get /persistentvolumes - pv2", false),
        ("create /serviceaccounts/token dev mine-sa", true),
        ("create /serviceaccounts/token dev other-sa", false),
        ("get /nodes - alpha", true),
        ("get /nodes - beta", false),
        ("list /nodes -", false),
        ("list /nodes - alpha metadata.name=alpha", true),
        ("patch /nodes/status - alpha", true),
        ("delete /nodes - alpha", false),
        ("get /pods dev mine", true),
        ("get /pods dev other", false),
        ("list /pods - - spec.nodeName=alpha", true),
        ("list /pods - - spec.nodeName=beta", false),
        ("watch /pods -", false),
        ("patch /pods/status dev mine", true),
        ("create /pods/eviction dev mine", true),
        ("update coordination.k8s.io/leases kube-node-lease alpha", true),
        ("update coordination.k8s.io/leases kube-node-lease beta", false),
        ("update coordination.k8s.io/leases kube-system alpha", false),
        ("create coordination.k8s.io/leases kube-node-lease", true),
        ("get storage.k8s.io/csinodes - alpha", true),
        ("get storage.k8s.io/csinodes - beta", false),
        ("list /services -", true),
        ("create /services dev x", false),
        ("create /events dev x", true),
        ("create authentication.k8s.io/tokenreviews -", true),
    ] {
        assert_eq!(allowed(&chain, &alpha, question), want, "{question}");
    }
    let outsider = Arc::new(UserInfo::new("system:node:alpha", &[]));
    assert!(!allowed(&chain, &outsider, "get /nodes - alpha"), "the name alone is nothing without the group");
}

#[test]
fn rules_cover_others_only_when_they_permit_all_of_it() {
    let rule = |verbs: &[&str], group: &str, resources: &[&str], names: &[&str]| Rule {
        names: names.iter().map(|n| (*n).to_owned()).collect(),
        ..Rule::resources(verbs, group, resources)
    };
    for (held, wanted, covered) in [
        (
            rule(&["*"], "*", &["*"], &[]),
            rule(&["get", "delete"], "apps", &["deployments", "deployments/scale"], &[]),
            true,
        ),
        (rule(&["get"], "", &["pods"], &[]), rule(&["get"], "", &["pods"], &["x"]), true),
        (rule(&["get"], "", &["pods"], &["x"]), rule(&["get"], "", &["pods"], &[]), false),
        (rule(&["get"], "", &["pods"], &["x"]), rule(&["get"], "", &["pods"], &["x", "y"]), false),
        (rule(&["get"], "", &["*/scale"], &[]), rule(&["get"], "", &["foos/scale"], &[]), true),
        (rule(&["get"], "", &["*/scale"], &[]), rule(&["get"], "", &["foos"], &[]), false),
        (rule(&["get"], "", &["pods"], &[]), rule(&["*"], "", &["pods"], &[]), false),
    ] {
        assert_eq!(wanted.split().iter().all(|part| held.covers(part)), covered, "{held:?} over {wanted:?}");
    }
}

#[test]
fn escalation_lists_what_is_missing() {
    let rbac = rbac::Rbac::new(rbac_objects());
    let ann = UserInfo::new("ann", &["team"]);
    let held = Rule::resources(&["get"], "", &["pods"]);
    assert_eq!(escalation::confirm_rules(&rbac, &ann, "dev", std::slice::from_ref(&held)), Ok(()));
    let wanted = [held, Rule::resources(&["create", "delete"], "apps", &["deployments"])];
    assert_eq!(
        escalation::confirm_rules(&rbac, &ann, "dev", &wanted).unwrap_err(),
        "user \"ann\" (groups=[\"team\" \"system:authenticated\"]) is attempting to grant RBAC permissions not currently held:\n\
         {APIGroups:[\"apps\"], Resources:[\"deployments\"], Verbs:[\"create\" \"delete\"]}"
    );
}
