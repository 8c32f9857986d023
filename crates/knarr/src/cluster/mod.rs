//! A cluster in this process: the control plane, and the node of this machine; or only a node of another's cluster.

pub mod agent;
pub mod control;
pub mod identity;
pub mod join;
pub mod network;
pub mod node;
pub mod token;
