//! Impersonation headers (`Impersonate-User`, `-Group`, `-Uid`, `-Extra-*`): acting as somebody else. A requester that
//! may impersonate only in a certain way and for certain verbs (constrained impersonation, KEP-5284: the verbs
//! `impersonate:<mode>` and `impersonate-on:<mode>:<verb>`) is asked about first; the verb `impersonate` on each part
//! permits everything that the other user may do.

use crate::authorize::{Attributes, Authorizer, Decision};
use crate::front::authz::forbidden;
use crate::request::UserInfo;
use http::HeaderMap;
use knarr_meta::field::{self, ErrorList, Path};
use knarr_meta::status::Status;
use std::fmt::Write as _;
use std::sync::Arc;

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
const NODE_PREFIX: &str = "system:node:";
/// Where a service account's token names the node of its pod.
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";
/// From so many groups or extra values on, permission for all of them is asked about first.
const MANY: usize = 4;

/// The user to go on with: the requester itself without such headers, else whom it acts as. `request` is what the
/// requester asks for.
pub fn resolve(
    headers: &mut HeaderMap,
    request: &Attributes,
    authorizer: &dyn Authorizer,
) -> Result<Arc<UserInfo>, Status> {
    let present = headers.keys().any(|name| name.as_str().starts_with("impersonate-"));
    let wanted = if present { Wanted::read(headers)? } else { None };
    let Some(wanted) = wanted else { return Ok(request.user.clone()) };
    let names: Vec<_> = headers.keys().filter(|n| n.as_str().starts_with("impersonate-")).cloned().collect();
    for name in names {
        headers.remove(name);
    }
    let mut first = None;
    for mode in Mode::ALL {
        match mode.check(&wanted, request, authorizer) {
            Some(Ok(user)) => return Ok(Arc::new(user)),
            Some(Err(refusal)) => drop(first.get_or_insert(refusal)),
            None => {}
        }
    }
    Err(first.unwrap_or_else(|| Status::internal("all impersonation modes failed")))
}

/// Whom a request wants to act as, as its headers say.
struct Wanted {
    user: String,
    uid: String,
    groups: Vec<String>,
    extra: Vec<(String, Vec<String>)>,
}

impl Wanted {
    fn read(headers: &HeaderMap) -> Result<Option<Self>, Status> {
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
        let wanted = Self { user, uid, groups, extra };
        if !wanted.user.is_empty() {
            return Ok(Some(wanted));
        }
        if wanted.only_name() {
            return Ok(None);
        }
        Err(Status::bad_request(format!("requested {} without impersonating a user name", wanted.in_go())))
    }

    fn only_name(&self) -> bool {
        self.uid.is_empty() && self.groups.is_empty() && self.extra.is_empty()
    }

    /// As Go prints the structure with `%#v`.
    fn in_go(&self) -> String {
        let list = |items: &[String]| {
            let items: Vec<String> = items.iter().map(|item| format!("{item:?}")).collect();
            format!("{{{}}}", items.join(", "))
        };
        let groups = if self.groups.is_empty() { "(nil)".to_owned() } else { list(&self.groups) };
        let mut extra = String::new();
        for (index, (key, values)) in self.extra.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(extra, "{comma}{key:?}:[]string{}", list(values));
        }
        let extra = if extra.is_empty() { "(nil)".to_owned() } else { format!("{{{extra}}}") };
        format!(
            "&user.DefaultInfo{{Name:{:?}, UID:{:?}, Groups:[]string{groups}, Extra:map[string][]string{extra}}}",
            self.user, self.uid
        )
    }
}

/// A way of impersonating. All but the last limit what may be done as the other user.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// A service account acts as the node that its pod runs on.
    AssociatedNode,
    /// Acting as any node.
    ArbitraryNode,
    /// Acting as a service account.
    ServiceAccount,
    /// Acting as anybody else.
    UserInfo,
    /// The verb `impersonate`.
    Unconstrained,
}

impl Mode {
    const ALL: [Mode; 5] = [
        Mode::AssociatedNode,
        Mode::ArbitraryNode,
        Mode::ServiceAccount,
        Mode::UserInfo,
        Mode::Unconstrained,
    ];

