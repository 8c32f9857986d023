//! Whom a certificate (RFC 5280) or a reviewed token names.

use serde_json::Value;
use std::collections::BTreeMap;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Everybody with a name is a member.
const AUTHENTICATED: &str = "system:authenticated";

/// A user.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(in crate::server) struct User {
    /// The name.
    pub(super) name: String,
    /// The UID, where there is one.
    pub(super) uid: String,
    /// The groups.
    pub(super) groups: Vec<String>,
    /// Anything else.
    pub(super) extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// The common name of a client certificate that the handshake has verified, and its organizations as groups.
    pub(in crate::server) fn certified(certificate: &[u8]) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        let subject = certificate.subject();
        let name =
            subject.iter_common_name().next()?.as_str().ok().filter(|name| !name.is_empty())?.to_owned();
        let organizations = subject.iter_organization().filter_map(|o| o.as_str().ok().map(str::to_owned));
        let groups = organizations.chain([AUTHENTICATED.to_owned()]).collect();
        Some(Self { name, groups, ..Self::default() })
    }

    /// Out of a TokenReview's status.
    pub(super) fn reviewed(status: &Value) -> Option<Self> {
        if status["authenticated"] != true {
            return None;
        }
        let user = &status["user"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let texts = |value: &Value| value.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
        let mut groups = texts(&user["groups"]);
        if !groups.iter().any(|group| group == AUTHENTICATED) {
            groups.push(AUTHENTICATED.to_owned());
        }
        let extra = user["extra"].as_object().into_iter().flatten();
        Some(Self {
            name: text(&user["username"]),
            uid: text(&user["uid"]),
            groups,
            extra: extra.map(|(name, values)| (name.clone(), texts(values))).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn certificates_and_reviews_name_users() {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "jane");
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "ops");
        let key = rcgen::KeyPair::generate().unwrap();
        let user = User::certified(params.self_signed(&key).unwrap().der()).unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.join(" ").as_str()),
            ("jane", "ops system:authenticated")
        );
        let mut nameless = rcgen::CertificateParams::default();
        nameless.distinguished_name = rcgen::DistinguishedName::new();
        assert_eq!(User::certified(nameless.self_signed(&key).unwrap().der()), None);

        let status = json!({"authenticated": true, "user": {"username": "bot", "uid": "1", "groups": ["g"], "extra": {"k": ["v"]}}});
        let user = User::reviewed(&status).unwrap();
        assert_eq!((user.name.as_str(), user.groups.join(" ").as_str()), ("bot", "g system:authenticated"));
        assert_eq!(user.extra["k"], ["v"]);
        assert_eq!(User::reviewed(&json!({"authenticated": false, "user": {"username": "bot"}})), None);
    }
}
