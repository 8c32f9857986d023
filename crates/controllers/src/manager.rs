//! The table of controllers and how they are started: each with a client under its own service account, all over
//! one set of informers, as upstream's kube-controller-manager runs with `--use-service-account-credentials`.

use crate::certificates::SigningCa;
use crate::framework::Start;
use crate::framework::served::Served;
use crate::tokens::TokenSigner;
use knarr_base::Ctx;
use knarr_client::{Client, Informers};
use std::sync::Arc;

/// What all controllers are configured with.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The cluster's CA certificate, PEM; published in every namespace.
    pub cluster_ca: String,
    /// The CA that signs certificates; nobody signs without one.
    pub signing_ca: Option<SigningCa>,
    /// Signs the tokens that secrets hold; they stay empty without one.
    pub token_signer: Option<TokenSigner>,
    /// Whether directories of nodes are given out as volumes, with a storage class for them.
    pub local_path: bool,
    /// Ranges of pod addresses for nodes; nodes get none without it.
    pub node_ipam: Option<crate::nodeipam::NodeIpam>,
}

/// One controller.
pub struct Descriptor {
    /// Name, for tasks and logs.
    pub name: &'static str,
    /// Its service account in kube-system; upstream's name, which the default role bindings mention. Empty for the
    /// identity of the controller manager itself.
    pub account: &'static str,
    /// Starts it.
    pub start: fn(Start),
}

/// All controllers.
pub const ALL: &[Descriptor] = &[
    Descriptor { name: "namespace", account: "namespace-controller", start: crate::namespace::start },
    Descriptor {
        name: "serviceaccount",
        account: "service-account-controller",
        start: crate::serviceaccounts::start,
    },
    Descriptor {
        name: "root-ca-certificate-publisher",
        account: "root-ca-cert-publisher",
        start: crate::root_ca::start,
    },
    Descriptor {
        name: "garbagecollector",
        account: "generic-garbage-collector",
        start: crate::garbagecollector::start,
    },
    Descriptor {
        name: "endpointslice",
        account: "endpointslice-controller",
        start: crate::endpoints::start_slices,
    },
    Descriptor { name: "endpoint", account: "endpoint-controller", start: crate::endpoints::start_endpoints },
    Descriptor {
        name: "endpointslicemirroring",
        account: "endpointslicemirroring-controller",
        start: crate::endpoints::start_mirroring,
    },
    Descriptor { name: "serviceaccount-token", account: "", start: crate::tokens::start },
    Descriptor { name: "token-cleaner", account: "token-cleaner", start: crate::bootstrap::start_cleaner },
    Descriptor {
        name: "bootstrap-signer",
        account: "bootstrap-signer",
        start: crate::bootstrap::start_signer,
    },
    Descriptor {
        name: "csrapproving",
        account: "certificate-controller",
        start: crate::certificates::start_approving,
    },
    Descriptor {
        name: "csrsigning",
        account: "certificate-controller",
        start: crate::certificates::start_signing,
    },
    Descriptor {
        name: "csrcleaner",
        account: "certificate-controller",
        start: crate::certificates::start_cleaner,
    },
    Descriptor { name: "deployment", account: "deployment-controller", start: crate::deployment::start },
    Descriptor {
        name: "replicaset",
        account: "replicaset-controller",
        start: crate::replicas::start_replica_sets,
    },
    Descriptor {
        name: "replicationcontroller",
        account: "replication-controller",
        start: crate::replicas::start_replication_controllers,
    },
    Descriptor { name: "job", account: "job-controller", start: crate::job::start },
    Descriptor { name: "cronjob", account: "cronjob-controller", start: crate::cronjob::start },
    Descriptor {
        name: "ttl-after-finished",
        account: "ttl-after-finished-controller",
        start: crate::ttlafterfinished::start,
    },
    Descriptor { name: "node-ipam", account: "node-controller", start: crate::nodeipam::start },
    Descriptor { name: "node-lifecycle", account: "node-controller", start: crate::nodelifecycle::start },
    Descriptor {
        name: "taint-eviction",
        account: "node-controller",
        start: crate::nodelifecycle::start_taint_eviction,
    },
    Descriptor {
        name: "pod-garbage-collector",
        account: "pod-garbage-collector",
        start: crate::podgc::start,
    },
    Descriptor {
        name: "pvc-protection",
        account: "pvc-protection-controller",
        start: crate::protection::start_claims,
    },
    Descriptor {
        name: "pv-protection",
        account: "pv-protection-controller",
        start: crate::protection::start_volumes,
    },
    Descriptor {
        name: "volumeattributesclass-protection",
        account: "volumeattributesclass-protection-controller",
        start: crate::protection::start_classes,
    },
    Descriptor {
        name: "persistentvolume-binder",
        account: "persistent-volume-binder",
        start: crate::persistentvolume::start,
    },
    Descriptor {
        name: "persistentvolume-expander",
        account: "expand-controller",
        start: crate::expand::start,
    },
    Descriptor {
        name: "ephemeral-volume",
        account: "ephemeral-volume-controller",
        start: crate::ephemeral::start,
    },
    Descriptor {
        name: "local-path-provisioner",
        account: "local-path-provisioner",
        start: crate::localpath::start,
    },
    Descriptor {
        name: "clusterrole-aggregation",
        account: "clusterrole-aggregation-controller",
        start: crate::clusterrole_aggregation::start,
    },
    Descriptor {
        name: "horizontal-pod-autoscaler",
        account: "horizontal-pod-autoscaler",
        start: crate::podautoscaler::start,
    },
    Descriptor { name: "daemonset", account: "daemon-set-controller", start: crate::daemonset::start },
    Descriptor { name: "disruption", account: "disruption-controller", start: crate::disruption::start },
    Descriptor {
        name: "resourcequota",
        account: "resourcequota-controller",
        start: crate::resourcequota::start,
    },
    Descriptor { name: "statefulset", account: "statefulset-controller", start: crate::statefulset::start },
    Descriptor {
        name: "validatingadmissionpolicy-status",
        account: "validatingadmissionpolicy-status-controller",
        start: crate::validatingadmissionpolicystatus::start,
    },
];

/// Starts all controllers in the task scope of `ctx`. `shared` is the client that the informers read through
/// (`system:kube-controller-manager`); `client_for` gives the client of a service account in kube-system.
pub fn start(ctx: &Ctx, shared: Client, client_for: &dyn Fn(&str) -> Client, config: Config) {
    let served = Served::new(shared.clone());
    let (informers, config) = (Informers::new(shared.clone()), Arc::new(config));
    ctx.tasks.spawn_until_stopped("discovery", served.clone().follow(informers.clone()));
    for descriptor in ALL {
        let client =
            if descriptor.account.is_empty() { shared.clone() } else { client_for(descriptor.account) };
        let ctx = ctx.child(descriptor.name);
        let (informers, served, config) = (informers.clone(), served.clone(), config.clone());
        (descriptor.start)(Start { ctx, client, informers, served, config });
    }
}
