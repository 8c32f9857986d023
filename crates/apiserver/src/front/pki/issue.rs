//! Issuing X.509 certificates (RFC 5280) and checking whether one on disk still fits.

use super::{Pem, PkiError};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SanType, SerialNumber,
};
use ring::rand::SecureRandom;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};
use time::OffsetDateTime;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// Clocks of machines differ; certificates are valid from this much before they are issued, as upstream's are.
const BACKDATE: Duration = Duration::from_secs(5 * 60);

/// What a certificate is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Proving who a client is.
    Client,
    /// Proving who a server is.
    Server,
}

/// Whom a certificate names.
#[derive(Clone, Debug)]
pub struct CertificateSpec {
    /// Common name: the user, for clients.
    pub common_name: String,
    /// Organization: the group, for clients.
    pub organization: Option<String>,
    /// DNS names.
    pub names: Vec<String>,
    /// Addresses.
    pub addresses: Vec<IpAddr>,
    /// What it is for.
    pub usage: Usage,
}

impl CertificateSpec {
    /// A client certificate for a user, in a group or none.
    pub fn client(user: &str, group: Option<&str>) -> Self {
        Self {
            common_name: user.to_owned(),
            organization: group.map(str::to_owned),
            names: Vec::new(),
            addresses: Vec::new(),
            usage: Usage::Client,
        }
    }
}

/// A CA that can issue.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// A new ECDSA P-256 key.
pub(super) fn new_key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
}

fn base_params(now: SystemTime, lifetime: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = OffsetDateTime::from(now - BACKDATE);
    params.not_after = OffsetDateTime::from(now + lifetime);
    let mut serial = [0; 16];
    ring::rand::SystemRandom::new().fill(&mut serial).expect("the kernel always has random numbers");
    serial[0] &= 0x7f; // serial numbers are positive
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}

fn name(common_name: &str, organization: Option<&str>) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    if let Some(organization) = organization {
        dn.push(DnType::OrganizationName, organization);
    }
    dn.push(DnType::CommonName, common_name);
    dn
}

