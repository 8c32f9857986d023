//! A cluster in this process: the control plane, and the node of this machine.

pub mod control;
pub mod network;
pub mod node;
