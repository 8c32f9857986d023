//! URLs of API resources.

use knarr_api::Kind;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Percent-encodes one path segment or query value.
pub fn encode(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Where a resource lives: group, version and plural name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ResourcePath {
    /// API group, empty for core.
    pub group: String,
    /// Version.
    pub version: String,
    /// Plural resource name.
    pub resource: String,
}

impl ResourcePath {
    /// Where objects of kind `K` live.
    pub fn of<K: Kind>() -> Self {
        Self { group: K::GROUP.into(), version: K::VERSION.into(), resource: K::PLURAL.into() }
    }

    /// The path of the collection, of one object (`name` not empty), or of its subresource. An empty
    /// `namespace` means all namespaces, or a cluster-scoped kind.
    pub fn url(&self, namespace: &str, name: &str, subresource: &str) -> String {
        let mut path = if self.group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{}/{}", self.group, self.version)
        };
        if !namespace.is_empty() {
            path.push_str("/namespaces/");
            path.push_str(&encode(namespace));
        }
        path.push('/');
        path.push_str(&self.resource);
        for part in [name, subresource] {
            if !part.is_empty() {
                path.push('/');
                path.push_str(&encode(part));
            }
        }
        path
    }
}

/// Appends `name=value` to the query of `url`.
pub fn push_query(url: &mut String, name: &str, value: &str) {
    url.push(if url.contains('?') { '&' } else { '?' });
    url.push_str(name);
    url.push('=');
    url.push_str(&encode(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_follow_the_api_conventions() {
        let pods = ResourcePath { group: String::new(), version: "v1".into(), resource: "pods".into() };
        assert_eq!(pods.url("", "", ""), "/api/v1/pods");
        assert_eq!(pods.url("a", "b", "log"), "/api/v1/namespaces/a/pods/b/log");
        let roles = ResourcePath {
            group: "rbac.authorization.k8s.io".into(),
            version: "v1".into(),
            resource: "clusterroles".into(),
        };
        assert_eq!(
            roles.url("", "system:node", ""),
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/system%3Anode"
        );
    }
}
