//! csrsigning: issues certificates for approved requests to the built-in signers, from the CA that the controller is
//! given (upstream's --cluster-signing-cert-file and --cluster-signing-key-file). Without one it does not run.

use super::request::{self, Request};
use super::{der, has_condition, is_issued, rules};
use crate::framework::time::api_time;
use crate::framework::{Next, Reconcile, Start, run};
use knarr_api::ByteString;
use knarr_api::certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition};
use knarr_base::clock::BoxFuture;
use knarr_client::informer::{Change, Key};
use knarr_client::{Error, Informer, WorkQueue};
use rcgen::{KeyPair, SignatureAlgorithm, SigningKey};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, ParsedExtension, X509Certificate};

const WORKERS: usize = 5;
/// Upstream's default of --cluster-signing-duration.
pub const SIGNING_DURATION: Duration = Duration::from_secs(365 * 24 * 3600);
/// What a shorter wish is raised to.
const SHORTEST: Duration = Duration::from_secs(600);
/// Clocks of machines differ: certificates are valid from this much before now.
const BACKDATE: Duration = Duration::from_secs(5 * 60);
/// Certificates that live shorter than this end so much later.
const SHORT: Duration = Duration::from_secs(8 * 3600);

/// The CA that signs, as PEM.
#[derive(Clone)]
pub struct SigningCa {
    /// Its certificate.
    pub certificate: String,
    /// Its private key (PKCS #8).
    pub key: String,
    /// Certificates are good for so long if their requests do not wish for less.
    pub duration: Duration,
}

impl std::fmt::Debug for SigningCa {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SigningCa(..)")
    }
}

/// A CA ready to sign.
struct Ca {
    key: KeyPair,
    /// Its name, DER.
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    not_after: i64,
    /// How it signs, DER.
    algorithm: Vec<u8>,
}

struct Signing {
    start: Start,
    requests: Informer<CertificateSigningRequest>,
    ca: Ca,
    longest: Duration,
}

/// Starts the controller.
pub fn start(start: Start) {
    let Some(ca) = &start.config.signing_ca else {
        tracing::info!("certificates are not signed: no CA was given for it");
        return;
    };
    let longest = ca.duration;
    let ca = match Ca::load(ca) {
        Ok(ca) => ca,
        Err(problem) => {
            tracing::error!(problem, "certificates are not signed: the CA given for it cannot be used");
            return;
        }
    };
    let requests = start.informers.get::<CertificateSigningRequest>();
    let queue = WorkQueue::new(start.ctx.clone());
    let on_request = queue.clone();
    requests.on_change(move |change: &Change<CertificateSigningRequest>| {
        if change.new.as_ref().is_some_and(|csr| is_due(csr)) {
            on_request.add(Key::of(&change.object().metadata));
        }
    });
    let ready = {
        let requests = requests.clone();
        async move { requests.synced().await }
    };
    let controller = Arc::new(Signing { start: start.clone(), requests, ca, longest });
    run(&start, "csrsigning", WORKERS, queue, ready, controller);
}

/// Whether a request is approved and nothing became of it yet.
fn is_due(csr: &CertificateSigningRequest) -> bool {
    let conditions = csr.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let failed = conditions.filter(|c| c.type_ == "Failed").any(|c| matches!(&*c.status, "" | "True"));
    has_condition(csr, "Approved") && !has_condition(csr, "Denied") && !failed && !is_issued(csr)
}

impl Reconcile for Signing {
    fn sync<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Next, Error>> {
        Box::pin(async move {
            let Some(csr) = self.requests.get_key(key).filter(|csr| is_due(csr)) else {
                return Ok(Next::Done);
            };
            let parsed = request::parse(&csr.spec.request.0);
            let usages = csr.spec.usages.clone().unwrap_or_default();
            let request = match parsed {
                Ok(request) => request,
                Err(problem) => {
                    return Err(Error::Protocol(format!("unable to parse csr \"{}\": {problem}", key.name)));
                }
            };
            let Some(verdict) = rules::check(&csr.spec.signer_name, &request, &usages) else {
                return Ok(Next::Done);
            };
            let now = self.start.ctx.clock.now();
            let mut changed = (*csr).clone();
            let status = changed.status.get_or_insert_default();
            match verdict {
                Err(problem) => {
                    status.conditions.get_or_insert_default().push(CertificateSigningRequestCondition {
                        type_: "Failed".into(),
                        status: "True".into(),
                        reason: Some("SignerValidationFailure".into()),
                        message: Some(problem),
                        last_update_time: api_time(now),
                        last_transition_time: None,
                    });
                }
                Ok(()) => {
                    let mut serial = [0; 16];
                    self.start.ctx.rng.fill(&mut serial);
                    let lifetime = lifetime(csr.spec.expiration_seconds, self.longest);
                    let certificate = self.ca.sign(&request, &usages, lifetime, now, &serial);
                    let certificate = certificate.map_err(|e| {
                        Error::Protocol(format!("error auto signing csr \"{}\": {e}", key.name))
                    })?;
                    status.certificate = Some(ByteString(certificate.into_bytes()));
                }
            }
            self.start.client.update_status(&changed).await?;
            Ok(Next::Done)
        })
    }
}

