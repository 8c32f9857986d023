//! Flow schemas in the form they are matched in (apiserver's `util/flowcontrol/rule.go`): who asks, and for what.

use crate::request::{RequestInfo, UserInfo};
use knarr_api::flowcontrol::v1::{
    FlowSchema, NonResourcePolicyRule, PolicyRulesWithSubjects, ResourcePolicyRule, Subject,
};

/// How the requests of a schema are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distinguisher {
    /// They are all one flow.
    None,
    /// Each user is a flow.
    User,
    /// Each namespace is a flow.
    Namespace,
}

/// A flow schema.
#[derive(Clone, Debug)]
pub struct Schema {
    /// Its name.
    pub name: String,
    /// Its UID, empty while there is no object.
    pub uid: String,
    /// Lower ones are asked first.
    pub precedence: i32,
    /// The priority level its requests belong to.
    pub level: String,
    /// How they are told apart.
    pub distinguisher: Distinguisher,
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    subjects: Vec<Who>,
    resources: Vec<Resources>,
    urls: Vec<Urls>,
}

#[derive(Clone, Debug)]
enum Who {
    Anybody,
    User(String),
    Group(String),
    /// The whole beginning of the user's name.
    AccountsOf(String),
}

/// All, or those named.
#[derive(Clone, Debug)]
enum Names {
    All,
    These(Vec<String>),
}

#[derive(Clone, Debug)]
struct Resources {
    verbs: Names,
    groups: Names,
    /// `resource` or `resource/subresource`.
    resources: Names,
    namespaces: Names,
    cluster: bool,
}

#[derive(Clone, Debug)]
struct Urls {
    verbs: Names,
    /// Paths, or the beginnings of paths, with their slash at the end.
    paths: Option<Vec<(String, String)>>,
}

impl Schema {
    /// The form of an object.
    pub fn new(object: &FlowSchema) -> Self {
        let spec = object.spec.as_ref();
        let method = spec.and_then(|spec| spec.distinguisher_method.as_ref());
        Self {
            name: object.metadata.name.clone().unwrap_or_default(),
            uid: object.metadata.uid.clone().unwrap_or_default(),
            precedence: spec.and_then(|spec| spec.matching_precedence).unwrap_or(1000),
            level: spec.map(|spec| spec.priority_level_configuration.name.clone()).unwrap_or_default(),
            distinguisher: match method.map(|method| method.type_.as_str()) {
                Some("ByUser") => Distinguisher::User,
                Some("ByNamespace") => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
            rules: spec.and_then(|spec| spec.rules.as_ref()).into_iter().flatten().map(Rule::new).collect(),
        }
    }

    /// Whether a request belongs to it.
    pub fn matches(&self, info: &RequestInfo, user: &UserInfo) -> bool {
        self.rules.iter().any(|rule| rule.matches(info, user))
    }

    /// What tells its flow from others of the schema.
    pub fn distinguish<'a>(&self, info: &'a RequestInfo, user: &'a UserInfo) -> &'a str {
        match self.distinguisher {
            Distinguisher::None => "",
            Distinguisher::User => &user.name,
            Distinguisher::Namespace => &info.namespace,
        }
    }
}

impl Rule {
    fn new(rule: &PolicyRulesWithSubjects) -> Self {
        Self {
            subjects: rule.subjects.iter().filter_map(Who::new).collect(),
            resources: rule.resource_rules.iter().flatten().map(Resources::new).collect(),
            urls: rule.non_resource_rules.iter().flatten().map(Urls::new).collect(),
        }
    }

