//! Service-account tokens: JWTs (RFC 7519) signed with ES256 (RFC 7518), with upstream's claims, bound to a
//! pod, a secret or a node (KEP-1205, KEP-4193), and checked against the live objects at every request.
//! Tokens of the older kind, kept in secrets, are accepted too.

use crate::request::{Reader, UserInfo};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, UnparsedPublicKey,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

/// What precedes an uncompressed P-256 point in a SubjectPublicKeyInfo (RFC 5480).
const P256_SPKI_PREFIX: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86,
    0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
/// Clocks of machines differ by up to this much.
const LEEWAY_SECONDS: i64 = 60;
/// A bound object that is being deleted keeps its tokens for this long after its deletion timestamp.
const DELETION_GRACE: Duration = Duration::from_secs(60);
/// Verified signatures that are remembered; a cluster of a thousand pods fits.
const CACHE_SIZE: usize = 4096;
/// The issuer of tokens kept in secrets.
const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";

/// The claims of a token.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Claims {
    /// Audiences; a single string is accepted.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// Not valid from this second on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exp: Option<i64>,
    /// Issued at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iat: Option<i64>,
    /// Issuer.
    #[serde(default)]
    pub iss: String,
    /// Identifier of this token.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    /// What upstream adds.
    #[serde(rename = "kubernetes.io", default, skip_serializing_if = "Option::is_none")]
    pub kubernetes: Option<Private>,
    /// Not valid before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nbf: Option<i64>,
    /// Subject: `system:serviceaccount:<namespace>:<name>`.
    #[serde(default)]
    pub sub: String,
    /// Claims of tokens kept in secrets.
    #[serde(
        rename = "kubernetes.io/serviceaccount/namespace",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_namespace: String,
    /// Name of the secret.
    #[serde(
        rename = "kubernetes.io/serviceaccount/secret.name",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_secret: String,
    /// Name of the service account.
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.name",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_name: String,
    /// UID of the service account.
    #[serde(
        rename = "kubernetes.io/serviceaccount/service-account.uid",
        default,
        skip_serializing_if = "String::is_empty"
    )]
    pub legacy_uid: String,
}

/// The claim `kubernetes.io`.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Private {
    /// Namespace of the service account.
    #[serde(default)]
    pub namespace: String,
    /// The node the pod runs on, or the node the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    /// The pod the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    /// The secret the token is bound to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    /// The service account.
    #[serde(default)]
    pub serviceaccount: Ref,
    /// The second from which the use of an extended token is remarked on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

/// Name and UID of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    /// Name.
    #[serde(default)]
    pub name: String,
    /// UID.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(d)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

/// What a valid token says.
#[derive(Clone, Debug)]
pub struct Verified {
    /// The service account as a user.
    pub user: UserInfo,
    /// The audiences it shares with those asked for.
    pub audiences: Vec<String>,
}

/// Signs and checks tokens.
pub struct Tokens {
    key: EcdsaKeyPair,
    key_id: String,
    issuer: String,
    audiences: Vec<String>,
    cache: Mutex<HashMap<[u8; 32], Arc<Claims>>>,
}

/// The signing key is not a PKCS #8 ECDSA P-256 key.
#[derive(Debug, thiserror::Error)]
#[error("the service-account signing key is not an ECDSA P-256 key in PKCS #8 form: {0}")]
pub struct BadSigningKey(String);

