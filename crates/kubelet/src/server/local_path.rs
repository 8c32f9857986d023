//! Directories that are volumes of the class `local-path`: made and removed for the provisioner in the control plane,
//! which asks through the API server. Names are checked: nothing else on the node can be reached.

use super::{json as answer, text};
use crate::kubelet::Shared;
use crate::volume::local_path;
use http::{Method, Response, StatusCode};
use knarr_client::Body;
use serde_json::json;
use std::sync::Arc;

/// Makes or removes the directory of a volume.
pub(super) async fn serve(kubelet: &Arc<Shared>, method: &Method, volume: &str) -> Response<Body> {
    let root = kubelet.config.root_dir.clone();
    let (name, making) = (volume.to_owned(), method == Method::PUT);
    if !making && method != Method::DELETE {
        return text(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed");
    }
    let done = tokio::task::spawn_blocking(move || match making {
        true => local_path::make(&root, &name).map(Some),
        false => local_path::remove(&root, &name).map(|()| None),
    });
    match done.await {
        Ok(Ok(path)) => answer(&json!({ "path": path })),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::InvalidInput => {
            text(StatusCode::BAD_REQUEST, error.to_string())
        }
        Ok(Err(error)) => text(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the work was cut off"),
    }
}
