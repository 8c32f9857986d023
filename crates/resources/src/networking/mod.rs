//! The group networking.k8s.io, v1.

pub mod ipaddress;
pub mod servicecidr;