    fn name(self) -> &'static str {
        match self {
            Mode::AssociatedNode => "associated-node",
            Mode::ArbitraryNode => "arbitrary-node",
            Mode::ServiceAccount => "serviceaccount",
            Mode::UserInfo => "user-info",
            Mode::Unconstrained => "",
        }
    }

    fn is_constrained(self) -> bool {
        self != Mode::Unconstrained
    }

    /// Whether the mode is meant for such a user at all.
    fn fits(self, wanted: &Wanted, requester: &UserInfo) -> bool {
        let (node, account) = (node_name(&wanted.user), service_account(&wanted.user));
        match self {
            Mode::AssociatedNode => {
                let own = requester.extra.get(NODE_NAME).map(Vec::as_slice);
                let is_own = matches!((own, node), (Some([own]), Some(node)) if own == node);
                wanted.only_name() && is_own && service_account(&requester.name).is_some()
            }
            Mode::ArbitraryNode => wanted.only_name() && node.is_some(),
            Mode::ServiceAccount => wanted.only_name() && account.is_some(),
            Mode::UserInfo => node.is_none() && account.is_none(),
            Mode::Unconstrained => true,
        }
    }

    /// The other user, a refusal, or nothing where the mode is not meant for it.
    fn check(
        self,
        wanted: &Wanted,
        request: &Attributes,
        authorizer: &dyn Authorizer,
    ) -> Option<Result<UserInfo, Status>> {
        self.fits(wanted, &request.user).then(|| {
            let requester = if self == Mode::AssociatedNode {
                Arc::new(without_node(&request.user))
            } else {
                request.user.clone()
            };
            if self.is_constrained() {
                let verb = format!("impersonate-on:{}:{}", self.name(), request.verb);
                ask(authorizer, &Attributes { user: requester.clone(), verb, ..request.clone() })?;
            }
            self.permits(wanted, &requester, authorizer)?;
            Ok(self.user(wanted))
        })
    }

    /// Asks for each part of the other user.
    fn permits(
        self,
        wanted: &Wanted,
        requester: &Arc<UserInfo>,
        authorizer: &dyn Authorizer,
    ) -> Result<(), Status> {
        let verb = match self {
            Mode::Unconstrained => "impersonate".to_owned(),
            mode => format!("impersonate:{}", mode.name()),
        };
        let base = Attributes {
            user: requester.clone(),
            verb,
            is_resource: true,
            version: "v1".into(),
            ..Attributes::default()
        };
        let authentication = Attributes { group: AUTHENTICATION.into(), ..base.clone() };
        let named = if self.is_constrained() { &authentication } else { &base };
        let mut question =
            Attributes { resource: "users".into(), name: wanted.user.clone(), ..named.clone() };
        if let Some(node) = node_name(&wanted.user).filter(|_| self.is_constrained()) {
            // Which node it is was compared already.
            let name = if self == Mode::AssociatedNode { "*" } else { node };
            question = Attributes { resource: "nodes".into(), name: name.into(), ..question };
        }
        if let Some((namespace, name)) = service_account(&wanted.user) {
            let resource = "serviceaccounts".into();
            question = Attributes { resource, namespace: namespace.into(), name: name.into(), ..question };
        }
        ask(authorizer, &question)?;
        if !wanted.uid.is_empty() {
            let (resource, name) = ("uids".into(), wanted.uid.clone());
            ask(authorizer, &Attributes { resource, name, ..authentication.clone() })?;
        }
        let group = Attributes { resource: "groups".into(), ..named.clone() };
        self.permits_groups(&wanted.groups, &group, authorizer)?;
        let extra = Attributes { resource: "userextras".into(), ..authentication };
        self.permits_extra(&wanted.extra, &extra, authorizer)
    }

    fn permits_groups(
        self,
        groups: &[String],
        question: &Attributes,
        authorizer: &dyn Authorizer,
    ) -> Result<(), Status> {
        let with = |name: &str| Attributes { name: name.to_owned(), ..question.clone() };
        if self.is_constrained() {
            if groups.iter().any(String::is_empty) {
                return Err(forbidden(question, "impersonating the empty string group is not allowed"));
            }
            if groups.iter().any(|group| group == "system:masters") {
                let why = "impersonating the system:masters group is not allowed";
                return Err(forbidden(&with("system:masters"), why));
            }
            if groups.len() >= MANY && ask(authorizer, &with("*")).is_ok() {
                return Ok(());
            }
        }
        groups.iter().try_for_each(|group| ask(authorizer, &with(group)))
    }

    fn permits_extra(
        self,
        extra: &[(String, Vec<String>)],
        question: &Attributes,
        authorizer: &dyn Authorizer,
    ) -> Result<(), Status> {
        let with = |key: &str, value: &str| Attributes {
            subresource: key.to_owned(),
            name: value.to_owned(),
            ..question.clone()
        };
        if self.is_constrained() {
            extra.iter().try_for_each(|(key, values)| check_extra(key, values, question))?;
            let values: usize = extra.iter().map(|(_, values)| values.len()).sum();
            if values.max(extra.len()) >= MANY && ask(authorizer, &with("*", "*")).is_ok() {
                return Ok(());
            }
        }
        let mut pairs = extra.iter().flat_map(|(key, values)| values.iter().map(move |value| (key, value)));
        pairs.try_for_each(|(key, value)| ask(authorizer, &with(key, value)))
    }

    fn user(self, wanted: &Wanted) -> UserInfo {
        let mut groups = wanted.groups.clone();
        if self.is_constrained() && node_name(&wanted.user).is_some() {
            groups = vec!["system:nodes".into()];
        }
        if let Some((namespace, _)) = service_account(&wanted.user).filter(|_| groups.is_empty()) {
            groups = vec!["system:serviceaccounts".into(), format!("system:serviceaccounts:{namespace}")];
        }
        let has = |group: &str| groups.iter().any(|g| g == group);
        let (authenticated, unauthenticated) = ("system:authenticated", "system:unauthenticated");
        let missing = match wanted.user.as_str() {
            "system:anonymous" => Some(unauthenticated).filter(|group| !has(group)),
            _ if has(unauthenticated) => None,
            _ => Some(authenticated).filter(|group| !has(group)),
        };
        groups.extend(missing.map(str::to_owned));
        UserInfo {
            name: wanted.user.clone(),
            uid: wanted.uid.clone(),
            groups,
            extra: wanted.extra.iter().cloned().collect(),
        }
    }
}