    fn matches(&self, info: &RequestInfo, user: &UserInfo) -> bool {
        let asked = if info.is_resource {
            self.resources.iter().any(|rule| rule.matches(info))
        } else {
            self.urls.iter().any(|rule| rule.matches(info))
        };
        asked && self.subjects.iter().any(|who| who.is(user))
    }
}

impl Who {
    fn new(subject: &Subject) -> Option<Self> {
        match subject.kind.as_str() {
            "User" => subject.user.as_ref().map(|user| match user.name.as_str() {
                "*" => Self::Anybody,
                name => Self::User(name.to_owned()),
            }),
            "Group" => subject.group.as_ref().map(|group| match group.name.as_str() {
                "*" => Self::Anybody,
                name => Self::Group(name.to_owned()),
            }),
            "ServiceAccount" => subject.service_account.as_ref().map(|account| {
                let of = format!("system:serviceaccount:{}:", account.namespace);
                match account.name.as_str() {
                    "*" => Self::AccountsOf(of),
                    name => Self::User(of + name),
                }
            }),
            _ => None,
        }
    }

    fn is(&self, user: &UserInfo) -> bool {
        match self {
            Self::Anybody => true,
            Self::User(name) => *name == user.name,
            Self::Group(name) => user.in_group(name),
            Self::AccountsOf(of) => user.name.starts_with(of.as_str()),
        }
    }
}

impl Names {
    /// `*` stands alone; validation sees to it.
    fn new(names: &[String]) -> Self {
        match names {
            [all] if all == "*" => Self::All,
            names => Self::These(names.to_vec()),
        }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.iter().any(|known| known == name),
        }
    }
}

impl Resources {
    fn new(rule: &ResourcePolicyRule) -> Self {
        Self {
            verbs: Names::new(&rule.verbs),
            groups: Names::new(&rule.api_groups),
            resources: Names::new(&rule.resources),
            namespaces: Names::new(rule.namespaces.as_deref().unwrap_or_default()),
            cluster: rule.cluster_scope.unwrap_or(false),
        }
    }

    fn matches(&self, info: &RequestInfo) -> bool {
        let resource = match &self.resources {
            Names::All => true,
            Names::These(names) => names.iter().any(|name| match name.split_once('/') {
                None => info.subresource.is_empty() && *name == info.resource,
                Some((resource, sub)) => resource == info.resource && sub == info.subresource,
            }),
        };
        resource
            && self.verbs.has(&info.verb)
            && self.groups.has(&info.group)
            && if info.namespace.is_empty() { self.cluster } else { self.namespaces.has(&info.namespace) }
    }
}

impl Urls {
    fn new(rule: &NonResourcePolicyRule) -> Self {
        let path = |url: &String| {
            let beginning = url.strip_suffix('*').unwrap_or(url);
            let slash = if beginning.ends_with('/') { "" } else { "/" };
            (url.clone(), format!("{beginning}{slash}"))
        };
        let all = rule.non_resource_urls.iter().any(|url| url == "*");
        Self {
            verbs: Names::new(&rule.verbs),
            paths: (!all).then(|| rule.non_resource_urls.iter().map(path).collect()),
        }
    }