fn lifetime(wanted: Option<i32>, longest: Duration) -> Duration {
    let wanted = wanted.map(|seconds| Duration::from_secs(u64::try_from(seconds).unwrap_or_default()));
    match wanted {
        Some(wanted) if wanted <= longest => wanted.max(SHORTEST),
        _ => longest,
    }
}

impl Ca {
    fn load(pem: &SigningCa) -> Result<Self, String> {
        let key = KeyPair::from_pem(&pem.key).map_err(|e| format!("the key cannot be read: {e}"))?;
        let block = x509_parser::pem::parse_x509_pem(pem.certificate.as_bytes());
        let (_, block) = block.map_err(|e| format!("the certificate cannot be read: {e}"))?;
        let (_, parsed) = X509Certificate::from_der(&block.contents)
            .map_err(|e| format!("the certificate cannot be read: {e}"))?;
        if parsed.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
            return Err("the key is not that of the certificate".into());
        }
        let key_id = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
            _ => None,
        });
        Ok(Self {
            subject: parsed.subject().as_raw().to_vec(),
            key_id,
            not_after: parsed.validity().not_after.timestamp(),
            algorithm: algorithm(key.algorithm())?,
            key,
        })
    }

    /// A certificate for the request's key and names, PEM. Whatever else the request wishes is left out.
    fn sign(
        &self,
        request: &Request,
        usages: &[String],
        lifetime: Duration,
        now: SystemTime,
        serial: &[u8; 16],
    ) -> Result<String, String> {
        let unix = |time: SystemTime| {
            let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
        };
        let end = if lifetime < SHORT { now + lifetime } else { now + lifetime - BACKDATE };
        if unix(now) >= self.not_after {
            return Err(format!(
                "refusing to sign a certificate that expired in the past: NotAfter={}",
                knarr_meta::time::rfc3339(
                    SystemTime::UNIX_EPOCH
                        + Duration::from_secs(u64::try_from(self.not_after).unwrap_or_default())
                )
            ));
        }
        let subject: Vec<Vec<u8>> = request
            .subject
            .iter()
            .map(|part| {
                let one =
                    |value: &String| der::nested(der::SEQUENCE, &[der::oid(part.oid), der::text(value)]);
                let mut values: Vec<Vec<u8>> = part.values.iter().map(one).collect();
                values.sort();
                der::nested(der::SET, &values)
            })
            .collect();
        let extensions = self.extensions(request, usages)?;
        let body = der::nested(
            der::SEQUENCE,
            &[
                // Version 3.
                der::nested(0xa0, &[der::positive(&[2])]),
                der::positive(serial),
                self.algorithm.clone(),
                self.subject.clone(),
                der::nested(
                    der::SEQUENCE,
                    &[der::time(unix(now - BACKDATE)), der::time(unix(end).min(self.not_after))],
                ),
                der::nested(der::SEQUENCE, &subject),
                request.public_key.clone(),
                der::nested(0xa3, &[der::nested(der::SEQUENCE, &extensions)]),
            ],
        );
        let signature = self.key.sign(&body).map_err(|e| format!("failed to sign certificate: {e}"))?;
        let signature = der::value(der::BITS, &[&[0], &*signature].concat());
        let certificate = der::nested(der::SEQUENCE, &[body, self.algorithm.clone(), signature]);
        Ok(pem("CERTIFICATE", &certificate))
    }

    fn extensions(&self, request: &Request, usages: &[String]) -> Result<Vec<Vec<u8>>, String> {
        let (bits, purposes) = usage_codes(usages)?;
        let mut out = Vec::new();
        if !bits.is_empty() {
            out.push(extension(&[2, 5, 29, 15], true, der::bits(&bits)));
        }
        if !purposes.is_empty() {
            let purposes: Vec<Vec<u8>> = purposes.iter().map(|oid| der::oid(oid)).collect();
            out.push(extension(&[2, 5, 29, 37], false, der::nested(der::SEQUENCE, &purposes)));
        }
        // No CA.
        out.push(extension(&[2, 5, 29, 19], true, der::nested(der::SEQUENCE, &[])));
        if let Some(id) = &self.key_id {
            out.push(extension(&[2, 5, 29, 35], false, der::nested(der::SEQUENCE, &[der::value(0x80, id)])));
        }
        let mut names: Vec<Vec<u8>> = Vec::new();
        names.extend(request.dns_names.iter().map(|name| der::value(0x82, name.as_bytes())));
        names.extend(request.emails.iter().map(|email| der::value(0x81, email.as_bytes())));
        names.extend(request.addresses.iter().map(|address| match address {
            std::net::IpAddr::V4(v4) => der::value(0x87, &v4.octets()),
            std::net::IpAddr::V6(v6) => der::value(0x87, &v6.octets()),
        }));
        names.extend(request.uris.iter().map(|uri| der::value(0x86, uri.as_bytes())));
        if !names.is_empty() {
            // They must be understood where they are all there is.
            let critical = request.subject.is_empty();
            out.push(extension(&[2, 5, 29, 17], critical, der::nested(der::SEQUENCE, &names)));
        }
        Ok(out)
    }
}

