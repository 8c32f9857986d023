//! The admission plugins MutatingAdmissionWebhook and ValidatingAdmissionWebhook (apiserver's
//! `admission/plugin/webhook`): webhooks that were registered in configurations are asked about a write, over
//! HTTPS, in an AdmissionReview (admission.k8s.io/v1 or v1beta1).

mod call;
mod hooks;
mod mutating;
mod review;
mod validating;

pub use mutating::{MutatingAdmissionWebhook, Rounds};
pub use validating::ValidatingAdmissionWebhook;