fn ask(authorizer: &dyn Authorizer, question: &Attributes) -> Result<(), Status> {
    match authorizer.authorize(question) {
        Decision::Allow(_) => Ok(()),
        Decision::Deny(reason) | Decision::NoOpinion(reason) => Err(forbidden(question, &reason)),
    }
}

fn check_extra(key: &str, values: &[String], question: &Attributes) -> Result<(), Status> {
    let no = |why: String| Err(forbidden(question, &why));
    if key.is_empty() {
        return no("impersonating the empty string key in extra is not allowed".into());
    }
    let errors = domain_prefixed_path(&Path::new("extra").child("key"), key);
    if !errors.is_empty() {
        return no(format!("impersonating an invalid key in extra is not allowed: {errors}"));
    }
    if key != key.to_lowercase() {
        return no(format!("impersonating a non-lowercase key in extra is not allowed: {key:?}"));
    }
    if values.is_empty() {
        return no("impersonating empty values in extra is not allowed".into());
    }
    if values.iter().any(String::is_empty) {
        return no("impersonating the empty string value in extra is not allowed".into());
    }
    Ok(())
}

/// Errors of a path after a domain, such as `example.com/scopes`.
fn domain_prefixed_path(path: &Path, key: &str) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some((domain, rest)) = key.split_once('/').filter(|(d, r)| !d.is_empty() && !r.is_empty()) else {
        let detail = "must be a domain-prefixed path (such as \"acme.io/foo\")";
        errors.0.push(field::invalid(path, key, detail));
        return errors;
    };
    errors.invalid_each(path, domain, knarr_meta::validate::dns1123_subdomain(domain));
    let fits = |b: u8| b.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&b);
    if !rest.bytes().all(fits) {
        let detail = r"Invalid path (regex used for validation is '[A-Za-z0-9/\-._~%!$&'()*+,;=:]+')";
        errors.0.push(field::invalid(path, rest, detail));
    }
    errors
}