    fn matches(&self, info: &RequestInfo) -> bool {
        let path = self.paths.as_ref().is_none_or(|paths| {
            paths
                .iter()
                .any(|(whole, beginning)| info.path == *whole || info.path.starts_with(beginning.as_str()))
        });
        path && self.verbs.has(&info.verb)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::info;
    use serde_json::{Value, json};

    fn schema(rules: Value) -> Schema {
        let object = json!({"metadata": {"name": "x"}, "spec": {
            "priorityLevelConfiguration": {"name": "x"}, "rules": rules}});
        Schema::new(&serde_json::from_value(object).unwrap())
    }

    #[test]
    fn subjects_are_users_groups_and_service_accounts() {
        let urls = json!([{"verbs": ["*"], "nonResourceURLs": ["*"]}]);
        let user = |name: &str| json!({"kind": "User", "user": {"name": name}});
        let group = |name: &str| json!({"kind": "Group", "group": {"name": name}});
        let account = |namespace: &str, name: &str| json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": namespace, "name": name}});
        for (subject, name, groups, want) in [
            (user("alice"), "alice", &[][..], true),
            (user("alice"), "bob", &["alice"], false),
            (user("*"), "bob", &[], true),
            (group("admins"), "bob", &["admins"], true),
            (group("admins"), "admins", &[], false),
            (group("*"), "bob", &[], true),
            (account("ns", "a"), "system:serviceaccount:ns:a", &[], true),
            (account("ns", "a"), "system:serviceaccount:ns:ab", &[], false),
            (account("ns", "*"), "system:serviceaccount:ns:ab", &[], true),
            (account("ns", "*"), "system:serviceaccount:nsx:a", &[], false),
            (json!({"kind": "User"}), "", &[], false),
            (json!({"kind": "Group"}), "", &[], false),
        ] {
            let schema = schema(json!([{"subjects": [subject], "nonResourceRules": urls}]));
            let info = info::resolve(&http::Method::GET, "/version", &[]);
            assert_eq!(
                schema.matches(&info, &UserInfo::new(name, groups)),
                want,
                "{subject} {name} {groups:?}"
            );
        }
    }

    #[test]
    fn rules_name_verbs_groups_resources_namespaces_and_paths() {
        let anybody = json!([{"kind": "Group", "group": {"name": "*"}}]);
        let resource = |verbs: Value, groups: Value, resources: Value, namespaces: Value, cluster: bool| {
            json!([{"subjects": anybody, "resourceRules": [{"verbs": verbs, "apiGroups": groups, "resources": resources,
                "namespaces": namespaces, "clusterScope": cluster}]}])
        };
        let path = |verbs: Value, urls: Value| json!([{"subjects": anybody, "nonResourceRules": [{"verbs": verbs, "nonResourceURLs": urls}]}]);
        let all = json!(["*"]);
        for (rules, method, url, want) in [
            (resource(all.clone(), all.clone(), all.clone(), all.clone(), true), "GET", "/api/v1/pods", true),
            (
                resource(all.clone(), all.clone(), all.clone(), all.clone(), false),
                "GET",
                "/api/v1/pods",
                false,
            ),
            (
                resource(all.clone(), all.clone(), all.clone(), json!([]), true),
                "GET",
                "/api/v1/namespaces/a/pods",
                false,
            ),
            (
                resource(all.clone(), all.clone(), all.clone(), json!(["a"]), true),
                "GET",
                "/api/v1/namespaces/a/pods",
                true,
            ),
            (
                resource(json!(["list"]), json!([""]), json!(["pods"]), all.clone(), true),
                "GET",
                "/api/v1/pods",
                true,
            ),
            (
                resource(json!(["get"]), json!([""]), json!(["pods"]), all.clone(), true),
                "GET",
                "/api/v1/pods",
                false,
            ),
            (
                resource(all.clone(), json!(["apps"]), json!(["pods"]), all.clone(), true),
                "GET",
                "/api/v1/pods",
                false,
            ),
            (
                resource(all.clone(), all.clone(), json!(["nodes"]), all.clone(), true),
                "PUT",
                "/api/v1/nodes/a/status",
                false,
            ),
            (
                resource(all.clone(), all.clone(), json!(["nodes/status"]), all.clone(), true),
                "PUT",
                "/api/v1/nodes/a/status",
                true,
            ),
            (resource(all.clone(), all.clone(), all.clone(), all.clone(), true), "GET", "/healthz", false),
            (path(json!(["get"]), json!(["/healthz"])), "GET", "/healthz", true),
            (path(json!(["get"]), json!(["/healthz"])), "GET", "/healthz/etcd", true),
            (path(json!(["get"]), json!(["/healthz"])), "GET", "/healthzz", false),
            (path(json!(["get"]), json!(["/openapi/*"])), "GET", "/openapi/v2", true),
            (path(json!(["post"]), json!(["*"])), "GET", "/healthz", false),
            (path(all.clone(), all.clone()), "GET", "/anything", true),
        ] {
            let schema = schema(rules.clone());
            let info = info::resolve(&method.parse().unwrap(), url, &[]);
            assert_eq!(schema.matches(&info, &UserInfo::new("a", &[])), want, "{rules} {method} {url}");
        }
    }
}
