//! The table of kinds. A test finds files of kinds that are missing here.

use crate::{
    apps, autoscaling, batch, certificates, coordination, core, discovery, flowcontrol, networking, node,
    policy, rbac, scheduling, storage,
};
use knarr_apiserver::def::ResourceDef;

/// The declarations of all built-in kinds. Each call makes new ones: strategies that keep state (allocators)
/// keep that of one control plane.
pub fn all() -> Vec<ResourceDef> {
    vec![
        apps::controllerrevision::def(),
        apps::daemonset::def(),
        apps::deployment::def(),
        apps::replicaset::def(),
        apps::statefulset::def(),
        autoscaling::horizontalpodautoscaler::def(),
        batch::cronjob::def(),
        batch::job::def(),
        certificates::certificatesigningrequest::def(),
        coordination::lease::def(),
        core::configmap::def(),
        core::endpoints::def(),
        core::event::def(),
        core::event::newer_def(),
        core::limitrange::def(),
        core::namespace::def(),
        core::node::def(),
        core::persistentvolume::def(),
        core::persistentvolumeclaim::def(),
        core::pod::bindings_def(),
        core::pod::def(),
        core::podtemplate::def(),
        core::replicationcontroller::def(),
        core::resourcequota::def(),
        core::secret::def(),
        core::service::def(),
        core::serviceaccount::def(),
        discovery::endpointslice::def(),
        flowcontrol::flowschema::def(),
        flowcontrol::prioritylevelconfiguration::def(),
        networking::ingress::def(),
        networking::ingressclass::def(),
        networking::ipaddress::def(),
        networking::networkpolicy::def(),
        networking::servicecidr::def(),
        node::runtimeclass::def(),
        policy::poddisruptionbudget::def(),
        rbac::clusterrole::def(),
        rbac::clusterrolebinding::def(),
        rbac::role::def(),
        rbac::rolebinding::def(),
        scheduling::priorityclass::def(),
        storage::csidriver::def(),
        storage::csinode::def(),
        storage::csistoragecapacity::def(),
        storage::storageclass::def(),
        storage::volumeattachment::def(),
        storage::volumeattributesclass::def(),
    ]
}
