//! Who asks, told to an extension API server in headers (the request-header authentication of its
//! `extension-apiserver-authentication`): client-go's `SetAuthProxyHeaders`.

use crate::request::UserInfo;
use http::header::{HeaderMap, HeaderName, HeaderValue};

/// The headers' names, as the config map `extension-apiserver-authentication` says them.
pub const USER: HeaderName = HeaderName::from_static("x-remote-user");
/// See [`USER`].
pub const UID: HeaderName = HeaderName::from_static("x-remote-uid");
/// See [`USER`].
pub const GROUP: HeaderName = HeaderName::from_static("x-remote-group");
/// What the names of headers with extra attributes begin with.
pub const EXTRA_PREFIX: &str = "x-remote-extra-";

/// Puts `user` into the headers. Whatever the client sent under these names goes: it would be taken for this
/// server's word. The error names what cannot be put into a header.
pub fn set(headers: &mut HeaderMap, user: &UserInfo) -> Result<(), String> {
    let claimed: Vec<HeaderName> = headers
        .keys()
        .filter(|name| [USER, UID, GROUP].contains(name) || name.as_str().starts_with(EXTRA_PREFIX))
        .cloned()
        .collect();
    for name in claimed {
        headers.remove(name);
    }
    headers.insert(USER, value(&user.name)?);
    if !user.uid.is_empty() {
        headers.insert(UID, value(&user.uid)?);
    }
    for group in &user.groups {
        headers.append(GROUP, value(group)?);
    }
    for (key, values) in &user.extra {
        let name = format!("{EXTRA_PREFIX}{}", escape(key));
        let name =
            HeaderName::try_from(name).map_err(|_| format!("net/http: invalid header field name {key:?}"))?;
        for text in values {
            headers.append(name.clone(), value(text)?);
        }
    }
    Ok(())
}

fn value(text: &str) -> Result<HeaderValue, String> {
    HeaderValue::from_str(text).map_err(|_| format!("net/http: invalid header field value {text:?}"))
}

/// A key as part of a header's name: percent-encoded where it is no token (RFC 7230), the percent sign itself too.
/// Names of headers are lower case here and on HTTP/2; the other end folds the keys' case anyway.
fn escape(key: &str) -> String {
    let mut out = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"!#$&'*+-.^_`|~".contains(&byte) {
            out.push(char::from(byte.to_ascii_lowercase()));
        } else {
            out.push_str(&format!("%{byte:02x}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn what_a_client_claims_to_be_is_replaced() {
        let mut headers = HeaderMap::new();
        for name in ["x-remote-user", "x-remote-group", "x-remote-uid", "x-remote-extra-scopes", "accept"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("mine"));
        }
        let extra = BTreeMap::from([("example.com/Node%".to_owned(), vec!["a".to_owned(), "b".to_owned()])]);
        let user = UserInfo { extra, uid: "u-1".into(), ..UserInfo::new("jane", &["dev"]) };
        set(&mut headers, &user).unwrap();
        let all =
            |name: &str| -> Vec<&str> { headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect() };
        assert_eq!(all("x-remote-user"), ["jane"]);
        assert_eq!(all("x-remote-uid"), ["u-1"]);
        assert_eq!(all("x-remote-group"), ["dev", "system:authenticated"]);
        assert_eq!(all("x-remote-extra-example.com%2fnode%25"), ["a", "b"]);
        assert!(all("x-remote-extra-scopes").is_empty());
        assert_eq!(all("accept"), ["mine"]);
    }
}