impl Authority {
    /// Makes a self-signed CA.
    pub(super) fn create(
        file: &str,
        common_name: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Pem, PkiError> {
        let make = || {
            let key = new_key()?;
            let mut params = base_params(now, lifetime);
            params.distinguished_name = name(common_name, None);
            params.subject_alt_names = vec![SanType::DnsName(common_name.try_into()?)];
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![
                KeyUsagePurpose::DigitalSignature,
                KeyUsagePurpose::KeyCertSign,
                KeyUsagePurpose::CrlSign,
            ];
            let certificate = params.self_signed(&key)?;
            Ok(Pem { certificate: certificate.pem(), key: key.serialize_pem() })
        };
        make().map_err(|source| PkiError::Issue { name: file.to_owned(), source })
    }

    /// Reads a CA; the error says what is wrong with it.
    pub(super) fn load(pem: &Pem) -> Result<Self, String> {
        let key = KeyPair::from_pem(&pem.key).map_err(|e| format!("the key cannot be read: {e}"))?;
        let der = pem_der(&pem.certificate).ok_or("it is not a PEM certificate")?;
        let (_, parsed) =
            X509Certificate::from_der(&der).map_err(|e| format!("the certificate cannot be read: {e}"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("the key is not that of the certificate".into());
        }
        let issuer = Issuer::from_ca_cert_pem(&pem.certificate, key).map_err(|e| e.to_string())?;
        Ok(Self { issuer, certificate: pem.certificate.clone() })
    }

    /// Issues a certificate with a new key.
    pub(super) fn issue(
        &self,
        file: &str,
        spec: &CertificateSpec,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Pem, PkiError> {
        let make = || {
            let key = new_key()?;
            let mut params = base_params(now, lifetime);
            params.distinguished_name = name(&spec.common_name, spec.organization.as_deref());
            for dns in unique(&spec.names) {
                params.subject_alt_names.push(SanType::DnsName(dns.as_str().try_into()?));
            }
            for address in unique(&spec.addresses) {
                params.subject_alt_names.push(SanType::IpAddress(*address));
            }
            params.is_ca = IsCa::ExplicitNoCa;
            params.use_authority_key_identifier_extension = true;
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
            params.extended_key_usages = vec![match spec.usage {
                Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
                Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            }];
            let certificate = params.signed_by(&key, &self.issuer)?;
            Ok(Pem { certificate: certificate.pem(), key: key.serialize_pem() })
        };
        make().map_err(|source| PkiError::Issue { name: file.to_owned(), source })
    }
}

fn unique<T: PartialEq>(items: &[T]) -> Vec<&T> {
    let mut seen: Vec<&T> = Vec::new();
    for item in items {
        if !seen.contains(&item) {
            seen.push(item);
        }
    }
    seen
}

/// The DER of the first PEM block.
pub(crate) fn pem_der(pem: &str) -> Option<Vec<u8>> {
    x509_parser::pem::parse_x509_pem(pem.as_bytes()).ok().map(|(_, block)| block.contents)
}

/// Why a certificate must be issued anew; `None` when it fits.
pub(super) fn why_unfit(
    certificate: &str,
    key: &str,
    ca: &Authority,
    spec: &CertificateSpec,
    must_outlive: SystemTime,
) -> Option<String> {
    let Ok(key) = KeyPair::from_pem(key) else { return Some("its key was unreadable".into()) };
    let Some(der) = pem_der(certificate) else { return Some("it was unreadable".into()) };
    let Ok((_, parsed)) = X509Certificate::from_der(&der) else { return Some("it was unreadable".into()) };
    if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Some("its key did not fit".into());
    }
    if !signed_by(&parsed, &ca.certificate) {
        return Some("another CA had signed it".into());
    }
    let left = OffsetDateTime::from(must_outlive).unix_timestamp();
    if parsed.validity().not_after.timestamp() < left {
        return Some(format!("it was to expire on {}", parsed.validity().not_after));
    }
    let common_name = parsed.subject().iter_common_name().next().and_then(|cn| cn.as_str().ok());
    if common_name != Some(spec.common_name.as_str()) {
        return Some(format!("it named {}", common_name.unwrap_or("nobody")));
    }
    missing_names(&parsed, spec)
}

fn missing_names(parsed: &X509Certificate<'_>, spec: &CertificateSpec) -> Option<String> {
    let (mut names, mut addresses) = (Vec::new(), Vec::new());
    for extension in parsed.extensions() {
        let ParsedExtension::SubjectAlternativeName(san) = extension.parsed_extension() else { continue };
        for general in &san.general_names {
            match general {
                GeneralName::DNSName(dns) => names.push((*dns).to_owned()),
                GeneralName::IPAddress(bytes) => addresses.extend(to_ip(bytes)),
                _ => {}
            }
        }
    }
    if let Some(name) = spec.names.iter().find(|name| !names.contains(*name)) {
        return Some(format!("the name {name} was not in it"));
    }
    spec.addresses.iter().find(|a| !addresses.contains(*a)).map(|a| format!("the address {a} was not in it"))
}

fn to_ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(IpAddr::from(v4));
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

fn signed_by(certificate: &X509Certificate<'_>, ca: &str) -> bool {
    let Some(der) = pem_der(ca) else { return false };
    let Ok((_, ca)) = X509Certificate::from_der(&der) else { return false };
    if certificate.issuer() != ca.subject() {
        return false;
    }
    ring::signature::UnparsedPublicKey::new(
        &ring::signature::ECDSA_P256_SHA256_ASN1,
        ca.public_key().subject_public_key.data.as_ref(),
    )
    .verify(certificate.tbs_certificate.as_ref(), &certificate.signature_value.data)
    .is_ok()
}
