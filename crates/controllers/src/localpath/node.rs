//! Asking a node's kubelet for a directory, or to remove one.

use super::LocalPath;
use http::Method;
use knarr_client::Error;
use serde_json::{Value, json};

fn url(node: &str, volume: &str) -> String {
    format!("/api/v1/nodes/{node}/proxy/localPath/{volume}")
}

impl LocalPath {
    /// Has the directory of `volume` made on `node`; where it is there. Asking again does no harm.
    pub(super) async fn make_directory(&self, node: &str, volume: &str) -> Result<String, Error> {
        let answer = self.client.call(Method::PUT, &url(node, volume), &json!({})).await?;
        let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
        let path = answer["path"].as_str().map(str::to_owned);
        path.ok_or_else(|| Error::Protocol(format!("node {node} did not say where the directory is")))
    }

    /// Has the directory removed with all that is in it. One that is not there is as good.
    pub(super) async fn remove_directory(&self, node: &str, volume: &str) -> Result<(), Error> {
        self.client.call(Method::DELETE, &url(node, volume), &json!({})).await.map(drop)
    }
}