impl Tokens {
    /// Tokens of `issuer`, signed with the key of that PEM text, for `audiences` (the server's own).
    pub fn new(key_pem: &str, issuer: &str, audiences: Vec<String>) -> Result<Self, BadSigningKey> {
        let der = super::super::pki::pem_der(key_pem).ok_or_else(|| BadSigningKey("it is not PEM".into()))?;
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &SystemRandom::new())
            .map_err(|e| BadSigningKey(e.to_string()))?;
        let mut spki = P256_SPKI_PREFIX.to_vec();
        spki.extend_from_slice(key.public_key().as_ref());
        let key_id = base64(&Sha256::digest(&spki));
        Ok(Self { key, key_id, issuer: issuer.to_owned(), audiences, cache: Mutex::default() })
    }

    /// The server's own audiences.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    /// The issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Signs claims; `iss` is filled in.
    pub fn sign(&self, mut claims: Claims) -> String {
        if claims.iss.is_empty() {
            claims.iss = self.issuer.clone();
        }
        let header = serde_json::json!({"alg": "ES256", "kid": self.key_id}).to_string();
        let body = serde_json::to_vec(&claims).expect("claims always serialize");
        let message = format!("{}.{}", base64(header.as_bytes()), base64(&body));
        let signature = self
            .key
            .sign(&SystemRandom::new(), message.as_bytes())
            .expect("signing with a valid key succeeds");
        format!("{message}.{}", base64(signature.as_ref()))
    }

    /// A token to keep in a secret of type `kubernetes.io/service-account-token`.
    pub fn sign_for_secret(&self, namespace: &str, account: &str, uid: &str, secret: &str) -> String {
        self.sign(Claims {
            iss: LEGACY_ISSUER.into(),
            sub: format!("system:serviceaccount:{namespace}:{account}"),
            legacy_namespace: namespace.into(),
            legacy_secret: secret.into(),
            legacy_name: account.into(),
            legacy_uid: uid.into(),
            ..Claims::default()
        })
    }

    /// The user of a token that is good for one of `audiences` now; `None` says nothing of why not.
    pub fn authenticate(
        &self,
        token: &str,
        audiences: &[String],
        now: SystemTime,
        reader: &dyn Reader,
    ) -> Option<Verified> {
        let claims = self.verify(token)?;
        if claims.iss == LEGACY_ISSUER {
            return self.authenticate_legacy(token, &claims, audiences, now, reader);
        }
        let seconds = epoch_seconds(now);
        if claims.iss != self.issuer
            || claims.exp.is_none_or(|exp| seconds > exp + LEEWAY_SECONDS)
            || claims.nbf.is_some_and(|nbf| seconds < nbf - LEEWAY_SECONDS)
        {
            return None;
        }
        let shared: Vec<String> = claims.aud.iter().filter(|a| audiences.contains(a)).cloned().collect();
        if shared.is_empty() {
            return None;
        }
        let private = claims.kubernetes.as_ref()?;
        let account = &private.serviceaccount;
        if claims.sub != format!("system:serviceaccount:{}:{}", private.namespace, account.name) {
            return None;
        }
        alive(reader, "serviceaccounts", &private.namespace, account, now)?;
        if let Some(secret) = &private.secret {
            alive(reader, "secrets", &private.namespace, secret, now)?;
        }
        if let Some(pod) = &private.pod {
            alive(reader, "pods", &private.namespace, pod, now)?;
        } else if let Some(node) = &private.node {
            alive(reader, "nodes", "", node, now)?;
        }
        Some(Verified { user: user(private, &claims.jti), audiences: shared })
    }

    /// Looks for what a token of this server refers to where another server may just have made it. True when
    /// something was found: the token may be good after all.
    pub async fn look_for(&self, token: &str, reader: &dyn Reader) -> bool {
        let Some(claims) = self.verify(token) else { return false };
        let mut objects = Vec::new();
        if let Some(private) = &claims.kubernetes {
            let namespace = private.namespace.as_str();
            objects.push(("serviceaccounts", namespace, private.serviceaccount.name.as_str()));
            let bound = [("secrets", &private.secret), ("pods", &private.pod)];
            objects.extend(
                bound.iter().filter_map(|(kind, to)| Some((*kind, namespace, to.as_ref()?.name.as_str()))),
            );
            objects.extend(private.node.as_ref().map(|node| ("nodes", "", node.name.as_str())));
        } else {
            let namespace = claims.legacy_namespace.as_str();
            objects.push(("serviceaccounts", namespace, claims.legacy_name.as_str()));
            objects.push(("secrets", namespace, claims.legacy_secret.as_str()));
        }
        let mut found = false;
        for (resource, namespace, name) in objects {
            found |= reader.look_for("", resource, namespace, name).await;
        }
        found
    }

    fn authenticate_legacy(
        &self,
        token: &str,
        claims: &Claims,
        audiences: &[String],
        now: SystemTime,
        reader: &dyn Reader,
    ) -> Option<Verified> {
        let shared: Vec<String> = audiences.iter().filter(|a| self.audiences.contains(a)).cloned().collect();
        let account = Ref { name: claims.legacy_name.clone(), uid: claims.legacy_uid.clone() };
        if shared.is_empty() || account.uid.is_empty() {
            return None;
        }
        alive(reader, "serviceaccounts", &claims.legacy_namespace, &account, now)?;
        let secret = reader.get("", "secrets", &claims.legacy_namespace, &claims.legacy_secret)?;
        let stored =
            base64::engine::general_purpose::STANDARD.decode(secret["data"]["token"].as_str()?).ok()?;
        if stored != token.as_bytes() || !secret["metadata"]["deletionTimestamp"].is_null() {
            return None;
        }
        let private = Private {
            namespace: claims.legacy_namespace.clone(),
            serviceaccount: account,
            ..Private::default()
        };
        Some(Verified { user: user(&private, ""), audiences: shared })
    }

    /// The claims of a token with a good signature. What was verified once is remembered by its hash.
    fn verify(&self, token: &str) -> Option<Arc<Claims>> {
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(claims) = self.cache.lock().expect("token cache lock is never poisoned").get(&hash) {
            return Some(claims.clone());
        }
        let (message, signature) = token.rsplit_once('.')?;
        let (header, body) = message.split_once('.')?;
        let header: Value = serde_json::from_slice(&unbase64(header)?).ok()?;
        if header["alg"] != "ES256" {
            return None;
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.key.public_key().as_ref())
            .verify(message.as_bytes(), &unbase64(signature)?)
            .ok()?;
        let claims: Arc<Claims> = Arc::new(serde_json::from_slice(&unbase64(body)?).ok()?);
        let mut cache = self.cache.lock().expect("token cache lock is never poisoned");
        if cache.len() >= CACHE_SIZE {
            cache.clear(); // Rare, and every entry costs one signature check to win back.
        }
        cache.insert(hash, claims.clone());
        Some(claims)
    }

    /// The JSON Web Key Set (RFC 7517) others verify tokens with.
    pub fn jwks(&self) -> Value {
        let point = self.key.public_key().as_ref();
        serde_json::json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.key_id, "crv": "P-256", "alg": "ES256",
            "x": base64(&point[1..33]), "y": base64(&point[33..65]),
        }]})
    }
}

