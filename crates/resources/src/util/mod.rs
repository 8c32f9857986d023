//! What the kinds share: short access to optional fields, error constructors, JSON defaulting, table cells
//! and the address rules of `k8s.io/apimachinery/pkg/util/validation`.

pub mod cells;
pub mod conditions;
pub mod errs;
pub mod ip;
pub mod opt;
pub mod value;

pub use errs::Errs;
pub use opt::{Flag, Items, Number, Pairs, Text};

use knarr_client::Error;
use knarr_meta::status::Status;

/// The Status to hand on when a nested call failed.
pub fn status_of(err: Error) -> Status {
    match err {
        Error::Api(status) => *status,
        other => Status::internal(other),
    }
}
