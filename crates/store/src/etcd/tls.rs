//! TLS to etcd: the cluster's CA and a client certificate out of files.

use super::EtcdOptions;
use knarr_tls::{Identity, Trust};
use rustls::ClientConfig;
use std::sync::Arc;

/// What connections are made with.
pub(super) fn client_config(options: &EtcdOptions) -> Result<Arc<ClientConfig>, String> {
    let Some(ca) = &options.ca_file else {
        return Err("https needs the CA of etcd's certificates (etcd-cafile)".into());
    };
    let roots = knarr_tls::bundle_file(ca).map_err(|e| e.to_string())?;
    let identity = match (&options.cert_file, &options.key_file) {
        (Some(cert), Some(key)) => Identity::files(cert, key).map_err(|e| e.to_string())?,
        (None, None) => Identity::None,
        _ => return Err("a client certificate needs its key, and a key its certificate".into()),
    };
    let config = knarr_tls::client(Trust::Roots(roots), identity, &["h2"]).map_err(|e| e.to_string())?;
    Ok(Arc::new(config))
}