/// Seconds since 1970.
pub(crate) fn epoch_seconds(now: SystemTime) -> i64 {
    now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64)
}

fn user(private: &Private, jti: &str) -> UserInfo {
    let account = &private.serviceaccount;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
        }
    };
    if !jti.is_empty() {
        add("credential-id", &format!("JTI={jti}"));
    }
    if let Some(pod) = &private.pod {
        add("pod-name", &pod.name);
        add("pod-uid", &pod.uid);
    }
    if let Some(node) = &private.node {
        add("node-name", &node.name);
        add("node-uid", &node.uid);
    }
    UserInfo {
        name: format!("system:serviceaccount:{}:{}", private.namespace, account.name),
        uid: account.uid.clone(),
        groups: vec![
            "system:serviceaccounts".into(),
            format!("system:serviceaccounts:{}", private.namespace),
            "system:authenticated".into(),
        ],
        extra,
    }
}

/// Whether the object a token refers to is still the same one and not long gone.
fn alive(reader: &dyn Reader, resource: &str, namespace: &str, object: &Ref, now: SystemTime) -> Option<()> {
    let live = reader.get("", resource, namespace, &object.name)?;
    let meta = &live["metadata"];
    if meta["uid"].as_str() != Some(object.uid.as_str()) {
        return None;
    }
    if let Some(deleted) = meta["deletionTimestamp"].as_str() {
        let deleted = knarr_meta::time::parse(deleted).ok()?;
        if now > deleted + DELETION_GRACE {
            return None;
        }
    }
    Some(())
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Decodes base64url without padding.
pub(crate) fn unbase64(text: &str) -> Option<Vec<u8>> {
    URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).ok()
}

#[cfg(test)]
mod tests;
