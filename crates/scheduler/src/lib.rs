//! The scheduler: binds pods to nodes, as upstream's kube-scheduler with its default profile does. It watches
//! pods and nodes, picks a node by filters and scores ([`framework`], [`plugins`]), assumes the pod there at
//! once and posts the binding beside the next decision.

mod cache;
mod framework;
mod plugins;
mod queue;
mod resources;
mod scheduler;
mod volumes;

pub use scheduler::{Scheduler, SchedulerConfig};
