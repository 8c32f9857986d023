//! Reading a kubeconfig's current context into an HTTPS transport.

use crate::Error;
use crate::https::Https;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use knarr_tls::{Identity, Trust};
use serde_json::Value;
use std::path::Path;

/// The transport that the current context of the kubeconfig at `path` describes.
pub fn load(path: &Path) -> Result<Https, Error> {
    let bad = |what: String| Error::Config(format!("{}: {what}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|e| bad(e.to_string()))?;
    let config: Value = serde_saphyr::from_str(&text).map_err(|e| bad(e.to_string()))?;
    let context_name = config["current-context"].as_str().unwrap_or_default();
    let context = named(&config, "contexts", "context", context_name)
        .ok_or_else(|| bad(format!("there is no context {context_name:?}")))?;
    let part = |list: &str, entry: &str| {
        let name = context[entry].as_str().unwrap_or_default();
        named(&config, list, entry, name).ok_or_else(|| bad(format!("there is no {entry} {name:?}")))
    };
    let (cluster, user) = (part("clusters", "cluster")?, part("users", "user")?);

    let server = cluster["server"].as_str().unwrap_or_default();
    let uri: http::Uri = server.parse().map_err(|e| bad(format!("server {server:?}: {e}")))?;
    let host = uri.host().ok_or_else(|| bad(format!("server {server:?} has no host")))?.to_owned();
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().unwrap_or(443);

    let ca = material(cluster, "certificate-authority", path)?
        .ok_or_else(|| bad("no certificate-authority".into()))?;
    let unusable = |e: knarr_tls::Error| bad(e.to_string());
    let roots = knarr_tls::roots("certificate-authority", &ca).map_err(unusable)?;
    let certificate = material(user, "client-certificate", path)?;
    let identity = match (certificate, material(user, "client-key", path)?) {
        (Some(certificate), Some(key)) => {
            Identity::pem("client-certificate", &certificate, &key).map_err(unusable)?
        }
        _ => Identity::None,
    };
    let tls = knarr_tls::client(Trust::Roots(roots), identity, &[]).map_err(unusable)?;
    Https::new(&host, port, tls, user["token"].as_str())
}

fn named<'a>(config: &'a Value, list: &str, entry: &str, name: &str) -> Option<&'a Value> {
    config[list].as_array()?.iter().find(|item| item["name"] == name).map(|item| &item[entry])
}

/// The PEM under `<field>-data` (base64), or in the file that `<field>` names (relative to the kubeconfig).
fn material(section: &Value, field: &str, config: &Path) -> Result<Option<Vec<u8>>, Error> {
    let bad = |what: String| Error::Config(format!("{}: {field}: {what}", config.display()));
    if let Some(data) = section[format!("{field}-data")].as_str() {
        return STANDARD.decode(data).map(Some).map_err(|e| bad(e.to_string()));
    }
    let Some(file) = section[field].as_str() else { return Ok(None) };
    let file = config.parent().unwrap_or(Path::new(".")).join(file);
    std::fs::read(&file).map(Some).map_err(|e| bad(format!("{}: {e}", file.display())))
}
