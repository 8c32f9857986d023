//! Pods: what is observed of one, what is to be done about it, and the worker that does it.

mod admit;
mod adopt;
pub(crate) mod book;
pub(crate) mod kill;
pub(crate) mod manager;
pub(crate) mod model;
pub(crate) mod phase;
mod plan;
pub(crate) mod predicates;
mod report;
pub(crate) mod resize;
pub(crate) mod setup;
pub(crate) mod sizes;
pub(crate) mod start;
pub(crate) mod static_pods;
mod status;
pub(crate) mod subids;
pub(crate) mod users;
pub(crate) mod worker;

pub(crate) use status::settled;
