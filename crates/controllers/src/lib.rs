//! The controllers of upstream's kube-controller-manager that Knarr has so far: one folder or file each, one line
//! each in [`manager::ALL`], each under its own identity.

pub mod apiextensions;
pub mod framework;
pub mod manager;

mod clusterrole_aggregation;
mod daemonset;
mod deployment;
mod disruption;
mod endpoints;
mod garbagecollector;
mod job;
mod namespace;
mod nodelifecycle;
mod podgc;
mod replicas;
mod root_ca;
mod serviceaccounts;
mod statefulset;
mod ttlafterfinished;
mod validatingadmissionpolicystatus;
