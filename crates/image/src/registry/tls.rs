//! How registries' certificates are checked: against the system's roots, or as the configuration says for a host.

use super::config::HostTls;
use knarr_tls::{Error, Identity, Trust};
use rustls::ClientConfig;
use std::path::Path;
use std::sync::Arc;

/// A client configuration: `roots` in place of the system's, and what is said of the host.
pub(super) fn client(roots: Option<&Path>, host: Option<&HostTls>) -> Result<Arc<ClientConfig>, Error> {
    let trust = if host.is_some_and(|h| h.insecure_skip_verify) {
        Trust::Anyone
    } else {
        let mut store = roots.map_or_else(knarr_tls::system_roots, knarr_tls::bundle_file)?;
        if let Some(file) = host.and_then(|h| h.ca_file.as_deref()) {
            store.roots.extend(knarr_tls::bundle_file(file)?.roots);
        }
        Trust::Roots(store)
    };
    let identity = match host.and_then(|h| Some((h.cert_file.as_deref()?, h.key_file.as_deref()?))) {
        Some((chain, key)) => Identity::files(chain, key)?,
        None => Identity::None,
    };
    Ok(Arc::new(knarr_tls::client(trust, identity, &["http/1.1"])?))
}
