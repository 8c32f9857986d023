//! The built-in kinds through a whole API server on a memory store: what holds for every kind, and what is
//! special about some.
#![allow(clippy::unwrap_used)] // a test fails by a panic

#[path = "main/admission_policies.rs"]
mod admission_policies;
#[path = "main/devices.rs"]
mod devices;
#[path = "main/every_kind.rs"]
mod every_kind;
#[path = "main/pods.rs"]
mod pods;
#[path = "main/policies.rs"]
mod policies;
#[path = "main/quotas.rs"]
mod quotas;
#[path = "main/services.rs"]
mod services;
#[path = "main/table.rs"]
mod table;
#[path = "main/validation.rs"]
mod validation;
#[path = "main/webhooks.rs"]
mod webhooks;
#[path = "main/world.rs"]
mod world;
