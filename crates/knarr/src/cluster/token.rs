//! Join tokens: a bootstrap token (`<id>.<secret>`) with the hash of the cluster's CA before it, so that a machine that
//! joins can tell the right server. `K10<hash>::<id>.<secret>` is k3s' form; the hash is kubeadm's
//! (`--discovery-token-ca-cert-hash`): SHA-256 over the CA's public key (SubjectPublicKeyInfo, DER), in hex.
//! <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>

use anyhow::{Context, Result, bail};
use knarr_base::Rng;
use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

const MARK: &str = "K10";
const KUBEADM: &str = "sha256:";
const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;

/// A join token.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// Public part.
    pub id: String,
    /// Secret part.
    pub secret: String,
    /// SHA-256 of the CA's public key, hex.
    pub ca_hash: String,
}

fn is_word(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
}

impl JoinToken {
    /// A new token for a cluster.
    pub fn new(rng: &dyn Rng, ca_hash: String) -> Self {
        const ALPHABET: &[u8; 36] = b"abcdefghijklmnopqrstuvwxyz0123456789";
        let word = |length| (0..length).map(|_| char::from(ALPHABET[rng.below(36) as usize])).collect();
        Self { id: word(ID_LENGTH), secret: word(SECRET_LENGTH), ca_hash }
    }

    /// Reads a token; a plain bootstrap token needs the hash beside it.
    pub fn parse(text: &str, ca_hash: Option<&str>) -> Result<Self> {
        let (inside, plain) = match text.strip_prefix(MARK).and_then(|rest| rest.split_once("::")) {
            Some((hash, plain)) => (Some(hash), plain),
            None => (None, text),
        };
        let beside = ca_hash.map(|hash| hash.strip_prefix(KUBEADM).unwrap_or(hash));
        let Some((id, secret)) = plain
            .split_once('.')
            .filter(|(id, secret)| is_word(id, ID_LENGTH) && is_word(secret, SECRET_LENGTH))
        else {
            bail!("this is not a token as 'knarr token create' prints it");
        };
        let hash = match (inside, beside) {
            (Some(inside), Some(beside)) if inside != beside => {
                bail!("the token and --discovery-token-ca-cert-hash name different clusters")
            }
            (Some(hash), _) | (None, Some(hash)) => hash,
            (None, None) => bail!(
                "this token does not say which cluster it is for; add --discovery-token-ca-cert-hash, or take one of \
                 'knarr token create'"
            ),
        };
        if hash.len() != 64 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            bail!("{hash:?} is not the hash of a CA: 64 hexadecimal digits");
        }
        Ok(Self { id: id.to_owned(), secret: secret.to_owned(), ca_hash: hash.to_ascii_lowercase() })
    }

    /// What the API server is shown.
    pub fn bearer(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }

    /// The whole token.
    pub fn text(&self) -> String {
        format!("{MARK}{}::{}", self.ca_hash, self.bearer())
    }
}

/// The hash of a CA's public key.
pub fn ca_hash(certificate: &CertificateDer<'_>) -> Result<String> {
    let (_, parsed) =
        X509Certificate::from_der(certificate).context("the CA's certificate cannot be read")?;
    let hash = <sha2::Sha256 as sha2::Digest>::digest(parsed.public_key().raw);
    Ok(hash.iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_carry_the_cluster_they_are_for() {
        let hash = "ab".repeat(32);
        let token = JoinToken::new(&knarr_base::SystemRng, hash.clone());
        let same = |a: Result<JoinToken>| a.is_ok_and(|a| a == token);
        assert!(same(JoinToken::parse(&token.text(), None)));
        assert!(same(JoinToken::parse(&token.bearer(), Some(&format!("sha256:{hash}")))));
        let error = |text: &str, hash| JoinToken::parse(text, hash).err().expect("a mistake").to_string();
        assert!(error(&token.bearer(), None).contains("which cluster"));
        assert!(error(&token.text(), Some("sha256:00")).contains("different clusters"));
        assert!(error("abcdef.0123456789abcde", Some(&hash)).contains("not a token"));
        assert!(error("K10ff::abcdef.0123456789abcdef", None).contains("64 hexadecimal digits"));
    }
}
