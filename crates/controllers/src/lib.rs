//! The controllers of upstream's kube-controller-manager that Knarr has so far: one folder or file each, one line
//! each in [`manager::ALL`], each under its own identity.

pub mod apiextensions;
pub mod framework;
pub mod manager;

mod bootstrap;
mod certificates;
mod clusterrole_aggregation;
mod cronjob;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod ephemeral;
mod expand;
mod garbagecollector;
mod job;
mod localpath;
mod namespace;
mod nodeipam;
mod nodelifecycle;
mod persistentvolume;
mod podautoscaler;
mod podgc;
mod protection;
mod replicas;
mod resourcequota;
mod root_ca;
mod serviceaccounts;
mod statefulset;
mod tokens;
mod ttlafterfinished;
mod validatingadmissionpolicystatus;

pub use certificates::{SIGNING_DURATION, SigningCa, start_kubelet_serving};
pub use nodeipam::{Cidr, NodeIpam};
pub use tokens::{TokenSigner, TokenSubject};
