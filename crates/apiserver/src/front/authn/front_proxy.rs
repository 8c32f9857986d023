//! Request headers of an authenticating proxy (`X-Remote-User`, `-Uid`, `-Group`, `-Extra-*`): believed only from a
//! client whose certificate is signed by the front proxy's CA for the front proxy's name, as kubeadm configures
//! upstream (--requestheader-client-ca-file, --requestheader-allowed-names).

use crate::request::UserInfo;
use http::HeaderMap;

/// The common name that such a client must have.
pub const ALLOWED_NAME: &str = "front-proxy-client";
const USER: &str = "x-remote-user";
const UID: &str = "x-remote-uid";
const GROUP: &str = "x-remote-group";
const EXTRA: &str = "x-remote-extra-";

/// The user that the headers name, `None` if they name none.
pub fn authenticate(headers: &HeaderMap) -> Option<UserInfo> {
    let values = |name: &str| {
        let values = headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned);
        values.collect::<Vec<String>>()
    };
    let first = |name: &str| values(name).into_iter().next().unwrap_or_default();
    let name = first(USER);
    if name.is_empty() {
        return None;
    }
    let mut user = UserInfo { name, uid: first(UID), ..UserInfo::default() };
    user.groups = values(GROUP).into_iter().filter(|group| !group.is_empty()).collect();
    for header in headers.keys() {
        let Some(key) = header.as_str().strip_prefix(EXTRA) else { continue };
        let key = match percent_encoding::percent_decode_str(key).decode_utf8() {
            Ok(decoded) => decoded.into_owned(),
            Err(_) => key.to_owned(),
        };
        user.extra.entry(key).or_default().extend(values(header.as_str()));
    }
    let known = ["system:authenticated", "system:unauthenticated"];
    if user.name != "system:anonymous" && !known.iter().any(|group| user.in_group(group)) {
        user.groups.push("system:authenticated".into());
    }
    Some(user)
}

/// Takes the headers out of a request: nobody behind this server may take them for its word.
pub fn strip(headers: &mut HeaderMap) {
    let ours = |name: &str| matches!(name, USER | UID | GROUP) || name.starts_with(EXTRA);
    let names: Vec<_> = headers.keys().filter(|name| ours(name.as_str())).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn headers_name_a_user_and_are_not_passed_on() {
        let mut headers = HeaderMap::new();
        assert_eq!(authenticate(&headers), None);
        for (name, value) in [
            ("x-remote-user", "bob"),
            ("x-remote-group", "dev"),
            ("x-remote-group", "ops"),
            ("x-remote-uid", "7"),
            ("x-remote-extra-example.com%2fscopes", "view"),
            ("x-remote-other", "kept"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        let user = authenticate(&headers).expect("a user");
        assert_eq!((user.name.as_str(), user.uid.as_str()), ("bob", "7"));
        assert_eq!(user.groups, ["dev", "ops", "system:authenticated"]);
        assert_eq!(user.extra["example.com/scopes"], ["view"]);
        strip(&mut headers);
        assert_eq!(headers.len(), 1);
    }
}
