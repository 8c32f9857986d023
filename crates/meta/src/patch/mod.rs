//! The three patches clients send: JSON patch, JSON merge patch and strategic merge patch.

pub mod json;
pub mod merge;
pub mod strategic;

/// Why a patch cannot be applied. [`PatchError::status`] makes the answer of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is malformed: 400.
    #[error("{0}")]
    BadRequest(String),
    /// The patch is well formed but does not fit the object: 422.
    #[error("{0}")]
    Unprocessable(String),
}

impl PatchError {
    /// The answer to the client.
    pub fn status(&self) -> crate::status::Status {
        use crate::status::{Reason, Status};
        match self {
            PatchError::BadRequest(message) => Status::bad_request(message.clone()),
            PatchError::Unprocessable(message) => Status::new(422, Reason::Invalid, message.clone()),
        }
    }
}
