//! PKCS #10 requests (RFC 2986): what they ask for, as far as upstream's signers look.

use std::net::IpAddr;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension};

/// The parts of a subject in the order in which Go writes them; common name and serial number occur once.
const SUBJECT: &[(&str, &[u64])] = &[
    ("2.5.4.6", &[2, 5, 4, 6]),
    ("2.5.4.10", &[2, 5, 4, 10]),
    ("2.5.4.11", &[2, 5, 4, 11]),
    ("2.5.4.7", &[2, 5, 4, 7]),
    ("2.5.4.8", &[2, 5, 4, 8]),
    ("2.5.4.9", &[2, 5, 4, 9]),
    ("2.5.4.17", &[2, 5, 4, 17]),
    (COMMON_NAME, &[2, 5, 4, 3]),
    (SERIAL_NUMBER, &[2, 5, 4, 5]),
];
const COMMON_NAME: &str = "2.5.4.3";
const SERIAL_NUMBER: &str = "2.5.4.5";
const ORGANIZATION: &str = "2.5.4.10";

/// One kind of part of a subject with its values.
pub struct Part {
    /// The identifier of the kind.
    pub oid: &'static [u64],
    /// The values.
    pub values: Vec<String>,
}

/// A request.
#[derive(Default)]
pub struct Request {
    /// The subject's parts that are not empty.
    pub subject: Vec<Part>,
    /// The last common name.
    pub common_name: String,
    /// The organizations.
    pub organizations: Vec<String>,
    /// Names that servers are to have.
    pub dns_names: Vec<String>,
    /// Mail addresses.
    pub emails: Vec<String>,
    /// Network addresses.
    pub addresses: Vec<IpAddr>,
    /// URIs.
    pub uris: Vec<String>,
    /// The public key with its algorithm, DER.
    pub public_key: Vec<u8>,
}

/// Reads a request; the error is in upstream's words where it has some.
pub fn parse(pem: &[u8]) -> Result<Request, String> {
    let block = x509_parser::pem::parse_x509_pem(pem).ok().map(|(_, block)| block);
    let block = block.filter(|block| block.label == "CERTIFICATE REQUEST");
    let block = block.ok_or("PEM block type must be CERTIFICATE REQUEST")?;
    let (_, csr) = X509CertificationRequest::from_der(&block.contents).map_err(|e| e.to_string())?;
    csr.verify_signature().map_err(|e| format!("unable to verify certificate request signature: {e}"))?;
    let info = &csr.certification_request_info;
    let mut request = Request { public_key: info.subject_pki.raw.to_vec(), ..Request::default() };
    for (id, oid) in SUBJECT {
        let parts = info.subject.iter_attributes().filter(|part| part.attr_type().to_id_string() == *id);
        let mut values: Vec<String> =
            parts.filter_map(|part| part.as_str().ok()).map(str::to_owned).collect();
        if matches!(*id, COMMON_NAME | SERIAL_NUMBER) {
            values.drain(..values.len().saturating_sub(1));
        }
        match *id {
            COMMON_NAME => request.common_name = values.first().cloned().unwrap_or_default(),
            ORGANIZATION => request.organizations = values.clone(),
            _ => {}
        }
        if values.iter().any(|value| !value.is_empty()) {
            request.subject.push(Part { oid, values });
        }
    }
    for extension in csr.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(dns) => request.dns_names.push((*dns).to_owned()),
                GeneralName::RFC822Name(email) => request.emails.push((*email).to_owned()),
                GeneralName::URI(uri) => request.uris.push((*uri).to_owned()),
                GeneralName::IPAddress(bytes) => request.addresses.push(address(bytes)?),
                _ => {}
            }
        }
    }
    Ok(request)
}

fn address(bytes: &[u8]) -> Result<IpAddr, String> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Ok(IpAddr::from(v4));
    }
    let v6 = <[u8; 16]>::try_from(bytes);
    v6.map(IpAddr::from).map_err(|_| format!("x509: cannot parse IP address of length {}", bytes.len()))
}