/// The requester without what tells its pods apart: permission is for all nodes.
fn without_node(user: &UserInfo) -> UserInfo {
    let keys = user.extra.keys().cloned().collect();
    let extra = [("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)].into();
    UserInfo { extra, ..user.clone() }
}

/// Namespace and name of a service account's user name.
fn service_account(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix("system:serviceaccount:")?.split_once(':')?;
    let valid = |problems: Vec<String>| problems.is_empty();
    let is_one = valid(knarr_meta::validate::dns1123_label(namespace))
        && valid(knarr_meta::validate::dns1123_subdomain(name));
    is_one.then_some((namespace, name))
}

/// The node of a node's user name.
fn node_name(user: &str) -> Option<&str> {
    let name = user.strip_prefix(NODE_PREFIX)?;
    knarr_meta::validate::dns1123_subdomain(name).is_empty().then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Permits `verb resource/subresource:name` of a list.
    struct Only(&'static str);
    impl Authorizer for Only {
        fn authorize(&self, a: &Attributes) -> Decision {
            let asked = format!("{} {}/{}:{}", a.verb, a.resource, a.subresource, a.name);
            if self.0.split(", ").any(|allowed| allowed == asked) {
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

    /// A list of pods by `user`.
    fn request(user: UserInfo) -> Attributes {
        Attributes {
            user: Arc::new(user),
            verb: "list".into(),
            is_resource: true,
            version: "v1".into(),
            resource: "pods".into(),
            namespace: "dev".into(),
            ..Attributes::default()
        }
    }

    fn me() -> UserInfo {
        UserInfo::new("me", &[])
    }

    #[test]
    fn every_part_is_asked_for_and_the_result_is_whom_they_name() {
        let asked = [(USER, "bob"), (GROUP, "dev"), ("impersonate-extra-scopes", "view")];
        let all = Only("impersonate users/:bob, impersonate groups/:dev, impersonate userextras/scopes:view");
        let user = resolve(&mut headers(&asked), &request(me()), &all).unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            ("bob", &["dev".to_owned(), "system:authenticated".into()][..])
        );
        assert_eq!(user.extra["scopes"], ["view"]);

        // The first refusal is the constrained mode's.
        let refused =
            resolve(&mut headers(&asked), &request(me()), &Only("impersonate users/:bob")).unwrap_err();
        assert_eq!(
            refused.message,
            "pods is forbidden: User \"me\" cannot impersonate-on:user-info:list resource \"pods\" in API group \"\" in the namespace \"dev\""
        );
        let refused = resolve(&mut headers(&[(GROUP, "dev")]), &request(me()), &all).unwrap_err();
        assert_eq!(
            (refused.code, refused.message.as_str()),
            (
                400,
                "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"dev\"}, Extra:map[string][]string(nil)} without impersonating a user name"
            )
        );
        assert_eq!(*resolve(&mut headers(&[]), &request(me()), &Only("")).unwrap(), me());
    }

    #[test]
    fn a_service_account_brings_its_groups() {
        let name = "system:serviceaccount:web:default";
        let mut asked = headers(&[(USER, name)]);
        let all = Only("impersonate serviceaccounts/:default");
        let user = resolve(&mut asked, &request(me()), &all).unwrap();
        assert_eq!(
            user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:web", "system:authenticated"]
        );
        assert!(asked.is_empty());
    }

    #[test]
    fn constrained_modes_permit_what_they_name_only() {
        let mut agent = UserInfo::new("system:serviceaccount:kube-system:agent", &[]);
        agent.extra.insert(NODE_NAME.into(), vec!["alpha".into()]);
        let own = Only("impersonate-on:associated-node:list pods/:, impersonate:associated-node nodes/:*");
        type Headers = &'static [(&'static str, &'static str)];
        type Case = (UserInfo, Only, Headers, Result<&'static [&'static str], &'static str>);
        let cases: Vec<Case> = vec![
            (
                agent.clone(),
                own,
                &[(USER, "system:node:alpha")],
                Ok(&["system:nodes", "system:authenticated"]),
            ),
            (
                agent,
                Only("impersonate:associated-node nodes/:*"),
                &[(USER, "system:node:beta")],
                Err("cannot impersonate-on:arbitrary-node:list resource \"pods\""),
            ),
            (
                me(),
                Only("impersonate-on:arbitrary-node:list pods/:, impersonate:arbitrary-node nodes/:beta"),
                &[(USER, "system:node:beta")],
                Ok(&["system:nodes", "system:authenticated"]),
            ),
            (
                me(),
                Only(
                    "impersonate-on:serviceaccount:list pods/:, impersonate:serviceaccount serviceaccounts/:a",
                ),
                &[(USER, "system:serviceaccount:dev:a")],
                Ok(&["system:serviceaccounts", "system:serviceaccounts:dev", "system:authenticated"]),
            ),
            (
                me(),
                Only(
                    "impersonate-on:user-info:list pods/:, impersonate:user-info users/:bob, impersonate:user-info groups/:*",
                ),
                &[(USER, "bob"), (GROUP, "a"), (GROUP, "b"), (GROUP, "c"), (GROUP, "d")],
                Ok(&["a", "b", "c", "d", "system:authenticated"]),
            ),
            (
                me(),
                Only(
                    "impersonate-on:user-info:list pods/:, impersonate:user-info users/:bob, impersonate:user-info groups/:system:masters",
                ),
                &[(USER, "bob"), (GROUP, "system:masters")],
                Err("impersonating the system:masters group is not allowed"),
            ),
            (
                me(),
                Only("impersonate-on:user-info:get pods/:, impersonate:user-info users/:bob"),
                &[(USER, "bob")],
                Err("cannot impersonate-on:user-info:list"),
            ),
        ];
        for (user, permitted, asked, wanted) in cases {
            let got = resolve(&mut headers(asked), &request(user), &permitted);
            match wanted {
                Ok(groups) => assert_eq!(got.unwrap().groups, groups, "{asked:?}"),
                Err(text) => {
                    let refusal = got.unwrap_err().message;
                    assert!(refusal.contains(text), "{refusal}");
                }
            }
        }
    }
}
