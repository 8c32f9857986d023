//! The group autoscaling, v2 and v1.

pub mod horizontalpodautoscaler;
mod metrics;
mod v1;
