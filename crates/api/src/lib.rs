//! CONTRACT. The Kubernetes 1.36 API as Rust types and as facts: the typed kinds over k8s-openapi
//! ([`Kind`]), the tables about them ([`facts`]), protobuf <-> JSON ([`proto`]) and the OpenAPI
//! documents ([`openapi`]).

pub mod facts;
#[doc(hidden)]
pub mod fuzzing;
mod kind;
pub mod openapi;
pub mod proto;
pub mod volume;

pub use k8s_openapi::api::{
    admissionregistration, apps, authentication, authorization, autoscaling, batch, certificates,
    coordination, core, discovery, events, flowcontrol, networking, node, policy, rbac, resource, scheduling,
    storage,
};
pub use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
pub use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
pub use k8s_openapi::apimachinery::pkg::apis::meta;
pub use k8s_openapi::apimachinery::pkg::runtime::RawExtension;
pub use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
pub use k8s_openapi::kube_aggregator::pkg::apis::apiregistration;
pub use k8s_openapi::{ByteString, jiff};
pub use kind::{DecodeError, KINDS, Kind, KindEntry, RawList};
