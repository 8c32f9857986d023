//! Why a call failed.

use knarr_meta::status::Status;

/// The failure of a call to the API.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server answered with a Status.
    #[error("{0}")]
    Api(Box<Status>),
    /// The server could not be reached or the connection broke.
    #[error("cannot reach the API server at {server}")]
    Connect {
        /// Who was to be reached.
        server: String,
        /// What went wrong.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The answer is not what the API promises.
    #[error("cannot understand the API server's answer: {0}")]
    Protocol(String),
    /// A kubeconfig or certificate is unusable.
    #[error("cannot use the client configuration: {0}")]
    Config(String),
}

impl Error {
    /// The Status, if the server sent one.
    pub fn status(&self) -> Option<&Status> {
        match self {
            Self::Api(status) => Some(status),
            _ => None,
        }
    }

    /// The HTTP status code, 0 if there was no answer.
    pub fn code(&self) -> u16 {
        self.status().map_or(0, |s| s.code)
    }

    /// The object does not exist.
    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// The object changed meanwhile, or exists already.
    pub fn is_conflict(&self) -> bool {
        self.code() == 409
    }

    /// The resourceVersion is too old; list again.
    pub fn is_expired(&self) -> bool {
        self.code() == 410
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        Self::Api(Box::new(status))
    }
}
