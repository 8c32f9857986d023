//! The real way to conversion webhooks.

use super::convert::Outbound;
use crate::request::Reader;
use crate::webhook::{ClientConfig, ClientManager, ClusterIps};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use knarr_base::Ctx;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// As long as upstream waits for any webhook.
const LIMIT: Duration = Duration::from_secs(30);

/// Calls webhooks by way of services of this cluster, or by URL.
pub struct Webhooks {
    /// Clock and tasks.
    pub ctx: Ctx,
    /// Keeps connections.
    pub clients: Arc<ClientManager>,
    /// Finds services.
    pub reader: Arc<dyn Reader>,
}

impl Outbound for Webhooks {
    fn call<'a>(&'a self, client_config: &'a Value, body: Bytes) -> BoxFuture<'a, Result<Bytes, String>> {
        Box::pin(async move {
            let config = ClientConfig::from_json(client_config);
            let resolver = ClusterIps(self.reader.clone());
            self.clients.call(&self.ctx, &resolver, &config, body, LIMIT).await.map_err(|e| e.to_string())
        })
    }
}