fn extension(oid: &[u64], critical: bool, content: Vec<u8>) -> Vec<u8> {
    let critical = if critical { der::value(der::BOOLEAN, &[0xff]) } else { Vec::new() };
    der::nested(der::SEQUENCE, &[der::oid(oid), critical, der::value(der::OCTETS, &content)])
}

fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap_or_default()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// How a key signs, as certificates say it.
fn algorithm(algorithm: &'static SignatureAlgorithm) -> Result<Vec<u8>, String> {
    const NULL: [u8; 2] = [5, 0];
    let known: [(&'static SignatureAlgorithm, &[u64], &[u8]); 6] = [
        (&rcgen::PKCS_ECDSA_P256_SHA256, &[1, 2, 840, 10045, 4, 3, 2], &[]),
        (&rcgen::PKCS_ECDSA_P384_SHA384, &[1, 2, 840, 10045, 4, 3, 3], &[]),
        (&rcgen::PKCS_ED25519, &[1, 3, 101, 112], &[]),
        (&rcgen::PKCS_RSA_SHA256, &[1, 2, 840, 113_549, 1, 1, 11], &NULL),
        (&rcgen::PKCS_RSA_SHA384, &[1, 2, 840, 113_549, 1, 1, 12], &NULL),
        (&rcgen::PKCS_RSA_SHA512, &[1, 2, 840, 113_549, 1, 1, 13], &NULL),
    ];
    let found = known.into_iter().find(|(known, ..)| *known == algorithm);
    let (_, oid, parameters) = found.ok_or("the key's algorithm is not supported")?;
    Ok(der::nested(der::SEQUENCE, &[der::oid(oid), parameters.to_vec()]))
}

/// Key usage bits and extended purposes in the order of Go's constants.
fn usage_codes(usages: &[String]) -> Result<(Vec<u8>, Vec<&'static [u64]>), String> {
    const BITS: &[(&str, u8)] = &[
        ("signing", 0),
        ("digital signature", 0),
        ("content commitment", 1),
        ("key encipherment", 2),
        ("data encipherment", 3),
        ("key agreement", 4),
        ("cert sign", 5),
        ("crl sign", 6),
        ("encipher only", 7),
        ("decipher only", 8),
    ];
    const PURPOSES: &[(&[&str], &[u64])] = &[
        (&["any"], &[2, 5, 29, 37, 0]),
        (&["server auth"], &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
        (&["client auth"], &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
        (&["code signing"], &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
        (&["email protection", "s/mime"], &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
        (&["ipsec end system"], &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
        (&["ipsec tunnel"], &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
        (&["ipsec user"], &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
        (&["timestamping"], &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
        (&["ocsp signing"], &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
        (&["microsoft sgc"], &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
        (&["netscape sgc"], &[2, 16, 840, 1, 113_730, 4, 1]),
    ];
    let known = |usage: &str| {
        BITS.iter().any(|(name, _)| *name == usage)
            || PURPOSES.iter().any(|(names, _)| names.contains(&usage))
    };
    let unknown: Vec<&str> = usages.iter().map(String::as_str).filter(|usage| !known(usage)).collect();
    if !unknown.is_empty() {
        return Err(format!("unrecognized usage values: {unknown:?}"));
    }
    let wants = |name: &str| usages.iter().any(|usage| usage == name);
    let bits = BITS.iter().filter(|(name, _)| wants(name)).map(|(_, bit)| *bit).collect();
    let purposes = PURPOSES.iter().filter(|(names, _)| names.iter().any(|name| wants(name)));
    Ok((bits, purposes.map(|(_, oid)| *oid).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, SanType};

    fn ca() -> (SigningCa, Ca) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "kubernetes");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        let pem = SigningCa { certificate, key: key.serialize_pem(), duration: SIGNING_DURATION };
        let ca = Ca::load(&pem).expect("a CA");
        (pem, ca)
    }

    fn csr(change: impl Fn(&mut CertificateParams)) -> Request {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "jane");
        params.distinguished_name.push(DnType::OrganizationName, "devs*");
        change(&mut params);
        let pem = params.serialize_request(&key).expect("a request").pem().expect("PEM");
        request::parse(pem.as_bytes()).expect("it can be read")
    }

    #[test]
    fn certificates_say_what_the_request_asks_for_and_no_more() {
        let (pem, ca) = ca();
        let request = csr(|params| {
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.subject_alt_names = vec![
                SanType::DnsName("a.example".try_into().expect("a name")),
                SanType::IpAddress([10, 0, 0, 1].into()),
            ];
        });
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let usages =
            ["client auth".to_owned(), "digital signature".to_owned(), "key encipherment".to_owned()];
        let made = ca.sign(&request, &usages, Duration::from_secs(3600), now, &[0xff; 16]).expect("signed");
        let (_, block) = x509_parser::pem::parse_x509_pem(made.as_bytes()).expect("PEM");
        let (rest, certificate) = X509Certificate::from_der(&block.contents).expect("a certificate");
        assert!(rest.is_empty());
        let (_, issuer) = x509_parser::pem::parse_x509_pem(pem.certificate.as_bytes()).expect("PEM");
        let issuer = issuer.parse_x509().expect("a certificate");
        certificate.verify_signature(Some(issuer.public_key())).expect("the CA signed it");
        assert_eq!(certificate.issuer(), issuer.subject());
        assert_eq!(certificate.subject().to_string(), "O=devs*, CN=jane");
        assert_eq!(certificate.public_key().raw, &*request.public_key);
        let validity = certificate.validity();
        assert_eq!(validity.not_before.timestamp(), 1_800_000_000 - 300);
        assert_eq!(validity.not_after.timestamp(), 1_800_000_000 + 3600);
        assert!(!certificate.is_ca());
        let usage = certificate.key_usage().expect("it parses").expect("there is one").value;
        assert!(usage.digital_signature() && usage.key_encipherment() && !usage.key_cert_sign());
        let purposes = certificate.extended_key_usage().expect("it parses").expect("there is one").value;
        assert!(purposes.client_auth && !purposes.server_auth);
        let names = certificate.subject_alternative_name().expect("it parses").expect("there is one").value;
        assert_eq!(names.general_names.len(), 2);
        // A year is counted from the backdated start.
        let made = ca.sign(&request, &usages, SIGNING_DURATION, now, &[1; 16]).expect("signed");
        let (_, block) = x509_parser::pem::parse_x509_pem(made.as_bytes()).expect("PEM");
        let end = block.parse_x509().expect("a certificate").validity().not_after.timestamp();
        assert_eq!(end, 1_800_000_000 + 365 * 24 * 3600 - 300);
    }

    #[test]
    fn lifetimes() {
        let minute = Duration::from_secs(60);
        for (wanted, longest, got) in [
            (None, SIGNING_DURATION, SIGNING_DURATION),
            (Some(1), SIGNING_DURATION, SHORTEST),
            (Some(3600), SIGNING_DURATION, Duration::from_secs(3600)),
            (Some(i32::MAX), SIGNING_DURATION, SIGNING_DURATION),
            (None, minute, minute),
            (Some(3600), minute, minute),
        ] {
            assert_eq!(lifetime(wanted, longest), got, "{wanted:?}");
        }
    }

    #[test]
    fn a_request_whose_signature_is_wrong_is_refused() {
        use base64::Engine;
        let key = KeyPair::generate().expect("a key");
        let pem =
            CertificateParams::default().serialize_request(&key).expect("a request").pem().expect("PEM");
        let (_, mut block) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("PEM");
        let last = block.contents.len() - 1;
        block.contents[last] ^= 1;
        let body = base64::engine::general_purpose::STANDARD.encode(&block.contents);
        let broken =
            format!("-----BEGIN CERTIFICATE REQUEST-----\n{body}\n-----END CERTIFICATE REQUEST-----\n");
        assert!(request::parse(broken.as_bytes()).is_err());
        assert!(request::parse(b"nothing").is_err_and(|e| e == "PEM block type must be CERTIFICATE REQUEST"));
    }
}
