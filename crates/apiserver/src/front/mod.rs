//! The front half of the API server: connections, filters, identity, permission, discovery, health, and the
//! streams to kubelets, pods and services. The registry half answers for resources.

pub mod aggregate;
pub mod authn;
pub mod authz;
pub mod chain;
pub mod components;
pub mod discovery;
pub mod documents;
pub mod flowcontrol;
pub mod health;
pub mod info;
pub mod metrics;
pub mod openapi;
pub mod pki;
pub mod resource_metrics;
pub mod respond;
pub mod reviews;
pub mod serve;
pub mod stream;
pub mod tls;
pub mod websocket;
