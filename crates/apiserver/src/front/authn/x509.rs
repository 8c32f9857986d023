//! Client certificates (RFC 5280): the common name is the user, organizations are the groups, and the
//! attribute 1.3.6.1.4.1.57683.2 is the user's UID (KEP-4633's neighbour in upstream's x509 authenticator).

use super::front_proxy::ALLOWED_NAME;
use crate::front::tls::ClientCertificates;
use crate::request::UserInfo;
use rustls::pki_types::{CertificateDer, UnixTime};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use x509_parser::prelude::{FromDer, X509Certificate};

/// The object identifier of the UID attribute in a certificate's subject.
const UID_OID: &str = "1.3.6.1.4.1.57683.2";

/// A verified client certificate.
#[derive(Clone, Debug)]
pub struct CertificateUser {
    /// Whom it names.
    pub user: Arc<UserInfo>,
    /// Whether it proves the front proxy, whose headers say who asks.
    pub is_front_proxy: bool,
    /// When it stops being valid; a connection may live longer than that.
    pub expires: SystemTime,
}

/// The user a chain of client certificates stands for; `None` when it does not verify or names nobody.
pub fn authenticate(
    verifier: &ClientCertificates,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Option<CertificateUser> {
    let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    let now = UnixTime::since_unix_epoch(since_epoch);
    let is_client = verifier.verify(chain, now);
    if !is_client && !verifier.verify_front_proxy(chain, now) {
        return None;
    }
    let (_, certificate) = X509Certificate::from_der(chain.first()?).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?.to_owned();
    if !is_client && name != ALLOWED_NAME {
        return None;
    }
    let mut groups: Vec<String> =
        subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned)).collect();
    groups.push("system:authenticated".into());
    let uid = subject
        .iter_attributes()
        .find(|a| a.attr_type().to_id_string() == UID_OID)
        .and_then(|a| a.as_str().ok())
        .unwrap_or_default()
        .to_owned();
    let hash: String = Sha256::digest(chain.first()?).iter().map(|b| format!("{b:02x}")).collect();
    let extra =
        [("authentication.kubernetes.io/credential-id".to_owned(), vec![format!("X509SHA256={hash}")])]
            .into();
    let expires = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Some(CertificateUser {
        user: Arc::new(UserInfo { name, uid, groups, extra }),
        is_front_proxy: !is_client,
        expires: SystemTime::UNIX_EPOCH + Duration::from_secs(expires),
    })
}
