//! TLS of the server: one crypto provider for everything, a serving certificate that can be swapped while
//! connections come in, and optional client certificates. A client certificate that does not verify does not
//! break the handshake: the request is then answered with 401, as upstream does.

use super::pki::{Pem, PkiError};
use arc_swap::ArcSwap;
use knarr_tls::{certificates, private_key, provider};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, SignatureScheme};
use std::sync::Arc;

/// Why TLS could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate files.
    #[error(transparent)]
    Pki(#[from] PkiError),
    /// PEM or key that cannot be used.
    #[error(transparent)]
    Tls(#[from] knarr_tls::Error),
    /// rustls refuses the configuration.
    #[error("TLS configuration")]
    Config(#[from] rustls::Error),
}

/// The serving certificate; handshakes use whatever was put here last.
#[derive(Debug)]
pub struct ServingCertificate(ArcSwap<CertifiedKey>);

impl ServingCertificate {
    /// Starts with `pem`.
    pub fn new(pem: &Pem) -> Result<Arc<Self>, TlsError> {
        Ok(Arc::new(Self(ArcSwap::from_pointee(certified(pem)?))))
    }

    /// Uses `pem` from the next handshake on.
    pub fn replace(&self, pem: &Pem) -> Result<(), TlsError> {
        self.0.store(Arc::new(certified(pem)?));
        Ok(())
    }
}

fn certified(pem: &Pem) -> Result<CertifiedKey, TlsError> {
    let chain = certificates("apiserver", &pem.certificate)?;
    let key = private_key("apiserver", &pem.key)?;
    Ok(CertifiedKey::from_der(chain, key, &provider())?)
}

impl ResolvesServerCert for ServingCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.load_full())
    }
}

/// Takes any client certificate in the handshake (the client still proves that it has the key) and verifies
/// chains when asked by the authenticator.
#[derive(Debug)]
pub struct ClientCertificates {
    strict: Arc<dyn ClientCertVerifier>,
    front_proxy: Arc<dyn ClientCertVerifier>,
    /// The names of both CAs, by which clients choose what they show.
    hints: Vec<DistinguishedName>,
}

impl ClientCertificates {
    /// Client certificates are to be signed by one of `roots`, the front proxy's by one of `front_proxy`.
    pub fn new(roots: RootCertStore, front_proxy: RootCertStore) -> Result<Arc<Self>, TlsError> {
        let verifier = |name: &str, roots: RootCertStore| {
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
                .allow_unauthenticated()
                .build()
                .map_err(|e| knarr_tls::Error::Certificate { name: name.into(), detail: e.to_string() })
        };
        let strict = verifier("ca", roots)?;
        let front_proxy = verifier("front-proxy-ca", front_proxy)?;
        let hints = [strict.root_hint_subjects(), front_proxy.root_hint_subjects()].concat();
        Ok(Arc::new(Self { strict, front_proxy, hints }))
    }

    /// Whether the chain leads to the front proxy's CA at that time and is meant for clients.
    pub fn verify_front_proxy(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let Some((leaf, rest)) = chain.split_first() else { return false };
        self.front_proxy.verify_client_cert(leaf, rest, now).is_ok()
    }

    /// Whether the chain leads to one of the roots at that time and is meant for clients.
    pub fn verify(&self, chain: &[CertificateDer<'_>], now: UnixTime) -> bool {
        let Some((leaf, rest)) = chain.split_first() else { return false };
        self.strict.verify_client_cert(leaf, rest, now).is_ok()
    }
}

impl ClientCertVerifier for ClientCertificates {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }
    fn client_auth_mandatory(&self) -> bool {
        false
    }
    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls12_signature(message, cert, dss)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.strict.verify_tls13_signature(message, cert, dss)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.strict.supported_verify_schemes()
    }
}

/// The server's configuration: TLS 1.2 and 1.3, HTTP/2 and HTTP/1.1 by ALPN.
pub fn server_config(
    certificate: Arc<ServingCertificate>,
    clients: Arc<ClientCertificates>,
) -> Result<rustls::ServerConfig, TlsError> {
    let mut config = rustls::ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    // A resumed session would keep an identity whose certificate has expired since.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}
