//! TCP and TLS to servers outside, with errors in the words of Go's net and crypto packages, which clients of
//! upstream look for in messages.

use knarr_tls::{Error, Trust};
use rustls::pki_types::ServerName;
use rustls::{CertificateError, ClientConfig};
use std::io::ErrorKind;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Whom to trust: `bundle` is the PEM of those who may sign the server's certificate, empty for the machine's
/// roots.
pub fn trust(bundle: &[u8]) -> Result<Trust, Error> {
    let roots =
        if bundle.is_empty() { knarr_tls::system_roots() } else { knarr_tls::bundle("caBundle", bundle) };
    roots.map(Trust::Roots)
}

/// Connects to a host (an address or a name), and speaks TLS with the server called `server_name`.
pub async fn connect(
    host: &str,
    port: u16,
    server_name: &str,
    config: Arc<ClientConfig>,
) -> Result<TlsStream<TcpStream>, String> {
    let tcp = dial(host, port).await?;
    let name = ServerName::try_from(server_name.to_owned())
        .map_err(|_| format!("tls: either ServerName or InsecureSkipVerify must be specified in the tls.Config (not {server_name:?})"))?;
    TlsConnector::from(config).connect(name, tcp).await.map_err(|e| handshake_text(&e, server_name))
}

/// Connects.
pub async fn dial(host: &str, port: u16) -> Result<TcpStream, String> {
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let addresses = tokio::net::lookup_host((host, port))
        .await
        .map_err(|_| format!("dial tcp: lookup {host}: no such host"))?;
    let mut last = format!("dial tcp: lookup {host}: no such host");
    for address in addresses {
        match TcpStream::connect(address).await {
            Ok(tcp) => {
                let _ = tcp.set_nodelay(true);
                return Ok(tcp);
            }
            Err(error) => {
                let about = if host.parse::<std::net::IpAddr>().is_ok() {
                    shown.clone()
                } else {
                    address.to_string()
                };
                last = format!("dial tcp {about}: {}", io_text(&error));
            }
        }
    }
    Err(last)
}

/// An error of the system as Go prints it.
fn io_text(error: &std::io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        ErrorKind::ConnectionReset => "read: connection reset by peer".to_owned(),
        ErrorKind::TimedOut => "i/o timeout".to_owned(),
        ErrorKind::UnexpectedEof => "EOF".to_owned(),
        _ => error.to_string(),
    }
}

/// What is wrong with a handshake.
fn handshake_text(error: &std::io::Error, server_name: &str) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(rustls::Error::InvalidCertificate(problem)) = inner else {
        return match inner {
            Some(rustls::Error::InvalidMessage(_)) => {
                "tls: first record does not look like a TLS handshake".to_owned()
            }
            Some(rustls::Error::AlertReceived(alert)) => format!("remote error: tls: {alert:?}"),
            Some(other) => format!("tls: {other}"),
            None => io_text(error),
        };
    };
    let why = match problem {
        // An authority of the same name with another key is no better known than one of another name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "certificate signed by unknown authority".to_owned()
        }
        CertificateError::Expired | CertificateError::NotValidYet => {
            "certificate has expired or is not yet valid".to_owned()
        }
        CertificateError::ExpiredContext { time, not_after } => format!(
            "certificate has expired or is not yet valid: current time {} is after {}",
            seconds_text(time.as_secs()),
            seconds_text(not_after.as_secs())
        ),
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "certificate has expired or is not yet valid: current time {} is before {}",
            seconds_text(time.as_secs()),
            seconds_text(not_before.as_secs())
        ),
        CertificateError::NotValidForName => {
            format!("certificate is not valid for any names, but wanted to match {server_name}")
        }
        CertificateError::NotValidForNameContext { presented, .. } => name_text(presented, server_name),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate specifies an incompatible key usage".to_owned()
        }
        other => rustls::Error::InvalidCertificate(other.clone()).to_string(),
    };
    format!("tls: failed to verify certificate: x509: {why}")
}

fn seconds_text(seconds: u64) -> String {
    knarr_meta::time::rfc3339(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds))
}

/// The names a certificate has, without what rustls says of their kinds (`DnsName("a")`, `IpAddress(1.2.3.4)`).
fn name_text(presented: &[String], server_name: &str) -> String {
    let bare = |name: &String| {
        let inner = name.split_once('(').map_or(name.as_str(), |(_, rest)| rest.trim_end_matches(')'));
        inner.trim_matches('"').to_owned()
    };
    let names: Vec<String> = presented.iter().map(bare).collect();
    match names.is_empty() {
        true => format!("certificate is not valid for any names, but wanted to match {server_name}"),
        false => format!("certificate is valid for {}, not {server_name}", names.join(", ")),
    }
}
