//! Bootstrap tokens: secrets in kube-system of type `bootstrap.kubernetes.io/token`, by which a new node asks for its
//! first certificate. <https://kubernetes.io/docs/reference/access-authn-authz/bootstrap-tokens/>

use crate::request::{Reader, UserInfo};
use base64::Engine;
use serde_json::Value;
use std::collections::BTreeSet;
use std::time::SystemTime;

const DEFAULT_GROUP: &str = "system:bootstrappers";

/// The user of a bootstrap token that is good now; `None` says nothing of why not.
pub fn authenticate(token: &str, now: SystemTime, reader: &dyn Reader) -> Option<UserInfo> {
    let (id, key) = token.split_once('.')?;
    let plain = |text: &str, len| {
        text.len() == len && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
    };
    if !plain(id, 6) || !plain(key, 16) {
        return None;
    }
    let secret = reader.get("", "secrets", "kube-system", &format!("bootstrap-token-{id}"))?;
    let is_one = secret["type"] == "bootstrap.kubernetes.io/token"
        && secret["metadata"]["deletionTimestamp"].is_null()
        && same(&data(&secret, "token-secret")?, key)
        && data(&secret, "token-id")? == id
        && data(&secret, "usage-bootstrap-authentication")? == "true";
    let expired = match data(&secret, "expiration").filter(|text| !text.is_empty()) {
        Some(text) => knarr_meta::time::parse(&text).map_or(true, |end| end <= now),
        None => false,
    };
    if !is_one || expired {
        return None;
    }
    let mut groups = BTreeSet::from([DEFAULT_GROUP.to_owned()]);
    if let Some(more) = data(&secret, "auth-extra-groups").filter(|text| !text.is_empty()) {
        for group in more.split(',') {
            groups.insert(valid_group(group)?.to_owned());
        }
    }
    let groups = groups.into_iter().chain(["system:authenticated".to_owned()]).collect();
    Some(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

fn data(secret: &Value, key: &str) -> Option<String> {
    let encoded = secret["data"][key].as_str()?;
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(encoded).ok()?).ok()
}

/// Compares without telling by its time where the difference is.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |sum, (x, y)| sum | (x ^ y)) == 0
}

/// `system:bootstrappers:` and up to 256 small letters, digits, colons and dashes, not a colon or dash at the end.
fn valid_group(group: &str) -> Option<&str> {
    let name = group.strip_prefix("system:bootstrappers:")?;
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b':' || b == b'-';
    let ends = name.bytes().last().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (name.len() <= 256 && name.bytes().all(inner) && ends).then_some(group)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;
    use std::time::Duration;

    struct One(Value);
    impl Reader for One {
        fn get(&self, _: &str, resource: &str, namespace: &str, name: &str) -> Option<Arc<Value>> {
            let asked = (resource, namespace, name) == ("secrets", "kube-system", "bootstrap-token-abcdef");
            asked.then(|| Arc::new(self.0.clone()))
        }
        fn list(&self, _: &str, _: &str, _: &str) -> Vec<Arc<Value>> {
            Vec::new()
        }
        fn revision(&self, _: &str, _: &str) -> u64 {
            0
        }
    }

    fn secret(change: &[(&str, &str)]) -> Value {
        let mut data = json!({});
        let base = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
            ("expiration", "1970-01-02T00:00:00Z"),
            ("auth-extra-groups", "system:bootstrappers:zoo,system:bootstrappers:a-b"),
        ];
        for (key, value) in base.iter().chain(change) {
            data[*key] = base64::engine::general_purpose::STANDARD.encode(value).into();
        }
        json!({ "type": "bootstrap.kubernetes.io/token", "metadata": {}, "data": data })
    }

    #[test]
    fn tokens_are_good_for_their_purpose_and_time() {
        let good = "abcdef.0123456789abcdef";
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(3600);
        let user = authenticate(good, now, &One(secret(&[]))).expect("a good token");
        assert_eq!(user.name, "system:bootstrap:abcdef");
        let groups = [
            "system:bootstrappers",
            "system:bootstrappers:a-b",
            "system:bootstrappers:zoo",
            "system:authenticated",
        ];
        assert_eq!(user.groups, groups);
        let mut deleted = secret(&[]);
        deleted["metadata"]["deletionTimestamp"] = "1970-01-01T00:00:00Z".into();
        let mut opaque = secret(&[]);
        opaque["type"] = "Opaque".into();
        let bad = [
            (good, secret(&[("expiration", "1970-01-01T00:30:00Z")])),
            (good, secret(&[("expiration", "soon")])),
            (good, secret(&[("usage-bootstrap-authentication", "false")])),
            (good, secret(&[("token-id", "fedcba")])),
            (good, secret(&[("auth-extra-groups", "system:masters")])),
            (good, secret(&[("auth-extra-groups", "system:bootstrappers:a-")])),
            ("abcdef.0123456789abcdeg", secret(&[])),
            ("abcdef.0123", secret(&[])),
            ("ABCDEF.0123456789abcdef", secret(&[])),
            (good, deleted),
            (good, opaque),
        ];
        for (token, secret) in bad {
            assert_eq!(authenticate(token, now, &One(secret.clone())), None, "{token} {secret}");
        }
    }
}
