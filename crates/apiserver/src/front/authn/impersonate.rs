//! Impersonation headers (`Impersonate-User`, `-Group`, `-Uid`, `-Extra-*`): acting as somebody else, with the
//! verb `impersonate` checked for each part, as upstream does.

use crate::authorize::{Attributes, Authorizer, Decision};
use crate::front::authz::forbidden;
use crate::request::UserInfo;
use http::HeaderMap;
use knarr_meta::status::Status;
use std::sync::Arc;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";

/// The user to go on with: the requester itself without such headers, else whom it acts as.
pub fn resolve(
    headers: &mut HeaderMap,
    requester: Arc<UserInfo>,
    authorizer: &dyn Authorizer,
) -> Result<Arc<UserInfo>, Status> {
    let present = headers.keys().any(|name| name.as_str().starts_with("impersonate-"));
    if !present {
        return Ok(requester);
    }
    let wanted = Wanted::read(headers)?;
    for attributes in wanted.questions(&requester) {
        match authorizer.authorize(&attributes) {
            Decision::Allow(_) => {}
            Decision::Deny(reason) | Decision::NoOpinion(reason) => {
                return Err(forbidden(&attributes, &reason));
            }
        }
    }
    let names: Vec<_> = headers.keys().filter(|n| n.as_str().starts_with("impersonate-")).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    Ok(Arc::new(wanted.into_user()))
}

struct Wanted {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: Vec<(String, Vec<String>)>,
}

impl Wanted {
    fn read(headers: &HeaderMap) -> Result<Self, Status> {
        let values = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
        };
        let user = values(USER).into_iter().next().unwrap_or_default();
        let uid = values(UID).into_iter().next().unwrap_or_default();
        let groups = values(GROUP);
        let mut extra: Vec<(String, Vec<String>)> = Vec::new();
        for name in headers.keys() {
            if let Some(key) = name.as_str().strip_prefix(EXTRA) {
                let key = percent_encoding::percent_decode_str(key).decode_utf8_lossy().into_owned();
                extra.push((key, values(name.as_str())));
            }
        }
        if user.is_empty() && (!groups.is_empty() || !uid.is_empty() || !extra.is_empty()) {
            let mut text = String::from("requested ");
            text.push_str(&format!("uid={uid:?}, groups={groups:?} without impersonating a user"));
            return Err(Status::internal(text));
        }
        Ok(Self { user, uid, groups, extra })
    }

    /// What the requester must be permitted: each part with the verb `impersonate`.
    fn questions(&self, requester: &Arc<UserInfo>) -> Vec<Attributes> {
        let base = Attributes {
            user: requester.clone(),
            verb: "impersonate".into(),
            is_resource: true,
            version: "v1".into(),
            ..Attributes::default()
        };
        let mut questions = Vec::new();
        match service_account(&self.user) {
            Some((namespace, name)) => questions.push(Attributes {
                resource: "serviceaccounts".into(),
                namespace: namespace.into(),
                name: name.into(),
                ..base.clone()
            }),
            None if self.user.is_empty() => {}
            None => questions.push(Attributes {
                resource: "users".into(),
                name: self.user.clone(),
                ..base.clone()
            }),
        }
        for group in &self.groups {
            questions.push(Attributes { resource: "groups".into(), name: group.clone(), ..base.clone() });
        }
        let authentication = Attributes { group: "authentication.k8s.io".into(), ..base };
        for (key, values) in &self.extra {
            for value in values {
                questions.push(Attributes {
                    resource: "userextras".into(),
                    subresource: key.clone(),
                    name: value.clone(),
                    ..authentication.clone()
                });
            }
        }
        if !self.uid.is_empty() {
            questions.push(Attributes { resource: "uids".into(), name: self.uid.clone(), ..authentication });
        }
        questions
    }

    fn into_user(self) -> UserInfo {
        let mut groups = self.groups;
        if let Some((namespace, _)) = service_account(&self.user)
            && groups.is_empty()
        {
            groups.push("system:serviceaccounts".into());
            groups.push(format!("system:serviceaccounts:{namespace}"));
        }
        let either = ["system:authenticated", "system:unauthenticated"];
        if !groups.iter().any(|group| either.contains(&group.as_str())) {
            let anonymous = self.user == "system:anonymous";
            groups.push(either[usize::from(anonymous)].to_owned());
        }
        UserInfo { name: self.user, uid: self.uid, groups, extra: self.extra.into_iter().collect() }
    }
}

/// Namespace and name of a service account's user name.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    (!namespace.is_empty() && !name.is_empty() && !name.contains(':')).then_some((namespace, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Only(&'static str);
    impl Authorizer for Only {
        fn authorize(&self, a: &Attributes) -> Decision {
            let asked = format!("{}/{}:{}", a.resource, a.subresource, a.name);
            if self.0.split(' ').any(|allowed| allowed == asked) {
                Decision::Allow(String::new())
            } else {
                Decision::NoOpinion(String::new())
            }
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in pairs {
            map.append(*name, http::HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn every_part_is_asked_for_and_the_result_is_whom_they_name() {
        let me = Arc::new(UserInfo::new("me", &[]));
        let asked = [(USER, "bob"), (GROUP, "dev"), ("impersonate-extra-scopes", "view")];
        let all = Only("users/:bob groups/:dev userextras/scopes:view");
        let user = resolve(&mut headers(&asked), me.clone(), &all).unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            ("bob", &["dev".to_owned(), "system:authenticated".into()][..])
        );
        assert_eq!(user.extra["scopes"], ["view"]);

        let refused = resolve(&mut headers(&asked), me.clone(), &Only("users/:bob")).unwrap_err();
        assert_eq!(
            refused.message,
            "groups \"dev\" is forbidden: User \"me\" cannot impersonate resource \"groups\" in API group \"\" at the cluster scope"
        );
        assert!(resolve(&mut headers(&[(GROUP, "dev")]), me.clone(), &all).is_err());
        assert_eq!(resolve(&mut headers(&[]), me.clone(), &Only("")).unwrap(), me);
    }

    #[test]
    fn a_service_account_brings_its_groups() {
        let name = "system:serviceaccount:web:default";
        let mut asked = headers(&[(USER, name)]);
        let user = resolve(&mut asked, Arc::default(), &Only("serviceaccounts/:default")).unwrap();
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:web", "system:authenticated"]
        );
        assert!(asked.is_empty());
    }
}
