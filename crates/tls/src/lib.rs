//! TLS of everything that connects: one crypto provider, reading PEM, and the configuration of clients said as data: whom
//! they trust ([`Trust`]), who they are ([`Identity`]), and what they speak (ALPN). What servers need beyond that stands
//! with them.

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use std::path::Path;
use std::sync::Arc;

/// Where distributions keep the roots they trust.
const ROOT_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// PEM or key that cannot be used.
    #[error("the certificate {name} is not usable: {detail}")]
    Certificate {
        /// Which one, or its file.
        name: String,
        /// What is wrong.
        detail: String,
    },
    /// rustls refuses the configuration.
    #[error("TLS configuration: {0}")]
    Config(rustls::Error),
}

/// Whose certificate a client takes from a server.
pub enum Trust {
    /// One that leads to these roots and names the server.
    Roots(RootCertStore),
    /// Any: for probes, for workloads behind proxies, and where what the server says is checked by other means (a machine
    /// that joins compares the CA it is told with its token's hash). Nothing secret may be told to such a server.
    Anyone,
}

/// Who a client is.
pub enum Identity {
    /// Nobody.
    None,
    /// The holder of a key, with the chain of its certificate.
    Certificate(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>),
    /// Whoever this says when a server asks: the certificate is replaced in the meantime.
    Resolved(Arc<dyn ResolvesClientCert>),
}

impl Identity {
    /// Out of two PEM texts; `name` is for errors.
    pub fn pem(name: &str, certificate: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Self, Error> {
        Ok(Self::Certificate(certificates(name, certificate)?, private_key(name, key)?))
    }

    /// Out of two PEM files.
    pub fn files(certificate: &Path, key: &Path) -> Result<Self, Error> {
        let key = private_key(&key.display().to_string(), read(key)?)?;
        Ok(Self::Certificate(certificates(&certificate.display().to_string(), read(certificate)?)?, key))
    }
}

/// A client's configuration: TLS 1.2 and 1.3. `alpn` are the protocols it offers, the preferred first.
pub fn client(trust: Trust, identity: Identity, alpn: &[&str]) -> Result<ClientConfig, Error> {
    let provider = provider();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(Error::Config)?;
    let builder = match trust {
        Trust::Roots(roots) => builder.with_root_certificates(roots),
        Trust::Anyone => builder.dangerous().with_custom_certificate_verifier(Arc::new(Anyone(provider))),
    };
    let mut config = match identity {
        Identity::None => builder.with_no_client_auth(),
        Identity::Certificate(chain, key) => {
            builder.with_client_auth_cert(chain, key).map_err(Error::Config)?
        }
        Identity::Resolved(resolver) => builder.with_client_cert_resolver(resolver),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Ok(config)
}

/// The crypto provider, in one place.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// The certificates of a PEM text, at least one; `name` is for errors.
pub fn certificates(name: &str, pem: impl AsRef<[u8]>) -> Result<Vec<CertificateDer<'static>>, Error> {
    let list: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_ref()).collect();
    match list {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(unusable(name, "it holds no certificate")),
        Err(e) => Err(unusable(name, e)),
    }
}

/// The private key of a PEM text.
pub fn private_key(name: &str, pem: impl AsRef<[u8]>) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(pem.as_ref()).map_err(|e| unusable(name, e))
}

/// The roots of a PEM text, all of which have to be usable.
pub fn roots(name: &str, pem: impl AsRef<[u8]>) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    for certificate in certificates(name, pem)? {
        store.add(certificate).map_err(|e| unusable(name, e))?;
    }
    Ok(store)
}

/// The roots of a PEM bundle that other people wrote: what cannot be read is passed over, as Go does, as long as there is
/// something.
pub fn bundle(name: &str, pem: impl AsRef<[u8]>) -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    let (added, _) = store.add_parsable_certificates(CertificateDer::pem_slice_iter(pem.as_ref()).flatten());
    match added {
        0 => Err(unusable(name, "unable to load root certificates: unable to parse bytes as PEM block")),
        _ => Ok(store),
    }
}

/// [`bundle`], out of a file.
pub fn bundle_file(file: &Path) -> Result<RootCertStore, Error> {
    bundle(&file.display().to_string(), read(file)?)
}

/// The roots that this machine trusts; none where its distribution keeps them elsewhere.
pub fn system_roots() -> Result<RootCertStore, Error> {
    let mut store = RootCertStore::empty();
    if let Some(file) = ROOT_FILES.iter().map(Path::new).find(|file| file.exists()) {
        store.add_parsable_certificates(CertificateDer::pem_slice_iter(&read(file)?).flatten());
    }
    Ok(store)
}

fn read(file: &Path) -> Result<Vec<u8>, Error> {
    std::fs::read(file).map_err(|e| unusable(&file.display().to_string(), e))
}

fn unusable(name: &str, detail: impl ToString) -> Error {
    Error::Certificate { name: name.to_owned(), detail: detail.to_string() }
}

/// Takes any certificate. That the server holds its key is not asked either: it would say nothing about a certificate that
/// anybody can make, and certificates that webpki cannot read (version 1) would fail.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
